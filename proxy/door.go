package proxy

import (
	"context"
	"crypto/tls"
	"fmt"
	"net/netip"
	"sync"
	"sync/atomic"
	"time"

	"go.uber.org/zap"

	"slipstream/proxy/once"
	"slipstream/proxy/route"
	"slipstream/smtpwire"
)

// The words of client_address.
const (
	announceNone    = "none"
	announceXclient = "xclient"
	announceProxyV1 = "proxy-v1"
	announceProxyV2 = "proxy-v2"
	announceForward = "xforward"
	announceSpoof   = "spoof"
)

// A door is one way in, as one version of the configuration describes it. It
// does not change: a reload makes new doors, and sessions keep the one that they
// came in by.
type door struct {
	name         string
	inbound      bool
	lmtp         bool // the client speaks LMTP
	static       bool // there is one next hop, and it is known before the client comes
	hostname     string
	addReceived  bool
	allow        Prefixes // empty: everyone
	proxied      Prefixes // clients from there begin with a PROXY header
	tls          *tls.Config
	certs        *certificate // nil without TLS
	office       *ticketOffice
	promised     smtpwire.EHLO
	router       route.Router
	intercepts   *interceptor // nil: clients connect to the door itself
	caller       *caller
	limits       *LimitsConfig
	times        *TimeoutsConfig
	attribution  attribution
	tap          *tap
	relays       passage
	auth         *judge  // nil: nobody asks who mail is from
	guard        *guard  // nil: the backend need not be asked
	hopLMTP      bool    // the next hop speaks LMTP
	connectAhead bool    // connections are made before they are asked for
	lateVerdict  bool    // recipients may be answered before their hop is asked
	split        string  // how recipients at several destinations are treated
	controlShare float64 // of transactions that go without what makes others fast

	// Shared by all doors.
	log     *zap.Logger
	metrics *Metrics
	spools  *spools
	gate    *gate
	wires   *wireSet
	dns     Resolver
	flights *once.Flights // copies under way; nil at inbound doors
	once    *once.Memory  // nil: nothing is remembered of recipients
	done    func(Summary) // nil, or hears of every transaction

	pace   Pace        // of the final replies to LMTP clients
	health *healthRule // nil: whoever cannot be reached is tried with every message

	clerk atomic.Pointer[clerk] // nil: nothing is filed
	facts *facts

	transparent bool // connections to other addresses are brought here
	forwarding  forwarding

	early  Prefixes                 // clients that are told that they may talk early
	offers [4]atomic.Pointer[offer] // the answers to EHLO, as they were last given
}

// facts are what the one next hop of a door offered last. They outlive a reload
// that does not change the hop.
type facts struct {
	ehlo atomic.Pointer[smtpwire.EHLO]
}

// learn keeps what the next hop offers now, for the EHLO replies of the next
// sessions.
func (d *door) learn(e smtpwire.EHLO) {
	if d.static {
		d.facts.ehlo.Store(&e)
	}
}

// next is what is known about the next hop: the real thing where there is one
// hop, else what the configuration promises.
func (d *door) next() smtpwire.EHLO {
	if !d.static {
		return d.promised
	}
	if e := d.facts.ehlo.Load(); e != nil {
		return *e
	}
	return smtpwire.EHLO{}
}

// headerGrowth is how many octets the Received field may have. The SIZE that we
// offer leaves room for it.
const headerGrowth = 1024

// growth is how many octets we may put above a message.
func (d *door) growth() int64 {
	var n int64
	if d.addReceived {
		n = headerGrowth
	}
	if d.auth != nil {
		n += d.auth.growth
	}
	return n
}

// An offer is an answer to EHLO, good for as long as the next hop offers the same.
type offer struct {
	next, ours smtpwire.EHLO
	fansOut    bool // one transaction may go everywhere

	// ever is what a client may use that speaks by what it once heard: ours, and
	// all that a next hop may ever have offered. What this one lacks is found out
	// when it is asked, and left out or put off: where the answer would be final,
	// a client that could not know better would give its message up for it.
	ever smtpwire.EHLO
}

// offer is the answer to EHLO. It is composed once for all clients that are told
// the same.
func (d *door) offer(client netip.Addr, secured bool) *offer {
	early := d.early.Contains(client)
	last := &d.offers[0]
	switch {
	case early && secured:
		last = &d.offers[3]
	case early:
		last = &d.offers[2]
	case secured:
		last = &d.offers[1]
	}
	next, fansOut := d.next(), d.fansOut(1)
	o := last.Load()
	if o == nil || !o.next.Equal(next) || o.fansOut != fansOut {
		o = &offer{next: next, fansOut: fansOut, ours: d.compose(next, secured, early, fansOut)}
		o.ever = o.ours
		if d.inbound {
			o.ever = d.compose(d.relays.with(everything(), next), secured, early, fansOut)
		}
		last.Store(o)
	}
	return o
}

// everything is the offer of a hop that knows all that belongs to messages.
func everything() smtpwire.EHLO {
	all := smtpwire.NewEHLO("")
	for _, x := range smtpwire.Extensions() {
		if x.Scope == smtpwire.EndToEnd {
			all = all.With(smtpwire.Param{Name: x.Keyword})
		}
	}
	return all
}

// compose makes the answer to EHLO from what we can do and what the next hop can.
func (d *door) compose(next smtpwire.EHLO, secured, early, fansOut bool) smtpwire.EHLO {
	own := smtpwire.NewEHLO(d.hostname, smtpwire.Param{Name: "PIPELINING"})
	if early {
		own = own.With(smtpwire.Param{Name: "PIPECONNECT"})
	}
	own = own.With(smtpwire.Param{Name: "SIZE", Value: fmt.Sprint(int64(d.limits.MaxMessageSize))}).
		With(smtpwire.Param{Name: "ENHANCEDSTATUSCODES"})
	if d.chunking() {
		own = own.With(smtpwire.Param{Name: "CHUNKING"})
	}
	if d.prdr() {
		own = own.With(smtpwire.Param{Name: "PRDR"})
	}
	if d.tls != nil && !secured {
		own = own.With(smtpwire.Param{Name: "STARTTLS"})
	}
	own = d.relays.offers(own, next, secured)
	if limits := d.rcptLimits(fansOut); limits != "" {
		own = own.With(smtpwire.Param{Name: "LIMITS", Value: limits})
	}
	if size, ok := next.Size(); ok && size > d.growth() {
		next = next.With(smtpwire.Param{Name: "SIZE", Value: fmt.Sprint(size - d.growth())})
	}
	return smtpwire.Offer(own, next)
}

// chunking tells whether BDAT is offered. Not to LMTP clients: RFC 2033 §4.3
// wants silence behind a BDAT LAST that nobody is to receive. And where one
// transaction may not go everywhere, only if the configuration promises it:
// Exim 4.96 does not come back at once with the recipients that were told 452
// if it sends its text by BDAT.
func (d *door) chunking() bool {
	return !d.lmtp && (d.static || d.promised.Has("CHUNKING"))
}

// perClient is how many connections one client may have; 0: any number. The MTA
// at an outbound door is one client with all the mail there is, and is let in by
// name.
func (d *door) perClient() int {
	if !d.inbound {
		return 0
	}
	return d.limits.MaxConnectionsPerClient
}

// admit decides about a client before the first word. At an inbound door that is
// never final: a client may have been told, before it lost its place in allow,
// that it need not wait for the greeting, and then takes a 554 there for the
// answer to its message. Exim 4.96 returns it to its author at once, where it
// would else have tried the next host and come again. Nor is it final where
// connections are intercepted: the client meant to speak to somebody else, and it
// is the rules that need mending. Who comes in at another outbound door was never
// told that it need not wait.
func (d *door) admit(s *session) (smtpwire.Reply, bool) {
	if addr := s.client.addr.Addr(); len(d.allow) > 0 && !d.allow.Contains(addr) && !d.intercepts.lets(addr) {
		why := d.hostname + " does not serve " + addr.String()
		if d.inbound || d.intercepts != nil {
			return smtpwire.NewReply(421, "4.7.0", why), false
		}
		return smtpwire.NewReply(554, "5.7.1", why), false
	}
	if d.intercepts != nil {
		return d.intercepts.admit(s)
	}
	if refused, yes := d.looped(s); yes {
		return refused, false
	}
	if ok, why := d.guard.open(); !ok {
		s.log.Warn("door is shut", zap.String("why", why))
		return smtpwire.NewReply(421, "4.3.2", d.hostname+" is not ready, please try again later"), false
	}
	return smtpwire.Reply{}, true
}

// shuttingDown is the last word of a service that stops.
func (d *door) shuttingDown() smtpwire.Reply {
	return smtpwire.NewReply(421, "4.3.2", d.hostname+" is shutting down, please try again later")
}

// newSession readies the session of a client that was accepted.
func (d *door) newSession(ctx context.Context, w *wire, id string, from, to netip.AddrPort) *session {
	s := &session{
		door: d, id: id, times: d.times,
		log:    d.log.WithLazy(zap.String("S", id), zap.String("door", d.name), zap.Stringer("client", from)),
		wire:   w,
		rw:     w,
		r:      smtpwire.NewReader(w),
		client: client{addr: from, local: to},
		seq:    smtpwire.Sequence{LMTP: d.lmtp, MaxRcpts: d.limits.MaxRecipients},
		spoke:  time.Now(),
	}
	s.seq.AuthInTLS, s.seq.Relayed = d.relays.auth, d.relays.verbs
	if namesClients(d.caller.announce) {
		s.client.name = d.lookUpName(ctx, from.Addr())
	}
	return s
}

// nameWait bounds the look-up of a client's name. What is not known by then is
// "temporarily unavailable", as it would be for the backend.
const nameWait = 5 * time.Second

// lookUpName begins to look up a client's name while the client still greets;
// the function waits for the result.
func (d *door) lookUpName(ctx context.Context, addr netip.Addr) func() clientName {
	ctx, cancel := context.WithTimeout(ctx, nameWait)
	result := make(chan clientName, 1)
	go func() { // ends with the look-up, which the timeout ends
		defer cancel()
		result <- confirmedName(ctx, d.dns, addr)
	}()
	return sync.OnceValue(func() clientName { return <-result })
}
