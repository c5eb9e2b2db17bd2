package load

import (
	"context"
	"fmt"
	"time"
)

// drainWait is how long messages that were due may take to be begun once an open loop's turn is over.
const drainWait = 2 * time.Second

// A window is when a turn is measured.
type window struct {
	start time.Time // of the sending
	open  time.Time // warm
	shut  time.Time // no more is due
	drain time.Duration
}

func (o Options) newWindow(now time.Time) window {
	w := window{start: now, open: now.Add(o.warmUp()), drain: drainWait}
	w.shut = w.open.Add(o.window())
	return w
}

// A mark is how things stood at a moment.
type mark struct {
	at   time.Time
	done int // messages acknowledged
	used usage
}

// turn gives a contestant its turn at a spot. In one round all have the same arrivals, and in each round others.
func (a *arena) turn(ctx context.Context, c *contestant, p spot, name string, round uint64) (Turn, *tally, error) {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	letters := newLetters(name+"-", a.options.Size)
	tally := newTally(cancel)
	w := a.options.newWindow(time.Now())
	crew := &crew{addr: c.addr, tls: c.tls, perConn: p.perConn, letters: letters, note: tally.note}
	crew.take = closedLoop(ctx, w)
	clock := make(chan struct{})
	if a.options.Rate > 0 {
		loop := newOpenLoop(tally.skip)
		crew.take = loop.take
		go func() {
			defer close(clock)
			loop.run(ctx, newSchedule(a.options.Rate, a.options.Clock, a.options.Seed+round), w)
		}()
	} else {
		close(clock)
	}
	done := make(chan struct{})
	go func() {
		defer close(done)
		crew.work(ctx, p.sessions)
	}()
	from, to, err := a.measure(ctx, c, tally, w)
	if err != nil {
		cancel()
	}
	<-done
	<-clock
	arrived := a.sink.change()
	if err != nil {
		return Turn{}, tally, err
	}
	if err := tally.audit(letters, arrived); err != nil {
		return Turn{}, tally, err
	}
	return newTurn(tally, c.accounts, from, to), tally, nil
}

// measure reads the accounts at both ends of the window. A turn that ended early has no figures.
func (a *arena) measure(ctx context.Context, c *contestant, t *tally, w window) (from, to mark, err error) {
	wait(ctx, w.open)
	c.accounts.resetPeak()
	if from, err = newMark(c, t); err != nil {
		return from, to, err
	}
	wait(ctx, w.shut)
	to, err = newMark(c, t)
	return from, to, err
}

func newMark(c *contestant, t *tally) (mark, error) {
	used, err := c.accounts.read()
	if err != nil {
		err = fmt.Errorf("its process cannot be looked at: %w", err)
		if c.log != nil {
			err = fmt.Errorf("%w\n%s", err, c.log())
		}
	}
	return mark{at: time.Now(), done: t.completed(), used: used}, err
}

// wait waits for a moment; a millisecond does not matter.
func wait(ctx context.Context, t time.Time) {
	timer := time.NewTimer(time.Until(t))
	defer timer.Stop()
	select {
	case <-ctx.Done():
	case <-timer.C:
	}
}
