package route

import (
	"context"
	"errors"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"slipstream/smtpwire"
)

func originalZones() *zones {
	return &zones{
		mx: map[string]string{
			"x.example": "10 a.example, 20 b.example, 30 both.example", "y.example": "10 b.example", "z.example": "10 elsewhere.example",
			"null.example": "0 .", "shaky.example": "10 dead.example, 20 b.example", "dark.example": "10 dead.example",
			"xn--bcher-kva.example": "10 b.example", "odd.example": "10 192.0.2.2., 20 B.EXAMPLE.", "same.example": "10 both.example, 20 b.example",
		},
		addrs: map[string]string{
			"a.example": "192.0.2.1 2001:db8::1", "b.example": "192.0.2.2 2001:db8::2", "both.example": "192.0.2.1 192.0.2.2",
			"elsewhere.example": "203.0.113.9", "implicit.example": "192.0.2.2", "x.example": "192.0.2.2",
		},
		fail: map[string]error{"dead.example": errServfail, "servfail.example": errServfail},
	}
}

func TestOriginal(t *testing.T) {
	const here = "192.0.2.2:25"
	tests := []struct {
		name, domain, addr string
		level              Level
		want               string // name and server name, or the refusal
	}{
		{"the one with the address", "x.example", here, Verified, "b.example b.example"},
		{"another", "x.example", "192.0.2.1:25", Verified, "a.example a.example"},
		{"IPv6", "x.example", "[2001:db8::2]:25", Verified, "b.example b.example"},
		{"IPv4 in IPv6", "x.example", "[::ffff:192.0.2.2]:25", Verified, "b.example b.example"},
		{"another port", "x.example", "192.0.2.2:2525", Verified, "b.example b.example"},
		{"the best of several", "same.example", here, Verified, "both.example both.example"},
		{"upper case", "Y.Example.", here, Verified, "b.example b.example"},
		{"A-labels", "bücher.example", here, Verified, "b.example b.example"},
		{"an implicit exchanger", "implicit.example", here, Verified, "implicit.example implicit.example"},
		{"not by the address of a domain with MX", "z.example", here, Encrypted, "192.0.2.2 "},
		{"an MX that is no name", "odd.example", here, Verified, "b.example b.example"},
		{"a literal", "[192.0.2.2]", here, Verified, "[192.0.2.2] 192.0.2.2"},
		{"an IPv6 literal", "[IPv6:2001:db8::2]", "[2001:db8::2]:25", Verified, "[IPv6:2001:db8::2] 2001:db8::2"},
		{"another literal", "[192.0.2.3]", here, Opportunistic, "192.0.2.2 "},
		{"no literal at all", "[nonsense]", here, Opportunistic, "192.0.2.2 "},
		{"none matches", "z.example", here, Opportunistic, "192.0.2.2 "},
		{"none matches, encrypt", "z.example", here, Encrypted, "192.0.2.2 "},
		{"none matches, verify", "z.example", here, Verified,
			"451 4.7.5 [192.0.2.2] cannot be verified: no mail exchanger of z.example has that address"},
		{"none over IPv6, verify", "y.example", "[2001:db8::9]:25", Verified,
			"451 4.7.5 [IPv6:2001:db8::9] cannot be verified: no mail exchanger of y.example has that address"},
		{"a smarthost", "gone.example", here, Opportunistic, "192.0.2.2 "},
		{"a domain that is gone, verify", "gone.example", here, Verified,
			"451 4.7.5 [192.0.2.2] cannot be verified as a mail exchanger of gone.example: " +
				"5.1.2 domain gone.example does not exist: DNS says NXDOMAIN: no such domain"},
		{"a null MX, which the sender did not heed", "null.example", here, Opportunistic, "192.0.2.2 "},
		{"a better one that does not answer", "shaky.example", here, Verified, "b.example b.example"},
		{"the only one does not answer", "dark.example", here, Opportunistic, "192.0.2.2 "},
		{"the only one does not answer, verify", "dark.example", here, Verified,
			"451 4.7.5 [192.0.2.2] cannot be verified as a mail exchanger of dark.example: DNS says SERVFAIL"},
		{"no answer, verify", "servfail.example", here, Verified,
			"451 4.7.5 [192.0.2.2] cannot be verified as a mail exchanger of servfail.example: " +
				"4.4.3 mail exchangers of servfail.example cannot be looked up: DNS says SERVFAIL"},
		{"no answer", "servfail.example", here, Encrypted, "192.0.2.2 "},
		{"malformed", "a b", here, Opportunistic, "192.0.2.2 "},
		{"no domain", "", here, Opportunistic, "550 5.1.2 <postmaster> has no domain to route by"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			o := &Original{Resolver: originalZones(), Addr: netip.MustParseAddrPort(tt.addr), Level: tt.level, Why: "configured"}
			to := smtpwire.Path{Local: "u", Domain: tt.domain}
			if tt.domain == "" {
				to.Local = "postmaster"
			}
			r, err := o.Route(t.Context(), smtpwire.Path{}, to)
			if err != nil {
				checkError(t, err)
				if refusalOf(err) != tt.want || !r.IsZero() {
					t.Errorf("got %v with %+v, want %s", err, r, tt.want)
				}
				return
			}
			checkOriginal(t, o, r)
			if got := r.Hosts[0].Name + " " + r.Hosts[0].Policy.ServerName; got != tt.want {
				t.Errorf("got %q, want %q", got, tt.want)
			}
		})
	}
}

// checkOriginal tells what holds for each route of an original destination: it leads there alone, by the policy as
// configured, and what has no name is never verified.
func checkOriginal(t *testing.T, o *Original, r Route) {
	t.Helper()
	own := netip.AddrPortFrom(o.Addr.Addr().Unmap(), o.Addr.Port())
	if len(r.Hosts) != 1 || !slices.Equal(r.Hosts[0].Addrs, []netip.AddrPort{own}) || r.LMTP || r.Unix != "" {
		t.Fatalf("route %+v leads elsewhere than to %v", r, own)
	}
	h := r.Hosts[0]
	want := "original:" + own.String()
	if h.Policy.ServerName != "" {
		want += " " + h.Name
	}
	if r.Key != want {
		t.Errorf("key %q, want %q", r.Key, want)
	}
	if h.Policy.Level != o.Level || h.Policy.Why != o.Why || h.Policy.Implicit {
		t.Errorf("policy %+v", h.Policy)
	}
	if h.Policy.ServerName == "" && (o.Level >= Verified || h.Name != own.Addr().String()) {
		t.Errorf("host %+v has no name", h)
	}
}

// MAIL comes before any recipient: there is no route yet, and nothing is asked.
func TestOriginalBeforeRecipients(t *testing.T) {
	z := originalZones()
	o := &Original{Resolver: z, Addr: netip.MustParseAddrPort("192.0.2.2:25")}
	r, err := o.Route(t.Context(), smtpwire.Path{Local: "a", Domain: "x.example"}, smtpwire.Path{})
	if err != nil || !r.IsZero() || len(z.asked) > 0 {
		t.Errorf("got %+v, %v; asked %q", r, err, z.asked)
	}
}

// Another name at the same address is another destination.
func TestOriginalKeys(t *testing.T) {
	o := &Original{Resolver: originalZones(), Addr: netip.MustParseAddrPort("192.0.2.2:25")}
	key := func(domain string) string {
		r, err := o.Route(t.Context(), smtpwire.Path{}, smtpwire.Path{Local: "u", Domain: domain})
		if err != nil {
			t.Fatal(err)
		}
		return r.Key
	}
	if key("x.example") != key("y.example") {
		t.Error("the same host by another domain has another key")
	}
	if a, b, c := key("x.example"), key("implicit.example"), key("z.example"); a == b || b == c || a == c {
		t.Errorf("keys %q, %q, %q", a, b, c)
	}
}

func TestOriginalTime(t *testing.T) {
	tests := []struct {
		name   string
		domain string
		slow   map[string]time.Duration
		want   string
		took   time.Duration
	}{
		{"at once, not one by one", "x.example", map[string]time.Duration{"a.example": time.Second, "b.example": time.Second, "both.example": time.Second},
			"b.example", time.Second},
		{"a worse one is not waited for", "x.example", map[string]time.Duration{"both.example": time.Hour}, "b.example", 0},
		{"a better one is, for a while", "x.example", map[string]time.Duration{"a.example": time.Hour}, "b.example", straggle},
		{"the only one is", "y.example", map[string]time.Duration{"b.example": 5 * time.Second}, "b.example", 5 * time.Second},
		{"until the client has no more time", "y.example", map[string]time.Duration{"b.example": time.Hour}, "192.0.2.2", 20 * time.Second},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				z := originalZones()
				z.slow = tt.slow
				ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
				defer cancel()
				start := time.Now()
				r, err := (&Original{Resolver: z, Addr: netip.MustParseAddrPort("192.0.2.2:25")}).
					Route(ctx, smtpwire.Path{}, smtpwire.Path{Local: "u", Domain: tt.domain})
				if err != nil {
					t.Fatal(err)
				}
				if got := r.Hosts[0].Name; got != tt.want || time.Since(start) != tt.took {
					t.Errorf("got %q after %v, want %q after %v", got, time.Since(start), tt.want, tt.took)
				}
				synctest.Wait() // every look-up has ended, or the bubble says so
			})
		})
	}
}

// FuzzOriginal: whatever a client names as a domain and somebody publishes as a mail exchanger, mail goes nowhere
// but to the original destination, and no name is believed that does not have that address.
func FuzzOriginal(f *testing.F) {
	f.Add("example.org", "mx.example.org", "192.0.2.2", true)
	f.Add("[192.0.2.2]", ".", "::ffff:192.0.2.2", false)
	f.Add("bücher.example", "a\x00b\r\n250 ok", "192.0.2.3", true)
	f.Fuzz(func(t *testing.T, domain, mx, addr string, verify bool) {
		z := &fixed{host: mx}
		if a, err := netip.ParseAddr(addr); err == nil {
			z.addr = a.WithZone("")
		}
		o := &Original{Resolver: z, Addr: netip.MustParseAddrPort("192.0.2.2:25"), Why: "configured"}
		if verify {
			o.Level = Verified
		}
		r, err := o.Route(t.Context(), smtpwire.Path{}, smtpwire.Path{Local: "u", Domain: domain})
		var refused *Error
		switch {
		case errors.As(err, &refused):
			checkError(t, err)
		case err != nil:
			t.Fatal(err)
		default:
			checkOriginal(t, o, r)
			named := r.Hosts[0].Policy.ServerName != ""
			if named && z.addr.Unmap() != o.Addr.Addr() && !strings.HasPrefix(domain, "[") {
				t.Fatalf("%q has the name %q, by the address %v", domain, r.Hosts[0].Name, z.addr)
			}
		}
	})
}
