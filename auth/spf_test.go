package auth

import (
	"context"
	"fmt"
	"net"
	"net/netip"
	"strings"
	"testing"
	"testing/synctest"
	"time"
)

var spfClient = netip.MustParseAddr("192.0.2.1")

func spfTXT(pairs ...string) *zone {
	z := &zone{txt: map[string][]string{}, addrs: map[string][]netip.Addr{}}
	for i := 0; i < len(pairs); i += 2 {
		z.txt[pairs[i]] = append(z.txt[pairs[i]], pairs[i+1])
	}
	return z
}

func TestSPFIdentity(t *testing.T) {
	z := spfTXT(
		"mail.example", "v=spf1 ip4:192.0.2.1 -all",
		"helo.example", "v=spf1 exists:%{l}.%{o}.ok.example -all",
		"local.example", "v=spf1 exists:%{l}.%{d}.ok.example -all",
		"xn--bcher-kva.example", "v=spf1 ip4:192.0.2.0/24 -all",
		"none.example", "something else",
	)
	ok := []netip.Addr{netip.MustParseAddr("127.0.0.2")}
	z.addrs["postmaster.helo.example.ok.example"] = ok
	z.addrs["postmaster.local.example.ok.example"] = ok
	for _, c := range []struct {
		helo, from                   string
		value, domain, scope, reason string
	}{
		{"x", "a@mail.example", "pass", "mail.example", ScopeMailFrom, "matched an address"},
		{"x", "a@MAIL.example.", "pass", "mail.example", ScopeMailFrom, "matched an address"},
		{"x", `"a@b"@mail.example`, "pass", "mail.example", ScopeMailFrom, "matched an address"},
		{"x", `"a@none.example"@mail.example`, "pass", "mail.example", ScopeMailFrom, "matched an address"},
		{"x", "a@bücher.example", "pass", "xn--bcher-kva.example", ScopeMailFrom, "matched an address"},
		{"helo.example", "", "pass", "helo.example", ScopeHELO, "matched exists"},
		{"helo.example", "@local.example", "pass", "local.example", ScopeMailFrom, "matched exists"},
		{"x", "a@local.example", "fail", "local.example", ScopeMailFrom, "matched all"},
		{"x", "a@none.example", "none", "none.example", ScopeMailFrom, "no record"},
		{"x", "a@gone.example", "none", "gone.example", ScopeMailFrom, "no record"},
		{"[192.0.2.1]", "", "none", "", ScopeHELO, "not a domain"},
		{"192.0.2.1", "", "none", "", ScopeHELO, "not a domain"},
		{"localhost", "", "none", "", ScopeHELO, "not a domain"},
		{"", "", "none", "", ScopeHELO, "not a domain"},
		{"x", "a@[192.0.2.1]", "none", "", ScopeMailFrom, "not a domain"},
		{"x", "a", "none", "", ScopeMailFrom, "not a domain"},
		{"x", "a@b.example\r\nX-Evil: y", "none", "", ScopeMailFrom, "not a domain"},
		{"x", "a@b.example; spf=pass", "none", "", ScopeMailFrom, "not a domain"},
		{"x", "a@b\x00.example", "none", "", ScopeMailFrom, "not a domain"},
		{"x", "a@" + strings.Repeat("x.", 5000), "none", "", ScopeMailFrom, "not a domain"},
	} {
		want := SPFResult{Value: c.value, Domain: c.domain, Scope: c.scope, Reason: c.reason}
		if got := SPF(t.Context(), z, spfClient, c.helo, c.from); got != want {
			t.Errorf("helo %q, from %.80q: %+v, want %+v", c.helo, c.from, got, want)
		}
	}
	if got := SPF(t.Context(), z, netip.Addr{}, "x", "a@mail.example"); got.Value != "none" {
		t.Errorf("no address: %+v, want none", got)
	}
	mapped := netip.MustParseAddr("::ffff:192.0.2.1")
	if got := SPF(t.Context(), z, mapped, "x", "a@mail.example"); got.Value != "pass" {
		t.Errorf("mapped address: %+v, want pass", got)
	}
	if got := SPFHELO(t.Context(), z, spfClient, "mail.example"); got.Value != "pass" || got.Scope != ScopeHELO {
		t.Errorf("HELO: %+v, want pass", got)
	}
}

// TestSPFRepairs has a case for each kind of thing that the library gets wrong by itself and that makes mail pass, or
// not.
func TestSPFRepairs(t *testing.T) {
	names := map[string][]netip.Addr{
		"host.example.com":         {spfClient},
		"foo:bar/baz.example.com":  {spfClient},
		"host.example.com.p.test":  {spfClient},
		"com.p.test":               {spfClient},
		"com.example.host.p.test":  {spfClient},
		"unknown.p.test":           {spfClient},
		"example.com.p.test":       {spfClient},
		"a/192.0.2.1.b/x.p.test":   {spfClient},
		"other.example.org.p.test": {spfClient},
	}
	for record, want := range map[string]string{
		"v=spf1 ip4:192.0.2.1 -all moo":           "permerror", // an error behind the match
		"v=spf1 ip4:192.0.2.1/032":                "permerror",
		"v=spf1 ip4:192.0.2.1 redirect:x.test":    "permerror",
		"v=spf1 ip4:192.0.2.1 redirect=":          "permerror",
		"v=spf1 ip4:192.0.2.1 a:exa\x80mple.com":  "permerror",
		"v=spf1 ip4:192.0.2.1 a:example":          "permerror",
		"v=spf1 ip4:192.0.2.1 exp=a.test exp=a.b": "permerror",
		"v=spf1 ip4:192.0.2.1 x=%{":               "permerror",
		"v=spf1 ip4:192.0.2.1 x=%{c}":             "pass",
		"v=spf1 ip4:192.0.2.1 exists:%{c}.a.b":    "permerror",
		"v=spf1 ip4:192.0.2.1 exists:%{d0}.a.b":   "permerror",
		"V=SPF1 IP4:192.0.2.0/24":                 "pass",
		"v=spf1 ?ip6:::/0 +ip4:0.0.0.0/0":         "pass",
		"v=spf1 a:foo:bar/baz.example.com -all":   "pass", // "/" in a name
		"v=spf1 a:foo:bar/baz.example.com/24//64": "pass",
		"v=spf1 a:foo:bar/baz.example.com/33":     "permerror",
		"v=spf1 exists:a/%{i}.b/x.p.test -all":    "pass",
		"v=spf1 exists:%{p}.p.test -all":          "pass", // the client's name
		"v=spf1 exists:%{P1}.p.test -all":         "pass",
		"v=spf1 exists:%{pr}.p.test -all":         "pass",
		"v=spf1 exists:%{p2}.p.test -all":         "pass",
		"v=spf1 exists:%{p}.q.test -all":          "fail",
	} {
		z := spfTXT("example.com", record)
		z.addrs, z.ptr = names, map[string][]string{"192.0.2.1": {"liar.example.com", "host.example.com."}}
		if got := SPF(t.Context(), z, spfClient, "x", "a@example.com"); got.Value != want {
			t.Errorf("%q: %+v, want %s", record, got, want)
		}
	}
	z := spfTXT("example.com", "v=spf1 exists:%{p}.p.test -all")
	z.addrs = names
	if got := SPF(t.Context(), z, spfClient, "x", "a@example.com"); got.Value != "pass" {
		t.Errorf("a client without a name: %+v, want pass by unknown.p.test", got)
	}
}

// TestSPFBounds: whatever a domain publishes, the number of questions has an end.
func TestSPFBounds(t *testing.T) {
	wide := &zone{txt: map[string][]string{}, mx: map[string][]*net.MX{}, addrs: map[string][]netip.Addr{}}
	var record strings.Builder
	record.WriteString("v=spf1")
	for i := range 30 {
		name := fmt.Sprintf("m%d.example.com", i)
		fmt.Fprintf(&record, " mx:%s", name)
		for j := range 10 {
			host := fmt.Sprintf("h%d.%s", j, name)
			wide.mx[name] = append(wide.mx[name], &net.MX{Host: host})
			wide.addrs[host] = []netip.Addr{netip.MustParseAddr("198.51.100.1")}
		}
	}
	wide.txt["example.com"] = []string{record.String()}
	for name, c := range map[string]struct {
		zone *zone
		most int64
		want string
	}{
		"wide": {wide, 1 + 10*11, "permerror"},
		"include loop": {spfTXT("example.com", "v=spf1 include:a.example.com",
			"a.example.com", "v=spf1 include:example.com"), 11, "permerror"},
		"redirect loop": {spfTXT("example.com", "v=spf1 redirect=example.com"), 11, "permerror"},
		"empty answers": {spfTXT("example.com", "v=spf1 a:a.test a:b.test a:c.test a:d.test +all"), 4, "permerror"},
		"huge record":   {spfTXT("example.com", "v=spf1 "+strings.Repeat("a:b.test ", 1e5)+"+all"), 1, "permerror"},
		"two records":   {spfTXT("example.com", "v=spf1 +all", "example.com", "v=spf1 -all"), 1, "permerror"},
		"alias loop":    {&zone{cname: map[string][]string{"example.com": {"example.com"}}}, 1, "temperror"},
		"DNS down":      {&zone{down: map[string][]string{"example.com": {"*"}}}, 1, "temperror"},
	} {
		got := SPF(t.Context(), c.zone, spfClient, "x", "a@example.com")
		if got.Value != c.want || c.zone.asked.Load() > c.most {
			t.Errorf("%s: %+v after %d questions, want %s after at most %d",
				name, got, c.zone.asked.Load(), c.want, c.most)
		}
	}
}

// TestSPFDeadline: the end of the context is a temperror, also where the grammar would let an error pass for "no".
func TestSPFDeadline(t *testing.T) {
	for _, record := range []string{
		"v=spf1 -all", "v=spf1 a -all", "v=spf1 mx -all", "v=spf1 exists:%{p}.x.test -all",
	} {
		synctest.Test(t, func(t *testing.T) {
			z := spfTXT("example.com", record)
			z.wait = func(ctx context.Context) error {
				select {
				case <-time.After(3 * time.Second):
					return nil
				case <-ctx.Done():
					return ctx.Err()
				}
			}
			limit := 5 * time.Second
			if record == "v=spf1 -all" {
				limit = 2 * time.Second
			}
			ctx, cancel := context.WithTimeout(t.Context(), limit)
			defer cancel()
			begun := time.Now()
			got := SPF(ctx, z, spfClient, "x", "a@example.com")
			if took := time.Since(begun); got.Value != "temperror" || took != limit {
				t.Errorf("%q: %+v after %v, want temperror after %v", record, got, took, limit)
			}
		})
	}
}

func FuzzSPF(f *testing.F) {
	for _, s := range []string{
		"v=spf1 a mx ptr:example.com ip4:192.0.2.0/24 ip6:2001:db8::/32 exists:%{ir}.%{v}.%{d2}.x.test ~all",
		"v=spf1 redirect=%{d}", "v=spf1 a:foo/bar.test/24//64 exp=%{o}.x.y z=%_%-%%",
		"v=spf1 exists:%{p1r-}.%{P}.p.test ?include:b.test",
		"v=spf1 include:example.com", "v=spf1", "v=spf1 a:\x01.test",
	} {
		f.Add(s, "local", "helo.example")
	}
	f.Fuzz(func(t *testing.T, record, local, helo string) {
		z := spfTXT("example.com", record, "b.test", "v=spf1 a -all")
		z.addrs["host.example.com"] = []netip.Addr{spfClient}
		z.ptr = map[string][]string{"192.0.2.1": {"host.example.com"}}
		got := SPF(t.Context(), z, spfClient, helo, local+"@example.com")
		switch got.Value {
		case "none", "neutral", "pass", "fail", "softfail", "temperror", "permerror":
		default:
			t.Errorf("%+v", got)
		}
		if got.Domain != "example.com" || got.Reason == "" || z.asked.Load() > 150 {
			t.Errorf("%+v after %d questions", got, z.asked.Load())
		}
		if isSPFRecord(record) {
			terms, ok := parseSPFRecord(record)
			if !ok && got.Value != "permerror" {
				t.Errorf("%q is malformed, and yet %+v", record, got)
			}
			// What the library is given has the same terms, with nothing added.
			w := &spfResolver{r: z, ip: spfClient}
			kept := 0
			for _, term := range terms {
				if !term.ignored {
					kept++
				}
			}
			if text := w.rewrite(t.Context(), terms, "example.com"); ok && len(strings.Fields(text)) != kept+1 {
				t.Errorf("%q became %q", record, text)
			}
		}
	})
}

func BenchmarkSPF(b *testing.B) {
	z := spfTXT("example.com", "v=spf1 include:_spf.example.com ip4:198.51.100.0/24 -all",
		"_spf.example.com", "v=spf1 ip4:203.0.113.0/24 ip6:2001:db8::/32 a:out.example.com ip4:192.0.2.0/24 ~all")
	z.addrs["out.example.com"] = []netip.Addr{netip.MustParseAddr("203.0.113.9")}
	b.ReportAllocs()
	for b.Loop() {
		if got := SPF(b.Context(), z, spfClient, "mx.example.com", "a@example.com"); got.Value != "pass" {
			b.Fatal(got)
		}
	}
}

// familyZone is a zone whose name servers know nothing of IPv6, and that can be asked for one family.
type familyZone struct{ *zone }

func (z familyZone) LookupIPAddr(_ context.Context, host string) ([]net.IPAddr, error) {
	return nil, zoneTimeout(host)
}

func (z familyZone) LookupNetIP(ctx context.Context, network, host string) ([]netip.Addr, error) {
	if network != "ip4" {
		return nil, zoneTimeout(host)
	}
	addrs, err := z.zone.LookupIPAddr(ctx, host)
	var list []netip.Addr
	for _, a := range addrs {
		if v4 := a.IP.To4(); v4 != nil {
			list = append(list, netip.AddrFrom4([4]byte(v4)))
		}
	}
	return list, err
}

// A client with an IPv4 address is not kept from a result by name servers that fail for AAAA; one with an IPv6 address
// is.
func TestSPFAsksOneFamily(t *testing.T) {
	z := &zone{
		txt: map[string][]string{
			"a.example":      {"v=spf1 a:host.example -all"},
			"mx.example":     {"v=spf1 mx -all"},
			"exists.example": {"v=spf1 exists:host.example -all"},
		},
		mx:    map[string][]*net.MX{"mx.example": {{Host: "host.example.", Pref: 1}}},
		addrs: map[string][]netip.Addr{"host.example": {netip.MustParseAddr("192.0.2.1")}},
	}
	for _, tt := range []struct{ domain, client, want string }{
		{"a.example", "192.0.2.1", ResultPass},
		{"a.example", "::ffff:192.0.2.1", ResultPass},
		{"a.example", "192.0.2.2", ResultFail},
		{"a.example", "2001:db8::1", ResultTemperror},
		{"mx.example", "192.0.2.1", ResultPass},
		{"mx.example", "192.0.2.2", ResultFail},
		{"mx.example", "2001:db8::1", ResultTemperror},
		{"exists.example", "192.0.2.2", ResultPass},
	} {
		got := SPF(t.Context(), familyZone{z}, netip.MustParseAddr(tt.client), "x.example", "a@"+tt.domain)
		if got.Value != tt.want {
			t.Errorf("%s from %s: %+v, want %s", tt.domain, tt.client, got, tt.want)
		}
	}
}

// silentReverse is a zone whose client has names, or the names addresses, that nobody tells about.
type silentReverse struct {
	*zone
	names []string // nil: nobody tells these either
}

func (z silentReverse) LookupAddr(ctx context.Context, addr string) ([]string, error) {
	if z.names != nil {
		return z.names, nil
	}
	<-ctx.Done()
	return nil, zoneTimeout(addr)
}

func (z silentReverse) LookupIPAddr(ctx context.Context, host string) ([]net.IPAddr, error) {
	if strings.Contains(host, "silent") {
		<-ctx.Done()
		return nil, zoneTimeout(host)
	}
	return z.zone.LookupIPAddr(ctx, host)
}

// A client whose own reverse zone is silent does not leave open what a record says about it, nor for long.
func TestSPFSilentReverse(t *testing.T) {
	for _, record := range []string{
		"v=spf1 ptr -all", "v=spf1 exists:%{p}.x.test -all", "v=spf1 ptr:a.test ptr:b.test exists:%{p}.x.test -all",
	} {
		for _, names := range [][]string{nil, {"silent1.test.", "silent2.test.", "silent3.test.", "silent4.test."}} {
			synctest.Test(t, func(t *testing.T) {
				ctx, cancel := context.WithTimeout(t.Context(), 5*time.Second)
				defer cancel()
				begun := time.Now()
				got := SPF(ctx, silentReverse{spfTXT("example.com", record), names}, spfClient, "x", "a@example.com")
				if took := time.Since(begun); got.Value != ResultFail || took > maxReverseTime {
					t.Errorf("%q, names %q: %+v after %v", record, names, got, took)
				}
			})
		}
	}
}

// Silence about a host that a record names is the domain's, though the client be that very host.
func TestSPFSilentHost(t *testing.T) {
	for record, want := range map[string]string{
		"v=spf1 ptr a:silent.test -all": ResultTemperror,
		"v=spf1 a:silent.test ptr -all": ResultTemperror,
		"v=spf1 ptr mx -all":            ResultTemperror,
		"v=spf1 ptr -all":               ResultFail,
	} {
		synctest.Test(t, func(t *testing.T) {
			ctx, cancel := context.WithTimeout(t.Context(), 5*time.Second)
			defer cancel()
			z := spfTXT("example.com", record)
			z.mx = map[string][]*net.MX{"example.com": {{Host: "silent.test.", Pref: 1}}}
			got := SPF(ctx, silentReverse{z, []string{"silent.test."}}, spfClient, "x", "a@example.com")
			if got.Value != want {
				t.Errorf("%q: %+v, want %s", record, got, want)
			}
		})
	}
}
