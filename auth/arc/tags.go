package arc

import (
	"bytes"
	"encoding/base64"
	"errors"
	"fmt"
	"unicode/utf8"
)

// ErrTags means a list of tags that breaks the grammar.
var ErrTags = errors.New("malformed tag list")

// Tag is one name and its value.
type Tag struct {
	Name  string
	Value string // unfolded, without white space at both ends

	start, end int // what stands between "=" and ";" in the list
}

// Tags is a list of tags in its order
// (https://www.rfc-editor.org/rfc/rfc6376#section-3.2). No name is there twice.
type Tags []Tag

// ParseTags reads a list of tags: the value of a field as it came, or a TXT
// record. UTF-8 is taken, as RFC 8616 wants it.
func ParseTags(list []byte) (Tags, error) {
	if len(list) > MaxTagList {
		return nil, fmt.Errorf("%w: too long", ErrTags)
	}
	tags := make(Tags, 0, 10)
	for at := 0; ; {
		end := len(list)
		if i := bytes.IndexByte(list[at:], ';'); i >= 0 {
			end = at + i
		}
		tag, err := parseTag(list, at, end)
		if err != nil {
			return nil, err
		}
		if _, ok := tags.Get(tag.Name); ok {
			return nil, fmt.Errorf("%w: a tag is there twice", ErrTags)
		}
		if tags = append(tags, tag); len(tags) > MaxTags {
			return nil, fmt.Errorf("%w: too many tags", ErrTags)
		}
		at = end + 1
		if at >= len(list) || isBlank(list[at:]) {
			return tags, nil
		}
	}
}

// parseTag reads the tag at list[start:end].
func parseTag(list []byte, start, end int) (Tag, error) {
	name, value, ok := bytes.Cut(list[start:end], []byte("="))
	if !ok {
		return Tag{}, fmt.Errorf("%w: a tag without =", ErrTags)
	}
	tag := Tag{start: start + len(name) + 1, end: end}
	text, ok := unfold(name)
	if tag.Name = text; !ok || !isTagName(text) {
		return Tag{}, fmt.Errorf("%w: a bad name", ErrTags)
	}
	if tag.Value, ok = unfold(value); !ok {
		return Tag{}, fmt.Errorf("%w: a bad value", ErrTags)
	}
	return tag, nil
}

// Get returns the value of a tag and whether it is there.
func (t Tags) Get(name string) (value string, ok bool) {
	if i := t.index(name); i >= 0 {
		return t[i].Value, true
	}
	return "", false
}

func (t Tags) index(name string) int {
	for i := range t {
		if t[i].Name == name {
			return i
		}
	}
	return -1
}

// isTagName: a letter, then letters, digits and underscores.
func isTagName(s string) bool {
	for i := range len(s) {
		c := lowerByte(s[i])
		if ('a' > c || c > 'z') && (i == 0 || (c < '0' || c > '9') && c != '_') {
			return false
		}
	}
	return s != ""
}

// unfold removes the folds of a text and the white space at both its ends, and
// reports whether nothing but text and folds was there.
func unfold(p []byte) (text string, ok bool) {
	folds, ascii := false, true
	for _, c := range p {
		if ' ' <= c && c < 0x7f { // nearly always
			continue
		}
		switch {
		case c >= 0x80:
			ascii = false
		case c == '\r' || c == '\n':
			folds = true
		case c != '\t':
			return "", false
		}
	}
	if !ascii && !utf8.Valid(p) {
		return "", false
	}
	if !folds {
		return string(trimWSP(p)), true
	}
	kept := make([]byte, 0, len(p))
	for len(p) > 0 {
		line, rest, folded := bytes.Cut(p, crlf)
		if folded && (len(rest) == 0 || !isWSP(rest[0])) || bytes.ContainsAny(line, "\r\n") {
			return "", false
		}
		kept = append(kept, line...)
		p = rest
	}
	return string(trimWSP(kept)), true
}

// trimWSP removes white space at both ends.
func trimWSP[T string | []byte](s T) T {
	for len(s) > 0 && isWSP(s[0]) {
		s = s[1:]
	}
	for len(s) > 0 && isWSP(s[len(s)-1]) {
		s = s[:len(s)-1]
	}
	return s
}

// isBlank reports whether p is white space and folds.
func isBlank(p []byte) bool {
	for _, c := range p {
		if !isWSP(c) && c != '\r' && c != '\n' {
			return false
		}
	}
	return true
}

// decodeBase64 decodes a value that may have white space anywhere.
func decodeBase64(s string) ([]byte, error) {
	var buf [1024]byte // most values fit
	text := buf[:0]
	for len(s) > 0 {
		n := 0
		for n < len(s) && !isWSP(s[n]) {
			n++
		}
		text = append(text, s[:n]...)
		for s = s[n:]; len(s) > 0 && isWSP(s[0]); {
			s = s[1:]
		}
	}
	data := make([]byte, base64.StdEncoding.DecodedLen(len(text)))
	n, err := base64.StdEncoding.Decode(data, text)
	return data[:n], err
}
