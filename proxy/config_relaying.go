package proxy

import (
	"net/netip"
	"slices"
	"strings"
)

// relaying checks what is passed to the backend besides mail.
func (v *configCheck) relaying(path string, d *InboundConfig) {
	for i, verb := range d.RelayCommands {
		if verb != "" && slices.Contains(d.RelayCommands[:i], verb) {
			v.wrong(indexed(path+".relay_commands", i), "%s is there twice", quoted(verb))
		}
	}
	if len(d.RelayCommands) > 0 && d.Backend.LMTP {
		v.wrong(path+".relay_commands", "has no use with a backend that speaks LMTP")
	}
	if !d.RelayAuth {
		return
	}
	if d.TLSCert == "" && !v.blamed(path+".tls_cert") {
		v.missing(path+".relay_auth", "needs tls_cert and tls_key: passwords are taken inside TLS alone")
	}
	switch {
	case d.Backend.LMTP:
		v.wrong(path+".relay_auth", "has no use with a backend that speaks LMTP")
	case !d.private() && !v.blamed(path+".backend") && !v.blamed(path+".backend_tls"):
		v.wrong(path+".relay_auth", `would send passwords to %s in clear, or perhaps so (backend_tls = %s); allowed with: `+
			`backend_tls = "encrypt" or "verify", or a backend on this machine ("127.0.0.1:…", "[::1]:…", "unix:…")`,
			quoted(d.Backend.String()), quoted(d.BackendTLS))
	}
}

// private tells whether nobody can listen between us and the backend. Of names
// "localhost" alone is sure to be this machine
// (https://www.rfc-editor.org/rfc/rfc6761#section-6.3); where it is not, every
// login is refused.
func (c *InboundConfig) private() bool {
	b := c.Backend
	if b.Path != "" || c.BackendTLS == "encrypt" || c.BackendTLS == "verify" {
		return true
	}
	addr, err := netip.ParseAddr(b.Host)
	return err == nil && addr.IsLoopback() || strings.EqualFold(b.Host, "localhost")
}
