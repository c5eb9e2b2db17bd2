package proxy_test

import (
	"bytes"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"slipstream/auth/arc"
)

// openDMARC has OpenDMARC judge, the program itself, by what pyspf and dkimpy found. It lives beside Exim, since its
// names are those of the C library.
func (w *chainWorld) openDMARC(t *testing.T, mails []chainMail, texts [][]byte, found []chainAnswer) []string {
	t.Helper()
	peers := filepath.Join(chainPeers(t), "opendmarc/usr")
	program := filepath.Join(peers, "sbin/opendmarc")
	libraries, _ := filepath.Glob(filepath.Join(peers, "lib/*-linux-*"))
	dir := filepath.Join(w.exim.Dir(), "data/dmarc") // seen by Exim's neighbours as /slipstream/dmarc
	write := func(name, text string) {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.MkdirAll(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	write("suffixes", chainSuffixes)
	write("nobody", "192.0.2.1\n")
	write("conf", "AuthservID oracle.test\nPublicSuffixList /slipstream/dmarc/suffixes\n"+
		"IgnoreHosts /slipstream/dmarc/nobody\nSPFSelfValidate false\nSyslog false\n"+
		"RequiredHeaders false\nFailureReports false\n")
	var script strings.Builder
	fmt.Fprintf(&script, "export LD_LIBRARY_PATH=%s/lib:%s OPENDMARC_TEST_CLIENTIP=192.0.2.2\ncd /slipstream/dmarc\n",
		peers, strings.Join(libraries, ":"))
	for i, m := range mails {
		sender := m.from
		if sender == "<>" { // https://www.rfc-editor.org/rfc/rfc7208#section-2.4
			sender = "postmaster@" + m.helo
		}
		write(fmt.Sprintf("%d.eml", i), chainForOpenDMARC(t, sender, texts[i], found[i]))
		fmt.Fprintf(&script, "echo '@@ %d'; OPENDMARC_TEST_ENVFROM='<%s>' %s -c conf -v -v -t %d.eml 2>&1\n",
			i, sender, program, i)
	}
	out, err := w.exim.Run(t.Context(), nil, "/bin/sh", "-c", script.String())
	if err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	verdicts := make([]string, len(mails))
	for i, part := range strings.Split(string(out), "@@ ")[1:] {
		verdicts[i] = chainVerdict(part)
	}
	return verdicts
}

// chainForOpenDMARC is what OpenDMARC needs of a message: the results of others, and the fields that it looks at.
func chainForOpenDMARC(t *testing.T, sender string, text []byte, found chainAnswer) string {
	t.Helper()
	var b strings.Builder
	_, domain, _ := strings.Cut(sender, "@")
	fmt.Fprintf(&b, "Authentication-Results: oracle.test; spf=%s smtp.mailfrom=%s\r\n", found.SPF.Value, domain)
	for _, s := range found.DKIM {
		if s.Domain != "" {
			fmt.Fprintf(&b, "Authentication-Results: oracle.test; dkim=%s header.d=%s header.s=%s\r\n",
				s.Value, s.Domain, s.Selector)
		}
	}
	section, _, _ := bytes.Cut(text, []byte("\r\n\r\n"))
	headers, err := arc.SplitHeader(append(bytes.Clone(section), "\r\n"...))
	if err != nil {
		t.Log(err)
	}
	for _, h := range headers {
		switch strings.ToLower(h.Name) {
		case "from", "date", "sender":
			b.Write(h.Raw)
		}
	}
	return b.String() + "\r\n"
}

// chainVerdict finds OpenDMARC's verdict among what it printed: "none" where it let a message through unjudged.
func chainVerdict(out string) string {
	const found = "; dmarc="
	_, word, ok := strings.Cut(out, found)
	if !ok {
		return "unjudged"
	}
	word, policy, _ := strings.Cut(word, " ")
	if word != "fail" {
		return word
	}
	policy, _, _ = strings.Cut(strings.TrimPrefix(policy, "(p="), " ")
	return word + "/" + policy
}
