package proxy

import (
	"crypto/tls"
	"errors"
	"net/netip"
	"os"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"slipstream/bench/refpeer"
)

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
