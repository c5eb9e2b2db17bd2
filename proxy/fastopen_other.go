//go:build !linux

package proxy

import (
	"context"
	"net"
	"net/netip"
)

// netDialFast is for systems where a connection can be opened fast.
func netDialFast(ctx context.Context, network string, local netip.Addr, remote string) (net.Conn, error) {
	return netDial(ctx, network, local, remote)
}

func offerFastOpen(net.Listener, bool) {}

// What the setting is called elsewhere is not known here.
const (
	fastOpenSetting = "net.ipv4.tcp_fastopen"
	fastOpenClient  = 1
	fastOpenServer  = 2
)

func fastOpenBits() (bits int, ok bool) { return 0, false }
