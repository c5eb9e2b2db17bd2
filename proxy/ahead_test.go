package proxy

import (
	"context"
	"net/netip"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"slipstream/bench/netsim"
	"slipstream/bench/refpeer"
)

// While the MTA still thinks, the way to the hop is being made: from MAIL on where
// there is but one, from RCPT on where the text follows.
func TestAhead(t *testing.T) {
	const rtt = 100 * time.Millisecond
	start := func(t *testing.T, change func(*OutboundConfig)) (*world, *dialog) {
		w := newWorld(t)
		w.net.SetLink(proxyHost, mxHost, netsim.Link{Delay: rtt / 2})
		w.serve(mxAddr, &refpeer.Server{Keywords: refpeer.Modern()})
		w.outbound(change)
		w.start()
		c := w.client(outboundAt)
		c.ask("EHLO client.example", "250")
		return w, c
	}
	relay := func(o *OutboundConfig) { o.Route, o.Offer, o.Relay = "", nil, Endpoint{Host: mxHost, Port: 25} }
	answered := func(t *testing.T, want time.Duration, f func()) {
		t.Helper()
		if d := took(f); d != want {
			t.Errorf("answered after %v, want %v", d, want)
		}
	}
	t.Run("relay, lock step", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			w, c := start(t, relay)
			answered(t, 0, func() { c.ask("MAIL FROM:<a@client.example>", "250 2.1.0") })
			time.Sleep(time.Second)
			answered(t, rtt, func() { c.ask("RCPT TO:<b@example.org>", "250 ") })
			c.ask("DATA", "354 ")
			answered(t, rtt, func() { c.say("Subject: x", "", "."); c.want("250 ") })
			if s := w.last(); s.Trips != 5 {
				t.Errorf("%d trips", s.Trips)
			}
		})
	})
	t.Run("MX, text follows", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			_, c := start(t, func(*OutboundConfig) {})
			c.say("MAIL FROM:<a@client.example>", "RCPT TO:<b@example.org>", "DATA")
			answered(t, 0, func() { c.want("250 "); c.want("250 2.1.5"); c.want("354 ") })
			time.Sleep(time.Second)
			answered(t, rtt, func() { c.say("Subject: x", "", "."); c.want("250 ") })
		})
	})
	t.Run("nobody asks for it", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			w, c := start(t, relay)
			c.ask("MAIL FROM:<a@client.example>", "250 2.1.0")
			c.ask("RSET", "250 ")
			c.ask("MAIL FROM:<a@client.example>", "250 2.1.0")
			c.ask("QUIT", "221 ")
			if s := w.last(); s.Status != "aborted" {
				t.Errorf("the record says %q", s.Status)
			}
		})
	})
}

// sequenceDNS gives another address every time it is asked.
type sequenceDNS struct {
	*fakeDNS
	addrs []netip.Addr
	asked int
}

func (s *sequenceDNS) Addrs(context.Context, string, string) ([]netip.Addr, error) {
	s.asked++
	return s.addrs[min(s.asked, len(s.addrs))-1 : min(s.asked, len(s.addrs))], nil
}

// Where a route leads nowhere it is looked up once more: what the DNS had said may
// be out of date.
func TestRouteIsLookedUpAnew(t *testing.T) {
	for name, tt := range map[string]struct {
		addrs []string
		want  string
		asked int
	}{
		"it has moved": {[]string{"203.0.113.77", mxHost}, "250 ", 2},
		"it has not":   {[]string{"203.0.113.77"}, "451 4.4.1", 2},
		"all is well":  {[]string{mxHost}, "250 ", 1},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				w := newWorld(t)
				w.serve(mxAddr, &refpeer.Server{Keywords: refpeer.Modern()})
				w.outbound()
				dns := &sequenceDNS{fakeDNS: w.dns}
				for _, a := range tt.addrs {
					dns.addrs = append(dns.addrs, netip.MustParseAddr(a))
				}
				w.resolver = dns
				w.start()
				c := w.client(outboundAt)
				c.ask("EHLO client.example", "250")
				c.ask("MAIL FROM:<a@client.example>", "250 ")
				c.ask("RCPT TO:<b@example.org>", tt.want)
				if dns.asked != tt.asked {
					t.Errorf("the DNS was asked %d times, want %d", dns.asked, tt.asked)
				}
			})
		})
	}
}

// A hop's LIMITS are kept to; who is too many is told to come again.
func TestHopLimits(t *testing.T) {
	for name, tt := range map[string]struct {
		limits string
		rcpts  []string // and how they are answered
		mails  int      // on one connection
	}{
		"none":          {"", []string{"a@example.org 250", "b@example.org 250", "c@other.example 250"}, 3},
		"recipients":    {"RCPTMAX=2", []string{"a@example.org 250", "b@example.org 250", "c@example.org 452 4.5.3 Slipstream: "}, 3},
		"domains":       {"RCPTDOMAINMAX=1", []string{"a@example.org 250", "b@other.example 452 4.5.3 Slipstream: ", "c@EXAMPLE.org 250"}, 3},
		"mails":         {"MAILMAX=2", []string{"a@example.org 250"}, 2},
		"all":           {"MAILMAX=1 RCPTMAX=1 RCPTDOMAINMAX=1", []string{"a@example.org 250", "b@example.org 452"}, 1},
		"nonsense":      {"RCPTMAX=x MAILMAX= RCPTDOMAINMAX=9999999 FOO", []string{"a@example.org 250", "b@other.example 250"}, 3},
		"strange cases": {"rcptmax=1 Unknown=7", []string{"a@example.org 250", "b@example.org 452"}, 3},
	} {
		for _, pipelined := range []bool{false, true} {
			t.Run(name, func(t *testing.T) {
				synctest.Test(t, func(t *testing.T) {
					w := newWorld(t)
					k := refpeer.Modern()
					if tt.limits != "" {
						k.Extra = []string{"LIMITS " + tt.limits}
					}
					mx := w.serve(mxAddr, &refpeer.Server{Keywords: k})
					w.outbound(func(o *OutboundConfig) {
						o.Route, o.Offer, o.Relay = "", nil, Endpoint{Host: mxHost, Port: 25}
						o.PoolIdle = 30 * time.Second
					})
					w.start()
					probes := len(mx.Connections())
					for range 3 {
						c := w.client(outboundAt)
						c.ask("EHLO client.example", "250")
						flight := []string{"MAIL FROM:<a@client.example>"}
						for _, rc := range tt.rcpts {
							to, _, _ := strings.Cut(rc, " ")
							flight = append(flight, "RCPT TO:<"+to+">")
						}
						if pipelined {
							c.say(flight...)
						}
						for i, line := range flight {
							if !pipelined {
								c.say(line)
							}
							want := "250"
							if i > 0 {
								_, want, _ = strings.Cut(tt.rcpts[i-1], " ")
							}
							c.want(want)
						}
						c.ask("DATA", "354 ")
						c.say("Subject: x", "", ".")
						c.want("250 ")
						c.ask("QUIT", "221 ")
						synctest.Wait()
					}
					want := (3 + tt.mails - 1) / tt.mails
					if n := len(mx.Connections()) - probes; n != want {
						t.Errorf("%d connections for 3 messages, want %d", n, want)
					}
				})
			})
		}
	}
}
