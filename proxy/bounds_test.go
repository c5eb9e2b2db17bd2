package proxy

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"
	"unsafe"

	"slipstream/bench/refpeer"
	"slipstream/smtpwire"
)

// Clients that find no room come on top of those that are in, so that only so
// many at a time are told why. The others are let go at once, without a word:
// connections may not grow with the number of those who knock.
func TestTurnedAwayClientsAreBounded(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		w.serve(backendAddr, &refpeer.Server{Keywords: refpeer.Modern()})
		w.inbound()
		w.cfg.Limits.MaxConnections = 1
		w.start()
		inside := w.client(inboundAt)
		for range 2 { // once those who were told have gone, there is room for others
			var told, silent int
			for range 4 * maxGoodbyes { // none of them leaves
				c := w.connect(inboundAt)
				synctest.Wait()
				_ = c.conn.SetReadDeadline(time.Now().Add(time.Millisecond))
				line, err := bufio.NewReader(c.conn).ReadString('\n')
				switch {
				case strings.HasPrefix(line, "421 4.3.2 too many connections"):
					told++
				case line == "" && errors.Is(err, io.EOF):
					silent++
				default:
					t.Fatalf("heard %q, %v", line, err)
				}
				if n := len(w.proxy.goodbyes); n > maxGoodbyes {
					t.Fatalf("%d clients are being turned away at a time", n)
				}
			}
			if told != maxGoodbyes || silent != 3*maxGoodbyes {
				t.Errorf("%d clients were told and %d were not, want %d and %d", told, silent, maxGoodbyes, 3*maxGoodbyes)
			}
			time.Sleep(turnAwayWait + lingerTime)
			synctest.Wait()
			if n := len(w.proxy.goodbyes); n != 0 {
				t.Errorf("%d clients are held who were turned away long ago", n)
			}
		}
		inside.ask("NOOP", "250 ")
	})
}

// boundsTransaction is the open transaction of the only session. Nothing of ours
// runs while the caller looks at it.
func boundsTransaction(t *testing.T, p *Proxy) *transaction {
	t.Helper()
	synctest.Wait()
	p.mu.Lock()
	defer p.mu.Unlock()
	if len(p.sessions) != 1 {
		t.Fatalf("there are %d sessions", len(p.sessions))
	}
	for s := range p.sessions {
		if s.tx != nil {
			return s.tx
		}
	}
	t.Fatal("there is no transaction")
	return nil
}

// boundsOctets is the size of a reply's words.
func boundsOctets(r smtpwire.Reply) int {
	n := 0
	for _, line := range r.Lines {
		n += len(line)
	}
	return n
}

// A hop may say very much about each of a thousand recipients. What the client
// hears of it is bounded, and what is remembered until the end is less.
func TestRepliesKeptOfRecipientsAreBounded(t *testing.T) {
	const rcpts = 200
	for name, code := range map[string]int{"accepted": 250, "refused": 550} {
		for how, line := range map[string]int{"many lines": 500, "long lines": 4000} {
			t.Run(name+"/"+how, func(t *testing.T) {
				synctest.Test(t, func(t *testing.T) {
					w := newWorld(t)
					big := strings.Repeat(fmt.Sprintf("%d-%s\r\n", code, strings.Repeat("x", line)), 60_000/line) + fmt.Sprintf("%d end\r\n", code)
					w.serve(mxAddr, &refpeer.Server{Keywords: refpeer.Modern(), Record: -1, Behave: hopsAt("RCPT", refpeer.Action{Reply: big})})
					w.outbound()
					w.start()
					c := w.client(outboundAt)
					c.ask("EHLO client.example", "250")
					c.ask("MAIL FROM:<s@client.example>", "250 ")
					for i := range rcpts {
						if got := c.ask(fmt.Sprintf("RCPT TO:<u%d@example.org>", i), fmt.Sprint(code)); len(got) > 2*maxRepeated {
							t.Fatalf("the client heard %d octets", len(got))
						}
					}
					tx, kept := boundsTransaction(t, w.proxy), 0
					for _, rc := range tx.rcpts {
						kept += boundsOctets(rc.reply) + boundsOctets(rc.final)
					}
					if len(tx.rcpts) != rcpts || kept > rcpts*maxBrief {
						t.Errorf("%d octets are kept of the replies for %d recipients, want %d at the most", kept, len(tx.rcpts), rcpts*maxBrief)
					}
				})
			})
		}
	}
}

// What is remembered may not hold on to the memory of all that was said.
func TestBriefReplyIsACopy(t *testing.T) {
	line := strings.Repeat("x", 2*maxBrief)
	kept := brief(smtpwire.Reply{Code: 250, Lines: []string{line, line}})
	if len(kept.Lines) != 1 || len(kept.Lines[0]) != maxBrief || kept.Code != 250 {
		t.Errorf("kept %d lines, the first of %d octets", len(kept.Lines), len(kept.Lines[0]))
	}
	if unsafe.StringData(kept.Lines[0]) == unsafe.StringData(line) {
		t.Error("the beginning keeps the whole line in memory")
	}
}

// A client may be refused any number of recipients in one transaction. They are
// remembered for the log and for the order of replies, within bounds, and those
// that were accepted never make room for them.
func TestRefusedRecipientsAreForgotten(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		hop := w.serve(mxAddr, &refpeer.Server{Keywords: refpeer.Modern(), Behave: func(ev refpeer.Event) refpeer.Action {
			if ev.Kind == refpeer.Command && ev.Verb == "RCPT" && strings.HasPrefix(ev.Address, "u") {
				return refpeer.Say("550 5.1.1 unknown")
			}
			return refpeer.Action{}
		}})
		w.outbound()
		w.cfg.Limits.MaxRecipients = 10
		w.start()
		c := w.client(outboundAt)
		c.ask("EHLO client.example", "250")
		c.ask("MAIL FROM:<s@client.example>", "250 ")
		c.ask("RCPT TO:<first@example.org>", "250 ")
		for i := range 200 {
			c.ask(fmt.Sprintf("RCPT TO:<u%d@example.org>", i), "550 5.1.1 ")
			if n, most := len(boundsTransaction(t, w.proxy).rcpts), 2*w.cfg.Limits.MaxRecipients+1; n > most {
				t.Fatalf("%d recipients are remembered, want %d at the most", n, most)
			}
		}
		c.ask("RCPT TO:<last@example.org>", "250 ")
		c.talk("DATA", "354 ", hostileText+".", "250 ")
		if m := hop.Messages(); len(m) != 1 || len(m[0].Rcpts) != 2 {
			t.Fatalf("delivered %+v", m)
		}
		if s := w.last(); s.Status != "sent" {
			t.Errorf("the log says %q", s.Status)
		}
	})
}

// A hop that talks on behind its final reply, slowly and without an end, may
// not hold up the senders of other recipients: they would give up and send
// again what is delivered already.
func TestTrickleBehindVerdictIsCutShort(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		var trickled atomic.Int64
		inText := false
		w.hostileHop(mxAddr, func(conn net.Conn, line string) string {
			switch {
			case line == hostileConnect:
				return "220 mx.example.org\r\n"
			case inText && line != ".":
				return "\x00"
			case inText:
				inText = false
				go func() { // ends with the connection
					for {
						time.Sleep(lastWordsWait * 9 / 10)
						if _, err := conn.Write([]byte("k\r\n250 o")); err != nil {
							return
						}
						trickled.Add(1)
					}
				}()
				return "250 taken\r\n250 o"
			case line == "DATA":
				inText = true
				return "354 go\r\n"
			}
			return "250 ok\r\n"
		})
		w.dns.mx["good.example"] = []*net.MX{{Host: "good.example", Pref: 1}}
		w.dns.addrs["good.example"] = []netip.Addr{netip.MustParseAddr("203.0.113.20")}
		good := w.serve("203.0.113.20:25", &refpeer.Server{Keywords: refpeer.Modern()})
		w.outbound(legDoor)
		w.start()
		c := w.client(outboundAt)
		c.ask("LHLO client.example", "250")
		c.ask("MAIL FROM:<s@client.example>", "250 ")
		c.ask("RCPT TO:<v@good.example>", "250 ")
		c.ask("RCPT TO:<w@example.org>", "250 ")
		c.ask("DATA", "354 ")
		start := time.Now()
		c.raw(hostileText + ".\r\n")
		c.want("250 2.0.0 ")
		c.want("451 4.4.2 ") // which of its words meant the message cannot be known
		if took := time.Since(start); took > 2*lastWordsWait {
			t.Errorf("the final replies took %v", took)
		}
		if len(good.Messages()) != 1 || !w.last().InDoubt {
			t.Errorf("%d messages at the good host; in doubt: %t", len(good.Messages()), w.last().InDoubt)
		}
		c.ask("QUIT", "221 ")
		time.Sleep(time.Minute)
		if n := trickled.Load(); n > 3 {
			t.Errorf("the hop could go on for %d lines", n)
		}
	})
}
