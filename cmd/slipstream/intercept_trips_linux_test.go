package main

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"testing"
	"time"

	"slipstream/bench/meter"
	"slipstream/bench/mta"
	"slipstream/bench/mta/mtatest"
	"slipstream/bench/refpeer"
	"slipstream/bench/wan"
)

// interceptDelay is half the trip of the link.
const interceptDelay = 25 * time.Millisecond

// interceptFarDomain has its mail host at the other end of the link.
const interceptFarDomain = "one.test"

// newFarWorld is an interceptWorld with the MTA, the service and the name server at one end of a long link, and a
// mail host at the other.
func newFarWorld(t *testing.T, secured bool) (*interceptWorld, *wan.Link, *refpeer.Server) {
	t.Helper()
	link, err := wan.Open(t.Context(), wan.Config{
		Shape: wan.Shape{Delay: interceptDelay}, Sysctls: map[string]string{"net.ipv4.tcp_no_metrics_save": "1"},
	})
	if errors.Is(err, wan.ErrUnavailable) {
		t.Skip(err)
	}
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = link.Close() })
	near, far := &netspace{t: t, side: link.Near()}, &netspace{t: t, side: link.Far()}
	w := &interceptWorld{t: t, mta: near, host: near, beyond: far}
	w.directory()
	zone := fmt.Sprintf("test. 300 IN SOA ns.test. root.test. 1 300 300 300 300\ntest. 300 IN NS ns.test.\nns.test. 300 IN A 127.0.0.1\n"+
		"%[1]s. 300 IN MX 10 mx.%[1]s.\nmx.%[1]s. 300 IN A %[2]s\n", interceptFarDomain, link.Far().Addr())
	var dns *mta.Tool
	err = near.do(func() (err error) {
		dns, err = mta.NSD{Listen: "127.0.0.1:53", Zones: map[string]string{"test": zone}}.Start(t.Context())
		return err
	})
	mtatest.Check(t, err)
	t.Cleanup(func() { _ = dns.Stop() })
	s := &refpeer.Server{Hostname: "mx." + interceptFarDomain, Keywords: refpeer.Modern()}
	if secured {
		cert, err := newCertificate(s.Hostname)
		if err != nil {
			t.Fatal(err)
		}
		if s.TLS, err = cert.server(); err != nil {
			t.Fatal(err)
		}
	}
	s.Start(far.listen(netip.AddrPortFrom(link.Far().Addr(), 25).String()))
	t.Cleanup(s.Close)
	return w, link, s
}

// interceptTrips sends two messages, the second when the first is over, and returns what each took on the link.
func interceptTrips(t *testing.T, w *interceptWorld, link *wan.Link, s *refpeer.Server, kind mta.Kind, tls mta.TLSPolicy) (cost [2]interceptCost) {
	t.Helper()
	ctx := mtatest.Context(t)
	var in *mta.Instance
	err := w.mta.do(func() (err error) {
		in, err = mta.Start(ctx, kind, mta.Config{Listen: "127.0.0.1:2525", Hostname: "mail.test", DNS: "127.0.0.1", ClientTLS: tls})
		return err
	})
	mtatest.Check(t, err)
	defer func() { _ = in.Stop() }()
	link.Reset()
	for i := range cost {
		before := len(s.Messages())
		begun := time.Now()
		if err := in.Submit(ctx, "a@mail.test", []string{"b@" + interceptFarDomain}, []byte(interceptMail)); err != nil {
			t.Fatal(err)
		}
		if _, err := s.WaitMessages(ctx, before+1); err != nil {
			t.Fatalf("%v\n%s", err, in.Log())
		}
		w.await("the final reply to cross the link", func() bool {
			cost[i], err = newestCost(link, begun)
			return err == nil && time.Since(begun) > 8*interceptDelay
		})
		// Postfix and Exim are done with the first message when their log says so.
		if err := in.WaitLog(ctx, map[mta.Kind]string{mta.Exim: "Completed", mta.Postfix: "removed"}[kind]); err != nil {
			t.Fatal(err)
		}
		pauseFor(ctx, 6*interceptDelay) // goodbyes are not the next message's
	}
	return cost
}

// An interceptCost is what a message took: the time, in trips of the link, and how often its sender spoke, which no busy
// machine changes.
type interceptCost struct {
	trips   float64
	flights int
}

func (c interceptCost) String() string { return fmt.Sprintf("%.1f (%d flights)", c.trips, c.flights) }

// newestCost is that of the message which was begun last.
func newestCost(link *wan.Link, begun time.Time) (interceptCost, error) {
	for _, c := range meter.Conns(link.Segments()) {
		since := begun
		if first := c.Segments[0].At; !first.Before(begun) {
			since = time.Time{} // with its SYN
		}
		ledger, err := c.Ledger(since)
		if err != nil {
			continue
		}
		cost := interceptCost{trips: ledger.Trips(2 * interceptDelay)}
		for _, f := range c.FlightsBetween(since, time.Time{}) {
			if f.Final {
				return cost, nil
			}
			if !f.FromServer {
				cost.flights++
			}
		}
	}
	return interceptCost{}, errors.New("no message was seen")
}

func pauseFor(ctx context.Context, d time.Duration) {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
	case <-ctx.Done():
	}
}

// What a message takes over a long link, by the packets, with the MTA unchanged: before, and with its connections
// redirected to us.
func TestInterceptTrips(t *testing.T) {
	for _, kind := range mta.Kinds() {
		for _, secured := range []bool{false, true} {
			channel, before := "clear", mta.TLSNone
			if secured {
				channel, before = "STARTTLS", mta.TLSMay
			}
			t.Run(string(kind)+"/"+channel, func(t *testing.T) {
				w, link, s := newFarWorld(t, secured)
				direct := interceptTrips(t, w, link, s, kind, before)
				w.configure(`pool_idle = "1m"`)
				w.replaceServers("127.0.0.1:53")
				w.serve()
				w.apply()
				through := interceptTrips(t, w, link, s, kind, mta.TLSNone)
				t.Logf("%s, %s, trips: first message %v before, %v after; second %v before, %v after",
					kind, channel, direct[0], through[0], direct[1], through[1])
				if through[0].flights > direct[0].flights {
					t.Errorf("the first message takes %v, without us %v", through[0], direct[0])
				}
				if through[1].flights != 1 || through[1].trips > direct[1].trips-2 {
					t.Errorf("on a connection that is kept it takes %v, without us %v", through[1], direct[1])
				}
			})
		}
	}
}
