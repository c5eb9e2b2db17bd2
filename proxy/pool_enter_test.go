package proxy

import (
	"context"
	"errors"
	"math/rand/v2"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"slipstream/bench/netsim"
	"slipstream/bench/refpeer"
)

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
