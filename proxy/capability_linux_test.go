package proxy

import (
	"errors"
	"net"
	"net/netip"
	"os"
	"runtime"
	"slices"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
)

// powerless calls f on a thread that may do what anybody may.
func powerless(t *testing.T, f func()) {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Skip("needs root, to give its power up")
	}
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	header := unix.CapUserHeader{Version: unix.LINUX_CAPABILITY_VERSION_3}
	var all [2]unix.CapUserData
	if err := unix.Capget(&header, &all[0]); err != nil {
		t.Fatal(err)
	}
	none := all
	for i := range none {
		none[i].Effective = 0 // what is permitted stays, so that the thread can become like the others again
	}
	if err := unix.Capset(&header, &none[0]); err != nil {
		t.Fatal(err)
	}
	defer func() {
		if err := unix.Capset(&header, &all[0]); err != nil {
			panic(err) // no test behind this one would mean anything
		}
	}()
	f()
}

// Where the kernel does not let us, the error has the line for the unit.
func TestTransparentWithoutPrivilege(t *testing.T) {
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer ln.Close()
	var listening, dialling error
	powerless(t, func() {
		listening = plannedPort{addr: "127.0.0.1:25", transparent: true, door: &door{name: "inbound"}}.openUp(&port{ln: ln})
		_, dialling = netDialAs(t.Context(), "tcp", netip.MustParseAddr("192.0.2.7"), ln.Addr().String())
	})
	for what, err := range map[string]error{"listening": listening, "connecting": dialling} {
		if !errors.Is(err, unix.EPERM) || !errors.Is(err, errPrivilege) ||
			!strings.Contains(err.Error(), "AmbientCapabilities=CAP_NET_RAW") {
			t.Errorf("%s: %v", what, err)
		}
	}
	if !strings.Contains(listening.Error(), "Transparent=yes") || !strings.Contains(listening.Error(), `door "inbound"`) {
		t.Errorf("listening: %v", listening)
	}
}

// A socket that systemd made transparent stays so, and needs no privilege of ours.
func TestTransparentInherited(t *testing.T) {
	for _, addr := range []string{"127.0.0.1:0", "[::1]:0", ":0"} {
		ln, err := net.Listen("tcp", addr)
		if err != nil {
			t.Skip(err)
		}
		defer ln.Close()
		if err := setTransparent(ln); err != nil {
			t.Skip("needs CAP_NET_RAW: ", err)
		}
		powerless(t, func() { err = setTransparent(ln) })
		if err != nil {
			t.Errorf("%s: %v", addr, err)
		}
	}
}

// From an address for which the kernel would take another there is no connection.
func TestDialAsNobody(t *testing.T) {
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer ln.Close()
	for _, addr := range []string{"0.0.0.0", "224.0.0.1", "255.255.255.255"} {
		conn, err := netDialAs(t.Context(), "tcp", netip.MustParseAddr(addr), ln.Addr().String())
		if errors.Is(err, errPrivilege) {
			t.Skip(err)
		}
		if err == nil {
			t.Errorf("from %s: connected as %v", addr, conn.LocalAddr())
			_ = conn.Close()
		}
	}
	conn, err := netDialAs(t.Context(), "tcp", netip.MustParseAddr("127.0.0.9"), ln.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	if from := addrPort(conn.LocalAddr()).Addr().String(); from != "127.0.0.9" {
		t.Errorf("connected from %s", from)
	}
}

func TestCapabilities(t *testing.T) {
	var held []string
	var ok bool
	var err error
	powerless(t, func() { held, ok = capabilities(); err = canBeTransparent() })
	if !ok || len(held) > 0 || !errors.Is(err, errPrivilege) {
		t.Errorf("without any: %q, %v, %v", held, ok, err)
	}
	if held, ok = capabilities(); ok && slices.Contains(held, rawCapability) != (canBeTransparent() == nil) {
		t.Errorf("held are %q, and transparent: %v", held, canBeTransparent())
	}
}

// The check names what the doors need, and the lines of the unit for just that.
func TestCheckCapability(t *testing.T) {
	transparent := func(c *Config) { c.Inbound[0].Transparent = true }
	spoof := func(c *Config) { c.Inbound[0].ClientAddress = announceSpoof }
	low := func(c *Config) { c.Inbound[0].Listen = []string{":25"} }
	tproxy := func(c *Config) {
		c.Outbound = []OutboundConfig{{Name: "outbound", Route: routeOriginal, Intercept: interceptTPROXY}}
	}
	redirect := func(c *Config) {
		c.Outbound = []OutboundConfig{{Name: "outbound", Route: routeOriginal, Intercept: interceptRedirect}}
	}
	for _, tt := range []struct {
		name    string
		change  []func(*Config)
		without State // without capabilities; Fine: nothing is said
		says    []string
		with    string // the line with all capabilities begins so; "": there is none
	}{
		{"nothing", nil, Fine, nil, ""},
		{"a low port", []func(*Config){low}, Fine, nil, "needed: CAP_NET_BIND_SERVICE (inbound: :25); "},
		{"redirected", []func(*Config){redirect}, Fine, nil, ""},
		{"transparent", []func(*Config){transparent}, Doubtful,
			[]string{"(inbound: transparent)", "Transparent=yes", `"AmbientCapabilities=CAP_NET_RAW"`}, "needed: CAP_NET_RAW (inbound: transparent); "},
		{"tproxy", []func(*Config){tproxy}, Doubtful,
			[]string{`(outbound: intercept = "tproxy")`, `"CapabilityBoundingSet=CAP_NET_RAW"`}, "needed: CAP_NET_RAW (outbound: "},
		{"spoof", []func(*Config){spoof, low}, Failed, []string{`(inbound: :25, inbound: client_address = "spoof")`,
			`"AmbientCapabilities=CAP_NET_BIND_SERVICE CAP_NET_RAW" and ` +
				`"CapabilityBoundingSet=CAP_NET_BIND_SERVICE CAP_NET_RAW"`}, "needed: CAP_NET_BIND_SERVICE CAP_NET_RAW (inbound: "},
	} {
		t.Run(tt.name, func(t *testing.T) {
			inbound := InboundConfig{Name: "inbound", Listen: []string{"127.0.0.1:2525"}, ClientAddress: announceNone}
			cfg := &Config{Inbound: []InboundConfig{inbound}}
			for _, f := range tt.change {
				f(cfg)
			}
			var found []Finding
			c := &check{cfg: cfg, report: func(f Finding) { found = append(found, f) }}
			powerless(t, c.capability)
			if tt.says == nil && len(found) > 0 {
				t.Errorf("found %v", found)
			} else if tt.says != nil && (len(found) != 1 || found[0].State != tt.without) {
				t.Fatalf("found %v, want one %v", found, tt.without)
			}
			for _, words := range tt.says {
				if !strings.Contains(found[0].Text, words) {
					t.Errorf("it says %q, which lacks %q", found[0].Text, words)
				}
			}
			if len(found) > 0 && strings.Count(found[0].Text, "AmbientCapabilities") != 1 {
				t.Errorf("it says %q", found[0].Text)
			}
			found = nil
			c.capability()
			switch {
			case canBeTransparent() != nil: // not here, whoever we are
			case tt.with == "" && len(found) > 0:
				t.Errorf("with all: found %v", found)
			case tt.with != "" && (len(found) != 1 || found[0].State != Fine || !strings.HasPrefix(found[0].Text, tt.with)):
				t.Errorf("with all: found %v, want %q", found, tt.with)
			}
		})
	}
}

// A port that may not be opened names all that the unit has to say, but where that
// was said before.
func TestCheckCapabilityOnce(t *testing.T) {
	for name, tt := range map[string]struct {
		announce, want string
		lines          int
	}{
		"low port":           {announceNone, `write "AmbientCapabilities=CAP_NET_BIND_SERVICE" and `, 1},
		"low port and spoof": {announceSpoof, "; see capability", 1},
	} {
		cfg := &Config{Inbound: []InboundConfig{{Name: "in", Listen: []string{":25"}, ClientAddress: tt.announce}}}
		cfg.Admin.Listen = "127.0.0.1:80"
		var found []string
		c := &check{cfg: cfg, report: func(f Finding) { found = append(found, f.Text) }}
		powerless(t, c.capability)
		c.judgePort(t.Context(), "in", ":25", unix.EACCES)
		c.judgePort(t.Context(), "admin", "127.0.0.1:80", unix.EACCES)
		all := strings.Join(found, "\n")
		if strings.Count(all, "AmbientCapabilities") != tt.lines || !strings.Contains(all, tt.want) || !strings.HasSuffix(all, "; see capability") {
			t.Errorf("%s: %s", name, all)
		}
	}
}
