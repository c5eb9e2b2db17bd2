package tlsstore

import "time"

// sessionsEvery is how often the sessions of a scope are written to the KV for new ones' sake. Whoever sends or
// receives much would have them written with each connection, which is as large a write as any. In between the front
// knows what is new; after a restart an older session is offered, which is as good.
const sessionsEvery = 5 * time.Second

// A change says what becomes of a record.
type change int

const (
	unchanged change = iota
	remembered
	written // and remembered
)

// change has f make a scope's record anew: of the one that is there, however old, or nil for none; nil deletes it. It
// holds no lock meanwhile that others wait for. Where another connection was faster, f is called again.
func (c *SessionCache) change(f func(old []byte) (value []byte, what change)) {
	for {
		old := c.store.peek(c.key)
		value, what := f(old)
		if what == unchanged || c.store.swap(c.key, old, value, what == written) {
			return
		}
	}
}

// stampOf is the time to make a record with that takes the place of another and is not written: that of the other.
func stampOf(old []byte, now time.Time) time.Time {
	if at := writtenOf(old); !at.After(now) {
		return at
	}
	return now
}

// peek returns the record that update would change.
func (s *Store) peek(key recordKey) []byte {
	now := s.now()
	sh := s.front.shard(key)
	sh.mu.Lock()
	defer sh.mu.Unlock()
	return s.latest(sh, key, now)
}

// latest is called with the shard's lock held.
func (s *Store) latest(sh *shard, key recordKey, now time.Time) []byte {
	value, known := sh.find(key, now)
	if !known {
		value, _ = s.writes.find(key)
	}
	return value
}

// swap puts a record in the place of old, nil to delete it, and reports false where old is not the latest any more.
func (s *Store) swap(key recordKey, old, value []byte, write bool) bool {
	now := s.now()
	sh := s.front.shard(key)
	sh.mu.Lock()
	defer sh.mu.Unlock()
	if !sameRecord(s.latest(sh, key, now), old) {
		return false
	}
	sh.put(key, value, now)
	delete(sh.reads, key) // what it reads is outdated
	if write && !s.writes.add(key, value) {
		s.count.lost.Add(1)
	}
	return true
}

// sameRecord reports whether two are one: records never change.
func sameRecord(a, b []byte) bool {
	return len(a) == len(b) && (len(a) == 0 || &a[0] == &b[0])
}
