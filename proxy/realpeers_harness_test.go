package proxy_test

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os/exec"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"go.uber.org/zap"
	"go.uber.org/zap/zaptest"

	"slipstream/bench/mta"
	"slipstream/bench/mta/mtatest"
	"slipstream/proxy"
	"slipstream/proxy/once"
	"slipstream/proxy/resolver"
	"slipstream/tlsstore"
)

// Whom the tests with real mail servers know: mail goes from a.test, through
// proxy.test, to b.test, whose mail host is mx.b.test.
const (
	realProxyName = "proxy.test"
	realSender    = "sender@a.test"
	realPatience  = 50 * time.Second // for anything; a test ends long before
)

// The doors.
const (
	doorInbound = "inbound"
	doorSMTP    = "smtp"
	doorLMTP    = "lmtp"
)

func realDoors() []string { return []string{doorInbound, doorSMTP, doorLMTP} }

// A realWay leads from a mail server through a door of ours to another.
type realWay struct {
	from, to mta.Kind
	door     string
	secured  bool // TLS on both legs, certificates checked

	sends, receives mta.Config // what differs from the usual
	inbound         func(*proxy.InboundConfig)
	outbound        func(*proxy.OutboundConfig)
}

func (w realWay) String() string {
	protection := "clear"
	if w.secured {
		protection = "tls"
	}
	return fmt.Sprintf("%s, %s door, %s, %s", w.from, w.door, w.to, protection)
}

// A realCourse is a realWay with everybody at work.
type realCourse struct {
	sender, receiver *mta.Instance
	proxy            *realProxy
}

// open starts the receiver, the proxy and the sender.
func (w realWay) open(t *testing.T) realCourse {
	t.Helper()
	if w.receives.Hostname == "" {
		w.receives.Hostname, w.receives.Local = "mx.b.test", []string{"b.test"}
	}
	var ours, theirs realCert
	if w.secured {
		ours, theirs = newRealCert(t, realProxyName), newRealCert(t, "mx.b.test")
		w.receives.Cert, w.receives.Key = theirs.cert, theirs.key
		w.sends.ClientTLS, w.sends.CA = mta.TLSVerify, ours.cert
	}
	receiver := mtatest.Start(t, w.to, w.receives)
	cfg := realConfig(t)
	if w.door == doorInbound {
		addInbound(cfg, doorInbound, receiver.Addr(), func(in *proxy.InboundConfig) {
			w.secureInbound(in, ours, theirs)
			if w.inbound != nil {
				w.inbound(in)
			}
		})
	} else {
		addOutbound(cfg, w.door, portOf(receiver.Addr()), func(out *proxy.OutboundConfig) {
			w.secureOutbound(out, ours, theirs)
			if w.outbound != nil {
				w.outbound(out)
			}
		})
	}
	px := startReal(t, cfg, serveDomains(t, map[string]string{"b.test": receiver.Addr()}))
	sender := sendThrough(t, w.from, px.at(w.door), w.door, w.sends)
	return realCourse{sender, receiver, px}
}

func (w realWay) secureInbound(in *proxy.InboundConfig, ours, theirs realCert) {
	if w.secured {
		in.TLSCert, in.TLSKey = ours.certFile, ours.keyFile
		in.BackendTLS, in.BackendTLSName, in.BackendCAFile = "verify", "mx.b.test", theirs.certFile
	}
}

func (w realWay) secureOutbound(out *proxy.OutboundConfig, ours, theirs realCert) {
	if w.secured {
		out.TLSCert, out.TLSKey = ours.certFile, ours.keyFile
		out.TLS, out.TLSCAFile = "verify", theirs.certFile
	}
}

// sendThrough starts a mail server that sends everything through a door.
func sendThrough(t *testing.T, kind mta.Kind, at, door string, c mta.Config) *mta.Instance {
	t.Helper()
	host, port, err := net.SplitHostPort(at)
	if err != nil {
		t.Fatal(err)
	}
	c.Hostname, c.Local = "mx.a.test", []string{"a.test"}
	c.Via, c.LMTP = realProxyName+":"+port, door == doorLMTP
	c.Hosts = map[string]string{realProxyName: host}
	return mtatest.Start(t, kind, c)
}

// realConfig is a configuration without doors.
func realConfig(t *testing.T) *proxy.Config {
	t.Helper()
	cfg := proxy.DefaultConfig()
	cfg.Hostname = realProxyName
	cfg.StateDir = t.TempDir()
	return cfg
}

// addInbound adds a door to a backend. Each door has an address of its own, so
// that the system may choose the port.
func addInbound(cfg *proxy.Config, name, backend string, change func(*proxy.InboundConfig)) {
	in := proxy.DefaultInbound()
	in.Auth.Enabled = false // worlds that have the DNS for it switch it on
	in.Name, in.Listen = name, []string{nextDoor(cfg)}
	in.Backend = realEndpoint(backend)
	if change != nil {
		change(&in)
	}
	cfg.Inbound = append(cfg.Inbound, in)
}

// addOutbound adds a door that goes by MX, to a port of loopback.
func addOutbound(cfg *proxy.Config, name string, mxPort int, change func(*proxy.OutboundConfig)) {
	out := proxy.DefaultOutbound()
	out.Name, out.Listen = name, []string{nextDoor(cfg)}
	if name == doorLMTP {
		out.Protocol = "lmtp"
	}
	out.MXPort, out.AllowPrivateDestinations = mxPort, true
	if change != nil {
		change(&out)
	}
	cfg.Outbound = append(cfg.Outbound, out)
}

func nextDoor(cfg *proxy.Config) string {
	return fmt.Sprintf("127.54.0.%d:0", 1+len(cfg.Inbound)+len(cfg.Outbound))
}

func realEndpoint(addr string) proxy.Endpoint {
	at := netip.MustParseAddrPort(addr)
	return proxy.Endpoint{Host: at.Addr().String(), Port: at.Port()}
}

func portOf(addr string) int { return int(netip.MustParseAddrPort(addr).Port()) }

// A realProxy is a proxy on loopback, over the kernel's TCP and real DNS.
type realProxy struct {
	*proxy.Proxy
	mu   sync.Mutex
	done []proxy.Summary
}

// startReal starts a proxy that is shut down, in order, at the end of the test.
func startReal(t *testing.T, cfg *proxy.Config, names netip.AddrPort) *realProxy {
	t.Helper()
	px, err := startRealWith(t, cfg, names, proxy.Options{Log: zaptest.NewLogger(t, zaptest.Level(zap.InfoLevel))})
	if err != nil {
		t.Fatal(err)
	}
	return px
}

func startRealErr(t *testing.T, cfg *proxy.Config, names netip.AddrPort, log *zap.Logger) (*realProxy, error) {
	t.Helper()
	return startRealWith(t, cfg, names, proxy.Options{Log: log})
}

// startRealWith starts one with a log of the caller's, and a store where it
// gives one; the other options it makes.
func startRealWith(t *testing.T, cfg *proxy.Config, names netip.AddrPort, o proxy.Options) (*realProxy, error) {
	t.Helper()
	rc := resolver.Config{Servers: []netip.AddrPort{names}, Timeout: 2 * time.Second}
	res, err := resolver.New(rc)
	if err != nil {
		t.Fatal(err)
	}
	px := &realProxy{}
	o.Metrics, o.Resolver = proxy.NewMetrics(prometheus.NewRegistry()), res
	if o.Once == nil {
		if o.Once, err = once.Open(tlsstore.Memory(), once.Options{}); err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { _ = o.Once.Close() }) // behind the proxy
	}
	o.Done = func(s proxy.Summary) {
		px.mu.Lock()
		defer px.mu.Unlock()
		px.done = append(px.done, s)
	}
	if px.Proxy, err = proxy.New(cfg, o); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
		defer cancel()
		if err := px.Shutdown(ctx); err != nil {
			t.Errorf("shutdown: %v", err)
		}
	})
	return px, px.Start(mtatest.Context(t))
}

// at returns where a door is.
func (p *realProxy) at(door string) string { return p.Addrs(door)[0].String() }

// transactions returns what was done so far.
func (p *realProxy) transactions() []proxy.Summary {
	p.mu.Lock()
	defer p.mu.Unlock()
	return append([]proxy.Summary(nil), p.done...)
}

// records waits for n transactions: each is recorded a moment after its client and its hop know of it.
func (p *realProxy) records(t *testing.T, n int) []proxy.Summary {
	t.Helper()
	awaitReal(t, "the records of transactions", func() bool { return len(p.transactions()) >= n })
	return p.transactions()
}

// realSubmit hands a server a message to send.
func realSubmit(t *testing.T, in *mta.Instance, raw []byte, to ...string) {
	t.Helper()
	err := in.Submit(mtatest.Context(t), realSender, to, raw)
	if err != nil && !errors.Is(err, exec.ErrWaitDelay) { // Exim's command is done; the delivery it began is not
		t.Fatal(err)
	}
}

// arrive waits for n deliveries in all.
func (c realCourse) arrive(t *testing.T, n int) []mta.Message {
	t.Helper()
	got, err := c.receiver.WaitDelivered(mtatest.Context(t), n)
	if err != nil {
		t.Fatal(err)
	}
	return got
}

// realDial opens a dialog in the plainest SMTP.
func realDial(t *testing.T, addr string) *mta.Dialog {
	t.Helper()
	d, greeting, err := mta.Dial(mtatest.Context(t), addr, "", nil)
	if err != nil || greeting.Code != 220 {
		t.Fatalf("%s: %v, %v", addr, greeting, err)
	}
	t.Cleanup(func() { _ = d.Close() })
	return d
}

// realHear says a line and wants a code.
func realHear(t *testing.T, d *mta.Dialog, code int, format string, args ...any) mta.Answer {
	t.Helper()
	a, err := d.Say(format, args...)
	if err != nil || a.Code != code {
		t.Fatalf("%s: %s, %v; want %d", fmt.Sprintf(format, args...), a, err, code)
	}
	return a
}

// awaitReal asks until it is true.
func awaitReal(t *testing.T, what string, done func() bool) {
	t.Helper()
	tick := time.NewTicker(10 * time.Millisecond)
	defer tick.Stop()
	late := time.After(realPatience)
	for !done() {
		select {
		case <-tick.C:
		case <-late:
			t.Fatalf("waited %v for %s", realPatience, what)
		}
	}
}

// realLogged returns the lines of a server's log that have all the words.
func realLogged(in *mta.Instance, words ...string) []string {
	var lines []string
next:
	for line := range strings.Lines(in.Log()) {
		for _, w := range words {
			if !strings.Contains(line, w) {
				continue next
			}
		}
		lines = append(lines, line)
	}
	return lines
}
