package resolver

import (
	"cmp"
	"context"
	"encoding/hex"
	"math/rand/v2"
	"net"
	"net/netip"
	"slices"
	"strings"
	"time"

	"github.com/miekg/dns"
)

// MX is a mail exchanger, https://www.rfc-editor.org/rfc/rfc5321#section-5.1
type MX struct {
	Preference uint16 // lower is better
	// Host is a lower-case name without a final dot, "." for "takes no mail" (RFC 7505). It is what somebody published:
	// it need not be a host name; octets that cannot stand in one are escaped as in a zone file.
	Host string
}

// TLSA says which certificate to expect, https://www.rfc-editor.org/rfc/rfc6698#section-2.1
type TLSA struct {
	Usage, Selector, MatchingType uint8
	Data                          []byte
}

// LookupTXT gives the TXT records of name, the strings of each joined without anything between
// (https://www.rfc-editor.org/rfc/rfc7208#section-3.3). The octets are as published; they need not be UTF-8, nor printable.
func (r *Resolver) LookupTXT(ctx context.Context, name string) (Result[string], error) {
	return find(ctx, r, name, dns.TypeTXT, func(rr dns.RR) (string, bool) {
		txt, ok := rr.(*dns.TXT)
		if !ok {
			return "", false
		}
		var b strings.Builder
		for _, s := range txt.Txt {
			unescape(&b, s)
		}
		return b.String(), true
	})
}

// LookupMX gives the mail exchangers of name, best preference first and those of equal preference in random order
// (https://www.rfc-editor.org/rfc/rfc5321#section-5.1). Where there are too many, the worst are dropped.
func (r *Resolver) LookupMX(ctx context.Context, name string) (Result[MX], error) {
	res, err := find(ctx, r, name, dns.TypeMX, func(rr dns.RR) (MX, bool) {
		mx, ok := rr.(*dns.MX)
		if !ok {
			return MX{}, false
		}
		return MX{Preference: mx.Preference, Host: plainName(dns.CanonicalName(mx.Mx))}, true
	})
	rand.Shuffle(len(res.Records), func(i, j int) { res.Records[i], res.Records[j] = res.Records[j], res.Records[i] })
	slices.SortStableFunc(res.Records, func(a, b MX) int { return cmp.Compare(a.Preference, b.Preference) })
	return res, err
}

// LookupA gives the IPv4 addresses of name. "localhost" is 127.0.0.1, and no server is asked
// (https://www.rfc-editor.org/rfc/rfc6761#section-6.3).
func (r *Resolver) LookupA(ctx context.Context, name string) (Result[netip.Addr], error) {
	return find(ctx, r, name, dns.TypeA, func(rr dns.RR) (netip.Addr, bool) {
		a, ok := rr.(*dns.A)
		if !ok {
			return netip.Addr{}, false
		}
		return netip.AddrFromSlice(a.A.To4())
	})
}

// LookupAAAA gives the IPv6 addresses of name. "localhost" is ::1, and no server is asked.
func (r *Resolver) LookupAAAA(ctx context.Context, name string) (Result[netip.Addr], error) {
	return find(ctx, r, name, dns.TypeAAAA, func(rr dns.RR) (netip.Addr, bool) {
		a, ok := rr.(*dns.AAAA)
		if !ok {
			return netip.Addr{}, false
		}
		return netip.AddrFromSlice(a.AAAA)
	})
}

// LookupAddrs asks for both kinds of address at once and gives the IPv4 addresses, then the IPv6 addresses. Addresses of one
// kind are a success, whatever became of the other. Without any address a temporary failure of either kind is the error,
// since the next try may find one. Secure speaks of the answers that were had.
//
// Once one kind is there the other is waited for at most half a second more: name servers that never answer to one of the
// types are common. The idea is that of https://www.rfc-editor.org/rfc/rfc8305#section-3
func (r *Resolver) LookupAddrs(ctx context.Context, name string) (Result[netip.Addr], error) {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	hurry := func(err error) {
		if err == nil {
			time.AfterFunc(otherFamily, cancel)
		}
	}
	var v6 Result[netip.Addr]
	var err6 error
	done := make(chan struct{})
	go func() {
		defer close(done)
		v6, err6 = r.LookupAAAA(ctx, name)
		hurry(err6)
	}()
	v4, err4 := r.LookupA(ctx, name)
	hurry(err4)
	<-done
	return both(v4, err4, v6, err6)
}

// both makes one result of the two families.
func both(v4 Result[netip.Addr], err4 error, v6 Result[netip.Addr], err6 error) (Result[netip.Addr], error) {
	if temporary(err4) || temporary(err6) {
		switch {
		case err4 == nil:
			return v4, nil
		case err6 == nil:
			return v6, nil
		case temporary(err4):
			return Result[netip.Addr]{}, err4
		}
		return Result[netip.Addr]{}, err6
	}
	res := v4
	if err4 != nil {
		res = v6
	}
	res.Records = append(slices.Clip(v4.Records), v6.Records...)
	res.Secure = v4.Secure && v6.Secure
	res.Stale = v4.Stale || v6.Stale
	res.Expires = earlier(v4.Expires, v6.Expires)
	switch {
	case len(res.Records) > 0:
		return res, nil
	case IsNXDomain(err4):
		return res, err6 // "no such record" where the two disagree: the name exists for somebody
	}
	return res, err4
}

// LookupPTR gives the names of addr in lower case. A record that is no host name is dropped: whoever holds an address may
// publish any octets as its name.
func (r *Resolver) LookupPTR(ctx context.Context, addr netip.Addr) (Result[string], error) {
	name, err := dns.ReverseAddr(addr.Unmap().WithZone("").String())
	if err != nil {
		return Result[string]{}, notFound(addr.String(), "not an address", true)
	}
	return find(ctx, r, name, dns.TypePTR, func(rr dns.RR) (string, bool) {
		ptr, ok := rr.(*dns.PTR)
		if !ok {
			return "", false
		}
		host := plainName(dns.CanonicalName(ptr.Ptr))
		return host, isHostName(host)
	})
}

// LookupTLSA gives the TLSA records of name, which is complete: "_25._tcp.mx.example.org".
func (r *Resolver) LookupTLSA(ctx context.Context, name string) (Result[TLSA], error) {
	return find(ctx, r, name, dns.TypeTLSA, func(rr dns.RR) (TLSA, bool) {
		t, ok := rr.(*dns.TLSA)
		if !ok {
			return TLSA{}, false
		}
		data, err := hex.DecodeString(t.Certificate)
		return TLSA{Usage: t.Usage, Selector: t.Selector, MatchingType: t.MatchingType, Data: data}, err == nil
	})
}

// find looks name up and makes a fresh record of each one that take accepts.
func find[T any](ctx context.Context, r *Resolver, name string, qtype uint16, take func(dns.RR) (T, bool)) (Result[T], error) {
	q, ok := r.newQuestion(name, qtype)
	if !ok {
		return Result[T]{}, notFound(clip(name), "not a domain name", true)
	}
	a, age, err := r.lookup(ctx, q)
	if err != nil {
		return Result[T]{}, err // a *net.DNSError
	}
	res := Result[T]{Secure: a.secure, Stale: age == stale, Name: plainName(a.name), Expires: a.expires}
	for _, rr := range a.rrs {
		if record, ok := take(rr); ok {
			res.Records = append(res.Records, record)
		}
	}
	if len(res.Records) == 0 {
		return res, a.denial(q)
	}
	return res, nil
}

// temporary reports whether err may be gone at the next try.
func temporary(err error) bool {
	d, ok := err.(*net.DNSError)
	return ok && !d.IsNotFound
}
