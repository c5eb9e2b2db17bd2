package arc

import (
	"bytes"
	"testing"
	"unicode/utf8"
)

// plainRelaxed is the relaxed form of a field as the text of RFC 6376 has it, octet by octet.
func plainRelaxed(raw []byte) []byte {
	var dst []byte
	colon := bytes.IndexByte(raw, ':')
	for _, b := range bytes.TrimRight(raw[:max(colon, 0)], " \t") {
		dst = append(dst, lowerByte(b))
	}
	dst = append(dst, ':')
	value := raw[colon+1:]
	start, space := len(dst), false
	for i := 0; i < len(value); i++ {
		switch b := value[i]; {
		case b == '\r' && i+1 < len(value) && value[i+1] == '\n':
			i++
		case isWSP(b):
			space = true
		default:
			if space && len(dst) > start {
				dst = append(dst, ' ')
			}
			space = false
			dst = append(dst, b)
		}
	}
	return append(dst, crlf...)
}

// plainUnfold is unfold in the simplest way: folds are removed first, and what is left is looked at.
func plainUnfold(p []byte) (text string, ok bool) {
	kept := make([]byte, 0, len(p))
	for len(p) > 0 {
		line, rest, folded := bytes.Cut(p, crlf)
		if kept = append(kept, line...); folded && (len(rest) == 0 || !isWSP(rest[0])) {
			return "", false
		}
		p = rest
	}
	for _, c := range kept {
		if c < ' ' && c != '\t' || c == 0x7f {
			return "", false
		}
	}
	return string(bytes.Trim(kept, " \t")), utf8.Valid(kept)
}

// FuzzPlain: what is written for speed does what its plain form does.
func FuzzPlain(f *testing.F) {
	for _, s := range []string{
		"SubJect:\r\n \r\n\t a\r\n  b \r\n \r\n", "A:\r\n", "A: x\ry\nz\r\n", "A : \r \r\n x\r", "no colon \r\n", ":", "",
		" b = x\r\n\t y \r\n ", "x\r\n", "\xc3\r\n \xa9", "\xc3\xa9 ", "a\x7f", "\r", "\n", "a\r\r\n b",
	} {
		f.Add([]byte(s))
	}
	f.Fuzz(func(t *testing.T, p []byte) {
		if got, want := Relaxed.AppendHeader(nil, p), plainRelaxed(p); !bytes.Equal(got, want) {
			t.Errorf("%q became %q, want %q", p, got, want)
		}
		got, ok := unfold(p)
		if want, wantOK := plainUnfold(p); ok != wantOK || ok && got != want {
			t.Errorf("%q: %q %t, want %q %t", p, got, ok, want, wantOK)
		}
	})
}
