package proxy

import (
	"crypto/tls"
	"errors"
	"fmt"
	"strings"

	"slipstream/proxy/route"
	"slipstream/smtpwire"
)

// A peerError is trouble with one hop: it could not be reached, left, spoke
// nonsense, or refused the connection (not the message).
type peerError struct {
	hop    string         // "mx.example.net[192.0.2.7]:25"
	during string         // "connecting", "waiting for the greeting", …
	said   smtpwire.Reply // the hop's own words, if it had any
	err    error

	banner string               // its greeting, if it was heard
	tls    *tls.ConnectionState // nil: in clear
}

func (e *peerError) Error() string {
	if e.said.Code != 0 {
		return fmt.Sprintf("%s said %q while %s", e.hop, e.said.String(), e.during)
	}
	return fmt.Sprintf("%s: %s: %v", e.hop, e.during, e.err)
}

func (e *peerError) Unwrap() error { return e.err }

// A policyError says that a hop was reached but may not be used: it cannot be
// protected as the configuration demands.
type policyError struct {
	hop string
	why string
	err error
}

func (e *policyError) Error() string {
	if e.err != nil {
		return fmt.Sprintf("%s: %s: %v", e.hop, e.why, e.err)
	}
	return fmt.Sprintf("%s: %s", e.hop, e.why)
}

func (e *policyError) Unwrap() error { return e.err }

// A refusalError carries a refusal through code that returns errors.
type refusalError struct{ reply smtpwire.Reply }

func (e *refusalError) Error() string { return "refused: " + e.reply.String() }

// A doubtError is trouble with a hop that has every octet of the message: it may
// or may not have taken it (P2).
type doubtError struct{ err error }

func (e *doubtError) Error() string { return e.err.Error() }

func (e *doubtError) Unwrap() error { return e.err }

// refusal is the one place where an error becomes a reply. For strangers
// (inbound clients) it names no host of ours: the details are in the log under
// the session's id, which the reply quotes.
func refusal(err error, stranger bool, session string) smtpwire.Reply {
	var refused *refusalError
	if errors.As(err, &refused) {
		return refused.reply
	}
	var doubt *doubtError
	if errors.As(err, &doubt) {
		why := doubt.Error()
		if stranger {
			why = "S=" + session
		}
		return composed(451, "4.4.2", "outcome unknown, please try again: "+why)
	}
	if stranger {
		return composed(451, strangerCode(err), "mail system not available, please try again later (S="+session+")")
	}
	var routeErr *route.Error
	if errors.As(err, &routeErr) {
		return markOurs(routeErr.Reply)
	}
	var peerErr *peerError
	var policyErr *policyError
	switch {
	case errors.As(err, &policyErr):
		// RFC 3463 §3.8: X.7.5, cryptographic failure.
		return composed(451, "4.7.5", policyErr.Error())
	case errors.As(err, &peerErr):
		return composed(451, peerCode(peerErr), peerErr.Error())
	default:
		return composed(451, "4.3.0", err.Error())
	}
}

// ourMark begins the text of a reply that we composed in the next hop's place
// (P5), so that nobody looks for its cause in the wrong log.
const ourMark = "Slipstream: "

// composed makes a reply of our own about a message or a hop.
func composed(code int, enhanced, text string) smtpwire.Reply {
	return smtpwire.NewReply(code, enhanced, replyText(ourMark+text))
}

// markOurs puts the mark on a reply that was composed elsewhere.
func markOurs(r smtpwire.Reply) smtpwire.Reply {
	enhanced, ok := r.Enhanced()
	if !ok {
		return composed(r.Code, "", strings.Join(r.Lines, " "))
	}
	return composed(r.Code, enhanced, strings.TrimPrefix(strings.Join(r.Lines, " "), enhanced+" "))
}

func strangerCode(err error) string {
	var wait *waitError
	if errors.As(err, &wait) {
		return "4.4.2"
	}
	return "4.3.2"
}

// peerCode keeps the hop's own enhanced code where it is transient; else it
// says by RFC 3463 §3.5 how the connection failed.
func peerCode(e *peerError) string {
	if code, ok := e.said.Enhanced(); ok && strings.HasPrefix(code, "4.") {
		return code
	}
	var crowded *crowdedError
	switch {
	case errors.As(e.err, &crowded): // RFC 3463 §3.5: mail system congestion
		return "4.4.5"
	case e.said.Code != 0:
		return "4.3.2"
	case e.during == duringConnect:
		return "4.4.1"
	default:
		return "4.4.2"
	}
}

// maxReplyText keeps a composed reply within one line of RFC 5321 §4.5.3.1.5
// (512 octets), code and enhanced code included.
const maxReplyText = 480

// replyText makes an error's text fit for a reply line: printable ASCII, bounded.
func replyText(s string) string {
	var b strings.Builder
	for _, r := range s {
		if b.Len() >= maxReplyText {
			break
		}
		if r < ' ' || r > '~' {
			r = '?'
		}
		b.WriteRune(r)
	}
	return b.String()
}

// spoken fits a hop's reply for a client that must not take it for the
// service's own state: 421 would make an MTA give up on its whole smarthost.
func spoken(r smtpwire.Reply, hop string) smtpwire.Reply {
	if r.Code != 421 {
		return r
	}
	code, ok := r.Enhanced()
	if !ok {
		code = "4.4.2"
	}
	return composed(451, code, hop+" said: "+r.String())
}

// Bounds on the words of a hop that we repeat, and on those that we remember of
// a recipient for the log.
const (
	maxRepeated = 4096
	maxBrief    = 512
)

// shortened leaves out the lines of a reply that are beyond all reason: a
// thousand recipients may each have one.
func shortened(r smtpwire.Reply) smtpwire.Reply {
	size := 0
	for i, line := range r.Lines {
		if size += len(line); size > maxRepeated && i > 0 {
			r.Lines = r.Lines[:i:i]
			break
		}
	}
	return r
}

// brief is what the log keeps of a reply: its first line, within bounds.
func brief(r smtpwire.Reply) smtpwire.Reply {
	if len(r.Lines) == 0 {
		return r
	}
	line := r.Lines[0]
	return smtpwire.Reply{Code: r.Code, Lines: []string{strings.Clone(line[:min(len(line), maxBrief)])}}
}
