package proxy

import (
	"context"
	"crypto/tls"
	"fmt"
	"net"
	"net/netip"
	"os"
	"slices"

	"go.uber.org/zap"

	"slipstream/proxy/route"
	"slipstream/smtpwire"
)

// A plan is what one version of the configuration amounts to: doors, and the
// addresses they are to be found at.
type plan struct {
	config *Config
	doors  []*door
	spools *spools
	ports  []plannedPort
}

type plannedPort struct {
	addr     string
	implicit bool // TLS comes first

	transparent bool // connections to any address are brought there

	door    *door
	inbound *InboundConfig // nil for outbound doors
}

// plan builds the doors of a configuration. It opens nothing.
func (p *Proxy) plan(cfg *Config) (*plan, error) {
	spools := p.spoolsFor(cfg)
	pl := &plan{config: cfg, spools: spools}
	for i := range cfg.Inbound {
		conf := &cfg.Inbound[i]
		d, err := p.inboundDoor(cfg, conf)
		if err != nil {
			return nil, fmt.Errorf("door %q: %w", conf.Name, err)
		}
		d.spools = spools
		pl.doors = append(pl.doors, d)
		for _, addr := range conf.Listen {
			pl.ports = append(pl.ports, plannedPort{addr, false, conf.Transparent, d, conf})
		}
		for _, addr := range conf.ListenTLS {
			pl.ports = append(pl.ports, plannedPort{addr, true, conf.Transparent, d, conf})
		}
	}
	for i := range cfg.Outbound {
		conf := &cfg.Outbound[i]
		d, err := p.outboundDoor(cfg, conf)
		if err != nil {
			return nil, fmt.Errorf("door %q: %w", conf.Name, err)
		}
		d.spools = spools
		pl.doors = append(pl.doors, d)
		for _, addr := range conf.Listen {
			pl.ports = append(pl.ports, plannedPort{addr, false, conf.tproxied(), d, nil})
		}
	}
	return pl, nil
}

// newDoor is what both kinds have in common.
func (p *Proxy) newDoor(cfg *Config, name string, minTLS TLSVersion, roots authorities) *door {
	return &door{
		name: name, hostname: cfg.Hostname,
		limits: &cfg.Limits, times: &cfg.Timeouts,
		log: p.log, metrics: p.metrics, gate: p.gate, wires: p.wires, tap: p.tap, dns: p.dns, done: p.done,
		caller: &caller{
			hostname: cfg.Hostname, dial: p.dial, dialFast: p.fast, times: &cfg.Timeouts,
			roots: roots.pool, minTLS: uint16(minTLS), announce: announceNone, wires: p.wires, isOwn: p.isOwn,
			memory: memory{store: p.store, resume: true, trust: roots.digest, balanced: cfg.Store.LoadBalanced,
				log: p.log.With(zap.String("door", name))},
			door: name, pool: p.pool,
			misled:  func() { p.metrics.misled(name) },
			resumed: func(bits int) { p.metrics.resumed(name, legHop, bits) },
		},
		office: &ticketOffice{tickets: p.tickets, shy: p.shy, hold: cfg.Tickets.Hold, learn: cfg.Tickets.Learn},
	}
}

func (p *Proxy) inboundDoor(cfg *Config, conf *InboundConfig) (*door, error) {
	roots, err := loadRoots(conf.BackendCAFile)
	if err != nil {
		return nil, err
	}
	d := p.newDoor(cfg, conf.Name, tls12, roots)
	d.inbound, d.static = true, true
	d.addReceived, d.allow, d.proxied = conf.AddReceived, conf.Allow, conf.ProxyProtocolFrom
	d.early, d.relays = conf.PipeconnectAdvertiseHosts, conf.passes()
	d.caller.announce, d.caller.warm = conf.ClientAddress, conf.poolLimits()
	d.transparent = conf.Transparent
	if d.caller.spoofs() {
		d.caller.dial, d.caller.dialFast = p.dialAs, nil
	}
	if err := d.useCertificate(conf.TLSCert, conf.TLSKey, conf.TLSMinVersion); err != nil {
		return nil, err
	}
	level, err := route.ParseLevel(conf.BackendTLS)
	if err != nil {
		return nil, err
	}
	static := p.staticRoute(cfg, conf.Backend, level)
	static.ServerName = conf.BackendTLSName
	d.router, d.hopLMTP = static, conf.Backend.LMTP
	d.facts = p.factsFor(conf.Backend.String() + " " + conf.BackendTLS + " " + conf.ClientAddress)
	if d.auth, err = p.newJudge(cfg, conf.Name, &conf.Auth); err != nil {
		return nil, err
	}
	if !conf.BackendTrustsUs {
		d.guard = &guard{why: "the backend has not been asked yet"}
	}
	return d, nil
}

func (p *Proxy) outboundDoor(cfg *Config, conf *OutboundConfig) (*door, error) {
	roots, err := loadRoots(conf.TLSCAFile)
	if err != nil {
		return nil, err
	}
	d := p.newDoor(cfg, conf.Name, conf.TLSMinVersion, roots)
	d.lmtp = conf.Protocol == "lmtp"
	d.attribution = attribution(conf.ReplyAttribution)
	d.split, d.once, d.flights = conf.Split, p.once, &p.flights
	d.pace, d.health = conf.ReplyPace, p.healthFor(conf)
	d.addReceived, d.allow = conf.AddReceived, conf.Allow
	d.caller.sources, d.caller.warm = conf.SourceAddress, conf.poolLimits()
	d.caller.memory.resume = conf.Resume
	d.caller.hostsPipeConnect = conf.HostsPipeConnect
	d.caller.fastOpen = conf.FastOpen
	if !conf.PostQuantum {
		d.caller.curves = []tls.CurveID{tls.X25519, tls.CurveP256, tls.CurveP384}
	}
	d.lateVerdict, d.controlShare, d.connectAhead = conf.LateVerdict, conf.ControlShare, conf.ConnectAhead
	if err := d.useCertificate(conf.TLSCert, conf.TLSKey, conf.TLSMinVersion); err != nil {
		return nil, err
	}
	level, err := route.ParseLevel(conf.TLS)
	if err != nil {
		return nil, err
	}
	family, err := route.ParseFamily(conf.AddressFamily)
	if err != nil {
		return nil, err
	}
	if !conf.Relay.IsZero() {
		static := p.staticRoute(cfg, conf.Relay, level)
		static.Family = family
		d.static, d.hopLMTP = true, conf.Relay.LMTP
		d.router = static
		d.facts = p.factsFor(conf.Relay.String() + " " + conf.TLS)
		return d, nil
	}
	mx := &route.MX{
		Resolver: p.dns, Hostname: cfg.Hostname, IsOwn: p.isOwn,
		Port: uint16(conf.MXPort), Family: family, Level: level, Why: "configured",
	}
	if conf.AllowPrivateDestinations {
		mx.AllowAddr = func(netip.Addr) bool { return true }
	}
	d.router = mx
	if conf.Route == routeOriginal {
		d.intercepts = p.newInterceptor(conf, level)
	}
	d.promised = smtpwire.NewEHLO(cfg.Hostname)
	for _, keyword := range conf.Offer {
		d.promised = d.promised.With(smtpwire.Param{Name: keyword})
	}
	return d, nil
}

func (p *Proxy) staticRoute(cfg *Config, to Endpoint, level route.Level) *route.Static {
	return &route.Static{
		Target:   route.Target{Host: to.Host, Port: to.Port, Unix: to.Path, LMTP: to.LMTP, Implicit: to.TLS},
		Level:    level,
		Why:      "configured",
		Resolver: p.namesFor(cfg),
	}
}

// namesFor looks up the names in the configuration. Where no servers are
// configured that is the system's business, with /etc/hosts and all.
func (p *Proxy) namesFor(cfg *Config) route.Resolver {
	if len(cfg.DNS.Servers) > 0 {
		return p.dns
	}
	return systemNames{p.dns}
}

// systemNames asks the system for addresses.
type systemNames struct{ route.Resolver }

func (systemNames) Addrs(ctx context.Context, network, host string) ([]netip.Addr, error) {
	return net.DefaultResolver.LookupNetIP(ctx, network, host)
}

func (d *door) useCertificate(certFile, keyFile string, minVersion TLSVersion) error {
	if certFile == "" {
		return nil
	}
	cert, err := loadCertificate(certFile, keyFile)
	if err != nil {
		return err
	}
	d.certs, d.tls = cert, cert.serverTLS(minVersion)
	return nil
}

// factsFor keeps what is known about a hop over reloads.
func (p *Proxy) factsFor(about string) *facts {
	p.mu.Lock()
	defer p.mu.Unlock()
	f := p.facts[about]
	if f == nil {
		f = &facts{}
		p.facts[about] = f
	}
	return f
}

// headerShare of the memory for texts, one part in so many, is had for headers besides.
const headerShare = 4

// spoolsFor keeps the memory budget over reloads that do not change it.
func (p *Proxy) spoolsFor(cfg *Config) *spools {
	dir, why := spoolDir(cfg, true)
	p.mu.Lock()
	defer p.mu.Unlock()
	old := p.config
	if p.spools != nil && p.spools.dir == dir && old.SpoolDir == cfg.SpoolDir && old.StateDir == cfg.StateDir &&
		old.Limits.SpoolMemory == cfg.Limits.SpoolMemory && old.Limits.MaxHeaderSize == cfg.Limits.MaxHeaderSize &&
		old.Limits.SpoolMemoryPerMessage == cfg.Limits.SpoolMemoryPerMessage {
		return p.spools
	}
	s := newSpools(dir, int64(cfg.Limits.SpoolMemoryPerMessage), int64(cfg.Limits.SpoolMemory))
	s.headers = newHeaderRoom(int64(cfg.Limits.SpoolMemory)/headerShare, int64(cfg.Limits.MaxHeaderSize))
	if s.why = why; dir == stateSpool(cfg) {
		s.spare = os.TempDir()
	}
	return s
}

// isOwn tells whether one of our own doors is at an address: mail for there
// would come back to us for ever.
func (p *Proxy) isOwn(addr netip.AddrPort) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	for _, port := range p.ports {
		own := addrPort(port.ln.Addr())
		if own.Port() != addr.Port() {
			continue
		}
		if own.Addr() == addr.Addr().Unmap() || own.Addr().IsUnspecified() && isLocal(addr.Addr()) {
			return true
		}
	}
	return false
}

// isLocal tells whether an address is one of this machine's.
func isLocal(addr netip.Addr) bool {
	addr = addr.Unmap().WithZone("")
	if addr.IsLoopback() || addr.IsUnspecified() {
		return true
	}
	addrs, err := net.InterfaceAddrs()
	if err != nil {
		return false // then only Received fields stop a loop
	}
	return slices.ContainsFunc(addrs, func(a net.Addr) bool {
		prefix, err := netip.ParsePrefix(a.String())
		return err == nil && prefix.Addr().Unmap() == addr
	})
}
