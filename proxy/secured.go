package proxy

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"

	"slipstream/proxy/route"
	"slipstream/smtpwire"
	"slipstream/tlsstore"
)

// secured readies a connection. Where it breaks on a TLS session of before, that
// was our idea, and it is tried anew without one (P6). Where TLS fails and the
// policy is "may", it is tried in clear. Either way on a new connection: what
// happened on the old one is of unknown state.
func (c *caller) secured(ctx context.Context, conn *berthed, try call) (*peer, error) {
	p, err := c.ready(ctx, conn, try)
	var wrong *guessError
	if errors.As(err, &wrong) && ctx.Err() == nil {
		var cancel context.CancelFunc
		ctx, cancel = afterSilence(ctx, err)
		defer cancel()
		if conn, err = c.anew(ctx, try); err != nil {
			return nil, err
		}
		try.lockStep = true
		if p, err = c.ready(ctx, conn, try); err == nil {
			wrong.blame()
			p.wire.trips += wrong.trips
			if wrong.tls && p.tls == nil { // the policy lets us go on, but somebody should know
				p.fallback = fmt.Errorf("%s: TLS was offered and failed, then not offered, so this went in clear: %w", try.label, wrong.err)
				p.inClear = true
			}
		}
	}
	var broke *sessionFailure
	if errors.As(err, &broke) {
		if ctx.Err() != nil {
			if broke.late {
				c.distrust(try, broke, true)
			}
			return nil, broke.err // there is no time left, whatever it broke on
		}
		p, err = c.without(ctx, try, broke)
		try.fresh = true
	}
	var failed *tlsFailure
	if err == nil || !errors.As(err, &failed) {
		return p, err
	}
	if try.policy.Level >= route.Encrypted || try.policy.Implicit {
		return nil, &policyError{hop: try.label, why: "TLS is required and could not be had", err: failed.err}
	}
	if broke != nil && broke.late || outOfTime(ctx) {
		return nil, err // with more time TLS might have been had
	}
	if conn, err = c.anew(ctx, try); err != nil {
		return nil, err
	}
	try.clear, try.lockStep = true, true
	if p, err = c.ready(ctx, conn, try); err == nil {
		if broke != nil {
			p.wire.trips += broke.trips
		}
		p.fallback = fmt.Errorf("%s: TLS was offered and failed, so this went in clear: %w", try.label, failed.err)
	}
	return p, err
}

// A tlsFailure is a hop that offers TLS and then cannot do it.
type tlsFailure struct{ err error }

func (e *tlsFailure) Error() string { return e.err.Error() }
func (e *tlsFailure) Unwrap() error { return e.err }

// ready takes a fresh connection to the point where MAIL may be said. On error
// the connection is closed.
func (c *caller) ready(ctx context.Context, conn *berthed, try call) (*peer, error) {
	p := newPeer(conn.Conn, try.label, try.lmtp, c.times)
	p.berth, p.key, p.inClear = conn.berth, try.key, try.clear
	if p.fast = conn.fast; p.fast {
		p.wire.trips = 0 // the SYN and what rides in it make one
		p.apart = c.fastOpen == fastCommands
	}
	if end, ok := ctx.Deadline(); ok {
		p.end = end
	}
	c.wires.add(p.wire)
	p.onClose = func() {
		c.wires.remove(p.wire)
		if c.resumed != nil {
			c.resumed(p.resumption())
		}
	}
	defer p.follow(ctx)()
	if err := c.prepare(ctx, p, try); err != nil {
		if (p.onTrial() || p.ticket != nil) && !errors.Is(err, errCut) && !errors.Is(ctx.Err(), context.Canceled) {
			err = p.trialFailed(err)
		}
		p.quit()
		return nil, err
	}
	p.setup += p.wire.trips
	p.anew = func(ctx context.Context) (*peer, error) {
		try, broke := try, (*sessionFailure)(nil)
		if p.onTrial() { // one of the two was wrong
			broke = p.trialFailed(errNoWord)
			try.fresh = true
		}
		try.lockStep = true
		conn, err := c.anew(ctx, try)
		if err != nil {
			return nil, err
		}
		p, err := c.secured(ctx, conn, try)
		if err == nil && broke != nil {
			c.distrust(try, broke, false)
		}
		return p, err
	}
	return p, nil
}

// errNoWord: the hop broke before it had said anything inside TLS.
var errNoWord = errors.New("it said nothing inside TLS")

func (c *caller) prepare(ctx context.Context, p *peer, try call) error {
	if err := c.sendProxyHeader(p, try.id); err != nil {
		return err
	}
	if try.policy.Implicit {
		if err := p.handshake(ctx, c.tlsConfig(p, try), false); err != nil {
			return &tlsFailure{err}
		}
	}
	if err := c.meet(p, try); err != nil {
		return err
	}
	if err := c.upgrade(ctx, p, try); err != nil {
		return err
	}
	if c.announce == announceXclient {
		return c.xclient(p, try.id)
	}
	return nil
}

// meet takes the greeting and says hello, or readies both to go with what is
// said first.
func (c *caller) meet(p *peer, try call) error {
	phase, early := tlsstore.Clear, c.earlyInClear
	if p.tls != nil {
		phase, early = tlsstore.Secured, func(try call) (smtpwire.EHLO, bool) { return c.early(try, phase) }
	}
	if known, ok := early(try); ok {
		c.expect(p, try, phase, known, false)
		return nil
	}
	if p.fast {
		// It was known when we connected. Now nobody would speak first.
		p.broken = true
		return &guessError{hop: p.label, err: errors.New("it was forgotten meanwhile"), blame: func() {}}
	}
	if err := p.greet(); err != nil {
		return err
	}
	if err := c.hello(p, try.id); err != nil {
		return err
	}
	c.remember(try, phase, p.pipe.EHLO())
	return nil
}

// upgrade brings the connection to the level its policy asks for (P3).
func (c *caller) upgrade(ctx context.Context, p *peer, try call) error {
	policy := try.policy
	if policy.Level == route.Clear || try.clear || p.tls != nil {
		return nil
	}
	if !p.has("STARTTLS") {
		if policy.Level >= route.Encrypted {
			return &policyError{hop: p.label, why: "TLS is required, but STARTTLS is not offered"}
		}
		return nil
	}
	known := p.guess
	if known != nil {
		known.fits = func(actual smtpwire.EHLO) error {
			if !actual.Has("STARTTLS") {
				return errors.New("it does not offer STARTTLS any more")
			}
			return nil
		}
	}
	if err := p.startTLS(ctx, func() *tls.Config { return c.tlsConfig(p, try) }); err != nil {
		var wrong *guessError
		if errors.As(err, &wrong) {
			return err
		}
		if known != nil {
			// Whether that was for how we spoke is to be seen before anything goes in clear (P3).
			return &guessError{hop: p.label, err: err, tls: true, trips: p.wire.trips, blame: known.blame}
		}
		return &tlsFailure{err}
	}
	// RFC 3207 §4.2: what was learned in clear is forgotten.
	if known, ok := c.early(try, tlsstore.Secured); ok {
		c.expect(p, try, tlsstore.Secured, known, true)
		return nil
	}
	if err := c.hello(p, try.id); err != nil {
		return err
	}
	c.remember(try, tlsstore.Secured, p.pipe.EHLO())
	return nil
}

// tlsConfig demands what the policy says. Below "verify" any certificate will
// do, and whether it would have passed is only noted.
func (c *caller) tlsConfig(p *peer, try call) *tls.Config {
	policy := try.policy
	conf := &tls.Config{
		ServerName: policy.ServerName,
		RootCAs:    c.roots,
		MinVersion: c.minTLS,

		CurvePreferences: c.curves,
	}
	if p.sessions = c.sessions(p, try); p.sessions != nil {
		p.sessions.OnOffer(p.beginTrial)
		p.onTicket = func(err error) { c.distrust(try, &sessionFailure{err: err}, true) }
		conf.ClientSessionCache = p.sessions
	}
	verified := func(tls.ConnectionState) bool { return true } // or the handshake fails
	if policy.Level < route.Verified {
		conf.InsecureSkipVerify = true
		verified = func(state tls.ConnectionState) bool {
			return policy.ServerName != "" && verifyChain(state.PeerCertificates, policy.ServerName, c.roots) == nil
		}
	}
	conf.VerifyConnection = func(state tls.ConnectionState) error { // on resumed connections too
		p.verified = verified(state)
		p.learned(state)
		return nil
	}
	return conf
}
