package logfmt

import (
	"errors"
	"fmt"
	"io"
	"math"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"
	"unicode"
	"unicode/utf8"

	"github.com/google/go-cmp/cmp"
	"go.uber.org/zap"
	"go.uber.org/zap/zapcore"
)

var keys = zapcore.EncoderConfig{
	TimeKey: "time", LevelKey: "level", NameKey: "logger", CallerKey: "caller", FunctionKey: "func", MessageKey: "msg", StacktraceKey: "stack",
}

// line encodes one entry with nothing but fields, without its line ending.
func line(t testing.TB, fields ...zapcore.Field) string {
	t.Helper()
	b, err := NewEncoder(zapcore.EncoderConfig{SkipLineEnding: true}).EncodeEntry(zapcore.Entry{}, fields)
	if err != nil {
		t.Fatal(err)
	}
	defer b.Free()
	return b.String()
}

type pair struct{ key, value string }

// parse reads a line by the rules of the package comment, and takes nothing else.
// The values are still quoted.
func parse(s string) (pairs []pair, err error) {
	for first := true; s != "" || first; first = false {
		if !first {
			if s[0] != ' ' {
				return nil, fmt.Errorf("no space before %q", s)
			}
			s = s[1:]
		} else if s == "" {
			return nil, nil
		}
		key, rest, ok := strings.Cut(s, "=")
		if !ok || key == "" || strings.ContainsFunc(key, func(r rune) bool { return r <= ' ' || r > '~' || r == '"' }) {
			return nil, fmt.Errorf("bad key in %q", s)
		}
		value := rest
		if strings.HasPrefix(rest, `"`) {
			if value, err = strconv.QuotedPrefix(rest); err != nil {
				return nil, fmt.Errorf("%q: %w", rest, err)
			}
		} else {
			value, _, _ = strings.Cut(rest, " ")
			if value == "" || strings.ContainsAny(value, "\"=\\") {
				return nil, fmt.Errorf("bad bare value %q", value)
			}
		}
		if !utf8.ValidString(value) || strings.ContainsFunc(value, func(r rune) bool { return !unicode.IsPrint(r) }) {
			return nil, fmt.Errorf("does not print: %q", value)
		}
		pairs = append(pairs, pair{key, value})
		s = rest[len(value):]
	}
	return pairs, nil
}

func unquote(s string) (string, error) {
	if strings.HasPrefix(s, `"`) {
		return strconv.Unquote(s)
	}
	return s, nil
}

// split gives the elements of an array back.
func split(s string) (elements []string, err error) {
	quoted := strings.HasPrefix(s, `"`)
	if quoted {
		s = s[1 : len(s)-1]
	}
	for _, e := range strings.Split(s, ",") {
		if quoted {
			if e, err = strconv.Unquote(`"` + e + `"`); err != nil {
				return nil, err
			}
		}
		elements = append(elements, e)
	}
	return elements, nil
}

type object func(zapcore.ObjectEncoder) error

func (o object) MarshalLogObject(e zapcore.ObjectEncoder) error { return o(e) }

type array func(zapcore.ArrayEncoder) error

func (a array) MarshalLogArray(e zapcore.ArrayEncoder) error { return a(e) }

func TestFields(t *testing.T) {
	hop := object(func(e zapcore.ObjectEncoder) error {
		e.AddString("host", "mx 1")
		e.OpenNamespace("tls")
		e.AddInt("version", 13)
		return nil
	})
	at := time.Date(2026, 11, 21, 9, 0, 0, 1_234_567, time.FixedZone("", 2*3600))
	for _, tt := range []struct {
		field zapcore.Field
		want  string
	}{
		{zap.String("k", "v"), `k=v`},
		{zap.String("k", ""), `k=""`},
		{zap.String("k", "a b"), `k="a b"`},
		{zap.String("k", `a"b`), `k="a\"b"`},
		{zap.String("k", "a=b"), `k="a=b"`},
		{zap.String("k", `a\nb`), `k="a\\nb"`},
		{zap.String("k", "a\r\nlevel=error"), `k="a\r\nlevel=error"`},
		{zap.String("k", "\x1b[2J\x00\x7f"), `k="\x1b[2J\x00\x7f"`},
		{zap.String("k", "caf\xe9"), `k="caf\xe9"`},
		{zap.String("k", "müller@例え.jp"), `k=müller@例え.jp`},
		{zap.String("k", "right\u202eleft"), `k="right\u202eleft"`},
		{zap.String("k", "line\u2028line\u0085"), `k="line\u2028line\u0085"`},
		{zap.String("k", "no\u00a0break"), `k="no\u00a0break"`},
		{zap.String("k", "\ufffd"), "k=\ufffd"},
		{zap.String("k", "a,b;<c@d>'{}[]"), `k=a,b;<c@d>'{}[]`},
		{zap.String("", "v"), `_=v`},
		{zap.String("a b=\"\nü\xff", "v"), `a_b_____=v`},
		{zap.Bool("k", true), `k=true`},
		{zap.Int("k", -7), `k=-7`},
		{zap.Uint64("k", math.MaxUint64), `k=18446744073709551615`},
		{zap.Float64("k", 0.25), `k=0.25`},
		{zap.Float64("k", 1e6), `k=1000000`},
		{zap.Float64("k", 1e300), `k=1e+300`},
		{zap.Float32("k", 0.1), `k=0.1`},
		{zap.Float64("k", math.NaN()), `k=NaN`},
		{zap.Float64("k", math.Inf(-1)), `k=-Inf`},
		{zap.Complex128("k", 1+2i), `k=(1+2i)`},
		{zap.Duration("k", 213*time.Millisecond), `k=0.213`},
		{zap.Duration("k", 2*time.Hour+1499*time.Nanosecond), `k=7200.000001`},
		{zap.Time("k", at), `k=2026-11-21T09:00:00.001+02:00`},
		{zap.Binary("k", []byte{0, 1, 0xff}), `k=AAH/`},
		{zap.ByteString("k", []byte("a b")), `k="a b"`},
		{zap.Error(errors.New("it broke")), `error="it broke"`},
		{zap.Stringer("k", time.Second), `k=1s`},
		{zap.Reflect("k", map[string]int{"b": 2, "a": 1}), `k="{\"a\":1,\"b\":2}"`},
		{zap.Reflect("k", nil), `k=null`},
		{zap.Reflect("k", math.Inf(1)), `kError="json: unsupported value: +Inf"`},
		{zap.Skip(), ``},
		{zap.Strings("k", nil), `k=""`},
		{zap.Strings("k", []string{"a@b", "c@d"}), `k=a@b,c@d`},
		{zap.Strings("k", []string{"a@b", "c d"}), `k="a@b,c d"`},
		{zap.Strings("k", []string{"a,x@b", "c"}), `k="a\x2cx@b,c"`},
		{zap.Strings("k", []string{`a\x2cb`, "\n"}), `k="a\\x2cb,\n"`},
		{zap.Strings("k", []string{"", "", ""}), `k=",,"`},
		{zap.Ints("k", []int{1, 2, 3}), `k=1,2,3`},
		{zap.Bools("k", []bool{true, false}), `k=true,false`},
		{zap.Float64s("k", []float64{1.5, 2}), `k=1.5,2`},
		{zap.Durations("k", []time.Duration{time.Second, 70 * time.Millisecond}), `k=1,0.07`},
		{zap.Times("k", []time.Time{at.UTC()}), `k=2026-11-21T07:00:00.001Z`},
		{zap.Object("hop", hop), `hop.host="mx 1" hop.tls.version=13`},
		{zap.Inline(hop), `host="mx 1" tls.version=13`},
		{zap.Array("k", array(func(e zapcore.ArrayEncoder) error {
			e.AppendString("a")
			_ = e.AppendArray(array(func(e zapcore.ArrayEncoder) error { e.AppendInt(1); e.AppendInt(2); return nil }))
			_ = e.AppendObject(hop)
			return e.AppendReflected([]int{3, 4})
		})), `k.1=1,2 k.2.host="mx 1" k.2.tls.version=13 k="a,[3\x2c4]"`},
	} {
		got := line(t, tt.field)
		if got != tt.want {
			t.Errorf("got  %s\nwant %s", got, tt.want)
		}
		if _, err := parse(got); err != nil {
			t.Errorf("%s: %v", got, err)
		}
	}
}

func TestEntry(t *testing.T) {
	entry := zapcore.Entry{
		Level: zapcore.WarnLevel, Time: time.Date(2026, 11, 21, 9, 0, 0, 0, time.UTC), LoggerName: "in", Message: "a b",
		Caller: zapcore.EntryCaller{Defined: true, File: "/src/proxy/door.go", Line: 7, Function: "f"}, Stack: "one\n\ttwo",
	}
	e := NewEncoder(keys)
	e.AddString("S", "7f3a9c")
	e.OpenNamespace("tls")
	e.AddInt("v", 13)
	for range 2 { // an entry leaves nothing behind
		b, err := e.EncodeEntry(entry, []zapcore.Field{zap.Bool("resumed", true), zap.Namespace("x"), zap.Int("y", 1)})
		if err != nil {
			t.Fatal(err)
		}
		want := `time=2026-11-21T09:00:00.000Z level=warn logger=in caller=proxy/door.go:7 func=f msg="a b" S=7f3a9c tls.v=13 tls.resumed=true tls.x.y=1 stack="one\n\ttwo"` + "\n"
		if b.String() != want {
			t.Errorf("got  %swant %s", b, want)
		}
		b.Free()
	}
	crlf := NewEncoder(zapcore.EncoderConfig{LineEnding: "\r\n"})
	if b, err := crlf.EncodeEntry(entry, nil); err != nil || b.String() != "\r\n" {
		t.Errorf("without keys: %q, %v", b, err)
	}
}

func TestClonesAreApart(t *testing.T) {
	e := NewEncoder(zapcore.EncoderConfig{SkipLineEnding: true})
	e.AddInt("a", 1)
	one, two := e.Clone(), e.Clone()
	one.OpenNamespace("n")
	one.AddInt("b", 2)
	two.AddInt("c", 3)
	for i, tt := range []struct {
		e    zapcore.Encoder
		want string
	}{{e, "a=1 z=0"}, {one, "a=1 n.b=2 n.z=0"}, {two, "a=1 c=3 z=0"}} {
		b, err := tt.e.EncodeEntry(zapcore.Entry{}, []zapcore.Field{zap.Int("z", 0)})
		if err != nil || b.String() != tt.want {
			t.Errorf("%d: got %s, %v, want %s", i, b, err, tt.want)
		}
	}
}

func TestBounds(t *testing.T) {
	long := strings.Repeat("x", MaxValue)
	if got, want := line(t, zap.String("k", long)), "k="+long; got != want {
		t.Errorf("MaxValue octets: %d written", len(got))
	}
	if got, want := line(t, zap.String("k", long+"é\n")), "k="+long+" k.cut=3"; got != want {
		t.Errorf("more than MaxValue octets: ends with %q", got[MaxValue:])
	}
	many := make([]string, MaxElements+36)
	for i := range many {
		many[i] = "a"
	}
	want := "k=" + strings.Repeat("a,", MaxElements-1) + "a k.more=36"
	if got := line(t, zap.Strings("k", many)); got != want {
		t.Errorf("many elements: %s", got)
	}
	if got, want := line(t, zap.Strings("k", []string{"a", long + "b", "c", "d"})), "k=a,"+long+" k.cut=1 k.more=2"; got != want {
		t.Errorf("a long element: ends with %q", got[MaxValue:])
	}
	objects := array(func(e zapcore.ArrayEncoder) error {
		for range MaxElements + 2 {
			if err := e.AppendObject(object(func(e zapcore.ObjectEncoder) error { e.AddInt("n", 1); return nil })); err != nil {
				return err
			}
		}
		return e.AppendArray(array(func(zapcore.ArrayEncoder) error { return nil }))
	})
	if got := line(t, zap.Array("k", objects)); strings.Count(got, ".n=1") != MaxElements || !strings.HasSuffix(got, " k.more=3") {
		t.Errorf("many objects: %s", got)
	}
}

// All goroutines write through one encoder, as a logger's do.
func TestConcurrent(t *testing.T) {
	core := zapcore.NewCore(NewEncoder(keys), zapcore.AddSync(io.Discard), zapcore.InfoLevel)
	log := zap.New(core).With(zap.Namespace("n"), zap.String("a", "b"))
	var all sync.WaitGroup
	for range 4 {
		all.Go(func() {
			for i := range 200 {
				log.With(zap.Int("i", i)).Info("a b", zap.Strings("to", []string{"a", "b c"}))
			}
		})
	}
	all.Wait()
}

// The usual line of the log costs no allocation.
func TestAllocations(t *testing.T) {
	e := NewEncoder(keys)
	entry := zapcore.Entry{Time: time.Date(2026, 11, 21, 9, 0, 0, 0, time.UTC), Message: "done"}
	fields := usual()
	n := testing.AllocsPerRun(1000, func() {
		b, err := e.EncodeEntry(entry, fields)
		if err != nil {
			t.Fatal(err)
		}
		b.Free()
	})
	if n >= 1 && !raceEnabled() {
		t.Errorf("%v allocations for a line", n)
	}
}

// raceEnabled reports whether sync.Pool drops things at random, as it does under
// the race detector.
func raceEnabled() bool {
	p := sync.Pool{}
	for range 100 {
		p.Put(new(int))
		if p.Get() == nil {
			return true
		}
	}
	return false
}

func usual() []zapcore.Field {
	return []zapcore.Field{
		zap.String("S", "7f3a9c.1"), zap.String("from", "<s@src.example>"), zap.String("to", "<b@d2.example>"),
		zap.String("relay", "mx.d2[192.0.2.7]:25"), zap.Bool("resumed", true), zap.Int("trips", 4),
		zap.Duration("delay", 213*time.Millisecond), zap.String("reply", "250 2.0.0 ok"),
	}
}

func BenchmarkEncodeEntry(b *testing.B) {
	e := NewEncoder(keys)
	entry := zapcore.Entry{Time: time.Date(2026, 11, 21, 9, 0, 0, 0, time.UTC), Message: "done"}
	fields := usual()
	b.ReportAllocs()
	for b.Loop() {
		line, err := e.EncodeEntry(entry, fields)
		if err != nil {
			b.Fatal(err)
		}
		line.Free()
	}
}

// Whatever the values, a line stays one line and gives back the pairs that went in.
func FuzzLogfmt(f *testing.F) {
	f.Add("msg", "from", "a@b", "x", "y")
	f.Add("a b", "k=", "\" level=error\n", ",", `\x2c,"`)
	f.Add("", "", "", "", "")
	f.Add("\xff", "\u2028", "\u202e\x1b", "a\\", "\x00")
	f.Fuzz(func(t *testing.T, msg, key, value, one, two string) {
		e := NewEncoder(zapcore.EncoderConfig{MessageKey: "msg"})
		b, err := e.EncodeEntry(zapcore.Entry{Message: msg}, []zapcore.Field{
			zap.String(key, value), zap.Strings("list", []string{one, two}), zap.Error(errors.New(two)),
			zap.Namespace(key), zap.ByteString("raw", []byte(one)), zap.Reflect("json", value), zap.Int("end", 1),
		})
		if err != nil {
			t.Fatal(err)
		}
		text, ended := strings.CutSuffix(b.String(), "\n")
		if !ended || strings.ContainsAny(text, "\r\n") {
			t.Fatalf("not one line: %q", text)
		}
		got, err := parse(text)
		if err != nil {
			t.Fatalf("%v\nin %s", err, text)
		}
		clean := string(appendKey(nil, key))
		want := []pair{{"msg", msg}, {clean, value}, {"list", ""}, {"error", two}, {clean + ".raw", one}, {clean + ".json", ""}, {clean + ".end", "1"}}
		if max(len(msg), len(value), len(one), len(two)) > MaxValue/8 {
			return // cut: TestBounds
		}
		if len(got) != len(want) {
			t.Fatalf("%d pairs, want %d, in %s", len(got), len(want), text)
		}
		for i := range got {
			switch i {
			case 2:
				if elements, err := split(got[i].value); err != nil || !slices.Equal(elements, []string{one, two}) {
					t.Errorf("elements %q, %v, want %q", elements, err, []string{one, two})
				}
				got[i].value = ""
			case 5:
				got[i].value = "" // JSON has lost invalid octets
			default:
				if got[i].value, err = unquote(got[i].value); err != nil {
					t.Error(err)
				}
			}
		}
		if diff := cmp.Diff(want, got, cmp.AllowUnexported(pair{})); diff != "" {
			t.Errorf("-want +got:\n%s", diff)
		}
	})
}
