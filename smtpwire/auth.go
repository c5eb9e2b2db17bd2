package smtpwire

import (
	"bytes"
	"slices"
	"strings"
)

// maxMechanism is the longest name of a SASL mechanism, in octets.
// https://www.rfc-editor.org/rfc/rfc4422#section-3.1
const maxMechanism = 20

// parseAuth parses what follows AUTH. The initial response may be a password, so
// it never becomes a string, and no refusal repeats any of it.
//
//	auth-command     = "AUTH" SP sasl-mech [SP initial-response] …
//	initial-response = base64 / "="
//
// https://www.rfc-editor.org/rfc/rfc4954#section-8
func (c *Command) parseAuth(arg []byte) {
	arg = bytes.TrimLeft(arg, " ")
	name, initial, more := bytes.Cut(arg, []byte(" "))
	initial = bytes.TrimLeft(initial, " ")
	switch {
	case len(arg) == 0:
		c.refuse("5.5.4", "an argument is needed")
	case !isMechanism(name):
		c.refuse("5.5.4", "that is no name of a mechanism")
	case more && !isBase64(initial) && string(initial) != "=":
		c.refuse("5.5.2", notBase64)
	default:
		c.Arg = strings.ToUpper(string(name))
		if more {
			c.Initial = bytes.Clone(initial)
		}
	}
}

const notBase64 = "a response must be in base64"

// isMechanism reports whether a word can name a SASL mechanism. Lower case is
// taken too: commands do not heed it.
//
//	sasl-mech = 1*20mech-char ; UPPER-ALPHA / DIGIT / HYPHEN / UNDERSCORE
func isMechanism(word []byte) bool {
	if len(word) == 0 || len(word) > maxMechanism {
		return false
	}
	for _, c := range word {
		if !isAlnum(c) && c != '-' && c != '_' {
			return false
		}
	}
	return true
}

// isBase64 reports whether a line has the characters of base64 alone, with the
// padding at its end. Whether it can be decoded is for the other side to see.
//
// "servers and clients MUST reject (and not ignore) any character not explicitly
// allowed by the BASE64 alphabet, and MUST reject any sequence of BASE64
// characters that contains the pad character ('=') anywhere other than the end":
// https://www.rfc-editor.org/rfc/rfc4954#section-4
func isBase64(line []byte) bool {
	text, padded := bytes.CutSuffix(line, []byte("="))
	if padded {
		text, _ = bytes.CutSuffix(text, []byte("="))
	}
	if padded && len(text) == 0 {
		return false
	}
	for _, c := range text {
		if !isAlnum(c) && c != '+' && c != '/' {
			return false
		}
	}
	return true
}

// judgeAuth refuses a login that was not offered, is not in its place, or has
// been had.
//
// "After a successful AUTH command completes, a server MUST reject any further
// AUTH commands with a 503 reply. The AUTH command is not permitted during a mail
// transaction": https://www.rfc-editor.org/rfc/rfc4954#section-4
func (s *Sequence) judgeAuth(c Command) (Reply, bool) {
	mechanisms, offered := s.offer.Get("AUTH")
	switch {
	case !offered && !s.AuthInTLS:
		return notOffered()
	case !s.ahead.greeted:
		return s.helloFirst()
	case s.authed:
		return outOfOrder("you are logged in already")
	case s.ahead.mail:
		return outOfOrder("AUTH cannot stand inside a mail transaction")
	case !offered && !s.secured:
		// https://www.rfc-editor.org/rfc/rfc4954#section-6
		return NewReply(538, "5.7.11", "passwords are taken inside TLS alone: STARTTLS first"), false
	case !offered:
		return notOffered()
	case !slices.ContainsFunc(strings.Fields(mechanisms), func(m string) bool { return foldEqual(m, c.Arg) }):
		return NewReply(504, "5.5.4", "this mechanism is not offered"), false
	}
	return Reply{}, true
}

// judgeRelayed is for commands that are named by the keyword which offers them,
// and for those that are carried out without an offer.
func (s *Sequence) judgeRelayed(c Command) (Reply, bool) {
	switch {
	case s.offer.Has(string(c.Verb)):
	case !slices.Contains(s.Relayed, c.Verb):
		return notOffered()
	case !s.ahead.greeted:
		return s.helloFirst()
	}
	return Reply{}, true
}

func notOffered() (Reply, bool) { return NewReply(502, "5.5.1", "command not offered"), false }
