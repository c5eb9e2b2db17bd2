package load

import (
	"context"
	"math"
	"sync"
	"testing"
	"testing/synctest"
	"time"
)

func TestSchedule(t *testing.T) {
	const rate, n = 500, 20000
	for _, clock := range []Clock{Constant, Poisson} {
		s, again := newSchedule(rate, clock, 7), newSchedule(rate, clock, 7)
		var sum, squares float64
		for range n {
			gap := s.gap()
			if gap != again.gap() {
				t.Fatal("the same seed gives other arrivals")
			}
			sum += gap.Seconds()
			squares += gap.Seconds() * gap.Seconds()
		}
		mean := sum / n
		deviation := math.Sqrt(squares/n - mean*mean)
		if math.Abs(mean*rate-1) > 0.03 {
			t.Errorf("%s: a gap of %v s is not 1/%d", clock, mean, rate)
		}
		// The gaps of a Poisson process deviate by as much as their mean.
		if want := map[Clock]float64{Constant: 0, Poisson: mean}[clock]; math.Abs(deviation-want) > 0.05*mean {
			t.Errorf("%s: gaps deviate by %v; want %v", clock, deviation, want)
		}
	}
}

// virtual is a sleep that synctest's clock knows of.
func virtual(ctx context.Context, t time.Time) { wait(ctx, t) }

// runOpen runs an open loop of a message every 10 ms for a second, with one session that takes as long as it is told
// for each message, by number.
func runOpen(drain time.Duration, takes func(i int) time.Duration) *tally {
	tally := newTally(func() {})
	now := time.Now()
	w := window{start: now, open: now.Add(95 * time.Millisecond), shut: now.Add(1095 * time.Millisecond), drain: drain}
	loop := newOpenLoop(tally.skip)
	loop.sleep = virtual
	var wg sync.WaitGroup
	wg.Go(func() { loop.run(context.Background(), newSchedule(100, Constant, 0), w) })
	wg.Go(func() {
		for i := 1; ; i++ {
			due, ok := loop.take()
			if !ok {
				return
			}
			o := outcome{serial: int64(i), due: due, begun: time.Now(), sure: true}
			time.Sleep(takes(i))
			o.done = time.Now()
			tally.note(o)
		}
	})
	wg.Wait()
	return tally
}

func TestOpenLoopKeepsUp(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		got := runOpen(time.Second, func(int) time.Duration { return 2 * time.Millisecond })
		if got.counted != 100 || got.queued != 0 || got.unsent != 0 || got.late != 0 || got.done != 109 {
			t.Errorf("%+v", got)
		}
		if l := latencyOf(got.latencies); l.P50 != 2*time.Millisecond || l.Max != 2*time.Millisecond {
			t.Errorf("%+v", l)
		}
	})
}

// A stall of 300 ms is charged to the message that met it, and to the thirty that were due meanwhile: a closed loop
// would have shown one slow message of a hundred.
func TestOpenLoopChargesAStall(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		got := runOpen(time.Second, func(i int) time.Duration {
			if i == 50 {
				return 300 * time.Millisecond
			}
			return 2 * time.Millisecond
		})
		// The thirty that were due during the stall, and those that were due until they were through: 30*2 ms more, and
		// what came during those.
		if got.counted != 100 || got.queued < 30 || got.queued > 40 || got.unsent != 0 || got.waited != 290*time.Millisecond {
			t.Errorf("%+v", got)
		}
		h := got.latencies
		slow := 0
		for _, bar := range h.Distribution() {
			if bar.To > (50 * time.Millisecond).Microseconds() {
				slow += int(bar.Count)
			}
		}
		if slow < 28 || slow > 33 || time.Duration(h.Max())*latencyUnit < 299*time.Millisecond {
			t.Errorf("%d messages took more than 50 ms, %v at most", slow, time.Duration(h.Max())*latencyUnit)
		}
	})
}

// What could not be sent is told, and its latency is what it had waited.
func TestOpenLoopGivesUp(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		got := runOpen(100*time.Millisecond, func(int) time.Duration { return 50 * time.Millisecond })
		if got.counted != 100 || got.unsent < 70 || got.unsent+got.done < 100 || got.queued < got.unsent {
			t.Errorf("%+v", got)
		}
		if n := got.latencies.TotalCount(); n != 100 {
			t.Errorf("%d latencies for 100 messages", n)
		}
		if l := latencyOf(got.latencies); l.P50 < 300*time.Millisecond {
			t.Errorf("the unsent are not in %+v", l)
		}
	})
}

func TestSleepUntil(t *testing.T) {
	until := time.Now().Add(3 * time.Millisecond)
	sleepUntil(t.Context(), until)
	if time.Now().Before(until) {
		t.Error("too early")
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	begun := time.Now()
	sleepUntil(ctx, begun.Add(time.Hour))
	if time.Since(begun) > time.Minute {
		t.Error("it slept on")
	}
}
