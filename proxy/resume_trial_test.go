package proxy

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"slipstream/bench/netsim"
	"slipstream/bench/refpeer"
	"slipstream/tlsstore"
)

// A trialWorld sends to a hop that goes wrong when it is told to.
type trialWorld struct {
	*world
	hop   *refpeer.Server
	wrong atomic.Bool
}

// trial prepares a hop; change is called before it is there.
func trial(t *testing.T, cert testCert, store bool,
	change func(w *trialWorld, conf *tls.Config, s *refpeer.Server)) *trialWorld {
	t.Helper()
	w := &trialWorld{world: newWorld(t)}
	conf := cert.server()
	s := &refpeer.Server{Keywords: refpeer.Modern(), TLS: conf, Idle: time.Hour}
	change(w, conf, s)
	w.hop = w.serve(mxAddr, s)
	if store {
		w.remember(tlsstore.Memory())
	}
	w.outbound()
	return w
}

// attempt has a message sent, and says how it went: "sent TLS", "sent clear" or
// the status.
func (w *trialWorld) attempt() string {
	w.t.Helper()
	conn, err := w.net.Dial(w.t.Context(), clientHost, outboundAt)
	if err != nil {
		w.t.Fatal(err)
	}
	defer conn.Close()
	c := &refpeer.Client{Style: refpeer.LockStep, Conn: conn, Timeout: time.Hour}
	mail := refpeer.Mail{From: "a@client.example", To: []string{"b@example.org"}, Body: []byte(tripBody)}
	r, err := c.Send(context.Background(), mail)
	if err != nil {
		w.t.Fatal(err)
	}
	if !r.OK() {
		_ = conn.Close()
		time.Sleep(time.Second)
		return w.last().Status
	}
	if w.last().TLS == "none" {
		return "sent clear"
	}
	return "sent TLS"
}

func (w *trialWorld) quirk(q tlsstore.Quirk) bool {
	return w.store.Quirk(netip.MustParseAddrPort(mxAddr), q)
}

// slowly makes handshakes take a while, those without a session too.
func slowly(conf *tls.Config, pause func() time.Duration) {
	inner := conf.Clone()
	conf.GetConfigForClient = func(*tls.ClientHelloInfo) (*tls.Config, error) {
		time.Sleep(pause())
		return inner, nil
	}
}

// late lets a connection begin late, so that there is little time for TLS.
func late(is func(conn int) bool) func(refpeer.Event) refpeer.Action {
	return func(ev refpeer.Event) refpeer.Action {
		switch {
		case !is(ev.Conn):
		case ev.Kind == refpeer.Connect:
			return refpeer.Action{Delay: 110 * time.Second}
		case ev.Verb == "EHLO" && !ev.Secured:
			return refpeer.Action{Delay: 78 * time.Second}
		}
		return refpeer.Action{}
	}
}

// That there is a store takes no time from a handshake in which no session is
// offered (P3: it would be repeated in clear).
func TestNoTrialWithoutASession(t *testing.T) {
	for _, store := range []bool{false, true} {
		t.Run(fmt.Sprint("store=", store), func(t *testing.T) {
			cert := newTestCert(t, "mx.example.org")
			synctest.Test(t, func(t *testing.T) {
				w := trial(t, cert, store, func(_ *trialWorld, conf *tls.Config, s *refpeer.Server) {
					slowly(conf, func() time.Duration { return 27 * time.Second })
					s.Behave = late(func(conn int) bool { return conn == 0 })
				})
				w.start()
				if got := w.attempt(); got != "sent TLS" || w.hop.Accepted() != 1 {
					t.Errorf("%s, with %d connections", got, w.hop.Accepted())
				}
			})
		})
	}
}

// Where a trial took the time that TLS would have needed, or something else
// happened that would not have but for the session, nothing goes in clear (P3).
// The next attempt is as without a store.
func TestNothingGoesInClearForASession(t *testing.T) {
	tests := []struct {
		name   string
		change func(w *trialWorld, conf *tls.Config, s *refpeer.Server)
		next   string
	}{
		{"the trial runs out, then the handshake does", func(w *trialWorld, conf *tls.Config, s *refpeer.Server) {
			slowly(conf, func() time.Duration {
				if w.wrong.Load() {
					return 27 * time.Second
				}
				return 0
			})
			s.Behave = late(func(conn int) bool { return conn == 1 })
		}, "sent TLS"},
		{"the trial runs out, then TLS is refused", func(w *trialWorld, conf *tls.Config, s *refpeer.Server) {
			inner := conf.Clone()
			var n atomic.Int32
			conf.GetConfigForClient = func(*tls.ClientHelloInfo) (*tls.Config, error) {
				switch n.Add(1) {
				case 2:
					time.Sleep(27 * time.Second)
				case 3:
					return nil, errors.New("not now")
				}
				return inner, nil
			}
			s.Behave = late(func(conn int) bool { return conn == 1 })
		}, "sent TLS"},
		{"the session fails, then STARTTLS is hidden", func(w *trialWorld, conf *tls.Config, s *refpeer.Server) {
			breaksOnSessions(w, conf)
			s.Behave = func(ev refpeer.Event) refpeer.Action {
				if ev.Conn == 2 && ev.Verb == "EHLO" {
					return refpeer.Say("250 mx.example")
				}
				return refpeer.Action{}
			}
		}, "sent TLS"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			cert := newTestCert(t, "mx.example.org")
			synctest.Test(t, func(t *testing.T) {
				w := trial(t, cert, true, tt.change)
				w.start()
				if got := w.attempt(); got != "sent TLS" {
					t.Fatal(got)
				}
				time.Sleep(time.Second)
				w.wrong.Store(true)
				if got := w.attempt(); got != "deferred" {
					t.Errorf("at first: %s", got)
				}
				if n := w.counter("slipstream_tls_fallbacks_total", "outbound"); n != 0 {
					t.Errorf("%v went in clear", n)
				}
				before := w.hop.Accepted()
				if got := w.attempt(); got != tt.next || w.hop.Accepted() != before+1 {
					t.Errorf("then: %s, with %d connections", got, w.hop.Accepted()-before)
				}
			})
		})
	}
}

// breaksOnSessions has a hop hang up where a session is offered.
func breaksOnSessions(w *trialWorld, conf *tls.Config) {
	conf.UnwrapSession = func(identity []byte, cs tls.ConnectionState) (*tls.SessionState, error) {
		if w.wrong.Load() && len(identity) > 0 {
			return nil, errors.New("no session, please")
		}
		return conf.DecryptTicket(identity, cs)
	}
}

// Where TLS fails without a session as well it is as if there had been none:
// with "may" the message goes in clear.
func TestBrokenTLSIsNotTheSessions(t *testing.T) {
	cert := newTestCert(t, "mx.example.org")
	synctest.Test(t, func(t *testing.T) {
		w := trial(t, cert, true, func(w *trialWorld, conf *tls.Config, _ *refpeer.Server) {
			inner := conf.Clone()
			conf.GetConfigForClient = func(*tls.ClientHelloInfo) (*tls.Config, error) {
				if w.wrong.Load() {
					return nil, errors.New("broken")
				}
				return inner, nil
			}
		})
		w.start()
		w.attempt()
		time.Sleep(time.Second)
		w.wrong.Store(true)
		if got := w.attempt(); got != "sent clear" {
			t.Error(got)
		}
		if n := w.counter("slipstream_tls_fallbacks_total", "outbound"); n != 1 {
			t.Errorf("%v fallbacks were counted, want 1", n)
		}
		if w.quirk(quirkBroke) {
			t.Error("the session was blamed")
		}
	})
}

// A hop that takes longer to answer inside TLS than a trial lasts is put off
// once, however far apart the attempts are (P6).
func TestSlowHopIsPutOffOnce(t *testing.T) {
	for _, pause := range []time.Duration{time.Hour, 25 * time.Hour} {
		t.Run(pause.String(), func(t *testing.T) {
			cert := newTestCert(t, "mx.example.org")
			synctest.Test(t, func(t *testing.T) {
				w := trial(t, cert, true, func(_ *trialWorld, _ *tls.Config, s *refpeer.Server) {
					s.Behave = func(ev refpeer.Event) refpeer.Action {
						if ev.Verb == "EHLO" && ev.Secured {
							return refpeer.Action{Delay: 130 * time.Second}
						}
						return refpeer.Action{}
					}
				})
				w.start()
				var got []string
				for range 6 {
					got = append(got, w.attempt())
					time.Sleep(pause)
				}
				want := []string{"sent TLS", "deferred", "sent TLS", "sent TLS", "sent TLS", "sent TLS"}
				if !slices.Equal(got, want) {
					t.Errorf("%q, want %q", got, want)
				}
			})
		})
	}
}

// A hop that broke on sessions twice is offered none for a week, and then one.
func TestHopThatWasOfferedNoneForAWeek(t *testing.T) {
	cert := newTestCert(t, "mx.example.org")
	synctest.Test(t, func(t *testing.T) {
		w := trial(t, cert, true, func(w *trialWorld, conf *tls.Config, _ *refpeer.Server) { breaksOnSessions(w, conf) })
		w.start()
		w.attempt()
		w.wrong.Store(true)
		for range 2 {
			time.Sleep(time.Minute)
			w.attempt() // breaks, and is done without
		}
		if !w.quirk(tlsstore.QuirkNoTickets) {
			t.Fatal("it is still offered sessions")
		}
		time.Sleep(distrustFor)
		before := w.hop.Accepted()
		for range 4 {
			w.attempt() // the first brings a session, which the second breaks on
			time.Sleep(time.Minute)
		}
		if n := w.hop.Accepted() - before; n != 5 {
			t.Errorf("%d connections for four messages, want one that broke", n)
		}
	})
}

// What a hop says inside TLS it has said on a session that works, be it that it
// is busy or that it does not like a client's name.
func TestHopThatSpeaksIsNotBlamed(t *testing.T) {
	for _, said := range []string{"421 4.7.0 too many connections", "450 4.7.0 busy", "550 5.7.1 bad name"} {
		t.Run(said, func(t *testing.T) {
			cert := newTestCert(t, "mx.example.org")
			synctest.Test(t, func(t *testing.T) {
				w := newWorld(t)
				var busy atomic.Bool
				s := &refpeer.Server{Keywords: refpeer.Modern(), TLS: cert.server(), ProxyHeader: true}
				s.Behave = func(ev refpeer.Event) refpeer.Action {
					if busy.Load() && ev.Secured && (ev.Verb == "EHLO" || ev.Verb == "HELO") {
						return refpeer.Action{Reply: said + "\r\n", Close: strings.HasPrefix(said, "421")}
					}
					return refpeer.Action{}
				}
				b := w.serve(backendAddr, s)
				w.remember(tlsstore.Memory())
				w.inbound(func(in *InboundConfig) { in.BackendTLS, in.ClientAddress = "encrypt", announceProxyV2 })
				w.start()
				for i := range 6 {
					before := b.Accepted()
					c := w.client(inboundAt)
					c.ask("EHLO client.example", "250")
					c.say("MAIL FROM:<a@client.example>")
					c.want("")
					if n := b.Accepted() - before; n != 1 {
						t.Errorf("visit %d: %d connections to the backend", i, n)
					}
					_ = c.conn.Close()
					time.Sleep(time.Second)
					busy.Store(i >= 1)
				}
				if w.store.Quirk(netip.MustParseAddrPort(backendAddr), quirkBroke) {
					t.Error("the session was blamed")
				}
				if n := w.counter("slipstream_tls_sessions_total", "inbound"); n == 0 {
					t.Error("no session was tried at all")
				}
			})
		})
	}
}

// A hop that is just down is not blamed for its session.
func TestHopThatIsDownIsNotBlamed(t *testing.T) {
	cert := newTestCert(t, "mx.example.org")
	synctest.Test(t, func(t *testing.T) {
		w := trial(t, cert, true, func(w *trialWorld, _ *tls.Config, s *refpeer.Server) {
			s.Behave = func(ev refpeer.Event) refpeer.Action {
				return refpeer.Action{Close: w.wrong.Load() && (ev.Secured || ev.Conn > 1)}
			}
		})
		w.start()
		w.attempt()
		time.Sleep(time.Second)
		w.wrong.Store(true)
		for range 4 {
			if got := w.attempt(); got != "deferred" {
				t.Error(got)
			}
			time.Sleep(time.Minute)
		}
		if w.quirk(quirkBroke) || w.quirk(tlsstore.QuirkNoTickets) {
			t.Error("the session was blamed")
		}
	})
}

// What a session broke is to be seen: in the line of the message, in its trips,
// in the metrics, and once in a line of its own.
func TestBrokenSessionIsSeen(t *testing.T) {
	cert := newTestCert(t, "mx.example.org")
	synctest.Test(t, func(t *testing.T) {
		w := trial(t, cert, true, func(w *trialWorld, conf *tls.Config, _ *refpeer.Server) { breaksOnSessions(w, conf) })
		logs := w.observe()
		w.attempt()
		good := w.last().Trips
		w.wrong.Store(true)
		for range 4 {
			time.Sleep(time.Minute)
			w.attempt()
		}
		var troubles, notices int
		for _, e := range logs.All() {
			trouble, _ := e.ContextMap()["trouble"].(string)
			if strings.Contains(trouble, "with a TLS session of before") {
				if troubles++; e.ContextMap()["trips"].(int64) <= int64(good)+3 {
					t.Errorf("%v trips, %d without the connection that broke", e.ContextMap()["trips"], good)
				}
			}
			if strings.Contains(e.Message, "hop breaks on TLS sessions") {
				notices++
				fields := e.ContextMap()
				until, _ := fields["until"].(time.Time)
				if fields["hop"] == "" || fields["door"] != "outbound" || fields["error"] == nil ||
					time.Until(until) < distrustFor-time.Hour {
					t.Errorf("the notice says %v", fields)
				}
			}
		}
		if troubles != 2 || notices != 1 {
			t.Errorf("%d messages tell of trouble, and %d lines of its end; want 2 and 1", troubles, notices)
		}
	})
}

// What a connection brought that broke on trial is not kept: with TLS 1.3 the
// ticket comes before that is known.
func TestNothingIsKeptOfAFailedTrial(t *testing.T) {
	cert := newTestCert(t, "mx.example.org")
	synctest.Test(t, func(t *testing.T) {
		w := trial(t, cert, true, func(w *trialWorld, conf *tls.Config, _ *refpeer.Server) {
			conf.VerifyConnection = func(state tls.ConnectionState) error {
				if w.wrong.Load() && state.DidResume {
					return errors.New("no session of before, please")
				}
				return nil
			}
		})
		w.net.SetLink(proxyHost, mxHost, netsim.Link{Delay: 50 * time.Millisecond})
		w.start()
		w.attempt()
		time.Sleep(time.Second)
		w.wrong.Store(true)
		if got := w.attempt(); got != "sent TLS" || w.hop.Accepted() != 3 {
			t.Fatalf("%s, with %d connections", got, w.hop.Accepted())
		}
		if n := w.sessions(); n != "1" {
			t.Errorf("%s sessions are kept, want that of the connection without", n)
		}
	})
}

// sessions tells how many the store has of the only scope.
func (w *trialWorld) sessions() (n string) {
	w.t.Helper()
	err := w.store.List("", func(e tlsstore.Entry) bool {
		for _, f := range e.Fields {
			if f.Name == "sessions" {
				n += f.Value
			}
		}
		return true
	})
	if err != nil {
		w.t.Error(err)
	}
	return n
}

// A client that leaves during a trial has nothing to do with the session.
func TestClientLeavesDuringTheTrial(t *testing.T) {
	cert := newTestCert(t, "mx.example.org")
	synctest.Test(t, func(t *testing.T) {
		w := trial(t, cert, true, func(w *trialWorld, _ *tls.Config, s *refpeer.Server) {
			s.Behave = func(ev refpeer.Event) refpeer.Action {
				if w.wrong.Load() && ev.Verb == "EHLO" && ev.Secured {
					return refpeer.Action{Delay: 20 * time.Second}
				}
				return refpeer.Action{}
			}
		})
		w.start()
		w.attempt()
		time.Sleep(time.Second)
		w.wrong.Store(true)
		c := w.client(outboundAt)
		c.ask("EHLO client.example", "250")
		c.ask("MAIL FROM:<a@client.example>", "250")
		c.say("RCPT TO:<b@example.org>")
		time.Sleep(5 * time.Second)
		w.stop()
		time.Sleep(time.Minute)
		if n := w.hop.Accepted(); n != 2 || w.quirk(quirkBroke) {
			t.Errorf("%d connections, want 2; blamed: %v", n, w.quirk(quirkBroke))
		}
		if n := w.sessions(); n != "2" {
			t.Errorf("%s sessions are left, want the one that was offered and the one that came", n)
		}
	})
}
