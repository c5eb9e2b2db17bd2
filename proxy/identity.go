package proxy

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"strconv"
	"strings"

	"github.com/pires/go-proxyproto"

	"slipstream/proxy/resolver"
	"slipstream/proxy/route"
	"slipstream/smtpwire"
)

// An identity is what a backend is told about the client: its address and, with
// XCLIENT, what it called itself and how it spoke.
type identity struct {
	client netip.AddrPort
	local  netip.AddrPort // where the client connected to
	helo   string
	esmtp  bool
	name   clientName
}

// A clientName is the client's host name: what its address points to, confirmed
// by the way back.
type clientName struct {
	name string
	why  nameStatus // why there is none
}

type nameStatus int

const (
	nameConfirmed nameStatus = iota
	nameUnavailable
	nameTempUnavailable
)

// xclientValue is the name in XCLIENT's words.
func (n clientName) xclientValue() string {
	switch {
	case n.why == nameTempUnavailable:
		return "[TEMPUNAVAIL]"
	case n.name == "":
		return "[UNAVAILABLE]"
	default:
		return xtext(n.name)
	}
}

// A Resolver is what the doors ask of the DNS; [resolver.Resolver] is one.
type Resolver interface {
	route.Resolver
	// LookupPTR gives the names that an address points to.
	LookupPTR(ctx context.Context, addr netip.Addr) (resolver.Result[string], error)
}

// maxNames bounds how many names of one address are confirmed.
const maxNames = 4

// confirmedName looks up the client's name as Postfix and Exim do: the name the
// address points to counts only where it points back (RFC 1912 §2.1).
func confirmedName(ctx context.Context, dns Resolver, addr netip.Addr) clientName {
	found, err := dns.LookupPTR(ctx, addr)
	if err != nil {
		return clientName{why: missing(err)}
	}
	why := nameUnavailable
	for _, name := range found.Records[:min(len(found.Records), maxNames)] {
		addrs, err := dns.Addrs(ctx, "ip", name)
		if err != nil && missing(err) == nameTempUnavailable {
			why = nameTempUnavailable
		}
		for _, a := range addrs {
			if a.Unmap() == addr.Unmap() {
				return clientName{name: strings.TrimSuffix(name, ".")}
			}
		}
	}
	return clientName{why: why}
}

func missing(err error) nameStatus {
	var dnsErr *net.DNSError
	if errors.As(err, &dnsErr) && dnsErr.IsNotFound {
		return nameUnavailable
	}
	return nameTempUnavailable
}

// maxXclient is the longest XCLIENT command that Postfix's documentation allows
// (512 octets with CRLF).
const maxXclient = 510

// xclient builds the XCLIENT arguments that the backend offers to understand.
// What would not fit is left out, the least telling first; the address never is.
func (id identity) xclient(offered string) (string, error) {
	can := make(map[string]bool)
	for _, a := range strings.Fields(offered) {
		can[strings.ToUpper(a)] = true
	}
	if !can["ADDR"] {
		return "", fmt.Errorf("the backend's XCLIENT does not take ADDR (it offers %q)", offered)
	}
	proto := "SMTP"
	if id.esmtp {
		proto = "ESMTP"
	}
	attrs := []smtpwire.Param{
		{Name: "ADDR", Value: xclientAddr(id.client.Addr())},
		{Name: "PORT", Value: strconv.Itoa(int(id.client.Port()))},
		{Name: "NAME", Value: id.name.xclientValue()},
		{Name: "PROTO", Value: proto},
		{Name: "HELO", Value: xtext(id.helo)},
		{Name: "DESTADDR", Value: xclientAddr(id.local.Addr())},
		{Name: "DESTPORT", Value: strconv.Itoa(int(id.local.Port()))},
	}
	var b strings.Builder
	for _, a := range attrs {
		if !can[a.Name] || a.Value == "" || b.Len()+len(a.Name)+len(a.Value)+2+len("XCLIENT") > maxXclient {
			continue
		}
		if b.Len() > 0 {
			b.WriteByte(' ')
		}
		b.WriteString(a.Name + "=" + a.Value)
	}
	return b.String(), nil
}

func xclientAddr(a netip.Addr) string {
	a = a.Unmap().WithZone("")
	if !a.IsValid() {
		return ""
	}
	if a.Is6() {
		return "IPV6:" + a.String()
	}
	return a.String()
}

// xtext encodes a value for an SMTP command: everything but printable ASCII
// without "+" and "=" is hex-encoded, so that nothing in it can end the value or
// the line (RFC 3461 §4).
// https://www.rfc-editor.org/rfc/rfc3461#section-4
func xtext(s string) string {
	const hexDigits = "0123456789ABCDEF"
	var b strings.Builder
	for i := range len(s) {
		c := s[i]
		if c <= ' ' || c > '~' || c == '+' || c == '=' {
			b.WriteByte('+')
			b.WriteByte(hexDigits[c>>4])
			b.WriteByte(hexDigits[c&15])
			continue
		}
		b.WriteByte(c)
	}
	return b.String()
}

// proxyHeader builds the PROXY protocol header that goes before everything else.
func (id identity) proxyHeader(version byte) ([]byte, error) {
	src, dst := id.client, id.local
	if !dst.IsValid() || dst.Addr().Unmap().Is4() != src.Addr().Unmap().Is4() {
		dst = netip.AddrPortFrom(unspecifiedLike(src.Addr()), id.local.Port())
	}
	h := proxyproto.HeaderProxyFromAddrs(version, tcpAddr(src), tcpAddr(dst))
	b, err := h.Format()
	if err != nil {
		return nil, fmt.Errorf("building the PROXY header for %v: %w", src, err)
	}
	return b, nil
}

func unspecifiedLike(a netip.Addr) netip.Addr {
	if a.Unmap().Is4() {
		return netip.IPv4Unspecified()
	}
	return netip.IPv6Unspecified()
}

func tcpAddr(a netip.AddrPort) *net.TCPAddr {
	return net.TCPAddrFromAddrPort(netip.AddrPortFrom(a.Addr().Unmap().WithZone(""), a.Port()))
}
