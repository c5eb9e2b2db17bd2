package smtpwire

import (
	"bytes"
	"errors"
	"strings"
	"testing"
)

// modelScan finds the first offence of a whole text, octet by octet.
func modelScan(text []byte) *BodyError {
	for i, c := range text {
		switch {
		case c == 0:
			return &BodyError{NUL, int64(i)}
		case c == '\r' && (i+1 == len(text) || text[i+1] != '\n'):
			return &BodyError{BareCR, int64(i)}
		case c == '\n' && (i == 0 || text[i-1] != '\r'):
			return &BodyError{BareLF, int64(i)}
		}
	}
	return nil
}

// checkBodyError compares an error with the model's.
func checkBodyError(t *testing.T, what string, err error, want *BodyError) {
	t.Helper()
	var got *BodyError
	switch {
	case want == nil && err != nil:
		t.Errorf("%s: %v", what, err)
	case want != nil && (!errors.As(err, &got) || *got != *want):
		t.Errorf("%s: %v, want %v", what, err, want)
	}
}

func TestBodyScan(t *testing.T) {
	const pad = "0123456789012345678901234567890123456789" // longer than one step of isASCII
	for _, tt := range []struct {
		text   string
		eight  bool
		ends   bool
		reason Reason
		offset int64
	}{
		{"", false, false, 0, 0},
		{"a", false, false, 0, 0},
		{"a\r\n", false, true, 0, 0},
		{"\r\n\r\n", false, true, 0, 0},
		{pad + "\x7f\r\n", false, true, 0, 0},
		{pad + "\x80\r\n", true, true, 0, 0},
		{"\xff" + pad + "\r\n", true, true, 0, 0},
		{"\r", false, false, BareCR, 0},
		{"a\r\n\r", false, false, BareCR, 3},
		{"a\r\r\n", false, false, BareCR, 1},
		{"a\rb\n", false, false, BareCR, 1},
		{"\n", false, false, BareLF, 0},
		{"a\r\n\n", false, false, BareLF, 3},
		{"a\nb\r\n", false, false, BareLF, 1},
		{"a\x00b\r\n", false, false, NUL, 1},
		{"a\x00\n\r", false, false, NUL, 1},
		{"a\n\x00\r", false, false, BareLF, 1},
		{"a\r\x00\n", false, false, BareCR, 1},
		{"a\r\n\x00\xff", true, false, NUL, 3},
	} {
		for how, sizes := range splittings {
			var s BodyScan
			src := &pieces{text: []byte(tt.text), sizes: sizes}
			var first error
			buf := make([]byte, 300)
			for {
				n, err := src.Read(buf)
				if err != nil {
					break
				}
				err = s.Scan(buf[:n])
				if first != nil && err != first {
					t.Errorf("%q, %s: %v after %v", tt.text, how, err, first)
				}
				first = err
			}
			ends := s.EndsInCRLF()
			err := s.End()
			if first != nil && err != first {
				t.Errorf("%q, %s: End says %v after %v", tt.text, how, err, first)
			}
			var want *BodyError
			if tt.reason != 0 {
				want = &BodyError{tt.reason, tt.offset}
			}
			checkBodyError(t, tt.text+", "+how, err, want)
			if s.Octets != int64(len(tt.text)) || s.EightBit != tt.eight || ends != tt.ends {
				t.Errorf("%q, %s: %d octets, 8bit %v, ends in CRLF %v", tt.text, how, s.Octets, s.EightBit, ends)
			}
		}
	}
}

func TestBodyScanEmptyPieces(t *testing.T) {
	var s BodyScan
	for _, p := range []string{"", "a\r", "", "\n", ""} {
		if err := s.Scan([]byte(p)); err != nil {
			t.Errorf("%q: %v", p, err)
		}
	}
	if err := s.End(); err != nil || s.Octets != 3 || !s.EndsInCRLF() {
		t.Errorf("%v, %d octets", err, s.Octets)
	}
}

func TestIsASCII(t *testing.T) {
	for n := range 100 {
		p := bytes.Repeat([]byte{0x7f}, n)
		if !isASCII(p) {
			t.Errorf("%d octets of 7 bit are not ASCII", n)
		}
		for i := range p {
			p[i] = 0x80
			if isASCII(p) {
				t.Errorf("octet %d of %d unseen", i, n)
			}
			p[i] = 0x7f
		}
	}
}

func TestBodyErrorsSayWhatToLookFor(t *testing.T) {
	for _, tt := range []struct {
		err  error
		want string
	}{
		{&BodyError{BareLF, 17}, "bare LF in the message text at offset 17"},
		{&BodyError{BareCR, 0}, "bare CR in the message text at offset 0"},
		{&BodyError{NUL, 1}, "NUL in the message text at offset 1"},
		{&BodyError{}, "Reason(0)"},
		{&WriteError{errors.New("no space")}, "no space"},
	} {
		if got := tt.err.Error(); !strings.Contains(got, tt.want) {
			t.Errorf("%q lacks %q", got, tt.want)
		}
	}
}

// text60 is a message text of about n octets in lines of 60 columns.
func text60(n int) []byte {
	return bytes.Repeat([]byte(strings.Repeat("The quick brown fox. ", 3)[:60]+"\r\n"), n/62)
}

func BenchmarkBodyScan(b *testing.B) {
	text := text60(bodyBuffer)
	b.SetBytes(int64(len(text)))
	for b.Loop() {
		var s BodyScan
		if err := s.Scan(text); err != nil {
			b.Fatal(err)
		}
	}
}
