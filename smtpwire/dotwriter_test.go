package smtpwire

import (
	"bytes"
	"errors"
	"io"
	"math"
	"strings"
	"testing"
)

func TestDotWriter(t *testing.T) {
	for _, tt := range []struct {
		text, want string
	}{
		{"", ".\r\n"},
		{"\r\n", "\r\n.\r\n"},
		{"a\r\n", "a\r\n.\r\n"},
		{"a", "a\r\n.\r\n"},
		{".", "..\r\n.\r\n"},
		{".\r\n", "..\r\n.\r\n"},
		{"..\r\n", "...\r\n.\r\n"},
		{"a.\r\n.b\r\n\r\n.\r\nc..", "a.\r\n..b\r\n\r\n..\r\nc..\r\n.\r\n"},
		{strings.Repeat(".\r\n", 30000), strings.Repeat("..\r\n", 30000) + ".\r\n"},
		{strings.Repeat("x", 100000), strings.Repeat("x", 100000) + "\r\n.\r\n"},
	} {
		for how, sizes := range splittings {
			var got bytes.Buffer
			d := NewDotWriter(&got)
			n, err := io.Copy(struct{ io.Writer }{d}, &pieces{text: []byte(tt.text), sizes: sizes})
			if err != nil || n != int64(len(tt.text)) {
				t.Errorf("%.40q, %s: %d, %v", tt.text, how, n, err)
			}
			for range 2 { // the second does nothing
				if err := d.Close(); err != nil {
					t.Errorf("%.40q, %s: %v", tt.text, how, err)
				}
			}
			if got.String() != tt.want {
				t.Errorf("%.40q, %s: %.40q, want %.40q", tt.text, how, got.String(), tt.want)
			}
			if n, err := d.Write([]byte("a")); n != 0 || err == nil {
				t.Errorf("%.40q, %s: write behind the final dot: %d, %v", tt.text, how, n, err)
			}
		}
	}
}

// writeIn writes text to d in pieces until it fails.
func writeIn(d *DotWriter, text []byte, sizes []byte) (int64, error) {
	return io.Copy(struct{ io.Writer }{d}, &pieces{text: bytes.Clone(text), sizes: sizes})
}

// checkRefused holds that a refused text left no octet of the offence, and no
// end of data.
func checkRefused(t *testing.T, wire string, text []byte, bad *BodyError) {
	t.Helper()
	var whole bytes.Buffer
	d := NewDotWriter(&whole)
	if _, err := d.Write(text[:bad.Offset]); err != nil {
		t.Fatal(err)
	}
	if err := d.Close(); err != nil {
		t.Fatal(err)
	}
	if !strings.HasPrefix(whole.String(), wire) {
		t.Errorf("%q is not of the text before %v", wire, bad)
	}
	if strings.Contains("\r\n"+wire, "\r\n.\r\n") {
		t.Errorf("an end of data in %q", wire)
	}
}

func TestDotWriterRefuses(t *testing.T) {
	texts := []string{"\r", "a\r\nb\r", "\n", "a\x00", strings.Repeat("a\r\n", 50000) + "\n"}
	for _, tt := range smuggled {
		texts = append(texts, "a"+tt.end+"MAIL FROM:<b@c>\r\n")
	}
	for _, text := range texts {
		want := modelScan([]byte(text))
		if want == nil {
			t.Fatalf("%q is a good text", text)
		}
		for how, sizes := range splittings {
			var got bytes.Buffer
			d := NewDotWriter(&got)
			n, err := writeIn(d, []byte(text), sizes)
			if err != nil && n > want.Offset+1 {
				t.Errorf("%.40q, %s: %d octets taken, then %v", text, how, n, err)
			}
			checkBodyError(t, how, d.Close(), want)
			checkBodyError(t, how, d.Close(), want)
			checkRefused(t, got.String(), []byte(text), want)
			if _, err := d.Write([]byte("a")); err == nil {
				t.Errorf("%.40q, %s: goes on", text, how)
			}
		}
	}
}

// Whichever write of the connection fails, it is told, and nothing follows.
func TestDotWriterWriteErrors(t *testing.T) {
	broken := errors.New("broken pipe")
	text := []byte(strings.Repeat(".a\r\n", 50000) + "b")
	for how, sizes := range splittings {
		for good := 0; ; good++ {
			writes := 0
			d := NewDotWriter(writerFunc(func(p []byte) (int, error) {
				if writes++; writes > good {
					return 0, broken
				}
				return len(p), nil
			}))
			_, err := writeIn(d, text, sizes)
			closeErr := d.Close()
			if writes <= good {
				if err != nil || closeErr != nil {
					t.Errorf("%s: %v, %v without a failure", how, err, closeErr)
				}
				break
			}
			if closeErr != broken || err != nil && err != broken || writes != good+1 {
				t.Errorf("%s: %v, then %v after %d of %d writes", how, err, closeErr, writes, good)
			}
		}
	}
}

func TestDotWriterGathers(t *testing.T) {
	writes := 0
	d := NewDotWriter(writerFunc(func(p []byte) (int, error) {
		writes++
		return len(p), nil
	}))
	if d.buf != nil {
		t.Error("a buffer before the first write")
	}
	text := bytes.Repeat([]byte(".\r\n"), 1<<18)
	if _, err := writeIn(d, text, []byte{100}); err != nil {
		t.Fatal(err)
	}
	if err := d.Close(); err != nil {
		t.Fatal(err)
	}
	if most := len(text)*4/3/dotBuffer + 1; writes > most {
		t.Errorf("%d writes, want at most %d", writes, most)
	}
	if d.buf != nil {
		t.Error("a buffer behind Close")
	}
}

func FuzzDotWriter(f *testing.F) {
	for _, tt := range smuggled {
		f.Add([]byte("a"+tt.end+"MAIL FROM:<b@c>\r\n"), []byte{1, 3, 2})
	}
	for _, text := range []string{"", ".", ".\r\n", "..\r\n.a\r\n\r\n.", "a\r\n.\r\nb", strings.Repeat(".\r\n", 2000), strings.Repeat("x", 4095) + "\r\n."} {
		f.Add([]byte(text), []byte{1, 0, 7, 255})
		f.Add([]byte(text), []byte(nil))
	}
	f.Fuzz(func(t *testing.T, text, sizes []byte) {
		const rest = "QUIT\r\n"
		bad := modelScan(text)
		var wire bytes.Buffer
		d := NewDotWriter(&wire)
		n, err := writeIn(d, text, sizes)
		if closeErr := d.Close(); err == nil {
			err = closeErr
		}
		checkBodyError(t, "error", err, bad)
		if bad != nil {
			checkRefused(t, wire.String(), text, bad)
			return
		}
		if n != int64(len(text)) {
			t.Fatalf("%d of %d octets taken", n, len(text))
		}
		want := string(text)
		if want != "" && !strings.HasSuffix(want, "\r\n") {
			want += "\r\n"
		}
		r := NewReader(&pieces{text: append(wire.Bytes(), rest...), sizes: sizes})
		var got bytes.Buffer
		if err := r.ReadData(&got, nil); err != nil {
			t.Fatal(err)
		}
		if got.String() != want {
			t.Fatalf("%q came back as %q", want, got.String())
		}
		if left := remains(r); left != rest {
			t.Fatalf("left %q", left)
		}
	})
}

func TestDotWriterGrow(t *testing.T) {
	for _, n := range []int64{0, 100, 5000, dotBuffer, math.MaxInt64} {
		var got bytes.Buffer
		d := NewDotWriter(&got)
		d.Grow(n)
		room := cap(d.buf)
		if int64(room) < min(n, dotBuffer) || room > 2*dotBuffer {
			t.Errorf("room for %d octets, want %d", room, n)
		}
		text := strings.Repeat("x", int(min(n, 5000)))
		for i := range len(text) {
			if _, err := io.WriteString(d, text[i:i+1]); err != nil {
				t.Fatal(err)
			}
		}
		if cap(d.buf) != room {
			t.Errorf("%d octets: the buffer was made anew", n)
		}
		if err := d.Close(); err != nil || strings.TrimPrefix(got.String(), text) != "\r\n.\r\n" && text != "" {
			t.Errorf("%d octets: %q, %v", n, got.String(), err)
		}
	}
}

func benchmarkDotWriter(b *testing.B, text []byte) {
	b.SetBytes(int64(len(text)))
	b.ReportAllocs()
	for b.Loop() {
		d := NewDotWriter(writerFunc(countingDiscard))
		for p := text; len(p) > 0; {
			n := min(len(p), bodyBuffer)
			if _, err := d.Write(p[:n]); err != nil {
				b.Fatal(err)
			}
			p = p[n:]
		}
		if err := d.Close(); err != nil {
			b.Fatal(err)
		}
	}
}

func BenchmarkDotWriter(b *testing.B) {
	b.Run("60columns", func(b *testing.B) { benchmarkDotWriter(b, text60(1<<20)) })
	b.Run("60columns/1KB", func(b *testing.B) { benchmarkDotWriter(b, text60(1<<10)) })
	b.Run("dots", func(b *testing.B) { benchmarkDotWriter(b, bytes.Repeat([]byte(".\r\n"), 1<<18)) })
}
