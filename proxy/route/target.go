package route

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"path"
	"strconv"
	"strings"
)

// Target is a fixed place to send mail to: Host and Port, or Unix.
type Target struct {
	Host     string // a name in lower case and A-labels, or the text of an address
	Port     uint16
	Unix     string // absolute path of a socket
	LMTP     bool   // LMTP instead of SMTP
	Implicit bool   // TLS from the first byte
}

// maxUnixPath is what fits into sockaddr_un on Linux, with its final NUL.
const maxUnixPath = 107

// ParseTarget reads a target as it stands in the configuration:
//
//	host:port  192.0.2.1:port  [2001:db8::1]:port   SMTP
//	smtp://host:port                                the same
//	smtps://host:port                               SMTP, TLS from the first byte
//	lmtp://host:port                                LMTP
//	unix:/path                                      SMTP over a Unix socket
//	lmtp+unix:/path  lmtp:unix:/path                LMTP over a Unix socket
//
// The port is a number and always given.
func ParseTarget(s string) (Target, error) {
	t, err := parseTarget(s)
	if err != nil {
		return Target{}, fmt.Errorf("%q: %w", s, err)
	}
	return t, nil
}

func parseTarget(s string) (Target, error) {
	var t Target
	switch scheme, rest, ok := strings.Cut(s, "://"); {
	case !ok:
	case scheme == "smtp":
		return t, t.setAddress(rest)
	case scheme == "smtps":
		t.Implicit = true
		return t, t.setAddress(rest)
	case scheme == "lmtp":
		t.LMTP = true
		return t, t.setAddress(rest)
	case scheme == "unix" || scheme == "lmtp+unix" || scheme == "lmtp:unix":
		if !strings.HasPrefix(rest, "/") {
			return t, errors.New("the path of a socket must be absolute: unix:/path")
		}
		s = scheme + ":" + rest
	default:
		return t, fmt.Errorf("scheme %q is none of smtp, smtps, lmtp, unix, lmtp+unix", scheme)
	}
	for _, prefix := range []string{"lmtp+unix:", "lmtp:unix:", "unix:"} {
		if rest, ok := strings.CutPrefix(s, prefix); ok {
			t.LMTP = prefix != "unix:"
			return t, t.setUnix(rest)
		}
	}
	return t, t.setAddress(s)
}

// setAddress takes "host:port".
func (t *Target) setAddress(s string) error {
	host, port, err := net.SplitHostPort(s)
	if err != nil {
		if addr, err := netip.ParseAddr(strings.Trim(s, "[]")); err == nil && addr.Is6() {
			return fmt.Errorf("the port is missing; write [%v]:25", addr)
		}
		if s != "" && !strings.ContainsAny(s, ":/[] ") {
			return fmt.Errorf("the port is missing; write %s:25", s)
		}
		return errors.New("not of the form host:port or [address]:port")
	}
	n, err := strconv.ParseUint(port, 10, 16)
	if err != nil || n == 0 {
		return fmt.Errorf("port %q is not a number from 1 to 65535", port)
	}
	t.Port = uint16(n)
	if addr, err := netip.ParseAddr(host); err == nil {
		t.Host = addr.String()
		return nil
	}
	if strings.HasPrefix(s, "[") {
		return fmt.Errorf("%q in brackets is not an address", host)
	}
	if t.Host, err = hostName(host); err != nil {
		return fmt.Errorf("host %q: %w", host, err)
	}
	return nil
}

// setUnix takes the path of a socket.
func (t *Target) setUnix(s string) error {
	if !strings.HasPrefix(s, "/") {
		return errors.New("the path of a socket must be absolute: unix:/path")
	}
	t.Unix = path.Clean(s)
	switch {
	case t.Unix == "/", strings.HasSuffix(s, "/"), strings.ContainsRune(s, 0):
		return errors.New("not the path of a socket")
	case len(t.Unix) > maxUnixPath:
		return fmt.Errorf("the path of a socket has at most %d octets", maxUnixPath)
	}
	return nil
}

// String is t as [ParseTarget] reads it.
func (t Target) String() string {
	hostPort := net.JoinHostPort(t.Host, strconv.Itoa(int(t.Port)))
	switch {
	case t.Unix != "" && t.LMTP:
		return "lmtp+unix:" + t.Unix
	case t.Unix != "":
		return "unix:" + t.Unix
	case t.LMTP:
		return "lmtp://" + hostPort
	case t.Implicit:
		return "smtps://" + hostPort
	}
	return hostPort
}
