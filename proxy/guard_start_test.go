package proxy

import (
	"errors"
	"fmt"
	"net/netip"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"slipstream/bench/refpeer"
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
