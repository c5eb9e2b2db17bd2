package proxy

import (
	"context"
	"sync"
	"time"

	"slipstream/smtpwire"
)

// Bounds of a pool that no configuration moves.
const (
	// maxPoolTasks bounds how many connections at a time are reset or ended in
	// the background. What comes beyond that is closed without a word.
	maxPoolTasks = 100
	// maxHopTasks is how many of those may be of one hop, which may take its time.
	maxHopTasks = 20
	// resetWait is how long the answer to RSET may take. Who takes longer for so
	// little is not worth keeping.
	resetWait = 2 * time.Second
)

// A pool keeps connections to hops between transactions, of all sessions and
// doors: what is kept is not in use, and has nothing open on it. There is one in
// a [Proxy].
//
// Nothing reads on an idle connection. Whether the hop is still there is asked
// when somebody wants it; those that nobody wants end by a timer, with QUIT.
type pool struct {
	max     int // idle connections in all
	metrics *Metrics
	places  *hopPlaces // of all open connections; nil: nobody counts them

	mu      sync.Mutex
	shelves map[poolKey]*shelf
	largest ranked[*shelf] // the one that is to make room comes first
	due     ranked[*kept]  // the one that ends next comes first
	hops    map[hopKey]*poolHop
	timer   *time.Timer
	armed   time.Time // when the timer fires; zero: it does not
	tasks   map[*peer]int
	busy    map[hopKey]int // tasks, by hop
	over    sync.Cond      // there are no tasks any more
	closed  bool
}

// A poolKey is what transactions must have in common to share a connection. The
// caller stands for the name in EHLO, the source address and the certificates
// believed, the route's key for the hosts and the policy of each.
type poolKey struct {
	caller    *caller
	door      string // the caller's, for metrics and limits
	route     string // Route.Key
	announced string // what a backend was told about the client; "" where it is told nothing
}

// poolLimits are what a door allows.
type poolLimits struct {
	idle        time.Duration // how long a connection is kept; 0: none is
	size        int           // idle ones of one key
	messages    int           // transactions on one connection; 0: any number
	age         time.Duration // since it was connected; 0: any
	connections int           // open to one hop at a time, busy ones included; 0: any number
}

func (c *InboundConfig) poolLimits() poolLimits {
	return poolLimits{c.PoolIdle, c.PoolSize, c.PoolMessages, c.PoolAge, c.HopConnections}
}

func (c *OutboundConfig) poolLimits() poolLimits {
	return poolLimits{c.PoolIdle, c.PoolSize, c.PoolMessages, c.PoolAge, c.HopConnections}
}

// A shelf holds the idle connections of one key, the longest idle first.
type shelf struct {
	key  poolKey
	list []*kept
	rank int // in pool.largest
}

// kept is an idle connection.
type kept struct {
	peer  *peer
	shelf *shelf
	hop   *poolHop
	since time.Time // idle
	until time.Time
	rank  int // in pool.due
}

// newPool makes a pool of at most max idle connections. It runs nothing until
// something is kept, and nothing behind close.
func newPool(max int, m *Metrics) *pool {
	p := &pool{
		max: max, metrics: m,
		shelves: make(map[poolKey]*shelf), hops: make(map[hopKey]*poolHop), tasks: make(map[*peer]int), busy: make(map[hopKey]int),
	}
	p.over.L = &p.mu
	p.due = ranked[*kept]{
		before: func(a, b *kept) bool { return a.until.Before(b.until) },
		rank:   func(e *kept) *int { return &e.rank },
	}
	p.largest = ranked[*shelf]{
		before: func(a, b *shelf) bool {
			if len(a.list) != len(b.list) {
				return len(a.list) > len(b.list)
			}
			return a.list[0].since.Before(b.list[0].since)
		},
		rank: func(s *shelf) *int { return &s.rank },
	}
	return p
}

// resize sets how many idle connections there may be. What is too many now goes
// as others come.
func (p *pool) resize(max int) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.max = max
}

// get hands out the newest idle connection that is in good order; nil: there is
// none. It is the caller's then. Of the network it asks no more than
// [peer.quiet] does.
func (p *pool) get(k poolKey, l poolLimits) *peer {
	for {
		c := p.newest(k)
		switch {
		case c == nil:
			p.metrics.pool.count(k.door, poolMiss)
			return nil
		case !l.keeps(c):
			p.metrics.pool.count(k.door, poolExpired)
			p.task(c, c.quit)
		case !c.quiet():
			p.metrics.pool.count(k.door, poolDied)
			c.close()
		default:
			p.metrics.pool.count(k.door, poolHit)
			return c
		}
	}
}

func (p *pool) newest(k poolKey) *peer {
	p.mu.Lock()
	defer p.mu.Unlock()
	s := p.shelves[k]
	if s == nil {
		return nil
	}
	return p.take(s.list[len(s.list)-1])
}

// keeps tells whether a connection may carry another transaction.
func (l poolLimits) keeps(c *peer) bool { return l.idle > 0 && l.size > 0 && !l.worn(c) }

// worn tells whether a connection has carried as many transactions as it may, or
// is too old.
func (l poolLimits) worn(c *peer) bool {
	most := l.messages
	if n := limitOf(c.pipe.EHLO(), limitMails); n > 0 && (most == 0 || n < most) {
		most = n
	}
	old := l.age > 0 && c.berth != nil && time.Since(c.berth.since) >= l.age
	return old || most > 0 && c.used >= most
}

// put takes a connection back. It is kept if it is in order and somebody may
// still use it, and else ended, with QUIT where that can be said. The caller
// does not wait for any of it, and may not touch the connection any more.
func (p *pool) put(k poolKey, l poolLimits, c *peer) {
	switch {
	case !c.settled() || c.berth == nil || c.r.Buffered() != 0:
		c.close()
	case !l.keeps(c):
		p.task(c, c.quit)
	case c.open || c.rode: // are its replies in step?
		p.task(c, func() {
			end := c.close
			if c.reset() {
				end = p.keep(k, l, c)
			}
			if end != nil {
				end()
			}
		})
	default:
		if end := p.keep(k, l, c); end != nil {
			p.task(c, end)
		}
	}
}

// reset forgets the transaction that may be open.
// https://www.rfc-editor.org/rfc/rfc5321#section-4.1.1.5
func (p *peer) reset() bool {
	p.end = time.Now().Add(resetWait)
	r, err := p.one("resetting the transaction", resetWait, smtpwire.Command{Verb: smtpwire.VerbRset})
	p.end = time.Time{}
	p.open = err != nil || r.Class() != 2
	p.rode = p.open
	return !p.open
}

// keep puts a connection in order on its shelf, or gives it to who waits for it.
// Where neither is possible it returns how to end it.
func (p *pool) keep(k poolKey, l poolLimits, c *peer) (end func()) {
	// Nothing is held for it that can be made again: 4 KiB to read into, for one.
	c.buf, c.r = nil, smtpwire.NewReader(c.source())
	c.counted = c.wire.trips // a RSET was nobody's trip
	now := time.Now()
	e := &kept{peer: c, since: now, until: now.Add(l.idle)}
	if end := c.berth.since.Add(l.age); l.age > 0 && end.Before(e.until) {
		e.until = end
	}
	p.mu.Lock()
	h := p.hops[c.berth.hop]
	switch {
	case p.closed || h == nil:
		end = c.quit
	case h.waiting.Len() > 0 && h.first().key == k:
		h.pop().got <- grant{peer: c}
	case h.waiting.Len() > 0: // its place is what is waited for
		p.metrics.pool.count(k.door, poolEvicted)
		end = c.leave
	case p.places.handOver(k, c):
	default:
		p.place(k, h, e)
		if out := p.surplus(e.shelf, l.size); out != nil {
			defer p.evict(out) // behind the lock
		}
		p.arm()
		if p.places.wanted() {
			defer p.yieldOne()
		}
	}
	p.mu.Unlock()
	return end
}

// surplus takes away the connection that there is one too many of, if so: of
// the key, or of all. The key that has most gives first. p.mu is held.
func (p *pool) surplus(s *shelf, size int) *kept {
	var e *kept
	switch {
	case len(s.list) > size:
		e = s.list[0]
	case len(p.due.items) > p.max:
		e = p.largest.items[0].list[0]
	default:
		return nil
	}
	p.take(e)
	return e
}

// evict ends a connection whose place is wanted: it does not wait for the answer
// to QUIT.
func (p *pool) evict(e *kept) {
	p.metrics.pool.count(e.shelf.key.door, poolEvicted)
	p.task(e.peer, e.peer.leave)
}

// forget ends the idle connections of a caller that a reload has replaced. Those
// that sessions of before give back later are for those sessions, and expire.
func (p *pool) forget(c *caller) {
	p.endAll(func(k poolKey) bool { return k.caller == c })
}

// close ends all idle connections, and from now on those that are put back. It
// returns when everything in the background is over; at the end of ctx that is
// cut short.
func (p *pool) close(ctx context.Context) {
	p.mu.Lock()
	p.closed = true
	p.mu.Unlock()
	p.endAll(func(poolKey) bool { return true })
	defer context.AfterFunc(ctx, func() {
		p.mu.Lock()
		defer p.mu.Unlock()
		for c := range p.tasks {
			c.wire.cut()
		}
	})()
	p.mu.Lock()
	defer p.mu.Unlock()
	for len(p.tasks) > 0 {
		p.over.Wait()
	}
}

// endAll ends the idle connections of some keys.
func (p *pool) endAll(which func(poolKey) bool) {
	p.mu.Lock()
	var out []*peer
	for k, s := range p.shelves {
		for which(k) && len(s.list) > 0 {
			out = append(out, p.take(s.list[0]))
		}
	}
	p.arm()
	p.mu.Unlock()
	for _, c := range out {
		p.task(c, c.quit)
	}
}

// sweep is the timer's: it ends the connections whose time has come.
func (p *pool) sweep() {
	p.mu.Lock()
	p.armed = time.Time{}
	var out []*kept
	for now := time.Now(); len(p.due.items) > 0 && !p.due.items[0].until.After(now); {
		e := p.due.items[0]
		p.take(e)
		out = append(out, e)
	}
	p.arm()
	p.mu.Unlock()
	for _, e := range out {
		p.metrics.pool.count(e.shelf.key.door, poolExpired)
		p.task(e.peer, e.peer.quit)
	}
}

// arm sets the timer for the first connection that ends. One that fires before
// that does no harm. p.mu is held.
func (p *pool) arm() {
	if len(p.due.items) == 0 {
		if p.timer != nil {
			p.timer.Stop()
		}
		p.armed = time.Time{}
		return
	}
	next := p.due.items[0].until
	if !p.armed.IsZero() && !next.Before(p.armed) {
		return
	}
	p.armed = next
	if p.timer == nil {
		p.timer = time.AfterFunc(time.Until(next), p.sweep)
		return
	}
	p.timer.Reset(time.Until(next))
}

// retire ends a connection that nobody is to have again.
func (p *pool) retire(c *peer) { p.task(c, c.quit) }

// task does something with a connection that nobody else has, beside everything
// else. Where too much is done so already, the connection is closed instead.
func (p *pool) task(c *peer, do func()) {
	p.mu.Lock()
	hop := hopKey{}
	if c.berth != nil {
		hop = c.berth.hop
	}
	if len(p.tasks) >= maxPoolTasks || p.busy[hop] >= maxHopTasks {
		p.mu.Unlock()
		c.close()
		return
	}
	p.tasks[c]++
	p.busy[hop]++
	p.mu.Unlock()
	go func() { // close waits for it
		defer func() {
			p.mu.Lock()
			defer p.mu.Unlock()
			if p.tasks[c]--; p.tasks[c] == 0 { // one task may have begun the next
				delete(p.tasks, c)
			}
			if p.busy[hop]--; p.busy[hop] == 0 {
				delete(p.busy, hop)
			}
			if len(p.tasks) == 0 {
				p.over.Broadcast()
			}
		}()
		defer p.survive(c)
		do()
	}()
}

// survive keeps an error of ours on one connection from ending everything.
func (p *pool) survive(c *peer) {
	if recover() != nil {
		p.metrics.panicked(c.berth.hop.door)
		c.close()
	}
}
