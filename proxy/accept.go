package proxy

import (
	"bufio"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"time"

	"github.com/pires/go-proxyproto"
	"go.uber.org/zap"

	"slipstream/smtpwire"
)

// Pauses of an accept loop that meets passing trouble (no descriptors left).
const (
	acceptPause    = 5 * time.Millisecond
	acceptPauseMax = time.Second
)

// accept takes clients in at one address until it is closed.
func (p *Proxy) accept(pt *port) {
	pause := acceptPause
	for {
		conn, err := pt.ln.Accept()
		switch {
		case err == nil:
			pause = acceptPause
			p.work.Go(func() { p.receive(pt, conn) })
		case errors.Is(err, net.ErrClosed) || p.base.Err() != nil:
			return
		default:
			p.log.Warn("cannot accept a connection", zap.Stringer("listen", pt.ln.Addr()), zap.Error(err))
			select {
			case <-time.After(pause):
			case <-p.base.Done():
				return
			}
			pause = min(2*pause, acceptPauseMax)
		}
	}
}

// receive serves one client from accept to close.
func (p *Proxy) receive(pt *port, conn net.Conn) {
	defer p.survive(pt)
	defer conn.Close() // the session has closed it in order; this is for all other ways out
	way := pt.way.Load()
	d := way.door
	conn, from, to, ok := p.meet(d, conn)
	if !ok {
		return
	}
	w := newWire(conn, false)
	refused, ok := p.gate.enter(from.Addr(), d.limits.MaxConnections, d.perClient())
	if !ok {
		p.turnAway(d, w, from, refused)
		return
	}
	defer p.gate.leave(from.Addr())
	p.serve(d, way.implicit, w, from, to)
}

// meet finds out who came, and to where: what the connection says, or a proxy
// that must speak for its clients. It returns the connection to go on with.
func (p *Proxy) meet(d *door, conn net.Conn) (_ net.Conn, from, to netip.AddrPort, ok bool) {
	from, to = addrPort(conn.RemoteAddr()), addrPort(conn.LocalAddr())
	if !d.proxied.Contains(from.Addr()) {
		return conn, from, to, true
	}
	behind, err := unwrapProxy(conn)
	if err != nil {
		p.log.Warn("no usable PROXY header from a network that must send one",
			zap.String("door", d.name), zap.Stringer("from", from), zap.Error(err))
		return conn, from, to, false
	}
	if behind.from.IsValid() {
		from, to = behind.from, behind.to
	}
	return behind, from, to, true
}

// survive keeps an error of ours in one session from ending all the others. The
// client hears nothing and tries again.
func (p *Proxy) survive(pt *port) {
	if r := recover(); r != nil {
		name := pt.way.Load().door.name
		p.metrics.panicked(name)
		p.log.Error("a session broke by an error in Slipstream", zap.String("door", name), zap.Any("panic", r), zap.Stack("stack"))
	}
}

// maxGoodbyes bounds how many clients at a time are told why there is no room for
// them. They come on top of those that are in.
const maxGoodbyes = 64

// turnAwayWait bounds how long a client that finds no room is spoken to.
const turnAwayWait = time.Second

func (p *Proxy) turnAway(d *door, w *wire, from netip.AddrPort, refused smtpwire.Reply) {
	select {
	case p.goodbyes <- struct{}{}:
		defer func() { <-p.goodbyes }()
	default:
		return // too many at once: without a word
	}
	p.metrics.away(d.name, refused)
	p.log.Warn("turned away", zap.String("door", d.name), zap.Stringer("client", from), zap.String("reply", refused.String()))
	w.wait("turning a client away", turnAwayWait)
	_, _ = w.Write(refused.AppendTo(nil)) // it is turned away either way
	w.linger()
}

// serve runs the session of a client that was let in.
func (p *Proxy) serve(d *door, implicit bool, w *wire, from, to netip.AddrPort) {
	p.wires.add(w)
	defer p.wires.remove(w)
	s := d.newSession(p.base, w, newSessionID(p.ids.Add(1)), from, to)
	if !p.enter(s) {
		p.turnAway(d, w, from, d.shuttingDown())
		return
	}
	defer p.leave(s)
	p.metrics.entered(d.name)
	defer p.metrics.left(d.name)
	defer func() { s.client.admission.over(s.polite) }()
	if implicit && !s.secure(p.base) {
		return
	}
	if implicit {
		s.seq.Secured()
	}
	s.serve(p.base)
}

func (p *Proxy) enter(s *session) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.stopping {
		return false
	}
	p.sessions[s] = struct{}{}
	return true
}

func (p *Proxy) leave(s *session) {
	p.mu.Lock()
	defer p.mu.Unlock()
	delete(p.sessions, s)
}

// proxyHeaderWait is how long a trusted proxy has to say whom it speaks for, as
// Exim has it (3 s).
const proxyHeaderWait = 3 * time.Second

// A proxiedConn is a connection behind whose PROXY header the client's own
// octets follow, perhaps in the same segment.
type proxiedConn struct {
	net.Conn
	r        *bufio.Reader // nil once it is drained
	from, to netip.AddrPort
}

// unwrapProxy reads the PROXY header, which must be there. A header without an
// address (LOCAL, UNKNOWN: the proxy's own health check) leaves from invalid.
func unwrapProxy(conn net.Conn) (*proxiedConn, error) {
	if err := conn.SetReadDeadline(time.Now().Add(proxyHeaderWait)); err != nil {
		return nil, err
	}
	r := bufio.NewReader(conn)
	header, err := proxyproto.Read(r)
	if err != nil {
		return nil, fmt.Errorf("PROXY header: %w", err)
	}
	pc := &proxiedConn{Conn: conn, r: r}
	if header.Command.IsProxy() && header.TransportProtocol.IsStream() {
		pc.from, pc.to = addrPort(header.SourceAddr), addrPort(header.DestinationAddr)
	}
	return pc, conn.SetReadDeadline(time.Time{})
}

// Read implements [net.Conn].
func (c *proxiedConn) Read(p []byte) (int, error) {
	if c.r == nil {
		return c.Conn.Read(p)
	}
	if c.r.Buffered() == 0 {
		c.r = nil
		return c.Conn.Read(p)
	}
	return c.r.Read(p[:min(len(p), c.r.Buffered())])
}

// Readable tells whether a read would return at once.
func (c *proxiedConn) Readable() bool { return c.r != nil && c.r.Buffered() > 0 || readable(c.Conn) }

// CloseWrite passes a half-close on.
func (c *proxiedConn) CloseWrite() error {
	half, ok := c.Conn.(interface{ CloseWrite() error })
	if !ok {
		return errors.ErrUnsupported
	}
	return half.CloseWrite()
}

var _ net.Conn = (*proxiedConn)(nil)
