package meter

import (
	"cmp"
	"slices"
	"time"
)

// join cuts spans at all their bounds, so that they coincide or are apart, and makes a piece of those that coincide.
// What was sent first tells its data.
//
// Spans may overlap as the peers please. So it does not compare those that coincide, piece by piece, but lets the best
// go first, which leaves its pieces to no other.
func join(spans []span) stream {
	var bounds []int64
	for _, s := range spans {
		bounds = append(bounds, s.pos, s.end)
	}
	slices.Sort(bounds)
	bounds = slices.Compact(bounds)
	if len(bounds) == 0 || bounds[0] != 0 {
		return stream{}
	}
	all := stream{pieces: make([]piece, len(bounds)-1)}
	for i := range all.pieces {
		all.pieces[i].pos, all.pieces[i].end = bounds[i], bounds[i+1]
	}
	slices.SortStableFunc(spans, func(a, b span) int {
		return cmp.Or(a.left.Compare(b.left), cmp.Compare(a.pos, b.pos))
	})
	whole := all.claim(spans, func(p *piece, s span) { p.left = s.left })
	all.pieces = all.pieces[:whole]

	seen := slices.DeleteFunc(slices.Clone(spans), func(s span) bool { return s.data == nil })
	all.claim(seen, func(p *piece, s span) { p.data = s.data[p.pos-s.pos : p.end-s.pos] })

	arrived := slices.DeleteFunc(spans, func(s span) bool { return s.arrives.IsZero() })
	slices.SortStableFunc(arrived, func(a, b span) int { return a.arrives.Compare(b.arrives) })
	all.claim(arrived, func(p *piece, s span) { p.arrives = s.arrives })
	all.settle()
	return all
}

// claim lets each span, in order, take the pieces it covers that none has taken before. It returns how many were taken
// up to the first that was not.
func (s *stream) claim(spans []span, take func(*piece, span)) int {
	next := make([]int, len(s.pieces)+1) // where to look for the next free piece: where it is itself, it is free
	for i := range next {
		next[i] = i
	}
	free := func(i int) int {
		for ; next[i] != i; i = next[i] {
			next[i] = next[next[i]] // the way is half as long next time
			s.steps++
		}
		return i
	}
	for _, sp := range spans {
		for i := free(s.at(sp.pos)); i < len(s.pieces) && s.pieces[i].pos < sp.end; i = free(i) {
			take(&s.pieces[i], sp)
			next[i] = i + 1
			s.steps++
		}
	}
	return free(0)
}

// settle tells each piece what it owes to those before it.
func (s *stream) settle() {
	for i := 1; i < len(s.pieces); i++ {
		before, p := &s.pieces[i-1], &s.pieces[i]
		p.arrives = inOrder(before.arrives, p.arrives)
		if p.latest = p.left; i > 1 {
			p.latest = later(before.latest, p.left)
		}
	}
}

// inOrder returns when something has arrived together with what precedes it.
func inOrder(before, arrives time.Time) time.Time {
	if before.IsZero() || arrives.IsZero() {
		return time.Time{}
	}
	return later(before, arrives)
}
