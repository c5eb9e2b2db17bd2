package proxy

import (
	"context"
	"net"
	"net/netip"
	"strings"
	"sync"
	"time"

	"slipstream/proxy/resolver"
)

// A slowDNS answers from maps, each question after a time. It is the DNS of worlds that ask who mail is from.
type slowDNS struct {
	*fakeDNS
	txt  map[string][]string
	wait time.Duration
	dead bool // nobody answers at all

	mu    sync.Mutex
	asked []string
}

func newSlowDNS() *slowDNS { return &slowDNS{fakeDNS: newFakeDNS(), txt: make(map[string][]string)} }

// ask waits for the answer to a question.
func (d *slowDNS) ask(ctx context.Context, kind, name string) error {
	d.mu.Lock()
	d.asked = append(d.asked, kind+" "+name)
	d.mu.Unlock()
	var answer <-chan time.Time
	if !d.dead {
		timer := time.NewTimer(d.wait)
		defer timer.Stop()
		answer = timer.C
	}
	select {
	case <-answer:
		return nil
	case <-ctx.Done():
		return &net.DNSError{Err: "no answer", Name: name, IsTimeout: true, IsTemporary: true}
	}
}

func (d *slowDNS) LookupTXT(ctx context.Context, name string) (resolver.Result[string], error) {
	if err := d.ask(ctx, "TXT", name); err != nil {
		return resolver.Result[string]{}, err
	}
	if list := d.txt[name]; list != nil {
		return resolver.Result[string]{Records: list}, nil
	}
	return resolver.Result[string]{}, d.missing(name)
}

func (d *slowDNS) LookupMX(ctx context.Context, name string) (resolver.Result[resolver.MX], error) {
	if err := d.ask(ctx, "MX", name); err != nil {
		return resolver.Result[resolver.MX]{}, err
	}
	var out resolver.Result[resolver.MX]
	for _, mx := range d.mx[name] {
		out.Records = append(out.Records, resolver.MX{Preference: mx.Pref, Host: mx.Host})
	}
	if out.Records == nil {
		return out, d.missing(name)
	}
	return out, nil
}

func (d *slowDNS) LookupA(ctx context.Context, name string) (resolver.Result[netip.Addr], error) {
	return d.family(ctx, "A", name, netip.Addr.Is4)
}

func (d *slowDNS) LookupAAAA(ctx context.Context, name string) (resolver.Result[netip.Addr], error) {
	return d.family(ctx, "AAAA", name, netip.Addr.Is6)
}

func (d *slowDNS) family(
	ctx context.Context, kind, name string, of func(netip.Addr) bool,
) (out resolver.Result[netip.Addr], err error) {
	if err := d.ask(ctx, kind, name); err != nil {
		return out, err
	}
	for _, addr := range d.addrs[strings.TrimSuffix(name, ".")] {
		if of(addr) {
			out.Records = append(out.Records, addr)
		}
	}
	if out.Records == nil {
		return out, d.missing(name)
	}
	return out, nil
}

func (d *slowDNS) LookupPTR(ctx context.Context, addr netip.Addr) (resolver.Result[string], error) {
	if err := d.ask(ctx, "PTR", addr.String()); err != nil {
		return resolver.Result[string]{}, err
	}
	return d.fakeDNS.LookupPTR(ctx, addr)
}

// The author of the tests' mail, who allows clientHost to send it, and what a bank asks for.
const (
	authorDomain = "author.example"
	bankDomain   = "bank.example"
)

// judged prepares a world whose inbound door asks who its mail is from.
func (w *world) judged(change ...func(*InboundConfig)) *slowDNS {
	dns := newSlowDNS()
	dns.txt[authorDomain] = []string{"v=spf1 ip4:" + clientHost + " -all"}
	dns.txt["_dmarc."+authorDomain] = []string{"v=DMARC1; p=reject"}
	dns.txt[bankDomain] = []string{"v=spf1 -all"}
	dns.txt["_dmarc."+bankDomain] = []string{"v=DMARC1; p=reject; rua=mailto:r@bank.example"}
	dns.txt["_dmarc.shop.example"] = []string{"v=DMARC1; p=quarantine"}
	dns.ptr[clientHost] = []string{"client.example."}
	dns.addrs["client.example"] = []netip.Addr{netip.MustParseAddr(clientHost)}
	w.resolver = dns
	w.inbound(append([]func(*InboundConfig){func(in *InboundConfig) { in.Auth.Enabled = true }}, change...)...)
	return dns
}

// belowResults is a text without the field of ours that it begins with, which may be none.
func belowResults(text string) string {
	if !strings.HasPrefix(text, "Authentication-Results: proxy.example;\r\n") {
		return text
	}
	for {
		_, text, _ = strings.Cut(text, "\r\n")
		if !strings.HasPrefix(text, "\t") {
			return text
		}
	}
}
