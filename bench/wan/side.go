package wan

import (
	"context"
	"fmt"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
)

// A Side is one end of a link: a network of its own.
type Side struct {
	addr, addr6 netip.Addr
	namespace   *namespace
}

// Addr returns the side's IPv4 address on the link.
func (s *Side) Addr() netip.Addr { return s.addr }

// Addr6 returns the side's IPv6 address on the link; the zero Addr on a machine without IPv6.
func (s *Side) Addr6() netip.Addr { return s.addr6 }

// Do calls f on a thread inside the namespace and returns its error. Sockets that f itself makes, and processes that it
// starts, live there; goroutines that it starts do not. A dialer with a Control function belongs in here.
//
// A process that is started with Pdeathsig ends with the thread: that is soon if f, or whatever runs on the thread later,
// leaves it in a state from which it cannot be taken back. See Link too.
func (s *Side) Do(f func() error) error { return s.namespace.do(f) }

// Listen makes a listener at this side, at its address on the link, its loopback or, without an address, both.
// The address must be numeric, since a name would be resolved outside.
func (s *Side) Listen(ctx context.Context, network, address string) (net.Listener, error) {
	if err := numeric(address); err != nil {
		return nil, err
	}
	var listener net.Listener
	err := s.Do(func() (err error) {
		var config net.ListenConfig
		listener, err = config.Listen(ctx, network, address)
		return err
	})
	return listener, err
}

// Dial connects from this side, for network "tcp", "tcp4" or "tcp6". local is the address to come from; the zero Addr
// leaves it to the kernel. The address must be numeric.
func (s *Side) Dial(ctx context.Context, network string, local netip.Addr, address string) (net.Conn, error) {
	if err := numeric(address); err != nil {
		return nil, err
	}
	var dialer net.Dialer
	if local.IsValid() {
		dialer.LocalAddr = net.TCPAddrFromAddrPort(netip.AddrPortFrom(local, 0))
	}
	var conn net.Conn
	err := s.Do(func() (err error) {
		conn, err = dialer.DialContext(ctx, network, address)
		return err
	})
	return conn, err
}

// Sysctl reads a setting of this side's network: "net.ipv4.tcp_fastopen".
func (s *Side) Sysctl(name string) (string, error) {
	path, err := sysctlPath(name)
	if err != nil {
		return "", err
	}
	var value []byte
	err = s.Do(func() (err error) {
		value, err = os.ReadFile(path)
		return err
	})
	return strings.TrimSpace(string(value)), err
}

// numeric complains about an address that is not one in numbers.
func numeric(address string) error {
	host, _, err := net.SplitHostPort(address)
	if err != nil {
		return err
	}
	if host != "" {
		if _, err := netip.ParseAddr(host); err != nil {
			return fmt.Errorf("wan: %q is not a numeric address", address)
		}
	}
	return nil
}

// sysctlPath is the file of a setting. Only what belongs to a network namespace is let through: writing any other would
// change the machine.
func sysctlPath(name string) (string, error) {
	odd := func(r rune) bool {
		return !(r >= 'a' && r <= 'z' || r >= 'A' && r <= 'Z' || r >= '0' && r <= '9' || strings.ContainsRune("._-", r))
	}
	if !strings.HasPrefix(name, "net.") || strings.ContainsFunc(name, odd) || strings.Contains(name+".", "..") {
		return "", fmt.Errorf("wan: %q is not the name of a setting of a network, such as net.ipv4.tcp_fastopen", name)
	}
	return filepath.Join("/proc/sys", strings.ReplaceAll(name, ".", "/")), nil
}
