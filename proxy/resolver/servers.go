package resolver

import (
	"fmt"
	"net/netip"
	"slices"
	"sync"
	"time"
)

// A server that cannot be reached, or that let this many tries in a row run out, is asked last for a while. One such try is
// not enough: a slow zone makes any server late, and whoever owns the zone must not choose which of ours is asked.
const (
	maxMisses = 3
	setBack   = 30 * time.Second
)

// server is one recursive server.
type server struct {
	addr     netip.AddrPort
	loopback bool // on this host: its AD bit may be believed

	// Guarded by servers.mu.
	misses int       // tries in a row that ran out
	until  time.Time // asked last until then
}

// servers are the configured servers in order of preference, and what was seen of them lately.
type servers struct {
	list []*server

	mu sync.Mutex
}

func newServers(list []netip.AddrPort) (*servers, error) {
	if len(list) > maxServers {
		return nil, fmt.Errorf("resolver: %d servers, at most %d may be given", len(list), maxServers)
	}
	s := new(servers)
	for _, addr := range list {
		if !addr.IsValid() || addr.Port() == 0 {
			return nil, fmt.Errorf("resolver: server %v is not an address with a port", addr)
		}
		s.list = append(s.list, &server{addr: addr, loopback: addr.Addr().Unmap().IsLoopback()})
	}
	return s, nil
}

// order is the order in which to ask now: as configured, but those that failed lately behind the others.
func (s *servers) order(now time.Time) []*server {
	s.mu.Lock()
	defer s.mu.Unlock()
	order := slices.Clone(s.list)
	slices.SortStableFunc(order, func(a, b *server) int {
		switch x, y := a.until.After(now), b.until.After(now); {
		case x == y:
			return 0
		case x:
			return 1
		}
		return -1
	})
	return order
}

// outcome is what became of one try, as far as it speaks of the server and not of the question.
type outcome int

const (
	answered    outcome = iota // anything, SERVFAIL included
	missed                     // the try ran out
	unreachable                // the network says so
)

// report takes note of the outcome of a try with sv.
func (s *servers) report(sv *server, o outcome, now time.Time) {
	s.mu.Lock()
	defer s.mu.Unlock()
	switch o {
	case answered:
		sv.misses, sv.until = 0, time.Time{}
		return
	case missed:
		sv.misses++
	case unreachable:
		sv.misses = maxMisses
	}
	if sv.misses >= maxMisses {
		sv.until = now.Add(setBack)
	}
}
