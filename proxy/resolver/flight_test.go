package resolver

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/miekg/dns"
)

// slowly answers from z after d.
func slowly(d time.Duration, z zone) *fakeNet {
	return &fakeNet{handle: func(_, _ string, q *dns.Msg) (*dns.Msg, time.Duration) { return z.answer(q), d }}
}

func TestSingleFlight(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := slowly(time.Second, good)
		r := f.resolver(t, Config{})
		var wg sync.WaitGroup
		for i := range 50 {
			wg.Go(func() {
				name := []string{"x.example", "X.Example."}[i%2]
				res, err := r.LookupA(t.Context(), name)
				if err != nil || len(res.Records) != 1 {
					t.Error(res, err)
				}
			})
		}
		wg.Wait()
		if n := f.queries.Load(); n != 1 {
			t.Errorf("%d questions, want 1", n)
		}
		if len(r.flights) != 0 {
			t.Errorf("%d flights left", len(r.flights))
		}
	})
}

func TestBothFamiliesAtOnce(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := slowly(time.Second, good)
		start := time.Now()
		res, err := f.resolver(t, Config{}).LookupAddrs(t.Context(), "x.example")
		if err != nil || time.Since(start) != time.Second || f.queries.Load() != 2 {
			t.Errorf("%v %v after %v, %d questions", res, err, time.Since(start), f.queries.Load())
		}
	})
}

// A name server that never answers to one type does not hold up the addresses of the other.
func TestOtherFamilySilent(t *testing.T) {
	for _, silent := range []uint16{dns.TypeA, dns.TypeAAAA} {
		synctest.Test(t, func(t *testing.T) {
			z := append(zone{"x.example. 60 IN AAAA 2001:db8::1"}, good...)
			f := &fakeNet{handle: func(_, _ string, q *dns.Msg) (*dns.Msg, time.Duration) {
				if q.Question[0].Qtype == silent {
					return nil, 0
				}
				return z.answer(q), time.Second
			}}
			r := f.resolver(t, Config{})
			start := time.Now()
			res, err := r.LookupAddrs(t.Context(), "x.example")
			if err != nil || len(res.Records) != 1 || time.Since(start) != time.Second+otherFamily {
				t.Errorf("%v %v after %v", res.Records, err, time.Since(start))
			}
			// "No such record" of one family is no reason to hurry the other.
			start = time.Now()
			_, err = r.LookupAddrs(t.Context(), "none.example")
			if verdict(err) != "timeout" || time.Since(start) != 9*time.Second {
				t.Errorf("%v after %v", err, time.Since(start))
			}
		})
	}
}

// Who began a flight may leave it; the others arrive.
func TestCancel(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := slowly(time.Second, good)
		r := f.resolver(t, Config{})
		impatient, cancel := context.WithTimeout(t.Context(), 100*time.Millisecond)
		defer cancel()
		var wg sync.WaitGroup
		wg.Go(func() {
			start := time.Now()
			_, err := r.LookupA(impatient, "x.example")
			if verdict(err) != "timeout" || !errors.Is(err, context.DeadlineExceeded) || time.Since(start) != 100*time.Millisecond {
				t.Errorf("impatient: %v after %v", err, time.Since(start))
			}
		})
		synctest.Wait()
		wg.Go(func() {
			if res, err := r.LookupA(t.Context(), "x.example"); err != nil || len(res.Records) != 1 {
				t.Errorf("patient: %v %v", res, err)
			}
		})
		wg.Wait()
		if f.queries.Load() != 1 {
			t.Errorf("%d questions, want 1", f.queries.Load())
		}
	})
}

// When the last one has left, the flight ends, and the next caller begins another.
func TestAbandoned(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := slowly(time.Second, good)
		r := f.resolver(t, Config{})
		ctx, cancel := context.WithCancel(t.Context())
		time.AfterFunc(10*time.Millisecond, cancel)
		if _, err := r.LookupA(ctx, "x.example"); verdict(err) != "temporary" || !errors.Is(err, context.Canceled) {
			t.Errorf("canceled: %v", err)
		}
		synctest.Wait()
		if len(r.flights) != 0 || len(r.slots) != 0 {
			t.Errorf("%d flights, %d questions left", len(r.flights), len(r.slots))
		}
		start := time.Now()
		if _, err := r.LookupA(t.Context(), "x.example"); err != nil || time.Since(start) != time.Second {
			t.Errorf("%v after %v", err, time.Since(start))
		}
		if _, err := r.LookupA(ctx, "y.example"); verdict(err) != "temporary" || f.queries.Load() != 2 {
			t.Errorf("a dead context asked: %v, %d questions", err, f.queries.Load())
		}
		if _, err := r.LookupA(ctx, "x.example"); err != nil {
			t.Errorf("what is known costs no time: %v", err)
		}
	})
}

func TestExpiry(t *testing.T) {
	const day = 24 * time.Hour
	denial := func(ttl, minimum uint32) func(*dns.Msg) *dns.Msg {
		return func(q *dns.Msg) *dns.Msg {
			m := zone{}.answer(q)
			m.Ns[0].Header().Ttl, m.Ns[0].(*dns.SOA).Minttl = ttl, minimum
			return m
		}
	}
	from := func(lines ...string) func(*dns.Msg) *dns.Msg { return zone(lines).answer }
	tests := []struct {
		name   string
		answer func(q *dns.Msg) *dns.Msg
		cfg    Config
		want   time.Duration
	}{
		{"ttl", from("x.example. 60 IN A 192.0.2.1"), Config{}, time.Minute},
		{"the least of all", from("x.example. 60 IN A 192.0.2.1", "x.example. 30 IN A 192.0.2.2"), Config{}, 30 * time.Second},
		{"the alias has a say", from("x.example. 10 IN CNAME y.example.", "y.example. 60 IN A 192.0.2.1"), Config{}, 10 * time.Second},
		{"zero", from("x.example. 0 IN A 192.0.2.1"), Config{}, 0},
		{"too long", from("x.example. 604800 IN A 192.0.2.1"), Config{}, day},
		{"MaxTTL", from("x.example. 604800 IN A 192.0.2.1"), Config{MaxTTL: time.Hour}, time.Hour},
		// "with the most significant bit set as if the entire value received was zero": https://www.rfc-editor.org/rfc/rfc2181#section-8
		{"negative number", from("x.example. 2147483648 IN A 192.0.2.1"), Config{}, 0},
		{"no cache", from("x.example. 60 IN A 192.0.2.1"), Config{CacheEntries: -1}, 0},

		// "the minimum of the MINIMUM field of the SOA record and the TTL of the SOA itself": https://www.rfc-editor.org/rfc/rfc2308#section-3
		{"SOA MINIMUM", denial(300, 60), Config{}, time.Minute},
		{"SOA TTL", denial(30, 60), Config{}, 30 * time.Second},
		{"short denial", denial(300, 1), Config{}, 5 * time.Second},
		{"MinNegativeTTL", denial(300, 1), Config{MinNegativeTTL: time.Minute}, time.Minute},
		{"long denial", denial(86400, 86400), Config{}, 15 * time.Minute},
		{"MaxNegativeTTL", denial(86400, 86400), Config{MaxNegativeTTL: time.Minute}, time.Minute},
		{"alias to nowhere", func(q *dns.Msg) *dns.Msg {
			m := denial(300, 60)(q)
			m.Answer = []dns.RR{record("x.example. 7 IN CNAME gone.example.")}
			return m
		}, Config{}, 7 * time.Second},
		{"no data", from("x.example. 60 IN TXT x"), Config{}, time.Minute},
		{"no SOA", func(q *dns.Msg) *dns.Msg {
			m := zone{}.answer(q)
			m.Ns = nil
			return m
		}, Config{}, 0},
		{"SOA of another zone", func(q *dns.Msg) *dns.Msg {
			m := zone{}.answer(q)
			m.Ns[0].Header().Name = "other."
			return m
		}, Config{}, 0},
		{"SERVFAIL", func(q *dns.Msg) *dns.Msg {
			m := new(dns.Msg)
			m.SetRcode(q, dns.RcodeServerFailure)
			return m
		}, Config{}, -1},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				f := &fakeNet{handle: func(_, _ string, q *dns.Msg) (*dns.Msg, time.Duration) { return tt.answer(q), 0 }}
				r := f.resolver(t, tt.cfg)
				ask := func(wantQueries int64) Result[string] {
					t.Helper()
					res, err := r.LookupA(t.Context(), "x.example")
					if f.queries.Load() != wantQueries {
						t.Fatalf("%d questions, want %d (%v)", f.queries.Load(), wantQueries, err)
					}
					return Result[string]{Expires: res.Expires}
				}
				left := time.Until(ask(1).Expires)
				if tt.cfg.CacheEntries == 0 && left != tt.want && tt.want >= 0 {
					t.Errorf("expires in %v, want %v", left, tt.want)
				}
				if tt.want <= 0 {
					ask(2)
					return
				}
				early := tt.want / prefetchPart // then it is asked for in the background
				time.Sleep(tt.want - early)
				ask(1)
				time.Sleep(early - time.Nanosecond)
				if r.cache.get(question{"x.example.", dns.TypeA}, time.Now()) == nil {
					t.Error("gone before its time")
				}
				time.Sleep(time.Nanosecond)
				ask(2)
			})
		})
	}
}

func TestCacheBounds(t *testing.T) {
	now := time.Now()
	entry := func(size int) *answer { return &answer{size: size, expires: now.Add(time.Hour)} }
	q := func(i int) question { return question{name: fmt.Sprint(i)} }

	c := newCache(3, 1000, 0)
	for i := range 3 {
		c.put(q(i), entry(1), now)
	}
	c.get(q(0), now) // 1 is now the least recently used
	c.put(q(3), entry(1), now)
	for i, want := range []bool{true, false, true, true} {
		if got := c.get(q(i), now) != nil; got != want {
			t.Errorf("entry %d: %v, want %v", i, got, want)
		}
	}

	c = newCache(100, 1000, 0)
	for i := range 10 {
		c.put(q(i), entry(300), now)
		c.put(q(i), entry(300), now) // again: replaces
	}
	if c.recent.Len() != 3 || len(c.entries) != 3 || c.bytes != 900 {
		t.Errorf("%d entries of %d octets", c.recent.Len(), c.bytes)
	}
	c.put(q(50), entry(2000), now)
	if c.recent.Len() != 0 || len(c.entries) != 0 || c.bytes != 0 {
		t.Errorf("an entry larger than the cache: %d entries of %d octets", c.recent.Len(), c.bytes)
	}
	c.put(q(1), entry(1), now)
	if c.get(q(1), now.Add(time.Hour)) != nil || len(c.entries) != 0 {
		t.Error("an expired entry stays")
	}
}
