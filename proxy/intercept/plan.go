// Package intercept makes the rules that bring other programs' connections to our doors, and carries them out: one
// table of nftables, rules of policy routing and one routing table. All of it bears our own names and numbers, so
// that it can be put there again and again, and be taken away without a trace.
//
// What is printed and what is done are the same steps.
package intercept

import (
	"fmt"
	"net/netip"
	"slices"
)

// What is ours in the kernel. They are fixed, so that rules of an earlier configuration are found again.
const (
	// TableName is the nftables table, of the family inet.
	TableName = "slipstream"
	// Mark is what packets carry that are for our sockets though their address is another machine's.
	Mark = 0x736c
	// Unheard is what packets carry that a door should have taken, while nobody listens there. They go no further.
	Unheard = 0x736d
	// RouteTable is the routing table by which such packets stay here.
	RouteTable = 2525
	// rulePriority is the place of our rules of policy routing; answers from loopback come right behind.
	rulePriority, answerPriority = 2525, 2526
)

// A Plan is which connections are to come to us.
type Plan struct {
	UID      uint32 // who we are; what we send ourselves is never intercepted
	User     string // the name of that, for comments
	IPv6     bool   // the machine has IPv6
	Outbound []Outbound
	Inbound  []Inbound
}

// An Outbound door takes the connections of an MTA to the world.
type Outbound struct {
	Door     string
	TProxy   bool             // of machines that we are the router of; else of this machine
	Listen   []netip.AddrPort // where the door is; an unspecified address stands for all addresses of both families
	Networks []netip.Prefix   // where the connections are meant to go
	Port     uint16           // of the mail hosts there
	Clients  []netip.Prefix   // with TProxy: whose connections are taken; others' pass by
}

// An Inbound door takes the connections of the world to the MTA, or speaks to the MTA from the world's addresses.
type Inbound struct {
	Door   string
	Fronts []Front // empty: clients connect to the door itself
	Spoof  bool    // the door connects to the backend from its clients' addresses

	// Backends are the addresses of the MTA. One that is not known beforehand is left invalid.
	Backends []netip.AddrPort
}

// A Front is a public port that is brought to us.
type Front struct {
	Port   uint16
	Listen []netip.AddrPort // as in Outbound
}

// IsEmpty reports whether nothing is to be intercepted.
func (p Plan) IsEmpty() bool {
	wants := func(in Inbound) bool { return in.Spoof || len(in.Fronts) > 0 }
	return len(p.Outbound) == 0 && !slices.ContainsFunc(p.Inbound, wants)
}

// NeedsUser reports whether the rules depend on who we are.
func (p Plan) NeedsUser() bool {
	return slices.ContainsFunc(p.Outbound, func(o Outbound) bool { return !o.TProxy }) ||
		len(p.spoofed(func(b netip.AddrPort) bool { return !b.Addr().IsLoopback() })) > 0
}

// A spoofed backend is one that we speak to from its clients' addresses.
type spoofed struct {
	door string
	netip.AddrPort
}

// spoofed gives the backends that we speak to in that way, those that are wanted.
func (p Plan) spoofed(want func(netip.AddrPort) bool) (list []spoofed) {
	for _, in := range p.Inbound {
		for _, b := range in.Backends {
			if in.Spoof && want(b) && (p.IPv6 || !b.Addr().Is6()) {
				list = append(list, spoofed{in.Door, b})
			}
		}
	}
	return list
}

// Check says what keeps a plan from being carried out as it is.
func (p Plan) Check() error {
	for _, o := range p.Outbound {
		if err := p.checkListen(o.Door, o.Listen); err != nil {
			return err
		}
	}
	for _, in := range p.Inbound {
		for _, f := range in.Fronts {
			if err := p.checkListen(in.Door, f.Listen); err != nil {
				return err
			}
		}
		for _, b := range in.Backends {
			if b.Addr().Zone() != "" {
				return fmt.Errorf("the backend of door %q is at %q, and rules cannot name a zone; write an address without one",
					in.Door, b)
			}
		}
	}
	return nil
}

func (p Plan) checkListen(door string, listen []netip.AddrPort) error {
	for _, a := range listen {
		if a.Port() == 0 {
			return fmt.Errorf("door %q listens on a port that the system chooses, and rules need to name it; "+
				"set a port in listen", door)
		}
		if a.Addr().Zone() != "" {
			return fmt.Errorf("door %q listens on %q, and rules cannot name a zone; write an address without one in listen",
				door, a)
		}
	}
	return nil
}

// families are those that the machine has.
func (p Plan) families() []family {
	if p.IPv6 {
		return []family{v4, v6}
	}
	return []family{v4}
}

// A family is a version of IP.
type family int

const (
	v4 family = 4
	v6 family = 6
)

// word is what nftables calls it.
func (f family) word() string {
	if f == v4 {
		return "ip"
	}
	return "ip6"
}

// all matches every packet of the family.
func (f family) all() string { return fmt.Sprintf("meta nfproto ipv%d", f) }

// of reports whether an address is of the family. An unspecified one listens in both.
func (f family) of(a netip.Addr) bool { return a.IsUnspecified() || a.Is4() == (f == v4) }

// target is where a door is found in a family.
func (f family) target(listen []netip.AddrPort) (netip.AddrPort, bool) {
	i := slices.IndexFunc(listen, func(a netip.AddrPort) bool { return f.of(a.Addr()) })
	if i < 0 {
		return netip.AddrPort{}, false
	}
	return listen[i], true
}

// daddr matches packets to one of the networks, "" where there is none of the family.
func (f family) daddr(networks []netip.Prefix) string { return f.match("daddr", networks) }

// match matches packets whose address is in one of the networks, "" where there is none of the family.
func (f family) match(field string, networks []netip.Prefix) string {
	var words []string
	for i, n := range networks {
		if n.Addr().Is4() != (f == v4) || isCovered(n, networks, i) {
			continue
		}
		if n.Bits() == 0 {
			return f.all()
		}
		words = append(words, n.Masked().String())
	}
	if len(words) == 0 {
		return ""
	}
	return f.word() + " " + field + " " + set(words)
}

// isCovered reports whether another network has all of the one at i, which a set of nftables must not have twice.
func isCovered(n netip.Prefix, networks []netip.Prefix, i int) bool {
	for k, other := range networks {
		wider := other.Bits() < n.Bits() || other.Bits() == n.Bits() && k < i
		if wider && other.Contains(n.Addr()) {
			return true
		}
	}
	return false
}

// between matches packets of the clients to the networks, "" where there are none of the family. This machine's own
// addresses of loopback are nobody's who is routed.
func (f family) between(clients, networks []netip.Prefix) string {
	clients = slices.DeleteFunc(slices.Clone(clients), func(n netip.Prefix) bool { return n.Addr().IsLoopback() })
	from, to := f.match("saddr", clients), f.match("daddr", networks)
	switch {
	case from == "" || to == "":
		return ""
	case from == f.all():
		return to
	case to == f.all():
		return from
	}
	return from + " " + to
}
