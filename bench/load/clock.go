package load

import (
	"context"
	"math/rand/v2"
	"time"
)

// An arrival is a message that is due.
type arrival struct {
	due     time.Time
	counted bool // it is due while the turn is measured
	queued  bool // no session was free when it was due
}

// A schedule says when messages are due, ahead of time and whatever becomes of them.
type schedule struct {
	rate  float64 // a second
	clock Clock
	rng   *rand.Rand
}

func newSchedule(rate float64, clock Clock, seed uint64) *schedule {
	return &schedule{rate, clock, rand.New(rand.NewPCG(seed, 0))}
}

// gap is the time between an arrival and the next.
func (s *schedule) gap() time.Duration {
	gap := float64(time.Second) / s.rate
	if s.clock != Constant {
		gap *= s.rng.ExpFloat64()
	}
	return time.Duration(gap)
}

// closedLoop hands out a message whenever a session is free.
func closedLoop(ctx context.Context, w window) func() (arrival, bool) {
	return func() (arrival, bool) {
		now := time.Now()
		return arrival{due: now, counted: !now.Before(w.open)}, now.Before(w.shut) && ctx.Err() == nil
	}
}

// An openLoop hands out messages when they are due, or as soon afterwards as a session is free.
type openLoop struct {
	next   chan arrival
	unsent func(waited time.Duration) // told of each that no session was free for in the end
	sleep  func(context.Context, time.Time)
}

func newOpenLoop(unsent func(waited time.Duration)) *openLoop {
	return &openLoop{make(chan arrival), unsent, sleepUntil}
}

// take waits for a message that is due.
func (l *openLoop) take() (arrival, bool) {
	a, ok := <-l.next
	return a, ok
}

// run follows a schedule until the turn is shut, and lets what is due by then wait for a session until it gives up. The
// queue needs no memory: what is due is known from the schedule.
func (l *openLoop) run(ctx context.Context, s *schedule, w window) {
	defer close(l.next)
	ctx, cancel := context.WithDeadline(ctx, w.shut.Add(w.drain))
	defer cancel()
	var free time.Time // when the last message that had to wait got its session
	for due := w.start.Add(s.gap()); due.Before(w.shut); due = due.Add(s.gap()) {
		a := arrival{due: due, counted: !due.Before(w.open), queued: due.Before(free)}
		if l.hand(ctx, &a) {
			if a.queued {
				free = time.Now()
			}
		} else if a.counted {
			l.unsent(time.Since(due))
		}
	}
}

// hand waits until a message is due and a session takes it; false: ctx has ended before.
func (l *openLoop) hand(ctx context.Context, a *arrival) bool {
	l.sleep(ctx, a.due)
	select {
	case l.next <- *a:
		return true
	default:
	}
	a.queued = true
	select {
	case l.next <- *a:
		return true
	case <-ctx.Done():
		return false
	}
}
