package proxy

import (
	"net"
	"syscall"

	"golang.org/x/sys/unix"
)

// acknowledgeAtOnce has the kernel acknowledge what comes next without waiting for something to send along. A server
// that leaves Nagle's algorithm on (https://www.rfc-editor.org/rfc/rfc896) holds its reply to EHLO back until the
// tickets before it are acknowledged, and the kernel would take 40 ms for that. It is a hint: where it cannot be given,
// nothing but the time is lost.
func acknowledgeAtOnce(conn net.Conn) {
	sc, ok := conn.(syscall.Conn)
	if !ok {
		return
	}
	raw, err := sc.SyscallConn()
	if err != nil {
		return
	}
	_ = raw.Control(func(fd uintptr) {
		_ = unix.SetsockoptInt(int(fd), unix.IPPROTO_TCP, unix.TCP_QUICKACK, 1)
	})
}
