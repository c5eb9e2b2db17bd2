//go:build linux

package proxy_test

import (
	"bufio"
	"fmt"
	"net"
	"net/http"
	"os"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"
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
		clients := openIdle(b, px.doors["inbound"])
		grown = px.memory(b).minus(before)
		for _, c := range clients {
			_ = c.Close() // it is not needed any more
		}
	}
	perSession := func(octets int64) float64 { return float64(octets) / 1000 / idleSessions }
	b.ReportMetric(perSession(grown.resident), "RSS-KB/session")
	b.ReportMetric(perSession(grown.heap), "heap-KB/session")
	b.ReportMetric(perSession(grown.stacks), "stack-KB/session")
}

// openIdle opens sessions from many addresses, as real clients would.
func openIdle(b *testing.B, addr string) []net.Conn {
	b.Helper()
	const hands, sources = 16, 100
	clients := make([]net.Conn, idleSessions)
	errs := make([]error, hands)
	var wg sync.WaitGroup
	for hand := range hands {
		wg.Go(func() {
			for i := hand; i < idleSessions && errs[hand] == nil; i += hands {
				from := net.IPv4(127, 0, 1, byte(1+i%sources))
				clients[i], errs[hand] = idleClient(addr, from)
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
	status, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", px.pid()))
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
