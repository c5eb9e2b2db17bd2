package netsim

import (
	"io"
	"net"
	"os"
	"syscall"
	"time"
)

// Conn is one end of a connection. It behaves as a *net.TCPConn does on Linux;
// its methods may be called from several goroutines.
type Conn struct{ end *end }

// Read waits for data to arrive and returns as much of it as there is and as p
// can hold, of one segment or several. Past the other side's half-close it
// returns io.EOF. A reset is told once, behind the data that came before it, as
// syscall.ECONNRESET; after that the connection looks ended.
func (c *Conn) Read(p []byte) (int, error) {
	e := c.end
	e.mu.Lock()
	defer e.mu.Unlock()
	for {
		now := time.Now()
		e.expire(now)
		e.open(now)
		switch {
		case e.closed:
			return 0, e.fail("read", net.ErrClosed)
		case come(e.readBy, now):
			return 0, e.fail("read", os.ErrDeadlineExceeded)
		case len(p) == 0:
			return 0, nil
		}
		if n := e.take(p, now); n > 0 {
			return n, nil
		}
		switch {
		case e.finished(now):
			return 0, io.EOF
		case come(e.resetAt, now) && e.resetTold:
			return 0, io.EOF
		case come(e.resetAt, now):
			e.resetTold = true
			return 0, e.fail("read", os.NewSyscallError("read", e.cause()))
		}
		e.changed.wait(e.mu, earliest(e.readBy, e.resetAt, e.next(), e.expiry(), e.opening()))
	}
}

// Readable reports whether a Read would return at once: with data, or with the
// other side's end.
func (c *Conn) Readable() bool {
	e := c.end
	e.mu.Lock()
	defer e.mu.Unlock()
	now := time.Now()
	e.expire(now)
	return e.closed || e.unread(now) || e.finished(now) || come(e.resetAt, now)
}

// Write sends p as one segment and returns at once, unless the window is full:
// then it waits for the peer to read, and sends in pieces. Concurrent writes do
// not mix. After a reset the error wraps syscall.ECONNRESET the first time, if
// it was not told before, and else syscall.EPIPE, which is also that of a write
// after CloseWrite.
func (c *Conn) Write(p []byte) (int, error) {
	e := c.end
	e.mu.Lock()
	defer e.mu.Unlock()
	for e.writing {
		if err := e.writable(time.Now()); err != nil {
			return 0, err
		}
		e.changed.wait(e.mu, earliest(e.writeBy, e.resetAt, e.expiry()))
	}
	e.writing = true
	defer func() {
		e.writing, e.stalled = false, time.Time{}
		e.changed.broadcast()
	}()
	sent := 0
	for {
		now := time.Now()
		if err := e.writable(now); err != nil {
			return sent, err
		}
		sent += e.put(p[sent:], now)
		if sent == len(p) {
			return sent, nil
		}
		e.changed.wait(e.mu, earliest(e.writeBy, e.resetAt, e.nextCredit(), e.expiry(), e.opening()))
	}
}

// CloseWrite tells the other side, behind all data, that there is no more.
// Reading goes on.
func (c *Conn) CloseWrite() error {
	e := c.end
	e.mu.Lock()
	defer e.mu.Unlock()
	if e.closed {
		return e.fail("close", net.ErrClosed)
	}
	now := time.Now()
	if e.open(now) {
		e.finish(now)
	} else if !come(e.resetAt, now) {
		e.breakOff()
		e.giveUp(now, syscall.ECONNRESET)
	}
	e.changed.broadcast()
	return nil
}

// Close ends both directions and wakes whoever is blocked. What was written
// still arrives; but if something that has arrived was not read, or more
// arrives later, the other side gets a reset.
func (c *Conn) Close() error {
	e := c.end
	e.mu.Lock()
	defer e.mu.Unlock()
	if e.closed {
		return e.fail("close", net.ErrClosed)
	}
	now := time.Now()
	switch {
	case !e.open(now):
		e.breakOff()
	case e.unread(now):
		e.reset(now)
	default:
		e.finish(now)
	}
	e.shut(now)
	return nil
}

// Reset aborts the connection: what was written still arrives, and then the
// other side gets syscall.ECONNRESET. It does nothing after Close.
func (c *Conn) Reset() { c.abort(time.Now()) }

// abort is Reset, at a given time.
func (c *Conn) abort(at time.Time) {
	e := c.end
	e.mu.Lock()
	defer e.mu.Unlock()
	if e.closed {
		return
	}
	if e.open(at) {
		e.reset(at)
	} else {
		e.breakOff()
	}
	e.shut(at)
}

// LocalAddr returns our address, a *net.TCPAddr.
func (c *Conn) LocalAddr() net.Addr { return net.TCPAddrFromAddrPort(c.end.addr) }

// RemoteAddr returns the other side's address, a *net.TCPAddr.
func (c *Conn) RemoteAddr() net.Addr { return net.TCPAddrFromAddrPort(c.end.peer.addr) }

// SetDeadline sets both deadlines.
func (c *Conn) SetDeadline(t time.Time) error {
	return c.setDeadlines(func(e *end) { e.readBy, e.writeBy = t, t })
}

// SetReadDeadline ends present and future Reads at t with
// os.ErrDeadlineExceeded; zero means never.
func (c *Conn) SetReadDeadline(t time.Time) error {
	return c.setDeadlines(func(e *end) { e.readBy = t })
}

// SetWriteDeadline does the same for Writes.
func (c *Conn) SetWriteDeadline(t time.Time) error {
	return c.setDeadlines(func(e *end) { e.writeBy = t })
}

func (c *Conn) setDeadlines(set func(*end)) error {
	e := c.end
	e.mu.Lock()
	defer e.mu.Unlock()
	if e.closed {
		return e.fail("set", net.ErrClosed)
	}
	set(e)
	e.changed.broadcast()
	return nil
}

// Segments returns how many segments with data this end has sent, and how many
// have arrived here, read or not.
func (c *Conn) Segments() (sent, received int) {
	e := c.end
	e.mu.Lock()
	defer e.mu.Unlock()
	received = e.peer.sent - e.peer.lost
	now := time.Now()
	for _, p := range e.inbox {
		if !p.fin && p.at.After(now) {
			received--
		}
	}
	return e.sent, received
}
