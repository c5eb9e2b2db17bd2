package proxy

import (
	"fmt"
	"net"
	"net/netip"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"slipstream/bench/refpeer"
	"slipstream/tlsstore"
)

// flight sends a message in one segment, with BDAT, and returns the replies: to
// MAIL, to each RCPT, and to the text.
func (d *dialog) flight(id string, to ...string) []string {
	d.t.Helper()
	text := mendsText(id)
	var b strings.Builder
	b.WriteString("MAIL FROM:<a@client.example>\r\n")
	for _, a := range to {
		fmt.Fprintf(&b, "RCPT TO:<%s>\r\n", a)
	}
	fmt.Fprintf(&b, "BDAT %d LAST\r\n%s", len(text), text)
	d.raw(b.String())
	replies := make([]string, len(to)+2)
	for i := range replies {
		replies[i] = d.want("")
	}
	return replies
}

func mendsText(id string) string { return "Subject: " + id + "\r\n\r\ntext\r\n" }

// mendsCopies counts how often a hop took a message for a recipient.
func mendsCopies(hop *refpeer.Server, id, to string) (n int) {
	for _, m := range hop.Messages() {
		for _, rc := range m.Recipients() {
			if rc == to && strings.HasPrefix(string(m.Body), mendsText(id)) {
				n++
			}
		}
	}
	return n
}

// mendsHonest checks a flight against what the hop has: taken once where the
// client heard 250 for recipient and text, and never otherwise.
func mendsHonest(t *testing.T, hop *refpeer.Server, id string, replies []string, to ...string) {
	t.Helper()
	synctest.Wait()
	final := replies[len(replies)-1]
	for i, rc := range to {
		want := 0
		if strings.HasPrefix(replies[1+i], "250") && strings.HasPrefix(final, "250") {
			want = 1
		}
		if n := mendsCopies(hop, id, rc); n != want {
			t.Errorf("message %s was taken %d times for %s, want %d: the client heard %q", id, n, rc, want, replies)
		}
	}
}

// mendsTwoMX gives example.org a first mail host, which is served by one if there
// is one, and a second one, which works.
func mendsTwoMX(w *world, one *refpeer.Server) *refpeer.Server {
	const first = "203.0.113.9"
	w.dns.mx["example.org"] = []*net.MX{{Host: "mx1.example.org", Pref: 10}, {Host: "mx2.example.org", Pref: 20}}
	w.dns.addrs["mx1.example.org"] = []netip.Addr{netip.MustParseAddr(first)}
	w.dns.addrs["mx2.example.org"] = []netip.Addr{netip.MustParseAddr(mxHost)}
	if one != nil {
		w.serve(first+":25", one)
	}
	return w.serve(mxAddr, &refpeer.Server{Keywords: refpeer.Modern(), Idle: time.Hour})
}

// A client that writes its text for minutes has the same hosts to go to as one
// that is quick: the time for the first hop is not what the others have left.
func TestMendsSlowTextFindsSecondHost(t *testing.T) {
	busy := func() *refpeer.Server {
		greylists := hopsAt("MAIL", refpeer.Say("451 4.7.1 greylisted"))
		return &refpeer.Server{Keywords: refpeer.Modern(), Idle: time.Hour, Behave: greylists}
	}
	for name, first := range map[string]func() *refpeer.Server{
		"refuses the connection": func() *refpeer.Server { return nil },
		"says 451 to MAIL":       busy,
	} {
		for _, late := range []bool{true, false} {
			t.Run(fmt.Sprintf("%s, late=%t", name, late), func(t *testing.T) {
				synctest.Test(t, func(t *testing.T) {
					w := newWorld(t)
					second := mendsTwoMX(w, first())
					w.outbound(func(o *OutboundConfig) { o.LateVerdict = late })
					w.start()
					c := w.client(outboundAt)
					c.ask("EHLO client.example", "250")
					c.talk(hostileMail+"\r\nDATA", "250 | 250 | 354 ")
					c.raw("Subject: x\r\n\r\n")
					for range 5 {
						time.Sleep(time.Minute)
						c.raw("x\r\n")
					}
					c.ask(".", "250 ")
					if n := len(second.Messages()); n != 1 {
						t.Errorf("the second host has %d messages, want 1", n)
					}
				})
			})
		}
	}
}

// A connection that was made ahead, and that no recipient came for, is there for
// the next MAIL.
func TestMendsUnusedLeadIsKept(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		w.net.Default.Delay = 5 * time.Millisecond
		hop := w.serve(mxAddr, &refpeer.Server{Keywords: refpeer.Modern()})
		w.outbound(func(o *OutboundConfig) {
			o.Route, o.Relay, o.Offer = "", Endpoint{Host: mxHost, Port: 25}, nil
			o.PoolIdle = 30 * time.Second
		})
		w.start()
		time.Sleep(time.Second)
		asked := hop.Accepted() // what the hop offers
		c := w.client(outboundAt)
		c.ask("EHLO client.example", "250")
		for range 20 {
			c.ask("MAIL FROM:<a@client.example>", "250 ")
			time.Sleep(100 * time.Millisecond)
			c.ask("RSET", "250 ")
		}
		if n := hop.Accepted() - asked; n != 1 {
			t.Errorf("20 MAILs without a recipient made %d connections, want 1", n)
		}
		c.flight("1", "b@example.org")
		if n := hop.Accepted() - asked; n != 1 {
			t.Errorf("%d connections with the message, want 1", n)
		}
		if n := mendsCopies(hop, "1", "b@example.org"); n != 1 {
			t.Errorf("the message was taken %d times", n)
		}
	})
}

// mendsVerdict is a hop's reply to a text that tells which of all texts it is about.
func mendsVerdict(ev refpeer.Event, pause time.Duration) refpeer.Action {
	return refpeer.Action{Delay: pause, Reply: fmt.Sprintf("554 5.7.1 spam, text %d.\r\n", ev.Total)}
}

// mendsOwn checks that a verdict, if it is one, is about the text that it was the
// answer to.
func mendsOwn(t *testing.T, hop *refpeer.Server, id, heard string) {
	t.Helper()
	_, about, ok := strings.Cut(heard, "spam, ")
	if !ok {
		return
	}
	for _, m := range hop.Refused() {
		said := len(m.Final) == 1 && strings.HasSuffix(m.Final[0], about)
		if said && !strings.HasPrefix(string(m.Body), mendsText(id)) {
			t.Errorf("message %s heard %q, which was said about %q", id, heard, m.Body)
		}
	}
}

// A hop that answers MAIL twice, and judges the text a while later, has one more
// reply on its way when the transaction seems over. Whoever comes next does not
// hear it as the verdict on a text of his own (P1): the connection goes to
// nobody before RSET has shown it to be in step.
func TestMendsVerdictOfAnotherCustomer(t *testing.T) {
	for _, pause := range []time.Duration{100 * time.Millisecond, time.Second, 3 * time.Second} {
		t.Run(pause.String(), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				w := newWorld(t)
				w.net.Default.Delay = 5 * time.Millisecond
				hop := &refpeer.Server{Keywords: refpeer.Modern()}
				hop.Behave = func(ev refpeer.Event) refpeer.Action {
					switch {
					case ev.Verb == "MAIL" && ev.Conn == 0 && ev.N == 0:
						return refpeer.Action{Twice: true}
					case ev.Kind == refpeer.EndOfData && ev.Total == 0:
						return mendsVerdict(ev, pause)
					}
					return refpeer.Action{}
				}
				w.serve(mxAddr, hop)
				w.outbound(func(o *OutboundConfig) { o.PoolIdle = 30 * time.Second })
				w.start()
				one, two := w.client(outboundAt), w.client(outboundAt)
				one.ask("EHLO one.example", "250")
				two.ask("EHLO two.example", "250")
				one.flight("one", "b@example.org")
				heard := two.flight("two", "b@example.org")
				one.ask("QUIT", "221 ")
				two.ask("QUIT", "221 ")
				time.Sleep(time.Minute)
				if final := heard[len(heard)-1]; !strings.HasPrefix(final, "250 ") {
					t.Errorf("the second customer heard %q", final)
				}
				mendsHonest(t, hop, "two", heard, "b@example.org")
				if conns := hop.Connections(); len(conns) < 2 || mendsMails(conns[0]) != 1 {
					t.Errorf("%d connections, the first of them with %q", len(conns), conns[0].Commands)
				}
			})
		})
	}
}

// mendsMails counts the transactions of a connection.
func mendsMails(c refpeer.Connection) (n int) {
	for _, line := range c.Commands {
		if strings.HasPrefix(line, "MAIL ") {
			n++
		}
	}
	return n
}

// Nor does the same client hear about an earlier text, whatever was answered twice.
func TestMendsVerdictOfAnEarlierText(t *testing.T) {
	for _, verb := range []string{"RSET", "MAIL", "RCPT"} {
		for _, idle := range []time.Duration{0, 30 * time.Second} {
			t.Run(fmt.Sprintf("%s, pool_idle=%v", verb, idle), func(t *testing.T) {
				synctest.Test(t, func(t *testing.T) {
					w := newWorld(t)
					w.net.Default.Delay = 5 * time.Millisecond
					hop := &refpeer.Server{Keywords: refpeer.Modern()}
					hop.Behave = func(ev refpeer.Event) refpeer.Action {
						switch {
						case ev.Kind == refpeer.Command && ev.Verb == verb:
							return refpeer.Action{Twice: true}
						case ev.Kind == refpeer.EndOfData:
							return mendsVerdict(ev, 3*time.Second)
						}
						return refpeer.Action{}
					}
					w.serve(mxAddr, hop)
					w.outbound(func(o *OutboundConfig) { o.TLS, o.PoolIdle = "none", idle })
					w.start()
					c := w.client(outboundAt)
					c.ask("EHLO client.example", "250")
					var finals []string
					for i := range 3 {
						heard := c.flight(fmt.Sprint(i), "b@example.org")
						finals = append(finals, heard[len(heard)-1])
					}
					c.ask("QUIT", "221 ")
					time.Sleep(time.Minute)
					for i, final := range finals {
						mendsOwn(t, hop, fmt.Sprint(i), final)
						if verb == "RSET" && !strings.HasPrefix(final, "554 ") {
							t.Errorf("message %d heard %q, and was refused", i, final)
						}
					}
				})
			})
		}
	}
}

// A 421 that comes in front of good replies, where the hop has not closed, does
// not make a message that the hop took be sent again (P1).
func TestMendsSurplus421(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		hop := &refpeer.Server{Keywords: refpeer.Modern()}
		hop.Behave = func(ev refpeer.Event) refpeer.Action {
			if ev.Kind == refpeer.Command && ev.Verb == "MAIL" && ev.Conn == 0 && ev.N == 1 {
				return refpeer.Action{Reply: "421 4.4.2 idle\r\n250 ok\r\n"}
			}
			return refpeer.Action{}
		}
		w.serve(mxAddr, hop)
		w.outbound(func(o *OutboundConfig) { o.PoolIdle = time.Minute })
		w.start()
		c := w.client(outboundAt)
		c.ask("EHLO client.example", "250")
		for i := range 3 {
			heard := c.flight(fmt.Sprint(i), "b@example.org")
			time.Sleep(5 * time.Second)
			if n := mendsCopies(hop, fmt.Sprint(i), "b@example.org"); n > 1 {
				t.Errorf("message %d was taken %d times; the client heard %q", i, n, heard)
			} else if n == 0 && strings.HasPrefix(heard[2], "250") {
				t.Errorf("message %d was not taken; the client heard %q", i, heard)
			}
		}
	})
}

// The same where the hop no longer offers what it was sent early for, and says
// 421 to the second recipient.
func TestMendsMisled421(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		w.remember(tlsstore.Memory())
		k := refpeer.Modern()
		k.PipeConnect = true
		hop := &refpeer.Server{Keywords: k}
		hop.Behave = func(ev refpeer.Event) refpeer.Action {
			switch {
			case ev.Kind != refpeer.Command || ev.Conn == 0:
			case ev.Verb == "EHLO":
				return refpeer.Action{Reply: "250-mx.example\r\n250-PIPELINING\r\n250-8BITMIME\r\n250 CHUNKING\r\n"}
			case ev.Verb == "RCPT" && ev.Conn == 1 && strings.HasPrefix(ev.Address, "b@"):
				return refpeer.Say("421 4.7.0 too many for this one")
			}
			return refpeer.Action{}
		}
		w.serve(mxAddr, hop)
		w.outbound(func(o *OutboundConfig) { o.TLS = "none" })
		w.start()
		to := []string{"a@example.org", "b@example.org"}
		for i := range 2 {
			c := w.client(outboundAt)
			c.ask("EHLO client.example", "250")
			heard := c.flight(fmt.Sprint(i), to...)
			c.ask("QUIT", "221 ")
			time.Sleep(time.Minute)
			for j, rc := range to { // who is told that the outcome is unknown may have been served
				n, final := mendsCopies(hop, fmt.Sprint(i), rc), heard[len(heard)-1]
				taken := strings.HasPrefix(heard[1+j], "250") && strings.HasPrefix(final, "250")
				doubt := strings.Contains(heard[1+j]+final, "outcome unknown")
				if n > 1 || taken && n != 1 || !taken && !doubt && n != 0 {
					t.Errorf("message %d was taken %d times for %s; the client heard %q", i, n, rc, heard)
				}
			}
		}
		if n := hop.Accepted(); n < 2 {
			t.Errorf("the hop saw %d connections: it was never misled", n)
		}
	})
}
