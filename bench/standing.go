package bench

import (
	"context"
	"errors"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"slipstream/proxy"
	"slipstream/proxy/resolver"
	"slipstream/tlsstore"
)

// A standing is a Slipstream that stands beside the MTA. It lives in our process, with sockets of its place.
type standing struct {
	config  *proxy.Config
	options proxy.Options
	proxy   *proxy.Proxy
}

// shutdown is how long a Slipstream may take to end.
const shutdown = 2 * time.Second

func (l *lab) stand(ctx context.Context, config *proxy.Config) (*standing, error) {
	here := l.ground.near()
	s := &standing{config: config, options: proxy.Options{
		Log: l.options.Log, Metrics: proxy.NewMetrics(prometheus.NewRegistry()), Resolver: zone{l.ground.far().addr()}, Dial: here.dial, Listen: here.listen,
	}}
	if l.scenario.FastOpen {
		s.options.DialFast = here.dialFast
	}
	if err := s.start(ctx); err != nil {
		return nil, err
	}
	return s, nil
}

func (s *standing) start(ctx context.Context) error {
	if err := s.begin(); err != nil {
		return err
	}
	p, err := proxy.New(s.config, s.options)
	if err != nil {
		return errors.Join(err, s.options.Store.Close())
	}
	if err := p.Start(ctx); err != nil {
		return errors.Join(err, p.Shutdown(ctx), s.options.Store.Close())
	}
	s.proxy = p
	return nil
}

// begin gives it a memory with nothing in it.
func (s *standing) begin() (err error) {
	s.options.Tickets, err = tlsstore.NewTickets(tlsstore.TicketOptions{})
	if err != nil {
		return err
	}
	s.options.Store = tlsstore.New(tlsstore.Memory(), tlsstore.Options{})
	return nil
}

func (s *standing) stop() error {
	if s.proxy == nil {
		return nil
	}
	ctx, cancel := context.WithTimeout(context.Background(), shutdown)
	defer cancel()
	err := errors.Join(s.proxy.Shutdown(ctx), s.options.Store.Close())
	s.proxy = nil
	return err
}

// renew puts another in its place, which knows nothing.
func (s *standing) renew(ctx context.Context) error {
	if err := s.stop(); err != nil {
		return err
	}
	return s.start(ctx)
}

func (l *lab) proxyConfig() *proxy.Config {
	c := proxy.DefaultConfig()
	c.Hostname = proxyName
	c.StateDir, c.SpoolDir = l.dir, l.dir
	return c
}

// outboundDoor is what a configuration with defaults says: mail goes by MX, with TLS where it is offered. TLS on connect
// is not to be had that way, but from a relay.
func (l *lab) outboundDoor(at netip.AddrPort) *proxy.Config {
	out := proxy.DefaultOutbound()
	out.Listen = []string{at.String()}
	out.Allow = proxy.Prefixes{netip.PrefixFrom(at.Addr(), at.Addr().BitLen())}
	if l.scenario.Channel == Implicit {
		out.Route, out.Offer, out.TLS = "", nil, "encrypt"
		out.Relay = proxy.Endpoint{Host: l.target.Addr().String(), Port: smtpPort, TLS: true}
	}
	l.adjust(&out)
	c := l.proxyConfig()
	c.Outbound = []proxy.OutboundConfig{out}
	return c
}

// adjust has an outbound door show what the scenario is about: no connection is kept unless it is to be warm, and Fast
// Open is on where it is on at the other end.
func (l *lab) adjust(out *proxy.OutboundConfig) {
	s := l.scenario
	if s.State != Warm {
		out.PoolIdle = 0
	}
	if s.Channel == Clear && s.State == Known {
		out.TLS = "none" // else the text waits until there is no STARTTLS
	}
	if s.FastOpen {
		out.FastOpen = "commands"
		out.PostQuantum = s.Channel != Implicit // its first message does not fit into a SYN
	}
	if s.FastOpen && s.Channel == Clear {
		out.FastOpen = "message"
	}
}

// inboundDoor stands in front of a backend. The reference server takes mail for anywhere, which is what BackendTrustsUs
// is for.
func (l *lab) inboundDoor(backend netip.AddrPort) (*proxy.Config, error) {
	in := proxy.DefaultInbound()
	in.Auth.Enabled = false // round trips are measured, and there is no DNS at the other end of the link
	in.Listen = []string{l.target.String()}
	in.Backend = proxy.Endpoint{Host: backend.Addr().String(), Port: backend.Port()}
	in.BackendTrustsUs = true
	if l.scenario.Channel.tls() {
		in.TLSCert, in.TLSKey = filepath.Join(l.dir, "cert.pem"), filepath.Join(l.dir, "key.pem")
		if err := os.WriteFile(in.TLSCert, l.cert.cert, 0o600); err != nil {
			return nil, err
		}
		if err := os.WriteFile(in.TLSKey, l.cert.key, 0o600); err != nil {
			return nil, err
		}
	}
	if l.scenario.Channel == Implicit {
		in.Listen, in.ListenTLS = nil, in.Listen
	}
	c := l.proxyConfig()
	c.Inbound = []proxy.InboundConfig{in}
	return c, nil
}

// A zone is the DNS: the one domain that mail goes to, and its mail host at an address. It answers at once.
type zone struct{ server netip.Addr }

func (z zone) MX(_ context.Context, domain string) ([]*net.MX, error) {
	if strings.TrimSuffix(domain, ".") != serverDomain {
		return nil, absent(domain)
	}
	return []*net.MX{{Host: serverName, Pref: 10}}, nil
}

func (z zone) Addrs(_ context.Context, _, host string) ([]netip.Addr, error) {
	if strings.TrimSuffix(host, ".") != serverName {
		return nil, absent(host)
	}
	return []netip.Addr{z.server}, nil
}

func (z zone) LookupPTR(_ context.Context, addr netip.Addr) (resolver.Result[string], error) {
	return resolver.Result[string]{}, absent(addr.String())
}

func absent(name string) error {
	return &net.DNSError{Err: "no such host", Name: name, IsNotFound: true}
}
