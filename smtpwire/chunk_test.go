package smtpwire

import (
	"bytes"
	"errors"
	"io"
	"math"
	"os"
	"strings"
	"testing"
)

func TestReadChunk(t *testing.T) {
	for _, tt := range []struct {
		name   string
		chunks []string
		want   *BodyError
	}{
		{"empty", []string{""}, nil},
		{"one", []string{"a\r\nb\r\n"}, nil},
		{"no CRLF at the end", []string{"a\r\nb"}, nil},
		{"line end divided", []string{"a\r", "\nb\r\n"}, nil},
		{"line end divided by an empty chunk", []string{"a\r", "", "\n"}, nil},
		{"dots are text", []string{"a\r\n.\r\nRCPT TO:<a@b>\r\n", "..\r\n"}, nil},
		{"large", []string{strings.Repeat("a\r\n", 50000), "", strings.Repeat("b", 100000)}, nil},
		{"CR at the end", []string{"a\r\n", "b\r"}, &BodyError{BareCR, 4}},
		{"CR, then none", []string{"a\r", ""}, &BodyError{BareCR, 1}},
		{"CR, then text", []string{"a\r", "b\r\n"}, &BodyError{BareCR, 1}},
		{"LF first", []string{"\na"}, &BodyError{BareLF, 0}},
		{"LF first behind text", []string{"a", "\nb"}, &BodyError{BareLF, 1}},
		{"NUL", []string{"ab", "c\x00\n", "d"}, &BodyError{NUL, 3}},
	} {
		for how, sizes := range splittings {
			text := strings.Join(tt.chunks, "")
			r := NewReader(&pieces{text: []byte(text + "QUIT\r\n"), sizes: sizes})
			var got bytes.Buffer
			var s BodyScan
			var first error
			for _, chunk := range tt.chunks {
				err := r.ReadChunk(&got, int64(len(chunk)), &s)
				if first != nil && err != first {
					t.Errorf("%s, %s: %v after %v", tt.name, how, err, first)
				}
				first = err
			}
			checkBodyError(t, tt.name+", "+how, s.End(), tt.want)
			want := wantChunks(tt.chunks, tt.want)
			if got.String() != want {
				t.Errorf("%s, %s: wrote %.40q, want %.40q", tt.name, how, got.String(), want)
			}
			if s.Octets != int64(len(text)) {
				t.Errorf("%s, %s: %d octets counted, want %d", tt.name, how, s.Octets, len(text))
			}
			if rest := remains(r); rest != "QUIT\r\n" {
				t.Errorf("%s, %s: left %.40q", tt.name, how, rest)
			}
		}
	}
}

// wantChunks returns what a writer gets: the text before the offence, and a CR
// that only the next chunk, or the end, showed to be bare.
func wantChunks(chunks []string, bad *BodyError) string {
	text := strings.Join(chunks, "")
	if bad == nil {
		return text
	}
	end := bad.Offset
	if bad.Reason == BareCR {
		var border int64
		for _, chunk := range chunks {
			if border += int64(len(chunk)); border == end+1 {
				end++
				break
			}
		}
	}
	return text[:end]
}

func TestReadChunkSmuggling(t *testing.T) {
	const text, evil = "Subject: a\r\n\r\nb", "MAIL FROM:<evil@example.org>\r\nBDAT 1 LAST\r\nx\r\n.\r\n"
	for _, tt := range smuggled {
		for how, sizes := range splittings {
			chunk := text + tt.end + evil
			r := NewReader(&pieces{text: []byte(chunk + "NOOP\r\n"), sizes: sizes})
			err := r.ReadChunk(io.Discard, int64(len(chunk)), nil)
			// Nothing is unstuffed here: a first dot counts.
			want := modelScan([]byte(chunk))
			if want == nil || want.Reason != tt.reason {
				t.Errorf("%q: %v", tt.end, want)
			}
			checkBodyError(t, how, err, want)
			if rest := remains(r); rest != "NOOP\r\n" {
				t.Errorf("%q, %s: left %q: smuggled", tt.end, how, rest)
			}
		}
	}
}

func TestReadChunkEnd(t *testing.T) {
	for _, n := range []int64{4, 5000, 1 << 40, math.MaxInt64} {
		r := NewReader(strings.NewReader("abc"))
		var got bytes.Buffer
		if err := r.ReadChunk(&got, n, nil); err != io.ErrUnexpectedEOF {
			t.Errorf("%d: %v, want %v", n, err, io.ErrUnexpectedEOF)
		}
		if got.String() != "abc" {
			t.Errorf("%d: wrote %q", n, got.String())
		}
		if _, err := r.ReadFlight(nil); err != io.ErrUnexpectedEOF {
			t.Errorf("%d: then %v", n, err)
		}
	}
	r := NewReader(&script{reads: []string{"ab", "", "c\r\nNOOP\r\n"}, err: os.ErrDeadlineExceeded})
	for range 2 {
		if err := r.ReadChunk(io.Discard, 5, nil); err != os.ErrDeadlineExceeded {
			t.Errorf("%v, want a deadline", err)
		}
	}
}

func TestReadChunkWriteError(t *testing.T) {
	full := errors.New("too large")
	r := NewReader(strings.NewReader(strings.Repeat("a\r\n", 30000) + "NOOP\r\n"))
	calls := 0
	err := r.ReadChunk(writerFunc(func(p []byte) (int, error) {
		calls++
		return 0, full
	}), 90000, new(BodyScan))
	var failed *WriteError
	if !errors.As(err, &failed) || failed.Err != full || calls != 1 {
		t.Errorf("%v after %d calls", err, calls)
	}
	if rest := remains(r); rest != "NOOP\r\n" {
		t.Errorf("left %.40q", rest)
	}
}

// An empty chunk asks nothing of the connection.
func TestReadChunkEmptyDoesNotRead(t *testing.T) {
	r := NewReader(readerFunc(func([]byte) (int, error) {
		t.Error("read")
		return 0, io.EOF
	}))
	if err := r.ReadChunk(io.Discard, 0, nil); err != nil {
		t.Error(err)
	}
}

func TestReadChunkWritesLargePieces(t *testing.T) {
	const n = 1 << 20
	writes := 0
	w := writerFunc(func(p []byte) (int, error) {
		writes++
		return len(p), nil
	})
	if err := NewReader(bytes.NewReader(text60(2*n))).ReadChunk(w, n, nil); err != nil {
		t.Fatal(err)
	}
	if most := n/bodyBuffer + 3; writes > most {
		t.Errorf("%d writes, want at most %d", writes, most)
	}
}

// cut divides in as cuts say, the remainder last.
func cut(in []byte, cuts []byte) (chunks []string) {
	for _, n := range cuts {
		n := min(int(n), len(in))
		chunks = append(chunks, string(in[:n]))
		in = in[n:]
	}
	return append(chunks, string(in))
}

func FuzzChunk(f *testing.F) {
	for _, tt := range smuggled {
		f.Add([]byte("a"+tt.end+"MAIL FROM:<b@c>\r\n.\r\n"), []byte{3, 1, 0}, []byte{1, 3, 2})
	}
	f.Add([]byte("a\r\nb\r\n"), []byte{2, 0, 1}, []byte{1})
	f.Add([]byte(strings.Repeat("x", 4095)+"\r\n\xff\x00"), []byte(nil), []byte(nil))
	f.Fuzz(func(t *testing.T, text, cuts, sizes []byte) {
		const rest = "NOOP\r\n"
		chunks := cut(text, cuts)
		want := modelScan(text)
		r := NewReader(&pieces{text: append(bytes.Clone(text), rest...), sizes: sizes})
		var got bytes.Buffer
		var s BodyScan
		for _, chunk := range chunks {
			err := r.ReadChunk(&got, int64(len(chunk)), &s)
			if end := int64(got.Len()); err != nil && (want == nil || end > want.Offset+1) {
				t.Fatalf("%v with %d octets written, want %v", err, end, want)
			}
		}
		checkBodyError(t, "error", s.End(), want)
		if got.String() != wantChunks(chunks, want) {
			t.Fatalf("wrote %q, want %q", got.String(), wantChunks(chunks, want))
		}
		if left := remains(r); left != rest {
			t.Fatalf("left %q", left)
		}
		if s.Octets != int64(len(text)) || s.EightBit == isASCII(text) {
			t.Fatalf("scan %+v of %d octets", s, len(text))
		}
	})
}

func BenchmarkReadChunk(b *testing.B) {
	text := text60(1 << 20)
	src := bytes.NewReader(text)
	r := NewReader(src)
	b.SetBytes(int64(len(text)))
	b.ReportAllocs()
	for b.Loop() {
		src.Reset(text)
		if err := r.ReadChunk(writerFunc(countingDiscard), int64(len(text)), nil); err != nil {
			b.Fatal(err)
		}
	}
}
