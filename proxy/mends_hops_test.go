package proxy

import (
	"fmt"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"slipstream/bench/refpeer"
	"slipstream/tlsstore"
)

// A connection that went on in clear because its TLS failed is good for one
// transaction: the next message tries TLS, and does not inherit the failure (P4).
func TestMendsClearIsNotKept(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		failed := false
		cert := newTestCert(t, "mx.example.org")
		hop := w.serve(mxAddr, &refpeer.Server{Keywords: refpeer.Modern(), TLS: cert.server(),
			Behave: func(ev refpeer.Event) refpeer.Action {
				if ev.Kind == refpeer.Command && ev.Verb == "STARTTLS" && !failed {
					failed = true
					return refpeer.Action{Reply: "220 go\r\n", Close: true}
				}
				return refpeer.Action{}
			}})
		w.outbound(func(o *OutboundConfig) { o.PoolIdle = time.Minute })
		w.start()
		for i := range 6 {
			c := w.client(outboundAt)
			c.ask("EHLO client.example", "250")
			mendsHonest(t, hop, fmt.Sprint(i), c.flight(fmt.Sprint(i), "b@example.org"), "b@example.org")
			c.ask("QUIT", "221 ")
			time.Sleep(40 * time.Second)
		}
		m := hop.Messages()
		if len(m) != 6 {
			t.Fatalf("the hop has %d messages, want 6", len(m))
		}
		for i := range m {
			if clear := m[i].TLS == 0; clear != (i == 0) {
				t.Errorf("message %d went in clear: %t", i, clear)
			}
		}
		if n := w.counter("slipstream_tls_fallbacks_total", "outbound"); n != 1 {
			t.Errorf("%v connections were told to have gone on in clear, want 1", n)
		}
	})
}

// A hop whose TLS fails, and which does not offer it when it is asked again, is
// spoken to in clear, and that is told, whether TLS was begun early or not.
func TestMendsQuietClearIsTold(t *testing.T) {
	for _, early := range []bool{false, true} {
		t.Run(fmt.Sprintf("early=%t", early), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				w := newWorld(t)
				w.remember(tlsstore.Memory())
				cert := newTestCert(t, "mx.example.org")
				k := refpeer.Modern()
				k.PipeConnect = early
				hop := &refpeer.Server{Keywords: k, TLS: cert.server()}
				hop.Behave = func(ev refpeer.Event) refpeer.Action {
					switch {
					case ev.Kind != refpeer.Command:
					case ev.Verb == "STARTTLS" && ev.Conn == 1:
						return refpeer.Action{Reply: "220 go\r\n", Close: true}
					case ev.Verb == "EHLO" && ev.Conn > 1 && !ev.Secured:
						return refpeer.Action{Reply: strings.Replace(ev.Reply, "STARTTLS", "XNOTHING", 1) + "\r\n"}
					}
					return refpeer.Action{}
				}
				w.serve(mxAddr, hop)
				w.outbound(func(o *OutboundConfig) { o.Resume = false })
				w.start()
				for i := range 2 {
					c := w.client(outboundAt)
					c.ask("EHLO client.example", "250")
					mendsHonest(t, hop, fmt.Sprint(i), c.flight(fmt.Sprint(i), "b@example.org"), "b@example.org")
					c.ask("QUIT", "221 ")
					time.Sleep(time.Minute)
				}
				m := hop.Messages()
				if len(m) != 2 || m[0].TLS == 0 || m[1].TLS != 0 {
					t.Fatalf("%d messages, want one with TLS and one in clear", len(m))
				}
				if n := w.counter("slipstream_tls_fallbacks_total", "outbound"); n != 1 {
					t.Errorf("%v connections were told to have gone on in clear, want 1", n)
				}
			})
		})
	}
}

// A backend that takes three transactions of a connection and says 452 to the
// fourth is no reason to defer anybody: the client did not choose to be the
// fourth one.
func TestMendsBackendCountsTransactions(t *testing.T) {
	for _, pipelined := range []bool{false, true} {
		t.Run(fmt.Sprintf("pipelined=%t", pipelined), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				w := newWorld(t)
				backend := &refpeer.Server{Keywords: refpeer.Modern()}
				backend.Behave = func(ev refpeer.Event) refpeer.Action {
					if ev.Kind == refpeer.Command && ev.Verb == "MAIL" && ev.N >= 3 {
						return refpeer.Say("452 4.3.2 too many messages in this session")
					}
					return refpeer.Action{}
				}
				w.serve(backendAddr, backend)
				w.inbound(func(in *InboundConfig) { in.PoolIdle = 30 * time.Second })
				w.start()
				for i := range 20 {
					c := w.client(inboundAt)
					c.ask(fmt.Sprintf("EHLO client%d.example", i), "250")
					if pipelined {
						c.send()
					} else {
						c.deliver(fmt.Sprint(i))
					}
					c.ask("QUIT", "221 ")
					time.Sleep(50 * time.Millisecond)
				}
				if n := len(backend.Messages()); n != 20 {
					t.Errorf("the backend has %d messages, want 20", n)
				}
			})
		})
	}
}

// A connection over which nothing was delivered is not given to the next client:
// a backend that counts who is refused counts against the one who was.
func TestMendsRefusedIsNotPassedOn(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		nobody := "550 5.1.1 nobody"
		backend := w.serve(backendAddr, &refpeer.Server{Keywords: refpeer.Modern(),
			RcptReplies: map[string]string{"no1@example.org": nobody, "no2@example.org": nobody}})
		w.inbound(func(in *InboundConfig) { in.PoolIdle = 30 * time.Second })
		w.start()
		for i := range 5 {
			bad := w.client(inboundAt)
			bad.ask(fmt.Sprintf("EHLO spam%d.example", i), "250")
			bad.talk("MAIL FROM:<a@spam.example>\r\nRCPT TO:<no1@example.org>\r\nRCPT TO:<no2@example.org>",
				"250 | 550 5.1.1 | 550 5.1.1 ", "QUIT", "221 ")
			time.Sleep(50 * time.Millisecond)
			good := w.client(inboundAt)
			good.ask("EHLO client.example", "250")
			good.send()
			good.ask("QUIT", "221 ")
			time.Sleep(50 * time.Millisecond)
		}
		time.Sleep(time.Minute)
		spoilt := 0
		for _, conn := range backend.Connections() {
			said := strings.Join(conn.Commands, "\n")
			if !strings.Contains(said, "RCPT TO:<no") {
				continue
			}
			spoilt++
			if _, after, _ := strings.Cut(said, "RCPT TO:<no"); strings.Contains(after, "\nMAIL ") {
				t.Errorf("a connection was used again behind refusals:\n%s", said)
			}
		}
		if n := len(backend.Messages()); n != 5 || spoilt != 5 {
			t.Errorf("%d messages and %d connections with refusals, want 5 of each", n, spoilt)
		}
	})
}

// Who asks an LMTP door about recipients, and sends no text along, hears the hop.
func TestMendsLMTPCallout(t *testing.T) {
	for name, talk := range map[string][]string{
		"at once": {"MAIL FROM:<a@client.example>\r\nRCPT TO:<no@example.org>", "250 | 550 5.1.1 nobody"},
		"lock step": {"MAIL FROM:<a@client.example>", "250 ", "RCPT TO:<no@example.org>", "550 5.1.1 nobody",
			"RCPT TO:<b@example.org>", "250 "},
		"two of them": {"MAIL FROM:<a@client.example>\r\nRCPT TO:<b@example.org>\r\nRCPT TO:<no@example.org>",
			"250 | 250 | 550 5.1.1 nobody"},
		"and RSET": {"MAIL FROM:<a@client.example>\r\nRCPT TO:<no@example.org>\r\nRSET",
			"250 | 550 5.1.1 nobody | 250 "},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				w := newWorld(t)
				hop := w.serve(mxAddr, &refpeer.Server{Keywords: refpeer.Modern(),
					RcptReplies: map[string]string{"no@example.org": "550 5.1.1 nobody"}})
				w.outbound(func(o *OutboundConfig) { o.Protocol = "lmtp" })
				w.start()
				c := w.lmtpClient()
				c.talk(talk...)
				c.ask("QUIT", "221 ")
				if n := len(hop.Messages()); n != 0 {
					t.Errorf("the hop has %d messages", n)
				}
			})
		})
	}
}

// LIMITS MAILMAX holds within one session of a client too, where nothing is kept
// between sessions: https://www.rfc-editor.org/rfc/rfc9422#section-4
func TestMendsMailmaxInOneSession(t *testing.T) {
	for _, relay := range []bool{false, true} {
		t.Run(fmt.Sprintf("relay=%t", relay), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				w := newWorld(t)
				k := refpeer.Modern()
				k.Extra = []string{"LIMITS MAILMAX=3"}
				hop := &refpeer.Server{Keywords: k}
				hop.Behave = func(ev refpeer.Event) refpeer.Action {
					if ev.Kind == refpeer.Command && ev.Verb == "MAIL" && ev.N >= 3 {
						return refpeer.Say("421 4.7.0 too many messages")
					}
					return refpeer.Action{}
				}
				w.serve(mxAddr, hop)
				w.outbound(func(o *OutboundConfig) {
					if relay {
						o.Route, o.Offer, o.Relay = "", nil, Endpoint{Host: mxHost, Port: 25}
					}
				})
				w.start()
				synctest.Wait()
				asked := hop.Accepted()
				c := w.client(outboundAt)
				c.ask("EHLO client.example", "250")
				for i := range 4 {
					c.deliver(fmt.Sprint(i))
				}
				c.ask("QUIT", "221 ")
				synctest.Wait()
				conns := hop.Connections()[asked:]
				if len(conns) != 2 || mendsMails(conns[0]) != 3 || mendsMails(conns[1]) != 1 {
					t.Errorf("%d connections for 4 messages, want 2, with 3 and 1 of them", len(conns))
				}
				if n := len(hop.Messages()); n != 4 {
					t.Errorf("the hop has %d messages, want 4", n)
				}
			})
		})
	}
}

// More domains at one address than there may be connections to it: one
// transaction does not wait for room that it takes up itself.
func TestMendsThreeDomainsTwoConnections(t *testing.T) {
	for _, idle := range []time.Duration{0, 30 * time.Second} {
		t.Run(fmt.Sprintf("pool_idle=%v", idle), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				w := newWorld(t)
				w.net.Default.Delay = 5 * time.Millisecond
				domains := []string{"one.example", "two.example", "three.example"}
				for _, d := range domains {
					w.lmtpDomain(d, mxHost, nil)
				}
				hop := w.serve(mxAddr, &refpeer.Server{Keywords: refpeer.Modern()})
				w.outbound(func(o *OutboundConfig) { o.Protocol, o.HopConnections, o.PoolIdle = "lmtp", 2, idle })
				w.start()
				c := w.lmtpClient()
				flight := "MAIL FROM:<a@client.example>\r\n"
				for _, d := range domains {
					flight += "RCPT TO:<b@" + d + ">\r\n"
				}
				spent := took(func() {
					c.talk(flight+"DATA", "250 | 250 | 250 | 250 | 354 ", hostileText+".", "250 | 250 | 250 ")
				})
				if spent > time.Second {
					t.Errorf("it took %v", spent)
				}
				taken := map[string]int{}
				for _, m := range hop.Messages() {
					for _, rc := range m.Recipients() {
						taken[rc]++
					}
				}
				for _, d := range domains {
					if taken["b@"+d] != 1 {
						t.Errorf("taken %d times for %s", taken["b@"+d], d)
					}
				}
			})
		})
	}
}
