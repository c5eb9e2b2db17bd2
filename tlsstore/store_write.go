package tlsstore

import (
	"container/list"
	"errors"
	"sync"
	"time"
)

const (
	// Pending is how many records may wait for the KV when Options do not say.
	Pending = 4096

	pendingOctets    = 16 << 20         // and how many octets they may have
	pendingDeletions = 1 << 15          // how many deletions may wait; those on top go into a sieve
	deleteAgain      = 10 * time.Second // until a deletion that failed is tried again
)

// writes are what waits to be written, by key: the last value counts.
//
// A value may be lost, a deletion may not: what was dropped for good reason would be back after a restart. So deletions
// have room of their own, go first, and wait until they are done. For the same reason a value that is lost leaves a
// deletion in its place, or else the value that it was to replace would be taken for the last. What is deleted too much
// is a miss and nothing else.
type writes struct {
	limit, most int           // of values, and of deletions outside the sieve
	wake        chan struct{} // holds a token when there may be something to do

	mu                        sync.Mutex
	waiting                   map[recordKey]*write
	deletions, values, failed list.List // of *write, in order; those that are being written are in none of them
	records                   int       // of waiting: those that are no deletions
	octets                    int       // which these have
	sieve                     *sieve    // deletions on top; nil for none
	sweeping                  *sieve    // those that are being seen to
	unswept                   bool      // the sieve waits, like what failed
	over                      bool      // nobody writes any more
}

// A write is what is to become of a key: a record, or nothing.
type write struct {
	key     recordKey
	value   []byte
	instead bool          // a deletion in the place of a value that was lost: there may be nothing to delete
	in      *list.List    // nil while it is being written
	at      *list.Element // of in
	again   bool          // has changed since it was taken
}

func newWrites(limit int) *writes {
	return &writes{limit: limit, most: pendingDeletions, wake: make(chan struct{}, 1),
		waiting: make(map[recordKey]*write)}
}

func (w *writes) len() int {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.pending()
}

// pending is called with the lock held.
func (w *writes) pending() int { return len(w.waiting) + w.sieve.len() + w.sweeping.len() }

// find returns the value that waits to be written, nil for a deletion, and whether one does.
func (w *writes) find(key recordKey) (value []byte, waits bool) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if e, ok := w.waiting[key]; ok {
		return e.value, true
	}
	return nil, w.sieve.has(key) || w.sweeping.has(key)
}

// all returns every value that waits to be written, nil for deletions, but for those in a sieve.
func (w *writes) all() map[recordKey][]byte {
	w.mu.Lock()
	defer w.mu.Unlock()
	values := make(map[recordKey][]byte, len(w.waiting))
	for key, e := range w.waiting {
		values[key] = e.value
	}
	return values
}

// end ends the taking of writes, and returns how many are left.
func (w *writes) end() int {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.over = true
	return w.pending()
}

// add takes a write, and reports false if it is lost. That a deletion never is before the end.
func (w *writes) add(key recordKey, value []byte) bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.over {
		return false
	}
	e, known := w.waiting[key]
	lost := value != nil && !w.fits(e, value)
	if lost {
		value = nil
	}
	if !known {
		e = &write{key: key}
		w.waiting[key] = e
	}
	w.turn(e, value)
	e.instead = lost
	if e.in == nil && known {
		e.again = true
	} else {
		w.queue(e)
	}
	select {
	case w.wake <- struct{}{}:
	default:
	}
	return !lost
}

// fits reports whether there is room for a value; e is what waits for the same key, nil for nothing. It is called with
// the lock held, like all that follows up to take.
func (w *writes) fits(e *write, value []byte) bool {
	if e == nil || e.value == nil {
		return w.records < w.limit && w.octets+len(value) <= pendingOctets
	}
	return len(value) <= len(e.value) || w.octets+len(value)-len(e.value) <= pendingOctets
}

// turn gives a write another value, nil for a deletion.
func (w *writes) turn(e *write, value []byte) {
	if e.value != nil {
		w.records--
	}
	if value != nil {
		w.records++
	}
	w.octets += len(value) - len(e.value)
	e.value = value
}

// queue has a write wait for its turn, a deletion that there is no room for in the sieve.
func (w *writes) queue(e *write) {
	switch {
	case e.value != nil:
		w.move(e, &w.values)
	case len(w.waiting)-w.records > w.most:
		w.remove(e)
		if w.sieve == nil {
			w.sieve = new(sieve)
		}
		w.sieve.add(e.key)
	default:
		w.move(e, &w.deletions)
	}
}

// move puts a write at the end of a list; one that is there keeps its place. Nil: of none.
func (w *writes) move(e *write, to *list.List) {
	if e.in == to {
		return
	}
	if e.in != nil {
		e.in.Remove(e.at)
	}
	if e.in, e.at = to, nil; to != nil {
		e.at = to.PushBack(e)
	}
}

func (w *writes) remove(e *write) {
	w.move(e, nil)
	w.turn(e, nil)
	delete(w.waiting, e.key)
}

// take returns what is to be written next. It stays findable until it is finished.
func (w *writes) take() (next write, ok bool) {
	w.mu.Lock()
	defer w.mu.Unlock()
	first := w.deletions.Front()
	if first == nil {
		first = w.values.Front()
	}
	if first == nil {
		return write{}, false
	}
	e := first.Value.(*write)
	w.move(e, nil)
	return *e, true
}

// finish ends a write that was taken. A deletion that failed waits for retry.
func (w *writes) finish(key recordKey, err error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	e := w.waiting[key]
	switch {
	case e.again:
		e.again = false
		w.queue(e)
	case err == nil:
		w.remove(e)
	default:
		if e.value != nil {
			w.turn(e, nil)
			e.instead = true
		}
		if w.queue(e); e.in != nil {
			w.move(e, &w.failed)
		}
	}
}

// deleted says that the KV was rid of a key by other ways.
func (w *writes) deleted(key recordKey) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if e, ok := w.waiting[key]; ok && e.value == nil && e.in != nil {
		w.remove(e)
	}
}

// failing reports whether anything waits for retry.
func (w *writes) failing() bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.failed.Len() > 0 || w.unswept
}

// retry has the deletions that failed wait for their turn again.
func (w *writes) retry() {
	w.mu.Lock()
	defer w.mu.Unlock()
	for first := w.failed.Front(); first != nil; first = w.failed.Front() {
		w.move(first.Value.(*write), &w.deletions)
	}
	w.unswept = false
}

// write is the writer: it writes until the Store is closed, and then what is left, but not for long.
func (s *Store) write() {
	var again <-chan time.Time
	for {
		if again == nil && s.writes.failing() {
			again = time.After(deleteAgain)
		}
		select {
		case <-s.writes.wake:
			s.writeAll(s.closing)
		case <-again:
			again = nil
			s.writes.retry()
			s.writeAll(s.closing)
		case <-s.closing:
			timeout := make(chan struct{})
			timer := time.AfterFunc(drainWait, func() { close(timeout) })
			defer timer.Stop()
			s.writes.retry()
			s.writeAll(timeout)
			s.count.lost.Add(uint64(s.writes.end()))
			return
		}
	}
}

// writeAll writes what waits, until stop is closed.
func (s *Store) writeAll(stop <-chan struct{}) {
	for {
		select {
		case <-stop:
			return
		default:
		}
		if full := s.writes.takeSieve(); full != nil {
			s.writes.finishSieve(s.sweep(full, stop))
			continue
		}
		next, ok := s.writes.take()
		if !ok {
			return
		}
		s.writes.finish(next.key, s.writeOne(next))
	}
}

func (s *Store) writeOne(w write) error {
	if w.value == nil {
		return s.deleteOne(w)
	}
	err := guard("writing", func() error {
		left := expiresOf(w.value).Sub(s.now())
		if left <= 0 {
			return s.kv.Delete(w.key[:])
		}
		// Whole seconds, and one more: when exactly it is over is for the record to say.
		return s.kv.Set(w.key[:], w.value, left.Truncate(time.Second)+2*time.Second)
	})
	if err != nil {
		s.count.lost.Add(1)
		s.trouble.report(writing, err)
		return err
	}
	s.count.writes.Add(1)
	return nil
}

// deleteOne deletes. In the place of a lost value, which was counted, it does so where there is something, for a full
// disk has no room to spare for more.
func (s *Store) deleteOne(w write) error {
	nothing := false
	err := guard("deleting", func() error {
		if w.instead {
			if _, err := s.kv.Get(w.key[:]); errors.Is(err, ErrNotFound) {
				nothing = true
				return nil
			}
		}
		return s.kv.Delete(w.key[:])
	})
	switch {
	case err == nil && !nothing:
		s.count.writes.Add(1)
	case err != nil && !w.instead:
		s.trouble.report(writing, err)
	}
	return err
}
