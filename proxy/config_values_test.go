package proxy

import (
	"net/netip"
	"testing"
)

func TestSize(t *testing.T) {
	for _, tt := range []struct {
		text string
		want Size
	}{
		{"0", 0}, {"17", 17}, {"17B", 17}, {"256KB", 256_000}, {"25MB", 25_000_000}, {"25 MB", 25_000_000}, {"2GB", 2_000_000_000},
		{"1TB", 1_000_000_000_000}, {"1KiB", 1024}, {"1MiB", 1 << 20}, {"1GiB", 1 << 30}, {"1TiB", 1 << 40}, {"9223372036854775807", 1<<63 - 1},
	} {
		var got Size
		if err := got.UnmarshalText([]byte(tt.text)); err != nil || got != tt.want {
			t.Errorf("%q: %d, %v; want %d", tt.text, got, err, tt.want)
		}
		var again Size
		if err := again.UnmarshalText([]byte(got.String())); err != nil || again != got {
			t.Errorf("%d prints as %q, which reads as %d, %v", got, got, again, err)
		}
	}
	for _, text := range []string{"", "MB", "1.5MB", "-1", "+1", "1mb", "1 M B", "1_000", "9223372036854775808", "9223372036854775TB", "1e3", "٣"} {
		var got Size
		if err := got.UnmarshalText([]byte(text)); err == nil {
			t.Errorf("%q: no error, %d", text, got)
		}
	}
}

func TestEndpoint(t *testing.T) {
	for _, tt := range []struct {
		text             string
		want             Endpoint
		network, address string
	}{
		{"127.0.0.1:25", Endpoint{Host: "127.0.0.1", Port: 25}, "tcp", "127.0.0.1:25"},
		{"[::1]:25", Endpoint{Host: "::1", Port: 25}, "tcp", "[::1]:25"},
		{"[fe80::1%eth0]:25", Endpoint{Host: "fe80::1%eth0", Port: 25}, "tcp", "[fe80::1%eth0]:25"},
		{"mx.example.org:25", Endpoint{Host: "mx.example.org", Port: 25}, "tcp", "mx.example.org:25"},
		{"smtps://mx.example.org:465", Endpoint{Host: "mx.example.org", Port: 465, TLS: true}, "tcp", "mx.example.org:465"},
		{"lmtp://[::1]:24", Endpoint{Host: "::1", Port: 24, LMTP: true}, "tcp", "[::1]:24"},
		{"unix:/run/mta", Endpoint{Path: "/run/mta"}, "unix", "/run/mta"},
		{"lmtp+unix:/run/mta", Endpoint{Path: "/run/mta", LMTP: true}, "unix", "/run/mta"},
	} {
		var got Endpoint
		if err := got.UnmarshalText([]byte(tt.text)); err != nil || got != tt.want {
			t.Errorf("%q: %+v, %v; want %+v", tt.text, got, err, tt.want)
		}
		if got.Network() != tt.network || got.Address() != tt.address || got.String() != tt.text {
			t.Errorf("%q: %q %q %q", tt.text, got.Network(), got.Address(), got)
		}
	}
	for _, text := range []string{
		"host", "host:", ":25", "host:0", "host:65536", "host:+5", "host:smtp", "::1:25:", "[::1]", "unix:", "lmtp+unix:", "smtp://a:25", "SMTPS://a:1",
		"user@host:25", "host:25/", "lmtp:/a:25", "ho st:25", "-a:25", "a..b:25", "1.2.3.4.5:25", "[a.b.c", "ä.example:25",
	} {
		var got Endpoint
		if err := got.UnmarshalText([]byte(text)); err == nil {
			t.Errorf("%q: no error, %+v", text, got)
		}
	}
}

func TestPrefixesContains(t *testing.T) {
	p := Prefixes{netip.MustParsePrefix("192.0.2.0/24"), netip.MustParsePrefix("fe80::/10")}
	for addr, want := range map[string]bool{
		"192.0.2.7": true, "::ffff:192.0.2.7": true, "192.0.3.7": false, "fe80::1": true, "fe80::1%eth0": true, "2001:db8::1": false, "::192.0.2.7": false,
	} {
		if got := p.Contains(netip.MustParseAddr(addr)); got != want {
			t.Errorf("%s: %v", addr, got)
		}
	}
	if Prefixes(nil).Contains(netip.MustParseAddr("::1")) || p.Contains(netip.Addr{}) {
		t.Error("nobody and nothing match")
	}
}
