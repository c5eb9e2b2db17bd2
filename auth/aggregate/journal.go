package aggregate

import (
	"context"
	"crypto/sha256"
	"encoding/binary"
	"encoding/json"
	"errors"
	"sync"
	"sync/atomic"
	"time"
)

// Bounds of a journal.
const (
	// DefaultMaxSize is what a journal may take on the disk where nothing else is said: half a million messages.
	DefaultMaxSize = 256 << 20

	// KeepDays is how many days are kept after their own, whether they were reported or not.
	KeepDays = 8

	queueLength = 4096             // records that wait to be written; more are dropped
	batchSize   = 256 << 10        // octets that are written at once
	syncEvery   = time.Second      // what a power failure may take
	openPause   = 5 * time.Second  // between attempts to open a file
	lostPause   = 30 * time.Second // between events that tell of lost records
)

// Options are those of a [Journal].
type Options struct {
	// Dir is the directory, which belongs to one journal at a time. It is made if it is missing.
	Dir string
	// MaxSize is what its days may take, in octets; 0: DefaultMaxSize. When it is reached the oldest day goes, and
	// when there is but one left, what comes is dropped.
	MaxSize int64
	// Observe is told of events and must not wait; nil: nobody is told.
	Observe func(Event)
}

// A Journal keeps records until the reports on their day were sent. Its methods may be called by many goroutines; those
// of a nil Journal do nothing.
type Journal struct {
	dir   *directory
	queue chan queued
	flush chan chan error
	stop  chan struct{}
	ended chan struct{}
	once  sync.Once

	written, dropped, lost, days atomic.Int64

	// Owned by run.
	observe observer
	batch   []byte
	held    int64 // records in batch
	day     Day   // of what is in batch
	dirty   bool
	untold  int64 // lost records of which no event has told
	toldAt  time.Time
}

// queued is a record on its way to the file. It is JSON already, so that nothing of a message is held by it.
type queued struct {
	day     Day
	key     uint64
	payload []byte
}

func newQueued(day Day, r Record) (queued, error) {
	payload, err := json.Marshal(r)
	if err == nil && len(payload) > maxPayload {
		err = errFrameTooLong
	}
	return queued{day, domainKey(r.Published.Domain), payload}, err
}

// Stats counts records since the journal was opened.
type Stats struct {
	Written int64 // they are in the file
	Dropped int64 // too many came at once
	Lost    int64 // the disk did not take them, or the journal was full
	Days    int64 // days removed to make room
	Octets  int64 // on the disk now
}

// Open opens the journal of a directory. The error says what to do.
func Open(o Options) (*Journal, error) {
	if o.MaxSize <= 0 {
		o.MaxSize = DefaultMaxSize
	}
	dir, err := openDirectory(o.Dir, o.MaxSize)
	if err != nil {
		return nil, err
	}
	j := &Journal{
		dir: dir, queue: make(chan queued, queueLength), flush: make(chan chan error), observe: o.Observe,
		stop: make(chan struct{}), ended: make(chan struct{}),
	}
	j.removed(dir.prune(DayOf(time.Now()), 0))
	go j.run()
	return j, nil
}

// Add writes records down, at some later time. It does not wait: what there is no room for is dropped and counted.
func (j *Journal) Add(records ...Record) {
	if j == nil {
		return
	}
	day := DayOf(time.Now())
	for _, r := range records {
		q, err := newQueued(day, r)
		if err != nil {
			j.lost.Add(1)
			continue
		}
		select {
		case j.queue <- q:
		default:
			j.dropped.Add(1)
		}
	}
}

// Flush waits until everything is on the disk that was added before.
func (j *Journal) Flush(ctx context.Context) error {
	if j == nil {
		return nil
	}
	done := make(chan error, 1)
	select {
	case j.flush <- done:
	case <-j.ended:
		return errClosed
	case <-ctx.Done():
		return ctx.Err()
	}
	select {
	case err := <-done:
		return err
	case <-ctx.Done():
		return ctx.Err()
	}
}

var errClosed = errors.New("journal: closed")

// Close writes what was added, and gives the directory back. What is added meanwhile may be lost.
func (j *Journal) Close() error {
	if j == nil {
		return nil
	}
	j.once.Do(func() { close(j.stop) })
	<-j.ended
	return j.dir.close()
}

// Stats tells what became of the records.
func (j *Journal) Stats() Stats {
	if j == nil {
		return Stats{}
	}
	return Stats{
		Written: j.written.Load(), Dropped: j.dropped.Load(), Lost: j.lost.Load(), Days: j.days.Load(),
		Octets: j.dir.total.Load(),
	}
}

// run is the one goroutine that writes.
func (j *Journal) run() {
	defer close(j.ended)
	var sync <-chan time.Time
	for {
		select {
		case q := <-j.queue:
			j.take(q)
			j.drain()
			j.write()
			if j.dirty && sync == nil {
				sync = time.After(syncEvery)
			}
		case <-sync:
			sync = nil
			j.sync()
		case done := <-j.flush:
			j.drain()
			j.write()
			done <- j.sync()
		case <-j.stop:
			j.drain()
			j.write()
			j.sync()
			return
		}
	}
}

// drain takes what waits, without waiting for more.
func (j *Journal) drain() {
	for {
		select {
		case q := <-j.queue:
			j.take(q)
		default:
			return
		}
	}
}

// take puts a record into the batch.
func (j *Journal) take(q queued) {
	if q.day != j.day || len(j.batch) >= batchSize {
		j.write()
		j.day = q.day
	}
	var err error
	if j.batch, err = appendFrame(j.batch, q.key, q.payload); err != nil {
		j.missed(1, err)
		return
	}
	j.held++
}

// write puts the batch into the file of its day. A process that dies after it takes nothing along.
func (j *Journal) write() {
	if j.held == 0 {
		return
	}
	now := time.Now()
	err := j.dir.roll(j.day, now)
	if err == nil {
		j.removed(j.dir.prune(DayOf(now), int64(len(j.batch))))
		err = j.dir.append(j.batch)
	}
	if err == nil {
		j.written.Add(j.held)
		j.dirty = true
	} else {
		j.missed(j.held, err)
	}
	j.batch, j.held = j.batch[:0], 0
}

func (j *Journal) sync() error {
	if !j.dirty {
		return nil
	}
	j.dirty = false
	err := j.dir.sync()
	if err != nil {
		j.missed(0, err)
	}
	return err
}

// missed counts records that are lost, and tells of it now and then.
func (j *Journal) missed(n int64, err error) {
	j.lost.Add(n)
	j.untold += n
	if now := time.Now(); now.Sub(j.toldAt) >= lostPause {
		j.observe.tell(Event{Kind: KindLost, Day: j.day, Count: j.untold, Err: err})
		j.untold, j.toldAt = 0, now
	}
}

func (j *Journal) removed(days []Day) {
	for _, day := range days {
		j.days.Add(1)
		j.observe.tell(Event{Kind: KindDropped, Day: day})
	}
}

// domainKey tells policy domains apart without reading records. Nobody finds two domains with the same key on purpose.
func domainKey(domain string) uint64 {
	sum := sha256.Sum256([]byte(domain))
	return binary.LittleEndian.Uint64(sum[:])
}
