package main

import (
	"bytes"
	"context"
	"io"
	"net"
	"net/netip"
	"os"
	"strings"
	"testing"
	"unicode"

	"slipstream/auth"
	"slipstream/proxy"
	"slipstream/proxy/resolver"
)

func TestMessageLines(t *testing.T) {
	for _, tt := range []struct {
		raw, section, body string
		lf                 bool
	}{
		{"A: b\r\n\r\ntext\r\n", "A: b\r\n", "text\r\n", false},
		{"A: b\n\ntext\n", "A: b\r\n", "text\r\n", true},
		{"A: b\n\ntext", "A: b\r\n", "text", true},
		{"A: b\r\n\ntext\n", "A: b\r\n", "text\r\n", false},
		{"A: b\n\r\n\r\n", "A: b\r\n", "\r\n", true},
		{"A: b\n", "A: b\r\n", "", true},
		{"A: b", "A: b", "", false},
		{"\ntext\n", "", "text\r\n", true},
		{"\r\ntext", "", "text", false},
		{"\n", "", "", true},
		{"A: b\r\r\n\r\n\rx\r", "A: b\r\r\n", "\rx\r", false},
	} {
		m := newMessage([]byte(tt.raw))
		if string(m.section) != tt.section || string(m.body) != tt.body || m.lf != tt.lf || string(m.raw) != tt.raw {
			t.Errorf("%q: %q, %q, LF %v", tt.raw, m.section, m.body, m.lf)
		}
	}
}

func TestMessageLength(t *testing.T) {
	if testing.Short() {
		t.Skip("-short: 200 MiB are not read")
	}
	if _, err := readMessage(&endless{n: maxMessage}); err != nil {
		t.Error(err)
	}
	_, err := readMessage(&endless{n: maxMessage + 1})
	if err == nil || err.Error() != "the message has more than 100 MiB" {
		t.Error(err)
	}
}

// endless has n octets.
type endless struct{ n int }

func (e *endless) Read(p []byte) (int, error) {
	if e.n == 0 {
		return 0, io.EOF
	}
	n := min(len(p), e.n)
	e.n -= n
	return n, nil
}

// hostileDNS publishes the same at every name.
type hostileDNS []string

func (h hostileDNS) LookupTXT(_ context.Context, name string) (resolver.Result[string], error) {
	return resolver.Result[string]{Records: h, Name: "alias\x1b[31m.example"}, nil
}

func (h hostileDNS) LookupMX(_ context.Context, name string) (resolver.Result[resolver.MX], error) {
	return resolver.Result[resolver.MX]{Records: []resolver.MX{{Host: "\x1b]0;x\x07\r\n"}}}, nil
}

func (h hostileDNS) LookupA(_ context.Context, name string) (resolver.Result[netip.Addr], error) {
	return resolver.Result[netip.Addr]{}, &net.DNSError{Err: "\x1b[31mbroken\r\n\u202e", IsTemporary: true}
}

func (h hostileDNS) LookupAAAA(_ context.Context, name string) (resolver.Result[netip.Addr], error) {
	return resolver.Result[netip.Addr]{}, &net.DNSError{Err: "no", IsNotFound: true}
}

func (h hostileDNS) LookupPTR(context.Context, netip.Addr) (resolver.Result[string], error) {
	return resolver.Result[string]{Records: []string{"\x1b[31m.example"}}, nil
}

// explained is all that verify prints of a message.
func explained(t testing.TB, raw []byte, records ...string) string {
	t.Helper()
	m := newMessage(raw)
	trace := &dnsTrace{dns: hostileDNS(records), patient: t.Context()}
	c := &auth.Checker{ID: "mx.example.org", Resolver: proxy.AuthResolver(trace)}
	report := examine(t.Context(), c, auth.Envelope{
		Client: netip.MustParseAddr("192.0.2.1"), Helo: "a\x1b[31m.example", MailFrom: "\x1b]0;x\x07@a.example",
	}, m)
	var out strings.Builder
	out.Write(m.asLines(report.Results.Field()))
	explain(&out, m, report, trace, auth.TreeWalk)
	return out.String()
}

// Whatever a message and the DNS say, each line is one of ours and does nothing to a terminal.
func FuzzExplain(f *testing.F) {
	signed, err := os.ReadFile("../../auth/arc/testdata/rfc8463.eml")
	if err != nil {
		f.Fatal(err)
	}
	f.Add(signed, "v=DMARC1; p=reject; \x1b[31m")
	f.Add(bytes.ReplaceAll(signed, []byte("brisbane"), []byte("\x1b[31m")),
		"k=ed25519; p=11qYAYKxCrfVS/7TyWQHOg7hcvPapiMlrwIaaPcHURo=")
	f.Add([]byte("From: a@\x1b.example, b@b.example\n\n\x9b31m"), "v=DMARC1; p=none; psd=y\r\nfake: line")
	f.Add([]byte("DKIM-Signature: v=1; l=3; t=1; x=99999999999; a=\x07\nFrom: a@a.example\nARC-Seal: i=1; \x1b\n"),
		"v=spf1 a mx ptr -all\u202e")
	f.Add([]byte("ARC-Seal: i=1; a=rsa-sha256; cv=none; d=a.example; s=s; b=AAAA\n"+
		"ARC-Message-Signature: i=1; a=rsa-sha256; d=a.example; s=s; h=from; bh=AAAA; b=AAAA\n"+
		"ARC-Authentication-Results: i=1; \x1b[31m\u202ex\nFrom: a@a.example\n\n"), "v=DKIM1; p=")
	f.Fuzz(func(t *testing.T, raw []byte, record string) {
		text := explained(t, raw, record)
		_, text, ok := strings.Cut(strings.ReplaceAll(text, "\r\n", "\n"), "\n\nMessage\n")
		if !ok {
			t.Fatal("nothing is explained")
		}
		for line := range strings.Lines(text) {
			line = strings.TrimSuffix(line, "\n")
			if strings.ContainsFunc(line, func(r rune) bool { return !unicode.IsPrint(r) }) {
				t.Fatalf("%q has what a terminal obeys", line)
			}
			if len(line) > maxShown+100 {
				t.Fatalf("a line of %d octets", len(line))
			}
		}
	})
}
