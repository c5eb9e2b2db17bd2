// Package logfmt writes zap's log entries as lines of key=value pairs.
//
//	time=2026-11-21T09:00:00.000Z level=info msg=done from=a@example.org delay=0.213 reply="250 2.0.0 ok"
//
// A log is evidence, and much of what stands in it was chosen by strangers. So
// whatever a value holds, it stays in its place: it cannot end its line, begin
// another key, or show on a terminal what it is not. Reading a line back gives
// the pairs that were written:
//
//   - A line is pairs joined by one space each, and ends with the line ending.
//   - A key is printable ASCII without space, '=' and '"'. Other characters of a
//     key become '_'.
//   - A value that is empty or holds a space, '"', '=', '\', an invalid octet or
//     a character that does not print is quoted as a Go string, so that
//     [strconv.Unquote] gives it back. Any other value stands as it is.
//   - The elements of an array are joined by commas in one value; a comma of an
//     element's own is written \x2c, which puts the value in quotes. Splitting at
//     commas before unquoting gives the elements back. An array without
//     elements is written as one with an empty element.
//   - Objects and namespaces are not nested but give their keys a prefix, as in
//     tls.version=1.3; so do objects and arrays inside an array, as in hop.0.port=25.
//
// Pairs stand in the order in which fields were added. Nothing is sorted out:
// a key that was added twice is there twice.
//
// What one value can take is bounded: see [MaxValue] and [MaxElements].
package logfmt

import (
	"encoding/base64"
	"encoding/json"
	"io"
	"math"
	"strconv"
	"strings"
	"sync"
	"time"
	"unicode"
	"unicode/utf8"

	"go.uber.org/zap/buffer"
	"go.uber.org/zap/zapcore"
)

const (
	// MaxValue is how many octets of a string are written, before quoting. What
	// is cut off is counted: a pair key.cut=N follows.
	MaxValue = 8 << 10
	// MaxElements is how many elements of an array are written, fewer when they
	// have filled MaxValue octets before. What is left out is counted: a pair
	// key.more=N follows.
	MaxElements = 100
)

const timeLayout = "2006-01-02T15:04:05.000Z07:00" // RFC 3339 with milliseconds

// NewEncoder returns an encoder of the form that the package describes. Of cfg
// it uses the keys (an empty one leaves its part out), LineEnding,
// SkipLineEnding and NewReflectedEncoder. The form of values is not cfg's to
// choose: times are RFC 3339 with milliseconds, durations are seconds, levels
// are lower case.
func NewEncoder(cfg zapcore.EncoderConfig) zapcore.Encoder {
	if cfg.LineEnding == "" {
		cfg.LineEnding = zapcore.DefaultLineEnding
	}
	if cfg.SkipLineEnding {
		cfg.LineEnding = ""
	}
	if cfg.NewReflectedEncoder == nil {
		cfg.NewReflectedEncoder = func(w io.Writer) zapcore.ReflectedEncoder {
			e := json.NewEncoder(w)
			e.SetEscapeHTML(false)
			return e
		}
	}
	s := &shared{cfg: cfg, buffers: buffer.NewPool()}
	return s.encoder()
}

// shared is what an encoder and its clones have in common.
type shared struct {
	cfg      zapcore.EncoderConfig
	buffers  buffer.Pool
	encoders sync.Pool // of *encoder, without buf
}

// An encoder collects pairs. It is also what fields are added to while an entry
// is written.
type encoder struct {
	*shared
	buf     *buffer.Buffer
	prefix  []byte // of keys: the open namespaces and objects, each with its dot
	scratch []byte // for quoting, empty between uses
}

var _ zapcore.Encoder = (*encoder)(nil)

func (s *shared) encoder() *encoder {
	e, _ := s.encoders.Get().(*encoder)
	if e == nil {
		e = &encoder{shared: s}
	}
	e.buf = s.buffers.Get()
	return e
}

// Clone implements [zapcore.Encoder].
func (e *encoder) Clone() zapcore.Encoder { return e.clone() }

func (e *encoder) clone() *encoder {
	c := e.shared.encoder()
	c.buf.AppendBytes(e.buf.Bytes())
	c.prefix = append(c.prefix[:0], e.prefix...)
	return c
}

// EncodeEntry implements [zapcore.Encoder].
func (e *encoder) EncodeEntry(entry zapcore.Entry, fields []zapcore.Field) (*buffer.Buffer, error) {
	line := e.shared.encoder()
	line.prefix = line.prefix[:0] // what the entry itself says is in no namespace
	if e.cfg.TimeKey != "" && !entry.Time.IsZero() {
		line.AddTime(e.cfg.TimeKey, entry.Time)
	}
	if e.cfg.LevelKey != "" {
		line.AddString(e.cfg.LevelKey, entry.Level.String())
	}
	if e.cfg.NameKey != "" && entry.LoggerName != "" {
		line.AddString(e.cfg.NameKey, entry.LoggerName)
	}
	if entry.Caller.Defined && e.cfg.CallerKey != "" {
		line.AddString(e.cfg.CallerKey, entry.Caller.TrimmedPath())
	}
	if entry.Caller.Defined && e.cfg.FunctionKey != "" {
		line.AddString(e.cfg.FunctionKey, entry.Caller.Function)
	}
	if e.cfg.MessageKey != "" {
		line.AddString(e.cfg.MessageKey, entry.Message)
	}
	if e.buf.Len() > 0 {
		line.space()
		line.buf.AppendBytes(e.buf.Bytes())
	}
	line.prefix = append(line.prefix, e.prefix...)
	for i := range fields {
		fields[i].AddTo(line)
	}
	line.prefix = line.prefix[:0]
	if e.cfg.StacktraceKey != "" && entry.Stack != "" {
		line.AddString(e.cfg.StacktraceKey, entry.Stack)
	}
	line.buf.AppendString(e.cfg.LineEnding)

	written := line.buf
	line.buf = nil
	e.encoders.Put(line)
	return written, nil
}

func (e *encoder) space() {
	if e.buf.Len() > 0 {
		e.buf.AppendByte(' ')
	}
}

// key writes everything of a pair up to its value.
func (e *encoder) key(key string) {
	e.space()
	e.buf.AppendBytes(e.prefix)
	e.scratch = appendKey(e.scratch[:0], key)
	e.buf.AppendBytes(e.scratch)
	e.buf.AppendByte('=')
}

// appendKey makes a key of any string.
func appendKey(b []byte, key string) []byte {
	if key == "" {
		return append(b, '_')
	}
	for _, r := range key {
		if r <= ' ' || r > '~' || r == '=' || r == '"' {
			r = '_'
		}
		b = append(b, byte(r))
	}
	return b
}

// within runs f with another name in front of all keys. Namespaces that f opens
// end with it.
func (e *encoder) within(name string, f func() error) error {
	outer := len(e.prefix)
	e.OpenNamespace(name)
	err := f()
	e.prefix = e.prefix[:outer]
	return err
}

// OpenNamespace implements [zapcore.ObjectEncoder].
func (e *encoder) OpenNamespace(name string) {
	e.prefix = append(appendKey(e.prefix, name), '.')
}

// AddString implements [zapcore.ObjectEncoder].
func (e *encoder) AddString(key, value string) {
	cut := len(value) - MaxValue
	if cut > 0 {
		value = value[:MaxValue]
	}
	e.key(key)
	if plain(value) {
		e.buf.AppendString(value)
	} else {
		e.scratch = strconv.AppendQuote(e.scratch[:0], value)
		e.buf.AppendBytes(e.scratch)
	}
	if cut > 0 {
		e.AddInt(key+".cut", cut)
	}
}

// plain reports whether a value may stand without quotes.
func plain(s string) bool {
	if s == "" {
		return false
	}
	for i := 0; i < len(s); {
		c := s[i]
		if c < utf8.RuneSelf {
			if c <= ' ' || c == '"' || c == '=' || c == '\\' || c == 0x7f {
				return false
			}
			i++
			continue
		}
		r, size := utf8.DecodeRuneInString(s[i:])
		if r == utf8.RuneError && size == 1 || !unicode.IsPrint(r) {
			return false
		}
		i += size
	}
	return true
}

// AddArray implements [zapcore.ObjectEncoder].
func (e *encoder) AddArray(key string, array zapcore.ArrayMarshaler) error {
	a := elements{e: e, key: key}
	err := array.MarshalLogArray(&a)
	a.end() // what was appended before an error is still true
	return err
}

// AddObject implements [zapcore.ObjectEncoder].
func (e *encoder) AddObject(key string, object zapcore.ObjectMarshaler) error {
	return e.within(key, func() error { return object.MarshalLogObject(e) })
}

// AddReflected implements [zapcore.ObjectEncoder]. The value is JSON.
func (e *encoder) AddReflected(key string, value any) error {
	text, err := e.reflected(value)
	if err == nil {
		e.AddString(key, text)
	}
	return err
}

func (e *encoder) reflected(value any) (string, error) {
	var text strings.Builder
	err := e.cfg.NewReflectedEncoder(&text).Encode(value)
	return strings.TrimSuffix(text.String(), "\n"), err
}

// AddTime implements [zapcore.ObjectEncoder].
func (e *encoder) AddTime(key string, t time.Time) {
	e.key(key)
	e.buf.AppendTime(t, timeLayout)
}

// AddDuration implements [zapcore.ObjectEncoder]. The value is in seconds.
func (e *encoder) AddDuration(key string, d time.Duration) {
	e.key(key)
	e.scratch = appendSeconds(e.scratch[:0], d)
	e.buf.AppendBytes(e.scratch)
}

// appendSeconds writes a duration to the microsecond.
func appendSeconds(b []byte, d time.Duration) []byte {
	return strconv.AppendFloat(b, d.Round(time.Microsecond).Seconds(), 'f', -1, 64)
}

// appendFloat uses an exponent only for what would be a long row of zeros.
func appendFloat(b []byte, f float64, bits int) []byte {
	format := byte('f')
	if a := math.Abs(f); a >= 1e15 || a != 0 && a < 1e-6 {
		format = 'g'
	}
	return strconv.AppendFloat(b, f, format, -1, bits)
}

func (e *encoder) float(key string, f float64, bits int) {
	e.key(key)
	e.scratch = appendFloat(e.scratch[:0], f, bits)
	e.buf.AppendBytes(e.scratch)
}

// AddBinary implements [zapcore.ObjectEncoder]. The value is base64.
func (e *encoder) AddBinary(key string, value []byte) {
	e.AddString(key, base64.StdEncoding.EncodeToString(value))
}

// AddByteString implements [zapcore.ObjectEncoder].
func (e *encoder) AddByteString(key string, value []byte) {
	e.AddString(key, string(value))
}

// AddBool implements [zapcore.ObjectEncoder].
func (e *encoder) AddBool(key string, value bool) {
	e.key(key)
	e.buf.AppendBool(value)
}

// AddInt64 implements [zapcore.ObjectEncoder].
func (e *encoder) AddInt64(key string, value int64) {
	e.key(key)
	e.buf.AppendInt(value)
}

// AddUint64 implements [zapcore.ObjectEncoder].
func (e *encoder) AddUint64(key string, value uint64) {
	e.key(key)
	e.buf.AppendUint(value)
}

// AddComplex128 implements [zapcore.ObjectEncoder].
func (e *encoder) AddComplex128(key string, value complex128) {
	e.AddString(key, strconv.FormatComplex(value, 'g', -1, 128))
}

// The rest of zapcore.ObjectEncoder are the same for other widths.

func (e *encoder) AddComplex64(key string, v complex64) {
	e.AddString(key, strconv.FormatComplex(complex128(v), 'g', -1, 64))
}
func (e *encoder) AddFloat64(key string, v float64) { e.float(key, v, 64) }
func (e *encoder) AddFloat32(key string, v float32) { e.float(key, float64(v), 32) }
func (e *encoder) AddInt(key string, v int)         { e.AddInt64(key, int64(v)) }
func (e *encoder) AddInt32(key string, v int32)     { e.AddInt64(key, int64(v)) }
func (e *encoder) AddInt16(key string, v int16)     { e.AddInt64(key, int64(v)) }
func (e *encoder) AddInt8(key string, v int8)       { e.AddInt64(key, int64(v)) }
func (e *encoder) AddUint(key string, v uint)       { e.AddUint64(key, uint64(v)) }
func (e *encoder) AddUint32(key string, v uint32)   { e.AddUint64(key, uint64(v)) }
func (e *encoder) AddUint16(key string, v uint16)   { e.AddUint64(key, uint64(v)) }
func (e *encoder) AddUint8(key string, v uint8)     { e.AddUint64(key, uint64(v)) }
func (e *encoder) AddUintptr(key string, v uintptr) { e.AddUint64(key, uint64(v)) }
