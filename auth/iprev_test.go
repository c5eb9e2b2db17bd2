package auth

import (
	"context"
	"net"
	"net/netip"
	"strings"
	"testing"
	"testing/synctest"
	"time"
)

func TestIPRev(t *testing.T) {
	v4, v6 := netip.MustParseAddr("192.0.2.1"), netip.MustParseAddr("2001:db8::1")
	z := &zone{
		ptr: map[string][]string{
			"192.0.2.1": {"liar.example.com.", "Mail.Example.com."}, "2001:db8::1": {"six.example.com"},
			"192.0.2.2": {"liar.example.com"},
			"192.0.2.4": {"evil\r\nX: y", "a b.example.com", "half;.example.com"}, "192.0.2.5": {"slow.example.com"},
			"192.0.2.6":  {"slow.example.com", "mail2.example.com"},
			"192.0.2.7":  strings.Split(strings.Repeat("n.example.com ", 500), " "),
			"192.0.2.9":  strings.Fields("a.b c.d e.f mail9.example.com " + strings.Repeat("n.example.com ", 500)),
			"192.0.2.10": strings.Fields("a.b c.d e.f g.h i.j mail9.example.com"),
		},
		addrs: map[string][]netip.Addr{
			"mail.example.com": {v6, v4}, "six.example.com": {v6},
			"liar.example.com":  {netip.MustParseAddr("203.0.113.1")},
			"mail2.example.com": {netip.MustParseAddr("192.0.2.6")},
			"mail9.example.com": {netip.MustParseAddr("192.0.2.9"), netip.MustParseAddr("192.0.2.10")},
		},
		down: map[string][]string{"slow.example.com": {"A"}, "192.0.2.8": {"PTR"}},
	}
	for ip, want := range map[string]IPRevResult{
		"192.0.2.1":        {Value: "pass", Name: "mail.example.com"},
		"::ffff:192.0.2.1": {Value: "pass", Name: "mail.example.com"},
		"2001:db8::1":      {Value: "pass", Name: "six.example.com"},
		"192.0.2.2":        {Value: "fail"},
		"192.0.2.3":        {Value: "permerror"},
		"192.0.2.4":        {Value: "fail"},
		"192.0.2.5":        {Value: "temperror"},
		"192.0.2.6":        {Value: "pass", Name: "mail2.example.com"},
		"192.0.2.7":        {Value: "fail"},
		"192.0.2.8":        {Value: "temperror"},
		"192.0.2.9":        {Value: "pass", Name: "mail9.example.com"},
		"192.0.2.10":       {Value: "fail"}, // the sixth is not asked for
	} {
		before := z.asked.Load()
		got := IPRev(t.Context(), z, netip.MustParseAddr(ip))
		want.IP, want.Reason = netip.MustParseAddr(ip).Unmap(), got.Reason
		if got != want || got.Reason == "" {
			t.Errorf("%s: %+v, want %+v", ip, got, want)
		}
		if n := z.asked.Load() - before; n > 1+maxReverseNames {
			t.Errorf("%s: %d questions", ip, n)
		}
	}
	if got := IPRev(t.Context(), z, netip.Addr{}); got.Value != "permerror" {
		t.Errorf("no address: %+v", got)
	}
}

// TestIPRevFamily: nobody is asked for addresses that the client cannot have.
func TestIPRevFamily(t *testing.T) {
	for ip, want := range map[string]string{
		"192.0.2.1": "ip4 mail.example.com", "::ffff:192.0.2.1": "ip4 mail.example.com",
		"2001:db8::1": "ip6 mail.example.com",
	} {
		q := &countingDNS{names: []string{"mail.example.com", "mail2.example.com"}, addr: netip.MustParseAddr(ip).Unmap()}
		if got := IPRev(t.Context(), q, netip.MustParseAddr(ip)); got.Name != "mail.example.com" {
			t.Errorf("%s: %+v", ip, got)
		}
		if q.asked[want] != 1 {
			t.Errorf("%s: asked %v", ip, q.asked)
		}
		for question := range q.asked {
			if network, _, _ := strings.Cut(question, " "); network != "PTR" && network != want[:3] {
				t.Errorf("%s: asked %s", ip, question)
			}
		}
	}
}

// TestIPRevFirst: who is confirmed first is not held up by names behind.
func TestIPRevFirst(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		z := &zone{
			ptr:   map[string][]string{"192.0.2.1": {"mail.example.com", "dead.example.com", "dead2.example.com"}},
			addrs: map[string][]netip.Addr{"mail.example.com": {spfClient}},
		}
		begun := time.Now()
		got := IPRev(t.Context(), deadBehind{z}, spfClient)
		if took := time.Since(begun); took != 0 || got.Value != "pass" || z.asked.Load() > 3 {
			t.Errorf("%+v after %v, %d questions", got, took, z.asked.Load())
		}
	})
}

// deadBehind is a zone where names that begin so never answer.
type deadBehind struct{ *zone }

func (d deadBehind) LookupIPAddr(ctx context.Context, host string) ([]net.IPAddr, error) {
	if strings.HasPrefix(host, "dead") {
		<-ctx.Done()
		return nil, zoneTimeout(host)
	}
	return d.zone.LookupIPAddr(ctx, host)
}

// TestIPRevDeadline: a few look-ups behind one another, whatever the number of names, and none beyond the context.
func TestIPRevDeadline(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		z := &zone{ptr: map[string][]string{"192.0.2.1": strings.Split("a.b c.d e.f g.h i.j", " ")}}
		z.wait = func(ctx context.Context) error {
			select {
			case <-time.After(50 * time.Millisecond):
				return nil
			case <-ctx.Done():
				return ctx.Err()
			}
		}
		begun := time.Now()
		got := IPRev(t.Context(), z, spfClient)
		if took := time.Since(begun); took != 200*time.Millisecond || got.Value != "fail" {
			t.Errorf("%+v after %v, want fail after 200ms", got, took)
		}
		ctx, cancel := context.WithTimeout(t.Context(), 70*time.Millisecond)
		defer cancel()
		begun = time.Now()
		got = IPRev(ctx, z, spfClient)
		if took := time.Since(begun); took != 70*time.Millisecond || got.Value != "temperror" {
			t.Errorf("%+v after %v, want temperror after 70ms", got, took)
		}
	})
}
