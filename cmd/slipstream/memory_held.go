package main

import (
	"context"
	"errors"
	"sync"
	"sync/atomic"
	"time"

	"slipstream/tlsstore"
	"slipstream/tlsstore/badgerkv"
)

const (
	// heldLife is how long the disk keeps what was taken along: the life of what lives longest. A record knows its own
	// time, too.
	heldLife = 7 * 24 * time.Hour
	// maxForgotten is how many deletions are remembered for the disk. Of more, some come back with it: hints that will
	// be found wrong once more.
	maxForgotten = 10_000
)

// A heldKV is in memory until there is a disk.
type heldKV struct {
	disk atomic.Pointer[tlsstore.KV] // nil: there is none yet

	mu        sync.RWMutex // held for reading while memory is changed, for writing while disk takes its place
	memory    tlsstore.KV
	forgotten map[string]struct{} // what was deleted from memory, and may be on disk
	forget    sync.Mutex          // held for forgotten, after mu
	closed    bool
}

func newHeldKV() *heldKV {
	return &heldKV{memory: tlsstore.Memory(), forgotten: make(map[string]struct{})}
}

// Stored tells whether there is a disk.
func (h *heldKV) Stored() bool { return h.disk.Load() != nil }

// in calls f with what is in use, which memory does not cease to be meanwhile.
func (h *heldKV) in(f func(kv tlsstore.KV, disk bool) error) error {
	if kv := h.disk.Load(); kv != nil {
		return f(*kv, true)
	}
	h.mu.RLock()
	defer h.mu.RUnlock()
	if kv := h.disk.Load(); kv != nil {
		return f(*kv, true)
	}
	return f(h.memory, false)
}

// Get implements [tlsstore.KV].
func (h *heldKV) Get(key []byte) (value []byte, err error) {
	err = h.in(func(kv tlsstore.KV, _ bool) error {
		value, err = kv.Get(key)
		return err
	})
	return value, err
}

// Set implements [tlsstore.KV].
func (h *heldKV) Set(key, value []byte, ttl time.Duration) error {
	return h.in(func(kv tlsstore.KV, disk bool) error {
		if !disk {
			h.forget.Lock()
			delete(h.forgotten, string(key))
			h.forget.Unlock()
		}
		return kv.Set(key, value, ttl)
	})
}

// Delete implements [tlsstore.KV].
func (h *heldKV) Delete(key []byte) error {
	return h.in(func(kv tlsstore.KV, disk bool) error {
		if !disk {
			h.forget.Lock()
			if len(h.forgotten) < maxForgotten {
				h.forgotten[string(key)] = struct{}{}
			}
			h.forget.Unlock()
		}
		return kv.Delete(key)
	})
}

// Iterate implements [tlsstore.KV]. f may call the other methods, so nothing is held for it.
func (h *heldKV) Iterate(prefix []byte, f func(key, value []byte) bool) error {
	if kv := h.disk.Load(); kv != nil {
		return (*kv).Iterate(prefix, f)
	}
	return h.memory.Iterate(prefix, f)
}

// Close implements [tlsstore.KV].
func (h *heldKV) Close() error {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.closed = true
	if kv := h.disk.Load(); kv != nil {
		return (*kv).Close()
	}
	return h.memory.Close()
}

// Move has a disk take the place of memory, with all that memory has, and says how many records that are. The disk
// belongs to h from now on, whatever the error: it says what was not taken along.
func (h *heldKV) Move(disk tlsstore.KV) (taken int, err error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.closed || h.disk.Load() != nil {
		return 0, disk.Close()
	}
	for key := range h.forgotten {
		if failed := disk.Delete([]byte(key)); failed != nil {
			err = failed
			break // nor would the others go
		}
	}
	var full error
	read := h.memory.Iterate(nil, func(key, value []byte) bool {
		if full = disk.Set(key, value, heldLife); full == nil {
			taken++
		}
		return full == nil
	})
	h.disk.Store(&disk)
	h.forgotten = nil
	return taken, errors.Join(err, full, read, h.memory.Close())
}

// Maintain looks after the disk, if there is one that wants it.
func (h *heldKV) Maintain(ctx context.Context) (badgerkv.Stats, error) {
	if kv := h.disk.Load(); kv != nil {
		if disk, ok := (*kv).(maintainer); ok {
			return disk.Maintain(ctx)
		}
	}
	return badgerkv.Stats{}, nil
}
