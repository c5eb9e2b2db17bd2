package netsim

import (
	"bytes"
	"net"
	"net/netip"
	"os"
	"sync"
	"syscall"
	"time"
)

// end is the state of one side of a connection: what is coming to it, and what it
// may send. Nothing happens by itself. Each event is entered with its time where
// it will be felt, and felt by whoever looks after that time.
//
// All methods need the lock, which both ends share.
type end struct {
	net     *Network
	mu      *sync.Mutex
	changed signal
	addr    netip.AddrPort
	peer    *end

	inbox   []packet      // in order of arrival, on the way or unread
	last    time.Time     // arrival of the last one sent to us
	resetAt time.Time     // when a reset arrives, or another failure ends it; or zero
	why     syscall.Errno // what that is; zero: a reset
	readBy  time.Time     // deadlines, or zero
	writeBy time.Time

	window  int      // octets that we may send now
	credits []credit // octets that we may send later
	sent    int      // segments with data
	lost    int      // of them, those that will never arrive
	unacked []written
	acked   int64         // octets
	limit   time.Duration // how long one of unacked may stay there, or zero
	stalled time.Time     // since when a Write finds the window closed, or zero

	syn      synState  // these are for who dialed fast
	far      *Conn     // the other end, for the listener
	called   time.Time // when the SYN left
	answered time.Time // when the SYN-ACK leaves
	opens    time.Time // when it arrives, or zero: never
	carried  bool      // it acknowledges data

	writing   bool // a Write is at work
	ended     bool // no more Writes: our FIN or reset was sent
	closed    bool // no more calls at all
	resetTold bool // the user knows of the reset
}

// packet is something in order: data, or the end of all data.
type packet struct {
	at   time.Time
	data []byte
	fin  bool
}

// credit is the news that the peer has read something.
type credit struct {
	at   time.Time
	size int
}

// newPair returns both ends of an open connection.
func newPair(n *Network, client, server netip.AddrPort) (near, far *Conn) {
	window := n.Window
	if window <= 0 {
		window = DefaultWindow
	}
	mu := new(sync.Mutex)
	a := &end{net: n, mu: mu, addr: client, window: window}
	b := &end{net: n, mu: mu, addr: server, window: window, peer: a}
	a.peer = b
	return &Conn{a}, &Conn{b}
}

// take moves data that has arrived to p, and lets the peer send as much again.
func (e *end) take(p []byte, now time.Time) int {
	n := 0
	for len(e.inbox) > 0 && n < len(p) && e.unread(now) {
		first := &e.inbox[0]
		k := copy(p[n:], first.data)
		n += k
		if first.data = first.data[k:]; len(first.data) == 0 {
			e.inbox[0] = packet{}
			e.inbox = e.inbox[1:]
		}
	}
	if n > 0 {
		delay := e.net.link(route{e.addr.Addr(), e.peer.addr.Addr()}).Delay
		e.peer.credits = append(e.peer.credits, credit{now.Add(delay), n})
		e.peer.changed.broadcast()
	}
	return n
}

// unread reports whether there is data to read.
func (e *end) unread(now time.Time) bool {
	return len(e.inbox) > 0 && !e.inbox[0].fin && come(e.inbox[0].at, now)
}

// finished reports whether all data was read and the peer has none left.
func (e *end) finished(now time.Time) bool {
	return len(e.inbox) > 0 && e.inbox[0].fin && come(e.inbox[0].at, now)
}

// next returns when something arrives, or zero.
func (e *end) next() time.Time {
	if len(e.inbox) == 0 {
		return time.Time{}
	}
	return e.inbox[0].at
}

// writable returns why there can be no Write, in the order in which a socket
// looks for reasons.
func (e *end) writable(now time.Time) error {
	e.expire(now)
	switch {
	case e.closed:
		return e.fail("write", net.ErrClosed)
	case come(e.writeBy, now):
		return e.fail("write", os.ErrDeadlineExceeded)
	case e.ended:
		return e.fail("write", os.NewSyscallError("write", syscall.EPIPE))
	case !come(e.resetAt, now):
		return nil
	case e.resetTold || e.finArrived(now):
		return e.fail("write", os.NewSyscallError("write", syscall.EPIPE))
	}
	e.resetTold = true
	return e.fail("write", os.NewSyscallError("write", e.cause()))
}

// cause returns what ended the connection.
func (e *end) cause() syscall.Errno {
	if e.why == 0 {
		return syscall.ECONNRESET
	}
	return e.why
}

// finArrived reports whether the peer is known to send no more, read or not.
func (e *end) finArrived(now time.Time) bool {
	if len(e.inbox) == 0 {
		return false
	}
	last := e.inbox[len(e.inbox)-1]
	return last.fin && come(last.at, now)
}

// room returns how many octets may be sent.
func (e *end) room(now time.Time) int {
	for len(e.credits) > 0 && come(e.credits[0].at, now) {
		e.window += e.credits[0].size
		e.credits = e.credits[1:]
	}
	return e.window
}

// nextCredit returns when there will be more room, or zero.
func (e *end) nextCredit() time.Time {
	if len(e.credits) == 0 {
		return time.Time{}
	}
	return e.credits[0].at
}

// put sends as much of p as can be sent now, in the SYN if that was held back.
func (e *end) put(p []byte, now time.Time) int {
	switch {
	case len(p) > 0 && e.syn == synHeld:
		return e.call(p, now)
	case len(p) > 0 && !e.open(now):
		return 0
	}
	n := e.send(p, now)
	switch {
	case n == len(p):
		e.stalled = time.Time{}
	case e.stalled.IsZero() || n > 0:
		e.stalled = now
	}
	return n
}

// send puts as much of p on the way, as one segment, as the window takes, and
// returns how much that is.
func (e *end) send(p []byte, now time.Time) int {
	data := bytes.Clone(p[:min(len(p), e.room(now))])
	if len(data) == 0 {
		return 0
	}
	e.window -= len(data)
	e.sent++
	at, ok := e.transmit(Segment{At: now, Len: len(data), Data: data})
	switch {
	case !ok:
		e.lost++
		e.awaitAck(len(data), now, time.Time{})
	case e.peer.closed:
		e.lost++
		e.awaitAck(len(data), now, time.Time{})
		e.peer.reset(at)
	default:
		e.awaitAck(len(data), now, at)
		e.peer.inbox = append(e.peer.inbox, packet{at: at, data: data})
		e.peer.changed.broadcast()
	}
	return len(data)
}

// finish sends our FIN, unless the connection is over.
func (e *end) finish(now time.Time) {
	if e.ended || come(e.resetAt, now) {
		return
	}
	e.ended = true
	if at, ok := e.transmit(Segment{At: now, FIN: true}); ok && !e.peer.closed {
		e.peer.inbox = append(e.peer.inbox, packet{at: at, fin: true})
		e.peer.changed.broadcast()
	}
}

// reset sends a reset, unless one came or went already.
func (e *end) reset(now time.Time) {
	if come(e.resetAt, now) || !e.peer.resetAt.IsZero() {
		return
	}
	e.ended = true
	if at, ok := e.transmit(Segment{At: now, RST: true}); ok {
		e.peer.resetAt = at
		e.peer.changed.broadcast()
	}
}

// shut ends all use of this end. What has not arrived yet never will: the first
// data of it is answered with a reset.
func (e *end) shut(now time.Time) {
	e.closed = true
	e.peer.forsake(now)
	for _, p := range e.inbox {
		if !p.fin && p.at.After(now) {
			e.peer.lost++
			e.reset(p.at)
		}
	}
	e.inbox = nil
	e.changed.broadcast()
}

// transmit sends a segment to the peer, not before those that were sent earlier
// arrived.
func (e *end) transmit(s Segment) (time.Time, bool) {
	s.From, s.To, s.Arrives = e.addr, e.peer.addr, e.peer.last
	at, ok := e.net.transmit(s)
	if ok {
		e.peer.last = at
	}
	return at, ok
}

func (e *end) fail(op string, err error) error {
	return &net.OpError{Op: op, Net: "tcp", Source: net.TCPAddrFromAddrPort(e.addr),
		Addr: net.TCPAddrFromAddrPort(e.peer.addr), Err: err}
}
