package proxy

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"time"

	"slipstream/smtpwire"
)

// renewalTime is how long before its end a certificate is worth a word: an
// automatic renewal has failed for weeks by then.
const renewalTime = 14 * 24 * time.Hour

// certificate checks a door's certificate and key.
func (c *check) certificate(door, certFile, keyFile string) {
	if certFile == "" {
		return
	}
	const about = "certificate"
	loaded, err := loadCertificate(certFile, keyFile)
	if err != nil {
		c.say(Failed, about, "%s: %v", door, err)
		return
	}
	pair := loaded.pair.Load()
	leaf := pair.Leaf
	left := leaf.NotAfter.Sub(c.Now)
	until := leaf.NotAfter.UTC().Format(time.DateOnly)
	switch {
	case left <= 0:
		c.say(Failed, about, "%s: %s ended on %s; renew it", door, certFile, until)
	case c.Now.Before(leaf.NotBefore):
		c.say(Failed, about, "%s: %s begins on %s only; correct it, or this machine's clock", door, certFile, leaf.NotBefore.UTC().Format(time.DateOnly))
	case left < renewalTime:
		c.say(Doubtful, about, "%s: %s ends on %s, in %d days; renew it", door, certFile, until, days(left))
	default:
		c.say(Fine, about, "%s: %s is for %s, until %s (%d days)", door, certFile, names(leaf), until, days(left))
	}
	if err := leaf.VerifyHostname(c.cfg.Hostname); err != nil {
		c.say(Doubtful, about, "%s: %s is for %s but not for hostname = %q; clients that verify us may not deliver",
			door, certFile, names(leaf), c.cfg.Hostname)
	}
	c.chain(door, certFile, pair)
	c.keyMode(door, keyFile)
}

// chain finds intermediate certificates that have ended: clients see those too.
func (c *check) chain(door, certFile string, pair *tls.Certificate) {
	for _, der := range pair.Certificate[1:] {
		cert, err := x509.ParseCertificate(der)
		switch {
		case err != nil:
			c.say(Failed, "certificate", "%s: a certificate behind the first of %s cannot be read: %v", door, certFile, err)
		case c.Now.After(cert.NotAfter):
			c.say(Failed, "certificate", "%s: the intermediate certificate %q in %s ended on %s; replace it",
				door, cert.Subject, certFile, cert.NotAfter.UTC().Format(time.DateOnly))
		}
	}
}

func (c *check) keyMode(door, keyFile string) {
	info, err := os.Stat(keyFile)
	if err == nil && info.Mode().Perm()&0o007 != 0 {
		c.say(Doubtful, "certificate", "%s: anyone on this machine can open %s (mode %04o); chmod 600 or 640", door, keyFile, info.Mode().Perm())
	}
}

func days(d time.Duration) int { return int(d / (24 * time.Hour)) }

// names lists what a certificate is for.
func names(leaf *x509.Certificate) string {
	list := slices.Clone(leaf.DNSNames)
	for _, ip := range leaf.IPAddresses {
		list = append(list, ip.String())
	}
	if len(list) == 0 {
		return "no name"
	}
	return strings.Join(list, ", ")
}

// authorities checks a file of certificates to believe.
func (c *check) authorities(door, file string) {
	if file == "" {
		return
	}
	if _, err := loadRoots(file); err != nil {
		c.say(Failed, "certificate", "%s: %v", door, err)
		return
	}
	c.say(Fine, "certificate", "%s: authorities in %s can be read", door, file)
}

// ports tries to open addresses.
func (c *check) ports(ctx context.Context, door string, addrs []string) {
	listen := c.Listen
	if listen == nil {
		listen = netListen
	}
	for _, addr := range addrs {
		ln, err := listen(ctx, addr)
		if err == nil {
			_ = ln.Close()
			c.say(Fine, "port", "%s: %s can be opened%s", door, addr, byRoot(addr))
			continue
		}
		c.judgePort(ctx, door, addr, err)
	}
}

func netListen(ctx context.Context, addr string) (net.Listener, error) {
	var lc net.ListenConfig
	return lc.Listen(ctx, "tcp", addr)
}

// firstFreePort is the least port that needs no privilege.
const firstFreePort = 1024

func privileged(addr string) bool {
	a, err := parseListen(addr)
	return err == nil && a.Port() != 0 && a.Port() < firstFreePort
}

// byRoot says what root's success does not show.
func byRoot(addr string) string {
	if os.Geteuid() != 0 || !privileged(addr) {
		return ""
	}
	return " (by root)" // what another user needs is told with the capabilities
}

// judgePort explains why an address cannot be opened.
func (c *check) judgePort(ctx context.Context, door, addr string, err error) {
	const about = "port"
	switch {
	case errors.Is(err, syscall.EACCES) && privileged(addr):
		c.say(Failed, about, "%s: %s may not be opened by %s, as its port is below %d; %s", door, addr, accountName(), firstFreePort, c.unitAdvice())
	case errors.Is(err, syscall.EADDRNOTAVAIL):
		c.say(Failed, about, "%s: this machine does not have the address of %s; correct listen", door, addr)
	case errors.Is(err, syscall.EADDRINUSE):
		holder, ours := c.holder(ctx, addr)
		if ours {
			c.say(Fine, about, "%s: %s is open already, by %s", door, addr, holder)
			return
		}
		c.say(Failed, about, "%s: %s is held by %s; stop it, or move one of the two to another port", door, addr, holder)
	default:
		c.say(Failed, about, "%s: %s cannot be opened: %v", door, addr, err)
	}
}

// holder tells who listens on an address, and whether that is this program.
func (c *check) holder(ctx context.Context, addr string) (who string, ours bool) {
	a, err := parseListen(addr)
	if err != nil {
		return "another process", false
	}
	if h, ok := listenerOf(os.DirFS("/"), a); ok {
		if h.passesOn() {
			return h.String() + ", which passes it to the service of its socket unit", true
		}
		return h.String(), h.ours()
	}
	if greeting := c.greeting(ctx, a); greeting != "" {
		return "what greets with " + quoted(greeting), strings.HasSuffix(greeting, " Slipstream")
	}
	return "another process (as root, ss -ltnp tells which)", false
}

// greetingWait is how long an unknown holder of a port may take to say what it is.
const greetingWait = time.Second

// greeting reads what a holder of a port says first, "" if nothing.
func (c *check) greeting(ctx context.Context, a netip.AddrPort) string {
	if c.Offline {
		return ""
	}
	if a.Addr().IsUnspecified() {
		a = netip.AddrPortFrom(netip.AddrFrom4([4]byte{127, 0, 0, 1}), a.Port())
	}
	dial := c.Dial
	if dial == nil {
		dial = netDial
	}
	ctx, cancel := context.WithTimeout(ctx, greetingWait)
	defer cancel()
	conn, err := dial(ctx, "tcp", netip.Addr{}, a.String())
	if err != nil {
		return ""
	}
	defer conn.Close()
	_ = conn.SetDeadline(time.Now().Add(greetingWait)) // fails on a closed connection only, which the read reports
	r, err := smtpwire.NewReader(conn).ReadReply()
	if err != nil {
		return ""
	}
	return r.String()
}

// fastOpen compares what the doors would like to have in SYNs with what the system lets them.
func (c *check) fastOpen(bits int) {
	const about = "fastopen"
	for _, d := range c.cfg.Inbound {
		if d.FastOpen && bits&fastOpenServer == 0 { // a default, and nothing is worse than without
			c.say(Fine, about, "%s: %s = %d lets no client send data in its SYN; %d would", d.Name, fastOpenSetting, bits,
				bits|fastOpenServer)
		}
	}
	for _, d := range c.cfg.Outbound {
		if d.FastOpen != "off" && bits&fastOpenClient == 0 {
			c.say(Doubtful, about, "%s: %s = %d does not let us send data in a SYN, so fastopen = %s does nothing; set it to %d",
				d.Name, fastOpenSetting, bits, quoted(d.FastOpen), bits|fastOpenClient)
		}
	}
}

// spool checks the directory for large bodies.
func (c *check) spool() {
	const about = "spool"
	if dir := c.cfg.SpoolDir; dir != "" {
		if err := canSpool(dir); err != nil {
			c.say(Failed, about, "%v; large messages would be refused with 452: create it or make it writable for %s", err, accountName())
			return
		}
		c.say(Fine, about, "%s can be written", dir)
		return
	}
	dir, why := spoolDir(c.cfg, false)
	if why == nil {
		c.say(Fine, about, "%s can be written", dir)
		return
	}
	if err := canSpool(dir); err != nil {
		c.say(Failed, about, "%v, and neither can %s be: %v; set spool_dir", why, dir, err)
		return
	}
	doing := "write StateDirectory=slipstream in the [Service] section of the unit, or set spool_dir"
	if meant := stateSpool(c.cfg); errors.Is(why, fs.ErrPermission) {
		if _, err := os.Lstat(meant); err == nil {
			doing = fmt.Sprintf("chown -R %s %s, or set spool_dir", accountName(), meant)
		}
	}
	c.say(Doubtful, about, "%v; large messages go to %s instead: %s", why, dir, doing)
}

// parentOf finds the nearest directory above a path that exists.
func parentOf(path string) string {
	for {
		up := filepath.Dir(path)
		if _, err := os.Stat(up); !errors.Is(err, fs.ErrNotExist) || up == path {
			return up
		}
		path = up
	}
}

// writable tells whether something can be made in a directory.
func writable(dir string) error {
	made, err := os.MkdirTemp(dir, ".slipstream-check-")
	if err != nil {
		return inDir(dir, err)
	}
	return os.Remove(made)
}

// inDir leaves the name of a file out of an error whose directory is at fault.
func inDir(dir string, err error) error {
	var e *fs.PathError
	if errors.As(err, &e) {
		return fmt.Errorf("%s: %w", dir, e.Err)
	}
	return err
}
