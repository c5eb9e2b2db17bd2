package route

import (
	"errors"
	"net/netip"
	"strings"

	"golang.org/x/net/idna"
)

// Limits of the DNS, in octets: https://www.rfc-editor.org/rfc/rfc1035#section-2.3.4
const (
	maxName  = 253
	maxLabel = 63
)

// hostName brings a name into the form of the wire: A-labels, lower case, without a final dot. Labels consist of letters,
// digits, hyphens and underscores; the latter are no part of a host name, but hosts exist that have them.
func hostName(s string) (string, error) {
	s = strings.TrimSuffix(s, ".")
	if len(s) > 4*maxName {
		return "", errors.New("too long")
	}
	for i := range len(s) {
		if s[i] >= 0x80 {
			profile := idna.New(idna.MapForLookup(), idna.Transitional(false), idna.StrictDomainName(false))
			a, err := profile.ToASCII(s)
			if err != nil {
				return "", errors.New("not a valid internationalized name")
			}
			s = a
			break
		}
	}
	s = strings.ToLower(s)
	if len(s) > maxName {
		return "", errors.New("longer than 253 octets")
	}
	for label := range strings.SplitSeq(s, ".") {
		if label == "" {
			return "", errors.New("empty name, or an empty label in it")
		}
		if len(label) > maxLabel {
			return "", errors.New("a label is longer than 63 octets")
		}
		for _, c := range []byte(label) {
			switch {
			case 'a' <= c && c <= 'z', '0' <= c && c <= '9', c == '-', c == '_':
			default:
				return "", errors.New("only letters, digits, hyphens, underscores and dots may stand in a name")
			}
		}
	}
	return s, nil
}

// literal reads an address literal: "[192.0.2.1]" or "[IPv6:2001:db8::1]". It reports false for any other.
// https://www.rfc-editor.org/rfc/rfc5321#section-4.1.3
func literal(s string) (netip.Addr, bool) {
	s, ok1 := strings.CutPrefix(s, "[")
	s, ok2 := strings.CutSuffix(s, "]")
	if !ok1 || !ok2 {
		return netip.Addr{}, false
	}
	const tag = "ipv6:"
	v6 := len(s) > len(tag) && strings.EqualFold(s[:len(tag)], tag)
	if v6 {
		s = s[len(tag):]
	}
	addr, err := netip.ParseAddr(s)
	if err != nil || addr.Zone() != "" || addr.Is6() != v6 {
		return netip.Addr{}, false
	}
	return addr.Unmap(), true
}

// Literal is addr as an address literal, which may stand in place of a host's name.
// https://www.rfc-editor.org/rfc/rfc5321#section-4.1.3
func Literal(addr netip.Addr) string {
	addr = addr.Unmap()
	if addr.Is6() {
		return "[IPv6:" + addr.String() + "]"
	}
	return "[" + addr.String() + "]"
}
