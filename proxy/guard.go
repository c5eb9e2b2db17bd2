package proxy

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"strings"
	"sync"
	"time"

	"go.uber.org/zap"

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
	guardRelays // it would relay: shut, and the service does not start
)

func (g *guard) open() (bool, string) {
	g.mu.Lock()
	defer g.mu.Unlock()
	return g.state == guardOpen, g.why
}

func (g *guard) set(state guardState, why string) {
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
	case announce != announceNone:
		return "The backend was told the client's address and relays all the same: look for a rule that accepts every recipient"
	case strings.Contains(banner, "postfix"):
		return `In Postfix's master.cf give the listener "-o smtpd_authorized_xclient_hosts=127.0.0.1" and set client_address = "xclient" here`
	case strings.Contains(banner, "exim"):
		return `In Exim's configuration set "hosts_proxy = 127.0.0.1" and set client_address = "proxy-v2" here`
	case strings.Contains(banner, "opensmtpd"):
		return `In smtpd.conf write "listen on 127.0.0.1 port 10025 proxy-v2" and set client_address = "proxy-v2" here`
	case strings.Contains(banner, "sendmail"):
		return `Let sendmail listen on an address that has no RELAY line in the access map, and name that address as backend`
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
	id := identity{client: probeClient(), helo: probeName, esmtp: true, name: clientName{name: probeName}}
	id.local = netip.AddrPortFrom(netip.MustParseAddr("192.0.2.2"), 25)
	for p, err := range d.caller.peers(ctx, r, id) {
		if err != nil {
			return err
		}
		defer p.quit()
		defer p.follow(ctx)()
		d.learn(p.pipe.EHLO())
		if d.guard == nil {
			return nil
		}
		return d.askRelay(p, conf)
	}
	return &peerError{hop: r.Key, during: duringConnect, err: errors.New("there is no address to connect to")}
}

// askRelay offers the backend a recipient that is none of its own.
func (d *door) askRelay(p *peer, conf *InboundConfig) error {
	to := smtpwire.ParseCommand([]byte("RCPT TO:<" + conf.RelayProbeTo + ">"))
	from := smtpwire.ParseCommand([]byte("MAIL FROM:<>")) // the one sender that nobody verifies
	var said []smtpwire.Reply
	err := p.do(duringEnvelope, d.times.BackendProbe, []smtpwire.Command{from, to},
		func(_ int, r smtpwire.Reply) { said = append(said, r) })
	p.open = true
	switch {
	case err != nil:
		return err
	case said[0].Class() == 5 || said[1].Class() == 5:
		return nil
	case said[1].Class() == 2:
		return &RelayError{Door: d.name, Backend: p.label, Banner: p.banner, Said: said[1].String(), To: conf.RelayProbeTo, Config: conf}
	case said[0].Class() != 2:
		return &peerError{hop: p.label, during: duringEnvelope, said: said[0]}
	}
	return fmt.Errorf("%w: RCPT TO:<%s>: %s", errNoVerdict, conf.RelayProbeTo, said[1].String())
}

// Times between questions to a backend that cannot be asked yet.
const (
	probeEvery    = time.Second
	probeEveryMax = 30 * time.Second
)

// watch asks until there is an answer, and opens the door when it is no.
func (d *door) watch(ctx context.Context, conf *InboundConfig) {
	pause := probeEvery
	for ctx.Err() == nil {
		err := d.probe(ctx, conf)
		if d.judge(err) {
			return
		}
		select {
		case <-ctx.Done():
		case <-time.After(pause):
		}
		pause = min(2*pause, probeEveryMax)
	}
}

// judge draws the consequence of a probe, and tells whether it settles the matter.
func (d *door) judge(err error) bool {
	var relays *RelayError
	switch {
	case err == nil:
		if d.guard != nil {
			d.guard.set(guardOpen, "")
		}
		d.log.Info("backend is there", zap.String("door", d.name), zap.String("offers", d.next().Reply().String()))
		return true
	case errors.As(err, &relays):
		d.guard.set(guardRelays, err.Error())
		d.log.Error("backend would be an open relay", zap.String("door", d.name), zap.Error(err))
		return true
	case errors.Is(err, errNoVerdict):
		d.guard.set(guardOpen, "")
		d.log.Warn("backend may be a relay; it is asked again", zap.String("door", d.name), zap.Error(err))
		return false
	}
	if d.guard != nil {
		d.guard.set(guardAsking, err.Error())
	}
	d.log.Warn("backend cannot be asked yet; the door stays shut", zap.String("door", d.name), zap.Error(err))
	return false
}
