package bench

import (
	"context"
	"net"
	"net/netip"
	"time"

	"slipstream/bench/meter"
)

// Ground says where a run takes place.
type Ground string

// The grounds.
const (
	WAN Ground = "wan" // the kernel's TCP over a delayed link; Linux and root
	Sim Ground = "sim" // simulated connections
)

// A ground is two places and the link between them.
type ground interface {
	near() place // where the MTA is that Slipstream stands beside
	far() place  // the world

	// setRTT gives the link its delay; seed is that of its chances.
	setRTT(rtt time.Duration, seed uint64) error
	forget() // what crossed the link so far
	// segments are those that have crossed since; an error says that they are not all.
	segments() ([]meter.Segment, error)
	late() time.Duration        // how much longer than it should the link took with one of them
	hosts() (realServers error) // why real servers cannot live here; nil if they can
	capture(file string) error  // record packets from now on; "" ends it
	close() error
}

// A place is one end of the link, a machine of its own as far as TCP can tell.
type place interface {
	addr() netip.Addr
	listen(ctx context.Context, address string) (net.Listener, error)
	dial(ctx context.Context, network string, local netip.Addr, address string) (net.Conn, error)
	// dialFast is dial for who speaks first: what is written first may ride in the SYN.
	dialFast(ctx context.Context, network string, local netip.Addr, address string) (net.Conn, error)
	// do runs f so that the processes which it starts live here.
	do(f func() error) error
}
