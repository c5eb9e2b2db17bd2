package proxy

import (
	"path/filepath"
	"time"

	"slipstream/auth"
)

// AuthConfig says how an inbound door finds out who its mail is from, and what
// follows: [inbound.auth] in the file. The results stand in an
// Authentication-Results field on top of each message
// (https://www.rfc-editor.org/rfc/rfc8601).
type AuthConfig struct {
	// Enabled switches it on. Default: true.
	Enabled bool `toml:"enabled"`

	// AuthservID is the name that the field speaks in. Fields of that name which
	// a message has already are forged, and are taken out. Default: hostname.
	AuthservID string `toml:"authserv_id"`

	// Enforce is the harshest that is done with mail that fails DMARC where its
	// domain asks for it: "none", "quarantine" (a field X-Slipstream-Quarantine
	// says so) or "reject" (550 5.7.26). Default: "none".
	Enforce string `toml:"enforce" oneof:"none quarantine reject"`

	// OnTemperror is what becomes of mail whose policy or authentication the DNS
	// did not tell, where something is enforced: "accept", or "defer" (451, and
	// the sender tries again). With "accept", who can keep the DNS of a domain from
	// answering can send in its name; with "defer", a DNS that is down puts off all
	// mail. Default: "accept".
	OnTemperror string `toml:"on_temperror" oneof:"accept defer"`

	// TrustedNetworks are clients that are not judged, and whose fields of our
	// name stay: this machine, and the other mail hosts of the house.
	// Default: ["127.0.0.0/8", "::1/128"].
	TrustedNetworks Prefixes `toml:"trusted_networks"`

	// ExemptNetworks are forwarders and lists whose mail is judged but delivered
	// whatever it fails. Default: none.
	ExemptNetworks Prefixes `toml:"exempt_networks"`

	// ExemptDomains are the same by name: mail is delivered where one of them,
	// or a name below, passed SPF or signed. Default: none.
	ExemptDomains []string `toml:"exempt_domains"`

	// TrustedSealers are domains whose ARC seal is believed when it says that a
	// message passed before they changed it
	// (https://www.rfc-editor.org/rfc/rfc8617#section-7.2.1). Default: none.
	TrustedSealers []string `toml:"trusted_sealers"`

	// Deadline is how long the DNS may hold a message up; then what is not known
	// is a temporary error in the field. Default: "5s".
	Deadline time.Duration `toml:"deadline" max:"1m"`

	// Discovery is how the organizational domain of a name is found: "treewalk"
	// in the DNS (https://www.rfc-editor.org/rfc/rfc9989#section-4.10), or "psl"
	// by a list of public suffixes, as it was before. Default: "treewalk".
	Discovery string `toml:"discovery" oneof:"treewalk psl"`

	// DMARCTLDFile is that list, in the format of publicsuffix.org. It is read
	// at start and at reload. Default "": the one that is built in.
	DMARCTLDFile string `toml:"dmarc_tld_file"`

	// DMARCHistoryFile is a file that every judged message with a DMARC record
	// is appended to, for opendmarc-import. Default "": none.
	DMARCHistoryFile string `toml:"dmarc_history_file"`

	// ARCDomain, ARCSelector and ARCKeyFile have messages sealed
	// (https://www.rfc-editor.org/rfc/rfc8617#section-5.1): the key, RSA or
	// Ed25519 in PEM, belongs to what stands at selector._domainkey.domain.
	// Default "": messages are not sealed.
	ARCDomain   string `toml:"arc_domain"`
	ARCSelector string `toml:"arc_selector"`
	ARCKeyFile  string `toml:"arc_key_file"`

	// AggregateReports counts this door's mail in the daily reports that domains
	// ask for with rua= (https://www.rfc-editor.org/rfc/rfc9990); see [reports].
	// Default: false.
	AggregateReports bool `toml:"aggregate_reports"`

	// FailureReports sends domains that ask for it with ruf= reports on single
	// messages as fo= asks (https://www.rfc-editor.org/rfc/rfc9991): on those that
	// fail, with fo=1 (or d, s) also on some that pass. The header of the message is
	// in them: think of your users' privacy.
	// Default: false.
	FailureReports bool `toml:"failure_reports"`

	// DMARCForensicSender is the address that failure reports come from.
	// Default "": postmaster at hostname.
	DMARCForensicSender string `toml:"dmarc_forensic_sender"`
}

// ReportsConfig says who reports, and how reports leave: [reports] in the file.
// Which doors' mail is reported on is said there.
type ReportsConfig struct {
	// OrgName is who reports, in words. Default: hostname.
	OrgName string `toml:"org_name"`

	// Email is the address that aggregate reports come from, and where their
	// readers turn to. Default: postmaster at hostname.
	Email string `toml:"email"`

	// ContactInfo is a further way to reach the reporter, such as a URL.
	// Default "": none.
	ContactInfo string `toml:"contact_info"`

	// Relay is the MTA that reports are handed to. It must take mail from us to
	// anywhere. Default "": the backend of the door, which will not unless
	// backend_trusts_us is set.
	Relay Endpoint `toml:"relay" forms:"host:port unix:/path"`

	// Dir is where aggregate reports are gathered until they are sent; unlike
	// what the store remembers, it is missed when it is lost. Default "": the
	// directory reports in StateDir.
	Dir string `toml:"dir"`

	// MaxSize is what that directory may take; the oldest days go first.
	// Default: "256MB".
	MaxSize Size `toml:"max_size" min:"1MB" max:"1TB"`
}

func unsetAuth() AuthConfig {
	return AuthConfig{
		Enabled: true, Enforce: "none", OnTemperror: "accept", TrustedNetworks: loopbackNetworks(),
		Deadline: auth.DefaultDeadline, Discovery: string(auth.TreeWalk),
	}
}

func unsetReports() ReportsConfig { return ReportsConfig{MaxSize: 256 * megabyte} }

// ReportsDir is where aggregate reports are gathered.
func (c *Config) ReportsDir() string {
	if c.Reports.Dir != "" {
		return c.Reports.Dir
	}
	return filepath.Join(c.StateDir, "reports")
}

// auth checks how a door judges.
func (v *configCheck) auth(path string, a *AuthConfig) {
	const name = `allowed: a domain name, such as "mx.example.org"`
	if a.AuthservID != "" {
		if err := auth.CheckID(a.AuthservID); err != nil {
			v.wrong(path+".authserv_id", "%s: %v; %s", quoted(a.AuthservID), err, name)
		}
	}
	v.domains(path+".exempt_domains", a.ExemptDomains)
	v.domains(path+".trusted_sealers", a.TrustedSealers)
	if a.DMARCTLDFile != "" && a.Discovery != string(auth.PSL) && !v.blamed(path+".discovery") {
		v.wrong(path+".dmarc_tld_file", `has no use with discovery = %s; allowed with: "psl"`, quoted(a.Discovery))
	}
	v.sealing(path, a)
	if s := a.DMARCForensicSender; s != "" && !validMailbox(s) {
		v.wrong(path+".dmarc_forensic_sender", `%s is not an address; allowed: one in ASCII, such as "dmarc@example.org"`, quoted(s))
	}
}

// sealing checks that a seal has all that it takes.
func (v *configCheck) sealing(path string, a *AuthConfig) {
	keys := []struct{ key, value string }{
		{"arc_domain", a.ARCDomain}, {"arc_selector", a.ARCSelector}, {"arc_key_file", a.ARCKeyFile},
	}
	set, missing := "", ""
	for _, k := range keys {
		if k.value == "" {
			missing = k.key
		} else {
			set = k.key
		}
	}
	if set != "" && missing != "" && !v.blamed(path+"."+missing) {
		v.missing(path+"."+set, "is set without %s; allowed: arc_domain, arc_selector and arc_key_file, or none of them", missing)
		return
	}
	if set == "" || missing != "" {
		return
	}
	if _, ok := auth.CanonicalDomain(a.ARCDomain); !ok {
		v.wrong(path+".arc_domain", "%s is not a domain; allowed: the one whose key it is", quoted(a.ARCDomain))
	}
	if _, ok := auth.CanonicalDomain(a.ARCSelector); !ok {
		v.wrong(path+".arc_selector", "%s is not a selector; allowed: letters, digits and hyphens", quoted(a.ARCSelector))
	}
}

// domains checks names that are compared with others.
func (v *configCheck) domains(path string, names []string) {
	for i, name := range names {
		if _, ok := auth.CanonicalDomain(name); !ok && !v.blamed(indexed(path, i)) {
			v.wrong(indexed(path, i), `%s is not a domain; allowed: a name without "*" or "@", which stands for itself`, quoted(name))
		}
	}
}

// reports checks who reports.
func (v *configCheck) reports() {
	r := &v.config.Reports
	if r.Email != "" && !validMailbox(r.Email) {
		v.wrong("reports.email", `%s is not an address; allowed: one in ASCII, such as "dmarc@example.org"`, quoted(r.Email))
	}
	if r.Relay.LMTP {
		v.wrong("reports.relay", `%s takes mail for its own users alone; allowed: an MTA that takes mail for anybody`, quoted(r.Relay.String()))
	}
	if r.Relay.Path != "" {
		v.socket("reports.relay", r.Relay.Path)
	}
}
