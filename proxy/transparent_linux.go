package proxy

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"syscall"

	"golang.org/x/sys/unix"
)

// setTransparent has the kernel hand a listener connections to any address that rules bring to it (TPROXY); the address
// that such a client meant is the local one of its connection.
func setTransparent(ln net.Listener) error {
	sc, ok := ln.(syscall.Conn)
	if !ok {
		return nil // a simulated network
	}
	raw, err := sc.SyscallConn()
	if err != nil {
		return err
	}
	failed := raw.Control(func(fd uintptr) { err = socketTransparent(int(fd)) })
	return privilegeFor("taking connections to other addresses", errors.Join(failed, err))
}

// socketTransparent sets the option of a socket's own family, which holds for both. A socket that systemd opened with
// Transparent=yes has it, and needs no privilege of ours.
func socketTransparent(fd int) error {
	domain, err := unix.GetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_DOMAIN)
	if err != nil || domain != unix.AF_INET && domain != unix.AF_INET6 {
		return err
	}
	level, option := unix.SOL_IP, unix.IP_TRANSPARENT
	if domain == unix.AF_INET6 {
		level, option = unix.SOL_IPV6, unix.IPV6_TRANSPARENT
	}
	if is, err := unix.GetsockoptInt(fd, level, option); err == nil && is != 0 {
		return nil
	}
	return unix.SetsockoptInt(fd, level, option, 1)
}

// netDialAs is a DialFunc that comes from an address which need not be this machine's. The port is chosen when it is
// known where to, so that one client's connections to several backends may share it.
func netDialAs(ctx context.Context, network string, local netip.Addr, remote string) (net.Conn, error) {
	d := dialer(local)
	d.Control = func(_, _ string, raw syscall.RawConn) error {
		var err error
		failed := raw.Control(func(fd uintptr) {
			if err = socketTransparent(int(fd)); err == nil {
				_ = unix.SetsockoptInt(int(fd), unix.SOL_IP, unix.IP_BIND_ADDRESS_NO_PORT, 1) // before 4.2: bound at once
			}
		})
		return privilegeFor("connecting from the client's address", errors.Join(failed, err))
	}
	conn, err := d.DialContext(ctx, network, remote)
	if err == nil && addrPort(conn.LocalAddr()).Addr() != local.Unmap() { // so of multicast and broadcast
		_ = conn.Close() // nothing was said on it
		return nil, errNotFrom
	}
	return conn, err
}

// privilegeFor says what to do where the kernel does not let us.
func privilegeFor(doing string, err error) error {
	if errors.Is(err, unix.EPERM) || errors.Is(err, unix.EACCES) {
		return fmt.Errorf("%s: %w: %w; %s", doing, errPrivilege, err, rawRemedy)
	}
	return err
}
