package proxy

import (
	"math"
	"net"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// States of a TCP connection as the kernel numbers them.
const (
	tcpSynSent = 2
	tcpClose   = 7
)

// kernelAcked is ackedOctets by TCP_INFO. The kernel counts sequence numbers: our SYN is the first of them.
func kernelAcked(c net.Conn) (int64, bool) {
	info, ok := tcpInfo(c)
	switch {
	case !ok:
		return 0, false
	case info.Bytes_acked > 0:
		return int64(info.Bytes_acked) - 1, true
	case info.State == tcpSynSent || info.State == tcpClose: // not even the SYN
		return 0, true
	}
	// It was opened, but not by us; or the kernel, older than 4.1, does not count.
	return 0, false
}

// kernelAckedByClient: the kernel does not count the SYN of a connection that it accepted, unless data came with it.
func kernelAckedByClient(c net.Conn) (int64, bool) {
	info, ok := tcpInfo(c)
	if !ok {
		return 0, false
	}
	return int64(info.Bytes_acked), true
}

func kernelClosed(c net.Conn) bool {
	info, ok := tcpInfo(c)
	return ok && info.State == tcpClose
}

func kernelSynData(c net.Conn) bool {
	const synDataAcked = 0x20 // TCPI_OPT_SYN_DATA
	info, ok := tcpInfo(c)
	return ok && info.Options&synDataAcked != 0
}

// kernelLimit sets TCP_USER_TIMEOUT.
// https://www.rfc-editor.org/rfc/rfc5482#section-3.1
func kernelLimit(c net.Conn, d time.Duration) {
	ms := (d + time.Millisecond - 1) / time.Millisecond // 0 has a meaning of its own
	onSocket(c, func(fd int) error {
		return unix.SetsockoptInt(fd, unix.IPPROTO_TCP, unix.TCP_USER_TIMEOUT, int(min(max(ms, 0), math.MaxInt32)))
	})
}

// tcpInfo asks the kernel about a connection. Several paths of one connection (MPTCP) each have numbers of their own:
// then there is no answer.
func tcpInfo(c net.Conn) (*unix.TCPInfo, bool) {
	var info *unix.TCPInfo
	ok := onSocket(c, func(fd int) error {
		protocol, err := unix.GetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_PROTOCOL)
		if err == nil && protocol != unix.IPPROTO_TCP {
			err = unix.EPROTONOSUPPORT
		}
		if err == nil {
			info, err = unix.GetsockoptTCPInfo(fd, unix.IPPROTO_TCP, unix.TCP_INFO)
		}
		return err
	})
	return info, ok
}

// onSocket calls f with the descriptor of a connection or listener, and tells whether all went well.
func onSocket(c any, f func(fd int) error) bool {
	sc, ok := c.(syscall.Conn)
	if !ok {
		return false
	}
	raw, err := sc.SyscallConn()
	if err != nil {
		return false
	}
	failed := raw.Control(func(fd uintptr) { err = f(int(fd)) })
	return failed == nil && err == nil
}
