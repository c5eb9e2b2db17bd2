package proxy

import (
	"fmt"
	"testing"
	"testing/synctest"
	"time"

	"slipstream/bench/refpeer"
)

// A client may take longer over its text than the hop waits for the next
// command (five minutes by RFC 5321 §4.5.3.2.7, ten seconds in a Postfix under
// stress). The hop is asked again, and nobody notices.
func TestImpatientHop(t *testing.T) {
	kinds := map[string]*refpeer.Server{
		"chunking": {Keywords: refpeer.Modern()},
		"data":     {Keywords: refpeer.Keywords{Pipelining: true, EightBitMIME: true}},
		"old":      {Old: true, StrictLockstep: true},
		"lmtp":     {LMTP: true, Keywords: refpeer.Modern()},
	}
	for name, kind := range kinds {
		for _, flight := range []bool{false, true} {
			t.Run(fmt.Sprintf("%s/data in the flight: %v", name, flight), func(t *testing.T) {
				synctest.Test(t, func(t *testing.T) {
					w := newWorld(t)
					hop := w.serve(backendAddr, &refpeer.Server{Old: kind.Old, LMTP: kind.LMTP, StrictLockstep: kind.StrictLockstep,
						Keywords: kind.Keywords, Idle: 5 * time.Minute})
					w.inbound(func(in *InboundConfig) { in.Backend.LMTP = kind.LMTP })
					w.start()
					c := w.client(inboundAt)
					slowMessage(c, flight)
					c.want("250 ")
					if msgs := hop.Messages(); len(msgs) != 1 || string(msgs[0].Body) != "Subject: slow\r\n\r\nline\r\nline\r\nline\r\nline\r\n" {
						t.Errorf("the hop has %d messages: %+v", len(msgs), msgs)
					}
					if n := len(hop.Connections()); n < 2 {
						t.Errorf("%d connections; the hop should have closed the first", n)
					}
					if s := w.last(); s.Status != "sent" || s.InDoubt {
						t.Errorf("summary: %+v", s)
					}
				})
			})
		}
	}
}

// slowMessage takes ten minutes over a message.
func slowMessage(c *dialog, flight bool) {
	c.ask("EHLO slow.example", "250")
	if flight {
		c.say("MAIL FROM:<a@slow.example>", "RCPT TO:<b@example.net>", "DATA")
		c.want("250 ")
		c.want("250 ")
	} else {
		c.ask("MAIL FROM:<a@slow.example>", "250 ")
		c.ask("RCPT TO:<b@example.net>", "250 ")
		c.say("DATA")
	}
	c.want("354 ")
	c.say("Subject: slow", "")
	for range 4 {
		time.Sleep(150 * time.Second) // virtual
		c.say("line")
	}
	c.say(".")
}
