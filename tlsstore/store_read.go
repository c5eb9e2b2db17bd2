package tlsstore

import (
	"errors"
	"time"
)

// A read is a look-up in the KV that is under way. Everybody who wants the same waits for the same.
type read struct {
	done  chan struct{}
	value []byte // once done: what was found, nil for nothing
}

// An ask is a read for one of the readers.
type ask struct {
	key  recordKey
	read *read
}

// get returns a record that is current, or nil.
func (s *Store) get(key recordKey) []byte {
	value := s.look(key)
	if value != nil && !current(value, s.now()) {
		s.expire(key)
		value = nil
	}
	if value == nil {
		s.count.misses.Add(1)
	} else {
		s.count.hits.Add(1)
	}
	return value
}

// expire deletes a record that is too old, unless another has taken its place.
func (s *Store) expire(key recordKey) {
	s.count.expired.Add(1)
	s.update(key, func(old []byte) ([]byte, bool) {
		return nil, old == nil || !current(old, s.now())
	})
}

// look returns what the front, what waits to be written or the KV has, in that order.
func (s *Store) look(key recordKey) []byte {
	now := s.now()
	sh := s.front.shard(key)
	sh.mu.Lock()
	if value, known := sh.find(key, now); known {
		sh.mu.Unlock()
		return value
	}
	if value, waits := s.writes.find(key); waits {
		sh.put(key, value, now)
		sh.mu.Unlock()
		return value
	}
	r, underway := sh.reads[key]
	if !underway {
		r = &read{done: make(chan struct{})}
		sh.reads[key] = r
	}
	sh.mu.Unlock()
	if s.quick {
		if !underway {
			s.fetch(ask{key, r})
		}
		<-r.done
		return r.value
	}
	return s.wait(ask{key, r}, !underway)
}

// wait has a read done, if that is to be begun, and waits for it; not long, and not at all while the KV is slow.
func (s *Store) wait(a ask, begin bool) []byte {
	if s.slow.Load() {
		if begin {
			select {
			case s.asks <- a:
			default:
				s.abandon(a)
			}
		}
		s.count.late.Add(1)
		return nil
	}
	timer := time.NewTimer(s.readWait)
	defer timer.Stop()
	if begin {
		select {
		case s.asks <- a:
		case <-s.closing:
			s.abandon(a)
			return nil
		case <-timer.C:
			s.abandon(a)
			s.tooSlow()
			return nil
		}
	}
	select {
	case <-a.read.done:
		return a.read.value
	case <-timer.C:
		s.tooSlow()
		return nil
	}
}

func (s *Store) tooSlow() {
	s.slow.Store(true)
	s.count.late.Add(1)
}

// abandon gives up a read that no reader has taken.
func (s *Store) abandon(a ask) {
	sh := s.front.shard(a.key)
	sh.mu.Lock()
	defer sh.mu.Unlock()
	if sh.reads[a.key] == a.read {
		delete(sh.reads, a.key)
	}
	close(a.read.done)
}

// answer is a reader: it reads for others until the Store is closed.
func (s *Store) answer() {
	for {
		select {
		case a := <-s.asks:
			begun := time.Now()
			s.fetch(a)
			if time.Since(begun) < s.readWait {
				s.slow.Store(false)
			}
		case <-s.closing:
			return
		}
	}
}

// fetch reads from the KV into the front. If the record was changed meanwhile the front knows better.
func (s *Store) fetch(a ask) {
	value, err := s.fromKV(a.key)
	now := s.now()
	sh := s.front.shard(a.key)
	sh.mu.Lock()
	defer sh.mu.Unlock()
	defer close(a.read.done)
	if sh.reads[a.key] != a.read {
		a.read.value, _ = sh.find(a.key, now)
		return
	}
	delete(sh.reads, a.key)
	switch {
	case errors.Is(err, errBroken):
		s.count.broken.Add(1)
		sh.put(a.key, nil, now)
		s.writes.add(a.key, nil)
	case err == nil:
		sh.put(a.key, value, now)
		a.read.value = value
	}
}

// fromKV returns a record that is whole, however old; nil for none; errBroken for one that is not; or why the KV
// failed.
func (s *Store) fromKV(key recordKey) ([]byte, error) {
	var value []byte
	err := guard("reading", func() (err error) {
		value, err = s.kv.Get(key[:])
		return err
	})
	switch {
	case err == nil:
		return value, check(key, value)
	case errors.Is(err, ErrNotFound):
		return nil, nil
	case !errors.Is(err, ErrClosed):
		s.trouble.report(reading, err)
	}
	return nil, err
}
