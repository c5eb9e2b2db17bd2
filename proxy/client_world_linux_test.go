package proxy_test

import (
	"bytes"
	"context"
	"fmt"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"syscall"
	"testing"

	"go.uber.org/zap"
	"golang.org/x/sys/unix"

	"slipstream/bench/mta"
	"slipstream/bench/mta/mtatest"
	"slipstream/proxy"
	"slipstream/proxy/intercept"
)

// Whom the tests of clients' addresses know. The process is the gateway: it has the public addresses, and one in the
// network of the machine behind it, whose router it is. The client is on a machine of the world.
const (
	worldClient4, worldClient6 = "198.51.100.7", "2001:db8:77::7"
	public4, public6           = "203.0.113.1", "2001:db8:1::1"
	inner4, inner6             = "10.9.0.1", "fd00:9::1"
	behind4, behind6           = "10.9.0.2", "fd00:9::2"
)

// The networks that most servers relay for.
const loopback4, loopback6 = "127.0.0.0/8", "::1/128"

const ownNetworkMark = "SLIPSTREAM_TEST_OWN_NETWORK"

// inOwnNetwork has a test go on in a process whose network is its own, and tells whether this is that one.
func inOwnNetwork(t *testing.T) bool {
	t.Helper()
	if os.Getenv(ownNetworkMark) == t.Name() {
		return true
	}
	if os.Geteuid() != 0 {
		t.Skip("a network of its own needs root")
	}
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	args := []string{"-test.run=^" + t.Name() + "$", "-test.timeout=4m"}
	if testing.Verbose() {
		args = append(args, "-test.v")
	}
	cmd := exec.CommandContext(t.Context(), self, args...)
	cmd.Env = append(os.Environ(), ownNetworkMark+"="+t.Name())
	cmd.SysProcAttr = &syscall.SysProcAttr{Cloneflags: unix.CLONE_NEWNET, Pdeathsig: syscall.SIGKILL}
	runtime.LockOSThread() // it lives as long as this thread
	defer runtime.UnlockOSThread()
	out, err := cmd.CombinedOutput()
	switch {
	case err != nil && len(out) == 0:
		t.Skip("no network namespace of our own: ", err)
	case err != nil:
		t.Fatalf("%v\n%s", err, out)
	case bytes.Contains(out, []byte("--- SKIP")):
		t.Skipf("%s", out)
	}
	t.Logf("%s", out)
	return false
}

// A place is a machine: a network namespace.
type place struct{ file *os.File }

func newPlace(t *testing.T) *place {
	t.Helper()
	made := make(chan *os.File)
	go func() { // ends at once, and its thread with it
		runtime.LockOSThread()
		var file *os.File
		if unix.Unshare(unix.CLONE_NEWNET) == nil {
			file, _ = os.Open("/proc/thread-self/ns/net")
		}
		made <- file
	}()
	p := &place{<-made}
	if p.file == nil {
		t.Skip("no further network namespace")
	}
	t.Cleanup(func() { _ = p.file.Close() })
	return p
}

// do calls f there; sockets and processes that it makes belong there. Without a place it is where we are.
func (p *place) do(t *testing.T, f func()) {
	t.Helper()
	if p == nil {
		f()
		return
	}
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	home, err := os.Open("/proc/thread-self/ns/net")
	if err == nil {
		err = unix.Setns(int(p.file.Fd()), unix.CLONE_NEWNET)
	}
	if err != nil {
		t.Fatal(err)
	}
	defer home.Close()
	defer func() {
		if err := unix.Setns(int(home.Fd()), unix.CLONE_NEWNET); err != nil {
			panic(err) // nothing on this thread would be where it should
		}
	}()
	f()
}

func (p *place) ip(t *testing.T, lines ...string) {
	t.Helper()
	p.do(t, func() {
		for _, line := range lines {
			if out, err := exec.Command("ip", strings.Fields(line)...).CombinedOutput(); err != nil {
				t.Fatalf("ip %s: %v: %s", line, err, out)
			}
		}
	})
}

// join leads a line from here to there.
func (p *place) join(t *testing.T, here, there string) {
	t.Helper()
	fd := fmt.Sprintf("/proc/%d/fd/%d", os.Getpid(), p.file.Fd())
	(*place)(nil).ip(t, "link add "+here+" type veth peer name "+there+" netns "+fd, "link set dev "+here+" up")
	p.ip(t, "link set dev lo up", "link set dev "+there+" up")
}

// A clientWorld is the gateway between the world and a machine behind.
type clientWorld struct {
	world, behind *place
	run           intercept.Runner
}

func newClientWorld(t *testing.T) *clientWorld {
	t.Helper()
	if _, err := exec.LookPath("ip"); err != nil {
		t.Skip("needs ip(8)")
	}
	w := &clientWorld{world: newPlace(t), behind: newPlace(t), run: nftRunner(t)}
	gateway := (*place)(nil)
	for _, p := range []*place{gateway, w.behind} { // as many distributions have it
		p.do(t, func() {
			if err := os.WriteFile("/proc/sys/net/ipv4/conf/all/rp_filter", []byte("1"), 0); err != nil {
				t.Log("rp_filter stays as it is: ", err)
			}
		})
	}
	gateway.ip(t, "link set dev lo up")
	w.world.join(t, "ext", "w0")
	w.behind.join(t, "int", "b0")
	gateway.ip(t, "addr add "+public4+"/24 dev ext", "addr add "+public6+"/64 dev ext nodad",
		"route add default dev ext", "-6 route add default dev ext",
		"addr add "+inner4+"/24 dev int", "addr add "+inner6+"/64 dev int nodad")
	w.world.ip(t, "addr add "+worldClient4+"/32 dev w0", "-6 addr add "+worldClient6+"/128 dev w0 nodad",
		"route add "+public4+"/32 dev w0", "-6 route add "+public6+"/128 dev w0")
	w.behind.ip(t, "addr add "+behind4+"/24 dev b0", "-6 addr add "+behind6+"/64 dev b0 nodad",
		"route add default via "+inner4, "-6 route add default via "+inner6)
	return w
}

// nftRunner runs ip(8), and the nft of .peers unless the machine has one.
func nftRunner(t *testing.T) intercept.Runner {
	t.Helper()
	nft, libs := "nft", ""
	if _, err := exec.LookPath("nft"); err != nil {
		tree, err := filepath.Abs("../.peers/nft")
		if err != nil {
			t.Fatal(err)
		}
		nft = filepath.Join(tree, "usr/sbin/nft")
		if _, err := os.Stat(nft); err != nil {
			t.Skip("needs nft: make peers lays it out: ", err)
		}
		dirs, _ := filepath.Glob(filepath.Join(tree, "usr/lib/*-linux-*"))
		libs = strings.Join(dirs, ":")
	}
	return func(ctx context.Context, stdin string, argv ...string) (string, error) {
		cmd := exec.CommandContext(ctx, argv[0], argv[1:]...)
		if argv[0] == "nft" {
			cmd = exec.CommandContext(ctx, nft, argv[1:]...)
			cmd.Env = append(os.Environ(), "LD_LIBRARY_PATH="+libs)
		}
		cmd.Stdin = strings.NewReader(stdin)
		out, err := cmd.CombinedOutput()
		return string(out), err
	}
}

// rules puts the rules for a door into force until the test ends.
func (w *clientWorld) rules(t *testing.T, in intercept.Inbound) {
	t.Helper()
	in.Door = doorInbound
	plan := intercept.Plan{User: "root", IPv6: true, Inbound: []intercept.Inbound{in}}
	if err := plan.Apply(t.Context(), w.run, func(string) {}); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := plan.Remove(context.Background(), w.run, func(string) {}); err != nil {
			t.Error(err)
		}
	})
}

// nft puts other rules into force, those of the admin.
func (w *clientWorld) nft(t *testing.T, table, script string) {
	t.Helper()
	if out, err := w.run(t.Context(), script, "nft", "-f", "-"); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	t.Cleanup(func() {
		if out, err := w.run(context.Background(), "delete table "+table+"\n", "nft", "-f", "-"); err != nil {
			t.Errorf("%v: %s", err, out)
		}
	})
}

// say is a client of the world at a door: it has one message taken for the backend's own domain, and one refused.
func (w *clientWorld) say(t *testing.T, addr, id string) {
	t.Helper()
	var d *mta.Dialog
	w.world.do(t, func() { d = realDial(t, addr) })
	realHear(t, d, 250, "EHLO client.test")
	realHear(t, d, 250, "MAIL FROM:<%s>", realSender)
	realHear(t, d, 250, "RCPT TO:<you@b.test>")
	if a, err := d.Say("RCPT TO:<someone@elsewhere.test>"); err != nil || a.Code/100 != 5 {
		t.Errorf("a foreign recipient: %s, %v; want a refusal", a, err)
	}
	realHear(t, d, 354, "DATA")
	if a, err := d.Text(realMessage(id, 0)); err != nil || a.Code != 250 {
		t.Errorf("the message: %s, %v", a, err)
	}
	realHear(t, d, 221, "QUIT")
}

// A clientBackend is a mail server that says in its log, or in its queue, where a message came from.
type clientBackend struct {
	name  string
	start func(t *testing.T, addr string, trusts []string) (log func() string)
}

func clientBackends() []clientBackend {
	real := func(kind mta.Kind) clientBackend {
		return clientBackend{string(kind), func(t *testing.T, addr string, trusts []string) func() string {
			c := mta.Config{Listen: addr, Hostname: "mx.b.test", Local: []string{"b.test"}}
			for _, network := range trusts {
				if addr, bits, _ := strings.Cut(network, "/"); kind == mta.Postfix && strings.Contains(addr, ":") {
					network = "[" + addr + "]/" + bits
				}
				c.RelayFrom = append(c.RelayFrom, network)
			}
			if kind == mta.OpenSMTPD {
				c.Via = "127.0.0.1:9" // nobody is there: it is about what is taken
			}
			return mtatest.Start(t, kind, c).Log
		}}
	}
	return []clientBackend{real(mta.Postfix), real(mta.Exim), real(mta.OpenSMTPD), {"sendmail", sendmailBackend}}
}

// sendmailBackend logs to syslog alone; what it has in its queue says the same.
func sendmailBackend(t *testing.T, addr string, trusts []string) func() string {
	features := "RELAY_DOMAIN(`b.test')dnl\n"
	for _, network := range trusts {
		// It knows networks by their first words.
		name := strings.TrimSuffix(strings.TrimSuffix(network, ".0/24"), "/32")
		if p := netip.MustParsePrefix(network); p.Addr().Is6() {
			name = "IPv6:" + strings.TrimSuffix(p.Addr().String(), "::") + ":0:0"
		}
		if network != loopback4 && network != loopback6 { // which it relays for in any case
			features += "RELAY_DOMAIN(`" + name + "')dnl\n"
		}
	}
	queue := startSendmailWith(t, addr, features)
	return func() string {
		files, _ := filepath.Glob(filepath.Join(queue, "qf*"))
		var b strings.Builder
		for _, file := range files {
			text, _ := os.ReadFile(file)
			b.Write(text)
		}
		return b.String()
	}
}

// clientDoor starts a proxy whose door is open to the world.
func clientDoor(t *testing.T, backend string, change func(*proxy.InboundConfig)) (*realProxy, error) {
	t.Helper()
	return clientDoorWith(t, backend, testLog(t), change)
}

func clientDoorWith(
	t *testing.T, backend string, log *zap.Logger, change func(*proxy.InboundConfig),
) (*realProxy, error) {
	t.Helper()
	cfg := realConfig(t)
	addInbound(cfg, doorInbound, backend, func(in *proxy.InboundConfig) {
		in.Listen = []string{":2525"}
		in.ClientAddress = "spoof"
		if change != nil {
			change(in)
		}
	})
	cfg.Timeouts.Connect, cfg.Timeouts.BackendProbe = clientPatience, clientPatience
	px, err := startRealWith(t, cfg, serveDomains(t, nil), proxy.Options{Log: log})
	if err == nil {
		err = px.Ready()
	}
	return px, err
}
