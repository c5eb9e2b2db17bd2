package proxy

import (
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"slipstream/bench/netsim"
	"slipstream/bench/refpeer"
)

// What hops say about recipients that were answered before they were asked is
// said with the final replies, in the order of the recipients.
func TestLateLMTP(t *testing.T) {
	modern := refpeer.Modern()
	plain := refpeer.Keywords{Pipelining: true, EnhancedStatusCodes: true}
	rcpts := []struct{ to, final string }{
		{"a@ok.example", "250 2.0.0 ok"},
		{"a@no.example", "550 5.7.1 spam"},
		{"a@picky.example", "550 5.1.1 nobody"},
		{"a@dies.example", "451 4.4.2 Slipstream: outcome unknown"},
		{"a@old.example", "250 2.0.0 old"},
		{"b@ok.example", "250 2.0.0 ok"},
		{"a@none.example", "550 5.1.2"},
		{"a@later.example", "452 4.3.1 full"},
		{"a@down.example", "451 4.4.1"},
		{"a@busy.example", "451 4.3.2 Slipstream: mx.busy.example[203.0.113.15]:25 said: 421 4.3.2 bye"},
		{"b@picky.example", "250 "},
		{"a@sender.example", "550 5.1.8 not you"},
	}
	for range 20 { // the hops are asked side by side: let them finish in any order
		synctest.Test(t, func(t *testing.T) {
			w := newWorld(t)
			ok := w.lmtpDomain("ok.example", "203.0.113.11", &refpeer.Server{Keywords: modern, Behave: lmtpFinal(refpeer.Say("250 2.0.0 ok"))})
			old := w.lmtpDomain("old.example", "203.0.113.12", &refpeer.Server{Old: true, StrictLockstep: true, Behave: lmtpFinal(refpeer.Say("250 old"))})
			w.lmtpDomain("no.example", "203.0.113.13", &refpeer.Server{Keywords: plain, Behave: lmtpFinal(refpeer.Say("550 5.7.1 spam"))})
			w.lmtpDomain("later.example", "203.0.113.14", &refpeer.Server{Keywords: modern, Behave: lmtpFinal(refpeer.Say("452 4.3.1 full"))})
			w.lmtpDomain("busy.example", "203.0.113.15", &refpeer.Server{Keywords: plain, Behave: lmtpFinal(refpeer.Say("421 4.3.2 bye"))})
			dies := w.lmtpDomain("dies.example", "203.0.113.16", &refpeer.Server{Keywords: modern, Behave: lmtpFinal(refpeer.Action{Close: true})})
			w.lmtpDomain("down.example", "203.0.113.18", nil)
			picky := w.lmtpDomain("picky.example", "203.0.113.19", &refpeer.Server{Keywords: modern, RcptReplies: map[string]string{"a@picky.example": "550 5.1.1 nobody"}})
			w.lmtpDomain("sender.example", "203.0.113.20", &refpeer.Server{Keywords: modern, Behave: hopsAt("MAIL", refpeer.Say("550 5.1.8 not you"))})
			w.outbound(func(out *OutboundConfig) { out.Protocol = "lmtp" })
			w.start()
			c := w.lmtpClient()
			flight := []string{"MAIL FROM:<a@client.example>"}
			for _, rc := range rcpts {
				flight = append(flight, "RCPT TO:<"+rc.to+">")
			}
			flight = append(flight, "DATA")
			c.say(flight...)
			for i := range flight {
				switch i {
				case 0:
					c.want("250 2.1.0")
				case len(flight) - 1:
					c.want("354 ")
				default:
					c.want("250 2.1.5 recipient noted")
				}
			}
			c.say("Subject: x", "", "text", ".")
			for _, rc := range rcpts {
				c.want(rc.final)
			}
			c.ask("QUIT", "221 ")
			if n := len(ok.Messages()); n != 1 || !slices.Equal(ok.Messages()[0].Recipients(), []string{"a@ok.example", "b@ok.example"}) {
				t.Errorf("ok.example has %d messages: %+v", n, ok.Messages())
			}
			if n := len(picky.Messages()); n != 1 || !slices.Equal(picky.Messages()[0].Recipients(), []string{"b@picky.example"}) {
				t.Errorf("picky.example has %d messages", n)
			}
			if len(old.Messages()) != 1 || len(dies.Messages()) > 1 {
				t.Errorf("old.example has %d messages, dies.example %d", len(old.Messages()), len(dies.Messages()))
			}
			if s := w.last(); s.Status != "mixed" || len(s.To) != len(rcpts) {
				t.Errorf("the record says %q to %q", s.Status, s.To)
			}
		})
	}
}

// Who asks about a recipient and waits, or asks no more than that, gets the hop's
// own answer; so do several recipients of one SMTP transaction without PRDR.
func TestLateOnlyWhereItIsTheSame(t *testing.T) {
	unknown := func() *refpeer.Server {
		return &refpeer.Server{Keywords: refpeer.Modern(), RcptReplies: map[string]string{"no@example.org": "550 5.1.1 nobody"}}
	}
	tests := []struct {
		name   string
		change func(*OutboundConfig)
		talk   []string
	}{
		{"lock step", nil, []string{"MAIL FROM:<a@client.example>", "250 ", "RCPT TO:<no@example.org>", "550 5.1.1 nobody", "DATA", "554 "}},
		{"call-out", nil, []string{"MAIL FROM:<a@client.example>\r\nRCPT TO:<no@example.org>", "250 | 550 5.1.1 nobody", "RSET", "250 "}},
		{"call-out and QUIT", nil, []string{"MAIL FROM:<a@client.example>\r\nRCPT TO:<no@example.org>\r\nQUIT", "250 | 550 5.1.1 nobody | 221 "}},
		{"two recipients", nil, []string{"MAIL FROM:<a@client.example>\r\nRCPT TO:<no@example.org>\r\nRCPT TO:<b@example.org>\r\nDATA",
			"250 | 550 5.1.1 nobody | 250 | 354 ", "Subject: x\r\n\r\n.", "250 "}},
		{"the second recipient", nil, []string{"MAIL FROM:<a@client.example>\r\nRCPT TO:<b@example.org>", "250 | 250 ",
			"RCPT TO:<no@example.org>\r\nDATA", "550 5.1.1 nobody | 354 ", "Subject: x\r\n\r\n.", "250 "}},
		{"switched off", func(o *OutboundConfig) { o.LateVerdict = false }, []string{
			"MAIL FROM:<a@client.example>\r\nRCPT TO:<no@example.org>\r\nDATA", "250 | 550 5.1.1 nobody | 554 "}},
		{"one recipient and DATA", nil, []string{"MAIL FROM:<a@client.example>\r\nRCPT TO:<no@example.org>\r\nDATA", "250 | 250 2.1.5 | 354 ",
			"Subject: x\r\n\r\n.", "550 5.1.1 nobody"}},
		{"and then RSET, and again", nil, []string{"MAIL FROM:<a@client.example>\r\nRCPT TO:<no@example.org>\r\nDATA", "250 | 250 2.1.5 | 354 ",
			"Subject: x\r\n\r\n.", "550 5.1.1 nobody", "MAIL FROM:<a@client.example>\r\nRCPT TO:<b@example.org>\r\nDATA", "250 | 250 2.1.5 | 354 ",
			"Subject: x\r\n\r\n.", "250 "}},
		{"BDAT", nil, []string{"MAIL FROM:<a@client.example>\r\nRCPT TO:<no@example.org>\r\nBDAT 3 LAST\r\nx", "250 | 550 5.1.1 nobody | 554 "}},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				w := newWorld(t)
				mx := w.serve(mxAddr, unknown())
				w.outbound(func(o *OutboundConfig) {
					if tt.change != nil {
						tt.change(o)
					}
				})
				w.start()
				c := w.client(outboundAt)
				c.ask("EHLO client.example", "250")
				c.talk(tt.talk...)
				said, last, want := tt.talk[len(tt.talk)-2], tt.talk[len(tt.talk)-1], 0
				if !strings.HasSuffix(said, "QUIT") {
					c.ask("NOOP", "250 2.0.0 ok")
				}
				if last == "250 " && said != "RSET" {
					want = 1
				}
				if n := len(mx.Messages()); n != want {
					t.Errorf("the hop has %d messages, want %d", n, want)
				}
			})
		})
	}
}

// A client that leaves, or is silent, behind a recipient that was answered ahead
// leaves nothing behind at the hop.
func TestLateClientLeaves(t *testing.T) {
	for name, leave := range map[string]func(*dialog){
		"FIN":     func(c *dialog) { _ = c.conn.Close() },
		"RST":     func(c *dialog) { c.conn.(*netsim.Conn).Reset() },
		"silence": func(*dialog) { time.Sleep(2 * time.Hour) },
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				w := newWorld(t)
				mx := w.serve(mxAddr, &refpeer.Server{Keywords: refpeer.Modern()})
				w.outbound(func(o *OutboundConfig) { o.PoolIdle = 30 * time.Second })
				w.start()
				c := w.client(outboundAt)
				c.ask("EHLO client.example", "250")
				c.talk("MAIL FROM:<a@client.example>\r\nRCPT TO:<b@example.org>\r\nDATA", "250 | 250 2.1.5 | 354 ")
				c.raw("Subject: half")
				leave(c)
				time.Sleep(time.Minute)
				synctest.Wait()
				if n := len(mx.Messages()); n != 0 {
					t.Errorf("the hop has %d messages", n)
				}
				if s := w.last(); s.Status != "aborted" {
					t.Errorf("the record says %q", s.Status)
				}
			})
		})
	}
}
