package proxy

import "container/heap"

// line puts a destination where it belongs: among those that may have the next
// place, if somebody waits and it may. p.mu is held.
func (p *hopPlaces) line(a *footing) {
	var want *ranked[*footing]
	switch {
	case a.line.Len() == 0 || a.silent >= share(p.max, silentShare):
	case p.trusts(a):
		want = &p.trusted
	default:
		want = &p.strange
	}
	switch {
	case a.ranks != nil && a.ranks == want:
		heap.Fix(want, a.rank)
		return
	case a.ranks != nil:
		p.unrank(a)
	}
	if want != nil {
		heap.Push(want, a)
		a.ranks = want
	}
}

func (p *hopPlaces) unrank(a *footing) {
	heap.Remove(a.ranks, a.rank)
	a.ranks = nil
}

// next is the destination whose turn it is; nil: nobody's. p.mu is held.
func (p *hopPlaces) next() *footing {
	var first *footing
	for len(p.trusted.items) > 0 && !p.trusts(p.trusted.items[0]) {
		p.line(p.trusted.items[0]) // it was for too long that it has not answered
	}
	if len(p.trusted.items) > 0 {
		first = p.trusted.items[0]
	}
	if len(p.strange.items) > 0 && p.doubtful < share(p.max, doubtfulShare) {
		if other := p.strange.items[0]; first == nil || p.strange.before(other, first) {
			first = other
		}
	}
	return first
}

// serve lets in who waits, in their order, for as long as there is room. p.mu is held.
func (p *hopPlaces) serve() {
	for p.open < p.max {
		a := p.next()
		if a == nil {
			return
		}
		q := p.pop(a)
		q.got <- placeGrant{place: p.give(a)}
		p.line(a)
	}
}

// pop takes the first out of a destination's line, and it out of the ranks. p.mu is held.
func (p *hopPlaces) pop(a *footing) *queued {
	p.unrank(a) // by who is first there
	p.queued--
	return a.line.Remove(a.line.Front()).(*queued)
}

// handOver gives a connection that came free to whose turn it is, if that one
// wants a connection of just this key. Like this no one else has to wait longer.
func (p *hopPlaces) handOver(k poolKey, c *peer) bool {
	if p == nil {
		return false
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	a := p.next()
	if a == nil || p.open < p.max || a.line.Front().Value.(*queued).key != k {
		return false
	}
	p.pop(a).got <- placeGrant{peer: c}
	p.line(a)
	return true
}

// wanted tells whether somebody waits for a place, and there is none left.
func (p *hopPlaces) wanted() bool {
	if p == nil {
		return false
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.queued > 0 && p.open >= p.max && p.next() != nil
}

// again puts q at the head of its line.
func (p *hopPlaces) again(a *footing, q *queued) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.known[a.at] != a { // it was forgotten meanwhile: only one that nobody waits for is
		p.known[a.at] = a
	}
	if a.resting != nil {
		p.recent.Remove(a.resting)
		a.resting = nil
	}
	if a.ranks != nil {
		p.unrank(a)
	}
	a.line.PushFront(q)
	p.queued++
	p.line(a)
	p.serve()
}

// withdraw takes q out of its line, if it is still there, and says what it waited
// for.
func (p *hopPlaces) withdraw(a *footing, q *queued) string {
	p.mu.Lock()
	defer p.mu.Unlock()
	why := p.reason(a)
	for e := a.line.Front(); e != nil; e = e.Next() {
		if e.Value == q {
			if a.ranks != nil {
				p.unrank(a)
			}
			a.line.Remove(e)
			p.queued--
			break
		}
	}
	p.line(a)
	p.rest(a)
	return why
}

// abandon lets go of all who stand in line for a destination.
func (p *hopPlaces) abandon(at destination, why error) {
	if p == nil {
		return
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	a := p.known[at]
	if a == nil {
		return
	}
	if a.ranks != nil {
		p.unrank(a)
	}
	for a.line.Len() > 0 {
		p.queued--
		a.line.Remove(a.line.Front()).(*queued).got <- placeGrant{err: why}
	}
	p.rest(a)
}
