package proxy

import (
	"container/heap"
	"slices"
)

// place puts a connection on the shelf of its key. p.mu is held.
func (p *pool) place(k poolKey, h *poolHop, e *kept) {
	s := p.shelves[k]
	if s == nil {
		s = &shelf{key: k}
		p.shelves[k] = s
	}
	e.shelf, e.hop = s, h
	h.idle = append(h.idle, e)
	s.list = append(s.list, e)
	if len(s.list) == 1 {
		heap.Push(&p.largest, s)
	} else {
		heap.Fix(&p.largest, s.rank)
	}
	heap.Push(&p.due, e)
	p.metrics.pool.kept(k.door, 1)
}

// take takes an idle connection off its shelf. p.mu is held.
func (p *pool) take(e *kept) *peer {
	s, h := e.shelf, e.hop
	if len(s.list) == 1 {
		heap.Remove(&p.largest, s.rank)
		delete(p.shelves, s.key)
	}
	s.list = slices.DeleteFunc(s.list, func(other *kept) bool { return other == e })
	if len(s.list) > 0 {
		heap.Fix(&p.largest, s.rank)
	}
	h.idle = slices.DeleteFunc(h.idle, func(other *kept) bool { return other == e })
	heap.Remove(&p.due, e.rank)
	p.metrics.pool.kept(s.key.door, -1)
	return e.peer
}

// ranked is a [heap.Interface] whose items know their place.
type ranked[T any] struct {
	items  []T
	before func(a, b T) bool
	rank   func(T) *int
}

func (r *ranked[T]) Len() int           { return len(r.items) }
func (r *ranked[T]) Less(i, j int) bool { return r.before(r.items[i], r.items[j]) }

func (r *ranked[T]) Swap(i, j int) {
	r.items[i], r.items[j] = r.items[j], r.items[i]
	*r.rank(r.items[i]), *r.rank(r.items[j]) = i, j
}

func (r *ranked[T]) Push(x any) {
	*r.rank(x.(T)) = len(r.items)
	r.items = append(r.items, x.(T))
}

func (r *ranked[T]) Pop() any {
	last := len(r.items) - 1
	x := r.items[last]
	clear(r.items[last:])
	r.items = r.items[:last]
	return x
}
