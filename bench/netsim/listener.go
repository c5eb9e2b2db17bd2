package netsim

import (
	"errors"
	"net"
	"net/netip"
	"os"
	"sync"
	"syscall"
	"time"
)

// Listener is a net.Listener at one address of a Network.
type Listener struct {
	net  *Network
	addr netip.AddrPort

	mu      sync.Mutex
	changed signal
	waiting []pending
	closed  bool
}

// pending is a connection whose last ACK is on its way.
type pending struct {
	conn  *Conn
	ready time.Time
}

// Listen opens an address with a port for connections; port 0 takes the next
// ephemeral one. There are no wildcards: an address is one IP address. The
// result is a *Listener. Errors are of type *net.OpError and wrap
// syscall.EADDRINUSE if there is a listener.
func (n *Network) Listen(address string) (net.Listener, error) {
	addr, err := netip.ParseAddrPort(address)
	if err == nil && addr.Addr().IsUnspecified() {
		err = errors.New("an unspecified address cannot be reached")
	}
	if err != nil {
		return nil, &net.OpError{Op: "listen", Net: "tcp", Err: err}
	}
	addr = unmap(addr)
	n.mu.Lock()
	defer n.mu.Unlock()
	if addr.Port() == 0 {
		addr = netip.AddrPortFrom(addr.Addr(), n.ephemeral())
	}
	if n.listeners[addr] != nil {
		return nil, &net.OpError{Op: "listen", Net: "tcp", Addr: net.TCPAddrFromAddrPort(addr),
			Err: os.NewSyscallError("bind", syscall.EADDRINUSE)}
	}
	l := &Listener{net: n, addr: addr}
	if n.listeners == nil {
		n.listeners = make(map[netip.AddrPort]*Listener)
	}
	n.listeners[addr] = l
	return l, nil
}

// listener returns who takes connections at an address, or nil.
func (n *Network) listener(addr netip.AddrPort) *Listener {
	n.mu.Lock()
	l := n.listeners[addr]
	n.mu.Unlock()
	if l == nil || l.full() {
		return nil
	}
	return l
}

// Accept waits for the next connection: one and a half round trips after its
// Dial began, half of one where data came in the SYN. The connection is a *Conn. After Close the error wraps
// net.ErrClosed.
func (l *Listener) Accept() (net.Conn, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	for {
		if l.closed {
			return nil, l.fail("accept")
		}
		first := l.first()
		if first < 0 {
			l.changed.wait(&l.mu, time.Time{})
			continue
		}
		p := l.waiting[first]
		if time.Now().Before(p.ready) {
			l.changed.wait(&l.mu, p.ready)
			continue
		}
		l.waiting = append(l.waiting[:first], l.waiting[first+1:]...)
		return p.conn, nil
	}
}

// Close refuses further connections and resets those that Accept did not return.
func (l *Listener) Close() error {
	l.net.mu.Lock()
	if l.net.listeners[l.addr] == l {
		delete(l.net.listeners, l.addr)
	}
	l.net.mu.Unlock()

	l.mu.Lock()
	defer l.mu.Unlock()
	if l.closed {
		return l.fail("close")
	}
	l.closed = true
	now := time.Now()
	for _, p := range l.waiting {
		p.conn.abort(later(now, p.ready))
	}
	l.waiting = nil
	l.changed.broadcast()
	return nil
}

// Addr returns the address, a *net.TCPAddr.
func (l *Listener) Addr() net.Addr { return net.TCPAddrFromAddrPort(l.addr) }

// deliver hands over a connection that is open once the ACK arrives.
func (l *Listener) deliver(c *Conn, ready time.Time) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.closed || len(l.waiting) >= MaxBacklog {
		c.abort(ready)
		return
	}
	l.waiting = append(l.waiting, pending{c, ready})
	l.changed.broadcast()
}

// first returns the index of what is ready first, or -1.
func (l *Listener) first() int {
	first := -1
	for i, p := range l.waiting {
		if first < 0 || p.ready.Before(l.waiting[first].ready) {
			first = i
		}
	}
	return first
}

func (l *Listener) full() bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	return len(l.waiting) >= MaxBacklog
}

func (l *Listener) fail(op string) error {
	return &net.OpError{Op: op, Net: "tcp", Addr: l.Addr(), Err: net.ErrClosed}
}
