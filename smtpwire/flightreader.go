package smtpwire

import (
	"bytes"
	"errors"
)

// Limits of what a client may send between two bodies.
const (
	// MaxCommandLine is the length of a command line in octets, CRLF
	// included. 512 are due to everyone, and each extension adds to that for
	// its parameters (ORCPT alone 500): 2048 holds the sum of all of ours. AUTH
	// may have MaxAuthLine.
	// https://www.rfc-editor.org/rfc/rfc5321#section-4.5.3.1.4
	MaxCommandLine = 2048
	// MaxOverlongLine is how much of a line longer than MaxCommandLine is
	// read for its end, in octets. Up to there the line is refused and the
	// session goes on; beyond is ErrFlood.
	MaxOverlongLine = 64 << 10
	// MaxFlight is the number of commands that one ReadFlight returns. More
	// of them stay buffered for the next.
	MaxFlight = 64
)

// ErrFlood is returned when a client sends MaxOverlongLine octets without
// ending the line. What it sends is not SMTP, or an attack: the connection
// should be closed, after a 421 or 500 that may go unread.
var ErrFlood = errors.New("smtpwire: no line end within 65536 octets")

// ReadFlight appends to dst the next commands of a client. It waits for one
// complete line and then takes every further line that is already buffered, up
// to [MaxFlight], without waiting again: these are answered together
// (https://www.rfc-editor.org/rfc/rfc2920#section-3.2).
//
// A flight ends with a command behind which something other than a command line
// follows or may follow: DATA, BDAT, STARTTLS, AUTH, QUIT and XCLIENT, whether
// it was well formed or not.
//
// A line that is too long, empty, or contains NUL or a bare CR, or that ends in
// a bare LF, is consumed through its LF and returned as a Command with a 500
// 5.5.2 in Refused; no more of it is looked at than its verb. A refused BDAT
// leaves open what follows it: close the connection behind the refusal.
//
// The error is io.EOF if the client closed between two lines,
// io.ErrUnexpectedEOF if it closed inside one, [ErrFlood], or the connection's.
// On error no command is appended.
func (r *Reader) ReadFlight(dst []Command) ([]Command, error) {
	if r.broken != nil {
		return dst, r.broken
	}
	for n := 0; n < MaxFlight; n++ {
		if n > 0 && bytes.IndexByte(r.buf[r.r:r.w], '\n') < 0 {
			break
		}
		c, err := r.readCommand()
		if err != nil {
			return dst[:len(dst)-n], err
		}
		dst = append(dst, c)
		if endsFlight(c.Verb) {
			break
		}
	}
	return dst, nil
}

// HasLine reports whether a complete line is buffered, so that ReadFlight would
// not wait.
func (r *Reader) HasLine() bool { return bytes.IndexByte(r.buf[r.r:r.w], '\n') >= 0 }

// endsFlight reports whether something other than a command line may follow.
func endsFlight(v Verb) bool {
	switch v {
	case VerbData, VerbBdat, VerbStarttls, VerbAuth, VerbQuit, VerbXclient:
		return true
	}
	return false
}

// readCommand reads one line, whatever is in it.
func (r *Reader) readCommand() (Command, error) {
	if r.skipped > 0 {
		return r.skipLine()
	}
	line, err := r.readLine(MaxCommandLine)
	switch err {
	case nil:
		c := lineCommand(line)
		if c.Verb == VerbAuth {
			r.wipe()
		}
		return c, nil
	case errLineTooLong:
		if r.skipVerb = lineVerb(r.buf[r.r:r.w]); r.skipVerb == VerbAuth {
			return r.readAuth()
		}
		return r.skipLine()
	}
	return Command{}, err
}

// skipLine is skip, and the answer to the line.
func (r *Reader) skipLine() (Command, error) {
	if err := r.skip(); err != nil {
		return Command{}, err
	}
	if r.skipVerb == VerbAuth {
		r.wipe()
		return Command{Verb: VerbAuth, Refused: authTooLong()}, nil
	}
	return refuseLine(r.skipVerb, "line too long"), nil
}

// skip consumes an overlong line through its end. It keeps count in r, so that
// the rest of the line does not become a command if a deadline interrupts.
func (r *Reader) skip() error {
	for {
		b := r.buf[r.r:r.w]
		end := bytes.IndexByte(b, '\n')
		if end >= 0 {
			b = b[:end+1]
		}
		r.r += len(b)
		r.skipped += len(b)
		if r.skipped > MaxOverlongLine || r.skipped == MaxOverlongLine && end < 0 {
			return r.fail(ErrFlood)
		}
		if end >= 0 {
			r.skipped = 0
			return nil
		}
		if err := r.fill(false); err != nil {
			return unexpectedEOF(err)
		}
	}
}

// lineCommand judges the form of a line, LF included, and parses it if that is
// good.
func lineCommand(line []byte) Command {
	text, ok := bytes.CutSuffix(line, []byte("\r\n"))
	switch {
	case !ok:
		// https://www.rfc-editor.org/rfc/rfc5321#section-2.3.8: a lone LF
		// is no line end. A hop before us may have seen it as text.
		return refuseLine(lineVerb(line), "lines end in CRLF")
	case len(text) == 0:
		return refuseLine("", "empty line")
	case bytes.IndexByte(text, '\r') >= 0:
		return refuseLine(lineVerb(line), "bare CR in a command line")
	case bytes.IndexByte(text, 0) >= 0:
		return refuseLine(lineVerb(line), "NUL in a command line")
	}
	return ParseCommand(text)
}

// lineVerb returns the verb of a line that is refused for its form: whether a
// chunk or a message may follow matters even then.
func lineVerb(line []byte) Verb {
	n := 0
	for n < len(line) && n < len(VerbStarttls) && 'a' <= line[n]|0x20 && line[n]|0x20 <= 'z' {
		n++
	}
	return ParseCommand(line[:n]).Verb
}

// refuseLine is the answer to a line that never reached ParseCommand.
func refuseLine(v Verb, why string) Command {
	return Command{Verb: v, Refused: NewReply(500, "5.5.2", why)}
}
