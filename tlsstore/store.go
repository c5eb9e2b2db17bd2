package tlsstore

import (
	"errors"
	"fmt"
	"sync"
	"sync/atomic"
	"time"
)

const (
	// ReadWait is how long a look-up waits for the KV before it is a miss. What was read later is there for the next
	// one. After a look-up that waited in vain the others do not wait at all, until the KV has answered in time again.
	ReadWait = 5 * time.Millisecond
	// CloseWait is how long Close waits for what is to be written, and for the KV to close.
	CloseWait = 10 * time.Second

	drainWait    = 3 * time.Second // of CloseWait, for what is to be written
	readers      = 4               // reads of the KV at once
	troubleEvery = time.Minute     // Trouble hears no more often of reads, and of writes
)

// Options are for [New]. The zero value is good.
type Options struct {
	// Now is the clock by which records age, for several goroutines to look at; nil is time.Now.
	Now func() time.Time
	// FrontOctets is how much memory the front may take; 0 is FrontOctets, the constant.
	FrontOctets int
	// Pending is how many records may wait for the KV; 0 is the constant of that name. What comes on top is lost. What
	// is forgotten waits besides, and is not.
	Pending int
	// SessionLife12 is how long a TLS 1.2 session may be resumed after its full handshake; 0 is SessionLife12, the
	// constant.
	SessionLife12 time.Duration
	// Trouble is told of reads and writes that failed, at most once a minute of each. It is for a log: nothing has to
	// be done, and mail goes on without what was lost. It must not call the Store. Nil: nobody is told.
	Trouble func(error)
}

// A Store remembers what was learned about peers. Its methods may be called from several goroutines. They never wait
// for a disk: a look-up is answered from memory, or after at most [ReadWait] from the KV, or not at all, and what is to
// be written is written by a goroutine of the Store's own.
type Store struct {
	now      func() time.Time
	kv       KV
	quick    bool // reading kv never waits
	readWait time.Duration
	life12   time.Duration
	front    *front
	writes   *writes
	asks     chan ask
	slow     atomic.Bool // the last wait for the KV was in vain
	count    counters
	trouble  trouble

	closing  chan struct{}
	running  sync.WaitGroup
	close    sync.Once
	closed   chan struct{}
	closeErr error // once closed is
}

// counters are what Stats tells.
type counters struct {
	hits, misses, late, broken, expired, writes, lost atomic.Uint64
}

// Stats say how a Store has done since it was made, and what it holds now.
type Stats struct {
	Hits    uint64 // look-ups that found something
	Misses  uint64 // look-ups that did not
	Late    uint64 // of the misses: the KV did not answer in time
	Broken  uint64 // records that were damaged or of another version
	Expired uint64 // records and TLS sessions thrown away for their age
	Writes  uint64 // records written or deleted
	Lost    uint64 // records that should have been: failed, or too many waited; deletions only at the end
	Pending int    // records and deletions that wait
	Entries int    // entries of the front
	Octets  int    // memory that the front takes, about
}

// New returns a Store over a KV, which belongs to it from now on. It is to be closed.
func New(kv KV, o Options) *Store {
	if o.Now == nil {
		o.Now = time.Now
	}
	if o.FrontOctets <= 0 {
		o.FrontOctets = FrontOctets
	}
	if o.Pending <= 0 {
		o.Pending = Pending
	}
	if o.SessionLife12 <= 0 {
		o.SessionLife12 = SessionLife12
	}
	_, quick := kv.(interface{ quick() })
	s := &Store{
		now:      o.Now,
		kv:       kv,
		quick:    quick,
		readWait: ReadWait,
		life12:   min(o.SessionLife12, SessionLife13),
		front:    newFront(o.FrontOctets),
		writes:   newWrites(o.Pending),
		asks:     make(chan ask),
		trouble:  trouble{now: o.Now, tell: o.Trouble},
		closing:  make(chan struct{}),
		closed:   make(chan struct{}),
	}
	s.running.Go(s.write)
	for range readers {
		s.running.Go(s.answer)
	}
	return s
}

// Close writes what waits to be written and closes the KV. It waits no longer than [CloseWait]; the error says what was
// not done by then. The Store may still be asked afterwards, and remembers nothing new.
func (s *Store) Close() error {
	s.close.Do(func() {
		close(s.closing)
		go func() {
			defer close(s.closed)
			s.running.Wait()
			s.closeErr = guard("closing", s.kv.Close)
		}()
	})
	timer := time.NewTimer(CloseWait)
	defer timer.Stop()
	select {
	case <-s.closed:
		return s.closeErr
	case <-timer.C:
		return fmt.Errorf("tlsstore: closing took longer than %v, the disk does not answer; %d records were lost",
			CloseWait, s.writes.len())
	}
}

// Stats returns how the Store has done.
func (s *Store) Stats() Stats {
	entries, octets := s.front.size()
	return Stats{
		Hits:    s.count.hits.Load(),
		Misses:  s.count.misses.Load(),
		Late:    s.count.late.Load(),
		Broken:  s.count.broken.Load(),
		Expired: s.count.expired.Load(),
		Writes:  s.count.writes.Load(),
		Lost:    s.count.lost.Load(),
		Pending: s.writes.len(),
		Entries: entries,
		Octets:  octets,
	}
}

// set keeps a sealed record.
func (s *Store) set(key recordKey, value []byte) {
	s.update(key, func([]byte) ([]byte, bool) { return value, true })
}

// forget deletes a record.
func (s *Store) forget(key recordKey) { s.set(key, nil) }

// update changes a record in one step: f is given the one that is there, however old, nil for none, and returns the one
// that takes its place, nil to delete it, and whether anything is to change at all. A record that is only in the KV
// does not count: what is to be updated was looked up just before, and if the KV was late then, what is new is worth
// more than what is old.
func (s *Store) update(key recordKey, f func(old []byte) ([]byte, bool)) {
	now := s.now()
	sh := s.front.shard(key)
	sh.mu.Lock()
	defer sh.mu.Unlock()
	old, known := sh.find(key, now)
	if !known {
		old, _ = s.writes.find(key)
	}
	value, change := f(old)
	if !change {
		return
	}
	sh.put(key, value, now)
	delete(sh.reads, key) // what it reads is outdated
	if !s.writes.add(key, value) {
		s.count.lost.Add(1)
	}
}

// A trouble tells of failures, not too often.
type trouble struct {
	now  func() time.Time
	tell func(error)

	mu   sync.Mutex
	last [2]time.Time // by doing
	kept [2]int       // failures that nobody was told of
}

// What a Store was doing when it failed.
type doing int

const (
	reading doing = iota
	writing
)

func (d doing) String() string {
	if d == writing {
		return "writing"
	}
	return "reading"
}

func (t *trouble) report(d doing, err error) {
	if t.tell == nil {
		return
	}
	now := t.now()
	t.mu.Lock()
	if since := now.Sub(t.last[d]); !t.last[d].IsZero() && since >= 0 && since < troubleEvery {
		t.kept[d]++
		t.mu.Unlock()
		return
	}
	kept := t.kept[d]
	t.last[d], t.kept[d] = now, 0
	t.mu.Unlock()
	if kept > 0 {
		err = fmt.Errorf("%w (and %d failures before)", err, kept)
	}
	t.tell(fmt.Errorf("tlsstore: %v what was learned about peers failed, mail goes on without it: %w", d, err))
}

// errPanic wraps what a KV said in panic.
var errPanic = errors.New("the store panicked")

// guard calls into the KV. A KV that panics has failed, and nothing else has.
func guard(what string, f func() error) (err error) {
	defer func() {
		if r := recover(); r != nil {
			err = fmt.Errorf("%s: %w: %v", what, errPanic, r)
		}
	}()
	return f()
}
