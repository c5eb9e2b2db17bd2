package proxy

import (
	"crypto/tls"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"slipstream/bench/netsim"
	"slipstream/bench/refpeer"
	"slipstream/tlsstore"
)

// keptMemory is a disk: it outlives the store over it.
type keptMemory struct{ tlsstore.KV }

func (keptMemory) Close() error { return nil }

// ours is a proxy of ours in front of somebody's backend, which another one
// sends to.
func ours(t *testing.T, net *netsim.Network, cert testCert, version uint16) *world {
	t.Helper()
	w := newWorld(t)
	w.net, w.cfg.Hostname = net, "mx.example.org"
	w.inbound(func(in *InboundConfig) {
		in.Listen, in.TLSCert, in.TLSKey = []string{mxAddr}, cert.certFile, cert.keyFile
	})
	var err error
	if w.tickets, err = tlsstore.NewTickets(tlsstore.TicketOptions{}); err != nil {
		t.Fatal(err)
	}
	w.shy = tlsstore.NewShy(tlsstore.ShyOptions{})
	w.start()
	for _, d := range w.proxy.doors {
		d.tls.MaxVersion = version // nobody is here yet
	}
	return w
}

// sender is a proxy of ours that sends to the world, with what the one before it
// had learned.
func sender(t *testing.T, net *netsim.Network, cert testCert, disk tlsstore.KV) *world {
	t.Helper()
	w := newWorld(t)
	w.net = net
	w.remember(disk)
	w.outbound(func(o *OutboundConfig) { o.TLS, o.TLSCAFile = "verify", cert.certFile })
	w.start()
	return w
}

// From our outbound door to our inbound door: the next process of the sender
// resumes the sessions of the one before. The next of the receiver has other
// ticket keys, and that costs one full handshake and no mail.
func TestResumesWithOurselves(t *testing.T) {
	for _, version := range []uint16{tls.VersionTLS12, tls.VersionTLS13} {
		t.Run(tls.VersionName(version), func(t *testing.T) {
			cert := newTestCert(t, "mx.example.org")
			synctest.Test(t, func(t *testing.T) {
				net, disk := netsim.New(), keptMemory{tlsstore.Memory()}
				backend := newWorld(t)
				backend.net = net
				mta := backend.serve(backendAddr, &refpeer.Server{Keywords: refpeer.Modern()})
				b := ours(t, net, cert, version)
				a := sender(t, net, cert, disk)
				sent := 0
				send := func(what string, want int) {
					t.Helper()
					sendOne(t, a, time.Second)
					sent++
					s := a.last()
					if s.Status != "sent" || s.Resumption != want || !s.Verified || b.last().Status != "sent" {
						t.Errorf("%s: %s, bits %#02x, want %#02x; verified: %v",
							what, s.Status, s.Resumption, want, s.Verified)
					}
					if !strings.HasPrefix(s.TLS, tls.VersionName(version)) {
						t.Errorf("%s: over %s", what, s.TLS)
					}
					if n := len(mta.Messages()); n != sent {
						t.Errorf("%s: %d messages are there, want %d", what, n, sent)
					}
					time.Sleep(time.Second) // for what is written behind
				}
				const fresh, resumed, refused = 0x0B, 0x1F, 0x0F
				send("first", fresh)
				send("second", resumed)

				a.stop()
				if err := a.store.Close(); err != nil {
					t.Fatal(err)
				}
				a = sender(t, net, cert, disk)
				send("the sender was restarted", resumed)

				b.stop()
				b = ours(t, net, cert, version)
				send("the receiver was restarted", refused)
				send("once more", resumed)
				if n := a.counter("slipstream_tls_fallbacks_total", "outbound"); n != 0 {
					t.Errorf("%v went in clear", n)
				}
			})
		})
	}
}
