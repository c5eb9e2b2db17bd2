package proxy

import (
	"context"
	"iter"
	"sync"
	"time"

	"slipstream/proxy/route"
)

// A supply is where the connections for one route come from, one after another:
// one that was kept first, then one for each address. It belongs to one
// goroutine at a time.
type supply struct {
	ctx     *renewable
	next    func() (*peer, error, bool)
	stop    func()
	fetched *fetched // the first, where it was made ahead
}

type fetched struct {
	peer *peer
	err  error
	ok   bool
}

// A renewable context is what the one inside it is, which may be exchanged.
type renewable struct {
	mu    sync.Mutex
	inner context.Context
}

func (r *renewable) current() context.Context {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.inner
}

func (r *renewable) renew(ctx context.Context) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.inner = ctx
}

// Deadline, Done, Err and Value make it a [context.Context].
func (r *renewable) Deadline() (time.Time, bool) { return r.current().Deadline() }
func (r *renewable) Done() <-chan struct{}       { return r.current().Done() }
func (r *renewable) Err() error                  { return r.current().Err() }
func (r *renewable) Value(key any) any           { return r.current().Value(key) }

// supply prepares the connections of a route. The context bounds the making of
// all of them.
func (t *transaction) supply(ctx context.Context, r route.Route) *supply {
	s := &supply{ctx: &renewable{inner: ctx}}
	s.next, s.stop = iter.Pull2(t.connections(s.ctx, r))
	return s
}

// warm is a connection that was kept for the route; nil: there is none.
func (t *transaction) warm(r route.Route) *peer {
	if t.plain {
		return nil
	}
	return t.s.keptPeer(t.keyFor(r))
}

func (t *transaction) connections(ctx context.Context, r route.Route) iter.Seq2[*peer, error] {
	return func(yield func(*peer, error) bool) {
		if t.s.own.loggedIn() {
			yield(t.s.ownConnection(ctx))
			return
		}
		if p := t.warm(r); p != nil && !yield(p, nil) {
			return
		}
		how := asKnown
		if t.plain {
			how = plainly
		}
		for p, err := range t.s.door.caller.peers(ctx, r, t.identity(), how) {
			if !yield(p, err) {
				return
			}
		}
	}
}

// renew bounds the making of further connections anew.
func (s *supply) renew(ctx context.Context) { s.ctx.renew(ctx) }

// fetch makes the first connection ahead of who will ask for it.
func (s *supply) fetch() {
	p, err, ok := s.next()
	s.fetched = &fetched{p, err, ok}
}

// get makes the next connection. ok is false when there are no more.
func (s *supply) get() (p *peer, err error, ok bool) {
	if f := s.fetched; f != nil {
		s.fetched = nil
		if f.peer != nil {
			f.peer.ahead = f.peer.used == 0
		}
		return f.peer, f.err, f.ok
	}
	return s.next()
}

// drop ends a supply that nobody wants any more. A connection that was made
// ahead is kept for the next transaction.
func (s *supply) drop(keep func(*peer)) {
	if f := s.fetched; f != nil && f.peer != nil {
		keep(f.peer)
	}
	s.fetched = nil
	s.stop()
}
