package proxy

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"math/rand/v2"
	"net"
	"net/netip"
	"os"
	"runtime"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"go.uber.org/zap"

	"slipstream/bench/refpeer"
	"slipstream/tlsstore"
)

const (
	enduranceHops     = 50
	enduranceSessions = 32
)

// enduranceMessages is how many messages are sent: SLIPSTREAM_ENDURANCE=100000
// for the long run.
func enduranceMessages(t *testing.T) int {
	t.Helper()
	if n := os.Getenv("SLIPSTREAM_ENDURANCE"); n != "" {
		messages, err := strconv.Atoi(n)
		if err != nil || messages < enduranceSessions {
			t.Fatalf("SLIPSTREAM_ENDURANCE=%q is not a number of messages", n)
		}
		return messages
	}
	if testing.Short() {
		return 1000
	}
	return 5000
}

// An endurance is many messages on their way to hops that fail now and then,
// over the kernel's TCP.
type endurance struct {
	t      *testing.T
	world  *world // without its network
	hops   []*refpeer.Server
	faults map[string]*atomic.Int64

	mu    sync.Mutex
	heard map[string]int // what clients heard of attempts, in a word
	acked map[string]enduranceAck
}

// An enduranceAck is a message that was acknowledged for a recipient at some
// hops.
type enduranceAck struct {
	hops   []int
	digest [32]byte
}

// TestEndurance: of many messages over connections that are kept, spoken to early
// and broken in every way, the acknowledged ones were delivered, none was
// delivered twice in one transaction, and nothing is left over at the end.
func TestEndurance(t *testing.T) {
	messages := enduranceMessages(t)
	before := enduranceHeld(t)
	took := time.Duration(0)
	t.Run("messages", func(t *testing.T) {
		e := newEndurance(t)
		begun := time.Now()
		e.send(messages)
		took = time.Since(begun)
		during := enduranceHeld(t)
		e.check(messages)
		e.report(messages, took)
		t.Logf("while it went on: %v", during)
	})
	awaitEndurance(t, before)
}

// newEndurance starts the hops, and a proxy with a door for SMTP and one for
// LMTP.
func newEndurance(t *testing.T) *endurance {
	e := &endurance{t: t, heard: map[string]int{}, acked: map[string]enduranceAck{}, faults: map[string]*atomic.Int64{}}
	for _, f := range enduranceFaults() {
		e.faults[f.name] = new(atomic.Int64)
	}
	e.faults["reset instead of all replies"] = new(atomic.Int64)
	w := &world{t: t, dns: newFakeDNS(), cfg: testConfig()}
	e.world = w
	w.remember(tlsstore.Memory())
	cert := newTestCert(t, "mx.example.org")
	listeners := enduranceListen(t)
	for i, ln := range listeners {
		host := fmt.Sprintf("mx.d%d.example", i)
		w.dns.mx[fmt.Sprintf("d%d.example", i)] = []*net.MX{{Host: host, Pref: 10}}
		w.dns.addrs[host] = []netip.Addr{addrPort(ln.Addr()).Addr()}
		hop := &refpeer.Server{Brief: true, Keywords: refpeer.Modern(), Behave: e.behave(i)}
		hop.Keywords.PipeConnect = i%3 == 0
		hop.Keywords.Chunking = i%10 != 9
		if i%5 == 1 {
			hop.TLS = cert.server()
		}
		hop.Start(enduranceListener{ln, e.faults["reset instead of all replies"]})
		t.Cleanup(hop.Close)
		e.hops = append(e.hops, hop)
	}
	for i, protocol := range []string{"smtp", "lmtp"} {
		w.outbound(func(out *OutboundConfig) {
			out.Name, out.Protocol, out.Listen = protocol, protocol, []string{fmt.Sprintf("127.0.0.%d:0", 1+i)}
			out.MXPort, out.AllowPrivateDestinations = int(addrPort(listeners[0].Addr()).Port()), true
			out.PoolIdle, out.TLS = 30*time.Second, "may"
		})
	}
	var err error
	w.proxy, err = New(w.cfg, Options{
		Log: zap.NewNop(), Metrics: NewMetrics(prometheus.NewRegistry()), Resolver: w.dns, Store: w.store,
	})
	if err != nil {
		t.Fatal(err)
	}
	if err := w.proxy.Start(t.Context()); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(w.stop)
	return e
}

// enduranceListen listens on neighbouring addresses of loopback, on one port.
func enduranceListen(t *testing.T) []net.Listener {
	t.Helper()
	var why error
	for range 20 {
		network, port := fmt.Sprintf("127.%d.%d.", 60+rand.IntN(190), rand.IntN(256)), 10000+rand.IntN(20000)
		var all []net.Listener
		for len(all) < enduranceHops {
			ln, err := net.Listen("tcp", fmt.Sprintf("%s%d:%d", network, len(all)+1, port))
			if err != nil {
				why = err
				break
			}
			all = append(all, ln)
		}
		if len(all) == enduranceHops {
			return all
		}
		for _, ln := range all {
			_ = ln.Close()
		}
	}
	t.Skip("loopback has not all of 127.0.0.0/8 here: ", why)
	return nil
}

// An enduranceListener has some connections reset where they are written to: the
// hop has taken a flight, and no reply to any of it leaves.
type enduranceListener struct {
	net.Listener
	count *atomic.Int64
}

type enduranceConn struct {
	*net.TCPConn
	count *atomic.Int64
	draw  *rand.Rand
}

// Accept implements [net.Listener].
func (l enduranceListener) Accept() (net.Conn, error) {
	conn, err := l.Listener.Accept()
	if err != nil {
		return nil, err
	}
	seed := uint64(addrPort(conn.RemoteAddr()).Port())
	return &enduranceConn{conn.(*net.TCPConn), l.count, rand.New(rand.NewPCG(seed, 3))}, nil
}

// Write implements [net.Conn].
func (c *enduranceConn) Write(p []byte) (int, error) {
	if c.draw.IntN(100) == 0 {
		c.count.Add(1)
		_ = errors.Join(c.SetLinger(0), c.Close())
		return 0, net.ErrClosed
	}
	return c.TCPConn.Write(p)
}

// An enduranceFault is something that goes wrong at a hop.
type enduranceFault struct {
	name string
	at   string // the verb, or "end" for the end of a text
	do   func(ev refpeer.Event) refpeer.Action
}

func enduranceFaults() []enduranceFault {
	act := func(a refpeer.Action) func(refpeer.Event) refpeer.Action {
		return func(refpeer.Event) refpeer.Action { return a }
	}
	bye := refpeer.Action{Reply: deathWords, Close: true}
	return []enduranceFault{
		{"close at MAIL", "MAIL", act(refpeer.Action{Close: true})},
		{"reset at MAIL", "MAIL", act(refpeer.Action{Reset: true})},
		{"421 at MAIL", "MAIL", act(bye)},
		{"close at RCPT", "RCPT", act(refpeer.Action{Close: true})},
		{"421 at RCPT", "RCPT", act(bye)},
		{"550 at RCPT", "RCPT", act(refpeer.Say("550 5.1.1 nobody"))},
		{"450 at RCPT", "RCPT", act(refpeer.Say("450 4.2.1 later"))},
		{"delay at RCPT", "RCPT", act(refpeer.Action{Delay: 10 * time.Millisecond})},
		{"close instead of the verdict", "end", act(refpeer.Action{Close: true})},
		{"reset instead of the verdict", "end", act(refpeer.Action{Reset: true})},
		{"421 as the verdict", "end", act(bye)},
		{"554 as the verdict", "end", act(refpeer.Say("554 5.7.1 spam"))},
		{"452 as the verdict", "end", act(refpeer.Say("452 4.3.1 full"))},
		{"delay of the verdict", "end", act(refpeer.Action{Delay: 20 * time.Millisecond})},
		{"close behind the verdict", "end", func(ev refpeer.Event) refpeer.Action {
			return refpeer.Action{Reply: ev.Reply + "\r\n", Close: true}
		}},
		{"reset behind the verdict", "end", func(ev refpeer.Event) refpeer.Action {
			return refpeer.Action{Reply: ev.Reply + "\r\n", Reset: true}
		}},
	}
}

// enduranceShare is how many commands of a kind there are to one fault.
const enduranceShare = 15

func (e *endurance) behave(hop int) func(refpeer.Event) refpeer.Action {
	var mu sync.Mutex
	draw := rand.New(rand.NewPCG(uint64(hop), 1))
	at := map[string][]enduranceFault{}
	for _, f := range enduranceFaults() {
		at[f.at] = append(at[f.at], f)
	}
	return func(ev refpeer.Event) refpeer.Action {
		list := at[ev.Verb]
		if ev.Kind == refpeer.EndOfData {
			list = at["end"]
		} else if ev.Kind != refpeer.Command || ev.Reply[0] != '2' {
			return refpeer.Action{}
		}
		mu.Lock()
		hit, which := draw.IntN(enduranceShare) == 0 && len(list) > 0, 0
		if hit {
			which = draw.IntN(len(list))
		}
		mu.Unlock()
		if !hit {
			return refpeer.Action{}
		}
		e.faults[list[which].name].Add(1)
		return list[which].do(ev)
	}
}

// send sends messages, each once.
func (e *endurance) send(messages int) {
	var next atomic.Int64
	var wg sync.WaitGroup
	for n := range enduranceSessions {
		wg.Go(func() {
			c := &enduranceClient{e: e, draw: rand.New(rand.NewPCG(uint64(n), 2)), lmtp: n%4 == 3}
			defer c.leave()
			for i := next.Add(1); i <= int64(messages); i = next.Add(1) {
				c.attempt(int(i))
			}
		})
	}
	wg.Wait()
}

// An enduranceClient is one client after the other.
type enduranceClient struct {
	e    *endurance
	draw *rand.Rand
	lmtp bool
	c    *refpeer.Client
	sent int
}

// attempt sends one message.
func (c *enduranceClient) attempt(i int) {
	ctx := context.Background()
	if c.c == nil {
		c.open()
	}
	id := fmt.Sprintf("m%d", i)
	hops := []int{c.draw.IntN(enduranceHops)}
	to := []string{fmt.Sprintf("%s.0@d%d.example", id, hops[0])}
	switch {
	case c.lmtp:
		hops = append(hops, (hops[0]+1+c.draw.IntN(enduranceHops-1))%enduranceHops)
		to = append(to, fmt.Sprintf("%s.1@d%d.example", id, hops[1]))
	case c.draw.IntN(4) == 0:
		to = append(to, fmt.Sprintf("%s.1@d%d.example", id, hops[0]))
	}
	size := 200 + c.draw.IntN(3000)
	if c.draw.IntN(50) == 0 {
		size = 100 << 10
	}
	body := []byte(refpeer.IDField + ": " + id + "\r\nSubject: endurance\r\n\r\n" +
		strings.Repeat("0123456789abcd\r\n", size/16))
	res, err := c.c.Send(ctx, refpeer.Mail{From: id + "@client.example", To: to, Body: body})
	c.sent++
	c.e.enter(id, c.lmtp, hops, body, res, err)
	switch {
	case err != nil:
		_ = c.c.Conn.Close() // it is of no use any more
		c.c = nil
	case c.sent%100 == 0:
		c.leave()
	}
}

func (c *enduranceClient) open() {
	door, styles := "smtp", []refpeer.Style{refpeer.LockStep, refpeer.Pipelining, refpeer.Chunking}
	if c.lmtp {
		door, styles = "lmtp", styles[:2]
	}
	conn, err := net.Dial("tcp", c.e.world.proxy.Addrs(door)[0].String())
	if err != nil {
		panic(err) // the door is ours
	}
	c.c = &refpeer.Client{Conn: conn, LMTP: c.lmtp, Style: styles[c.draw.IntN(len(styles))]}
}

func (c *enduranceClient) leave() {
	if c.c != nil {
		_ = c.c.Quit(context.Background()) // nothing depends on it
		c.c = nil
	}
}

// enter notes what a client heard. With LMTP there is a final reply for each
// accepted recipient, and each has a hop of its own.
func (e *endurance) enter(id string, lmtp bool, hops []int, body []byte, res refpeer.Result, err error) {
	e.mu.Lock()
	defer e.mu.Unlock()
	if err != nil {
		e.heard["error: "+err.Error()]++
		return
	}
	ack := enduranceAck{digest: sha256.Sum256(body)}
	if len(res.Final) == 0 {
		e.heard["refused before the text"]++
	}
	accepted := 0
	for i, r := range res.Rcpts {
		if !r.OK() {
			continue
		}
		final, at := 0, 0
		if lmtp {
			final, at = accepted, i
		}
		accepted++
		if final >= len(res.Final) || !lmtp && accepted > 1 {
			continue
		}
		said := res.Final[final]
		switch {
		case said.OK():
			ack.hops = append(ack.hops, hops[at])
			e.heard["acknowledged"]++
		case strings.Contains(said.String(), "outcome unknown"):
			e.heard["451 in doubt"]++
		default:
			e.heard[fmt.Sprintf("%d as the final reply", said.Code)]++
		}
	}
	e.acked[id] = ack
}

// check compares what clients heard with what hops have.
func (e *endurance) check(messages int) {
	e.t.Helper()
	type copyOf struct {
		id  string
		hop int
	}
	taken := map[copyOf]int{}
	for i, hop := range e.hops {
		for _, m := range hop.Messages() {
			taken[copyOf{m.ID, i}]++
			if m.Digest != e.acked[m.ID].digest {
				e.t.Errorf("%s came with another body", m.ID)
			}
			for _, to := range m.Recipients() {
				if !strings.HasPrefix(to, m.ID+".") || m.Sender() != m.ID+"@client.example" {
					e.t.Errorf("%s came from %s to %s", m.ID, m.Sender(), to)
				}
			}
		}
		for _, v := range hop.Violations() {
			e.t.Errorf("hop %d: %v", i, v)
		}
	}
	twice := 0
	for c, n := range taken {
		if n > 1 {
			twice++
			e.t.Logf("hop %d has %s %d times", c.hop, c.id, n)
		}
	}
	if twice > 0 {
		e.t.Errorf("P2: %d messages were delivered twice in one transaction", twice)
	}
	for id, ack := range e.acked {
		for _, hop := range ack.hops {
			if taken[copyOf{id, hop}] == 0 {
				e.t.Errorf("P1: %s was acknowledged, and hop %d does not have it", id, hop)
			}
		}
	}
	if len(e.acked) != messages {
		e.t.Errorf("%d of %d attempts came to an answer", len(e.acked), messages)
	}
}

func (e *endurance) report(messages int, took time.Duration) {
	conns := 0
	for _, hop := range e.hops {
		conns += hop.Accepted()
	}
	e.t.Logf("%d messages in %v, %.0f per second, over %d connections", messages, took.Round(time.Millisecond),
		float64(messages)/took.Seconds(), conns)
	e.t.Log("clients heard: ", deathCount(e.heard))
	counts := map[string]int{}
	for name, n := range e.faults {
		counts[name] = int(n.Load())
	}
	e.t.Log("hops did: ", deathCount(counts))
}

// enduranceHoldings are what a process holds.
type enduranceHoldings struct{ goroutines, files, heap int }

func (h enduranceHoldings) String() string {
	return fmt.Sprintf("%d goroutines, %d descriptors, %d KiB", h.goroutines, h.files, h.heap>>10)
}

func enduranceHeld(t *testing.T) enduranceHoldings {
	t.Helper()
	runtime.GC()
	runtime.GC() // what has a finalizer goes the second time
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	h := enduranceHoldings{goroutines: runtime.NumGoroutine(), heap: int(m.HeapAlloc)}
	if files, err := os.ReadDir("/proc/self/fd"); err == nil {
		h.files = len(files)
	}
	return h
}

// enduranceSlack is how much more memory there may be behind all: caches of the
// run-time and of packages that were not used before.
const enduranceSlack = 2 << 20

// awaitEndurance waits until no more is held than before.
func awaitEndurance(t *testing.T, before enduranceHoldings) {
	t.Helper()
	end := time.Now().Add(10 * time.Second)
	for {
		after := enduranceHeld(t)
		if after.goroutines <= before.goroutines && after.files <= before.files && after.heap <= before.heap+enduranceSlack {
			t.Logf("before: %v; behind it: %v", before, after)
			return
		}
		if time.Now().After(end) {
			t.Fatalf("left over: before there were %v, now there are %v", before, after)
		}
		time.Sleep(50 * time.Millisecond)
	}
}
