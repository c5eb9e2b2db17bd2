package route

import (
	"net/netip"
	"testing"
)

func TestGuard(t *testing.T) {
	const no, remote, public = 0, 1, 2
	for s, want := range map[string]int{
		"192.0.2.1": public, "8.8.8.8": public, "2001:db8::1": public, "100.128.0.1": public, "100.63.255.255": public,
		"10.0.0.1": remote, "172.16.0.1": remote, "192.168.1.1": remote, "100.64.0.1": remote, "fd00::1": remote,
		"::ffff:10.0.0.1": remote, "64:ff9b::a00:1": remote, "2002:a00:1::": remote,
		"127.0.0.1": no, "127.255.0.1": no, "::1": no, "0.0.0.0": no, "0.1.2.3": no, "::": no, "169.254.169.254": no, "fe80::1": no,
		"224.0.0.1": no, "ff02::1": no, "255.255.255.255": no, "240.0.0.1": no,
		"::ffff:127.0.0.1": no, "::127.0.0.1": no, "::ffff:0:0": no, "64:ff9b::7f00:1": no, "2002:7f00:1::": no, "::ffff:169.254.169.254": no,
	} {
		addr := netip.MustParseAddr(s)
		got := no
		if Remote(addr) {
			got = remote
		}
		if Public(addr) {
			if got == no {
				t.Errorf("%s: public but not remote", s)
			}
			got = public
		}
		if got != want {
			t.Errorf("%s: got %d, want %d", s, got, want)
		}
	}
	if Remote(netip.Addr{}) || Public(netip.Addr{}) {
		t.Error("the zero address passes")
	}
}
