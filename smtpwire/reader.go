package smtpwire

import (
	"bytes"
	"errors"
	"io"
)

// Sizes of a Reader's buffer.
const (
	// lineBuffer is what a connection costs while commands or replies are
	// read, and so what an idle session costs. It holds the longest reply
	// line ([MaxReplyLine]) whole.
	lineBuffer = 4 << 10
	// bodyBuffer is what it may cost while a body is read, if the other
	// side sends faster than lineBuffer takes: two full TLS records.
	bodyBuffer = 32 << 10
)

// maxEmptyReads is how often the source may return neither octets nor an
// error before io.ErrNoProgress.
const maxEmptyReads = 100

// errLineTooLong is readLine's word to its callers in this package.
var errLineTooLong = errors.New("line too long")

// A Reader reads the lines and the message texts of one direction of an SMTP
// connection: a server reads with [Reader.ReadFlight], [Reader.ReadData] and
// [Reader.ReadChunk], a client with [Reader.ReadReply].
//
// The buffer (4 KiB) is made by the first read. It grows to 32 KiB only while
// a body is read that arrives in large pieces, and shrinks again behind it.
//
// An error that leaves the Reader inside something (half a body, half a reply,
// a line without end) is final: what follows could not be told from commands
// or replies, so every later call returns the same error until [Reader.Reset].
// Other errors of the source, such as a deadline that passes while a command
// line is awaited, are returned once, and reading may go on.
//
// A Reader sets no deadlines and starts no goroutines. It is not safe for
// concurrent use.
type Reader struct {
	src  io.Reader
	buf  []byte
	r, w int // buf[r:w] is buffered

	full   int   // how many reads in a row have filled buf to its end
	err    error // came with the last octets read; not yet returned
	broken error // final, see above

	changed  int  // octets of the line at which the code changed within a reply
	skipped  int  // octets of an overlong command line consumed so far
	skipVerb Verb // of that line
}

// NewReader returns a Reader over src. It reads nothing yet.
func NewReader(src io.Reader) *Reader {
	return &Reader{src: src}
}

// Reset drops everything the Reader knows, buffered octets and final errors
// included, and lets it read from src. Behind STARTTLS, call it with the TLS
// connection; that nothing was buffered (see [Reader.Discard]) is for the
// caller to check before.
func (r *Reader) Reset(src io.Reader) {
	buf := r.buf
	if len(buf) != lineBuffer {
		buf = nil
	}
	*r = Reader{src: src, buf: buf}
}

// Buffered returns the number of octets that were read from the source and not
// yet consumed, complete lines or not.
func (r *Reader) Buffered() int {
	return r.w - r.r
}

// Poll reads once from the source if nothing is buffered, and returns the number
// of octets that are buffered then. It is for finding out whether there is
// anything to read at all: the caller sets a deadline that keeps it from
// waiting, and takes that error for no.
func (r *Reader) Poll() (int, error) {
	if r.broken != nil {
		return r.Buffered(), r.broken
	}
	if r.Buffered() > 0 {
		return r.Buffered(), nil
	}
	err := r.fill(false)
	return r.Buffered(), err
}

// Discard drops what is buffered and returns how many octets that were. Around
// STARTTLS anything but 0 is an attempt to carry clear text into the protected
// session: https://www.rfc-editor.org/rfc/rfc3207#section-4.2.
func (r *Reader) Discard() int {
	n := r.Buffered()
	clear(r.buf[r.r:r.w])
	r.r, r.w = 0, 0
	return n
}

// readLine returns the next line, LF included, as a slice of the buffer that is
// valid until the next read. A line of more than limit octets, LF included, is
// errLineTooLong and stays unconsumed; limit is at most lineBuffer. EOF inside
// a line is io.ErrUnexpectedEOF, EOF at its start io.EOF.
func (r *Reader) readLine(limit int) ([]byte, error) {
	searched := 0
	for {
		b := r.buf[r.r:r.w]
		if i := bytes.IndexByte(b[searched:], '\n'); i >= 0 {
			n := searched + i + 1
			if n > limit {
				return nil, errLineTooLong
			}
			r.r += n
			return b[:n], nil
		}
		if len(b) >= limit {
			return nil, errLineTooLong
		}
		searched = len(b)
		if err := r.fill(false); err != nil {
			if r.Buffered() > 0 {
				err = unexpectedEOF(err)
			}
			return nil, err
		}
	}
}

// fill reads once from the source, behind what is buffered. The caller leaves
// room: fewer than lineBuffer octets are buffered. On success at least one octet
// was added.
func (r *Reader) fill(body bool) error {
	if err := r.err; err != nil {
		r.err = nil
		return err
	}
	if r.src == nil {
		return io.EOF
	}
	r.makeRoom(body)
	for range maxEmptyReads {
		n, err := r.src.Read(r.buf[r.w:])
		r.w += n
		if n > 0 {
			r.err = err
			r.full++
			if r.w < len(r.buf) {
				r.full = 0
			}
			return nil
		}
		if err != nil {
			return err
		}
	}
	return io.ErrNoProgress
}

// makeRoom moves what is buffered to the front of a buffer of the right size.
// Only a body that has filled the small buffer twice running gets the large one,
// so that neither short messages, of one buffer and a bit, nor a client that
// announces much and sends nothing cost it.
func (r *Reader) makeRoom(body bool) {
	size := lineBuffer
	if body && (r.full > 1 || len(r.buf) == bodyBuffer) {
		size = bodyBuffer
	}
	r.resize(size)
}

// endBody gives the large buffer back, unless more than the small one holds
// was read behind the body; then makeRoom does it once that is consumed.
func (r *Reader) endBody() {
	r.full = 0
	if len(r.buf) <= lineBuffer {
		return
	}
	switch n := r.Buffered(); {
	case n == 0:
		r.buf, r.r, r.w = nil, 0, 0
	case n <= lineBuffer:
		r.resize(lineBuffer)
	}
}

// resize moves the buffered octets, at most size, to the front of a buffer of
// size octets.
func (r *Reader) resize(size int) {
	old := r.buf[r.r:r.w]
	if len(r.buf) != size {
		r.buf = make([]byte, size)
	}
	r.w = copy(r.buf, old)
	r.r = 0
}

// fail makes err final and returns it. EOF is never clean where fail is called.
func (r *Reader) fail(err error) error {
	r.broken = unexpectedEOF(err)
	return r.broken
}

// unexpectedEOF is for EOF where the other side owes us more.
func unexpectedEOF(err error) error {
	if err == io.EOF {
		return io.ErrUnexpectedEOF
	}
	return err
}
