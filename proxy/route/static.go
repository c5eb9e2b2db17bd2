package route

import (
	"context"
	"net/netip"

	"slipstream/smtpwire"
)

// Static sends everything to one place. A name is looked up for every message, so that a change in the DNS takes effect once its
// TTL has run out.
type Static struct {
	Target Target
	// Level and Why of the policy; Target says whether TLS is implicit, and names the server.
	Level Level
	Why   string
	// ServerName is the name in the target's certificate. Empty: the name in Target.
	ServerName string
	// Resolver looks the name up; not needed for an address or a socket.
	Resolver Resolver
	Family   Family
}

var _ Router = (*Static)(nil)

// Route gives the target, whoever the message is for. That its name cannot be resolved is always a temporary error: the
// fault is ours, and the recipient may well exist.
func (s *Static) Route(ctx context.Context, _, _ smtpwire.Path) (Route, error) {
	t := s.Target
	r := Route{Key: t.String(), LMTP: t.LMTP, Unix: t.Unix}
	if t.Unix != "" {
		return r, nil
	}
	addrs, err := s.addrs(ctx)
	if err != nil {
		return Route{}, err
	}
	name := s.ServerName
	if name == "" {
		name = t.Host
	}
	r.Hosts = []Host{{
		Name:   t.Host,
		Addrs:  interleave(addrs, t.Port),
		Policy: Policy{Level: s.Level, Why: s.Why, Implicit: t.Implicit, ServerName: name},
	}}
	return r, nil
}

// addrs gives at least one address of the target, or an *Error.
func (s *Static) addrs(ctx context.Context) ([]netip.Addr, error) {
	host := s.Target.Host
	if addr, err := netip.ParseAddr(host); err == nil {
		return []netip.Addr{addr.Unmap()}, nil
	}
	addrs, err := s.Resolver.Addrs(ctx, s.Family.network(), host)
	switch {
	case isNotFound(err):
		return nil, refuse(451, "4.4.4", err, "next hop %s does not exist: DNS says %s", host, saying(err))
	case err != nil:
		return nil, refuse(451, "4.4.3", err, "next hop %s cannot be looked up: DNS says %s", host, saying(err))
	}
	if addrs, _ = usable(addrs, s.Family, nil); len(addrs) == 0 {
		return nil, refuse(451, "4.4.4", nil, "next hop %s has no address%s", host, s.Family.phrase())
	}
	return addrs, nil
}
