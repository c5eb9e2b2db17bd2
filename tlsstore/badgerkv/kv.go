// Package badgerkv keeps records on disk, in Badger, sealed with a key. It is the only package that knows of Badger.
//
// What it keeps is a cache, and must never stand in the way of what it is a cache for: [OpenAny] always returns a KV,
// and nothing on the disk makes Badger end the process, as it would when left alone with damaged files or a full disk.
// For what must not be lost there are [Open] and Options.Sync.
package badgerkv

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"runtime/debug"
	"sync"
	"sync/atomic"
	"time"

	"github.com/dgraph-io/badger/v4"

	"slipstream/tlsstore"
)

const (
	// closeWait is how long Badger may take to close, which is less than a Store waits.
	closeWait = tlsstore.CloseWait * 4 / 5
	// openRoom is how much of the disk must be free for Badger to open: less than for writing, so that a store that
	// filled the disk up to Reserve can be opened again.
	openRoom = Reserve / 2
	// closeRoom is how much of the disk must be free for Badger to close: it writes what is in memory.
	closeRoom = 4 * memTable

	// One step of Iterate takes as many records, or octets.
	stepRecords = 500
	stepOctets  = 256 << 10
)

var _ tlsstore.KV = (*KV)(nil)

// A KV is a [tlsstore.KV] in a directory. Its methods may be called from several goroutines.
type KV struct {
	o    Options
	lock *os.File // of the directory

	mu     sync.RWMutex // held for reading while db is in use, for writing while it is replaced
	db     *badger.DB   // nil once closed
	broken atomic.Bool  // Badger broke down, and may hold locks of its own: do not touch it any more

	// writing lets through one writer at a time: should Badger have failed to make a new write-ahead log, the next
	// write that it sees ends the process.
	writing  sync.Mutex
	room     room
	outgrown chan struct{} // holds a token
	resident resident

	maintaining sync.Mutex
	closing     sync.Once
}

// Open opens the directory, or makes it. It takes the directory for this process, looks at every octet of what is
// there, which takes as long as to read it, and refuses what Badger would choke on. The error is one of ErrLocked,
// ErrKey, ErrCorrupt, ErrReadOnly, ErrDenied, ErrFull, ErrForeign and ErrUnsupported, or of the system.
func Open(o Options) (*KV, error) {
	if o.Dir == "" || len(o.Key) != keyOctets {
		return nil, fmt.Errorf("badgerkv: a directory and a key of %d octets are needed, not %q and %d octets",
			keyOctets, o.Dir, len(o.Key))
	}
	if o.MaxSize <= 0 {
		o.MaxSize = DefaultMaxSize
	}
	o.MaxSize = max(o.MaxSize, MinSize)
	o.Key = bytes.Clone(o.Key)
	k := &KV{o: o, outgrown: make(chan struct{}, 1)}
	if err := guarded(k.open); err != nil {
		if k.lock != nil {
			k.lock.Close()
		}
		return nil, err
	}
	return k, nil
}

func (k *KV) open() error {
	dir := k.o.Dir
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return typed(err)
	}
	var err error
	if k.lock, err = lockDir(dir); err != nil {
		return err
	}
	found, err := list(dir)
	if err != nil {
		return err
	}
	if err := allOurs(dir); err != nil {
		return err
	}
	if err := k.lookAtDisk(openRoom); err != nil {
		return err
	}
	if err := claim(dir); err != nil {
		return err
	}
	if err := check(k.o, found); err != nil {
		return err
	}
	if k.db, err = badger.Open(badgerOptions(k.o)); err != nil {
		return openError(err)
	}
	if err := k.chmod(); err != nil {
		return errors.Join(err, k.db.Close())
	}
	return nil
}

// claim closes the directory to others, and makes sure that it can be written to.
func claim(dir string) error {
	info, err := os.Stat(dir)
	if err == nil && info.Mode().Perm() != 0o700 {
		err = os.Chmod(dir, 0o700)
	}
	if err != nil {
		return typed(err)
	}
	f, err := os.CreateTemp(dir, probePrefix+"*")
	if err != nil {
		return typed(err)
	}
	return typed(errors.Join(f.Close(), os.Remove(f.Name())))
}

// chmod closes Badger's files to others. It makes them as the process's umask says, in a directory that is closed.
func (k *KV) chmod() error {
	entries, err := os.ReadDir(k.o.Dir)
	if err != nil {
		return typed(err)
	}
	for _, e := range entries {
		info, err := e.Info()
		if err != nil || !info.Mode().IsRegular() || info.Mode().Perm() == 0o600 {
			continue // or removed meanwhile
		}
		err = os.Chmod(filepath.Join(k.o.Dir, e.Name()), 0o600)
		if err != nil && !errors.Is(err, os.ErrNotExist) {
			return typed(err)
		}
	}
	return nil
}

// errPanicked is among the errors that guarded makes.
var errPanicked = errors.New("panic")

// guarded calls f, and makes an error of a panic, and of a fault in one of Badger's memory maps, which is what a
// failing or full disk amounts to.
func guarded(f func() error) (err error) {
	defer debug.SetPanicOnFault(debug.SetPanicOnFault(true))
	defer func() {
		if r := recover(); r != nil {
			err = fmt.Errorf("%w: %w: %s", ErrCorrupt, errPanicked, oneLine(fmt.Sprint(r)))
		}
	}()
	return f()
}

// use calls f with the database, and sees to it that what f read does not stay in memory for good.
func (k *KV) use(f func(*badger.DB) error) error {
	err := k.hold(f)
	k.limitResident()
	return err
}

// hold calls f with the database, which is not closed meanwhile.
func (k *KV) hold(f func(*badger.DB) error) error {
	k.mu.RLock()
	defer k.mu.RUnlock()
	return k.guard(func() error { return f(k.db) })
}

// guard calls f when there is a database. It is called with the lock held.
func (k *KV) guard(f func() error) error {
	switch {
	case k.db == nil:
		return tlsstore.ErrClosed
	case k.broken.Load():
		return errBroken
	}
	err := guarded(f)
	if errors.Is(err, errPanicked) {
		k.fail(err)
	}
	return err
}

var errBroken = fmt.Errorf("%w: it broke down before, and is looked at anew at the next start", ErrCorrupt)

// fail gives Badger up.
func (k *KV) fail(err error) {
	if !k.broken.Swap(true) {
		logger{k.o.Log}.Errorf("the store on disk broke down and is not used any more: %v", err)
	}
}

// Get returns a copy of a value.
func (k *KV) Get(key []byte) ([]byte, error) {
	if len(key) == 0 {
		return nil, fmt.Errorf("%w: no key", ErrSize)
	}
	value := []byte{}
	err := k.use(func(db *badger.DB) error {
		return db.View(func(txn *badger.Txn) error {
			item, err := txn.Get(key)
			if err == nil {
				value, err = item.ValueCopy(value)
			}
			return err
		})
	})
	if errors.Is(err, badger.ErrKeyNotFound) {
		return nil, tlsstore.ErrNotFound
	} else if err != nil {
		return nil, fmt.Errorf("badgerkv: get: %w", err)
	}
	return value, nil
}

// Set keeps a value for a time, rounded up to whole seconds by the wall clock. What was set is there after the process
// was killed; a loss of power may take it, unless Options.Sync says otherwise.
func (k *KV) Set(key, value []byte, ttl time.Duration) error {
	switch {
	case len(key) == 0, len(key) > MaxKey, len(value) > k.o.maxValue():
		return fmt.Errorf("%w: a key of %d octets (1 to %d), a value of %d (at most %d)",
			ErrSize, len(key), MaxKey, len(value), k.o.maxValue())
	case ttl < time.Second:
		return fmt.Errorf("badgerkv: a value cannot be kept for %v, a second is the least", ttl)
	}
	e := newEntry(key, value, ttl)
	return k.write(len(key)+len(value), true, func(txn *badger.Txn) error { return txn.SetEntry(e) })
}

// newEntry has a copy of both.
func newEntry(key, value []byte, ttl time.Duration) *badger.Entry {
	e := badger.NewEntry(append([]byte{}, key...), append([]byte{}, value...))
	e.ExpiresAt = uint64(time.Now().Add(ttl + time.Second - 1).Unix())
	return e
}

// Delete removes what is there, if anything.
func (k *KV) Delete(key []byte) error {
	if len(key) == 0 || len(key) > MaxKey {
		return fmt.Errorf("%w: a key of %d octets (1 to %d)", ErrSize, len(key), MaxKey)
	}
	key = append([]byte{}, key...)
	return k.write(len(key), false, func(txn *badger.Txn) error { return txn.Delete(key) })
}

// write changes the database by n octets, when there is room for them.
func (k *KV) write(n int, grows bool, change func(*badger.Txn) error) error {
	k.writing.Lock()
	defer k.writing.Unlock()
	return k.use(func(db *badger.DB) error {
		if err := k.hasRoom(n, grows); err != nil {
			return err
		}
		txn := db.NewTransaction(true)
		defer txn.Discard()
		if err := change(txn); err != nil {
			return fmt.Errorf("badgerkv: %w", err) // a key that is Badger's own
		}
		if err := txn.Commit(); err != nil {
			k.fail(err)
			return fmt.Errorf("badgerkv: write: %w", typed(err))
		}
		if k.o.Sync {
			return k.syncDir()
		}
		return nil
	})
}

type record struct{ key, value []byte }

// Iterate calls f for all keys with a prefix, in order. It reads some at a time, so that f may take its time, and may
// call the other methods; what is changed meanwhile may be shown or not.
func (k *KV) Iterate(prefix []byte, f func(key, value []byte) bool) error {
	prefix = append([]byte{}, prefix...)
	for from := prefix; from != nil; {
		var step []record
		err := k.use(func(db *badger.DB) (err error) {
			step, from, err = readStep(db, prefix, from)
			return err
		})
		if err != nil {
			return fmt.Errorf("badgerkv: iterate: %w", err)
		}
		for _, r := range step {
			if !f(r.key, r.value) {
				return nil
			}
		}
	}
	return nil
}

// readStep reads some records, and returns where to go on; nil at the end.
func readStep(db *badger.DB, prefix, from []byte) (step []record, next []byte, err error) {
	err = db.View(func(txn *badger.Txn) error {
		opt := badger.DefaultIteratorOptions
		opt.Prefix = prefix
		opt.PrefetchValues = false // values are beside their keys
		it := txn.NewIterator(opt)
		defer it.Close()
		octets := 0
		for it.Seek(from); it.ValidForPrefix(prefix); it.Next() {
			r := record{key: it.Item().KeyCopy(nil)}
			if len(step) == stepRecords || octets >= stepOctets {
				next = r.key
				return nil
			}
			var err error
			if r.value, err = it.Item().ValueCopy(nil); err != nil {
				return err
			}
			octets += len(r.key) + len(r.value)
			step = append(step, r)
		}
		return nil
	})
	return step, next, err
}

// Close writes what is in memory and gives the directory back. Where the disk is too full for that, the directory was
// moved, or Badger broke down, all is left as a crash would leave it, and the directory stays locked until the process
// ends. A second Close does nothing.
func (k *KV) Close() error {
	var err error
	k.closing.Do(func() { err = k.close() })
	return err
}

func (k *KV) close() error {
	if err := k.lookAtDisk(closeRoom); err != nil {
		return k.leave(err)
	}
	done := make(chan error, 1)
	go func() {
		k.mu.Lock()
		defer k.mu.Unlock()
		if k.broken.Load() {
			done <- errBroken
			return
		}
		db := k.db
		k.db = nil
		err := guarded(db.Close)
		if err == nil {
			err = errors.Join(k.chmod(), k.lock.Close())
		}
		done <- err
	}()
	timer := time.NewTimer(closeWait)
	defer timer.Stop()
	select {
	case err := <-done:
		if err != nil {
			return fmt.Errorf("badgerkv: close: %w", err)
		}
		return nil
	case <-timer.C:
		return k.leave(ErrStuck)
	}
}

// leave stops using Badger without closing it.
func (k *KV) leave(why error) error {
	k.broken.Store(true)
	return fmt.Errorf("badgerkv: left as it is, to be looked through at the next start: %w", why)
}

// openError says why Badger did not open what check found good. Badger keeps the text of an error only.
func openError(err error) error {
	if environment(err) {
		return fmt.Errorf("badgerkv: open: %w", err)
	}
	return fmt.Errorf("%w: %s", ErrCorrupt, oneLine(err.Error()))
}
