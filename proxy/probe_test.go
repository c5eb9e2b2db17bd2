package proxy

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"net"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"slipstream/bench/netsim"
	"slipstream/bench/refpeer"
	"slipstream/smtpwire"
)

// probeTrip is the round trip to the host that is probed.
const probeTrip = 80 * time.Millisecond

// probe probes a host of the simulated network at a distance.
func (w *world) probe(addr string, change ...func(*ProbeOptions)) ProbeReport {
	w.t.Helper()
	at := netip.MustParseAddrPort(addr)
	w.net.SetLink(clientHost, at.Addr().String(), netsim.Link{Delay: probeTrip / 2})
	o := ProbeOptions{Resolver: w.dns, Dial: w.net.Dialer(clientHost), Helo: "probe.example"}
	for _, f := range change {
		f(&o)
	}
	host := at.Addr().String()
	if at.Addr() == netip.MustParseAddr(mxHost) {
		host = "mx.example.org"
	}
	return ProbeHost(w.t.Context(), host, at.Port(), o)
}

func probing(mode string) func(*ProbeOptions) {
	return func(o *ProbeOptions) { o.TLS = mode }
}

// wantCommands checks what a server heard, and that it was never MAIL.
func wantCommands(t *testing.T, s *refpeer.Server, want ...string) {
	t.Helper()
	synctest.Wait()
	for _, c := range s.Connections() {
		if !slices.Equal(c.Commands, want) {
			t.Errorf("the server heard %q\nwant %q", c.Commands, want)
		}
	}
	if v := s.Violations(); len(v) != 0 {
		t.Errorf("the server saw violations: %v", v)
	}
}

func TestProbeStartTLS(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		cert := newTestCert(t, "mx.example.org", "mail.example.org")
		keywords := refpeer.Modern()
		keywords.PipeConnect = true
		s := w.serve(mxAddr, &refpeer.Server{Keywords: keywords, TLS: cert.server(), StrictLockstep: true})
		roots := x509.NewCertPool()
		roots.AddCert(cert.pair.Leaf)
		r := w.probe(mxAddr, func(o *ProbeOptions) { o.Roots = roots })
		if r.Failure != "" {
			t.Fatal(r.Failure)
		}
		if r.Address != mxAddr || !strings.HasPrefix(r.Greeting, "220 ") {
			t.Errorf("address %q, greeting %q", r.Address, r.Greeting)
		}
		if !slices.Contains(r.EHLO, "STARTTLS") || slices.Contains(r.EHLOInTLS, "STARTTLS") || !slices.Contains(r.EHLOInTLS, "SIZE 52428800") {
			t.Errorf("offers %q, inside TLS %q", r.EHLO, r.EHLOInTLS)
		}
		if want := []string{"PIPELINING", "PIPECONNECT", "ENHANCEDSTATUSCODES", "CHUNKING", "SIZE", "8BITMIME", "SMTPUTF8", "DSN"}; !slices.Equal(r.Offers, want) {
			t.Errorf("offers %q, want %q", r.Offers, want)
		}
		if want := []string{"LIMITS", "REQUIRETLS"}; !slices.Equal(r.Lacks, want) {
			t.Errorf("lacks %q, want %q", r.Lacks, want)
		}
		tlsReport := *r.TLS
		if tlsReport.How != ProbeStartTLS || tlsReport.Version != "TLS 1.3" || tlsReport.Subject != "CN=mx.example.org" ||
			!slices.Equal(tlsReport.Names, []string{"mx.example.org", "mail.example.org"}) || !tlsReport.Verified || tlsReport.Problem != "" {
			t.Errorf("TLS: %+v", tlsReport)
		}
		if tlsReport.Took != Millis(2*probeTrip) {
			t.Errorf("STARTTLS and the handshake took %v ms, want two trips", tlsReport.Took)
		}
		if want := (ProbeTrip{Connect: Millis(probeTrip), Median: Millis(probeTrip), Samples: slices.Repeat([]Millis{Millis(probeTrip)}, 5)}); !slices.Equal(r.Trip.Samples, want.Samples) ||
			r.Trip.Connect != want.Connect || r.Trip.Median != want.Median {
			t.Errorf("trip %+v\nwant %+v", r.Trip, want)
		}
		if want := (ProbeCost{FirstContact: ProbeWays{10, 8, 7}, Warm: ProbeWays{4, 2, 1}}); r.Cost != want {
			t.Errorf("cost %+v, want %+v", r.Cost, want)
		}
		wantCommands(t, s, "EHLO probe.example", "STARTTLS", "EHLO probe.example", "NOOP", "NOOP", "NOOP", "QUIT")
	})
}

func TestProbeOldServer(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		s := w.serve(backendAddr, &refpeer.Server{Old: true, StrictLockstep: true})
		r := w.probe(backendAddr)
		if r.Failure != "" || r.TLS != nil || len(r.EHLO) != 0 || len(r.Offers) != 0 {
			t.Errorf("report: %+v", r)
		}
		if want := (ProbeCost{FirstContact: ProbeWays{LockStep: 7}, Warm: ProbeWays{LockStep: 4}}); r.Cost != want {
			t.Errorf("cost %+v, want %+v", r.Cost, want)
		}
		wantCommands(t, s, "EHLO probe.example", "HELO probe.example", "NOOP", "NOOP", "NOOP", "QUIT")
	})
}

func TestProbeImplicitTLS(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		cert := newTestCert(t, "somebody.else")
		const addr = mxHost + ":465"
		s := w.serve(addr, &refpeer.Server{Keywords: refpeer.Modern(), TLS: cert.server(), Implicit: true})
		r := w.probe(addr)
		if r.Failure != "" || r.TLS == nil || r.TLS.How != ProbeImplicit || r.EHLOInTLS != nil {
			t.Fatalf("report: %+v", r)
		}
		if r.TLS.Verified || r.TLS.Problem == "" {
			t.Errorf("a self-signed certificate for another name: %+v", r.TLS)
		}
		if want := (ProbeWays{8, 6, 5}); r.Cost.FirstContact != want {
			t.Errorf("cost %+v, want %+v", r.Cost.FirstContact, want)
		}
		wantCommands(t, s, "EHLO probe.example", "NOOP", "NOOP", "NOOP", "QUIT")
	})
}

func TestProbeWithoutTLS(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		s := w.serve(mxAddr, &refpeer.Server{Keywords: refpeer.Modern(), TLS: newTestCert(t, "mx").server()})
		if r := w.probe(mxAddr, probing(ProbeNone)); r.Failure != "" || r.TLS != nil {
			t.Errorf("report: %+v", r)
		}
		wantCommands(t, s, "EHLO probe.example", "NOOP", "NOOP", "NOOP", "QUIT")
	})
}

func TestProbeFailures(t *testing.T) {
	for _, test := range []struct {
		name    string
		server  *refpeer.Server
		mode    string
		failure string
		offers  bool // EHLO was answered before
	}{
		{"refused", nil, "", "connection refused", false},
		{"unwilling", &refpeer.Server{Behave: on(refpeer.Connect, refpeer.Action{Reply: "554 no mail here\r\n", Close: true})}, "",
			`said "554 no mail here" while waiting for the greeting`, false},
		{"silent", &refpeer.Server{Behave: on(refpeer.Connect, refpeer.Action{Stall: true})}, "",
			"waiting for the greeting: no progress", false},
		{"no STARTTLS", &refpeer.Server{Keywords: refpeer.Modern()}, ProbeStartTLS, "STARTTLS is not offered", true},
		{"words before TLS", &refpeer.Server{TLS: &tls.Config{}, Behave: onLine("STARTTLS", refpeer.Action{Reply: "220 go\r\n250 injected\r\n"})}, "",
			"spoke on before TLS was up", true},
		{"no TLS behind STARTTLS", &refpeer.Server{TLS: &tls.Config{}, Behave: onLine("STARTTLS", refpeer.Action{Reply: "220 go\r\n", Close: true})}, "",
			"negotiating TLS", true},
		{"gone after EHLO", &refpeer.Server{Behave: onLine("NOOP", refpeer.Action{Close: true})}, "",
			"measuring the trip (NOOP)", true},
	} {
		t.Run(test.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				w := newWorld(t)
				if test.server != nil {
					w.serve(mxAddr, test.server)
				}
				r := w.probe(mxAddr, probing(test.mode))
				if !strings.Contains(r.Failure, test.failure) {
					t.Errorf("failure %q, want %q in it", r.Failure, test.failure)
				}
				if offers := r.Greeting != ""; offers != test.offers {
					t.Errorf("greeting %q", r.Greeting)
				}
			})
		})
	}
}

func TestProbeEndsWithItsContext(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		w.serve(mxAddr, &refpeer.Server{Behave: on(refpeer.Connect, refpeer.Action{Stall: true})})
		ctx, cancel := context.WithCancel(t.Context())
		time.AfterFunc(time.Second, cancel)
		start := time.Now()
		r := ProbeHost(ctx, "mx.example.org", 25, ProbeOptions{Resolver: w.dns, Dial: w.net.Dialer(clientHost)})
		if r.Failure != "context canceled" || time.Since(start) > 2*time.Second {
			t.Errorf("%q after %v", r.Failure, time.Since(start))
		}
	})
}

func TestProbeMX(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		w.dns.mx["example.net"] = []*net.MX{{Host: "second.example.net", Pref: 20}, {Host: "first.example.net", Pref: 10}}
		w.dns.mx["null.example"] = []*net.MX{{Host: ".", Pref: 0}}
		w.dns.addrs["first.example.net"] = []netip.Addr{netip.MustParseAddr("203.0.113.8")}
		w.dns.addrs["second.example.net"] = []netip.Addr{netip.MustParseAddr("203.0.113.9")}
		w.serve("203.0.113.9:25", &refpeer.Server{Keywords: refpeer.Modern()})
		o := ProbeOptions{Resolver: w.dns, Dial: w.net.Dialer(clientHost)}
		reports, err := ProbeMX(t.Context(), "example.net", 0, o)
		if err != nil || len(reports) != 2 {
			t.Fatalf("%d reports, %v", len(reports), err)
		}
		if r := reports[0]; r.Host != "first.example.net" || !strings.Contains(r.Failure, "connection refused") {
			t.Errorf("first: %+v", r)
		}
		if r := reports[1]; r.Host != "second.example.net" || r.Failure != "" || len(r.Offers) == 0 {
			t.Errorf("second: %+v", r)
		}
		for domain, want := range map[string]string{"null.example": "null MX", "missing.example": "does not exist"} {
			if _, err := ProbeMX(t.Context(), domain, 0, o); err == nil || !strings.Contains(err.Error(), want) {
				t.Errorf("%s: %v, want %q in it", domain, err, want)
			}
		}
	})
}

// on makes a server do something at one kind of event.
func on(kind refpeer.Kind, a refpeer.Action) func(refpeer.Event) refpeer.Action {
	return func(e refpeer.Event) refpeer.Action {
		if e.Kind == kind {
			return a
		}
		return refpeer.Action{}
	}
}

// onLine makes a server do something at a command.
func onLine(line string, a refpeer.Action) func(refpeer.Event) refpeer.Action {
	return func(e refpeer.Event) refpeer.Action {
		if e.Kind == refpeer.Command && e.Line == line {
			return a
		}
		return refpeer.Action{}
	}
}

// The table of docs: what a small message costs from the client's SYN.
func TestCostOf(t *testing.T) {
	full := smtpwire.NewEHLO("mx", smtpwire.Param{Name: "PIPELINING"}, smtpwire.Param{Name: "CHUNKING"})
	for _, test := range []struct {
		name    string
		offer   smtpwire.EHLO
		how     string
		version uint16
		want    ProbeWays
	}{
		{"clear", full, ProbeNone, 0, ProbeWays{7, 5, 4}},
		{"clear, no CHUNKING", full.Without("CHUNKING"), ProbeNone, 0, ProbeWays{7, 5, 0}},
		{"clear, nothing", smtpwire.EHLO{}, ProbeNone, 0, ProbeWays{7, 0, 0}},
		{"CHUNKING without PIPELINING", full.Without("PIPELINING"), ProbeNone, 0, ProbeWays{7, 0, 0}},
		{"STARTTLS, TLS 1.3", full, ProbeStartTLS, tls.VersionTLS13, ProbeWays{10, 8, 7}},
		{"STARTTLS, TLS 1.2", full, ProbeStartTLS, tls.VersionTLS12, ProbeWays{11, 9, 8}},
		{"implicit, TLS 1.3", full, ProbeImplicit, tls.VersionTLS13, ProbeWays{8, 6, 5}},
		{"implicit, TLS 1.2", full, ProbeImplicit, tls.VersionTLS12, ProbeWays{8, 6, 5}},
	} {
		t.Run(test.name, func(t *testing.T) {
			if got := costOf(test.offer, test.how, test.version).FirstContact; got != test.want {
				t.Errorf("got %+v, want %+v", got, test.want)
			}
		})
	}
}

// What contactTrips says of TLS is what the wire shows.
func TestContactTripsAreThoseOfTheWire(t *testing.T) {
	for name, test := range map[string]struct {
		addr    string
		version uint16
	}{
		"STARTTLS, TLS 1.3": {mxHost + ":25", tls.VersionTLS13},
		"STARTTLS, TLS 1.2": {mxHost + ":25", tls.VersionTLS12},
		"implicit, TLS 1.3": {mxHost + ":465", tls.VersionTLS13},
		"implicit, TLS 1.2": {mxHost + ":465", tls.VersionTLS12},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				w := newWorld(t)
				conf := newTestCert(t, "mx.example.org").server()
				conf.MaxVersion = test.version
				implicit := strings.HasSuffix(test.addr, ":465")
				w.serve(test.addr, &refpeer.Server{Keywords: refpeer.Modern(), TLS: conf, Implicit: implicit})
				start := time.Now()
				r := w.probe(test.addr)
				if r.Failure != "" {
					t.Fatal(r.Failure)
				}
				// All the probe did, but for the NOOPs and QUIT, is what comes before MAIL.
				contact := time.Since(start)/probeTrip - probeNoops - 1
				// Of the trip cost, one message with BDAT is the last trip.
				if want := r.Cost.FirstContact.Chunked - 1; int(contact) != want {
					t.Errorf("MAIL could be said after %d trips, want %d", contact, want)
				}
			})
		})
	}
}

func TestProbeReportJSON(t *testing.T) {
	report := newProbeReport("mx.example.org")
	report.Trip.Connect = Millis(1234567 * time.Nanosecond)
	got, err := json.Marshal(report)
	if err != nil {
		t.Fatal(err)
	}
	const want = `{"host":"mx.example.org","greeting_after_ms":0.00,"ehlo":[],"offers":[],"lacks":[],` +
		`"trip":{"connect_ms":1.23,"median_ms":0.00,"samples_ms":[]},` +
		`"cost":{"first_contact":{"lock_step":0,"pipelined":0,"chunked":0},"warm":{"lock_step":0,"pipelined":0,"chunked":0}}}`
	if string(got) != want {
		t.Errorf("got  %s\nwant %s", got, want)
	}
}
