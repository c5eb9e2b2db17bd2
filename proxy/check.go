package proxy

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"os"
	"os/user"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"time"

	"slipstream/proxy/intercept"
	"slipstream/smtpwire"
)

// A State is how a check came out.
type State int

const (
	Fine     State = iota // "ok"
	Doubtful              // "warn": it works, but not as it could
	Failed                // "fail": mail would suffer
)

// String returns "ok", "warn" or "fail".
func (s State) String() string { return [...]string{"ok", "warn", "fail"}[s] }

// A Finding is what one check found.
type Finding struct {
	State State
	About string // one word: "certificate", "port"
	Text  string // what was found and, unless all is fine, what to do
}

// CheckOptions are what [Check] is wired to.
type CheckOptions struct {
	Resolver Resolver // nil: names are not looked up
	Offline  bool     // nobody is connected to and nothing is looked up
	Now      time.Time

	// Run runs nft, to see whether the rules for intercepted connections are in
	// force; nil: that is not looked at. Tracks tells whether the kernel tracks
	// connections; nil: it is asked.
	Run    intercept.Runner
	Tracks func() bool

	// Dial and Listen are as in [Options].
	Dial   DialFunc
	Listen func(ctx context.Context, addr string) (net.Listener, error)
}

// Check tries what a service with this configuration needs, before it is
// started or beside one that runs, and reports each finding as it is made. It
// sends no message and leaves nothing behind.
func Check(ctx context.Context, cfg *Config, o CheckOptions, report func(Finding)) {
	if o.Now.IsZero() {
		o.Now = time.Now()
	}
	c := &check{cfg: cfg, CheckOptions: o, report: report}
	c.user()
	c.files()
	c.capability()
	c.intercepted(ctx)
	c.spool()
	c.tap()
	for i := range cfg.Inbound {
		d := &cfg.Inbound[i]
		c.certificate(d.Name, d.TLSCert, d.TLSKey)
		c.authorities(d.Name, d.BackendCAFile)
		c.ports(ctx, d.Name, append(slices.Clone(d.Listen), d.ListenTLS...))
		c.auth(d)
	}
	for i := range cfg.Outbound {
		d := &cfg.Outbound[i]
		c.certificate(d.Name, d.TLSCert, d.TLSKey)
		c.authorities(d.Name, d.TLSCAFile)
		c.ports(ctx, d.Name, d.Listen)
	}
	if bits, ok := fastOpenBits(); ok {
		c.fastOpen(bits)
	}
	c.admin(ctx)
	if !o.Offline {
		c.dns(ctx)
		c.authDNS(ctx)
		c.hops(ctx)
	}
	c.reports(ctx)
}

type check struct {
	cfg *Config
	CheckOptions
	report func(Finding)

	toldUnit bool // what the unit has to say about capabilities
}

func (c *check) say(s State, about, format string, args ...any) {
	c.report(Finding{State: s, About: about, Text: fmt.Sprintf(format, args...)})
}

// user warns that root sees other permissions than the service will.
func (c *check) user() {
	if os.Geteuid() != 0 {
		return
	}
	c.say(Fine, "user", "root, which may open everything; to see what the service may, run this as its user")
}

func (c *check) files() {
	limit, err := OpenFiles(c.cfg.Limits)
	switch {
	case err != nil:
		c.say(Doubtful, "files", "%v", err)
	case !limit.Enough():
		c.say(Doubtful, "files", "%v", limit)
	default:
		c.say(Fine, "files", "%v", limit)
	}
}

// admin checks the address of the admin socket.
func (c *check) admin(ctx context.Context) {
	listen := c.cfg.Admin.Listen
	if listen == "" {
		return
	}
	path, local := strings.CutPrefix(listen, "unix:")
	if !local {
		c.ports(ctx, "admin", []string{listen})
		return
	}
	err := replaceable(path)
	if err == nil {
		err = writable(filepath.Dir(path))
	}
	switch {
	case errors.Is(err, errSocketHeld) && !c.Offline && isAdmin(ctx, path):
		c.say(Fine, "admin", "%s is open already, by a service that runs", path)
	case err != nil:
		c.say(Failed, "admin", "%s cannot be opened: %v; correct that, or change admin.listen", path, err)
	default:
		c.say(Fine, "admin", "%s can be opened", path)
	}
}

// isAdmin asks what listens on a socket whether it is the admin socket of a
// service like us.
func isAdmin(ctx context.Context, path string) bool {
	ctx, cancel := context.WithTimeout(ctx, time.Second)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://admin/healthz", nil)
	if err != nil {
		return false
	}
	transport := &http.Transport{
		DisableKeepAlives:      true,
		MaxResponseHeaderBytes: adminHeader,
		DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
			var d net.Dialer
			return d.DialContext(ctx, "unix", path)
		},
	}
	resp, err := transport.RoundTrip(req)
	if err != nil {
		return false
	}
	_ = resp.Body.Close() // its header says it all
	return resp.Header.Get("Server") == adminServer
}

// dns asks for our own name: any answer shows that there are servers, and the
// answer itself matters to receivers that look a HELO name up.
func (c *check) dns(ctx context.Context) {
	if c.Resolver == nil {
		return
	}
	name := c.cfg.Hostname
	addrs, err := c.Resolver.Addrs(ctx, "ip", name)
	var dnsErr *net.DNSError
	switch {
	case err == nil && len(addrs) > 0:
		c.say(Fine, "dns", "the servers answer: %s is %s", name, listOf(addrs))
	case err == nil || errors.As(err, &dnsErr) && dnsErr.IsNotFound:
		c.say(Doubtful, "dns", "the servers answer, but %s has no address there, and many receivers refuse mail from such a HELO name; "+
			"add an address record or correct hostname", name)
	case c.needsNames():
		c.say(Failed, "dns", "no answer about %s: %v; correct servers in [dns] or the system's resolv.conf", name, err)
	default:
		c.say(Doubtful, "dns", "no answer about %s: %v; the doors as configured need none", name, err)
	}
}

func listOf[T fmt.Stringer](values []T) string {
	var words []string
	for _, v := range values {
		words = append(words, v.String())
	}
	return strings.Join(words, ", ")
}

// needsNames tells whether a door cannot work without the DNS.
func (c *check) needsNames() bool {
	return slices.ContainsFunc(c.cfg.Outbound, func(d OutboundConfig) bool {
		return d.Route == routeMX || d.Route == routeOriginal && d.TLS == "verify" || needsName(d.Relay)
	}) ||
		slices.ContainsFunc(c.cfg.Inbound, func(d InboundConfig) bool {
			return needsName(d.Backend) || namesClients(d.ClientAddress) || d.Auth.Enabled
		})
}

func needsName(e Endpoint) bool { return e.Host != "" && net.ParseIP(e.Host) == nil }

// hops connects to every next hop that is known beforehand.
func (c *check) hops(ctx context.Context) {
	bare := *c.cfg
	bare.Inbound, bare.Outbound = nil, nil
	bare.SpoolDir = os.TempDir() // nothing is spooled, and no directory is to be made
	p, err := New(&bare, Options{Resolver: c.Resolver, Dial: c.Dial})
	if err != nil {
		c.say(Failed, "backend", "%v", err)
		return
	}
	defer p.cancel()
	for _, conf := range c.cfg.Inbound { // a copy
		conf.TLSCert, conf.TLSKey = "", "" // judged above, and of no use here
		conf.Auth.Enabled = false          // likewise
		d, err := p.inboundDoor(c.cfg, &conf)
		c.hop(ctx, d, &conf, "backend", conf.Backend, err)
		if err == nil {
			c.spoof(ctx, &conf, d)
		}
	}
	for _, conf := range c.cfg.Outbound {
		if conf.Relay.IsZero() {
			continue
		}
		conf.TLSCert, conf.TLSKey = "", ""
		d, err := p.outboundDoor(c.cfg, &conf)
		c.hop(ctx, d, nil, "relay", conf.Relay, err)
	}
}

// hop asks one next hop as a start of the service would.
func (c *check) hop(ctx context.Context, d *door, conf *InboundConfig, about string, to Endpoint, err error) {
	if err != nil {
		c.say(Failed, about, "%v", err)
		return
	}
	err = d.probe(ctx, conf)
	var relays *RelayError
	switch {
	case errors.As(err, &relays):
		c.say(Failed, about, "%v", err)
	case errors.Is(err, errNoVerdict):
		c.say(Doubtful, about, "%s: %s: %v; the door would open and the backend be asked again", d.name, to, err)
	case err != nil:
		announce := announceNone
		if conf != nil {
			announce = conf.ClientAddress
		}
		c.say(Failed, about, "%s: %v%s", d.name, err, hopAdvice(err, about, announce))
	default:
		c.say(Fine, about, "%s: %s answers, %s%s", d.name, to, offers(d.next()), relaying(d, conf))
		if why := d.relays.missing(d.next()); why != "" {
			c.say(Doubtful, about, "%s: relay_auth is set, but nobody can log in: %s", d.name, why)
		}
		if conf != nil && conf.ClientAddress == announceForward && !d.next().Has("XFORWARD") {
			c.say(Doubtful, about, `%s: client_address = "xforward", but the backend does not offer XFORWARD to us, so its log `+
				`would name us; with Postfix set "smtpd_authorized_xforward_hosts" to our address`, d.name)
		}
	}
}

// hopAdvice says what to do about a hop that cannot be used, where its error does
// not say it already. announce is how it is told who the client is.
func hopAdvice(err error, about, announce string) string {
	var policy *policyError
	var peer *peerError
	switch {
	case errors.As(err, &policy):
		if strings.Contains(policy.why, "XCLIENT") {
			return ""
		}
		return "; mend TLS there, or change the TLS keys of this door"
	case !errors.As(err, &peer):
		return ""
	case peer.during == duringConnect:
		if announce == announceSpoof && !errors.Is(err, syscall.ECONNREFUSED) { // see spoofError
			return ""
		}
		return "; start it, or correct " + about
	case announce == announceProxyV1 || announce == announceProxyV2:
		if outOfStep(err) || peer.during == duringGreeting || peer.during == duringHello {
			return "; perhaps it does not expect the PROXY header that client_address = " + quoted(announce) +
				" begins with: have it take one from our address, or change client_address"
		}
	}
	return ""
}

func offers(e smtpwire.EHLO) string {
	if len(e.Keywords()) == 0 {
		return "and offers no extension"
	}
	return "and offers " + strings.Join(keywords(e), ", ")
}

// relaying says what the probe found out about relaying.
func relaying(d *door, conf *InboundConfig) string {
	switch {
	case conf == nil:
		return ""
	case d.guard == nil:
		return "; not asked whether it relays for strangers (backend_trusts_us)"
	}
	return "; it does not relay for strangers"
}

// accountName is who runs the check, for remedies.
func accountName() string {
	if u, err := user.Current(); err == nil {
		return u.Username
	}
	return fmt.Sprintf("user %d", os.Geteuid())
}
