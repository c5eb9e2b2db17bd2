package proxy

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"strings"
	"sync/atomic"
	"time"
)

// A wire is a connection whose every wait has a name and an end. It also
// counts trips: how often we had to wait for the other side after we had said
// something, which is what a round trip costs whoever pays for it.
//
// A wire belongs to one goroutine, save for cut, which may come from anywhere.
type wire struct {
	net.Conn
	waiting  string // name of the wait in force, for errors
	limit    time.Duration
	each     bool      // every read has the limit to itself
	end      time.Time // but none goes on after this
	budget   int64     // octets that may be read while each holds
	dialled  bool      // by us
	opening  bool      // nothing was read yet, and it may not be TLS
	barred   error     // it was: nothing more is read
	spoke    bool      // something was written since the last read began
	hurry    bool      // what the next read brings is to be acknowledged at once
	glancing bool      // a read that would have to wait fails instead
	trips    int
	first    int // octets of the first write
	sent     int64
	cutFlag  atomic.Bool
}

// newWire wraps a connection. A connection that we dialled has cost one trip
// already, and its first read waits for a greeting nobody had to ask for.
func newWire(c net.Conn, dialled bool) *wire {
	w := &wire{Conn: c}
	if dialled {
		w.trips, w.spoke, w.dialled = 1, true, true
	}
	return w
}

// wait names what is waited for from now on, and for how long at the most.
// The time runs from now over all reads and writes until the next wait.
func (w *wire) wait(name string, limit time.Duration) {
	w.waiting, w.limit = name, limit
	if w.cutFlag.Load() {
		return // a cut stays a cut
	}
	_ = w.SetDeadline(time.Now().Add(limit)) // fails only on a closed connection, which the next read reports
	if w.cutFlag.Load() {
		_ = w.SetDeadline(longAgo())
	}
}

// waitEach gives every single read the limit to itself, until end, and no more
// octets than the budget to all of them together. The time of a read runs from
// its beginning.
func (w *wire) waitEach(name string, limit time.Duration, end time.Time, budget int64) {
	w.waiting, w.limit = name, limit
	w.each, w.end, w.budget = true, end, budget
}

// waitPlain ends waitEach.
func (w *wire) waitPlain() { w.each = false }

// errTooMuch: the other side goes on sending what is not wanted any more.
var errTooMuch = errors.New("the message goes on and on")

// waitUntil is wait with a fixed end, for stages that share one budget.
func (w *wire) waitUntil(name string, limit time.Duration, end time.Time) {
	if left := time.Until(end); left < limit {
		limit = max(left, time.Millisecond)
	}
	w.wait(name, limit)
}

func longAgo() time.Time { return time.Unix(1, 0) }

// cut ends every wait on the wire, now and later.
func (w *wire) cut() {
	w.cutFlag.Store(true)
	_ = w.SetDeadline(longAgo())
}

// Read implements [io.Reader].
func (w *wire) Read(p []byte) (int, error) {
	if w.barred != nil {
		return 0, w.barred
	}
	if w.glancing && !readable(w.Conn) {
		return 0, glanceError{}
	}
	if w.spoke {
		w.spoke = false
		w.trips++
	}
	if w.each {
		if w.budget <= 0 {
			return 0, errTooMuch
		}
		w.waitUntil(w.waiting, w.limit, w.end)
	}
	if w.hurry {
		w.hurry = false
		acknowledgeAtOnce(w.Conn)
	}
	n, err := w.Conn.Read(p)
	w.budget -= int64(n)
	if w.opening && n > 0 {
		if w.opening = false; p[0] == recordHandshake {
			w.barred = errSpokeTLS
			return 0, w.barred
		}
	}
	if n == 0 && err != nil {
		err = w.explain(err)
	}
	return n, err
}

// Write implements [io.Writer].
func (w *wire) Write(p []byte) (int, error) {
	w.spoke = true
	if w.first == 0 {
		w.first = len(p)
	}
	n, err := w.Conn.Write(p)
	w.sent += int64(n)
	if err != nil {
		err = w.explain(err)
	}
	return n, err
}

// lingerTime bounds how long we read on after our last word, so that a client
// that still talks gets that word and not a reset that eats it.
const lingerTime = time.Second

// lingerOctets bounds how much is read.
const lingerOctets = 1 << 20

// linger ends our side of the connection, and reads what the other side still
// sends until it closes too, within bounds.
func (w *wire) linger() {
	_ = w.SetDeadline(time.Now().Add(lingerTime))
	half, ok := w.Conn.(interface{ CloseWrite() error })
	if !ok || half.CloseWrite() != nil {
		return
	}
	_, _ = io.Copy(io.Discard, io.LimitReader(w.Conn, lingerOctets)) // whatever comes, we are leaving
}

func (w *wire) explain(err error) error {
	if !errors.Is(err, os.ErrDeadlineExceeded) {
		return err
	}
	if w.cutFlag.Load() {
		return errCut
	}
	return &waitError{what: w.waiting, limit: w.limit}
}

// errCut is what a wire reports when the service ended a wait to shut down.
var errCut = errors.New("cut off: the service is shutting down")

// A waitError tells which wait ran out.
type waitError struct {
	what  string
	limit time.Duration
}

func (e *waitError) Error() string {
	return fmt.Sprintf("no progress in %v while waiting for %s", e.limit.Round(time.Millisecond), strings.TrimPrefix(e.what, "waiting for "))
}

// Timeout and Temporary make a waitError a [net.Error].
func (e *waitError) Timeout() bool   { return true }
func (e *waitError) Temporary() bool { return true }

// within runs f with a context that ends at the limit, and names the wait in the error.
func within(ctx context.Context, name string, limit time.Duration, f func(context.Context) error) error {
	ctx, cancel := context.WithTimeoutCause(ctx, limit, &waitError{what: name, limit: limit})
	defer cancel()
	err := f(ctx)
	if err != nil && ctx.Err() != nil {
		return context.Cause(ctx)
	}
	return err
}
