package refpeer

import (
	"encoding/binary"
	"errors"
	"io"
	"net/netip"
	"strings"
)

// Proxy is a PROXY header.
type Proxy struct {
	Version             int    // 1 or 2; 0: none
	Raw                 string // all octets
	Local               bool   // UNKNOWN or LOCAL: no addresses
	Source, Destination netip.AddrPort
}

const (
	proxySignature = "\r\n\r\n\x00\r\nQUIT\n"
	maxProxyV1     = 107
	maxProxyV2     = 4096
)

var errProxy = errors.New("refpeer: malformed PROXY header")

// readProxy reads a header and not one octet more, since TLS may follow.
func readProxy(r io.Reader) (Proxy, error) {
	head := make([]byte, len(proxySignature))
	if n, err := io.ReadFull(r, head); err != nil {
		return Proxy{Raw: string(head[:n])}, err
	}
	if string(head) == proxySignature {
		return readProxyV2(r, head)
	}
	if !strings.HasPrefix(string(head), "PROXY ") {
		return Proxy{Raw: string(head)}, errProxy
	}
	for one := make([]byte, 1); head[len(head)-1] != '\n' && len(head) < maxProxyV1; {
		if _, err := io.ReadFull(r, one); err != nil {
			return Proxy{Raw: string(head)}, err
		}
		head = append(head, one[0])
	}
	return parseProxyV1(string(head))
}

func parseProxyV1(raw string) (Proxy, error) {
	p := Proxy{Version: 1, Raw: raw}
	line, ok := strings.CutSuffix(raw, "\r\n")
	f := strings.Split(line, " ")
	switch {
	case !ok:
		return p, errProxy
	case f[1] == "UNKNOWN":
		p.Local = true
		return p, nil
	case len(f) != 6 || f[1] != "TCP4" && f[1] != "TCP6":
		return p, errProxy
	}
	var err error
	for i, to := range []*netip.AddrPort{&p.Source, &p.Destination} {
		host := f[2+i]
		if f[1] == "TCP6" {
			host = "[" + host + "]"
		}
		if *to, err = netip.ParseAddrPort(host + ":" + f[4+i]); err != nil {
			return p, errProxy
		}
	}
	return p, nil
}

func readProxyV2(r io.Reader, head []byte) (Proxy, error) {
	fixed := make([]byte, 4)
	if _, err := io.ReadFull(r, fixed); err != nil {
		return Proxy{Raw: string(head)}, err
	}
	size := int(binary.BigEndian.Uint16(fixed[2:]))
	if size > maxProxyV2 {
		return Proxy{Raw: string(head)}, errProxy
	}
	rest := make([]byte, size)
	if _, err := io.ReadFull(r, rest); err != nil {
		return Proxy{Raw: string(head)}, err
	}
	p := Proxy{Version: 2, Raw: string(head) + string(fixed) + string(rest)}
	width := map[byte]int{0x11: 4, 0x21: 16}[fixed[1]]
	switch {
	case fixed[0] == 0x20, fixed[0] == 0x21 && fixed[1] == 0:
		p.Local = true
		return p, nil
	case fixed[0] != 0x21 || width == 0 || size < 2*width+4:
		return p, errProxy
	}
	source, _ := netip.AddrFromSlice(rest[:width])
	destination, _ := netip.AddrFromSlice(rest[width : 2*width])
	p.Source = netip.AddrPortFrom(source, binary.BigEndian.Uint16(rest[2*width:]))
	p.Destination = netip.AddrPortFrom(destination, binary.BigEndian.Uint16(rest[2*width+2:]))
	return p, nil
}
