package auth

import (
	"context"
	"net"
	"net/netip"
	"strings"
)

// Resolver is what the methods ask. It is safe for concurrent use, and a look-up returns soon after its context has
// ended: that is what keeps every deadline of this package.
//
// Every error is a *net.DNSError, never wrapped. IsNotFound says that there is no such name or no such record;
// IsTemporary or IsTimeout that nobody knows; neither that the answer makes no sense. A name that cannot stand in the
// DNS does not exist.
type Resolver interface {
	// LookupTXT gives the TXT records of name, the strings of each joined without anything between.
	LookupTXT(ctx context.Context, name string) ([]string, error)
	// LookupMX gives the mail exchangers of name.
	LookupMX(ctx context.Context, name string) ([]*net.MX, error)
	// LookupIPAddr gives the addresses of host, of both families.
	LookupIPAddr(ctx context.Context, host string) ([]net.IPAddr, error)
	// LookupAddr gives the names of an address, without or with a final dot.
	LookupAddr(ctx context.Context, addr string) ([]string, error)
}

// A FamilyResolver is a Resolver that can be asked for the addresses of one family: network is "ip4" or "ip6".
type FamilyResolver interface {
	Resolver
	LookupNetIP(ctx context.Context, network, host string) ([]netip.Addr, error)
}

// dnsNoAnswer is the reason of temporary errors.
const dnsNoAnswer = "no answer from the DNS"

// dnsTemporary reports whether asking again later may help.
func dnsTemporary(err error) bool {
	d, ok := err.(*net.DNSError)
	return ok && d.Temporary() && !d.IsNotFound
}

// dnsNotFound reports whether the answer is a clear no.
func dnsNotFound(err error) bool {
	d, ok := err.(*net.DNSError)
	return ok && d.IsNotFound
}

// plainDomain is CanonicalDomain for what must be a whole domain name: at least two labels, of which the last is no
// number, so that an address is none. What comes out can stand in a header field as it is.
func plainDomain(s string) (domain string, ok bool) {
	domain, ok = CanonicalDomain(s)
	dot := strings.LastIndexByte(domain, '.')
	if !ok || dot < 0 || strings.Trim(domain[dot+1:], "0123456789") == "" {
		return "", false
	}
	return domain, true
}

func isAlpha(c byte) bool { return c|0x20 >= 'a' && c|0x20 <= 'z' }
func isDigit(c byte) bool { return c >= '0' && c <= '9' }
func isAlnum(c byte) bool { return isAlpha(c) || isDigit(c) }
