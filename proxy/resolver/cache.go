package resolver

import (
	"container/list"
	"sync"
	"time"
)

// cache remembers answers until they expire, the least recently used giving way. It is bounded by number and by estimated size.
type cache struct {
	maxEntries, maxBytes int

	mu      sync.Mutex
	bytes   int
	entries map[question]*list.Element // of *cached
	recent  *list.List                 // most recently used first
}

type cached struct {
	q question
	a *answer
}

// newCache makes a cache of at most entries answers; none where entries is negative.
func newCache(entries, bytes int) *cache {
	return &cache{maxEntries: entries, maxBytes: bytes, entries: make(map[question]*list.Element), recent: list.New()}
}

// get gives the answer to q if one is known that holds at now, else nil.
func (c *cache) get(q question, now time.Time) *answer {
	c.mu.Lock()
	defer c.mu.Unlock()
	e, ok := c.entries[q]
	if !ok {
		return nil
	}
	a := e.Value.(*cached).a
	if !now.Before(a.expires) {
		c.remove(e)
		return nil
	}
	c.recent.MoveToFront(e)
	return a
}

// put remembers a if it holds beyond now. The answer must not change any more.
func (c *cache) put(q question, a *answer, now time.Time) {
	if !now.Before(a.expires) {
		return
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if e, ok := c.entries[q]; ok {
		c.remove(e)
	}
	c.entries[q] = c.recent.PushFront(&cached{q, a})
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
