package proxy

import (
	"context"
	"errors"
	"net"
	"net/netip"

	"slipstream/auth"
	"slipstream/proxy/resolver"
)

// AuthDNS is what authentication asks of the DNS; [resolver.Resolver] is one. An error that says IsNotFound stands
// for a name that does not exist where [resolver.IsNXDomain] says so, and else for one without such a record.
type AuthDNS interface {
	LookupTXT(ctx context.Context, name string) (resolver.Result[string], error)
	LookupMX(ctx context.Context, name string) (resolver.Result[resolver.MX], error)
	LookupA(ctx context.Context, name string) (resolver.Result[netip.Addr], error)
	LookupAAAA(ctx context.Context, name string) (resolver.Result[netip.Addr], error)
	LookupPTR(ctx context.Context, addr netip.Addr) (resolver.Result[string], error)
}

var _ AuthDNS = (*resolver.Resolver)(nil)

// AuthResolver lets the methods of package auth ask dns. No answer is one whose time is over: what a domain allows
// must be what it allows now (see [resolver.Fresh]).
//
// LookupIPAddr asks for both families at once. Where one of them answers and the other does not, it gives the
// addresses that it has and the temporary error as well, as [net.Resolver] never does: the address that iprev looks
// for may be among them, while whoever needs all of them, as SPF does to say that a client is none of them, must not
// decide. Who knows the family, because the client has one (https://www.rfc-editor.org/rfc/rfc7208#section-5.3), asks
// LookupNetIP for that alone, and is not kept from an answer by name servers that know nothing of the other: those
// that fail for AAAA are common.
func AuthResolver(dns AuthDNS) *AuthNames { return &AuthNames{dns: dns} }

// AuthNames are the answers of an [AuthDNS] in the terms of package auth. Make them with [AuthResolver].
type AuthNames struct {
	dns   AuthDNS
	known func(context.Context) context.Context // nil: whatever is asked
}

var _ auth.ExistenceResolver = (*AuthNames)(nil)

// A remembering AuthDNS can be kept from asking anybody, as [resolver.Resolver.Known] does.
type remembering interface {
	Known(ctx context.Context) context.Context
}

// Known implements [auth.KnowingResolver].
func (a *AuthNames) Known() auth.Resolver {
	if r, ok := a.dns.(remembering); ok {
		return &AuthNames{dns: a.dns, known: r.Known}
	}
	return &AuthNames{dns: nothingKnown{}}
}

// under is the context of a question.
func (a *AuthNames) under(ctx context.Context) context.Context {
	if a.known != nil {
		ctx = a.known(ctx)
	}
	return resolver.Fresh(ctx)
}

// nothingKnown is what a DNS knows that remembers nothing.
type nothingKnown struct{}

func unknown(name string) error {
	return &net.DNSError{Err: "not remembered", Name: name, IsTemporary: true}
}

func (nothingKnown) LookupTXT(_ context.Context, name string) (r resolver.Result[string], err error) {
	return r, unknown(name)
}

func (nothingKnown) LookupMX(_ context.Context, name string) (r resolver.Result[resolver.MX], err error) {
	return r, unknown(name)
}

func (nothingKnown) LookupA(_ context.Context, name string) (r resolver.Result[netip.Addr], err error) {
	return r, unknown(name)
}

func (nothingKnown) LookupAAAA(_ context.Context, name string) (r resolver.Result[netip.Addr], err error) {
	return r, unknown(name)
}

func (nothingKnown) LookupPTR(_ context.Context, addr netip.Addr) (r resolver.Result[string], err error) {
	return r, unknown(addr.String())
}

// LookupTXT implements [auth.Resolver].
func (a *AuthNames) LookupTXT(ctx context.Context, name string) ([]string, error) {
	res, err := a.dns.LookupTXT(a.under(ctx), name)
	if err != nil {
		return nil, bareDNSError(err, name)
	}
	return res.Records, nil
}

// LookupMX implements [auth.Resolver].
func (a *AuthNames) LookupMX(ctx context.Context, name string) ([]*net.MX, error) {
	res, err := a.dns.LookupMX(a.under(ctx), name)
	if err != nil {
		return nil, bareDNSError(err, name)
	}
	list := make([]*net.MX, 0, len(res.Records))
	for _, mx := range res.Records {
		list = append(list, &net.MX{Host: mx.Host, Pref: mx.Preference})
	}
	return list, nil
}

// LookupIPAddr implements [auth.Resolver]: see [AuthResolver].
func (a *AuthNames) LookupIPAddr(ctx context.Context, host string) ([]net.IPAddr, error) {
	v4, v6, err4, err6 := a.bothFamilies(ctx, host)
	var list []net.IPAddr
	for _, family := range [][]netip.Addr{v4, v6} {
		for _, addr := range family {
			list = append(list, net.IPAddr{IP: addr.AsSlice(), Zone: addr.Zone()})
		}
	}
	return list, eitherFailed(len(list) > 0, err4, err6)
}

// bothFamilies asks for the addresses of host at once, for IPv4 and for IPv6.
func (a *AuthNames) bothFamilies(ctx context.Context, host string) (v4, v6 []netip.Addr, err4, err6 error) {
	if a.known != nil { // nothing is waited for
		v4, err4 = a.LookupNetIP(ctx, "ip4", host)
		v6, err6 = a.LookupNetIP(ctx, "ip6", host)
		return v4, v6, err4, err6
	}
	done := make(chan struct{})
	go func() {
		defer close(done)
		v6, err6 = a.LookupNetIP(ctx, "ip6", host)
	}()
	v4, err4 = a.LookupNetIP(ctx, "ip4", host)
	<-done
	return v4, v6, err4, err6
}

// eitherFailed is the error of a look-up of two families.
func eitherFailed(found bool, err4, err6 error) error {
	for _, err := range []error{err4, err6} {
		if err != nil && missing(err) != nameUnavailable {
			return err
		}
	}
	switch {
	case found:
		return nil
	case resolver.IsNXDomain(err4):
		return err6 // "no such record" where the two disagree: the name exists for somebody
	}
	return err4
}

// LookupNetIP gives the addresses of host of one family: network is "ip4" or "ip6".
func (a *AuthNames) LookupNetIP(ctx context.Context, network, host string) ([]netip.Addr, error) {
	ask := a.dns.LookupAAAA
	if network == "ip4" {
		ask = a.dns.LookupA
	}
	res, err := ask(a.under(ctx), host)
	if err != nil {
		return nil, bareDNSError(err, host)
	}
	return res.Records, nil
}

// LookupAddr implements [auth.Resolver]. What is no address has no name.
func (a *AuthNames) LookupAddr(ctx context.Context, addr string) ([]string, error) {
	ip, err := netip.ParseAddr(addr)
	if err != nil {
		return nil, &net.DNSError{Err: "not an address", Name: addr, IsNotFound: true}
	}
	res, err := a.dns.LookupPTR(a.under(ctx), ip)
	if err != nil {
		return nil, bareDNSError(err, addr)
	}
	return res.Records, nil
}

// Exists implements [auth.ExistenceResolver]. Any type of record would do; that for TXT is often known already, since
// SPF asks for it. An alias exists, wherever it leads: of NXDOMAIN, it is the name at the end of the chain whose
// existence is denied (https://www.rfc-editor.org/rfc/rfc8020#section-1.1).
func (a *AuthNames) Exists(ctx context.Context, name string) (bool, error) {
	res, err := a.dns.LookupTXT(a.under(ctx), name)
	switch {
	case err == nil:
		return true, nil
	case resolver.IsNXDomain(err):
		canonical, ok := auth.CanonicalDomain(name)
		return ok && res.Name != "" && res.Name != canonical, nil
	case missing(err) == nameUnavailable:
		return true, nil
	}
	return false, bareDNSError(err, name)
}

// bareDNSError is err as package auth wants it: a *net.DNSError, not wrapped. Another kind of error says nothing
// about the name, so nobody knows.
func bareDNSError(err error, name string) error {
	var d *net.DNSError
	if errors.As(err, &d) {
		return d
	}
	return &net.DNSError{Err: err.Error(), Name: name, UnwrapErr: err, IsTemporary: true}
}
