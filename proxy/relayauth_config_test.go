package proxy

import (
	"crypto/tls"
	"net"
	"net/netip"
	"strings"
	"testing"
	"testing/synctest"

	"go.uber.org/zap/zapcore"

	"slipstream/smtpwire"
)

func TestConfigRelayAuth(t *testing.T) {
	const door = "hostname = \"mx.example.org\"\n[[inbound]]\nlisten = [\"127.0.0.1:2525\"]\n"
	cert := newTestCert(t, "mx.example.org")
	with := "tls_cert = \"" + cert.certFile + "\"\ntls_key = \"" + cert.keyFile + "\"\n"
	clear := "would send passwords to "
	for name, tt := range map[string]struct {
		lines string
		want  string // part of the error; "": there is none
	}{
		"loopback":       {with + "backend = \"127.0.0.1:25\"\nrelay_auth = true", ""},
		"loopback, IPv6": {with + "backend = \"[::1]:25\"\nrelay_auth = true", ""},
		"localhost":      {with + "backend = \"localhost:25\"\nrelay_auth = true", ""},
		"a socket":       {with + "backend = \"unix:/run/mta\"\nrelay_auth = true", ""},
		"TLS required": {with + "backend = \"mta.example.org:25\"\nbackend_tls = \"encrypt\"\nrelay_auth = true",
			""},
		"TLS verified":       {with + "backend = \"192.0.2.7:25\"\nbackend_tls = \"verify\"\nrelay_auth = true", ""},
		"in clear":           {with + "backend = \"192.0.2.7:25\"\nrelay_auth = true", clear + `"192.0.2.7:25" in clear`},
		"perhaps in clear":   {with + "backend = \"192.0.2.7:25\"\nbackend_tls = \"may\"\nrelay_auth = true", clear},
		"a name, in clear":   {with + "backend = \"mta.example.org:25\"\nrelay_auth = true", clear},
		"another's loopback": {with + "backend = \"localhost.example.org:25\"\nrelay_auth = true", clear},
		"no certificate":     {"backend = \"127.0.0.1:25\"\nrelay_auth = true", "relay_auth: needs tls_cert and tls_key"},
		"LMTP": {with + "backend = \"lmtp://127.0.0.1:24\"\nrelay_auth = true",
			"relay_auth: has no use with a backend that speaks LMTP"},
		"commands": {"backend = \"192.0.2.7:25\"\nrelay_commands = [\"VRFY\", \"EXPN\", \"ETRN\"]", ""},
		"commands, twice": {"backend = \"192.0.2.7:25\"\nrelay_commands = [\"VRFY\", \"VRFY\"]",
			`"VRFY" is there twice`},
		"commands over LMTP": {"backend = \"lmtp://127.0.0.1:24\"\nrelay_commands = [\"VRFY\"]",
			"has no use with a backend that speaks LMTP"},
		"commands of no sort": {"backend = \"192.0.2.7:25\"\nrelay_commands = [\"TURN\"]", `"VRFY"`},
	} {
		t.Run(name, func(t *testing.T) {
			_, err := ParseConfig("test.toml", []byte(door+tt.lines+"\n"))
			switch {
			case tt.want == "" && err != nil:
				t.Errorf("%v", err)
			case tt.want != "" && (err == nil || !strings.Contains(err.Error(), tt.want)):
				t.Errorf("%v, want %q", err, tt.want)
			}
		})
	}
}

// A connTo is a connection to some address.
type connTo struct {
	net.Conn
	addr net.Addr
}

func (c connTo) RemoteAddr() net.Addr { return c.addr }

// Whatever the configuration believed: no password leaves this machine in clear.
func TestRelayAuthNeverInClear(t *testing.T) {
	tcp := func(addr string) net.Addr { return net.TCPAddrFromAddrPort(netip.MustParseAddrPort(addr)) }
	for _, tt := range []struct {
		to      net.Addr
		tls     *tls.ConnectionState
		private bool
	}{
		{tcp("127.0.0.1:25"), nil, true}, {tcp("127.3.2.1:25"), nil, true}, {tcp("[::1]:25"), nil, true},
		{tcp("[::ffff:127.0.0.1]:25"), nil, true}, {&net.UnixAddr{Name: "/run/mta"}, nil, true},
		{tcp("192.0.2.7:25"), nil, false}, {tcp("[2001:db8::7]:25"), nil, false}, {nil, nil, false},
		{tcp("192.0.2.7:25"), &tls.ConnectionState{}, true},
	} {
		p := &peer{wire: newWire(connTo{addr: tt.to}, true), tls: tt.tls,
			pipe: newPipeline(ehloOffering("AUTH PLAIN EXTERNAL"), true, false)}
		if err := p.takesLogin("PLAIN"); (err == nil) != tt.private || err != nil && !strings.Contains(err.Error(),
			"in clear") {
			t.Errorf("%v: %v", tt.to, err)
		}
		if err := p.takesLogin("EXTERNAL"); err == nil {
			t.Errorf("%v: EXTERNAL passes", tt.to)
		}
	}
}

// ehloOffering is an EHLO with such keywords.
func ehloOffering(keywords ...string) smtpwire.EHLO {
	return smtpwire.ParseEHLO(smtpwire.Reply{Code: 250, Lines: append([]string{"mx.example"}, keywords...)})
}

// The log tells the admin where nobody can log in.
func TestRelayAuthMissing(t *testing.T) {
	for _, tt := range []struct{ offers, want string }{
		{"SIZE", "offers no AUTH"},
		{"AUTH EXTERNAL GSSAPI", "tied to the connection: EXTERNAL GSSAPI"},
		{"AUTH PLAIN", ""},
	} {
		synctest.Test(t, func(t *testing.T) {
			_, _, logs := loginWorld(t, &loginBackend{offers: []string{tt.offers}})
			warned := logs.FilterLevelExact(zapcore.WarnLevel).FilterMessageSnippet("nobody can log in")
			if tt.want == "" {
				if warned.Len() != 0 {
					t.Errorf("%v", warned.All())
				}
				return
			}
			if warned.Len() != 1 || !strings.Contains(warned.All()[0].ContextMap()["why"].(string), tt.want) {
				t.Errorf("%s: %v", tt.offers, warned.All())
			}
		})
	}
}

func TestCheckRelayAuth(t *testing.T) {
	cert := newTestCert(t, "proxy.example")
	for _, tt := range []struct{ offers, want string }{
		{"SIZE", `warn backend inbound: relay_auth is set, but nobody can log in: the backend offers no AUTH on our connection…set backend_tls`},
		{"AUTH GSSAPI", "warn backend inbound: relay_auth is set, but nobody can log in: …tied to the connection: GSSAPI"},
		{"AUTH PLAIN", "ok backend inbound: 127.0.0.1:10025 answers, and offers AUTH PLAIN…"},
	} {
		w := newWorld(t)
		w.loginBackend(&loginBackend{offers: []string{tt.offers}})
		w.inbound(func(in *InboundConfig) {
			in.Backend = Endpoint{Host: "127.0.0.1", Port: 10025}
			in.TLSCert, in.TLSKey, in.RelayAuth = cert.certFile, cert.keyFile, true
		})
		lines := w.findings()
		wantFinding(t, lines, tt.want)
		if warns := strings.Contains(strings.Join(lines, "\n"), "nobody can log in"); warns != (tt.want[0] == 'w') {
			t.Errorf("%s: %q", tt.offers, lines)
		}
	}
}
