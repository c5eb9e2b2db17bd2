package netsim

import (
	"net/netip"
	"syscall"
	"time"
)

// written is data that was sent and is not acknowledged yet.
type written struct {
	size int
	sent time.Time
	left time.Time // when its acknowledgement leaves the other side, or zero: never
	back time.Time // when that arrives
}

// Acked returns how many of the octets that were written here have been
// acknowledged: one Delay after they arrived, whether they were read or not.
// After Close ok is false, as it is for a socket that is gone; after any other
// end the number stays.
func (c *Conn) Acked() (n int64, ok bool) {
	e := c.end
	e.mu.Lock()
	defer e.mu.Unlock()
	e.expire(time.Now())
	return e.acked, !e.closed
}

// LimitUnacked does what TCP_USER_TIMEOUT does: once something written stays
// unacknowledged for d, or the peer's window stays closed for d to a Write that
// waits for it, the connection ends with syscall.ETIMEDOUT, and the other side
// hears nothing. 0 means no limit.
func (c *Conn) LimitUnacked(d time.Duration) {
	e := c.end
	e.mu.Lock()
	defer e.mu.Unlock()
	e.expire(time.Now())
	e.limit = max(d, 0)
	e.changed.broadcast()
}

// awaitAck enters what was sent at a given time and arrives at another, the zero
// time if never.
func (e *end) awaitAck(size int, sent, arrives time.Time) {
	w := written{size: size, sent: sent, left: arrives}
	if !arrives.IsZero() {
		w.back = arrives.Add(e.net.link(route{e.peer.addr.Addr(), e.addr.Addr()}).Delay)
	}
	e.settle(sent)
	e.unacked = append(e.unacked, w)
	if e.limit > 0 {
		e.changed.broadcast() // who waits must look at the clock
	}
}

// settle counts the acknowledgements that have come. They come in order, so that
// behind one that never does nothing is acknowledged.
func (e *end) settle(now time.Time) {
	for len(e.unacked) > 0 {
		w := e.unacked[0]
		late := e.limit > 0 && w.back.After(w.sent.Add(e.limit))
		ended := !e.resetAt.IsZero() && w.back.After(e.resetAt)
		if !come(w.back, now) || late || ended || e.cut(w.left) {
			return
		}
		e.acked += int64(w.size)
		e.unacked = e.unacked[1:]
	}
}

// cut reports whether what the peer sends at a given time is lost.
func (e *end) cut(at time.Time) bool {
	return e.net.lost(e.peer.addr, at) || e.net.lost(e.addr, at)
}

// lost reports whether an address has vanished by a given time.
func (n *Network) lost(a netip.AddrPort, at time.Time) bool {
	n.mu.Lock()
	defer n.mu.Unlock()
	for _, hole := range []netip.AddrPort{a, netip.AddrPortFrom(a.Addr(), 0)} {
		if since, ok := n.holes[hole]; ok && !since.After(at) {
			return true
		}
	}
	return false
}

// forsake enters that what has not arrived at a given time never will.
func (e *end) forsake(now time.Time) {
	for i := range e.unacked {
		if w := &e.unacked[i]; w.left.After(now) {
			w.left, w.back = time.Time{}, time.Time{}
		}
	}
}

// expiry returns when the limit is reached, as things are, or zero.
func (e *end) expiry() time.Time {
	var at time.Time
	if e.limit == 0 {
		return at
	}
	if len(e.unacked) > 0 {
		at = e.unacked[0].sent.Add(e.limit)
	}
	if !e.stalled.IsZero() {
		end := e.stalled.Add(e.limit)
		if opens := e.nextCredit(); opens.IsZero() || opens.After(end) {
			at = earliest(at, end)
		}
	}
	return at
}

// expire ends the connection if the limit is reached.
func (e *end) expire(now time.Time) {
	e.settle(now)
	at := e.expiry()
	if come(at, now) && (e.resetAt.IsZero() || at.Before(e.resetAt)) {
		e.resetAt, e.why = at, syscall.ETIMEDOUT
	}
}
