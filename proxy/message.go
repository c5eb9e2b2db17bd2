package proxy

import (
	"bytes"
	"crypto/sha256"
	"errors"
	"fmt"
	"hash"
	"io"

	"slipstream/auth"
	"slipstream/smtpwire"
)

// A message is one body on its way: what we put above it, and the octets as
// they came.
type message struct {
	prefix []byte // header fields of ours, complete lines
	header []byte // stands for the first without octets of the body
	body   *spool
	scan   smtpwire.BodyScan
	head   headScan
	exam   *examination // reads along; nil: nobody does
	sum    hash.Hash    // of the body as it came; nil: nobody asks
	trace  traceScan

	without int64
}

func (m *message) size() int64 {
	return int64(len(m.prefix)) + int64(len(m.header)) + m.body.Size() - m.without
}

func (m *message) writeTo(w io.Writer) error {
	for _, part := range [][]byte{m.prefix, m.header} {
		if len(part) == 0 {
			continue
		}
		if _, err := w.Write(part); err != nil {
			return err
		}
	}
	body := m.body.Reader()
	if _, err := io.CopyN(io.Discard, body, m.without); err != nil {
		return err
	}
	_, err := io.Copy(w, body)
	return err
}

// appendTo is writeTo for a message that is small enough to ride along.
func (m *message) appendTo(b []byte) ([]byte, error) {
	buf := bytes.NewBuffer(b)
	buf.Grow(int(m.size()))
	err := m.writeTo(buf)
	return buf.Bytes(), err
}

// mistakable tells whether a hop that takes the text behind BDAT for commands,
// since it has no CHUNKING any more, would find one among them that brings a text
// of its own: somebody may have written it for that (P4).
func (m *message) mistakable() bool {
	text, err := m.appendTo(nil)
	if err != nil {
		return true
	}
	for line := range bytes.Lines(text) {
		verb := bytes.TrimLeft(line, " \t\v\f")
		verb = verb[:min(len(verb), 4)]
		for _, brings := range []string{"DATA", "BDAT", "BURL"} {
			if bytes.EqualFold(verb, []byte(brings)) {
				return true
			}
		}
	}
	return false
}

// Write takes the next octets of the body: into the spool, while the header
// section is watched, and past whoever reads along.
func (m *message) Write(p []byte) (int, error) {
	before := m.head.seen
	if err := m.head.scan(p); err != nil {
		return 0, err
	}
	n, err := m.body.Write(p)
	if err != nil {
		return n, err
	}
	m.trace.scan(p[:m.head.seen-before])
	if m.sum != nil {
		_, _ = m.sum.Write(p) // never fails
	}
	if before == 0 {
		m.prefix = auth.OnTop(m.prefix, p)
	}
	if m.exam != nil {
		err = m.exam.read(m, p[m.head.seen-before:])
	}
	return n, err
}

// content is what tells the text from all others.
func (m *message) content() (sum [sha256.Size]byte) {
	if m.sum != nil {
		m.sum.Sum(sum[:0])
	}
	return sum
}

// close lets go of what the message takes.
func (m *message) close() {
	_ = m.body.Close() // memory and an unlinked file: nothing to save
}

// errHeaderTooLarge: the header section does not end within its limit.
var errHeaderTooLarge = errors.New("the header section is too large")

// errTooManyHops: the message has been through so many hands that it must be
// going in circles (RFC 5321 §6.3).
var errTooManyHops = errors.New("too many hops: the message is probably in a loop")

// A headScan reads along while a message arrives, as far as its header section
// goes, and counts its Received fields. It holds one line's beginning at most.
// https://www.rfc-editor.org/rfc/rfc5321#section-6.3
type headScan struct {
	maxSize     int64 // octets the header section may have; 0: no limit
	maxReceived int   // Received fields it may have; 0: no limit

	seen     int64
	done     bool
	received int
	start    [len(receivedField)]byte // beginning of the current line
	n        int                      // octets in start
	line     int64                    // octets of the current line so far, without its line end
}

const receivedField = "received:"

func (h *headScan) scan(p []byte) error {
	for len(p) > 0 && !h.done {
		i := bytes.IndexByte(p, '\n')
		part := p
		if i >= 0 {
			part, p = p[:i], p[i+1:]
		} else {
			p = nil
		}
		h.seen += int64(len(part))
		if i >= 0 {
			h.seen++
		}
		if h.maxSize > 0 && h.seen > h.maxSize {
			return errHeaderTooLarge
		}
		h.take(part)
		if i >= 0 {
			h.endLine()
		}
		if h.maxReceived > 0 && h.received > h.maxReceived {
			return errTooManyHops
		}
	}
	return nil
}

func (h *headScan) take(part []byte) {
	h.n += copy(h.start[h.n:], part)
	h.line += int64(len(part))
}

func (h *headScan) endLine() {
	start := bytes.TrimRight(h.start[:h.n], "\r")
	switch {
	case h.line <= 1 && len(start) == 0:
		h.done = true // the blank line
	case bytes.EqualFold(h.start[:h.n], []byte(receivedField)):
		h.received++
	}
	h.n, h.line = 0, 0
}

// bodyRefusal says why a message that has arrived to its end is not taken.
func bodyRefusal(err error, m *message) (smtpwire.Reply, bool) {
	var body *smtpwire.BodyError
	var spooled *spoolError
	var rejected *rejection
	switch {
	case errors.As(err, &rejected):
		return rejected.reply, true
	case errors.As(err, &body):
		// RFC 5321 §2.3.8: CR and LF only together. Anything else is how mail is smuggled.
		return composed(550, "5.6.0", fmt.Sprintf("message refused: %v", body)), true
	case errors.Is(err, errTooLarge):
		return composed(552, "5.3.4", fmt.Sprintf("message exceeds the limit of %d octets", m.body.limit)), true
	case errors.Is(err, errHeaderTooLarge):
		return composed(552, "5.3.4", fmt.Sprintf("message refused: its header section exceeds %d octets", m.head.maxSize)), true
	case errors.Is(err, errTooManyHops):
		return composed(554, "5.4.6", fmt.Sprintf("too many hops (more than %d Received fields): mail loop", m.head.maxReceived)), true
	case errors.As(err, &spooled):
		return composed(452, "4.3.1", "insufficient system storage"), true
	}
	return smtpwire.Reply{}, false
}
