package proxy

import (
	"context"
	"fmt"
	"net"
	"net/netip"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"slipstream/bench/netsim"
	"slipstream/bench/refpeer"
)

// An originalListener says of its connections that a rule redirected them.
type originalListener struct {
	net.Listener
	to   func() (netip.AddrPort, error) // where they were meant to go
	from func() netip.AddrPort          // zero: where they come from
}

type originalConn struct {
	*netsim.Conn
	ln *originalListener
}

func (l *originalListener) Accept() (net.Conn, error) {
	conn, err := l.Listener.Accept()
	if err != nil {
		return nil, err
	}
	return originalConn{conn.(*netsim.Conn), l}, nil
}

func (c originalConn) OriginalDestination() (netip.AddrPort, error) { return c.ln.to() }

func (c originalConn) RemoteAddr() net.Addr {
	if from := c.ln.from(); from.IsValid() {
		return net.TCPAddrFromAddrPort(from)
	}
	return c.Conn.RemoteAddr()
}

// originalWorld has a door to which connections to an address are redirected.
func originalWorld(t *testing.T, to string, change ...func(*OutboundConfig)) (*world, *originalListener) {
	w := newWorld(t)
	w.outbound(append([]func(*OutboundConfig){func(out *OutboundConfig) {
		out.Route, out.InterceptNetworks, out.Intercept = routeOriginal, everyNetwork(), interceptRedirect
	}}, change...)...)
	p := w.build()
	ln := &originalListener{to: func() (netip.AddrPort, error) { return netip.MustParseAddrPort(to), nil }}
	p.listen = func(_ context.Context, addr string) (net.Listener, error) {
		inner, err := w.net.Listen(addr)
		if err != nil {
			return nil, err
		}
		return &originalListener{Listener: inner, to: func() (netip.AddrPort, error) { return ln.to() }, from: func() netip.AddrPort {
			if ln.from == nil {
				return netip.AddrPort{}
			}
			return ln.from()
		}}, nil
	}
	if err := p.Start(t.Context()); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(w.stop)
	return w, ln
}

// The client hears the name of the host that it meant, and the host is called by the name that it has for the
// recipient.
func TestOriginalDelivers(t *testing.T) {
	ends := time.Date(2100, 1, 1, 0, 0, 0, 0, time.UTC)
	cert := tlspolicyCert(t, "mx.example.org", ends)
	roots := tlspolicyRoots(t, cert)
	synctest.Test(t, func(t *testing.T) {
		w, _ := originalWorld(t, mxAddr, func(out *OutboundConfig) { out.TLS, out.TLSCAFile = "verify", roots })
		s := w.serve(mxAddr, &refpeer.Server{Keywords: refpeer.Modern(), TLS: cert.server()})
		d := w.connect(outboundAt)
		d.want("220 [203.0.113.2] ESMTP Slipstream")
		offer := d.ask("EHLO proxy.example", "250")
		if !strings.HasPrefix(offer, "250-[203.0.113.2]\n") || strings.Contains(offer, "STARTTLS") || strings.Contains(offer, "proxy.example") {
			t.Errorf("offer %q", offer)
		}
		for i := range 2 {
			d.ask("MAIL FROM:<a@a.example>", "250")
			d.ask("RCPT TO:<b@example.org>", "250")
			d.ask("DATA", "354")
			d.say("Subject: x", "", "text", ".")
			d.want("250")
			if got := len(s.Messages()); got != i+1 {
				t.Fatalf("%d messages", got)
			}
		}
		sum := w.last()
		if sum.Relay != "mx.example.org[203.0.113.2]:25" || !sum.Verified {
			t.Errorf("summary %+v", sum)
		}
		if sni := s.Connections()[0].ServerName; sni != "mx.example.org" {
			t.Errorf("SNI %q", sni)
		}
	})
}

// Whatever else the recipient's domain has, mail goes where the client meant it to go.
func TestOriginalGoesNowhereElse(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w, _ := originalWorld(t, "203.0.113.3:25")
		w.dns.mx["example.org"] = []*net.MX{{Host: "mx.example.org", Pref: 10}, {Host: "backup.example.org", Pref: 20}}
		w.dns.addrs["backup.example.org"] = []netip.Addr{netip.MustParseAddr("203.0.113.3"), netip.MustParseAddr("203.0.113.4")}
		first := w.serve(mxAddr, &refpeer.Server{Keywords: refpeer.Modern()})
		second := w.serve("203.0.113.3:25", &refpeer.Server{Keywords: refpeer.Modern(), RcptReplies: map[string]string{"no@example.org": "451 4.7.1 later"}})
		d := w.client(outboundAt)
		d.ask("EHLO a", "250")
		d.ask("MAIL FROM:<a@a.example>", "250")
		d.ask("RCPT TO:<no@example.org>", "451 4.7.1 later")
		d.ask("RCPT TO:<b@example.org>", "250")
		d.ask("DATA", "354")
		d.say("x: y", "", ".")
		d.want("250")
		if first.Accepted() != 0 || len(second.Messages()) != 1 {
			t.Errorf("the first MX saw %d connections, the second %d messages", first.Accepted(), len(second.Messages()))
		}
		if got := w.last().Relay; got != "backup.example.org[203.0.113.3]:25" {
			t.Errorf("relay %q", got)
		}
	})
}

// A hop that cannot be connected to is the greeting: every client then tries its next host.
func TestOriginalUnreachable(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w, _ := originalWorld(t, "203.0.113.77:25")
		d := w.connect(outboundAt)
		d.want("421 4.4.1 Slipstream: [203.0.113.77]:25: connecting: ")
		d.wantClosed()
	})
}

// A hop that is of no use ends the connection with 421, however the client talks: it has other hosts to try, and
// hears of it while it still can.
func TestOriginalUseless(t *testing.T) {
	lines := map[string][]string{
		"lock step": {"MAIL FROM:<a@a.example>", "RCPT TO:<b@example.org>"},
		"pipelined": {"MAIL FROM:<a@a.example>\r\nRCPT TO:<b@example.org>\r\nDATA"},
		"chunks":    {"MAIL FROM:<a@a.example>\r\nRCPT TO:<b@example.org>\r\nBDAT 4 LAST\r\nabc"},
	}
	for name, say := range lines {
		for _, late := range []bool{true, false} {
			t.Run(fmt.Sprintf("%s, late verdict %v", name, late), func(t *testing.T) {
				synctest.Test(t, func(t *testing.T) {
					w, _ := originalWorld(t, mxAddr, func(out *OutboundConfig) { out.LateVerdict = late })
					w.serve(mxAddr, &refpeer.Server{Behave: func(e refpeer.Event) refpeer.Action {
						if e.Kind == refpeer.Connect {
							return refpeer.Say("554 5.3.2 not today")
						}
						return refpeer.Action{}
					}})
					d := w.client(outboundAt)
					d.ask("EHLO a", "250")
					for _, line := range say {
						d.say(line)
						if strings.HasPrefix(line, "MAIL") {
							d.want("250")
						}
						if strings.Contains(line, "RCPT") {
							d.want(`421 4.3.2 Slipstream: mx.example.org[203.0.113.2]:25 said "554 5.3.2 not today"`)
						}
					}
					d.wantClosed()
				})
			})
		}
	}
}

// The words of a hop that ends the connection are the client's to hear: it does not take them for the state of a
// smarthost.
func TestOriginal421(t *testing.T) {
	for name, s := range map[string]*refpeer.Server{
		"at RCPT": {Keywords: refpeer.Modern(), RcptReplies: map[string]string{"b@example.org": "421 4.3.2 going down"}},
		"at MAIL": {Keywords: refpeer.Modern(), Behave: func(e refpeer.Event) refpeer.Action {
			if strings.HasPrefix(e.Line, "MAIL") {
				return refpeer.Say("421 4.3.2 going down")
			}
			return refpeer.Action{}
		}},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				w, _ := originalWorld(t, mxAddr)
				w.serve(mxAddr, s)
				d := w.client(outboundAt)
				d.ask("EHLO a", "250")
				d.ask("MAIL FROM:<a@a.example>", "250")
				d.ask("RCPT TO:<b@example.org>", "421 4.3.2 going down")
				d.wantClosed()
			})
		})
	}
}

// Where the name of the host does not show, nothing is verified, and with "verify" nothing goes.
func TestOriginalUnnamed(t *testing.T) {
	cert := tlspolicyCert(t, "mx.example.org", time.Date(2100, 1, 1, 0, 0, 0, 0, time.UTC))
	roots := tlspolicyRoots(t, cert)
	for _, level := range []string{"may", "encrypt", "verify"} {
		t.Run(level, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				w, _ := originalWorld(t, "203.0.113.5:25", func(out *OutboundConfig) {
					out.TLS = level
					if level == "verify" {
						out.TLSCAFile = roots
					}
				})
				s := w.serve("203.0.113.5:25", &refpeer.Server{Keywords: refpeer.Modern(), TLS: cert.server()})
				d := w.client(outboundAt)
				d.ask("EHLO a", "250")
				d.ask("MAIL FROM:<a@a.example>", "250")
				if level == "verify" {
					d.ask("RCPT TO:<b@example.org>", "451 4.7.5 Slipstream: [203.0.113.5] cannot be verified: no mail exchanger of example.org has that address")
					d.ask("QUIT", "221")
					if c := s.Connections(); len(c) != 1 || len(c[0].Commands) != 0 {
						t.Errorf("connections %+v", c)
					}
					return
				}
				d.ask("RCPT TO:<b@example.org>", "250")
				d.ask("DATA", "354")
				d.say("x: y", "", ".")
				d.want("250")
				if sum := w.last(); sum.Verified || sum.TLS == "none" || sum.TLS == "" || sum.Relay != "[203.0.113.5]:25" {
					t.Errorf("summary %+v", sum)
				}
				if sni := s.Connections()[0].ServerName; sni != "" {
					t.Errorf("SNI %q", sni)
				}
			})
		})
	}
}

// STARTTLS is for MTAs that would not send without it.
func TestOriginalMTARequiresTLS(t *testing.T) {
	cert := newTestCert(t, "proxy.example")
	synctest.Test(t, func(t *testing.T) {
		w, _ := originalWorld(t, mxAddr, func(out *OutboundConfig) {
			out.MTARequiresTLS, out.TLSCert, out.TLSKey = true, cert.certFile, cert.keyFile
		})
		w.serve(mxAddr, &refpeer.Server{Keywords: refpeer.Modern()})
		d := w.client(outboundAt)
		if offer := d.ask("EHLO a", "250"); !strings.Contains(offer, "STARTTLS") {
			t.Fatalf("offer %q", offer)
		}
		d.startTLS()
		if offer := d.ask("EHLO a", "250"); !strings.HasPrefix(offer, "250-[203.0.113.2]\n") {
			t.Errorf("offer inside TLS %q", offer)
		}
		d.ask("MAIL FROM:<a@a.example>", "250")
		d.ask("RCPT TO:<b@example.org>", "250")
	})
}

// Who should not have come here hears why, and nobody is connected to.
func TestOriginalRefusals(t *testing.T) {
	tests := []struct {
		name   string
		to     string
		err    error
		change func(*OutboundConfig)
		want   string
	}{
		{"IPv6", "[2001:db8::7]:25", nil, nil, "220 [IPv6:2001:db8::7] ESMTP Slipstream"},
		{"not redirected", outboundAt, nil, nil, "421 4.3.5 proxy.example this port is for connections that rules bring here"},
		{"not tracked", "", errNotTracked, nil, "421 4.3.5 proxy.example this port is for connections that rules bring here"},
		{"no answer", "", net.ErrClosed, nil, "421 4.3.5 proxy.example the kernel does not tell where this connection was meant to go"},
		{"another port", "203.0.113.2:587", nil, nil, "421 4.7.0 proxy.example port 587 of [203.0.113.2] is not served here, only 25 (mx_port)"},
		{"outside the networks", mxAddr, nil, func(out *OutboundConfig) {
			out.InterceptNetworks = Prefixes{netip.MustParsePrefix("198.51.100.0/24")}
		}, "421 4.7.0 proxy.example [203.0.113.2] is outside intercept_networks"},
		{"loopback", "127.0.0.1:25", nil, nil, "421 4.7.0 proxy.example mail may not go to [127.0.0.1]"},
		{"loopback in disguise", "[64:ff9b::7f00:1]:25", nil, nil, "421 4.7.0 proxy.example mail may not go to [IPv6:64:ff9b::7f00:1]"},
		{"loopback, allowed", "127.0.0.1:25", nil, func(out *OutboundConfig) { out.AllowPrivateDestinations = true }, "220 [127.0.0.1] "},
		{"not allowed", mxAddr, nil, func(out *OutboundConfig) { out.Allow = Prefixes{netip.MustParsePrefix("10.0.0.0/8")} },
			"421 4.7.0 proxy.example does not serve 198.51.100.7"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				var change []func(*OutboundConfig)
				if tt.change != nil {
					change = append(change, tt.change)
				}
				w, ln := originalWorld(t, mxAddr, change...)
				ln.to = func() (netip.AddrPort, error) {
					if tt.err != nil {
						return netip.AddrPort{}, tt.err
					}
					return netip.MustParseAddrPort(tt.to), nil
				}
				s := w.serve(mxAddr, &refpeer.Server{Keywords: refpeer.Modern()})
				if tt.want[0] == '2' {
					w.serve(tt.to, &refpeer.Server{})
				}
				d := w.connect(outboundAt)
				d.want(tt.want)
				if tt.want[0] != '2' {
					d.wantClosed()
				}
				if s.Accepted() != 0 {
					t.Error("the destination was connected to")
				}
			})
		})
	}
}

// A destination that is another door of ours would come back to us.
func TestOriginalOwnDoor(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w, ln := originalWorld(t, mxAddr, func(out *OutboundConfig) { out.Listen = append(out.Listen, "192.0.2.1:25") })
		ln.to = func() (netip.AddrPort, error) { return netip.MustParseAddrPort("192.0.2.1:25"), nil }
		d := w.connect(outboundAt)
		d.want("421 4.4.6 proxy.example [192.0.2.1]:25 is a door of Slipstream: mail for there would go in circles")
		d.wantClosed()
	})
}

// A connection of ours that comes back is refused at the greeting; or at EHLO, where our end did not know yet that
// it was connected.
func TestOriginalOwnConnection(t *testing.T) {
	const want = "421 4.4.6 proxy.example a connection of Slipstream's own came back to it: its user is not left out by the rules"
	synctest.Test(t, func(t *testing.T) {
		w, ln := originalWorld(t, mxAddr)
		s := w.serve(mxAddr, &refpeer.Server{Keywords: refpeer.Modern()})
		first := w.client(outboundAt)
		first.ask("EHLO a", "250")
		first.ask("MAIL FROM:<a@a.example>", "250")
		var hop netip.AddrPort
		ln.from = func() netip.AddrPort { return netip.MustParseAddrPort("192.0.2.1:1") }
		early := w.client(outboundAt) // before the connection is known
		first.ask("RCPT TO:<b@example.org>", "250")
		w.proxy.wires.mu.Lock()
		for hop = range w.proxy.wires.dialled { // there is one
		}
		w.proxy.wires.dialled[netip.MustParseAddrPort("192.0.2.1:1")] = w.proxy.wires.dialled[hop]
		w.proxy.wires.mu.Unlock()
		early.ask("EHLO proxy.example", want)
		early.wantClosed()
		ln.from = func() netip.AddrPort { return hop }
		late := w.connect(outboundAt)
		late.want(want)
		late.wantClosed()
		ln.from = nil
		first.ask("QUIT", "221")
		first.wantClosed()
		time.Sleep(time.Minute) // virtual: until the goodbye to the hop is over
		if w.proxy.wires.dialledFrom(hop) {
			t.Error("a connection that was closed still counts as ours")
		}
		spoken := 0
		for _, c := range s.Connections() {
			if len(c.Commands) != 0 {
				spoken++
			}
		}
		if spoken != 1 {
			t.Errorf("the hop heard something on %d connections", spoken)
		}
	})
}

// What is no SMTP ends at once, in clear words.
func TestOriginalOtherProtocols(t *testing.T) {
	for name, tt := range map[string]struct{ octets, want string }{
		"TLS":  {"\x16\x03\x01\x00\xc8\x01\x00\x00\xc4\x03\x03", "421 4.7.0 proxy.example closing: no TLS here before STARTTLS"},
		"HTTP": {"GET / HTTP/1.1\r\nHost: x\r\n\r\n", "421 4.7.0 proxy.example closing: this is SMTP"},
	} {
		for _, early := range []bool{true, false} {
			t.Run(fmt.Sprintf("%s, early %v", name, early), func(t *testing.T) {
				synctest.Test(t, func(t *testing.T) {
					w, _ := originalWorld(t, mxAddr)
					s := w.serve(mxAddr, &refpeer.Server{})
					d := w.connect(outboundAt)
					if early {
						d.raw(tt.octets)
					}
					d.want("220 [203.0.113.2] ")
					if !early {
						d.raw(tt.octets)
					}
					if name == "HTTP" {
						d.want("500 ")
					}
					d.want(tt.want)
					d.wantClosed()
					for _, c := range s.Connections() {
						if len(c.Commands) != 0 {
							t.Errorf("the destination heard %q", c.Commands)
						}
					}
				})
			})
		}
	}
}

// The connection that is there when the client is greeted is the one that its message takes, unless it is too old;
// and none is made where one is kept.
func TestOriginalFoothold(t *testing.T) {
	send := func(d *dialog) {
		d.ask("MAIL FROM:<a@a.example>", "250")
		d.ask("RCPT TO:<b@example.org>", "250")
		d.ask("DATA", "354")
		d.say("x: y", "", ".")
		d.want("250")
		d.ask("QUIT", "221")
	}
	tests := []struct {
		name  string
		idle  time.Duration // in the pool
		pause time.Duration // between greeting and mail
		want  int           // connections for two sessions
		trips int           // of the first
	}{
		{"one each", 0, 0, 2, 5},
		{"a slow client", 0, maxFoothold + time.Second, 4, 5},
		{"kept", time.Minute, 0, 1, 5},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				w, _ := originalWorld(t, mxAddr, func(out *OutboundConfig) { out.PoolIdle = tt.idle })
				s := w.serve(mxAddr, &refpeer.Server{Keywords: refpeer.Modern()})
				for i := range 2 {
					d := w.client(outboundAt)
					d.ask("EHLO a", "250")
					time.Sleep(tt.pause)
					send(d)
					if sum := w.last(); i == 0 && sum.Trips != tt.trips {
						t.Errorf("%d trips", sum.Trips)
					}
				}
				if got := s.Accepted(); got != tt.want || len(s.Messages()) != 2 {
					t.Errorf("%d connections, %d messages", got, len(s.Messages()))
				}
				// Who says nothing leaves nothing behind.
				d := w.client(outboundAt)
				d.ask("QUIT", "221")
				d.wantClosed()
				time.Sleep(2 * time.Minute) // virtual: the pool's time is over too
				for _, c := range s.Connections() {
					if c.End.IsZero() {
						t.Errorf("connection %d is open", c.ID)
					}
				}
				w.proxy.wires.mu.Lock()
				defer w.proxy.wires.mu.Unlock()
				if n := len(w.proxy.wires.dialled); n != 0 {
					t.Errorf("%d connections are still known", n)
				}
			})
		})
	}
}

// Whoever is being connected to is waited for, but not long.
func TestDialling(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var d dialling
		to, start := netip.MustParseAddrPort(mxAddr), time.Now()
		end := d.begin(to)
		d.settle(netip.MustParseAddrPort("203.0.113.9:25"))
		if took := time.Since(start); took != 0 {
			t.Errorf("another address: %v", took)
		}
		d.settle(to)
		if took := time.Since(start); took != settleWait {
			t.Errorf("a slow one: %v", took)
		}
		go func() {
			time.Sleep(time.Millisecond)
			end()
		}()
		d.settle(to)
		if took := time.Since(start); took != settleWait+time.Millisecond {
			t.Errorf("a quick one: %v", took)
		}
		synctest.Wait()
		d.mu.Lock()
		defer d.mu.Unlock()
		if len(d.under) != 0 {
			t.Error("it is not over")
		}
	})
}

func TestComplaints(t *testing.T) {
	var c complaints
	start := time.Unix(0, 0)
	for _, tt := range []struct {
		cause string
		after time.Duration
		due   bool
	}{{"a", 0, true}, {"a", time.Second, false}, {"b", 2 * time.Second, true}, {"a", 59 * time.Second, false}, {"a", 61 * time.Second, true}, {"a", 70 * time.Second, false}} {
		if got := c.due(tt.cause, start.Add(tt.after)); got != tt.due {
			t.Errorf("%s after %v: %v", tt.cause, tt.after, got)
		}
	}
}
