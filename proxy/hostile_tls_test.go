package proxy

import (
	"bufio"
	"crypto/tls"
	"fmt"
	"net"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"slipstream/bench/refpeer"
)

// secured adds a certificate to an inbound door.
func hostileCert(t *testing.T) func(*Config, *InboundConfig) {
	cert := newTestCert(t, "proxy.example")
	return func(_ *Config, in *InboundConfig) { in.TLSCert, in.TLSKey = cert.certFile, cert.keyFile }
}

// hostileHello is what a TLS client says first.
func hostileHello(t *testing.T) string {
	t.Helper()
	near, far := net.Pipe()
	defer near.Close()
	defer far.Close()
	go func() { _ = tls.Client(near, &tls.Config{InsecureSkipVerify: true}).Handshake() }() // ends with the pipe
	b := make([]byte, 16<<10)
	n, err := far.Read(b)
	if err != nil {
		t.Fatal(err)
	}
	return string(b[:n])
}

// rest reads what comes until the end. A reset counts as one.
func (d *dialog) rest() string {
	d.t.Helper()
	_ = d.conn.SetReadDeadline(time.Now().Add(time.Hour)) // virtual
	var b strings.Builder
	_, err := d.r.WriteTo(&b)
	if t, ok := err.(net.Error); ok && t.Timeout() {
		d.t.Errorf("the connection stays open; heard %q", b.String())
	}
	return b.String()
}

// What stands behind STARTTLS in clear is never obeyed (CVE-2011-0411), whether
// it comes in the same segment, in pieces or behind the 220.
func TestHostileGluedToStartTLS(t *testing.T) {
	for name, glued := range map[string]string{
		"RSET":        "RSET\r\n",
		"commands":    "EHLO evil.example\r\nMAIL FROM:<evil@client.example>\r\nRCPT TO:<b@example.org>\r\nDATA\r\n",
		"half a line": "RS",
		"CRLF":        "\r\n",
		"hello":       hostileHello(t),
	} {
		t.Run(name, func(t *testing.T) {
			line := "STARTTLS\r\n"
			for at := 0; at <= len(line); at++ {
				synctest.Test(t, func(t *testing.T) {
					h := newHostile(t, nil, hostileCert(t))
					c := h.greeted()
					c.raw(line[:at])
					synctest.Wait()
					if at == len(line) {
						c.want("220 2.0.0 ")
						if name == "hello" {
							return // now it is in order
						}
					}
					c.raw(line[at:] + glued)
					if at < len(line) {
						c.want("554 5.5.0 ")
						h.wantLog("client glued commands to STARTTLS")
					} else if name == "half a line" || name == "CRLF" {
						c.raw("\r\n\r\n\r\n")
					}
					if got := c.rest(); strings.Contains(got, "250") {
						t.Errorf("heard %q", got)
					}
					h.wantHeard()
					h.over()
				})
			}
		})
	}
}

// Inside TLS nothing holds of what was said before.
func TestHostileStartTLSForgets(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := newHostile(t, nil, hostileCert(t))
		c := h.greeted()
		c.talk("MAIL FROM:<a@client.example>", "250 ", "STARTTLS", "503 5.5.1 ", "RSET", "250 ")
		c.startTLS()
		c.talk("MAIL FROM:<a@client.example>", "503 5.5.1 ", "STARTTLS", "503 5.5.1 ", "BDAT 4 LAST\r\nab", "503 5.5.1 ")
		if offer := c.ask("EHLO client.example", "250"); strings.Contains(offer, "STARTTLS") {
			t.Errorf("STARTTLS is offered inside TLS: %q", offer)
		}
		c.talk("STARTTLS", "503 5.5.1 ")
		c.send()
		c.talk("QUIT", "221 ")
		h.wantMessages(hostileText)
		h.over()
	})
}

func TestHostileHandshakes(t *testing.T) {
	for name, tt := range map[string]struct {
		conf  *tls.Config // nil: words
		words string
	}{
		"plain text":       {words: "EHLO client.example\r\n"},
		"HTTP":             {words: "GET / HTTP/1.1\r\nHost: proxy.example\r\n\r\n"},
		"nonsense":         {words: strings.Repeat("\x16\x03\x01\xff\xff", 100)},
		"TLS 1.1":          {conf: &tls.Config{MinVersion: tls.VersionTLS10, MaxVersion: tls.VersionTLS11}},
		"another protocol": {conf: &tls.Config{NextProtos: []string{"http/1.1", "h2"}}},
	} {
		for _, implicit := range []bool{false, true} {
			t.Run(fmt.Sprintf("%s/implicit=%t", name, implicit), func(t *testing.T) {
				synctest.Test(t, func(t *testing.T) {
					h := newHostile(t, nil, hostileCert(t), func(_ *Config, in *InboundConfig) {
						if implicit {
							in.Listen, in.ListenTLS = nil, in.Listen
						}
					})
					var c *dialog
					if implicit {
						c = h.connect(h.at)
					} else {
						c = h.greeted()
						c.talk("STARTTLS", "220 ")
					}
					if tt.conf == nil {
						c.raw(tt.words)
					} else {
						tt.conf.InsecureSkipVerify = true
						if err := tls.Client(c.conn, tt.conf).Handshake(); err == nil {
							t.Error("the handshake succeeded")
						}
					}
					if got := c.rest(); strings.Contains(got, "250") || strings.Contains(got, "220") {
						t.Errorf("heard %q", got)
					}
					h.wantCount(h.proxy.metrics.handshakes, 1)
					h.wantLog("TLS handshake with the client failed")
					h.wantHeard()
					h.over()
				})
			})
		}
	}
}

// A TLS client at the plain door gets no session out of it.
func TestHostileHelloOnPlainPort(t *testing.T) {
	hello := hostileHello(t)
	synctest.Test(t, func(t *testing.T) {
		h := newHostile(t, nil, hostileCert(t))
		c := h.client(h.at)
		start := time.Now()
		c.raw(hello)
		if got := c.rest(); !strings.HasPrefix(got, "421 4.7.0 ") && !strings.HasPrefix(got, "421 4.4.2 ") && !strings.HasPrefix(got, "500 ") {
			t.Errorf("heard %q", got)
		}
		if took := time.Since(start); took > h.cfg.Timeouts.ClientCommand+lingerTime {
			t.Errorf("it took %v", took)
		}
		h.wantHeard()
		h.over()
	})
}

// hostileLevels are what a hop that plays foul at STARTTLS leads to: with "may" a
// new connection in clear, else nothing that could be read on the way.
func hostileLevels(t *testing.T, hop func(cert testCert) *refpeer.Server) {
	for _, level := range []string{"may", "encrypt", "verify"} {
		t.Run(level, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				cert := newTestCert(t, "mx.example.org")
				h := newHostileOut(t, hop(cert), func(_ *Config, out *OutboundConfig) { out.TLS, out.TLSCAFile = level, cert.certFile })
				c := h.greeted()
				if level == "may" {
					c.send()
					h.wantMessages(hostileText)
					if m := h.hop.Messages()[0]; m.TLS != 0 || m.Conn != 1 {
						t.Errorf("arrived on connection %d with TLS %x, want the second and none", m.Conn, m.TLS)
					}
					if s := h.last(); s.TLS != "none" || s.Verified {
						t.Errorf("the log says TLS %q, verified %t", s.TLS, s.Verified)
					}
					return
				}
				c.talk(hostileMail, "250 2.1.0 | 451 4.7.5 ", "QUIT", "221 ")
				h.wantHeard("STARTTLS")
				h.wantMessages()
			})
		})
	}
}

// Replies behind the 220 to STARTTLS came in clear, from whoever is on the way
// (CVE-2021-38371).
func TestHostileHopSpeaksBeforeTLS(t *testing.T) {
	for name, words := range map[string]string{
		"a reply":         "220 go\r\n250 injected\r\n",
		"an EHLO reply":   "220 go\r\n250-mx.example.org\r\n250-CHUNKING\r\n250 PIPELINING\r\n",
		"half a reply":    "220 go\r\n250-",
		"one octet":       "220 go\r\n2",
		"an empty line":   "220 go\r\n\r\n",
		"several lines":   "220-go\r\n220 go\r\n550 injected\r\n",
		"a TLS record":    "220 go\r\n\x16\x03\x03\x00",
		"another code":    "250 go\r\n",
		"not now":         "454 4.7.0 not now\r\n",
		"never":           "554 5.7.0 never\r\n",
		"a broken reply":  "220 go\n",
		"an unknown code": "999 go\r\n",
	} {
		t.Run(name, func(t *testing.T) {
			hostileLevels(t, func(cert testCert) *refpeer.Server {
				return &refpeer.Server{Keywords: refpeer.Modern(), TLS: cert.server(), Behave: func(ev refpeer.Event) refpeer.Action {
					if ev.Verb != "STARTTLS" {
						return refpeer.Action{}
					}
					return refpeer.Action{Reply: words} // behind a 220 it can do TLS very well
				}}
			})
		})
	}
}

// A hop whose TLS cannot be had at all: the same.
func TestHostileHopFailsTLS(t *testing.T) {
	hostileLevels(t, func(testCert) *refpeer.Server {
		conf := &tls.Config{GetCertificate: func(*tls.ClientHelloInfo) (*tls.Certificate, error) { return nil, net.ErrClosed }}
		return &refpeer.Server{Keywords: refpeer.Modern(), TLS: conf}
	})
}

// The same behind us: a stranger hears no more than that it must come again.
func TestHostileBackendSpeaksBeforeTLS(t *testing.T) {
	for level, want := range map[string]string{"may": "250 ", "encrypt": "451 4.3.2 Slipstream: mail system not available", "verify": "451 4.3.2 Slipstream: mail system not available"} {
		t.Run(level, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				cert := newTestCert(t, "backend.example")
				hop := &refpeer.Server{Keywords: refpeer.Modern(), TLS: cert.server(), Behave: func(ev refpeer.Event) refpeer.Action {
					if ev.Verb != "STARTTLS" {
						return refpeer.Action{}
					}
					return refpeer.Action{Reply: "220 go\r\n250-backend.example\r\n250 XCLIENT NAME ADDR\r\n"}
				}}
				h := newHostile(t, hop, func(_ *Config, in *InboundConfig) {
					in.BackendTLS, in.BackendTLSName, in.BackendCAFile = level, "backend.example", cert.certFile
				})
				c := h.greeted()
				c.talk(hostileMail, want+" | "+want, "RSET", "250 ")
				for _, line := range h.heard() {
					if level != "may" && line != "STARTTLS" {
						t.Errorf("the backend heard %q in clear", line)
					}
				}
				for _, conn := range hop.Connections() {
					if conn.TLS != 0 {
						t.Error("TLS went on over what was said before it")
					}
				}
			})
		})
	}
}

// The words may also come in a segment of their own, where a ServerHello is due.
func TestHostileHopSpeaksInPlaceOfTLS(t *testing.T) {
	for _, level := range []string{"may", "encrypt"} {
		t.Run(level, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				w := newWorld(t)
				heard := w.hostileHop(mxAddr, func(conn net.Conn, line string) string {
					switch verb, _, _ := strings.Cut(line, " "); verb {
					case hostileConnect:
						return "220 mx.example.org\r\n"
					case "EHLO":
						return "250-mx.example.org\r\n250 STARTTLS\r\n"
					case "STARTTLS":
						_, _ = conn.Write([]byte("220 go\r\n"))
						buf := make([]byte, 16<<10)
						_, _ = conn.Read(buf) // the ClientHello
						return "250-mx.example.org\r\n250 CHUNKING\r\n"
					}
					return "451 4.3.0 this far and no farther\r\n"
				})
				w.outbound(func(out *OutboundConfig) { out.TLS = level })
				w.start()
				c := w.client(outboundAt)
				c.ask("EHLO old.example", "250")
				if level == "may" {
					c.talk(hostileMail, "250 | 451 4.3.0 this far")
				} else {
					c.talk(hostileMail, "250 | 451 4.7.5 ")
				}
				for _, line := range heard() {
					if level == "encrypt" && strings.HasPrefix(line, "MAIL") {
						t.Errorf("the hop heard %q in clear", line)
					}
				}
			})
		})
	}
}

const hostileConnect = "(connect)"

// hostileHop is a hop made by hand: say is asked for the answer to each line, and
// first of all to hostileConnect. An empty answer closes, and "\x00" is none. The result
// lists the lines.
func (w *world) hostileHop(addr string, say func(conn net.Conn, line string) string) func() []string {
	w.t.Helper()
	ln, err := w.net.Listen(addr)
	if err != nil {
		w.t.Fatal(err)
	}
	w.t.Cleanup(func() { _ = ln.Close() })
	var lines []string
	go func() { // ends with the listener
		for {
			conn, err := ln.Accept()
			if err != nil {
				return
			}
			r := bufio.NewReader(conn)
			for line := hostileConnect; ; {
				answer := say(conn, line)
				if answer == "" {
					break
				}
				if answer == "\x00" {
					answer = ""
				}
				if _, err := conn.Write([]byte(answer)); err != nil {
					break
				}
				if line, err = r.ReadString('\n'); err != nil {
					break
				}
				line = strings.TrimRight(line, "\r\n")
				lines = append(lines, line)
			}
			_ = conn.Close()
		}
	}()
	return func() []string {
		synctest.Wait()
		return lines
	}
}

// What a hop offered before TLS does not count behind it, in either direction.
func TestHostileHopOffersBeforeTLS(t *testing.T) {
	for _, inside := range []bool{false, true} {
		t.Run(fmt.Sprintf("CHUNKING inside=%t", inside), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				cert := newTestCert(t, "mx.example.org")
				hop := &refpeer.Server{Keywords: refpeer.Keywords{Pipelining: true, Chunking: inside}, TLS: cert.server()}
				hop.Behave = func(ev refpeer.Event) refpeer.Action {
					switch {
					case ev.Verb != "EHLO" || ev.Kind != refpeer.Command || ev.Secured:
						return refpeer.Action{}
					case inside:
						return refpeer.Action{Reply: "250-mx.example.org\r\n250 STARTTLS\r\n"}
					}
					return refpeer.Action{Reply: "250-mx.example.org\r\n250-CHUNKING\r\n250-SMTPUTF8\r\n250-8BITMIME\r\n250-DSN\r\n250 STARTTLS\r\n"}
				}
				h := newHostileOut(t, hop)
				c := h.greeted()
				if !inside {
					c.talk("MAIL FROM:<a@client.example> SMTPUTF8\r\nRCPT TO:<b@example.org>", "250 | 550 5.6.7 ", "RSET", "250 ")
				}
				c.send()
				want := map[bool]string{false: "DATA", true: "BDAT"}[inside]
				if m := h.hop.Messages(); len(m) != 1 || m[0].Via != want || m[0].TLS == 0 {
					t.Errorf("the hop has %+v, want one by %s inside TLS", m, want)
				}
				c.talk("QUIT", "221 ")
				h.over()
			})
		})
	}
}
