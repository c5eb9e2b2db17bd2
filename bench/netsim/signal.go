package netsim

import (
	"sync"
	"time"
)

// signal wakes those who wait for a change of what a lock guards. It does what a
// sync.Cond does, and can also wait for a time. The zero value is ready; all its
// methods need the lock.
type signal struct{ ch chan struct{} }

// broadcast wakes everybody.
func (s *signal) broadcast() {
	if s.ch != nil {
		close(s.ch)
		s.ch = nil
	}
}

// wait gives up the lock until the next broadcast or the given time, whichever
// comes first; the zero time never comes.
func (s *signal) wait(mu *sync.Mutex, until time.Time) {
	if s.ch == nil {
		s.ch = make(chan struct{})
	}
	ch := s.ch
	mu.Unlock()
	defer mu.Lock()
	if until.IsZero() {
		<-ch
		return
	}
	timer := time.NewTimer(time.Until(until))
	defer timer.Stop()
	select {
	case <-ch:
	case <-timer.C:
	}
}

// earliest returns the first of some times, of which the zero ones never come.
func earliest(times ...time.Time) time.Time {
	var first time.Time
	for _, t := range times {
		if first.IsZero() || !t.IsZero() && t.Before(first) {
			first = t
		}
	}
	return first
}

// later returns the second of two times.
func later(a, b time.Time) time.Time {
	if a.After(b) {
		return a
	}
	return b
}

// come reports whether t, if it ever comes, is not after now.
func come(t, now time.Time) bool { return !t.IsZero() && !t.After(now) }
