package proxy

import (
	"crypto/tls"
	"fmt"
	"testing"
	"testing/synctest"
	"time"

	"slipstream/bench/netsim"
	"slipstream/bench/refpeer"
	"slipstream/tlsstore"
)

// early is a large receiver that takes early talk.
func early() refpeer.Keywords {
	k := refpeer.Modern()
	k.PipeConnect = true
	return k
}

// What the second message to the same hop costs, over a new connection and over
// the one that is still open, in trips from the client's SYN to its final reply.
func TestKnownTrips(t *testing.T) {
	const rtt = 100 * time.Millisecond
	tests := []struct {
		name     string
		client   refpeer.Style
		policy   string
		tls      uint16
		implicit bool
		first    int // nothing is known
		known    int // what the hop offers is known
		resumed  int // TLS sessions as well
		warm     int // the connection is still open
		savings  string
	}{
		{name: "clear", client: refpeer.Chunking, policy: "none", first: 4, known: 2, warm: 1, savings: "early:2,bdat:1"},
		{name: "clear", client: refpeer.Pipelining, policy: "none", first: 4, known: 2, warm: 1, savings: "early:2,late:1"},
		{name: "clear", client: refpeer.LockStep, policy: "none", first: 5, known: 3, warm: 2, savings: "early:2"},
		// Until the hop has said that it has no TLS, the text does not go in clear.
		{name: "clear, TLS wanted", client: refpeer.Chunking, policy: "may", first: 4, known: 3, warm: 1, savings: "early:2"},
		{name: "STARTTLS 1.3", client: refpeer.Chunking, policy: "may", tls: tls.VersionTLS13, first: 7, known: 4, warm: 1, savings: "early:3,bdat:1"},
		{name: "STARTTLS 1.3", client: refpeer.Pipelining, policy: "may", tls: tls.VersionTLS13, first: 7, known: 4, warm: 1, savings: "early:3,late:1"},
		{name: "STARTTLS 1.3", client: refpeer.LockStep, policy: "may", tls: tls.VersionTLS13, first: 8, known: 5, warm: 2, savings: "early:3"},
		{name: "STARTTLS 1.2", client: refpeer.Chunking, policy: "may", tls: tls.VersionTLS12, first: 8, known: 4, warm: 1, savings: "early:3,bdat:1,resumed:1"},
		// A relay was asked what it offers when the door opened.
		{name: "implicit 1.3", client: refpeer.Chunking, policy: "encrypt", tls: tls.VersionTLS13, implicit: true, first: 3, known: 3, warm: 1, savings: "early:2,bdat:1"},
	}
	for _, tt := range tests {
		for _, warm := range []bool{false, true} {
			t.Run(fmt.Sprintf("%s/%v/warm=%v", tt.name, tt.client, warm), func(t *testing.T) {
				cert := newTestCert(t, "mx.example.org")
				synctest.Test(t, func(t *testing.T) {
					w := newWorld(t)
					w.remember(tlsstore.Memory())
					w.net.SetLink(proxyHost, mxHost, netsim.Link{Delay: rtt / 2})
					mx := &refpeer.Server{Keywords: early(), Implicit: tt.implicit}
					if tt.tls != 0 {
						mx.TLS = cert.server()
						mx.TLS.MaxVersion = tt.tls
					}
					w.serve(mxAddr, mx)
					w.outbound(func(o *OutboundConfig) {
						o.TLS = tt.policy
						if warm {
							o.PoolIdle = 30 * time.Second
						}
						if tt.implicit {
							o.Route, o.Offer = "", nil
							o.Relay = Endpoint{Host: mxHost, Port: 25, TLS: true}
						}
					})
					w.start()
					second, how := tt.known, tt.savings
					if warm {
						second, how = tt.warm, ""
					}
					if got := trips(t, w, &refpeer.Client{Style: tt.client}, outboundAt, rtt); got != float64(tt.first) {
						t.Errorf("first contact: %v trips, want %d", got, tt.first)
					}
					time.Sleep(time.Second)
					if got := trips(t, w, &refpeer.Client{Style: tt.client}, outboundAt, rtt); got != float64(second) {
						t.Errorf("known: %v trips, want %d", got, second)
					}
					s := w.last()
					if s.Trips != second {
						t.Errorf("the record says %d trips, want %d", s.Trips, second)
					}
					if how != "" && s.Saved.String() != how {
						t.Errorf("the record says %q, want %q", s.Saved, how)
					}
					if warm && s.Saved.warm == 0 {
						t.Errorf("the record says %q", s.Saved)
					}
					for i, m := range mx.Messages() {
						if string(m.Body) != tripBody {
							t.Errorf("message %d: %q", i, m.Body)
						}
					}
					if n := len(mx.Messages()); n != 2 {
						t.Errorf("the hop has %d messages", n)
					}
				})
			})
		}
	}
}

// A transaction of the control share knows nothing and keeps nothing.
func TestControlShare(t *testing.T) {
	const rtt = 100 * time.Millisecond
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		w.remember(tlsstore.Memory())
		w.net.SetLink(proxyHost, mxHost, netsim.Link{Delay: rtt / 2})
		w.serve(mxAddr, &refpeer.Server{Keywords: early()})
		w.outbound(func(o *OutboundConfig) { o.TLS, o.ControlShare = "none", 1 })
		w.start()
		for range 3 {
			if got := trips(t, w, &refpeer.Client{Style: refpeer.Chunking}, outboundAt, rtt); got != 5 {
				t.Errorf("%v trips, want 5", got)
			}
			if s := w.last(); !s.Control || s.Saved.total() != 0 || s.Trips != 5 {
				t.Errorf("the record says control=%v saved=%q trips=%d", s.Control, s.Saved, s.Trips)
			}
		}
	})
}
