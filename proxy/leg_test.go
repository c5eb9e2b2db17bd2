package proxy

import (
	"net"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"slipstream/bench/refpeer"
)

// legDoor is a door that takes several destinations in one transaction.
func legDoor(out *OutboundConfig) { out.Protocol, out.LateVerdict = "lmtp", false }

// legTwoHosts gives a domain two MX hosts, and a hop at each of them.
func legTwoHosts(w *world, domain string, first, second *refpeer.Server) {
	w.dns.mx[domain] = []*net.MX{{Host: "a1." + domain, Pref: 1}, {Host: "a2." + domain, Pref: 2}}
	w.dns.addrs["a1."+domain] = []netip.Addr{netip.MustParseAddr("203.0.113.11")}
	w.dns.addrs["a2."+domain] = []netip.Addr{netip.MustParseAddr("203.0.113.12")}
	w.serve("203.0.113.11:25", first)
	w.serve("203.0.113.12:25", second)
}

// Replies leave in the order of the commands, so a slow leg may take along what
// another leg had answered already. When that leg's hop dies behind it, its
// answer stands: asking the next hop could only contradict what the client has
// heard, and lose or double a recipient.
func TestAnswerThatLeftWithAnotherLegStands(t *testing.T) {
	const taken, unknown = "250 2.1.5 ok", "550 5.1.1 unknown"
	for name, said := range map[string][2]string{
		"taken, then unknown": {taken, unknown},
		"unknown, then taken": {unknown, taken},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				w := newWorld(t)
				a1 := &refpeer.Server{Keywords: refpeer.Keywords{EightBitMIME: true}, Behave: func(ev refpeer.Event) refpeer.Action {
					switch {
					case ev.Kind != refpeer.Command || ev.Verb != "RCPT":
						return refpeer.Action{}
					case ev.Address == "one@a.example":
						return refpeer.Say(said[0])
					}
					return refpeer.Action{Delay: 3 * slowReply, Close: true}
				}}
				a2 := &refpeer.Server{Keywords: refpeer.Modern(), RcptReplies: map[string]string{"one@a.example": said[1]}}
				legTwoHosts(w, "a.example", a1, a2)
				w.serve(mxAddr, &refpeer.Server{Keywords: refpeer.Modern(), Behave: hopsAt("RCPT", refpeer.Action{Delay: 2 * slowReply})})
				w.outbound(legDoor)
				w.start()
				c := w.client(outboundAt)
				c.ask("LHLO client.example", "250")
				c.say("MAIL FROM:<s@client.example>", "RCPT TO:<b@example.org>", "RCPT TO:<one@a.example>", "RCPT TO:<two@a.example>")
				c.want("250 ")
				c.want("250 ")
				one := c.want(said[0][:3])
				two := c.want("")
				c.ask("DATA", "354 ")
				c.raw(hostileText + ".\r\n")
				for _, r := range []string{"250", one, two} {
					if strings.HasPrefix(r, "250") {
						c.want("") // one final reply for each that was accepted, whatever it says
					}
				}
				c.ask("RSET", "250 2.0.0 ") // and none beyond them: the session is in step
				c.ask("QUIT", "221 ")
				delivered := slices.ContainsFunc(a2.Messages(), func(m refpeer.Message) bool {
					return slices.ContainsFunc(m.Rcpts, func(rcpt string) bool { return strings.Contains(rcpt, "one@a.example") })
				})
				if delivered && said[0] == unknown {
					t.Errorf("delivered to a recipient of whom the client heard %q", one)
				}
			})
		})
	}
}

// A client on a thin line may need longer for its text than a hop is willing to
// wait. Nothing of the text was said to the hop until then, so a new connection
// is asked for the same recipients, and the message arrives once.
func TestTextSlowerThanHopArrivesOnce(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		hop := w.serve(backendAddr, &refpeer.Server{Keywords: refpeer.Modern(), Idle: 5 * time.Minute})
		w.inbound()
		w.start()
		c := w.client(inboundAt)
		text := legSlowText(c)
		c.ask(".", "250 2.0.0 ")
		if m := hop.Messages(); len(m) != 1 || string(m[0].Body) != text {
			t.Errorf("the hop has %d messages, want the one that was sent", len(m))
		}
		c.send() // the session is in step
	})
}

// Where the hop, asked anew, does not take all whom the client was told it had
// taken, the client must try again: a 2xx would lose somebody.
func TestTextSlowerThanHopOfAnotherMind(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		hop := w.serve(backendAddr, &refpeer.Server{Keywords: refpeer.Modern(), Idle: 5 * time.Minute, Behave: func(ev refpeer.Event) refpeer.Action {
			// The first connection asked what the hop offers, the second took both.
			if ev.Conn == 2 && ev.Kind == refpeer.Command && ev.Verb == "RCPT" && ev.Address == "c@example.org" {
				return refpeer.Say("550 5.1.1 gone meanwhile")
			}
			return refpeer.Action{}
		}})
		w.inbound()
		w.start()
		c := w.client(inboundAt)
		legSlowText(c, "c@example.org")
		c.ask(".", "451 ")
		if n := len(hop.Messages()); n != 0 {
			t.Errorf("%d messages were delivered", n)
		}
		c.send()
	})
}

// legSlowText sends the envelope and a text that takes six minutes, without its
// final dot, and returns the text.
func legSlowText(c *dialog, further ...string) string {
	c.t.Helper()
	c.ask("EHLO client.example", "250")
	c.ask("MAIL FROM:<a@client.example>", "250 ")
	for _, rcpt := range append(further, "b@example.org") {
		c.ask("RCPT TO:<"+rcpt+">", "250 ")
	}
	c.ask("DATA", "354 ")
	text := ""
	for range 60 {
		line := strings.Repeat("x", 70) + "\r\n"
		c.raw(line)
		text += line
		time.Sleep(6 * time.Second)
	}
	return text
}

// Two names that differ may be spelled so that folding makes them one (capital
// sharp s). Each recipient's mail goes where its own name leads.
func TestLookAlikeDomainsHaveTheirOwnRoutes(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		w.dns.mx["strasse.example"] = []*net.MX{{Host: "evil.example", Pref: 1}}
		w.dns.addrs["evil.example"] = []netip.Addr{netip.MustParseAddr("203.0.113.66")}
		w.dns.mx["xn--strae-oqa.example"] = []*net.MX{{Host: "mx.example.org", Pref: 1}}
		evil := w.serve("203.0.113.66:25", &refpeer.Server{Keywords: refpeer.Modern()})
		own := w.serve(mxAddr, &refpeer.Server{Keywords: refpeer.Modern()})
		w.outbound(legDoor)
		w.start()
		c := w.client(outboundAt)
		c.ask("LHLO client.example", "250")
		c.say("MAIL FROM:<a@client.example> SMTPUTF8", "RCPT TO:<x@straẞe.example>", "RCPT TO:<secret@straße.example>", "DATA")
		for range 3 {
			c.want("250 ")
		}
		c.want("354 ")
		c.raw(hostileText + ".\r\n")
		c.want("250 ")
		c.want("250 ")
		for _, conn := range evil.Connections() {
			if got := strings.Join(conn.Commands, "\n"); strings.Contains(got, "secret@") {
				t.Errorf("the host of strasse.example heard %q", got)
			}
		}
		if m := own.Messages(); len(m) != 1 || !strings.Contains(strings.Join(m[0].Rcpts, "\n"), "secret@") {
			t.Errorf("the host of straße.example has %d messages, want that to secret@", len(m))
		}
	})
}
