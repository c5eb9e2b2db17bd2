package proxy

import (
	"encoding/binary"
	"errors"
	"net"
	"net/netip"
	"syscall"
	"unsafe"

	"golang.org/x/sys/unix"
)

// soOriginalDst is SO_ORIGINAL_DST of linux/netfilter_ipv4.h, and IP6T_SO_ORIGINAL_DST of linux/netfilter_ipv6:
// both are 80.
const soOriginalDst = 80

// errNotTracked: the kernel knows of no other address.
var errNotTracked = errors.New("no rule changed where this connection went")

// originalDestination asks the kernel where a connection was meant to go that a rule redirected to us.
func originalDestination(c net.Conn) (netip.AddrPort, error) {
	c = bare(c)
	if sim, is := c.(interface {
		OriginalDestination() (netip.AddrPort, error)
	}); is {
		return sim.OriginalDestination()
	}
	sc, ok := c.(syscall.Conn)
	if !ok {
		return netip.AddrPort{}, errNotTracked
	}
	raw, err := sc.SyscallConn()
	if err != nil {
		return netip.AddrPort{}, err
	}
	local := addrPort(c.LocalAddr()).Addr()
	var to netip.AddrPort
	failed := raw.Control(func(fd uintptr) { to, err = kernelOriginal(int(fd), local.Is4()) })
	if err = errors.Join(failed, err); errors.Is(err, unix.ENOENT) || errors.Is(err, unix.ENOPROTOOPT) {
		return netip.AddrPort{}, errNotTracked // no such connection is tracked, or none is at all
	}
	return to, err
}

// kernelOriginal reads the address from connection tracking. IPv4 on a socket of IPv6 is asked as IPv4.
func kernelOriginal(fd int, is4 bool) (netip.AddrPort, error) {
	if is4 {
		var a unix.RawSockaddrInet4
		if err := getsockopt(fd, unix.SOL_IP, unsafe.Pointer(&a), unsafe.Sizeof(a)); err != nil {
			return netip.AddrPort{}, err
		}
		return netip.AddrPortFrom(netip.AddrFrom4(a.Addr), netPort(a.Port)), nil
	}
	var a unix.RawSockaddrInet6
	if err := getsockopt(fd, unix.SOL_IPV6, unsafe.Pointer(&a), unsafe.Sizeof(a)); err != nil {
		return netip.AddrPort{}, err
	}
	return netip.AddrPortFrom(netip.AddrFrom16(a.Addr).Unmap(), netPort(a.Port)), nil
}

func getsockopt(fd, level int, to unsafe.Pointer, size uintptr) error {
	n := uint32(size)
	_, _, errno := unix.Syscall6(unix.SYS_GETSOCKOPT,
		uintptr(fd), uintptr(level), soOriginalDst, uintptr(to), uintptr(unsafe.Pointer(&n)), 0)
	if errno != 0 {
		return errno
	}
	return nil
}

// netPort reads a port that lies in memory as it travels.
func netPort(port uint16) uint16 {
	var b [2]byte
	binary.NativeEndian.PutUint16(b[:], port)
	return binary.BigEndian.Uint16(b[:])
}

// tracksConnections tells whether the kernel could tell about any connection: without rules of address translation it
// does not keep track.
func tracksConnections() bool {
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return true // nothing is known
	}
	defer unix.Close(fd)
	_, err = kernelOriginal(fd, true)
	return !errors.Is(err, unix.ENOPROTOOPT)
}
