package proxy

import (
	"sync"
)

// A wireSet knows every open wire, so that a shutdown can end them.
type wireSet struct {
	mu   sync.Mutex
	open map[*wire]struct{}
	over bool // a shutdown has cut everything: cut what comes, too
}

func newWireSet() *wireSet { return &wireSet{open: make(map[*wire]struct{})} }

func (s *wireSet) add(w *wire) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.open[w] = struct{}{}
	if s.over {
		w.cut()
	}
}

func (s *wireSet) remove(w *wire) {
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.open, w)
}

// cutAll ends every wait, now and later.
func (s *wireSet) cutAll() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.over = true
	for w := range s.open {
		w.cut()
	}
}
