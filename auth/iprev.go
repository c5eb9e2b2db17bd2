package auth

import (
	"context"
	"net"
	"net/netip"
	"slices"
)

// maxReverseNames is the number of names of one address that are confirmed. An honest host has one; more is somebody's
// list. The bound is that of https://www.rfc-editor.org/rfc/rfc7208#section-5.5
const maxReverseNames = 10

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

// IPRev looks up the names of ip and the addresses of these, at most 10, all at once. The end of ctx is a temperror.
// See https://www.rfc-editor.org/rfc/rfc8601#section-3
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
	names = names[:min(len(names), maxReverseNames)]
	answers := make([]chan forward, len(names))
	for i, name := range names {
		answers[i] = make(chan forward, 1)
		ask := func() { answers[i] <- confirm(ctx, r, name, res.IP) }
		if i < len(names)-1 {
			go ask()
		} else { // most addresses have but one
			ask()
		}
	}
	open := false
	for _, answer := range answers { // every one is waited for: none is left behind
		f := <-answer
		if f.name != "" && res.Name == "" {
			res.Name = f.name
		}
		open = open || f.open
	}
	switch {
	case res.Name != "":
		res.Value, res.Reason = "pass", "the name has this address"
	case open:
		res.Value, res.Reason = "temperror", dnsNoAnswer
	default:
		res.Value, res.Reason = "fail", "no name has this address"
	}
	return res
}

// forward is what became of one name.
type forward struct {
	name string // where it is confirmed
	open bool   // nobody knows
}

func confirm(ctx context.Context, r Resolver, name string, ip netip.Addr) forward {
	plain, ok := CanonicalDomain(name)
	if !ok {
		return forward{} // whoever holds an address may publish any octets as its name
	}
	addrs, err := r.LookupIPAddr(ctx, plain)
	if slices.ContainsFunc(addrs, func(a net.IPAddr) bool { return sameAddr(a.IP, ip) }) {
		return forward{name: plain}
	}
	return forward{open: dnsTemporary(err)}
}
