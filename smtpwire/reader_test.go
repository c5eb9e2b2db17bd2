package smtpwire

import (
	"bytes"
	"errors"
	"io"
	"os"
	"strings"
	"testing"
	"testing/iotest"
)

// pieces is a source that delivers in reads of the given sizes, in turn; 0 is
// taken for 1, and no sizes for all at once. Behind the text come errs, then EOF.
type pieces struct {
	text  []byte
	sizes []byte
	turn  int
	errs  []error
}

func (p *pieces) Read(b []byte) (int, error) {
	if len(p.text) == 0 && len(p.errs) > 0 {
		err := p.errs[0]
		p.errs = p.errs[1:]
		return 0, err
	}
	if len(p.text) == 0 {
		return 0, io.EOF
	}
	n := len(p.text)
	if len(p.sizes) > 0 {
		n = max(int(p.sizes[p.turn%len(p.sizes)]), 1)
		p.turn++
	}
	n = copy(b, p.text[:min(n, len(p.text))])
	p.text = p.text[n:]
	return n, nil
}

// script is a source that delivers exactly these reads, an error for "".
type script struct {
	reads []string
	err   error
}

func (s *script) Read(b []byte) (int, error) {
	if len(s.reads) == 0 {
		return 0, io.EOF
	}
	next := s.reads[0]
	if next == "" {
		s.reads = s.reads[1:]
		return 0, s.err
	}
	n := copy(b, next)
	if s.reads[0] = next[n:]; n == len(next) {
		s.reads = s.reads[1:]
	}
	return n, nil
}

// remains returns what r has not consumed, of the buffer and of the source.
func remains(r *Reader) string {
	rest := string(r.buf[r.r:r.w])
	more, _ := io.ReadAll(r.src)
	return rest + string(more)
}

// splittings are read sizes under which every decoder must say the same.
var splittings = map[string][]byte{
	"whole":  nil,
	"ones":   {1},
	"twos":   {2},
	"threes": {3},
	"odd":    {1, 2, 7, 1, 61, 3, 255},
	"large":  {250},
}

func TestReaderBufferIsMadeByFirstRead(t *testing.T) {
	r := NewReader(strings.NewReader("NOOP\r\n"))
	if r.buf != nil {
		t.Errorf("a new Reader holds %d octets", len(r.buf))
	}
	if _, err := r.ReadFlight(nil); err != nil {
		t.Fatal(err)
	}
	if len(r.buf) != 4<<10 {
		t.Errorf("buffer of %d octets, want 4096", len(r.buf))
	}
}

func TestReaderZeroValue(t *testing.T) {
	var r Reader
	if _, err := r.ReadFlight(nil); err != io.EOF {
		t.Errorf("ReadFlight: %v, want EOF", err)
	}
	if n := r.Buffered() + r.Discard(); n != 0 {
		t.Errorf("%d octets in a zero Reader", n)
	}
}

func TestReaderBufferAroundBodies(t *testing.T) {
	large := strings.Repeat(strings.Repeat("x", 60)+"\r\n", 2000)
	small := "Subject: a\r\n\r\nb\r\n"
	medium := large[:lineBuffer-lineBuffer%62+62] // fills the small buffer once
	behind := strings.Repeat("NOOP\r\n", 1000)    // more than the small buffer takes
	for _, tt := range []struct {
		name, text, behind string
		during             int  // the largest buffer
		keeps              bool // it may still be in use behind the body
	}{
		{"small", small, "", lineBuffer, false},
		{"medium", medium, "", lineBuffer, false},
		{"large", large, "", bodyBuffer, false},
		{"large, command behind", large, "QUIT\r\n", bodyBuffer, false},
		{"large, many commands behind", large, behind, bodyBuffer, true},
	} {
		for _, chunk := range []bool{false, true} {
			in := tt.text + ".\r\n" + tt.behind
			if chunk {
				in = tt.text + tt.behind
			}
			r := NewReader(strings.NewReader(in))
			during := 0
			w := writerFunc(func(p []byte) (int, error) {
				during = max(during, len(r.buf))
				return len(p), nil
			})
			var err error
			if chunk {
				err = r.ReadChunk(w, int64(len(tt.text)), nil)
			} else {
				err = r.ReadData(w, nil)
			}
			if err != nil {
				t.Fatalf("%s: %v", tt.name, err)
			}
			if during != tt.during {
				t.Errorf("%s, chunk %v: %d octets of buffer during the body, want %d", tt.name, chunk, during, tt.during)
			}
			if !tt.keeps && len(r.buf) > lineBuffer {
				t.Errorf("%s, chunk %v: %d octets of buffer behind the body", tt.name, chunk, len(r.buf))
			}
			var got bytes.Buffer
			for {
				line, err := r.readLine(MaxCommandLine)
				if err == io.EOF {
					break
				}
				if err != nil {
					t.Fatal(err)
				}
				got.Write(line)
			}
			if got.String() != tt.behind {
				t.Errorf("%s, chunk %v: %d octets behind the body, want %d", tt.name, chunk, got.Len(), len(tt.behind))
			}
			if len(r.buf) > lineBuffer {
				t.Errorf("%s, chunk %v: still %d octets of buffer", tt.name, chunk, len(r.buf))
			}
		}
	}
}

// A client that announces a large chunk and then stalls costs no large buffer.
func TestReaderGrowsOnlyWithOctets(t *testing.T) {
	stall := errors.New("stall")
	r := NewReader(&script{reads: []string{"BDAT 1000000000\r\nabc", ""}, err: stall})
	if _, err := r.ReadFlight(nil); err != nil {
		t.Fatal(err)
	}
	if err := r.ReadChunk(io.Discard, 1e9, nil); err != stall {
		t.Fatalf("%v, want %v", err, stall)
	}
	if len(r.buf) != lineBuffer {
		t.Errorf("%d octets of buffer", len(r.buf))
	}
}

func TestReaderDiscardAndReset(t *testing.T) {
	r := NewReader(strings.NewReader("STARTTLS\r\nRSET\r\nNO"))
	if _, err := r.readLine(MaxCommandLine); err != nil {
		t.Fatal(err)
	}
	if n := r.Buffered(); n != 8 {
		t.Errorf("Buffered() = %d, want 8", n)
	}
	if n := r.Discard(); n != 8 {
		t.Errorf("Discard() = %d, want 8", n)
	}
	if n := r.Discard(); n != 0 {
		t.Errorf("second Discard() = %d, want 0", n)
	}
	r.broken, r.skipped = ErrFlood, 5000
	r.Reset(strings.NewReader("QUIT\r\n"))
	line, err := r.readLine(MaxCommandLine)
	if string(line) != "QUIT\r\n" || err != nil || r.broken != nil || r.skipped != 0 {
		t.Errorf("after Reset: %q, %v", line, err)
	}
}

// A Reader that is used again does not keep the large buffer of a body.
func TestReaderResetInsideBody(t *testing.T) {
	r := NewReader(bytes.NewReader(text60(2 * bodyBuffer)))
	if err := r.ReadData(io.Discard, nil); err != io.ErrUnexpectedEOF {
		t.Fatal(err)
	}
	r.resize(bodyBuffer)
	r.Reset(strings.NewReader("NOOP\r\n"))
	if line, err := r.readLine(MaxCommandLine); string(line) != "NOOP\r\n" || err != nil || len(r.buf) != lineBuffer {
		t.Errorf("%q, %v with %d octets of buffer", line, err, len(r.buf))
	}
}

// The octets that come together with an error are read first.
func TestReaderErrorBehindOctets(t *testing.T) {
	broken := errors.New("broken")
	r := NewReader(iotest.DataErrReader(io.MultiReader(strings.NewReader("a\nb\n"), iotest.ErrReader(broken))))
	for _, want := range []string{"a\n", "b\n"} {
		if line, err := r.readLine(MaxCommandLine); string(line) != want || err != nil {
			t.Fatalf("%q, %v; want %q", line, err, want)
		}
	}
	if _, err := r.readLine(MaxCommandLine); err != broken {
		t.Errorf("%v, want %v", err, broken)
	}
}

func TestReaderSourceThatReturnsNothing(t *testing.T) {
	nothing := readerFunc(func([]byte) (int, error) { return 0, nil })
	if _, err := NewReader(nothing).ReadFlight(nil); err != io.ErrNoProgress {
		t.Errorf("%v, want %v", err, io.ErrNoProgress)
	}
}

// A deadline between or inside command lines is told once; no octet is lost.
func TestReaderGoesOnBehindADeadline(t *testing.T) {
	src := &script{reads: []string{"NO", "", "OP\r\n"}, err: os.ErrDeadlineExceeded}
	r := NewReader(src)
	if _, err := r.readLine(MaxCommandLine); !errors.Is(err, os.ErrDeadlineExceeded) {
		t.Fatalf("%v, want a deadline", err)
	}
	if line, err := r.readLine(MaxCommandLine); string(line) != "NOOP\r\n" || err != nil {
		t.Errorf("%q, %v", line, err)
	}
}

type readerFunc func([]byte) (int, error)

func (f readerFunc) Read(p []byte) (int, error) { return f(p) }

type writerFunc func([]byte) (int, error)

func (f writerFunc) Write(p []byte) (int, error) { return f(p) }
