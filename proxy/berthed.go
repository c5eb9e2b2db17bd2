package proxy

import (
	"context"
	"net"

	"slipstream/proxy/route"
)

// A berthed connection has a place among those to its hop, or came from who gave
// its own away: then it is a peer that is ready.
type berthed struct {
	net.Conn
	berth *berth
	fast  bool  // what is said first may ride in the SYN
	peer  *peer // came free while we waited; else nil
	back  func(*peer)
}

// Close gives up what nobody wants after all.
func (b *berthed) Close() error {
	if b.peer != nil {
		b.back(b.peer)
		return nil
	}
	err := b.Conn.Close()
	b.berth.leave()
	return err
}

// pools tells whether connections are kept for whoever comes next. Those on which
// a backend was told who the client is are for that client's session alone.
func (c *caller) pools() bool {
	return c.pool != nil && c.warm.idle > 0 && !c.personal()
}

// warmKey is what a connection is kept under.
func (c *caller) warmKey(r route.Route) poolKey {
	return poolKey{caller: c, door: c.door, route: r.Key}
}

// connect opens a connection when there is room for one to its hop.
func (c *caller) connect(ctx context.Context, key poolKey, hop string, dial func(context.Context) (net.Conn, error)) (*berthed, error) {
	if c.pool == nil {
		conn, err := dial(ctx)
		if err != nil {
			return nil, err
		}
		return &berthed{Conn: conn}, nil
	}
	p, place, err := c.enter(ctx, key, hop)
	if err != nil {
		return nil, err
	}
	if p != nil {
		return &berthed{Conn: p.wire, peer: p, back: func(p *peer) { c.pool.put(key, c.warm, p) }}, nil
	}
	conn, err := dial(ctx)
	if err != nil {
		place.leave()
		return nil, err
	}
	return &berthed{Conn: conn, berth: place}, nil
}

// anew is connect for an address that is tried a second time: a peer that came
// free is as little use as the connection before, but for its place.
func (c *caller) anew(ctx context.Context, try call) (*berthed, error) {
	try.lockStep = true // in the way that works if any does
	b, err := c.address(ctx, try)
	if err != nil || b.peer == nil {
		return b, err
	}
	place := b.peer.berth
	b.peer.berth = nil
	b.peer.close()
	conn, err := c.dialAddress(ctx, c.dial, try)
	if err != nil {
		place.leave()
		return nil, err
	}
	return &berthed{Conn: conn, berth: place}, nil
}
