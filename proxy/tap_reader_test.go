//go:build unix

package proxy

import (
	"bufio"
	"bytes"
	"context"
	"fmt"
	"net"
	"os"
	"os/exec"
	"runtime"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"go.uber.org/zap"

	"slipstream/bench/refpeer"
)

// startTapped starts a proxy on loopback that relays to a sink, and returns its door.
func startTapped(t *testing.T, change func(*Config)) (w *world, sink *refpeer.Server, door string) {
	t.Helper()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	sink = &refpeer.Server{Keywords: refpeer.Modern(), Record: -1, Brief: true}
	sink.Start(ln)
	t.Cleanup(sink.Close)
	w = &world{t: t, dns: newFakeDNS(), cfg: testConfig()}
	w.outbound(func(o *OutboundConfig) {
		o.Listen, o.Route = []string{"127.0.0.1:0"}, ""
		o.Relay = Endpoint{Host: "127.0.0.1", Port: addrPort(ln.Addr()).Port()}
		o.PoolIdle = time.Minute
	})
	change(w.cfg)
	w.registry = prometheus.NewRegistry()
	w.proxy, err = New(w.cfg, Options{Log: zap.NewNop(), Metrics: NewMetrics(w.registry), Resolver: w.dns})
	if err != nil {
		t.Fatal(err)
	}
	if err := w.proxy.Start(t.Context()); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(w.stop)
	return w, sink, w.proxy.Addrs("outbound")[0].String()
}

func (w *world) copied() float64 { return w.counter("slipstream_tap_copies_total", "outbound") }

func (w *world) uncopied() float64 {
	return w.counterOf("slipstream_tap_left_out_total", "why", tapDisk)
}

// sendTapped sends messages of several sizes at once, all of which are delivered.
func sendTapped(t *testing.T, door string, messages int) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	var wg sync.WaitGroup
	for i, size := range []int{500, 20 << 10, 400 << 10} { // the last lie in files
		n := messages * []int{60, 35, 5}[i] / 100
		wg.Go(func() {
			s := &refpeer.Source{
				Addr: door, Sessions: 3, Messages: n, PerConn: 50, Size: size, Style: refpeer.Pipelining,
				Prefix: fmt.Sprintf("size%d-", size),
			}
			stats := s.Run(ctx)
			if acked := len(stats.Acknowledged); acked != n {
				t.Errorf("%d of %d messages of %d octets were acknowledged: %v", acked, n, size, stats.Err)
			}
		})
	}
	wg.Wait()
}

// A program reads and removes copies while 2000 messages pass: each is read whole
// or was counted as left out, and the directory holds no more than it may.
func TestTapReader(t *testing.T) {
	python, err := exec.LookPath("python3")
	if err != nil {
		t.Skip("no python3 here, which the reader is written in")
	}
	const messages = 2000
	for name, limit := range map[string]Size{"room for all": gigabyte, "little room": 3 * megabyte} {
		t.Run(name, func(t *testing.T) {
			dir := t.TempDir()
			w, sink, door := startTapped(t, func(cfg *Config) { cfg.Tap.Dir, cfg.Tap.MaxSize = dir, limit })
			reader := exec.Command(python, "testdata/tapreader.py", dir, "200")
			in, err := reader.StdinPipe()
			if err != nil {
				t.Fatal(err)
			}
			var out, complaints bytes.Buffer
			reader.Stdout, reader.Stderr = &out, &complaints
			if err := reader.Start(); err != nil {
				t.Fatal(err)
			}
			begun := time.Now()
			sendTapped(t, door, messages)
			took := time.Since(begun)
			w.stop()
			_ = in.Close() // it ends for that
			if err := reader.Wait(); err != nil {
				t.Fatalf("%v: %s", err, &complaints)
			}
			delivered := sink.IDs()
			read := make(map[string]bool)
			var peak int64
			for lines := bufio.NewScanner(&out); lines.Scan(); {
				id, what, _ := strings.Cut(lines.Text(), " ")
				switch {
				case id == "peak":
					_, _ = fmt.Sscan(what, &peak)
				case read[id] || what != "sent" || delivered[id] != 1:
					t.Errorf("%s was read, %q, delivered %d times", id, what, delivered[id])
				default:
					read[id] = true
				}
			}
			left := int(w.counterOf("slipstream_tap_left_out_total", "door", "outbound"))
			if len(read)+left != messages || w.copied() != float64(len(read)) {
				t.Errorf("%d were read and %d left out of %d", len(read), left, messages)
			}
			if peak > int64(limit) || peak == 0 {
				t.Errorf("the directory held %d octets, may hold %d", peak, limit)
			}
			if names := namesIn(t, dir); len(names) != 0 {
				t.Errorf("left behind: %q", names)
			}
			t.Logf("%d messages in %v: %d read, %d left out, at most %d octets", messages, took, len(read), left, peak)
		})
	}
}

// tapVictimDir has a process of this test copy without end, until it is killed.
const tapVictimDir = "SLIPSTREAM_TAP_VICTIM"

// Killed at any moment, we leave nothing that a reader could take for a copy and
// that is none, and at the next start nothing but whole copies.
func TestTapKilled(t *testing.T) {
	if dir := os.Getenv(tapVictimDir); dir != "" {
		tapVictim(t, dir)
		return
	}
	dir := t.TempDir()
	found, unfinished := 0, 0
	for round := range 40 {
		victim := exec.Command(os.Args[0], "-test.run=^TestTapKilled$", "-test.count=1")
		victim.Env = append(os.Environ(), tapVictimDir+"="+dir)
		out, err := victim.StdoutPipe()
		if err != nil {
			t.Fatal(err)
		}
		if err := victim.Start(); err != nil {
			t.Fatal(err)
		}
		if _, err := bufio.NewReader(out).ReadByte(); err != nil {
			t.Fatalf("the victim says nothing: %v", err)
		}
		timer := time.NewTimer(time.Duration(1+round*3%50) * time.Millisecond)
		<-timer.C
		_ = victim.Process.Kill() // it has no way to be gone before
		_ = victim.Wait()
		hidden := tapWhole(t, dir)
		unfinished += hidden
		openTap(t, dir)
		if hidden = tapWhole(t, dir); hidden != 0 {
			t.Fatalf("round %d: %d hidden files after a start", round, hidden)
		}
		list, _ := tapped(t, dir)
		found += len(list)
		for _, name := range namesIn(t, dir) {
			if err := os.Remove(dir + "/" + name); err != nil {
				t.Fatal(err)
			}
		}
	}
	t.Logf("%d copies, %d files that were under way", found, unfinished)
	if found == 0 || unfinished == 0 {
		t.Error("nobody was killed while at work")
	}
}

// tapWhole looks at a directory as a reader does, and counts what is hidden.
func tapWhole(t *testing.T, dir string) (hidden int) {
	t.Helper()
	for _, name := range namesIn(t, dir) {
		if strings.HasPrefix(name, ".") {
			hidden++
			continue
		}
		base, is := strings.CutSuffix(name, tapEnvelope)
		if !is {
			continue
		}
		text, err := os.ReadFile(dir + "/" + base + tapText)
		if err != nil || !bytes.HasSuffix(text, []byte("END\r\n")) {
			t.Fatalf("%s has a text of %d octets, %v", name, len(text), err)
		}
	}
	return hidden
}

// tapVictim copies messages of many sizes.
func tapVictim(t *testing.T, dir string) {
	tap := newTap(zap.NewNop(), NewMetrics(prometheus.NewRegistry()))
	cfg := testConfig()
	cfg.Tap.Dir = dir
	tap.use(cfg)
	for n := 0; ; n++ {
		if n == 10 {
			fmt.Println("at work")
		}
		c := tapCopyOf(t, n, strings.Repeat("text\r\n", n*997%50000)+"END\r\n", false)
		c.load = loadOf(c.text, c.envelope)
		for tap.take(c) == tapBusy {
			runtime.Gosched()
		}
	}
}
