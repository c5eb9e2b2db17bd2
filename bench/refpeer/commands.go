package refpeer

import (
	"slices"
	"strings"
)

// maxRcpts is how many recipients a transaction may have:
// https://www.rfc-editor.org/rfc/rfc5321#section-4.5.3.1.8 asks for 100 at least.
const maxRcpts = 10000

// cutVerb splits a line at the first space.
func cutVerb(line string) (verb, rest string, found bool) {
	verb, rest, found = strings.Cut(line, " ")
	return strings.ToUpper(verb), rest, found
}

// cutPath splits "FROM:<a@b> SIZE=3" into the mailbox and what follows. The
// local part may be quoted, with angle brackets and spaces in it.
func cutPath(arg, prefix string) (mailbox string, params []string, ok bool) {
	if len(arg) < len(prefix) || !strings.EqualFold(arg[:len(prefix)], prefix) {
		return "", nil, false
	}
	arg = arg[len(prefix):]
	if !strings.HasPrefix(arg, "<") {
		return "", nil, false
	}
	quoted := false
	for i := 1; i < len(arg); i++ {
		switch {
		case quoted && arg[i] == '\\':
			i++
		case arg[i] == '"':
			quoted = !quoted
		case arg[i] == '>' && !quoted:
			rest := arg[i+1:]
			if rest == "" {
				return arg[1:i], nil, true
			}
			if rest[0] != ' ' {
				return "", nil, false
			}
			params = strings.Split(rest[1:], " ")
			return arg[1:i], params, !slices.Contains(params, "")
		}
	}
	return "", nil, false
}

func (c *session) doHello(ev Event, arg string) error {
	var normal string
	switch {
	case c.srv.Old && ev.Verb != "HELO", c.srv.LMTP != (ev.Verb == "LHLO"):
		normal = c.reply("500", "5.5.1", "unknown command")
	case arg == "":
		c.violation("greeting without a name", ev.Line)
		normal = c.reply("501", "5.5.4", "who are you?")
	case ev.Verb == "HELO":
		normal = "250 " + c.srv.hostname()
	default:
		normal = lines("250", append([]string{c.srv.hostname() + " greets " + arg}, c.srv.offer(c.secured())...))
	}
	d, err := c.answer(ev, normal)
	if d.obeyed {
		c.forget()
		c.verb, c.hello = ev.Verb, ev.Line
	}
	return err
}

func (c *session) doMail(ev Event, arg string) error {
	mailbox, params, ok := cutPath(arg, "FROM:")
	ev.Address = mailbox
	var normal string
	switch {
	case c.verb == "":
		normal = c.badSequence(ev, "greet first")
	case c.mail != "":
		normal = c.badSequence(ev, "nested MAIL")
	case !ok:
		c.violation("malformed MAIL", ev.Line)
		normal = c.reply("501", "5.5.4", "MAIL FROM:<mailbox>")
	default:
		normal = c.checkParams(ev, params)
		if normal == "" && c.tooBig(params) {
			normal = c.reply("552", "5.3.4", "too big")
		}
	}
	if normal == "" {
		normal = c.reply("250", "2.1.0", "ok")
	}
	d, err := c.answer(ev, normal)
	if d.obeyed {
		c.forget()
		c.mail = ev.Line
	}
	c.tried = true
	return err
}

// tooBig reports whether the announced size is above the limit.
func (c *session) tooBig(params []string) bool {
	for _, p := range params {
		name, value, _ := strings.Cut(p, "=")
		if strings.EqualFold(name, "SIZE") {
			n, ok := number(value)
			return !ok || c.srv.Keywords.Size > 0 && n > c.srv.Keywords.Size
		}
	}
	return false
}

func (c *session) doRcpt(ev Event, arg string) error {
	mailbox, params, ok := cutPath(arg, "TO:")
	ev.Address = mailbox
	var normal string
	switch {
	case c.mail == "":
		normal = c.badSequence(ev, "MAIL first")
	case !ok || mailbox == "":
		c.violation("malformed RCPT", ev.Line)
		normal = c.reply("501", "5.5.4", "RCPT TO:<mailbox>")
	case c.text != nil:
		normal = c.badSequence(ev, "RCPT after BDAT")
	case len(c.rcpts) >= maxRcpts:
		normal = c.reply("452", "4.5.3", "too many recipients")
	default:
		if normal = c.checkParams(ev, params); normal == "" {
			normal = c.srv.RcptReplies[mailbox]
		}
	}
	if normal == "" {
		normal = c.reply("250", "2.1.5", "ok")
	}
	d, err := c.answer(ev, normal)
	if d.obeyed {
		c.rcpts = append(c.rcpts, ev.Line)
	}
	return err
}

// checkParams returns the refusal of a parameter that we did not offer, or "".
func (c *session) checkParams(ev Event, params []string) string {
	for _, p := range params {
		name, value, _ := strings.Cut(strings.ToUpper(p), "=")
		if !c.licensed(ev.Verb, name, value) {
			c.violation("parameter that was not offered: "+p, ev.Line)
			return c.reply("555", "5.5.4", "unknown parameter "+p)
		}
	}
	return ""
}

func (c *session) licensed(verb, name, value string) bool {
	if c.verb == "HELO" {
		return false
	}
	k := c.srv.Keywords
	switch verb + " " + name {
	case "MAIL SIZE":
		return k.Size > 0 || c.extra("SIZE")
	case "MAIL BODY":
		return k.EightBitMIME && (value == "7BIT" || value == "8BITMIME") || c.extra("BINARYMIME") && value == "BINARYMIME"
	case "MAIL SMTPUTF8":
		return k.SMTPUTF8 && value == ""
	case "MAIL RET", "MAIL ENVID", "RCPT NOTIFY", "RCPT ORCPT":
		return k.DSN
	case "MAIL HOLDFOR", "MAIL HOLDUNTIL":
		return c.extra("FUTURERELEASE")
	case "MAIL BY":
		return c.extra("DELIVERBY")
	case "RCPT RRVS":
		return c.extra("RRVS")
	}
	return verb == "MAIL" && c.extra(name)
}

// extra reports whether a keyword is among the further ones.
func (c *session) extra(keyword string) bool {
	return slices.ContainsFunc(c.srv.Keywords.Extra, func(line string) bool {
		own, _, _ := strings.Cut(line, " ")
		return strings.EqualFold(own, keyword)
	})
}

func (c *session) doStarttls(ev Event, arg string) error {
	var normal string
	switch {
	case c.srv.TLS == nil || c.secured() || c.srv.Old:
		c.violation("STARTTLS that was not offered", ev.Line)
		normal = c.reply("502", "5.5.1", "not implemented")
	case arg != "":
		c.violation("STARTTLS with arguments", ev.Line)
		normal = c.reply("501", "5.5.4", "no arguments")
	case c.verb == "" || c.mail != "":
		normal = c.badSequence(ev, "not now")
	default:
		normal = c.reply("220", "2.0.0", "go ahead")
	}
	d, err := c.answer(ev, normal)
	if err != nil || !d.obeyed || c.srv.TLS == nil {
		return err
	}
	if n := c.r.Buffered(); n > 0 {
		// https://www.rfc-editor.org/rfc/rfc3207#section-6: it must not cross into TLS.
		rest, _ := c.r.Peek(n)
		c.violation("input behind STARTTLS", string(rest))
		c.r.Discard(n)
	}
	if err := c.w.Flush(); err != nil {
		return err
	}
	c.forget()
	c.verb, c.hello = "", ""
	return c.secure()
}

func (c *session) doXclient(ev Event, arg string) error {
	normal := "220 " + c.srv.hostname() + " ESMTP"
	switch {
	case c.srv.Keywords.Xclient == "" || c.srv.Old:
		c.violation("XCLIENT that was not offered", ev.Line)
		normal = c.reply("502", "5.5.1", "not implemented")
	case c.verb == "" || c.mail != "":
		normal = c.badSequence(ev, "not now")
	default:
		for _, attr := range strings.Split(arg, " ") {
			name, _, ok := strings.Cut(attr, "=")
			if !ok || !slices.Contains(strings.Fields(c.srv.Keywords.Xclient), strings.ToUpper(name)) {
				c.violation("XCLIENT attribute that was not offered: "+attr, ev.Line)
				normal = c.reply("501", "5.5.4", "bad attribute")
			}
		}
	}
	d, err := c.answer(ev, normal)
	if d.obeyed {
		c.forget()
		c.xclient = append(c.xclient, arg)
		c.verb, c.hello = "", ""
	}
	return err
}

// number reads a decimal number of at most 15 digits.
func number(s string) (int64, bool) {
	if s == "" || len(s) > 15 {
		return 0, false
	}
	var n int64
	for i := range len(s) {
		if s[i] < '0' || s[i] > '9' {
			return 0, false
		}
		n = 10*n + int64(s[i]-'0')
	}
	return n, true
}
