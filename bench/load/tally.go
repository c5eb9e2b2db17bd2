package load

import (
	"fmt"
	"sync"
	"time"

	"github.com/HdrHistogram/hdrhistogram-go"
)

const (
	// Latencies are kept in microseconds, to three digits. Longer ones than a turn can last do not occur.
	latencyUnit   = time.Microsecond
	maxLatency    = MaxDuration + replyWait + time.Minute
	latencyDigits = 3

	// lateAfter is when a message that a session was free for counts as late: the source itself was not on time.
	lateAfter = time.Millisecond
)

func newHistogram() *hdrhistogram.Histogram {
	return hdrhistogram.New(1, int64(maxLatency/latencyUnit), latencyDigits)
}

// A tally is what became of the messages of one turn.
type tally struct {
	stop func() // ends the turn: too much goes wrong

	mu        sync.Mutex
	acked     []int64 // serial numbers
	done      int     // acknowledged so far
	failed    int
	first     error         // why the first of them did
	counted   int           // messages that were due while the turn was measured, sent or not
	queued    int           // of these, those that no session was free for when they were due
	unsent    int           // of these, those that none was free for in the end
	late      int           // of those that one was free for, begun lateAfter or more after they were due
	waited    time.Duration // the longest wait of the queued
	lag       time.Duration // and of the others
	latencies *hdrhistogram.Histogram
}

func newTally(stop func()) *tally { return &tally{stop: stop, latencies: newHistogram()} }

// note takes what became of a message.
func (t *tally) note(o outcome) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if o.due.counted {
		t.begin(o.due.queued, o.begun.Sub(o.due.due))
	}
	if o.err != nil {
		t.failed++
		if t.first == nil {
			t.first = o.err
		}
		if t.failed == maxFailures {
			t.stop()
		}
		return
	}
	t.acked = append(t.acked, o.serial)
	t.done++
	if o.due.counted {
		t.latency(o.done.Sub(o.due.due))
	}
}

// skip takes a message that was due and never begun. That it waited so long is known; so is that it would have taken
// longer.
func (t *tally) skip(waited time.Duration) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.unsent++
	t.begin(true, waited)
	t.latency(waited)
}

// begin counts a message, begun so long after it was due.
func (t *tally) begin(queued bool, d time.Duration) {
	t.counted++
	if queued {
		t.queued++
		t.waited = max(t.waited, d)
		return
	}
	t.lag = max(t.lag, d)
	if d >= lateAfter {
		t.late++
	}
}

func (t *tally) latency(d time.Duration) {
	n := min(max(1, int64(d/latencyUnit)), t.latencies.HighestTrackableValue())
	_ = t.latencies.RecordValue(n) // it is within the bounds
}

// completed tells how many messages were acknowledged so far.
func (t *tally) completed() int {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.done
}

// audit compares what was acknowledged with what is at the sink.
func (t *tally) audit(l *letters, arrived map[string]int) error {
	t.mu.Lock()
	defer t.mu.Unlock()
	lost, twice := 0, 0
	var example string
	for _, serial := range t.acked {
		if id := l.id(serial); arrived[id] == 0 {
			lost++
			example = id
		}
	}
	for id, n := range arrived {
		if n > 1 {
			twice++
			example = id
		}
	}
	if lost+twice == 0 {
		return nil
	}
	return &AuditError{Acknowledged: len(t.acked), Lost: lost, Twice: twice, Example: example}
}

// An AuditError is an acknowledged message that is not at the sink, or one that is there more than once.
type AuditError struct {
	Acknowledged int // messages
	Lost         int // of these, not there
	Twice        int // acknowledged or not, there more than once
	Example      string
}

func (e *AuditError) Error() string {
	return fmt.Sprintf("of %s that were acknowledged, %d did not arrive and %d arrived more than once, such as %s",
		count(e.Acknowledged, "message"), e.Lost, e.Twice, e.Example)
}
