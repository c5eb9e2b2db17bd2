package tlsstore

import (
	"container/list"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"time"
)

const (
	// MemoryOctets bounds what one Memory holds: keys, values and what it takes to find them. The oldest go first.
	MemoryOctets = 64 << 20
	// MaxValue is the largest value that Memory takes, in octets.
	MaxValue = 1 << 20
	// MaxKey is the longest key that Memory takes, in octets.
	MaxKey = 1 << 10

	memoryOverhead = 160 // octets that an entry takes besides its key and its value: map, list, time
)

// Why Memory refuses.
var (
	// ErrClosed is returned by everything but Close once a KV was closed.
	ErrClosed   = errors.New("tlsstore: closed")
	errEmptyKey = errors.New("tlsstore: a key must not be empty")
)

// memory is a KV without a disk.
type memory struct {
	now   func() time.Time
	limit int // octets

	mu      sync.Mutex
	closed  bool
	entries map[string]*list.Element
	oldest  *list.List // of *memoryEntry: what was written longest ago is in front
	octets  int
}

type memoryEntry struct {
	key     string
	value   []byte
	expires time.Time
}

func (e *memoryEntry) size() int { return len(e.key) + len(e.value) + memoryOverhead }

// Memory returns a KV that keeps everything in memory, at most [MemoryOctets] of it, and forgets it with the process:
// the store of those who have no disk to spare, and what takes the place of one that cannot be opened.
func Memory() KV { return MemoryAt(nil) }

// MemoryAt is [Memory] by another clock; nil is time.Now.
func MemoryAt(now func() time.Time) KV { return newMemory(now, MemoryOctets) }

func newMemory(now func() time.Time, limit int) *memory {
	if now == nil {
		now = time.Now
	}
	return &memory{now: now, limit: limit, entries: make(map[string]*list.Element), oldest: list.New()}
}

func (m *memory) Get(key []byte) ([]byte, error) {
	if len(key) == 0 {
		return nil, errEmptyKey
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.closed {
		return nil, ErrClosed
	}
	el, ok := m.entries[string(key)]
	if !ok {
		return nil, ErrNotFound
	}
	e := el.Value.(*memoryEntry)
	if !m.now().Before(e.expires) {
		m.remove(el)
		return nil, ErrNotFound
	}
	return append([]byte{}, e.value...), nil
}

func (m *memory) Set(key, value []byte, ttl time.Duration) error {
	if err := m.mayKeep(key, value, ttl); err != nil {
		return err
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.closed {
		return ErrClosed
	}
	m.set(key, value, ttl)
	return nil
}

func (m *memory) mayKeep(key, value []byte, ttl time.Duration) error {
	switch {
	case len(key) == 0:
		return errEmptyKey
	case len(key) > MaxKey:
		return fmt.Errorf("tlsstore: a key of %d octets is too long, %d are allowed", len(key), MaxKey)
	case len(value) > MaxValue:
		return fmt.Errorf("tlsstore: a value of %d octets is too large, %d are allowed", len(value), MaxValue)
	case ttl < time.Second:
		return fmt.Errorf("tlsstore: a value cannot be kept for %v, a second is the least", ttl)
	}
	return nil
}

// set is called with the lock held.
func (m *memory) set(key, value []byte, ttl time.Duration) {
	if el, ok := m.entries[string(key)]; ok {
		m.remove(el)
	}
	e := &memoryEntry{key: string(key), value: append([]byte{}, value...), expires: m.now().Add(ttl)}
	m.entries[e.key] = m.oldest.PushBack(e)
	for m.octets += e.size(); m.octets > m.limit; {
		m.remove(m.oldest.Front())
	}
}

// Apply implements [Batcher].
func (m *memory) Apply(changes []Change) error {
	for _, c := range changes {
		if c.TTL == 0 && len(c.Key) > 0 {
			continue
		}
		if err := m.mayKeep(c.Key, c.Value, c.TTL); err != nil {
			return err
		}
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.closed {
		return ErrClosed
	}
	for _, c := range changes {
		if c.TTL > 0 {
			m.set(c.Key, c.Value, c.TTL)
		} else if el, ok := m.entries[string(c.Key)]; ok {
			m.remove(el)
		}
	}
	return nil
}

func (m *memory) Delete(key []byte) error {
	if len(key) == 0 {
		return errEmptyKey
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.closed {
		return ErrClosed
	}
	if el, ok := m.entries[string(key)]; ok {
		m.remove(el)
	}
	return nil
}

// remove forgets an entry. It is called with the lock held.
func (m *memory) remove(el *list.Element) {
	e := m.oldest.Remove(el).(*memoryEntry)
	delete(m.entries, e.key)
	m.octets -= e.size()
}

// Iterate shows f what was there when it began; f may call the other methods.
func (m *memory) Iterate(prefix []byte, f func(key, value []byte) bool) error {
	found, err := m.snapshot(string(prefix))
	if err != nil {
		return err
	}
	slices.SortFunc(found, func(a, b *memoryEntry) int { return strings.Compare(a.key, b.key) })
	for _, e := range found {
		if !f([]byte(e.key), append([]byte{}, e.value...)) {
			break
		}
	}
	return nil
}

// snapshot returns what has the prefix and is not over. Entries never change, so they may be read without the lock.
func (m *memory) snapshot(prefix string) ([]*memoryEntry, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.closed {
		return nil, ErrClosed
	}
	var found []*memoryEntry
	now := m.now()
	for key, el := range m.entries {
		if e := el.Value.(*memoryEntry); strings.HasPrefix(key, prefix) && now.Before(e.expires) {
			found = append(found, e)
		}
	}
	return found, nil
}

// Close forgets everything. A second one is no error.
func (m *memory) Close() error {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.closed = true
	m.entries, m.oldest, m.octets = nil, list.New(), 0
	return nil
}

// quick says that a read never waits, see [Store].
func (m *memory) quick() {}
