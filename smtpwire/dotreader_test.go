package smtpwire

import (
	"bytes"
	"errors"
	"io"
	"os"
	"strings"
	"testing"
)

// modelData takes a DATA stream apart by its definition: the text ends before
// the first "." line, and its lines begin without their first dot.
func modelData(in []byte) (text []byte, rest []byte, ended bool) {
	stuffed, rest, ended := bytes.Cut(append([]byte("\r\n"), in...), []byte("\r\n.\r\n"))
	if !ended {
		return nil, nil, false
	}
	stuffed = append(stuffed, "\r\n"...)
	return bytes.ReplaceAll(stuffed, []byte("\r\n."), []byte("\r\n"))[2:], rest, true
}

// clean returns what a writer may get of a text.
func clean(text []byte, bad *BodyError) string {
	if bad != nil {
		text = text[:bad.Offset]
	}
	return string(text)
}

func TestReadData(t *testing.T) {
	for _, tt := range []struct {
		in, text string
	}{
		{".\r\n", ""},
		{"\r\n.\r\n", "\r\n"},
		{"a\r\n.\r\n", "a\r\n"},
		{"a\r\n\r\nb\r\n.\r\n", "a\r\n\r\nb\r\n"},
		{"a.\r\nb\r\n.\r\n", "a.\r\nb\r\n"},
		{"..\r\n.\r\n", ".\r\n"},
		{"...\r\n.\r\n", "..\r\n"},
		{".a\r\n.\r\n", "a\r\n"},
		{". \r\n.\r\n", " \r\n"},
		{"a\r\n..\r\n..b\r\n.c\r\nd..\r\n.\r\n", "a\r\n.\r\n.b\r\nc\r\nd..\r\n"},
		{strings.Repeat("..\r\n", 20000) + ".\r\n", strings.Repeat(".\r\n", 20000)},
		{strings.Repeat("x", 100000) + "\r\n.\r\n", strings.Repeat("x", 100000) + "\r\n"},
		{"gr\xfc\xdfe\r\n.\r\n", "gr\xfc\xdfe\r\n"},
	} {
		for how, sizes := range splittings {
			r := NewReader(&pieces{text: []byte(tt.in + "QUIT\r\n"), sizes: sizes})
			var got bytes.Buffer
			var s BodyScan
			if err := r.ReadData(&got, &s); err != nil {
				t.Errorf("%.40q, %s: %v", tt.in, how, err)
			}
			if got.String() != tt.text {
				t.Errorf("%.40q, %s: %.40q, want %.40q", tt.in, how, got.String(), tt.text)
			}
			if s.Octets != int64(len(tt.text)) || s.EightBit != strings.Contains(tt.text, "\xfc") {
				t.Errorf("%.40q, %s: scan %+v", tt.in, how, s)
			}
			if rest := remains(r); rest != "QUIT\r\n" {
				t.Errorf("%.40q, %s: left %.40q", tt.in, how, rest)
			}
		}
	}
}

// smuggled are ends of data that some system somewhere took for real: all
// sequences known from CVE-2023-51764, -51765, -51766 and their tools.
var smuggled = []struct {
	end    string
	reason Reason
	at     int64 // within end
}{
	{"\n.\n", BareLF, 0},
	{"\n.\r\n", BareLF, 0},
	{"\r.\r", BareCR, 0},
	{"\r.\r\n", BareCR, 0},
	{"\r.\n", BareCR, 0},
	{"\n.\r", BareLF, 0},
	{"\r\n.\n", BareLF, 2}, // its dot begins a line and is removed
	{"\r\n.\r", BareCR, 2},
	{"\r\n.\r\r\n", BareCR, 2},
	{"\r\n.\n\r\n", BareLF, 2},
	{"\r\n\n.\r\n", BareLF, 2},
	{"\r\n\r.\r\n", BareCR, 2},
	{"\n\r.\r\n", BareLF, 0},
	{"\n\n.\r\n", BareLF, 0},
	{"\r\n\x00.\r\n", NUL, 2},
	{"\r\n.\x00\r\n", NUL, 2},
	{"\r\x00\n.\r\n", BareCR, 0},
	{"\r\n.\r\x00\n", BareCR, 2},
	{"\n.\r\nx\r\n.\n", BareLF, 0},
}

func TestReadDataSmuggling(t *testing.T) {
	const (
		text  = "Subject: a\r\n\r\nb"
		evil  = "MAIL FROM:<evil@example.org>\r\nRCPT TO:<b@example.net>\r\nDATA\r\nSubject: evil\r\n\r\nc\r\n"
		after = "NOOP\r\n"
	)
	for _, tt := range smuggled {
		want := &BodyError{tt.reason, int64(len(text)) + tt.at}
		for how, sizes := range splittings {
			in := text + tt.end + evil + ".\r\n" + after
			r := NewReader(&pieces{text: []byte(in), sizes: sizes})
			var got bytes.Buffer
			checkBodyError(t, how, r.ReadData(&got, nil), want)
			if prefix := (text + tt.end)[:want.Offset]; got.String() != prefix {
				t.Errorf("%q, %s: wrote %q, want %q", tt.end, how, got.String(), prefix)
			}
			if rest := remains(r); rest != after {
				t.Errorf("%q, %s: left %q: smuggled", tt.end, how, rest)
			}
		}
	}
}

// CRLF.CRLF ends the text even behind a bare CR: those four octets and the dot
// are the end by definition, and a sender that means text stuffs the dot.
func TestReadDataTrueEndBehindBareCR(t *testing.T) {
	r := NewReader(strings.NewReader("a\r\r\n.\r\nNOOP\r\n"))
	checkBodyError(t, "CR CR LF", r.ReadData(io.Discard, nil), &BodyError{BareCR, 1})
	if rest := remains(r); rest != "NOOP\r\n" {
		t.Errorf("left %q", rest)
	}
}

// Every octet that means something stands once on each side of each buffer edge.
func TestReadDataAtBufferEdges(t *testing.T) {
	for _, edge := range []int{lineBuffer, bodyBuffer, lineBuffer + bodyBuffer} {
		for shift := -8; shift <= 8; shift++ {
			for _, tail := range []string{"\r\n.\r\n", "\r\n..\r\n.\r\n", "\rx\r\n.\r\n", "\n.\r\n.\r\n.\r\n", "\r\n.\r\r\n.\r\n", "\x00\r\n.\r\n", "\r\n.\rx\r\n.\r\n"} {
				in := []byte(strings.Repeat("x", edge+shift) + tail + "NOOP\r\n")
				text, rest, _ := modelData(in)
				want := modelScan(text)
				r := NewReader(bytes.NewReader(in))
				var got bytes.Buffer
				checkBodyError(t, tail, r.ReadData(&got, nil), want)
				if got.String() != clean(text, want) {
					t.Errorf("%q at %d%+d: wrote %d octets, want %d", tail, edge, shift, got.Len(), len(clean(text, want)))
				}
				if left := remains(r); left != string(rest) {
					t.Errorf("%q at %d%+d: left %q, want %q", tail, edge, shift, left, rest)
				}
			}
		}
	}
}

func TestReadDataWritesLargePieces(t *testing.T) {
	// Even when every line is stuffed.
	in := strings.Repeat("..\r\n", 1<<18) + ".\r\n"
	writes := 0
	w := writerFunc(func(p []byte) (int, error) {
		writes++
		return len(p), nil
	})
	if err := NewReader(strings.NewReader(in)).ReadData(w, nil); err != nil {
		t.Fatal(err)
	}
	if most := len(in)/bodyBuffer + 3; writes > most {
		t.Errorf("%d writes, want at most %d", writes, most)
	}
}

func TestReadDataWriteError(t *testing.T) {
	full := errors.New("too large")
	for how, sizes := range splittings {
		calls := 0
		w := writerFunc(func(p []byte) (int, error) {
			calls++
			return 0, full
		})
		r := NewReader(&pieces{text: []byte(strings.Repeat("a\r\n", 10000) + ".\r\nNOOP\r\n"), sizes: sizes})
		var s BodyScan
		err := r.ReadData(w, &s)
		var failed *WriteError
		if !errors.As(err, &failed) || !errors.Is(err, full) {
			t.Errorf("%s: %v, want a WriteError", how, err)
		}
		if calls != 1 {
			t.Errorf("%s: w was called %d times", how, calls)
		}
		if s.Octets != 30000 {
			t.Errorf("%s: %d octets counted", how, s.Octets)
		}
		if rest := remains(r); rest != "NOOP\r\n" {
			t.Errorf("%s: left %.40q", how, rest)
		}
	}
}

func TestReadDataShortWrite(t *testing.T) {
	w := writerFunc(func(p []byte) (int, error) { return len(p) - 1, nil })
	err := NewReader(strings.NewReader("a\r\n.\r\n")).ReadData(w, nil)
	if !errors.Is(err, io.ErrShortWrite) {
		t.Errorf("%v, want %v", err, io.ErrShortWrite)
	}
}

// A text that is bad as well as too large is called bad, however it arrives.
func TestReadDataBodyErrorBeforeWriteError(t *testing.T) {
	w := writerFunc(func(p []byte) (int, error) { return 0, errors.New("too large") })
	for how, sizes := range splittings {
		r := NewReader(&pieces{text: []byte(strings.Repeat("a\r\n", 10000) + "\n\r\n.\r\n"), sizes: sizes})
		checkBodyError(t, how, r.ReadData(w, nil), &BodyError{BareLF, 30000})
	}
}

func TestReadDataConnectionErrors(t *testing.T) {
	for _, tt := range []struct {
		reads []string
		want  error
	}{
		{[]string{}, io.ErrUnexpectedEOF},
		{[]string{"a\r\n."}, io.ErrUnexpectedEOF},
		{[]string{"a\r\n.\r"}, io.ErrUnexpectedEOF},
		{[]string{"a\n\r\n.\r"}, io.ErrUnexpectedEOF},
		{[]string{"a\r\n", "", "NOOP\r\n"}, os.ErrDeadlineExceeded},
	} {
		r := NewReader(&script{reads: tt.reads, err: os.ErrDeadlineExceeded})
		if err := r.ReadData(io.Discard, nil); err != tt.want {
			t.Errorf("%q: %v, want %v", tt.reads, err, tt.want)
		}
		// What follows is the rest of the text: never a command, a reply
		// or another text.
		if cmds, err := r.ReadFlight(nil); err != tt.want || len(cmds) > 0 {
			t.Errorf("%q: then ReadFlight %v, want %v", tt.reads, err, tt.want)
		}
		if _, err := r.ReadReply(); err != tt.want {
			t.Errorf("%q: then ReadReply %v, want %v", tt.reads, err, tt.want)
		}
		if err := r.ReadData(io.Discard, nil); err != tt.want {
			t.Errorf("%q: then ReadData %v, want %v", tt.reads, err, tt.want)
		}
		if err := r.ReadChunk(io.Discard, 1, nil); err != tt.want {
			t.Errorf("%q: then ReadChunk %v, want %v", tt.reads, err, tt.want)
		}
	}
}

func FuzzData(f *testing.F) {
	for _, tt := range smuggled {
		f.Add([]byte("a"+tt.end+"MAIL FROM:<b@c>\r\n.\r\nNOOP\r\n"), []byte{1, 3, 2})
	}
	for _, in := range []string{
		".\r\n", "\r\n.\r\n", "..\r\n...\r\n.a\r\n.\r\n", ".\r", "a\r\n.", "\r\r\n.\r\n", "\xff\x00\r\n.\r\n.\r\n",
		strings.Repeat("x", 4094) + "\r\n.\r\n", strings.Repeat("..\r\n", 2000) + ".\r\n",
	} {
		f.Add([]byte(in), []byte(nil))
		f.Add([]byte(in), []byte{1, 0, 7, 255})
	}
	f.Fuzz(func(t *testing.T, in, sizes []byte) {
		text, rest, ended := modelData(in)
		want := modelScan(text)
		r := NewReader(&pieces{text: bytes.Clone(in), sizes: sizes})
		var got bytes.Buffer
		var s BodyScan
		err := r.ReadData(&got, &s)
		if !ended {
			if err != io.ErrUnexpectedEOF {
				t.Fatalf("%v, want %v", err, io.ErrUnexpectedEOF)
			}
			return
		}
		checkBodyError(t, "error", err, want)
		if got.String() != clean(text, want) {
			t.Fatalf("wrote %q, want %q", got.String(), clean(text, want))
		}
		if left := remains(r); left != string(rest) {
			t.Fatalf("left %q, want %q", left, rest)
		}
		if s.Octets != int64(len(text)) || s.EightBit == isASCII(text) {
			t.Fatalf("scan %+v of %d octets", s, len(text))
		}
	})
}

// countingDiscard is io.Discard without ReadFrom.
func countingDiscard(p []byte) (int, error) { return len(p), nil }

func benchmarkReadData(b *testing.B, text []byte) {
	in := append(bytes.Clone(text), ".\r\n"...)
	src := bytes.NewReader(in)
	r := NewReader(src)
	b.SetBytes(int64(len(in)))
	b.ReportAllocs()
	for b.Loop() {
		src.Reset(in)
		if err := r.ReadData(writerFunc(countingDiscard), nil); err != nil {
			b.Fatal(err)
		}
	}
}

func BenchmarkReadData(b *testing.B) {
	b.Run("60columns", func(b *testing.B) { benchmarkReadData(b, text60(1<<20)) })
	b.Run("60columns/10KB", func(b *testing.B) { benchmarkReadData(b, text60(10<<10)) })
	b.Run("60columns/1KB", func(b *testing.B) { benchmarkReadData(b, text60(1<<10)) })
	b.Run("emptyLines", func(b *testing.B) { benchmarkReadData(b, bytes.Repeat([]byte("\r\n"), 1<<19)) })
	b.Run("dots", func(b *testing.B) { benchmarkReadData(b, bytes.Repeat([]byte("..\r\n"), 1<<18)) })
	b.Run("oneLine", func(b *testing.B) { benchmarkReadData(b, append(bytes.Repeat([]byte("x"), 1<<20), "\r\n"...)) })
}
