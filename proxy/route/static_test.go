package route

import (
	"net"
	"strconv"
	"strings"
	"testing"

	"slipstream/smtpwire"
)

func TestStatic(t *testing.T) {
	z := &zones{
		addrs: map[string]string{
			"relay.example": "192.0.2.1 2001:db8::1", "localhost": "127.0.0.1 ::1", "noaddr.example": "",
		},
		fail: map[string]error{"shaky.example": errServfail},
	}
	tests := []struct {
		target string
		family Family
		want   string // the route, or the refusal
	}{
		{target: "relay.example:2525", want: "relay.example=[2001:db8::1]:2525,192.0.2.1:2525"},
		{target: "relay.example:2525", family: IPv4, want: "relay.example=192.0.2.1:2525"},
		{target: "localhost:25", want: "localhost=[::1]:25,127.0.0.1:25"}, // the guard of MX is not for what we ourselves configured
		{target: "127.0.0.1:25", want: "127.0.0.1=127.0.0.1:25"},
		{target: "[::1]:25", want: "::1=[::1]:25"},
		{target: "[fe80::1%eth0]:25", want: "fe80::1%eth0=[fe80::1%eth0]:25"},
		{target: "smtps://relay.example:465", want: "relay.example=[2001:db8::1]:465,192.0.2.1:465"},
		{target: "lmtp://relay.example:24", want: "relay.example=[2001:db8::1]:24,192.0.2.1:24"},
		{target: "unix:/run/smtp", want: ""},
		{target: "lmtp+unix:/run/lmtp", want: ""},
		{target: "gone.example:25", want: "451 4.4.4 next hop gone.example does not exist: DNS says NXDOMAIN: no such domain"},
		{target: "shaky.example:25", want: "451 4.4.3 next hop shaky.example cannot be looked up: DNS says SERVFAIL"},
		{target: "noaddr.example:25", want: "451 4.4.4 next hop noaddr.example has no address"},
		{target: "[::1]:25", family: IPv4, want: "::1=[::1]:25"},
	}
	for _, tt := range tests {
		t.Run(tt.target, func(t *testing.T) {
			target := targetOf(t, tt.target)
			s := &Static{Target: target, Level: Verified, Why: "configured", Resolver: z, Family: tt.family}
			// Asked at MAIL already, and for whatever recipient.
			r, err := s.Route(t.Context(), smtpwire.Path{}, smtpwire.Path{})
			if err != nil {
				checkError(t, err)
				if refusalOf(err) != tt.want || !r.IsZero() {
					t.Errorf("got %v with %+v, want %s", err, r, tt.want)
				}
				return
			}
			if show(r) != tt.want || r.Key != target.String() || r.LMTP != target.LMTP || r.Unix != target.Unix {
				t.Errorf("got %+v, want %s", r, tt.want)
			}
			for _, h := range r.Hosts {
				if want := (Policy{Verified, "configured", target.Implicit, target.Host}); h.Policy != want {
					t.Errorf("policy %+v, want %+v", h.Policy, want)
				}
			}
		})
	}
}

// targetOf is the inverse of Target.String.
func targetOf(t *testing.T, s string) Target {
	t.Helper()
	var target Target
	rest := s
	for _, scheme := range []struct {
		prefix string
		target Target
	}{{"lmtp+unix:", Target{LMTP: true}}, {"unix:", Target{}}, {"lmtp://", Target{LMTP: true}}, {"smtps://", Target{Implicit: true}}} {
		if after, ok := strings.CutPrefix(s, scheme.prefix); ok {
			target, rest = scheme.target, after
			break
		}
	}
	if strings.HasPrefix(rest, "/") {
		target.Unix = rest
	} else {
		host, port, err := net.SplitHostPort(rest)
		if err != nil {
			t.Fatal(err)
		}
		n, err := strconv.ParseUint(port, 10, 16)
		if err != nil {
			t.Fatal(err)
		}
		target.Host, target.Port = host, uint16(n)
	}
	if target.String() != s {
		t.Fatalf("%q became %q", s, target.String())
	}
	return target
}
