package bench

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"time"

	"slipstream/bench/meter"
	"slipstream/bench/wan"
	"slipstream/proxy"
)

// wanGround is a link of package wan.
type wanGround struct {
	link  *wan.Link
	shape wan.Shape
	fast  bool
	file  *os.File // the capture, if there is one
}

// baseSysctls are set in both namespaces: what one connection learned about the way is not to help the next, since the
// first contact would else be measured with the window of the one before it.
func baseSysctls(tfo bool) map[string]string {
	set := map[string]string{
		"net.ipv4.tcp_no_metrics_save": "1",
		"net.ipv4.tcp_fastopen":        "0",
	}
	if tfo {
		set["net.ipv4.tcp_fastopen"] = "3" // both as client and as server
		// The cookie is one of the things learned about the way.
		set["net.ipv4.tcp_no_metrics_save"] = "0"
	}
	return set
}

func newWANGround(ctx context.Context, shape wan.Shape, mtu int, tfo bool) (*wanGround, error) {
	link, err := wan.Open(ctx, wan.Config{Shape: shape, MTU: mtu, Sysctls: baseSysctls(tfo)})
	if err != nil {
		return nil, err
	}
	return &wanGround{link: link, shape: shape, fast: tfo}, nil
}

func (g *wanGround) near() place { return wanPlace{g.link.Near(), g.fast} }
func (g *wanGround) far() place  { return wanPlace{g.link.Far(), g.fast} }

func (g *wanGround) setRTT(rtt time.Duration, seed uint64) error {
	g.shape.Delay, g.shape.Seed = rtt/2, seed
	return g.link.SetShape(g.shape)
}

func (g *wanGround) forget()             { g.link.Reset() }
func (g *wanGround) late() time.Duration { return g.link.Carried().Late }
func (g *wanGround) hosts() error        { return nil }

func (g *wanGround) segments() ([]meter.Segment, error) {
	if g.link.Overflow() {
		return nil, errors.New("bench: more crossed the link than is kept of one connection; take fewer samples (--count) of so large a message")
	}
	return g.link.Segments(), nil
}

func (g *wanGround) capture(name string) error {
	if g.file != nil {
		err := g.link.Capture(nil)
		if closing := g.file.Close(); err == nil {
			err = closing
		}
		g.file = nil
		if err != nil {
			return err
		}
	}
	if name == "" {
		return nil
	}
	// Root writes here, so that nothing that is there already is followed or overwritten.
	f, err := os.OpenFile(name, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return fmt.Errorf("bench: capture: %w", err)
	}
	g.file = f
	return g.link.Capture(f)
}

func (g *wanGround) close() error {
	err := g.capture("")
	if closing := g.link.Close(); err == nil {
		err = closing
	}
	return err
}

type wanPlace struct {
	*wan.Side
	fast bool // who listens takes data in SYNs
}

func (p wanPlace) addr() netip.Addr { return p.Addr() }

func (p wanPlace) listen(ctx context.Context, address string) (net.Listener, error) {
	ln, err := p.Listen(ctx, "tcp", address)
	if err == nil && p.fast {
		offerFastOpen(ln)
	}
	return ln, err
}

func (p wanPlace) dial(ctx context.Context, network string, local netip.Addr, address string) (net.Conn, error) {
	return p.Dial(ctx, network, local, address)
}

func (p wanPlace) dialFast(ctx context.Context, network string, local netip.Addr, address string) (conn net.Conn, err error) {
	err = p.Do(func() (err error) {
		conn, err = proxy.DialFast(ctx, network, local, address)
		return err
	})
	return conn, err
}

func (p wanPlace) do(f func() error) error { return p.Do(f) }

// Available says why the ground WAN is not to be had; nil if it is.
func Available(ctx context.Context) error {
	link, err := wan.Open(ctx, wan.Config{})
	if err != nil {
		return err
	}
	return link.Close()
}
