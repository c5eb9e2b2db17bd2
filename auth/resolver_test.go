package auth

import (
	"context"
	"net"
	"net/netip"
	"strings"
	"sync/atomic"
)

// zone is a Resolver over records of a test, by name in lower case without a final dot.
type zone struct {
	txt, ptr, cname map[string][]string
	mx              map[string][]*net.MX
	addrs           map[string][]netip.Addr
	down            map[string][]string         // types that time out at a name; "*" is every type
	wait            func(context.Context) error // before each answer; nil: at once
	asked           atomic.Int64
}

func (z *zone) find(ctx context.Context, name, qtype string) (string, error) {
	z.asked.Add(1)
	if z.wait != nil {
		if err := z.wait(ctx); err != nil {
			return "", zoneTimeout(name)
		}
	}
	if ctx.Err() != nil {
		return "", zoneTimeout(name)
	}
	name = strings.ToLower(strings.TrimSuffix(name, "."))
	for range 8 {
		for _, t := range z.down[name] {
			if t == qtype || t == "*" {
				return "", zoneTimeout(name)
			}
		}
		next := z.cname[name]
		if len(next) == 0 {
			return name, nil
		}
		name = strings.ToLower(strings.TrimSuffix(next[0], "."))
	}
	return "", &net.DNSError{Err: "too many aliases", Name: name, IsTemporary: true}
}

func zoneTimeout(name string) error {
	return &net.DNSError{Err: "i/o timeout", Name: name, IsTimeout: true, IsTemporary: true}
}

func zoneAnswer[T any](name string, list []T) ([]T, error) {
	if len(list) == 0 {
		return nil, &net.DNSError{Err: "no such record", Name: name, IsNotFound: true}
	}
	return list, nil
}

func (z *zone) LookupTXT(ctx context.Context, name string) ([]string, error) {
	at, err := z.find(ctx, name, "TXT")
	if err != nil {
		return nil, err
	}
	return zoneAnswer(name, z.txt[at])
}

func (z *zone) LookupMX(ctx context.Context, name string) ([]*net.MX, error) {
	at, err := z.find(ctx, name, "MX")
	if err != nil {
		return nil, err
	}
	return zoneAnswer(name, z.mx[at])
}

func (z *zone) LookupIPAddr(ctx context.Context, host string) ([]net.IPAddr, error) {
	at, err := z.find(ctx, host, "A")
	if err != nil {
		return nil, err
	}
	var list []net.IPAddr
	for _, a := range z.addrs[at] {
		list = append(list, net.IPAddr{IP: a.AsSlice()})
	}
	return zoneAnswer(host, list)
}

func (z *zone) LookupAddr(ctx context.Context, addr string) ([]string, error) {
	at, err := z.find(ctx, addr, "PTR")
	if err != nil {
		return nil, err
	}
	return zoneAnswer(addr, z.ptr[at])
}
