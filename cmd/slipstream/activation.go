package main

import (
	"context"
	"fmt"
	"net"
	"net/netip"
	"os"
	"slices"
	"strings"
	"syscall"

	"github.com/coreos/go-systemd/v22/activation"

	"slipstream/proxy"
)

// The sockets that systemd has opened for us, by a socket unit. They are used for the addresses in listen that they are
// bound to, and stay open as long as the process runs: a reload that drops a door and brings it back later finds them
// again, without the privilege to open a low port.
// https://www.freedesktop.org/software/systemd/man/latest/sd_listen_fds.html
type inherited []inheritedSocket

type inheritedSocket struct {
	file *os.File
	addr netip.AddrPort // invalid: no socket that listens for TCP
	what string         // for people
}

// inheritSockets takes what systemd passed.
func inheritSockets() inherited { return describeSockets(activation.Files(true)) }

// describeSockets finds out where sockets listen.
func describeSockets(files []*os.File) (in inherited) {
	for _, f := range files {
		s := inheritedSocket{file: f, what: f.Name() + ", which does not listen for TCP (Accept=yes in its unit?)"}
		if ln, err := net.FileListener(f); err == nil {
			s.what = ln.Addr().Network() + " " + ln.Addr().String()
			if tcp, ok := ln.Addr().(*net.TCPAddr); ok && listens(f) {
				s.addr = anyAddr(tcp.AddrPort())
				s.what = tcp.String()
			}
			_ = ln.Close() // a duplicate
		}
		in = append(in, s)
	}
	return in
}

// listens tells whether a socket takes connections; one of Accept=yes is a connection itself.
func listens(f *os.File) bool {
	raw, err := f.SyscallConn()
	if err != nil {
		return false
	}
	is := 0
	failed := raw.Control(func(fd uintptr) {
		is, err = syscall.GetsockoptInt(int(fd), syscall.SOL_SOCKET, syscall.SO_ACCEPTCONN)
	})
	return failed == nil && err == nil && is != 0
}

// anyAddr makes one of the spellings of "any address".
func anyAddr(a netip.AddrPort) netip.AddrPort {
	addr := a.Addr().Unmap()
	if addr.IsUnspecified() {
		addr = netip.IPv6Unspecified()
	}
	return netip.AddrPortFrom(addr, a.Port())
}

// find gives the sockets that are bound to an address of listen.
func (in inherited) find(listen string) inherited {
	if strings.HasPrefix(listen, ":") {
		listen = "[::]" + listen
	}
	want, err := netip.ParseAddrPort(listen)
	if err != nil {
		return nil
	}
	return slices.DeleteFunc(slices.Clone(in), func(s inheritedSocket) bool {
		return !s.addr.IsValid() || s.addr != anyAddr(want)
	})
}

// check wants every socket to be of use: who wrote a unit for an address that no door has meant something else.
func (in inherited) check(cfg *proxy.Config) error {
	listen := doorAddrs(cfg)
	used := make(map[*os.File]bool)
	for _, addr := range listen {
		found := in.find(addr)
		if len(found) > 1 {
			return fmt.Errorf("systemd passed %d sockets for %q in listen (%s), and a door has one: "+
				"leave one ListenStream of them in the socket unit, with BindIPv6Only=both", len(found), addr, found)
		}
		for _, s := range found {
			used[s.file] = true
		}
	}
	odd := slices.DeleteFunc(slices.Clone(in), func(s inheritedSocket) bool { return used[s.file] })
	if len(odd) == 0 {
		return nil
	}
	return fmt.Errorf("systemd passed sockets that no door listens on: %s; "+
		"it passed %s, and listen in the configuration has %s: make ListenStream in the socket unit and listen the same",
		odd, in, strings.Join(listen, ", "))
}

// doorAddrs are all addresses that doors listen on.
func doorAddrs(cfg *proxy.Config) (all []string) {
	for _, d := range cfg.Inbound {
		all = append(append(all, d.Listen...), d.ListenTLS...)
	}
	for _, d := range cfg.Outbound {
		all = append(all, d.Listen...)
	}
	return all
}

// String lists the sockets.
func (in inherited) String() string {
	var words []string
	for _, s := range in {
		words = append(words, s.what)
	}
	return strings.Join(words, ", ")
}

// listen opens an address for a door: by a duplicate of the socket that is there, which the door may close, or anew.
func (in inherited) listen(ctx context.Context, addr string) (net.Listener, error) {
	if found := in.find(addr); len(found) > 0 {
		return net.FileListener(found[0].file)
	}
	var lc net.ListenConfig
	return lc.Listen(ctx, "tcp", addr)
}

// option is what to wire into the proxy; nil where there is nothing of systemd's.
func (in inherited) option() func(context.Context, string) (net.Listener, error) {
	if len(in) == 0 {
		return nil
	}
	return in.listen
}

// Close lets go of them at the end.
func (in inherited) Close() {
	for _, s := range in {
		_ = s.file.Close() // nothing is written there
	}
}
