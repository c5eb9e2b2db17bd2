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
	byName  map[string][]int // lower-case name: where such fields are, from the top down
	relaxed [][]byte         // the relaxed form of each field, once it was wanted
}

// NewFields lays out headers, which must not change afterwards.
func NewFields(headers []Header) *Fields {
	f := &Fields{
		headers: headers,
		byName:  make(map[string][]int, len(headers)),
		relaxed: make([][]byte, len(headers)),
	}
	for i, h := range headers {
		name := lower(h.Name)
		f.byName[name] = append(f.byName[name], i)
	}
	return f
}

// canonical returns field i in canonical form, with its final CRLF.
func (f *Fields) canonical(i int, c Canon) []byte {
	if c == Simple {
		return f.headers[i].Raw
	}
	if f.relaxed[i] == nil {
		f.relaxed[i] = Relaxed.AppendHeader(nil, f.headers[i].Raw)
	}
	return f.relaxed[i]
}
