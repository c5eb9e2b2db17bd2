package proxy

import (
	"context"
	"crypto/sha256"
	"crypto/tls"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"strings"
	"syscall"
	"time"

	"go.uber.org/zap"

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
	resume   bool            // TLS sessions are kept and offered
	trust    [32]byte        // the authorities to believe, so that a session does not outlive them
	balanced []string        // names behind which several machines keep sessions of their own
	log      *zap.Logger     // hears what is learned for days
}

// sessions is where a connection's TLS sessions come from and go to; nil where
// none are kept. What was made in one scope is of no use in another (P3).
func (c *caller) sessions(p *peer, try call) *tlsstore.SessionCache {
	if c.memory.store == nil || !c.memory.resume || !try.addr.IsValid() || try.bare ||
		c.memory.store.Quirk(try.addr, tlsstore.QuirkNoTickets) {
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

// refusedTicket begins the error with which crypto/tls ends a connection when a
// ticket came that it will not keep: an empty one, or one for more than seven
// days. It looks at none unless sessions are kept, so that such a hop is fine
// without, and would never be reached with.
// https://www.rfc-editor.org/rfc/rfc8446#section-4.6.1
const refusedTicket = "tls: received a session ticket with "

// A ticketReader reads inside TLS and sees to it that a hop whose tickets are
// refused is trusted with none from now on, however late it sends one.
type ticketReader struct {
	*tls.Conn
	p *peer
}

// Read implements [io.Reader].
func (r ticketReader) Read(b []byte) (int, error) {
	n, err := r.Conn.Read(b)
	if p := r.p; err != nil && p.ticket == nil && p.sessions != nil && strings.HasPrefix(err.Error(), refusedTicket) {
		p.ticket = err // later reads and writes fail otherwise
		p.onTicket(err)
	}
	return n, err
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

// beginTrial is called when a session is about to be offered. It leaves time for
// a second connection, should the hop fall silent.
func (p *peer) beginTrial() {
	p.halveTime()
	p.wait(duringHandshake, p.times.TLSHandshake)
}

// halveTime leaves a stage half of its time, once.
func (p *peer) halveTime() {
	if p.trialEnd.IsZero() && !p.end.IsZero() {
		p.trialEnd = p.end
		p.end = time.Now().Add(time.Until(p.end) / 2)
	}
}

// heardFrom ends the trial: inside TLS the hop has said something, whatever it
// was, so the session did no harm.
func (p *peer) heardFrom() {
	p.heard = true
	p.wholeTime()
}

// wholeTime gives the stage all of its time again.
func (p *peer) wholeTime() {
	if !p.trialEnd.IsZero() {
		p.end, p.trialEnd = p.trialEnd, time.Time{}
	}
}

// trialFailed describes a connection that broke on trial, or on a ticket. What it
// has brought is not trusted either.
func (p *peer) trialFailed(err error) *sessionFailure {
	p.sessions.Discard()
	if p.ticket != nil {
		return &sessionFailure{hop: p.label, err: p.ticket, ticket: true, trips: p.wire.trips}
	}
	late := !p.trialEnd.IsZero() && !time.Now().Before(p.end)
	return &sessionFailure{hop: p.label, err: err, late: late, trips: p.wire.trips}
}

// A sessionFailure is a connection that broke while a TLS session of before was
// on trial: before the hop had said anything inside TLS. Or it broke on a ticket
// for the next time.
type sessionFailure struct {
	hop    string
	err    error
	late   bool // it was the trial's own end that broke it
	ticket bool
	trips  int // that it cost
}

func (e *sessionFailure) Error() string {
	if e.ticket {
		return e.hop + ", by a ticket for the next TLS session: " + e.err.Error()
	}
	return e.hop + ", with a TLS session of before: " + e.err.Error()
}

// without tries again where a TLS session of before may have been what a hop
// broke on. Only if that goes well was it the session; or if there was too little
// time, of which the trial took half: next time there is no trial.
func (c *caller) without(ctx context.Context, try call, broke *sessionFailure) (*peer, error) {
	if c.resumed != nil {
		c.resumed(resumeBroke)
	}
	if broke.late {
		c.distrust(try, broke, true)
	}
	try.fresh, try.bare, try.lockStep = true, broke.ticket, true
	conn, err := c.anew(ctx, try)
	var p *peer
	if err == nil {
		p, err = c.ready(ctx, conn, try)
	}
	var again *sessionFailure // by a ticket of the new connection's
	if errors.As(err, &again) && !try.bare && ctx.Err() == nil {
		again.trips += broke.trips
		return c.without(ctx, try, again)
	}
	switch {
	case err != nil:
		if outOfTime(ctx) {
			c.distrust(try, broke, true)
		}
		return nil, fmt.Errorf("%w (before that: %v)", err, broke)
	case p.tls == nil: // but for the session it would not have gone in clear (P3)
		p.quit()
		c.distrust(try, broke, true)
		return nil, &policyError{hop: try.label, why: "STARTTLS was offered, and after a failure no more", err: broke}
	}
	c.distrust(try, broke, false)
	p.wire.trips += broke.trips // which were waited for, too
	p.repaired = fmt.Errorf("%w; it was done without", broke)
	return p, nil
}

// outOfTime tells whether a stage has had all the time there is.
func outOfTime(ctx context.Context) bool {
	end, ok := ctx.Deadline()
	return ok && !time.Now().Before(end)
}

// quirkBroke marks a hop that broke on a session once.
const quirkBroke tlsstore.Quirk = "broke-on-session"

// How long a hop is remembered that broke on a session once, and how long one
// that did so again meanwhile is offered none. When that is over and it does so
// once more, it is not given a second chance.
const (
	brokeFor    = 24 * time.Hour
	distrustFor = 7 * 24 * time.Hour
)

// distrust notes that a hop broke on a session: the second time in a day, or at
// once, it is offered none for a while.
func (c *caller) distrust(try call, broke *sessionFailure, atOnce bool) {
	store := c.memory.store
	if !atOnce && !store.Quirk(try.addr, quirkBroke) {
		store.SetQuirk(try.addr, quirkBroke, brokeFor)
		return
	}
	known := store.Quirk(try.addr, tlsstore.QuirkNoTickets)
	store.SetQuirk(try.addr, quirkBroke, distrustFor+brokeFor)
	store.SetQuirk(try.addr, tlsstore.QuirkNoTickets, distrustFor)
	if !known && c.memory.log != nil {
		c.memory.log.Info("hop breaks on TLS sessions: offered none", zap.String("hop", try.label),
			zap.Time("until", time.Now().Add(distrustFor)), zap.Error(broke.err))
	}
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
	failed error // what ended the handshake
	spoke  bool  // a command came inside TLS
	log    *zap.Logger
}

// handshake prepares the one with a client. The configuration is for this one
// connection.
func (d *door) handshake(wire net.Conn, addr netip.Addr, helo string) (net.Conn, *tls.Config, *admission) {
	a := &admission{office: d.office, addr: addr, helo: helo, log: d.log}
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

// secured is called with what came of the handshake: if it was good, the ticket
// may go.
func (a *admission) secured(err error) error {
	a.failed = err
	if err != nil || a.held == nil {
		return err
	}
	return a.held.Release()
}

// heard is called when a command was read.
func (a *admission) heard() {
	if a != nil {
		a.spoke = true
	}
}

// over is called when the client is gone. One that left without a word right
// behind a ticket may not bear them, nor one that ended the handshake there. One
// that went on does; of all others there is nothing to learn.
func (a *admission) over(polite bool) {
	if a == nil || a.office == nil || a.office.shy == nil || !a.office.learn || a.use == nil || !a.use.Issued() {
		return
	}
	shy := a.office.shy
	switch {
	case a.failed != nil && !blamesTicket(a.failed):
	case a.failed != nil, a.held != nil && a.held.Left() && !polite:
		if !shy.Left(a.addr, a.helo) || a.log == nil {
			return
		}
		for _, w := range shy.Withheld(a.addr, a.helo) {
			a.log.Info("clients break on tickets: given none", zap.String("who", w.Name),
				zap.Time("until", w.Until))
		}
	case a.spoke:
		shy.Stayed(a.addr, a.helo)
	}
}

// blamesTicket tells whether a handshake that failed once a ticket was made may
// have failed of it: the client hung up, sent an alert or fell silent in the
// place of its second flight. An alert that is about our certificate is not
// among that, and an end that we made is none.
func blamesTicket(err error) bool {
	var wait *waitError
	if errors.Is(err, io.EOF) || errors.Is(err, syscall.ECONNRESET) || errors.As(err, &wait) {
		return true
	}
	var alert *net.OpError
	if !errors.As(err, &alert) || alert.Op != "remote error" {
		return false
	}
	// crypto/tls tells alerts by their text only.
	// https://www.rfc-editor.org/rfc/rfc8446#section-6.2
	text := alert.Err.Error()
	return !strings.Contains(text, "certificate")
}

// resumption is what came of tickets on the client's connection.
func (c *client) resumption() int {
	if c.tls == nil || c.admission == nil || c.admission.use == nil {
		return 0
	}
	return c.admission.use.Bits(c.tls.DidResume)
}
