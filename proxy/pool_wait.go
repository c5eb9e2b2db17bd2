package proxy

import (
	"container/list"
	"context"
	"fmt"
	"time"
)

// A hopKey is what hop_connections counts by: a door, whose limit it is, and one
// address. The name of a door outlives a reload, so what was opened before it
// counts too.
type hopKey struct{ door, hop string }

// A poolHop is who has, and who waits for, connections to one hop.
type poolHop struct {
	open    int     // idle ones included
	idle    []*kept // the longest idle first
	waiting list.List
}

// A berth is the place of one open connection among those to its hop. Who gets
// it leaves it when the connection is closed, or was never made.
type berth struct {
	pool  *pool
	hop   hopKey
	place *hopPlace // among all connections; nil: nobody counts them
	since time.Time // it was taken: the connection is no older
	left  bool
}

// A waiter waits for a berth, or for a connection of its key.
type waiter struct {
	key   poolKey
	limit int
	got   chan grant // holds one
}

// A grant is one of the two.
type grant struct {
	peer  *peer
	berth *berth
}

func (h *poolHop) first() *waiter { return h.waiting.Front().Value.(*waiter) }
func (h *poolHop) pop() *waiter   { return h.waiting.Remove(h.waiting.Front()).(*waiter) }

// enter asks for a place for one more open connection to a hop, named by its
// address. Where there are as many as the limit allows it waits, and who came
// first is served first; an idle connection of another key makes room. Instead
// of a berth it may give a connection of the key that came free meanwhile, in
// good order and the caller's as from get. The error is the end of ctx, with what
// was waited for.
func (p *pool) enter(ctx context.Context, k poolKey, hop string, l poolLimits) (*peer, *berth, error) {
	at := hopKey{k.door, hop}
	p.mu.Lock()
	h := p.hops[at]
	if h == nil {
		h = new(poolHop)
		p.hops[at] = h
	}
	if l.connections == 0 || h.waiting.Len() == 0 && h.open < l.connections {
		h.open++
		p.mu.Unlock()
		return nil, &berth{pool: p, hop: at, since: time.Now()}, nil
	}
	w := &waiter{key: k, limit: l.connections, got: make(chan grant, 1)}
	idle := h.idleFor(k)
	if idle != nil {
		p.take(idle)
	}
	if idle != nil && idle.shelf.key == k { // it came between the caller's get and now
		w.got <- grant{peer: idle.peer}
	} else {
		h.waiting.PushBack(w)
	}
	p.mu.Unlock()
	switch {
	case idle == nil:
		p.metrics.pool.count(k.door, poolWaited)
	case idle.shelf.key != k:
		p.evict(idle)
	}
	return p.await(ctx, at, w, l)
}

// idleFor picks the idle connection that is to serve a waiter: the newest of its
// key, else the longest idle of any, which makes room.
func (h *poolHop) idleFor(k poolKey) *kept {
	for i := len(h.idle) - 1; i >= 0; i-- {
		if h.idle[i].shelf.key == k {
			return h.idle[i]
		}
	}
	if len(h.idle) > 0 {
		return h.idle[0]
	}
	return nil
}

// await waits until w is served, or ctx ends.
func (p *pool) await(ctx context.Context, at hopKey, w *waiter, l poolLimits) (*peer, *berth, error) {
	for {
		select {
		case g := <-w.got:
			if g.peer == nil || g.peer.quiet() {
				return g.peer, g.berth, nil
			}
			p.metrics.pool.count(at.door, poolDied)
			p.again(at, w)
			g.peer.close() // its place is ours
		case <-ctx.Done():
			p.withdraw(at, w)
			select {
			case g := <-w.got: // at the same moment: the next one may have it
				if g.peer != nil {
					p.put(w.key, l, g.peer)
				}
				g.berth.leave()
			default:
			}
			return nil, nil, &peerError{hop: at.hop, during: duringConnect, err: fmt.Errorf(
				"all %d connections that there may be (hop_connections) are in use: %w", w.limit, context.Cause(ctx))}
		}
	}
}

// again puts w at the head of those who wait.
func (p *pool) again(at hopKey, w *waiter) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.hops[at].waiting.PushFront(w) // the connection that it was given is still open, so the hop is there
}

// withdraw takes w off those who wait, if it is still there.
func (p *pool) withdraw(at hopKey, w *waiter) {
	p.mu.Lock()
	defer p.mu.Unlock()
	h := p.hops[at]
	if h == nil {
		return
	}
	for e := h.waiting.Front(); e != nil; e = e.Next() {
		if e.Value == w {
			h.waiting.Remove(e)
			break
		}
	}
	p.serve(at, h) // who is behind w may have a higher limit
}

// leave gives the place up. It may be called more than once, and on nil.
func (b *berth) leave() {
	if b == nil {
		return
	}
	b.place.leave()
	p := b.pool
	p.mu.Lock()
	defer p.mu.Unlock()
	if b.left {
		return
	}
	b.left = true
	h := p.hops[b.hop]
	h.open--
	p.serve(b.hop, h)
}

// serve lets in who waits, in their order, for as long as there is room. p.mu is held.
func (p *pool) serve(at hopKey, h *poolHop) {
	for h.waiting.Len() > 0 && h.open < h.first().limit {
		h.open++
		h.pop().got <- grant{berth: &berth{pool: p, hop: at, since: time.Now()}}
	}
	if h.open == 0 && h.waiting.Len() == 0 {
		delete(p.hops, at)
	}
}
