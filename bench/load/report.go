package load

import (
	"encoding/json"
	"io"
	"slices"
	"time"

	"github.com/HdrHistogram/hdrhistogram-go"
)

// Format is the version of the JSON form.
const Format = 1

// A Report is a whole run.
type Report struct {
	Format int      `json:"format"`
	Facts  Facts    `json:"facts"`
	Memory []Memory `json:"memory"` // of the contestants whose accounts can be read
	Points []Point  `json:"points"` // in the order of the table
	Absent []Absent `json:"absent"`
}

// Facts are the circumstances, without which no figure means anything.
type Facts struct {
	Begun      time.Time     `json:"begun"`
	Took       time.Duration `json:"took_ns"`
	Version    string        `json:"version"` // of Slipstream
	Go         string        `json:"go"`
	System     string        `json:"system"`
	GOOS       string        `json:"goos"`
	GOARCH     string        `json:"goarch"`
	CPUs       int           `json:"cpus"`
	Busy       string        `json:"load_average"` // over the minute before; empty: not known
	CPUSource  string        `json:"cpu_source"`   // where CPU time comes from; empty: it is not told
	Peers      []string      `json:"peers"`        // "haproxy 2.6.12-1+deb12u4"
	Size       int           `json:"size_octets"`
	TLS        bool          `json:"tls"`
	Rate       float64       `json:"rate_per_second"` // 0: a closed loop
	Clock      Clock         `json:"clock,omitempty"` // of an open loop
	Window     time.Duration `json:"window_ns"`       // that one turn is measured
	WarmUp     time.Duration `json:"warm_up_ns"`      // before
	Rounds     int           `json:"rounds"`
	Sessions   []int         `json:"sessions"`
	PerConnect []int         `json:"per_connection"`
}

// Absent is a way that was not measured.
type Absent struct {
	Way    Way    `json:"way"`
	Reason string `json:"reason"`
}

// Memory is what a contestant's processes hold while nothing goes through, in octets. Pages that several of its
// processes share count for each.
type Memory struct {
	Way           Way   `json:"way"`
	Bare          int64 `json:"bare_octets"` // without a connection, after a few messages
	PerConnection int64 `json:"per_connection_octets"`
	Connections   int   `json:"connections"` // that this was found with
}

// A Point is a contestant with a number of sessions and of messages on each connection.
type Point struct {
	Way           Way     `json:"way"`
	Sessions      int     `json:"sessions"`
	PerConnection int     `json:"per_connection"`
	Rate          Spread  `json:"messages_per_second"`
	CPU           Spread  `json:"cpu_ns_per_message"` // zero: it is not told
	Peak          int64   `json:"peak_octets"`        // resident memory; the greatest of all turns
	Latency       Latency `json:"latency"`            // of the messages of all turns
	Counted       int     `json:"counted"`            // messages due while a turn was measured, sent or not
	Queued        int     `json:"queued"`             // of these, that no session was free for when they were due
	Unsent        int     `json:"unsent"`             // of these, that none was free for in the end
	Late          int     `json:"late"`               // begun late though a session was free: the source was not on time
	Failed        int     `json:"failed"`             // messages, also of the warm-up
	Failure       string  `json:"failure,omitempty"`  // why the first of them did
	Turns         []Turn  `json:"turns"`              // one for each round

	merged *hdrhistogram.Histogram
}

// A Turn is one measurement.
type Turn struct {
	Elapsed  time.Duration `json:"elapsed_ns"`
	Messages int           `json:"messages"`    // acknowledged meanwhile
	CPU      time.Duration `json:"cpu_ns"`      // that the contestant's processes used meanwhile; 0: not told
	Peak     int64         `json:"peak_octets"` // 0: not told
	Latency  Latency       `json:"latency"`
	Waited   time.Duration `json:"longest_wait_ns"` // from when a message was due until a session was free and began it
	Lag      time.Duration `json:"source_lag_ns"`   // the same of those that a session was free for
}

// Latency is how long messages took until their final reply. In a closed loop it counts from when a session began a
// message, making the connection included; in an open one from when the message was due.
type Latency struct {
	P50  time.Duration `json:"p50_ns"`
	P90  time.Duration `json:"p90_ns"`
	P99  time.Duration `json:"p99_ns"`
	P999 time.Duration `json:"p99_9_ns"`
	Max  time.Duration `json:"max_ns"`
}

// A Spread is the median over the rounds, and how far they lie apart.
type Spread struct {
	Median float64 `json:"median"`
	Least  float64 `json:"least"`
	Most   float64 `json:"most"`
}

func spread(samples []float64) Spread {
	if len(samples) == 0 {
		return Spread{}
	}
	s := slices.Sorted(slices.Values(samples))
	n := len(s)
	return Spread{(s[(n-1)/2] + s[n/2]) / 2, s[0], s[n-1]}
}

func latencyOf(h *hdrhistogram.Histogram) Latency {
	at := func(q float64) time.Duration { return time.Duration(h.ValueAtQuantile(q)) * latencyUnit }
	return Latency{at(50), at(90), at(99), at(99.9), time.Duration(h.Max()) * latencyUnit}
}

func newTurn(t *tally, accounts *ledger, from, to mark) Turn {
	turn := Turn{
		Elapsed: to.at.Sub(from.at), Messages: to.done - from.done, Latency: latencyOf(t.latencies),
		Waited: t.waited, Lag: t.lag,
	}
	if accounts != nil {
		turn.CPU, turn.Peak = to.used.cpu-from.used.cpu, to.used.hwm
	}
	return turn
}

// perSecond is the rate of a turn; 0 where none was kept.
func (t Turn) perSecond() float64 {
	if t.Elapsed <= 0 {
		return 0
	}
	return float64(t.Messages) / t.Elapsed.Seconds()
}

// add takes a turn.
func (p *Point) add(turn Turn, t *tally) {
	p.Turns = append(p.Turns, turn)
	p.Counted += t.counted
	p.Queued += t.queued
	p.Unsent += t.unsent
	p.Late += t.late
	p.Failed += t.failed
	if p.Failure == "" && t.first != nil {
		p.Failure = t.first.Error()
	}
	if p.merged == nil {
		p.merged = newHistogram()
	}
	p.merged.Merge(t.latencies)
	p.Latency = latencyOf(p.merged)
	p.Peak = max(p.Peak, turn.Peak)
	var rates, costs []float64
	for _, turn := range p.Turns {
		rates = append(rates, turn.perSecond())
		if turn.CPU > 0 && turn.Messages > 0 {
			costs = append(costs, float64(turn.CPU)/float64(turn.Messages))
		}
	}
	p.Rate, p.CPU = spread(rates), spread(costs)
}

// JSON writes the report as one object. Durations are in nanoseconds.
func (r *Report) JSON(w io.Writer) error {
	e := json.NewEncoder(w)
	e.SetIndent("", "  ")
	return e.Encode(r)
}
