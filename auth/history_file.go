package auth

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"sync"
	"sync/atomic"
	"time"
)

// A HistoryFile appends records to a file that opendmarc-import reads. Add never waits: a goroutine writes what is
// queued. The methods may be called from several goroutines.
//
// The file may be taken away at any time, either by whoever renames it and then locks it (flock, shared or exclusive)
// to read it, as opendmarc-importstats and opendmarc-import do, or by whoever reads and truncates it under one lock.
// Several HistoryFiles, in one process or in many, may write to one path. Then
//
//   - a record is written whole, by one write, under an exclusive lock, and only to the file that path names at that
//     time: one importer reads it, never two or none;
//   - what cannot be written to its end is taken back and tried again later;
//   - mail waits neither for a lock nor for the disk.
//
// This is not promised:
//
//   - What is queued when the process is killed is lost. Nothing is for longer than it takes to write it, unless
//     somebody has the lock or there is a failure.
//   - A record that is being written when the process is killed may be cut short. Where that is in the middle of a
//     line, the record is removed with the next lock that a HistoryFile takes. An importer that is faster stops there,
//     and so behind all others. Whole lines remain: opendmarc-import reports them and goes on.
//   - Nothing is synced: when the machine goes down, what its system had in memory is lost.
//   - An importer that reads without a lock, or truncates after it has unlocked, loses what comes in between: such as
//     "opendmarc-import --input=F; : >F", or logrotate with copytruncate.
type HistoryFile struct {
	place   historyPlace
	failed  func(error)
	wake    chan struct{}      // has room for one: something was queued
	closing chan struct{}      // closed: write what is queued and end
	done    chan struct{}      // closed: the goroutine has ended
	abort   context.CancelFunc // gives up what is queued

	written, dropped atomic.Uint64

	mu     sync.Mutex
	queue  [][]byte
	octets int // of what is queued
	closed bool
	left   error // what Close found that could not be written, and why
}

// HistoryOptions say how a history file is kept. The zero value is usable.
type HistoryOptions struct {
	// Mode of a file that is made: 0600, or 0640 for an importer of the file's group. Zero is 0640. The umask does not
	// count. A file that is there keeps its own.
	Mode fs.FileMode

	// MaxBytes is what the file may grow to, lest a forgotten importer fill the disk. Zero is MaxHistoryBytes.
	MaxBytes int64

	// Failed, if set, is told once when records can no longer be written, and with nil once they can again. It is
	// called by the goroutine that writes.
	Failed func(error)
}

// Bounds of a history file and of what waits for it.
const (
	// MaxHistoryBytes is how long the file may become by default: more than two million records.
	MaxHistoryBytes = 1 << 30

	maxHistoryQueue = 8 << 20 // octets of records that wait, ordinarily some ten thousand
	historyBatch    = 64      // records written before an importer is given a chance to have the lock

	historyLockMin = time.Millisecond // between looks whether a lock is free, doubled each time
	historyLockMax = 100 * time.Millisecond
	historyHeld    = time.Minute // a lock that is held for longer is a failure
	historyFailMin = 100 * time.Millisecond
	historyFailMax = 5 * time.Second // between attempts when there is a failure

	historyFlush = 10 * time.Second // Close writes for no longer than that,
	historyGrace = time.Second      // and waits so much more for the system to answer
)

// Errors of Add. What it then did not take is counted by Dropped.
var (
	ErrHistoryQueue  = errors.New("history: too much is waiting to be written")
	ErrHistoryClosed = errors.New("history: the file is closed")
)

// OpenHistory makes the file at path if there is none, and starts to write to it whatever Add is given. The error says
// why that is not possible; that somebody has it locked just now is none.
//
// What is there must be a plain file with no other name, not reached by a symbolic link, that belongs to us or to root,
// in a directory where not everybody may put things in its place. This holds also for what is at path later.
func OpenHistory(path string, o HistoryOptions) (*HistoryFile, error) {
	place, err := newHistoryPlace(path, o)
	if err != nil {
		return nil, err
	}
	switch err := place.lock(); {
	case err == nil:
		place.unlock()
	case !errors.Is(err, errHistoryHeld):
		return nil, err
	}
	h := &HistoryFile{place: place, failed: o.Failed, wake: make(chan struct{}, 1), closing: make(chan struct{}),
		done: make(chan struct{})}
	if h.failed == nil {
		h.failed = func(error) {}
	}
	ctx, abort := context.WithCancel(context.Background())
	h.abort = abort
	go h.run(ctx)
	return h, nil
}

// Add queues a record. It does not wait, and nothing of the record is kept but its text. The error is ErrNoPolicy for a
// message of which there is nothing to say, which most are and which counts as nothing, or tells why the record will
// not be written: it has no meaning, too much is queued, the file is closed. Those are counted by Dropped.
func (h *HistoryFile) Add(r HistoryRecord) error {
	text, err := r.Append(nil)
	if err == nil {
		err = h.enqueue(text)
	}
	if err != nil && !errors.Is(err, ErrNoPolicy) {
		h.dropped.Add(1)
	}
	return err
}

func (h *HistoryFile) enqueue(text []byte) error {
	h.mu.Lock()
	defer h.mu.Unlock()
	switch {
	case h.closed:
		return ErrHistoryClosed
	case h.octets+cap(text) > maxHistoryQueue:
		return ErrHistoryQueue
	case int64(len(text)) > h.place.maxBytes:
		return fmt.Errorf("history: a record of %d octets does not fit a file of %d", len(text), h.place.maxBytes)
	}
	h.queue = append(h.queue, text)
	h.octets += cap(text)
	select {
	case h.wake <- struct{}{}:
	default: // the goroutine has not looked yet
	}
	return nil
}

// Written returns how many records were written.
func (h *HistoryFile) Written() uint64 { return h.written.Load() }

// Dropped returns how many records were refused by Add, or given up by Close.
func (h *HistoryFile) Dropped() uint64 { return h.dropped.Load() }

// Close writes what is queued, for as long as ctx allows but at most ten seconds, and ends the goroutine. It waits for
// a lock, but not for a failure to be mended. What is not written is dropped: the error says how much and why. Only a
// system that does not come back from writing, to a dead disk, can keep the goroutine; Close then returns a second
// later and says so.
func (h *HistoryFile) Close(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, historyFlush)
	defer cancel()
	h.mu.Lock()
	if !h.closed {
		h.closed = true
		close(h.closing)
	}
	h.mu.Unlock()
	select {
	case <-h.done:
	case <-ctx.Done():
		h.abort()
		grace := time.NewTimer(historyGrace)
		defer grace.Stop()
		select {
		case <-h.done:
		case <-grace.C:
			return fmt.Errorf("history: %s: the system does not answer", h.place.path)
		}
	}
	h.abort()
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.left
}

// run writes what is queued, until h is closed and there is nothing left, or no hope.
func (h *HistoryFile) run(ctx context.Context) {
	defer close(h.done)
	var w historyWait
	for h.await() {
		err := h.writeBatch()
		if w.note(err) {
			h.failed(w.failing)
		}
		if err == nil {
			continue
		}
		if h.isClosing() && !errors.Is(err, errHistoryHeld) || !h.sleep(ctx, w.delay) {
			h.giveUp(err)
			return
		}
	}
}

// await returns true once something is queued, and false once h is closed and nothing is.
func (h *HistoryFile) await() bool {
	for {
		// Before the queue: nothing is queued once it is closed.
		closing := h.isClosing()
		if len(h.queued()) > 0 {
			return true
		}
		if closing {
			return false
		}
		select {
		case <-h.wake:
		case <-h.closing:
		}
	}
}

func (h *HistoryFile) isClosing() bool {
	select {
	case <-h.closing:
		return true
	default:
		return false
	}
}

// queued returns the records that are next.
func (h *HistoryFile) queued() [][]byte {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.queue[:min(len(h.queue), historyBatch)]
}

// wrote takes the first record from the queue.
func (h *HistoryFile) wrote() {
	h.written.Add(1)
	h.mu.Lock()
	defer h.mu.Unlock()
	h.octets -= cap(h.queue[0])
	h.queue[0] = nil
	if h.queue = h.queue[1:]; len(h.queue) == 0 {
		h.queue = nil
	}
}

// writeBatch writes some records under one lock.
func (h *HistoryFile) writeBatch() error {
	if err := h.place.lock(); err != nil {
		return err
	}
	defer h.place.unlock()
	for _, text := range h.queued() {
		if err := h.place.append(text); err != nil {
			return err
		}
		h.wrote()
	}
	return nil
}

// sleep returns false if everything is to be given up.
func (h *HistoryFile) sleep(ctx context.Context, d time.Duration) bool {
	timer := time.NewTimer(d)
	defer timer.Stop()
	closing := h.closing
	if h.isClosing() {
		closing = nil // it has waked us once
	}
	select {
	case <-timer.C:
	case <-closing:
	case <-ctx.Done():
	}
	return ctx.Err() == nil
}

// giveUp drops what is queued: Close has been called, and why says what stood in the way.
func (h *HistoryFile) giveUp(why error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.dropped.Add(uint64(len(h.queue)))
	h.left = fmt.Errorf("%d records are lost: %w", len(h.queue), why)
	h.queue, h.octets = nil, 0
}

// A historyWait says how long to wait after a failure.
type historyWait struct {
	delay   time.Duration
	since   time.Time // when a lock was first found to be held
	failing error     // what Failed was told last
}

// note takes the outcome of an attempt, and reports whether failing has become an error or nil by it.
func (w *historyWait) note(err error) bool {
	least, most := historyFailMin, historyFailMax
	switch {
	case err == nil:
		was := w.failing
		*w = historyWait{}
		return was != nil
	case !errors.Is(err, errHistoryHeld):
		w.since = time.Time{}
	case w.since.IsZero():
		w.since = time.Now()
		w.delay = 0
		fallthrough
	default:
		least, most = historyLockMin, historyLockMax
	}
	w.delay = min(max(2*w.delay, least), most)
	if w.failing != nil || !w.since.IsZero() && time.Since(w.since) < historyHeld {
		return false
	}
	w.failing = err
	return true
}
