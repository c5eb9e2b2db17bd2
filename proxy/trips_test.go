package proxy

import (
	"context"
	"crypto/tls"
	"fmt"
	"testing"
	"testing/synctest"
	"time"

	"slipstream/bench/netsim"
	"slipstream/bench/refpeer"
)

// What one small message costs a sender that is beside the proxy, in trips to a
// peer that nothing is known about: from the first SYN to the final reply. The
// time is virtual, so the figures are exact.
func TestOutboundTrips(t *testing.T) {
	const rtt = 100 * time.Millisecond
	modern := refpeer.Modern()
	plain := refpeer.Keywords{Pipelining: true, EightBitMIME: true}
	none := refpeer.Keywords{}
	tests := []struct {
		client   refpeer.Style
		keywords refpeer.Keywords
		tls      uint16 // STARTTLS with this version
		implicit bool
		direct   int // the same client without us
		want     int
	}{
		// The client's RCPT gets a real answer, so its text goes in a flight of
		// its own.
		{client: refpeer.OldLockStep, keywords: modern, direct: 7, want: 5},
		{client: refpeer.LockStep, keywords: modern, direct: 7, want: 5},
		{client: refpeer.Pipelining, keywords: modern, direct: 5, want: 4},
		// All that the client sent in one flight travels on in one.
		{client: refpeer.Chunking, keywords: modern, direct: 4, want: 4},

		// A peer without CHUNKING has to ask for the text.
		{client: refpeer.LockStep, keywords: plain, direct: 7, want: 6},
		{client: refpeer.Pipelining, keywords: plain, direct: 5, want: 5},

		// A peer without PIPELINING: nobody is slower than before.
		{client: refpeer.LockStep, keywords: none, direct: 7, want: 7},

		{client: refpeer.LockStep, keywords: modern, tls: tls.VersionTLS13, direct: 10, want: 8},
		{client: refpeer.Pipelining, keywords: modern, tls: tls.VersionTLS13, direct: 8, want: 7},
		{client: refpeer.Chunking, keywords: modern, tls: tls.VersionTLS13, direct: 7, want: 7},
		{client: refpeer.LockStep, keywords: modern, tls: tls.VersionTLS12, direct: 11, want: 9},
		{client: refpeer.Chunking, keywords: modern, tls: tls.VersionTLS12, direct: 8, want: 8},

		{client: refpeer.LockStep, keywords: modern, tls: tls.VersionTLS13, implicit: true, direct: 8, want: 6},
		{client: refpeer.Chunking, keywords: modern, tls: tls.VersionTLS13, implicit: true, direct: 5, want: 5},
	}
	for _, tt := range tests {
		name := fmt.Sprintf("%v/pipelining=%v,chunking=%v/%s", tt.client, tt.keywords.Pipelining, tt.keywords.Chunking, tlsName(tt.tls, tt.implicit))
		t.Run(name, func(t *testing.T) {
			cert := newTestCert(t, "mx.example.org")
			peer := func() *refpeer.Server {
				s := &refpeer.Server{Keywords: tt.keywords, Implicit: tt.implicit}
				if tt.tls != 0 {
					s.TLS = cert.server()
					s.TLS.MaxVersion = tt.tls
				}
				return s
			}
			synctest.Test(t, func(t *testing.T) {
				w := newWorld(t)
				w.net.SetLink(clientHost, mxHost, netsim.Link{Delay: rtt / 2})
				w.serve(mxAddr, peer())
				c := refpeer.Client{Style: tt.client}
				if tt.tls != 0 {
					c.TLS, c.Implicit = &tls.Config{InsecureSkipVerify: true, MaxVersion: tt.tls}, tt.implicit
				}
				if got := trips(t, w, &c, mxAddr, rtt); got != float64(tt.direct) {
					t.Errorf("direct: %v trips, want %d", got, tt.direct)
				}
			})
			synctest.Test(t, func(t *testing.T) {
				w := newWorld(t)
				w.net.SetLink(proxyHost, mxHost, netsim.Link{Delay: rtt / 2})
				mx := w.serve(mxAddr, peer())
				w.outbound(func(o *OutboundConfig) {
					if tt.implicit {
						o.Route, o.Offer, o.TLS = "", nil, "encrypt"
						o.Relay = Endpoint{Host: mxHost, Port: 25, TLS: true}
					}
				})
				w.start()
				if got := trips(t, w, &refpeer.Client{Style: tt.client}, outboundAt, rtt); got != float64(tt.want) {
					t.Errorf("through us: %v trips, want %d", got, tt.want)
				}
				if s := w.last(); s.Trips != tt.want {
					t.Errorf("the record says %d trips, want %d", s.Trips, tt.want)
				}
				if msgs := mx.Messages(); len(msgs) != 1 || string(msgs[0].Body) != tripBody {
					t.Errorf("the peer got %d messages: %+v", len(msgs), msgs)
				}
			})
		})
	}
}

func tlsName(version uint16, implicit bool) string {
	switch {
	case version == 0:
		return "clear"
	case implicit:
		return "implicit " + tls.VersionName(version)
	}
	return "STARTTLS " + tls.VersionName(version)
}

const tripBody = "Subject: trips\r\n\r\nhello\r\n"

// trips sends one message and counts the time until its sender is free.
func trips(t *testing.T, w *world, c *refpeer.Client, addr string, rtt time.Duration) float64 {
	t.Helper()
	start := time.Now()
	conn, err := w.net.Dial(t.Context(), clientHost, addr)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	c.Conn = conn
	r, err := c.Send(context.Background(), refpeer.Mail{From: "a@client.example", To: []string{"b@example.org"}, Body: []byte(tripBody)})
	if err != nil || !r.OK() {
		t.Fatalf("not sent: %v, %+v", err, r)
	}
	return float64(r.Done.Sub(start)) / float64(rtt)
}

// What one small message costs a sender who is far away, with the backend beside
// the proxy. An old backend costs nothing more.
func TestInboundTrips(t *testing.T) {
	const rtt = 100 * time.Millisecond
	tests := []struct {
		client refpeer.Style
		tls    bool
		want   int
	}{
		{client: refpeer.OldLockStep, want: 7},
		{client: refpeer.LockStep, want: 7},
		{client: refpeer.Pipelining, want: 5},
		{client: refpeer.Chunking, want: 4},
		{client: refpeer.Pipelining, tls: true, want: 8},
		{client: refpeer.Chunking, tls: true, want: 7},
	}
	backends := map[string]*refpeer.Server{
		"old backend":    {Old: true, StrictLockstep: true},
		"modern backend": {Keywords: refpeer.Modern()},
	}
	for name, backend := range backends {
		for _, tt := range tests {
			t.Run(fmt.Sprintf("%s/%v/tls=%v", name, tt.client, tt.tls), func(t *testing.T) {
				cert := newTestCert(t, "proxy.example")
				synctest.Test(t, func(t *testing.T) {
					w := newWorld(t)
					w.net.SetLink(clientHost, proxyHost, netsim.Link{Delay: rtt / 2})
					b := w.serve(backendAddr, &refpeer.Server{Old: backend.Old, StrictLockstep: backend.StrictLockstep, Keywords: backend.Keywords})
					w.inbound(func(in *InboundConfig) { in.TLSCert, in.TLSKey = cert.certFile, cert.keyFile })
					w.start()
					c := refpeer.Client{Style: tt.client}
					if tt.tls {
						c.TLS = &tls.Config{InsecureSkipVerify: true}
					}
					if got := trips(t, w, &c, inboundAt, rtt); got != float64(tt.want) {
						t.Errorf("%v trips, want %d", got, tt.want)
					}
					if v := b.Violations(); len(v) != 0 {
						t.Errorf("the backend saw %v", v)
					}
				})
			})
		}
	}
}
