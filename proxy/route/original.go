package route

import (
	"context"
	"net/netip"
	"slices"
	"strings"
	"time"

	"slipstream/smtpwire"
)

// Original routes everything to the one address that an intercepted connection was meant for. Which host that is
// has to be recovered: it is the first mail exchanger of the recipient that has this address. Where none has, or
// the DNS does not say, the address stands for itself: its host has no name to be verified by, and none is sent as
// SNI.
//
// The mail exchangers are the sender's own choice. Nothing is refused here that the sender, who looked them up
// before us, saw otherwise, and no other address is ever tried.
type Original struct {
	Resolver Resolver
	// Addr is where the connection was meant to go.
	Addr netip.AddrPort
	// Level and Why of the policy. With Verified, a recipient whose exchanger is not found is refused.
	Level Level
	Why   string
}

var _ Router = (*Original)(nil)

// The refusals of Original:
//
//	550 5.1.2   the recipient has no domain
//	451 4.7.5   the exchanger must be verified, and which one it is does not show
//
// https://www.rfc-editor.org/rfc/rfc3463#section-3.8

// Route gives the original address, by the name that it has for to. Recipients with different names there have
// different keys.
func (o *Original) Route(ctx context.Context, _, to smtpwire.Path) (Route, error) {
	if to.IsNull() {
		return Route{}, nil
	}
	if to.Domain == "" {
		return Route{}, refuse(550, "5.1.2", nil, "%s has no domain to route by", to)
	}
	addr := netip.AddrPortFrom(o.Addr.Addr().Unmap(), o.Addr.Port())
	h := Host{Name: addr.Addr().String(), Addrs: []netip.AddrPort{addr}, Policy: Policy{Level: o.Level, Why: o.Why}}
	key := OriginalKey(addr)
	name, server, err := o.name(ctx, to.Domain)
	switch {
	case name != "":
		h.Name, h.Policy.ServerName = name, server
		key += " " + name
	case o.Level >= Verified:
		return Route{}, unnamed(to.Domain, addr.Addr(), err)
	}
	return Route{Key: key, Hosts: []Host{h}}, nil
}

// OriginalKey begins the key of every route to an address, behind which the name follows.
func OriginalKey(addr netip.AddrPort) string {
	return "original:" + netip.AddrPortFrom(addr.Addr().Unmap(), addr.Port()).String()
}

// unnamed says why no certificate would do.
func unnamed(domain string, addr netip.Addr, err error) *Error {
	if err != nil {
		return refuse(451, "4.7.5", err, "%s cannot be verified as a mail exchanger of %s: %s",
			Literal(addr), clip(domain), doubt(err))
	}
	return refuse(451, "4.7.5", nil, "%s cannot be verified: no mail exchanger of %s has that address",
		Literal(addr), clip(domain))
}

// doubt is what is known of why no name was found.
func doubt(err error) string {
	if e, ok := err.(*Error); ok {
		return strings.Join(e.Reply.Lines, " ")
	}
	return "DNS says " + saying(err)
}

// name finds the host of the address among the mail exchangers of a domain, and what its certificate must be for.
// Both are empty where there is none; err says why, if not for its being none of them.
func (o *Original) name(ctx context.Context, domain string) (name, server string, err error) {
	own := o.Addr.Addr().Unmap()
	if strings.HasPrefix(domain, "[") {
		if addr, ok := literal(domain); ok && addr == own {
			return Literal(addr), addr.String(), nil
		}
		return "", "", nil
	}
	domain, err = hostName(domain)
	if err != nil {
		return "", "", err
	}
	list, _, err := (&MX{Resolver: o.Resolver}).exchangers(ctx, domain)
	if err != nil {
		return "", "", err
	}
	name, err = o.find(ctx, list[:min(len(list), maxCandidates)])
	return name, name, err
}

// A sighting is what the DNS said about one exchanger.
type sighting struct {
	i     int
	known bool
	here  bool // it has the address
	err   error
}

// find looks up all exchangers at once and gives the best one that has the address. Those before it are waited for,
// since several may have it, but no longer than straggle.
func (o *Original) find(ctx context.Context, list []exchanger) (name string, err error) {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	seen := make([]sighting, len(list))
	results := make(chan sighting, len(list)) // room for all: no look-up outlives its context
	waiting := 0
	for i, x := range list {
		if seen[i].known, seen[i].err = x.known, x.err; !x.known {
			waiting++
			go func() { results <- o.look(ctx, i, x.name) }()
		}
	}
	var late <-chan time.Time
	for {
		i := slices.IndexFunc(seen, func(s sighting) bool { return s.here })
		undecided := slices.IndexFunc(seen, func(s sighting) bool { return !s.known })
		switch {
		case i >= 0 && (undecided < 0 || undecided > i):
			return list[i].name, nil
		case i >= 0 && late == nil:
			timer := time.NewTimer(straggle)
			defer timer.Stop()
			late = timer.C
		case waiting == 0:
			return "", firstDoubt(seen)
		}
		select {
		case s := <-results:
			seen[s.i] = s
			waiting--
		case <-late:
			return list[i].name, nil
		case <-ctx.Done():
			return "", context.Cause(ctx)
		}
	}
}

func (o *Original) look(ctx context.Context, i int, name string) sighting {
	own := o.Addr.Addr().Unmap()
	family := IPv6
	if own.Is4() {
		family = IPv4
	}
	addrs, err := o.Resolver.Addrs(ctx, family.network(), name)
	here := slices.ContainsFunc(addrs, func(a netip.Addr) bool { return a.Unmap() == own })
	return sighting{i: i, known: true, err: err, here: here}
}

// firstDoubt is why an exchanger that may have the address is not known to have it.
func firstDoubt(seen []sighting) error {
	for _, s := range seen {
		if s.err != nil && !isNotFound(s.err) && s.err != errNotHost {
			return s.err
		}
	}
	return nil
}
