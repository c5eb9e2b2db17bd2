package proxy

import (
	"net/netip"
	"sync"

	"slipstream/smtpwire"
)

// A gate counts who is inside, over all doors.
type gate struct {
	mu     sync.Mutex
	total  int
	client map[netip.Prefix]int
}

func newGate() *gate { return &gate{client: make(map[netip.Prefix]int)} }

// enter lets a client in, or says why not. Who was let in must leave. perClient
// is how many of one client there may be; 0 means that it does not matter.
func (g *gate) enter(addr netip.Addr, total, perClient int) (smtpwire.Reply, bool) {
	g.mu.Lock()
	defer g.mu.Unlock()
	who := clientNetwork(addr)
	switch {
	case g.total >= total:
		return smtpwire.NewReply(421, "4.3.2", "too many connections, please try again later"), false
	case perClient > 0 && g.client[who] >= perClient:
		return smtpwire.NewReply(421, "4.7.0", "too many connections from your address, please try again later"), false
	}
	g.total++
	g.client[who]++
	return smtpwire.Reply{}, true
}

func (g *gate) leave(addr netip.Addr) {
	g.mu.Lock()
	defer g.mu.Unlock()
	who := clientNetwork(addr)
	g.total--
	if g.client[who]--; g.client[who] <= 0 {
		delete(g.client, who)
	}
}

// clientNetwork is what counts as one client: an IPv4 address, or an IPv6 /64,
// the least that one customer is given (RFC 6177 §2).
func clientNetwork(addr netip.Addr) netip.Prefix {
	addr = addr.Unmap().WithZone("")
	bits := 32
	if addr.Is6() {
		bits = 64
	}
	p, err := addr.Prefix(bits)
	if err != nil {
		return netip.Prefix{} // no address: all of those are one client
	}
	return p
}
