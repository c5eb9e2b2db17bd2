package proxy

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"net/netip"
	"strings"
	"sync"
	"time"

	"go.uber.org/zap"

	"slipstream/proxy/route"
	"slipstream/smtpwire"
)

// A guard keeps an inbound door shut until its backend has shown that it does
// not relay for strangers. Most MTAs relay for 127.0.0.1; behind a proxy on the
// same machine everyone comes from there.
type guard struct {
	mu    sync.Mutex
	state guardState
	why   string
}

type guardState int

const (
	guardAsking guardState = iota // no answer yet: shut
	guardOpen
	guardRelays // it would relay: shut; a start fails, and later it is asked on
)

// open tells whether clients may come in, and if not, why. Without a guard they may.
func (g *guard) open() (bool, string) {
	if g == nil {
		return true, ""
	}
	g.mu.Lock()
	defer g.mu.Unlock()
	return g.state == guardOpen, g.why
}

// set does nothing without a guard.
func (g *guard) set(state guardState, why string) {
	if g == nil {
		return
	}
	g.mu.Lock()
	defer g.mu.Unlock()
	g.state, g.why = state, why
}

// A RelayError says that a backend would relay mail of strangers.
type RelayError struct {
	Door    string
	Backend string
	Banner  string // what the backend called itself
	Said    string // its answer to the foreign recipient
	To      string
	Config  *InboundConfig
}

func (e *RelayError) Error() string {
	return fmt.Sprintf("door %q stays shut: the backend %s accepted the foreign recipient %s (%q) and would be an open relay behind us. %s; "+
		"or, if the backend is meant to relay for us, set backend_trusts_us = true",
		e.Door, e.Backend, e.To, e.Said, relayRemedy(e.Banner, e.Config.ClientAddress))
}

// relayRemedy is the line to change, for the MTA that the banner names.
func relayRemedy(banner, announce string) string {
	banner = strings.ToLower(banner)
	switch {
	case announce == announceSpoof:
		return "It was connected to from an address that nobody has, and relays all the same: look for a rule there that " +
			"accepts every recipient, or for one on the way that puts our address into the place of the client's " +
			"(masquerade, SNAT)"
	case announce != announceNone && announce != announceForward:
		return "The backend was told the client's address and relays all the same: look for a rule that accepts every recipient"
	case strings.Contains(banner, "postfix"):
		return `In Postfix's master.cf give the listener "-o smtpd_authorized_xclient_hosts=127.0.0.1" and set client_address = "xclient" here`
	case strings.Contains(banner, "exim"):
		return `In Exim's configuration set "hosts_proxy = 127.0.0.1" and set client_address = "proxy-v2" here`
	case strings.Contains(banner, "opensmtpd"):
		return `In smtpd.conf write "listen on 127.0.0.1 port 10025 proxy-v2" and set client_address = "proxy-v2" here`
	case strings.Contains(banner, "sendmail"):
		return `Let sendmail listen on an address that has no RELAY line in the access map, ` +
			`and name that address as backend, or set client_address = "spoof" here ` +
			`("slipstream intercept print" shows the rules that it needs)`
	}
	return `Take our address out of the networks that the backend relays for`
}

// probeClient is the stranger that the probe pretends to be where the backend is
// told the client's address (RFC 5737: an address that nobody has).
func probeClient() netip.AddrPort { return netip.MustParseAddrPort("192.0.2.1:40025") }

// errNoVerdict: the backend put the foreign recipient off, as a greylist does. It
// did not take it, so the door opens; it is asked on until it says yes or no.
var errNoVerdict = errors.New("the backend gave no final answer")

// probeName is what that stranger is called.
const probeName = "relay-probe.example.net"

// probe asks a backend whether it would relay, and learns what it offers. It
// returns a *RelayError when it would. No message is sent.
func (d *door) probe(ctx context.Context, conf *InboundConfig) error {
	ctx, cancel := context.WithTimeoutCause(ctx, d.times.BackendProbe, &waitError{what: "the backend", limit: d.times.BackendProbe})
	defer cancel()
	r, err := d.router.Route(ctx, smtpwire.Path{}, smtpwire.Path{})
	if err != nil {
		return err
	}
	var why error
	for _, id := range d.strangers(r) {
		err := d.probeAs(ctx, conf, r, id)
		var relays *RelayError
		if errors.As(err, &relays) {
			return err
		}
		why = cmp.Or(why, err)
	}
	return why
}

// probeAs is probe for one stranger.
func (d *door) probeAs(ctx context.Context, conf *InboundConfig, r route.Route, id identity) error {
	for p, err := range d.caller.peers(ctx, r, id, inLockStep) {
		if err != nil {
			return err
		}
		defer p.quit()
		defer p.follow(ctx)()
		d.learn(p.pipe.EHLO())
		if p.fallback != nil {
			d.log.Warn("next hop's TLS is broken", zap.String("door", d.name), zap.Error(p.fallback))
		}
		if d.guard == nil {
			return nil
		}
		return d.askRelay(p, conf)
	}
	return &peerError{hop: r.Key, during: duringConnect, err: errors.New("there is no address to connect to")}
}

// askRelay offers the backend a recipient that is none of its own. Only the
// answer to that, behind a sender that was taken, says anything about relaying.
func (d *door) askRelay(p *peer, conf *InboundConfig) error {
	// "<>" is the one sender that hardly anybody verifies; who refuses it may
	// still take another.
	senders := []string{"<>", "<postmaster@" + d.hostname + ">"}
	for _, sender := range senders {
		p.open = true
		r, err := p.one(duringEnvelope, d.times.BackendProbe, smtpwire.ParseCommand([]byte("MAIL FROM:"+sender)))
		switch {
		case err != nil:
			return err
		case r.Class() == 2:
			return d.askForeign(p, conf)
		case r.Class() != 5 || sender == senders[len(senders)-1]:
			return &peerError{hop: p.label, during: "asking whether it relays", said: r}
		}
	}
	return nil // there are senders, and each of them returned
}

// askForeign says RCPT and judges the answer.
func (d *door) askForeign(p *peer, conf *InboundConfig) error {
	r, err := p.one(duringEnvelope, d.times.BackendProbe, smtpwire.ParseCommand([]byte("RCPT TO:<"+conf.RelayProbeTo+">")))
	switch {
	case err != nil:
		return err
	case relayDenied(r):
		return nil
	case aboutDomain(r):
		return fmt.Errorf("%s refused the foreign recipient %s for its domain (%s), which does not tell whether it relays: "+
			"set relay_probe_to to an address at a foreign domain that takes mail", p.label, conf.RelayProbeTo, r.String())
	case r.Class() == 5:
		return nil
	case r.Class() == 2:
		return &RelayError{Door: d.name, Backend: p.label, Banner: p.banner, Said: r.String(), To: conf.RelayProbeTo, Config: conf}
	}
	return fmt.Errorf("%w: RCPT TO:<%s>: %s", errNoVerdict, conf.RelayProbeTo, r.String())
}

// aboutDomain tells whether a refusal says that the recipient's domain takes no
// mail or does not exist (RFC 7505, RFC 3463 §3.2): a relay would say so too.
func aboutDomain(r smtpwire.Reply) bool {
	enhanced, _ := r.Enhanced()
	switch enhanced {
	case "5.1.2", "5.1.10", "5.4.4", "4.1.2", "4.4.4", "4.4.3":
		return true
	}
	return r.Code == 556
}

// relayDenied tells whether a refusal says in words that it is about relaying,
// whatever its codes: "550 5.1.2 Relay not allowed" (Stalwart), "454 4.7.1 Relay
// access denied" (a Postfix with "defer_unauth_destination"). Codes alone do not
// tell: greylists say 4.7.1 too.
func relayDenied(r smtpwire.Reply) bool {
	enhanced, _ := r.Enhanced()
	return (r.Class() == 5 || enhanced == "4.7.1") && strings.Contains(strings.ToLower(r.String()), "relay")
}

// Times between questions to a next hop that has given no final answer.
const (
	probeEvery    = time.Second
	probeEveryMax = 30 * time.Second
)

// watch asks on until the next hop is there and, where there is a guard, has
// refused to relay: also one that would relay, since it may be mended.
func (d *door) watch(ctx context.Context, conf *InboundConfig) {
	for pause := probeEvery; ; pause = min(2*pause, probeEveryMax) {
		select {
		case <-ctx.Done():
			return
		case <-time.After(pause):
		}
		err := d.probe(ctx, conf)
		if ctx.Err() != nil || d.judge(err) {
			return
		}
	}
}

// judge draws the consequence of a probe, and tells whether it settles the matter.
func (d *door) judge(err error) bool {
	log := d.log.With(zap.String("door", d.name))
	if err == nil {
		d.guard.set(guardOpen, "")
		d.relays.warn(log, d.next())
		log.Info("next hop is there", zap.String("offers", d.next().Reply().String()))
		return true
	}
	var relays *RelayError
	switch {
	case d.guard == nil:
		log.Warn("next hop does not answer yet; mail for it hears 451", zap.Error(err))
	case errors.As(err, &relays):
		d.guard.set(guardRelays, err.Error())
		log.Error("backend would be an open relay; clients hear 421", zap.Error(err))
	case errors.Is(err, errNoVerdict):
		d.guard.set(guardOpen, "")
		log.Warn("backend may be a relay; it is asked again", zap.Error(err))
	default:
		if open, _ := d.guard.open(); open { // a greylist's: that it is away now says nothing about relaying
			log.Warn("next hop does not answer yet; mail for it hears 451", zap.Error(err))
			break
		}
		d.guard.set(guardAsking, err.Error())
		log.Warn("backend cannot be asked yet; clients hear 421", zap.Error(err))
	}
	return false
}
