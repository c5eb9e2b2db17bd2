package load

import (
	"errors"
	"fmt"
	"math"
	"slices"
	"time"
)

// Limits of a run.
const (
	MaxSessions      = 1000             // at once: the reference sink takes 2000 connections
	MaxPoints        = 200              // numbers of sessions, and of messages on a connection, taken together
	MaxPerConnection = 10_000           // messages on one connection
	MaxRounds        = 100              // of the contestants' taking turns
	MaxDuration      = 10 * time.Minute // of one point
	MaxSize          = 16 << 20         // octets of a message
	MaxRate          = 100_000          // messages a second
	MaxIdle          = 1000             // idle connections: each takes two descriptors of this process
)

// What the zero Options stand for.
const (
	DefaultDuration = 3 * time.Second
	DefaultRounds   = 3
	DefaultSize     = 4 << 10
	DefaultIdle     = 500
)

// DefaultSessions are the numbers of sessions of a closed loop. An open one has the greatest of them.
func DefaultSessions() []int { return []int{1, 5, 20, 50, 100} }

// DefaultPerConnection are the numbers of messages on a connection.
func DefaultPerConnection() []int { return []int{1, 100} }

// Clock says how the arrivals of an open loop are spaced.
type Clock string

// The clocks.
const (
	Poisson  Clock = "poisson"  // random gaps, as from many senders that know nothing of each other
	Constant Clock = "constant" // equal gaps
)

// Options say what to measure. The zero value measures everything but Slipstream, in a closed loop, in clear.
type Options struct {
	// Command starts Slipstream; "serve -c FILE" is added. Empty: its doors are absent.
	Command []string
	Version string // of Slipstream, for the report
	Peers   string // where HAProxy and nginx are, as mta.Config.Peers

	// Sessions are how many are at work at once, a point each. In an open loop that bounds what is in flight.
	Sessions []int
	// PerConnection are how many messages go over one connection. The first is measured with each of Sessions, the others
	// with the middle one alone.
	PerConnection []int
	Duration      time.Duration // that each contestant is measured for at one point, over all rounds
	Rounds        int
	Size          int  // of a message, in octets, at least that of its fields
	TLS           bool // STARTTLS from the source to whoever offers it; see Way
	Rate          float64
	Clock         Clock  // of the open loop, with Rate; empty: Poisson
	Seed          uint64 // of the Poisson clock; every contestant gets the same arrivals
	Idle          int    // connections to see with what an idle one holds

	// Progress, if set, is told of every turn before it begins.
	Progress func(Step)
}

// A Step is how far a run has come.
type Step struct {
	Done, Total int           // turns
	Point       string        // what is measured: "round 1 of 3, 20 sessions, 1 message per connection"
	Way         string        // who has the turn
	Left        time.Duration // what the rest will take, roughly
}

func (o Options) withDefaults() Options {
	if len(o.Sessions) == 0 {
		o.Sessions = DefaultSessions()
		if o.Rate > 0 {
			o.Sessions = []int{slices.Max(o.Sessions)}
		}
	}
	if len(o.PerConnection) == 0 {
		o.PerConnection = DefaultPerConnection()
	}
	if o.Duration == 0 {
		o.Duration = DefaultDuration
	}
	if o.Rounds == 0 {
		o.Rounds = DefaultRounds
	}
	if o.Size == 0 {
		o.Size = DefaultSize
	}
	if o.Idle == 0 {
		o.Idle = DefaultIdle
	}
	if o.Clock == "" {
		o.Clock = Poisson
	}
	return o
}

// Check says what is wrong with the options.
func (o Options) Check() error {
	o = o.withDefaults()
	var errs []error
	within := func(what string, n, most int) {
		if n < 1 || n > most {
			errs = append(errs, fmt.Errorf("%s: %d is not within 1 and %d", what, n, most))
		}
	}
	for _, n := range o.Sessions {
		within("sessions", n, MaxSessions)
	}
	for _, n := range o.PerConnection {
		within("messages per connection", n, MaxPerConnection)
	}
	within("rounds", o.Rounds, MaxRounds)
	within("size", o.Size, MaxSize)
	within("idle connections", o.Idle, MaxIdle)
	within("points", len(o.points()), MaxPoints)
	if o.Duration < o.shortest() || o.Duration > MaxDuration {
		errs = append(errs, fmt.Errorf("duration: %v is not within %v (%v for each round) and %v",
			o.Duration, o.shortest(), minWindow, MaxDuration))
	}
	if math.IsNaN(o.Rate) || o.Rate < 0 || o.Rate > MaxRate {
		errs = append(errs, fmt.Errorf("rate: %v is not within 0 and %d messages a second", o.Rate, MaxRate))
	}
	if o.Clock != Poisson && o.Clock != Constant {
		errs = append(errs, fmt.Errorf("clock: %q is neither %q nor %q", o.Clock, Poisson, Constant))
	}
	return errors.Join(errs...)
}

// minWindow is the shortest turn that says anything: some ticks of the kernel's clock.
const minWindow = 10 * time.Millisecond

func (o Options) shortest() time.Duration { return minWindow * time.Duration(max(1, o.Rounds)) }

// window is how long one turn is measured.
func (o Options) window() time.Duration { return o.Duration / time.Duration(o.Rounds) }

// warmUp is what goes before: a tenth, and no more than it takes to fill caches and pools.
func (o Options) warmUp() time.Duration { return min(o.window()/10, 500*time.Millisecond) }

// A spot is what every contestant is measured at.
type spot struct{ sessions, perConn int }

func (s spot) String() string {
	return fmt.Sprintf("%s, %s per connection", count(s.sessions, "session"), count(s.perConn, "message"))
}

// points lists what is measured, without repetition.
func (o Options) points() []spot {
	var all []spot
	middle := o.Sessions[len(o.Sessions)/2]
	for i, perConn := range o.PerConnection {
		for _, sessions := range o.Sessions {
			if p := (spot{sessions, perConn}); (i == 0 || sessions == middle) && !slices.Contains(all, p) {
				all = append(all, p)
			}
		}
	}
	return all
}

func count(n int, what string) string {
	if n == 1 {
		return "1 " + what
	}
	return fmt.Sprintf("%d %ss", n, what)
}
