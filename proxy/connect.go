package proxy

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"iter"
	"net"
	"net/netip"
	"slices"
	"sync"
	"time"

	"slipstream/proxy/route"
	"slipstream/smtpwire"
)

// A caller opens connections to hops on behalf of one door: it dials, announces
// the client, waits for the greeting, says hello and secures the connection as
// the hop's policy demands. What it hands out is ready for MAIL.
type caller struct {
	hostname string // what we say in EHLO
	dial     DialFunc
	sources  []netip.Addr // addresses to come from, at most one of each family is used
	times    *TimeoutsConfig
	roots    *x509.CertPool // nil: the system's
	minTLS   uint16
	announce string // client_address
	memory   memory
	resumed  func(bits int) // counts what resumption did; nil: nobody does
	wires    *wireSet
	isOwn    func(netip.AddrPort) bool // is one of our own doors there?
}

// A wireSet knows every open wire, so that a shutdown can end them.
type wireSet struct {
	mu   sync.Mutex
	open map[*wire]struct{}
	over bool // a shutdown has cut everything: cut what comes, too
}

func newWireSet() *wireSet { return &wireSet{open: make(map[*wire]struct{})} }

func (s *wireSet) add(w *wire) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.open[w] = struct{}{}
	if s.over {
		w.cut()
	}
}

func (s *wireSet) remove(w *wire) {
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.open, w)
}

// cutAll ends every wait, now and later.
func (s *wireSet) cutAll() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.over = true
	for w := range s.open {
		w.cut()
	}
}

// peers yields connections to the hops of a route in order of preference, each
// greeted, secured and ready for MAIL, or the reason why an address gave none.
// The caller stops when one served it; the context bounds the whole.
func (c *caller) peers(ctx context.Context, r route.Route, id identity) iter.Seq2[*peer, error] {
	return func(yield func(*peer, error) bool) {
		if r.Unix != "" {
			yield(c.unix(ctx, r, id))
			return
		}
		for _, host := range r.Hosts {
			if !c.host(ctx, r, host, id, yield) {
				return
			}
		}
	}
}

// unix connects to a local socket. There is nothing to secure.
func (c *caller) unix(ctx context.Context, r route.Route, id identity) (*peer, error) {
	label := "unix:" + r.Unix
	conn, err := c.dialNamed(ctx, label, "unix", netip.Addr{}, r.Unix)
	if err != nil {
		return nil, err
	}
	return c.ready(ctx, conn, call{label: label, lmtp: r.LMTP, id: id})
}

// host tries the addresses of one host until yield has had enough.
func (c *caller) host(ctx context.Context, r route.Route, host route.Host, id identity, yield func(*peer, error) bool) bool {
	left := slices.Clone(host.Addrs)
	for len(left) > 0 {
		if end, ok := ctx.Deadline(); ok && !time.Now().Before(end) {
			<-ctx.Done() // any moment now
		}
		if ctx.Err() != nil {
			return yield(nil, context.Cause(ctx))
		}
		i, conn, err := race(ctx, len(left), func(ctx context.Context, i int) (net.Conn, error) {
			return c.address(ctx, host, left[i])
		})
		if err != nil {
			return yield(nil, err) // none of them answers
		}
		addr := left[i]
		left = slices.Delete(left, i, i+1)
		p, err := c.secured(ctx, conn, call{
			label: hopLabel(host.Name, addr), policy: host.Policy, lmtp: r.LMTP, id: id,
			host: host.Name, addr: addr,
			redial: func(ctx context.Context) (net.Conn, error) { return c.address(ctx, host, addr) },
		})
		if !yield(p, err) {
			return false
		}
	}
	return true
}

// errOwnDoor: what is sent there would come back to us for ever.
var errOwnDoor = errors.New("this is one of our own doors: mail would go in circles")

func (c *caller) address(ctx context.Context, host route.Host, addr netip.AddrPort) (net.Conn, error) {
	if c.isOwn(addr) {
		return nil, &peerError{hop: hopLabel(host.Name, addr), during: duringConnect, err: errOwnDoor}
	}
	return c.dialNamed(ctx, hopLabel(host.Name, addr), "tcp", c.source(addr.Addr()), addr.String())
}

// source picks the address to come from for a destination's family.
func (c *caller) source(to netip.Addr) netip.Addr {
	for _, a := range c.sources {
		if a.Unmap().Is4() == to.Unmap().Is4() {
			return a
		}
	}
	return netip.Addr{}
}

func (c *caller) dialNamed(ctx context.Context, label, network string, local netip.Addr, remote string) (net.Conn, error) {
	var conn net.Conn
	err := within(ctx, "a connection", c.times.Connect, func(ctx context.Context) (err error) {
		conn, err = c.dial(ctx, network, local, remote)
		return err
	})
	if err != nil {
		return nil, &peerError{hop: label, during: duringConnect, err: err}
	}
	return conn, nil
}

// A call is one attempt at one address.
type call struct {
	label  string
	host   string         // as routing named it
	addr   netip.AddrPort // zero: a local socket
	policy route.Policy
	lmtp   bool
	id     identity
	redial func(context.Context) (net.Conn, error)
	clear  bool // TLS failed here and the policy lets us do without
	fresh  bool // TLS failed here with a session of before: do without that
	bare   bool // it broke on a ticket: take none
}

// secured readies a connection. Where it breaks on a TLS session of before, that
// was our idea, and it is tried anew without one (P6). Where TLS fails and the
// policy is "may", it is tried in clear. Either way on a new connection: what
// happened on the old one is of unknown state.
func (c *caller) secured(ctx context.Context, conn net.Conn, try call) (*peer, error) {
	p, err := c.ready(ctx, conn, try)
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
	if conn, err = try.redial(ctx); err != nil {
		return nil, err
	}
	try.clear = true
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
func (c *caller) ready(ctx context.Context, conn net.Conn, try call) (*peer, error) {
	p := newPeer(conn, try.label, try.lmtp, c.times)
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
	return p, nil
}

func (c *caller) prepare(ctx context.Context, p *peer, try call) error {
	if err := c.sendProxyHeader(p, try.id); err != nil {
		return err
	}
	if try.policy.Implicit {
		if err := p.handshake(ctx, c.tlsConfig(p, try), false); err != nil {
			return &tlsFailure{err}
		}
	}
	if err := p.greet(); err != nil {
		return err
	}
	if err := c.hello(p, try.id); err != nil {
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

// hello says hello. A name of the client's that the backend refuses for good is
// the client's affair: trying again would not help it.
func (c *caller) hello(p *peer, id identity) error {
	name := c.called(id)
	err := p.hello(name)
	var refused *peerError
	if name != c.hostname && errors.As(err, &refused) && refused.said.Class() == 5 {
		return &refusalError{reply: refused.said.WithEnhanced()}
	}
	return err
}

// called is the name to say in EHLO. A backend that is told who the client is
// hears the client's name as well: its HELO rules, and SPF for bounces, judge
// the two together.
func (c *caller) called(id identity) string {
	if c.announce == announceNone || id.helo == "" {
		return c.hostname
	}
	return id.helo
}

func (c *caller) sendProxyHeader(p *peer, id identity) error {
	var version byte
	switch c.announce {
	case announceProxyV1:
		version = 1
	case announceProxyV2:
		version = 2
	default:
		return nil
	}
	header, err := id.proxyHeader(version)
	if err != nil {
		return err
	}
	p.wait("sending the PROXY header", c.times.PeerCommand)
	if _, err := p.rw.Write(header); err != nil {
		return p.fail(duringConnect, err)
	}
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
	if err := p.startTLS(ctx, c.tlsConfig(p, try)); err != nil {
		return &tlsFailure{err}
	}
	// RFC 3207 §4.2: what was learned in clear is forgotten.
	return c.hello(p, try.id)
}

// tlsConfig demands what the policy says. Below "verify" any certificate will
// do, and whether it would have passed is only noted.
func (c *caller) tlsConfig(p *peer, try call) *tls.Config {
	policy := try.policy
	conf := &tls.Config{
		ServerName: policy.ServerName,
		RootCAs:    c.roots,
		MinVersion: c.minTLS,
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

// xclient tells a backend who the client is, and starts over as it asks
// (a new greeting, then EHLO again).
func (c *caller) xclient(p *peer, id identity) error {
	offered, ok := p.pipe.EHLO().Get("XCLIENT")
	if !ok {
		return &policyError{hop: p.label, why: `client_address = "xclient", but the backend does not offer XCLIENT to us; ` +
			`with Postfix set "smtpd_authorized_xclient_hosts" to our address`}
	}
	args, err := id.xclient(offered)
	if err != nil {
		return &policyError{hop: p.label, why: "XCLIENT", err: err}
	}
	r, err := p.one(duringXclient, c.times.PeerCommand, smtpwire.Command{Verb: smtpwire.VerbXclient, Arg: args})
	if err != nil {
		return err
	}
	if r.Code != 220 {
		return p.unwilling(duringXclient, r)
	}
	p.pipe = newPipeline(smtpwire.EHLO{}, true, p.lmtp)
	return c.hello(p, id)
}
