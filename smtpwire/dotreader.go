package smtpwire

import (
	"bytes"
	"io"
)

// ReadData reads the message text behind DATA and its 354, through the final
// dot, and writes it to w without the transparency dots, in pieces as large as
// they arrive. s follows the text; nil stands for a new scan.
//
// The text ends only at CRLF "." CRLF, or "." CRLF if it is empty
// (https://www.rfc-editor.org/rfc/rfc5321#section-4.1.1.4). Of every other line
// that begins with a dot, the dot is removed
// (https://www.rfc-editor.org/rfc/rfc5321#section-4.5.2).
//
// Whatever is wrong with the text, ReadData reads on to its true end, so that no
// part of a refused message is taken for commands:
//
//   - *[BodyError]: the text contains a bare CR, a bare LF or NUL. w got what
//     stands before the first of them and nothing more.
//   - *[WriteError]: w failed, and was not called again. A limit on the size is
//     w's to set. If the text is bad as well, that is what is returned.
//   - any other error is the connection's and final, io.ErrUnexpectedEOF
//     included: the end was not seen, and w must not be used.
//
// ReadData has no limit of its own on how much it throws away. A client that
// sends without end can only be stopped by the caller's deadlines: let one of
// them cover the whole text, since those between two reads never pass then.
//
// w must not retain the slices that it is given.
func (r *Reader) ReadData(w io.Writer, s *BodyScan) error {
	if r.broken != nil {
		return r.broken
	}
	sink := newBodySink(w, s)
	lineStart := true
	for {
		u := unstuff(r.buf[r.r:r.w], lineStart)
		sink.take(u.text, false)
		r.r += u.used
		lineStart = u.lineStart
		if u.done {
			r.endBody()
			return sink.result()
		}
		if err := r.fill(true); err != nil {
			r.endBody()
			return r.fail(err)
		}
	}
}

// unstuffed is what unstuff made of a buffer.
type unstuffed struct {
	text      []byte // a part of the buffer, dots removed
	used      int    // how much of the buffer was understood, at its front
	lineStart bool   // what follows used begins a line
	done      bool   // the final dot line was used
}

// unstuff removes the transparency dots from p, in place, and finds the end of
// the text. lineStart tells that p begins a line.
//
// At most two octets at the end of p are left unused: a CR, or a line so far of
// "." or "." CR. What they mean depends on octets not yet read, so a CR and its
// LF are never in different buffers here.
func unstuff(p []byte, lineStart bool) unstuffed {
	var (
		kept int // p[:kept] is finished text
		from int // p[from:at] is text that still has to move down to kept
		at   int
	)
	finish := func() []byte {
		if kept == from {
			return p[:at]
		}
		return p[:kept+copy(p[kept:], p[from:at])]
	}
	for at < len(p) {
		if lineStart && p[at] == '.' {
			switch rest := p[at+1:]; {
			case bytes.HasPrefix(rest, []byte("\r\n")):
				return unstuffed{finish(), at + 3, true, true}
			case len(rest) == 0, len(rest) == 1 && rest[0] == '\r':
				return unstuffed{finish(), at, true, false}
			}
			kept += copy(p[kept:], p[from:at])
			at++
			from = at
		}
		n := bytes.IndexByte(p[at:], '\n')
		if n < 0 {
			break
		}
		at += n + 1
		// Behind a bare LF a dot is text like any other.
		lineStart = at >= 2 && p[at-2] == '\r'
	}
	if at < len(p) {
		line := p[at:]
		at = len(p)
		if line[len(line)-1] == '\r' {
			line = line[:len(line)-1]
			at--
		}
		lineStart = lineStart && len(line) == 0
	}
	return unstuffed{finish(), at, lineStart, false}
}
