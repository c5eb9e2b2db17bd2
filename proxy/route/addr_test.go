package route

import (
	"net/netip"
	"testing"
)

func TestRemote(t *testing.T) {
	for s, want := range map[string]bool{
		"192.0.2.1": true, "8.8.8.8": true, "2001:db8::1": true, "100.128.0.1": true, "100.63.255.255": true,
		"10.0.0.1": true, "172.16.0.1": true, "192.168.1.1": true, "100.64.0.1": true, "fd00::1": true,
		"::ffff:10.0.0.1": true, "64:ff9b::a00:1": true, "2002:a00:1::": true,
		"127.0.0.1": false, "127.255.0.1": false, "::1": false, "0.0.0.0": false, "0.1.2.3": false, "::": false,
		"169.254.169.254": false, "fe80::1": false, "224.0.0.1": false, "ff02::1": false, "255.255.255.255": false, "240.0.0.1": false,
		"::ffff:127.0.0.1": false, "::127.0.0.1": false, "::ffff:0:0": false, "64:ff9b::7f00:1": false, "2002:7f00:1::": false,
		"::ffff:169.254.169.254": false,
	} {
		if got := Remote(netip.MustParseAddr(s)); got != want {
			t.Errorf("%s: %v, want %v", s, got, want)
		}
	}
	if Remote(netip.Addr{}) {
		t.Error("the zero address passes")
	}
}
