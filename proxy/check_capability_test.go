package proxy

import (
	"net/netip"
	"strings"
	"testing"

	"slipstream/bench/refpeer"
)

// A door that both families come to wants a backend that both can go to.
func TestCheckSpoofFamilies(t *testing.T) {
	const lacks = "warn backend inbound: clients come by IPv6, and 203.0.113.1:25 has no such address, " +
		"so they hear 451…\"localhost\")"
	for _, tt := range []struct {
		listen, announce string
		warns            bool
	}{
		{":2525", announceSpoof, true},
		{"192.0.2.1:2525", announceSpoof, false},
		{":2525", announceXclient, false},
	} {
		w := newWorld(t)
		w.serve(backendAddr, &refpeer.Server{RcptReplies: foreign("550 5.7.1 no")})
		w.inbound(func(in *InboundConfig) { in.Listen, in.ClientAddress = []string{tt.listen}, tt.announce })
		lines := w.findings()
		if tt.warns {
			wantFinding(t, lines, lacks)
		} else if text := strings.Join(lines, "\n"); strings.Contains(text, "clients come by") {
			t.Errorf("%s, %s: %s", tt.listen, tt.announce, text)
		}
	}
}

// The question whether a backend relays comes from addresses that nobody has.
func TestCheckSpoofAsks(t *testing.T) {
	w := newWorld(t)
	backend := w.serve(backendAddr, &refpeer.Server{})
	w.inbound(spoofing, func(in *InboundConfig) { in.BackendTrustsUs = false })
	wantFinding(t, w.findings(), "fail backend door \"inbound\" stays shut: …masquerade…")
	if got := comers(backend); len(got) != 1 || got[0] != probeClient().Addr().String() {
		t.Errorf("asked by %q", got)
	}
}

func TestServesFamilies(t *testing.T) {
	four, six := netip.IPv4Unspecified(), netip.IPv6Unspecified()
	for listen, want := range map[string][2]bool{
		":25": {true, true}, "0.0.0.0:25": {true, true}, "192.0.2.1:25": {true, false}, "[2001:db8::1]:25": {false, true},
	} {
		conf := &InboundConfig{ListenTLS: []string{listen}}
		if got := [2]bool{serves(conf, four), serves(conf, six)}; got != want {
			t.Errorf("%s serves %v, want %v", listen, got, want)
		}
	}
}

// systemd holds ports for others.
func TestHolderPassesOn(t *testing.T) {
	for h, want := range map[holder]bool{
		{pid: 1, name: "systemd"}: true, {pid: 1, name: "init"}: false, {pid: 7, name: "systemd"}: false,
	} {
		if h.passesOn() != want {
			t.Errorf("%v: %v", h, !want)
		}
	}
}
