package failure

import (
	"sync"

	"slipstream/auth"
)

// queueShare is which part of a queue, and minShare how many places at least, one organization may fill.
const (
	queueShare = 8
	minShare   = 16
)

// A queue holds what waits. Nobody can fill it alone, nor keep others waiting for more than a turn: organizations take
// turns. They are told apart by the names that were registered, since the author domains below one are made up at will.
type queue struct {
	size, share int

	mu      sync.Mutex
	changed *sync.Cond // something was put in, or the queue closed
	closed  bool
	length  int
	waiting map[string][]*incident // by organization, none of them empty
	turns   []string               // organizations in waiting; the first is next
}

func newQueue(size int) *queue {
	q := &queue{
		size: size, share: min(size, max(size/queueShare, minShare)), waiting: make(map[string][]*incident),
	}
	q.changed = sync.NewCond(&q.mu)
	return q
}

// put reports whether there was room.
func (q *queue) put(in *incident) bool {
	organization := (*auth.Suffixes)(nil).OrgDomain(in.author)
	q.mu.Lock()
	defer q.mu.Unlock()
	theirs := q.waiting[organization]
	if q.closed || q.length >= q.size || len(theirs) >= q.share {
		return false
	}
	if len(theirs) == 0 {
		q.turns = append(q.turns, organization)
	}
	q.waiting[organization] = append(theirs, in)
	q.length++
	q.changed.Signal()
	return true
}

// take waits for what is next; nil: the queue is closed, and empty.
func (q *queue) take() *incident {
	q.mu.Lock()
	defer q.mu.Unlock()
	for q.length == 0 && !q.closed {
		q.changed.Wait()
	}
	if q.length == 0 {
		return nil
	}
	organization := q.turns[0]
	q.turns = append(q.turns[:0], q.turns[1:]...) // small, and so it does not creep through memory
	theirs := q.waiting[organization]
	in := theirs[0]
	theirs[0] = nil
	if theirs = theirs[1:]; len(theirs) > 0 {
		q.waiting[organization] = theirs
		q.turns = append(q.turns, organization)
	} else {
		delete(q.waiting, organization)
	}
	q.length--
	return in
}

// close has it take no more.
func (q *queue) close() {
	q.mu.Lock()
	defer q.mu.Unlock()
	q.closed = true
	q.changed.Signal()
}
