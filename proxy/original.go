package proxy

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"sync"
	"time"

	"go.uber.org/zap"

	"slipstream/proxy/route"
	"slipstream/smtpwire"
)

// An interceptor is what an outbound door has to which connections come that were
// meant for others (route = "original"): each session goes where its client meant
// to go, under the name of who is there, and nowhere else.
type interceptor struct {
	tproxy   bool     // the connection's own local address is where it was meant to go; else the kernel is asked
	networks Prefixes // where it may have been meant to go
	port     uint16   // and the port there
	allowed  func(netip.Addr) bool
	isOwn    func(netip.AddrPort) bool
	ours     func(netip.AddrPort) bool // is that the local end of a connection that we opened?

	resolver route.Resolver
	level    route.Level

	complaints complaints
	dials      dialling
}

func (p *Proxy) newInterceptor(conf *OutboundConfig, level route.Level) *interceptor {
	ic := &interceptor{
		tproxy: conf.tproxied(), networks: conf.InterceptNetworks, port: uint16(conf.MXPort),
		allowed: route.Remote, isOwn: p.isOwn, ours: p.wires.dialledFrom,
		resolver: p.dns, level: level,
	}
	if conf.AllowPrivateDestinations {
		ic.allowed = func(netip.Addr) bool { return true }
	}
	return ic
}

// lets tells whether a client may come in though its address is not in allow: a
// redirected connection of this machine has the address that it would have gone
// out by.
func (ic *interceptor) lets(client netip.Addr) bool {
	return ic != nil && !ic.tproxy && isLocal(client)
}

// A misdirection is a connection that should not have come here.
type misdirection struct {
	cause    string // one of few, to be logged now and then
	enhanced string
	text     string
	err      error
}

// The refusals of an interceptor are temporary: it is the rules that need mending, and mail should wait for that.
// https://www.rfc-editor.org/rfc/rfc3463#section-3.4 and #section-3.5
const (
	codeMisconfigured = "4.3.5"
	codeLoop          = "4.4.6"
	codeNotThere      = "4.7.0"
)

// admit finds out where a session's client meant to go, and readies the session
// for that: the route, and the name that we have for this client.
func (ic *interceptor) admit(s *session) (smtpwire.Reply, bool) {
	to, wrong := ic.destination(s)
	if wrong == nil {
		ic.dials.settle(to)
		wrong = ic.judge(s, to)
	}
	if wrong != nil {
		return ic.refuse(s, to, wrong), false
	}
	s.client.local = to
	s.router = &route.Original{Resolver: ic.resolver, Addr: to, Level: ic.level, Why: "configured"}
	// An MTA that hears its own name from a mail host takes that for a loop, and we have the same as the MTA.
	s.name = route.Literal(to.Addr())
	s.log = s.log.WithLazy(zap.Stringer("original", to))
	s.wire.opening = true
	return smtpwire.Reply{}, true
}

// destination asks where a connection was meant to go.
func (ic *interceptor) destination(s *session) (netip.AddrPort, *misdirection) {
	here := s.client.local
	if ic.tproxy {
		if ic.isOwn(here) {
			return here, notIntercepted(nil)
		}
		return here, nil
	}
	to, err := originalDestination(s.wire)
	switch {
	case errors.Is(err, errNotTracked) || err == nil && to == here:
		return here, notIntercepted(err)
	case err != nil:
		return here, &misdirection{
			cause: "no answer", enhanced: codeMisconfigured, err: err,
			text: "the kernel does not tell where this connection was meant to go",
		}
	}
	return to, nil
}

func notIntercepted(err error) *misdirection {
	return &misdirection{
		cause: "not intercepted", enhanced: codeMisconfigured, err: err,
		text: `this port is for connections that rules bring here (see "slipstream intercept"); ` +
			`nobody may connect to it by itself`,
	}
}

// judge tells what is wrong with a destination.
func (ic *interceptor) judge(s *session, to netip.AddrPort) *misdirection {
	literal := route.Literal(to.Addr())
	switch {
	case ic.ours(s.client.addr):
		return ownConnection()
	case ic.isOwn(to):
		return &misdirection{
			cause: "own door", enhanced: codeLoop,
			text: fmt.Sprintf("%s:%d is a door of Slipstream: mail for there would go in circles", literal, to.Port()),
		}
	case to.Port() != ic.port:
		return &misdirection{
			cause: "port", enhanced: codeNotThere,
			text: fmt.Sprintf("port %d of %s is not served here, only %d (mx_port)", to.Port(), literal, ic.port),
		}
	case !ic.networks.Contains(to.Addr()):
		return &misdirection{
			cause: "network", enhanced: codeNotThere,
			text: fmt.Sprintf("%s is outside intercept_networks: no rule should have brought this connection here", literal),
		}
	case !ic.allowed(to.Addr()):
		return &misdirection{
			cause: "private", enhanced: codeNotThere,
			text: fmt.Sprintf("mail may not go to %s (allow_private_destinations)", literal),
		}
	}
	return nil
}

// ownConnection is what we say to ourselves. It ends where the connection was
// opened, as what the hop said.
func ownConnection() *misdirection {
	return &misdirection{
		cause: "own connection", enhanced: codeLoop,
		text: `a connection of Slipstream's own came back to it: its user is not left out by the rules; ` +
			`run "slipstream intercept apply --user NAME" with the user that it runs as`,
	}
}

// refuse makes the reply, and has it logged, but not for every connection.
func (ic *interceptor) refuse(s *session, to netip.AddrPort, wrong *misdirection) smtpwire.Reply {
	s.told = true
	if ic.complaints.due(wrong.cause, time.Now()) {
		s.log.Warn("refused a connection that should not have come here; others like it in the next minute are not logged",
			zap.String("why", wrong.text), zap.Stringer("original", to), zap.Error(wrong.err))
	}
	return smtpwire.NewReply(421, wrong.enhanced, replyText(s.door.hostname+" "+wrong.text))
}

// comesBack tells whether a session is with ourselves. At the greeting our own
// end may not have known yet that it is connected.
func (s *session) comesBack() (smtpwire.Reply, bool) {
	ic := s.door.intercepts
	if ic == nil {
		return s.door.looped(s)
	}
	if !ic.ours(s.client.addr) {
		return smtpwire.Reply{}, false
	}
	return ic.refuse(s, s.client.local, ownConnection()), true
}

// hostname is the name that the client knows us by.
func (s *session) hostname() string {
	if s.name != "" {
		return s.name
	}
	return s.door.hostname
}

// named puts that name into an answer to EHLO.
func (s *session) named(e smtpwire.EHLO) smtpwire.EHLO {
	if s.name == "" {
		return e
	}
	return smtpwire.NewEHLO(s.name, e.Keywords()...)
}

// router is where a transaction's recipients are asked about.
func (t *transaction) router() route.Router {
	if t.s.router != nil {
		return t.s.router
	}
	return t.s.door.router
}

// handedOn makes 421 of a refusal for a hop that could not be used. A client that
// chose the hop itself has others, which it tries when this connection is over.
func (d *door) handedOn(r smtpwire.Reply, err error) smtpwire.Reply {
	if d.intercepts == nil || r.Code != 451 {
		return r
	}
	var refused *refusalError
	var doubt *doubtError
	var routed *route.Error
	if errors.As(err, &refused) || errors.As(err, &doubt) || errors.As(err, &routed) || errors.Is(err, errBroke) {
		return r
	}
	r.Code = 421
	return r
}

// reached tells whether recipients may be answered before their hop is asked. The
// client of an interceptor is to hear of a hop that cannot be reached while it can
// still turn to another, so the connection is waited for, which costs no trip: it
// has to be made before anything else in any case.
func (t *transaction) reached(ctx context.Context, b *batch, asked []int) bool {
	if t.s.door.intercepts == nil {
		return true
	}
	for _, i := range asked {
		to := b.cmds[i].Path
		t.goAhead(ctx, to)
		if !t.led(asciiLower(to.Domain)) {
			return false
		}
	}
	return true
}

// led waits for the connection that is being made for a domain.
func (t *transaction) led(domain string) bool {
	for _, ld := range t.leads {
		if ld.domain == domain {
			<-ld.done
			return ld.supply != nil && ld.supply.fetched != nil && ld.supply.fetched.peer != nil
		}
	}
	return false
}

// complaintPause is how long one cause of refusals is silent in the log.
const complaintPause = time.Minute

// complaints keep a mistake in the rules, which every connection meets, from
// filling the log. The zero value is ready.
type complaints struct {
	mu   sync.Mutex
	last map[string]time.Time // by cause, of which there are few
}

// due tells whether a cause is to be logged now.
func (c *complaints) due(cause string, now time.Time) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	if last, ok := c.last[cause]; ok && now.Sub(last) < complaintPause {
		return false
	}
	if c.last == nil {
		c.last = make(map[string]time.Time)
	}
	c.last[cause] = now
	return true
}

// errSpokeTLS: the client began with a TLS record
// (https://www.rfc-editor.org/rfc/rfc8446#section-5.1).
var errSpokeTLS = errors.New("the client began with TLS, and this door speaks it behind STARTTLS only, if at all: " +
	"have the MTA send in clear to port 25")

// recordHandshake is the first octet of a TLS connection, and of no command.
const recordHandshake = 0x16
