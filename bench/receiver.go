package bench

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"net/netip"

	"slipstream/bench/mta"
	"slipstream/bench/refpeer"
)

// A receiver is the server of a scenario.
type receiver struct {
	name string // for the report
	stop func() error
}

// receive starts the server of a scenario at an address. channel is how it is spoken to, which is not the scenario's where
// Slipstream stands between.
func (l *lab) receive(ctx context.Context, at place, address netip.AddrPort, channel Channel) (*receiver, error) {
	kind := l.scenario.Server.mta()
	if kind == "" {
		return l.referenceServer(ctx, at, address, channel, "")
	}
	r, err := l.realServer(ctx, at, address, channel, kind)
	if errors.Is(err, mta.ErrUnavailable) || errors.Is(err, errNoRoom) {
		l.warn(fmt.Sprintf("the reference server stood in for %s: %v", kind, err))
		return l.referenceServer(ctx, at, address, channel, string(kind))
	}
	return r, err
}

// errNoRoom says that real servers cannot live on this ground.
var errNoRoom = errors.New("not on this ground")

// mta returns the real server that it is; "" if it is none.
func (s Server) mta() mta.Kind {
	switch s {
	case EximServer:
		return mta.Exim
	case PostfixServer:
		return mta.Postfix
	}
	return ""
}

// referenceServer starts one of ours; like names the real one that it stands in for.
func (l *lab) referenceServer(ctx context.Context, at place, address netip.AddrPort, channel Channel, like string) (*receiver, error) {
	s := &refpeer.Server{Hostname: serverName, Record: -1, Brief: true}
	if l.scenario.Server == OldServer {
		s.StrictLockstep = true
	} else {
		s.Keywords = refpeer.Modern()
		s.Keywords.PipeConnect = l.scenario.Client == Early || l.scenario.State == Known || like == string(mta.Exim)
	}
	if channel.tls() {
		s.TLS = &tls.Config{Certificates: []tls.Certificate{l.cert.pair}, MaxVersion: tlsVersion(channel)}
		s.Implicit = channel == Implicit
	}
	if l.path == Direct || l.scenario.Direction == Outbound {
		l.heard.server = true
		s.Overhear = func(_ int, sent bool, octets []byte) { l.heard.tell(sent, octets) }
	}
	ln, err := at.listen(ctx, address.String())
	if err != nil {
		return nil, err
	}
	s.Start(ln)
	name := fmt.Sprintf("reference server (%s)", l.scenario.Server)
	if like != "" {
		name = fmt.Sprintf("reference server (as %s)", like)
	}
	return &receiver{name: name, stop: func() error { s.Close(); return nil }}, nil
}

func (l *lab) realServer(ctx context.Context, at place, address netip.AddrPort, channel Channel, kind mta.Kind) (*receiver, error) {
	if err := l.ground.hosts(); err != nil {
		return nil, fmt.Errorf("%w: %w", errNoRoom, err)
	}
	c := mta.Config{
		Peers: l.options.Peers, Listen: address.String(), Hostname: serverName, Local: []string{serverDomain},
		MaxSize: maxBody, Extra: serverTLS(kind, channel),
	}
	if channel.tls() {
		c.Cert, c.Key, c.ImplicitTLS = l.cert.cert, l.cert.key, channel == Implicit
	}
	in, err := l.startMTA(ctx, at, kind, c)
	if err != nil {
		return nil, err
	}
	return &receiver{name: string(kind), stop: in.Kill}, nil
}

// startMTA starts a real server in a place.
func (l *lab) startMTA(ctx context.Context, at place, kind mta.Kind, c mta.Config) (in *mta.Instance, err error) {
	err = at.do(func() error {
		in, err = mta.Start(ctx, kind, c)
		return err
	})
	return in, err
}

// serverTLS holds a real server to the TLS of a channel. Left alone, both speak 1.3.
func serverTLS(kind mta.Kind, channel Channel) []string {
	if channel != StartTLS12 {
		return nil
	}
	if kind == mta.Exim {
		return []string{"tls_require_ciphers = NORMAL:-VERS-TLS1.3"}
	}
	return []string{"smtpd_tls_protocols = !TLSv1.3"}
}

// tlsVersion is the TLS that a reference peer speaks.
func tlsVersion(c Channel) uint16 {
	if c == StartTLS12 {
		return tls.VersionTLS12
	}
	return tls.VersionTLS13
}
