package tlsstore

import (
	"crypto/tls"
	"crypto/x509"
	"net/netip"
	"testing"
	"time"
)

// The life of tickets between our client and our server, step by step in the order of Exim's own tests of resumption.
func TestTicketLife(t *testing.T) {
	steps := []struct {
		name string
		run  func(r *rowsRig)
	}{
		{"get a ticket", lifeFirst},
		{"resume, with two hosts", lifeTwoHosts},
		{"renewal behind half of its life", lifeRenewal},
		{"after the renewal", lifeRenewed},
		{"timeout", lifeTimeout},
		{"timeout in the client", lifeTimeoutInClient},
		{"host not requested", lifeNotRequested},
		{"no verification: get a ticket, resume", lifeUnverified},
		{"another node: not used", lifeOtherNode},
		{"TLS on connect", lifeOnConnect},
	}
	eachTLS(t, func(t *testing.T, version uint16) {
		r := newRowsRig(t, version)
		for _, step := range steps {
			if !t.Run(step.name, func(t *testing.T) { r.t = t; step.run(r) }) {
				t.Fatal("the steps that follow depend on this one")
			}
		}
		r.t = t
	})
}

func lifeFirst(r *rowsRig) {
	r.wantBits(r.must(rowsScope, false), 0x0B, "client requested new ticket, server provided")
}

func lifeTwoHosts(r *rowsRig) {
	r.wantBits(r.must(rowsScope, true), 0x1F, "session resumed, also new ticket")
	first, second := r.door.tickets, rowsScope
	second.Host, second.ServerName = "mx2.example.org", "mx2.example.org"
	second.Addr = netip.MustParseAddrPort("192.0.2.8:25")
	var err error
	if r.door.tickets, err = NewTickets(TicketOptions{Now: r.clock.now}); err != nil {
		r.t.Fatal(err)
	}
	r.wantBits(r.must(second, false), 0x0B, "client requested new ticket, server provided")
	r.wantBits(r.must(second, true), 0x1F, "session resumed, also new ticket")
	r.door.tickets = first
	r.wantBits(r.must(rowsScope, true), 0x1F, "session resumed, also new ticket")
}

// Behind half of a ticket's life the key that sealed it seals no more; the session is resumed all the same.
func lifeRenewal(r *rowsRig) {
	before := r.sealedBy(rowsScope)
	r.clock.pass(TicketLife/2 + time.Second)
	r.wantBits(r.must(rowsScope, true), 0x1F, "session resumed, also new ticket")
	if r.sealedBy(rowsScope) == before {
		r.t.Error("the new ticket was sealed with the old key")
	}
}

// The first ticket would be over by now.
func lifeRenewed(r *rowsRig) {
	r.clock.pass(TicketLife - time.Second)
	r.wantBits(r.must(rowsScope, true), 0x1F, "session resumed, also new ticket")
}

func lifeTimeout(r *rowsRig) {
	r.clock.pass(TicketLife)
	r.wantBits(r.must(rowsScope, false), 0x0F, "client offered session, server only provided new ticket")
	if s := r.door.tickets.Stats(); s.Expired != 1 || s.Foreign+s.Damaged+s.Scope+s.Aged != 0 {
		r.t.Errorf("%+v", s)
	}
	r.wantBits(r.must(rowsScope, true), 0x1F, "session resumed, also new ticket")
}

func lifeTimeoutInClient(r *rowsRig) {
	r.clock.pass(r.life())
	v := r.must(rowsScope, false)
	r.wantBits(v, 0x0B, "client requested new ticket, server provided")
	if v.cache.Offered() || v.cache.Expired() == 0 {
		r.t.Errorf("offered: %v, %d expired", v.cache.Offered(), v.cache.Expired())
	}
}

func lifeNotRequested(r *rowsRig) {
	r.wantBits(r.must(rowsScope, false, noSessions), 0x01, "not requested or offered")
}

func lifeUnverified(r *rowsRig) {
	sc := rowsScope
	sc.Level = "may"
	lax := func(c *tls.Config) { c.RootCAs, c.InsecureSkipVerify = x509.NewCertPool(), true }
	for _, resumed := range []bool{false, true, true} {
		v := r.must(sc, resumed, lax)
		if origin, known := v.cache.Verified(); origin || known != resumed {
			r.t.Errorf("resumed: %v; verified: %v, known: %v", resumed, origin, known)
		}
	}
	r.must(rowsScope, true) // the verified one has come to no harm
}

func lifeOtherNode(r *rowsRig) {
	sc := rowsScope
	sc.Node = "node-a.example.org"
	r.must(sc, false)
	r.wantBits(r.must(sc, true), 0x1F, "session resumed, also new ticket")
	sc.Node = "node-b.example.org"
	v := r.must(sc, false)
	r.wantBits(v, 0x0B, "client requested new ticket, server provided")
	if v.cache.Offered() {
		r.t.Error("the other node's session was offered")
	}
}

// Exim 4.96 and 4.97 do not resume here at all.
func lifeOnConnect(r *rowsRig) {
	r.door.startTLS = false
	sc := rowsScope
	sc.Addr, sc.Level = addrPortOf(sc, 465), "verify, implicit"
	r.wantBits(r.must(sc, false), 0x0B, "client requested new ticket, server provided")
	r.wantBits(r.must(sc, true), 0x1F, "session resumed, also new ticket")
}
