package proxy

import (
	"fmt"
	"net"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"slipstream/bench/netsim"
	"slipstream/bench/refpeer"
)

// One transaction and several destinations: an LMTP client has a reply for each
// recipient, an SMTP client comes again.

// lmtpDomain gives a domain a mail host of its own.
func (w *world) lmtpDomain(domain, addr string, s *refpeer.Server) *refpeer.Server {
	w.t.Helper()
	w.dns.mx[domain] = []*net.MX{{Host: "mx." + domain, Pref: 10}}
	w.dns.addrs["mx."+domain] = []netip.Addr{netip.MustParseAddr(addr)}
	if s == nil {
		return nil
	}
	return w.serve(addr+":25", s)
}

// lmtpClient greets at an LMTP door.
func (w *world) lmtpClient() *dialog {
	w.t.Helper()
	c := w.client(outboundAt)
	if ehlo := c.ask("LHLO client.example", "250"); !strings.Contains(ehlo, "PIPELINING") || strings.Contains(ehlo, "LIMITS") {
		w.t.Errorf("LHLO: %q", ehlo)
	}
	return c
}

// lmtpFinal returns a Behave for the end of data.
func lmtpFinal(a refpeer.Action) func(refpeer.Event) refpeer.Action {
	return func(ev refpeer.Event) refpeer.Action {
		if ev.Kind == refpeer.EndOfData {
			return a
		}
		return refpeer.Action{}
	}
}

// segments counts what has come to a client in pieces.
func (d *dialog) segments() int {
	_, received := d.conn.(*netsim.Conn).Segments()
	return received
}

// A message for many domains: every recipient hears what its own hop said, in
// the order of the RCPTs, however the hops come to their ends.
func TestLMTPManyHops(t *testing.T) {
	modern := refpeer.Modern()
	plain := refpeer.Keywords{Pipelining: true, EnhancedStatusCodes: true}
	for run := range 20 { // the hops are asked side by side: let them finish in any order
		synctest.Test(t, func(t *testing.T) {
			w := newWorld(t)
			ok := w.lmtpDomain("ok.example", "203.0.113.11", &refpeer.Server{Keywords: modern, Behave: lmtpFinal(refpeer.Say("250 2.0.0 ok"))})
			old := w.lmtpDomain("old.example", "203.0.113.12", &refpeer.Server{Old: true, StrictLockstep: true, Behave: lmtpFinal(refpeer.Say("250 old"))})
			w.lmtpDomain("no.example", "203.0.113.13", &refpeer.Server{Keywords: plain, Behave: lmtpFinal(refpeer.Say("550 5.7.1 spam"))})
			w.lmtpDomain("later.example", "203.0.113.14", &refpeer.Server{Keywords: modern, Behave: lmtpFinal(refpeer.Say("452 4.3.1 full"))})
			w.lmtpDomain("busy.example", "203.0.113.15", &refpeer.Server{Keywords: plain, Behave: lmtpFinal(refpeer.Say("421 4.3.2 bye"))})
			dies := w.lmtpDomain("dies.example", "203.0.113.16", &refpeer.Server{Keywords: modern, Behave: lmtpFinal(refpeer.Action{Close: true})})
			w.lmtpDomain("cut.example", "203.0.113.17", &refpeer.Server{Keywords: plain, Behave: hopsAt("data start", refpeer.Action{Reset: true})})
			w.lmtpDomain("down.example", "203.0.113.18", nil)
			w.lmtpDomain("picky.example", "203.0.113.19", &refpeer.Server{Keywords: modern, RcptReplies: map[string]string{"a@picky.example": "550 5.1.1 nobody"}})
			w.outbound(func(out *OutboundConfig) { out.Protocol, out.LateVerdict = "lmtp", false })
			w.start()
			c := w.lmtpClient()
			rcpts := []struct{ to, reply, final string }{
				{"a@ok.example", "250 ", "250 2.0.0 ok"},
				{"a@no.example", "250 ", "550 5.7.1 spam"},
				{"a@picky.example", "550 5.1.1 nobody", ""},
				{"a@dies.example", "250 ", "451 4.4.2 Slipstream: outcome unknown"},
				{"a@old.example", "250 ", "250 2.0.0 old"},
				{"b@ok.example", "250 ", "250 2.0.0 ok"},
				{"a@none.example", "550 5.1.2", ""},
				{"a@later.example", "250 ", "452 4.3.1 full"},
				{"a@down.example", "451 4.4.1", ""},
				{"a@busy.example", "250 ", "451 4.3.2 Slipstream: mx.busy.example[203.0.113.15]:25 said: 421 4.3.2 bye"},
				{"b@no.example", "250 ", "550 5.7.1 spam"},
				{"a@cut.example", "250 ", "451 4.4.2 Slipstream: "},
				{"b@picky.example", "250 ", "250 "},
				{"c@ok.example", "250 ", "250 2.0.0 ok"},
			}
			flight := []string{"MAIL FROM:<a@client.example>"}
			for _, rc := range rcpts {
				flight = append(flight, "RCPT TO:<"+rc.to+">")
			}
			if run%2 == 0 { // at once, or one after the other
				c.say(append(flight, "DATA")...)
				flight = nil
			} else {
				c.ask(flight[0], "250 ")
			}
			if flight == nil {
				c.want("250 ")
			}
			finals := 0
			for i, rc := range rcpts {
				if flight != nil {
					c.say(flight[1+i])
				}
				c.want(rc.reply)
				if rc.final != "" {
					finals++
				}
			}
			if flight != nil {
				c.say("DATA")
			}
			c.want("354 ")
			before := c.segments()
			c.say("Subject: x", "", "text", ".")
			for _, rc := range rcpts {
				if rc.final != "" {
					c.want(rc.final)
				}
			}
			if got := c.segments() - before; got != finals {
				t.Errorf("%d final replies came in %d segments", finals, got)
			}
			c.ask("NOOP", "250 2.0.0 ok")
			if m := ok.Messages(); len(m) != 1 || len(m[0].Rcpts) != 3 {
				t.Errorf("ok.example has %+v", m)
			}
			if len(old.Messages()) != 1 || len(dies.Messages()) != 1 {
				t.Errorf("old.example has %d, dies.example %d messages", len(old.Messages()), len(dies.Messages()))
			}
			if s := w.last(); s.Status != "mixed" || !s.InDoubt || len(s.To) != len(rcpts) {
				t.Errorf("summary: %+v", s)
			}
		})
	}
}

// An LMTP client and an LMTP hop: its replies are passed on one by one.
func TestLMTPToLMTP(t *testing.T) {
	for _, chunking := range []bool{true, false} {
		synctest.Test(t, func(t *testing.T) {
			w := newWorld(t)
			k := refpeer.Modern()
			k.Chunking = chunking
			mx := w.serve(mxAddr, &refpeer.Server{LMTP: true, Keywords: k, FinalReplies: map[string]string{
				"b@example.org": "452-4.2.2 over\r\n452 4.2.2 quota", "d@example.org": "550 5.7.1 no", "f@example.org": "421 4.3.2 later"},
				RcptReplies: map[string]string{"c@example.org": "550 5.1.1 nobody"}})
			w.outbound(func(out *OutboundConfig) {
				out.Protocol, out.Route, out.Relay = "lmtp", "", Endpoint{Host: mxHost, Port: 25, LMTP: true}
				out.LateVerdict = false
			})
			w.start()
			c := w.lmtpClient()
			c.ask("MAIL FROM:<a@client.example>", "250 ")
			for _, rc := range []string{"a", "b", "c", "d", "e", "f"} {
				c.ask("RCPT TO:<"+rc+"@example.org>", map[bool]string{true: "550 5.1.1 nobody", false: "250 "}[rc == "c"])
			}
			c.ask("DATA", "354 ")
			before := c.segments()
			c.say("Subject: x", "", "text", ".")
			for _, want := range []string{"250 ", "452-4.2.2 over\n452 4.2.2 quota", "550 5.7.1 no", "250 ", "451 4.3.2 Slipstream: "} {
				c.want(want)
			}
			if got := c.segments() - before; got != 5 {
				t.Errorf("5 final replies came in %d segments", got)
			}
			c.ask("RSET", "250 2.0.0 reset")
			if m := mx.Messages(); len(m) != 1 || len(m[0].Rcpts) != 5 {
				t.Errorf("the hop has %+v", m)
			}
			if s := w.last(); s.Status != "mixed" {
				t.Errorf("summary: %+v", s)
			}
		})
	}
}

// The hop dies between two of its final replies: who was told keeps it, the rest
// is in doubt.
func TestLMTPHopDiesBetweenReplies(t *testing.T) {
	for _, a := range []refpeer.Action{{Close: true}, {Reset: true}, {Stall: true}, {Reply: "250-half", Close: true}, {Reply: "354 what\r\n"}} {
		synctest.Test(t, func(t *testing.T) {
			w := newWorld(t)
			mx := w.serve(mxAddr, &refpeer.Server{LMTP: true, Keywords: refpeer.Modern(), Behave: func(ev refpeer.Event) refpeer.Action {
				switch {
				case ev.Kind != refpeer.EndOfData || ev.Rcpt < 1:
					return refpeer.Action{}
				case ev.Rcpt == 1:
					return refpeer.Say("550 5.7.1 no")
				}
				return a
			}})
			w.outbound(func(out *OutboundConfig) {
				out.Protocol, out.Route, out.Relay = "lmtp", "", Endpoint{Host: mxHost, Port: 25, LMTP: true}
			})
			w.start()
			c := w.lmtpClient()
			c.ask("MAIL FROM:<a@client.example>", "250 ")
			for _, line := range hopsRcpts(4) {
				c.ask(line, "250 ")
			}
			c.ask("DATA", "354 ")
			c.say("Subject: x", "", "text", ".")
			d := took(func() {
				for _, want := range []string{"250 ", "550 5.7.1 no", "451 4.4.2 ", "451 4.4.2 "} {
					c.want(want)
				}
			})
			if d > failFinal {
				t.Errorf("%+v: answered after %v", a, d)
			}
			c.ask("NOOP", "250 2.0.0 ok")
			if s := w.last(); !s.InDoubt || s.Status != "mixed" {
				t.Errorf("%+v: summary: %+v", a, s)
			}
			if n := len(mx.Messages()) + len(mx.Refused()); n != 1 {
				t.Errorf("%+v: the hop has the message %d times", a, n)
			}
		})
	}
}

// No recipient is left: LMTP says 503 to DATA (RFC 2033 §4.2), and nothing else
// is offered for text.
func TestLMTPWithoutRecipients(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		w.serve(mxAddr, &refpeer.Server{Keywords: refpeer.Modern(), RcptReplies: map[string]string{"a@example.org": "550 5.1.1 nobody"}})
		w.outbound(func(out *OutboundConfig) { out.Protocol, out.LateVerdict = "lmtp", false })
		w.start()
		c := w.client(outboundAt)
		c.ask("EHLO client.example", "500 5.5.1")
		if ehlo := c.ask("LHLO client.example", "250"); strings.Contains(ehlo, "CHUNKING") {
			t.Errorf("LHLO: %q", ehlo)
		}
		c.say("MAIL FROM:<a@client.example>", "RCPT TO:<a@example.org>", "DATA")
		c.want("250 ")
		c.want("550 5.1.1 nobody")
		c.want("503 ")
		c.ask("RCPT TO:<b@example.org>", "250 ")
		c.ask("DATA", "354 ")
		c.say("Subject: x", "", "text", ".")
		c.want("250 ")
		c.ask("QUIT", "221 ")
	})
}

// Hops that keep a message waiting do not keep the others: all work side by
// side.
func TestLMTPSideBySide(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		const hops, each = 10, 7 * time.Second
		c := make([]string, hops)
		for i := range hops {
			c[i] = fmt.Sprintf("RCPT TO:<a@d%d.example>", i)
			w.lmtpDomain(fmt.Sprintf("d%d.example", i), fmt.Sprintf("203.0.113.%d", 20+i), &refpeer.Server{Keywords: refpeer.Modern(),
				Behave: func(ev refpeer.Event) refpeer.Action {
					return refpeer.Action{Delay: map[bool]time.Duration{true: each}[ev.Kind == refpeer.Connect || ev.Kind == refpeer.EndOfData]}
				}})
		}
		w.outbound(func(out *OutboundConfig) { out.Protocol = "lmtp" })
		w.start()
		d := w.lmtpClient()
		took := took(func() {
			d.say(slices.Concat([]string{"MAIL FROM:<a@client.example>"}, c, []string{"DATA"})...)
			for range 1 + hops {
				d.want("250 ")
			}
			d.want("354 ")
			d.say("Subject: x", "", "text", ".")
			for range hops {
				d.want("250 ")
			}
		})
		if took != 2*each {
			t.Errorf("took %v, want %v", took, 2*each)
		}
	})
}

// An SMTP client before an LMTP hop: one recipient at a time, since it can hear
// only one final reply.
func TestLMTPHopOneRecipientAtATime(t *testing.T) {
	for _, at := range []string{inboundAt, outboundAt} {
		synctest.Test(t, func(t *testing.T) {
			w := newWorld(t)
			hop := &refpeer.Server{LMTP: true, Keywords: refpeer.Modern(), RcptReplies: map[string]string{"no@example.org": "550 5.1.1 nobody"}}
			if at == inboundAt {
				w.serve(backendAddr, hop)
				w.inbound(func(in *InboundConfig) { in.Backend.LMTP = true })
			} else {
				w.serve(mxAddr, hop)
				w.outbound(func(out *OutboundConfig) { out.Route, out.Relay = "", Endpoint{Host: mxHost, Port: 25, LMTP: true} })
			}
			w.start()
			probed := hop.Accepted()
			c := w.client(at)
			if ehlo := c.ask("EHLO client.example", "250"); !strings.Contains(ehlo, "LIMITS RCPTMAX=1") {
				t.Errorf("EHLO: %q", ehlo)
			}
			further := "452 4.5.3 Slipstream: one recipient at a time"
			if at == outboundAt { // where nobody could remember a refusal
				further = "451 4.5.3 Slipstream: one recipient at a time"
			}
			text := func() {
				t.Helper()
				c.ask("DATA", "354 ")
				c.say("Subject: x", "", "text", ".")
				c.want("250 2.0.0 taken")
			}
			c.ask("MAIL FROM:<a@client.example>", "250 ")
			c.ask("RCPT TO:<no@example.org>", "550 5.1.1 nobody") // does not count
			c.ask("RCPT TO:<one@example.org>", "250 ")
			c.ask("RCPT TO:<two@example.org>", further)
			text()
			c.say("MAIL FROM:<a@client.example>", "RCPT TO:<two@example.org>", "RCPT TO:<three@example.org>", "RCPT TO:<four@example.org>")
			c.want("250 ")
			c.want("250 ")
			c.want(further)
			c.want(further)
			text()
			c.ask("QUIT", "221 ")
			var to []string
			for _, m := range hop.Messages() {
				to = append(to, m.Recipients()...)
			}
			if !slices.Equal(to, []string{"one@example.org", "two@example.org"}) || hop.Accepted() != probed+1 {
				t.Errorf("%s: messages for %q on %d connections", at, to, hop.Accepted()-probed)
			}
		})
	}
}

// The outbound SMTP door has one destination at a time.
func TestLMTPNotForSMTPDoor(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		first := w.lmtpDomain("first.example", "203.0.113.11", &refpeer.Server{Keywords: refpeer.Modern(), RcptReplies: map[string]string{"no@first.example": "550 5.1.1 nobody"}})
		second := w.lmtpDomain("second.example", "203.0.113.12", &refpeer.Server{Keywords: refpeer.Modern()})
		w.lmtpDomain("down.example", "203.0.113.13", nil)
		w.outbound()
		w.start()
		c := w.client(outboundAt)
		if ehlo := c.ask("EHLO client.example", "250"); !strings.Contains(ehlo, "LIMITS RCPTDOMAINMAX=1") {
			t.Errorf("EHLO: %q", ehlo)
		}
		const further = "451 4.5.3 Slipstream: one destination at a time"
		text := func() {
			t.Helper()
			c.ask("DATA", "354 ")
			c.say("Subject: x", "", "text", ".")
			c.want("250 2.0.0 taken")
		}
		c.ask("MAIL FROM:<a@client.example>", "250 ")
		c.ask("RCPT TO:<a@first.example>", "250 ")
		c.ask("RCPT TO:<a@second.example>", further)
		c.ask("RCPT TO:<b@FIRST.example>", "250 ")
		text()

		// In one flight.
		c.say("MAIL FROM:<a@client.example>", "RCPT TO:<c@first.example>", "RCPT TO:<b@second.example>", "RCPT TO:<d@first.example>")
		c.want("250 ")
		c.want("250 ")
		c.want(further)
		c.want("250 ")
		text()

		// Whoever was refused takes no place, and gets none back.
		c.ask("MAIL FROM:<a@client.example>", "250 ")
		c.ask("RCPT TO:<no@first.example>", "550 5.1.1 nobody")
		c.ask("RCPT TO:<c@second.example>", "250 ")
		c.ask("RCPT TO:<e@first.example>", further)
		c.ask("RCPT TO:<d@second.example>", "250 ")
		text()
		c.ask("MAIL FROM:<a@client.example>", "250 ")
		c.ask("RCPT TO:<a@down.example>", "451 4.4.1")
		c.ask("RCPT TO:<e@second.example>", "250 ")
		c.ask("RCPT TO:<b@down.example>", further)
		text()
		c.ask("QUIT", "221 ")
		if a, b := len(first.Messages()), len(second.Messages()); a != 2 || b != 2 {
			t.Errorf("the first has %d messages, the second %d; want 2 and 2", a, b)
		}
		for _, s := range []*refpeer.Server{first, second} {
			if v := s.Violations(); len(v) > 0 {
				t.Error(v)
			}
		}
	})
}
