package load

import (
	"context"
	"errors"
	"fmt"
	"runtime"
	"time"
)

// Run measures what the options say. An error that comes with a report means that its figures are to be doubted:
// messages failed. Other errors come without one: an AuditError, a contestant that did not start or broke down, or
// ctx, which ends the run at any time. Everything that Run starts has ended when it returns.
func Run(ctx context.Context, o Options) (*Report, error) {
	if err := o.Check(); err != nil {
		return nil, err
	}
	o = o.withDefaults()
	r := &Report{Format: Format, Facts: newFacts(o)}
	a, err := openArena(ctx, o)
	defer a.close()
	if err != nil {
		return nil, cause(ctx, err)
	}
	r.Absent = a.absent
	r.Facts.know(a)
	for _, c := range a.contestants {
		m, err := a.idle(ctx, c)
		if err != nil {
			return nil, cause(ctx, c.blame(err))
		}
		if c.accounts != nil {
			r.Memory = append(r.Memory, m)
		}
	}
	if err := a.measureAll(ctx, r); err != nil {
		return nil, cause(ctx, err)
	}
	r.Facts.Took = time.Since(r.Facts.Begun)
	return r, r.failures()
}

// cause prefers why a run was ended to what came of that.
func cause(ctx context.Context, err error) error {
	if ctx.Err() != nil {
		return context.Cause(ctx)
	}
	return err
}

// measureAll gives everybody every turn. The rounds are outermost, so that a slow minute of the machine does not fall
// on one point alone.
func (a *arena) measureAll(ctx context.Context, r *Report) error {
	o, spots := a.options, a.options.points()
	for _, p := range spots {
		for _, c := range a.contestants {
			r.Points = append(r.Points, Point{Way: c.way, Sessions: p.sessions, PerConnection: p.perConn})
		}
	}
	begun := time.Now()
	for i, total := 0, o.Rounds*len(r.Points); i < total; i++ {
		round, point := i/len(r.Points), i%len(r.Points)
		group := point / len(a.contestants)
		p := spots[group]
		// Nobody is always first, or always behind the same one at the same point.
		who := (point + round) % len(a.contestants)
		c := a.contestants[who]
		if o.Progress != nil {
			o.Progress(Step{
				Done: i, Total: total, Way: c.way.Title(), Left: left(time.Since(begun), i, total, o),
				Point: fmt.Sprintf("round %d of %d, %v", round+1, o.Rounds, p),
			})
		}
		turn, tally, err := a.turn(ctx, c, p, fmt.Sprintf("%s-%d", c.way, i), uint64(round))
		if err = errors.Join(err, context.Cause(ctx)); err != nil {
			return c.blame(fmt.Errorf("%v: %w", p, err))
		}
		r.Points[group*len(a.contestants)+who].add(turn, tally)
	}
	return nil
}

// left guesses what the rest takes: by what was done, or by what is planned.
func left(spent time.Duration, done, total int, o Options) time.Duration {
	each := o.warmUp() + o.window()
	if done > 0 {
		each = spent / time.Duration(done)
	}
	return each * time.Duration(total-done)
}

// blame says whose error it is.
func (c *contestant) blame(err error) error {
	return fmt.Errorf("%s, %w", c.way.Title(), err)
}

// failures is an error if messages failed: what is measured then is not what was to be measured.
func (r *Report) failures() error {
	var errs []error
	for _, p := range r.Points {
		if p.Failed > 0 {
			errs = append(errs, fmt.Errorf("%s, %v: %s failed, the first with: %s",
				p.Way.Title(), spot{p.Sessions, p.PerConnection}, count(p.Failed, "message"), p.Failure))
		}
	}
	return errors.Join(errs...)
}

func newFacts(o Options) Facts {
	kernel, busy := system()
	f := Facts{
		Begun: time.Now(), Version: o.Version, Go: runtime.Version(), System: kernel, Busy: busy,
		GOOS: runtime.GOOS, GOARCH: runtime.GOARCH, CPUs: runtime.GOMAXPROCS(0),
		Size: o.Size, TLS: o.TLS, Rate: o.Rate, Rounds: o.Rounds, Window: o.window(), WarmUp: o.warmUp(),
		Sessions: o.Sessions, PerConnect: o.PerConnection,
	}
	if o.Rate > 0 {
		f.Clock = o.Clock
	}
	return f
}

// know takes what is known of the contestants.
func (f *Facts) know(a *arena) {
	for _, c := range a.contestants {
		if f.CPUSource == "" {
			f.CPUSource = c.accounts.source()
		}
		if c.version != "" && c.way != Inbound && c.way != Outbound {
			f.Peers = append(f.Peers, string(c.way)+" "+c.version)
		}
	}
}
