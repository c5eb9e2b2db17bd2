package arc

import (
	"slices"
	"strings"
)

// foldAt is how long the lines of a new field may be
// (https://www.rfc-editor.org/rfc/rfc5322#section-2.1.1).
const foldAt = 78

// layout is how a new field is written. The zero value is the usual way: i=
// first, as the grammar of RFC 8617 has it, b= last, lines of foldAt.
type layout struct {
	order []string
	width int
}

func (l layout) sort(tags []Tag) {
	order := l.order
	if order == nil {
		order = []string{"i", "a", "cv", "c", "d", "s", "t", "h", "bh", "b"}
	}
	slices.SortFunc(tags, func(a, b Tag) int { return slices.Index(order, a.Name) - slices.Index(order, b.Name) })
}

// signatureLine is how much of a b= stands on one line.
const signatureLine = 72

// compose writes a field of tags, folded.
func (l layout) compose(name string, tags []Tag) []byte {
	f := folder{text: []byte(name + ":"), width: l.width}
	if f.width == 0 {
		f.width = foldAt
	}
	f.column = len(f.text)
	for i, tag := range tags {
		pieces := pieces(tag)
		if i < len(tags)-1 {
			pieces[len(pieces)-1] += ";"
		}
		f.add(pieces[0], " ")
		for _, piece := range pieces[1:] {
			f.add(piece, "")
		}
	}
	return append(f.text, crlf...)
}

// pieces splits a tag where it may be folded: h= behind colons, b= anywhere.
func pieces(tag Tag) []string {
	switch tag.Name {
	case "h":
		pieces := strings.SplitAfter(tag.Value, ":")
		pieces[0] = "h=" + pieces[0]
		return pieces
	case "b":
		text := "b=" + tag.Value
		var pieces []string
		for len(text) > signatureLine {
			pieces = append(pieces, text[:signatureLine])
			text = text[signatureLine:]
		}
		return append(pieces, text)
	}
	return []string{tag.Name + "=" + tag.Value}
}

// folder writes lines of at most width characters, as far as the pieces let it.
type folder struct {
	text          []byte
	column, width int
}

// add writes a piece behind a gap, or on a new line.
func (f *folder) add(piece, gap string) {
	if f.column+len(gap)+len(piece) > f.width {
		f.text = append(f.text, "\r\n\t"...)
		f.column = 1
	} else {
		f.text = append(f.text, gap...)
		f.column += len(gap)
	}
	f.text = append(f.text, piece...)
	f.column += len(piece)
}
