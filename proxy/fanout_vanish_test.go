package proxy

import (
	"fmt"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"slipstream/bench/netsim"
	"slipstream/bench/refpeer"
)

// Two messages in one go, and the client is gone before it has heard of either.
func TestFanoutVanishedBehindTwo(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newFanWorld(t)
		hop := f.hop("one", nil)
		hop.Behave = func(e refpeer.Event) refpeer.Action {
			if e.Kind == refpeer.EndOfData {
				return refpeer.Action{Delay: time.Minute}
			}
			return refpeer.Action{}
		}
		f.start()
		c := f.client(outboundAt)
		c.ask("EHLO client.example", "250")
		t1, t2 := "Subject: 1\r\n\r\none\r\n", "Subject: 2\r\n\r\ntwo\r\n"
		msg := func(to, text string) string {
			return fanMail + "\r\nRCPT TO:<" + to + ">" + fmt.Sprintf("\r\nBDAT %d LAST\r\n%s", len(text), text)
		}
		c.raw(msg("a@one.example", t1) + msg("b@one.example", t2))
		time.Sleep(time.Second)
		f.net.Blackhole(c.conn.LocalAddr().String()) // its machine lost power: no FIN, no RST, no ACK
		time.Sleep(30 * time.Minute)
		f.wantHeld(2)
		for i, text := range []string{t1, t2} {
			c = f.client(outboundAt)
			c.ask("EHLO client.example", "250")
			c.raw(msg([]string{"a", "b"}[i]+"@one.example", text))
			c.want("250 ")
			c.want("250 ")
			c.want("250 ")
			c.talk("QUIT", "221 ")
		}
		f.wantCopies("a@one.example", "b@one.example")
	})
}

// An outcome is remembered as long as attempts ask for it.
func TestFanoutKeepsWhatIsAskedFor(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newFanWorld(t)
		f.hop("one", nil)
		f.hop("three", map[string]string{"later@three.example": "451 4.7.1 later"})
		f.start()
		for d := time.Duration(0); d <= 121*time.Hour; d += 11 * time.Hour {
			c := f.client(outboundAt)
			c.ask("EHLO client.example", "250")
			c.talk(fanTo("a@one.example", "later@three.example"), "250 | 250 | 250 | 354 ", hostileText+".", "451 4.3.0", "QUIT", "221 ")
			time.Sleep(11 * time.Hour)
		}
		f.wantCopies("a@one.example")
	})
}

// Of a recipient that is named twice, one copy is a delivery.
func TestFanoutNamedTwice(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newFanWorld(t, func(o *OutboundConfig) {
			o.Route, o.Offer = "", nil
			o.Relay = Endpoint{Host: "203.0.113.50", Port: 24, LMTP: true}
		})
		hop := &refpeer.Server{LMTP: true, Keywords: refpeer.Modern()}
		hop.Behave = func(e refpeer.Event) refpeer.Action {
			if e.Kind == refpeer.EndOfData && e.Rcpt == 1 {
				return refpeer.Say("452 4.2.2 quota")
			}
			return refpeer.Action{}
		}
		f.serve("203.0.113.50:24", hop)
		f.start()
		c := f.client(outboundAt)
		c.ask("EHLO client.example", "250")
		to := fanTo("a@x.example", "a@x.example")
		c.talk(to, "250 | 250 | 250 | 354 ", hostileText+".", "451 4.3.0",
			to, "250 | 250 | 250 | 354 ", hostileText+".", "250 2.0.0", "QUIT", "221 ")
		if n := len(hop.Messages()); n != 1 {
			t.Errorf("it was sent %d times, want once", n)
		}
		f.wantHeld(0)
	})
}

// A leg that nobody was accepted on makes no room for another while it is about to
// be asked itself.
func TestFanoutIdleLegAskedAgain(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newFanWorld(t, func(o *OutboundConfig) { o.Split = split452 })
		one := f.hop("one", nil)
		one.RcptReplies["no@one.example"] = "550 5.1.1 nobody"
		f.hop("two", nil)
		f.start()
		c := f.client(outboundAt)
		c.ask("EHLO client.example", "250")
		c.ask(fanMail, "250 ")
		c.ask("RCPT TO:<no@one.example>", "550 ")
		c.say("RCPT TO:<a@one.example>", "RCPT TO:<b@two.example>")
		c.want("250 ")
		c.want("452 ")
	})
}

// The MTA's machine restarts within the time that the session waits for a command.
func TestFanoutQuickRestart(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newFanWorld(t)
		hop := f.hop("one", nil)
		hop.Behave = func(e refpeer.Event) refpeer.Action {
			if e.Kind == refpeer.EndOfData {
				return refpeer.Action{Delay: 5 * time.Second}
			}
			return refpeer.Action{}
		}
		f.start()
		c := f.client(outboundAt)
		c.ask("EHLO client.example", "250")
		c.talk(fanTo("a@one.example"), "250 | 250 | 354 ")
		c.say(hostileText + ".")
		time.Sleep(time.Second)
		f.net.Blackhole(c.conn.LocalAddr().String())
		time.Sleep(2 * time.Minute)
		f.wantCopies("a@one.example")
		c = f.client(outboundAt)
		c.ask("EHLO client.example", "250")
		c.talk(fanTo("a@one.example"), "250 | 250 | 354 ", hostileText+".", "250 2.0.0", "QUIT", "221 ")
		f.wantCopies("a@one.example")
	})
}

// An attempt waits for an earlier one that is still under way on another session.
func TestFanoutUnderWay(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newFanWorld(t)
		f.hop("one", nil)
		slow := f.hop("two", nil)
		slow.Behave = func(e refpeer.Event) refpeer.Action {
			if e.Kind == refpeer.EndOfData {
				return refpeer.Action{Delay: 20 * time.Second}
			}
			return refpeer.Action{}
		}
		f.start()
		for i := range 2 {
			c := f.client(outboundAt)
			c.ask("EHLO client.example", "250")
			c.talk(fanTo("a@one.example", "b@two.example"), "250 | 250 | 250 | 354 ")
			c.say(hostileText + ".")
			time.Sleep(time.Second)
			if i == 0 {
				_ = c.conn.Close()
				continue
			}
			c.want("451 4.3.0 Slipstream: an earlier attempt")
			c.talk("QUIT", "221 ")
		}
		time.Sleep(time.Minute)
		c := f.client(outboundAt)
		c.ask("EHLO client.example", "250")
		c.talk(fanTo("a@one.example", "b@two.example"), "250 | 250 | 250 | 354 ", hostileText+".", "250 2.0.0", "QUIT", "221 ")
		f.wantCopies("a@one.example", "b@two.example")
		f.wantHeld(0)
	})
}

// So does one that would send its text along with its envelope.
func TestFanoutUnderWayAhead(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newFanWorld(t)
		slow := f.hop("one", nil)
		slow.Behave = func(e refpeer.Event) refpeer.Action {
			if e.Kind == refpeer.EndOfData {
				return refpeer.Action{Delay: 20 * time.Second}
			}
			return refpeer.Action{}
		}
		f.start()
		whole := fanMail + "\r\nRCPT TO:<a@one.example>" + fmt.Sprintf("\r\nBDAT %d LAST\r\n%s", len(hostileText), hostileText)
		first := f.client(outboundAt)
		first.ask("EHLO client.example", "250")
		first.raw(whole)
		time.Sleep(time.Second)
		_ = first.conn.Close()
		c := f.client(outboundAt)
		c.ask("EHLO CLIENT.EXAMPLE", "250")
		c.raw(strings.Replace(whole, "one.example", "ONE.example", 1)) // domains have no case
		c.want("250 ")
		c.want("250 ")
		c.want("451 4.3.0 Slipstream: an earlier attempt")
		time.Sleep(time.Minute)
		c.raw(whole)
		c.want("250 ")
		c.want("250 ")
		c.want("250 2.0.0")
		c.talk("QUIT", "221 ")
		f.wantCopies("a@one.example")
		f.wantHeld(0)
	})
}

// A client that sends many messages ahead, far away, hears of all of them in the
// end: none is remembered, and each may come again.
func TestFanoutManyAhead(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newFanWorld(t)
		f.hop("one", nil)
		f.net.SetLink(clientHost, proxyHost, netsim.Link{Delay: 400 * time.Millisecond})
		f.start()
		const messages = 3 * maxUnheard
		for range 2 {
			c := f.client(outboundAt)
			c.ask("EHLO client.example", "250")
			for i := range messages {
				text := fmt.Sprintf("Subject: %d\r\n\r\ntext\r\n", i)
				c.raw(fanMail + "\r\nRCPT TO:<a@one.example>" + fmt.Sprintf("\r\nBDAT %d LAST\r\n%s", len(text), text))
			}
			for range 3 * messages {
				c.want("250 ")
			}
			c.talk("QUIT", "221 ")
			f.wantHeld(0)
		}
		if n := len(f.copies()); n != 2*messages {
			t.Errorf("%d copies, want %d", n, 2*messages)
		}
	})
}
