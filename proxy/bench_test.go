//go:build linux

package proxy_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"slipstream/bench/mta"
	"slipstream/bench/refpeer"
)

// What is sent in the benchmarks.
const (
	benchSessions = 20      // at the same time
	benchOctets   = 4 << 10 // of one message
	benchPerConn  = 100     // messages, where a connection has many
)

// BenchmarkDoors measures what a message costs on its way: how many pass in a
// second, and how much CPU time what stands between source and sink spends on
// one. The same source and the same sink are joined directly, by HAProxy in
// "mode tcp", and by a door of each kind; proxies are processes of their own.
//
//	go test -run '^$' -bench Doors -benchtime 20000x ./proxy/
//
// Source, sink and proxy share the machine, so the rates are those of all three
// together, and vary with whatever else it does; the CPU time is steadier. To
// compare, run the whole several times rather than with -count, so that the
// contestants take turns.
func BenchmarkDoors(b *testing.B) {
	for _, kit := range []kit{
		{"postfix", postfixSink, postfixSource},     // lock step and DATA
		{"refpeer", referenceSink, referenceSource}, // one flight with BDAT
	} {
		b.Run(kit.name, func(b *testing.B) {
			at := kit.sink(b)
			ways := []way{{name: "direct", addr: at}, haproxyWay(b, at)}
			px := startProxy(b, at)
			for _, door := range []string{"inbound", "outbound"} {
				ways = append(ways, way{name: door, addr: px.doors[door], pid: px.pid()})
			}
			for _, w := range ways {
				b.Run("one-per-connection/"+w.name, func(b *testing.B) { w.measure(b, kit, 1) })
			}
			for _, w := range ways {
				b.Run("many-per-connection/"+w.name, func(b *testing.B) { w.measure(b, kit, benchPerConn) })
			}
		})
	}
}

// A kit is a source and a sink of one make. The sink tells where it is.
type kit struct {
	name   string
	sink   func(b *testing.B) (addr string)
	source func(b *testing.B, addr string, messages, perConn int)
}

// A way joins source and sink.
type way struct {
	name   string
	addr   string // where the source is to send to
	pid    int    // of the process between; 0: there is none
	absent error  // why there is no such way
}

func (w way) measure(b *testing.B, kit kit, perConn int) {
	if w.absent != nil {
		b.Skip(w.absent)
	}
	before := cpuTime(b, w.pid)
	kit.source(b, w.addr, b.N, perConn)
	b.StopTimer()
	spent := cpuTime(b, w.pid) - before
	b.ReportMetric(0, "ns/op") // the next one says the same
	b.ReportMetric(float64(b.N)/b.Elapsed().Seconds(), "msgs/s")
	if w.pid != 0 {
		b.ReportMetric(spent.Seconds()*1000/float64(b.N), "cpu-ms/msg")
	}
}

func postfixSink(b *testing.B) string {
	sink, err := mta.Sink{}.Start(b.Context())
	skipUnavailable(b, err)
	b.Cleanup(func() { _ = sink.Stop() }) // it has served its purpose
	return sink.Addr()
}

// postfixSource sends over as many connections as there are messages, or over
// one for each session.
func postfixSource(b *testing.B, addr string, messages, perConn int) {
	src := mta.Source{Addr: addr, Sessions: benchSessions, Messages: messages, Length: benchOctets, Reuse: perConn > 1}
	if err := src.Run(b.Context()); err != nil {
		b.Fatal(err)
	}
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

func referenceSource(b *testing.B, addr string, messages, perConn int) {
	src := refpeer.Source{
		Addr: addr, Sessions: benchSessions, Messages: messages, PerConn: perConn, Size: benchOctets, Style: refpeer.Chunking,
	}
	stats := src.Run(b.Context())
	if n := len(stats.Acknowledged); stats.Err != nil || n != messages {
		b.Fatalf("%d of %d messages arrived: %v", n, messages, stats.Err)
	}
}

func haproxyWay(b *testing.B, sink string) way {
	w := way{name: "haproxy"}
	ha, err := mta.HAProxy{Backend: sink}.Start(b.Context())
	if errors.Is(err, mta.ErrUnavailable) {
		w.absent = err
		return w
	} else if err != nil {
		b.Fatal(err)
	}
	b.Cleanup(func() { _ = ha.Stop() }) // it has served its purpose
	w.addr, w.pid = ha.Addr(), grandchild(b, "haproxy")
	return w
}

func skipUnavailable(b *testing.B, err error) {
	b.Helper()
	if errors.Is(err, mta.ErrUnavailable) {
		b.Skip(err)
	} else if err != nil {
		b.Fatal(err)
	}
}

// A proxyProcess is a slipstream of its own, with a door of each kind.
type proxyProcess struct {
	cmd   *exec.Cmd
	doors map[string]string // where they are, by name
	admin string
}

func (px *proxyProcess) pid() int { return px.cmd.Process.Pid }

// startProxy runs "slipstream serve" between its doors and a next hop until the
// benchmark ends. $SLIPSTREAM names a binary to measure in the place of one that
// is built from these sources, so that two versions can be compared.
func startProxy(b *testing.B, hop string) *proxyProcess {
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
	text := fmt.Sprintf(`hostname = "proxy.example"
state_dir = %q
admin.listen = %q
[limits]
max_connections = 20000
max_connections_per_client = 20000
max_transactions_per_connection = 1000000
[[inbound]]
listen = [%q]
backend = %q
backend_trusts_us = true
[[outbound]]
listen = [%q]
relay = %q
`, dir, px.admin, px.doors["inbound"], hop, px.doors["outbound"], hop)
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

// tick is the unit of CPU time in /proc, proc(5): USER_HZ is 100.
const tick = 10 * time.Millisecond

// cpuTime is what all threads of a process have spent, in user and in system
// mode; nothing for pid 0.
func cpuTime(b *testing.B, pid int) time.Duration {
	if pid == 0 {
		return 0
	}
	b.Helper()
	stat, err := processStat(pid)
	if err != nil {
		b.Fatal(err)
	}
	const utime, stime = 14, 15 // as proc(5) counts
	var ticks int64
	for _, field := range []int{utime, stime} {
		n, err := strconv.ParseInt(stat[field-1], 10, 64)
		if err != nil {
			b.Fatal(err)
		}
		ticks += n
	}
	return time.Duration(ticks) * tick
}

// grandchild finds the process of a name that a child of ours runs.
func grandchild(b *testing.B, name string) int {
	b.Helper()
	const comm, ppid = 2, 4
	dirs, _ := filepath.Glob("/proc/[0-9]*")
	for _, dir := range dirs {
		pid, _ := strconv.Atoi(filepath.Base(dir))
		stat, err := processStat(pid)
		if err != nil || stat[comm-1] != name {
			continue // it is gone, or another's
		}
		parent, _ := strconv.Atoi(stat[ppid-1])
		if stat, err = processStat(parent); err == nil && stat[ppid-1] == strconv.Itoa(os.Getpid()) {
			return pid
		}
	}
	b.Fatalf("%s does not run", name)
	return 0
}

// processStat returns the fields of /proc/PID/stat, the name without its brackets.
func processStat(pid int) ([]string, error) {
	text, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		return nil, err
	}
	id, rest, _ := bytes.Cut(text, []byte(" ("))
	end := bytes.LastIndexByte(rest, ')') // a name may have brackets of its own
	if end < 0 {
		return nil, fmt.Errorf("/proc/%d/stat: no name", pid)
	}
	return append([]string{string(id), string(rest[:end])}, strings.Fields(string(rest[end+1:]))...), nil
}
