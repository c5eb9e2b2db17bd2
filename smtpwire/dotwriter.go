package smtpwire

import (
	"bytes"
	"errors"
	"io"
	"slices"
)

// dotBuffer is how much a DotWriter gathers, in octets. Its buffer is made by
// the first Write, as large as it must be, and dropped by Close.
const dotBuffer = 32 << 10

// dotRoom is how much Grow adds for what is not of the text: the final dot with
// the line end before it, and some dots more.
const dotRoom = 64

// errDotWriterClosed is for those who write behind the final dot.
var errDotWriterClosed = errors.New("smtpwire: write to a closed DotWriter")

// A DotWriter writes a message text in the form that DATA wants: lines that
// begin with a dot get another one
// (https://www.rfc-editor.org/rfc/rfc5321#section-4.5.2), and a line with a lone
// dot follows the text.
//
// It is the last door before a peer, so it trusts nobody: a text with a bare CR,
// a bare LF or NUL is refused with a *[BodyError], of which nothing from the
// offending octet on is written.
//
// After an error the peer still waits for the end of the text: close the
// connection without Close, which would not write the final dot anyway.
type DotWriter struct {
	w    io.Writer
	buf  []byte // not yet written to w; at most dotBuffer
	scan BodyScan
	cr   bool // the last octet is a CR not yet in buf
	err  error
}

// NewDotWriter returns a DotWriter that writes to w. Small writes are gathered
// into pieces of 32 KiB, so that a short message and its final dot leave in one.
func NewDotWriter(w io.Writer) *DotWriter {
	return &DotWriter{w: w}
}

// Grow makes room for a text of n octets, as far as the buffer goes, so that it
// need not grow step by step. The text may turn out longer or shorter.
func (d *DotWriter) Grow(n int64) {
	d.buf = slices.Grow(d.buf, int(min(n, dotBuffer-dotRoom)+dotRoom))
}

// Write writes the next octets of the text. Lines and their ends may be divided
// between calls.
func (d *DotWriter) Write(p []byte) (int, error) {
	if d.err != nil {
		return 0, d.err
	}
	if len(p) == 0 {
		return 0, nil
	}
	start, lineStart := d.scan.Octets, d.lineStart()
	clean := p
	bad := d.scan.Scan(p)
	if bad != nil {
		clean = p[:max(d.scan.err.Offset-start, 0)]
	}
	n, err := d.stuff(clean, lineStart)
	if err == nil {
		err = bad
	}
	d.err = err
	return n, err
}

// lineStart reports whether the next octet begins a line.
func (d *DotWriter) lineStart() bool {
	return d.scan.Octets == 0 || d.scan.EndsInCRLF()
}

// stuff writes text that is known to be good, but for a CR at its end, which is
// held until its LF is there.
func (d *DotWriter) stuff(p []byte, lineStart bool) (int, error) {
	if len(p) == 0 {
		return 0, nil
	}
	if d.cr {
		d.cr = false
		if err := d.put([]byte{'\r'}); err != nil {
			return 0, err
		}
	}
	from := 0 // p[from:at] is to be written
	for at := 0; at < len(p); lineStart = true {
		if lineStart && p[at] == '.' {
			// The dot is written twice: as the end of this piece and
			// as the start of the next.
			if err := d.put(p[from : at+1]); err != nil {
				return from, err
			}
			from = at
		}
		n := bytes.IndexByte(p[at:], '\n')
		if n < 0 {
			break
		}
		at += n + 1
	}
	end := len(p)
	if p[end-1] == '\r' {
		d.cr = true
		end--
	}
	if err := d.put(p[from:end]); err != nil {
		return from, err
	}
	return len(p), nil
}

// put gathers p. What is larger than the buffer goes through uncopied if nothing
// stands before it.
func (d *DotWriter) put(p []byte) error {
	for len(d.buf)+len(p) > dotBuffer {
		if len(d.buf) == 0 {
			return writeAll(d.w, p)
		}
		n := dotBuffer - len(d.buf)
		d.buf = append(d.buf, p[:n]...)
		p = p[n:]
		if err := d.flush(); err != nil {
			return err
		}
	}
	d.buf = append(d.buf, p...)
	return nil
}

func (d *DotWriter) flush() error {
	err := writeAll(d.w, d.buf)
	d.buf = d.buf[:0]
	return err
}

// Close writes what is buffered, a CRLF if the text does not end in one, and the
// final dot. A text that ends in a CR is refused with a *[BodyError]. Close does
// not close the writer below. After an error it writes nothing and returns that
// error; a second Close does nothing.
func (d *DotWriter) Close() error {
	if d.err == errDotWriterClosed {
		return nil
	}
	if d.err == nil {
		d.err = d.scan.End()
	}
	if d.err != nil {
		return d.err
	}
	if !d.lineStart() {
		d.err = d.put([]byte("\r\n"))
	}
	if d.err == nil {
		d.err = d.put([]byte(".\r\n"))
	}
	if d.err == nil {
		d.err = d.flush()
	}
	d.buf = nil
	if d.err != nil {
		return d.err
	}
	d.err = errDotWriterClosed
	return nil
}
