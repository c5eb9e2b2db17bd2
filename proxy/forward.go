package proxy

import (
	"strconv"
	"strings"
	"sync/atomic"

	"go.uber.org/zap"

	"slipstream/smtpwire"
)

// XFORWARD tells a Postfix backend whom its log is to name for the transaction
// that follows. Unlike XCLIENT it changes nothing about what the client may do,
// so connections on which it was said are kept for anybody.
// https://www.postfix.org/XFORWARD_README.html

// Bounds of XFORWARD_README.
const (
	maxForward      = 510 // octets of a command, without CRLF
	maxForwardValue = 255 // octets of a value
	unavailable     = "[UNAVAILABLE]"
)

// forwarding is what a door has said about its backend and XFORWARD.
type forwarding struct {
	lacks   atomic.Bool // that it does not offer it
	refuses atomic.Bool // that it does not take it
}

// forward says XFORWARD to a hop that offers it, before MAIL in the same flight.
func (l *leg) forward(a *asked, offered smtpwire.EHLO) {
	s := l.tx.s
	if s.door.caller.announce != announceForward {
		return
	}
	attrs, ok := offered.Get("XFORWARD")
	if !ok {
		if s.door.forwarding.lacks.CompareAndSwap(false, true) {
			s.log.Warn(`client_address = "xforward", but the backend does not offer XFORWARD to us, so its log names us; ` +
				`with Postfix set "smtpd_authorized_xforward_hosts" to our address`)
		}
		return
	}
	for _, args := range l.tx.forwarded(attrs) {
		a.add(smtpwire.Command{Verb: smtpwire.VerbXforward, Arg: args}, askForward)
	}
}

// heardForward takes the answer. Whatever it is, the mail is worth more than a line
// in a log.
func (l *leg) heardForward(r smtpwire.Reply) {
	switch s := l.tx.s; {
	case r.Code == 421: // so far that is the answer to all
		l.mail = r
	case r.Class() != 2 && s.door.forwarding.refuses.CompareAndSwap(false, true):
		s.log.Warn("the backend refuses XFORWARD, so its log names us; mail goes on", zap.String("reply", r.String()))
	}
}

// forwarded are the arguments of as many XFORWARD commands as it takes to say
// what the backend wants to know.
func (t *transaction) forwarded(offered string) []string {
	id := *t.fullIdentity()
	proto, source, port := "SMTP", "REMOTE", ""
	if id.esmtp {
		proto = "ESMTP"
	}
	if id.client.Addr().Unmap().IsLoopback() {
		source = "LOCAL"
	}
	if id.client.IsValid() {
		port = strconv.Itoa(int(id.client.Port()))
	}
	attrs := []smtpwire.Param{
		{Name: "NAME", Value: id.name.forwardValue()},
		{Name: "ADDR", Value: xclientAddr(id.client.Addr())},
		{Name: "PORT", Value: port},
		{Name: "PROTO", Value: proto},
		{Name: "HELO", Value: forwardText(id.helo)},
		{Name: "IDENT", Value: forwardText(t.id)},
		{Name: "SOURCE", Value: source},
	}
	can := make(map[string]bool)
	for _, name := range strings.Fields(offered) {
		can[strings.ToUpper(name)] = true
	}
	var lines []string
	for _, a := range attrs {
		if !can[a.Name] {
			continue
		}
		if a.Value == "" {
			a.Value = unavailable
		}
		word := a.Name + "=" + a.Value
		last := len(lines) - 1
		if last >= 0 && len("XFORWARD ")+len(lines[last])+1+len(word) <= maxForward {
			lines[last] += " " + word
			continue
		}
		lines = append(lines, word)
	}
	return lines
}

// forwardValue is the name in XFORWARD's words, which know no reasons.
func (n clientName) forwardValue() string { return forwardText(n.name) }

// forwardText encodes a value; "" where it is longer than may be said.
func forwardText(s string) string {
	if len(s) > maxForwardValue {
		return ""
	}
	if s = xtext(s); len(s) > maxForward-len("XFORWARD SOURCE=") {
		return ""
	}
	return s
}

// namesClients tells whether a way of telling a backend about clients has names
// in it, which the DNS is asked for.
func namesClients(announce string) bool {
	return announce == announceXclient || announce == announceForward
}
