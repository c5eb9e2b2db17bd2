package proxy

import (
	"cmp"
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"strings"
	"time"

	"github.com/pires/go-proxyproto"

	"slipstream/auth"
	"slipstream/proxy/route"
	"slipstream/smtpwire"
)

// MailerOptions say how a [Mailer] reaches its MTA.
type MailerOptions struct {
	// To is the MTA. It must take mail from this machine to anywhere and queue it; the backend of an inbound door that
	// was found not to relay for strangers may refuse to relay for us as well.
	To Endpoint
	// TLS is "none", "may", "encrypt" or "verify"; "": none. TLSName is the name in its certificate, where that is not
	// the one in To, and CAFile holds the authorities to believe; "": the system's.
	TLS, TLSName, CAFile string
	// ClientAddress is how the MTA is told clients' addresses, "proxy-v1" and "proxy-v2" among others; "": none.
	// Where it expects a PROXY header it gets one that names us: reports are nobody else's mail.
	ClientAddress string
	// Hostname is what we say in EHLO.
	Hostname string

	Resolver route.Resolver            // looks the name in To up; not needed for an address or a socket
	Dial     DialFunc                  // nil: the network
	Timeouts *TimeoutsConfig           // nil: the defaults
	IsOwn    func(netip.AddrPort) bool // is one of our own doors there? nil: none is
}

// A Mailer hands messages of ours to an MTA: each on a connection of its own, in clear steps, without making use of
// anything that was learned about the MTA.
type Mailer struct {
	caller *caller
	router route.Router
}

var _ auth.Mailer = (*Mailer)(nil)

// mailerTime bounds the handing over of one message. The timeouts of the configuration hold as well.
const mailerTime = 10 * time.Minute

// NewMailer returns a Mailer. It fails for options that make no sense; it does not connect.
func NewMailer(o MailerOptions) (*Mailer, error) {
	level, err := route.ParseLevel(cmp.Or(o.TLS, "none"))
	if err != nil {
		return nil, err
	}
	roots, err := loadRoots(o.CAFile)
	if err != nil {
		return nil, err
	}
	if o.To.IsZero() {
		return nil, errors.New("there is no MTA to hand mail to")
	}
	if o.Timeouts == nil {
		o.Timeouts = &DefaultConfig().Timeouts
	}
	if o.Dial == nil {
		o.Dial = netDial
	}
	if o.IsOwn == nil {
		o.IsOwn = func(netip.AddrPort) bool { return false }
	}
	switch o.ClientAddress {
	case "", announceNone, announceForward, announceXclient, announceSpoof: // the client is who connects: we are
	case announceProxyV1:
		o.Dial = dialNamingUs(o.Dial, 1, o.Timeouts.PeerCommand)
	case announceProxyV2:
		o.Dial = dialNamingUs(o.Dial, 2, o.Timeouts.PeerCommand)
	default:
		return nil, fmt.Errorf("%q is no way to tell an MTA the client's address", o.ClientAddress)
	}
	return &Mailer{
		caller: &caller{
			hostname: o.Hostname, dial: o.Dial, times: o.Timeouts, roots: roots.pool, minTLS: tls.VersionTLS12,
			announce: announceNone, fastOpen: fastOff, wires: newWireSet(), isOwn: o.IsOwn,
		},
		router: &route.Static{
			Target: route.Target{
				Host: o.To.Host, Port: o.To.Port, Unix: o.To.Path, LMTP: o.To.LMTP, Implicit: o.To.TLS,
			},
			Level: level, Why: "configured", ServerName: o.TLSName, Resolver: o.Resolver,
		},
	}, nil
}

// dialNamingUs is dial with a PROXY header first that says what holds without one. There is a header for that, LOCAL or
// UNKNOWN, but Postfix 3.7 answers PROXY UNKNOWN with 421, and Exim 4.96 breaks off at the end of a message behind
// either.
func dialNamingUs(dial DialFunc, version byte, limit time.Duration) DialFunc {
	return func(ctx context.Context, network string, local netip.Addr, remote string) (net.Conn, error) {
		conn, err := dial(ctx, network, local, remote)
		if err != nil {
			return nil, err
		}
		if err := nameUs(conn, version, limit); err != nil {
			_ = conn.Close()
			return nil, err
		}
		return conn, nil
	}
}

func nameUs(conn net.Conn, version byte, limit time.Duration) error {
	us := identity{client: addrPort(conn.LocalAddr()), local: addrPort(conn.RemoteAddr())}
	format := us.proxyHeader
	if !us.client.IsValid() { // a local socket
		format = func(version byte) ([]byte, error) { return proxyproto.HeaderProxyFromAddrs(version, nil, nil).Format() }
	}
	header, err := format(version)
	if err != nil {
		return err
	}
	_ = conn.SetWriteDeadline(time.Now().Add(limit)) // fails only on a closed connection, which Write reports
	_, err = conn.Write(header)
	_ = conn.SetWriteDeadline(time.Time{})
	return err
}

// Send implements [auth.Mailer]. message must be in lines of ASCII with CRLF at their ends, none too long, since no MTA
// need take anything else; for another, and for mailboxes that are none, the Refusal has no code.
func (m *Mailer) Send(ctx context.Context, from, to string, message []byte) error {
	sender, recipient, err := envelopeOf(from, to)
	if err != nil {
		return err
	}
	if err := checkText(message); err != nil {
		return err
	}
	sender.Params = sender.Params.With("SIZE", fmt.Sprint(len(message)))
	ctx, cancel := context.WithTimeoutCause(ctx, mailerTime, &waitError{what: "handing over a message", limit: mailerTime})
	defer cancel()
	r, err := m.router.Route(ctx, smtpwire.Path{}, recipient.Path)
	if err != nil {
		return err
	}
	var failures []error
	for p, err := range m.caller.peers(ctx, r, identity{}, plainly) {
		if err != nil {
			failures = append(failures, err)
			continue
		}
		return m.handOver(ctx, p, sender, recipient, message)
	}
	return errors.Join(failures...)
}

// handOver brings one message to an end on a connection, and ends that.
func (m *Mailer) handOver(ctx context.Context, p *peer, sender, recipient smtpwire.Command, message []byte) error {
	defer p.quit()
	defer p.follow(ctx)()
	p.end, _ = ctx.Deadline()
	sender, refused, ok := smtpwire.Adapt(sender, p.pipe.EHLO())
	if !ok {
		return refusalOf(p, duringEnvelope, refused)
	}
	var no smtpwire.Reply
	err := p.do(duringEnvelope, p.times.PeerCommand, []smtpwire.Command{sender, recipient},
		func(_ int, r smtpwire.Reply) {
			if r.Class() != 2 && no.IsZero() {
				no = r
			}
		})
	if err != nil {
		return err
	}
	if !no.IsZero() {
		return refusalOf(p, duringEnvelope, no)
	}
	o := p.ownText(message)
	switch {
	case o.err != nil:
		return o.err
	case o.replies[0].Class() != 2:
		return refusalOf(p, duringFinal, o.replies[0])
	}
	return nil
}

// ownText sends a text for one recipient by DATA.
func (p *peer) ownText(text []byte) outcome {
	r, err := p.one(duringText, p.times.PeerCommand, smtpwire.Command{Verb: smtpwire.VerbData})
	if err != nil {
		return outcome{err: err}
	}
	if r.Code != 354 {
		return p.refusedText(r, 1)
	}
	p.pipe.Queue(smtpwire.Command{Verb: smtpwire.VerbEndOfData})
	if f := p.pipe.Flight(); len(f) != 1 {
		return outcome{err: p.fail(duringText, fmt.Errorf("the text could not leave: %d commands before it", len(f)))}
	}
	dots := smtpwire.NewDotWriter(blockWriter{p})
	dots.Grow(int64(len(text)))
	if _, err := dots.Write(text); err != nil {
		return p.cutShort(err, 1)
	}
	if err := dots.Close(); err != nil {
		return p.cutShort(err, 1)
	}
	return p.finalReplies(1)
}

// maxSaid bounds what is kept of an MTA's refusal.
const maxSaid = 512

// refusalOf is an MTA's no: for good, or for now.
func refusalOf(p *peer, during string, r smtpwire.Reply) error {
	said := p.unwilling(during, r)
	if r.Class() != 5 {
		return said
	}
	text := strings.TrimSpace(strings.TrimPrefix(r.String(), fmt.Sprint(r.Code)))
	return &mailerError{said: said, refusal: auth.Refusal{Code: r.Code, Text: cut(text, maxSaid)}}
}

// A mailerError is a refusal of one MTA, by name.
type mailerError struct {
	said    error
	refusal auth.Refusal
}

func (e *mailerError) Error() string   { return e.said.Error() }
func (e *mailerError) Unwrap() []error { return []error{e.said, &e.refusal} }

// envelopeOf makes commands of mailboxes.
func envelopeOf(from, to string) (sender, recipient smtpwire.Command, err error) {
	sender = smtpwire.ParseCommand([]byte("MAIL FROM:<" + from + ">"))
	recipient = smtpwire.ParseCommand([]byte("RCPT TO:<" + to + ">"))
	for _, said := range []struct {
		mailbox string
		c       smtpwire.Command
	}{{from, sender}, {to, recipient}} {
		c := said.c
		if c.Refused.Code != 0 || len(c.Params) > 0 || c.Path.Mailbox() != said.mailbox || c.Path.NeedsUTF8() {
			return sender, recipient, &auth.Refusal{Text: fmt.Sprintf("%.80q is no mailbox to send to or from", said.mailbox)}
		}
	}
	if to == "" {
		return sender, recipient, &auth.Refusal{Text: "there is no recipient"}
	}
	return sender, recipient, nil
}

// checkText demands a text that every MTA takes.
// https://www.rfc-editor.org/rfc/rfc5321#section-4.5.3.1.6
func checkText(text []byte) error {
	var scan smtpwire.BodyScan
	err := scan.Scan(text)
	if err == nil {
		err = scan.End()
	}
	switch {
	case err != nil:
		return &auth.Refusal{Text: "not a message: " + err.Error()}
	case scan.EightBit:
		return &auth.Refusal{Text: "not a message in ASCII"}
	case !scan.EndsInCRLF():
		return &auth.Refusal{Text: "not a message: its last line does not end"}
	}
	for line := range strings.SplitSeq(string(text), "\r\n") {
		if len(line) > maxTextLine {
			return &auth.Refusal{Text: fmt.Sprintf("not a message: a line of %d octets", len(line))}
		}
	}
	return nil
}

// maxTextLine is the longest line, without its CRLF, that every MTA takes.
const maxTextLine = 998
