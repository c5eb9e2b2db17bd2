package mta

import (
	"errors"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"
)

// Accounts of an instance. The machine's own are not seen inside, so the numbers need to differ from nobody's.
const (
	uidExim     = 901
	uidPostfix  = 902
	gidPostdrop = 903
	uidVmail    = 904
	uidSMTPD    = 905
)

const passwd = `root:x:0:0:root:/root:/bin/sh
nobody:x:65534:65534:nobody:/nonexistent:/usr/sbin/nologin
Debian-exim:x:901:901::/slipstream/spool:/usr/sbin/nologin
postfix:x:902:902::/slipstream/spool:/usr/sbin/nologin
vmail:x:904:904::/slipstream/mail:/usr/sbin/nologin
opensmtpd:x:905:905::/var/lib/opensmtpd:/usr/sbin/nologin
opensmtpq:x:906:906::/var/lib/opensmtpd:/usr/sbin/nologin
`

const group = `root:x:0:
mail:x:8:
nogroup:x:65534:
Debian-exim:x:901:
postfix:x:902:
postdrop:x:903:
vmail:x:904:
opensmtpd:x:905:
opensmtpq:x:906:
`

// layOut writes what the instance needs: its data directory, seen inside at /slipstream, and the tree of files to lay
// over the machine's, which it returns. A data directory that is there already keeps its queue and deliveries.
func (in *Instance) layOut() (top string, err error) {
	c := in.config
	top = filepath.Join(in.dir, "top")
	files := map[string]string{
		filepath.Join(top, "etc/passwd"):      passwd,
		filepath.Join(top, "etc/group"):       group,
		filepath.Join(top, "etc/mailname"):    c.Local[0] + "\n",
		filepath.Join(top, "etc/hosts"):       hosts(c),
		filepath.Join(top, "etc/resolv.conf"): resolvConf(c),
	}
	var owner int
	switch in.kind {
	case Exim:
		owner = uidExim
		files[filepath.Join(top, "etc/exim4/exim4.conf")] = eximConf(c)
		files[filepath.Join(in.data, "init")] = eximInit
	case Postfix:
		owner = uidPostfix
		files[filepath.Join(top, "etc/postfix/main.cf")] = mainCf(c)
		files[filepath.Join(top, "etc/postfix/master.cf")] = masterCf(c)
		files[filepath.Join(top, "etc/postfix/refusals")] = refusalTable(c)
		files[filepath.Join(in.data, "init")] = postfixInit
	case OpenSMTPD:
		owner = uidSMTPD
		files[filepath.Join(top, "etc/smtpd.conf")] = smtpdConf(c)
		files[filepath.Join(top, "var/lib/opensmtpd/empty/.keep")] = ""
		files[filepath.Join(in.data, "init")] = smtpdInit
	default:
		return "", fmt.Errorf("no server of kind %q", in.kind)
	}
	for name, text := range map[string][]byte{"cert.pem": c.Cert, "key.pem": c.Key, "ca.pem": c.CA} {
		files[filepath.Join(in.data, "tls", name)] = string(text)
	}
	for name, text := range files {
		if err := writeFile(name, text); err != nil {
			return "", err
		}
	}
	for _, d := range directories(in.kind, owner) {
		path := filepath.Join(in.data, d.name)
		if err := os.MkdirAll(path, 0o755); err != nil {
			return "", err
		}
		if err := errors.Join(os.Chown(path, d.uid, d.gid), os.Chmod(path, d.mode)); err != nil {
			return "", fmt.Errorf("%w: %w", ErrUnavailable, err)
		}
	}
	// Exim reads the key as its own user.
	return top, os.Chown(filepath.Join(in.data, "tls/key.pem"), owner, owner)
}

type directory struct {
	name     string
	uid, gid int
	mode     os.FileMode
}

// directories lists what an instance keeps in its data directory, parents first.
func directories(kind Kind, owner int) []directory {
	list := []directory{
		{"log", owner, owner, 0o755}, {"lib", owner, owner, 0o700}, {"tls", owner, owner, 0o755},
		{"mail", uidVmail, uidVmail, 0o755}, {"mail/tmp", uidVmail, uidVmail, 0o755},
		{"mail/new", uidVmail, uidVmail, 0o755}, {"mail/cur", uidVmail, uidVmail, 0o755},
	}
	if kind == OpenSMTPD {
		return list // its spool is in its usual place
	}
	if kind == Exim {
		return append(list, directory{"spool", owner, owner, 0o755})
	}
	// As Postfix's own list of files has them.
	list = append(list, directory{"spool", 0, 0, 0o755}, directory{"spool/pid", 0, 0, 0o755},
		directory{"spool/maildrop", owner, gidPostdrop, 0o730}, directory{"spool/public", owner, gidPostdrop, 0o710})
	for _, name := range []string{"active", "bounce", "corrupt", "defer", "deferred", "flush", "hold", "incoming",
		"private", "saved", "trace"} {
		list = append(list, directory{"spool/" + name, owner, owner, 0o700})
	}
	return list
}

func writeFile(name, text string) error {
	if err := os.MkdirAll(filepath.Dir(name), 0o755); err != nil {
		return err
	}
	mode := os.FileMode(0o644)
	if filepath.Base(name) == "key.pem" {
		mode = 0o600
	}
	if err := os.WriteFile(name, []byte(text), mode); err != nil {
		return err
	}
	// Postfix dozes until its configuration is old enough not to be half written.
	anHourAgo := time.Now().Add(-time.Hour)
	return os.Chtimes(name, anHourAgo, anHourAgo)
}

func hosts(c Config) string {
	var b strings.Builder
	fmt.Fprintf(&b, "127.0.0.1 localhost %s\n::1 localhost\n", c.Hostname)
	for _, name := range slices.Sorted(maps.Keys(c.Hosts)) {
		fmt.Fprintf(&b, "%s %s\n", c.Hosts[name], name)
	}
	return b.String()
}

// resolvConf names the given server, or one on loopback that nobody runs: no question leaves the machine.
func resolvConf(c Config) string {
	server := c.DNS
	if server == "" {
		server = "127.0.0.1"
	}
	return "nameserver " + server + "\noptions timeout:1 attempts:2\n"
}
