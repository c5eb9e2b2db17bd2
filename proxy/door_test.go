package proxy

import (
	"crypto/tls"
	"net/netip"
	"testing"

	"slipstream/smtpwire"
)

// An offer is composed once and yet never out of date.
func TestOfferFollowsTheHop(t *testing.T) {
	cfg := DefaultConfig()
	anyone := netip.MustParseAddr(clientHost)
	d := &door{static: true, inbound: true, hostname: "mx.example", limits: &cfg.Limits, tls: &tls.Config{}, facts: &facts{}}
	hop := func(keywords ...string) {
		e := smtpwire.NewEHLO("backend.example")
		for _, k := range keywords {
			e = e.With(smtpwire.Param{Name: k})
		}
		d.learn(e)
	}
	for _, step := range []struct {
		hop      []string // nil: nothing is known yet
		dsn, eai bool
	}{
		{nil, false, false},
		{[]string{"DSN"}, true, false},
		{[]string{"DSN"}, true, false},
		{[]string{"8BITMIME", "SMTPUTF8"}, false, true},
		{[]string{}, false, false},
	} {
		if step.hop != nil {
			hop(step.hop...)
		}
		for _, secured := range []bool{false, true, false} {
			e := d.offer(anyone, secured).ours
			if e.Has("DSN") != step.dsn || e.Has("SMTPUTF8") != step.eai || e.Has("STARTTLS") == secured {
				t.Errorf("hop with %v, secured %v: offered %v", step.hop, secured, e.Reply())
			}
		}
	}
	if n := testing.AllocsPerRun(10, func() { d.offer(anyone, true) }); n != 0 {
		t.Errorf("an offer that is known costs %v allocations", n)
	}
}
