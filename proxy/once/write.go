package once

import (
	"errors"
	"fmt"
	"time"

	"go.uber.org/zap"

	"slipstream/tlsstore"
)

// How long the disk may take, and what there may be that it did not take.
const (
	// writeWait is how long Remember waits for the disk. The MTA waits for its answer meanwhile.
	writeWait = 10 * time.Second
	// slowWrite is how long a write may last before Ready gives up on the disk.
	slowWrite = 3 * time.Second
	// CloseWait is how long Close waits for what is to be written, before the KV's own time to close.
	CloseWait = 5 * time.Second

	// What failed is tried again after retryFirst, then after twice as long each time, up to retryMost.
	retryFirst = time.Second
	retryMost  = time.Minute
	// Opening reads all that there is: it may take its time.
	openMost = 10 * time.Minute

	// Ready allows for Options.Max outcomes. Of those who have asked before others wrote, and of those whose client has
	// vanished, which ask nobody, there may be more: so many times as many, and some.
	overfull = 2
	spare    = 1000

	// The KV may drop a record by its own clock; we go by the time in it.
	kvMargin = time.Hour
)

// A batch is what is to be written, by record: the last word on each counts.
type batch struct {
	changes map[id]change
	waiting []chan<- error // each with room for what came of it
}

// A change is a record to be written, or to be removed where there is no value.
type change struct {
	value []byte
	life  time.Duration
	tried bool // it may be on the disk, whatever that said
}

func newBatch() batch { return batch{changes: make(map[id]change)} }

// set has a record written. there says that it may be on the disk already, with another value.
func (b *batch) set(i id, there bool, value []byte, life time.Duration) {
	b.changes[i] = change{value: value, life: life, tried: there || b.changes[i].tried}
}

// remove has a record removed, unless so many are to be already, because the disk takes nothing: it is over some day.
func (b *batch) remove(i id, most int) {
	switch c, ok := b.changes[i]; {
	case ok && c.value != nil && !c.tried:
		delete(b.changes, i) // it is not on the disk
	case ok || len(b.changes) < most:
		b.changes[i] = change{tried: true}
	}
}

// poke has run write what is pending.
func (m *Memory) poke() {
	select {
	case m.wake <- struct{}{}:
	default: // it will see this, too
	}
}

// run opens the KV, if there is none yet, and writes what is pending, until Close. first is closed after the first
// attempt to open it.
func (m *Memory) run(open func() (tlsstore.KV, error), first chan<- struct{}) {
	defer close(m.done)
	if open != nil && !m.opened(open, first) {
		m.failed = m.unsaved()
		return
	}
	retry := time.NewTimer(0)
	defer retry.Stop()
	for delay := retryFirst; ; {
		if m.flush() {
			delay = retryFirst
			retry.Stop()
		} else {
			retry.Reset(delay)
			delay = min(2*delay, retryMost)
		}
		select {
		case <-m.stop:
			m.flush()
			m.failed = errors.Join(m.unsaved(), m.kv.Close())
			return
		case <-m.wake:
		case <-retry.C:
		}
	}
}

// opened opens the KV, however often it takes, and tries to write. It returns false if Close came before that.
func (m *Memory) opened(open func() (tlsstore.KV, error), first chan<- struct{}) bool {
	told := ""
	for delay := retryFirst; ; delay = min(2*delay, openMost) {
		kv, err := open()
		if err == nil {
			if err = m.load(kv); err != nil {
				err = errors.Join(err, kv.Close())
			}
		}
		var unwritten error
		if err == nil {
			if unwritten = m.write(nil); unwritten != nil {
				m.log.Warn(unwritable, zap.Error(unwritten))
			}
		}
		m.mu.Lock()
		m.wrong = errors.Join(err, unwritten)
		m.mu.Unlock()
		if first != nil {
			close(first)
			first = nil
		}
		if err == nil {
			if told != "" {
				m.log.Info("the memory of outcomes can be used from now on")
			}
			return true
		}
		say := m.log.Warn
		if told == err.Error() {
			say = m.log.Debug
		}
		told = err.Error()
		say("the memory of outcomes cannot be used; until it can, a message for several destinations is split",
			zap.Error(err), zap.Duration("next_try", delay))
		select {
		case <-m.stop:
			return false
		case <-time.After(delay):
		}
	}
}

const unwritable = "outcomes of recipients cannot be written; until they can, a message for several destinations " +
	"is split"

// flush writes what is pending, or anything where nothing is but the write before failed. It says whether all is well.
func (m *Memory) flush() bool {
	m.mu.Lock()
	b := m.pending
	if len(b.changes) == 0 && m.wrong == nil {
		m.mu.Unlock()
		return true
	}
	m.pending, m.busy = newBatch(), m.now()
	m.mu.Unlock()

	err := m.write(b.changes)

	m.mu.Lock()
	before := m.wrong
	m.wrong, m.busy = err, time.Time{}
	m.stats.Writes++
	if err != nil {
		m.stats.Failures++
		m.keepPending(b)
	}
	m.mu.Unlock()
	switch {
	case err != nil && before == nil:
		m.log.Warn(unwritable, zap.Error(err))
	case err == nil && before != nil:
		m.log.Info("outcomes of recipients can be written again")
	}
	for _, w := range b.waiting {
		w <- err
	}
	return err == nil
}

// keepPending has changes that were not made, or of which nobody knows, made later, unless there is a later word on a
// record. It is called with the lock held.
func (m *Memory) keepPending(b batch) {
	for id, c := range b.changes {
		if later, ok := m.pending.changes[id]; ok {
			c = later
		}
		c.tried = true
		m.pending.changes[id] = c
	}
}

// unsaved says what is lost with the process.
func (m *Memory) unsaved() error {
	m.mu.Lock()
	defer m.mu.Unlock()
	if n := len(m.pending.changes); n > 0 {
		return fmt.Errorf("once: %d outcomes are not on the disk: %w", n, m.wrong)
	}
	return nil
}

// write makes changes, as many at a time as the KV takes, or tries whether it could. Each time all are made or none;
// on an error some may be.
func (m *Memory) write(changes map[id]change) error {
	if len(changes) == 0 {
		return m.kv.Set([]byte{kindProbe}, nil, kvMargin)
	}
	var chunk []tlsstore.Change
	octets := 0
	for id, c := range changes {
		next := tlsstore.Change{Key: id.key(), Value: c.value}
		if c.value != nil {
			next.TTL = c.life + kvMargin
		}
		size := len(next.Key) + len(next.Value)
		if len(chunk) == tlsstore.BatchChanges || octets+size > tlsstore.BatchOctets {
			if err := apply(m.kv, chunk); err != nil {
				return err
			}
			chunk, octets = chunk[:0], 0
		}
		chunk, octets = append(chunk, next), octets+size
	}
	return apply(m.kv, chunk)
}

// apply makes changes as one, where the KV can.
func apply(kv tlsstore.KV, changes []tlsstore.Change) error {
	if b, ok := kv.(tlsstore.Batcher); ok {
		return b.Apply(changes)
	}
	for _, c := range changes {
		var err error
		if c.TTL > 0 {
			err = kv.Set(c.Key, c.Value, c.TTL)
		} else {
			err = kv.Delete(c.Key)
		}
		if err != nil {
			return err
		}
	}
	return nil
}

// Close writes what is pending and closes the KV. It waits no longer than [CloseWait] and [tlsstore.CloseWait]
// together. Nothing can be remembered afterwards. A second Close does nothing.
func (m *Memory) Close() error {
	if m == nil || m.closed.Swap(true) {
		return nil
	}
	close(m.stop)
	const limit = CloseWait + tlsstore.CloseWait
	timer := time.NewTimer(limit)
	defer timer.Stop()
	select {
	case <-m.done:
		return m.failed
	case <-timer.C:
		return errors.Join(fmt.Errorf("%w within %v", ErrSlow, limit), m.unsaved())
	}
}
