package proxy

import (
	"errors"
	"time"

	"go.uber.org/zap"
)

// A tapPlace is a directory that copies are written to.
type tapPlace interface {
	// current tells whether it is what is found under its name now.
	current() bool
	// used returns how much the files in it take.
	used() (int64, error)
	// put writes a copy, whole or not at all.
	put(c *tapCopy) error
	close()
}

// A tapWriter writes the copies of a tap, one after the other. It is the one who
// waits for the disk.
type tapWriter struct {
	tap   *tap
	dir   string
	place tapPlace // nil: not open

	held    int64 // what the directory holds, as far as is known
	counted time.Time
	took    time.Duration // to count
}

// run writes until the tap is closed and nothing waits.
func (w *tapWriter) run() {
	defer w.shut()
	for {
		c, dir, ok := w.tap.next()
		if !ok {
			return
		}
		if c != nil {
			w.tap.written(c, w.store(c))
			continue
		}
		if err := w.reach(dir); err != nil {
			w.tap.log.Warn("tap: the directory cannot be used", zap.String("dir", dir), zap.Error(err))
		}
	}
}

// next waits for a copy. None means that the configuration is another, and copies
// go to dir: what is the matter there is to be known before the first one comes.
func (t *tap) next() (c *tapCopy, dir string, ok bool) {
	for {
		t.mu.Lock()
		if len(t.queue) > 0 {
			c, t.queue[0] = t.queue[0], nil
			t.queue = t.queue[1:]
			t.mu.Unlock()
			return c, "", true
		}
		t.queue = nil
		closed, changed, dir := t.closed, t.changed, t.conf.Dir
		t.changed = false
		t.mu.Unlock()
		switch {
		case closed:
			return nil, "", false
		case changed && dir != "":
			return nil, dir, true
		}
		<-t.wake
	}
}

// written accounts for a copy that was tried.
func (t *tap) written(c *tapCopy, err error) {
	c.text.close()
	t.mu.Lock()
	defer t.mu.Unlock()
	t.waiting.add(c.load, -1)
	t.metrics.tap.waiting.Set(float64(t.waiting.copies))
	var left *leftOutError
	switch {
	case err == nil:
		t.metrics.tap.written.WithLabelValues(c.door).Inc()
	case errors.As(err, &left):
		t.pause(left.why, left.pause)
		t.leftOut(c, left.why, left.err)
	}
}

// pause has copies left out for a while. Called with t.mu held.
func (t *tap) pause(why string, d time.Duration) {
	if d > 0 {
		t.fault = tapFault{why, time.Now().Add(d)}
	}
}

// A leftOutError says why a copy was not written, and for how long others need not
// be tried.
type leftOutError struct {
	why   string
	pause time.Duration
	err   error
}

func (e *leftOutError) Error() string { return e.why }
func (e *leftOutError) Unwrap() error { return e.err }

// tapPause is how long a disk is left alone that has failed.
const tapPause = time.Second

// store writes one copy. The error is a *leftOutError.
func (w *tapWriter) store(c *tapCopy) error {
	w.tap.mu.Lock()
	fault := w.tap.fault
	w.tap.mu.Unlock()
	if fault.why == tapDisk && time.Now().Before(fault.until) {
		return &leftOutError{why: tapDisk} // it waited while others found that out
	}
	err := w.reach(c.conf.Dir)
	if err == nil && !w.roomFor(c) {
		if err = w.count(); err == nil && !w.roomFor(c) {
			return &leftOutError{why: tapFull, pause: w.countPause()}
		}
	}
	if err == nil {
		if err = w.place.put(c); err == nil {
			w.held += c.size()
		}
	}
	w.tap.metrics.tap.held.Set(float64(w.held))
	if err == nil {
		return nil
	}
	w.shut() // it may be another directory by now
	return &leftOutError{why: tapDisk, pause: tapPause, err: err}
}

func (w *tapWriter) roomFor(c *tapCopy) bool { return w.held+c.size() <= int64(c.conf.MaxSize) }

// countShare and minCount bound the time that is spent on counting: one part of
// so many, and not more often than this.
const (
	countShare = 10
	minCount   = 50 * time.Millisecond
)

// countPause is how long a count of the directory is good for.
func (w *tapWriter) countPause() time.Duration { return max(countShare*w.took, minCount) }

// count looks what the directory holds: who reads it removes what was read.
func (w *tapWriter) count() error {
	if !w.counted.IsZero() && time.Since(w.counted) < w.countPause() {
		return nil
	}
	begun := time.Now()
	held, err := w.place.used()
	if err != nil {
		return err
	}
	w.held, w.counted, w.took = held, time.Now(), time.Since(begun)
	w.tap.metrics.tap.held.Set(float64(w.held))
	return nil
}

// reach opens a directory, unless it is open.
func (w *tapWriter) reach(dir string) error {
	if w.place != nil && w.dir == dir && w.place.current() {
		return nil
	}
	w.shut()
	place, err := w.tap.open(dir)
	if err != nil {
		return err
	}
	w.dir, w.place, w.counted = dir, place, time.Time{}
	return w.count()
}

func (w *tapWriter) shut() {
	if w.place != nil {
		w.place.close()
		w.place = nil
	}
}
