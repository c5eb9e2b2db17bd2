package wan

import (
	"encoding/binary"
	"net/netip"

	"slipstream/bench/meter"
)

// The numbers of IP that matter here: https://www.iana.org/assignments/protocol-numbers
const (
	protocolTCP = 6

	// Extension headers of IPv6 that may stand before TCP: https://www.rfc-editor.org/rfc/rfc8200#section-4.1
	hopByHop    = 0
	routing     = 43
	destination = 60
)

// maxExtensions is how many extension headers of one packet are read. Those of a kernel's TCP have none.
const maxExtensions = 4

// Flags of TCP: https://www.rfc-editor.org/rfc/rfc9293#section-3.1
const (
	flagFIN = 1 << iota
	flagSYN
	flagRST
	_
	flagACK
)

// parseTCP reads a packet without link layer header. It returns the segment, whose Data is part of the packet and
// all that the packet holds, and whether the packet is TCP and not a fragment. Its times are not set.
func parseTCP(packet []byte) (meter.Segment, bool) {
	var from, to netip.Addr
	var tcp []byte
	var ok bool
	if len(packet) > 0 && packet[0]>>4 == 6 {
		from, to, tcp, ok = parseIPv6(packet)
	} else {
		from, to, tcp, ok = parseIPv4(packet)
	}
	if !ok || len(tcp) < 20 {
		return meter.Segment{}, false
	}
	header := int(tcp[12]>>4) * 4
	if header < 20 || header > len(tcp) {
		return meter.Segment{}, false
	}
	flags := tcp[13]
	return meter.Segment{
		From: netip.AddrPortFrom(from, binary.BigEndian.Uint16(tcp[0:])),
		To:   netip.AddrPortFrom(to, binary.BigEndian.Uint16(tcp[2:])),
		SYN:  flags&flagSYN != 0,
		ACK:  flags&flagACK != 0,
		FIN:  flags&flagFIN != 0,
		RST:  flags&flagRST != 0,
		Seq:  binary.BigEndian.Uint32(tcp[4:]),
		Len:  len(tcp) - header,
		Size: len(packet),
		Data: tcp[header:],
	}, true
}

// parseIPv4 returns what an IPv4 packet that holds a whole TCP segment holds.
// https://www.rfc-editor.org/rfc/rfc791#section-3.1
func parseIPv4(p []byte) (from, to netip.Addr, tcp []byte, ok bool) {
	if len(p) < 20 || p[0]>>4 != 4 || p[9] != protocolTCP {
		return from, to, nil, false
	}
	header, total := int(p[0]&15)*4, int(binary.BigEndian.Uint16(p[2:]))
	const moreAndOffset = 0x3fff
	if header < 20 || total < header || total > len(p) || binary.BigEndian.Uint16(p[6:])&moreAndOffset != 0 {
		return from, to, nil, false
	}
	return netip.AddrFrom4([4]byte(p[12:16])), netip.AddrFrom4([4]byte(p[16:20])), p[header:total], true
}

// parseIPv6 does so with an IPv6 packet.
// https://www.rfc-editor.org/rfc/rfc8200#section-3
func parseIPv6(p []byte) (from, to netip.Addr, tcp []byte, ok bool) {
	if len(p) < 40 {
		return from, to, nil, false
	}
	total := 40 + int(binary.BigEndian.Uint16(p[4:]))
	if total > len(p) {
		return from, to, nil, false
	}
	next, rest := p[6], p[40:total]
	for range maxExtensions {
		if next != hopByHop && next != routing && next != destination {
			break
		}
		if len(rest) < 8 || len(rest) < 8+int(rest[1])*8 {
			return from, to, nil, false
		}
		next, rest = rest[0], rest[8+int(rest[1])*8:]
	}
	if next != protocolTCP {
		return from, to, nil, false
	}
	return netip.AddrFrom16([16]byte(p[8:24])), netip.AddrFrom16([16]byte(p[24:40])), rest, true
}
