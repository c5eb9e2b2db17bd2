package route

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"slipstream/smtpwire"
)

func many(n int, format string) string {
	var list []string
	for i := range n {
		list = append(list, fmt.Sprintf(format, i))
	}
	return strings.Join(list, ",")
}

func TestMX(t *testing.T) {
	z := &zones{
		mx: map[string]string{
			"two.example":        "20 b.example, 10 a.example",
			"null.example":       "0 .",
			"nullempty.example":  "0 ",
			"nullplus.example":   "0 ., 10 a.example",
			"implicit.example":   "",
			"nothing.example":    "",
			"gone.example":       "10 gone1.invalid, 20 gone2.invalid",
			"empty.example":      "10 gone1.invalid, 20 noaddr.example",
			"shaky.example":      "10 gone1.invalid, 20 shaky-mx.example",
			"backup.example":     "10 shaky-mx.example, 20 b.example",
			"own.example":        "10 a.example, 20 Us.Example., 20 b.example, 30 c.example",
			"ownbest.example":    "10 us.example, 20 b.example",
			"ownequal.example":   "10 b.example, 10 us.example",
			"ownaddr.example":    "10 a.example, 20 alias-of-us.example, 30 b.example",
			"owndead.example":    "10 gone1.invalid, 20 us.example",
			"trap.example":       "10 loop.example",
			"traps.example":      "10 loop.example, 20 mapped.example, 30 b.example",
			"literalmx.example":  "10 192.0.2.1",
			"badmx.example":      `10 a\032b.example, 20 x_y.example`,
			"xn--bcher-kva.test": "10 xn--mller-kva.example",
			"dual.example":       "10 dual-mx.example",
			"v6.example":         "10 v6-mx.example",
			"many.example":       many(30, "%d m%[1]d.example"),
			"wide.example":       "10 wide-mx.example",
			"noaddr.example":     "",
			"private.example":    "10 rfc1918.example",
			"manylate.example":   many(16, "%d gone%[1]d.invalid") + ",99 a.example",
			"twice.example":      "20 a.example, 10 A.example, 10 b.example",
		},
		addrs: map[string]string{
			"a.example":             "192.0.2.1",
			"b.example":             "192.0.2.2",
			"c.example":             "192.0.2.3",
			"us.example":            "198.51.100.1",
			"alias-of-us.example":   "198.51.100.7 198.51.100.1",
			"implicit.example":      "192.0.2.9",
			"loop.example":          "127.0.0.1 ::1 0.0.0.0",
			"mapped.example":        "::ffff:127.0.0.1 64:ff9b::7f00:1",
			"x_y.example":           "192.0.2.4",
			"xn--mller-kva.example": "192.0.2.5",
			"dual-mx.example":       "192.0.2.1 192.0.2.2 192.0.2.1 2001:db8::1 2001:db8::2 ::ffff:192.0.2.2",
			"v6-mx.example":         "2001:db8::6",
			"wide-mx.example":       "192.0.2.1 192.0.2.2 192.0.2.3 192.0.2.4 192.0.2.5 192.0.2.6 192.0.2.7 192.0.2.8 192.0.2.9",
			"rfc1918.example":       "10.1.2.3",
		},
		fail: map[string]error{
			"servfail.example":  errServfail,
			"shaky-mx.example":  errServfail,
			"otherfail.example": errors.New("the resolver is on fire"),
		},
	}
	for i := range 30 {
		z.addrs[fmt.Sprintf("m%d.example", i)] = "192.0.2.1"
	}
	own := netip.MustParseAddrPort("198.51.100.1:25")
	router := func(f Family) *MX {
		return &MX{
			Resolver: z, Hostname: "us.example", Family: f, Level: Encrypted, Why: "configured",
			IsOwn: func(a netip.AddrPort) bool { return a == own },
		}
	}
	tests := []struct {
		domain string
		family Family
		want   string // the route, or the refusal
		key    string // "": domain
	}{
		{domain: "two.example", want: "a.example=192.0.2.1:25 b.example=192.0.2.2:25"},
		{domain: "TWO.Example", want: "a.example=192.0.2.1:25 b.example=192.0.2.2:25", key: "two.example"},

		// "a single MX RR … consisting of preference number 0 and a zero-length label": https://www.rfc-editor.org/rfc/rfc7505#section-3
		{domain: "null.example", want: "556 5.1.10 domain null.example takes no mail: DNS says it has a null MX"},
		{domain: "nullempty.example", want: "556 5.1.10 domain nullempty.example takes no mail: DNS says it has a null MX"},
		{domain: "nullplus.example", want: "a.example=192.0.2.1:25"},

		// "If an empty list of MXs is returned, the address is treated as if it was associated with an implicit MX RR":
		// https://www.rfc-editor.org/rfc/rfc5321#section-5.1
		{domain: "implicit.example", want: "implicit.example=192.0.2.9:25"},
		{domain: "nothing.example", want: "550 5.4.4 domain nothing.example has neither a mail exchanger nor an address"},
		{domain: "b.example", family: IPv6, want: "550 5.4.4 domain b.example has neither a mail exchanger nor an address (only ipv6 is allowed here)"},

		{domain: "no.invalid", want: "550 5.1.2 domain no.invalid does not exist: DNS says NXDOMAIN: no such domain"},
		{domain: "servfail.example", want: "451 4.4.3 mail exchangers of servfail.example cannot be looked up: DNS says SERVFAIL"},
		{domain: "otherfail.example", want: "451 4.4.3 mail exchangers of otherfail.example cannot be looked up: DNS says the resolver is on fire"},

		{domain: "gone.example", want: "550 5.4.4 no mail exchanger of gone.example exists: DNS says NXDOMAIN: no such domain to gone1.invalid"},
		{domain: "empty.example", want: "451 4.4.4 no mail exchanger of empty.example has an address"},
		{domain: "shaky.example", want: "451 4.4.3 mail exchanger shaky-mx.example of shaky.example cannot be looked up: DNS says SERVFAIL"},
		{domain: "backup.example", want: "b.example=192.0.2.2:25"},

		{domain: "own.example", want: "a.example=192.0.2.1:25"},
		{domain: "ownaddr.example", want: "a.example=192.0.2.1:25"},
		{domain: "ownbest.example", want: "554 5.4.6 mail for ownbest.example loops back to this host: it is the best mail exchanger itself"},
		{domain: "ownequal.example", want: "554 5.4.6 mail for ownequal.example loops back to this host: it is the best mail exchanger itself"},
		{domain: "us.example", want: "554 5.4.6 mail for us.example loops back to this host: it is the best mail exchanger itself"},
		{domain: "alias-of-us.example", want: "554 5.4.6 mail for alias-of-us.example loops back to this host: it is the best mail exchanger itself"},
		{domain: "owndead.example", want: "550 5.4.4 no mail exchanger of owndead.example exists: DNS says NXDOMAIN: no such domain to gone1.invalid"},

		{domain: "trap.example", want: "550 5.4.4 mail exchanger loop.example of trap.example has the address 0.0.0.0, where mail may not go"},
		{domain: "traps.example", want: "b.example=192.0.2.2:25"},
		{domain: "private.example", want: "rfc1918.example=10.1.2.3:25"},
		{domain: "literalmx.example", want: "550 5.4.4 no mail exchanger of literalmx.example exists: DNS says not a host name to 192.0.2.1"},
		{domain: "badmx.example", want: "x_y.example=192.0.2.4:25"},

		{domain: "bücher.test", want: "xn--mller-kva.example=192.0.2.5:25", key: "xn--bcher-kva.test"},
		{domain: "BÜCHER。test", want: "xn--mller-kva.example=192.0.2.5:25", key: "xn--bcher-kva.test"},
		{domain: "a b.example", want: `550 5.1.2 "a b.example" is not a domain name: only letters, digits, hyphens, underscores and dots may stand in a name`},
		{domain: "x..example", want: `550 5.1.2 "x..example" is not a domain name: empty name, or an empty label in it`},
		{domain: "x\u200d.example", want: `550 5.1.2 "x\u200d.example" is not a domain name: not a valid internationalized name`},

		{domain: "dual.example", want: "dual-mx.example=[2001:db8::1]:25,192.0.2.1:25,[2001:db8::2]:25,192.0.2.2:25"},
		{domain: "dual.example", family: IPv4, want: "dual-mx.example=192.0.2.1:25,192.0.2.2:25"},
		{domain: "dual.example", family: IPv6, want: "dual-mx.example=[2001:db8::1]:25,[2001:db8::2]:25"},
		{domain: "v6.example", family: IPv4, want: "451 4.4.4 no mail exchanger of v6.example has an address (only ipv4 is allowed here)"},
		{domain: "many.example", want: strings.ReplaceAll(many(10, "m%d.example=192.0.2.1:25"), ",", " ")},
		{domain: "manylate.example", want: "550 5.4.4 no mail exchanger of manylate.example exists: DNS says NXDOMAIN: no such domain to gone0.invalid"},
		{domain: "twice.example", want: "a.example=192.0.2.1:25 b.example=192.0.2.2:25"},
		{domain: "wide.example", want: "wide-mx.example=192.0.2.1:25,192.0.2.2:25,192.0.2.3:25,192.0.2.4:25,192.0.2.5:25,192.0.2.6:25,192.0.2.7:25,192.0.2.8:25"},

		// https://www.rfc-editor.org/rfc/rfc5321#section-4.1.3
		{domain: "[192.0.2.1]", want: "[192.0.2.1]=192.0.2.1:25"},
		{domain: "[IPv6:2001:DB8:0::1]", want: "[IPv6:2001:db8::1]=[2001:db8::1]:25", key: "[IPv6:2001:db8::1]"},
		{domain: "[ipv6:::ffff:192.0.2.1]", want: "[192.0.2.1]=192.0.2.1:25", key: "[192.0.2.1]"},
		{domain: "[198.51.100.1]", want: "554 5.4.6 mail for [198.51.100.1] loops back to this host: it is the best mail exchanger itself"},
		{domain: "[127.0.0.1]", want: "550 5.4.4 mail may not go to the address [127.0.0.1]"},
		{domain: "[IPv6:::ffff:127.0.0.1]", want: "550 5.4.4 mail may not go to the address [127.0.0.1]"},
		{domain: "[IPv6:2001:db8::1]", family: IPv4, want: "550 5.4.4 [IPv6:2001:db8::1] cannot be reached from here (only ipv4 is allowed here)"},
		{domain: "[2001:db8::1]", want: "550 5.1.2 [2001:db8::1] is not an address literal"},
		{domain: "[IPv6:192.0.2.1]", want: "550 5.1.2 [IPv6:192.0.2.1] is not an address literal"},
		{domain: "[IPv6:fe80::1%eth0]", want: "550 5.1.2 [IPv6:fe80::1%eth0] is not an address literal"},
		{domain: "[192.0.2.1", want: "550 5.1.2 [192.0.2.1 is not an address literal"},
		{domain: "[]", want: "550 5.1.2 [] is not an address literal"},
		{domain: "", want: "550 5.1.2 <x> has no domain to route by"},
	}
	for _, tt := range tests {
		t.Run(tt.domain+" "+tt.family.String(), func(t *testing.T) {
			r, err := router(tt.family).Route(t.Context(), smtpwire.Path{}, smtpwire.Path{Local: "x", Domain: tt.domain})
			got := show(r)
			if err != nil {
				got = refusalOf(err)
				if !r.IsZero() || len(r.Hosts) > 0 {
					t.Errorf("a route came with the error: %+v", r)
				}
				checkError(t, err)
			}
			if got != tt.want {
				t.Errorf("got  %s\nwant %s", got, tt.want)
			}
			if key := tt.key; err == nil && r.Key != key && (key != "" || r.Key != tt.domain) {
				t.Errorf("key %q", r.Key)
			}
			for _, h := range r.Hosts {
				name := strings.TrimSuffix(strings.TrimPrefix(strings.TrimPrefix(h.Name, "["), "IPv6:"), "]")
				if want := (Policy{Level: Encrypted, Why: "configured", ServerName: name}); h.Policy != want {
					t.Errorf("policy of %s: %+v", h.Name, h.Policy)
				}
			}
		})
	}
}

// checkError checks what holds for every refusal.
func checkError(t *testing.T, err error) {
	t.Helper()
	var e *Error
	if !errors.As(err, &e) {
		t.Fatalf("not an *Error: %T %v", err, err)
	}
	enhanced, ok := e.Reply.Enhanced()
	if !ok || e.Temporary != (e.Reply.Class() == 4) || (e.Reply.Class() != 4 && e.Reply.Class() != 5) {
		t.Errorf("reply %v (enhanced %q), temporary %v", e.Reply, enhanced, e.Temporary)
	}
	if e.Error() != "no route: "+e.Reply.String() {
		t.Errorf("error text %q", e.Error())
	}
	wire := e.Reply.AppendTo(nil)
	if len(wire) > 512 || slices.ContainsFunc(wire[:len(wire)-2], func(c byte) bool { return c < ' ' || c > '~' }) {
		t.Errorf("not fit for the wire: %q", wire)
	}
	if strings.Contains(string(wire), "127.0.0.1:53") {
		t.Errorf("names our name server: %s", wire)
	}
}

func TestMXUnwraps(t *testing.T) {
	z := &zones{fail: map[string]error{"x.example": errServfail}}
	_, err := (&MX{Resolver: z}).Route(t.Context(), smtpwire.Path{}, smtpwire.Path{Local: "a", Domain: "x.example"})
	if !errors.Is(err, errServfail) {
		t.Errorf("%v does not wrap what the resolver said", err)
	}
}

func TestMXAtMAIL(t *testing.T) {
	r, err := (&MX{}).Route(t.Context(), smtpwire.Path{Local: "a", Domain: "b"}, smtpwire.Path{})
	if err != nil || !r.IsZero() {
		t.Errorf("got %+v, %v", r, err)
	}
}

func TestMXOptions(t *testing.T) {
	z := &zones{
		mx:    map[string]string{"x.example": "10 a.example, 20 b.example, 30 c.example"},
		addrs: map[string]string{"a.example": "127.0.0.1", "b.example": "10.0.0.1", "c.example": "192.0.2.1"},
	}
	to := smtpwire.Path{Local: "u", Domain: "x.example"}
	for _, tt := range []struct {
		name string
		mx   MX
		want string
	}{
		{"default", MX{}, "b.example=10.0.0.1:25 c.example=192.0.2.1:25"},
		{"not private", MX{AllowAddr: func(a netip.Addr) bool { return Remote(a) && !a.IsPrivate() }}, "c.example=192.0.2.1:25"},
		{"all, other port", MX{Port: 2525, AllowAddr: func(netip.Addr) bool { return true }},
			"a.example=127.0.0.1:2525 b.example=10.0.0.1:2525 c.example=192.0.2.1:2525"},
		// A guarded address that is our own still ends the list.
		{"own loopback", MX{IsOwn: func(a netip.AddrPort) bool { return a.Addr().IsLoopback() }}, ""},
	} {
		t.Run(tt.name, func(t *testing.T) {
			tt.mx.Resolver = z
			r, err := tt.mx.Route(t.Context(), smtpwire.Path{}, to)
			if show(r) != tt.want {
				t.Errorf("got %q (%v), want %q", show(r), err, tt.want)
			}
			if tt.want == "" && !strings.HasPrefix(refusalOf(err), "554 5.4.6 ") {
				t.Errorf("got %v", err)
			}
		})
	}
}

// Our own entry and everything behind it is not even looked up.
func TestMXAsksNoMoreThanNeeded(t *testing.T) {
	z := &zones{
		mx:    map[string]string{"x.example": "10 a.example, 20 us.example, 30 b.example"},
		addrs: map[string]string{"a.example": "192.0.2.1"},
	}
	m := &MX{Resolver: z, Hostname: "US.example."}
	if _, err := m.Route(t.Context(), smtpwire.Path{}, smtpwire.Path{Local: "u", Domain: "x.example"}); err != nil {
		t.Fatal(err)
	}
	if want := []string{"MX x.example", "ip a.example"}; !slices.Equal(z.asked, want) {
		t.Errorf("asked %q, want %q", z.asked, want)
	}
}

func TestMXTime(t *testing.T) {
	tests := []struct {
		name string
		slow map[string]time.Duration
		want string
		took time.Duration
	}{
		{"at once, not one by one",
			map[string]time.Duration{"a.example": 100 * time.Millisecond, "b.example": 100 * time.Millisecond, "c.example": 100 * time.Millisecond},
			"a.example=192.0.2.1:25 b.example=192.0.2.2:25 c.example=192.0.2.3:25", 100 * time.Millisecond},
		{"a late backup is left behind",
			map[string]time.Duration{"a.example": 100 * time.Millisecond, "c.example": time.Minute},
			"a.example=192.0.2.1:25 b.example=192.0.2.2:25", 100*time.Millisecond + straggle},
		{"the best one is waited for",
			map[string]time.Duration{"a.example": 5 * time.Second},
			"a.example=192.0.2.1:25 b.example=192.0.2.2:25 c.example=192.0.2.3:25", 5 * time.Second},
		{"until the client has no more time",
			map[string]time.Duration{"a.example": time.Hour},
			"b.example=192.0.2.2:25 c.example=192.0.2.3:25", 20 * time.Second},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				z := &zones{
					mx:    map[string]string{"x.example": "10 a.example, 20 b.example, 30 c.example"},
					addrs: map[string]string{"a.example": "192.0.2.1", "b.example": "192.0.2.2", "c.example": "192.0.2.3"},
					slow:  tt.slow,
				}
				ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
				defer cancel()
				start := time.Now()
				r, err := (&MX{Resolver: z}).Route(ctx, smtpwire.Path{}, smtpwire.Path{Local: "u", Domain: "x.example"})
				if show(r) != tt.want || time.Since(start) != tt.took {
					t.Errorf("got %q (%v) after %v, want %q after %v", show(r), err, time.Since(start), tt.want, tt.took)
				}
				synctest.Wait() // every look-up has ended, or the bubble says so
			})
		})
	}
}

// FuzzMX: whatever a client names as a domain and somebody publishes as a mail exchanger, the outcome is a sound route or a sound
// refusal, and no address gets through that mail may not go to.
func FuzzMX(f *testing.F) {
	f.Add("example.org", "mx.example.org", "192.0.2.1")
	f.Add("[IPv6:::1]", ".", "::ffff:127.0.0.1")
	f.Add("bücher.example", "a\x00b\r\n250 ok", "64:ff9b::7f00:1")
	f.Fuzz(func(t *testing.T, domain, mx, addr string) {
		z := &fixed{host: mx}
		if a, err := netip.ParseAddr(addr); err == nil {
			z.addr = a.WithZone("")
		}
		r, err := (&MX{Resolver: z, Hostname: "us.example"}).Route(t.Context(), smtpwire.Path{}, smtpwire.Path{Local: "u", Domain: domain})
		if err != nil {
			checkError(t, err)
			return
		}
		if r.Key == "" || len(r.Hosts) == 0 || r.Key != strings.ToLower(r.Key) && r.Key[0] != '[' {
			t.Fatalf("route %+v", r)
		}
		for _, h := range r.Hosts {
			if len(h.Addrs) == 0 || h.Name == "" || h.Policy.ServerName == "" {
				t.Fatalf("host %+v", h)
			}
			for _, a := range h.Addrs {
				if a.Port() != 25 || a.Addr().Is4In6() || !Remote(a.Addr()) {
					t.Fatalf("address %v", a)
				}
			}
		}
	})
}
