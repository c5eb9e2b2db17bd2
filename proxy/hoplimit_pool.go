package proxy

import (
	"context"
	"errors"

	"go.uber.org/zap"
)

// enter takes a place for one more connection, among those to its hop and among
// all. It may give a connection instead, the caller's as from [pool.get].
func (c *caller) enter(ctx context.Context, key poolKey, hop string) (*peer, *berth, error) {
	places, by := c.pool.places, askingOf(ctx)
	ctx, over := places.patient(ctx, by.claim)
	defer over()
	p, b, err := c.pool.enter(ctx, key, hop, c.warm)
	if p != nil || err != nil {
		return p, b, err
	}
	p, place, err := places.enter(ctx, key, by)
	if p != nil || err != nil {
		b.leave() // what came instead has its own
	}
	if err != nil {
		return nil, nil, &peerError{hop: hop, during: duringConnect, err: err}
	}
	if p != nil {
		return p, nil, nil
	}
	b.place = place
	return nil, b, nil
}

// heard notes that somebody has answered on the connection.
func (b *berth) heard() {
	if b != nil {
		b.place.heard()
	}
}

// hopConnections is how many connections to next hops there may be, where the
// system lets us have so many files: 0, any number.
func (l LimitsConfig) hopConnections(files uint64) int {
	const most = 1_000_000 // as many as can be configured
	switch {
	case l.MaxHopConnections > 0:
		return l.MaxHopConnections
	case files == 0:
		return most
	}
	clients := uint64(l.MaxConnections)*(filesPerConnection-1) + filesBeside
	left := uint64(0)
	if files > clients {
		left = files - clients
	}
	// Where that is nothing, the limits cannot all be reached: clients have to do with less as well.
	return int(min(max(left, files/hopFilesShare, 1), most))
}

// hopFilesShare: one part in so many of all files is for connections to hops in
// any case.
const hopFilesShare = 4

// newPlaces makes the places of a service. What is idle in the pool makes room.
func (p *Proxy) newPlaces(limits LimitsConfig) *hopPlaces {
	places := newHopPlaces(hopConnections(limits))
	places.evict = p.pool.yieldOne
	if p.metrics != nil {
		places.waited = p.metrics.destinations.wait
		p.metrics.destinations.places.Store(places)
	}
	places.crowded = func(all, waiting int) {
		p.log.Warn("no connection to a next hop is left: some wait for one to end",
			zap.Int("max_hop_connections", all), zap.Int("waiting", waiting))
	}
	return places
}

func hopConnections(limits LimitsConfig) int {
	files, err := raiseFileLimit()
	if err != nil {
		files = 0 // nobody knows; who runs out of them hears so when dialling
	}
	return limits.hopConnections(files)
}

// yieldOne ends an idle connection, if there is one: of the key that has most, the
// one that was idle for longest.
func (p *pool) yieldOne() {
	p.mu.Lock()
	var e *kept
	if len(p.largest.items) > 0 {
		e = p.largest.items[0].list[0]
		p.take(e)
		p.arm()
	}
	p.mu.Unlock()
	if e != nil {
		p.evict(e)
	}
}

// crowdedOut tells whether the connection that was to be made ahead had no place.
func (s *supply) crowdedOut() bool {
	var crowded *crowdedError
	return s.fetched != nil && s.fetched.peer == nil && errors.As(s.fetched.err, &crowded)
}

// yieldKept ends what a session keeps for its next transaction.
func (s *session) yieldKept() {
	s.mu.Lock()
	kept := s.kept
	s.kept = nil
	s.mu.Unlock()
	for _, p := range kept {
		p.leave()
	}
}

// claim is the transaction's; late: of one hop of it, which waits for no other.
func (t *transaction) claimFor(late bool) *claim {
	places := t.s.door.caller.places()
	if late {
		return places.newClaim(t.s.yieldKept)
	}
	t.s.mu.Lock()
	defer t.s.mu.Unlock()
	if t.claim == nil {
		t.claim = places.newClaim(t.s.yieldKept)
	}
	return t.claim
}

// holds notes that the leg has a connection until the end of the transaction.
func (l *leg) holds(c *claim) {
	l.claim = c
	l.tx.s.door.caller.places().hold(c)
}

// letsGo notes that it has none any more.
func (l *leg) letsGo() {
	if c := l.claim; c != nil {
		l.claim = nil
		l.tx.s.door.caller.places().drop(c)
	}
}

func (c *caller) places() *hopPlaces {
	if c.pool == nil {
		return nil
	}
	return c.pool.places
}
