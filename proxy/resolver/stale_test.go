package resolver

import (
	"context"
	"fmt"
	"net/netip"
	"testing"
	"testing/synctest"
	"time"

	"github.com/miekg/dns"
)

// A changing zone has what it has now.
type changing struct {
	zone  zone
	rcode int
	after time.Duration // it takes to answer
	mute  bool
}

func (c *changing) net() *fakeNet {
	return &fakeNet{handle: func(_, _ string, q *dns.Msg) (*dns.Msg, time.Duration) {
		if c.mute {
			return nil, 0
		}
		m := c.zone.answer(q)
		if c.rcode != 0 {
			m = new(dns.Msg)
			m.SetRcode(q, c.rcode)
		}
		return m, c.after
	}}
}

// inStale runs a test with a name whose TTL is a minute, looked up just now.
func inStale(t *testing.T, cfg Config, test func(t *testing.T, z *changing, f *fakeNet, r *Resolver)) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) {
		z := &changing{after: time.Second, zone: zone{
			"x.example. 60 IN A 192.0.2.1", "x.example. 60 IN TXT old", "x.example. 60 IN MX 10 x.example.",
		}}
		f := z.net()
		r := f.resolver(t, cfg)
		if _, err := r.LookupA(t.Context(), "x.example"); err != nil {
			t.Fatal(err)
		}
		test(t, z, f, r)
		r.Close()
		time.Sleep(time.Minute) // the server may still be at it
		if len(r.flights) != 0 || r.refreshes != 0 || len(r.slots) != 0 {
			t.Errorf("%d flights, %d refreshes and %d questions left", len(r.flights), r.refreshes, len(r.slots))
		}
	})
}

// wantA wants an answer, and how long that takes.
func wantA(t *testing.T, ctx context.Context, r *Resolver, addr string, isStale bool, took time.Duration) {
	t.Helper()
	start := time.Now()
	res, err := r.LookupA(ctx, "x.example")
	if err != nil || len(res.Records) != 1 || res.Records[0] != netip.MustParseAddr(addr) || res.Stale != isStale {
		t.Errorf("got %v, stale %v, %v; want %s, stale %v", res.Records, res.Stale, err, addr, isStale)
	}
	if d := time.Since(start); d != took {
		t.Errorf("that took %v, want %v", d, took)
	}
}

func TestStaleAtOnceThenFresh(t *testing.T) {
	inStale(t, Config{MaxStale: time.Hour}, func(t *testing.T, z *changing, f *fakeNet, r *Resolver) {
		z.zone = zone{"x.example. 60 IN A 192.0.2.2"}
		time.Sleep(time.Hour) // 59 minutes and a bit behind its end
		for range 5 {
			wantA(t, t.Context(), r, "192.0.2.1", true, 0)
		}
		time.Sleep(time.Second)
		synctest.Wait()
		wantA(t, t.Context(), r, "192.0.2.2", false, 0)
		if n := f.queries.Load(); n != 2 {
			t.Errorf("%d questions, want 2", n)
		}
	})
}

// The bound counts from the end of the answer's own time, whatever was asked meanwhile.
func TestStaleHasAnEnd(t *testing.T) {
	inStale(t, Config{MaxStale: time.Hour}, func(t *testing.T, z *changing, f *fakeNet, r *Resolver) {
		z.rcode = dns.RcodeServerFailure
		time.Sleep(time.Minute)
		for range 119 {
			wantA(t, t.Context(), r, "192.0.2.1", true, 0)
			time.Sleep(30 * time.Second)
		}
		time.Sleep(30*time.Second - time.Nanosecond)
		wantA(t, t.Context(), r, "192.0.2.1", true, 0)
		time.Sleep(time.Nanosecond)
		if _, err := r.LookupA(t.Context(), "x.example"); verdict(err) != "temporary" {
			t.Errorf("beyond the bound: %v", err)
		}
	})
}

// A failure is not asked about again at once.
func TestStaleRetry(t *testing.T) {
	inStale(t, Config{MaxStale: time.Hour}, func(t *testing.T, z *changing, f *fakeNet, r *Resolver) {
		z.rcode, z.after = dns.RcodeServerFailure, 0
		time.Sleep(10 * time.Minute)
		for range 30 {
			wantA(t, t.Context(), r, "192.0.2.1", true, 0)
			time.Sleep(2 * time.Second)
		}
		if n := f.queries.Load(); n != 1+2 {
			t.Errorf("%d questions in a minute, want 2", n-1)
		}
	})
}

// "No" is an answer: it takes the place of what was known, whether or not it may be remembered itself.
func TestStaleGivesWayToNo(t *testing.T) {
	for _, remembered := range []bool{true, false} {
		inStale(t, Config{MaxStale: time.Hour}, func(t *testing.T, z *changing, f *fakeNet, r *Resolver) {
			z.zone = zone{}
			if !remembered {
				f.handle = func(_, _ string, q *dns.Msg) (*dns.Msg, time.Duration) {
					m := zone{}.answer(q)
					m.Ns = nil
					return m, 0
				}
			}
			time.Sleep(2 * time.Minute)
			wantA(t, t.Context(), r, "192.0.2.1", true, 0)
			time.Sleep(time.Second)
			synctest.Wait()
			if _, err := r.LookupA(t.Context(), "x.example"); !IsNXDomain(err) {
				t.Errorf("got %v", err)
			}
		})
	}
}

// A denial is never given beyond its time, and not asked for before that.
func TestStaleNoDenial(t *testing.T) {
	inStale(t, Config{MaxStale: time.Hour}, func(t *testing.T, z *changing, f *fakeNet, r *Resolver) {
		deny := func(wantQueries int64) {
			t.Helper()
			if _, err := r.LookupA(t.Context(), "gone.example"); !IsNXDomain(err) {
				t.Errorf("got %v", err)
			}
			synctest.Wait()
			if n := f.queries.Load(); n != wantQueries {
				t.Errorf("%d questions, want %d", n, wantQueries)
			}
		}
		deny(2)
		time.Sleep(59 * time.Second)
		deny(2)
		time.Sleep(time.Second)
		deny(3)
	})
}

// What something is judged by is never stale; nor is anything for those who say so.
func TestStaleNever(t *testing.T) {
	inStale(t, Config{MaxStale: time.Hour}, func(t *testing.T, z *changing, f *fakeNet, r *Resolver) {
		if _, err := r.LookupTXT(t.Context(), "x.example"); err != nil {
			t.Fatal(err)
		}
		if _, err := r.MX(t.Context(), "x.example"); err != nil {
			t.Fatal(err)
		}
		z.zone = zone{"x.example. 60 IN A 192.0.2.2", "x.example. 60 IN TXT new", "x.example. 60 IN MX 10 y.example."}
		time.Sleep(5 * time.Minute)
		if res, err := r.LookupTXT(t.Context(), "x.example"); err != nil || res.Records[0] != "new" || res.Stale {
			t.Errorf("TXT: %v, %v", res, err)
		}
		if list, err := r.MX(t.Context(), "x.example"); err != nil || list[0].Host != "x.example" {
			t.Errorf("MX: %v, %v", list, err)
		}
		if list, err := r.MX(Fresh(t.Context()), "x.example"); err != nil || list[0].Host != "y.example" {
			t.Errorf("MX, fresh: %v, %v", list, err)
		}
		wantA(t, Fresh(t.Context()), r, "192.0.2.2", false, time.Second)
		z.rcode = dns.RcodeServerFailure
		time.Sleep(5 * time.Minute)
		if _, err := r.LookupA(Fresh(t.Context()), "x.example"); verdict(err) != "temporary" {
			t.Errorf("fresh: %v", err)
		}
		wantA(t, t.Context(), r, "192.0.2.2", true, 0)
	})
}

func TestStaleOff(t *testing.T) {
	inStale(t, Config{}, func(t *testing.T, z *changing, f *fakeNet, r *Resolver) {
		time.Sleep(time.Minute)
		wantA(t, t.Context(), r, "192.0.2.1", false, time.Second)
	})
	servers := []netip.AddrPort{netip.MustParseAddrPort("127.0.0.1:53")}
	if _, err := New(Config{Servers: servers, MaxStale: -1}); err == nil {
		t.Error("a negative bound")
	}
}

// An answer that is used all the time is asked for before its time is over, and nobody waits.
func TestPrefetch(t *testing.T) {
	inStale(t, Config{}, func(t *testing.T, z *changing, f *fakeNet, r *Resolver) {
		for range 600 { // ten minutes
			time.Sleep(time.Second)
			wantA(t, t.Context(), r, "192.0.2.1", false, 0)
		}
		if n := f.queries.Load(); n < 10 || n > 12 {
			t.Errorf("%d questions in ten minutes for a TTL of one", n)
		}
	})
}

// An alias is followed with what holds, not with what held.
func TestStaleAlias(t *testing.T) {
	inStale(t, Config{MaxStale: time.Hour}, func(t *testing.T, z *changing, f *fakeNet, r *Resolver) {
		time.Sleep(2 * time.Minute)
		f.handle = func(_, _ string, q *dns.Msg) (*dns.Msg, time.Duration) {
			m := zone{"x.example. 60 IN A 192.0.2.2"}.answer(q)
			if q.Question[0].Name == "y.example." {
				m.Answer, m.Ns, m.Rcode = []dns.RR{record("y.example. 60 IN CNAME x.example.")}, nil, dns.RcodeSuccess
			}
			return m, 0
		}
		res, err := r.LookupA(t.Context(), "y.example")
		if err != nil || res.Records[0] != netip.MustParseAddr("192.0.2.2") {
			t.Errorf("%v, %v", res, err)
		}
	})
}

// No more goes on in the background than may, and Close ends it.
func TestStaleBounds(t *testing.T) {
	inStale(t, Config{MaxStale: time.Hour}, func(t *testing.T, z *changing, f *fakeNet, r *Resolver) {
		z.zone, z.after = nil, 0
		for i := range 2 * maxRefreshes {
			z.zone = append(z.zone, fmt.Sprintf("h%d.example. 60 IN A 192.0.2.1", i))
		}
		all := func() {
			for i := range 2 * maxRefreshes {
				if _, err := r.LookupA(t.Context(), fmt.Sprintf("h%d.example", i)); err != nil {
					t.Error(err)
				}
			}
		}
		all()
		z.mute = true
		time.Sleep(2 * time.Minute)
		all()
		synctest.Wait()
		if r.refreshes != maxRefreshes || len(r.flights) != maxRefreshes {
			t.Errorf("%d look-ups in the background, %d flights, want %d", r.refreshes, len(r.flights), maxRefreshes)
		}
		start := time.Now()
		r.Close()
		if time.Since(start) != 0 || r.refreshes != 0 {
			t.Errorf("closed after %v, %d left", time.Since(start), r.refreshes)
		}
		all()
		if r.refreshes != 0 {
			t.Error("something is asked in the background behind Close")
		}
	})
}
