package proxy

import (
	"crypto/tls"
	"fmt"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"slipstream/bench/netsim"
	"slipstream/bench/refpeer"
	"slipstream/tlsstore"
)

// sendOne sends a message on a connection of its own and returns how many trips
// its sender waited.
func sendOne(t *testing.T, w *world, rtt time.Duration) float64 {
	t.Helper()
	return trips(t, w, &refpeer.Client{Style: refpeer.LockStep}, outboundAt, rtt)
}

// The second message to a peer resumes the TLS session of the first: with TLS
// 1.2 that is a trip less.
func TestResumesWithHops(t *testing.T) {
	const rtt = 100 * time.Millisecond
	tests := []struct {
		version  uint16
		implicit bool
		first    float64
		second   float64
	}{
		{tls.VersionTLS12, false, 9, 8},
		{tls.VersionTLS13, false, 8, 8},
		{tls.VersionTLS12, true, 6, 6}, // resumed, the server finishes first and greets later
		{tls.VersionTLS13, true, 6, 6},
	}
	for _, tt := range tests {
		t.Run(tlsName(tt.version, tt.implicit), func(t *testing.T) {
			cert := newTestCert(t, "mx.example.org")
			synctest.Test(t, func(t *testing.T) {
				w := newWorld(t)
				w.net.SetLink(proxyHost, mxHost, netsim.Link{Delay: rtt / 2})
				s := &refpeer.Server{Keywords: refpeer.Modern(), TLS: cert.server(), Implicit: tt.implicit}
				s.TLS.MaxVersion = tt.version
				mx := w.serve(mxAddr, s)
				w.remember(tlsstore.Memory())
				w.outbound(func(o *OutboundConfig) {
					if tt.implicit {
						o.Route, o.Offer, o.TLS = "", nil, "encrypt"
						o.Relay = Endpoint{Host: mxHost, Port: 25, TLS: true}
					}
				})
				w.start()
				first := sendOne(t, w, rtt)
				if got := w.last().Resumption; !tt.implicit && got != resumeSupported|resumeRequested|resumeIssued {
					t.Errorf("first message: bits %#x", got)
				}
				time.Sleep(time.Second) // for what is written behind
				second := sendOne(t, w, rtt)
				if got := w.last().Resumption; got&(resumeOffered|resumeDone) != resumeOffered|resumeDone {
					t.Errorf("second message: bits %#x", got)
				}
				if first != tt.first || second != tt.second {
					t.Errorf("%v and %v trips, want %v and %v", first, second, tt.first, tt.second)
				}
				// A relay was asked what it offers before the first message came.
				if m := mx.Messages(); len(m) != 2 || m[0].Resumed != tt.implicit || !m[1].Resumed {
					t.Errorf("the peer saw %+v", m)
				}
			})
		})
	}
}

// A session serves nobody but the same hop under the same policy (P3).
func TestSessionsStayInTheirScope(t *testing.T) {
	for level, resumed := range map[string]bool{"may": true, "encrypt": false, "verify": false} {
		t.Run(level, func(t *testing.T) {
			cert := newTestCert(t, "mx.example.org")
			synctest.Test(t, func(t *testing.T) {
				w := newWorld(t)
				mx := w.serve(mxAddr, &refpeer.Server{Keywords: refpeer.Modern(), TLS: cert.server()})
				w.remember(tlsstore.Memory())
				w.outbound()
				w.outbound(func(o *OutboundConfig) {
					o.Name, o.Listen = "strict", []string{proxyHost + ":588"}
					o.TLS, o.TLSCAFile = level, cert.certFile
					if level == "may" {
						o.TLSCAFile = ""
					}
				})
				w.start()
				sendOne(t, w, time.Second)
				time.Sleep(time.Second)
				trips(t, w, &refpeer.Client{Style: refpeer.LockStep}, proxyHost+":588", time.Second)
				if m := mx.Messages(); len(m) != 2 || m[1].Resumed != resumed {
					t.Errorf("the second message resumed: %v, want %v", m[1].Resumed, resumed)
				}
				if s := w.last(); s.Verified != (level != "may") { // the others know the authority
					t.Errorf("verified: %v", s.Verified)
				}
			})
		})
	}
}

// A session that a hop breaks on costs a connection and nothing else: the
// message goes, under TLS, and the session is not offered again (P6).
func TestRefusedSessionIsRepaired(t *testing.T) {
	for _, version := range []uint16{tls.VersionTLS12, tls.VersionTLS13} {
		t.Run(tls.VersionName(version), func(t *testing.T) {
			cert := newTestCert(t, "mx.example.org")
			synctest.Test(t, func(t *testing.T) {
				w := newWorld(t)
				conf := cert.server()
				conf.MaxVersion = version
				var broken atomic.Bool
				conf.UnwrapSession = func(identity []byte, cs tls.ConnectionState) (*tls.SessionState, error) {
					if broken.Load() && len(identity) > 0 {
						return nil, fmt.Errorf("no ticket, please")
					}
					return conf.DecryptTicket(identity, cs)
				}
				mx := w.serve(mxAddr, &refpeer.Server{Keywords: refpeer.Modern(), TLS: conf})
				w.remember(tlsstore.Memory())
				w.outbound()
				w.start()
				sendOne(t, w, time.Second)
				time.Sleep(time.Second)
				broken.Store(true)
				sendOne(t, w, time.Second)
				if s := w.last(); s.Status != "sent" || s.TLS == "none" {
					t.Errorf("the second message: %s, TLS %s", s.Status, s.TLS)
				}
				if n := mx.Accepted(); n != 3 {
					t.Errorf("%d connections, want one, one that broke, and one without the session", n)
				}
				if m := mx.Messages(); len(m) != 2 || m[1].TLS == 0 || m[1].Resumed {
					t.Errorf("the peer got %+v", m)
				}
			})
		})
	}
}

// A hop may break on a session when the handshake is over for us, or fall
// silent: the message goes all the same, and in the end no session is offered.
func TestHopThatBreaksBehindTheHandshake(t *testing.T) {
	for _, silent := range []bool{false, true} {
		for _, version := range []uint16{tls.VersionTLS12, tls.VersionTLS13} {
			t.Run(fmt.Sprintf("%s/silent=%v", tls.VersionName(version), silent), func(t *testing.T) {
				cert := newTestCert(t, "mx.example.org")
				synctest.Test(t, func(t *testing.T) {
					w := newWorld(t)
					w.cfg.Timeouts.Setup = 30 * time.Second
					conf := cert.server()
					conf.MaxVersion = version
					conf.VerifyConnection = func(state tls.ConnectionState) error {
						switch {
						case !state.DidResume:
							return nil
						case silent:
							time.Sleep(time.Hour)
						}
						return fmt.Errorf("no session of before, please")
					}
					mx := w.serve(mxAddr, &refpeer.Server{Keywords: refpeer.Modern(), TLS: conf})
					w.remember(tlsstore.Memory())
					w.outbound()
					w.start()
					var accepted []int
					for range 6 {
						sendOne(t, w, time.Second)
						if s := w.last(); s.Status != "sent" || s.TLS == "none" {
							t.Errorf("%s, TLS %s", s.Status, s.TLS)
						}
						accepted = append(accepted, mx.Accepted())
						time.Sleep(time.Minute)
					}
					if n := len(mx.Messages()); n != 6 {
						t.Errorf("%d messages arrived", n)
					}
					if last := accepted[5] - accepted[3]; last != 2 {
						t.Errorf("connections so far: %v, want one for each of the last messages", accepted)
					}
				})
			})
		}
	}
}

// Clients resume their sessions with us, by a ticket that is not in our first
// flight, and those that cannot bear one get none.
func TestClientsResume(t *testing.T) {
	tests := []struct {
		name   string
		helo   string
		change func(*TicketsConfig)
		want   bool
	}{
		{"held back", "client.example", nil, true},
		{"at once", "client.example", func(c *TicketsConfig) { c.Hold = false }, true},
		{"none for the name", "mail-1.outlook.com", nil, false},
	}
	for _, tt := range tests {
		for _, version := range []uint16{tls.VersionTLS12, tls.VersionTLS13} {
			t.Run(tt.name+"/"+tls.VersionName(version), func(t *testing.T) {
				cert := newTestCert(t, "proxy.example")
				synctest.Test(t, func(t *testing.T) {
					w := newWorld(t)
					w.serve(backendAddr, &refpeer.Server{Keywords: refpeer.Modern()})
					w.inbound(func(in *InboundConfig) { in.TLSCert, in.TLSKey = cert.certFile, cert.keyFile })
					if tt.change != nil {
						tt.change(&w.cfg.Tickets)
					}
					var err error
					if w.tickets, err = tlsstore.NewTickets(tlsstore.TicketOptions{}); err != nil {
						t.Fatal(err)
					}
					w.shy = tlsstore.NewShy(tlsstore.ShyOptions{Patterns: w.cfg.Tickets.NotFor})
					w.start()
					conf := &tls.Config{
						InsecureSkipVerify: true, ServerName: "proxy.example", MaxVersion: version,
						ClientSessionCache: tls.NewLRUClientSessionCache(0),
					}
					for i, want := range []bool{false, tt.want} {
						c := &refpeer.Client{Style: refpeer.LockStep, Name: tt.helo, TLS: conf}
						trips(t, w, c, inboundAt, time.Second)
						if got := c.ConnectionState().DidResume; got != want {
							t.Errorf("connection %d resumed: %v, want %v", i+1, got, want)
						}
						if err := c.Quit(t.Context()); err != nil {
							t.Log(err) // trips closed it
						}
					}
				})
			})
		}
	}
}
