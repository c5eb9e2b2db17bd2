package proxy

import (
	"crypto/tls"
	"net"
	"time"
)

// ackedOctets tells how many of the octets written on a connection that we dialled have been acknowledged by the other
// side's kernel: a mark that never goes back. Take one right before a flight and one after a failure, before the
// connection is closed: if both are ok and equal, nothing of the flight was acknowledged. Neither the SYN nor the
// reset counts; data that rode in the SYN does; our FIN counts as one octet, and is acknowledged behind all others.
//
// Not acknowledged is less than not received. Behind an orderly end of the other side, io.EOF, equal marks prove that
// it had closed before anything of the flight reached it. Behind a reset they leave one case open: it took the flight
// and aborted before its kernel got round to an acknowledgement, which Linux delays by up to 200 ms. Behind a timeout
// they prove nothing: the way back alone may be dead.
//
// ok is false where nobody counts: not TCP, closed by us, or a kernel that does not tell.
func ackedOctets(c net.Conn) (n int64, ok bool) {
	c = bare(c)
	if sim, is := c.(interface{ Acked() (int64, bool) }); is {
		return sim.Acked()
	}
	return kernelAcked(c)
}

// ackedByClient is ackedOctets for a connection that we accepted.
func ackedByClient(c net.Conn) (n int64, ok bool) {
	c = bare(c)
	if sim, is := c.(interface{ Acked() (int64, bool) }); is {
		return sim.Acked()
	}
	return kernelAckedByClient(c)
}

// closed tells whether a connection is over, so that nothing more will be
// acknowledged on it.
func closed(c net.Conn) bool { return kernelClosed(bare(c)) }

// limitUnacked has the kernel give a connection up, with ETIMEDOUT on the next read or write, once something written
// has stayed unacknowledged for d; 0 restores the system's limit, about 15 minutes. The other side's window, if it
// stays closed for d while there is more to send, is just such a failure: a hop that is slow to take a large text
// must be given more time. Where a connection cannot be told so, nothing but the time is lost.
func limitUnacked(c net.Conn, d time.Duration) {
	c = bare(c)
	if sim, is := c.(interface{ LimitUnacked(time.Duration) }); is {
		sim.LimitUnacked(d)
		return
	}
	kernelLimit(c, d)
}

// synData tells whether the other side has acknowledged data that rode in our SYN. Before its SYN-ACK is here it is
// false.
func synData(c net.Conn) (carried bool) {
	c = bare(c)
	if sim, is := c.(interface{ SynData() bool }); is {
		return sim.SynData()
	}
	return kernelSynData(c)
}

// bare unwraps a connection down to the one that the kernel, or a simulated network, knows.
func bare(c net.Conn) net.Conn {
	for {
		switch outer := c.(type) {
		case *wire:
			c = outer.Conn
		case *proxiedConn:
			c = outer.Conn
		case *tls.Conn:
			c = outer.NetConn()
		default:
			return c
		}
	}
}
