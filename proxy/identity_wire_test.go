package proxy

import (
	"bufio"
	"encoding/binary"
	"fmt"
	"net"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"go.uber.org/zap"
	"go.uber.org/zap/zaptest/observer"

	"slipstream/bench/refpeer"
)

// Who the client is, on the wire: what the backend is told, and what a proxy
// before us tells.

const identityAttrs = "NAME ADDR PORT PROTO HELO LOGIN DESTADDR DESTPORT"

// observe makes the proxy with a log that the test reads, and starts it.
func (w *world) observe() *observer.ObservedLogs {
	w.t.Helper()
	core, logs := observer.New(zap.DebugLevel)
	p := w.build()
	p.log = zap.New(core)
	if err := p.Start(w.t.Context()); err != nil {
		w.t.Fatal(err)
	}
	w.t.Cleanup(w.stop)
	return logs
}

// mentions tells whether any line of a log, fields and all, has words in it.
func mentions(logs *observer.ObservedLogs, words string) bool {
	return slices.ContainsFunc(logs.All(), func(e observer.LoggedEntry) bool {
		return strings.Contains(fmt.Sprint(e.Message, e.ContextMap()), words)
	})
}

// session has one message sent and leaves. It returns the client's address.
func (w *world) session(at, hello string, before ...string) netip.AddrPort {
	w.t.Helper()
	c := w.connect(at)
	for _, octets := range before {
		c.raw(octets)
	}
	c.want("220 ")
	c.ask(hello, "250")
	c.deliver("m")
	c.ask("QUIT", "221 ")
	c.wantClosed()
	_ = c.conn.Close()
	time.Sleep(2 * time.Second) // the backend is left behind our client's back
	return addrPort(c.conn.LocalAddr())
}

func TestIdentityXclient(t *testing.T) {
	for _, tt := range []struct {
		name, offers, hello string
		dns                 func(*fakeDNS)
		want                string // after ADDR and PORT
	}{
		{name: "all of it", offers: identityAttrs, hello: "EHLO client.example",
			dns: func(d *fakeDNS) {
				d.ptr[clientHost] = []string{"elsewhere.example.", "mail.client.example."}
				d.addrs["elsewhere.example."] = []netip.Addr{netip.MustParseAddr("203.0.113.99")}
				d.addrs["mail.client.example."] = []netip.Addr{netip.MustParseAddr(clientHost)}
			},
			want: " NAME=mail.client.example PROTO=ESMTP HELO=client.example DESTADDR=192.0.2.1 DESTPORT=25"},
		{name: "HELO", offers: identityAttrs, hello: "HELO client.example",
			want: " NAME=[UNAVAILABLE] PROTO=SMTP HELO=client.example DESTADDR=192.0.2.1 DESTPORT=25"},
		{name: "name does not point back", offers: "ADDR PORT NAME", hello: "EHLO client.example",
			dns: func(d *fakeDNS) {
				d.ptr[clientHost] = []string{"liar.example."}
				d.addrs["liar.example."] = []netip.Addr{netip.MustParseAddr("203.0.113.99")}
			},
			want: " NAME=[UNAVAILABLE]"},
		{name: "the DNS does not answer", offers: "ADDR PORT NAME", hello: "EHLO client.example",
			dns: func(d *fakeDNS) { d.fail[clientHost] = true }, want: " NAME=[TEMPUNAVAIL]"},
		{name: "in lower case", offers: "addr port helo", hello: "EHLO [198.51.100.7]", want: " HELO=[198.51.100.7]"},
	} {
		for _, secure := range []bool{false, true} {
			t.Run(fmt.Sprintf("%s/tls=%v", tt.name, secure), func(t *testing.T) {
				cert := newTestCert(t, "backend.example")
				synctest.Test(t, func(t *testing.T) {
					w := newWorld(t)
					if tt.dns != nil {
						tt.dns(w.dns)
					}
					k := refpeer.Modern()
					k.Xclient = strings.ToUpper(tt.offers)
					backend := &refpeer.Server{Keywords: k, StrictLockstep: true, Behave: func(ev refpeer.Event) refpeer.Action {
						if tt.offers != k.Xclient && ev.Verb == "EHLO" {
							return refpeer.Action{Reply: strings.ReplaceAll(ev.Reply, k.Xclient, tt.offers) + "\r\n"}
						}
						return refpeer.Action{Delay: map[bool]time.Duration{true: time.Second}[ev.Verb == "XCLIENT"]}
					}}
					if secure {
						backend.TLS = cert.server()
					}
					w.serve(backendAddr, backend)
					w.inbound(func(in *InboundConfig) {
						in.ClientAddress = "xclient"
						if secure {
							in.BackendTLS = "encrypt"
						}
					})
					w.start()
					from := w.session(inboundAt, tt.hello)
					m := backend.Messages()
					if len(m) != 1 || len(m[0].Xclient) != 1 {
						t.Fatalf("the backend has %+v", m)
					}
					if want := fmt.Sprintf("ADDR=198.51.100.7 PORT=%d%s", from.Port(), tt.want); m[0].Xclient[0] != want {
						t.Errorf("XCLIENT %q, want %q", m[0].Xclient[0], want)
					}
					commands := backend.Connections()[m[0].Conn].Commands
					i := slices.IndexFunc(commands, func(line string) bool { return strings.HasPrefix(line, "XCLIENT ") })
					if before, after := commands[i-1], commands[i+1]; !strings.HasPrefix(before, "EHLO ") || !strings.HasPrefix(after, "EHLO ") {
						t.Errorf("before XCLIENT %q, after it %q", before, after)
					}
					if m[0].Hello != "EHLO "+strings.Fields(tt.hello)[1] {
						t.Errorf("the backend was greeted with %q", m[0].Hello)
					}
					if v := backend.Violations(); len(v) > 0 {
						t.Error(v)
					}
				})
			})
		}
	}
}

// A backend that cannot be told the client's address gets no mail without it.
func TestIdentityXclientRefused(t *testing.T) {
	for _, tt := range []struct {
		name, offers string
		behave       func(refpeer.Event) refpeer.Action
		log          string
	}{
		{"not offered", "", nil, `smtpd_authorized_xclient_hosts`},
		{"without ADDR", "NAME HELO", nil, `does not take ADDR`},
		{"refused", identityAttrs, hopsAt("XCLIENT", refpeer.Say("550 5.7.0 insufficient authorization")), "insufficient authorization"},
		{"refused and closed", identityAttrs, hopsAt("XCLIENT", refpeer.Action{Reply: "421 4.3.2 no\r\n", Close: true}), "421 4.3.2 no"},
		{"250 in place of 220", identityAttrs, hopsAt("XCLIENT", refpeer.Say("250 2.0.0 ok")), "XCLIENT"},
		{"closed", identityAttrs, hopsAt("XCLIENT", refpeer.Action{Close: true}), "closed by the other side"},
		{"words behind 220", identityAttrs, hopsAt("XCLIENT", refpeer.Say("220 hello\r\n250 injected")), "more replies than"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				w := newWorld(t)
				k := refpeer.Modern()
				k.Xclient = tt.offers
				backend := w.serve(backendAddr, &refpeer.Server{Keywords: k, Behave: tt.behave})
				w.inbound(func(in *InboundConfig) { in.ClientAddress = "xclient" })
				logs := w.observe()
				c := w.client(inboundAt)
				c.ask("EHLO client.example", "250")
				for range 2 {
					if got := c.ask("MAIL FROM:<a@client.example>", "451 4.3.2 "); strings.Contains(got, "203.0.113") || strings.Contains(got, "XCLIENT") {
						t.Errorf("a stranger heard %q", got)
					}
				}
				c.ask("NOOP", "250 2.0.0 ok")
				c.ask("QUIT", "221 ")
				if !mentions(logs, tt.log) {
					t.Errorf("the log does not mention %q: %v", tt.log, logs.All())
				}
				for _, conn := range backend.Connections() {
					if strings.Contains(strings.Join(conn.Commands, "\n"), "MAIL") {
						t.Errorf("the backend heard %q", conn.Commands)
					}
				}
			})
		})
	}
}

// No connection speaks for two clients, nor for two names of one.
func TestIdentityNotShared(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		k := refpeer.Modern()
		k.Xclient = identityAttrs
		backend := w.serve(backendAddr, &refpeer.Server{Keywords: k})
		w.inbound(func(in *InboundConfig) { in.ClientAddress = "xclient" })
		w.start()
		c, d := w.client(inboundAt), w.client(inboundAt)
		c.ask("EHLO one.example", "250")
		d.ask("EHLO two.example", "250")
		c.deliver("c1")
		d.deliver("d1")
		c.deliver("c2")
		c.ask("EHLO three.example", "250")
		c.deliver("c3")
		c.ask("EHLO one.example", "250")
		c.deliver("c4")
		conns := make(map[string]int)
		for _, m := range backend.Messages() {
			id := strings.TrimSuffix(m.Sender(), "@client.example")
			conns[id] = m.Conn
			want := map[string]string{"c1": "one", "c2": "one", "c3": "three", "c4": "one", "d1": "two"}[id] + ".example"
			if len(m.Xclient) != 1 || !strings.Contains(m.Xclient[0], " HELO="+want+" ") || m.Hello != "EHLO "+want {
				t.Errorf("%s came with %q after %q", id, m.Xclient, m.Hello)
			}
		}
		if len(conns) != 5 || conns["c1"] != conns["c2"] || conns["c1"] == conns["c3"] || conns["c1"] == conns["d1"] || conns["c3"] == conns["d1"] {
			t.Errorf("connections of the messages: %v", conns)
		}
	})
}

// The PROXY header goes before everything, TLS included.
func TestIdentityProxyToBackend(t *testing.T) {
	cert := newTestCert(t, "backend.example")
	for _, version := range []int{1, 2} {
		for _, level := range []string{"none", "encrypt"} {
			for _, from := range []string{clientHost, "2001:db8::7"} {
				t.Run(fmt.Sprintf("v%d/%s/%s", version, level, from), func(t *testing.T) {
					synctest.Test(t, func(t *testing.T) {
						w := newWorld(t)
						backend := w.serve(backendAddr, &refpeer.Server{Keywords: refpeer.Modern(), ProxyHeader: true, TLS: cert.server()})
						at := inboundAt
						if from != clientHost {
							at = "[2001:db8::1]:25"
						}
						w.inbound(func(in *InboundConfig) {
							in.ClientAddress, in.BackendTLS, in.Listen = fmt.Sprintf("proxy-v%d", version), level, []string{at}
						})
						w.start()
						conn, err := w.net.Dial(t.Context(), from, at)
						if err != nil {
							t.Fatal(err)
						}
						c := newDialog(t, conn)
						c.want("220 ")
						c.ask("EHLO client.example", "250")
						c.deliver("m1")
						c.deliver("m2")
						c.ask("QUIT", "221 ")
						_ = conn.Close()
						m := backend.Messages()
						if len(m) != 2 {
							t.Fatalf("the backend has %d messages", len(m))
						}
						for _, m := range m {
							p := m.Proxy
							if p.Version != version || p.Local || p.Source != addrPort(conn.LocalAddr()) || p.Destination != netip.MustParseAddrPort(at) {
								t.Errorf("PROXY header %+v, want %v to %v", p, conn.LocalAddr(), at)
							}
							if (m.TLS != 0) != (level == "encrypt") || m.Hello != "EHLO client.example" {
								t.Errorf("TLS %x, %q", m.TLS, m.Hello)
							}
						}
						if v := backend.Violations(); len(v) > 0 {
							t.Error(v)
						}
					})
				})
			}
		}
	}
}

// identityV2 makes a version 2 header octet by octet (section 2.2 of HAProxy's
// proxy-protocol.txt).
func identityV2(command byte, from, to netip.AddrPort) string {
	h := []byte("\r\n\r\n\x00\r\nQUIT\n")
	if !from.IsValid() {
		return string(append(h, 0x20|command, 0, 0, 0))
	}
	family := byte(0x11)
	if from.Addr().Is6() {
		family = 0x21
	}
	addrs := append(from.Addr().AsSlice(), to.Addr().AsSlice()...)
	addrs = binary.BigEndian.AppendUint16(addrs, from.Port())
	addrs = binary.BigEndian.AppendUint16(addrs, to.Port())
	h = append(h, 0x20|command, family)
	h = binary.BigEndian.AppendUint16(h, uint16(len(addrs)))
	return string(append(h, addrs...))
}

// What a trusted proxy says about a client is what counts from then on.
func TestIdentityProxyFromFront(t *testing.T) {
	v4, v6 := netip.MustParseAddrPort("203.0.113.77:4321"), netip.MustParseAddrPort("[2001:db8::77]:4321")
	to4, to6 := netip.MustParseAddrPort("192.0.2.99:25"), netip.MustParseAddrPort("[2001:db8::99]:25")
	const trace4 = "client.example ([203.0.113.77])"
	for _, tt := range []struct {
		name   string
		parts  []string
		trace  string
		source netip.AddrPort // in the header to the backend; zero: the front's own
	}{
		{"v1", []string{"PROXY TCP4 203.0.113.77 192.0.2.99 4321 25\r\n"}, trace4, v4},
		{"v1 with IPv6", []string{"PROXY TCP6 2001:db8::77 2001:db8::99 4321 25\r\n"}, "client.example ([IPv6:2001:db8::77])", v6},
		{"v1 UNKNOWN", []string{"PROXY UNKNOWN\r\n"}, "client.example ([198.51.100.7])", netip.AddrPort{}},
		{"v2", []string{identityV2(1, v4, to4)}, trace4, v4},
		{"v2 in pieces", []string{identityV2(1, v4, to4)[:14], identityV2(1, v4, to4)[14:]}, trace4, v4},
		{"v2 with IPv6", []string{identityV2(1, v6, to6)}, "client.example ([IPv6:2001:db8::77])", v6},
		{"v2 LOCAL", []string{identityV2(0, netip.AddrPort{}, netip.AddrPort{})}, "client.example ([198.51.100.7])", netip.AddrPort{}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				w := newWorld(t)
				backend := w.serve(backendAddr, &refpeer.Server{Keywords: refpeer.Modern(), ProxyHeader: true})
				w.inbound(func(in *InboundConfig) {
					in.ClientAddress, in.AddReceived = "proxy-v2", true
					in.ProxyProtocolFrom = Prefixes{netip.MustParsePrefix("198.51.100.0/24")}
				})
				w.start()
				c := w.connect(inboundAt)
				for i, part := range tt.parts {
					if i > 0 {
						time.Sleep(500 * time.Millisecond)
					}
					c.raw(part)
				}
				c.want("220 ")
				c.ask("EHLO client.example", "250")
				c.deliver("m")
				c.ask("QUIT", "221 ")
				m := backend.Messages()
				if len(m) != 1 {
					t.Fatalf("the backend has %d messages", len(m))
				}
				if want := "Received: from " + tt.trace; !strings.HasPrefix(string(m[0].Body), want) {
					t.Errorf("the message begins with %.80q, want %q", m[0].Body, want)
				}
				want := tt.source
				if !want.IsValid() {
					want = addrPort(c.conn.LocalAddr())
				}
				if m[0].Proxy.Source != want {
					t.Errorf("the backend heard of %v, want %v", m[0].Proxy.Source, want)
				}
			})
		})
	}
}

// Octets behind the header in the same segment are the client's.
func TestIdentityProxyGlued(t *testing.T) {
	cert := newTestCert(t, "proxy.example")
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		k := refpeer.Modern()
		k.Xclient = identityAttrs
		backend := w.serve(backendAddr, &refpeer.Server{Keywords: k})
		w.inbound(func(in *InboundConfig) {
			in.ClientAddress, in.TLSCert, in.TLSKey = "xclient", cert.certFile, cert.keyFile
			in.ProxyProtocolFrom = Prefixes{netip.MustParsePrefix("198.51.100.7/32")}
		})
		w.start()
		c := w.connect(inboundAt)
		c.say("PROXY TCP4 203.0.113.77 192.0.2.99 4321 25", "EHLO client.example", "MAIL FROM:<a@client.example>", "RCPT TO:<one@example.org>")
		c.want("220 ")
		c.want("250")
		c.want("250 ")
		c.want("250 ")
		c.ask("RSET", "250 ")
		c.startTLS()
		c.ask("EHLO client.example", "250")
		c.deliver("m")
		m := backend.Messages()
		const want = "ADDR=203.0.113.77 PORT=4321 NAME=[UNAVAILABLE] PROTO=ESMTP HELO=client.example DESTADDR=192.0.2.99 DESTPORT=25"
		if len(m) != 1 || len(m[0].Xclient) != 1 || m[0].Xclient[0] != want {
			t.Errorf("the backend has %+v, want XCLIENT %s", m, want)
		}
	})
}

// A front that does not say whom it speaks for is not served, and a stranger's
// claim is not believed.
func TestIdentityProxyBad(t *testing.T) {
	front := Prefixes{netip.MustParsePrefix("198.51.100.0/24")}
	for _, tt := range []struct {
		name, says string
		takes      time.Duration
	}{
		{"silent", "", proxyHeaderWait},
		{"half", "PROXY TCP4 203.0.113.77 ", 0}, // version 1 comes at once, or not at all
		{"none", "EHLO client.example\r\n", 0},
		{"bad address", "PROXY TCP4 300.0.113.77 192.0.2.99 4321 25\r\n", 0},
		{"endless", "PROXY TCP4 " + strings.Repeat("1", 300), 0},
		{"cut", identityV2(1, netip.MustParseAddrPort("203.0.113.77:1"), netip.MustParseAddrPort("192.0.2.99:25"))[:20], proxyHeaderWait},
	} {
		t.Run(tt.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				w := newWorld(t)
				w.serve(backendAddr, &refpeer.Server{})
				w.inbound(func(in *InboundConfig) { in.ProxyProtocolFrom = front })
				logs := w.observe()
				c := w.connect(inboundAt)
				if tt.says != "" {
					c.raw(tt.says)
				}
				if d := took(c.wantClosed); d != tt.takes {
					t.Errorf("closed after %v, want %v", d, tt.takes)
				}
				if !mentions(logs, "no usable PROXY header") {
					t.Errorf("the log says %v", logs.All())
				}
			})
		})
	}
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		w.serve(backendAddr, &refpeer.Server{})
		w.inbound(func(in *InboundConfig) { in.ProxyProtocolFrom = Prefixes{netip.MustParsePrefix("203.0.113.0/24")} })
		w.start()
		c := w.client(inboundAt)
		c.ask("PROXY TCP4 203.0.113.77 192.0.2.99 4321 25", "500 ")
		c.want("421 ")
		c.wantClosed()
	})
}

// Limits and permissions are those of the client, not of the front.
func TestIdentityProxyLimits(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		w.serve(backendAddr, &refpeer.Server{Keywords: refpeer.Modern()})
		w.cfg.Limits.MaxConnectionsPerClient = 2
		w.inbound(func(in *InboundConfig) {
			in.ProxyProtocolFrom = Prefixes{netip.MustParsePrefix("198.51.100.7/32")}
			in.Allow = Prefixes{netip.MustParsePrefix("203.0.113.0/24"), netip.MustParsePrefix("2001:db8::/32")}
		})
		w.start()
		from := func(family, addr, to, want string) *dialog {
			t.Helper()
			c := w.connect(inboundAt)
			c.say(fmt.Sprintf("PROXY %s %s %s 4321 25", family, addr, to))
			c.want(want)
			return c
		}
		first := from("TCP4", "203.0.113.77", "192.0.2.99", "220 ")
		from("TCP4", "203.0.113.77", "192.0.2.99", "220 ")
		from("TCP4", "203.0.113.77", "192.0.2.99", "421 4.7.0").wantClosed()
		from("TCP4", "203.0.113.78", "192.0.2.99", "220 ")
		from("TCP6", "2001:db8::1", "2001:db8::99", "220 ")
		from("TCP6", "2001:db8::2", "2001:db8::99", "220 ") // the same /64
		from("TCP6", "2001:db8::3", "2001:db8::99", "421 4.7.0").wantClosed()
		from("TCP6", "2001:db8:0:1::3", "2001:db8::99", "220 ")
		from("TCP4", "192.0.2.200", "192.0.2.99", "421 4.7.0").wantClosed()
		first.ask("QUIT", "221 ")
		first.wantClosed()
		_ = first.conn.Close()
		time.Sleep(2 * time.Second)
		from("TCP4", "203.0.113.77", "192.0.2.99", "220 ")
	})
}

func newDialog(t *testing.T, conn net.Conn) *dialog {
	return &dialog{t: t, conn: conn, r: bufio.NewReader(conn)}
}
