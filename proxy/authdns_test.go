package proxy_test

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/miekg/dns"

	"slipstream/auth"
	"slipstream/proxy"
	"slipstream/proxy/resolver"
)

// authWorld answers as its functions do, and keeps what they were asked.
type authWorld struct {
	text  func(ctx context.Context, name string) (resolver.Result[string], error)
	addrs func(ctx context.Context, qtype, name string) (resolver.Result[netip.Addr], error)
	mx    []resolver.MX
	ptr   []string
	err   error

	mu    sync.Mutex
	asked []string
}

func (w *authWorld) note(qtype, name string) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.asked = append(w.asked, qtype+" "+name)
}

func (w *authWorld) LookupTXT(ctx context.Context, name string) (resolver.Result[string], error) {
	w.note("TXT", name)
	return w.text(ctx, name)
}

func (w *authWorld) LookupMX(_ context.Context, name string) (resolver.Result[resolver.MX], error) {
	w.note("MX", name)
	return resolver.Result[resolver.MX]{Records: w.mx}, w.err
}

func (w *authWorld) LookupA(ctx context.Context, name string) (resolver.Result[netip.Addr], error) {
	w.note("A", name)
	return w.addrs(ctx, "A", name)
}

func (w *authWorld) LookupAAAA(ctx context.Context, name string) (resolver.Result[netip.Addr], error) {
	w.note("AAAA", name)
	return w.addrs(ctx, "AAAA", name)
}

func (w *authWorld) LookupPTR(_ context.Context, addr netip.Addr) (resolver.Result[string], error) {
	w.note("PTR", addr.String())
	return resolver.Result[string]{Records: w.ptr}, w.err
}

// Errors of a name, in the three kinds that there are.
var (
	authNothing   = &net.DNSError{Err: "no such record", Name: "x.example", IsNotFound: true}
	authTemporary = &net.DNSError{Err: "server failure", Name: "x.example", IsTemporary: true}
	authNonsense  = &net.DNSError{Err: "nonsense", Name: "x.example"}
)

// Addresses of one family are never taken for all of them, and what one family has is not lost.
func TestAuthDNSFamilies(t *testing.T) {
	v4, v6 := netip.MustParseAddr("192.0.2.1"), netip.MustParseAddr("2001:db8::1")
	for _, tt := range []struct {
		err4, err6 error
		want       string
	}{
		{nil, nil, "192.0.2.1 2001:db8::1"},
		{nil, authNothing, "192.0.2.1"},
		{authNothing, nil, "2001:db8::1"},
		{authNothing, authNothing, "not found"},
		{nil, authTemporary, "192.0.2.1 temporary"},
		{authTemporary, nil, "2001:db8::1 temporary"},
		{authNothing, authTemporary, "temporary"},
		{authTemporary, authNothing, "temporary"},
		{authTemporary, authTemporary, "temporary"},
		{nil, authNonsense, "192.0.2.1 nonsense"},
		{fmt.Errorf("wrapped: %w", authTemporary), nil, "2001:db8::1 temporary"},
		{errors.New("of another kind"), nil, "2001:db8::1 temporary"},
	} {
		w := &authWorld{addrs: func(_ context.Context, qtype, _ string) (res resolver.Result[netip.Addr], err error) {
			if res.Records, err = []netip.Addr{v4}, tt.err4; qtype == "AAAA" {
				res.Records, err = []netip.Addr{v6}, tt.err6
			}
			if err != nil {
				res.Records = nil
			}
			return res, err
		}}
		addrs, err := proxy.AuthResolver(w).LookupIPAddr(t.Context(), "x.example")
		var got []string
		for _, a := range addrs {
			got = append(got, a.String())
		}
		if s := authError(t, err); s != "" {
			got = append(got, s)
		}
		if got := strings.Join(got, " "); got != tt.want {
			t.Errorf("A: %v, AAAA: %v: got %q, want %q", tt.err4, tt.err6, got, tt.want)
		}
	}
}

// authError names the kind of an error, which must be bare.
func authError(t *testing.T, err error) string {
	t.Helper()
	if err == nil {
		return ""
	}
	d, ok := err.(*net.DNSError)
	switch {
	case !ok:
		t.Errorf("%#v is not a bare *net.DNSError", err)
		return "wrong"
	case d.IsNotFound:
		return "not found"
	case d.Temporary():
		return "temporary"
	}
	return d.Err
}

// Both families are asked at the same time, and one alone where that is known.
func TestAuthDNSAtOnce(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := &authWorld{addrs: func(context.Context, string, string) (resolver.Result[netip.Addr], error) {
			time.Sleep(time.Second)
			return resolver.Result[netip.Addr]{}, authNothing
		}}
		start := time.Now()
		_, err := proxy.AuthResolver(w).LookupIPAddr(t.Context(), "x.example")
		if got := authError(t, err); got != "not found" || time.Since(start) != time.Second {
			t.Errorf("%s after %v", got, time.Since(start))
		}
		w.asked = nil
		for _, network := range []string{"ip4", "ip6"} {
			_, err := proxy.AuthResolver(w).LookupNetIP(t.Context(), network, "x.example")
			if got := authError(t, err); got != "not found" {
				t.Error(network, got)
			}
		}
		if want := []string{"A x.example", "AAAA x.example"}; !slices.Equal(w.asked, want) {
			t.Errorf("asked %q, want %q", w.asked, want)
		}
	})
}

func TestAuthDNSPlain(t *testing.T) {
	w := &authWorld{
		mx: []resolver.MX{{Preference: 5, Host: "a.example"}, {Preference: 9, Host: "."}}, ptr: []string{"p.example"},
	}
	r := proxy.AuthResolver(w)
	mx, err := r.LookupMX(t.Context(), "x.example")
	if err != nil || len(mx) != 2 || *mx[0] != (net.MX{Host: "a.example", Pref: 5}) || mx[1].Host != "." {
		t.Errorf("MX: %v, %v", mx, err)
	}
	names, err := r.LookupAddr(t.Context(), "192.0.2.1")
	if err != nil || !slices.Equal(names, []string{"p.example"}) {
		t.Errorf("PTR: %v, %v", names, err)
	}
	if names, err = r.LookupAddr(t.Context(), "p.example"); authError(t, err) != "not found" {
		t.Errorf("the names of what is no address: %v, %v", names, err)
	}
	w.err = fmt.Errorf("wrapped: %w", authTemporary)
	if mx, err = r.LookupMX(t.Context(), "x.example"); mx != nil || authError(t, err) != "temporary" {
		t.Errorf("MX: %v, %v", mx, err)
	}
	if names, err = r.LookupAddr(t.Context(), "192.0.2.1"); names != nil || authError(t, err) != "temporary" {
		t.Errorf("PTR: %v, %v", names, err)
	}
	if want := "MX x.example,PTR 192.0.2.1,MX x.example,PTR 192.0.2.1"; strings.Join(w.asked, ",") != want {
		t.Errorf("asked %q", w.asked)
	}
}

// authZone serves records with the denials of a real server.
func zoneResolver(t *testing.T, lines ...string) *resolver.Resolver {
	t.Helper()
	server := serveRealDNS(t, func(w dns.ResponseWriter, q *dns.Msg) {
		m := new(dns.Msg).SetReply(q)
		m.RecursionAvailable = true // else nothing at all is a referral
		name := dns.CanonicalName(q.Question[0].Name)
		for m.Rcode = dns.RcodeNameError; ; {
			alias := ""
			for _, line := range lines {
				rr := realRecord(t, line)
				if rr.Header().Name != name {
					continue
				}
				m.Rcode = dns.RcodeSuccess
				if c, ok := rr.(*dns.CNAME); ok {
					alias, m.Rcode = c.Target, dns.RcodeNameError
					m.Answer = append(m.Answer, rr)
				} else if rr.Header().Rrtype == q.Question[0].Qtype {
					m.Answer = append(m.Answer, rr)
				}
			}
			if name = alias; alias == "" {
				break
			}
		}
		if strings.HasPrefix(q.Question[0].Name, "broken.") {
			m.Rcode = dns.RcodeServerFailure
		}
		_ = w.WriteMsg(m)
	})
	r, err := resolver.New(resolver.Config{Servers: []netip.AddrPort{server}, Timeout: time.Second, Attempts: 1})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(r.Close)
	return r
}

// Of what has no TXT record, what does not exist is told apart.
func TestAuthDNSExists(t *testing.T) {
	var r auth.ExistenceResolver = proxy.AuthResolver(zoneResolver(t,
		"text.example. 60 IN TXT hello", "host.example. 60 IN A 192.0.2.1", "alias.example. 60 IN CNAME host.example.",
		"dangling.example. 60 IN CNAME gone.example.", "xn--bcher-kva.example. 60 IN A 192.0.2.1"))
	for name, want := range map[string]string{
		"text.example": "true", "host.example": "true", "Host.Example.": "true", "alias.example": "true",
		"dangling.example": "true", "Dangling.example.": "true", "bücher.example": "true",
		"gone.example": "false", "Gone.Example.": "false", "a..b.example": "false",
		strings.Repeat("a", 64) + ".example": "false",
		"broken.example":                     "temporary",
	} {
		there, err := r.Exists(t.Context(), name)
		got := fmt.Sprint(there)
		if err != nil {
			got = authError(t, err)
		}
		if got != want {
			t.Errorf("%s: %s, want %s", name, got, want)
		}
	}
}

// A text whose time is over is asked for anew, whatever the resolver may give to others.
func TestAuthDNSFresh(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		asked := 0
		r, err := resolver.New(resolver.Config{
			Servers: []netip.AddrPort{netip.MustParseAddrPort("127.0.0.1:53")}, MaxStale: time.Hour,
			Dial: func(context.Context, string, string) (net.Conn, error) {
				asked++
				client, server := net.Pipe()
				go authAnswer(t, server, fmt.Sprintf("192.0.2.%d", asked))
				return client, nil
			},
		})
		if err != nil {
			t.Fatal(err)
		}
		defer r.Close()
		for _, want := range []string{"192.0.2.1", "192.0.2.1", "192.0.2.2"} {
			addrs, err := proxy.AuthResolver(r).LookupNetIP(t.Context(), "ip4", "x.example")
			if err != nil || addrs[0].String() != want {
				t.Fatalf("%v, %v; want %s", addrs, err, want)
			}
			time.Sleep(40 * time.Second)
		}
	})
}

// authAnswer answers one question with an address that holds for a minute.
func authAnswer(t *testing.T, conn net.Conn, addr string) {
	defer conn.Close()
	packet := make([]byte, 4096)
	n, err := conn.Read(packet)
	if err != nil {
		t.Error(err)
		return
	}
	q := new(dns.Msg)
	if err := q.Unpack(packet[:n]); err != nil {
		t.Error(err)
		return
	}
	m := new(dns.Msg).SetReply(q)
	m.Answer = []dns.RR{realRecord(t, q.Question[0].Name+" 60 IN A "+addr)}
	out, err := m.Pack()
	if err != nil {
		t.Error(err)
		return
	}
	_, _ = conn.Write(out) // the resolver may have given up
}

// What is remembered is known at once; nobody is asked about the rest, however long that would take.
func TestAuthDNSKnown(t *testing.T) {
	r := zoneResolver(t, "text.example. 60 IN TXT hello", "host.example. 60 IN A 192.0.2.1",
		"host.example. 60 IN AAAA 2001:db8::1")
	names := proxy.AuthResolver(r)
	var known auth.KnowingResolver = names
	if _, err := known.Known().LookupTXT(t.Context(), "text.example"); !temporary(err) {
		t.Errorf("before it was asked: %v", err)
	}
	for range 2 {
		if _, err := names.LookupTXT(t.Context(), "text.example"); err != nil {
			t.Fatal(err)
		}
		if _, err := names.LookupIPAddr(t.Context(), "host.example"); err != nil {
			t.Fatal(err)
		}
	}
	texts, err := known.Known().LookupTXT(t.Context(), "text.example")
	if err != nil || !slices.Equal(texts, []string{"hello"}) {
		t.Errorf("afterwards: %q, %v", texts, err)
	}
	if addrs, err := known.Known().LookupIPAddr(t.Context(), "host.example"); err != nil || len(addrs) != 2 {
		t.Errorf("afterwards: %v, %v", addrs, err)
	}
	if _, err := known.Known().LookupAddr(t.Context(), "192.0.2.1"); !temporary(err) {
		t.Errorf("never asked: %v", err)
	}
	w := &authWorld{}
	if _, err = proxy.AuthResolver(w).Known().LookupTXT(t.Context(), "text.example"); !temporary(err) || len(w.asked) > 0 {
		t.Errorf("of who remembers nothing: %v, asked %q", err, w.asked)
	}
}

func temporary(err error) bool {
	d, ok := err.(*net.DNSError)
	return ok && d.IsTemporary && !d.IsNotFound
}
