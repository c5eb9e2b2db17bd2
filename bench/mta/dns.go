package mta

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"os/user"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
)

// NSD is a run of NSD, which answers with authority for zones, over UDP and TCP. It runs as nobody where the caller is
// root, and sees no more of the machine than anybody.
type NSD struct {
	Peers  string // as Config.Peers; where no tree is there, an installed nsd
	Listen string // empty or port 0: a free port
	// Zones are master files by the name of the zone; "." is the root. A zone without a text is one that NSD knows but
	// cannot load, for which it says SERVFAIL.
	Zones map[string]string
}

// Start runs NSD and returns once it accepts connections. A zone that it cannot read is an error.
func (n NSD) Start(ctx context.Context) (*Tool, error) {
	program, tree, err := findProgram(n.Peers, "nsd", "usr/sbin/nsd")
	if err != nil {
		return nil, err
	}
	dir, addr, err := prepareDNS("slipstream-nsd-", n.Listen)
	if err != nil {
		return nil, err
	}
	config, err := n.write(dir, addr)
	if err != nil {
		return nil, errors.Join(err, os.RemoveAll(dir))
	}
	if err := n.check(ctx, filepath.Join(filepath.Dir(program), "nsd-checkzone"), libraries(tree), dir); err != nil {
		return nil, errors.Join(err, os.RemoveAll(dir))
	}
	tool, err := startTool(ctx, addr.String(), libraries(tree), program, "-d", "-c", config)
	if err != nil {
		return nil, errors.Join(err, os.RemoveAll(dir))
	}
	tool.trash = append(tool.trash, dir)
	return tool, nil
}

// check has NSD's own tool read the zones: the server itself would run without those that it cannot read.
func (n NSD) check(ctx context.Context, checker string, env []string, dir string) error {
	for i, zone := range n.names() {
		if n.Zones[zone] == "" {
			continue
		}
		cmd := exec.CommandContext(ctx, checker, zone, filepath.Join(dir, zoneFile(i)))
		cmd.Env = env
		if out, err := cmd.CombinedOutput(); err != nil {
			return fmt.Errorf("mta: nsd: zone %s: %w\n%s", zone, err, out)
		}
	}
	return nil
}

func (n NSD) names() []string { return slices.Sorted(maps.Keys(n.Zones)) }

func zoneFile(i int) string { return fmt.Sprintf("zone%d", i) }

// write lays out the configuration and the zones, and returns the name of the former.
func (n NSD) write(dir string, addr netip.AddrPort) (string, error) {
	var b strings.Builder
	fmt.Fprintf(&b, `server:
  ip-address: %s@%d
  username: %q
  chroot: ""
  zonesdir: %q
  zonelistfile: %q
  xfrdfile: ""
  xfrdir: %q
  database: ""
  pidfile: ""
  server-count: 1
  hide-version: yes
remote-control:
  control-enable: no
`, addr.Addr(), addr.Port(), dnsUserName(), dir, filepath.Join(dir, "zone.list"), dir)
	files := make(map[string]string)
	for i, zone := range n.names() {
		fmt.Fprintf(&b, "zone:\n  name: %q\n  zonefile: %q\n", zone, zoneFile(i))
		if text := n.Zones[zone]; text != "" {
			files[zoneFile(i)] = text
		}
	}
	files["nsd.conf"] = b.String()
	return filepath.Join(dir, "nsd.conf"), writeAll(dir, files)
}

// Unbound is a run of Unbound, a resolver with a cache, over UDP and TCP. It asks nobody but the servers of Stubs: no
// question leaves the machine. It does not validate, and runs as nobody where the caller is root.
type Unbound struct {
	Peers  string // as Config.Peers; where no tree is there, an installed unbound
	Listen string // empty or port 0: a free port
	// Stubs are the servers of zones, each an IP:port, by the name of the zone; "." is the root. Names in no zone of it
	// do not exist.
	Stubs map[string]string
	// Options are further lines of the section "server".
	Options []string
}

// Start runs Unbound and returns once it accepts connections.
func (u Unbound) Start(ctx context.Context) (*Tool, error) {
	program, tree, err := findProgram(u.Peers, "unbound", "usr/sbin/unbound")
	if err != nil {
		return nil, err
	}
	dir, addr, err := prepareDNS("slipstream-unbound-", u.Listen)
	if err != nil {
		return nil, err
	}
	text, err := u.config(dir, addr)
	if err == nil {
		err = writeAll(dir, map[string]string{"unbound.conf": text})
	}
	if err != nil {
		return nil, errors.Join(err, os.RemoveAll(dir))
	}
	tool, err := startTool(ctx, addr.String(), libraries(tree), program, "-d", "-c", filepath.Join(dir, "unbound.conf"))
	if err != nil {
		return nil, errors.Join(err, os.RemoveAll(dir))
	}
	tool.trash = append(tool.trash, dir)
	return tool, nil
}

// config writes the configuration. What Unbound answers by itself, such as the names of loopback and those for tests,
// is to come from the stubs as all else.
func (u Unbound) config(dir string, addr netip.AddrPort) (string, error) {
	var b strings.Builder
	fmt.Fprintf(&b, `server:
  interface: %s@%d
  access-control: 127.0.0.0/8 allow
  access-control: ::1/128 allow
  username: %q
  chroot: ""
  directory: %q
  pidfile: ""
  use-syslog: no
  logfile: ""
  num-threads: 1
  outgoing-range: 512
  so-rcvbuf: 0
  module-config: "iterator"
  do-not-query-localhost: no
  root-hints: ""
  qname-minimisation: no
  rrset-roundrobin: no
`, addr.Addr(), addr.Port(), dnsUserName(), dir)
	for _, zone := range []string{"localhost", "127.in-addr.arpa", "test", "invalid", "onion",
		"1.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.ip6.arpa"} {
		fmt.Fprintf(&b, "  local-zone: %q nodefault\n", zone+".")
	}
	if _, all := u.Stubs["."]; !all {
		b.WriteString("  local-zone: \".\" static\n")
	}
	for _, option := range u.Options {
		fmt.Fprintf(&b, "  %s\n", option)
	}
	b.WriteString("remote-control:\n  control-enable: no\n")
	for _, zone := range slices.Sorted(maps.Keys(u.Stubs)) {
		at, err := netip.ParseAddrPort(u.Stubs[zone])
		if err != nil {
			return "", fmt.Errorf("mta: unbound: stub %s: %w", zone, err)
		}
		fmt.Fprintf(&b, "stub-zone:\n  name: %q\n  stub-addr: %s@%d\n", zone, at.Addr(), at.Port())
	}
	return b.String(), nil
}

// prepareDNS makes the directory of a name server, readable for nobody, and chooses its address.
func prepareDNS(pattern, listen string) (dir string, addr netip.AddrPort, err error) {
	at, err := freeDNSPort(listen)
	if err != nil {
		return "", addr, err
	}
	if addr, err = netip.ParseAddrPort(at); err != nil {
		return "", addr, fmt.Errorf("mta: a name server listens on an address, not a name: %w", err)
	}
	if dir, err = os.MkdirTemp("", pattern); err != nil {
		return "", addr, err
	}
	if u := dnsUser(); u != nil {
		uid, _ := strconv.Atoi(u.Uid) // on Linux these are numbers
		gid, _ := strconv.Atoi(u.Gid)
		if err = os.Chown(dir, uid, gid); err != nil {
			return "", addr, errors.Join(err, os.RemoveAll(dir))
		}
	}
	return dir, addr, nil
}

// dnsUser is whom a name server becomes once its sockets are open; nil: it stays who it is.
func dnsUser() *user.User {
	if os.Getuid() != 0 {
		return nil
	}
	u, err := user.Lookup("nobody")
	if err != nil {
		return nil
	}
	return u
}

func dnsUserName() string {
	if u := dnsUser(); u != nil {
		return u.Username
	}
	return ""
}

func writeAll(dir string, files map[string]string) error {
	for name, text := range files {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o644); err != nil {
			return err
		}
	}
	return nil
}

// dnsPortTries is how many ports are looked at.
const dnsPortTries = 20

// freeDNSPort is freePort for a server that listens by UDP too: many sockets of others have such ports.
func freeDNSPort(listen string) (string, error) {
	var last error
	for range dnsPortTries {
		at, err := freePort(listen)
		if err != nil || !anyPort(listen) {
			return at, err
		}
		conn, err := net.ListenPacket("udp", at)
		if err == nil {
			return at, conn.Close()
		}
		last = err
	}
	return "", last
}
