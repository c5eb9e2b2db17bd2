package proxy

import (
	"context"
	"errors"
	"net/netip"
	"os/exec"
	"slices"
	"strings"
	"testing"
)

// What keeps connections from coming is told, with what to do.
func TestCheckIntercepted(t *testing.T) {
	exit, errNoRules := errors.New("exit status 1"), errors.New("no rules")
	both := []string{"127.0.0.1:10526", "[::1]:10526"}
	tests := []struct {
		name    string
		way     string
		listen  []string
		tracks  bool
		out     string
		err     error
		want    []string // beginnings of findings
		without bool     // nft is not asked
	}{
		{"in force", interceptRedirect, both, true, "whole", nil, []string{"ok the rules are in force"}, false},
		{"not in force", interceptRedirect, both, true, "Error: No such file or directory", exit, []string{"fail the rules are not in force"}, false},
		{"others", interceptRedirect, both, true, "table inet slipstream {}", nil, []string{"warn other rules than this configuration's are in force"}, false},
		{"no ip rules", interceptTPROXY, both, true, "whole", errNoRules, []string{"warn other rules than this configuration's are in force"}, false},
		{"not even tracked", interceptRedirect, both, false, "", nil, []string{"fail no connection is redirected on this machine"}, false},
		{"a router needs no tracking", interceptTPROXY, both, false, "whole", nil, []string{"ok the rules are in force"}, false},
		{"not root", interceptRedirect, both, true, "Operation not permitted (you must be root)", exit, []string{"warn whether the rules are in force only root can tell"}, false},
		{"no nft", interceptTPROXY, both, true, "", exec.ErrNotFound, []string{"warn whether the rules are in force cannot be told: a program is missing: nft is not here; install it"}, false},
		{"nobody to ask", interceptRedirect, both, true, "", nil, nil, true},
		{"IPv4 alone", interceptRedirect, both[:1], true, "whole", nil, []string{"warn outbound: connections over IPv6 are not intercepted", "ok "}, false},
		{"IPv6 alone", interceptRedirect, both[1:], true, "whole", nil, []string{"warn outbound: connections over IPv4 are not intercepted", "ok "}, false},
		{"everywhere", interceptRedirect, []string{":10526"}, true, "whole", nil, []string{"ok "}, false},
		{"a port of the system's", interceptRedirect, []string{"127.0.0.1:0"}, true, "", nil, []string{`fail door "outbound" listens on a port that the system chooses`}, false},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			cfg := testConfig()
			out := DefaultOutbound()
			out.Name, out.Route, out.Intercept, out.Listen, out.InterceptNetworks = "outbound", routeOriginal, tt.way, tt.listen, everyNetwork()
			out.Allow = Prefixes{netip.MustParsePrefix("10.0.0.0/24")}
			cfg.Outbound = append(cfg.Outbound, out)
			var got []string
			c := &check{cfg: cfg, report: func(f Finding) { got = append(got, f.State.String()+" "+f.Text) }}
			c.Tracks = func() bool { return tt.tracks }
			if !tt.without {
				c.Run = func(_ context.Context, stdin string, argv ...string) (string, error) {
					switch line := strings.Join(argv, " "); {
					case stdin != "":
						t.Errorf("%q was told %q", line, stdin)
					case line == "nft list table inet slipstream" && tt.out == "whole":
						return printedPlan(t, cfg), nil
					case line == "nft list table inet slipstream":
						return tt.out, tt.err
					case strings.HasSuffix(line, " rule show") && tt.err == nil:
						return "2525:	from all fwmark 0x736c lookup 2525\n", nil
					case strings.HasSuffix(line, " route show table 2525"):
						return "local default dev lo scope host\n", nil
					case !strings.HasSuffix(line, " rule show"):
						t.Errorf("ran %q", line)
					}
					return "0:	from all lookup local\n", nil
				}
			}
			c.intercepted(t.Context())
			if !slices.EqualFunc(got, tt.want, strings.HasPrefix) {
				t.Errorf("got %q, want %q", got, tt.want)
			}
			for _, text := range got {
				if !strings.HasPrefix(text, "ok ") && !strings.Contains(text, "slipstream intercept apply") && !strings.Contains(text, "install") &&
					!strings.Contains(text, "listen") {
					t.Errorf("nothing to do about %q", text)
				}
			}
		})
	}
}

// Doors that nobody is brought to need no rules.
func TestCheckNotIntercepted(t *testing.T) {
	cfg := testConfig()
	cfg.Outbound, cfg.Inbound = []OutboundConfig{DefaultOutbound()}, []InboundConfig{DefaultInbound()}
	c := &check{cfg: cfg, report: func(f Finding) { t.Errorf("found %+v", f) }}
	c.intercepted(t.Context())

	// Rules that are left are told of; where it cannot be told, nothing is.
	for out, want := range map[string]int{"table inet slipstream {}": 1, "": 0, "not permitted": 0} {
		var got []string
		c := &check{cfg: cfg, report: func(f Finding) { got = append(got, f.State.String()+" "+f.Text) }}
		c.Run = func(context.Context, string, ...string) (string, error) {
			if want == 0 {
				return out, errors.New("exit status 1")
			}
			return out, nil
		}
		c.intercepted(t.Context())
		if len(got) != want || want > 0 && (!strings.HasPrefix(got[0], "warn rules of another configuration are in force") ||
			!strings.Contains(got[0], "slipstream intercept remove")) {
			t.Errorf("%q: found %q", out, got)
		}
	}
}

// printedPlan is what nft would list, as far as the check is concerned.
func printedPlan(t *testing.T, cfg *Config) string {
	t.Helper()
	var b strings.Builder
	if err := Interception(cfg).Print(&b); err != nil {
		t.Fatal(err)
	}
	return b.String()
}

func TestInterception(t *testing.T) {
	for text, want := range map[string]string{
		"127.0.0.1:10025": "127.0.0.1:10025", "[::1]:25": "[::1]:25", "localhost:25": "127.0.0.1:25 [::1]:25", "mta.example.org:25": "invalid AddrPort",
		"unix:/run/mta": "",
	} {
		var e Endpoint
		if err := e.UnmarshalText([]byte(text)); err != nil {
			t.Fatal(err)
		}
		var got []string
		for _, a := range backendAddrs(e) {
			if !a.Addr().IsValid() && a.Port() != 25 {
				t.Errorf("%s lost its port: %v", text, a)
			}
			got = append(got, a.String())
		}
		if strings.Join(got, " ") != want {
			t.Errorf("%s: %q, want %q", text, got, want)
		}
	}
	cfg := testConfig()
	in := DefaultInbound()
	in.Name, in.Listen, in.ListenTLS, in.Transparent, in.ClientAddress = "in", []string{":2525"}, []string{"127.0.0.1:4465"}, true, announceSpoof
	cfg.Inbound = []InboundConfig{in, DefaultInbound()}
	cfg.Outbound = []OutboundConfig{DefaultOutbound()}
	p := Interception(cfg)
	if len(p.Outbound) != 0 || len(p.Inbound) != 1 || len(p.Inbound[0].Fronts) != 2 || !p.Inbound[0].Spoof {
		t.Fatalf("plan %+v", p)
	}
	if f := p.Inbound[0].Fronts[1]; f.Port != publicTLSPort || f.Listen[0] != netip.MustParseAddrPort("127.0.0.1:4465") {
		t.Errorf("front %+v", f)
	}
}
