package smtpwire

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"io"
)

// A Reason says what is wrong with a message text.
type Reason uint8

// What must not occur in a message text, by whichever command it came. Systems
// that disagree whether such an octet ends a line can be made to see two
// messages where another saw one.
const (
	BareCR Reason = iota + 1 // CR without LF behind it: https://www.rfc-editor.org/rfc/rfc5321#section-2.3.8
	BareLF                   // LF without CR before it: ibid.
	NUL                      // https://www.rfc-editor.org/rfc/rfc5322#section-3.5
)

func (r Reason) String() string {
	switch r {
	case BareCR:
		return "bare CR"
	case BareLF:
		return "bare LF"
	case NUL:
		return "NUL"
	}
	return fmt.Sprintf("Reason(%d)", uint8(r))
}

// A BodyError reports a message text that must not be passed on.
type BodyError struct {
	Reason Reason
	// Offset is where the first offending octet stands in the message text:
	// unstuffed, and counted over all chunks.
	Offset int64
}

func (e *BodyError) Error() string {
	return fmt.Sprintf("%v in the message text at offset %d", e.Reason, e.Offset)
}

// A WriteError reports that the message text came in whole but could not be
// written whole to where it should go: the fault is ours, not the client's,
// unless Err is about a size limit.
type WriteError struct {
	Err error // the writer's
}

func (e *WriteError) Error() string { return "smtpwire: writing the message text: " + e.Err.Error() }

// Unwrap returns the writer's error.
func (e *WriteError) Unwrap() error { return e.Err }

// A BodyScan follows the text of one message, over all its chunks. The zero
// value is ready for a message; a scan is not used for a second one.
type BodyScan struct {
	Octets   int64 // length of the text so far
	EightBit bool  // an octet above 127 was seen

	last byte       // the last octet, 0 before the first
	err  *BodyError // the first
}

// Scan looks at the next octets of the text. It returns a *[BodyError] from the
// first offending octet on, always the same one. Octets and EightBit keep count
// even then. A CR at the end of p is judged by what comes next, see
// [BodyScan.End].
func (s *BodyScan) Scan(p []byte) error {
	if len(p) == 0 {
		return s.error()
	}
	if s.err == nil {
		s.err = s.inspect(p)
	}
	s.EightBit = s.EightBit || !isASCII(p)
	s.Octets += int64(len(p))
	s.last = p[len(p)-1]
	return s.error()
}

// End tells that the text is over: a CR at its very end is a bare one.
func (s *BodyScan) End() error {
	if s.err == nil && s.last == '\r' {
		s.err = &BodyError{BareCR, s.Octets - 1}
	}
	return s.error()
}

// EndsInCRLF reports whether the text so far ends with a line end. An empty
// text does not.
func (s *BodyScan) EndsInCRLF() bool {
	return s.err == nil && s.last == '\n'
}

// error avoids the typed nil.
func (s *BodyScan) error() error {
	if s.err == nil {
		return nil
	}
	return s.err
}

// inspect returns what is first wrong with p, which continues the text.
func (s *BodyScan) inspect(p []byte) *BodyError {
	reason, at := badLineEnd(s.last, p)
	if reason != 0 {
		p = p[:max(at, 0)]
	}
	if i := bytes.IndexByte(p, 0); i >= 0 {
		reason, at = NUL, i
	}
	if reason == 0 {
		return nil
	}
	return &BodyError{reason, s.Octets + int64(at)}
}

// badLineEnd returns the index of the first bare CR or LF of p and which of them
// it is, or 0 if there is none. The index is -1 if the octet before p, last, is
// the bare CR. The cost is two searches a line, none of them octet by octet.
func badLineEnd(last byte, p []byte) (Reason, int) {
	at := 0 // p[at:] is still to be looked at
	if last == '\r' {
		if p[0] != '\n' {
			return BareCR, -1
		}
		at = 1
	}
	for {
		line := p[at:]
		lf := bytes.IndexByte(line, '\n')
		if lf >= 0 {
			line = line[:lf]
		}
		cr := bytes.IndexByte(line, '\r')
		switch {
		case cr >= 0 && cr < len(line)-1:
			return BareCR, at + cr
		case lf >= 0 && cr < 0:
			return BareLF, at + lf
		case lf < 0:
			return 0, 0 // a CR at the very end is for the next octet to judge
		}
		at += lf + 1
	}
}

// isASCII looks at 32 octets at a time.
func isASCII(p []byte) bool {
	const high = 0x8080808080808080
	for len(p) >= 32 {
		v := binary.LittleEndian.Uint64(p) | binary.LittleEndian.Uint64(p[8:]) |
			binary.LittleEndian.Uint64(p[16:]) | binary.LittleEndian.Uint64(p[24:])
		if v&high != 0 {
			return false
		}
		p = p[32:]
	}
	var v byte
	for _, c := range p {
		v |= c
	}
	return v < 0x80
}

// A bodySink takes the text that a body reader finds: it scans all of it and
// writes it to w up to the first offence or failure.
type bodySink struct {
	w    io.Writer
	scan *BodyScan
	werr error
}

func newBodySink(w io.Writer, s *BodyScan) bodySink {
	if s == nil {
		s = new(BodyScan)
	}
	return bodySink{w: w, scan: s}
}

// take passes on the octets of p before the first offending one, in one Write.
// A reader that does not know what follows a CR holds it back, unless it is the
// last octet of a chunk (border): so if another piece ends in a CR, what was held
// back behind it is a second CR, and the first is bare.
func (k *bodySink) take(p []byte, border bool) {
	if len(p) == 0 {
		return
	}
	start, refused := k.scan.Octets, k.scan.err != nil
	err := k.scan.Scan(p)
	if !border {
		err = k.scan.End()
	}
	switch {
	case refused:
		return
	case err != nil:
		p = p[:max(k.scan.err.Offset-start, 0)]
	}
	if k.werr != nil || len(p) == 0 {
		return
	}
	k.werr = writeAll(k.w, p)
}

// writeAll does not trust w to say why it wrote less.
func writeAll(w io.Writer, p []byte) error {
	n, err := w.Write(p)
	if err == nil && n != len(p) {
		err = io.ErrShortWrite
	}
	return err
}

// result is what a body reader returns once the body is consumed. A BodyError
// goes before a WriteError whichever came first: the refusal that speaks of the
// message is the same at every size of the reads.
func (k *bodySink) result() error {
	if err := k.scan.error(); err != nil {
		return err
	}
	if k.werr != nil {
		return &WriteError{k.werr}
	}
	return nil
}
