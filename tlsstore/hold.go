package tlsstore

import (
	"errors"
	"io"
	"net"
	"sync"
	"sync/atomic"
	"syscall"
)

// HeldConn keeps a TLS 1.3 session ticket out of the server's first flight.
//
// crypto/tls sends the ticket at the end of that flight, before the client has finished. Clients of Microsoft's break
// off then, which take the tickets of servers that make them later: https://github.com/golang/go/issues/70232; and the
// standard has them made later: https://www.rfc-editor.org/rfc/rfc8446#section-4.6.1. crypto/tls has no switch for it.
// So a HeldConn lies below the tls.Conn, is told when a ticket was made, cuts the record off the end of the write that
// carries it, and sends it later: at Release, else in front of the next write. The order of records never changes, and
// nothing else is touched: neither TLS 1.2, where the ticket is part of the handshake, nor a write whose end does not
// look like a ticket.
//
// Nothing is sent from Read, which cannot know whether crypto/tls has the client's Finished yet; the caller does, and
// has Release. If neither that nor a write ever comes, the client has no ticket, and loses nothing else; even the alert
// that says goodbye is a write.
type HeldConn struct {
	net.Conn
	count *ticketCounters // may be nil

	mu    sync.Mutex // the writing side; a read never waits for a write
	sizes []int      // of tickets that were made since the last write
	held  []byte     // records that are not sent yet
	err   error      // a write failed halfway: whatever is written from now on would make no sense

	// How much of a dummyCCS the client has sent since the first flight, or since its ticket, and nothing else; plus
	// one. 0 is a client that said more, or that had nothing to break on.
	quiet atomic.Int32
	left  atomic.Bool // it is gone
}

// HoldTicket puts a HeldConn over the connection that a tls.Server will use. [Tickets.Configure] must be told of it.
func HoldTicket(conn net.Conn) *HeldConn { return &HeldConn{Conn: conn} }

// expect says that the next write ends in a ticket of that many octets.
func (c *HeldConn) expect(ticket int) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.sizes = append(c.sizes, ticket)
}

// Write implements [net.Conn]. What is held back counts as written.
func (c *HeldConn) Write(p []byte) (int, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	switch {
	case c.err != nil:
		return 0, c.err
	case len(c.sizes) > 0:
		return c.hold(p)
	case len(c.held) > 0:
		return c.send(p)
	}
	return c.Conn.Write(p)
}

// hold writes p without the tickets at its end.
func (c *HeldConn) hold(p []byte) (int, error) {
	cut, ok := cutTickets(p, c.sizes)
	if c.count != nil {
		if ok {
			c.count.held.Add(uint64(len(c.sizes)))
		} else {
			c.count.slipped.Add(uint64(len(c.sizes)))
		}
	}
	c.sizes = nil
	c.quiet.Store(1)
	tail := append([]byte(nil), p[cut:]...)
	if cut > 0 {
		if n, err := c.send(p[:cut]); err != nil {
			return n, err
		}
	}
	c.held = append(c.held, tail...)
	return len(p), nil
}

// send writes what is held, and p, in one write.
func (c *HeldConn) send(p []byte) (int, error) {
	before := len(c.held)
	if before == 0 {
		return c.Conn.Write(p)
	}
	all := append(c.held, p...)
	c.held = nil
	c.quiet.Store(1)
	n, err := c.Conn.Write(all)
	if err != nil {
		c.err = err
	} else if c.count != nil {
		c.count.released.Add(1)
	}
	return max(n-before, 0), err
}

// Release sends the ticket at once, in a packet of its own, as servers do that have the client's Finished before they
// make one. It is for the caller of a handshake that went well. Without it the ticket travels in front of the next
// write: a packet less and as many trips, but a client that waits for the ticket before it speaks waits in vain. An
// error is that of the write; the connection is then of no more use.
func (c *HeldConn) Release() error {
	c.mu.Lock()
	defer c.mu.Unlock()
	if len(c.held) == 0 {
		return c.err
	}
	_, err := c.send(nil)
	return err
}

// Read implements [net.Conn].
func (c *HeldConn) Read(p []byte) (int, error) {
	n, err := c.Conn.Read(p)
	if quiet := c.quiet.Load(); quiet > 0 {
		heard := dummyCCS[quiet-1:]
		switch {
		case n > 0 && n <= len(heard) && string(heard[:n]) == string(p[:n]):
			c.quiet.CompareAndSwap(quiet, quiet+int32(n)) // unless the next thing was just sent
		case n > 0:
			c.quiet.CompareAndSwap(quiet, 0)
		case errors.Is(err, io.EOF) || errors.Is(err, syscall.ECONNRESET):
			c.left.Store(true)
		}
	}
	return n, err
}

// dummyCCS is what a client of TLS 1.3 may say before it has anything to say, for the sake of old boxes on the way.
// https://www.rfc-editor.org/rfc/rfc8446#appendix-D.4
var dummyCCS = [...]byte{tlsChangeCipherSpec, 3, 3, 0, 1, 1}

// Left reports whether the client went away without a word after it was sent the first flight of a handshake with a
// ticket, or after the ticket: what a client does that breaks on tickets. So does one that had said all it had to say;
// the caller knows whether that was QUIT.
func (c *HeldConn) Left() bool { return c.left.Load() }

// CloseWrite sends what is held and ends our side of the connection, where that can be done.
func (c *HeldConn) CloseWrite() error {
	half, ok := c.Conn.(interface{ CloseWrite() error })
	if !ok {
		return errors.ErrUnsupported
	}
	_ = c.Release() // the other side may be gone; what matters is that ours ends
	return half.CloseWrite()
}

// SyscallConn implements [syscall.Conn] where the connection below does.
func (c *HeldConn) SyscallConn() (syscall.RawConn, error) {
	raw, ok := c.Conn.(syscall.Conn)
	if !ok {
		return nil, errors.ErrUnsupported
	}
	return raw.SyscallConn()
}

// NetConn returns the connection below. Writing to it breaks the order of records.
func (c *HeldConn) NetConn() net.Conn { return c.Conn }

// https://www.rfc-editor.org/rfc/rfc8446#section-5.1 and, for what seals a record,
// https://www.rfc-editor.org/rfc/rfc8446#section-5.2
const (
	tlsRecordHeader = 5
	maxTLSRecord    = 1<<14 + 256

	tlsChangeCipherSpec = 20
	tlsApplicationData  = 23
)

// The octets of a record that are not the ticket in it: the message's header, its life, age_add, nonce and lengths, the
// true type of the record, and the tag. crypto/tls has 34 of them; a nonce or an extension makes more.
// https://www.rfc-editor.org/rfc/rfc8446#section-4.6.1
const (
	minTicketFrame = 4 + 4 + 4 + 1 + 2 + 2 + 1 + 16
	maxTicketFrame = minTicketFrame + 256
)

// cutTickets returns where in p, a sequence of whole records, the tickets of those sizes begin, which are its last.
// If anything is not just so it returns len(p) and false: a ticket in the wrong place does less harm than a record that
// is missing.
func cutTickets(p []byte, sizes []int) (int, bool) {
	var starts []int
	for at := 0; at < len(p); {
		size, ok := tlsRecordSize(p[at:])
		if !ok {
			return len(p), false
		}
		starts = append(starts, at)
		at += size
	}
	if len(starts) < len(sizes) {
		return len(p), false
	}
	tail := starts[len(starts)-len(sizes):]
	for i, at := range tail {
		size, _ := tlsRecordSize(p[at:])
		frame := size - tlsRecordHeader - sizes[i]
		if p[at] != tlsApplicationData || frame < minTicketFrame || frame > maxTicketFrame {
			return len(p), false
		}
	}
	if len(tail) == 0 {
		return len(p), true
	}
	return tail[0], true
}

// tlsRecordSize returns the octets of the record that p begins with.
func tlsRecordSize(p []byte) (int, bool) {
	if len(p) < tlsRecordHeader {
		return 0, false
	}
	size := int(p[3])<<8 | int(p[4])
	switch {
	case p[0] < tlsChangeCipherSpec || p[0] > tlsApplicationData:
		return 0, false
	case p[1] != 3 || p[2] != 3: // what TLS 1.2 and 1.3 servers write
		return 0, false
	case size == 0 || size > maxTLSRecord || len(p) < tlsRecordHeader+size:
		return 0, false
	}
	return tlsRecordHeader + size, true
}
