package proxy

import (
	"crypto/rand"
	"encoding/hex"
	"slices"
	"sync"
	"time"

	"go.uber.org/zap"
)

// A tap has copies of messages and of their envelopes written for other programs.
// It lives as long as the service does; a reload changes where it writes to.
//
// Nobody ever waits for it. A transaction that is over hands it the text as it
// lies in the spool, and what cannot be taken just now is left out, and counted.
// One goroutine writes, from the first configuration that has a directory until
// close.
type tap struct {
	log     *zap.Logger
	metrics *Metrics
	open    func(dir string) (tapPlace, error)
	wake    chan struct{} // has one in it when there is something to do

	mu      sync.Mutex
	conf    TapConfig
	changed bool  // the writer has not seen conf yet
	memory  int64 // octets that waiting copies may have
	queue   []*tapCopy
	waiting tapLoad
	fault   tapFault
	done    chan struct{} // closed when nobody writes any more; nil: nobody began
	closed  bool

	logged time.Time // when it was last logged that something was left out
	missed int       // copies since then
}

// Bounds on what waits for the disk. The text in memory is a share of that for
// all texts, one part in tapShare; each text in a file has a descriptor; all of
// them together are no more than the directory may hold.
const (
	maxTapWaiting = 1000
	maxTapFiles   = 32
	tapShare      = 4
)

// Why a copy is left out: words of the log and of metrics.
const (
	tapBusy     = "busy"     // too many wait already
	tapFull     = "full"     // the directory holds what it may
	tapDisk     = "disk"     // it cannot be written to
	tapStopping = "shutdown" // there is no time left
)

func tapReasons() []string { return []string{tapBusy, tapFull, tapDisk, tapStopping} }

// A tapCopy is one message that is to be written.
type tapCopy struct {
	name     string // of its files, without what tells the two apart
	door     string
	conf     TapConfig
	envelope []byte // JSON
	text     *message
	octets   int64 // of text
	load     tapLoad
}

// size is how much of the directory it takes.
func (c *tapCopy) size() int64 { return blocks(c.octets) + blocks(int64(len(c.envelope))) }

// blockSize is the unit in which most file systems give out room.
const blockSize = 4 << 10

// blocks rounds up to whole ones, so that many small files are not taken for less
// than they are.
func blocks(octets int64) int64 { return (octets + blockSize - 1) / blockSize * blockSize }

// A tapLoad is what copies that wait take.
type tapLoad struct {
	copies int
	memory int64
	files  int
	filed  int64 // octets in files
}

func (l *tapLoad) add(o tapLoad, sign int) {
	l.copies += sign * o.copies
	l.memory += int64(sign) * o.memory
	l.files += sign * o.files
	l.filed += int64(sign) * o.filed
}

// loadOf is what one copy takes while it waits.
func loadOf(m *message, envelope []byte) tapLoad {
	memory, filed := m.body.held()
	l := tapLoad{copies: 1, memory: memory + int64(len(m.prefix)+len(m.header)+len(envelope)), filed: filed}
	if filed > 0 {
		l.files = 1
	}
	return l
}

// held is how much memory a spool has taken, and how much lies in its file.
func (s *spool) held() (memory, filed int64) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.taken, s.filed
}

// A tapFault is why copies are left out without being tried, for a while.
type tapFault struct {
	why   string // "": none
	until time.Time
}

// newTap makes a tap that writes nothing yet.
func newTap(log *zap.Logger, metrics *Metrics) *tap {
	open := func(dir string) (tapPlace, error) { return openTapDir(dir, log) }
	return &tap{log: log, metrics: metrics, open: open, wake: make(chan struct{}, 1)}
}

// use puts a configuration into force: copies that wait go where they were meant to.
func (t *tap) use(cfg *Config) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.conf.Dir != cfg.Tap.Dir || t.conf.MaxSize != cfg.Tap.MaxSize {
		t.fault = tapFault{}
	}
	t.conf, t.memory = cfg.Tap, int64(cfg.Limits.SpoolMemory)/tapShare
	t.changed = true
	t.poke()
	if t.conf.Dir == "" || t.closed || t.done != nil {
		return
	}
	t.done = make(chan struct{})
	go func() { // ends with close, or when the disk answers
		defer close(t.done)
		(&tapWriter{tap: t}).run()
	}()
}

// poke wakes the writer. Called with t.mu held.
func (t *tap) poke() {
	select {
	case t.wake <- struct{}{}:
	default:
	}
}

// wants tells whether messages of a door are copied.
func (t *tap) wants(door string) bool {
	if t == nil {
		return false
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.conf.Dir != "" && (len(t.conf.Doors) == 0 || slices.Contains(t.conf.Doors, door))
}

// glance tells whether a copy can be taken, as far as can be told without its
// envelope: "", or why not.
func (t *tap) glance(c *tapCopy) (why string) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if why = t.refuses(c); why != "" {
		t.leftOut(c, why, nil)
	}
	return why
}

// take takes a copy over, and closes its text when it is written. Else the text
// stays the caller's, and why says why.
func (t *tap) take(c *tapCopy) (why string) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if why = t.refuses(c); why != "" {
		t.leftOut(c, why, nil)
		return why
	}
	c.conf = t.conf
	t.queue = append(t.queue, c)
	t.waiting.add(c.load, 1)
	t.metrics.tap.waiting.Set(float64(t.waiting.copies))
	t.poke()
	return ""
}

// refuses tells why a copy cannot be taken; "": it can. Called with t.mu held.
func (t *tap) refuses(c *tapCopy) string {
	after := t.waiting
	after.add(c.load, 1)
	switch limit := int64(t.conf.MaxSize); {
	case t.closed || t.done == nil:
		return tapStopping
	case t.fault.why != "" && time.Now().Before(t.fault.until):
		return t.fault.why
	case c.size() > limit:
		return tapFull
	case t.waiting.copies == 0: // there is always room for one
	case after.copies > maxTapWaiting, after.memory > t.memory, after.files > maxTapFiles, after.filed > limit:
		return tapBusy
	}
	return ""
}

// leftOut accounts for a copy that is not made. Called with t.mu held.
func (t *tap) leftOut(c *tapCopy, why string, err error) {
	t.metrics.tap.leftOut.WithLabelValues(c.door, why).Inc()
	t.missed++
	if now := time.Now(); now.Sub(t.logged) >= tapLogEvery {
		t.logged = now
		t.tell(why, zap.String("name", c.name), zap.Error(err))
	}
}

// tapLogEvery is how often at most the log has a line about copies left out.
const tapLogEvery = time.Minute

// tell logs what was left out since the last time. Called with t.mu held.
func (t *tap) tell(why string, fields ...zap.Field) {
	t.log.Warn("tap: messages are not copied", append([]zap.Field{
		zap.Int("count", t.missed), zap.String("why", why), zap.String("dir", t.conf.Dir)}, fields...)...)
	t.missed = 0
}

// tapFlush is how long copies that wait may take to be written when the service ends.
const tapFlush = 5 * time.Second

// close has what waits written, as far as there is time, and ends the writer. One
// that hangs ends when its disk answers.
func (t *tap) close() {
	t.mu.Lock()
	t.closed = true
	done := t.done
	t.poke()
	t.mu.Unlock()
	if done == nil {
		return
	}
	timer := time.NewTimer(tapFlush)
	defer timer.Stop()
	select {
	case <-done:
	case <-timer.C:
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	rest := t.queue
	t.queue = nil
	for _, c := range rest {
		c.text.close()
		t.leftOut(c, tapStopping, nil)
	}
	if t.missed > 0 {
		t.tell(tapStopping)
	}
}

// newTapName makes the name of a copy: it sorts by time, has the id of the
// transaction, and nobody can know it before.
func newTapName(now time.Time, id string) string {
	var random [8]byte
	_, _ = rand.Read(random[:]) // never fails
	return now.UTC().Format(tapTime) + "-" + id + "-" + hex.EncodeToString(random[:])
}

// tapTime is RFC 3339 without what file names should not have, at one length.
const tapTime = "20060102T150405.000000Z"
