package proxy

import (
	"context"
	"errors"
	"slices"
	"testing"
	"testing/synctest"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"slipstream/bench/netsim"
	"slipstream/bench/refpeer"
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
