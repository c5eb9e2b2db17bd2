package auth

import (
	"context"
	"net"
	"net/netip"
	"slices"
	"sync"
)

const (
	// maxReverseNames is the number of names of one address that are confirmed. An honest host has one or two; more is
	// somebody's list, and a long one only serves to have us ask. https://www.rfc-editor.org/rfc/rfc8601#section-3
	// speaks of all names and leaves the bound to us; nothing that is decided here depends on iprev.
	maxReverseNames = 5
	// maxReverseAtOnce is the number of names that are asked for at the same time. Mostly the first one is right, and
	// then nothing else was asked in vain.
	maxReverseAtOnce = 2
)

// IPRevResult says whether an address has a name that leads back to it.
type IPRevResult struct {
	// Value is pass, fail (names there are, but none of them has this address), temperror (nobody knows) or permerror
	// (there is no name), https://www.rfc-editor.org/rfc/rfc8601#section-2.7.3
	Value string
	// IP is the address, an IPv4 one in IPv4 form.
	IP netip.Addr
	// Name is the first confirmed name: lower case, no final dot. Empty unless Value is pass.
	Name string
	// Reason tells people what decided, in words of ours.
	Reason string
}

// IPRev looks up the names of ip and the addresses of these, of the family of ip alone where r can be asked so: of at
// most 5, two at a time, up to the first that has ip. The end of ctx is a temperror. See
// https://www.rfc-editor.org/rfc/rfc8601#section-3
func IPRev(ctx context.Context, r Resolver, ip netip.Addr) IPRevResult {
	res := IPRevResult{IP: ip.Unmap().WithZone("")}
	if !res.IP.IsValid() {
		res.Value, res.Reason = "permerror", "the client has no address"
		return res
	}
	names, err := r.LookupAddr(ctx, res.IP.String())
	switch {
	case dnsNotFound(err) || err == nil && len(names) == 0:
		res.Value, res.Reason = "permerror", "the address has no name"
		return res
	case dnsTemporary(err):
		res.Value, res.Reason = "temperror", dnsNoAnswer
		return res
	case err != nil:
		res.Value, res.Reason = "permerror", "the answer makes no sense"
		return res
	}
	open := false
	for some := range slices.Chunk(names[:min(len(names), maxReverseNames)], maxReverseAtOnce) {
		name, unknown := confirmFirst(ctx, r, some, res.IP)
		if name != "" {
			res.Value, res.Name, res.Reason = "pass", name, "the name has this address"
			return res
		}
		open = open || unknown
	}
	if open {
		res.Value, res.Reason = "temperror", dnsNoAnswer
	} else {
		res.Value, res.Reason = "fail", "no name has this address"
	}
	return res
}

// forward is what became of one name.
type forward struct {
	name string // where it is confirmed
	open bool   // nobody knows
}

// confirmFirst asks for all names at once and returns the first that has ip. Those behind it are not waited for: their
// look-ups end with it. open: there is none, but for some name nobody knows.
func confirmFirst(ctx context.Context, r Resolver, names []string, ip netip.Addr) (name string, open bool) {
	ctx, cancel := context.WithCancel(ctx)
	var others sync.WaitGroup
	defer others.Wait()
	defer cancel()
	answers := make([]chan forward, len(names))
	for i := range names[1:] {
		answers[i+1] = make(chan forward, 1)
		others.Go(func() { answers[i+1] <- confirm(ctx, r, names[i+1], ip) })
	}
	f := confirm(ctx, r, names[0], ip) // most addresses have but one
	for _, answer := range answers[1:] {
		if f.name != "" {
			break
		}
		open = open || f.open
		f = <-answer
	}
	return f.name, open || f.open
}

func confirm(ctx context.Context, r Resolver, name string, ip netip.Addr) forward {
	plain, ok := CanonicalDomain(name)
	if !ok {
		return forward{} // whoever holds an address may publish any octets as its name
	}
	there, err := hasAddr(ctx, r, plain, ip)
	if there {
		return forward{name: plain}
	}
	return forward{open: dnsTemporary(err)}
}

// hasAddr reports whether ip is among the addresses of host.
func hasAddr(ctx context.Context, r Resolver, host string, ip netip.Addr) (bool, error) {
	if family, ok := r.(FamilyResolver); ok {
		network := "ip6"
		if ip.Is4() {
			network = "ip4"
		}
		addrs, err := family.LookupNetIP(ctx, network, host)
		return slices.ContainsFunc(addrs, func(a netip.Addr) bool { return a.Unmap() == ip }), err
	}
	addrs, err := r.LookupIPAddr(ctx, host)
	return slices.ContainsFunc(addrs, func(a net.IPAddr) bool { return sameAddr(a.IP, ip) }), err
}
