package bench

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"slipstream/bench/meter"
	"slipstream/bench/mta"
)

// Names and ports of those who take part.
const (
	serverName   = "mx.server.example"
	serverDomain = "server.example"
	clientName   = "client.example"
	proxyName    = "slipstream.example"
	envelopeFrom = "sender@client.example"

	mtaPort     = 2525  // where a sending MTA listens, for nobody
	smtpPort    = 25    // of whoever is across the link
	doorPort    = 10525 // of our outbound door, on this side of it
	backendPort = 10025 // of the MTA behind our inbound door
)

// maxBody is more than any message here.
const maxBody = 64 << 20

// primers is how many messages go ahead of the one that counts where something is to be left of them. Exim, at the second
// one, speaks early for the first time and gets its Fast Open cookie.
const primers = 2

// settle is how long after the final reply the link may still carry what belongs to a sample: its QUIT, and the goodbyes.
const settle = 50 * time.Millisecond

// A lab is a ground with all who take part in one scenario on one path.
type lab struct {
	options  *Options
	scenario Scenario
	path     Path
	ground   ground
	dir      string // for files
	cert     keyPair
	receiver *receiver
	proxy    *standing // nil on the direct path
	sender   sender
	target   netip.AddrPort // whom the client's side connects to across the link
	heard    overheard
	sent     int
	warnings []string
}

// A keyPair is the certificate of every server here.
type keyPair struct {
	cert, key []byte // PEM
	pair      tls.Certificate
	pool      *x509.CertPool
}

func newKeyPair() (keyPair, error) {
	cert, key, err := mta.SelfSigned(serverName, proxyName)
	if err != nil {
		return keyPair{}, err
	}
	pair, err := tls.X509KeyPair(cert, key)
	if err != nil {
		return keyPair{}, err
	}
	pool := x509.NewCertPool()
	pool.AppendCertsFromPEM(cert)
	return keyPair{cert, key, pair, pool}, nil
}

// newLab puts everything up, from the server to the client.
func newLab(ctx context.Context, o *Options, s Scenario, p Path) (*lab, error) {
	l := &lab{options: o, scenario: s, path: p}
	if err := l.setUp(ctx); err != nil {
		return nil, errors.Join(err, l.close())
	}
	return l, nil
}

func (l *lab) setUp(ctx context.Context) (err error) {
	if l.cert, err = newKeyPair(); err != nil {
		return err
	}
	if l.dir, err = os.MkdirTemp("", "slipstream-bench-"); err != nil {
		return err
	}
	if l.ground, err = l.options.ground(ctx, l.scenario.FastOpen); err != nil {
		return err
	}
	here, there := l.ground.near(), l.ground.far()
	if l.scenario.Direction == Outbound {
		return l.outbound(ctx, here, there)
	}
	return l.inbound(ctx, here, there)
}

// outbound: the client is here, and Slipstream beside it; the server is there.
func (l *lab) outbound(ctx context.Context, here, there place) (err error) {
	l.target = netip.AddrPortFrom(there.addr(), smtpPort)
	if l.receiver, err = l.receive(ctx, there, l.target, l.scenario.Channel); err != nil {
		return err
	}
	to, channel := l.target, l.scenario.Channel
	if l.path == Through {
		to, channel = netip.AddrPortFrom(here.addr(), doorPort), Clear
		if l.proxy, err = l.stand(ctx, l.outboundDoor(to)); err != nil {
			return err
		}
	}
	l.sender, err = l.sends(ctx, here, to, channel)
	return err
}

// inbound: the server is here, and Slipstream in front of it; the client is there.
func (l *lab) inbound(ctx context.Context, here, there place) (err error) {
	l.target = netip.AddrPortFrom(here.addr(), smtpPort)
	at, channel := l.target, l.scenario.Channel
	if l.path == Through {
		at, channel = netip.AddrPortFrom(here.addr(), backendPort), Clear
	}
	if l.receiver, err = l.receive(ctx, here, at, channel); err != nil {
		return err
	}
	if l.path == Through {
		config, err := l.inboundDoor(at)
		if err != nil {
			return err
		}
		if l.proxy, err = l.stand(ctx, config); err != nil {
			return err
		}
	}
	l.sender, err = l.sends(ctx, there, l.target, l.scenario.Channel)
	return err
}

// close takes everything down, from the client to the server.
func (l *lab) close() error {
	var errs []error
	if l.sender != nil {
		errs = append(errs, l.sender.stop())
	}
	if l.proxy != nil {
		errs = append(errs, l.proxy.stop())
	}
	if l.receiver != nil {
		errs = append(errs, l.receiver.stop())
	}
	if l.ground != nil {
		errs = append(errs, l.ground.close())
	}
	if l.dir != "" {
		errs = append(errs, os.RemoveAll(l.dir))
	}
	return errors.Join(errs...)
}

func (l *lab) warn(text string) {
	if !slices.Contains(l.warnings, text) {
		l.warnings = append(l.warnings, text)
	}
}

// peers tells who took part, the client first.
func (l *lab) peers() []string { return []string{l.sender.String(), l.receiver.name} }

// prime sends what goes ahead of the messages that count.
func (l *lab) prime(ctx context.Context) error {
	switch l.scenario.State {
	case FirstContact:
		return nil
	case Warm: // a connection of this cell's own, so that the link's notes of others can go
		if err := l.sender.hangUp(); err != nil {
			return err
		}
		if l.proxy != nil {
			if err := l.proxy.renew(ctx); err != nil {
				return err
			}
		}
		l.ground.forget()
	}
	for range primers {
		if _, err := l.send(ctx, small); err != nil {
			return fmt.Errorf("before the first sample: %w", err)
		}
	}
	return nil
}

// A taken sample comes with its picture.
type taken struct {
	Sample
	flights []meter.Flight
	growth  []meter.Point
}

// sample sends one message and has the link say what it cost.
func (l *lab) sample(ctx context.Context, c Cell) (taken, error) {
	if l.scenario.State == FirstContact && l.proxy != nil {
		// A Slipstream that remembers nothing.
		if err := l.proxy.renew(ctx); err != nil {
			return taken{}, err
		}
	}
	if l.scenario.State != Warm {
		l.ground.forget() // a warm connection is known by its beginning
	}
	l.heard.forget()
	begun := time.Now()
	free, err := l.send(ctx, c.Size)
	if err != nil {
		return taken{}, err
	}
	pause(ctx, settle+c.RTT)
	conn, err := l.conversation(begun)
	if err != nil {
		return taken{}, err
	}
	var t taken
	since := begun
	if !conn.Segments[0].At.Before(begun) {
		since = time.Time{} // the message is the first on its connection, so that the SYN counts
	}
	ledger, err := conn.Ledger(since)
	if err != nil {
		return taken{}, err
	}
	t.flights, t.growth = conn.FlightsBetween(since, time.Time{}), conn.GrowthBetween(since, time.Time{})
	l.heard.name(conn, t.flights)
	resumed, _ := conn.Resumed()
	t.Sample = Sample{
		Trips: ledger.Trips(c.RTT), Elapsed: ledger.Elapsed, Free: free, FirstByte: ledger.FirstByte,
		Packets: ledger.Packets, Octets: ledger.Octets, Retransmits: ledger.Retransmits,
		Resumed: resumed, FastOpen: ledger.FastOpen,
	}
	return t, nil
}

// conversation finds the connection that the message went over: of those to the target the one that carried most.
func (l *lab) conversation(begun time.Time) (meter.Conn, error) {
	var best meter.Conn
	most := 0
	segments, err := l.ground.segments()
	if err != nil {
		return best, err
	}
	for _, conn := range meter.Conns(segments) {
		octets := 0
		for _, s := range conn.Segments {
			if s.From == conn.Client && !s.At.Before(begun) {
				octets += s.Len
			}
		}
		if conn.Server == l.target && octets > most {
			best, most = conn, octets
		}
	}
	if most == 0 {
		return best, fmt.Errorf("bench: the message crossed the link on no connection to %v", l.target)
	}
	return best, nil
}

// send sends a message of a size, to a recipient that had none before.
func (l *lab) send(ctx context.Context, size int) (time.Duration, error) {
	l.sent++
	ctx, cancel := context.WithTimeout(ctx, sampleTimeout)
	defer cancel()
	return l.sender.send(ctx, fmt.Sprintf("user%d@%s", l.sent, serverDomain), text(size, l.sent))
}

// text is a message of a size in octets.
func text(size, number int) []byte {
	var b strings.Builder
	fmt.Fprintf(&b, "From: <%s>\r\nTo: <user%d@%s>\r\nSubject: message %d\r\nMessage-ID: <%d.%d@%s>\r\n\r\n",
		envelopeFrom, number, serverDomain, number, size, number, clientName)
	const line = "The quick brown fox jumps over the lazy dog while the packets cross the sea.\r\n"
	for b.Len()+len(line) <= size {
		b.WriteString(line)
	}
	if rest := size - b.Len(); rest > 2 {
		b.WriteString(strings.Repeat("x", rest-2) + "\r\n")
	}
	return []byte(b.String())
}

// capture begins the packet capture of the lab, where one is wanted.
func (l *lab) capture() error {
	if l.options.Capture == "" {
		return nil
	}
	name := strings.ReplaceAll(l.scenario.Name(), "/", "_") + "_" + string(l.path) + ".pcap"
	return l.ground.capture(filepath.Join(l.options.Capture, name))
}

// pause waits, or not any longer once ctx ends.
func pause(ctx context.Context, d time.Duration) {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
	case <-ctx.Done():
	}
}
