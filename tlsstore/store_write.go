package tlsstore

import (
	"sync"
	"time"
)

const (
	// Pending is how many writes may wait for the KV when Options do not say.
	Pending = 4096

	pendingOctets = 16 << 20 // and how many octets they may have
)

// writes are what waits to be written, in order and by key: the last value counts.
type writes struct {
	limit int
	wake  chan struct{} // holds a token when there may be something to do

	mu      sync.Mutex
	waiting map[recordKey]*write
	queue   []recordKey // of those that are not being written
	octets  int
	over    bool // nobody writes any more
}

// A write is what is to become of a key: a record, or nothing.
type write struct {
	value []byte
	busy  bool // is being written
	again bool // has changed since
}

func newWrites(limit int) *writes {
	return &writes{limit: limit, wake: make(chan struct{}, 1), waiting: make(map[recordKey]*write)}
}

func (w *writes) len() int {
	w.mu.Lock()
	defer w.mu.Unlock()
	return len(w.waiting)
}

// find returns the value that waits to be written, nil for a deletion, and whether one does.
func (w *writes) find(key recordKey) (value []byte, waits bool) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if e, ok := w.waiting[key]; ok {
		return e.value, true
	}
	return nil, false
}

// all returns every value that waits to be written, nil for deletions.
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
	return len(w.waiting)
}

// add takes a write, and reports false if it is one too many.
func (w *writes) add(key recordKey, value []byte) bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.over {
		return false
	}
	e, ok := w.waiting[key]
	before := 0
	if ok {
		before = len(e.value)
	}
	if grown := len(value) - before; grown > 0 && w.octets+grown > pendingOctets || !ok && len(w.waiting) >= w.limit {
		return false
	}
	w.octets += len(value) - before
	switch {
	case !ok:
		w.waiting[key] = &write{value: value}
		w.queue = append(w.queue, key)
	case e.busy:
		e.value, e.again = value, true
	default:
		e.value = value
	}
	select {
	case w.wake <- struct{}{}:
	default:
	}
	return true
}

// take returns what is to be written next. It stays findable until it is finished.
func (w *writes) take() (key recordKey, value []byte, ok bool) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if len(w.queue) == 0 {
		w.queue = nil // the array behind it has only grown
		return recordKey{}, nil, false
	}
	key = w.queue[0]
	w.queue = w.queue[1:]
	e := w.waiting[key]
	e.busy = true
	return key, e.value, true
}

// finish ends a write that was taken.
func (w *writes) finish(key recordKey) {
	w.mu.Lock()
	defer w.mu.Unlock()
	e := w.waiting[key]
	if e.again {
		e.busy, e.again = false, false
		w.queue = append(w.queue, key)
		return
	}
	w.octets -= len(e.value)
	delete(w.waiting, key)
}

// write is the writer: it writes until the Store is closed, and then what is left, but not for long.
func (s *Store) write() {
	for {
		select {
		case <-s.writes.wake:
			s.writeAll(s.closing)
		case <-s.closing:
			timeout := make(chan struct{})
			timer := time.AfterFunc(drainWait, func() { close(timeout) })
			defer timer.Stop()
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
		key, value, ok := s.writes.take()
		if !ok {
			return
		}
		s.writeOne(key, value)
		s.writes.finish(key)
	}
}

func (s *Store) writeOne(key recordKey, value []byte) {
	err := guard("writing", func() error {
		if value == nil {
			return s.kv.Delete(key[:])
		}
		left := expiresOf(value).Sub(s.now())
		if left <= 0 {
			return s.kv.Delete(key[:])
		}
		// Whole seconds, and one more: when exactly it is over is for the record to say.
		return s.kv.Set(key[:], value, left.Truncate(time.Second)+2*time.Second)
	})
	if err != nil {
		s.count.lost.Add(1)
		s.trouble.report(writing, err)
		return
	}
	s.count.writes.Add(1)
}
