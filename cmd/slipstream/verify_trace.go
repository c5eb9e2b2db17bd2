package main

import (
	"cmp"
	"context"
	"fmt"
	"net"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"time"

	"slipstream/proxy"
	"slipstream/proxy/resolver"
)

// A dnsTrace keeps every question of one message, and its answer. How many there can be is bounded by those who ask.
type dnsTrace struct {
	dns proxy.AuthDNS
	// patient, unless nil, is the context of all questions, whatever those who ask say: they lose interest in what can
	// change nothing any more, people do not.
	patient context.Context

	mu    sync.Mutex // guards heard
	heard []heardAnswer
}

// A heardAnswer is what the DNS said.
type heardAnswer struct {
	qtype, name string
	records     []string // as published: they are to be cleaned before they are shown
	at          string   // where the records are, if name is an alias
	err         error
	took        time.Duration
}

// heardFrom asks, and keeps what comes.
func heardFrom[T any](ctx context.Context, t *dnsTrace, qtype, name string, show func(T) string,
	ask func(context.Context) (resolver.Result[T], error),
) (resolver.Result[T], error) {
	if t.patient != nil {
		ctx = resolver.Fresh(t.patient)
	}
	start := time.Now()
	res, err := ask(ctx)
	h := heardAnswer{qtype: qtype, name: canonicalName(name), err: err, took: time.Since(start)}
	for _, record := range res.Records {
		h.records = append(h.records, show(record))
	}
	if res.Name != "" && res.Name != h.name && qtype != "PTR" {
		h.at = res.Name
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	t.heard = append(t.heard, h)
	return res, err
}

// canonicalName is a name in the form in which questions are told apart.
func canonicalName(name string) string { return strings.ToLower(strings.TrimSuffix(name, ".")) }

// LookupTXT implements [proxy.AuthDNS].
func (t *dnsTrace) LookupTXT(ctx context.Context, name string) (resolver.Result[string], error) {
	return heardFrom(ctx, t, "TXT", name, func(s string) string { return s },
		func(ctx context.Context) (resolver.Result[string], error) { return t.dns.LookupTXT(ctx, name) })
}

// LookupMX implements [proxy.AuthDNS].
func (t *dnsTrace) LookupMX(ctx context.Context, name string) (resolver.Result[resolver.MX], error) {
	show := func(mx resolver.MX) string { return fmt.Sprintf("%d %s", mx.Preference, mx.Host) }
	return heardFrom(ctx, t, "MX", name, show,
		func(ctx context.Context) (resolver.Result[resolver.MX], error) { return t.dns.LookupMX(ctx, name) })
}

// LookupA implements [proxy.AuthDNS].
func (t *dnsTrace) LookupA(ctx context.Context, name string) (resolver.Result[netip.Addr], error) {
	return heardFrom(ctx, t, "A", name, netip.Addr.String,
		func(ctx context.Context) (resolver.Result[netip.Addr], error) { return t.dns.LookupA(ctx, name) })
}

// LookupAAAA implements [proxy.AuthDNS].
func (t *dnsTrace) LookupAAAA(ctx context.Context, name string) (resolver.Result[netip.Addr], error) {
	return heardFrom(ctx, t, "AAAA", name, netip.Addr.String,
		func(ctx context.Context) (resolver.Result[netip.Addr], error) { return t.dns.LookupAAAA(ctx, name) })
}

// LookupPTR implements [proxy.AuthDNS].
func (t *dnsTrace) LookupPTR(ctx context.Context, addr netip.Addr) (resolver.Result[string], error) {
	return heardFrom(ctx, t, "PTR", addr.String(), func(s string) string { return s },
		func(ctx context.Context) (resolver.Result[string], error) { return t.dns.LookupPTR(ctx, addr) })
}

// all are the answers by name and type, each question once: the first answer has the time that it took.
func (t *dnsTrace) all() []heardAnswer {
	t.mu.Lock()
	defer t.mu.Unlock()
	list := slices.Clone(t.heard)
	slices.SortStableFunc(list, func(a, b heardAnswer) int {
		return cmp.Or(cmp.Compare(a.name, b.name), cmp.Compare(a.qtype, b.qtype))
	})
	return slices.CompactFunc(list, func(a, b heardAnswer) bool { return a.name == b.name && a.qtype == b.qtype })
}

// texts are the TXT records of a name, and what kept them from being found.
func (t *dnsTrace) texts(name string) (records []string, err error, asked bool) {
	for _, h := range t.all() {
		if h.qtype == "TXT" && h.name == canonicalName(name) {
			return h.records, h.err, true
		}
	}
	return nil, nil, false
}

// outcome says what became of a question that has no records to show.
func (h heardAnswer) outcome() string {
	d, ok := h.err.(*net.DNSError)
	switch {
	case h.err == nil:
		return "nothing"
	case resolver.IsNXDomain(h.err):
		return "no such name"
	case ok && d.IsNotFound:
		return "no such record"
	case ok && d.IsTimeout:
		return "no answer in time"
	}
	return "no answer: " + h.err.Error()
}
