package badgerkv

import (
	"context"
	"errors"
	"fmt"

	"github.com/dgraph-io/badger/v4"
)

// Stats say how the store fares.
type Stats struct {
	Size    int64 // octets on disk
	Free    int64 // octets on the disk that nobody has taken
	Dropped int   // records that were dropped this time because the store was too large
	Emptied bool  // all were dropped, since dropping some did not help
}

// Maintain keeps the store within its size, and its files closed to others. It is to be called now and then, say every
// hour; a second call while one is under way does nothing. Over MaxSize, it drops the records whose time is over
// soonest, and has Badger rewrite its tables, which takes seconds and as much of the disk again; where that does not
// help, it drops all. ErrFull says that the disk is too full to do anything.
//
// Badger's value log needs no care, since there is none: see MaxValue.
func (k *KV) Maintain(ctx context.Context) (Stats, error) {
	if !k.maintaining.TryLock() {
		return Stats{Size: k.Size()}, nil
	}
	defer k.maintaining.Unlock()
	var s Stats
	err := k.use(func(*badger.DB) (err error) {
		s.Free, err = diskFree(k.o.Dir)
		return errors.Join(err, k.lookAtDisk(Reserve), k.chmod())
	})
	s.Size = k.Size()
	if err != nil {
		return s, fmt.Errorf("badgerkv: maintain: %w", err)
	}
	if s.Size <= k.o.MaxSize {
		return s, nil
	}
	err = k.shrink(ctx, &s)
	s.Size = k.Size()
	k.room.lookAgain()
	if err != nil {
		return s, fmt.Errorf("badgerkv: maintain: %w", err)
	}
	return s, nil
}

// shrink makes the store smaller than MaxSize.
func (k *KV) shrink(ctx context.Context, s *Stats) error {
	if err := k.trim(ctx, s); err != nil {
		return err
	}
	// Deletions take effect on disk once they are in a table, and tables are joined.
	if err := k.reopen(); err != nil {
		return err
	}
	if err := ctx.Err(); err != nil {
		return err
	}
	if err := k.use(func(db *badger.DB) error { return db.Flatten(1) }); err != nil {
		return fmt.Errorf("join tables: %w", err)
	}
	if k.Size() <= k.o.MaxSize {
		return nil
	}
	s.Emptied = true
	return k.exclusive(func() error { return k.db.DropAll() })
}

// reopen has Badger write what is in memory to a table, and join that with others. It does the latter while closing,
// but not for Flatten, when there are no older tables yet.
func (k *KV) reopen() error {
	return k.exclusive(func() error {
		opt := badgerOptions(k.o)
		for _, opt.CompactL0OnClose = range []bool{true, false} {
			err := k.db.Close()
			if err == nil {
				k.db, err = badger.Open(opt)
			}
			if err != nil {
				k.fail(err) // and keep the directory: what is left of Badger may still write to it
				return err
			}
		}
		return nil
	})
}

// exclusive calls f while nobody else uses the database, which f may replace.
func (k *KV) exclusive(f func() error) error {
	k.mu.Lock()
	defer k.mu.Unlock()
	return k.guard(f)
}
