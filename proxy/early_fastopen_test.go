package proxy

import (
	"crypto/tls"
	"testing"
	"testing/synctest"
	"time"

	"slipstream/bench/netsim"
	"slipstream/bench/refpeer"
	"slipstream/tlsstore"
)

// What rides in the SYN saves the trip of connecting.
func TestFastOpenTrips(t *testing.T) {
	const rtt = 100 * time.Millisecond
	tests := []struct {
		name     string
		fastopen string
		policy   string
		tls      bool
		implicit bool
		classic  bool
		want     int
		savings  string
	}{
		{name: "clear/off", fastopen: "off", policy: "none", want: 2, savings: "early:2,bdat:1"},
		{name: "clear/commands", fastopen: "commands", policy: "none", want: 2, savings: "early:2,bdat:1"},
		{name: "clear/message", fastopen: "message", policy: "none", want: 1, savings: "early:2,bdat:1,fastopen:1"},
		{name: "STARTTLS/commands", fastopen: "commands", policy: "may", tls: true, want: 3, savings: "early:3,bdat:1,fastopen:1"},
		// A ClientHello with a key share of X25519MLKEM768 is larger than a SYN may be.
		{name: "implicit/commands", fastopen: "commands", policy: "encrypt", tls: true, implicit: true, want: 3, savings: "early:2,bdat:1"},
		{name: "implicit/small hello", fastopen: "commands", policy: "encrypt", tls: true, implicit: true, classic: true, want: 2, savings: "early:2,bdat:1,fastopen:1"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			cert := newTestCert(t, "mx.example.org")
			synctest.Test(t, func(t *testing.T) {
				w := newWorld(t)
				w.remember(tlsstore.Memory())
				w.net.SetLink(proxyHost, mxHost, netsim.Link{Delay: rtt / 2})
				w.net.SetFastOpen(mxAddr, true)
				w.dialFast = w.net.FastDialer(proxyHost)
				mx := &refpeer.Server{Keywords: early(), Implicit: tt.implicit}
				if tt.tls {
					mx.TLS = cert.server()
					mx.TLS.MaxVersion = tls.VersionTLS13
				}
				w.serve(mxAddr, mx)
				w.outbound(func(o *OutboundConfig) {
					o.TLS, o.FastOpen, o.PostQuantum = tt.policy, tt.fastopen, !tt.classic
					if tt.implicit {
						o.Route, o.Offer = "", nil
						o.Relay = Endpoint{Host: mxHost, Port: 25, TLS: true}
					}
				})
				w.start()
				// One to learn what the hop offers, one to be given a cookie.
				for range 2 {
					trips(t, w, &refpeer.Client{Style: refpeer.Chunking}, outboundAt, rtt)
				}
				got := trips(t, w, &refpeer.Client{Style: refpeer.Chunking}, outboundAt, rtt)
				if got != float64(tt.want) {
					t.Errorf("%v trips, want %d", got, tt.want)
				}
				if s := w.last(); s.Trips != tt.want || s.Saved.String() != tt.savings {
					t.Errorf("the record says %d trips and %q, want %d and %q", s.Trips, s.Saved, tt.want, tt.savings)
				}
				if n := len(mx.Messages()); n != 3 {
					t.Errorf("the hop has %d messages", n)
				}
			})
		})
	}
}
