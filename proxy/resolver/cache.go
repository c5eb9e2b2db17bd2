package resolver

import (
	"container/list"
	"sync"
	"time"
)

// cache remembers answers until they expire, and some beyond that, the least recently used giving way. It is bounded by number
// and by estimated size.
type cache struct {
	maxEntries, maxBytes int
	maxStale             time.Duration

	mu      sync.Mutex
	bytes   int
	entries map[question]*list.Element // of *cached
	recent  *list.List                 // most recently used first
}

type cached struct {
	q     question
	a     *answer
	since time.Time
	retry time.Time // it is not asked for again in the background before
}

// newCache makes a cache of at most entries answers; none where entries is negative. Answers that [mayBeStale] are kept for
// stale after they have expired.
func newCache(entries, bytes int, stale time.Duration) *cache {
	return &cache{
		maxEntries: entries, maxBytes: bytes, maxStale: stale,
		entries: make(map[question]*list.Element), recent: list.New(),
	}
}

// get gives the answer to q if one is known that holds at now, else nil.
func (c *cache) get(q question, now time.Time) *answer {
	a, age := c.look(q, now)
	if age == stale {
		return nil
	}
	return a
}

// look gives the answer to q if one is known, and how old it is; else nil.
func (c *cache) look(q question, now time.Time) (*answer, freshness) {
	c.mu.Lock()
	defer c.mu.Unlock()
	e, ok := c.entries[q]
	if !ok {
		return nil, fresh
	}
	v := e.Value.(*cached)
	a, age := v.a, v.freshness(now)
	if age == stale && (!mayBeStale(q, a) || !now.Before(a.expires.Add(c.maxStale))) {
		c.remove(e)
		return nil, fresh
	}
	c.recent.MoveToFront(e)
	return a, age
}

// put remembers a if it holds beyond now. What was known before is forgotten in any case. The answer must not change any more.
func (c *cache) put(q question, a *answer, now time.Time) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if e, ok := c.entries[q]; ok {
		c.remove(e)
	}
	if !now.Before(a.expires) {
		return
	}
	c.entries[q] = c.recent.PushFront(&cached{q: q, a: a, since: now})
	c.bytes += a.size
	for c.recent.Len() > 0 && (c.recent.Len() > c.maxEntries || c.bytes > c.maxBytes) {
		c.remove(c.recent.Back())
	}
}

// remove forgets e. c.mu is held.
func (c *cache) remove(e *list.Element) {
	v := c.recent.Remove(e).(*cached)
	delete(c.entries, v.q)
	c.bytes -= v.a.size
}
