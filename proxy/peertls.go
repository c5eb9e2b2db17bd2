package proxy

import (
	"context"
	"crypto/tls"
	"errors"
	"io"

	"slipstream/smtpwire"
)

// errEarlyWords: plaintext behind the 220 to STARTTLS would be taken for
// replies from inside TLS (CVE-2021-38371).
var errEarlyWords = errors.New("the other side spoke on before TLS was up")

// startTLS asks for TLS and negotiates it. The EHLO set from before is
// forgotten (RFC 3207 §4.2): the caller says hello again.
//
// conf is asked for when the hop has said who it is.
func (p *peer) startTLS(ctx context.Context, conf func() *tls.Config) error {
	r, err := p.one(duringStartTLS, p.times.PeerCommand, smtpwire.Command{Verb: smtpwire.VerbStarttls})
	if errors.Is(err, errSurplus) {
		err = p.fail(duringStartTLS, errEarlyWords)
	}
	if err != nil {
		return err
	}
	if r.Code != 220 {
		return p.unwilling(duringStartTLS, r)
	}
	return p.handshake(ctx, conf(), true)
}

// handshake puts TLS over the wire. greeted: no greeting will follow (STARTTLS);
// with TLS on connect one does.
func (p *peer) handshake(ctx context.Context, conf *tls.Config, greeted bool) error {
	p.wait(duringHandshake, p.times.TLSHandshake)
	conn := tls.Client(p.wire, conf)
	if err := conn.HandshakeContext(ctx); err != nil {
		return p.fail(duringHandshake, err)
	}
	p.opened()
	state := conn.ConnectionState()
	p.tls, p.rw = &state, conn
	p.r.Reset(p.source())
	if state.DidResume && state.Version < tls.VersionTLS13 {
		p.gain.resumed++ // with TLS 1.3 both take as long: https://www.rfc-editor.org/rfc/rfc8446#section-2.2
		p.setup++
	}
	p.wire.hurry = true // tickets come ahead of the next reply
	p.pipe = newPipeline(smtpwire.EHLO{}, greeted, p.lmtp)
	return nil
}

// source is what the hop's words are read from.
func (p *peer) source() io.Reader {
	if conn, ok := p.rw.(*tls.Conn); ok {
		return ticketReader{conn, p}
	}
	return p.rw
}
