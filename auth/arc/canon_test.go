package arc

import (
	"bytes"
	"crypto/sha256"
	"regexp"
	"strings"
	"testing"
)

// canonicalBody is the canonical form of a body, by the letter of
// https://www.rfc-editor.org/rfc/rfc6376#section-3.4.
func canonicalBody(c Canon, body string) string {
	if c == Relaxed {
		body = regexp.MustCompile(`[ \t]+`).ReplaceAllString(body, " ")
		body = strings.ReplaceAll(body, " \r\n", "\r\n")
		body = strings.TrimSuffix(body, " ")
	}
	for strings.HasSuffix(body, "\r\n") {
		body = strings.TrimSuffix(body, "\r\n")
	}
	if body == "" && c == Relaxed {
		return ""
	}
	return body + "\r\n"
}

// wantBody hashes a body in parts and compares with the letter.
func wantBody(t *testing.T, c Canon, parts ...string) {
	t.Helper()
	b := NewBodyHash(c)
	for _, p := range parts {
		b.Write([]byte(p))
	}
	want := canonicalBody(c, strings.Join(parts, ""))
	if b.Sum() != sha256.Sum256([]byte(want)) || b.Size() != int64(len(want)) {
		t.Errorf("%v body of %q is not %q", c, parts, want)
	}
	if _, err := b.Write([]byte("x")); err == nil {
		t.Error("written to behind its end")
	}
}

func TestBodyHash(t *testing.T) {
	bodies := []string{
		"", "\r\n", "\r\n\r\n\r\n", " \t\r\n \r\n", "a", "a ", "a\r\n", "a\r\n\r\n", "a \t\r\n", "a \t b\r\n",
		"  a\r\n", "a\rb", "a\r", "a \r", "a \r b\r\n", "a\nb\r\n\n", "\r\r\n", "a\r\n\r", "a\r\n \r\n\t\r\n b", "\r\na",
		" C \r\nD \t E\r\n\r\n\r\n", "\x00\xff\r\n", "a\tb", "a  b", "a\r\n\r\nb",
		strings.Repeat("\r\n", 100) + "a" + strings.Repeat(" \r\n", 100) + "b",
		"the first line is longer than one word\r\nand so is  the second\r\n\r\nthe third, with\ta tab\r\n end \r\n",
	}
	for _, c := range []Canon{Simple, Relaxed} {
		for _, body := range bodies {
			wantBody(t, c, body)
			wantBody(t, c, strings.Split(body, "")...)
			for i := range body {
				wantBody(t, c, body[:i], body[i:])
			}
		}
	}
}

func FuzzBodyHash(f *testing.F) {
	f.Add("a \t b\r\n\r\n", uint16(3), uint16(5))
	f.Add(" \r \r\n\ra", uint16(1), uint16(2))
	f.Fuzz(func(t *testing.T, body string, i, j uint16) {
		a := min(int(i), len(body))
		b := min(a+int(j), len(body))
		for _, c := range []Canon{Simple, Relaxed} {
			wantBody(t, c, body[:a], body[a:b], body[b:])
		}
	})
}

// https://www.rfc-editor.org/rfc/rfc6376#section-3.4.5
func TestAppendHeader(t *testing.T) {
	for _, test := range []struct{ raw, want string }{
		{"A: X\r\n", "a:X\r\n"},
		{"B : Y\t\r\n\tZ  \r\n", "b:Y Z\r\n"},
		{"SubJect:\r\n \r\n\t a\r\n  b \r\n \r\n", "subject:a b\r\n"},
		{"A:\r\n", "a:\r\n"},
		{"A: x\ry\nz\r\n", "a:x\ry\nz\r\n"},
		{"Ä: Ä\r\n", "Ä:Ä\r\n"},
	} {
		if got := Relaxed.AppendHeader(nil, []byte(test.raw)); string(got) != test.want {
			t.Errorf("%q became %q, want %q", test.raw, got, test.want)
		}
		if got := Simple.AppendHeader(nil, []byte(test.raw)); string(got) != test.raw {
			t.Errorf("%q became %q", test.raw, got)
		}
	}
}

func BenchmarkBodyHash(b *testing.B) {
	text := bytes.Repeat([]byte("The quick brown fox jumps over the lazy dog, and then once again.\r\n"), 150)
	for _, c := range []Canon{Simple, Relaxed} {
		b.Run(c.String(), func(b *testing.B) {
			b.SetBytes(int64(len(text)))
			for b.Loop() {
				h := NewBodyHash(c)
				h.Write(text)
				h.Sum()
			}
		})
	}
	b.Run("sha256", func(b *testing.B) {
		b.SetBytes(int64(len(text)))
		for b.Loop() {
			sha256.Sum256(text)
		}
	})
}
