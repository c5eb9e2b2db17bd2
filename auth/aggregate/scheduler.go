package aggregate

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"iter"
	"net"
	"slices"
	"time"

	"slipstream/auth"
)

// When reports are sent.
const (
	// earliest and spread: between them after the end of a day its reports begin. The moment is the same every day, and
	// differs from one directory to another, so that not all the world reports at once.
	earliest = 10 * time.Minute
	spread   = 110 * time.Minute

	startDelay = time.Minute // after the service has started there is other work to do
	look       = time.Hour   // the clock may be set meanwhile
	catchUp    = 7           // days before today that are still reported on

	firstRetry = 5 * time.Minute
	maxRetry   = 2 * time.Hour
	giveUp     = 24 * time.Hour // after the first try

	sendTime = 5 * time.Minute // for the MTA to take one message

	// minRound is for a round that begins late, after a pause: others end at giveUp, with all that is left.
	minRound = 4 * time.Hour

	// maxUnreachable is after how many connections in a row that were not made the MTA is not there.
	maxUnreachable = 3
)

// SchedulerOptions are those of a [Scheduler]. All but Observe must be set, and Config.Submitter.
type SchedulerOptions struct {
	Config       Config
	Destinations Destinations
	Mailer       auth.Mailer
	// Observe is told of events and must not wait; nil: nobody is told.
	Observe func(Event)
}

// A Scheduler sends the reports on each day soon after it has ended, and after a pause those that are missing for the
// last seven days. What cannot be sent is tried again for a day. See the package on how often a report is sent.
type Scheduler struct {
	options SchedulerOptions
	observe observer
	dir     string
	offset  time.Duration
	cancel  context.CancelFunc
	ended   chan struct{}

	// Owned by run.
	sent    *sentState
	retries map[Day]*retry
}

// A retry is a day that is to be taken up again.
type retry struct {
	at   time.Time
	wait time.Duration
	only map[string]bool // policy domains; nil: all
}

// NewScheduler starts to send what the journal keeps. It must be closed before the journal is. Only one may work for a
// journal at a time.
func NewScheduler(j *Journal, o SchedulerOptions) (*Scheduler, error) {
	s, err := newScheduler(j, o)
	if err != nil {
		return nil, err
	}
	ctx, cancel := context.WithCancel(context.Background())
	s.cancel = cancel
	go s.run(ctx)
	return s, nil
}

// newScheduler makes one that does nothing by itself.
func newScheduler(j *Journal, o SchedulerOptions) (*Scheduler, error) {
	if _, err := o.Config.complete(); err != nil {
		return nil, err
	}
	dir := j.dir.path
	id, err := installation(dir)
	if err != nil {
		return nil, fmt.Errorf("reports: %w", err)
	}
	sent, err := openSent(dir, DayOf(time.Now()))
	if err != nil {
		return nil, fmt.Errorf("reports: %w", err)
	}
	return &Scheduler{
		options: o, observe: o.Observe, dir: dir, sent: sent, retries: make(map[Day]*retry),
		offset: earliest + time.Duration(binary.LittleEndian.Uint64(id)%uint64(spread)),
		ended:  make(chan struct{}),
	}, nil
}

// Close ends it. A report that is just being sent may arrive or not; it is sent again by the next Scheduler.
func (s *Scheduler) Close() error {
	s.cancel()
	<-s.ended
	return s.sent.close()
}

func (s *Scheduler) run(ctx context.Context) {
	defer close(s.ended)
	timer := time.NewTimer(startDelay)
	defer timer.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-timer.C:
		}
		timer.Reset(s.turn(ctx))
	}
}

// turn does all that is due and returns when something will be.
func (s *Scheduler) turn(ctx context.Context) time.Duration {
	days, err := Days(s.dir)
	if err != nil {
		s.observe.tell(Event{Kind: KindFailed, Err: err})
		return firstRetry
	}
	for _, day := range days {
		now := time.Now()
		if s.due(day, now) && ctx.Err() == nil {
			s.work(ctx, day, now)
		}
	}
	now := time.Now()
	next := DayOf(now.Add(-s.offset)).End().Add(s.offset)
	for day, r := range s.retries {
		if !slices.Contains(days, day) {
			delete(s.retries, day) // the journal has removed it
		} else if r.at.Before(next) {
			next = r.at
		}
	}
	return min(max(time.Second, next.Sub(now)), look)
}

func (s *Scheduler) due(day Day, now time.Time) bool {
	if known := s.sent.days[day]; known != nil && known.complete || day < DayOf(now)-catchUp {
		delete(s.retries, day)
		return false
	}
	if r := s.retries[day]; r != nil {
		return !now.Before(r.at)
	}
	return !now.Before(day.End().Add(s.offset))
}

// work sends what is still to be sent for a day.
func (s *Scheduler) work(ctx context.Context, day Day, now time.Time) {
	again := s.retries[day]
	var only map[string]bool
	if again != nil {
		only = again.only
	}
	w := &round{
		Scheduler: s, day: day, pending: make(map[string]error), recipients: make(map[string][]Recipient),
	}
	sum, err := w.run(ctx, only, now)
	if ctx.Err() != nil {
		return
	}
	if only == nil && err == nil {
		s.tellSummary(day, sum)
	}
	switch {
	case err != nil:
		s.observe.tell(Event{Kind: KindFailed, Day: day, Err: err})
	case len(w.pending) == 0:
		err = s.complete(day, sum)
	case !time.Now().Before(s.sent.day(day).begun.Add(giveUp)):
		for domain, last := range w.pending {
			s.observe.tell(Event{Kind: KindGaveUp, Day: day, Domain: domain, Err: last})
		}
		err = s.complete(day, sum)
	default:
		only = make(map[string]bool, len(w.pending))
		for domain := range w.pending {
			only[domain] = true
		}
		s.later(day, only)
		return
	}
	if err != nil {
		s.later(day, only)
	}
}

// later has a day taken up again, each time after a longer while.
func (s *Scheduler) later(day Day, only map[string]bool) {
	r := s.retries[day]
	if r == nil {
		r = &retry{wait: firstRetry}
		s.retries[day] = r
	}
	r.at, r.only = time.Now().Add(r.wait), only
	r.wait = min(2*r.wait, maxRetry)
}

func (s *Scheduler) complete(day Day, sum Summary) error {
	err := s.sent.set(sentEntry{Day: day, Outcome: outcomeComplete})
	if err != nil {
		s.observe.tell(Event{Kind: KindFailed, Day: day, Err: err})
		return err
	}
	delete(s.retries, day)
	s.observe.tell(Event{Kind: KindDay, Day: day, Count: sum.Messages})
	return nil
}

func (s *Scheduler) tellSummary(day Day, sum Summary) {
	if sum.Skipped > 0 {
		s.observe.tell(Event{Kind: KindDamaged, Day: day, Count: sum.Skipped})
	}
	if sum.LeftOut > 0 {
		s.observe.tell(Event{Kind: KindLeftOut, Day: day, Count: sum.LeftOut, Err: errLeftOut})
	}
}

var errLeftOut = errors.New("more policy domains or rows than a day may have, or records that make no sense")

// A round is one try at all that is left of a day.
type round struct {
	*Scheduler
	day         Day
	pending     map[string]error       // policy domains with something left to be done
	recipients  map[string][]Recipient // by policy domain
	end         time.Time              // when it has to leave the rest
	unreachable int
}

// errUnreachable ends a round: nothing else would be taken either.
var errUnreachable = errors.New("the MTA that reports are handed to cannot be reached")

func (w *round) run(ctx context.Context, only map[string]bool, now time.Time) (Summary, error) {
	if w.sent.day(w.day).begun.IsZero() {
		if err := w.sent.set(sentEntry{Day: w.day, Outcome: outcomeBegun, At: now.Unix()}); err != nil {
			return Summary{}, err
		}
	}
	w.end = w.sent.day(w.day).begun.Add(giveUp)
	if late := now.Add(minRound); w.end.Before(late) {
		w.end = late
	}
	var wanted func(string) bool
	if only != nil {
		wanted = func(domain string) bool { return only[domain] }
	}
	order := func(file io.ReaderAt, chosen []*candidate) iter.Seq[[]*candidate] {
		return w.stages(ctx, file, chosen, wanted)
	}
	return makeReports(ctx, w.dir, w.day, w.options.Config, wanted, order, func(r *Report) error {
		return w.report(ctx, r)
	})
}

// report sends one report to all who want it and have not got it yet.
func (w *round) report(ctx context.Context, r *Report) error {
	if w.unreachable >= maxUnreachable {
		w.pending[r.Published.Domain] = errUnreachable
		return nil
	}
	recipients, asked := w.recipients[r.Published.Domain]
	if !asked || !time.Now().Before(w.end) {
		w.pending[r.Published.Domain] = errNotAsked
		return nil
	}
	for _, to := range recipients {
		if err := ctx.Err(); err != nil {
			return err
		}
		event := Event{
			Kind: KindUnwanted, Day: w.day, Domain: r.Published.Domain, To: to.Asked, ReportID: r.ID, Rows: r.Rows,
		}
		switch {
		case to.Err != nil:
			w.pending[event.Domain] = to.Err
			event.Kind, event.Err = KindDeferred, to.Err
			w.observe.tell(event)
		case to.To == "":
			w.observe.tell(event)
		default:
			event.To = to.To
			if err := w.send(ctx, r, event); err != nil {
				return err
			}
		}
	}
	return nil
}

// send hands a report to the MTA. An error is for the whole day.
func (w *round) send(ctx context.Context, r *Report, event Event) error {
	state := w.sent.day(w.day).deliveries[delivery{r.ID, event.To}]
	switch {
	case state.done != "":
		return nil
	case state.attempts >= MaxAttempts:
		event.Kind, event.Err = KindGaveUp, errAttempts
		w.observe.tell(event)
		return w.note(r, event.To, outcomeRefused)
	}
	if err := w.note(r, event.To, outcomeTrying); err != nil {
		return err
	}
	message := r.Message(event.To, time.Now())
	event.Octets = len(message)
	sending, cancel := context.WithTimeout(ctx, sendTime)
	event.Err = w.options.Mailer.Send(sending, r.config.Email, event.To, message)
	cancel()
	if ctx.Err() != nil && event.Err != nil {
		return ctx.Err()
	}
	var refusal *auth.Refusal
	switch {
	case event.Err == nil:
		event.Kind = KindSent
		w.unreachable = 0
		err := w.note(r, event.To, outcomeSent)
		w.observe.tell(event)
		return err
	case errors.As(event.Err, &refusal):
		event.Kind = KindRefused
		w.unreachable = 0
		w.observe.tell(event)
		return w.note(r, event.To, outcomeRefused)
	}
	event.Kind = KindDeferred
	w.pending[event.Domain] = event.Err
	w.countUnreachable(event.Err)
	w.observe.tell(event)
	return w.note(r, event.To, outcomeDeferred)
}

var errAttempts = errors.New("this process has ended too often while it was sent")

// countUnreachable notices an MTA that is not there, so that not each report waits for it. What a recipient has to do
// with, such as an MTA that takes its time, does not count.
func (w *round) countUnreachable(err error) {
	var op *net.OpError
	if errors.As(err, &op) && op.Op == "dial" {
		w.unreachable++
	} else {
		w.unreachable = 0
	}
}

func (w *round) note(r *Report, to string, o outcome) error {
	return w.sent.set(sentEntry{Day: w.day, Outcome: o, Report: r.ID, To: to})
}
