package proxy

// spare takes a place for a connection that nobody has asked for yet, if there is
// one for this destination. It waits for none. A nil place that is ok is one that
// nobody counts.
func (p *hopPlaces) spare(at destination) (place *hopPlace, ok bool) {
	if p == nil {
		return nil, true
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	a := p.footing(at)
	if a.line.Len() == 0 && p.open < p.max && p.mayHave(a) {
		return p.give(a), true
	}
	p.rest(a)
	return nil, false
}

// move puts a place on which nobody has answered down to another destination, now
// that it is known which one it is, if that may have one more. Else it stays where
// it is: no bound is broken, and who has a place keeps it. It may be called on nil.
func (l *hopPlace) move(to destination) {
	if l == nil || l.of.at == to {
		return
	}
	p := l.all
	p.mu.Lock()
	defer p.mu.Unlock()
	if l.left || l.answered {
		return
	}
	from, a := l.of, p.footing(to)
	for _, f := range []*footing{from, a} { // what they have is part of their rank
		if f.ranks != nil {
			p.unrank(f)
		}
	}
	from.open--
	from.silent--
	if l.doubtful {
		p.doubtful--
	}
	if p.mayHave(a) {
		l.count(a)
	} else {
		l.count(from)
	}
	p.line(from)
	p.line(a)
	p.serve()
	p.rest(from)
	p.rest(a)
}
