//go:build !linux

package proxy

import (
	"context"
	"errors"
	"net"
	"net/netip"
)

var errNotTransparent = errors.New("this system cannot do that for us; only Linux can")

// setTransparent is for systems where a listener may be given connections to any address.
func setTransparent(ln net.Listener) error {
	if _, kernels := ln.(*net.TCPListener); kernels {
		return errNotTransparent
	}
	return nil
}

// netDialAs is for systems where a connection may come from any address.
func netDialAs(context.Context, string, netip.Addr, string) (net.Conn, error) {
	return nil, errNotTransparent
}
