package route

import (
	"context"
	"errors"
	"net"
	"net/netip"
	"strconv"
	"strings"
	"sync"
	"time"
)

// zones is a Resolver over maps. A name in none of them does not exist.
type zones struct {
	mx    map[string]string        // "10 a.example, 20 b.example"; "" for none
	addrs map[string]string        // "192.0.2.1 2001:db8::1"; "" for none
	fail  map[string]error         // by name: the answer to everything
	slow  map[string]time.Duration // by name: how long an answer about addresses takes

	mu    sync.Mutex
	asked []string // "MX a.example", "ip a.example"
}

var errServfail = &net.DNSError{Err: "SERVFAIL", Server: "127.0.0.1:53", IsTemporary: true}

func (z *zones) note(kind, name string) error {
	z.mu.Lock()
	defer z.mu.Unlock()
	z.asked = append(z.asked, kind+" "+name)
	if err := z.fail[name]; err != nil {
		return err
	}
	_, mx := z.mx[name]
	_, addrs := z.addrs[name]
	if !mx && !addrs {
		return &net.DNSError{Err: "NXDOMAIN: no such domain", Name: name, IsNotFound: true}
	}
	return nil
}

func (z *zones) MX(_ context.Context, domain string) ([]*net.MX, error) {
	if err := z.note("MX", domain); err != nil {
		return nil, err
	}
	var list []*net.MX
	for rec := range strings.SplitSeq(z.mx[domain], ",") {
		pref, host, ok := strings.Cut(strings.TrimLeft(rec, " "), " ")
		if !ok {
			continue
		}
		n, err := strconv.ParseUint(pref, 10, 16)
		if err != nil {
			panic(err)
		}
		list = append(list, &net.MX{Host: host, Pref: uint16(n)})
	}
	return list, nil
}

func (z *zones) Addrs(ctx context.Context, network, host string) ([]netip.Addr, error) {
	if d := z.slow[host]; d > 0 {
		select {
		case <-time.After(d):
		case <-ctx.Done():
			return nil, &net.DNSError{Err: ctx.Err().Error(), IsTemporary: true}
		}
	}
	if err := z.note(network, host); err != nil {
		return nil, err
	}
	var list []netip.Addr
	for s := range strings.FieldsSeq(z.addrs[host]) {
		addr := netip.MustParseAddr(s)
		if network == "ip" || (network == "ip4") == addr.Is4() {
			list = append(list, addr)
		}
	}
	return list, nil
}

// show is a route in one line: "a.example=192.0.2.1:25,… b.example=…".
func show(r Route) string {
	var words []string
	for _, h := range r.Hosts {
		var addrs []string
		for _, a := range h.Addrs {
			addrs = append(addrs, a.String())
		}
		words = append(words, h.Name+"="+strings.Join(addrs, ","))
	}
	return strings.Join(words, " ")
}

// refusalOf is the reply of err in one line, "" where it is not an *Error.
func refusalOf(err error) string {
	var e *Error
	if !errors.As(err, &e) {
		return ""
	}
	return e.Reply.String()
}

// fixed is a Resolver that gives every name the same exchanger and address.
type fixed struct {
	host string
	addr netip.Addr
}

func (f *fixed) MX(context.Context, string) ([]*net.MX, error) {
	return []*net.MX{{Host: f.host, Pref: 10}}, nil
}

func (f *fixed) Addrs(context.Context, string, string) ([]netip.Addr, error) {
	return []netip.Addr{f.addr}, nil
}
