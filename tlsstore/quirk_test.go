package tlsstore

import (
	"net/netip"
	"strings"
	"testing"
	"time"
)

func TestQuirk(t *testing.T) {
	s, clock := clocked(t)
	has := func(addr netip.AddrPort, q Quirk, want bool) {
		t.Helper()
		if got := s.Quirk(addr, q); got != want {
			t.Errorf("Quirk(%v, %s) is %v", addr, q, got)
		}
	}
	has(testAddr, QuirkNoEarly, false)
	s.SetQuirk(testAddr, QuirkNoEarly, time.Hour)
	has(testAddr, QuirkNoEarly, true)
	has(testAddr, QuirkNoTickets, false)
	has(netip.MustParseAddrPort("192.0.2.7:26"), QuirkNoEarly, false)
	clock.pass(time.Hour)
	has(testAddr, QuirkNoEarly, false)

	s.SetQuirk(testAddr, QuirkNoTickets, 1000*MaxQuirkLife)
	clock.pass(MaxQuirkLife - 1)
	has(testAddr, QuirkNoTickets, true)
	clock.pass(1)
	has(testAddr, QuirkNoTickets, false)

	s.SetQuirk(testAddr, QuirkNoTLS, 0)
	has(testAddr, QuirkNoTLS, true)
	s.ClearQuirk(testAddr, QuirkNoTLS)
	has(testAddr, QuirkNoTLS, false)

	long := Quirk(strings.Repeat("q", maxQuirk+1))
	s.SetQuirk(testAddr, long, time.Hour)
	has(testAddr, long, false)
}
