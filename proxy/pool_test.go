package proxy

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"math/rand/v2"
	"net"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"slipstream/bench/netsim"
	"slipstream/bench/refpeer"
	"slipstream/smtpwire"
)

// A harbour is a pool between simulated hosts.
type harbour struct {
	t        *testing.T
	net      *netsim.Network
	pool     *pool
	registry *prometheus.Registry
	caller   *caller
	limits   poolLimits
	hop      *refpeer.Server // at mxAddr
}

// inHarbour runs a test in virtual time. All connections of the pool must be
// closed at its end, and all that it does must be over.
func inHarbour(t *testing.T, max int, test func(h *harbour)) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) {
		h := &harbour{
			t: t, net: netsim.New(), registry: prometheus.NewRegistry(), caller: new(caller),
			limits: poolLimits{idle: 30 * time.Second, size: 10, messages: 100, age: 5 * time.Minute},
		}
		h.net.Default.Delay = 10 * time.Millisecond
		h.pool = newPool(max, NewMetrics(h.registry))
		h.hop = h.serve(mxAddr, &refpeer.Server{Keywords: refpeer.Modern()})
		test(h)
		h.pool.close(h.t.Context())
		if n := h.value("slipstream_pool_idle", ""); n != 0 {
			t.Errorf("%v connections are idle in a pool that is closed", n)
		}
		if len(h.pool.hops)+len(h.pool.shelves)+len(h.pool.tasks)+len(h.pool.due.items)+len(h.pool.largest.items) != 0 {
			t.Errorf("left over: %d hops, %d shelves, %d tasks", len(h.pool.hops), len(h.pool.shelves), len(h.pool.tasks))
		}
	})
}

func (h *harbour) serve(addr string, s *refpeer.Server) *refpeer.Server {
	h.t.Helper()
	ln, err := h.net.Listen(addr)
	if err != nil {
		h.t.Fatal(err)
	}
	s.Start(ln)
	h.t.Cleanup(s.Close)
	return s
}

func (h *harbour) key(route string) poolKey {
	return poolKey{caller: h.caller, door: "outbound", route: route}
}

// connect opens a connection as a session would.
func (h *harbour) connect(route string) *peer {
	h.t.Helper()
	c, err := h.dial(h.t.Context(), route, mxAddr)
	if err != nil {
		h.t.Fatal(err)
	}
	return c
}

func (h *harbour) dial(ctx context.Context, route, addr string) (*peer, error) {
	c, b, err := h.pool.enter(ctx, h.key(route), addr, h.limits)
	if err != nil || c != nil {
		return c, err
	}
	conn, err := h.net.Dial(ctx, proxyHost, addr)
	if err != nil {
		b.leave()
		return nil, err
	}
	c = newPeer(conn, addr, false, &DefaultConfig().Timeouts)
	c.berth, c.onClose = b, b.leave
	if err := errors.Join(c.greet(), c.hello("proxy.example")); err != nil {
		c.close()
		return nil, err
	}
	return c, nil
}

// put gives a connection back that has carried a transaction.
func (h *harbour) put(route string, c *peer) {
	c.used++
	h.pool.put(h.key(route), h.limits, c)
}

// warm makes an idle connection.
func (h *harbour) warm(route string) *peer {
	h.t.Helper()
	c := h.connect(route)
	h.put(route, c)
	return c
}

// wait lets virtual time pass, and everything that happens then happen.
func (h *harbour) wait(d time.Duration) {
	time.Sleep(d)
	synctest.Wait()
}

// get wants that connection, or none.
func (h *harbour) get(route string, want *peer) {
	h.t.Helper()
	if got := h.pool.get(h.key(route), h.limits); got != want {
		h.t.Fatalf("got %p, want %p", got, want)
	}
}

// value reads a metric: of one word, or without labels but the door.
func (h *harbour) value(name, what string) float64 {
	h.t.Helper()
	families, err := h.registry.Gather()
	if err != nil {
		h.t.Fatal(err)
	}
	for _, f := range families {
		for _, m := range f.GetMetric() {
			labels := m.GetLabel()
			if f.GetName() == name && (what == "" || labels[len(labels)-1].GetValue() == what) {
				return m.GetCounter().GetValue() + m.GetGauge().GetValue()
			}
		}
	}
	return 0
}

func (h *harbour) counted(what string, want float64) {
	h.t.Helper()
	if got := h.value("slipstream_pool_total", what); got != want {
		h.t.Errorf("%v × %s, want %v", got, what, want)
	}
}

func (h *harbour) idle(want int) {
	h.t.Helper()
	if got := h.value("slipstream_pool_idle", ""); got != float64(want) {
		h.t.Errorf("%v connections are idle, want %d", got, want)
	}
}

// open wants so many connections, idle or not.
func (h *harbour) open(want int) {
	h.t.Helper()
	h.pool.mu.Lock()
	defer h.pool.mu.Unlock()
	got := 0
	for _, hop := range h.pool.hops {
		got += hop.open
	}
	if got != want {
		h.t.Errorf("%d connections are open, want %d", got, want)
	}
}

// heard wants these commands on a connection, behind EHLO.
func (h *harbour) heard(conn int, want ...string) {
	h.t.Helper()
	h.wait(time.Second)
	conns := h.hop.Connections()
	if len(conns) <= conn {
		h.t.Fatalf("%d connections, want number %d", len(conns), conn)
	}
	if got := conns[conn].Commands[1:]; !slices.Equal(got, want) {
		h.t.Errorf("connection %d heard %q, want %q", conn, got, want)
	}
	if ended := !conns[conn].End.IsZero(); ended != slices.Contains(want, "QUIT") {
		h.t.Errorf("connection %d: ended %v (%v)", conn, ended, conns[conn].Err)
	}
}

func TestPoolHandsOutTheNewest(t *testing.T) {
	inHarbour(t, 100, func(h *harbour) {
		h.get("a", nil)
		one, two := h.connect("a"), h.connect("a")
		h.put("a", one)
		h.put("a", two)
		h.idle(2)
		h.get("b", nil)
		h.get("a", two)
		h.get("a", one)
		h.get("a", nil)
		h.idle(0)
		h.counted(poolHit, 2)
		h.counted(poolMiss, 3)
		h.put("a", one)
		h.put("a", two)
	})
}

// What transactions must have in common is all of the key.
func TestPoolKey(t *testing.T) {
	inHarbour(t, 100, func(h *harbour) {
		h.warm("a")
		for _, k := range []poolKey{
			{caller: new(caller), door: "outbound", route: "a"},
			{caller: h.caller, door: "outbound", route: "b"},
			{caller: h.caller, door: "outbound", route: "a", announced: "client.example"},
		} {
			if h.pool.get(k, h.limits) != nil {
				t.Errorf("%v shares a connection", k)
			}
		}
	})
}

func TestPoolEnds(t *testing.T) {
	for _, tt := range []struct {
		name   string
		limits func(l *poolLimits)
		after  time.Duration // of idleness; a moment before it is still there
	}{
		{"idle", func(l *poolLimits) { l.idle = 7 * time.Second }, 7 * time.Second},
		// Three trips to connect count.
		{"age", func(l *poolLimits) { l.age = 9 * time.Second }, 9*time.Second - 60*time.Millisecond},
	} {
		t.Run(tt.name, func(t *testing.T) {
			inHarbour(t, 100, func(h *harbour) {
				tt.limits(&h.limits)
				h.warm("a")
				h.wait(tt.after - time.Millisecond)
				h.idle(1)
				h.wait(time.Millisecond)
				h.idle(0)
				h.get("a", nil)
				h.heard(0, "QUIT")
				h.counted(poolExpired, 1)
			})
		})
	}
}

// The age of a connection counts however often it is used.
func TestPoolAge(t *testing.T) {
	inHarbour(t, 100, func(h *harbour) {
		h.limits.age = time.Minute
		c := h.warm("a")
		for range 5 {
			h.wait(10 * time.Second)
			h.get("a", c)
			h.put("a", c)
		}
		h.wait(5 * time.Second)
		h.get("a", c)
		h.wait(10 * time.Second) // in use
		h.put("a", c)
		h.idle(0)
		h.heard(0, "QUIT")
	})
}

func TestPoolMessages(t *testing.T) {
	for _, tt := range []struct {
		offer    string
		messages int
		want     int
	}{
		{"X", 3, 3},
		{"LIMITS MAILMAX=2", 3, 2},
		{"LIMITS RCPTMAX=1 mailmax=2", 3, 2},
		{"LIMITS MAILMAX=20", 3, 3},
		{"LIMITS MAILMAX=2", 0, 2},
		{"LIMITS MAILMAX=0 MAILMAX=1000000 MAILMAX=-1", 3, 3},
		{"LIMITS MAILMAX", 3, 3},
		{"LIMITS MAILMAX=1", 3, 1},
	} {
		t.Run(fmt.Sprintf("%s of %d", tt.offer, tt.messages), func(t *testing.T) {
			inHarbour(t, 100, func(h *harbour) {
				h.limits.messages = tt.messages
				h.hop.Keywords.Extra = []string{tt.offer}
				c := h.warm("a")
				for range tt.want - 1 {
					h.get("a", c)
					h.put("a", c)
				}
				h.get("a", nil)
				h.heard(0, "QUIT")
			})
		})
	}
}

// A door that keeps nothing ends what it is given.
func TestPoolOff(t *testing.T) {
	inHarbour(t, 100, func(h *harbour) {
		h.limits.idle = 0
		h.warm("a")
		h.idle(0)
		h.heard(0, "QUIT")
	})
}

func TestPoolSizeOfAKey(t *testing.T) {
	inHarbour(t, 100, func(h *harbour) {
		h.limits.size = 2
		one, two, three := h.connect("a"), h.connect("a"), h.connect("a")
		for _, c := range []*peer{one, two, three} {
			h.put("a", c)
			h.wait(time.Second)
		}
		h.idle(2)
		h.counted(poolEvicted, 1)
		h.heard(0, "QUIT")
		h.heard(1)
		h.get("a", three)
		h.get("a", two)
		h.put("a", two)
		h.put("a", three)
	})
}

// Where all is full, whoever has most gives way: a destination with much mail
// does not drive out those with little.
func TestPoolFairness(t *testing.T) {
	inHarbour(t, 5, func(h *harbour) {
		h.warm("little") // 0, the longest idle of all
		for _, c := range []*peer{h.connect("much"), h.connect("much"), h.connect("much"), h.connect("much")} {
			h.wait(time.Second)
			h.put("much", c) // 1 to 4
		}
		h.idle(5)
		h.warm("new") // 5, against 1
		h.heard(1, "QUIT")
		fresh := []*peer{h.connect("much"), h.connect("much")}
		h.put("much", fresh[0]) // 6, against 2
		h.heard(2, "QUIT")
		h.put("much", fresh[1]) // 7, against 3
		h.heard(3, "QUIT")
		h.idle(5)
		h.heard(0)
		h.heard(4)
		h.warm("newer") // 8, against 4: three of "much"
		h.heard(4, "QUIT")
		h.warm("newest") // 9, against 6: two of "much"
		h.heard(6, "QUIT")
		h.warm("very newest") // 10: all have one, and 0 has been there for longest
		h.heard(0, "QUIT")
		h.counted(poolEvicted, 6)
		h.idle(5)
	})
}

// A connection on which something waits is not handed out.
func TestPoolDead(t *testing.T) {
	for _, tt := range []struct {
		name string
		do   func(c net.Conn)
	}{
		{"421", func(c net.Conn) { _, _ = c.Write([]byte("421 4.4.2 bye\r\n")) }},
		{"half a 421", func(c net.Conn) { _, _ = c.Write([]byte("42")) }},
		{"one reply more", func(c net.Conn) { _, _ = c.Write([]byte("250 2.0.0 once more\r\n")) }},
		{"FIN", func(c net.Conn) { _ = c.(*netsim.Conn).CloseWrite() }},
		{"closed", func(c net.Conn) { _ = c.Close() }},
		{"reset", func(c net.Conn) { c.(*netsim.Conn).Reset() }},
	} {
		t.Run(tt.name, func(t *testing.T) {
			inHarbour(t, 100, func(h *harbour) {
				h.warm("a")
				near, far := netsim.Pair(netsim.Link{Delay: time.Millisecond})
				_, b, err := h.pool.enter(h.t.Context(), h.key("a"), mxAddr, h.limits)
				if err != nil {
					t.Fatal(err)
				}
				dead := newPeer(near, "hop", false, &DefaultConfig().Timeouts)
				dead.berth, dead.onClose = b, b.leave
				h.put("a", dead)
				tt.do(far)
				h.wait(time.Second)
				if c := h.pool.get(h.key("a"), h.limits); c == dead || c == nil {
					t.Fatalf("got %p", c)
				} else {
					h.put("a", c)
				}
				h.counted(poolDied, 1)
				h.counted(poolHit, 1)
				h.idle(1)
				_ = far.Close()
			})
		})
	}
}

// A connection that is out of step, or on which something was read too much, is
// closed where it stands.
func TestPoolBroken(t *testing.T) {
	inHarbour(t, 100, func(h *harbour) {
		c := h.connect("a")
		c.broken = true
		h.put("a", c)
		h.idle(0)
		c = h.connect("b")
		c.berth.leave()
		c.berth = nil
		h.put("b", c)
		h.idle(0)
		h.wait(time.Second)
		for i, conn := range h.hop.Connections() {
			if len(conn.Commands) != 1 || conn.End.IsZero() {
				t.Errorf("connection %d heard %q, and ended at %v", i, conn.Commands, conn.End)
			}
		}
	})
}

// What may be open on a connection is reset before it is kept, and whoever gives
// it back does not wait for that.
func TestPoolReset(t *testing.T) {
	inHarbour(t, 100, func(h *harbour) {
		c := h.connect("a")
		mail := smtpwire.ParseCommand([]byte("MAIL FROM:<a@example.com>"))
		if _, err := c.one(duringEnvelope, time.Minute, mail); err != nil {
			t.Fatal(err)
		}
		c.open = true
		start := time.Now()
		h.put("a", c)
		if d := time.Since(start); d != 0 {
			t.Errorf("put took %v", d)
		}
		h.idle(0)
		h.wait(20 * time.Millisecond) // a trip
		h.idle(1)
		h.heard(0, "MAIL FROM:<a@example.com>", "RSET")
		h.get("a", c)
		if c.open || c.counted != c.wire.trips {
			t.Errorf("open %v, %d of %d trips are counted", c.open, c.counted, c.wire.trips)
		}
		h.put("a", c)
	})
}

func TestPoolResetFails(t *testing.T) {
	for _, tt := range []struct {
		name string
		on   refpeer.Action
		ends time.Duration
	}{
		{"refused", refpeer.Say("421 4.3.2 no"), 20 * time.Millisecond},
		{"not known", refpeer.Say("500 5.5.1 what?"), 20 * time.Millisecond},
		{"closed", refpeer.Action{Close: true}, 20 * time.Millisecond},
		{"reset", refpeer.Action{Reset: true}, 20 * time.Millisecond},
		{"twice", refpeer.Action{Twice: true}, 20 * time.Millisecond},
		{"never answered", refpeer.Action{Stall: true}, resetWait},
	} {
		t.Run(tt.name, func(t *testing.T) {
			inHarbour(t, 100, func(h *harbour) {
				h.hop.Behave = func(ev refpeer.Event) refpeer.Action {
					if ev.Verb == "RSET" {
						return tt.on
					}
					return refpeer.Action{}
				}
				c := h.connect("a")
				c.open = true
				h.put("a", c)
				h.wait(tt.ends - time.Millisecond)
				h.open(1)
				h.wait(time.Millisecond)
				h.open(0)
				h.idle(0)
				h.get("a", nil)
				if got := h.hop.Connections()[0].Commands[1:]; !slices.Equal(got, []string{"RSET"}) {
					t.Errorf("heard %q", got)
				}
			})
		})
	}
}

func TestPoolForget(t *testing.T) {
	inHarbour(t, 100, func(h *harbour) {
		h.warm("a")
		h.warm("b")
		busy := h.connect("a")
		h.pool.forget(new(caller))
		h.idle(2)
		h.pool.forget(h.caller)
		h.idle(0)
		h.heard(0, "QUIT")
		h.heard(1, "QUIT")
		h.put("a", busy) // of a session from before
		h.get("a", busy)
		h.put("a", busy)
		h.wait(h.limits.idle)
		h.heard(2, "QUIT")
	})
}

// close says QUIT on all, and takes no longer than it may.
func TestPoolClose(t *testing.T) {
	inHarbour(t, 100, func(h *harbour) {
		h.warm("a")
		h.warm("b")
		busy := h.connect("b")
		h.pool.close(h.t.Context())
		h.idle(0)
		h.heard(0, "QUIT")
		h.heard(1, "QUIT")
		h.put("b", busy)
		h.heard(2, "QUIT")
	})
	inHarbour(t, 100, func(h *harbour) {
		h.hop.Behave = func(ev refpeer.Event) refpeer.Action { return refpeer.Action{Silent: ev.Verb == "RSET"} }
		c := h.connect("a")
		c.open = true
		h.put("a", c)
		ctx, cancel := context.WithTimeout(h.t.Context(), 100*time.Millisecond)
		defer cancel()
		start := time.Now()
		h.pool.close(ctx)
		if d := time.Since(start); d != 100*time.Millisecond {
			t.Errorf("closed after %v", d)
		}
		h.open(0)
	})
}

// No more is done at a time than may be.
func TestPoolTasks(t *testing.T) {
	inHarbour(t, 1000, func(h *harbour) {
		h.limits.size = 1000
		h.limits.idle = time.Minute
		var all []*peer
		for range maxPoolTasks + 10 {
			all = append(all, h.connect("a"))
		}
		for _, c := range all {
			h.put("a", c)
		}
		h.hop.Behave = nil
		h.pool.forget(h.caller)
		h.wait(time.Second)
		polite := 0
		for _, conn := range h.hop.Connections() {
			if conn.End.IsZero() {
				t.Errorf("connection %d is open", conn.ID)
			}
			if slices.Contains(conn.Commands, "QUIT") {
				polite++
			}
		}
		if polite != maxHopTasks {
			t.Errorf("%d connections heard QUIT, want %d", polite, maxHopTasks)
		}
	})
}

// Who finds no connection opens another, up to the limit. Beyond it they wait in
// their order, and those who gave up are passed over.
func TestPoolEnter(t *testing.T) {
	inHarbour(t, 100, func(h *harbour) {
		h.limits.connections = 2
		one, two := h.connect("a"), h.connect("a")
		served := make(chan string, 10)
		waiter := func(name, route string, ctx context.Context) {
			go func() {
				c, err := h.dial(ctx, route, mxAddr)
				if err != nil {
					served <- name + ": " + err.Error()
					return
				}
				served <- name
				time.Sleep(time.Second)
				h.put(route, c)
			}()
			synctest.Wait()
		}
		gaveUp := errors.New("gave up")
		impatient, cancel := context.WithCancelCause(h.t.Context())
		waiter("first", "a", h.t.Context())
		waiter("impatient", "a", impatient)
		waiter("other", "b", h.t.Context())
		waiter("last", "a", h.t.Context())
		other, err := h.dial(h.t.Context(), "a", "203.0.113.9:25")
		if err == nil || other != nil {
			t.Error("a hop where nobody listens was reached")
		}
		h.counted(poolWaited, 4)
		cancel(gaveUp)
		want := func(name string) {
			t.Helper()
			select {
			case got := <-served:
				if !strings.HasPrefix(got, name) {
					t.Fatalf("%q, want %q", got, name)
				}
			case <-time.After(time.Minute):
				t.Fatalf("nobody was served, want %q", name)
			}
		}
		want("impatient: " + mxAddr + ": connecting: all 2 connections that there may be (hop_connections)" +
			" are in use: gave up")
		h.put("a", one) // goes on to the first
		want("first")
		if n := len(h.hop.Connections()); n != 2 {
			t.Errorf("%d connections, want 2", n)
		}
		h.put("a", two) // ends, to make room for "b"
		want("other")
		want("last")
		h.wait(2 * time.Second)
		if n := len(h.hop.Connections()); n != 3 {
			t.Errorf("%d connections, want 3", n)
		}
		h.counted(poolEvicted, 1)
		h.idle(2)
		h.open(2)
	})
}

// An idle connection of another key makes room at once; one of the same key that
// came back meanwhile is taken.
func TestPoolEnterAmongIdle(t *testing.T) {
	inHarbour(t, 100, func(h *harbour) {
		h.limits.connections = 1
		h.warm("a")
		b := h.connect("b")
		h.heard(0, "QUIT")
		h.put("b", b)
		if c := h.connect("b"); c != b {
			t.Error("a new connection beside an idle one, at the limit")
		}
		b.close()
		h.counted(poolWaited, 0)
	})
	inHarbour(t, 100, func(h *harbour) { // the idle one has died: its place is kept
		h.limits.connections = 1
		h.hop.Idle = 5 * time.Second
		old := h.warm("a")
		h.wait(6 * time.Second)
		c := h.connect("a")
		if c == old {
			t.Error("a dead connection was handed out")
		}
		h.counted(poolDied, 1)
		c.close()
	})
}

// A waiter whose connection turns out to be dead does not lose its turn.
func TestPoolWaiterKeepsItsTurn(t *testing.T) {
	inHarbour(t, 100, func(h *harbour) {
		h.limits.connections = 1
		c := h.connect("a")
		served := make(chan string, 2)
		for _, name := range []string{"first", "second"} {
			go func() {
				c, err := h.dial(h.t.Context(), "a", mxAddr)
				if err != nil {
					t.Error(err)
					return
				}
				served <- name
				c.close()
			}()
			synctest.Wait()
		}
		_ = c.wire.Conn.(*netsim.Conn).CloseWrite() // the hop says good-bye in return
		time.Sleep(100 * time.Millisecond)
		h.put("a", c)
		if first, second := <-served, <-served; first != "first" || second != "second" {
			t.Errorf("served %q, then %q", first, second)
		}
		h.counted(poolDied, 1)
	})
}

// Whatever happens at the same time, a connection has one holder, there are no
// more than there may be, and everybody is served.
func TestPoolOneHolder(t *testing.T) {
	for seed := range uint64(8) {
		for _, connections := range []int{0, 1, 4} {
			inHarbour(t, 3, func(h *harbour) {
				h.limits = poolLimits{300 * time.Millisecond, 2, 7, 3 * time.Second, connections}
				h.hop.Behave = func(ev refpeer.Event) refpeer.Action {
					return refpeer.Action{Close: ev.Verb == "RSET" && ev.N == 2}
				}
				var held sync.Map // *peer → *atomic.Bool
				var busy atomic.Int64
				var wg sync.WaitGroup
				for n := range uint64(8) {
					wg.Go(func() {
						rnd := rand.New(rand.NewPCG(seed, n))
						for range 30 {
							route := string(rune('a' + rnd.IntN(3)))
							c := h.pool.get(h.key(route), h.limits)
							if c == nil {
								ctx, cancel := context.WithTimeout(h.t.Context(), time.Duration(rnd.IntN(1000))*time.Millisecond)
								var err error
								c, err = h.dial(ctx, route, mxAddr)
								cancel()
								if err != nil {
									continue
								}
							}
							flag, _ := held.LoadOrStore(c, new(atomic.Bool))
							if flag.(*atomic.Bool).Swap(true) {
								t.Errorf("%p has two holders", c)
							}
							if n := busy.Add(1); connections > 0 && n > int64(connections) {
								t.Errorf("%d are in use, at most %d may be", n, connections)
							}
							if c.open || c.broken {
								t.Errorf("handed out open %v, broken %v", c.open, c.broken)
							}
							c.open = rnd.IntN(3) == 0
							time.Sleep(time.Duration(rnd.IntN(200)) * time.Millisecond)
							busy.Add(-1)
							flag.(*atomic.Bool).Store(false)
							switch rnd.IntN(10) {
							case 0:
								c.close()
							case 1:
								h.pool.forget(h.caller)
								h.put(route, c)
							default:
								h.put(route, c)
							}
						}
					})
				}
				wg.Wait()
				h.wait(time.Minute)
				h.idle(0)
			})
		}
	}
}

// Under TLS a connection is kept, found dead and ended like any other.
func TestPoolTLS(t *testing.T) {
	cert := newTestCert(t, "mx.example")
	inHarbour(t, 100, func(h *harbour) {
		const addr = "203.0.113.3:465"
		srv := h.serve(addr, &refpeer.Server{
			Keywords: refpeer.Modern(), TLS: cert.server(), Implicit: true, Idle: time.Minute,
		})
		conf := &tls.Config{InsecureSkipVerify: true}
		connect := func() *peer {
			_, b, err := h.pool.enter(h.t.Context(), h.key("a"), addr, h.limits)
			if err != nil {
				h.t.Fatal(err)
			}
			conn, err := h.net.Dial(h.t.Context(), proxyHost, addr)
			if err != nil {
				h.t.Fatal(err)
			}
			c := newPeer(conn, addr, false, &DefaultConfig().Timeouts)
			c.berth, c.onClose = b, b.leave
			if err := errors.Join(c.handshake(h.t.Context(), conf, false), c.greet(), c.hello("proxy.example")); err != nil {
				h.t.Fatal(err)
			}
			return c
		}
		c := connect()
		for range 3 {
			h.put("a", c)
			h.wait(10 * time.Second)
			h.get("a", c)
			if _, err := c.one("asking", time.Minute, smtpwire.Command{Verb: smtpwire.VerbNoop}); err != nil {
				h.t.Fatal(err)
			}
		}
		h.limits.idle = 2 * time.Minute
		h.put("a", c)
		h.wait(time.Minute + time.Second) // the server has had enough
		h.get("a", nil)
		h.counted(poolDied, 1)
		h.put("a", connect())
		h.pool.forget(h.caller)
		h.wait(time.Second)
		if got := srv.Connections()[1].Commands; got[len(got)-1] != "QUIT" {
			h.t.Errorf("heard %q", got)
		}
	})
}

// An idle connection holds no buffers.
func TestPoolIdleHoldsLittle(t *testing.T) {
	inHarbour(t, 100, func(h *harbour) {
		c := h.connect("a")
		c.buf = make([]byte, 100)
		before := c.r
		h.put("a", c)
		if c.buf != nil || c.r == before {
			t.Error("the buffers are kept")
		}
		h.get("a", c)
		if _, err := c.one("asking", time.Minute, smtpwire.Command{Verb: smtpwire.VerbNoop}); err != nil {
			t.Error(err)
		}
		h.put("a", c)
	})
}
