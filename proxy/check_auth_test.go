package proxy

import (
	"context"
	"crypto"
	"crypto/ed25519"
	"crypto/rand"
	"crypto/rsa"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"io/fs"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"slipstream/auth"
)

// judging prepares a world with the DNS for a door that asks who its mail is from, and checks it.
func (w *world) judging(dns *slowDNS, change ...func(*CheckOptions)) []string {
	w.t.Helper()
	return w.findings(append([]func(*CheckOptions){func(o *CheckOptions) { o.Resolver = dns }}, change...)...)
}

// offline lets nobody be asked.
func offline(t *testing.T) func(*CheckOptions) {
	return func(o *CheckOptions) {
		o.Offline, o.Resolver = true, nil
		o.Dial = func(context.Context, string, netip.Addr, string) (net.Conn, error) {
			t.Error("somebody was called")
			return nil, errors.New("offline")
		}
	}
}

// noFinding checks that nothing is said about something.
func noFinding(t *testing.T, lines []string, about string) {
	t.Helper()
	for _, l := range lines {
		if strings.Fields(l)[1] == about {
			t.Errorf("finding: %s", l)
		}
	}
}

func TestCheckAuth(t *testing.T) {
	prefixes := func(list ...string) (p Prefixes) {
		for _, s := range list {
			p = append(p, netip.MustParsePrefix(s))
		}
		return p
	}
	for name, test := range map[string]struct {
		conf func(*AuthConfig)
		want string
	}{
		"default": {func(*AuthConfig) {}, `ok auth inbound: results stand in the name of proxy.example, enforce = "none"`},
		"by name": {func(a *AuthConfig) { a.AuthservID, a.Enforce = "mx.example", "quarantine" },
			`ok auth inbound: results stand in the name of mx.example, enforce = "quarantine"`},
		"off": {func(a *AuthConfig) { a.Enabled = false }, "ok auth inbound: off (auth.enabled = false)"},
		"off, with reports": {func(a *AuthConfig) { a.Enabled, a.FailureReports = false, true },
			"warn auth inbound: off (auth.enabled = false), so there is nothing to report on; switch it on, or reports off"},
		"reject": {func(a *AuthConfig) { a.Enforce = "reject" },
			`warn auth inbound: enforce = "reject" refuses mail that came by ` +
				"mailing lists and forwarders as well; name those of your users in auth.trusted_sealers, exempt_domains or " +
				"exempt_networks"},
		"reject, but not all": {func(a *AuthConfig) { a.Enforce, a.TrustedSealers = "reject", []string{"lists.example"} },
			`ok auth inbound: results stand in the name of proxy.example, enforce = "reject"`},
		"off, enforcing": {func(a *AuthConfig) { a.Enabled, a.Enforce = false, "reject" },
			`warn auth inbound: off (auth.enabled = false), so enforce = "reject" does nothing; switch it on, or set enforce ` +
				`to "none"`},
		"off, enforcing and reporting": {
			func(a *AuthConfig) { a.Enabled, a.Enforce, a.AggregateReports = false, "quarantine", true },
			"warn auth inbound: off (auth.enabled = false), so there is nothing to report on; …"},
		"no time for an answer": {func(a *AuthConfig) { a.Deadline = 99 * time.Millisecond },
			`warn auth inbound: deadline = "99ms" is less than name servers far away take to answer: honest mail would be ` +
				`judged temperror; leave it at "5s", which is waited for only where the DNS is slow`},
		"a public suffix is exempt": {func(a *AuthConfig) { a.ExemptDomains = []string{"lists.example.org", "COM."} },
			`warn auth inbound: auth.exempt_domains has "COM.", a public suffix: whoever registers a name below it is ` +
				"exempt; name the domains of your forwarders and lists"},
		"one of two labels": {func(a *AuthConfig) { a.ExemptDomains = []string{"co.uk"} },
			`warn auth inbound: auth.exempt_domains has "co.uk", a public suffix: …`},
		"a name of a private registry": {func(a *AuthConfig) { a.ExemptDomains = []string{"github.io"} },
			`warn auth …has "github.io", a public suffix: …`},
		"everyone is trusted": {func(a *AuthConfig) { a.TrustedNetworks = prefixes("10.0.0.0/8", "0.0.0.0/0") },
			"fail auth inbound: auth.trusted_networks has 0.0.0.0/0, which holds strangers: mail from there is not judged, …; " +
				"name your own networks"},
		"half of everyone": {func(a *AuthConfig) { a.TrustedNetworks = prefixes("2000::/3") },
			"fail auth …has 2000::/3, …"},
		"everyone is exempt": {func(a *AuthConfig) { a.ExemptNetworks, a.Enforce = prefixes("::/0"), "reject" },
			"fail auth …exempt_networks has ::/0…"},
	} {
		t.Run(name, func(t *testing.T) {
			w := newWorld(t)
			w.judged(func(in *InboundConfig) { test.conf(&in.Auth) })
			wantFinding(t, w.findings(offline(t)), test.want)
		})
	}
	t.Run("own networks", func(t *testing.T) {
		w := newWorld(t)
		w.judged(func(in *InboundConfig) {
			in.Auth.TrustedNetworks = prefixes("10.0.0.0/8", "fc00::/7", "203.0.113.1/32")
			in.Auth.ExemptNetworks = prefixes("::/0") // of no importance without enforcement
			in.Auth.ExemptDomains = []string{"example.com", "lists.example.co.uk", "somebody.github.io"}
			in.Auth.Deadline = leastDeadline
		})
		for _, l := range w.findings(offline(t)) {
			if !strings.HasPrefix(l, "ok ") {
				t.Errorf("finding: %s", l)
			}
		}
	})
}

func TestCheckSuffixes(t *testing.T) {
	write := func(text string) string {
		path := filepath.Join(t.TempDir(), "list.dat")
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		return path
	}
	whole := "// comment\n\n"
	for i := range fewSuffixes {
		whole += "s" + strconv.Itoa(i) + ".example // note\n"
	}
	for name, test := range map[string]struct{ path, want string }{
		"whole": {write(whole), "ok auth inbound: dmarc_tld_file: …/list.dat has 1000 rules"},
		"begun": {write("// comment\ncom\n*.ck\n!www.ck\n"),
			"warn auth inbound: dmarc_tld_file: …/list.dat has 3 rules, …see whether it is whole"},
		"absent": {"/nonexistent/list.dat",
			"fail auth inbound: dmarc_tld_file: open /nonexistent/list.dat: no such file or directory; get it from " +
				"publicsuffix.org, or correct dmarc_tld_file"},
		"no list": {write("<!DOCTYPE html>\n"),
			"fail auth inbound: dmarc_tld_file: …/list.dat: line 1: …; get it anew from publicsuffix.org"},
	} {
		t.Run(name, func(t *testing.T) {
			w := newWorld(t)
			w.judged(func(in *InboundConfig) { in.Auth.Discovery, in.Auth.DMARCTLDFile = string(auth.PSL), test.path })
			wantFinding(t, w.findings(offline(t)), test.want)
		})
	}
}

func TestCheckHistory(t *testing.T) {
	for name, test := range map[string]struct {
		prepare func(dir string) error
		want    string // D is the directory
	}{
		"to be made": {func(string) error { return nil }, "ok history inbound: D/h can be made"},
		"there": {func(dir string) error { return os.WriteFile(filepath.Join(dir, "h"), nil, 0o600) },
			"ok history inbound: D/h can be appended to"},
		"no directory": {os.Remove,
			"warn history inbound: dmarc_history_file: D: no such file or directory; no record would be written: make that " +
				"directory for …"},
		"a link": {func(dir string) error { return os.Symlink("elsewhere", filepath.Join(dir, "h")) },
			"warn history inbound: dmarc_history_file: D/h: it is a symbolic link, which is not followed; no record would " +
				"be written: mend that, or name another file"},
		"a directory": {func(dir string) error { return os.Mkdir(filepath.Join(dir, "h"), 0o700) },
			"warn history inbound: dmarc_history_file: D/h: …; no record would be written: mend that, or name another file"},
		"anybody's": {func(dir string) error { return os.Chmod(dir, 0o777) },
			"warn history inbound: dmarc_history_file: everybody may write to D (mode 0777): chmod o-w it; no record would " +
				"be written: mend that, or name another file"},
		"not a history": {func(dir string) error { return os.WriteFile(filepath.Join(dir, "h"), []byte("text"), 0o600) },
			"warn history …it does not look like a history file; no record would be written: mend that, or name another file"},
		"not imported": {func(dir string) error {
			path := filepath.Join(dir, "h")
			return errors.Join(os.WriteFile(path, nil, 0o600), sparse(path, auth.MaxHistoryBytes))
		}, "warn history inbound: D/h has 1024 MiB, and nothing is appended beyond 1024; see whether opendmarc-import runs"},
	} {
		t.Run(name, func(t *testing.T) {
			dir := filepath.Join(t.TempDir(), "d")
			if err := errors.Join(os.Mkdir(dir, 0o700), test.prepare(dir)); err != nil {
				t.Fatal(err)
			}
			before := entriesOf(t, dir)
			w := newWorld(t)
			w.judged(func(in *InboundConfig) { in.Auth.DMARCHistoryFile = filepath.Join(dir, "h") })
			wantFinding(t, w.findings(offline(t)), strings.ReplaceAll(test.want, "D", dir))
			if after := entriesOf(t, dir); after != before {
				t.Errorf("there was %q, now there is %q", before, after)
			}
		})
	}
	t.Run("somebody else's", func(t *testing.T) {
		if os.Geteuid() != 0 {
			t.Skip("only root can give files away")
		}
		path := filepath.Join(t.TempDir(), "h")
		if err := errors.Join(os.WriteFile(path, nil, 0o600), os.Chown(path, 65534, 65534)); err != nil {
			t.Fatal(err)
		}
		w := newWorld(t)
		w.judged(func(in *InboundConfig) { in.Auth.DMARCHistoryFile = path })
		wantFinding(t, w.findings(offline(t)), "ok history inbound: "+path+" belongs to …; to see whether that user may "+
			"append to it, run this as them")
	})
}

// sparse makes a file long that ends in a line.
func sparse(path string, size int64) error {
	f, err := os.OpenFile(path, os.O_WRONLY, 0)
	if err != nil {
		return err
	}
	_, err = f.WriteAt([]byte("\n"), size-1)
	return errors.Join(err, f.Close())
}

// entriesOf lists a directory; one that is missing is empty.
func entriesOf(t *testing.T, dir string) string {
	t.Helper()
	entries, err := os.ReadDir(dir)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		t.Fatal(err)
	}
	var names []string
	for _, e := range entries {
		names = append(names, e.Name())
	}
	return strings.Join(names, " ")
}

// A sealKey is a key that seals, as a file and as the DNS has it.
type sealKey struct{ file, record string }

func newSealKey(t *testing.T, key crypto.Signer) sealKey {
	t.Helper()
	der, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		t.Fatal(err)
	}
	file := filepath.Join(t.TempDir(), "arc.pem")
	if err := os.WriteFile(file, pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: der}), 0o600); err != nil {
		t.Fatal(err)
	}
	return sealKey{file, keyRecord(key.Public())}
}

func rsaSealKey(t *testing.T, bits int) sealKey {
	t.Helper()
	key, err := rsa.GenerateKey(rand.Reader, bits)
	if err != nil {
		t.Fatal(err)
	}
	return newSealKey(t, key)
}

// seals has the door seal.
func seals(file string) func(*InboundConfig) {
	return func(in *InboundConfig) {
		in.Auth.ARCDomain, in.Auth.ARCSelector, in.Auth.ARCKeyFile = "Proxy.example", "s1", file
	}
}

func TestCheckSealingKey(t *testing.T) {
	_, edKey, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	ed, good, weak := newSealKey(t, edKey), rsaSealKey(t, 2048), rsaSealKey(t, 1024)
	open := rsaSealKey(t, 2048)
	if err := os.Chmod(open.file, 0o604); err != nil {
		t.Fatal(err)
	}
	text := filepath.Join(t.TempDir(), "text.pem")
	if err := os.WriteFile(text, []byte("no key"), 0o600); err != nil {
		t.Fatal(err)
	}
	for name, test := range map[string]struct{ file, want string }{
		"RSA": {good.file, "ok arc inbound: …/arc.pem is an RSA key of 2048 bits"},
		"weak": {weak.file,
			"warn arc inbound: …/arc.pem is an RSA key of 1024 bits, which not everybody believes; use one of 2048"},
		"Ed25519": {ed.file,
			"warn arc inbound: …/arc.pem is an Ed25519 key, which few verifiers know: …; use RSA of 2048 bits"},
		"absent": {"/nonexistent/arc.pem",
			"fail arc inbound: arc_key_file: open /nonexistent/arc.pem: no such file or directory; make a key, or correct " +
				"arc_key_file"},
		"public": {open.file,
			"fail arc inbound: arc_key_file: others may read or write …/arc.pem (mode 0604): chmod 600 it, …"},
		"no key": {text, "fail arc inbound: arc_key_file: …/text.pem: there is no key in PEM form; …"},
	} {
		t.Run(name, func(t *testing.T) {
			w := newWorld(t)
			w.judged(seals(test.file))
			wantFinding(t, w.findings(offline(t)), test.want)
		})
	}
}

func TestCheckKeyRecord(t *testing.T) {
	_, edKey, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	good, other, ed := rsaSealKey(t, 2048), rsaSealKey(t, 2048), newSealKey(t, edKey)
	const at = "s1._domainkey.proxy.example"
	for name, test := range map[string]struct {
		key     sealKey
		records []string
		want    string
	}{
		"ours":         {good, []string{good.record}, "ok arc inbound: the key at " + at + " is ours"},
		"ours, a list": {good, []string{"v=spf1 -all", good.record}, "ok arc inbound: the key at " + at + " is ours"},
		"Ed25519":      {ed, []string{ed.record}, "ok arc inbound: the key at " + at + " is ours"},
		"of the other kind": {ed, []string{good.record},
			"fail arc inbound: " + at + ": no key: the key is for another algorithm, so every seal …; " +
				"publish there, as TXT: " + ed.record},
		"another": {good, []string{other.record}, "fail arc inbound: the key at " + at + " is not that of " + good.file +
			", so every seal of ours breaks the chain that it stands on; put the right key into the file, or publish there, " +
			"as TXT: " + good.record},
		"two": {good, []string{good.record, other.record},
			"fail arc inbound: " + at + ": several keys at one name, so every seal of ours breaks …; leave one of them"},
		"none": {good, nil,
			"fail arc inbound: there is no key at " + at + ", so …; publish there, as TXT: " + good.record},
		"revoked": {good, []string{"v=DKIM1; p="}, "fail arc inbound: " + at + ": key revoked, so …"},
		"garbage": {good, []string{"v=DKIM1; p=***"}, "fail arc inbound: " + at + ": malformed key record…"},
		"trial": {good, []string{good.record + "; t=y"},
			"warn arc inbound: the key at " + at + " is ours, but says that it is a trial; take t=y out of the record"},
	} {
		t.Run(name, func(t *testing.T) {
			w := newWorld(t)
			dns := w.judged(seals(test.key.file))
			if test.records != nil {
				dns.txt[at] = test.records
			}
			wantFinding(t, w.judging(dns), test.want)
			if want := []string{"TXT proxy.example", "TXT " + at}; strings.Join(dns.asked, ", ") != strings.Join(want, ", ") {
				t.Errorf("asked for %q, want %q", dns.asked, want)
			}
		})
	}
	t.Run("not to be told", func(t *testing.T) {
		w := newWorld(t)
		dns := w.judged(seals(good.file))
		dns.fail[at] = true
		wantFinding(t, w.judging(dns), "warn arc inbound: whether our key is at "+at+" cannot be told: …server misbehaving")
	})
}

// A resolver that does not answer is waited for once, and no longer than a message would wait.
func TestCheckAuthDNS(t *testing.T) {
	key := rsaSealKey(t, 2048)
	for name, test := range map[string]struct {
		prepare func(*slowDNS)
		want    string
		asked   int
		took    time.Duration
	}{
		"answers": {func(d *slowDNS) { d.wait = 20 * time.Millisecond },
			"ok auth the servers answer about TXT records of proxy.example, in 20ms", 2, 40 * time.Millisecond},
		"slow": {func(d *slowDNS) { d.wait = 4 * time.Second },
			"warn auth the servers took 4s to answer about TXT records of proxy.example, and a message needs several such " +
				"answers " +
				"within auth.deadline (5s); name a nearer resolver in [dns]", 2, 8 * time.Second},
		"dead": {func(d *slowDNS) { d.dead = true },
			"fail auth no answer about TXT records of proxy.example after 5s: lookup proxy.example: no answer; while that " +
				"is so, each message waits, up to auth.deadline (5s), and everything is judged temperror; correct servers in " +
				"[dns] or the system's resolv.conf",
			1, 5 * time.Second},
		"failing": {func(d *slowDNS) { d.fail["proxy.example"] = true },
			"fail auth the servers do not tell about TXT records of proxy.example: lookup proxy.example: server misbehaving; " +
				"while that is so, no message waits for them, and everything is judged temperror; correct servers in [dns] or " +
				"the system's resolv.conf", 1, 0},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				w := newWorld(t)
				dns := w.judged(seals(key.file))
				test.prepare(dns)
				start := time.Now()
				lines := w.judging(dns)
				wantFinding(t, lines, test.want)
				if took := time.Since(start); took != test.took {
					t.Errorf("it took %v, want %v", took, test.took)
				}
				if len(dns.asked) != test.asked {
					t.Errorf("asked for %q", dns.asked)
				}
			})
		})
	}
	t.Run("no resolver for it", func(t *testing.T) {
		w := newWorld(t)
		w.judged()
		wantFinding(t, w.findings(), "fail auth the resolver cannot look up what authentication needs")
	})
	t.Run("nobody judges", func(t *testing.T) {
		w := newWorld(t)
		dns := w.judged(func(in *InboundConfig) { in.Auth.Enabled = false })
		w.judging(dns)
		if len(dns.asked) != 0 {
			t.Errorf("asked for %q", dns.asked)
		}
	})
}

// What stands in the way of judging is said once, and does not keep the backend from being asked.
func TestCheckAuthApart(t *testing.T) {
	w := newWorld(t)
	dns := w.judged(seals("/nonexistent/arc.pem"))
	lines := w.judging(dns)
	wantFinding(t, lines, "fail backend inbound: …start it, or correct backend")
	n := 0
	for _, l := range lines {
		if strings.Contains(l, "arc.pem") {
			n++
		}
	}
	if n != 1 {
		t.Errorf("the key is spoken of %d times in\n%s", n, strings.Join(lines, "\n"))
	}
}
