package badgerkv

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"time"

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
// hour, and when [KV.Outgrown] says so; a second call while one is under way does nothing. Over MaxSize, it drops the
// largest records, the oldest of those of about one size, and has Badger rewrite its tables, which takes seconds and as
// much of the disk again; where that does not help, it drops all. With Options.Sync it drops nothing. ErrFull says that the disk is too full to do
// anything.
//
// It also removes what was put aside (see [OpenAny]) once nothing in there can be of use any more.
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
	if removed, failed := removeAside(k.o.Dir, time.Now()); failed != nil {
		err = errors.Join(err, failed)
	} else if removed {
		logger{k.o.Log}.say("info", "%s%s was removed, since all that was in it is over", []any{k.o.Dir, aside})
	}
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

// asideLife is how long what was put aside is kept after it was last written to: the life of what lives longest.
const asideLife = 7 * 24 * time.Hour

// removeAside removes what was put aside, if that was not written to for asideLife, is ours, and nobody is at it.
func removeAside(dir string, now time.Time) (removed bool, err error) {
	dir = filepath.Clean(dir) + aside
	info, err := os.Lstat(dir)
	if err != nil || !info.IsDir() {
		return false, nil // mostly there is none
	}
	if _, err := list(dir); err != nil {
		return false, nil // not ours, or not now
	}
	last, err := lastWritten(dir)
	if err != nil {
		return false, nil
	}
	if info.ModTime().After(last) {
		last = info.ModTime()
	}
	if now.Sub(last) < asideLife {
		return false, nil
	}
	lock, err := lockDir(dir)
	if err != nil {
		return false, nil
	}
	defer lock.Close()
	if err := os.RemoveAll(dir); err != nil {
		return false, fmt.Errorf("badgerkv: remove what was put aside: %w", err)
	}
	return true, nil
}

// lastWritten returns when any file of a directory was. When it was looked at shows in the directory alone.
func lastWritten(dir string) (last time.Time, err error) {
	entries, err := os.ReadDir(dir)
	for _, e := range entries {
		if info, err := e.Info(); err == nil && info.ModTime().After(last) {
			last = info.ModTime()
		}
	}
	return last, err
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
	if k.Size() <= k.o.MaxSize || k.o.Sync {
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
