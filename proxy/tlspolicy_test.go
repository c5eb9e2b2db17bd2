package proxy

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"math/big"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"slipstream/bench/refpeer"
)

// What a policy makes of every way in which TLS can go wrong (P3). Virtual time
// begins with the year 2000.

// tlspolicyCert makes a self-signed certificate that ends at a given time.
func tlspolicyCert(t *testing.T, name string, end time.Time) testCert {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	tmpl := &x509.Certificate{
		SerialNumber: big.NewInt(1), DNSNames: []string{name}, NotBefore: time.Unix(0, 0), NotAfter: end,
		IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign | x509.KeyUsageDigitalSignature,
	}
	der, err := x509.CreateCertificate(rand.Reader, tmpl, tmpl, &key.PublicKey, key)
	if err != nil {
		t.Fatal(err)
	}
	return testCert{pair: tls.Certificate{Certificate: [][]byte{der}, PrivateKey: key}}
}

// tlspolicyRoots writes a file with authorities.
func tlspolicyRoots(t *testing.T, certs ...testCert) string {
	t.Helper()
	var roots []byte
	for _, c := range certs {
		roots = append(roots, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: c.pair.Certificate[0]})...)
	}
	file := filepath.Join(t.TempDir(), "roots.pem")
	if err := os.WriteFile(file, roots, 0o600); err != nil {
		t.Fatal(err)
	}
	return file
}

// A tlspolicyHop is a state of affairs at a hop.
type tlspolicyHop struct {
	name     string
	server   func() *refpeer.Server
	offers   bool // STARTTLS
	secure   bool // TLS comes about where the certificate does not matter
	verified bool // and the certificate is good
	takes    time.Duration
}

func tlspolicyHops(t *testing.T) (hops []tlspolicyHop, roots string) {
	ends := time.Date(2100, 1, 1, 0, 0, 0, 0, time.UTC)
	good := tlspolicyCert(t, "mx1.example.org", ends)
	wrong := tlspolicyCert(t, "elsewhere.example", ends)
	expired := tlspolicyCert(t, "mx1.example.org", time.Date(1999, 12, 31, 0, 0, 0, 0, time.UTC))
	stranger := tlspolicyCert(t, "mx1.example.org", ends)
	with := func(c testCert, change ...func(*refpeer.Server)) func() *refpeer.Server {
		return func() *refpeer.Server {
			s := &refpeer.Server{Keywords: refpeer.Modern(), TLS: c.server()}
			for _, f := range change {
				f(s)
			}
			return s
		}
	}
	starttls := func(a refpeer.Action) func(*refpeer.Server) {
		return func(s *refpeer.Server) { s.Behave = hopsAt("STARTTLS", a) }
	}
	hello := func(f func(*tls.ClientHelloInfo) error) func(*refpeer.Server) {
		return func(s *refpeer.Server) {
			s.TLS.GetConfigForClient = func(h *tls.ClientHelloInfo) (*tls.Config, error) { return nil, f(h) }
		}
	}
	return []tlspolicyHop{
		{name: "no STARTTLS", server: func() *refpeer.Server { return &refpeer.Server{Keywords: refpeer.Modern()} }},
		{name: "knows HELO alone", server: func() *refpeer.Server { return &refpeer.Server{Old: true} }},
		{name: "good", offers: true, secure: true, verified: true, server: with(good)},
		{name: "TLS 1.2", offers: true, secure: true, verified: true, server: with(good, func(s *refpeer.Server) { s.TLS.MaxVersion = tls.VersionTLS12 })},
		{name: "TLS 1.1 at most", offers: true, server: with(good, func(s *refpeer.Server) {
			s.TLS.MinVersion, s.TLS.MaxVersion = tls.VersionTLS10, tls.VersionTLS11
		})},
		{name: "wrong name", offers: true, secure: true, server: with(wrong)},
		{name: "expired", offers: true, secure: true, server: with(expired)},
		{name: "self-signed", offers: true, secure: true, server: with(stranger)},
		{name: "STARTTLS 454", offers: true, server: with(good, starttls(refpeer.Say("454 4.7.0 not now")))},
		{name: "STARTTLS 502", offers: true, server: with(good, starttls(refpeer.Say("502 5.5.1 what?")))},
		{name: "STARTTLS 250", offers: true, server: with(good, starttls(refpeer.Say("250 2.0.0 sure")))},
		{name: "closed at STARTTLS", offers: true, server: with(good, starttls(refpeer.Action{Close: true}))},
		{name: "words behind 220", offers: true, server: with(good, starttls(refpeer.Say("220 go\r\n250 injected")))},
		{name: "alert", offers: true, server: with(good, hello(func(*tls.ClientHelloInfo) error { return errors.New("no") }))},
		{name: "silent handshake", offers: true, takes: 30 * time.Second, server: with(good, hello(func(h *tls.ClientHelloInfo) error {
			<-h.Context().Done()
			return h.Context().Err()
		}))},
	}, tlspolicyRoots(t, good, wrong, expired)
}

// tlspolicyClear tells whether an envelope crossed in clear.
func tlspolicyClear(s *refpeer.Server) bool {
	for _, conn := range s.Connections() {
		if bytes.Contains(conn.WireReceived.Data, []byte("MAIL FROM")) || bytes.Contains(conn.WireReceived.Data, []byte("RCPT TO")) {
			return true
		}
	}
	return false
}

func TestTLSPolicy(t *testing.T) {
	hops, roots := tlspolicyHops(t)
	for _, hop := range hops {
		for _, level := range []string{"none", "may", "encrypt", "verify"} {
			for _, next := range []bool{false, true} { // a second host that is in order
				t.Run(fmt.Sprintf("%s/%s/next=%v", hop.name, level, next), func(t *testing.T) {
					synctest.Test(t, func(t *testing.T) { tlspolicyOutbound(t, hop, level, roots, next) })
				})
			}
			t.Run(hop.name+"/"+level+"/inbound", func(t *testing.T) {
				synctest.Test(t, func(t *testing.T) { tlspolicyInbound(t, hop, level, roots) })
			})
		}
	}
}

// want is what must become of a message: is it sent to this hop, with TLS, verified?
func (h tlspolicyHop) want(level string) (sent, secure, verified bool) {
	switch level {
	case "none":
		return true, false, false
	case "may":
		return true, h.secure, h.verified
	case "encrypt":
		return h.secure, h.secure, h.verified
	}
	return h.verified, h.verified, h.verified
}

// check holds what the hop saw against what must be.
func (h tlspolicyHop) check(t *testing.T, s *refpeer.Server, level string) {
	t.Helper()
	sent, secure, _ := h.want(level)
	messages := s.Messages()
	if len(messages) != map[bool]int{true: 1}[sent] {
		t.Fatalf("the hop has %d messages, want sent: %v", len(messages), sent)
	}
	if sent && (messages[0].TLS != 0) != secure {
		t.Errorf("the message came with TLS version %x, want TLS: %v", messages[0].TLS, secure)
	}
	if clear := tlspolicyClear(s); clear != (sent && !secure) {
		t.Errorf("MAIL in clear: %v", clear)
	}
	if v := s.Violations(); len(v) > 0 {
		t.Error(v)
	}
	if sent && !secure && h.offers && level == "may" {
		// What failed is left behind; the message goes over a connection of its own.
		m := messages[0]
		for _, conn := range s.Connections() {
			if conn.ID == m.Conn && strings.Contains(strings.Join(conn.Commands, "\n"), "STARTTLS") {
				t.Errorf("went on in clear after STARTTLS: %q", conn.Commands)
			}
		}
		if m.Conn == 0 {
			t.Error("STARTTLS was not tried")
		}
	}
	for _, conn := range s.Connections() {
		tried := strings.Contains(strings.Join(conn.Commands, "\n"), "STARTTLS")
		switch {
		case tried && level == "none":
			t.Errorf("STARTTLS against the policy: %q", conn.Commands)
		case conn.TLS != 0 && conn.ServerName != "mx1.example.org":
			t.Errorf("SNI was %q", conn.ServerName)
		}
	}
}

func tlspolicyOutbound(t *testing.T, hop tlspolicyHop, level, roots string, next bool) {
	w := newWorld(t)
	hosts := [][]string{{hopsOne}}
	second := &refpeer.Server{Keywords: refpeer.Modern()}
	if next {
		hosts = append(hosts, []string{hopsTwo})
		good := tlspolicyCert(t, "mx2.example.org", time.Date(2100, 1, 1, 0, 0, 0, 0, time.UTC))
		before, err := os.ReadFile(roots)
		if err != nil {
			t.Fatal(err)
		}
		roots = tlspolicyRoots(t, good)
		if after, err := os.ReadFile(roots); err != nil || os.WriteFile(roots, append(after, before...), 0o600) != nil {
			t.Fatal(err)
		}
		second.TLS = good.server()
		w.serve(hopsTwo+":25", second)
	}
	w.hopsHosts(hosts...)
	first := w.serve(hopsOne+":25", hop.server())
	w.outbound(func(out *OutboundConfig) { out.TLS, out.TLSCAFile = level, roots })
	w.start()
	sent, secure, verified := hop.want(level)
	c := w.client(outboundAt)
	c.ask("EHLO client.example", "250")
	c.ask("MAIL FROM:<a@client.example>", "250 ")
	want := "250 "
	if !sent && !next {
		want = "451 4.7.5 Slipstream: mx1.example.org[203.0.113.2]:25: TLS is required"
	}
	takes := hop.takes
	if level == "none" {
		takes = 0
	}
	if d := took(func() { c.ask("RCPT TO:<one@example.org>", want) }); d < takes || d > takes+time.Second {
		t.Errorf("the recipient was answered after %v, want %v", d, takes)
	}
	if sent || next {
		c.ask("DATA", "354 ")
		c.say("Subject: x", "", "text", ".")
		c.want("250 ")
	}
	c.ask("QUIT", "221 ")
	c.wantClosed()
	sum := w.last()
	hop.check(t, first, level)
	if next && !sent {
		secure, verified = true, true
		if m := second.Messages(); len(m) != 1 || m[0].TLS == 0 || tlspolicyClear(second) {
			t.Errorf("the second host has %+v", m)
		}
	} else if second.Accepted() > 0 {
		t.Error("the second host was called for nothing")
	}
	if (sent || next) && ((sum.TLS != "none") != secure || sum.Verified != verified) {
		t.Errorf("the log says TLS %q, verified %v; want %v, %v", sum.TLS, sum.Verified, secure, verified)
	}
}

func tlspolicyInbound(t *testing.T, hop tlspolicyHop, level, roots string) {
	w := newWorld(t)
	backend := w.serve(backendAddr, hop.server())
	w.inbound(func(in *InboundConfig) {
		in.BackendTLS, in.BackendTLSName, in.BackendCAFile = level, "mx1.example.org", roots
	})
	w.start()
	sent, secure, verified := hop.want(level)
	c := w.client(inboundAt)
	c.ask("EHLO client.example", "250")
	if !sent {
		got := c.ask("MAIL FROM:<a@client.example>", "451 4.")
		if !strings.Contains(got, "mail system not available") || strings.Contains(got, "203.0.113") || strings.Contains(got, "TLS") {
			t.Errorf("a stranger heard %q", got)
		}
	} else {
		c.ask("MAIL FROM:<a@client.example>", "250 ")
		c.ask("RCPT TO:<one@example.org>", "250 ")
		c.ask("DATA", "354 ")
		c.say("Subject: x", "", "text", ".")
		c.want("250 ")
	}
	c.ask("QUIT", "221 ")
	c.wantClosed()
	sum := w.last()
	hop.check(t, backend, level)
	if sent && ((sum.TLS != "none") != secure || sum.Verified != verified) {
		t.Errorf("the log says TLS %q, verified %v; want %v, %v", sum.TLS, sum.Verified, secure, verified)
	}
}

// TLS before the greeting, to a relay: it is required, whatever happens.
func TestTLSPolicyImplicit(t *testing.T) {
	ends := time.Date(2100, 1, 1, 0, 0, 0, 0, time.UTC)
	good, wrong := tlspolicyCert(t, "relay.example", ends), tlspolicyCert(t, "elsewhere.example", ends)
	roots := tlspolicyRoots(t, good, wrong)
	for _, tt := range []struct {
		name   string
		server func() *refpeer.Server
		sent   map[string]bool // by level
	}{
		{"good", func() *refpeer.Server { return &refpeer.Server{TLS: good.server(), Implicit: true} }, map[string]bool{"encrypt": true, "verify": true}},
		{"wrong name", func() *refpeer.Server { return &refpeer.Server{TLS: wrong.server(), Implicit: true} }, map[string]bool{"encrypt": true}},
		{"speaks first, in clear", func() *refpeer.Server { return &refpeer.Server{TLS: good.server()} }, nil},
		{"closes", func() *refpeer.Server {
			return &refpeer.Server{Behave: hopsAt("connect", refpeer.Action{Close: true})}
		}, nil},
	} {
		for _, level := range []string{"may", "encrypt", "verify"} {
			t.Run(tt.name+"/"+level, func(t *testing.T) {
				synctest.Test(t, func(t *testing.T) {
					w := newWorld(t)
					w.dns.addrs["relay.example"] = []netip.Addr{netip.MustParseAddr(hopsOne)}
					w.cfg.DNS.Servers = []netip.AddrPort{netip.MustParseAddrPort("127.0.0.1:53")} // or the system is asked for the relay
					relay := w.serve(hopsOne+":465", tt.server())
					w.outbound(func(out *OutboundConfig) {
						out.Route, out.Relay, out.TLS, out.TLSCAFile = "", Endpoint{Host: "relay.example", Port: 465, TLS: true}, level, roots
						out.complete("outbound")
					})
					w.start()
					c := w.client(outboundAt)
					c.ask("EHLO client.example", "250")
					c.ask("MAIL FROM:<a@client.example>", "250 ")
					sent := tt.sent[level] || level == "may" && tt.sent["encrypt"]
					if !sent {
						c.ask("RCPT TO:<one@example.org>", "451 4.7.5 Slipstream: relay.example[203.0.113.2]:465: TLS is required and could not be had")
					} else {
						c.deliver2()
					}
					c.ask("QUIT", "221 ")
					synctest.Wait()
					if got := len(relay.Messages()) == 1; got != sent || tlspolicyClear(relay) {
						t.Errorf("sent: %v, in clear: %v", got, tlspolicyClear(relay))
					}
					if sum := w.last(); sent && (sum.TLS == "none" || sum.Verified != tt.sent["verify"]) {
						t.Errorf("summary: %+v", sum)
					}
				})
			})
		}
	}
}

// deliver2 is the second half of a delivery.
func (d *dialog) deliver2() {
	d.t.Helper()
	d.ask("RCPT TO:<one@example.org>", "250 ")
	d.ask("DATA", "354 ")
	d.say("Subject: x", "", "text", ".")
	d.want("250 ")
}

// The Received field tells how the client spoke (RFC 3848, RFC 6531 §4.3).
func TestTLSPolicyReceivedWith(t *testing.T) {
	cert := newTestCert(t, "proxy.example")
	for _, tt := range []struct {
		hello     string
		tls, utf8 bool
		with      string
	}{
		{hello: "HELO", with: "SMTP"},
		{hello: "HELO", tls: true, with: "SMTPS"},
		{hello: "EHLO", with: "ESMTP"},
		{hello: "EHLO", tls: true, with: "ESMTPS"},
		{hello: "EHLO", utf8: true, with: "UTF8SMTP"},
		{hello: "EHLO", utf8: true, tls: true, with: "UTF8SMTPS"},
		{hello: "LHLO", with: "LMTP"},
		{hello: "LHLO", tls: true, with: "LMTPS"},
		{hello: "LHLO", utf8: true, with: "UTF8LMTP"},
		{hello: "LHLO", utf8: true, tls: true, with: "UTF8LMTPS"},
	} {
		synctest.Test(t, func(t *testing.T) {
			w := newWorld(t)
			mx := w.serve(mxAddr, &refpeer.Server{Keywords: refpeer.Modern()})
			w.outbound(func(out *OutboundConfig) {
				out.AddReceived, out.TLSCert, out.TLSKey = true, cert.certFile, cert.keyFile
				if tt.hello == "LHLO" {
					out.Protocol = "lmtp"
				}
			})
			w.start()
			c := w.client(outboundAt)
			first := "EHLO client.example"
			if tt.hello == "LHLO" {
				first = "LHLO client.example"
			}
			c.ask(first, "250")
			if tt.tls {
				c.startTLS()
			}
			c.ask(tt.hello+" client.example", "250")
			mail := "MAIL FROM:<a@client.example>"
			if tt.utf8 {
				mail += " SMTPUTF8"
			}
			c.ask(mail, "250 ")
			c.deliver2()
			want := "Received: from client.example ([198.51.100.7])\r\n\tby proxy.example (Slipstream) with " + tt.with + " id "
			m := mx.Messages()
			if len(m) != 1 || !strings.HasPrefix(string(m[0].Body), want) || !strings.HasSuffix(string(m[0].Body), "\r\nSubject: x\r\n\r\ntext\r\n") {
				t.Errorf("%+v: the hop has %q, want %q", tt, m[0].Body, want)
			}
		})
	}
}
