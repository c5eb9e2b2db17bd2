package wan

import (
	"bytes"
	"encoding/binary"
	"net/netip"
	"testing"

	"slipstream/bench/meter"
)

// tcpHeader is from port 1025 to port 25, sequence number 7, with a timestamp-sized option.
func tcpHeader(flags byte) []byte {
	b := []byte{4, 1, 0, 25, 0, 0, 0, 7, 0, 0, 0, 9, 8 << 4, flags, 0, 0, 0, 0, 0, 0}
	return append(b, make([]byte, 12)...)
}

// packet4 is an IPv4 packet with so many octets of options.
func packet4(options int, payload []byte) []byte {
	b := make([]byte, 20+options, 20+options+len(payload))
	b[0] = 4<<4 | byte(len(b)/4)
	binary.BigEndian.PutUint16(b[2:], uint16(len(b)+len(payload)))
	b[9] = protocolTCP
	copy(b[12:], []byte{198, 18, 0, 1, 198, 18, 0, 2})
	return append(b, payload...)
}

// packet6 is an IPv6 packet with extension headers of these numbers, each of 16 octets.
func packet6(extensions []byte, payload []byte) []byte {
	b := make([]byte, 40, 40+16*len(extensions)+len(payload))
	b[0] = 6 << 4
	binary.BigEndian.PutUint16(b[4:], uint16(16*len(extensions)+len(payload)))
	from, to := netip.MustParseAddr("2001:2::1").As16(), netip.MustParseAddr("2001:2::2").As16()
	copy(b[8:], from[:])
	copy(b[24:], to[:])
	next := &b[6]
	for _, number := range extensions {
		*next = number
		b = append(b, make([]byte, 16)...)
		next = &b[len(b)-16]
		b[len(b)-15] = 1 // octets beyond 8, in units of 8
	}
	*next = protocolTCP
	return append(b, payload...)
}

func TestParseTCP(t *testing.T) {
	text := append(tcpHeader(flagACK|flagFIN), "QUIT\r\n"...)
	near4, far4 := netip.MustParseAddrPort("198.18.0.1:1025"), netip.MustParseAddrPort("198.18.0.2:25")
	near6, far6 := netip.MustParseAddrPort("[2001:2::1]:1025"), netip.MustParseAddrPort("[2001:2::2]:25")
	said := meter.Segment{ACK: true, FIN: true, Seq: 7, Len: 6, Data: []byte("QUIT\r\n")}
	changed := func(p []byte, at int, to byte) []byte {
		p = bytes.Clone(p)
		p[at] = to
		return p
	}
	for _, v := range []struct {
		name     string
		packet   []byte
		want     meter.Segment
		from, to netip.AddrPort
		ok       bool
	}{
		{"IPv4", packet4(0, text), said, near4, far4, true},
		{"IPv4 with options", packet4(8, text), said, near4, far4, true},
		{"IPv4 with octets behind", append(packet4(0, text), "more"...), said, near4, far4, true},
		{"IPv6", packet6(nil, text), said, near6, far6, true},
		{"IPv6 with extensions", packet6([]byte{hopByHop, routing, destination}, text), said, near6, far6, true},
		{"SYN", packet4(0, tcpHeader(flagSYN)), meter.Segment{SYN: true, Seq: 7}, near4, far4, true},
		{"RST", packet4(0, tcpHeader(flagRST)), meter.Segment{RST: true, Seq: 7}, near4, far4, true},
		{name: "empty"},
		{name: "UDP", packet: changed(packet4(0, text), 9, 17)},
		{name: "first fragment", packet: changed(packet4(0, text), 6, 0x20)},
		{name: "later fragment", packet: changed(packet4(0, text), 7, 3)},
		{name: "IPv4 too long", packet: packet4(0, text)[:50]},
		{name: "IPv4 header too short", packet: changed(packet4(0, text), 0, 4<<4|4)},
		{name: "TCP header cut", packet: packet4(0, text[:19])},
		{name: "TCP header beyond the packet", packet: packet4(0, text[:24])},
		{name: "TCP header too short", packet: changed(packet4(0, text), 32, 4<<4)},
		{name: "IPv6 cut", packet: packet6(nil, text)[:39]},
		{name: "IPv6 too long", packet: packet6(nil, text)[:50]},
		{name: "IPv6 fragment", packet: changed(packet6(nil, text), 6, 44)},
		{name: "IPv6 extension beyond the packet", packet: changed(packet6([]byte{hopByHop}, text), 41, 200)},
		{name: "too many extensions", packet: packet6(bytes.Repeat([]byte{destination}, maxExtensions+1), text)},
	} {
		got, ok := parseTCP(v.packet)
		if ok != v.ok {
			t.Errorf("%s: %v", v.name, ok)
			continue
		}
		if !ok {
			continue
		}
		w := v.want
		if got.From != v.from || got.To != v.to || got.Size != len(v.packet) || got.Seq != w.Seq || got.Len != w.Len ||
			got.SYN != w.SYN || got.ACK != w.ACK || got.FIN != w.FIN || got.RST != w.RST || !bytes.Equal(got.Data, w.Data) {
			t.Errorf("%s: %+v", v.name, got)
		}
	}
}

func FuzzParseTCP(f *testing.F) {
	f.Add(packet4(0, append(tcpHeader(flagACK), "NOOP\r\n"...)))
	f.Add(packet4(40, tcpHeader(flagSYN)))
	f.Add(packet6([]byte{hopByHop, destination}, tcpHeader(flagRST)))
	f.Fuzz(func(t *testing.T, p []byte) {
		s, ok := parseTCP(p)
		if !ok {
			return
		}
		if s.Len != len(s.Data) || s.Size != len(p) || s.Len+40 > s.Size || !bytes.Contains(p, s.Data) {
			t.Errorf("%+v of %d octets", s, len(p))
		}
		if !s.From.IsValid() || !s.To.IsValid() || s.From.Addr().Is4() != (p[0]>>4 == 4) {
			t.Errorf("from %v to %v", s.From, s.To)
		}
	})
}
