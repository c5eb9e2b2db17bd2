package proxy

import (
	"errors"

	"slipstream/smtpwire"
)

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

// personal tells whether a connection says who the client is, so that it is for
// that client alone.
func (c *caller) personal() bool { return c.announce != announceNone && c.announce != announceForward }

// called is the name to say in EHLO. A backend that is told who the client is
// hears the client's name as well: its HELO rules, and SPF for bounces, judge
// the two together.
func (c *caller) called(id identity) string {
	if !c.personal() || id.helo == "" {
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
