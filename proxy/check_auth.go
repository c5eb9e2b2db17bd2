package proxy

import (
	"context"
	"errors"
	"io/fs"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"time"

	"slipstream/auth"
)

// leastDeadline is about what one question takes that goes half around the world, and a message needs several.
const leastDeadline = 100 * time.Millisecond

// auth checks what a door needs to find out who its mail is from, as far as nobody has to be asked.
func (c *check) auth(d *InboundConfig) {
	const about = "auth"
	a := &d.Auth
	if !a.Enabled {
		c.notJudging(d)
		return
	}
	c.enforcement(d)
	c.exemptSuffixes(d)
	if a.Deadline < leastDeadline {
		c.say(Doubtful, about, "%s: deadline = %q is less than name servers far away take to answer: honest mail would be "+
			"judged temperror; leave it at %q, which is waited for only where the DNS is slow", d.Name, a.Deadline,
			auth.DefaultDeadline)
	}
	c.spared(d, "trusted_networks", a.TrustedNetworks, "is not judged, and its forged results in our name stay")
	if a.Enforce != string(auth.PolicyNone) {
		c.spared(d, "exempt_networks", a.ExemptNetworks, "is delivered whatever it fails")
	}
	c.suffixes(d)
	c.history(d)
	c.sealingKey(d)
}

// notJudging says what of a door's configuration has no effect, since it does not ask who its mail is from.
func (c *check) notJudging(d *InboundConfig) {
	const about = "auth"
	a := &d.Auth
	enforces, reports := a.Enforce != string(auth.PolicyNone), a.AggregateReports || a.FailureReports
	if enforces {
		c.say(Doubtful, about, "%s: off (auth.enabled = false), so enforce = %s does nothing; switch it on, or set enforce "+
			"to %q", d.Name, quoted(a.Enforce), auth.PolicyNone)
	}
	if reports {
		c.say(Doubtful, about, "%s: off (auth.enabled = false), so there is nothing to report on; "+
			"switch it on, or reports off", d.Name)
	}
	if !enforces && !reports {
		c.say(Fine, about, "%s: off (auth.enabled = false)", d.Name)
	}
}

// exemptSuffixes finds names in exempt_domains below which anybody may have a domain.
func (c *check) exemptSuffixes(d *InboundConfig) {
	list, _ := loadSuffixes(d.Auth.DMARCTLDFile) // suffixes tells of an error; the list that is built in will do
	for _, name := range d.Auth.ExemptDomains {
		domain, ok := auth.CanonicalDomain(name)
		if ok && list.OrgDomain("x."+domain) == "x."+domain {
			c.say(Doubtful, "auth", "%s: auth.exempt_domains has %s, a public suffix: whoever registers a name below it is "+
				"exempt; name the domains of your forwarders and lists", d.Name, quoted(name))
		}
	}
}

// enforcement says in whose name results stand, and what follows from them.
func (c *check) enforcement(d *InboundConfig) {
	const about = "auth"
	a := &d.Auth
	if a.Enforce == string(auth.PolicyReject) && len(a.TrustedSealers)+len(a.ExemptNetworks)+len(a.ExemptDomains) == 0 {
		c.say(Doubtful, about, "%s: enforce = %s refuses mail that came by mailing lists and forwarders as well; "+
			"name those of your users in auth.trusted_sealers, exempt_domains or exempt_networks", d.Name, quoted(a.Enforce))
		return
	}
	c.say(Fine, about, "%s: results stand in the name of %s, enforce = %s",
		d.Name, a.id(c.cfg.Hostname), quoted(a.Enforce))
}

// spared finds networks in a list that hold the world.
func (c *check) spared(d *InboundConfig, key string, networks Prefixes, fate string) {
	for _, p := range networks {
		if worldwide(p) {
			c.say(Failed, "auth", "%s: auth.%s has %s, which holds strangers: mail from there %s; name your own networks",
				d.Name, key, p, fate)
		}
	}
}

// worldwide tells whether a network is too wide to be somebody's own, as 10.0.0.0/8 and fc00::/7 may be
// (https://www.rfc-editor.org/rfc/rfc1918#section-3, https://www.rfc-editor.org/rfc/rfc4193#section-3.1). Two halves of
// everything are.
func worldwide(p netip.Prefix) bool {
	return p.Addr().Is4() && p.Bits() < 8 || p.Addr().Is6() && p.Bits() < 7
}

// fewSuffixes is a tenth of the rules that publicsuffix.org has.
const fewSuffixes = 1000

// suffixes reads the list of public suffixes as a start would.
func (c *check) suffixes(d *InboundConfig) {
	const about = "auth"
	path := d.Auth.DMARCTLDFile
	if path == "" {
		return
	}
	rules, err := countSuffixes(path)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		c.say(Failed, about, "%s: %s; get it from publicsuffix.org, or correct dmarc_tld_file", d.Name, bareAuth(err))
	case errors.Is(err, fs.ErrPermission):
		c.say(Failed, about, "%s: %s; make it readable for %s", d.Name, bareAuth(err), accountName())
	case err != nil:
		c.say(Failed, about, "%s: %s; get it anew from publicsuffix.org", d.Name, bareAuth(err))
	case rules < fewSuffixes:
		c.say(Doubtful, about, "%s: dmarc_tld_file: %s has %d rules, where publicsuffix.org has some ten thousand; "+
			"see whether it is whole", d.Name, path, rules)
	default:
		c.say(Fine, about, "%s: dmarc_tld_file: %s has %d rules", d.Name, path, rules)
	}
}

// countSuffixes reads a list of public suffixes and counts its rules.
func countSuffixes(path string) (rules int, err error) {
	if _, err := loadSuffixes(path); err != nil { // which bounds its size
		return 0, err
	}
	text, err := os.ReadFile(path)
	if err != nil {
		return 0, err
	}
	for line := range strings.Lines(string(text)) {
		if line = strings.TrimSpace(line); line != "" && !strings.HasPrefix(line, "//") {
			rules++
		}
	}
	return rules, nil
}

// bareAuth is what an error says without the word that the finding begins with.
func bareAuth(err error) string {
	text := strings.TrimPrefix(err.Error(), "auth: ")
	return strings.TrimPrefix(text, "history: ")
}

// history checks that records can be appended where opendmarc-import is to find them.
func (c *check) history(d *InboundConfig) {
	const about = "history"
	path := d.Auth.DMARCHistoryFile
	if path == "" {
		return
	}
	owner, strange := fileOfOther(path)
	if strange {
		c.say(Fine, about, "%s: %s belongs to %s; to see whether that user may append to it, run this as them",
			d.Name, path, owner)
		return
	}
	err := soon(filepath.Dir(path), func() error { return canAppend(path) })
	if err == nil {
		c.historySize(d.Name, path)
		return
	}
	remedy := "mend that, or name another file"
	switch {
	case errors.Is(err, fs.ErrNotExist):
		remedy = "make that directory for " + accountName()
	case errors.Is(err, fs.ErrPermission):
		remedy = "make it writable for " + accountName()
	}
	c.say(Doubtful, about, "%s: dmarc_history_file: %s; no record would be written: %s", d.Name, bareAuth(err), remedy)
}

// historySize says how much there is that nobody has imported.
func (c *check) historySize(door, path string) {
	const about = "history"
	info, err := os.Stat(path)
	switch {
	case err != nil:
		c.say(Fine, about, "%s: %s can be made", door, path)
	case info.Size() > auth.MaxHistoryBytes/2:
		c.say(Doubtful, about, "%s: %s has %d MiB, and nothing is appended beyond %d; see whether opendmarc-import runs",
			door, path, info.Size()>>20, auth.MaxHistoryBytes>>20)
	default:
		c.say(Fine, about, "%s: %s can be appended to", door, path)
	}
}

// canAppend opens a history file as a start would. Where there is none, another in its directory is tried, and removed.
func canAppend(path string) error {
	if _, err := os.Lstat(path); !errors.Is(err, fs.ErrNotExist) {
		return openHistory(path)
	}
	dir := filepath.Dir(path)
	made, err := os.CreateTemp(dir, ".slipstream-check-")
	if err != nil {
		return inDir(dir, err)
	}
	_ = made.Close() // nothing was written
	err = openHistory(made.Name())
	if inner := errors.Unwrap(err); inner != nil { // without the name of that file, which is not at fault
		err = inDir(dir, inner)
	}
	return errors.Join(err, os.Remove(made.Name()))
}

func openHistory(path string) error {
	h, err := auth.OpenHistory(path, auth.HistoryOptions{})
	if err != nil {
		return err
	}
	return h.Close(context.Background()) // at once, since there is nothing to write
}
