package smtpwire

import (
	"bytes"
	"fmt"
)

// Limits of one reply of a peer.
const (
	// MaxReplyLine is the length of a line in octets, CRLF included. The
	// standard promises 512; some peers say more.
	// https://www.rfc-editor.org/rfc/rfc5321#section-4.5.3.1.5
	MaxReplyLine = 4096
	// MaxReplyLines is the number of lines.
	MaxReplyLines = 128
	// MaxReply is the length of all lines together in octets, CRLFs included.
	MaxReply = 64 << 10
)

// maxQuoted is how much of an offending line a ReplyError repeats, in octets.
const maxQuoted = 80

// A ReplyError reports that a peer said something that is not an SMTP reply, or
// one beyond our limits. Which reply answers which command is then unknown, so
// the connection must be closed.
type ReplyError struct {
	What string // what is wrong
	Line string // the line, cut at 80 octets, other than printable ASCII as '?'
}

func (e *ReplyError) Error() string {
	return fmt.Sprintf("smtpwire: malformed reply: %s: %q", e.What, e.Line)
}

// ReadReply reads one reply, of one or more lines.
//
// It is strict: a line is a code from 200 to 599, then '-' if more lines follow
// or a space and text or nothing if not, then CRLF; the code is the same on all
// lines; no line contains NUL, CR or LF; there are at most [MaxReplyLines] lines
// of [MaxReplyLine] octets and [MaxReply] octets together. Anything else is a
// *[ReplyError], which is final.
//
// The error is io.EOF if the peer closed before the reply began,
// io.ErrUnexpectedEOF if it closed inside it, or the connection's.
func (r *Reader) ReadReply() (Reply, error) {
	if r.broken != nil {
		return Reply{}, r.broken
	}
	var reply Reply
	octets := 0
	for {
		line, err := r.readLine(MaxReplyLine)
		if err == errLineTooLong {
			return Reply{}, r.fail(replyError("line too long", r.buf[r.r:r.w]))
		}
		if err != nil && len(reply.Lines) > 0 {
			return Reply{}, r.fail(err) // the lines so far are lost
		}
		if err != nil {
			return Reply{}, err
		}
		octets += len(line)
		code, text, more, what := parseReplyLine(line)
		switch {
		case what != "":
		case len(reply.Lines) > 0 && code != reply.Code:
			what = fmt.Sprintf("code changed from %d within a reply", reply.Code)
			r.changed = len(line)
		case len(reply.Lines) == MaxReplyLines:
			what = "too many lines"
		case octets > MaxReply:
			what = "too long"
		}
		if what != "" {
			return Reply{}, r.fail(replyError(what, line))
		}
		reply.Code = code
		reply.Lines = append(reply.Lines, text)
		if !more {
			return reply, nil
		}
	}
}

// GoOn lets reading go on behind a reply that broke off, with the line of another
// code that it broke off at. It reports whether that is what happened. Postscreen
// greets clients that talk early so: it says "220-" and then what it thinks of
// them. Which reply answers which command is for the caller to know.
func (r *Reader) GoOn() bool {
	if r.changed == 0 {
		return false
	}
	r.r -= r.changed
	r.changed, r.broken = 0, nil
	return true
}

// parseReplyLine takes a line, LF included, apart. Unless what is empty it says
// what is wrong with it.
// https://www.rfc-editor.org/rfc/rfc5321#section-4.2
func parseReplyLine(line []byte) (code int, text string, more bool, what string) {
	b, ok := bytes.CutSuffix(line, []byte("\r\n"))
	if !ok {
		return 0, "", false, "bare LF"
	}
	code = replyCode(b)
	switch {
	case code == 0:
		return 0, "", false, "no code from 200 to 599"
	case len(b) == 3:
		// "any text, including no text at all (although senders SHOULD NOT
		// send bare codes), MUST be acceptable."
		return code, "", false, ""
	case b[3] != ' ' && b[3] != '-':
		return 0, "", false, "neither space nor hyphen behind the code"
	case bytes.IndexByte(b, '\r') >= 0:
		return 0, "", false, "bare CR"
	case bytes.IndexByte(b, 0) >= 0:
		return 0, "", false, "NUL"
	}
	return code, string(b[4:]), b[3] == '-', ""
}

// replyCode returns the code that b begins with, 0 if none from 200 to 599.
func replyCode(b []byte) int {
	if len(b) < 3 {
		return 0
	}
	code := 0
	for _, c := range b[:3] {
		if c < '0' || c > '9' {
			return 0
		}
		code = 10*code + int(c-'0')
	}
	if code < 200 || code > 599 {
		return 0
	}
	return code
}

// replyError makes line fit for a log.
func replyError(what string, line []byte) *ReplyError {
	line = bytes.TrimRight(line[:min(len(line), maxQuoted)], "\r\n")
	quoted := bytes.Map(func(c rune) rune {
		if c < ' ' || c > '~' {
			return '?'
		}
		return c
	}, line)
	return &ReplyError{What: what, Line: string(quoted)}
}
