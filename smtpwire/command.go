package smtpwire

import (
	"bytes"
	"math"
	"strconv"
	"strings"
	"unicode"
	"unicode/utf8"
)

// A Command is one SMTP command.
type Command struct {
	// Verb says which; "" for a line that begins with no verb we know.
	Verb Verb

	// Arg is the name that HELO, EHLO and LHLO give, and everything behind
	// the verb for verbs without a grammar of their own here: NOOP, VRFY,
	// EXPN, HELP, ETRN, XCLIENT and XFORWARD. With AUTH it is the mechanism,
	// in upper case.
	Arg string

	// Initial is the initial response of AUTH, as it came; nil: there is none.
	// It may hold a password: whoever has used it clears it.
	Initial []byte

	Path   Path   // of MAIL and RCPT
	Params Params // of MAIL and RCPT

	Size int64 // of BDAT: octets in the chunk that follows the line
	Last bool  // of BDAT: whether that chunk is the last one

	// Refused is the answer to a line that could not be accepted; its Code is
	// 0 for a good one. Behind a refused BDAT an unknown number of octets
	// follow, so that the connection can only be closed.
	Refused Reply
}

// maxHelo is the longest name that HELO, EHLO and LHLO may give, in octets.
//
// https://www.rfc-editor.org/rfc/rfc5321#section-4.5.3.1.2
const maxHelo = 255

// ParseCommand parses one line, which comes without its CRLF. It takes lines of
// any length, since [Reader] bounds them, never panics and keeps nothing of the
// slice.
//
// "In the interest of improved interoperability, SMTP receivers SHOULD tolerate
// trailing white space before the terminating <CRLF>":
// https://www.rfc-editor.org/rfc/rfc5321#section-4.1.1
func ParseCommand(line []byte) Command {
	line = bytes.TrimRight(line, " \t")
	// A tab ends the verb too, so that the verb is known of a line that is then
	// refused for it: what follows BDAT must not be taken for commands.
	word, rest := line, []byte(nil)
	if i := bytes.IndexAny(line, " \t"); i >= 0 {
		word, rest = line[:i], line[i:]
	}
	c := Command{Verb: parseVerb(word)}
	if c.Verb == "" {
		c.Refused = NewReply(500, "5.5.1", "Command "+clip(string(word))+" not recognized")
		return c
	}
	if c.Verb == VerbAuth {
		c.parseAuth(rest)
		return c
	}
	arg := string(bytes.TrimLeft(rest, " "))
	if !isText(arg) {
		c.refuse("5.5.2", "control character or broken UTF-8 in the line")
		return c
	}
	switch c.Verb {
	case VerbHelo, VerbEhlo, VerbLhlo:
		c.parseHelo(arg)
	case VerbMail:
		c.parseMail(arg)
	case VerbRcpt:
		c.parseRcpt(arg)
	case VerbBdat:
		c.parseBdat(arg)
	case VerbData, VerbRset, VerbQuit, VerbStarttls:
		// "In the absence of specific extensions offered by the server and
		// accepted by the client, clients MUST NOT send such parameters and
		// servers SHOULD reject commands containing them as having invalid
		// syntax."
		if arg != "" {
			c.refuse("5.5.4", "no argument is allowed")
		}
	case VerbNoop, VerbHelp:
		c.Arg = arg
	default: // VRFY, EXPN, ETRN, XCLIENT, XFORWARD
		if c.Arg = arg; arg == "" {
			c.refuse("5.5.4", "an argument is needed")
		}
	}
	return c
}

// refuse makes c a refused command: a 501 that names the verb.
func (c *Command) refuse(enhanced, why string) {
	*c = Command{Verb: c.Verb, Refused: NewReply(501, enhanced, string(c.Verb)+": "+why)}
}

// parseHelo takes any printable name, since old MTAs give odd ones and nothing
// is decided by it.
func (c *Command) parseHelo(arg string) {
	switch {
	case arg == "":
		c.refuse("5.5.4", "a host name is needed")
	case len(arg) > maxHelo:
		c.refuse("5.5.4", "the host name is longer than 255 octets")
	case strings.IndexByte(arg, ' ') >= 0 || !asciiOnly(arg):
		c.refuse("5.5.4", "the host name must be one word of printable ASCII")
	default:
		c.Arg = arg
	}
}

// parseMail parses what follows MAIL.
//
//	mail = "MAIL FROM:" Reverse-path [SP Mail-parameters] CRLF
func (c *Command) parseMail(arg string) {
	if !c.parsePath(arg, "FROM:", "5.1.7") {
		return
	}
	if c.Path.Domain == "" && !c.Path.IsNull() {
		c.refuse("5.1.7", "the sender address must have a domain")
	}
}

// parseRcpt parses what follows RCPT.
//
//	rcpt = "RCPT TO:" ( "<Postmaster@" Domain ">" / "<Postmaster>" /
//	            Forward-path ) [SP Rcpt-parameters] CRLF
func (c *Command) parseRcpt(arg string) {
	if !c.parsePath(arg, "TO:", "5.1.3") {
		return
	}
	if c.Path.IsNull() {
		c.refuse("5.1.3", "a recipient address is needed")
	}
}

// parsePath parses prefix, path and parameters. The prefix comes in any case
// (sendmail writes "MAIL From:") and may be followed by spaces, which is wrong
// but common.
func (c *Command) parsePath(arg, prefix, badAddress string) bool {
	if len(arg) < len(prefix) || !foldEqual(arg[:len(prefix)], prefix) {
		c.refuse("5.5.4", prefix+"<address> is needed")
		return false
	}
	arg = strings.TrimLeft(arg[len(prefix):], " ")
	if !strings.HasPrefix(arg, "<") {
		c.refuse("5.5.4", "the address must stand in angle brackets, as "+prefix+"<user@example.org>")
		return false
	}
	path, rest, problem := cutPath(arg)
	if problem != "" {
		c.refuse(badAddress, "bad address: "+problem)
		return false
	}
	if rest != "" && rest[0] != ' ' {
		c.refuse("5.5.4", "a space must follow the address")
		return false
	}
	params, problem := parseParams(rest)
	if problem != "" {
		c.refuse("5.5.4", problem)
		return false
	}
	c.Path, c.Params = path, params
	return true
}

// parseBdat parses what follows BDAT.
//
//	bdat-cmd   ::= "BDAT" SP chunk-size [ SP end-marker ] CR LF
//	chunk-size ::= 1*DIGIT
//	end-marker ::= "LAST"
//
// https://www.rfc-editor.org/rfc/rfc3030#section-2
func (c *Command) parseBdat(arg string) {
	size, marker, _ := strings.Cut(arg, " ")
	marker = strings.TrimLeft(marker, " ")
	n, ok := parseSize(size)
	switch {
	case !ok:
		c.refuse("5.5.4", "the chunk size must be a number of octets")
	case n == math.MaxInt64:
		c.refuse("5.5.4", "the chunk size is too large")
	case marker != "" && !foldEqual(marker, "LAST"):
		c.refuse("5.5.4", "only LAST may follow the chunk size")
	default:
		c.Size, c.Last = n, marker != ""
	}
}

// parseSize parses a decimal number without sign. A number that an int64 cannot
// hold becomes the largest one that it can.
func parseSize(s string) (n int64, ok bool) {
	if s == "" {
		return 0, false
	}
	for i := range len(s) {
		d := int64(s[i]) - '0'
		switch {
		case d < 0 || d > 9:
			return 0, false
		case n > (math.MaxInt64-d)/10:
			n = math.MaxInt64
		default:
			n = n*10 + d
		}
	}
	return n, true
}

// isText reports whether s is UTF-8 without control characters.
func isText(s string) bool {
	for i := 0; i < len(s); {
		if c := s[i]; c < utf8.RuneSelf {
			if c < ' ' || c == 0x7f {
				return false
			}
			i++
			continue
		}
		r, n := utf8.DecodeRuneInString(s[i:])
		if r == utf8.RuneError && n == 1 || unicode.IsControl(r) {
			return false
		}
		i += n
	}
	return true
}

// AppendTo appends c as it goes on the wire, CRLF included, and returns the
// extended slice. VerbEndOfData and the zero Command append nothing.
//
// A parsed command has no control characters. In one that was composed
// otherwise they become question marks, so that a command is one line always.
func (c Command) AppendTo(b []byte) []byte {
	if c.Verb == VerbEndOfData || c.Verb == "" {
		return b
	}
	b = appendText(b, string(c.Verb))
	switch c.Verb {
	case VerbMail:
		b = append(b, " FROM:"...)
		b = c.Path.appendTo(b)
		b = c.Params.appendTo(b)
	case VerbRcpt:
		b = append(b, " TO:"...)
		b = c.Path.appendTo(b)
		b = c.Params.appendTo(b)
	case VerbBdat:
		b = append(b, ' ')
		b = strconv.AppendInt(b, c.Size, 10)
		if c.Last {
			b = append(b, " LAST"...)
		}
	default:
		if c.Arg != "" {
			b = append(b, ' ')
			b = appendText(b, c.Arg)
		}
		if c.Initial != nil {
			b = append(b, ' ')
			b = append(b, c.Initial...) // of base64 alone
		}
	}
	return append(b, '\r', '\n')
}
