//go:build linux

package authload

import (
	"os"
	"slices"
	"sync"
	"testing"
)

// nameserver is where the answers come from. Some contestants know no other port than 53, and no address but one.
const nameserver = "127.0.53.1"

const (
	warmUp   = 50   // messages of each session that are not counted
	messages = 1500 // of one round
	rounds   = 5
	sessions = 4 // at the same time
)

// A contestant is what judges messages.
type contestant struct {
	pids []int
	dial func() (session, error)
}

// A session is a connection to one.
type session interface {
	// check has a message judged, and is content only if everything passes.
	check(mail) error
	close()
}

const ours = "slipstream"

// contestants are all that are compared, and how they are started; those that we are compared with come first.
var contestants = []struct {
	name  string
	start func(tb testing.TB, w *world, m mail) contestant
}{
	{"bare", startBare}, {"rspamd", startRspamd}, {"opendkim+opendmarc", startMilters}, {ours, startOurs},
}

// BenchmarkPeers tells how many messages each contestant judges in a second of CPU time; x-best is ours over that of the
// best of the others.
func BenchmarkPeers(b *testing.B) {
	w := newWorld(b)
	w.serveDNS(b, nameserver+":53")
	for _, m := range []mail{w.mail(b, false), w.mail(b, true)} {
		best := 0.0
		for _, c := range contestants {
			b.Run(m.about()+"/"+c.name, func(b *testing.B) {
				rate := measure(b, c.start(b, w, m), m)
				b.ReportMetric(rate, "msgs/cpu-s")
				b.ReportMetric(1e6/rate, "cpu-µs/msg")
				b.ReportMetric(0, "ns/op") // it would be the time of all rounds
				switch {
				case c.name != ours && c.name != "bare":
					best = max(best, rate)
				case c.name == ours && best > 0:
					b.ReportMetric(rate/best, "x-best")
				}
			})
		}
	}
}

// TestPeers: all contestants find the messages sound; else they would not be comparable.
func TestPeers(t *testing.T) {
	w := newWorld(t)
	w.serveDNS(t, nameserver+":53")
	for _, m := range []mail{w.mail(t, false), w.mail(t, true)} {
		for _, c := range contestants {
			t.Run(m.about()+"/"+c.name, func(t *testing.T) {
				s, err := c.start(t, w, m).dial()
				if err != nil {
					t.Fatal(err)
				}
				defer s.close()
				if err := s.check(m); err != nil {
					t.Error(err)
				}
			})
		}
	}
}

// measure returns how many messages c judges in a second of CPU time, the median of all rounds.
func measure(b *testing.B, c contestant, m mail) float64 {
	var open []session
	for range sessions {
		s, err := c.dial()
		if err != nil {
			b.Fatal(err)
		}
		defer s.close()
		open = append(open, s)
		round(b, open[len(open)-1:], m, warmUp)
	}
	var rates []float64
	for b.Loop() {
		for range rounds {
			before := cpuTime(b, c.pids)
			round(b, open, m, messages)
			rates = append(rates, messages/(cpuTime(b, c.pids)-before).Seconds())
		}
	}
	slices.Sort(rates)
	return rates[len(rates)/2]
}

// round has a message judged so many times, by all sessions together.
func round(b *testing.B, open []session, m mail, times int) {
	var running sync.WaitGroup
	failed := make([]error, len(open))
	for i, s := range open {
		running.Go(func() {
			for n := i; n < times && failed[i] == nil; n += len(open) {
				failed[i] = s.check(m)
			}
		})
	}
	running.Wait()
	for _, err := range failed {
		if err != nil {
			b.Fatal(err)
		}
	}
}

// bare does the cryptography that nobody can do without, and nothing else.
type bare func() error

func startBare(tb testing.TB, w *world, m mail) contestant {
	b := bare(w.bare(tb, m))
	return contestant{pids: []int{os.Getpid()}, dial: func() (session, error) { return b, nil }}
}

func (b bare) check(mail) error { return b() }
func (b bare) close()           {}
