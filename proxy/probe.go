package proxy

import (
	"cmp"
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"slices"
	"strings"
	"time"

	"slipstream/proxy/route"
	"slipstream/smtpwire"
)

// How a probe secures the connection.
const (
	ProbeAuto     = "auto"     // implicit on port 465 (RFC 8314), else STARTTLS where it is offered
	ProbeStartTLS = "starttls" // a host without STARTTLS is a failure
	ProbeImplicit = "implicit" // TLS before the greeting
	ProbeNone     = "none"
)

// portSubmissions is where TLS comes first:
// https://www.rfc-editor.org/rfc/rfc8314#section-7.3
const portSubmissions = 465

// ProbeOptions say how to probe. The zero value of each field but Resolver means
// what its comment says.
type ProbeOptions struct {
	Resolver route.Resolver
	Dial     DialFunc       // nil: the network
	Helo     string         // what we call ourselves in EHLO; "": "localhost"
	TLS      string         // ProbeAuto and so on; "": ProbeAuto
	Timeout  time.Duration  // for one host; 0: 30 s
	Roots    *x509.CertPool // the authorities to believe; nil: the system's
}

const (
	probeTimeout = 30 * time.Second
	probeNoops   = 3 // commands that only measure the trip
)

// ProbeHost connects to one host and finds out what it offers and how far away
// it is. It says EHLO, STARTTLS, NOOP and QUIT and never begins a transaction.
// Whatever fails is told in the report, next to what was learned before.
func ProbeHost(ctx context.Context, host string, port uint16, o ProbeOptions) ProbeReport {
	report := newProbeReport(host)
	ctx, cancel := context.WithTimeout(ctx, cmp.Or(o.Timeout, probeTimeout))
	defer cancel()
	to := &route.Static{Target: route.Target{Host: host, Port: port}, Resolver: o.Resolver}
	r, err := to.Route(ctx, smtpwire.Path{}, smtpwire.Path{})
	if err != nil {
		report.Failure = err.Error()
		return report
	}
	report.run(ctx, r.Hosts[0], o)
	return report
}

// ProbeMX probes the mail exchangers of a domain, best first, each at the first
// of its addresses that answers. It fails where a message to the domain would
// find no route; a [*route.Error] says why.
func ProbeMX(ctx context.Context, domain string, port uint16, o ProbeOptions) ([]ProbeReport, error) {
	to := &route.MX{Resolver: o.Resolver, Port: port, AllowAddr: func(netip.Addr) bool { return true }}
	lookUp, cancel := context.WithTimeout(ctx, cmp.Or(o.Timeout, probeTimeout))
	defer cancel()
	r, err := to.Route(lookUp, smtpwire.Path{}, smtpwire.Path{Local: "postmaster", Domain: domain})
	if err != nil {
		return nil, err
	}
	reports := make([]ProbeReport, len(r.Hosts))
	for i, host := range r.Hosts {
		reports[i] = newProbeReport(host.Name)
		hostCtx, cancel := context.WithTimeout(ctx, cmp.Or(o.Timeout, probeTimeout))
		reports[i].run(hostCtx, host, o)
		cancel()
	}
	return reports, nil
}

// A probe is one conversation that fills a report.
type probe struct {
	*ProbeReport
	p     *peer
	o     ProbeOptions
	label string // the host and the address that answered
	name  string // which the certificate must hold
}

func (r *ProbeReport) run(ctx context.Context, host route.Host, o ProbeOptions) {
	b := probe{ProbeReport: r, o: o, name: cmp.Or(host.Policy.ServerName, host.Name)}
	conn, err := b.connect(ctx, host)
	if err == nil {
		err = b.converse(ctx, conn)
	}
	if errors.Is(err, errCut) {
		err = context.Cause(ctx)
	}
	if err != nil {
		r.Failure = err.Error()
	}
}

func (b *probe) connect(ctx context.Context, host route.Host) (net.Conn, error) {
	limit := cmp.Or(b.o.Timeout, probeTimeout)
	c := caller{dial: b.o.Dial, times: &TimeoutsConfig{Connect: limit}}
	if c.dial == nil {
		c.dial = netDial
	}
	took := make([]time.Duration, len(host.Addrs)) // each element is written by its own attempt
	i, conn, err := race(ctx, len(host.Addrs), func(ctx context.Context, i int) (net.Conn, error) {
		start := time.Now()
		defer func() { took[i] = time.Since(start) }()
		return c.dialNamed(ctx, c.dial, hopLabel(host.Name, host.Addrs[i]), "tcp", netip.Addr{}, host.Addrs[i].String())
	})
	if err != nil {
		return nil, err
	}
	b.Address, b.label = host.Addrs[i].String(), hopLabel(host.Name, host.Addrs[i])
	b.Trip.Connect = Millis(took[i])
	return conn, nil
}

// converse walks the conversation that ends before MAIL.
func (b *probe) converse(ctx context.Context, conn net.Conn) error {
	limit := cmp.Or(b.o.Timeout, probeTimeout)
	b.p = newPeer(conn, b.label, false, &TimeoutsConfig{
		Greeting: limit, PeerCommand: limit, TLSHandshake: limit, Quit: time.Second,
	})
	b.p.end, _ = ctx.Deadline()
	defer context.AfterFunc(ctx, func() {
		if ctx.Err() == context.Canceled { // a deadline ends the wait by itself, and names it
			b.p.wire.cut()
		}
	})()
	defer b.p.quit()
	how := b.how(addrPort(conn.RemoteAddr()).Port())
	if how == ProbeImplicit {
		if err := b.secure(how, func(conf *tls.Config) error { return b.p.handshake(ctx, conf, false) }); err != nil {
			return err
		}
	}
	start := time.Now()
	if err := b.p.greet(); err != nil {
		return err
	}
	b.Greeting, b.GreetingAfter = b.p.banner, Millis(time.Since(start))
	if err := b.hello(); err != nil {
		return err
	}
	b.EHLO = keywords(b.p.pipe.EHLO())
	if how != ProbeImplicit && how != ProbeNone {
		if err := b.startTLS(ctx, how); err != nil {
			return err
		}
	}
	b.judge()
	return b.measure()
}

// how settles in which way the connection is to be secured.
func (b *probe) how(port uint16) string {
	how := cmp.Or(b.o.TLS, ProbeAuto)
	if how == ProbeAuto && port == portSubmissions {
		return ProbeImplicit
	}
	return how
}

// hello says EHLO, and times it.
func (b *probe) hello() error {
	start := time.Now()
	if err := b.p.hello(cmp.Or(b.o.Helo, "localhost")); err != nil {
		return err
	}
	b.Trip.Samples = append(b.Trip.Samples, Millis(time.Since(start)))
	return nil
}

func (b *probe) startTLS(ctx context.Context, how string) error {
	if !b.p.has("STARTTLS") {
		if how == ProbeStartTLS {
			return &policyError{hop: b.label, why: "STARTTLS is not offered"}
		}
		return nil
	}
	err := b.secure(ProbeStartTLS, func(conf *tls.Config) error { return b.p.startTLS(ctx, func() *tls.Config { return conf }) })
	if err != nil {
		return err
	}
	if err := b.hello(); err != nil {
		return err
	}
	b.EHLOInTLS = keywords(b.p.pipe.EHLO())
	return nil
}

// secure negotiates TLS and reports on it. Any certificate will do; whether it
// is good is part of the report.
func (b *probe) secure(how string, negotiate func(*tls.Config) error) error {
	report := &ProbeTLS{How: how}
	conf := &tls.Config{
		ServerName: b.name,
		MinVersion: tls.VersionTLS10, // the report tells what is spoken, however old
		// The certificate is judged below.
		InsecureSkipVerify: true,
		VerifyConnection: func(state tls.ConnectionState) error {
			report.describe(state, b.name, b.o.Roots)
			return nil
		},
	}
	start := time.Now()
	if err := negotiate(conf); err != nil {
		return err
	}
	report.Took = Millis(time.Since(start))
	b.TLS = report
	return nil
}

func (t *ProbeTLS) describe(state tls.ConnectionState, name string, roots *x509.CertPool) {
	t.version = state.Version
	t.Version = tls.VersionName(state.Version)
	t.Cipher = tls.CipherSuiteName(state.CipherSuite)
	if len(state.PeerCertificates) == 0 {
		t.Problem = "there is no certificate"
		return
	}
	leaf := state.PeerCertificates[0]
	t.Subject, t.Issuer = leaf.Subject.String(), leaf.Issuer.String()
	t.Names = slices.Clone(leaf.DNSNames)
	for _, ip := range leaf.IPAddresses {
		t.Names = append(t.Names, ip.String())
	}
	t.NotBefore, t.NotAfter = leaf.NotBefore, leaf.NotAfter
	if err := verifyChain(state.PeerCertificates, name, roots); err != nil {
		t.Problem = err.Error()
		return
	}
	t.Verified = true
}

// verifyChain tells why a chain of certificates is not good for a name.
func verifyChain(chain []*x509.Certificate, name string, roots *x509.CertPool) error {
	if len(chain) == 0 {
		return errors.New("there is no certificate")
	}
	intermediates := x509.NewCertPool()
	for _, cert := range chain[1:] {
		intermediates.AddCert(cert)
	}
	_, err := chain[0].Verify(x509.VerifyOptions{DNSName: name, Roots: roots, Intermediates: intermediates})
	return err
}

// judge says what the offer amounts to.
func (b *probe) judge() {
	offer := b.p.pipe.EHLO()
	for _, x := range smtpwire.Extensions() {
		switch {
		case slices.ContainsFunc(append(x.Aliases, x.Keyword), offer.Has):
			b.Offers = append(b.Offers, x.Keyword)
		case slices.Contains(strings.Fields(worthOffering), x.Keyword):
			b.Lacks = append(b.Lacks, x.Keyword)
		}
	}
	var version uint16
	how := ProbeNone
	if b.TLS != nil {
		version, how = b.TLS.version, b.TLS.How
	}
	b.Cost = costOf(offer, how, version)
}

// worthOffering are the extensions whose absence is worth a word.
const worthOffering = "PIPELINING PIPECONNECT ENHANCEDSTATUSCODES CHUNKING SIZE LIMITS 8BITMIME SMTPUTF8 DSN REQUIRETLS"

// measure adds a few trips that the other side need not think about.
func (b *probe) measure() error {
	for range probeNoops {
		start := time.Now()
		if _, err := b.p.one("measuring the trip (NOOP)", b.p.times.PeerCommand, smtpwire.Command{Verb: smtpwire.VerbNoop}); err != nil {
			return err
		}
		b.Trip.Samples = append(b.Trip.Samples, Millis(time.Since(start)))
	}
	sorted := slices.Sorted(slices.Values(b.Trip.Samples))
	b.Trip.Median = sorted[(len(sorted)-1)/2]
	return nil
}

// keywords lists an offer as it came, one extension each.
func keywords(e smtpwire.EHLO) []string {
	list := []string{}
	for _, p := range e.Keywords() {
		list = append(list, strings.TrimSpace(fmt.Sprintf("%s %s", p.Name, p.Value)))
	}
	return list
}
