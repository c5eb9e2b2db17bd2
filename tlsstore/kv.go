// Package tlsstore keeps what was learned about peers: their EHLO sets, their TLS sessions and their quirks; and it
// makes the tickets that let clients resume sessions with us.
//
// All of it is a hint. A record that is missing, old, torn or unreadable is a miss and nothing else, reading never
// waits for a disk, and a store that cannot be opened is replaced by one in memory.
package tlsstore

import (
	"errors"
	"time"
)

// ErrNotFound is returned by KV.Get where there is nothing, or nothing any more.
var ErrNotFound = errors.New("tlsstore: not found")

// KV is where records lie. Its methods may be called from several goroutines. A write may be lost in a crash, but what
// is read was written whole.
type KV interface {
	// Get returns a copy of the value; ErrNotFound where there is none or its time is over.
	Get(key []byte) ([]byte, error)
	// Set keeps a value for a time, which is at least a second.
	Set(key, value []byte, ttl time.Duration) error
	// Delete is no error where there is nothing.
	Delete(key []byte) error
	// Iterate calls f for all keys with a prefix, in order, until it returns false. f may keep neither.
	Iterate(prefix []byte, f func(key, value []byte) bool) error
	Close() error
}

// What every Batcher takes at once. Of more it may refuse all, with an error.
const (
	BatchChanges = 256
	BatchOctets  = 64 << 10 // of keys and values
)

// A Change is one of several writes: a value that is to be kept for a time, at least a second; or a key that is to be
// deleted, with no time.
type Change struct {
	Key, Value []byte
	TTL        time.Duration
}

// A Batcher is a KV that takes several changes as one: all are made, or none and there is an error. Of a crash, too,
// nobody sees a part. Of changes to one key the last counts.
type Batcher interface {
	KV
	Apply(changes []Change) error
}
