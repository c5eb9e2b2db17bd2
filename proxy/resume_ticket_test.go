package proxy

import (
	"crypto/tls"
	"errors"
	"fmt"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"go.uber.org/zap/zaptest/observer"

	"slipstream/bench/refpeer"
	"slipstream/tlsstore"
)

// emptyTickets has a server send TLS 1.3 tickets of no octets, which crypto/tls
// refuses where sessions are kept, and does not look at where they are not.
func emptyTickets(conf *tls.Config) {
	conf.WrapSession = func(tls.ConnectionState, *tls.SessionState) ([]byte, error) { return []byte{}, nil }
}

// A hop whose tickets cannot be kept is reached with a store as it is without
// (P6), at once, at every level, and is trusted with no session from then on.
func TestHopWhoseTicketsAreRefused(t *testing.T) {
	for _, tt := range []struct {
		level    string
		implicit bool
	}{{"may", false}, {"encrypt", false}, {"verify", false}, {"encrypt", true}} {
		t.Run(fmt.Sprint(tt.level, " implicit=", tt.implicit), func(t *testing.T) {
			cert := newTestCert(t, "mx.example.org")
			synctest.Test(t, func(t *testing.T) {
				w := &trialWorld{world: newWorld(t)}
				conf := cert.server()
				emptyTickets(conf)
				w.hop = w.serve(mxAddr, &refpeer.Server{Keywords: refpeer.Modern(), TLS: conf, Implicit: tt.implicit})
				w.remember(tlsstore.Memory())
				w.outbound(func(o *OutboundConfig) {
					o.TLS, o.TLSCAFile = tt.level, cert.certFile
					if tt.implicit {
						o.Route, o.Offer = "", nil
						o.Relay = Endpoint{Host: mxHost, Port: 25, TLS: true}
					}
				})
				logs := w.observe()
				if got := w.attempt(); got != "sent TLS" {
					t.Fatalf("the first message: %s, %s", got, troubles(logs))
				}
				if n := w.hop.Accepted(); !tt.implicit && n != 2 { // a relay is asked something before
					t.Errorf("%d connections for the first message, want 2", n)
				}
				if !w.quirk(tlsstore.QuirkNoTickets) {
					t.Error("it is still trusted with tickets")
				}
				before := w.hop.Accepted()
				if got := w.attempt(); got != "sent TLS" || w.hop.Accepted() != before+1 {
					t.Errorf("the second message: %s, with %d more connections", got, w.hop.Accepted()-before)
				}
			})
		})
	}
}

// The message's line says what happened.
func TestRefusedTicketIsSeen(t *testing.T) {
	cert := newTestCert(t, "mx.example.org")
	synctest.Test(t, func(t *testing.T) {
		w := trial(t, cert, true, func(_ *trialWorld, conf *tls.Config, _ *refpeer.Server) { emptyTickets(conf) })
		logs := w.observe()
		w.attempt()
		if got := troubles(logs); !strings.Contains(got, "by a ticket for the next TLS session: "+refusedTicket) {
			t.Errorf("trouble: %q", got)
		}
	})
}

// troubles are what the lines of all messages tell of trouble with hops.
func troubles(logs *observer.ObservedLogs) (all string) {
	for _, e := range logs.All() {
		trouble, _ := e.ContextMap()["trouble"].(string)
		all += trouble + "\n"
	}
	return all
}

// A hop that breaks on a session of before, and on the connection without gives
// a ticket that is refused, is reached on a third one. Where such a ticket comes
// with the session, the second has no room for another.
func TestRefusedTicketAndASession(t *testing.T) {
	for _, tt := range []struct {
		name   string
		breaks bool // on the session; else it resumes it
		conns  int
	}{{"behind a broken session", true, 3}, {"on a session", false, 2}} {
		t.Run(tt.name, func(t *testing.T) {
			cert := newTestCert(t, "mx.example.org")
			synctest.Test(t, func(t *testing.T) {
				w := trial(t, cert, true, func(w *trialWorld, conf *tls.Config, _ *refpeer.Server) {
					refuseBehind(w, conf, tt.breaks)
				})
				logs := w.observe()
				if got := w.attempt(); got != "sent TLS" || w.hop.Accepted() != 1 {
					t.Fatalf("%s, with %d connections", got, w.hop.Accepted())
				}
				time.Sleep(time.Second)
				w.wrong.Store(true)
				if got := w.attempt(); got != "sent TLS" {
					t.Errorf("%s; trouble %q", got, troubles(logs))
				}
				if n := w.hop.Accepted() - 1; n != tt.conns {
					t.Errorf("%d connections, want %d; trouble %q", n, tt.conns, troubles(logs))
				}
				if !w.quirk(tlsstore.QuirkNoTickets) {
					t.Error("it is still trusted with tickets")
				}
			})
		})
	}
}

// refuseBehind has a hop that goes wrong break on sessions and give tickets that
// are refused where there is none; or the other way round. Never both at once:
// a ticket leaves in the server's first flight, ahead of its verdict, and which
// of them the client comes upon first would be chance.
func refuseBehind(w *trialWorld, conf *tls.Config, breaks bool) {
	conf.WrapSession = func(state tls.ConnectionState, s *tls.SessionState) ([]byte, error) {
		if w.wrong.Load() && state.DidResume != breaks {
			return []byte{}, nil
		}
		return conf.EncryptTicket(state, s)
	}
	conf.VerifyConnection = func(state tls.ConnectionState) error {
		if w.wrong.Load() && state.DidResume && breaks {
			return errUnwanted
		}
		return nil
	}
}

var errUnwanted = errors.New("no session of before, please")
