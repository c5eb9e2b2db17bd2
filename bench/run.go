package bench

import (
	"context"
	"errors"
	"fmt"
	"time"

	"go.uber.org/zap"

	"slipstream/bench/wan"
)

// sampleTimeout is how long one message may take: the largest over the slowest link needs less than a minute.
const sampleTimeout = 2 * time.Minute

// tooLate is how late the link may be with a packet before the sample is taken again, maxRepeats times at most.
const (
	tooLate    = 2 * time.Millisecond
	maxRepeats = 2
)

// DefaultCount is how many messages a cell is measured with.
const DefaultCount = 3

// Options say how to measure.
type Options struct {
	Ground  Ground
	Cells   []Cell      // as Choice.Cells returns them
	Count   int         // messages for each cell; 0: DefaultCount
	Link    wan.Shape   // but for the delay, which is a cell's; on WAN only
	MTU     int         // of the link; 0: 1500; on WAN only
	Peers   string      // where fetch.sh laid the real servers; empty: as mta.Config.Peers
	Capture string      // directory for the packets, a pcap for each scenario and path; empty: none; on WAN only
	Version string      // of slipstream, for the report
	Log     *zap.Logger // of every Slipstream; nil: none

	// Progress, if set, is told of every message before it is sent.
	Progress func(Step)
}

// A Step is where a run is.
type Step struct {
	Done, Total int // messages
	Cell        Cell
}

// Run measures cells one by one, and never two at a time. It returns what it has when ctx ends or a cell fails; the error
// then says so, and the report has "failed: …" for the cell.
func Run(ctx context.Context, o Options) (*Report, error) {
	if o.Count <= 0 {
		o.Count = DefaultCount
	}
	r := &run{options: &o, report: &Report{Facts: gatherFacts(&o)}}
	begun := time.Now()
	err := r.try(ctx)
	if err == nil {
		err = r.all(ctx)
	}
	r.busy()
	r.report.Facts.Took = time.Since(begun)
	return r.report, err
}

// busy says what a busy machine did to the figures.
func (r *run) busy() {
	if r.repeated > 0 {
		r.report.Facts.warn(fmt.Sprintf("%d samples were taken again, since the machine was busy and the link more than %v late",
			r.repeated, tooLate))
	}
	if r.late > tooLate {
		r.report.Facts.warn(fmt.Sprintf("the machine was busy all the time: in some samples the link delivered up to %v late",
			r.late.Round(100*time.Microsecond)))
	}
}

type run struct {
	options  *Options
	report   *Report
	done     int
	late     time.Duration // at worst, in a sample that counts
	repeated int           // samples
}

// try opens the ground once, so that what is wrong with it is said once.
func (r *run) try(ctx context.Context) error {
	g, err := r.options.ground(ctx, false)
	if err != nil {
		return err
	}
	return g.close()
}

func (r *run) all(ctx context.Context) error {
	var failed []error
	for cells := r.options.Cells; len(cells) > 0; {
		n := 1
		for n < len(cells) && sameLab(cells[0], cells[n]) {
			n++
		}
		failed = append(failed, r.group(ctx, cells[:n]))
		if err := context.Cause(ctx); err != nil {
			r.report.Facts.warn(fmt.Sprintf("stopped after %d of %d messages: cells that are not here were not reached",
				r.done, len(r.options.Cells)*r.options.Count))
			return fmt.Errorf("bench: stopped: %w", err)
		}
		cells = cells[n:]
	}
	return errors.Join(failed...)
}

func sameLab(a, b Cell) bool {
	return a.Path == b.Path && a.Scenario.Name() == b.Scenario.Name()
}

// group measures cells of one scenario on one path.
func (r *run) group(ctx context.Context, cells []Cell) error {
	s, p := cells[0].Scenario, cells[0].Path
	if why := r.impossible(s, p); why != "" {
		r.skip(cells, why)
		return nil
	}
	l, err := newLab(ctx, r.options, s, p)
	if err != nil {
		return r.failed(cells, err)
	}
	results, err := r.measure(ctx, l, cells)
	r.report.Results = append(r.report.Results, results...)
	for _, w := range append(l.warnings, s.Remarks()...) {
		r.report.Facts.warn(w)
	}
	if closing := l.close(); closing != nil {
		err = errors.Join(err, fmt.Errorf("%s: %w", s.Name(), closing))
	}
	return err
}

// impossible says why a path cannot be measured here; "" if it can.
func (r *run) impossible(s Scenario, p Path) string {
	if s.FastOpen && p == Direct && r.options.Ground == Sim {
		return "the reference client does no Fast Open on the simulated network"
	}
	return ""
}

func (r *run) measure(ctx context.Context, l *lab, cells []Cell) ([]Result, error) {
	if err := l.capture(); err != nil {
		return nil, err
	}
	var results []Result
	var failed []error
	for _, c := range cells {
		result := Result{Cell: c, Peers: l.peers()}
		all, err := r.samples(ctx, l, c)
		if err != nil {
			err = fmt.Errorf("%s: %w", c.Name(), err)
			result.Skipped = "failed: " + err.Error()
			if ctx.Err() != nil {
				result.Skipped = "stopped"
			}
			failed = append(failed, err)
		} else {
			result.fill(all)
		}
		results = append(results, result)
	}
	return results, errors.Join(failed...)
}

func (r *run) samples(ctx context.Context, l *lab, c Cell) ([]taken, error) {
	if err := l.ground.setRTT(c.RTT, c.chance(0)); err != nil {
		return nil, err
	}
	if err := l.prime(ctx); err != nil {
		return nil, err
	}
	var all []taken
	for n := range r.options.Count {
		r.step(c)
		if err := l.ground.setRTT(c.RTT, c.chance(n+1)); err != nil {
			return nil, err
		}
		t, err := r.sample(ctx, l, c)
		if err != nil {
			return nil, err
		}
		r.done++
		all = append(all, t)
	}
	return all, nil
}

// sample takes a sample, and another in its place where the link was late: then it measured the machine, which had
// something else to do. The last one counts in any case.
func (r *run) sample(ctx context.Context, l *lab, c Cell) (taken, error) {
	for again := 0; ; again++ {
		t, err := l.sample(ctx, c)
		late := l.ground.late()
		// On a warm connection what the link noted goes back to its beginning, and so does its lateness.
		if err != nil || late <= tooLate || again == maxRepeats || ctx.Err() != nil || c.Scenario.State == Warm {
			r.late = max(r.late, late)
			return t, err
		}
		r.repeated++
	}
}

func (r *run) step(c Cell) {
	if r.options.Progress != nil {
		r.options.Progress(Step{Done: r.done, Total: len(r.options.Cells) * r.options.Count, Cell: c})
	}
}

func (r *run) skip(cells []Cell, why string) {
	for _, c := range cells {
		r.report.Results = append(r.report.Results, Result{Cell: c, Skipped: why})
	}
	r.done += len(cells) * r.options.Count
}

func (r *run) failed(cells []Cell, err error) error {
	err = fmt.Errorf("%s, %s: %w", cells[0].Scenario.Name(), cells[0].Path, err)
	r.skip(cells, "failed: "+err.Error())
	return err
}

// ground opens the ground of the run for one lab.
func (o *Options) ground(ctx context.Context, tfo bool) (ground, error) {
	switch o.Ground {
	case WAN:
		g, err := newWANGround(ctx, o.Link, o.MTU, tfo)
		if err != nil {
			return nil, err // and no nil pointer that looks like a ground
		}
		return g, nil
	case Sim:
		return newSimGround(tfo), nil
	}
	return nil, fmt.Errorf("bench: no ground %q", o.Ground)
}
