package proxy

import (
	"context"
	"net"
	"net/netip"
	"strings"
	"sync"
	"time"

	"slipstream/proxy/route"
	"slipstream/smtpwire"
)

// A foothold is a connection to where a client meant to go, opened before the
// client is greeted. Some clients turn to their next host only where the first
// could not be connected to (OpenSMTPD 6.8: whatever is said later puts the
// message off). It spares nothing and costs nothing: the connection is the one
// that the first transaction goes over, and its place is that one's.
type foothold struct {
	wires *wireSet
	to    netip.AddrPort
	made  time.Time
	timer *time.Timer // closes it

	mu    sync.Mutex
	wire  *wire // nil: it was taken, or closed
	place *hopPlace
}

// maxFoothold is how long such a connection is kept. Who accepted it waits for
// our first word, busy servers for ten seconds (Postfix under stress), and others
// may wait for its place.
const maxFoothold = 8 * time.Second

// newFoothold stands on a connection.
func newFoothold(wires *wireSet, to netip.AddrPort, conn net.Conn, place *hopPlace) *foothold {
	a := &foothold{wires: wires, to: to, made: time.Now(), wire: newWire(conn, true), place: place}
	wires.add(a.wire)
	a.mu.Lock()
	defer a.mu.Unlock()
	a.timer = time.AfterFunc(maxFoothold, a.close)
	return a
}

// take hands the connection out, once, and its place.
func (a *foothold) take(to netip.AddrPort) (net.Conn, *hopPlace) {
	a.mu.Lock()
	defer a.mu.Unlock()
	w := a.wire
	if w == nil || to != a.to {
		return nil, nil
	}
	a.timer.Stop()
	a.wire = nil
	a.wires.remove(w)
	return w.Conn, a.place
}

// close ends what nobody took.
func (a *foothold) close() {
	if a == nil {
		return
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	if w := a.wire; w != nil {
		a.timer.Stop()
		a.wire = nil
		_ = w.Close() // nothing was said on it
		a.wires.remove(w)
		a.place.end(false)
	}
}

type footholdKey struct{}

// withFoothold has the session's hop be called on the connection that is there.
func (s *session) withFoothold(ctx context.Context) context.Context {
	if s.opened == nil {
		return ctx
	}
	return context.WithValue(ctx, footholdKey{}, s.opened)
}

// onFoothold is the connection to an address that was opened before it was asked
// for, with its place; nil: there is none.
func (c *caller) onFoothold(ctx context.Context, try call) *berthed {
	a, ok := ctx.Value(footholdKey{}).(*foothold)
	if !ok || c.isOwn(try.addr) {
		return nil
	}
	conn, place := a.take(try.addr)
	if conn == nil {
		return nil
	}
	if c.pool == nil {
		return &berthed{Conn: conn}
	}
	place.move(destination{try.key.door, try.key.route})
	// Nobody waits here: there are no footholds where connections to a hop are limited.
	_, b, err := c.pool.enter(ctx, try.key, try.addr.String(), poolLimits{})
	if err != nil {
		_ = conn.Close()
		place.end(false)
		return nil
	}
	b.place, b.since = place, a.made
	return &berthed{Conn: conn, berth: b}
}

// reach connects to where the client meant to go, where that is not known to be
// possible. The refusal of a client whose host cannot be reached is its greeting.
func (s *session) reach(ctx context.Context) (smtpwire.Reply, bool) {
	ic, c := s.door.intercepts, s.door.caller
	if ic == nil || c.fastOpen != fastOff && c.dialFast != nil || c.warm.connections > 0 {
		return smtpwire.Reply{}, true // the SYN is for what is said first
	}
	to := s.client.local
	if c.pool != nil && c.pool.idleTo(c, route.OriginalKey(to)) {
		return smtpwire.Reply{}, true
	}
	place, ok := c.places().spare(destination{c.door, route.OriginalKey(to)})
	if !ok {
		return smtpwire.Reply{}, true // what the client sends will stand in line
	}
	defer ic.dials.begin(to)()
	label := hopLabel("", to)
	conn, err := c.dialAddress(ctx, c.dial, call{label: label, addr: to})
	if err != nil {
		place.leave()
		return s.door.handedOn(s.door.attribution.explained(refusal(err, false, s.id), err), err), false
	}
	s.opened = newFoothold(c.wires, to, conn, place)
	if refused, yes := s.comesBack(); yes {
		return refused, false
	}
	return smtpwire.Reply{}, true
}

// idleTo tells whether a connection is kept for a route whose key begins so.
func (p *pool) idleTo(c *caller, key string) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	for k := range p.shelves {
		if k.caller == c && strings.HasPrefix(k.route, key) {
			return true
		}
	}
	return false
}

// dialling knows which addresses are being connected to. A connection of ours that
// comes back may be here before the other end knows that it is connected.
type dialling struct {
	mu    sync.Mutex
	under map[netip.AddrPort]map[chan struct{}]bool
}

// begin notes a connection that is being made; the function ends that.
func (d *dialling) begin(to netip.AddrPort) (end func()) {
	done := make(chan struct{})
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.under == nil {
		d.under = make(map[netip.AddrPort]map[chan struct{}]bool)
	}
	if d.under[to] == nil {
		d.under[to] = make(map[chan struct{}]bool)
	}
	d.under[to][done] = true
	return func() {
		d.mu.Lock()
		defer d.mu.Unlock()
		close(done)
		if delete(d.under[to], done); len(d.under[to]) == 0 {
			delete(d.under, to)
		}
	}
}

// settleWait is how long one's own connection to this machine takes to be made, at most.
const settleWait = 20 * time.Millisecond

// settle waits until the connections that are being made to an address now have
// been, if they are to this machine.
func (d *dialling) settle(to netip.AddrPort) {
	d.mu.Lock()
	var under []chan struct{}
	for done := range d.under[to] {
		under = append(under, done)
	}
	d.mu.Unlock()
	if len(under) == 0 {
		return
	}
	timer := time.NewTimer(settleWait)
	defer timer.Stop()
	for _, done := range under {
		select {
		case <-done:
		case <-timer.C:
			return
		}
	}
}
