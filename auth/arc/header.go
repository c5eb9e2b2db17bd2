package arc

import (
	"bytes"
	"errors"
)

var (
	// ErrHeaderSize means a header of more than MaxHeaderSize octets or
	// MaxFields fields.
	ErrHeaderSize = errors.New("header too large")

	// ErrHeaderSyntax means a line that neither begins nor continues a field.
	ErrHeaderSyntax = errors.New("malformed header field")
)

// Header is one field of a message.
type Header struct {
	Name string // as it was written, without space before the colon; empty if the line is no field at all
	Raw  []byte // the whole field as it came, folded, with the final CRLF
}

// Value returns what stands behind the colon, folded as it came, without the
// final CRLF.
func (h Header) Value() []byte {
	return bytes.TrimSuffix(h.Raw[bytes.IndexByte(h.Raw, ':')+1:], crlf)
}

// SplitHeader splits the header of a message into its fields, in their order.
// It stops at the blank line, which may be missing, as may the final CRLF. A
// line ends at CRLF alone; a bare CR or LF is a character like others.
//
// A header that is too large gives ErrHeaderSize and nothing else. With
// ErrHeaderSyntax come all fields, the malformed ones without a name. Nothing
// that was signed can be believed of such a message: where one reader sees a
// strange field, the next one sees the body begin.
//
// The fields share the memory of section.
func SplitHeader(section []byte) ([]Header, error) {
	var (
		headers []Header
		err     error
		size    int
	)
	for len(section) > 0 && !bytes.HasPrefix(section, crlf) {
		n := fieldEnd(section)
		raw := section[:n:n]
		section = section[n:]
		if size += n; size > MaxHeaderSize || len(headers) == MaxFields {
			return nil, ErrHeaderSize
		}
		if !bytes.HasSuffix(raw, crlf) {
			raw = append(raw, crlf...)
		}
		name := fieldName(raw)
		if name == "" {
			err = ErrHeaderSyntax
		}
		headers = append(headers, Header{Name: name, Raw: raw})
	}
	return headers, err
}

// fieldEnd returns the length of the field that p begins with.
func fieldEnd(p []byte) int {
	n := 0
	for {
		i := bytes.Index(p[n:], crlf)
		if i < 0 {
			return len(p)
		}
		n += i + len(crlf)
		if n == len(p) || !isWSP(p[n]) {
			return n
		}
	}
}

// fieldName returns the name of a field, or nothing if raw is no field. White
// space before the colon is the old syntax
// (https://www.rfc-editor.org/rfc/rfc5322#section-4.5).
func fieldName(raw []byte) string {
	i := bytes.IndexByte(raw, ':')
	if i <= 0 {
		return ""
	}
	name := bytes.TrimRight(raw[:i], " \t")
	for _, c := range name {
		if c <= ' ' || c >= 0x7f {
			return ""
		}
	}
	return string(name)
}

// Fields is the header of a message, laid out for signatures to choose from. It
// must not be used by two goroutines at once.
type Fields struct {
	headers []Header
	names   map[string]int // lower-case name: its number
	bottom  []int          // by number of the name: the last such field
	above   []int          // for each field: the one of the same name before it; -1 if there is none
	relaxed [][]byte       // the relaxed form of each field, once it was wanted
}

// NewFields lays out headers, which must not change afterwards.
func NewFields(headers []Header) *Fields {
	f := &Fields{
		headers: headers,
		names:   make(map[string]int, len(headers)),
		bottom:  make([]int, 0, len(headers)),
		above:   make([]int, len(headers)),
		relaxed: make([][]byte, len(headers)),
	}
	for i, h := range headers {
		f.above[i] = -1
		if n, ok := f.number(h.Name); ok {
			f.above[i], f.bottom[n] = f.bottom[n], i
		} else if h.Name != "" { // else it is no field at all
			f.names[lower(h.Name)] = len(f.bottom)
			f.bottom = append(f.bottom, i)
		}
	}
	return f
}

// number returns the number of a name that some field has.
func (f *Fields) number(name string) (n int, ok bool) {
	var buf [64]byte // most names fit, and then nothing is allocated
	key := buf[:0]
	for i := range len(name) {
		key = append(key, lowerByte(name[i]))
	}
	n, ok = f.names[string(key)]
	return n, ok
}

// count returns how many fields have a name.
func (f *Fields) count(name string) int {
	n, ok := f.number(name)
	if !ok {
		return 0
	}
	times := 0
	for at := f.bottom[n]; at >= 0; at = f.above[at] {
		times++
	}
	return times
}

// canonical returns field i in canonical form, with its final CRLF.
func (f *Fields) canonical(i int, c Canon) []byte {
	raw := f.headers[i].Raw
	if c == Simple {
		return raw
	}
	if f.relaxed[i] == nil {
		f.relaxed[i] = Relaxed.AppendHeader(make([]byte, 0, len(raw)), raw)
	}
	return f.relaxed[i]
}
