package proxy

import (
	"slices"
	"strings"
)

// maxTrace bounds what is kept of a Received field. It has two host names and an
// address before it comes to the program's name.
const maxTrace = 1024

// A traceScan keeps the Received field on top of a header section while that
// arrives: it is of whoever sends to us
// (https://www.rfc-editor.org/rfc/rfc5321#section-4.4).
type traceScan struct {
	wanted bool
	done   bool
	field  []byte
	taking bool // the current line belongs to the field
	other  bool // the current line is of another one
	n      int  // octets of the current line
}

func (t *traceScan) scan(header []byte) {
	for _, c := range header {
		if !t.wanted || t.done {
			return
		}
		t.next(c)
	}
}

func (t *traceScan) next(c byte) {
	switch {
	case t.n == 0 && t.taking && c != ' ' && c != '\t':
		t.done = true
		return
	case t.taking:
		if len(t.field) < maxTrace {
			t.field = append(t.field, c)
		}
	case t.other:
	case t.n < len(receivedField) && lower(c) == receivedField[t.n]:
		t.taking = t.n == len(receivedField)-1
	default:
		t.other = true
	}
	t.n++
	if c == '\n' {
		t.n, t.other = 0, false
	}
}

func lower(c byte) byte {
	if 'A' <= c && c <= 'Z' {
		return c + 'a' - 'A'
	}
	return c
}

// openSMTPD tells whether the field was put there by OpenSMTPD: "by NAME
// (OpenSMTPD) with …".
func (t *traceScan) openSMTPD() bool {
	words := strings.Fields(string(t.field))
	i := slices.Index(words, "(OpenSMTPD)")
	return i >= 2 && words[i-2] == "by"
}
