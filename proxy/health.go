package proxy

import (
	"container/list"
	"context"
	"errors"
	"fmt"
	"strings"
	"sync"
	"syscall"
	"time"

	"go.uber.org/zap"
)

// Bounds of what is kept of destinations that cannot be reached.
const (
	// maxFailing bounds how many of them there are. The one whose last failure was
	// first makes room; its mail is tried again as if nothing had been.
	maxFailing = 10_000
	// maxDestinationPause bounds the pause, which doubles with every failure.
	maxDestinationPause = 30 * time.Minute
	// failuresCount is how long a failure counts: two that are further apart than
	// this are not in a row.
	failuresCount = 6 * time.Hour
	// maxTrouble bounds the words about the last failure that are repeated.
	maxTrouble = 300
)

// A health knows which destinations cannot be reached, over all doors and reloads.
// What counts is the way to MAIL: a failure is an attempt in which no host of the
// destination came as far as an answer to MAIL, be it that nobody could be
// connected to, that each greeted with a refusal or refused EHLO, or that none
// could be protected as the policy demands: whatever it is, the next message would
// fare no better, and wait as long to learn it. Answers to MAIL, RCPT and the text
// are about a message. An attempt that was ended by us or the client, or that
// failed for want of our own means, is neither.
//
// After some failures in a row the destination is let alone for a while: its mail
// is refused at once, with the time of the next attempt. Then one transaction
// tries, for all others, who hear the same until it knows. If it fails, the pause
// is twice as long.
type health struct {
	log     *zap.Logger
	metrics *Metrics
	places  *hopPlaces // those who stand in line there are let go with a pause; nil: nobody does

	mu      sync.Mutex
	known   map[destination]*condition
	failing list.List // of *condition that have failed, the longest ago first
}

// A condition is that of one destination. It is kept while there are attempts or
// failures.
type condition struct {
	at       destination
	attempts int       // under way
	reached  time.Time // the last time
	failures int       // in a row
	failed   time.Time // the last time
	why      string
	pause    time.Duration // 0: there is none
	until    time.Time
	probe    *attempt // the one that tries for all others
	listed   *list.Element
}

// An attempt is one transaction's to reach a destination.
type attempt struct {
	h     *health
	c     *condition
	rule  *healthRule
	began time.Time
	ended bool
}

// A healthRule is what one door makes of it.
type healthRule struct {
	health   *health
	failures int           // in a row, that a pause begins with
	pause    time.Duration // the first one
}

func newHealth(log *zap.Logger, m *Metrics, places *hopPlaces) *health {
	return &health{log: log, metrics: m, places: places, known: make(map[destination]*condition)}
}

// healthFor is the rule of an outbound door; nil: there is none. An MTA whose
// connections are intercepted has its own idea of who can be reached, and so it
// has of a relay that is all there is.
func (p *Proxy) healthFor(conf *OutboundConfig) *healthRule {
	if conf.Route == routeOriginal || !conf.Relay.IsZero() || conf.DestinationFailures == 0 || conf.DestinationPause <= 0 {
		return nil
	}
	return &healthRule{health: p.health, failures: conf.DestinationFailures, pause: conf.DestinationPause}
}

// begin begins an attempt, unless there is a pause; then the error is what
// everybody hears.
func (r *healthRule) begin(at destination) (*attempt, error) {
	h, now := r.health, time.Now()
	h.mu.Lock()
	defer h.mu.Unlock()
	c := h.known[at]
	if c == nil {
		c = &condition{at: at}
		h.known[at] = c
	}
	if c.failures > 0 && now.Sub(later(c.failed, c.until)) > failuresCount {
		h.mend(c)
	}
	a := &attempt{h: h, c: c, rule: r, began: now}
	if c.pause > 0 {
		if now.Before(c.until) || c.probe != nil {
			h.metrics.destinations.refuse(at.door)
			return nil, c.refusal()
		}
		c.probe = a
	}
	c.attempts++
	return a, nil
}

func later(a, b time.Time) time.Time {
	if a.After(b) {
		return a
	}
	return b
}

// ailing tells whether the last attempt to reach a destination failed, so that
// nothing is begun for it ahead.
func (r *healthRule) ailing(at destination) bool {
	if r == nil {
		return false
	}
	r.health.mu.Lock()
	defer r.health.mu.Unlock()
	c := r.health.known[at]
	return c != nil && c.failures > 0
}

// refusal is what mail hears for which nothing is tried.
func (c *condition) refusal() error {
	next := "next attempt at " + c.until.UTC().Format(time.RFC3339)
	if c.probe != nil {
		next = "an attempt is under way since " + c.probe.began.UTC().Format(time.RFC3339)
	}
	// https://www.rfc-editor.org/rfc/rfc3463#section-3.5: X.4.1, no answer from host.
	return &refusalError{composed(451, "4.4.1",
		fmt.Sprintf("mx of %s: last trouble: %s; %s", cut(c.at.route, maxDomain), c.why, next))}
}

// maxDomain is how long a domain can be: https://www.rfc-editor.org/rfc/rfc1035#section-2.3.4
const maxDomain = 255

// reached ends an attempt that came as far as an answer to MAIL.
func (a *attempt) reached() {
	defer a.lock()()
	if a.ended {
		return
	}
	a.c.reached = time.Now()
	if a.c.pause > 0 {
		a.h.log.Info("destination reached again", zap.String("door", a.c.at.door), zap.String("destination", a.c.at.route),
			zap.Int("failures", a.c.failures))
		a.h.metrics.destinations.change(a.c.at.door, destinationBack)
	}
	a.h.mend(a.c)
	a.end()
}

// failed ends an attempt that did not.
func (a *attempt) failed(err error) {
	now, abandon := time.Now(), false
	defer func() {
		if abandon {
			a.h.places.abandon(a.c.at, &pausedError{a.c.at.route})
		}
	}()
	defer a.lock()()
	c := a.c
	if a.ended {
		return
	}
	defer a.end()
	// What began before the destination was reached, or before the pause, tells nothing new.
	if !a.began.After(c.reached) || c.pause > 0 && c.probe != a {
		return
	}
	c.failures++
	c.failed, c.why = now, trouble(err)
	a.h.list(c)
	what := destinationPaused
	switch {
	case c.pause > 0:
		what = destinationStill
		c.pause = min(2*c.pause, maxDestinationPause)
	case c.failures >= a.rule.failures:
		c.pause = min(a.rule.pause, maxDestinationPause)
		a.h.metrics.destinations.paused(c.at.door, 1)
	default:
		return
	}
	abandon = true
	c.until = now.Add(c.pause)
	a.h.metrics.destinations.change(c.at.door, what)
	a.h.log.Warn("destination cannot be reached: its mail is put off",
		zap.String("door", c.at.door), zap.String("destination", c.at.route), zap.Int("failures", c.failures), zap.Time("next_attempt", c.until), zap.String("trouble", c.why))
}

// over ends an attempt that told nothing, if it has not ended.
func (a *attempt) over() {
	defer a.lock()()
	if !a.ended {
		a.end()
	}
}

func (a *attempt) lock() (unlock func()) {
	a.h.mu.Lock()
	return a.h.mu.Unlock
}

// end is the end of an attempt. h.mu is held.
func (a *attempt) end() {
	a.ended = true
	c := a.c
	if c.probe == a {
		c.probe = nil
	}
	c.attempts--
	a.h.forget(c)
}

// forget drops what is not worth keeping. h.mu is held.
func (h *health) forget(c *condition) {
	if c.attempts == 0 && c.failures == 0 && h.known[c.at] == c {
		delete(h.known, c.at)
	}
}

// list puts a condition behind all others that have failed, and makes room for it.
// h.mu is held.
func (h *health) list(c *condition) {
	if c.listed != nil {
		h.failing.MoveToBack(c.listed)
		return
	}
	c.listed = h.failing.PushBack(c)
	if h.failing.Len() > maxFailing {
		old := h.failing.Front().Value.(*condition)
		h.metrics.destinations.change(old.at.door, destinationEvicted)
		h.mend(old)
		h.forget(old)
	}
}

// mend ends failures and pause. h.mu is held.
func (h *health) mend(c *condition) {
	if c.pause > 0 {
		h.metrics.destinations.paused(c.at.door, -1)
	}
	c.failures, c.pause, c.why = 0, 0, ""
	c.until, c.probe = time.Time{}, nil
	if c.listed != nil {
		h.failing.Remove(c.listed)
		c.listed = nil
	}
}

// trouble is what is said about a failure to those who come later.
func trouble(err error) string {
	return cut(replyText(strings.ReplaceAll(err.Error(), "\n", "; ")), maxTrouble)
}

// A pausedError is for those who stood in line when a pause began.
type pausedError struct{ to string }

func (e *pausedError) Error() string { return e.to + " cannot be reached" }

// noFault tells whether an attempt failed for a reason that says nothing about its
// destination: it was given up, or we have not the means.
func noFault(err error) bool {
	var crowded *crowdedError
	if errors.As(err, &crowded) || errors.Is(err, context.Canceled) || errors.Is(err, errCut) || errors.Is(err, errBroke) {
		return true
	}
	for _, lack := range []error{syscall.EMFILE, syscall.ENFILE, syscall.ENOBUFS, syscall.ENOMEM, syscall.EADDRNOTAVAIL} {
		if errors.Is(err, lack) {
			return true
		}
	}
	return false
}
