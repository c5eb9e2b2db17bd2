package proxy

import (
	"crypto/sha256"
	"crypto/tls"
	"encoding/hex"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"time"

	"slipstream/proxy/route"
	"slipstream/tlsstore"
)

// What TLS resumption did for one connection, in the bits that Exim shows of it.
const (
	resumeSupported = 1 << iota // there is a store, or tickets are made
	resumeRequested             // the client of the handshake asked for a ticket
	resumeOffered               // it offered a session
	resumeIssued                // the server gave it a ticket
	resumeDone                  // the session was resumed

	resumeBroke // the hop broke on it: not one of Exim's bits, and counted only
)

// The two sides of a door, as labels.
const (
	legClient = "client"
	legHop    = "hop"
)

// resumptionWords name the bits that are counted.
func resumptionWords() []struct {
	bit  int
	word string
} {
	return []struct {
		bit  int
		word string
	}{
		{resumeRequested, "requested"}, {resumeOffered, "offered"}, {resumeIssued, "issued"}, {resumeDone, "resumed"},
		{resumeBroke, "broke"},
	}
}

// describeResumption writes the bits as the log has them: "0x1f"; "" without TLS.
func describeResumption(bits int) string {
	if bits == 0 {
		return ""
	}
	return fmt.Sprintf("%#02x", bits)
}

// A memory is what a caller may use of what was learned about hops.
type memory struct {
	store    *tlsstore.Store // nil: nothing is kept
	trust    [32]byte        // the authorities to believe, so that a session does not outlive them
	balanced []string        // names behind which several machines keep sessions of their own
}

// sessions is where a connection's TLS sessions come from and go to; nil where
// none are kept. What was made in one scope is of no use in another (P3).
func (c *caller) sessions(p *peer, try call) *tlsstore.SessionCache {
	if c.memory.store == nil || !try.addr.IsValid() || c.memory.store.Quirk(try.addr, tlsstore.QuirkNoTickets) {
		return nil
	}
	scope := tlsstore.Scope{
		Host: try.host, Addr: try.addr, ServerName: try.policy.ServerName, Level: scopeLevel(try.policy),
		Trust: c.memory.trust, Source: c.source(try.addr.Addr()),
	}
	if tlsstore.MatchHello(c.memory.balanced, try.host) {
		scope.Node = p.pipe.EHLO().Host()
	}
	sessions := c.memory.store.Sessions(scope)
	if try.fresh {
		sessions.Withhold()
	}
	return sessions
}

// scopeLevel keeps TLS on connect and STARTTLS apart, since they are two services.
func scopeLevel(policy route.Policy) string {
	if policy.Implicit {
		return policy.Level.String() + ", implicit"
	}
	return policy.Level.String()
}

// learned notes how a handshake went with the sessions that there were. A
// resumed connection is only as verified as the one it goes back to.
func (p *peer) learned(state tls.ConnectionState) {
	if p.sessions == nil {
		return
	}
	if state.DidResume {
		origin, known := p.sessions.Verified()
		p.verified = p.verified && known && origin
	}
	p.sessions.SetResumed(state.DidResume)
	p.sessions.SetVerified(p.verified)
}

// offeredSession tells whether the handshake was tried with a session of before.
func (p *peer) offeredSession() bool { return p.sessions != nil && p.sessions.Offered() }

// onTrial tells whether such a session may be what the hop breaks on. With TLS
// 1.3 a hop may do so behind the handshake, when ours is over.
func (p *peer) onTrial() bool { return p.offeredSession() && !p.heard }

// beginTrial leaves time for a second connection, should a session be offered
// and the hop fall silent.
func (p *peer) beginTrial() {
	if p.sessions == nil || p.end.IsZero() {
		return
	}
	p.trialEnd = p.end
	p.end = time.Now().Add(time.Until(p.end) / 2)
}

// heardFrom ends the trial.
func (p *peer) heardFrom() {
	p.heard = true
	if !p.trialEnd.IsZero() {
		p.end, p.trialEnd = p.trialEnd, time.Time{}
	}
}

// saidSomething tells whether a hop answered, though not as it should. 421 says
// that it is about to hang up, for whatever reason.
func saidSomething(err error) bool {
	var said *peerError
	return errors.As(err, &said) && said.said.Code != 0 && said.said.Code != 421
}

// quirkBroke marks a hop that broke on a session once.
const quirkBroke tlsstore.Quirk = "broke-on-session"

// How long a hop is remembered that broke on a session once, and one that did so
// again meanwhile.
const (
	brokeFor    = 24 * time.Hour
	distrustFor = 7 * 24 * time.Hour
)

// distrust notes that a hop broke on a session.
func (c *caller) distrust(addr netip.AddrPort) {
	if c.resumed != nil {
		c.resumed(resumeBroke)
	}
	if c.memory.store.Quirk(addr, quirkBroke) {
		c.memory.store.SetQuirk(addr, tlsstore.QuirkNoTickets, distrustFor)
		return
	}
	c.memory.store.SetQuirk(addr, quirkBroke, brokeFor)
}

// resumption is what came of it.
func (p *peer) resumption() int {
	if p.tls == nil {
		return 0
	}
	bits := 0
	if p.sessions != nil {
		bits |= resumeSupported | resumeRequested
		if p.sessions.Offered() {
			bits |= resumeOffered
		}
		if p.sessions.Stored() > 0 {
			bits |= resumeIssued
		}
	}
	if p.tls.DidResume {
		bits |= resumeDone
	}
	return bits
}

// A ticketOffice gives clients tickets, with which they resume their sessions.
type ticketOffice struct {
	tickets *tlsstore.Tickets // nil: none are made
	shy     *tlsstore.Shy     // nil: nobody is spared
	hold    bool
	learn   bool
}

// admission is one client's handshake, and what became of its tickets.
type admission struct {
	office *ticketOffice
	use    *tlsstore.TicketUse // nil: no ticket is made
	held   *tlsstore.HeldConn  // nil: it is not held back
	addr   netip.Addr
	helo   string
}

// handshake prepares the one with a client. The configuration is for this one
// connection.
func (d *door) handshake(wire net.Conn, addr netip.Addr, helo string) (net.Conn, *tls.Config, *admission) {
	a := &admission{office: d.office, addr: addr, helo: helo}
	if d.office == nil || d.office.tickets == nil || d.office.spares(addr, helo) {
		return wire, d.tls, a
	}
	conf := d.tls.Clone()
	conn := wire
	if d.office.hold {
		a.held = tlsstore.HoldTicket(wire)
		conn = a.held
	}
	a.use = d.office.tickets.Configure(conf, d.ticketScope(), a.held)
	return conn, conf, a
}

func (o *ticketOffice) spares(addr netip.Addr, helo string) bool {
	return o.shy != nil && o.shy.Withhold(addr, helo)
}

// ticketScope keeps a ticket to the door and the certificate it was made under.
func (d *door) ticketScope() string {
	leaf := sha256.Sum256(d.certs.pair.Load().Certificate[0])
	return d.name + " " + hex.EncodeToString(leaf[:8])
}

// secured is called once the handshake was good: the ticket may go.
func (a *admission) secured() error {
	if a.held == nil {
		return nil
	}
	return a.held.Release()
}

// over is called when the client is gone. One that left without a word right
// behind a ticket may not bear them.
func (a *admission) over(polite bool) {
	if a == nil || a.office == nil || a.office.shy == nil || !a.office.learn || a.use == nil || !a.use.Issued() {
		return
	}
	if a.held != nil && a.held.Left() && !polite {
		a.office.shy.Left(a.addr, a.helo)
		return
	}
	a.office.shy.Stayed(a.addr, a.helo)
}

// resumption is what came of tickets on the client's connection.
func (c *client) resumption() int {
	if c.tls == nil || c.admission == nil || c.admission.use == nil {
		return 0
	}
	return c.admission.use.Bits(c.tls.DidResume)
}
