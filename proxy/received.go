package proxy

import (
	"fmt"
	"net/netip"
	"strings"
)

// received builds the trace field that goes on top of a message (RFC 5321
// §4.4). It names no recipient: a message may have several, and none of them
// needs to know of the others.
// https://www.rfc-editor.org/rfc/rfc5321#section-4.4
func (t *transaction) received() []byte {
	c := &t.s.client
	return fmt.Appendf(nil, "Received: from %s (%s)\r\n\tby %s (Slipstream) with %s id %s;\r\n\t%s\r\n",
		traceWord(c.helo), traceAddr(c.addr.Addr()), t.s.door.hostname, t.with(), t.id,
		t.start.Format("Mon, 02 Jan 2006 15:04:05 -0700"))
}

// with is the protocol's name as IANA registered it (RFC 3848, RFC 6531 §4.3).
// https://www.rfc-editor.org/rfc/rfc3848
func (t *transaction) with() string {
	c := &t.s.client
	_, utf8 := t.mail.Params.Get("SMTPUTF8")
	name := "SMTP"
	switch {
	case t.s.door.lmtp:
		name = "LMTP"
	case c.esmtp:
		name = "ESMTP"
	}
	if utf8 {
		name = "UTF8" + strings.TrimPrefix(name, "E")
	}
	if c.tls != nil {
		name += "S"
	}
	if t.s.own.loggedIn() {
		name += "A"
	}
	return name
}

// maxTraceWord is the longest name a Received field repeats (a domain's limit).
const maxTraceWord = 255

// traceWord makes what a client called itself safe inside a header field: no
// comment, no quote, no line end can come from it.
func traceWord(s string) string {
	if s == "" {
		return "unknown"
	}
	clean := func(r rune) rune {
		switch {
		case r >= 'a' && r <= 'z', r >= 'A' && r <= 'Z', r >= '0' && r <= '9', strings.ContainsRune("-._:[]", r):
			return r
		}
		return '?'
	}
	return strings.Map(clean, s[:min(len(s), maxTraceWord)])
}

// traceAddr is a client's address as an address literal (RFC 5321 §4.1.3).
func traceAddr(a netip.Addr) string {
	a = a.Unmap().WithZone("")
	switch {
	case !a.IsValid():
		return "local"
	case a.Is6():
		return "[IPv6:" + a.String() + "]"
	}
	return "[" + a.String() + "]"
}
