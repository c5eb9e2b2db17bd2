package arc

import (
	"bytes"
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"hash"
)

var errBodyEnded = errors.New("the body has ended")

// BodyHash is the SHA-256 of a body in canonical form, computed while the body
// arrives. It keeps no text. The zero value is not usable; see [NewBodyHash].
type BodyHash struct {
	hash  hash.Hash
	canon Canon
	size  int64 // canonical octets so far
	sum   [sha256.Size]byte
	ended bool

	// What was read and may yet turn out to be nothing, in this order.
	lines int64 // ends of lines
	space bool  // white space (relaxed)
	cr    bool  // a CR, whose LF may follow
}

// NewBodyHash returns the hash of an empty body.
func NewBodyHash(c Canon) *BodyHash { return &BodyHash{hash: sha256.New(), canon: c} }

// Write takes the next part of the body, as it came, with CRLF at the end of
// lines. It fails after Sum alone.
func (b *BodyHash) Write(p []byte) (int, error) {
	if b.ended {
		return 0, errBodyEnded
	}
	run := simpleRun
	if b.canon == Relaxed {
		run = relaxedRun
	}
	for i := 0; i < len(p); {
		switch c := p[i]; {
		case b.cr && c == '\n':
			b.cr, b.space = false, false
			b.lines++
			i++
		case b.cr: // a bare CR is text
			b.cr = false
			b.text(crlf[:1])
		case c == '\r':
			b.cr = true
			i++
		case b.canon == Relaxed && isWSP(c):
			b.space = true
			i++
		default:
			n := run(p[i:])
			b.text(p[i : i+n])
			i += n
		}
	}
	return len(p), nil
}

// Sum ends the body and returns its hash.
func (b *BodyHash) Sum() [sha256.Size]byte {
	if b.ended {
		return b.sum
	}
	b.ended = true
	if b.cr {
		b.text(crlf[:1])
	}
	// A body ends in one CRLF, but for the relaxed form of one without text
	// (https://www.rfc-editor.org/rfc/rfc6376#section-3.4.4).
	if b.size > 0 || b.canon == Simple {
		b.write(crlf)
	}
	b.hash.Sum(b.sum[:0])
	return b.sum
}

// Size ends the body and returns how many octets its canonical form has.
func (b *BodyHash) Size() int64 {
	b.Sum()
	return b.size
}

// text hashes text, and what stood before it.
func (b *BodyHash) text(p []byte) {
	for b.lines > 0 {
		n := min(b.lines, int64(len(manyLines)/len(crlf)))
		b.write([]byte(manyLines[:int(n)*len(crlf)]))
		b.lines -= n
	}
	if b.space {
		b.write([]byte{' '})
		b.space = false
	}
	b.write(p)
}

const manyLines = "\r\n\r\n\r\n\r\n\r\n\r\n\r\n\r\n\r\n\r\n\r\n\r\n\r\n\r\n\r\n\r\n"

func (b *BodyHash) write(p []byte) {
	b.hash.Write(p)
	b.size += int64(len(p))
}

// relaxedRun returns how much of p, which begins with text, is its own relaxed
// form and ends in text. Most mail is one such run.
func relaxedRun(p []byte) int {
	for i := 1; ; {
		i += plainWords(p[i:])
		for end := i + 8; i < end; {
			switch {
			case i == len(p):
				return i
			case !isSpecial(p[i]):
				i++
			case p[i] == ' ' && i+1 < len(p) && !isSpecial(p[i+1]):
				i += 2
			case p[i] == '\r' && i+2 < len(p) && p[i+1] == '\n' && !isSpecial(p[i+2]):
				i += 3
			default:
				return i
			}
		}
	}
}

// isSpecial reports whether c may be changed by the relaxed form.
func isSpecial(c byte) bool { return c <= ' ' && (c == ' ' || c == '\t' || c == '\r') }

// plainWords is relaxedRun for eight octets at a time, and stops before the
// first eight in which something may have to change: a tab, two specials side by
// side, or one behind CR LF.
func plainWords(p []byte) int {
	i := 0
	if len(p) < 16 {
		return 0
	}
	special, tab, cr := specials(binary.LittleEndian.Uint64(p))
	for ; i+16 <= len(p); i += 8 {
		special2, tab2, cr2 := specials(binary.LittleEndian.Uint64(p[i+8:]))
		next := special>>8 | special2<<56
		afterNext := special>>16 | special2<<48
		if tab|special&next|cr&afterNext != 0 {
			break
		}
		special, tab, cr = special2, tab2, cr2
	}
	return i
}

// specials returns where in eight octets there is any special, a tab, a CR: the
// highest bit of each such octet. Octets above the first may be marked wrongly.
func specials(w uint64) (special, tab, cr uint64) {
	const ones, high = 0x0101010101010101, 0x8080808080808080
	space, tab, cr := w^ones*' ', w^ones*'\t', w^ones*'\r'
	space = (space - ones) &^ space & high
	tab = (tab - ones) &^ tab & high
	cr = (cr - ones) &^ cr & high
	return space | tab | cr, tab, cr
}

// simpleRun is relaxedRun for the simple form.
func simpleRun(p []byte) int {
	i := 1
	for {
		n := bytes.IndexByte(p[i:], '\r')
		if n < 0 {
			return len(p)
		}
		i += n
		if i+2 >= len(p) || p[i+1] != '\n' || p[i+2] == '\r' {
			return i
		}
		i += 3
	}
}
