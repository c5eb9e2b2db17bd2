package proxy

import (
	"context"
	"net"
	"net/netip"
	"os"
	"strconv"
	"strings"
	"syscall"

	"golang.org/x/sys/unix"
)

// fastOpenQueue is how many connections of a door may wait for the last third of their handshake while their data is
// being served; further ones shake hands first. https://www.rfc-editor.org/rfc/rfc7413#section-5.1
const fastOpenQueue = 256

// netDialFast is netDial for callers that speak first. Where the system holds a cookie of the address, it returns at
// once and nothing is sent before the first Write, which then rides in the SYN as far as that has room (about 1400
// octets); further octets wait for the SYN-ACK. So
//
//   - whether anybody is there shows at the first Read, with the error that Dial would have had;
//   - who reads first waits until the deadline, since no SYN is ever sent;
//   - CloseWrite before the SYN-ACK is here breaks the connection off.
//
// Where there is no cookie, or the system has Fast Open off, it dials as ever, and asks for a cookie for the next time.
// https://www.rfc-editor.org/rfc/rfc7413#section-4.2
func netDialFast(ctx context.Context, network string, local netip.Addr, remote string) (net.Conn, error) {
	d := dialer(local)
	d.Control = func(network, _ string, raw syscall.RawConn) error {
		if strings.HasPrefix(network, "tcp") {
			return raw.Control(func(fd uintptr) { // without it the connection is opened as ever
				_ = unix.SetsockoptInt(int(fd), unix.IPPROTO_TCP, unix.TCP_FASTOPEN_CONNECT, 1)
			})
		}
		return nil
	}
	return d.DialContext(ctx, network, remote)
}

// offerFastOpen has a listener take data in SYNs, or no longer. It is an offer: where the system does not let servers
// do so, clients get no cookie, and connections are opened as ever.
func offerFastOpen(ln net.Listener, offer bool) {
	queue := 0
	if offer {
		queue = fastOpenQueue
	}
	onSocket(ln, func(fd int) error { return unix.SetsockoptInt(fd, unix.IPPROTO_TCP, unix.TCP_FASTOPEN, queue) })
}

// Bits of the system's setting.
const (
	fastOpenSetting = "net.ipv4.tcp_fastopen"
	fastOpenClient  = 1
	fastOpenServer  = 2
)

// fastOpenBits reads the system's setting.
func fastOpenBits() (bits int, ok bool) {
	text, err := os.ReadFile("/proc/sys/" + strings.ReplaceAll(fastOpenSetting, ".", "/"))
	if err != nil {
		return 0, false
	}
	bits, err = strconv.Atoi(strings.TrimSpace(string(text)))
	return bits, err == nil
}
