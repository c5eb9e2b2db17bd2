//go:build !linux

package proxy

import (
	"errors"
	"net"
	"net/netip"
)

// errNotTracked: the system knows of no other address.
var errNotTracked = errors.New("only Linux can tell where a redirected connection was meant to go")

// originalDestination is for systems that can be asked where a connection was meant to go.
func originalDestination(c net.Conn) (netip.AddrPort, error) {
	if sim, is := bare(c).(interface {
		OriginalDestination() (netip.AddrPort, error)
	}); is {
		return sim.OriginalDestination()
	}
	return netip.AddrPort{}, errNotTracked
}

// tracksConnections tells whether the kernel keeps track of connections.
func tracksConnections() bool { return false }
