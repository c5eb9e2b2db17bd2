package bench

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"net/netip"
	"strings"
	"time"

	"slipstream/bench/mta"
	"slipstream/bench/refpeer"
)

// A sender is the client of a scenario.
type sender interface {
	// send sends one message and returns how long that took by the sender's own clock, connecting included; 0 where it
	// does not tell.
	send(ctx context.Context, recipient string, text []byte) (time.Duration, error)
	hangUp() error  // where a connection was kept
	String() string // for the report
	stop() error
}

// mta returns the real server that a client is part of; "" if it is none.
func (c Client) mta() mta.Kind {
	switch c {
	case Exim:
		return mta.Exim
	case Postfix:
		return mta.Postfix
	}
	return ""
}

// sends starts the client of a scenario, which sends all its mail to an address. channel is how it speaks to it.
func (l *lab) sends(ctx context.Context, at place, to netip.AddrPort, channel Channel) (sender, error) {
	kind := l.scenario.Client.mta()
	if kind == "" {
		return l.referenceClient(at, to, channel, l.scenario.Client, ""), nil
	}
	s, err := l.realClient(ctx, at, to, channel, kind)
	if errors.Is(err, mta.ErrUnavailable) || errors.Is(err, errNoRoom) {
		l.warn(fmt.Sprintf("the reference client stood in for %s: %v", kind, err))
		return l.referenceClient(at, to, channel, l.speaksLike(), string(kind)), nil
	}
	return s, err
}

// speaksLike is the reference client that speaks as the real one does: Exim sends BDAT and, where it may, early; Postfix
// pipelines.
func (l *lab) speaksLike() Client {
	switch {
	case l.scenario.Client == Postfix:
		return Pipelining
	case l.scenario.State == FirstContact:
		return Chunking
	case l.scenario.Server == OldServer && (l.path == Direct || l.scenario.Direction == Outbound):
		return Chunking // or what it can; an inbound door of ours offers all there is
	}
	return Early
}

// A referenceClient is refpeer's, made to speak as well as it can and the server lets it.
type referenceClient struct {
	at      place
	to      netip.AddrPort
	kind    Client
	label   string
	tls     *tls.Config // nil: clear
	oldest  bool        // HELO
	connect bool        // TLS on connect
	keeps   bool        // the connection, for the next message
	tell    func(sent bool, octets []byte)

	open *refpeer.Client // the kept one
}

func (l *lab) referenceClient(at place, to netip.AddrPort, channel Channel, kind Client, like string) *referenceClient {
	c := &referenceClient{at: at, to: to, kind: kind, label: fmt.Sprintf("reference client (%s)", kind)}
	if like != "" {
		c.label = fmt.Sprintf("reference client (as %s)", like)
	}
	if l.path == Through && l.scenario.Direction == Inbound {
		c.tell = l.heard.tell // the other end of the link is Slipstream, which does not talk
	}
	if kind == Early && l.path == Through && l.scenario.Direction == Outbound {
		c.kind, kind = Chunking, Chunking // our outbound door is beside it, and takes no early talk
	}
	modern := kind == Chunking || kind == Early
	c.keeps = modern && l.scenario.State == Warm && like == "" // Exim does not, between two queue runs
	c.oldest = kind == Old && !channel.tls()
	if channel.tls() {
		c.connect = channel == Implicit
		c.tls = &tls.Config{RootCAs: l.cert.pool, ServerName: serverName, MaxVersion: tlsVersion(channel)}
		if modern && l.scenario.State == Resumed {
			c.tls.ClientSessionCache = tls.NewLRUClientSessionCache(0)
		}
	}
	return c
}

func (c *referenceClient) String() string { return c.label }

// style is how to speak before the server has said what it offers.
func (c *referenceClient) style() refpeer.Style {
	switch {
	case c.oldest:
		return refpeer.OldLockStep
	case c.kind == Early:
		return refpeer.Early
	}
	return refpeer.LockStep
}

// adapt is how to speak after it has.
func (c *referenceClient) adapt(rc *refpeer.Client) {
	pipelining := rc.Offers("PIPELINING")
	switch {
	case c.kind == Chunking && pipelining && rc.Offers("CHUNKING"):
		rc.Style = refpeer.Chunking
	case (c.kind == Chunking || c.kind == Pipelining) && pipelining:
		rc.Style = refpeer.Pipelining
	}
}

func (c *referenceClient) send(ctx context.Context, recipient string, text []byte) (time.Duration, error) {
	begun := time.Now()
	rc := c.open
	if rc == nil {
		var err error
		if rc, err = c.connectTo(ctx); err != nil {
			return 0, err
		}
	}
	result, err := rc.Send(ctx, refpeer.Mail{From: envelopeFrom, To: []string{recipient}, Body: text})
	if err == nil && !result.OK() {
		err = fmt.Errorf("bench: the message was not taken: %v", result.Log)
	}
	if err != nil {
		c.open = nil
		return 0, errors.Join(err, rc.Conn.Close())
	}
	if c.keeps {
		c.open = rc
		return result.Done.Sub(begun), nil
	}
	return result.Done.Sub(begun), rc.Quit(ctx)
}

func (c *referenceClient) connectTo(ctx context.Context) (*refpeer.Client, error) {
	conn, err := c.at.dial(ctx, "tcp", netip.Addr{}, c.to.String())
	if err != nil {
		return nil, err
	}
	rc := &refpeer.Client{Conn: conn, Style: c.style(), Name: clientName, TLS: c.tls, Implicit: c.connect, Overhear: c.tell}
	if c.kind == Early {
		return rc, nil // says everything at once
	}
	if err := rc.Open(ctx); err != nil {
		return nil, errors.Join(err, conn.Close())
	}
	c.adapt(rc)
	return rc, nil
}

func (c *referenceClient) hangUp() error {
	if c.open == nil {
		return nil
	}
	open := c.open
	c.open = nil
	return open.Conn.Close()
}

func (c *referenceClient) stop() error { return c.hangUp() }

// A realSender is the sending half of an MTA.
type realSender struct {
	at place
	in *mta.Instance
}

func (l *lab) realClient(ctx context.Context, at place, to netip.AddrPort, channel Channel, kind mta.Kind) (*realSender, error) {
	if err := l.ground.hosts(); err != nil {
		return nil, fmt.Errorf("%w: %w", errNoRoom, err)
	}
	c := mta.Config{
		Peers: l.options.Peers, Listen: netip.AddrPortFrom(at.addr(), mtaPort).String(), Hostname: clientName,
		Local: []string{clientName}, Via: to.String(), MaxSize: maxBody,
		PipeConnect: kind == mta.Exim && l.scenario.State != FirstContact,
	}
	if channel.tls() {
		c.ClientTLS = mta.TLSEncrypt
		c.ExtraClient = clientTLS(kind, channel)
	}
	in, err := l.startMTA(ctx, at, kind, c)
	if err != nil {
		return nil, err
	}
	return &realSender{at, in}, nil
}

// clientTLS makes a real client speak TLS on connect where the channel is that.
func clientTLS(kind mta.Kind, channel Channel) []string {
	switch {
	case channel != Implicit:
		return nil
	case kind == mta.Exim:
		return []string{"protocol = smtps"}
	}
	return []string{"smtp_tls_wrappermode = yes"}
}

func (s *realSender) String() string { return string(s.in.Kind()) }

func (s *realSender) send(ctx context.Context, recipient string, text []byte) (time.Duration, error) {
	// Exim delivers from the process that took the message, which therefore has to run on our side of the link.
	err := s.at.do(func() error {
		return s.in.Submit(ctx, envelopeFrom, []string{recipient}, text)
	})
	if err != nil {
		return 0, err
	}
	// Either has a line for the recipient when it was delivered, and Postfix also when it was not.
	mark, good := "=> "+recipient, ""
	if s.in.Kind() == mta.Postfix {
		mark, good = "to=<"+recipient+">", "status=sent"
	}
	if err := s.in.WaitLog(ctx, mark); err != nil {
		return 0, err
	}
	for line := range strings.Lines(s.in.Log()) {
		if strings.Contains(line, mark) && !strings.Contains(line, good) {
			return 0, fmt.Errorf("bench: %s: %s", s.in.Kind(), strings.TrimSpace(line))
		}
	}
	return 0, nil
}

func (s *realSender) hangUp() error { return nil } // keeps what it keeps

func (s *realSender) stop() error { return s.in.Kill() }
