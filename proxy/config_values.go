package proxy

import (
	"crypto/tls"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"strconv"
	"strings"
	"time"
)

// A Size is a number of octets. In the file it is a plain number or a string
// with a unit: KB, MB, GB and TB are powers of 1000, as disks and mail limits
// are commonly counted, KiB, MiB, GiB and TiB are powers of 1024.
type Size int64

const (
	kilobyte Size = 1000
	megabyte      = 1000 * kilobyte
	gigabyte      = 1000 * megabyte
)

// UnmarshalText implements [encoding.TextUnmarshaler].
func (s *Size) UnmarshalText(text []byte) error {
	digits := string(text)
	unit := strings.TrimLeft(digits, "0123456789")
	digits = strings.TrimSuffix(digits, unit)
	factor, known := int64(0), true
	switch strings.TrimLeft(unit, " ") {
	case "", "B":
		factor = 1
	case "KB":
		factor = 1e3
	case "MB":
		factor = 1e6
	case "GB":
		factor = 1e9
	case "TB":
		factor = 1e12
	case "KiB":
		factor = 1 << 10
	case "MiB":
		factor = 1 << 20
	case "GiB":
		factor = 1 << 30
	case "TiB":
		factor = 1 << 40
	default:
		known = false
	}
	n, err := strconv.ParseInt(digits, 10, 64)
	switch {
	case !known || errors.Is(err, strconv.ErrSyntax):
		return valueError(string(text), "is not a size", `a whole number of octets, or one with a unit (KB, MB, GB, TB of 1000, KiB, MiB, GiB, TiB of 1024), such as "25MB"`)
	case err != nil || n > (1<<63-1)/factor:
		return valueError(string(text), "is larger than any size", `a size such as "25MB"`)
	}
	*s = Size(n * factor)
	return nil
}

// String returns the size as the file would have it.
func (s Size) String() string {
	for _, u := range []struct {
		name   string
		factor Size
	}{{"TB", 1e12}, {"GB", 1e9}, {"MB", 1e6}, {"KB", 1e3}} {
		if s != 0 && s%u.factor == 0 {
			return strconv.FormatInt(int64(s/u.factor), 10) + u.name
		}
	}
	return strconv.FormatInt(int64(s), 10)
}

// A TLSVersion is a version as crypto/tls numbers it, "1.2" in the file.
type TLSVersion uint16

const tls12 TLSVersion = tls.VersionTLS12

// UnmarshalText implements [encoding.TextUnmarshaler].
func (v *TLSVersion) UnmarshalText(text []byte) error {
	switch string(text) {
	case "1.0":
		*v = tls.VersionTLS10
	case "1.1":
		*v = tls.VersionTLS11
	case "1.2":
		*v = tls.VersionTLS12
	case "1.3":
		*v = tls.VersionTLS13
	default:
		return valueError(string(text), "is not a version of TLS that we speak", `"1.0", "1.1", "1.2", "1.3"`)
	}
	return nil
}

// Prefixes is a list of networks.
type Prefixes []netip.Prefix

// Contains reports whether one of the networks holds the address. It sees an
// IPv4 address through its IPv6-mapped form and a link-local one through its
// zone, both of which [netip.Prefix.Contains] takes for strangers.
func (p Prefixes) Contains(a netip.Addr) bool {
	a = a.Unmap().WithZone("")
	for _, prefix := range p {
		if prefix.Contains(a) {
			return true
		}
	}
	return false
}

func everyNetwork() Prefixes {
	return Prefixes{netip.MustParsePrefix("0.0.0.0/0"), netip.MustParsePrefix("::/0")}
}

func loopbackNetworks() Prefixes {
	return Prefixes{netip.MustParsePrefix("127.0.0.0/8"), netip.MustParsePrefix("::1/128")}
}

func parsePrefix(s string) (netip.Prefix, error) {
	p, err := netip.ParsePrefix(s)
	if a, aerr := netip.ParseAddr(s); aerr == nil && a.Zone() == "" {
		p, err = netip.PrefixFrom(a, a.BitLen()), nil
	}
	const allowed = `networks such as "192.0.2.0/24" or "2001:db8::/32", and single addresses`
	switch {
	case err != nil:
		return p, valueError(s, "is not a network", allowed)
	case p.Addr().Is4In6():
		return p, valueError(s, "is IPv4 written as IPv6; write it as IPv4", allowed)
	case p.Masked() != p:
		return p, valueError(s, fmt.Sprintf("has bits set behind its length; write %q or a longer one", p.Masked()), allowed)
	}
	return p, nil
}

// parseServer reads a DNS server: an address, port 53 unless another is given.
func parseServer(s string) (netip.AddrPort, error) {
	if a, err := netip.ParseAddr(s); err == nil {
		return netip.AddrPortFrom(a.Unmap(), 53), nil
	}
	ap, err := netip.ParseAddrPort(s)
	if err != nil || ap.Port() == 0 {
		return ap, valueError(s, "is not a name server's address", `"IP" or "IP:port", such as "127.0.0.1" or "[::1]:5353"`)
	}
	return netip.AddrPortFrom(ap.Addr().Unmap(), ap.Port()), nil
}

func parseAddr(s string) (netip.Addr, error) {
	a, err := netip.ParseAddr(s)
	if err != nil || a.Is4In6() {
		return a, valueError(s, "is not an IP address", `addresses such as "192.0.2.1" or "2001:db8::1"`)
	}
	return a, nil
}

func parseDuration(s string) (time.Duration, error) {
	d, err := time.ParseDuration(s)
	if err != nil || strings.HasPrefix(s, "+") {
		return d, valueError(s, "is not a duration", `a number with a unit, such as "500ms", "30s", "5m" or "1h30m"`)
	}
	return d, nil
}

// An Endpoint is whom to connect to. The zero Endpoint is none.
type Endpoint struct {
	Host string // host name or IP address without brackets; "" with Path
	Port uint16
	Path string // of a Unix socket, instead of Host and Port
	LMTP bool   // it speaks LMTP, RFC 2033
	TLS  bool   // TLS comes before the greeting
}

// IsZero reports whether e names no one.
func (e Endpoint) IsZero() bool { return e == Endpoint{} }

// Network returns what [net.Dial] calls the kind of endpoint: "tcp" or "unix".
func (e Endpoint) Network() string {
	if e.Path != "" {
		return "unix"
	}
	return "tcp"
}

// Address returns the endpoint for [net.Dial]: "host:port" or a path.
func (e Endpoint) Address() string {
	if e.Path != "" {
		return e.Path
	}
	return net.JoinHostPort(e.Host, strconv.Itoa(int(e.Port)))
}

// String returns the endpoint as the file would have it.
func (e Endpoint) String() string {
	switch {
	case e.IsZero():
		return ""
	case e.Path != "" && e.LMTP:
		return "lmtp+unix:" + e.Path
	case e.Path != "":
		return "unix:" + e.Path
	case e.LMTP:
		return "lmtp://" + e.Address()
	case e.TLS:
		return "smtps://" + e.Address()
	}
	return e.Address()
}

// form returns the pattern that String follows, as in the "forms" tags.
func (e Endpoint) form() string {
	if e.Path != "" {
		return Endpoint{Path: "/path", LMTP: e.LMTP}.String()
	}
	scheme := strings.TrimSuffix(e.String(), e.Address())
	return scheme + "host:port"
}

// UnmarshalText implements [encoding.TextUnmarshaler]. "" is the zero Endpoint.
// Which forms a key takes is not known here, so its errors do not say it.
func (e *Endpoint) UnmarshalText(text []byte) error {
	s := string(text)
	if s == "" {
		*e = Endpoint{}
		return nil
	}
	var got Endpoint
	rest, local := s, false
	if after, ok := strings.CutPrefix(s, "unix:"); ok {
		rest, local = after, true
	} else if after, ok := strings.CutPrefix(s, "lmtp+unix:"); ok {
		rest, local, got.LMTP = after, true, true
	} else if after, ok := strings.CutPrefix(s, "lmtp://"); ok {
		rest, got.LMTP = after, true
	} else if after, ok := strings.CutPrefix(s, "smtps://"); ok {
		rest, got.TLS = after, true
	}
	if local {
		got.Path = rest
		if rest == "" {
			return errors.New(quoted(s) + " has no path")
		}
		*e = got
		return nil
	}
	host, port, err := net.SplitHostPort(rest)
	if err != nil {
		return errors.New(quoted(s) + " has no port or is no address (IPv6 goes in brackets)")
	}
	if got.Port, err = parsePort(port); err != nil || got.Port == 0 {
		return errors.New(quoted(s) + " has a bad port (1 to 65535)")
	}
	if _, err := netip.ParseAddr(host); err != nil && !validHost(host, true) {
		return errors.New(quoted(s) + " has a bad host")
	}
	got.Host = host
	*e = got
	return nil
}

// parsePort takes decimal numbers only: names of services differ between systems.
func parsePort(s string) (uint16, error) {
	if strings.TrimLeft(s, "0123456789") != "" {
		return 0, strconv.ErrSyntax
	}
	n, err := strconv.ParseUint(s, 10, 16)
	return uint16(n), err
}

// parseListen returns the form of a listening address by which two are
// compared. All ways to write "every address" are one, because on each of them
// the system listens for both families.
func parseListen(s string) (netip.AddrPort, error) {
	const allowed = `"IP:port" such as "127.0.0.1:2525" or "[::1]:25", or ":port"`
	host, port, err := net.SplitHostPort(s)
	if err != nil {
		return netip.AddrPort{}, valueError(s, "is not an address to listen on", allowed)
	}
	n, err := parsePort(port)
	if err != nil {
		return netip.AddrPort{}, valueError(s, "has a bad port", "ports 0 (any free one) to 65535")
	}
	if host == "" {
		return netip.AddrPortFrom(netip.IPv6Unspecified(), n), nil
	}
	a, err := netip.ParseAddr(host)
	if err != nil {
		return netip.AddrPort{}, valueError(s, "has a host that is not an IP address", allowed)
	}
	if a = a.Unmap(); a.IsUnspecified() {
		a = netip.IPv6Unspecified()
	}
	return netip.AddrPortFrom(a, n), nil
}

// validHost reports whether s is a host name of RFC 1123 §2.1
// (https://www.rfc-editor.org/rfc/rfc1123#section-2.1) that cannot be taken for
// an IPv4 address. Underscores are no part of it, but of names that some
// systems give to machines on their inner networks: lenient lets them pass.
func validHost(s string, lenient bool) bool {
	if s == "" || len(s) > 253 {
		return false
	}
	labels := strings.Split(s, ".")
	for _, label := range labels {
		if label == "" || len(label) > 63 || label[0] == '-' || label[len(label)-1] == '-' {
			return false
		}
		for _, c := range []byte(label) {
			alnum := 'a' <= c && c <= 'z' || 'A' <= c && c <= 'Z' || '0' <= c && c <= '9'
			if !alnum && c != '-' && (c != '_' || !lenient) {
				return false
			}
		}
	}
	return strings.TrimLeft(labels[len(labels)-1], "0123456789") != ""
}

// valueError says what is wrong with a value and what would be right.
func valueError(value, wrong, allowed string) error {
	return fmt.Errorf("%s %s; allowed: %s", quoted(value), wrong, allowed)
}

// quoted shows a value in an error: on one line, and not the whole of a long one.
func quoted(s string) string {
	const enough = 80
	if len(s) > enough {
		return strconv.Quote(s[:enough]) + "…"
	}
	return strconv.Quote(s)
}
