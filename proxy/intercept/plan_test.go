package intercept

import (
	"bytes"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

func addrs(list ...string) (out []netip.AddrPort) {
	for _, s := range list {
		out = append(out, netip.MustParseAddrPort(s))
	}
	return out
}

func networks(list ...string) (out []netip.Prefix) {
	for _, s := range list {
		out = append(out, netip.MustParsePrefix(s))
	}
	return out
}

// plans are one of each kind, by the name of the script in testdata.
func plans() map[string]Plan {
	everywhere := networks("0.0.0.0/0", "::/0")
	redirect := Outbound{Door: "outbound", Listen: addrs("127.0.0.1:10526", "[::1]:10526"), Networks: everywhere, Port: 25}
	tproxy := redirect
	tproxy.TProxy = true
	tproxy.Clients = networks("127.0.0.0/8", "::1/128", "10.0.0.0/24", "10.0.0.128/25", "10.1.0.0/16", "fd00:1::/64")
	some := Outbound{
		Door: "some", Listen: addrs("127.0.0.2:10527"), Port: 2525,
		Networks: networks("192.0.2.1/24", "198.51.100.0/24", "2001:db8::/32"),
	}
	wild := Outbound{Door: "wild", TProxy: true, Listen: addrs("[::]:10528"), Networks: networks("203.0.113.7/32", "2001:db8::/32"), Port: 25,
		Clients: networks("10.0.0.7/32")}
	front := Inbound{
		Door: "inbound", Backends: addrs("127.0.0.1:25"),
		Fronts: []Front{{25, addrs("127.0.0.1:2525", "[::1]:2525")}, {465, addrs("[::]:4465")}},
	}
	here := Inbound{Door: "inbound", Spoof: true, Backends: addrs("127.0.0.1:10025", "[::1]:10025")}
	behind := Inbound{
		Door: "inbound", Spoof: true, Backends: addrs("10.0.0.5:25"), Fronts: []Front{{25, addrs("127.0.0.1:2525")}},
	}
	name := Inbound{Door: "named", Spoof: true, Backends: []netip.AddrPort{netip.AddrPortFrom(netip.Addr{}, 2525)}}
	who := Plan{UID: 901, User: "slipstream", IPv6: true}
	with := func(out []Outbound, in ...Inbound) Plan {
		p := who
		p.Outbound, p.Inbound = out, in
		return p
	}
	without6 := with([]Outbound{redirect, tproxy}, here)
	without6.IPv6 = false
	return map[string]Plan{
		"redirect":  with([]Outbound{redirect}),
		"some":      with([]Outbound{some, redirect}),
		"tproxy":    with([]Outbound{tproxy, wild}),
		"front":     with(nil, front),
		"here":      with(nil, here),
		"behind":    with(nil, behind, name),
		"ipv4":      without6,
		"all":       with([]Outbound{redirect, tproxy}, front, behind),
		"only-ipv4": with([]Outbound{{Door: "outbound", Listen: addrs("127.0.0.1:10525"), Networks: everywhere, Port: 25}}),
	}
}

func printed(t *testing.T, p Plan) string {
	t.Helper()
	var b bytes.Buffer
	if err := p.Print(&b, "What is ours.", ""); err != nil {
		t.Fatal(err)
	}
	return b.String()
}

// TestPrint compares with testdata. SLIPSTREAM_GOLDEN=write writes it anew.
func TestPrint(t *testing.T) {
	for name, p := range plans() {
		t.Run(name, func(t *testing.T) {
			got, file := printed(t, p), filepath.Join("testdata", name+".sh")
			if os.Getenv("SLIPSTREAM_GOLDEN") == "write" {
				if err := os.WriteFile(file, []byte(got), 0o644); err != nil {
					t.Fatal(err)
				}
			}
			want, err := os.ReadFile(file)
			if err != nil {
				t.Fatal(err)
			}
			if got != string(want) {
				t.Errorf("%s has changed:\n%s", file, got)
			}
		})
	}
	files, err := filepath.Glob("testdata/*.sh")
	if err != nil || len(files) != len(plans()) {
		t.Errorf("%d scripts for %d plans (%v)", len(files), len(plans()), err)
	}
}

// What we send ourselves is never brought back to us: no rule of this machine's own packets comes before the one
// that lets them pass, and none looks at packets of loopback.
func TestOwnPacketsPass(t *testing.T) {
	for name, p := range plans() {
		for _, c := range p.chains() {
			if len(c.rules) == 0 {
				continue
			}
			switch c.name {
			case "outbound-redirect":
				if !slices.Contains(c.first, "meta skuid 901 return") || !slices.Contains(c.first, `oifname "lo" return`) {
					t.Errorf("%s: %s begins with %q", name, c.name, c.first)
				}
			case "outbound-tproxy", "inbound-front":
				if !slices.Contains(c.first, `iifname "lo" return`) {
					t.Errorf("%s: %s begins with %q", name, c.name, c.first)
				}
			}
		}
	}
}

func TestPlan(t *testing.T) {
	if !(Plan{}).IsEmpty() || !(Plan{Inbound: []Inbound{{Door: "a", Backends: addrs("127.0.0.1:25")}}}).IsEmpty() {
		t.Error("a plan of nothing is not empty")
	}
	for name, p := range plans() {
		if p.IsEmpty() {
			t.Errorf("%s is empty", name)
		}
		if err := p.Check(); err != nil {
			t.Errorf("%s: %v", name, err)
		}
		byUser := strings.Contains(printed(t, p), "skuid 901")
		if p.NeedsUser() != byUser {
			t.Errorf("%s needs a user: %v; its rules: %v", name, p.NeedsUser(), byUser)
		}
		if !p.IPv6 && strings.Contains(printed(t, p), "ip6") {
			t.Errorf("%s is about IPv6, which is not there", name)
		}
	}
	for _, p := range []Plan{
		{Outbound: []Outbound{{Door: "x", Listen: addrs("127.0.0.1:0")}}},
		{Inbound: []Inbound{{Door: "x", Fronts: []Front{{25, addrs("127.0.0.1:0")}}}}},
	} {
		if err := p.Check(); err == nil || !strings.Contains(err.Error(), `door "x" listens on a port that the system chooses`) {
			t.Errorf("%+v: %v", p, err)
		}
	}
}

// A zone may be any text, and never comes near a program.
func TestZones(t *testing.T) {
	zoned := addrs("[fe80::1%x accept; drop]:25")
	for _, p := range []Plan{
		{Outbound: []Outbound{{Door: "x", Listen: zoned, Networks: networks("::/0"), Port: 25}}},
		{Inbound: []Inbound{{Door: "x", Fronts: []Front{{25, zoned}}}}},
		{Inbound: []Inbound{{Door: "x", Spoof: true, Backends: zoned}}},
	} {
		p.IPv6 = true
		m := &machine{}
		var b bytes.Buffer
		for _, err := range []error{p.Check(), p.Print(&b), p.Apply(t.Context(), m.run, func(string) {})} {
			if err == nil || !strings.Contains(err.Error(), "rules cannot name a zone; write an address without one") {
				t.Errorf("%+v: %v", p, err)
			}
		}
		if b.Len() > 0 || len(m.ran) > 0 {
			t.Errorf("printed %q, ran %q", b.String(), m.ran)
		}
	}
}

// Rules for a router take what its clients send, and nothing of others.
func TestTProxyTakesClientsAlone(t *testing.T) {
	all := printed(t, plans()["all"])
	for _, want := range []string{
		"\t\tip saddr { 10.0.0.0/24, 10.1.0.0/16 } tcp dport 25 tproxy ip to 127.0.0.1:10526 meta mark set 0x736c accept\n" +
			"\t\tip saddr { 10.0.0.0/24, 10.1.0.0/16 } tcp dport 25 meta mark set 0x736d accept\n",
		"\t\tip6 saddr fd00:1::/64 tcp dport 25 tproxy ip6 to [::1]:10526 ",
		"\t\tip daddr 10.0.0.5 tcp dport 25 return\n",
		"\t\tmeta mark 0x736d meta l4proto tcp reject with tcp reset\n",
	} {
		if !strings.Contains(all, want) {
			t.Errorf("no %q in\n%s", want, all)
		}
	}
	for _, clients := range [][]string{{"127.0.0.0/8", "::1/128"}, nil} {
		p := plans()["tproxy"]
		for i := range p.Outbound {
			p.Outbound[i].Clients = networks(clients...)
		}
		if got := printed(t, p); strings.Contains(got, "tproxy ip") || strings.Contains(got, "reject") {
			t.Errorf("rules for nobody:\n%s", got)
		}
	}
	some := printed(t, plans()["tproxy"])
	if !strings.Contains(some, "ip saddr 10.0.0.7/32 ip daddr 203.0.113.7/32 tcp dport 25 tproxy ip to :10528") ||
		strings.Contains(some, "2001:db8::/32") {
		t.Errorf("a family without clients, and one with:\n%s", some)
	}
}

// The name of a plan is the same for every user, with IPv6 and without, and for no other plan.
func TestPlanName(t *testing.T) {
	seen := map[string]string{}
	for name, p := range plans() {
		id := p.name()
		if other, ok := seen[id]; ok {
			t.Errorf("%s and %s are both %s", name, other, id)
		}
		seen[id] = name
		p.UID, p.User, p.IPv6 = 7, "other", !p.IPv6
		if p.name() != id {
			t.Errorf("%s is %s, and for another user %s", name, id, p.name())
		}
	}
}
