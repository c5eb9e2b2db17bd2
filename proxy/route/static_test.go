package route

import (
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
			target, err := ParseTarget(tt.target)
			if err != nil {
				t.Fatal(err)
			}
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
