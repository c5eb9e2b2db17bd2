//go:build linux

package proxy_test

import (
	"bufio"
	"context"
	"fmt"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"slipstream/bench/refpeer"
)

// idleSessions is how many clients sit idle at the same time. Each takes a
// descriptor on either side, and 20000 are a common limit of a process.
const idleSessions = 10_000

// BenchmarkIdle measures what an idle client costs in memory: a session in clear
// that has said EHLO and nothing since. The proxy is a process of its own, asked
// before the first client came and while all are there.
//
//	go test -run '^$' -bench Idle -benchtime 1x ./proxy/
//
// RSS is what the system has given, KB of 1000 octets; heap and stacks are what
// the runtime uses of it, garbage included.
func BenchmarkIdle(b *testing.B) {
	sink := referenceSink(b)
	var grown memory
	for b.Loop() {
		px := startProxy(b, sink)
		before := px.memory(b)
		clients := openIdle(b, px.doors["inbound"], idleClient)
		grown = px.memory(b).minus(before)
		for _, c := range clients {
			_ = c.Close() // it is not needed any more
		}
	}
	grown.report(b)
}

// report tells what one session takes of it.
func (m memory) report(b *testing.B) {
	perSession := func(octets int64) float64 { return float64(octets) / 1000 / idleSessions }
	b.ReportMetric(perSession(m.resident), "RSS-KB/session")
	b.ReportMetric(perSession(m.heap), "heap-KB/session")
	b.ReportMetric(perSession(m.stacks), "stack-KB/session")
}

// openIdle opens sessions from many addresses, as real clients would.
func openIdle(b *testing.B, addr string, open func(addr string, from net.IP) (net.Conn, error)) []net.Conn {
	b.Helper()
	const hands, sources = 16, 100
	clients := make([]net.Conn, idleSessions)
	errs := make([]error, hands)
	var wg sync.WaitGroup
	for hand := range hands {
		wg.Go(func() {
			for i := hand; i < idleSessions && errs[hand] == nil; i += hands {
				from := net.IPv4(127, 0, 1, byte(1+i%sources))
				clients[i], errs[hand] = open(addr, from)
			}
		})
	}
	wg.Wait()
	for _, err := range errs {
		if err != nil {
			b.Fatal(err)
		}
	}
	return clients
}

// idleClient says EHLO and waits for the answer.
func idleClient(addr string, from net.IP) (net.Conn, error) {
	d := net.Dialer{LocalAddr: &net.TCPAddr{IP: from}, Timeout: time.Minute}
	conn, err := d.Dial("tcp", addr)
	if err != nil {
		return nil, err
	}
	if _, err := fmt.Fprint(conn, "EHLO client.example\r\n"); err != nil {
		return nil, err
	}
	lines := bufio.NewScanner(conn)
	for lines.Scan() {
		if strings.HasPrefix(lines.Text(), "250 ") {
			return conn, nil
		}
	}
	return nil, fmt.Errorf("no answer to EHLO: %w", lines.Err())
}

// memory is what a process has, in octets.
type memory struct{ resident, heap, stacks int64 }

func (m memory) minus(o memory) memory {
	return memory{m.resident - o.resident, m.heap - o.heap, m.stacks - o.stacks}
}

func (px *proxyProcess) memory(b *testing.B) memory {
	b.Helper()
	var m memory
	status, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", px.cmd.Process.Pid))
	if err != nil {
		b.Fatal(err)
	}
	if _, rest, ok := strings.Cut(string(status), "VmRSS:"); ok {
		_, err = fmt.Sscan(rest, &m.resident)
	}
	m.resident *= 1024 // proc(5): in kB, which are KiB
	if err != nil || m.resident == 0 {
		b.Fatalf("no VmRSS: %v", err)
	}
	m.heap, m.stacks = px.metric(b, "go_memstats_heap_inuse_bytes"), px.metric(b, "go_memstats_stack_inuse_bytes")
	return m
}

// metric asks the admin socket for a number.
func (px *proxyProcess) metric(b *testing.B, name string) int64 {
	b.Helper()
	resp, err := http.Get("http://" + px.admin + "/metrics")
	if err != nil {
		b.Fatal(err)
	}
	defer resp.Body.Close()
	lines := bufio.NewScanner(resp.Body)
	for lines.Scan() {
		if value, ok := strings.CutPrefix(lines.Text(), name+" "); ok {
			n, err := strconv.ParseFloat(value, 64)
			if err != nil {
				b.Fatal(err)
			}
			return int64(n)
		}
	}
	b.Fatalf("the proxy does not count %s: %v", name, lines.Err())
	return 0
}

func referenceSink(b *testing.B) string {
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		b.Fatal(err)
	}
	sink := refpeer.Sink("sink.example")
	sink.Start(ln)
	b.Cleanup(sink.Close)
	return ln.Addr().String()
}

// A proxyProcess is a slipstream of its own, with a door of each kind.
type proxyProcess struct {
	cmd   *exec.Cmd
	doors map[string]string // where they are, by name
	admin string
}

// startProxy runs "slipstream serve" between its doors and a next hop until the
// benchmark ends, with further lines for each door. $SLIPSTREAM names a binary to
// measure in the place of one that is built from these sources, so that two
// versions can be compared.
func startProxy(b *testing.B, hop string, lines ...string) *proxyProcess {
	b.Helper()
	dir := b.TempDir()
	binary := os.Getenv("SLIPSTREAM")
	if binary == "" {
		binary = filepath.Join(dir, "slipstream")
		if out, err := exec.Command("go", "build", "-o", binary, "slipstream/cmd/slipstream").CombinedOutput(); err != nil {
			b.Fatalf("%v\n%s", err, out)
		}
	}
	px := &proxyProcess{admin: freeAddr(b), doors: map[string]string{"inbound": freeAddr(b), "outbound": freeAddr(b)}}
	config := filepath.Join(dir, "slipstream.toml")
	more := strings.Join(lines, "\n")
	text := fmt.Sprintf(`hostname = "proxy.example"
state_dir = %q
admin.listen = %q
[limits]
max_connections = 20000
max_connections_per_client = 20000
max_transactions_per_connection = 1000000
[[inbound]]
auth.enabled = false
listen = [%q]
backend = %q
backend_trusts_us = true
%s
[[outbound]]
listen = [%q]
relay = %q
%s
`, dir, px.admin, px.doors["inbound"], hop, more, px.doors["outbound"], hop, more)
	if err := os.WriteFile(config, []byte(text), 0o600); err != nil {
		b.Fatal(err)
	}
	log, err := os.Create(filepath.Join(dir, "log"))
	if err != nil {
		b.Fatal(err)
	}
	defer log.Close()
	px.cmd = exec.Command(binary, "serve", "-c", config)
	px.cmd.Stderr = log
	px.cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	if err := px.cmd.Start(); err != nil {
		b.Fatal(err)
	}
	b.Cleanup(func() {
		_ = px.cmd.Process.Kill() // it has served its purpose
		_ = px.cmd.Wait()
	})
	if err := listening(b.Context(), px.doors["outbound"]); err != nil {
		text, _ := os.ReadFile(log.Name())
		b.Fatalf("%v\n%s", err, text)
	}
	return px
}

// freeAddr is an address that nobody listens at.
func freeAddr(b *testing.B) string {
	b.Helper()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		b.Fatal(err)
	}
	defer ln.Close()
	return ln.Addr().String()
}

// startWait is how long a proxy may take to open its doors.
const startWait = 10 * time.Second

// listening waits until somebody listens at addr.
func listening(ctx context.Context, addr string) error {
	ctx, cancel := context.WithTimeout(ctx, startWait)
	defer cancel()
	for {
		conn, err := new(net.Dialer).DialContext(ctx, "tcp", addr)
		if err == nil {
			return conn.Close()
		}
		select {
		case <-ctx.Done():
			return err
		case <-time.After(time.Millisecond):
		}
	}
}
