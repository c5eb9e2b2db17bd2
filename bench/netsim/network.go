package netsim

import (
	"context"
	"fmt"
	"net"
	"net/netip"
	"os"
	"strings"
	"sync"
	"syscall"
	"time"
)

// Limits of a network.
const (
	// DefaultWindow is how many octets may be on the way or unread in one
	// direction of a connection, if Network.Window does not say otherwise.
	DefaultWindow = 1 << 20

	// MaxBacklog is how many connections wait for Accept at one listener. One
	// more is refused.
	MaxBacklog = 1024

	// ConnectTimeout is when a Dial that nobody answers gives up, unless its
	// context ends before: what Linux takes for its seven SYNs, rounded.
	ConnectTimeout = 127 * time.Second
)

// Ephemeral ports, https://www.rfc-editor.org/rfc/rfc6335#section-6.
const (
	firstEphemeral = 49152
	lastEphemeral  = 65535
)

// Link is the way between two addresses, the same in both directions and shared
// by all connections between them. The zero Link takes no time.
type Link struct {
	Delay     time.Duration // one way
	Bandwidth int64         // octets per second each way, data only; 0 = unlimited
}

// RTT returns what one round trip takes.
func (l Link) RTT() time.Duration { return 2 * l.Delay }

// Network is a set of addresses that can reach each other. The zero value is
// ready to use and delays nothing. The fields must be set before the first Dial;
// the methods may be called at any time, from several goroutines.
type Network struct {
	// Default is the link between addresses for which SetLink was not called.
	Default Link

	// Window is the capacity, in octets, of each direction of a connection:
	// Write blocks while that much is on the way or unread. 0 means
	// DefaultWindow.
	Window int

	// Trace, if not nil, is told of every segment when it leaves. It is called
	// under the locks of the network, one call at a time: it must return soon,
	// and use neither the network nor a connection.
	Trace func(Segment)

	// TraceData is how many octets of each segment Trace gets to see. 0 means
	// MaxTraceData.
	TraceData int

	mu        sync.Mutex
	listeners map[netip.AddrPort]*Listener
	links     map[route]Link
	busy      map[route]time.Time          // until when the line sends what it already took
	holes     map[netip.AddrPort]time.Time // since when
	fastOpen  map[netip.AddrPort]bool      // listeners that take data in SYNs
	cookies   map[route]bool               // who may send it where
	ports     int                          // ephemeral ports given out so far
}

// route is one direction between two addresses.
type route struct{ from, to netip.Addr }

// New returns a network without any delay.
func New() *Network { return new(Network) }

// SetLink sets the link between two IP addresses. What is already on the way is
// not hurried, nor overtaken. It panics if an address is malformed, as a test
// that names such an address cannot go on.
func (n *Network) SetLink(a, b string, l Link) {
	from, to := netip.MustParseAddr(a).Unmap(), netip.MustParseAddr(b).Unmap()
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.links == nil {
		n.links = make(map[route]Link)
	}
	n.links[route{from, to}] = l
	n.links[route{to, from}] = l
}

// Blackhole makes an IP address ("192.0.2.1") or one of its ports
// ("192.0.2.1:25") vanish for good: from now on whatever is sent to it or from
// it is lost, SYNs included, and nobody is told. It panics if the address is
// malformed.
func (n *Network) Blackhole(address string) {
	hole, err := netip.ParseAddrPort(address)
	if err != nil {
		hole = netip.AddrPortFrom(netip.MustParseAddr(address), 0)
	}
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.holes == nil {
		n.holes = make(map[netip.AddrPort]time.Time)
	}
	if hole = unmap(hole); n.holes[hole].IsZero() {
		n.holes[hole] = time.Now()
	}
}

// Dial opens a connection from an IP address, with or without a port, to an
// address with a port. It returns after one round trip. Without a port, or with
// port 0, the next ephemeral one is used; a named port is not checked for being
// in use. The connection is a *Conn.
//
// Errors are of type *net.OpError. Where nobody listens it wraps
// syscall.ECONNREFUSED, after one round trip; where nobody answers,
// syscall.ETIMEDOUT after ConnectTimeout; else the error of ctx.
func (n *Network) Dial(ctx context.Context, from, to string) (net.Conn, error) {
	return n.dial(ctx, from, to, n.connect)
}

// A connector opens a connection between two addresses.
type connector func(ctx context.Context, client, server netip.AddrPort) (*Conn, error)

func (n *Network) dial(ctx context.Context, from, to string, connect connector) (net.Conn, error) {
	server, err := netip.ParseAddrPort(to)
	if err != nil {
		return nil, &net.OpError{Op: "dial", Net: "tcp", Err: err}
	}
	client, err := n.source(from)
	if err != nil {
		return nil, &net.OpError{Op: "dial", Net: "tcp", Addr: net.TCPAddrFromAddrPort(server), Err: err}
	}
	c, err := connect(ctx, client, unmap(server))
	if err != nil {
		return nil, &net.OpError{Op: "dial", Net: "tcp", Source: net.TCPAddrFromAddrPort(client),
			Addr: net.TCPAddrFromAddrPort(server), Err: err}
	}
	return c, nil
}

// Dialer returns Dial for callers that are used to net.Dialer and name their
// source address themselves, or leave it to the system: then it is from. The
// network must be a kind of tcp.
func (n *Network) Dialer(from string) func(ctx context.Context, network string, source netip.Addr, to string) (net.Conn, error) {
	return n.dialer(from, n.connect)
}

func (n *Network) dialer(from string, connect connector) func(
	ctx context.Context, network string, source netip.Addr, to string) (net.Conn, error) {
	return func(ctx context.Context, network string, source netip.Addr, to string) (net.Conn, error) {
		if !strings.HasPrefix(network, "tcp") {
			return nil, &net.OpError{Op: "dial", Net: network, Err: net.UnknownNetworkError(network)}
		}
		if source.IsValid() {
			return n.dial(ctx, source.String(), to, connect)
		}
		return n.dial(ctx, from, to, connect)
	}
}

// Pair returns both ends of a connection over l that is already established, on
// a network of its own: the first is the one that dialed.
func Pair(l Link) (client, server *Conn) {
	n := &Network{Default: l}
	return newPair(n, netip.MustParseAddrPort("192.0.2.1:49152"), netip.MustParseAddrPort("192.0.2.2:25"))
}

// connect is the three-way handshake. The last third, our ACK, only matters to
// the listener and is not traced.
func (n *Network) connect(ctx context.Context, client, server netip.AddrPort) (*Conn, error) {
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	arrival, ok := n.transmit(Segment{At: time.Now(), From: client, To: server, SYN: true})
	if !ok {
		return nil, unanswered(ctx)
	}
	if err := sleepUntil(ctx, arrival); err != nil {
		return nil, err
	}
	ln := n.listener(server)
	arrival, ok = n.transmit(Segment{At: arrival, From: server, To: client, SYN: ln != nil, RST: ln == nil})
	if !ok {
		return nil, unanswered(ctx)
	}
	if err := sleepUntil(ctx, arrival); err != nil {
		return nil, err
	}
	if ln == nil {
		return nil, os.NewSyscallError("connect", syscall.ECONNREFUSED)
	}
	near, far := newPair(n, client, server)
	ln.deliver(far, arrival.Add(n.link(route{client.Addr(), server.Addr()}).Delay))
	return near, nil
}

// source returns the address to dial from.
func (n *Network) source(from string) (netip.AddrPort, error) {
	ap, err := netip.ParseAddrPort(from)
	if err != nil {
		addr, err := netip.ParseAddr(from)
		if err != nil {
			return ap, fmt.Errorf("source %q is neither an IP address nor one with a port", from)
		}
		ap = netip.AddrPortFrom(addr, 0)
	}
	ap = unmap(ap)
	if ap.Port() == 0 {
		n.mu.Lock()
		defer n.mu.Unlock()
		ap = netip.AddrPortFrom(ap.Addr(), n.ephemeral())
	}
	return ap, nil
}

// ephemeral returns the next port. n.mu is held.
func (n *Network) ephemeral() uint16 {
	p := firstEphemeral + n.ports%(lastEphemeral-firstEphemeral+1)
	n.ports++
	return uint16(p)
}

// link returns the link that a route uses.
func (n *Network) link(r route) Link {
	n.mu.Lock()
	defer n.mu.Unlock()
	return n.linkLocked(r)
}

func (n *Network) linkLocked(r route) Link {
	if l, ok := n.links[r]; ok {
		return l
	}
	return n.Default
}

// unanswered waits for what never comes.
func unanswered(ctx context.Context) error {
	if err := sleepUntil(ctx, time.Now().Add(ConnectTimeout)); err != nil {
		return err
	}
	return os.NewSyscallError("connect", syscall.ETIMEDOUT)
}

// sleepUntil returns at t, or with the error of ctx when that ends before.
func sleepUntil(ctx context.Context, t time.Time) error {
	wait := time.Until(t)
	if wait <= 0 {
		return ctx.Err()
	}
	timer := time.NewTimer(wait)
	defer timer.Stop()
	select {
	case <-timer.C:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

// unmap makes ::ffff:192.0.2.1 and 192.0.2.1 one address.
func unmap(a netip.AddrPort) netip.AddrPort {
	return netip.AddrPortFrom(a.Addr().Unmap(), a.Port())
}
