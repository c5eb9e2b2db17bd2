package mta_test

import (
	"context"
	"net"
	"slices"
	"strings"
	"testing"
	"time"

	"slipstream/bench/mta"
	"slipstream/bench/mta/mtatest"
)

const dnsZone = `$TTL 300
. SOA ns.nic.test. hostmaster.nic.test. 1 3600 600 86400 300
. NS ns.nic.test.
ns.nic.test. A 127.0.0.1
a.test. TXT "one " "two"
a.test. MX 10 mx.a.test.
mx.a.test. A 127.0.0.1
mx.a.test. AAAA ::1
9.9.9.127.in-addr.arpa. PTR mx.a.test.
`

// Names are looked up in Unbound, which has them from NSD.
func TestNSDBehindUnbound(t *testing.T) {
	t.Parallel()
	ctx, cancel := context.WithTimeout(mtatest.Context(t), 20*time.Second)
	t.Cleanup(cancel)
	nsd, err := mta.NSD{Zones: map[string]string{".": dnsZone, "lame.test": ""}}.Start(ctx)
	mtatest.Check(t, err)
	t.Cleanup(func() { nsd.Stop() })
	unbound, err := mta.Unbound{Stubs: map[string]string{".": nsd.Addr(), "lame.test": nsd.Addr()}}.Start(ctx)
	mtatest.Check(t, err)
	t.Cleanup(func() {
		if t.Failed() {
			t.Logf("NSD:\n%s\nUnbound:\n%s", nsd.Output(), unbound.Output())
		}
		unbound.Stop()
	})

	r := resolverAt(unbound.Addr())
	if txt, err := r.LookupTXT(ctx, "a.test"); err != nil || !slices.Equal(txt, []string{"one two"}) {
		t.Errorf("TXT: %q, %v", txt, err)
	}
	if mx, err := r.LookupMX(ctx, "a.test"); err != nil || len(mx) != 1 || mx[0].Host != "mx.a.test." {
		t.Errorf("MX: %v, %v", mx, err)
	}
	if names, err := r.LookupAddr(ctx, "127.9.9.9"); err != nil || !slices.Equal(names, []string{"mx.a.test."}) {
		t.Errorf("PTR: %q, %v", names, err)
	}
	if addrs, err := r.LookupHost(ctx, "mx.a.test"); err != nil || len(addrs) != 2 {
		t.Errorf("addresses: %q, %v", addrs, err)
	}
	if _, err := r.LookupTXT(ctx, "b.test"); !dnsError(err).IsNotFound {
		t.Errorf("a name that is not there: %v", err)
	}
	began := time.Now()
	if _, err := r.LookupTXT(ctx, "lame.test"); !dnsError(err).IsTemporary {
		t.Errorf("a zone without a text: %v", err)
	}
	if took := time.Since(began); took > 2*time.Second {
		t.Errorf("SERVFAIL took %v", took)
	}
}

// A zone with a mistake is said so.
func TestNSDBadZone(t *testing.T) {
	t.Parallel()
	nsd, err := mta.NSD{Zones: map[string]string{"a.test": dnsZone + "what is this\n"}}.Start(mtatest.Context(t))
	if err == nil {
		nsd.Stop()
		t.Fatal("it runs")
	}
	if !strings.Contains(err.Error(), "zone a.test") {
		mtatest.Check(t, err)
	}
}

func resolverAt(addr string) *net.Resolver {
	return &net.Resolver{PreferGo: true, Dial: func(ctx context.Context, network, _ string) (net.Conn, error) {
		var d net.Dialer
		return d.DialContext(ctx, network, addr)
	}}
}

func dnsError(err error) net.DNSError {
	if e, ok := err.(*net.DNSError); ok {
		return *e
	}
	return net.DNSError{}
}
