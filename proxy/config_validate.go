package proxy

import (
	"net/netip"
	"slices"
	"strings"
)

// A configCheck looks at what a key alone cannot show: values that other values
// or other doors rule out, and strings that are more than text.
type configCheck struct {
	*configDecoder
	config *Config

	listening []configListen
	names     map[string]string // name of a door → its path
}

type configListen struct {
	addr netip.AddrPort
	path string
}

// wrong notes what is wrong with the key at path.
func (v *configCheck) wrong(path, format string, args ...any) {
	v.problem(v.locate(path), path, format, args...)
}

// missing is wrong for what is not there. After a syntax error it may be there
// and could not be read.
func (v *configCheck) missing(path, format string, args ...any) {
	if !v.broken {
		v.wrong(path, format, args...)
	}
}

// blamed reports whether something was found wrong with the key at path, so
// that its value is not what the file says.
func (v *configCheck) blamed(path string) bool {
	return v.blame[path]
}

// hostname settles the host name, which system tells if the file does not.
func (v *configCheck) hostname(system func() (string, error)) {
	const path = "hostname"
	c := v.config
	if v.blamed(path) {
		return
	}
	whose := ""
	if c.Hostname == "" {
		if v.broken {
			return
		}
		name, err := system()
		if err != nil {
			v.wrong(path, "is not set and the system does not tell its name (%v)", err)
			return
		}
		c.Hostname, whose = name, " (this system's name)"
	}
	const allowed = `a host name in ASCII, such as "mx.example.org"`
	if !validHost(c.Hostname, false) {
		v.wrong(path, "%s%s is not a host name; allowed: %s", quoted(c.Hostname), whose, allowed)
		return
	}
	i := slices.IndexFunc(c.Outbound, func(d OutboundConfig) bool { return d.Route != "" })
	if i >= 0 && !strings.Contains(c.Hostname, ".") {
		// https://www.rfc-editor.org/rfc/rfc5321#section-2.3.5: a domain in EHLO
		// is fully qualified. Receivers that insist answer 5xx, and the MTA bounces.
		v.wrong(path, "%s%s has no dot, and an outbound door with route = %s needs a fully qualified name; allowed: %s",
			quoted(c.Hostname), whose, quoted(c.Outbound[i].Route), allowed)
	}
}

// sections checks what is not a door.
func (v *configCheck) sections() {
	v.reports()
	v.tap()
	const path = "admin.listen"
	a := v.config.Admin
	if a.Listen == "" {
		return
	}
	if p, ok := strings.CutPrefix(a.Listen, "unix:"); ok {
		v.socket(path, p)
		return
	}
	addr, ok := v.listen(path, a.Listen)
	if ok && !addr.Addr().IsLoopback() && !a.AllowRemote {
		v.wrong(path, `%s can be reached from other machines; allowed: a loopback address, "unix:/path", or any with allow_remote = true`, quoted(a.Listen))
	}
}

// doors checks all doors, and that there is one.
func (v *configCheck) doors() {
	c := v.config
	if len(c.Inbound)+len(c.Outbound) == 0 && !v.blamed("inbound") && !v.blamed("outbound") {
		v.missing("", "no door; add [[inbound]] or [[outbound]]")
	}
	v.names = make(map[string]string)
	for i := range c.Inbound {
		v.inbound(indexed("inbound", i), &c.Inbound[i])
	}
	for i := range c.Outbound {
		v.outbound(indexed("outbound", i), &c.Outbound[i])
	}
	// Only now are all addresses known that are our own.
	for i, d := range c.Inbound {
		v.notOurselves(indexed("inbound", i)+".backend", d.Backend)
	}
	for i, d := range c.Outbound {
		v.notOurselves(indexed("outbound", i)+".relay", d.Relay)
	}
}

func (v *configCheck) inbound(path string, d *InboundConfig) {
	v.name(path+".name", d.Name)
	v.listens(path+".listen", d.Listen)
	v.listens(path+".listen_tls", d.ListenTLS)
	if len(d.Listen)+len(d.ListenTLS) == 0 {
		v.wrong(path+".listen", `is empty, and so is listen_tls; allowed: one address or more, such as [":25"]`)
	}
	v.certificate(path, d.TLSCert, d.TLSKey)
	if len(d.ListenTLS) > 0 && d.TLSCert == "" && d.TLSKey == "" {
		v.missing(path+".listen_tls", "needs tls_cert and tls_key")
	}
	if len(d.Allow) == 0 && !v.blamed(path+".allow") {
		v.wrong(path+".allow", `is empty, so nobody could connect; allowed: one network or more, ["0.0.0.0/0", "::/0"] for everyone`)
	}
	v.backend(path, d)
	v.clientAddress(path, d)
	v.relaying(path, d)
	v.auth(path+".auth", &d.Auth)
	if !validMailbox(d.RelayProbeTo) {
		v.wrong(path+".relay_probe_to", `%s is not an address; allowed: one in ASCII that the backend must refuse, such as "relay-probe@example.com"`, quoted(d.RelayProbeTo))
	}
}

func (v *configCheck) backend(path string, d *InboundConfig) {
	b := d.Backend
	switch {
	case b.IsZero():
		v.wrong(path+".backend", `is empty; allowed: the MTA's address, such as "127.0.0.1:10025"`)
	case b.Path != "":
		v.socket(path+".backend", b.Path)
		if d.BackendTLS != "none" {
			v.wrong(path+".backend_tls", `%s makes no sense on a Unix socket; allowed: "none"`, quoted(d.BackendTLS))
		}
	}
	if name := d.BackendTLSName; name != "" {
		if _, err := netip.ParseAddr(name); err != nil && !validHost(name, true) {
			v.wrong(path+".backend_tls_name", "%s is not a name that a certificate can have; allowed: a host name or an IP address", quoted(name))
		}
		if d.BackendTLS == "none" && !v.blamed(path+".backend_tls") {
			v.missing(path+".backend_tls_name", `has no use with backend_tls = "none"; allowed with: "may", "encrypt", "verify"`)
		}
	}
	if d.BackendCAFile != "" && d.BackendTLS != "verify" && !v.blamed(path+".backend_tls") {
		v.missing(path+".backend_ca_file", `has no use with backend_tls = %s, which believes any certificate; allowed with: "verify"`, quoted(d.BackendTLS))
	}
}

func (v *configCheck) outbound(path string, d *OutboundConfig) {
	v.name(path+".name", d.Name)
	v.listens(path+".listen", d.Listen)
	if len(d.Listen) == 0 {
		v.wrong(path+".listen", `is empty; allowed: one address or more, such as ["127.0.0.1:10525"]`)
	}
	v.certificate(path, d.TLSCert, d.TLSKey)
	v.relayers(path+".allow", d.Allow)
	v.route(path, d)
	v.intercept(path, d)
	v.split(path, d)
	if d.TLSCAFile != "" && d.TLS != "verify" && !v.blamed(path+".tls") {
		v.missing(path+".tls_ca_file", `has no use with tls = %s, which believes any certificate; allowed with: "verify"`, quoted(d.TLS))
	}
	v.offer(path+".offer", d.Offer)
	v.sources(path+".source_address", d)
}

// relayers checks who may send to anywhere.
func (v *configCheck) relayers(path string, allow Prefixes) {
	if len(allow) == 0 && !v.blamed(path) {
		v.wrong(path, `is empty, so nobody could connect; allowed: the networks of the MTA, such as ["127.0.0.0/8", "::1/128"]`)
	}
	for i, p := range allow {
		// 10.0.0.0/8 and fc00::/7 are the widest that can be somebody's own:
		// https://www.rfc-editor.org/rfc/rfc1918#section-3 and
		// https://www.rfc-editor.org/rfc/rfc4193#section-3.1. What is wider, or two
		// halves of everything, is the world.
		if p.IsValid() && (p.Addr().Is4() && p.Bits() < 8 || p.Addr().Is6() && p.Bits() < 7) {
			v.wrong(indexed(path, i), `"%s" would make this an open relay; allowed: the networks of the MTA, at most an IPv4 /8 or an IPv6 /7`, p)
		}
	}
}

func (v *configCheck) route(path string, d *OutboundConfig) {
	if d.Relay.IsZero() {
		return
	}
	if d.Route != "" {
		v.wrong(path+".relay", `stands beside route = %s; allowed: one of the two`, quoted(d.Route))
	}
	for _, key := range []string{"mx_port", "offer", "allow_private_destinations"} {
		if _, set := v.at[path+"."+key]; set {
			v.wrong(path+"."+key, `has no use with a relay; allowed with: route = "mx"`)
		}
	}
	if d.Relay.TLS && d.TLS == "none" {
		v.wrong(path+".tls", `"none" contradicts the relay's smtps://; allowed: "encrypt", "verify"`)
	}
}

func (v *configCheck) offer(path string, offer []string) {
	for i, keyword := range offer {
		if slices.Contains(offer[:i], keyword) && keyword != "" {
			v.wrong(indexed(path, i), "%s is there twice", quoted(keyword))
		}
	}
	if i := slices.Index(offer, "SMTPUTF8"); i >= 0 && !slices.Contains(offer, "8BITMIME") {
		// https://www.rfc-editor.org/rfc/rfc6531#section-3.1
		v.missing(indexed(path, i), `"SMTPUTF8" cannot be offered without "8BITMIME"; allowed: both, or "8BITMIME", or neither`)
	}
}

func (v *configCheck) sources(path string, d *OutboundConfig) {
	for i, a := range d.SourceAddress {
		at := indexed(path, i)
		switch {
		case !a.IsValid():
			// said when it was read
		case a.IsUnspecified() || a.IsMulticast():
			v.wrong(at, "%s is no address of one machine; allowed: a local IPv4 or IPv6 address", a)
		case slices.ContainsFunc(d.SourceAddress[:i], func(b netip.Addr) bool { return b.IsValid() && a.Is4() == b.Is4() }):
			v.wrong(at, "%s is the second of its family; allowed: one IPv4 and one IPv6 address", a)
		case d.AddressFamily == "ipv4" && a.Is6() || d.AddressFamily == "ipv6" && a.Is4():
			v.wrong(at, `%s cannot be used with address_family = %s`, a, quoted(d.AddressFamily))
		}
	}
}

// name checks a door's name, which becomes the value of a metric label and a
// word in the log.
func (v *configCheck) name(path, name string) {
	if len(name) > 32 || strings.Trim(name, "abcdefghijklmnopqrstuvwxyz0123456789-") != "" {
		v.wrong(path, "%s is not a name for a door; allowed: 1 to 32 of a-z, 0-9 and \"-\"", quoted(name))
		return
	}
	door := strings.TrimSuffix(path, ".name")
	if other, taken := v.names[name]; taken {
		v.wrong(path, "%s is also the name of %s; allowed: a name of its own", quoted(name), other)
		return
	}
	v.names[name] = door
}

func (v *configCheck) listens(path string, addrs []string) {
	for i, a := range addrs {
		if at := indexed(path, i); !v.blamed(at) {
			v.listen(at, a)
		}
	}
}

// listen checks one address to listen on, and that no other one is in its way.
func (v *configCheck) listen(path, s string) (netip.AddrPort, bool) {
	addr, err := parseListen(s)
	if err != nil {
		if !v.blamed(path) {
			v.wrong(path, "%v", err)
		}
		return addr, false
	}
	for _, l := range v.listening {
		same := l.addr.Addr() == addr.Addr() || l.addr.Addr().IsUnspecified() || addr.Addr().IsUnspecified()
		if same && l.addr.Port() == addr.Port() && addr.Port() != 0 {
			v.wrong(path, "%s is taken by %s; allowed: an address of its own", quoted(s), l.path)
			return addr, true
		}
	}
	v.listening = append(v.listening, configListen{addr, path})
	return addr, true
}

// notOurselves finds an endpoint that is one of our own doors.
func (v *configCheck) notOurselves(path string, e Endpoint) {
	a, err := netip.ParseAddr(e.Host)
	if e.Host == "localhost" {
		a, err = netip.AddrFrom4([4]byte{127, 0, 0, 1}), nil
	}
	if err != nil {
		return
	}
	a = a.Unmap()
	for _, l := range v.listening {
		here := l.addr.Addr() == a || l.addr.Addr().IsUnspecified() && a.IsLoopback() || a.IsUnspecified()
		if here && l.addr.Port() == e.Port {
			v.wrong(path, "%s is our own %s, so mail would go in circles; allowed: another host or port", quoted(e.String()), l.path)
			return
		}
	}
}

// certificate checks that a certificate has a key and a key its certificate.
func (v *configCheck) certificate(path, cert, key string) {
	certPath, keyPath := path+".tls_cert", path+".tls_key"
	switch {
	case v.blamed(certPath) || v.blamed(keyPath):
	case cert != "" && key == "":
		v.missing(certPath, "is set without tls_key; allowed: both or none")
	case key != "" && cert == "":
		v.missing(keyPath, "is set without tls_cert; allowed: both or none")
	}
}

// socket checks the path of a Unix socket.
func (v *configCheck) socket(path, socket string) {
	const most = 107 // what sun_path of unix(7) holds beside its final NUL
	if socket == "" || len(socket) > most {
		v.wrong(path, "%s is not the path of a socket; allowed: 1 to %d octets", quoted(socket), most)
	}
}

// validMailbox reports whether s can stand between the brackets of a RCPT
// command: a dot-string and a host name, which is all that a probe needs of
// https://www.rfc-editor.org/rfc/rfc5321#section-4.1.2.
func validMailbox(s string) bool {
	local, domain, ok := strings.Cut(s, "@")
	if !ok || local == "" || len(local) > 64 || !validHost(domain, false) {
		return false
	}
	for atom := range strings.SplitSeq(local, ".") {
		if atom == "" || strings.Trim(atom, "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789!#$%&'*+-/=?^_`{|}~") != "" {
			return false
		}
	}
	return true
}
