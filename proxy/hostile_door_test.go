package proxy

import (
	"bufio"
	"context"
	"encoding/binary"
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

// Whoever does not speak SMTP from the start gets no second line: a browser may
// be made to post commands to a local door.
func TestHostileOtherProtocols(t *testing.T) {
	const commands = "EHLO evil.example\r\nMAIL FROM:<evil@client.example>\r\nRCPT TO:<b@example.org>\r\nDATA\r\nSubject: x\r\n\r\nx\r\n.\r\nQUIT\r\n"
	for name, words := range map[string]string{
		"GET":        "GET / HTTP/1.1\r\nHost: proxy.example:25\r\nUser-Agent: x\r\n\r\n",
		"POST":       "POST / HTTP/1.1\r\nHost: proxy.example:25\r\nContent-Length: 200\r\n\r\n" + commands,
		"CONNECT":    "CONNECT example.org:25 HTTP/1.0\r\n\r\n" + commands,
		"HTTP/2":     "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + commands,
		"SSH":        "SSH-2.0-x\r\n" + commands,
		"SIP":        "OPTIONS sip:x SIP/2.0\r\nVia: x\r\n\r\n" + commands,
		"Redis":      "*1\r\n$4\r\nPING\r\n" + commands,
		"PROXY v1":   "PROXY TCP4 127.0.0.1 192.0.2.1 40000 25\r\n" + commands,
		"PROXY v2":   hostileProxyV2("127.0.0.1:40000", 0) + commands,
		"empty line": "\r\n" + commands,
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				h := newHostile(t, nil)
				c := h.client(h.at)
				c.raw(words)
				c.want("500 5.5.")
				c.want("421 4.7.0 ")
				c.wantClosed()
				h.wantLog("it did not begin with SMTP")
				h.wantCount(h.proxy.metrics.refusals, 1)
				h.wantHeard()
				h.wantMessages()
				h.over()
			})
		})
	}
}

// hostileProxyV2 is a PROXY header, version 2, for a client's IPv4 address, and
// so many octets more in it.
func hostileProxyV2(from string, more int) string {
	src, to := netip.MustParseAddrPort(from), netip.MustParseAddrPort(inboundAt)
	b := []byte("\r\n\r\n\x00\r\nQUIT\n\x21\x11")
	b = binary.BigEndian.AppendUint16(b, uint16(12+more))
	b = append(append(b, src.Addr().AsSlice()...), to.Addr().AsSlice()...)
	b = binary.BigEndian.AppendUint16(b, src.Port())
	b = binary.BigEndian.AppendUint16(b, to.Port())
	for ; more >= 3; more -= 3 {
		n := min(more, 1000) - 3
		b = append(append(b, 0x04, byte(n>>8), byte(n)), make([]byte, n)...) // PP2_TYPE_NOOP
		more -= n
	}
	return string(b)
}

// behindProxy trusts the client's network to speak for others.
func behindProxy(_ *Config, in *InboundConfig) {
	in.ProxyProtocolFrom = Prefixes{netip.MustParsePrefix(clientHost + "/32")}
	in.AddReceived = true
}

const (
	hostileV1 = "PROXY TCP4 203.0.113.99 192.0.2.1 40000 25\r\n"
	hostileV6 = "PROXY TCP6 2001:db8::99 2001:db8::1 40000 25\r\n"
)

// A header from a trusted network is believed, with whatever follows it in the
// same segment.
func TestHostileProxyHeader(t *testing.T) {
	const socket = clientHost
	for name, tt := range map[string]struct{ header, want string }{
		"v1":               {hostileV1, "203.0.113.99"},
		"v1, IPv6":         {hostileV6, "IPv6:2001:db8::99"},
		"v1, unknown":      {"PROXY UNKNOWN\r\n", socket},
		"v1, unknown, odd": {"PROXY UNKNOWN ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff 65535 65535\r\n", socket},
		"v2":               {hostileProxyV2("203.0.113.99:40000", 0), "203.0.113.99"},
		"v2, more":         {hostileProxyV2("203.0.113.99:40000", 3000), "203.0.113.99"},
		"v2, local":        {"\r\n\r\n\x00\r\nQUIT\n\x20\x00\x00\x00", socket},
	} {
		t.Run(name, func(t *testing.T) {
			for at := 0; at <= len(tt.header); at += max(1, len(tt.header)/60) {
				synctest.Test(t, func(t *testing.T) {
					h := newHostile(t, nil, behindProxy)
					c := h.connect(h.at)
					all := tt.header + "EHLO client.example\r\n" + hostileMail + fmt.Sprintf("\r\nBDAT %d LAST\r\n%sQUIT\r\n", len(hostileText), hostileText)
					c.raw(all[:at])
					synctest.Wait()
					c.raw(all[at:])
					if _, err := c.r.Peek(1); err != nil && strings.HasPrefix(tt.header, "PROXY") && 0 < at && at < len(tt.header) {
						// Version 1 in pieces: the specification leaves it to us
						// to drop it.
						h.wantHeard()
						h.resets.Store(0) // nothing was said that it could eat
						h.over()
						return
					}
					for _, want := range []string{"220 ", "250", "250 ", "250 ", "250 ", "221 "} {
						c.want(want)
					}
					c.wantClosed()
					m := h.hop.Messages()
					if len(m) != 1 || !strings.Contains(string(m[0].Body), "Received: from client.example (["+tt.want+"])") {
						t.Errorf("cut at %d: the hop has %+v", at, m)
					}
					h.over()
				})
			}
		})
	}
}

// A network that must send a header and does not, or a broken one, gets nothing.
func TestHostileProxyHeaderBroken(t *testing.T) {
	v2 := hostileProxyV2("203.0.113.99:40000", 0)
	for name, words := range map[string]string{
		"missing":           "EHLO client.example\r\n",
		"lower case":        "proxy TCP4 203.0.113.99 192.0.2.1 40000 25\r\n",
		"v1, overlong":      "PROXY TCP4 " + strings.Repeat("2", 200) + "\r\n",
		"v1, without end":   "PROXY " + strings.Repeat("x", 5000),
		"v1, ended by LF":   "PROXY TCP4 203.0.113.99 192.0.2.1 40000 25\n",
		"v1, no address":    "PROXY TCP4 203.0.113.999 192.0.2.1 40000 25\r\n",
		"v1, no port":       "PROXY TCP4 203.0.113.99 192.0.2.1 40000 99999\r\n",
		"v1, short":         "PROXY TCP4 203.0.113.99\r\n",
		"v1, wrong family":  "PROXY TCP4 2001:db8::99 2001:db8::1 40000 25\r\n",
		"v2, oversize":      v2[:14] + "\xff\xff" + strings.Repeat("x", 65535),
		"v2, wrong version": v2[:12] + "\x31" + v2[13:],
		"v2, too short":     v2[:14] + "\x00\x04\x7f\x00\x00\x01",
		"v2, unspecified":   v2[:13] + "\x00\x00\x00",
		"v2, half":          v2[:20],
		"v2, signature":     v2[:11],
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				h := newHostile(t, nil, behindProxy)
				c := h.connect(h.at)
				c.raw(words)
				c.finish()
				if got := c.rest(); got != "" {
					t.Errorf("heard %q", got)
				}
				h.wantLog("no usable PROXY header")
				h.wantHeard()
				h.resets.Store(0) // nothing was said that it could eat
				h.over()
			})
		})
	}
}

// Only the first header is one, and who it names is judged by all rules.
func TestHostileProxyHeaderLies(t *testing.T) {
	t.Run("twice", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			h := newHostile(t, nil, behindProxy)
			c := h.connect(h.at)
			c.raw(hostileV1 + hostileV1 + "EHLO client.example\r\n")
			c.want("220 ")
			c.want("500 5.5.1 ")
			c.want("421 4.7.0 ")
			c.wantClosed()
			h.over()
		})
	})
	t.Run("not allowed", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			h := newHostile(t, nil, behindProxy, func(_ *Config, in *InboundConfig) {
				in.Allow = Prefixes{netip.MustParsePrefix(clientHost + "/32")}
			})
			c := h.connect(h.at)
			c.raw(hostileV1)
			c.want("421 4.7.0 proxy.example does not serve 203.0.113.99")
			c.wantClosed()
			h.wantCount(h.proxy.metrics.turnedAway, 1)
			h.over()
		})
	})
	t.Run("too many", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			h := newHostile(t, nil, behindProxy, func(cfg *Config, _ *InboundConfig) { cfg.Limits.MaxConnectionsPerClient = 1 })
			for i, tt := range []struct{ header, want string }{
				{hostileV1, "220 "}, {hostileV6, "220 "}, {hostileV1, "421 4.7.0 "}, {"PROXY TCP6 2001:db8::77 2001:db8::1 1 25\r\n", "421 4.7.0 "},
			} {
				c := h.connect(h.at)
				c.raw(tt.header)
				if got := c.want(""); !strings.HasPrefix(got, tt.want) {
					t.Errorf("client %d heard %q, want %q", i, got, tt.want)
				}
			}
		})
	})
}

// Clients for whom there is no room are told so, whether they wait for a greeting
// or talk on: no reset eats the reply. Who leaves makes room.
func TestHostileManyConnections(t *testing.T) {
	for name, tt := range map[string]struct {
		change func(*Config, *InboundConfig)
		want   string
	}{
		"of one client": {func(cfg *Config, _ *InboundConfig) { cfg.Limits.MaxConnectionsPerClient = 2 }, "421 4.7.0 "},
		"of all":        {func(cfg *Config, _ *InboundConfig) { cfg.Limits.MaxConnections = 2 }, "421 4.3.2 "},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				h := newHostile(t, nil, tt.change)
				first, _ := h.greeted(), h.greeted()
				for _, early := range []string{"", "EHLO client.example\r\n" + hostileMail + "\r\nDATA\r\n"} {
					c := h.connect(h.at)
					c.raw(early)
					c.want(tt.want)
					if n, err := c.conn.Read(make([]byte, 1)); n != 0 || err == nil || strings.Contains(err.Error(), "reset") {
						t.Errorf("behind the reply came %d octets, %v; want the end", n, err)
					}
				}
				h.wantCount(h.proxy.metrics.turnedAway, 2)
				h.wantLog("turned away")
				first.talk("QUIT", "221 ")
				first.wantClosed()
				_ = first.conn.Close()
				synctest.Wait()
				h.greeted().send()
				h.wantMessages(hostileText)
			})
		})
	}
}

// A door is shut to whom it is not for, and as long as its backend was not asked.
func TestHostileShutDoors(t *testing.T) {
	for name, tt := range map[string]struct {
		change func(*Config, *InboundConfig)
		want   string
	}{
		"not allowed": {func(_ *Config, in *InboundConfig) { in.Allow = Prefixes{netip.MustParsePrefix("10.0.0.0/8")} },
			"421 4.7.0 proxy.example does not serve " + clientHost},
		"no backend": {func(_ *Config, in *InboundConfig) { in.Backend.Port, in.BackendTrustsUs = 26, false }, "421 4.3.2 "},
	} {
		for _, early := range []string{"", "EHLO client.example\r\n" + hostileMail + "\r\nDATA\r\n"} {
			t.Run(fmt.Sprintf("%s/early=%t", name, early != ""), func(t *testing.T) {
				synctest.Test(t, func(t *testing.T) {
					h := newHostile(t, nil, tt.change)
					c := h.connect(h.at)
					c.raw(early)
					c.want(tt.want)
					c.wantClosed()
					h.wantLog("turned away")
					h.wantCount(h.proxy.metrics.turnedAway, 1)
					h.wantHeard()
					h.over()
				})
			})
		}
	}
}

// Mail for one of our own doors would go in circles.
func TestHostileOwnDoors(t *testing.T) {
	mx := func(_ *Config, out *OutboundConfig) { out.MXPort, out.LateVerdict = 587, false }
	for name, tt := range map[string]struct {
		to, want string
		change   func(*Config, *OutboundConfig)
	}{
		"our address in the DNS": {"b@ours.example", "554 5.4.6 ", mx},
		"our name in the DNS":    {"b@named.example", "554 5.4.6 ", mx},
		"our address":            {"b@[" + proxyHost + "]", "554 5.4.6 ", mx},
		"a relay that is us": {"b@example.org", "451 4.4.", func(_ *Config, out *OutboundConfig) {
			out.Relay, out.Route, out.LateVerdict = Endpoint{Host: proxyHost, Port: 587}, "", false
		}},
		"loopback in the DNS": {"b@local.example", "550 5.4.4 ", mx},
		"loopback":            {"b@[127.0.0.1]", "550 5.4.4 ", mx},
		"link local":          {"b@[IPv6:fe80::1]", "550 5.4.4 ", mx},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				h := newHostileOut(t, nil, tt.change)
				for domain, addr := range map[string]string{"ours.example": proxyHost, "local.example": "127.0.0.1"} {
					h.dns.mx[domain] = []*net.MX{{Host: "mx." + domain, Pref: 10}}
					h.dns.addrs["mx."+domain] = []netip.Addr{netip.MustParseAddr(addr)}
				}
				h.dns.mx["named.example"] = []*net.MX{{Host: "Proxy.Example.", Pref: 10}}
				c := h.greeted()
				c.talk("MAIL FROM:<a@old.example>\r\nRCPT TO:<"+tt.to+">\r\nDATA", "250 | "+tt.want+" | 554 5.5.1 ", "QUIT", "221 ")
				h.wantHeard()
				if got := hostileCount(t, h.proxy.metrics.connections); got != 1 {
					t.Errorf("%v clients came in: we talk to ourselves", got)
				}
				h.over()
			})
		})
	}
}

func TestHostileBackendIsOwnDoor(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := newHostile(t, nil, func(_ *Config, in *InboundConfig) { in.Backend = Endpoint{Host: proxyHost, Port: 25} })
		time.Sleep(5 * time.Minute) // virtual; the backend is asked what it offers now and then
		c := h.greeted()
		c.talk(hostileMail+"\r\nDATA", "451 4.3.2 | 451 4.3.2 | 503 5.5.1 ", "QUIT", "221 ")
		if got := hostileCount(t, h.proxy.metrics.connections); got != 1 {
			t.Errorf("%v clients came in: we talk to ourselves", got)
		}
	})
}

// What others name themselves, or have in the DNS, is never a command to the
// backend (CVE-2026-28753).
func TestHostileNames(t *testing.T) {
	for name, ptr := range map[string]string{
		"CRLF":      "evil.example\r\nMAIL FROM:<evil@client.example>\r\n.",
		"spaces":    "evil.example ADDR=127.0.0.1 NAME=localhost.",
		"xtext":     "evil+0D+0A.example.",
		"overlong":  strings.Repeat("x.", 400) + "example.",
		"localhost": "localhost.",
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				w := newWorld(t)
				w.dns.ptr[clientHost] = []string{ptr}
				w.dns.addrs[ptr] = []netip.Addr{netip.MustParseAddr(clientHost)}
				hop := &refpeer.Server{Keywords: refpeer.Modern()}
				hop.Keywords.Xclient = "NAME ADDR PORT PROTO HELO LOGIN"
				h := &hostile{world: w, hop: hop, at: inboundAt}
				h.serve(backendAddr, hop)
				h.inbound(func(in *InboundConfig) { in.ClientAddress = "xclient" })
				h.watch()
				c := h.client(h.at)
				c.talk("EHLO [evil]+ADDR=127.0.0.1<>()\\=x", "250")
				c.send()
				c.talk("QUIT", "221 ")
				h.wantMessages(hostileText)
				m := h.hop.Messages()[0]
				if len(m.Xclient) == 0 {
					t.Fatal("the backend was not told")
				}
				for attr := range strings.FieldsSeq(m.Xclient[len(m.Xclient)-1]) {
					key, value, _ := strings.Cut(attr, "=")
					if strings.Contains(value, "=") || key == "ADDR" && value != clientHost || key == "LOGIN" {
						t.Errorf("the backend was told %q", attr)
					}
				}
				for _, line := range h.heard() {
					if strings.HasPrefix(line, "MAIL FROM:<evil") || len(line) > 510 {
						t.Errorf("the backend heard %q", line)
					}
				}
				h.over()
			})
		})
	}
}

// silentDNS says nothing until it is no longer asked.
type silentDNS struct{ *fakeDNS }

func (silentDNS) MX(ctx context.Context, _ string) ([]*net.MX, error) {
	<-ctx.Done()
	return nil, ctx.Err()
}

// A DNS that says nothing costs a recipient the time of its set-up and no more,
// however many there are.
func TestHostileSilentDNS(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		h := &hostile{world: w, at: outboundAt, hop: w.serve(mxAddr, &refpeer.Server{})}
		h.outbound()
		p := h.build()
		p.dns = silentDNS{w.dns}
		if err := p.Start(t.Context()); err != nil {
			t.Fatal(err)
		}
		t.Cleanup(h.stop)
		c := h.greeted()
		start := time.Now()
		c.say("MAIL FROM:<a@old.example>", "RCPT TO:<b@example.org>", "RCPT TO:<c@example.org>", "RCPT TO:<d@example.net>", "QUIT")
		c.want("250 ")
		for range 3 {
			c.want("451 4.")
		}
		c.want("221 ")
		if took := time.Since(start); took != h.cfg.Timeouts.Setup {
			t.Errorf("it took %v, want %v", took, h.cfg.Timeouts.Setup)
		}
		h.over()
	})
}

// A connection that was kept for the next message and dies, or is ended by the
// hop with all the manners, costs that message nothing.
func TestHostileKeptConnection(t *testing.T) {
	for name, end := range map[string]func(conn net.Conn){
		"FIN":         func(conn net.Conn) { _ = conn.Close() },
		"half-close":  func(conn net.Conn) { _ = conn.(*netsim.Conn).CloseWrite() },
		"reset":       func(conn net.Conn) { conn.(*netsim.Conn).Reset() },
		"421":         func(conn net.Conn) { _, _ = conn.Write([]byte("421 4.4.2 idle too long\r\n")) },
		"421 and FIN": func(conn net.Conn) { _, _ = conn.Write([]byte("421 4.4.2 idle too long\r\n")); _ = conn.Close() },
		"nothing":     func(net.Conn) {},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				w := newWorld(t)
				connections, texts := 0, 0
				heard := w.hostileHop(mxAddr, func(conn net.Conn, line string) string {
					switch line {
					case hostileConnect:
						connections++
						return "220 mx.example.org\r\n"
					case "DATA":
						texts++
						return "354 go on\r\n"
					case "QUIT":
						return "221 bye\r\n"
					case ".":
						if texts == 1 {
							time.AfterFunc(time.Second, func() { end(conn) })
						}
						return "250 2.0.0 taken\r\n"
					case "EHLO proxy.example", "MAIL FROM:<a@client.example>", "RCPT TO:<b@example.org>":
						return "250 mx.example.org\r\n"
					}
					return "\x00" // text
				})
				w.outbound()
				w.start()
				c := w.client(outboundAt)
				c.ask("EHLO client.example", "250")
				c.send()
				time.Sleep(2 * time.Second) // virtual
				c.send()
				c.talk("QUIT", "221 ")
				heard()
				if want := map[bool]int{true: 1, false: 2}[name == "nothing"]; connections != want || texts != 2 {
					t.Errorf("the hop saw %d connections and %d texts, want %d and 2", connections, texts, want)
				}
			})
		})
	}
}

// A reply that comes while nothing is asked would pass for the answer to the next
// message. Only a socket can tell whether there is one, so this is over TCP.
func TestHostileLateReply(t *testing.T) {
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	conns := make(chan net.Conn, 10)
	hop := &refpeer.Server{Keywords: refpeer.Keywords{Chunking: true}, Behave: func(ev refpeer.Event) refpeer.Action {
		if ev.Kind == refpeer.EndOfData && ev.Total > 0 {
			return refpeer.Say("554 5.7.1 not this one")
		}
		// A slow hop, so that the late reply is alone when it is read.
		return refpeer.Action{Delay: 5 * time.Millisecond}
	}}
	hop.Start(hostileListener{ln, conns})
	t.Cleanup(hop.Close)

	w := newWorld(t)
	w.outbound(func(out *OutboundConfig) {
		out.Listen, out.Allow = []string{"127.0.0.1:0"}, loopbackNetworks()
		out.Route, out.Relay = "", Endpoint{Host: "127.0.0.1", Port: addrPort(ln.Addr()).Port()}
	})
	p := w.build()
	p.dial, p.listen = netDial, func(ctx context.Context, addr string) (net.Listener, error) {
		return new(net.ListenConfig).Listen(ctx, "tcp", addr)
	}
	if err := p.Start(t.Context()); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(w.stop)
	<-conns // the question what the hop offers
	conn, err := net.Dial("tcp", p.Addrs("outbound")[0].String())
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	c := &dialog{t: t, conn: conn, r: bufio.NewReader(conn)}
	c.want("220 ")
	c.talk("EHLO client.example", "250")
	c.send()
	if _, err := (<-conns).Write([]byte("250 2.0.0 late\r\n")); err != nil {
		t.Fatal(err)
	}
	c.talk(hostileMail+"\r\nDATA", "250 | 250 | 354 ", hostileText+".", "554 5.7.1 not this one", "QUIT", "221 ")
	if n := hop.Accepted(); n != 3 {
		t.Errorf("the hop saw %d connections, want 3", n)
	}
}

// A hostileListener hands out what it accepts.
type hostileListener struct {
	net.Listener
	conns chan<- net.Conn
}

func (l hostileListener) Accept() (net.Conn, error) {
	conn, err := l.Listener.Accept()
	if err == nil {
		l.conns <- conn
	}
	return conn, err
}
