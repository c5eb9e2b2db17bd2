package resolver

import (
	"context"
	"fmt"
	"net"
	"net/netip"
)

// MX and Addrs give the same answers in types of the standard library, for callers that declare what they need without
// importing this package. They draw the line between yes and no differently: a name that exists without such a record is an
// empty list and no error, and IsNotFound always means that the name does not exist.

// MX is [Resolver.LookupMX] in plain types. The host "." stands for "takes no mail" (RFC 7505).
func (r *Resolver) MX(ctx context.Context, domain string) ([]*net.MX, error) {
	res, err := r.LookupMX(ctx, domain)
	var list []*net.MX
	for _, mx := range res.Records {
		list = append(list, &net.MX{Host: mx.Host, Pref: mx.Preference})
	}
	return list, onlyNXDomain(err)
}

// Addrs is [Resolver.LookupAddrs] in plain types, or of network "ip4" or "ip6" one half of it; "ip" is both.
func (r *Resolver) Addrs(ctx context.Context, network, host string) ([]netip.Addr, error) {
	var res Result[netip.Addr]
	var err error
	switch network {
	case "ip":
		res, err = r.LookupAddrs(ctx, host)
	case "ip4":
		res, err = r.LookupA(ctx, host)
	case "ip6":
		res, err = r.LookupAAAA(ctx, host)
	default:
		return nil, fmt.Errorf("resolver: network %q is none of ip, ip4, ip6", network)
	}
	return res.Records, onlyNXDomain(err)
}

// onlyNXDomain drops the error of a name that exists without the record.
func onlyNXDomain(err error) error {
	if err == nil || temporary(err) || IsNXDomain(err) {
		return err
	}
	return nil
}
