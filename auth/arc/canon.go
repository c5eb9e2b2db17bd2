package arc

import "bytes"

var crlf = []byte("\r\n")

// Canon is how a text is brought into canonical form before it is hashed
// (https://www.rfc-editor.org/rfc/rfc6376#section-3.4).
type Canon uint8

const (
	Simple  Canon = iota // as it is
	Relaxed              // white space and the case of field names do not count
)

// String returns the word of the c= tag.
func (c Canon) String() string {
	if c == Relaxed {
		return "relaxed"
	}
	return "simple"
}

// parseCanon reads one half of a c= tag.
func parseCanon(s string) (c Canon, ok bool) {
	switch s {
	case "simple":
		return Simple, true
	case "relaxed":
		return Relaxed, true
	}
	return Simple, false
}

// AppendHeader appends the canonical form of a whole field, final CRLF
// included, to dst.
func (c Canon) AppendHeader(dst, raw []byte) []byte {
	if c == Simple {
		return append(dst, raw...)
	}
	colon := bytes.IndexByte(raw, ':')
	for _, b := range bytes.TrimRight(raw[:max(colon, 0)], " \t") {
		dst = append(dst, lowerByte(b))
	}
	dst = append(dst, ':')
	value, start := raw[colon+1:], len(dst)
	for i := 0; i < len(value); {
		text := i
		for i < len(value) && !isSpecial(value[i]) {
			i++
		}
		dst = append(dst, value[text:i]...)
		if i == len(value) {
			break
		}
		// White space of any kind is one space between two texts, and folds are nothing.
		space := false
		for ; i < len(value) && isSpecial(value[i]); i++ {
			if value[i] != '\r' {
				space = true
			} else if i+1 < len(value) && value[i+1] == '\n' {
				i++
			} else {
				break // a bare CR is text
			}
		}
		bare := i < len(value) && value[i] == '\r'
		if space && len(dst) > start && i < len(value) {
			dst = append(dst, ' ')
		}
		if bare {
			dst = append(dst, '\r')
			i++
		}
	}
	return append(dst, crlf...)
}

func isWSP(c byte) bool { return c == ' ' || c == '\t' }

// lowerByte turns A to Z into a to z, and leaves everything else alone.
func lowerByte(c byte) byte {
	if 'A' <= c && c <= 'Z' {
		return c + 'a' - 'A'
	}
	return c
}

// lower turns A to Z into a to z: names of fields and domains are compared so,
// and a letter of another alphabet never equals one of ours.
func lower(s string) string {
	for i := range len(s) {
		if 'A' <= s[i] && s[i] <= 'Z' {
			b := []byte(s)
			for j := i; j < len(b); j++ {
				b[j] = lowerByte(b[j])
			}
			return string(b)
		}
	}
	return s
}

// equalFold reports whether two names are the same, as lower understands it.
func equalFold(a, b string) bool {
	if len(a) != len(b) {
		return false
	}
	for i := range len(a) {
		if lowerByte(a[i]) != lowerByte(b[i]) {
			return false
		}
	}
	return true
}
