package badgerkv

import (
	"errors"
	"fmt"
	"time"

	"github.com/dgraph-io/badger/v4"

	"slipstream/tlsstore"
)

var _ tlsstore.Batcher = (*KV)(nil)

// Apply makes several changes as one: with Options.Sync all are on the disk when it returns nil. After an error of the
// disk nobody knows whether all are there at the next start, or none.
func (k *KV) Apply(changes []tlsstore.Change) error {
	octets, grows := 0, false
	for _, c := range changes {
		switch {
		case len(c.Key) == 0, len(c.Key) > MaxKey, len(c.Value) > k.o.maxValue():
			return fmt.Errorf("%w: a key of %d octets (1 to %d), a value of %d (at most %d)",
				ErrSize, len(c.Key), MaxKey, len(c.Value), k.o.maxValue())
		case c.TTL != 0 && c.TTL < time.Second:
			return fmt.Errorf("badgerkv: a value cannot be kept for %v, a second is the least", c.TTL)
		}
		octets += len(c.Key) + len(c.Value)
		grows = grows || c.TTL > 0
	}
	if len(changes) == 0 {
		return nil
	}
	return k.write(octets, grows, func(txn *badger.Txn) error {
		for _, c := range changes {
			var err error
			if c.TTL > 0 {
				err = txn.SetEntry(newEntry(c.Key, c.Value, c.TTL))
			} else {
				err = txn.Delete(append([]byte{}, c.Key...))
			}
			if errors.Is(err, badger.ErrTxnTooBig) {
				return fmt.Errorf("%w: %d changes of %d octets at once", ErrSize, len(changes), octets)
			} else if err != nil {
				return err
			}
		}
		return nil
	})
}

// syncDir has the names of new files on the disk: Badger does not wait for that.
func (k *KV) syncDir() error {
	if err := k.lock.Sync(); err != nil {
		return fmt.Errorf("badgerkv: sync %s: %w", k.o.Dir, typed(err))
	}
	return nil
}
