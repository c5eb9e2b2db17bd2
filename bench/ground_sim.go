package bench

import (
	"context"
	"errors"
	"net"
	"net/netip"
	"slices"
	"sync"
	"time"

	"slipstream/bench/meter"
	"slipstream/bench/netsim"
)

// Where the two sides live; the addresses are for benchmarks:
// https://www.rfc-editor.org/rfc/rfc2544#appendix-C.2.2
const (
	simNear = "198.18.0.1"
	simFar  = "198.18.0.2"
)

// simTraceData is how many octets of a segment the meter may look at. Here one segment is one write.
const simTraceData = 4 << 10

// simGround is netsim, in real or in virtual time.
type simGround struct {
	net  *netsim.Network
	fast bool // who listens takes data in SYNs

	mu    sync.Mutex
	seen  []meter.Segment
	count map[[2]netip.AddrPort]uint32 // octets so far, by direction
}

func newSimGround(fast bool) *simGround {
	g := &simGround{net: netsim.New(), fast: fast, count: make(map[[2]netip.AddrPort]uint32)}
	g.net.TraceData = simTraceData
	g.net.Trace = g.trace
	return g
}

func (g *simGround) near() place { return simPlace{g, simNear} }
func (g *simGround) far() place  { return simPlace{g, simFar} }

func (g *simGround) setRTT(rtt time.Duration, _ uint64) error {
	g.net.SetLink(simNear, simFar, netsim.Link{Delay: rtt / 2})
	return nil
}

// trace keeps what crosses the link. netsim has no sequence numbers, since it loses nothing: they are counted here.
func (g *simGround) trace(s netsim.Segment) {
	if s.From.Addr() == s.To.Addr() {
		return // does not cross it
	}
	g.mu.Lock()
	defer g.mu.Unlock()
	key := [2]netip.AddrPort{s.From, s.To}
	if s.SYN {
		g.count[key] = 0
	}
	_, answers := g.count[[2]netip.AddrPort{s.To, s.From}]
	g.seen = append(g.seen, meter.Segment{
		At: s.At, Arrives: s.Arrives, From: s.From, To: s.To,
		SYN: s.SYN, ACK: answers, FIN: s.FIN, RST: s.RST,
		Seq: g.count[key], Len: s.Len, Size: s.Len, Data: s.Data,
	})
	g.count[key] += uint32(s.Len)
	if s.SYN {
		g.count[key]++
	}
}

func (g *simGround) forget() {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.seen = nil
}

func (g *simGround) segments() ([]meter.Segment, error) {
	g.mu.Lock()
	defer g.mu.Unlock()
	return slices.Clone(g.seen), nil
}

func (g *simGround) late() time.Duration { return 0 }

func (g *simGround) hosts() error {
	return errors.New("real servers cannot live in a simulated network")
}

func (g *simGround) capture(file string) error {
	if file == "" {
		return nil
	}
	return errors.New("bench: the simulated network has no packets to record")
}

func (g *simGround) close() error { return nil }

type simPlace struct {
	ground *simGround
	host   string
}

func (p simPlace) addr() netip.Addr { return netip.MustParseAddr(p.host) }

func (p simPlace) listen(_ context.Context, address string) (net.Listener, error) {
	p.ground.net.SetFastOpen(address, p.ground.fast)
	return p.ground.net.Listen(address)
}

func (p simPlace) dial(ctx context.Context, network string, local netip.Addr, address string) (net.Conn, error) {
	return p.ground.net.Dialer(p.host)(ctx, network, local, address)
}

func (p simPlace) dialFast(ctx context.Context, network string, local netip.Addr, address string) (net.Conn, error) {
	return p.ground.net.FastDialer(p.host)(ctx, network, local, address)
}

func (p simPlace) do(f func() error) error { return f() }
