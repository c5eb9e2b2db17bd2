package route

import (
	"fmt"
	"net/netip"
)

// Family says which addresses may be dialed.
type Family int

const (
	Both Family = iota // "any"
	IPv4               // "ipv4"
	IPv6               // "ipv6"
)

// ParseFamily reads "any", "ipv4" or "ipv6".
func ParseFamily(s string) (Family, error) {
	for f := Both; f <= IPv6; f++ {
		if s == f.String() {
			return f, nil
		}
	}
	return 0, fmt.Errorf("address family %q is none of any, ipv4, ipv6", s)
}

// String is the inverse of [ParseFamily].
func (f Family) String() string {
	switch f {
	case IPv4:
		return "ipv4"
	case IPv6:
		return "ipv6"
	}
	return "any"
}

// network is the word for f that the resolver takes.
func (f Family) network() string {
	switch f {
	case IPv4:
		return "ip4"
	case IPv6:
		return "ip6"
	}
	return "ip"
}

// phrase ends a sentence about missing addresses.
func (f Family) phrase() string {
	if f == Both {
		return ""
	}
	return " (only " + f.String() + " is allowed here)"
}

// has reports whether addr is of the family. It is unmapped.
func (f Family) has(addr netip.Addr) bool {
	return f == Both || (f == IPv4) == addr.Is4()
}

// Remote is the default for [MX.AllowAddr]: it reports whether addr can be another machine beyond this link. Loopback,
// unspecified, link-local, multicast and broadcast addresses cannot; whoever publishes such an address for a mail exchanger
// wants us to talk to ourselves or to our neighbours. Private networks are allowed, since an MX there is common within them.
func Remote(addr netip.Addr) bool {
	addr = embedded(addr)
	switch {
	case !addr.IsValid(), addr.IsLoopback(), addr.IsUnspecified(), addr.IsMulticast(), addr.IsLinkLocalUnicast():
		return false
	case addr.Is4():
		octets := addr.As4()
		return octets[0] != 0 && octets[0] != 127 && octets[0] < 240 // "this network", loopback, reserved and broadcast
	}
	return true
}

// embedded gives the IPv4 address that an IPv6 address leads to: IPv4-mapped, IPv4-compatible (RFC 4291) and translated by
// the well-known prefix 64:ff9b::/96 (RFC 6052) or 6to4 (RFC 3056). Any other address is returned as it is. Without this, a guard on
// addresses would be one AAAA record away from being passed.
func embedded(addr netip.Addr) netip.Addr {
	if addr = addr.Unmap(); !addr.Is6() || addr.IsLoopback() || addr.IsUnspecified() {
		return addr
	}
	octets := addr.As16()
	switch {
	case [12]byte(octets[:12]) == [12]byte{}, [12]byte(octets[:12]) == [12]byte{0x00, 0x64, 0xff, 0x9b}:
		return netip.AddrFrom4([4]byte(octets[12:]))
	case octets[0] == 0x20 && octets[1] == 0x02:
		return netip.AddrFrom4([4]byte(octets[2:6]))
	}
	return addr
}

// interleave puts addresses of the two families in turn, IPv6 first, each family in its own order, at most maxAddrs:
// a family that does not work here costs one try, not all of them. https://www.rfc-editor.org/rfc/rfc8305#section-4
func interleave(addrs []netip.Addr, port uint16) []netip.AddrPort {
	var v6, v4 []netip.AddrPort
	for _, addr := range addrs {
		if addr.Is4() {
			v4 = append(v4, netip.AddrPortFrom(addr, port))
		} else {
			v6 = append(v6, netip.AddrPortFrom(addr, port))
		}
	}
	var list []netip.AddrPort
	for i := 0; i < max(len(v4), len(v6)) && len(list) < maxAddrs; i++ {
		if i < len(v6) {
			list = append(list, v6[i])
		}
		if i < len(v4) && len(list) < maxAddrs {
			list = append(list, v4[i])
		}
	}
	return list
}
