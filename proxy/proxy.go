package proxy

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"math/rand/v2"
	"net"
	"os"
	"path/filepath"
	"sync"
	"sync/atomic"
	"time"

	"go.uber.org/zap"

	"slipstream/proxy/once"
	"slipstream/tlsstore"
)

// Options are the parts that a Proxy is wired to. The zero value of each field
// but Resolver and Metrics means the real thing.
type Options struct {
	Log      *zap.Logger // nil: no log
	Metrics  *Metrics
	Resolver Resolver

	// AuthDNS answers what is asked about the senders of inbound mail, which is
	// what strangers choose. One of its own keeps them from pushing the mail hosts
	// of outbound mail out of memory, or its questions out of their turn. nil:
	// Resolver, which must be one then.
	AuthDNS AuthDNS

	// Dial opens connections to hops. nil: [net.Dialer].
	Dial DialFunc

	// DialFast opens connections on which we speak first: what is written first
	// may ride in the SYN, and failures may show no sooner than at the first
	// read. nil: TCP Fast Open where Dial is nil too, else there is none.
	DialFast DialFunc

	// Listen opens a door's address, given as "host:port". nil: [net.ListenConfig].
	// A listener of the kernel's is told to take data in SYNs where its door does.
	Listen func(ctx context.Context, addr string) (net.Listener, error)

	// Store keeps TLS sessions of hops. nil: none are kept. It must outlive the
	// proxy.
	Store *tlsstore.Store

	// Once remembers outcomes of outbound mail that its sender did not hear as they
	// were; nil: nobody does. It must outlive the proxy.
	Once *once.Memory

	// Tickets let clients resume their TLS sessions; nil: they cannot. Shy knows
	// who gets none; nil: nobody.
	Tickets *tlsstore.Tickets
	Shy     *tlsstore.Shy

	// Version is what reports on mail say that they were made by, after the name.
	Version string

	// Done hears of every transaction when it is over, on the session's
	// goroutine: it must be quick. nil: nobody does.
	Done func(Summary)
}

// A Proxy is the service: its doors and what they share.
type Proxy struct {
	log     *zap.Logger
	metrics *Metrics
	dns     Resolver
	version string
	authDNS AuthDNS // nil: mail cannot be judged
	dial    DialFunc
	dialAs  DialFunc // from addresses that are not ours
	fast    DialFunc // nil: there is no Fast Open
	listen  func(ctx context.Context, addr string) (net.Listener, error)
	done    func(Summary)
	store   *tlsstore.Store
	once    *once.Memory
	flights once.Flights
	tickets *tlsstore.Tickets
	shy     *tlsstore.Shy

	pool     *pool
	tap      *tap
	health   *health
	gate     *gate
	goodbyes chan struct{} // one for each client that is being turned away
	wires    *wireSet
	ids      atomic.Uint64

	base   context.Context // of every session; ends when a shutdown cuts them
	cancel context.CancelFunc
	work   sync.WaitGroup  // every goroutine of ours
	ending context.Context // ends as soon as a shutdown begins
	end    context.CancelFunc
	reload sync.Mutex // one reload at a time
	office office     // what clerks file into; guarded by reload

	mu       sync.Mutex
	config   *Config
	doors    []*door
	ports    map[string]*port
	facts    map[string]*facts
	spools   *spools
	sessions map[*session]struct{}
	stopping bool
	watching context.CancelFunc // ends the questions to backends of the plan in force
}

// A port is one address that a door is found at. A reload may put another door
// behind it; who is inside keeps the old one.
type port struct {
	ln  net.Listener
	way atomic.Pointer[way]
}

// A way is what is behind a port.
type way struct {
	door     *door
	implicit bool // TLS comes first
}

// New makes a Proxy from a configuration as [LoadConfig] returns it. It reads
// certificates and opens nothing; [Proxy.Start] does.
func New(cfg *Config, o Options) (*Proxy, error) {
	p := &Proxy{
		log: o.Log, metrics: o.Metrics, dns: o.Resolver, authDNS: o.AuthDNS, version: o.Version, dial: o.Dial, fast: o.DialFast, listen: o.Listen, done: o.Done,
		store: o.Store, once: o.Once, tickets: o.Tickets, shy: o.Shy,
		pool: newPool(cfg.Limits.MaxIdleConnections, o.Metrics),
		gate: newGate(), goodbyes: make(chan struct{}, maxGoodbyes), wires: newWireSet(),
		ports: make(map[string]*port), facts: make(map[string]*facts), sessions: make(map[*session]struct{}),
		config: cfg,
	}
	if p.authDNS == nil {
		p.authDNS, _ = o.Resolver.(AuthDNS)
	}
	if p.log == nil {
		p.log = zap.NewNop()
	}
	p.tap = newTap(p.log, p.metrics)
	if p.dial == nil && p.fast == nil {
		p.fast = netDialFast
	}
	p.dialAs = p.dial
	if p.dial == nil {
		p.dial, p.dialAs = netDial, netDialAs
	}
	if p.listen == nil {
		p.listen = netListen
	}
	if p.metrics != nil {
		p.metrics.shy.Store(p.shy)
	}
	p.ids.Store(rand.Uint64())
	p.pool.places = p.newPlaces(cfg.Limits)
	p.health = newHealth(p.log, p.metrics, p.pool.places)
	p.base, p.cancel = context.WithCancel(context.Background())
	p.ending, p.end = context.WithCancel(p.base)
	if _, err := p.plan(cfg); err != nil {
		return nil, err
	}
	return p, nil
}

// Start asks the backends, opens the doors and serves until [Proxy.Shutdown].
// It fails where an address cannot be opened, and with a [*RelayError] where a
// backend would be an open relay behind us. A backend that does not answer yet
// is asked again and again; until it answers, its door says 421.
func (p *Proxy) Start(ctx context.Context) error {
	return p.apply(ctx, p.config)
}

// Reload puts a new configuration and certificates into force. No session is
// dropped: who is inside goes on under the old one. On error nothing changes.
func (p *Proxy) Reload(ctx context.Context, cfg *Config) error {
	return p.apply(ctx, cfg)
}

func (p *Proxy) apply(ctx context.Context, cfg *Config) error {
	p.reload.Lock()
	defer p.reload.Unlock()
	pl, err := p.plan(cfg)
	if err != nil {
		return err
	}
	unanswered, err := p.firstProbe(ctx, pl)
	if err != nil {
		return err
	}
	opened, err := p.openPorts(ctx, pl)
	if err != nil {
		return err
	}
	if p.ending.Err() != nil {
		closePorts(opened)
		return errors.New("the service is shutting down")
	}
	p.hire(pl)
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.stopping {
		closePorts(opened)
		return errors.New("the service is shutting down")
	}
	p.install(pl, opened)
	p.watchBackends(pl, unanswered)
	return nil
}

// firstProbe asks every known next hop once, side by side. It returns the doors
// whose hop gave no answer.
func (p *Proxy) firstProbe(ctx context.Context, pl *plan) ([]*door, error) {
	errs := make([]error, len(pl.doors))
	var wg sync.WaitGroup
	for i, d := range pl.doors {
		if d.static {
			wg.Go(func() { errs[i] = d.probe(ctx, pl.inbound(d)) })
		}
	}
	wg.Wait()
	var unanswered []*door
	for i, d := range pl.doors {
		var relays *RelayError
		switch {
		case !d.static:
		case errors.As(errs[i], &relays):
			return nil, errs[i]
		case !d.judge(errs[i]):
			unanswered = append(unanswered, d)
		}
	}
	return unanswered, nil
}

// inbound finds the configuration of an inbound door.
func (pl *plan) inbound(d *door) *InboundConfig {
	for i := range pl.config.Inbound {
		if conf := &pl.config.Inbound[i]; d.inbound && conf.Name == d.name {
			return conf
		}
	}
	return nil
}

// openPorts opens the addresses of a plan that are not open yet.
func (p *Proxy) openPorts(ctx context.Context, pl *plan) (map[string]*port, error) {
	opened := make(map[string]*port)
	for _, pp := range pl.ports {
		p.mu.Lock()
		have := p.ports[pp.addr]
		p.mu.Unlock()
		if have == nil {
			ln, err := p.listen(ctx, pp.addr)
			if err != nil {
				closePorts(opened)
				return nil, fmt.Errorf("door %q cannot open %s: %w%s", pp.door.name, pp.addr, err, p.heldByUs(pp.addr))
			}
			have = &port{ln: ln}
			opened[pp.addr] = have
		}
		if err := pp.openUp(have); err != nil {
			closePorts(opened)
			return nil, err
		}
	}
	return opened, nil
}

// heldByUs explains why an address may be taken by ourselves: from ":25" to
// "192.0.2.1:25" and back there is no way without closing the one before.
func (p *Proxy) heldByUs(addr string) string {
	_, number, err := net.SplitHostPort(addr)
	if err != nil || number == "0" {
		return ""
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	for own := range p.ports {
		if _, n, err := net.SplitHostPort(own); err == nil && n == number {
			return " (a door of ours is open at " + own + "; this change needs a restart)"
		}
	}
	return ""
}

func closePorts(ports map[string]*port) {
	for _, port := range ports {
		_ = port.ln.Close()
	}
}

// install puts a plan into force. Called with p.mu held.
func (p *Proxy) install(pl *plan, opened map[string]*port) {
	wanted := make(map[string]*port)
	for _, pp := range pl.ports {
		pt := p.ports[pp.addr]
		if pt == nil {
			pt = opened[pp.addr]
		}
		offerFastOpen(pt.ln, pp.inbound != nil && pp.inbound.FastOpen)
		pt.way.Store(&way{pp.door, pp.implicit})
		wanted[pp.addr] = pt
	}
	for addr, pt := range p.ports {
		if wanted[addr] == nil {
			_ = pt.ln.Close()
			p.log.Info("not listening any more", zap.String("listen", addr))
		}
	}
	for _, d := range p.doors {
		p.pool.forget(d.caller)
	}
	p.pool.resize(pl.config.Limits.MaxIdleConnections)
	p.pool.places.resize(hopConnections(pl.config.Limits))
	p.config, p.doors, p.ports, p.spools = pl.config, pl.doors, wanted, pl.spools
	p.checkSpool()
	p.tap.use(pl.config)
	p.prepareMetrics()
	for addr, pt := range opened {
		p.log.Info("listening", zap.String("door", pt.way.Load().door.name), zap.String("listen", addr))
		p.work.Go(func() { p.accept(pt) })
	}
}

// watchBackends goes on asking the backends that gave no answer, instead of
// those of the plan before. Called with p.mu held.
func (p *Proxy) watchBackends(pl *plan, unanswered []*door) {
	if p.watching != nil {
		p.watching()
	}
	ctx, cancel := context.WithCancel(p.base)
	p.watching = cancel
	for _, d := range unanswered {
		p.work.Go(func() { d.watch(ctx, pl.inbound(d)) })
	}
}

// Addrs returns the addresses that a door is found at, as the system gave them.
func (p *Proxy) Addrs(door string) []net.Addr {
	p.mu.Lock()
	defer p.mu.Unlock()
	var addrs []net.Addr
	for _, pt := range p.ports {
		if pt.way.Load().door.name == door {
			addrs = append(addrs, pt.ln.Addr())
		}
	}
	return addrs
}

// Ready tells whether every door is open, and if not, why.
func (p *Proxy) Ready() error {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.stopping {
		return errors.New("shutting down")
	}
	if len(p.ports) == 0 {
		return errors.New("not started")
	}
	for _, d := range p.doors {
		if d.guard == nil {
			continue
		}
		if ok, why := d.guard.open(); !ok {
			return fmt.Errorf("door %q is shut: %s", d.name, why)
		}
	}
	return nil
}

// cutGrace is how long sessions have to end once their waits were cut.
const cutGrace = 10 * time.Second

// Shutdown closes the doors. Idle sessions hear 421; transactions under way may
// finish until ctx ends, then they are cut (their senders hear 421 or nothing,
// and try again). It returns when nothing of ours runs any more.
func (p *Proxy) Shutdown(ctx context.Context) error {
	p.end()
	p.mu.Lock()
	p.stopping = true
	closePorts(p.ports)
	if p.watching != nil {
		p.watching()
	}
	for s := range p.sessions {
		s.drain()
	}
	p.mu.Unlock()
	done := make(chan struct{})
	go func() { // ends with the last session
		p.work.Wait()
		close(done)
	}()
	var err error
	select {
	case <-done:
	case <-ctx.Done():
		err = ctx.Err()
		p.cancel()
		p.wires.cutAll()
		select {
		case <-done:
		case <-time.After(cutGrace):
			err = fmt.Errorf("%w; sessions hang on", err)
		}
	}
	p.tap.close()
	p.pool.close(ctx)
	p.reload.Lock()
	p.closeClerks()
	p.reload.Unlock()
	p.cancel()
	return err
}

// checkSpool warns where large bodies will find no room, or not the room that
// was meant for them. Called with p.mu held.
func (p *Proxy) checkSpool() {
	dir := p.spools.dir
	if dir != p.config.SpoolDir && dir != stateSpool(p.config) {
		p.log.Warn("the state directory cannot be used; large messages are spooled elsewhere",
			zap.String("state_dir", p.config.StateDir), zap.String("spool", dir), zap.Error(p.spools.why))
	}
	if err := canSpool(dir); err != nil {
		p.log.Warn("the spool directory cannot be written to; large messages hear 452",
			zap.String("spool", dir), zap.Error(err))
	}
}

// prepareMetrics makes every counter of every door appear at once, so that the
// first event is seen as an increase. Called with p.mu held.
func (p *Proxy) prepareMetrics() {
	for _, d := range p.doors {
		p.metrics.prepare(d.name)
		if d.relays.auth {
			p.metrics.relay.prepare(d.name)
		}
	}
}

// stateSpool is the directory for large bodies where none is configured.
func stateSpool(cfg *Config) string { return filepath.Join(cfg.StateDir, "spool") }

// spoolDir is where large bodies go: the directory that is configured, one under
// the state directory, or the system's where that cannot be written to; why says
// so then. Unless it may be made, a directory that is missing is judged by the
// one that it would be made in.
func spoolDir(cfg *Config, mayMake bool) (dir string, why error) {
	if cfg.SpoolDir != "" {
		return cfg.SpoolDir, nil
	}
	dir = stateSpool(cfg)
	if mayMake {
		why = soon(dir, func() error { return makeSpool(cfg.StateDir, dir) })
	}
	if why == nil {
		why = canSpool(dir)
	}
	if !mayMake && errors.Is(why, fs.ErrNotExist) {
		why = soon(dir, func() error { return writable(parentOf(dir)) })
	}
	if why != nil {
		return os.TempDir(), why
	}
	return dir, nil
}

// makeSpool makes the directory for large bodies. What root makes in a directory
// of somebody else is theirs, since the service may be meant to run as they.
func makeSpool(stateDir, dir string) error {
	_, err := os.Lstat(dir)
	if errors.Is(err, fs.ErrNotExist) {
		if err := os.MkdirAll(dir, 0o700); err != nil {
			return err
		}
		giveTo(stateDir, dir)
		return nil
	}
	return err
}

// spoolWait is how long a disk may take to show that a file can be made on it.
const spoolWait = 5 * time.Second

// canSpool does what a spool will do.
func canSpool(dir string) error {
	return soon(dir, func() error {
		f, err := unnamedFile(dir)
		if err != nil {
			return inDir(dir, err)
		}
		return f.Close()
	})
}

// soon waits for f no longer than spoolWait: a disk that hangs is of no use.
func soon(dir string, f func() error) error {
	done := make(chan error, 1)
	go func() { done <- f() }() // ends when the disk answers
	timer := time.NewTimer(spoolWait)
	defer timer.Stop()
	select {
	case err := <-done:
		return err
	case <-timer.C:
		return fmt.Errorf("%s: no answer from the disk within %v", dir, spoolWait)
	}
}
