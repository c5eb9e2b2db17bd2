package proxy

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"os"
	"runtime"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"golang.org/x/sys/unix"

	"slipstream/bench/refpeer"
)

// An ownNet is a network of the kernel's for one test: a loopback with the MTU of an Ethernet, and settings of its own.
type ownNet struct {
	t  *testing.T
	do func(func() error) error // on a thread inside
}

// newOwnNet makes one whose net.ipv4.tcp_fastopen is as given, and skips the test where the system does not let us.
func newOwnNet(t *testing.T, bits int) *ownNet {
	t.Helper()
	calls, results := make(chan func() error), make(chan error)
	go func() { // ends with the test, and its thread, which is like no other, with it
		runtime.LockOSThread()
		for f := range calls {
			results <- f()
		}
	}()
	t.Cleanup(func() { close(calls) })
	n := &ownNet{t: t, do: func(f func() error) error { calls <- f; return <-results }}
	if err := n.do(func() error { return unix.Unshare(unix.CLONE_NEWNET) }); err != nil {
		t.Skipf("a network of its own needs root: %v", err)
	}
	if err := n.do(loopbackUp); err != nil {
		t.Fatal(err)
	}
	n.set(bits)
	return n
}

func loopbackUp() error {
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return err
	}
	defer unix.Close(fd)
	for _, s := range []struct {
		request uint
		set     func(*unix.Ifreq)
	}{
		{unix.SIOCSIFMTU, func(r *unix.Ifreq) { r.SetUint32(1500) }},
		{unix.SIOCSIFFLAGS, func(r *unix.Ifreq) { r.SetUint16(unix.IFF_UP | unix.IFF_RUNNING) }},
	} {
		request, err := unix.NewIfreq("lo")
		if err != nil {
			return err
		}
		s.set(request)
		if err := unix.IoctlIfreq(fd, s.request, request); err != nil {
			return err
		}
	}
	return nil
}

func (n *ownNet) set(bits int) {
	n.t.Helper()
	if err := n.do(func() error {
		return os.WriteFile("/proc/sys/net/ipv4/tcp_fastopen", []byte(fmt.Sprint(bits)), 0)
	}); err != nil {
		n.t.Skipf("/proc/sys cannot be written, as in many containers: %v", err)
	}
}

// counter reads one of the kernel's counters.
func (n *ownNet) counter(name string) (value string) {
	n.t.Helper()
	if err := n.do(func() error {
		data, err := os.ReadFile("/proc/thread-self/net/netstat")
		lines := strings.Split(string(data), "\n")
		for i := 0; i+1 < len(lines); i += 2 {
			names, values := strings.Fields(lines[i]), strings.Fields(lines[i+1])
			for k := range names {
				if names[k] == name && k < len(values) {
					value = values[k]
				}
			}
		}
		return err
	}); err != nil || value == "" {
		n.t.Fatalf("no counter %s: %v", name, err)
	}
	return value
}

// within makes a DialFunc dial inside.
func (n *ownNet) within(dial DialFunc) DialFunc {
	return func(ctx context.Context, network string, local netip.Addr, remote string) (conn net.Conn, err error) {
		err = n.do(func() error {
			conn, err = dial(ctx, network, local, remote)
			return err
		})
		return conn, err
	}
}

func (n *ownNet) listen(ctx context.Context, addr string) (ln net.Listener, err error) {
	err = n.do(func() error {
		ln, err = netListen(ctx, addr)
		return err
	})
	return ln, err
}

// open makes a listener, which offers Fast Open or does not.
func (n *ownNet) open(offer bool) net.Listener {
	n.t.Helper()
	ln, err := n.listen(n.t.Context(), "127.0.0.1:0")
	if err != nil {
		n.t.Fatal(err)
	}
	n.t.Cleanup(func() { _ = ln.Close() })
	offerFastOpen(ln, offer)
	return ln
}

// openDeaf makes a listener that nothing reaches.
func (n *ownNet) openDeaf() (ln net.Listener) {
	n.t.Helper()
	if err := n.do(func() (err error) {
		var lc net.ListenConfig
		lc.SetMultipathTCP(false) // its sockets take no filter
		ln, err = lc.Listen(n.t.Context(), "tcp", "127.0.0.1:0")
		return err
	}); err != nil {
		n.t.Fatal(err)
	}
	n.t.Cleanup(func() { _ = ln.Close() })
	deafen(n.t, ln)
	return ln
}

// dial dials fast, with a minute for everything.
func (n *ownNet) dial(addr string) *net.TCPConn {
	n.t.Helper()
	conn, err := n.within(netDialFast)(n.t.Context(), "tcp", netip.Addr{}, addr)
	if err != nil {
		n.t.Fatal(err)
	}
	n.t.Cleanup(func() { _ = conn.Close() })
	_ = conn.SetDeadline(time.Now().Add(time.Minute))
	return conn.(*net.TCPConn)
}

// take accepts a connection.
func (n *ownNet) take(ln net.Listener) *net.TCPConn {
	n.t.Helper()
	_ = ln.(*net.TCPListener).SetDeadline(time.Now().Add(time.Minute))
	conn, err := ln.Accept()
	if err != nil {
		n.t.Fatal(err)
	}
	n.t.Cleanup(func() { _ = conn.Close() })
	_ = conn.SetDeadline(time.Now().Add(time.Minute))
	return conn.(*net.TCPConn)
}

// meet makes the first contact, which leaves a cookie where the listener gives one.
func (n *ownNet) meet(ln net.Listener) {
	n.t.Helper()
	here := n.dial(ln.Addr().String())
	there := n.take(ln)
	if synData(here) {
		n.t.Error("the first SYN carried data")
	}
	kernelAsk(n.t, here, there, kernelHello)
	wantAcked(n.t, here, int64(len(kernelHello)))
	_ = here.Close()
	_ = there.Close()
}

// What is written first rides in the SYN, and is counted from the SYN-ACK on.
func TestFastOpenDial(t *testing.T) {
	n := newOwnNet(t, fastOpenClient|fastOpenServer)
	ln := n.open(true)
	n.meet(ln)
	here := n.dial(ln.Addr().String())
	awaitState(t, here, tcpSynSent)
	wantAcked(t, here, 0)
	if synData(here) {
		t.Error("data was acknowledged before there was any")
	}
	kernelSend(t, here, kernelFlight)
	there := n.take(ln)
	kernelTake(t, there, kernelFlight)
	kernelSend(t, there, "250 ok\r\n")
	kernelTake(t, here, "250 ok\r\n")
	wantAcked(t, here, int64(len(kernelFlight)))
	if !synData(newWire(here, true)) {
		t.Error("the SYN carried no data")
	}
	if passive := n.counter("TCPFastOpenPassive"); passive != "1" {
		t.Errorf("the listener took data from %s SYNs, want 1", passive)
	}
	if err := here.CloseWrite(); err != nil {
		t.Fatal(err)
	}
	kernelTakeEnd(t, there)
}

// A second write waits for the SYN-ACK, and so does what the SYN has no room for.
func TestFastOpenRoom(t *testing.T) {
	n := newOwnNet(t, fastOpenClient|fastOpenServer)
	ln := n.open(true)
	n.meet(ln)
	segments := func(c *net.TCPConn) uint32 {
		info, ok := tcpInfo(c)
		if !ok {
			t.Fatal("no TCP_INFO")
		}
		return info.Data_segs_in
	}
	for _, tt := range []struct {
		name   string
		writes []string
		in     uint32 // data segments at the other side, SYN included
	}{
		{"fits", []string{strings.Repeat("x", 1420)}, 1},
		{"does not fit", []string{strings.Repeat("x", 1421)}, 2},
		{"two writes", []string{"MAIL\r\n", "BDAT 6\r\ntext\r\n"}, 2},
	} {
		t.Run(tt.name, func(t *testing.T) {
			here := n.dial(ln.Addr().String())
			for _, w := range tt.writes {
				kernelSend(t, here, w)
			}
			there := n.take(ln)
			all := strings.Join(tt.writes, "")
			kernelTake(t, there, all)
			kernelSend(t, there, "250 ok\r\n")
			kernelTake(t, here, "250 ok\r\n")
			wantAcked(t, here, int64(len(all)))
			if got := segments(there); got != tt.in {
				t.Errorf("%d segments with data, want %d", got, tt.in)
			}
			if !synData(here) {
				t.Error("the SYN carried no data")
			}
		})
	}
}

// Where data in the SYN is not taken, it is sent again behind the SYN-ACK.
func TestFastOpenNotTaken(t *testing.T) {
	n := newOwnNet(t, fastOpenClient|fastOpenServer)
	ln := n.open(true)
	n.meet(ln)
	offerFastOpen(ln, false)
	here := n.dial(ln.Addr().String())
	kernelSend(t, here, kernelFlight)
	there := n.take(ln)
	kernelTake(t, there, kernelFlight)
	kernelSend(t, there, "250 ok\r\n")
	kernelTake(t, here, "250 ok\r\n")
	wantAcked(t, here, int64(len(kernelFlight)))
	if synData(here) {
		t.Error("the SYN carried data")
	}
}

// Without the system's leave everything is as ever, for a listener as for a dialer.
func TestFastOpenOff(t *testing.T) {
	for _, bits := range []int{0, fastOpenClient, fastOpenServer} {
		t.Run(fmt.Sprint(bits), func(t *testing.T) {
			n := newOwnNet(t, bits)
			ln := n.open(true)
			n.meet(ln)
			here := n.dial(ln.Addr().String())
			there := n.take(ln)
			kernelAsk(t, here, there, kernelFlight)
			if synData(here) {
				t.Error("the SYN carried data")
			}
		})
	}
}

// What went wrong shows at the first read, and nothing was acknowledged.
func TestFastOpenFailures(t *testing.T) {
	n := newOwnNet(t, fastOpenClient|fastOpenServer)
	n.meet(n.open(true)) // the cookie is good for every port
	t.Run("refused", func(t *testing.T) {
		ln := n.open(true)
		_ = ln.Close()
		here := n.dial(ln.Addr().String())
		kernelSend(t, here, kernelFlight)
		wantReadError(t, here, syscall.ECONNREFUSED)
		wantAcked(t, here, 0)
		_, err := io.WriteString(here, kernelFlight)
		wantKernelError(t, err, syscall.EPIPE)
		wantAcked(t, here, 0)
	})
	t.Run("nobody answers", func(t *testing.T) {
		ln := n.openDeaf()
		here := n.dial(ln.Addr().String())
		limitUnacked(here, deadWait)
		kernelSend(t, here, kernelFlight)
		wantAcked(t, here, 0)
		wantReadError(t, here, syscall.ETIMEDOUT)
		wantAcked(t, here, 0)
	})
	t.Run("reading first", func(t *testing.T) {
		ln := n.open(true)
		here := n.dial(ln.Addr().String())
		_ = here.SetReadDeadline(time.Now().Add(deadWait))
		wantReadError(t, here, os.ErrDeadlineExceeded)
		awaitState(t, here, tcpSynSent)
		_ = ln.(*net.TCPListener).SetDeadline(time.Now())
		if _, err := ln.Accept(); !errors.Is(err, os.ErrDeadlineExceeded) {
			t.Errorf("the listener: %v, want nothing", err)
		}
	})
	t.Run("half-close before the SYN-ACK", func(t *testing.T) {
		ln := n.openDeaf()
		here := n.dial(ln.Addr().String())
		kernelSend(t, here, kernelFlight)
		_ = here.CloseWrite() // says nothing of it
		wantReadError(t, here, syscall.ECONNRESET)
		wantAcked(t, here, 0)
	})
}

// A client whose whole message is in the SYN is answered by an inbound door that offers it, and by one that does not.
func TestFastOpenDoor(t *testing.T) {
	for _, offer := range []bool{true, false} {
		t.Run(fmt.Sprint(offer), func(t *testing.T) {
			n := newOwnNet(t, fastOpenClient|fastOpenServer)
			backend := n.open(false)
			server := &refpeer.Server{Keywords: refpeer.Keywords{Pipelining: true, Chunking: true, Size: 1000000}}
			server.Start(backend)
			t.Cleanup(server.Close)

			cfg := testConfig()
			in := DefaultInbound()
			in.Auth.Enabled = false
			in.Listen, in.AddReceived, in.BackendTrustsUs = []string{"127.0.0.1:0"}, false, true
			in.Backend = endpointOf(t, backend.Addr())
			in.FastOpen = offer
			cfg.Inbound = []InboundConfig{in}
			p, err := New(cfg, Options{
				Metrics: NewMetrics(prometheus.NewRegistry()), Resolver: newFakeDNS(),
				Dial: n.within(netDial), Listen: n.listen,
			})
			if err != nil {
				t.Fatal(err)
			}
			if err := p.Start(t.Context()); err != nil {
				t.Fatal(err)
			}
			t.Cleanup(func() {
				ctx, cancel := context.WithTimeout(context.Background(), time.Second)
				defer cancel()
				_ = p.Shutdown(ctx)
			})

			door := p.Addrs("inbound")[0].String()
			for visit := range 2 {
				here := n.dial(door)
				if visit == 0 { // without a cookie the server speaks first
					_ = here.Close()
					continue
				}
				text := "From: <a@example.net>\r\n\r\nin the SYN\r\n"
				kernelSend(t, here, fmt.Sprintf("EHLO client.example\r\nMAIL FROM:<a@example.net>\r\n"+
					"RCPT TO:<b@example.org>\r\nBDAT %d LAST\r\n%s", len(text), text))
				var got bytes.Buffer
				for !strings.Contains(got.String(), "\r\n250 2.0.0") {
					if _, err := io.CopyN(&got, here, 1); err != nil {
						t.Fatalf("%v behind %q", err, got.String())
					}
				}
				if carried := synData(here); carried != offer {
					t.Errorf("data in the SYN: %v, want %v", carried, offer)
				}
				t.Logf("%q", got.String())
			}
		})
	}
}

func endpointOf(t *testing.T, a net.Addr) (e Endpoint) {
	t.Helper()
	if err := e.UnmarshalText([]byte(a.String())); err != nil {
		t.Fatal(err)
	}
	return e
}

// A check says what the system's setting does to the doors, and is silent where it suits them.
func TestFastOpenCheck(t *testing.T) {
	const inbound = `ok inbound: net.ipv4.tcp_fastopen = %d lets no client send data in its SYN; %d would`
	const outbound = `warn outbound: net.ipv4.tcp_fastopen = %d does not let us send data in a SYN, ` +
		`so fastopen = "commands" does nothing; set it to %d`
	for _, tt := range []struct {
		bits int
		in   bool
		out  string
		want []string
	}{
		{3, true, "commands", nil},
		{0, false, "off", nil},
		{1, true, "commands", []string{fmt.Sprintf(inbound, 1, 3)}},
		{0, true, "commands", []string{fmt.Sprintf(inbound, 0, 2), fmt.Sprintf(outbound, 0, 1)}},
		{2, true, "commands", []string{fmt.Sprintf(outbound, 2, 3)}},
		{0x402, true, "commands", []string{fmt.Sprintf(outbound, 0x402, 0x403)}},
	} {
		cfg := testConfig()
		in, out := DefaultInbound(), DefaultOutbound()
		in.Auth.Enabled = false
		in.FastOpen, out.FastOpen = tt.in, tt.out
		cfg.Inbound, cfg.Outbound = []InboundConfig{in}, []OutboundConfig{out}
		var got []string
		c := &check{cfg: cfg, report: func(f Finding) { got = append(got, f.State.String()+" "+f.Text) }}
		c.fastOpen(tt.bits)
		if !slices.Equal(got, tt.want) {
			t.Errorf("%#x: got\n%s\nwant\n%s", tt.bits, strings.Join(got, "\n"), strings.Join(tt.want, "\n"))
		}
	}
	if bits, ok := fastOpenBits(); !ok || bits < 0 {
		t.Errorf("the system's setting is %d, %v", bits, ok)
	}
}

// Where only Dial is wired, nothing goes around it.
func TestFastOpenWiring(t *testing.T) {
	for _, tt := range []struct {
		name       string
		dial, fast DialFunc
		want       bool
	}{
		{"neither", nil, nil, true},
		{"Dial", netDial, nil, false},
		{"DialFast", nil, netDial, true},
		{"both", netDial, netDial, true},
	} {
		p, err := New(testConfig(), Options{Metrics: NewMetrics(prometheus.NewRegistry()), Resolver: newFakeDNS(),
			Dial: tt.dial, DialFast: tt.fast})
		if err != nil {
			t.Fatal(err)
		}
		conf := DefaultOutbound()
		d, err := p.outboundDoor(p.config, &conf)
		if err != nil {
			t.Fatal(err)
		}
		if got := d.caller.dialFast != nil; got != tt.want || d.caller.dial == nil {
			t.Errorf("%s: Fast Open is there: %v, want %v", tt.name, got, tt.want)
		}
		p.cancel()
	}
}
