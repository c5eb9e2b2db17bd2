package proxy_test

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"strings"
	"testing"
	"time"

	"go.uber.org/zap"
	"go.uber.org/zap/zaptest"
	"go.uber.org/zap/zaptest/observer"

	"slipstream/bench/mta"
	"slipstream/proxy"
	"slipstream/proxy/intercept"
)

// clientPatience bounds a connection in worlds where some go nowhere.
const clientPatience = 3 * time.Second

func testLog(t *testing.T) *zap.Logger { return zaptest.NewLogger(t, zaptest.Level(zap.InfoLevel)) }

// A spoofedWay is where the backend is, and who comes.
type spoofedWay struct {
	name            string
	behind          bool
	backend, client string
	door            string
	trusts          []string // networks that the backend relays for: ours among them
}

func spoofedWays() []spoofedWay {
	door4, door6 := net.JoinHostPort(public4, "2525"), net.JoinHostPort(public6, "2525")
	here, behind := []string{loopback4}, []string{"10.9.0.0/24"}
	return []spoofedWay{
		{"on loopback IPv4", false, "127.0.0.1:10025", worldClient4, door4, here},
		{"on loopback IPv6", false, "[::1]:10025", worldClient6, door6, []string{loopback6}},
		{"on this machine IPv4", false, public4 + ":10025", worldClient4, door4, []string{public4 + "/32"}},
		{"behind us IPv4", true, behind4 + ":25", worldClient4, door4, behind},
		{"behind us IPv6", true, "[" + behind6 + "]:25", worldClient6, door6, []string{"fd00:9::/64"}},
	}
}

// Every backend sees the world's address, and judges by it: what relays for us does not relay for who is elsewhere.
func TestClientSpoof(t *testing.T) {
	if !inOwnNetwork(t) {
		return
	}
	w := newClientWorld(t)
	for _, b := range clientBackends() {
		for _, way := range spoofedWays() {
			t.Run(b.name+" "+way.name, func(t *testing.T) {
				at := (*place)(nil)
				if way.behind {
					at = w.behind
				}
				log := func() string { return "" }
				at.do(t, func() { log = b.start(t, way.backend, way.trusts) })
				w.rules(t, intercept.Inbound{Spoof: true, Backends: []netip.AddrPort{netip.MustParseAddrPort(way.backend)}})
				if _, err := clientDoor(t, way.backend, nil); err != nil {
					t.Fatal(err)
				}
				w.say(t, way.door, "spoofed")
				awaitReal(t, "the client in the backend's log", func() bool { return strings.Contains(log(), way.client) })
			})
		}
	}
}

// What the backend relays for is found out before the door opens: who forgot to tell it about clients, a rule that puts
// our address into the place of theirs, and one that relays for the world.
func TestClientSpoofGuard(t *testing.T) {
	if !inOwnNetwork(t) {
		return
	}
	w := newClientWorld(t)
	way := spoofedWays()[3]
	trusts := func(networks ...string) func(*testing.T) {
		return func(t *testing.T) {
			w.behind.do(t, func() { clientBackends()[0].start(t, way.backend, networks) })
		}
	}
	rules := func(t *testing.T) {
		w.rules(t, intercept.Inbound{Spoof: true, Backends: []netip.AddrPort{netip.MustParseAddrPort(way.backend)}})
	}
	masquerade := func(t *testing.T) {
		w.nft(t, "inet other", "table inet other {\n\tchain post {\n\t\ttype nat hook postrouting priority srcnat;\n"+
			"\t\toifname \"int\" masquerade\n\t}\n}\n")
	}
	plainly := func(in *proxy.InboundConfig) { in.ClientAddress = "none" }
	for _, tt := range []struct {
		name   string
		change func(*proxy.InboundConfig)
		set    []func(*testing.T)
		relays bool
		says   string
	}{
		{"told nothing", plainly, []func(*testing.T){trusts("10.9.0.0/24")}, true, "open relay"},
		{"careful", nil, []func(*testing.T){trusts("10.9.0.0/24"), rules}, false, ""},
		{"masqueraded", nil, []func(*testing.T){trusts("10.9.0.0/24"), rules, masquerade}, true, "masquerade"},
		{"relays for the world", nil, []func(*testing.T){trusts("0.0.0.0/0"), rules}, true, "accepts every recipient"},
		{"without rules", nil, []func(*testing.T){trusts("10.9.0.0/24")}, false, `"slipstream intercept print" shows`},
	} {
		t.Run(tt.name, func(t *testing.T) {
			for _, set := range tt.set {
				set(t)
			}
			_, err := clientDoor(t, way.backend, tt.change)
			var relays *proxy.RelayError
			switch {
			case errors.As(err, &relays) != tt.relays, (err == nil) != (tt.says == ""),
				err != nil && !strings.Contains(err.Error(), tt.says):
				t.Errorf("start: %v, want an error with %q", err, tt.says)
			}
		})
	}
}

// The MTA keeps its address and port: we stand in front of it on the same machine, and its own mail does not come to
// us.
func TestClientFront(t *testing.T) {
	if !inOwnNetwork(t) {
		return
	}
	w := newClientWorld(t)
	for _, front := range []struct{ name, mta, backend, public, client string }{
		{"IPv4", "0.0.0.0:25", "127.0.0.1:25", public4 + ":25", worldClient4},
		{"IPv6", "[::]:25", "[::1]:25", "[" + public6 + "]:25", worldClient6},
		{"IPv4 at its own address", "0.0.0.0:25", public4 + ":25", public4 + ":25", worldClient4},
	} {
		t.Run(front.name, func(t *testing.T) {
			log := clientBackends()[0].start(t, front.mta, []string{loopback4, public4 + "/32"})
			listen := []netip.AddrPort{netip.MustParseAddrPort("127.0.0.1:2525"), netip.MustParseAddrPort("[::1]:2525")}
			w.rules(t, intercept.Inbound{
				Spoof: true, Backends: []netip.AddrPort{netip.MustParseAddrPort(front.backend)},
				Fronts: []intercept.Front{{Port: 25, Listen: listen}},
			})
			px, err := clientDoor(t, front.backend, func(in *proxy.InboundConfig) {
				in.Listen, in.Transparent = []string{"127.0.0.1:2525", "[::1]:2525"}, true
			})
			if err != nil {
				t.Fatal(err)
			}
			w.say(t, front.public, "front")
			awaitReal(t, "the client in the backend's log", func() bool { return strings.Contains(log(), front.client) })
			if got := px.records(t, 1)[0]; got.Door != doorInbound || got.Status != "sent" {
				t.Errorf("the world did not come through us: %+v", got)
			}
			own := realDial(t, front.public) // from this machine
			if a := realHear(t, own, 250, "EHLO local.test"); strings.Contains(a.String(), realProxyName) {
				t.Errorf("this machine's own mail came to us: %s", a)
			}
		})
	}
}

// Who comes by a family that the backend does not have is put off, and does not come from our address.
func TestClientSpoofFamily(t *testing.T) {
	if !inOwnNetwork(t) {
		return
	}
	w := newClientWorld(t)
	clientBackends()[0].start(t, "127.0.0.1:10025", []string{loopback4})
	w.rules(t, intercept.Inbound{Spoof: true, Backends: []netip.AddrPort{netip.MustParseAddrPort("127.0.0.1:10025")}})
	if _, err := clientDoor(t, "127.0.0.1:10025", nil); err != nil {
		t.Fatal(err)
	}
	var d *mta.Dialog
	w.world.do(t, func() { d = realDial(t, net.JoinHostPort(public6, "2525")) })
	realHear(t, d, 250, "EHLO client.test")
	realHear(t, d, 451, "MAIL FROM:<%s>", realSender)
	w.say(t, net.JoinHostPort(public4, "2525"), "other family")
}

// Rules that bring our own connections to the backend back to us are no circle that messages run in.
func TestClientLoop(t *testing.T) {
	if !inOwnNetwork(t) {
		return
	}
	w := newClientWorld(t)
	backend := public4 + ":25"
	clientBackends()[0].start(t, "0.0.0.0:25", nil)
	w.rules(t, intercept.Inbound{Spoof: true, Backends: []netip.AddrPort{netip.MustParseAddrPort(backend)}})
	w.nft(t, "inet other", fmt.Sprintf("table inet other {\n\tchain pre {\n"+
		"\t\ttype filter hook prerouting priority mangle;\n"+
		"\t\tmeta nfproto ipv4 tcp dport 25 tproxy ip to 127.0.0.1:2525 meta mark set %#x accept\n\t}\n}\n", intercept.Mark))
	core, logs := observer.New(zap.InfoLevel)
	_, err := clientDoorWith(t, backend, zap.New(core), func(in *proxy.InboundConfig) {
		in.Listen, in.Transparent = []string{"127.0.0.1:2525"}, true
	})
	if err != nil { // as long as the door is not open, its own connections reach the backend
		t.Fatal(err)
	}
	var d *mta.Dialog
	w.world.do(t, func() { d = realDial(t, backend) })
	realHear(t, d, 250, "EHLO client.test")
	realHear(t, d, 451, "MAIL FROM:<%s>", realSender)
	if n := logs.FilterMessage("refused our own connection").Len(); n == 0 || n > 4 {
		t.Errorf("%d lines about our own connection, want few", n)
	}
}
