package tlsstore

import (
	"encoding/binary"
	"errors"
)

const (
	sieveBits  = 1 << 20
	sweepBatch = 1 << 14 // keys that are deleted in one go
)

// A sieve holds any number of deletions in little memory, by taking some other keys with them: with as many as
// pendingDeletions in it, three in a hundred. Nil is an empty one.
type sieve struct {
	bits [sieveBits / 64]uint64
	n    int // keys that were added
}

func sievePlace(key recordKey) (word int, bit uint64) {
	at := binary.BigEndian.Uint32(key[2:]) % sieveBits // of the digest
	return int(at / 64), 1 << (at % 64)
}

func (s *sieve) add(key recordKey) {
	word, bit := sievePlace(key)
	s.bits[word] |= bit
	s.n++
}

// has reports whether a key was added, or one in the same place.
func (s *sieve) has(key recordKey) bool {
	if s == nil {
		return false
	}
	word, bit := sievePlace(key)
	return s.bits[word]&bit != 0
}

func (s *sieve) len() int {
	if s == nil {
		return 0
	}
	return s.n
}

func (s *sieve) merge(other *sieve) {
	for i, bits := range other.bits {
		s.bits[i] |= bits
	}
	s.n += other.n
}

// takeSieve returns the deletions that are to be seen to before anything else is written; nil for none. What they hide
// stays hidden until finishSieve.
func (w *writes) takeSieve() *sieve {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.sieve == nil || w.unswept {
		return nil
	}
	w.sweeping, w.sieve = w.sieve, nil
	return w.sweeping
}

// finishSieve ends what takeSieve began. If that failed it waits for retry.
func (w *writes) finishSieve(err error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if err != nil {
		if w.sieve != nil {
			w.sweeping.merge(w.sieve)
		}
		w.sieve, w.unswept = w.sweeping, true
	}
	w.sweeping = nil
}

var errStopped = errors.New("tlsstore: stopped")

// sweep deletes all keys in a sieve, until stop is closed. It is for the writer: nobody else may write meanwhile.
func (s *Store) sweep(full *sieve, stop <-chan struct{}) error {
	for {
		keys, err := s.sift(full, stop)
		for _, key := range keys {
			select {
			case <-stop:
				return errStopped
			default:
			}
			if err == nil {
				err = guard("deleting", func() error { return s.kv.Delete(key[:]) })
			}
			if err == nil {
				s.count.writes.Add(1)
			}
		}
		if err != nil {
			if !errors.Is(err, errStopped) {
				s.trouble.report(writing, err)
			}
			return err
		}
		if len(keys) < sweepBatch {
			return nil
		}
	}
}

// sift finds keys of a sieve in the KV, at most sweepBatch.
func (s *Store) sift(full *sieve, stop <-chan struct{}) (keys []recordKey, err error) {
	stopped := false
	err = guard("sweeping", func() error {
		return s.kv.Iterate(nil, func(k, _ []byte) bool {
			select {
			case <-stop:
				stopped = true
				return false
			default:
			}
			// Others have keys, too.
			if len(k) == keySize && kind(k[0]).life() > 0 && full.has(recordKey(k)) {
				keys = append(keys, recordKey(k))
			}
			return len(keys) < sweepBatch
		})
	})
	if stopped {
		return nil, errStopped
	}
	return keys, err
}
