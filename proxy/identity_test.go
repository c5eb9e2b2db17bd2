package proxy

import (
	"bufio"
	"bytes"
	"context"
	"net"
	"net/netip"
	"strings"
	"testing"

	"github.com/pires/go-proxyproto"

	"slipstream/proxy/resolver"
)

func testIdentity() identity {
	return identity{
		client: netip.MustParseAddrPort("198.51.100.7:40000"),
		local:  netip.MustParseAddrPort("192.0.2.25:25"),
		helo:   "client.example", esmtp: true,
		name: clientName{name: "mail.client.example"},
	}
}

const allXclient = "NAME ADDR PORT PROTO HELO LOGIN DESTADDR DESTPORT REVERSE_NAME"

func TestXclient(t *testing.T) {
	v6 := testIdentity()
	v6.client = netip.MustParseAddrPort("[2001:db8::7]:40000")
	evil := testIdentity()
	evil.helo = "x\r\nRCPT TO:<a@b> =+"
	evil.name = clientName{name: "a\r\nQUIT.example"}
	long := testIdentity()
	long.helo, long.name = strings.Repeat("\xff", 255), clientName{name: strings.Repeat("n", 255)}
	unnamed := testIdentity()
	unnamed.name = clientName{why: nameTempUnavailable}
	tests := []struct {
		name    string
		id      identity
		offered string
		want    string
	}{
		{"all of it", testIdentity(), allXclient,
			"ADDR=198.51.100.7 PORT=40000 NAME=mail.client.example PROTO=ESMTP HELO=client.example DESTADDR=192.0.2.25 DESTPORT=25"},
		{"what the backend takes", testIdentity(), "name addr",
			"ADDR=198.51.100.7 NAME=mail.client.example"},
		{"IPv6", v6, "ADDR", "ADDR=IPV6:2001:db8::7"},
		{"nothing can end the value or the line", evil, "ADDR NAME HELO",
			"ADDR=198.51.100.7 NAME=a+0D+0AQUIT.example HELO=x+0D+0ARCPT+20TO:<a@b>+20+3D+2B"},
		{"what does not fit is left out", long, "ADDR NAME HELO PROTO",
			"ADDR=198.51.100.7 NAME=" + strings.Repeat("n", 255) + " PROTO=ESMTP"},
		{"name not known yet", unnamed, "ADDR NAME", "ADDR=198.51.100.7 NAME=[TEMPUNAVAIL]"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			got, err := tt.id.xclient(tt.offered)
			if err != nil {
				t.Fatal(err)
			}
			if got != tt.want {
				t.Errorf("xclient = %q\nwant      %q", got, tt.want)
			}
			if len("XCLIENT "+got) > maxXclient {
				t.Errorf("%d octets, more than %d", len(got), maxXclient)
			}
		})
	}
	if _, err := testIdentity().xclient("NAME HELO"); err == nil {
		t.Error("a backend that takes no ADDR was accepted")
	}
}

func TestProxyHeader(t *testing.T) {
	v6client := testIdentity()
	v6client.client = netip.MustParseAddrPort("[2001:db8::7]:40000")
	for _, id := range []identity{testIdentity(), v6client} {
		for _, version := range []byte{1, 2} {
			b, err := id.proxyHeader(version)
			if err != nil {
				t.Fatal(err)
			}
			h, err := proxyproto.Read(bufio.NewReader(bytes.NewReader(b)))
			if err != nil {
				t.Fatalf("version %d: %v", version, err)
			}
			if got := addrPort(h.SourceAddr); got != id.client {
				t.Errorf("version %d: source %v, want %v", version, got, id.client)
			}
		}
	}
}

type mapDNS struct {
	ptr   map[string][]string
	addrs map[string][]netip.Addr
	err   error
}

func (m mapDNS) LookupPTR(_ context.Context, addr netip.Addr) (resolver.Result[string], error) {
	names, ok := m.ptr[addr.String()]
	switch {
	case m.err != nil:
		return resolver.Result[string]{}, m.err
	case !ok:
		return resolver.Result[string]{}, &net.DNSError{Err: "no such host", IsNotFound: true}
	}
	return resolver.Result[string]{Records: names}, nil
}

func (m mapDNS) Addrs(_ context.Context, _, host string) ([]netip.Addr, error) {
	if a, ok := m.addrs[host]; ok {
		return a, nil
	}
	return nil, &net.DNSError{Err: "no such host", Name: host, IsNotFound: true}
}

func (m mapDNS) MX(_ context.Context, domain string) ([]*net.MX, error) {
	return nil, &net.DNSError{Err: "no such host", Name: domain, IsNotFound: true}
}

func TestConfirmedName(t *testing.T) {
	addr := netip.MustParseAddr("198.51.100.7")
	dns := mapDNS{
		ptr: map[string][]string{
			"198.51.100.7": {"forged.example", "mail.example."},
			"198.51.100.8": {"forged.example"},
		},
		addrs: map[string][]netip.Addr{
			"mail.example.":  {netip.MustParseAddr("192.0.2.1"), addr},
			"forged.example": {netip.MustParseAddr("192.0.2.1")},
		},
	}
	tests := []struct {
		dns  mapDNS
		addr string
		want string
	}{
		{dns, "198.51.100.7", "mail.example"},
		{dns, "198.51.100.8", "[UNAVAILABLE]"},
		{dns, "198.51.100.9", "[UNAVAILABLE]"},
		{mapDNS{err: &net.DNSError{Err: "timeout", IsTimeout: true}}, "198.51.100.7", "[TEMPUNAVAIL]"},
	}
	for _, tt := range tests {
		got := confirmedName(t.Context(), tt.dns, netip.MustParseAddr(tt.addr)).xclientValue()
		if got != tt.want {
			t.Errorf("%s: %s, want %s", tt.addr, got, tt.want)
		}
	}
}
