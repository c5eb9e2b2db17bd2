package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"slipstream/bench/mta"
	"slipstream/bench/mta/mtatest"
	"slipstream/bench/refpeer"
	"slipstream/bench/wan"
)

// A netspace is a network of its own, and the thread that lives in it.
type netspace struct {
	t     *testing.T
	calls chan func()
	tid   int

	side *wan.Side // of a link, instead
}

func newNetspace(t *testing.T) *netspace {
	t.Helper()
	n := &netspace{t: t, calls: make(chan func())}
	ready := make(chan error)
	go func() { // ends with the test, and its thread with it: that is not unlocked
		runtime.LockOSThread()
		err := unix.Unshare(unix.CLONE_NEWNET)
		n.tid = unix.Gettid()
		ready <- err
		for f := range n.calls {
			f()
		}
	}()
	if err := <-ready; err != nil {
		close(n.calls)
		t.Skip("no network namespace of our own: ", err)
	}
	t.Cleanup(func() { close(n.calls) })
	n.run("ip link set lo up")
	return n
}

// do calls f on the thread: sockets that it makes and processes that it starts are in there.
func (n *netspace) do(f func() error) error {
	if n.side != nil {
		return n.side.Do(f)
	}
	done := make(chan error)
	n.calls <- func() { done <- f() }
	return <-done
}

// run runs command lines, one after another.
func (n *netspace) run(lines ...string) {
	n.t.Helper()
	for _, line := range lines {
		if err := n.do(func() error {
			words := strings.Fields(line)
			out, err := exec.Command(words[0], words[1:]...).CombinedOutput()
			if err != nil {
				return fmt.Errorf("%s: %w: %s", line, err, out)
			}
			return nil
		}); err != nil {
			n.t.Fatal(err)
		}
	}
}

func (n *netspace) listen(addr string) net.Listener {
	n.t.Helper()
	var ln net.Listener
	if err := n.do(func() (err error) {
		ln, err = net.Listen("tcp", addr)
		return err
	}); err != nil {
		n.t.Fatal(err)
	}
	return ln
}

func (n *netspace) dial(addr string) (net.Conn, error) {
	var conn net.Conn
	err := n.do(func() (err error) {
		d := net.Dialer{Timeout: 10 * time.Second}
		conn, err = d.Dial("tcp", addr)
		return err
	})
	return conn, err
}

// join connects two networks; each side has an IPv4 and an IPv6 address, n the one with .1, and other the one with .2.
func (n *netspace) join(other *netspace, number int) {
	n.t.Helper()
	near, far := fmt.Sprintf("v%da", number), fmt.Sprintf("v%db", number)
	n.run(fmt.Sprintf("ip link add %s type veth peer name %s", near, far),
		fmt.Sprintf("ip link set %s netns /proc/%d/ns/net", far, other.tid))
	for i, side := range []*netspace{n, other} {
		dev := []string{near, far}[i]
		side.run(fmt.Sprintf("ip addr add 10.9.%d.%d/24 dev %s", number, i+1, dev),
			fmt.Sprintf("ip -6 addr add fd09:%d::%d/64 dev %s nodad", number, i+1, dev),
			"ip link set "+dev+" up")
	}
}

// interceptUID is who the service is, in a world for interception.
const interceptUID = 12345

// An interceptWorld is an MTA's network, the service, and mail hosts with a name server beyond it. The MTA is on
// the service's machine; or, with a router between, on another.
type interceptWorld struct {
	t       *testing.T
	mta     *netspace // where the MTA is
	host    *netspace // where the service is
	beyond  *netspace
	dir     string
	config  string
	hosts   map[string]*refpeer.Server // by name
	program string
	env     []string
}

// interceptHosts are the mail hosts of the world: name to addresses. Those without a server are dead.
var interceptHosts = map[string]string{
	"mx.one.test": "198.51.100.1", "mx.two.test": "2001:db8::2", "dead.three.test": "198.51.100.9", "mx.three.test": "2001:db8::3",
	"dead.four.test": "2001:db8::9", "mx.four.test": "198.51.100.4",
}

const interceptZone = `test. 300 IN SOA ns.test. root.test. 1 300 300 300 300
test. 300 IN NS ns.test.
ns.test. 300 IN A 198.51.100.53
one.test. 300 IN MX 10 mx.one.test.
two.test. 300 IN MX 10 mx.two.test.
three.test. 300 IN MX 10 dead.three.test.
three.test. 300 IN MX 20 mx.three.test.
four.test. 300 IN MX 10 dead.four.test.
four.test. 300 IN MX 20 mx.four.test.
`

func newInterceptWorld(t *testing.T, routed bool) *interceptWorld {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Skip("needs root, for networks of its own")
	}
	w := &interceptWorld{t: t, hosts: make(map[string]*refpeer.Server)}
	w.host, w.beyond = newNetspace(t), newNetspace(t)
	w.host.join(w.beyond, 1)
	w.host.run("ip route add default via 10.9.1.2", "ip -6 route add default via fd09:1::2")
	w.mta = w.host
	if routed {
		w.mta = newNetspace(t)
		w.mta.join(w.host, 2)
		w.mta.run("ip route add default via 10.9.2.2", "ip -6 route add default via fd09:2::2")
		w.host.run("sysctl -qw net.ipv4.ip_forward=1", "sysctl -qw net.ipv6.conf.all.forwarding=1")
		w.beyond.run("ip route add 10.9.2.0/24 via 10.9.1.1", "ip -6 route add fd09:2::/64 via fd09:1::1")
	}
	w.beyond.run("ip addr add 198.51.100.53/32 dev lo")
	w.directory()
	w.serveHosts()
	return w
}

// directory makes a place that the service may read though it is not root, with itself in it, and nft.
func (w *interceptWorld) directory() {
	w.t.Helper()
	dir, err := os.MkdirTemp("", "slipstream-intercept-")
	if err != nil {
		w.t.Fatal(err)
	}
	w.t.Cleanup(func() { _ = os.RemoveAll(dir) })
	if err := os.Chmod(dir, 0o755); err != nil {
		w.t.Fatal(err)
	}
	w.dir, w.config, w.program = dir, filepath.Join(dir, "slipstream.toml"), filepath.Join(dir, "slipstream")
	self, err := os.Open("/proc/self/exe")
	if err != nil {
		w.t.Fatal(err)
	}
	defer self.Close()
	copied, err := os.OpenFile(w.program, os.O_CREATE|os.O_WRONLY, 0o755)
	if err != nil {
		w.t.Fatal(err)
	}
	_, err = io.Copy(copied, self)
	if err = errors.Join(err, copied.Close()); err != nil {
		w.t.Fatal(err)
	}
	w.env = append(os.Environ(), "PATH="+w.nft()+":"+os.Getenv("PATH"))
	state := filepath.Join(dir, "state")
	if err := errors.Join(os.Mkdir(state, 0o700), os.Chown(state, interceptUID, interceptUID)); err != nil {
		w.t.Fatal(err)
	}
}

// nft returns a directory with nft in it.
func (w *interceptWorld) nft() string {
	w.t.Helper()
	if path, err := exec.LookPath("nft"); err == nil {
		return filepath.Dir(path)
	}
	tree, err := filepath.Abs("../../.peers/nft")
	if err != nil {
		w.t.Fatal(err)
	}
	program := filepath.Join(tree, "usr/sbin/nft")
	if _, err := os.Stat(program); err != nil {
		w.t.Skip("needs nft: make peers lays it out: ", err)
	}
	libs, _ := filepath.Glob(filepath.Join(tree, "usr/lib/*-linux-*"))
	bin := filepath.Join(w.dir, "bin")
	script := "#!/bin/sh\nLD_LIBRARY_PATH=" + strings.Join(libs, ":") + " exec " + program + " \"$@\"\n"
	if err := errors.Join(os.Mkdir(bin, 0o755), os.WriteFile(filepath.Join(bin, "nft"), []byte(script), 0o755)); err != nil {
		w.t.Fatal(err)
	}
	return bin
}

// serveHosts starts the mail hosts, each with a certificate for its name, and the name server.
func (w *interceptWorld) serveHosts() {
	w.t.Helper()
	zone := interceptZone
	var roots []byte
	for name, addr := range interceptHosts {
		kind, how := "A", "/32 dev lo"
		if netip.MustParseAddr(addr).Is6() {
			kind, how = "AAAA", "/128 dev lo nodad"
		}
		zone += fmt.Sprintf("%s. 300 IN %s %s\n", name, kind, addr)
		w.beyond.run("ip addr add " + addr + how)
		if strings.HasPrefix(name, "dead.") {
			continue
		}
		cert, err := newCertificate(name)
		if err != nil {
			w.t.Fatal(err)
		}
		conf, err := cert.server()
		if err != nil {
			w.t.Fatal(err)
		}
		roots = append(roots, cert.cert...)
		s := &refpeer.Server{Hostname: name, Keywords: refpeer.Modern(), TLS: conf}
		s.Start(w.beyond.listen(net.JoinHostPort(addr, "25")))
		w.t.Cleanup(s.Close)
		w.hosts[name] = s
	}
	if err := os.WriteFile(filepath.Join(w.dir, "roots.pem"), roots, 0o644); err != nil {
		w.t.Fatal(err)
	}
	var dns *mta.Tool
	err := w.beyond.do(func() (err error) {
		dns, err = mta.NSD{Listen: "198.51.100.53:53", Zones: map[string]string{"test": zone}}.Start(w.t.Context())
		return err
	})
	mtatest.Check(w.t, err)
	w.t.Cleanup(func() { _ = dns.Stop() })
}

// interceptDoor is a configuration with one door, to which further keys are added.
func (w *interceptWorld) configure(keys ...string) {
	w.t.Helper()
	text := fmt.Sprintf("hostname = \"mail.test\"\nstate_dir = %q\n[admin]\nlisten = \"\"\n[dns]\nservers = [\"198.51.100.53:53\"]\n"+
		"[[outbound]]\nlisten = [\"127.0.0.1:10526\", \"[::1]:10526\"]\nroute = \"original\"\n%s\n",
		filepath.Join(w.dir, "state"), strings.Join(keys, "\n"))
	if err := os.WriteFile(w.config, []byte(text), 0o644); err != nil {
		w.t.Fatal(err)
	}
}

// replaceServers names another name server.
func (w *interceptWorld) replaceServers(addr string) {
	w.t.Helper()
	text, err := os.ReadFile(w.config)
	if err == nil {
		err = os.WriteFile(w.config, bytes.ReplaceAll(text, []byte("198.51.100.53:53"), []byte(addr)), 0o644)
	}
	if err != nil {
		w.t.Fatal(err)
	}
}

// slipstream runs a command as root beside the service, and returns what it printed.
func (w *interceptWorld) slipstream(args ...string) (string, error) {
	var out []byte
	err := w.host.do(func() (err error) {
		cmd := exec.CommandContext(w.t.Context(), w.program)
		cmd.Args, cmd.Env = append([]string{"slipstream"}, args...), w.env
		out, err = cmd.CombinedOutput()
		return err
	})
	return string(out), err
}

// apply puts the rules of the configuration into force.
func (w *interceptWorld) apply() {
	w.t.Helper()
	if out, err := w.slipstream("intercept", "apply", "-c", w.config, "--user", fmt.Sprint(interceptUID)); err != nil {
		w.t.Fatalf("apply: %v: %s", err, out)
	}
}

// A safeBuffer may be read while it is written.
type safeBuffer struct {
	mu  sync.Mutex
	buf bytes.Buffer
}

func (b *safeBuffer) Write(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.buf.Write(p)
}

func (b *safeBuffer) String() string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.buf.String()
}

// A service is the program as a process of a user of its own.
type interceptService struct {
	cmd *exec.Cmd
	log safeBuffer
}

// service starts the program, with capabilities, and does not wait for it.
func (w *interceptWorld) service(capabilities ...uintptr) *interceptService {
	w.t.Helper()
	s := &interceptService{}
	if err := w.host.do(func() error {
		s.cmd = exec.CommandContext(w.t.Context(), w.program)
		s.cmd.Args, s.cmd.Env = []string{"slipstream", "serve", "-c", w.config}, w.env
		s.cmd.Stderr = &s.log
		s.cmd.Dir = w.dir
		s.cmd.SysProcAttr = &syscall.SysProcAttr{
			Credential:  &syscall.Credential{Uid: interceptUID, Gid: interceptUID},
			AmbientCaps: capabilities,
		}
		return s.cmd.Start()
	}); err != nil {
		w.t.Fatal(err)
	}
	w.t.Cleanup(func() {
		_ = s.cmd.Process.Signal(syscall.SIGTERM) // it may have ended
		_ = s.cmd.Wait()
		if w.t.Failed() {
			w.t.Logf("log of the service:\n%s", s.log.String())
		}
	})
	return s
}

// serve is service, and waits until it listens.
func (w *interceptWorld) serve(capabilities ...uintptr) *interceptService {
	w.t.Helper()
	s := w.service(capabilities...)
	w.await("the service to be ready", func() bool { return strings.Count(s.log.String(), "msg=listening") >= 2 })
	return s
}

// await waits for something to come about.
func (w *interceptWorld) await(what string, done func() bool) {
	w.t.Helper()
	ctx, cancel := context.WithTimeout(w.t.Context(), time.Minute)
	defer cancel()
	ticks := time.NewTicker(10 * time.Millisecond)
	defer ticks.Stop()
	for !done() {
		select {
		case <-ctx.Done():
			w.t.Fatalf("waited in vain for %s", what)
		case <-ticks.C:
		}
	}
}

// delivered lists the recipients of what a host has taken, in the order of delivery.
func (w *interceptWorld) delivered(name string) (to []string) {
	for _, m := range w.hosts[name].Messages() {
		to = append(to, m.Recipients()...)
	}
	return to
}
