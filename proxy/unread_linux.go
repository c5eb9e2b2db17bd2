package proxy

import (
	"encoding/binary"
	"net"
	"net/netip"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"
)

// kernelUnread asks the kernel about the other end of a connection, where that is
// a socket of this machine and network namespace: how many octets have arrived
// there, and how many of them nobody has read (sock_diag(7), which needs no
// privilege).
func kernelUnread(c net.Conn) (arrived int64, unread int, ok bool) {
	theirs, ours := addrPort(c.RemoteAddr()), addrPort(c.LocalAddr())
	if !theirs.IsValid() || !ours.IsValid() {
		return 0, 0, false
	}
	fd, err := unix.Socket(unix.AF_NETLINK, unix.SOCK_RAW|unix.SOCK_CLOEXEC, unix.NETLINK_SOCK_DIAG)
	if err != nil {
		return 0, 0, false
	}
	defer unix.Close(fd)
	limit := unix.NsecToTimeval(diagWait.Nanoseconds())
	if unix.SetsockoptTimeval(fd, unix.SOL_SOCKET, unix.SO_RCVTIMEO, &limit) != nil {
		return 0, 0, false
	}
	for _, family := range families(theirs) {
		if unix.Sendto(fd, diagRequest(family, theirs, ours), 0, &unix.SockaddrNetlink{Family: unix.AF_NETLINK}) != nil {
			return 0, 0, false
		}
		answer := make([]byte, 4096)
		got, _, err := unix.Recvfrom(fd, answer, 0)
		if err != nil {
			return 0, 0, false
		}
		if arrived, unread, ok := diagUnread(answer[:got]); ok {
			return arrived, unread, true
		}
	}
	return 0, 0, false
}

const (
	diagWait   = 100 * time.Millisecond // for the kernel
	diagByPair = 20                     // SOCK_DIAG_BY_FAMILY

	diagHeader  = 16              // struct nlmsghdr
	diagAsk     = 56              // struct inet_diag_req_v2
	diagQueue   = diagHeader + 56 // idiag_rqueue in struct inet_diag_msg, behind an inet_diag_sockid of 48
	diagAnswer  = diagQueue + 4*4 // up to its end
	diagNoState = ^uint32(0)      // any
	diagAttr    = 4               // struct rtattr
	diagInfo    = 2               // INET_DIAG_INFO: struct tcp_info

	tcpEstablished = 1
)

// families are those of the socket at the other end. IPv4 may come in by a socket
// of IPv6.
func families(theirs netip.AddrPort) []byte {
	if theirs.Addr().Is4() {
		return []byte{unix.AF_INET, unix.AF_INET6}
	}
	return []byte{unix.AF_INET6}
}

// diagRequest asks for the one socket from one address to another.
func diagRequest(family byte, from, to netip.AddrPort) []byte {
	b := make([]byte, diagHeader+diagAsk)
	order := binary.NativeEndian
	order.PutUint32(b[0:], uint32(len(b)))
	order.PutUint16(b[4:], diagByPair)
	order.PutUint16(b[6:], unix.NLM_F_REQUEST)
	ask := b[diagHeader:]
	ask[0], ask[1], ask[2] = family, unix.IPPROTO_TCP, 1<<(diagInfo-1)
	order.PutUint32(ask[4:], diagNoState)
	id := ask[8:]
	binary.BigEndian.PutUint16(id[0:], from.Port())
	binary.BigEndian.PutUint16(id[2:], to.Port())
	copy(id[4:20], diagAddr(family, from.Addr()))
	copy(id[20:36], diagAddr(family, to.Addr()))
	order.PutUint32(id[40:], ^uint32(0)) // INET_DIAG_NOCOOKIE
	order.PutUint32(id[44:], ^uint32(0))
	return b
}

func diagAddr(family byte, a netip.Addr) []byte {
	if family == unix.AF_INET6 {
		b := a.As16()
		return b[:]
	}
	return a.AsSlice()
}

// diagUnread reads the answer.
func diagUnread(answer []byte) (arrived int64, unread int, ok bool) {
	order := binary.NativeEndian
	if len(answer) < diagAnswer || order.Uint16(answer[4:]) != diagByPair {
		return 0, 0, false // NLMSG_ERROR: there is no such socket here
	}
	if answer[diagHeader+1] != tcpEstablished { // a door of ours may have the port of a client far away
		return 0, 0, false
	}
	const at = int(unsafe.Offsetof(unix.TCPInfo{}.Bytes_received))
	for rest := answer[diagAnswer:]; len(rest) >= diagAttr; {
		size, kind := int(order.Uint16(rest)), order.Uint16(rest[2:])
		if size < diagAttr || size > len(rest) {
			break
		}
		if kind == diagInfo && size >= diagAttr+at+8 {
			return int64(order.Uint64(rest[diagAttr+at:])), int(order.Uint32(answer[diagQueue:])), true
		}
		rest = rest[min((size+3)&^3, len(rest)):]
	}
	return 0, 0, false
}
