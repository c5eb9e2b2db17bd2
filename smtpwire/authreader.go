package smtpwire

import (
	"bytes"
	"errors"
)

// MaxAuthLine is the length of a line of an AUTH dialog in octets, CRLF included,
// in either direction: of the command itself, whose initial response many clients
// let grow beyond what other commands may have, of a challenge and of a response.
//
// "12288 octets is considered to be a sufficient line length limit for handling
// of deployed authentication mechanisms":
// https://www.rfc-editor.org/rfc/rfc4954#section-4
const MaxAuthLine = 12288

// ReadResponse reads a client's answer to a challenge: a line of base64, or "*",
// which cancels. It returns the line without its CRLF, in a slice of the caller's
// own. What it says is a secret, so nothing of it stays in the Reader's buffer,
// and the caller clears it too.
//
// refused, if its code is not 0, is the answer to a line that is neither, has no
// good end or is too long; it was consumed through its end. The error is as with
// [Reader.ReadFlight], and final.
func (r *Reader) ReadResponse() (response []byte, refused Reply, err error) {
	if r.broken != nil {
		return nil, Reply{}, r.broken
	}
	line, err := r.readLong(MaxAuthLine)
	if err == errLineTooLong {
		if err := r.skip(); err != nil {
			return nil, Reply{}, err
		}
		r.wipe()
		return nil, authTooLong(), nil
	}
	if err != nil {
		return nil, Reply{}, err
	}
	text, ok := bytes.CutSuffix(line, []byte("\r\n"))
	switch {
	case !ok:
		refused = NewReply(500, "5.5.2", "lines end in CRLF")
	case !isBase64(text) && string(text) != "*":
		refused = NewReply(501, "5.5.2", notBase64)
	default:
		return text, Reply{}, nil
	}
	clear(line)
	return nil, refused, nil
}

func authTooLong() Reply { return NewReply(500, "5.5.6", "line too long") }

// ReadChallenge reads a server's answer to AUTH or to a response. A challenge
// (334) is returned as the line that it came as, CRLF included, in a slice of the
// caller's own; nothing of it stays in the buffer. Any other reply is as with
// [Reader.ReadReply], and then challenge is nil. So are the errors.
func (r *Reader) ReadChallenge() (challenge []byte, reply Reply, err error) {
	if r.broken != nil {
		return nil, Reply{}, r.broken
	}
	for r.Buffered() < len("334 ") && !r.HasLine() {
		if err := r.fill(false); err != nil {
			if r.Buffered() > 0 {
				err = unexpectedEOF(err)
			}
			return nil, Reply{}, err
		}
	}
	if !bytes.HasPrefix(r.buf[r.r:r.w], []byte("334")) {
		reply, err = r.ReadReply()
		return nil, reply, err
	}
	line, err := r.readLong(MaxAuthLine)
	switch {
	case err == errLineTooLong:
		return nil, Reply{}, r.fail(&ReplyError{What: "line too long"})
	case err != nil:
		return nil, Reply{}, err
	}
	if what := badChallenge(line); what != "" {
		clear(line)
		return nil, Reply{}, r.fail(&ReplyError{What: what}) // which quotes nothing
	}
	return line, Reply{}, nil
}

// badChallenge says what is wrong with a line that begins with 334, or "". What
// stands behind the code passes as it is, printable and within the line.
//
//	continue-req = "334" SP [base64] CRLF
//
// https://www.rfc-editor.org/rfc/rfc4954#section-8
func badChallenge(line []byte) string {
	_, _, more, what := parseReplyLine(line)
	switch {
	case what != "":
		return what
	case more:
		return "a challenge of several lines"
	}
	for _, c := range line[:len(line)-2] {
		if c < ' ' || c > '~' {
			return "a challenge that is not printable"
		}
	}
	return ""
}

// readLong is readLine for lines that may be longer than the buffer, and secret:
// the line is in memory of its own, and gone from the buffer. The part of a line
// of more than limit octets that was consumed is counted in r.skipped. Other
// errors are final, since nobody keeps what was read.
func (r *Reader) readLong(limit int) ([]byte, error) {
	var line []byte
	for {
		b := r.buf[r.r:r.w]
		end := bytes.IndexByte(b, '\n') + 1
		if end > 0 {
			b = b[:end]
		}
		if len(line)+len(b) > limit {
			r.skipped = len(line)
			clear(line)
			return nil, errLineTooLong
		}
		if line == nil && end > 0 {
			line = make([]byte, 0, len(b))
		} else if line == nil {
			line = make([]byte, 0, limit) // it does not grow: that would leave copies behind
		}
		line = append(line, b...)
		r.r += len(b)
		if end > 0 {
			r.wipe()
			return line, nil
		}
		if err := r.fill(false); err != nil {
			empty := len(line) == 0
			clear(line)
			r.wipe()
			if empty {
				return nil, err
			}
			return nil, r.fail(err)
		}
	}
}

// wipe clears what is in the buffer and was consumed.
func (r *Reader) wipe() {
	clear(r.buf[:r.r])
	clear(r.buf[r.w:])
}

// readAuth reads an AUTH command that is too long for the buffer.
func (r *Reader) readAuth() (Command, error) {
	line, err := r.readLong(MaxAuthLine)
	if errors.Is(err, errLineTooLong) {
		return r.skipLine()
	}
	if err != nil {
		return Command{}, err
	}
	defer clear(line)
	return lineCommand(line), nil
}
