package resolver

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/miekg/dns"
)

// verdict tells the kinds of outcome apart in one word.
func verdict(err error) string {
	d, ok := err.(*net.DNSError)
	switch {
	case err == nil:
		return "ok"
	case !ok:
		return fmt.Sprintf("%T", err)
	case d.IsNotFound && (d.IsTemporary || d.IsTimeout), IsNXDomain(err) && !d.IsNotFound:
		return "contradiction"
	case IsNXDomain(err):
		return "nxdomain"
	case d.IsNotFound:
		return "nodata"
	case d.IsTimeout && d.Temporary():
		return "timeout"
	case d.IsTemporary && d.Temporary():
		return "temporary"
	}
	return "unclear"
}

func TestLookupTXT(t *testing.T) {
	z := zone{
		`plain.example. 60 IN TXT "v=spf1 -all"`,
		`joined.example. 60 IN TXT "v=DKIM1; p=" "abc" "" "def"`,
		`escaped.example. 60 IN TXT "a\"b\\c\\065\200\;d\010" "\\1\\23"`,
		`two.example. 60 IN TXT "one"`,
		`two.example. 60 IN TXT "two"`,
		`_dmarc.under_score.example. 60 IN TXT "dmarc"`,
		`xn--bcher-kva.example. 60 IN TXT "idn"`,
		`_dmarc.xn--bcher-kva.example. 60 IN TXT "idn dmarc"`,
		`a\\b\.c.example. 60 IN TXT "odd"`,
		`sp\032ace.example. 60 IN TXT "space"`,
		`*.64.example. 60 IN TXT "x"`,
	}
	r := newResolver(t, serve(t, z.ServeDNS))
	long := strings.Repeat("x", 63)
	tests := []struct {
		name, canonical string
		want            []string
		verdict         string
	}{
		{name: "plain.example", want: []string{"v=spf1 -all"}},
		{name: "PLAIN.example.", canonical: "plain.example", want: []string{"v=spf1 -all"}},
		// "treated as if those strings are concatenated together without adding spaces": https://www.rfc-editor.org/rfc/rfc7208#section-3.3
		{name: "joined.example", want: []string{"v=DKIM1; p=abcdef"}},
		{name: "escaped.example", want: []string{"a\"b\\c\\065\xc8;d\n\\1\\23"}},
		{name: "two.example", want: []string{"one", "two"}},
		{name: "_dmarc.under_score.example", want: []string{"dmarc"}},
		{name: "bücher.example", canonical: "xn--bcher-kva.example", want: []string{"idn"}},
		{name: "_dmarc.BÜCHER.example", canonical: "_dmarc.xn--bcher-kva.example", want: []string{"idn dmarc"}},
		{name: "sp ace.example", canonical: `sp\ ace.example`, want: []string{"space"}},
		{name: `a\b.c.example`, verdict: "nxdomain"}, // a backslash is an octet and does not hide the dot
		{name: `a\046c.example`, verdict: "nxdomain"},
		{name: "gone.example", verdict: "nxdomain"},
		{name: "", verdict: "nxdomain"},
		{name: ".", verdict: "nxdomain"},
		{name: "a..example", verdict: "nxdomain"},
		{name: ".example", verdict: "nxdomain"},
		{name: long + "x.example", verdict: "nxdomain"},
		{name: strings.Repeat(long+".", 4) + "example", verdict: "nxdomain"},
		{name: strings.Repeat("a.", 600), verdict: "nxdomain"},
		{name: "\xff.example", verdict: "nxdomain"},
		{name: "a\u200d.example", verdict: "nxdomain"},
	}
	for _, tt := range tests {
		res, err := r.LookupTXT(t.Context(), tt.name)
		if got := verdict(err); got != or(tt.verdict, "ok") {
			t.Errorf("%q: %s (%v), want %s", tt.name, got, err, or(tt.verdict, "ok"))
			continue
		}
		if diff := cmp.Diff(tt.want, res.Records); diff != "" {
			t.Errorf("%q: %s", tt.name, diff)
		}
		if want := or(tt.canonical, tt.name); err == nil && res.Name != want {
			t.Errorf("%q: name %q", tt.name, res.Name)
		}
	}
}

func TestLookupMX(t *testing.T) {
	z := zone{
		"x.example. 60 IN MX 20 B.example.", "x.example. 60 IN MX 10 a1.example.", "x.example. 60 IN MX 10 a2.example.",
		"x.example. 60 IN MX 0 best.example.", "x.example. 60 IN MX 10 a3.example.",
		"null.example. 60 IN MX 0 .",
		`odd.example. 60 IN MX 0 a\032b.example.`,
		"none.example. 60 IN TXT x",
	}
	for i := range 100 {
		z = append(z, fmt.Sprintf("many.example. 60 IN MX %d m%d.example.", 100-i, 100-i))
	}
	r := newResolver(t, serve(t, z.ServeDNS))
	orders := make(map[string]bool)
	for range 200 { // six orders; all but one missing has a chance of 6·(5/6)^200
		res, err := r.LookupMX(t.Context(), "x.example")
		if err != nil || len(res.Records) != 5 {
			t.Fatal(res, err)
		}
		if res.Records[0] != (MX{0, "best.example"}) || res.Records[4] != (MX{20, "b.example"}) {
			t.Fatalf("not sorted: %v", res.Records)
		}
		orders[fmt.Sprint(res.Records[1:4])] = true
	}
	// "If there are multiple destinations with the same preference … the sender-SMTP MUST randomize them":
	// https://www.rfc-editor.org/rfc/rfc5321#section-5.1
	if len(orders) != 6 {
		t.Errorf("%d orders of three equals, want 6: %v", len(orders), orders)
	}
	for name, want := range map[string]string{"null.example": ".", "odd.example": `a\ b.example`} {
		if res, err := r.LookupMX(t.Context(), name); err != nil || len(res.Records) != 1 || res.Records[0].Host != want {
			t.Errorf("%s: %v, %v", name, res.Records, err)
		}
	}
	if res, err := r.LookupMX(t.Context(), "many.example"); err != nil || len(res.Records) != maxRecords || res.Records[maxRecords-1].Preference != maxRecords {
		t.Errorf("of 100 the best %d should be kept: %d kept, %v", maxRecords, len(res.Records), err)
	}
	if _, err := r.LookupMX(t.Context(), "none.example"); verdict(err) != "nodata" || !strings.Contains(err.Error(), "no MX record") {
		t.Errorf("got %v", err)
	}
	if _, err := r.LookupMX(t.Context(), "gone.example"); verdict(err) != "nxdomain" || !strings.Contains(err.Error(), "NXDOMAIN") {
		t.Errorf("got %v", err)
	}
}

func TestLookupOthers(t *testing.T) {
	z := zone{
		"x.example. 60 IN A 192.0.2.1", "x.example. 60 IN A 192.0.2.2", "x.example. 60 IN AAAA 2001:db8::1",
		"v4.example. 60 IN A 192.0.2.3", "v6.example. 60 IN AAAA 2001:db8::2", "none.example. 60 IN TXT x",
		"1.2.0.192.in-addr.arpa. 60 IN PTR Host.Example.", `1.2.0.192.in-addr.arpa. 60 IN PTR a\010b.example.`,
		`2.2.0.192.in-addr.arpa. 60 IN PTR a\.b.example.`, "3.2.0.192.in-addr.arpa. 60 IN PTR .",
		"1.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.8.b.d.0.1.0.0.2.ip6.arpa. 60 IN PTR six.example.",
		"_25._tcp.mx.example. 60 IN TLSA 3 1 1 0123456789abcdef",
	}
	r := newResolver(t, serve(t, z.ServeDNS))
	ctx := t.Context()

	addrs := func(lookup func(context.Context, string) (Result[netip.Addr], error), name, wantVerdict string, want ...string) {
		t.Helper()
		res, err := lookup(ctx, name)
		var got []string
		for _, a := range res.Records {
			got = append(got, a.String())
		}
		if verdict(err) != wantVerdict || !slices.Equal(got, want) {
			t.Errorf("%s: %q, %v; want %q, %s", name, got, err, want, wantVerdict)
		}
	}
	addrs(r.LookupA, "x.example", "ok", "192.0.2.1", "192.0.2.2")
	addrs(r.LookupA, "v6.example", "nodata")
	addrs(r.LookupAAAA, "x.example", "ok", "2001:db8::1")
	addrs(r.LookupAAAA, "gone.example", "nxdomain")
	addrs(r.LookupAddrs, "x.example", "ok", "192.0.2.1", "192.0.2.2", "2001:db8::1")
	addrs(r.LookupAddrs, "v4.example", "ok", "192.0.2.3")
	addrs(r.LookupAddrs, "v6.example", "ok", "2001:db8::2")
	addrs(r.LookupAddrs, "none.example", "nodata")
	addrs(r.LookupAddrs, "gone.example", "nxdomain")
	addrs(r.LookupAddrs, "localhost", "ok", "127.0.0.1", "::1")
	addrs(r.LookupAddrs, "Foo.LocalHost.", "ok", "127.0.0.1", "::1")
	if _, err := r.LookupMX(ctx, "localhost"); verdict(err) != "nodata" {
		t.Errorf("localhost MX: %v", err)
	}

	ptr := func(addr netip.Addr, wantVerdict string, want ...string) {
		t.Helper()
		res, err := r.LookupPTR(ctx, addr)
		if verdict(err) != wantVerdict || !slices.Equal(res.Records, want) {
			t.Errorf("%v: %q, %v; want %q, %s", addr, res.Records, err, want, wantVerdict)
		}
	}
	ptr(netip.MustParseAddr("192.0.2.1"), "ok", "host.example")
	ptr(netip.MustParseAddr("::ffff:192.0.2.1"), "ok", "host.example")
	ptr(netip.MustParseAddr("192.0.2.2"), "nodata")
	ptr(netip.MustParseAddr("192.0.2.3"), "nodata")
	ptr(netip.MustParseAddr("192.0.2.4"), "nxdomain")
	ptr(netip.MustParseAddr("2001:db8::1%eth0"), "ok", "six.example")
	ptr(netip.Addr{}, "nxdomain")

	res, err := r.LookupTLSA(ctx, "_25._tcp.mx.example")
	want := []TLSA{{3, 1, 1, []byte{0x01, 0x23, 0x45, 0x67, 0x89, 0xab, 0xcd, 0xef}}}
	if err != nil || cmp.Diff(want, res.Records) != "" {
		t.Errorf("TLSA: %v, %v", res.Records, err)
	}
}

// The caller may do with the records what he likes.
func TestRecordsAreFresh(t *testing.T) {
	r := newResolver(t, serve(t, zone{"x.example. 60 IN TLSA 3 1 1 01", "x.example. 60 IN TXT a"}.ServeDNS))
	for range 2 {
		tlsa, err1 := r.LookupTLSA(t.Context(), "x.example")
		txt, err2 := r.LookupTXT(t.Context(), "x.example")
		if err1 != nil || err2 != nil || tlsa.Records[0].Data[0] != 1 || txt.Records[0] != "a" {
			t.Fatal(tlsa, err1, txt, err2)
		}
		tlsa.Records[0].Data[0], txt.Records[0] = 9, "changed"
	}
}

func TestSecure(t *testing.T) {
	vouched := func(names ...string) dns.HandlerFunc {
		z := zone{
			"x.example. 60 IN A 192.0.2.1", "x.example. 60 IN AAAA 2001:db8::1", "y.example. 60 IN A 192.0.2.2",
			"z.example. 60 IN CNAME x.example.",
		}
		return func(w dns.ResponseWriter, q *dns.Msg) {
			// "a signal indicating that the requester understands and is interested in the value of the AD bit in the response":
			// https://www.rfc-editor.org/rfc/rfc6840#section-5.7
			if !q.AuthenticatedData || q.CheckingDisabled || q.IsEdns0() == nil || q.IsEdns0().UDPSize() != udpSize || q.IsEdns0().Do() || !q.RecursionDesired {
				t.Errorf("query: %v", q)
			}
			m := z.answer(q)
			m.AuthenticatedData = slices.Contains(names, q.Question[0].Name+dns.Type(q.Question[0].Qtype).String())
			w.WriteMsg(m)
		}
	}
	r := newResolver(t, serve(t, vouched("x.example.A", "x.example.AAAA", "y.example.A", "none.example.A", "none.example.AAAA")))
	for name, want := range map[string]bool{"x.example": true, "y.example": false, "none.example": true, "z.example": false} {
		if res, _ := r.LookupAddrs(t.Context(), name); res.Secure != want {
			t.Errorf("%s: secure %v, want %v", name, res.Secure, want)
		}
	}
	for range 2 { // the second answer is from the cache
		if res, err := r.LookupA(t.Context(), "y.example"); err != nil || !res.Secure {
			t.Errorf("y.example: %+v %v", res, err)
		}
	}
}

// What one family says when the other has trouble.
func TestBoth(t *testing.T) {
	v4 := Result[netip.Addr]{Records: []netip.Addr{netip.MustParseAddr("192.0.2.1")}, Secure: true}
	v6 := Result[netip.Addr]{Records: []netip.Addr{netip.MustParseAddr("2001:db8::1")}}
	q := question{name: "x.example."}
	nx, nodata, servfail, timeout := error(notFound("x", "", true)), error(notFound("x", "", false)), error(failed(q, "", "SERVFAIL")), error(stopped(expired(), q))
	tests := []struct {
		err4, err6 error
		want       string
		n          int
	}{
		{nil, nil, "ok", 2},
		{nil, nodata, "ok", 1}, {nil, nx, "ok", 1}, {nil, servfail, "ok", 1}, {nil, timeout, "ok", 1},
		{nodata, nil, "ok", 1}, {nx, nil, "ok", 1}, {servfail, nil, "ok", 1}, {timeout, nil, "ok", 1},
		{nodata, nodata, "nodata", 0}, {nodata, nx, "nodata", 0}, {nx, nodata, "nodata", 0}, {nx, nx, "nxdomain", 0},
		{nodata, servfail, "temporary", 0}, {servfail, nodata, "temporary", 0}, {nx, timeout, "timeout", 0}, {timeout, nx, "timeout", 0},
		{servfail, timeout, "temporary", 0}, {timeout, servfail, "timeout", 0},
	}
	for _, tt := range tests {
		a, b := v4, v6
		if tt.err4 != nil {
			a.Records = nil
		}
		if tt.err6 != nil {
			b.Records = nil
		}
		res, err := both(a, tt.err4, b, tt.err6)
		if verdict(err) != tt.want || len(res.Records) != tt.n {
			t.Errorf("%v, %v: %v, %v; want %d, %s", tt.err4, tt.err6, res.Records, err, tt.n, tt.want)
		}
		if temporary(tt.err6) && tt.err4 == nil && !res.Secure {
			t.Error("a family that failed takes the other's security away")
		}
	}
}

func expired() context.Context {
	ctx, cancel := context.WithTimeout(context.Background(), -1)
	defer cancel()
	return ctx
}

// plain is the interface that callers declare who do not import this package.
type plain interface {
	MX(ctx context.Context, domain string) ([]*net.MX, error)
	Addrs(ctx context.Context, network, host string) ([]netip.Addr, error)
}

func TestPlain(t *testing.T) {
	z := zone{
		"x.example. 60 IN MX 20 b.example.", "x.example. 60 IN MX 10 a.example.",
		"a.example. 60 IN A 192.0.2.1", "a.example. 60 IN AAAA 2001:db8::1",
	}
	var r plain = newResolver(t, serve(t, z.ServeDNS))
	mx, err := r.MX(t.Context(), "x.example")
	if diff := cmp.Diff([]*net.MX{{Host: "a.example", Pref: 10}, {Host: "b.example", Pref: 20}}, mx); diff != "" || err != nil {
		t.Error(diff, err)
	}
	if mx, err := r.MX(t.Context(), "a.example"); len(mx) != 0 || err != nil {
		t.Errorf("no data: %v %v", mx, err)
	}
	if _, err := r.MX(t.Context(), "gone.example"); verdict(err) != "nxdomain" {
		t.Error(err)
	}
	for network, n := range map[string]int{"ip": 2, "ip4": 1, "ip6": 1} {
		if addrs, err := r.Addrs(t.Context(), network, "a.example"); len(addrs) != n || err != nil {
			t.Errorf("%s: %v %v", network, addrs, err)
		}
		if addrs, err := r.Addrs(t.Context(), network, "x.example"); len(addrs) != 0 || err != nil {
			t.Errorf("%s: no data: %v %v", network, addrs, err)
		}
		if _, err := r.Addrs(t.Context(), network, "gone.example"); verdict(err) != "nxdomain" {
			t.Errorf("%s: %v", network, err)
		}
	}
	if _, err := r.Addrs(t.Context(), "tcp", "a.example"); err == nil || errors.As(err, new(*net.DNSError)) {
		t.Error(err)
	}
}
