package proxy

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"slipstream/bench/refpeer"
)

// Starting, changing and stopping while people are inside.

// lifecycleStop begins a shutdown that cuts after a while, and returns where its
// result comes.
func (w *world) lifecycleStop(limit time.Duration) <-chan error {
	result := make(chan error, 1)
	go func() { // ends with Shutdown
		ctx, cancel := context.WithTimeout(context.Background(), limit)
		defer cancel()
		result <- w.proxy.Shutdown(ctx)
	}()
	synctest.Wait()
	return result
}

// refused makes sure that nobody listens at an address.
func (w *world) refused(addr string) {
	w.t.Helper()
	if conn, err := w.net.Dial(w.t.Context(), clientHost, addr); !errors.Is(err, syscall.ECONNREFUSED) {
		w.t.Errorf("connecting to %s: %v, %v; want a refusal", addr, conn, err)
	}
}

// bye reads 421 for the shutdown, which must come at once, and leaves.
func (d *dialog) bye() {
	d.t.Helper()
	if late := took(func() { d.want("421 4.3.2 proxy.example is shutting down") }); late != 0 {
		d.t.Errorf("421 came after %v", late)
	}
	d.wantClosed()
	_ = d.conn.Close()
}

func TestShutdownIdleSessions(t *testing.T) {
	cert := newTestCert(t, "proxy.example")
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		backend := w.serve(backendAddr, &refpeer.Server{Keywords: refpeer.Modern()})
		w.serve(mxAddr, &refpeer.Server{Keywords: refpeer.Modern()})
		w.inbound(func(in *InboundConfig) { in.TLSCert, in.TLSKey = cert.certFile, cert.keyFile })
		w.outbound()
		w.start()
		var all []*dialog
		all = append(all, w.client(inboundAt)) // has said nothing yet
		greeted := w.client(inboundAt)
		greeted.ask("EHLO client.example", "250")
		secured := w.client(inboundAt)
		secured.ask("EHLO client.example", "250")
		secured.startTLS()
		between := w.client(inboundAt) // with a connection kept
		between.ask("EHLO client.example", "250")
		between.deliver("m")
		reset := w.client(outboundAt)
		reset.ask("EHLO client.example", "250")
		reset.ask("MAIL FROM:<a@client.example>", "250 ")
		reset.ask("RCPT TO:<one@example.org>", "250 ")
		reset.ask("RSET", "250 ")
		half := w.client(inboundAt) // in the middle of a line
		half.ask("EHLO client.example", "250")
		half.raw("MAIL FR")
		all = append(all, greeted, secured, between, reset, half)
		synctest.Wait()
		done := w.lifecycleStop(time.Minute)
		for _, c := range all {
			c.bye()
		}
		if late := took(func() {
			if err := <-done; err != nil {
				t.Error(err)
			}
		}); late > 2*time.Second {
			t.Errorf("the shutdown took %v", late)
		}
		w.refused(inboundAt)
		w.refused(outboundAt)
		synctest.Wait()
		for _, conn := range backend.Connections() {
			if last := conn.Commands[len(conn.Commands)-1]; last != "QUIT" {
				t.Errorf("the backend was left after %q", last)
			}
		}
		if err := w.proxy.Reload(t.Context(), w.cfg); err == nil {
			t.Error("a reload after the shutdown succeeded")
		}
		if err := w.proxy.Ready(); err == nil {
			t.Error("ready after the shutdown")
		}
	})
}

// What is under way finishes, and then hears 421.
func TestShutdownFinishesTransactions(t *testing.T) {
	for _, at := range []string{inboundAt, outboundAt} {
		for stage, before := range map[string]func(*dialog){
			"after MAIL": func(c *dialog) {},
			"after RCPT": func(c *dialog) { c.ask("RCPT TO:<one@example.org>", "250 ") },
			"in the text": func(c *dialog) {
				c.ask("RCPT TO:<one@example.org>", "250 ")
				c.ask("DATA", "354 ")
				c.raw("Subject: x\r\n\r\nte")
			},
			"after RSET": nil,
		} {
			t.Run(at+"/"+stage, func(t *testing.T) {
				synctest.Test(t, func(t *testing.T) {
					w := newWorld(t)
					backend := w.serve(backendAddr, &refpeer.Server{Keywords: refpeer.Modern()})
					mx := w.serve(mxAddr, &refpeer.Server{Keywords: refpeer.Modern()})
					w.inbound()
					w.outbound()
					w.start()
					c := w.client(at)
					c.ask("EHLO client.example", "250")
					c.ask("MAIL FROM:<a@client.example>", "250 ")
					if before != nil {
						before(c)
					}
					done := w.lifecycleStop(5 * time.Minute)
					w.refused(at)
					time.Sleep(time.Minute)
					switch stage {
					case "after RSET":
						c.ask("RSET", "250 ")
						c.bye()
					case "after MAIL":
						c.ask("RCPT TO:<one@example.org>", "250 ")
						fallthrough
					case "after RCPT":
						c.ask("DATA", "354 ")
						c.raw("Subject: x\r\n\r\nte")
						fallthrough
					default:
						c.raw("xt\r\n.\r\n")
						c.want("250 ")
						c.bye()
						if n := len(backend.Messages()) + len(mx.Messages()); n != 1 {
							t.Errorf("%d messages were delivered", n)
						}
					}
					if err := <-done; err != nil {
						t.Error(err)
					}
				})
			})
		}
	}
}

// What is not over by the deadline is cut: its sender hears 4xx or nothing, and
// never a yes.
func TestShutdownCuts(t *testing.T) {
	stall := func(verb string) func(refpeer.Event) refpeer.Action {
		return hopsAt(verb, refpeer.Action{Stall: true})
	}
	const mail, rcpt = "MAIL FROM:<a@client.example>", "RCPT TO:<one@example.org>"
	for _, at := range []string{inboundAt, outboundAt} {
		for name, tt := range map[string]struct {
			hop   func(refpeer.Event) refpeer.Action
			lines []string
			raw   string
		}{
			"between RCPT and DATA":      {lines: []string{mail, rcpt}},
			"in the text":                {lines: []string{mail, rcpt, "DATA"}, raw: "Subject: x\r\n\r\nte"},
			"in a chunk":                 {lines: []string{mail, rcpt}, raw: "BDAT 100 LAST\r\nSubject"},
			"the hop hangs at RCPT":      {lines: []string{mail}, raw: rcpt + "\r\n", hop: stall("RCPT")},
			"the hop hangs at the end":   {lines: []string{mail, rcpt, "DATA"}, raw: "Subject: x\r\n\r\ntext\r\n.\r\n", hop: stall("end of data")},
			"the hop hangs at the start": {lines: []string{mail, rcpt, "DATA"}, raw: "Subject: x\r\n\r\ntext\r\n.\r\n", hop: stall("data start")},
		} {
			t.Run(at+"/"+name, func(t *testing.T) {
				synctest.Test(t, func(t *testing.T) {
					w := newWorld(t)
					hop := &refpeer.Server{Keywords: refpeer.Modern()}
					var broken atomic.Bool
					hop.Behave = func(ev refpeer.Event) refpeer.Action {
						if tt.hop == nil || !broken.Load() {
							return refpeer.Action{}
						}
						return tt.hop(ev)
					}
					if at == inboundAt {
						w.serve(backendAddr, hop)
					} else {
						w.serve(mxAddr, hop)
					}
					w.inbound()
					w.outbound(func(out *OutboundConfig) { out.Offer = []string{"CHUNKING"} })
					w.start()
					broken.Store(true)
					c := w.client(at)
					c.ask("EHLO client.example", "250")
					for _, line := range tt.lines {
						c.ask(line, map[bool]string{true: "354 ", false: "250 "}[line == "DATA"])
					}
					c.raw(tt.raw)
					synctest.Wait()
					done := w.lifecycleStop(10 * time.Second)
					begun := time.Now()
					_ = c.conn.SetReadDeadline(begun.Add(time.Hour))
					heard := ""
					for {
						line, err := c.r.ReadString('\n')
						if heard += line; err != nil {
							break
						}
					}
					_ = c.conn.Close()
					if d := time.Since(begun); d < 10*time.Second || d > 12*time.Second {
						t.Errorf("the session ended after %v", d)
					}
					for line := range strings.Lines(heard) {
						if line[0] != '4' {
							t.Errorf("the client heard %q", heard)
						}
					}
					if err := <-done; !errors.Is(err, context.DeadlineExceeded) || time.Since(begun) > 13*time.Second {
						t.Errorf("the shutdown took %v and said %v", time.Since(begun), err)
					}
					hop.Close()
					if tt.hop == nil && len(hop.Messages()) > 0 {
						t.Error("the hop has a message that the client never finished")
					}
				})
			})
		}
	}
}

// People who have not come in yet do not hold up the end.
func TestShutdownAtTheDoor(t *testing.T) {
	cert := newTestCert(t, "proxy.example")
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		w.serve(backendAddr, &refpeer.Server{})
		w.inbound(func(in *InboundConfig) {
			in.TLSCert, in.TLSKey, in.ListenTLS = cert.certFile, cert.keyFile, []string{proxyHost + ":465"}
		})
		w.inbound(func(in *InboundConfig) {
			in.Name, in.Listen = "behind", []string{proxyHost + ":2525"}
			in.ProxyProtocolFrom = Prefixes{netip.MustParsePrefix("198.51.100.0/24")}
		})
		w.start()
		for _, at := range []string{proxyHost + ":465", proxyHost + ":2525"} {
			w.connect(at)
		}
		handshake := w.client(inboundAt)
		handshake.ask("EHLO client.example", "250")
		handshake.ask("STARTTLS", "220 ")
		synctest.Wait()
		begun := time.Now()
		if err := <-w.lifecycleStop(5 * time.Second); err != nil && !errors.Is(err, context.DeadlineExceeded) {
			t.Error(err)
		}
		if d := time.Since(begun); d > 7*time.Second {
			t.Errorf("the shutdown took %v", d)
		}
	})
}

// lifecycleReload puts a changed copy of the configuration into force.
func (w *world) lifecycleReload(change func(*Config)) error {
	cfg := *w.cfg
	cfg.Inbound = append([]InboundConfig(nil), w.cfg.Inbound...)
	cfg.Outbound = append([]OutboundConfig(nil), w.cfg.Outbound...)
	change(&cfg)
	err := w.proxy.Reload(w.t.Context(), &cfg)
	if err == nil {
		w.cfg = &cfg
	}
	return err
}

func TestReloadDoors(t *testing.T) {
	const second = "203.0.113.50:25"
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		first := w.serve(backendAddr, &refpeer.Server{Keywords: refpeer.Modern()})
		other := w.serve(second, &refpeer.Server{Keywords: refpeer.Keywords{Pipelining: true}})
		mx := w.serve(mxAddr, &refpeer.Server{Keywords: refpeer.Modern()})
		w.inbound()
		w.start()
		c := w.client(inboundAt)
		c.ask("EHLO client.example", "250")
		c.ask("MAIL FROM:<a@client.example>", "250 ")
		c.ask("RCPT TO:<one@example.net>", "250 ")

		// A door is added. Who is inside notices nothing.
		w.refused(outboundAt)
		if err := w.lifecycleReload(func(cfg *Config) {
			out := DefaultOutbound()
			out.Listen, out.Allow = []string{outboundAt}, Prefixes{netip.MustParsePrefix("0.0.0.0/0")}
			cfg.Outbound = append(cfg.Outbound, out)
		}); err != nil {
			t.Fatal(err)
		}
		c.ask("DATA", "354 ")
		c.say("Subject: x", "", "text", ".")
		c.want("250 ")
		out := w.client(outboundAt)
		out.ask("EHLO client.example", "250")
		out.deliver("m")
		if len(first.Messages()) != 1 || len(mx.Messages()) != 1 {
			t.Fatalf("%d and %d messages", len(first.Messages()), len(mx.Messages()))
		}

		// A door is changed: another backend, another name. The session goes on
		// before the old one.
		if err := w.lifecycleReload(func(cfg *Config) {
			cfg.Hostname = "new.example"
			cfg.Inbound[0].Backend = Endpoint{Host: "203.0.113.50", Port: 25}
		}); err != nil {
			t.Fatal(err)
		}
		c.deliver("m2")
		fresh := w.connect(inboundAt)
		fresh.want("220 new.example ")
		if ehlo := fresh.ask("EHLO client.example", "250"); strings.Contains(ehlo, "8BITMIME") || !strings.Contains(ehlo, "new.example") {
			t.Errorf("EHLO of the changed door: %q", ehlo)
		}
		fresh.deliver("m3")
		if len(first.Messages()) != 2 || len(other.Messages()) != 1 {
			t.Fatalf("%d and %d messages", len(first.Messages()), len(other.Messages()))
		}

		// A door is removed: nobody comes in any more, who is inside stays.
		if err := w.lifecycleReload(func(cfg *Config) { cfg.Outbound = nil }); err != nil {
			t.Fatal(err)
		}
		w.refused(outboundAt)
		out.deliver("m4")
		out.ask("QUIT", "221 ")

		// And moves elsewhere.
		if err := w.lifecycleReload(func(cfg *Config) { cfg.Inbound[0].Listen = []string{proxyHost + ":2525"} }); err != nil {
			t.Fatal(err)
		}
		w.refused(inboundAt)
		c.deliver("m5")
		fresh.deliver("m6")
		moved := w.connect(proxyHost + ":2525")
		moved.want("220 ")
		if len(first.Messages()) != 3 || len(other.Messages()) != 2 || len(mx.Messages()) != 2 {
			t.Errorf("%d, %d and %d messages", len(first.Messages()), len(other.Messages()), len(mx.Messages()))
		}
	})
}

// lifecycleSerial is the serial number of the certificate that a door shows.
func (w *world) lifecycleSerial(at string, implicit bool) string {
	w.t.Helper()
	c := w.connect(at)
	if !implicit {
		c.want("220 ")
		c.ask("EHLO client.example", "250")
		c.ask("STARTTLS", "220 ")
	}
	conn := tls.Client(c.conn, &tls.Config{InsecureSkipVerify: true})
	if err := conn.Handshake(); err != nil {
		w.t.Fatal(err)
	}
	d := newDialog(w.t, conn)
	if implicit {
		d.want("220 ")
	}
	d.ask("EHLO client.example", "250")
	d.ask("QUIT", "221 ")
	return conn.ConnectionState().PeerCertificates[0].SerialNumber.String()
}

func TestReloadCertificate(t *testing.T) {
	old, renewed := newTestCert(t, "proxy.example"), newTestCert(t, "proxy.example")
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		w.serve(backendAddr, &refpeer.Server{Keywords: refpeer.Modern()})
		implicit := proxyHost + ":465"
		w.inbound(func(in *InboundConfig) {
			in.TLSCert, in.TLSKey, in.ListenTLS = old.certFile, old.keyFile, []string{implicit}
		})
		w.start()
		before := w.lifecycleSerial(inboundAt, false)
		if got := w.lifecycleSerial(implicit, true); got != before {
			t.Errorf("two certificates: %s and %s", before, got)
		}
		inside := w.client(inboundAt)
		inside.ask("EHLO client.example", "250")
		inside.startTLS()
		waiting := w.client(inboundAt) // comes before the reload, secures itself after it
		waiting.ask("EHLO client.example", "250")

		// The files are replaced; nothing happens before the reload. A pair that
		// does not fit is not taken.
		lifecycleCopy(t, renewed.certFile, old.certFile)
		if got := w.lifecycleSerial(inboundAt, false); got != before {
			t.Error("the certificate changed without a reload")
		}
		if err := w.lifecycleReload(func(*Config) {}); err == nil {
			t.Error("a certificate with another's key was taken")
		}
		if got := w.lifecycleSerial(inboundAt, false); got != before {
			t.Error("a failed reload changed the certificate")
		}
		lifecycleCopy(t, renewed.keyFile, old.keyFile)
		if err := w.lifecycleReload(func(*Config) {}); err != nil {
			t.Fatal(err)
		}
		after := w.lifecycleSerial(inboundAt, false)
		if after == before || w.lifecycleSerial(implicit, true) != after {
			t.Errorf("serials %s and %s", before, after)
		}
		inside.ask("EHLO client.example", "250")
		inside.deliver("m")
		waiting.startTLS()
		waiting.ask("EHLO client.example", "250")
		waiting.deliver("m")

		// An address changes from STARTTLS to TLS at once.
		if err := w.lifecycleReload(func(cfg *Config) { cfg.Inbound[0].Listen, cfg.Inbound[0].ListenTLS = nil, []string{inboundAt} }); err != nil {
			t.Fatal(err)
		}
		if got := w.lifecycleSerial(inboundAt, true); got != after {
			t.Errorf("serial %s, want %s", got, after)
		}
		w.refused(implicit)
		inside.deliver("m")
	})
}

func lifecycleCopy(t *testing.T, from, to string) {
	t.Helper()
	data, err := os.ReadFile(from)
	if err == nil {
		err = os.WriteFile(to, data, 0o600)
	}
	if err != nil {
		t.Fatal(err)
	}
}

// A configuration that cannot be put into force leaves everything as it was.
func TestReloadRefused(t *testing.T) {
	const added = proxyHost + ":26"
	for name, change := range map[string]func(*Config){
		"no certificate": func(cfg *Config) {
			cfg.Inbound[0].TLSCert, cfg.Inbound[0].TLSKey = "/nowhere/cert.pem", "/nowhere/key.pem"
		},
		"no authorities":  func(cfg *Config) { cfg.Outbound[0].TLSCAFile = "/nowhere/ca.pem" },
		"address in use":  func(cfg *Config) { cfg.Inbound[0].Listen = []string{added, backendAddr} },
		"malformed level": func(cfg *Config) { cfg.Outbound[0].TLS = "perhaps" },
		"open relay": func(cfg *Config) {
			cfg.Inbound[0].BackendTrustsUs = false
			cfg.Inbound[0].Listen = []string{inboundAt, added}
		},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				w := newWorld(t)
				backend := w.serve(backendAddr, &refpeer.Server{Keywords: refpeer.Modern()}) // takes every recipient
				w.serve(mxAddr, &refpeer.Server{Keywords: refpeer.Modern()})
				w.inbound()
				w.outbound()
				w.start()
				c := w.client(inboundAt)
				c.ask("EHLO client.example", "250")
				err := w.lifecycleReload(func(cfg *Config) {
					cfg.Hostname = "new.example"
					change(cfg)
				})
				var relays *RelayError
				if err == nil || errors.As(err, &relays) != (name == "open relay") {
					t.Fatalf("reload: %v", err)
				}
				w.refused(added)
				c.deliver("m")
				fresh := w.connect(inboundAt)
				fresh.want("220 proxy.example ")
				fresh.ask("EHLO client.example", "250")
				fresh.deliver("m")
				out := w.client(outboundAt)
				out.ask("EHLO client.example", "250")
				out.deliver("m")
				if err := w.proxy.Ready(); err != nil {
					t.Errorf("not ready: %v", err)
				}
				if len(backend.Messages()) != 2 {
					t.Errorf("the backend has %d messages", len(backend.Messages()))
				}
			})
		})
	}
}

// A reload asks the backend anew. Where it gives no answer the door is shut until
// it does, except for who is inside.
func TestReloadAsksAgain(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		g := w.guarded("")
		g.say(lifecycleNo)
		w.start()
		c := w.client(inboundAt)
		c.ask("EHLO client.example", "250")
		asked := g.asked.Load()
		if err := w.lifecycleReload(func(*Config) {}); err != nil {
			t.Fatal(err)
		}
		if g.asked.Load() != asked+1 {
			t.Errorf("asked %d times", g.asked.Load()-asked)
		}
		w.client(inboundAt).ask("QUIT", "221 ")
		g.say(lifecycleYes)
		var relays *RelayError
		if err := w.lifecycleReload(func(*Config) {}); !errors.As(err, &relays) {
			t.Errorf("reload before a relay: %v", err)
		}
		w.client(inboundAt).ask("QUIT", "221 ") // as it was
		g.say(lifecycleDown)
		if err := w.lifecycleReload(func(*Config) {}); err != nil {
			t.Fatal(err)
		}
		w.shut("")
		c.ask("NOOP", "250 ")
		g.say(lifecycleNo)
		time.Sleep(probeEveryMax)
		w.client(inboundAt).ask("QUIT", "221 ")
	})
}

// What a backend says when it is asked whether it relays.
const (
	lifecycleNo    = "550 5.7.1 relaying denied"
	lifecycleYes   = "250 2.1.5 ok"
	lifecycleLater = "450 4.2.0 greylisted"
	lifecycleDown  = ""
)

// A lifecycleBackend is a backend behind a guarded door.
type lifecycleBackend struct {
	*refpeer.Server
	verdict atomic.Pointer[string] // on foreign recipients
	asked   atomic.Int64
}

func (g *lifecycleBackend) say(verdict string) { g.verdict.Store(&verdict) }

// guarded adds an inbound door whose backend must be asked, and the backend.
func (w *world) guarded(banner string, change ...func(*InboundConfig)) *lifecycleBackend {
	g := &lifecycleBackend{Server: &refpeer.Server{Keywords: refpeer.Modern(), Banner: banner}}
	g.Server.Behave = func(ev refpeer.Event) refpeer.Action {
		verdict := *g.verdict.Load()
		switch {
		case verdict == lifecycleDown && ev.Kind == refpeer.Connect:
			return refpeer.Action{Reply: "421 4.3.2 starting\r\n", Close: true}
		case ev.Verb == "RCPT" && ev.Address == "relay-probe@example.com":
			g.asked.Add(1)
			return refpeer.Say(verdict)
		}
		return refpeer.Action{}
	}
	w.serve(backendAddr, g.Server)
	w.inbound(append([]func(*InboundConfig){func(in *InboundConfig) { in.BackendTrustsUs = false }}, change...)...)
	return g
}

// shut makes sure that clients are put off, and that the reason is known.
func (w *world) shut(why string) {
	w.t.Helper()
	c := w.connect(inboundAt)
	c.want("421 4.3.2 proxy.example is not ready")
	c.wantClosed()
	_ = c.conn.Close()
	if err := w.proxy.Ready(); err == nil || !strings.Contains(err.Error(), why) {
		w.t.Errorf("Ready says %v, want something about %q", err, why)
	}
}

func TestGuardRelay(t *testing.T) {
	for _, tt := range []struct{ banner, announce, line string }{
		{"mail.example ESMTP Postfix", "none", `In Postfix's master.cf give the listener "-o smtpd_authorized_xclient_hosts=127.0.0.1" and set client_address = "xclient" here`},
		{"mail.example ESMTP Exim 4.96 Mon, 01 Jan 2024", "none", `In Exim's configuration set "hosts_proxy = 127.0.0.1" and set client_address = "proxy-v2" here`},
		{"mail.example ESMTP Sendmail 8.17.1/8.17.1", "none", `Let sendmail listen on an address that has no RELAY line in the access map`},
		{"mail.example ESMTP OpenSMTPD", "none", `In smtpd.conf write "listen on 127.0.0.1 port 10025 proxy-v2" and set client_address = "proxy-v2" here`},
		{"mail.example ESMTP", "none", `Take our address out of the networks that the backend relays for`},
		{"mail.example ESMTP Postfix", "xclient", `The backend was told the client's address and relays all the same`},
		{"mail.example ESMTP Postfix", "proxy-v1", `The backend was told the client's address and relays all the same`},
	} {
		t.Run(tt.banner+"/"+tt.announce, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				w := newWorld(t)
				g := w.guarded(tt.banner, func(in *InboundConfig) { in.ClientAddress = tt.announce })
				g.say(lifecycleYes)
				g.Server.Keywords.Xclient, g.Server.ProxyHeader = identityAttrs, tt.announce == "proxy-v1"
				err := w.build().Start(t.Context())
				var relays *RelayError
				if !errors.As(err, &relays) {
					t.Fatalf("start: %v", err)
				}
				for _, want := range []string{tt.line, `"inbound"`, "[203.0.113.1]:25", "relay-probe@example.com", lifecycleYes, "backend_trusts_us = true"} {
					if !strings.Contains(err.Error(), want) {
						t.Errorf("%v\ndoes not mention %q", err, want)
					}
				}
				w.refused(inboundAt)
				if len(g.Messages())+len(g.Refused()) > 0 {
					t.Error("the probe sent a message")
				}
				w.stop()
				if v := g.Violations(); len(v) > 0 {
					t.Error(v)
				}
			})
		})
	}
}

// The probe comes from where strangers come from.
func TestGuardPretendsToBeAStranger(t *testing.T) {
	for _, announce := range []string{"none", "xclient", "proxy-v1", "proxy-v2"} {
		synctest.Test(t, func(t *testing.T) {
			w := newWorld(t)
			g := w.guarded("", func(in *InboundConfig) { in.ClientAddress = announce })
			g.Server.Keywords.Xclient, g.Server.ProxyHeader = identityAttrs, strings.HasPrefix(announce, "proxy-")
			g.say(lifecycleNo)
			w.start()
			time.Sleep(time.Minute)
			conns := g.Connections()
			if len(conns) != 1 || g.asked.Load() != 1 {
				t.Fatalf("%d connections, %d questions", len(conns), g.asked.Load())
			}
			commands := strings.Join(conns[0].Commands, "\n")
			const xclient = "XCLIENT ADDR=192.0.2.1 PORT=40025 NAME=relay-probe.example.net PROTO=ESMTP HELO=relay-probe.example.net DESTADDR=192.0.2.2 DESTPORT=25"
			if got := strings.Contains(commands, xclient); got != (announce == "xclient") {
				t.Errorf("%s: %q", announce, commands)
			}
			if got := conns[0].Proxy.Source == netip.MustParseAddrPort("192.0.2.1:40025"); got != strings.HasPrefix(announce, "proxy-") {
				t.Errorf("%s: PROXY header %+v", announce, conns[0].Proxy)
			}
			if !strings.HasSuffix(commands, "QUIT") || strings.Contains(commands, "DATA") {
				t.Errorf("%s: %q", announce, commands)
			}
			if v := g.Violations(); len(v) > 0 {
				t.Error(v)
			}
		})
	}
}

// A backend that is down at the start opens its door when it is up and has
// refused to relay, and not before.
func TestGuardBackendDown(t *testing.T) {
	for name, down := range map[string]bool{"421": true, "refused": false} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				w := newWorld(t)
				var g *lifecycleBackend
				if down {
					g = w.guarded("")
					g.say(lifecycleDown)
				} else {
					w.inbound(func(in *InboundConfig) { in.BackendTrustsUs = false })
				}
				w.start()
				for range 5 {
					w.shut("203.0.113.1")
					time.Sleep(20 * time.Second)
				}
				if !down {
					w.cfg.Inbound = nil // guarded makes another
					g = w.guarded("")
				}
				g.say(lifecycleYes)
				time.Sleep(probeEveryMax + time.Second)
				w.shut("open relay")
				g.say(lifecycleNo)
				time.Sleep(probeEveryMax + time.Second)
				c := w.client(inboundAt)
				if ehlo := c.ask("EHLO client.example", "250"); !strings.Contains(ehlo, "DSN") {
					t.Errorf("EHLO does not know the backend: %q", ehlo)
				}
				c.deliver("m")
				if err := w.proxy.Ready(); err != nil {
					t.Error(err)
				}
				asked := g.asked.Load()
				time.Sleep(10 * time.Minute)
				if g.asked.Load() != asked {
					t.Error("asked on after the answer")
				}
			})
		})
	}
}

// Answers that are no answer.
func TestGuardWithoutVerdict(t *testing.T) {
	for _, tt := range []struct {
		name       string
		behave     func(refpeer.Event) refpeer.Action
		open, asks bool
	}{
		{"greylisted", hopsAt("RCPT", refpeer.Say(lifecycleLater)), true, true},
		{"refused", hopsAt("RCPT", refpeer.Say(lifecycleNo)), true, false},
		{"MAIL put off", hopsAt("MAIL", refpeer.Say("451 4.3.0 later")), false, true},
		{"MAIL refused", hopsAt("MAIL", refpeer.Say("550 5.7.1 no")), false, true},
		{"421 at RCPT", hopsAt("RCPT", refpeer.Action{Reply: "421 4.3.2 bye\r\n", Close: true}), true, true},
		{"nonsense", hopsAt("RCPT", refpeer.Say("354 what")), false, true},
		{"closed", hopsAt("RCPT", refpeer.Action{Close: true}), false, true},
		{"silent", hopsAt("RCPT", refpeer.Action{Stall: true}), false, true},
		{"refuses the null sender alone, relays for others", func(ev refpeer.Event) refpeer.Action {
			if ev.Verb == "MAIL" && ev.Address == "" {
				return refpeer.Say("550 5.7.1 no bounces here")
			}
			return refpeer.Action{}
		}, false, true},
		{"refuses the null sender, and relaying", func(ev refpeer.Event) refpeer.Action {
			if ev.Verb == "MAIL" && ev.Address == "" || ev.Verb == "RCPT" {
				return refpeer.Say("550 5.7.1 no")
			}
			return refpeer.Action{}
		}, true, false},
	} {
		for _, old := range []bool{false, true} {
			t.Run(fmt.Sprintf("%s/old=%v", tt.name, old), func(t *testing.T) {
				synctest.Test(t, func(t *testing.T) {
					w := newWorld(t)
					s := &refpeer.Server{Behave: tt.behave, Old: old, StrictLockstep: old}
					if !old {
						s.Keywords = refpeer.Modern()
					}
					var started error
					w.serve(backendAddr, s)
					w.inbound(func(in *InboundConfig) { in.BackendTrustsUs = false })
					started = w.build().Start(t.Context())
					t.Cleanup(w.stop)
					var relays *RelayError
					if errors.As(started, &relays) {
						if tt.open {
							t.Fatal(started)
						}
						return
					}
					if started != nil {
						t.Fatal(started)
					}
					c := w.connect(inboundAt)
					if tt.open {
						c.want("220 ")
					} else {
						c.want("421 4.3.2")
					}
					before := s.Accepted()
					time.Sleep(5 * time.Minute)
					if asks := s.Accepted() > before; asks != tt.asks {
						t.Errorf("asked again: %v", asks)
					}
				})
			})
		}
	}
}

// A greylisting backend lets the door open; what it says in the end counts.
func TestGuardGreylist(t *testing.T) {
	for _, relays := range []bool{false, true} {
		synctest.Test(t, func(t *testing.T) {
			w := newWorld(t)
			g := w.guarded("")
			g.say(lifecycleLater)
			w.start()
			c := w.client(inboundAt)
			c.ask("EHLO client.example", "250")
			c.deliver("m")
			time.Sleep(5 * time.Minute)
			if n := g.asked.Load(); n < 5 {
				t.Errorf("asked %d times", n)
			}
			if relays {
				g.say(lifecycleYes)
			} else {
				g.say(lifecycleNo)
			}
			time.Sleep(probeEveryMax + time.Second)
			if relays {
				w.shut("open relay")
				return
			}
			w.client(inboundAt)
			asked := g.asked.Load()
			time.Sleep(5 * time.Minute)
			if g.asked.Load() != asked {
				t.Error("asked on after the answer")
			}
		})
	}
}
