// Package once remembers what became of the recipients of a message where the MTA that sent it could not be told: their
// outcomes differ and there is one reply for all of them, or the MTA was gone before it heard the reply. At its next
// attempt nothing is sent twice, and each recipient's own outcome is told.
//
// Unlike what else is remembered, this is no hint: whoever is told to come again relies on it. So a [Memory] says
// beforehand whether it can write ([Memory.Ready]), has on the disk what it says that it has ([Memory.Remember]), and
// reads from its own memory alone, which holds all that the disk does. An ordinary message costs neither a write nor a
// read of the disk.
//
// On the disk there are no addresses and no text of messages: who and what an outcome is about is a digest there.
package once

import (
	"crypto/sha256"
	"errors"
	"fmt"
	"net/netip"
	"sync"
	"sync/atomic"
	"time"

	"go.uber.org/zap"

	"slipstream/smtpwire"
	"slipstream/tlsstore"
)

// Limits of what is remembered.
const (
	DefaultKeep = 5 * 24 * time.Hour  // that a message waits in the queue of most MTAs
	MaxKeep     = 30 * 24 * time.Hour // a record that claims to last longer is damaged
	DefaultMax  = 100_000             // outcomes

	// MaxText is how many octets of a reply are kept, in whole lines but for the first.
	MaxText = 2 << 10
	// MaxLines is how many lines of a reply are kept.
	MaxLines = 64
	// MaxRecord is how many octets an outcome takes at most in a KV: its key and its value.
	MaxRecord = keySize + headerSize + MaxText + MaxLines*lineHead + sumSize
)

// A Key says which recipient of which message an outcome is about.
type Key struct {
	// Client is who sent the message. All loopback addresses are one client.
	Client netip.Addr
	// Sender and Recipient are as on the wire, without the angle brackets; the case of the domain does not matter.
	Sender, Recipient string
	// Content is the SHA-256 of the message text as the client sent it.
	Content [sha256.Size]byte
}

// An Outcome is the final reply for one recipient, of class 2 or 5. One of class 4 is none yet, and is not recalled: it
// says that the recipient shares the message with others, see [Memory.Awaits]. Of a longer one than [MaxText] or
// [MaxLines] allow, the beginning is kept.
type Outcome struct {
	Key   Key
	Reply smtpwire.Reply
}

// Options are for [Open] and [OpenSoon]. The zero value of each field means what it says.
type Options struct {
	// Keep is how long an outcome is remembered that nobody asks for, at most [MaxKeep]. 0 is [DefaultKeep].
	Keep time.Duration
	// Max is how many outcomes there may be for Ready to allow more. 0 is [DefaultMax].
	Max int
	// Now is the clock. Nil is time.Now.
	Now func() time.Time
	// Log hears once of what is wrong, and once that it is over. Nil: nobody does.
	Log *zap.Logger
}

// A Memory remembers outcomes. It is safe for concurrent use. A nil *Memory remembers nothing, and its Ready says so.
type Memory struct {
	keep time.Duration
	max  int
	now  func() time.Time
	log  *zap.Logger

	known    atomic.Int64 // outcomes in index, so that those who need not wait for mu do not
	refusals atomic.Int64 // and refusals among them
	closed   atomic.Bool

	mu      sync.Mutex
	index   index
	pending batch     // what is to be written
	wrong   error     // why nothing can be written: Ready's answer; nil: it can
	busy    time.Time // since when the disk has been at it; zero: it is not
	stats   Stats

	kv     tlsstore.KV   // nil until opened; guarded by mu, set by run alone
	room   func() error  // of kv, nil where it does not say
	wake   chan struct{} // holds a token while something is pending
	stop   chan struct{}
	done   chan struct{} // closed when run has ended
	failed error         // of the last write at the end, or of closing; set before done is closed
}

// Stats say how a Memory fares.
type Stats struct {
	Outcomes int    // that are held
	Refused  int    // of those, refusals for good
	Deferred int    // of those, none yet
	Unsaved  int    // changes that are not on the disk yet
	Writes   uint64 // writes to the disk, each of all that had to be written then
	Failures uint64 // of those, how many failed
	Expired  uint64 // outcomes that nobody asked for in time
	Broken   uint64 // records that were damaged, and dropped
}

// Why a Memory cannot be written to, besides what its KV says.
var (
	ErrOff    = errors.New("once: what became of recipients is not remembered here")
	ErrClosed = errors.New("once: closed")
	ErrFull   = errors.New("once: no room for more outcomes")
	ErrSlow   = errors.New("once: no answer from the disk")

	errOpening = errors.New("once: not opened yet")
)

// Open makes a Memory of what lies in a KV, which belongs to it from then on: reads all of it, and tries to write. A
// record that is damaged is dropped, and the log says so. The error is that of reading; that nothing can be written is
// for Ready to say, until it can.
func Open(kv tlsstore.KV, o Options) (*Memory, error) {
	if kv == nil {
		return nil, errors.New("once: nothing to open")
	}
	m := newMemory(o)
	if err := m.load(kv); err != nil {
		return nil, err
	}
	if m.wrong = m.write(nil); m.wrong != nil {
		m.log.Warn(unwritable, zap.Error(m.wrong))
	}
	go m.run(nil, nil) // ends with Close
	return m, nil
}

// OpenSoon is [Open] for what may not be there to be opened yet: it never fails. It waits for open so long, then goes
// on trying, now and then, until Close. As long as there is no KV, Ready says why, and what is remembered all the same
// is written when there is one. What open returns belongs to the Memory.
func OpenSoon(open func() (tlsstore.KV, error), wait time.Duration, o Options) *Memory {
	m := newMemory(o)
	m.wrong = errOpening
	first := make(chan struct{})
	go m.run(open, first) // ends with Close
	timer := time.NewTimer(wait)
	defer timer.Stop()
	select {
	case <-first:
	case <-timer.C:
		m.log.Warn("the memory of outcomes does not open in time, see to the disk of state_dir; until it does, a message "+
			"for several destinations is split", zap.Duration("waited", wait))
	}
	return m
}

func newMemory(o Options) *Memory {
	m := &Memory{
		keep: o.Keep, max: o.Max, now: o.Now, log: o.Log,
		index: newIndex(), pending: newBatch(),
		wake: make(chan struct{}, 1), stop: make(chan struct{}), done: make(chan struct{}),
	}
	if m.keep <= 0 {
		m.keep = DefaultKeep
	}
	m.keep = min(m.keep, MaxKeep)
	if m.max <= 0 {
		m.max = DefaultMax
	}
	if m.now == nil {
		m.now = time.Now
	}
	if m.log == nil {
		m.log = zap.NewNop()
	}
	return m
}

// Ready says whether so many outcomes could be remembered now: nil, or why not. It writes nothing and takes next to no
// time.
func (m *Memory) Ready(outcomes int) error {
	if m == nil {
		return ErrOff
	}
	now := m.now()
	m.mu.Lock()
	m.expire(now)
	held, wrong, slow, room := m.index.len(), m.wrong, m.unfit(now), m.room
	m.mu.Unlock()
	switch {
	case m.closed.Load():
		return ErrClosed
	case wrong != nil:
		return wrong
	case slow != nil:
		return slow
	case outcomes > m.max-held:
		return fmt.Errorf("%w: %d are held of %d, and %d might come", ErrFull, held, m.max, outcomes)
	case room == nil:
		return nil
	}
	return room()
}

// Remember has outcomes on the disk when it returns nil, and renews the time of those that are there already. Of several
// for one key a delivery stands before a refusal, since one copy is there, and both before what is no outcome. On an error they are held in memory all the same, unless
// there is far too much already, and Ready fails until they have been written.
func (m *Memory) Remember(outcomes []Outcome) error {
	switch {
	case m == nil:
		return ErrOff
	case len(outcomes) == 0:
		return nil
	case m.closed.Load():
		return ErrClosed
	}
	for _, o := range outcomes {
		if c := o.Reply.Class(); c != 2 && c != 4 && c != 5 {
			return fmt.Errorf("once: a reply of %d is no outcome", o.Reply.Code)
		}
	}
	now := m.now()
	written := make(chan error, 1)
	m.mu.Lock()
	m.expire(now)
	if m.index.len()+len(outcomes) > overfull*m.max+spare {
		held := m.index.len()
		m.mu.Unlock()
		return fmt.Errorf("%w: %d are held of %d", ErrFull, held, m.max)
	}
	for _, o := range outcomes {
		e := newEntry(o, now.Add(m.keep))
		old := m.index.get(e.id)
		if old != nil && old.rank() > e.rank() {
			e.code, e.text = old.code, old.text
		}
		m.index.put(e)
		r := record{written: now, life: m.keep, code: e.code, text: e.text}
		m.pending.set(e.id, m.kv == nil || old != nil, appendRecord(nil, e.id, r), m.keep)
	}
	m.count()
	if err := m.unfit(now); err != nil {
		m.mu.Unlock()
		return err
	}
	m.pending.waiting = append(m.pending.waiting, written)
	m.mu.Unlock()
	m.poke()
	return m.await(written)
}

// unfit says whether there is no use in waiting for a write. It is called with the lock held.
func (m *Memory) unfit(now time.Time) error {
	switch {
	case m.kv == nil:
		return m.wrong
	case !m.busy.IsZero() && now.Sub(m.busy) > slowWrite:
		return fmt.Errorf("%w for %v", ErrSlow, now.Sub(m.busy).Round(time.Second))
	}
	return nil
}

// await waits for a write, but not for ever.
func (m *Memory) await(written <-chan error) error {
	timer := time.NewTimer(writeWait)
	defer timer.Stop()
	select {
	case err := <-written:
		return err
	case <-m.done:
		select {
		case err := <-written:
			return err
		default:
			return ErrClosed
		}
	case <-timer.C:
		return fmt.Errorf("%w within %v", ErrSlow, writeWait)
	}
}

// Recall returns the outcome that is remembered of a recipient.
func (m *Memory) Recall(k Key) (smtpwire.Reply, bool) {
	if m.empty() {
		return smtpwire.Reply{}, false
	}
	id := k.id()
	m.mu.Lock()
	defer m.mu.Unlock()
	m.expire(m.now())
	e := m.index.get(id)
	if e == nil || e.deferred() {
		return smtpwire.Reply{}, false
	}
	return e.reply(), true
}

// Heard forgets what the MTA has been told: at once, and on the disk soon.
func (m *Memory) Heard(keys []Key) {
	if m.empty() {
		return
	}
	ids := make([]id, len(keys))
	for i, k := range keys {
		ids[i] = k.id()
	}
	m.mu.Lock()
	some := false
	for _, id := range ids {
		if e := m.index.get(id); e != nil {
			m.index.remove(e)
			m.pending.remove(id, overfull*m.max+spare)
			some = true
		}
	}
	m.count()
	m.mu.Unlock()
	if some {
		m.poke()
	}
}

// Parts says, without waiting, whether any recipient was refused for good whose MTA has not heard so yet. Where none was,
// there is nothing to be found out by Refused, RefusedTogether, Awaits and Turn.
func (m *Memory) Parts() bool { return m != nil && m.refusals.Load() > 0 }

// Refused says whether there is a message between these of which the recipient was refused for good, and the MTA has
// not heard so yet.
func (m *Memory) Refused(client netip.Addr, sender, recipient string) bool {
	return m.find(client, sender, []string{recipient}, (*index).refused)
}

// RefusedTogether says whether there is one such message for all of these recipients.
func (m *Memory) RefusedTogether(client netip.Addr, sender string, recipients []string) bool {
	return m.find(client, sender, recipients, (*index).refusedTogether)
}

// Awaits says whether there is a message of which this recipient has an outcome, and another recipient a refusal for
// good that the MTA has not heard yet.
func (m *Memory) Awaits(client netip.Addr, sender, recipient string) bool {
	return m.find(client, sender, []string{recipient}, (*index).awaits)
}

// Turn says whether those who were refused for good go first in a transaction to these recipients, or the others. It
// is by turns for each message, beginning with the refused, so that neither waits for the other for ever. Where it may
// be about one of several messages, whose attempts could keep time with the turns, it is by chance, but for the first
// time.
func (m *Memory) Turn(client netip.Addr, sender string, recipients []string) (refusedFirst bool) {
	return !m.Parts() || m.find(client, sender, recipients, (*index).turn)
}

// find asks the index about recipients, where anybody parts from others.
func (m *Memory) find(client netip.Addr, sender string, recipients []string, ask func(*index, []digest) bool) bool {
	if !m.Parts() {
		return false
	}
	digests := make([]digest, len(recipients))
	for i, r := range recipients {
		digests[i] = recipientDigest(client, sender, r)
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	m.expire(m.now())
	return ask(&m.index, digests)
}

// Stats returns how the Memory fares; zero for a nil one.
func (m *Memory) Stats() Stats {
	if m == nil {
		return Stats{}
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	m.expire(m.now())
	s := m.stats
	s.Outcomes, s.Refused, s.Deferred = m.index.len(), m.index.refusals, m.index.deferrals
	s.Unsaved = len(m.pending.changes)
	return s
}

// empty says without waiting whether there is nothing to be found.
func (m *Memory) empty() bool { return m == nil || m.known.Load() == 0 }

// count is called with the lock held when the index has changed.
func (m *Memory) count() {
	m.known.Store(int64(m.index.len()))
	m.refusals.Store(int64(m.index.refusals))
}

// expire forgets what nobody asked for in time. The disk forgets by itself. It is called with the lock held.
func (m *Memory) expire(now time.Time) {
	if n := m.index.expire(now); n > 0 {
		m.stats.Expired += uint64(n)
		m.count()
	}
}
