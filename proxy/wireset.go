package proxy

import (
	"net/netip"
	"sync"
)

// A wireSet knows every open wire, so that a shutdown can end them.
type wireSet struct {
	mu   sync.Mutex
	open map[*wire]struct{}
	over bool // a shutdown has cut everything: cut what comes, too

	dialled map[netip.AddrPort]*wire // by their local ends
}

func newWireSet() *wireSet {
	return &wireSet{open: make(map[*wire]struct{}), dialled: make(map[netip.AddrPort]*wire)}
}

func (s *wireSet) add(w *wire) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.open[w] = struct{}{}
	if from := addrPort(w.LocalAddr()); w.dialled && from.IsValid() {
		s.dialled[from] = w
	}
	if s.over {
		w.cut()
	}
}

func (s *wireSet) remove(w *wire) {
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.open, w)
	if from := addrPort(w.LocalAddr()); s.dialled[from] == w {
		delete(s.dialled, from)
	}
}

// dialledFrom tells whether an address is the local end of an open connection
// that we made.
func (s *wireSet) dialledFrom(addr netip.AddrPort) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.dialled[addr] != nil
}

// dialledBetween tells whether an open connection that we made has these ends.
func (s *wireSet) dialledBetween(from, to netip.AddrPort) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	w := s.dialled[from]
	return w != nil && addrPort(w.RemoteAddr()) == to
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
