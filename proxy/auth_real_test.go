package proxy_test

import (
	"bytes"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"slipstream/auth/arc"
	"slipstream/bench/mta"
	"slipstream/bench/mta/mtatest"
)

// TestRealAuth sends mail from Exim through a door of ours to Postfix, with names from NSD and Unbound, and reads the
// field that arrives with authres. It must say what dkimpy, pyspf and OpenDMARC say of the same mail, save where a
// difference is meant and explained; and below our fields stands the message as it was sent, without forged fields.
func TestRealAuth(t *testing.T) {
	if _, err := os.Stat(filepath.Join(chainPeers(t), "opendmarc/usr/sbin/opendmarc")); err != nil {
		t.Skip("no OpenDMARC; make peers fetches it: ", err)
	}
	mails := append(chainMails(), chainForgedMails()...)
	w := newChainWorld(t, mails)

	texts, kept := w.composeAll(t, mails)
	arrived := w.sendAll(t, mails, texts)
	answers := make([]chainAnswer, len(mails))
	for i, m := range mails {
		q := chainQuestion{Do: "judge", Message: texts[i], IP: m.client, Helo: m.helo, From: strings.Trim(m.from, "<>")}
		if m.swaks {
			q.Message = kept[i] // dkimpy does not take blanks before a colon
		}
		answers[i] = w.oracle.ask(t, q)
	}
	verdicts := w.openDMARC(t, mails, texts, answers)

	compared := 0
	for i, m := range mails {
		t.Run(m.name, func(t *testing.T) {
			raw := arrived[chainRecipient(i)]
			field := chainSplit(t, raw, string(kept[i]))
			results := w.readBack(t, raw)
			ours := chainWords(t, results)
			if got := ours.String(); got != m.want {
				t.Errorf("we say   %s\nwant     %s\nin %s", got, m.want, field)
			}
			m.identities(t, results, answers[i])
			compared += m.compare(t, ours, answers[i], verdicts[i])
		})
	}
	for _, d := range chainDifferences() {
		if !slices.ContainsFunc(mails, func(m chainMail) bool { return m.name == d.mail }) {
			t.Errorf("nothing is called %q, of which a difference is told", d.mail)
		}
	}
	t.Logf("%d messages, %d results compared with those of others, %d of them meant to differ; %d forged fields taken "+
		"out, %d others kept", len(mails), compared, len(chainDifferences()), len(chainForged())+len(chainForgedRaw())+1,
		2*len(chainInnocent()))
}

// readBack has authres read what arrived: the first field that it finds must be ours, and no other.
func (w *chainWorld) readBack(t *testing.T, raw []byte) []chainResult {
	t.Helper()
	fields := w.oracle.ask(t, chainQuestion{Do: "read", Message: raw}).Fields
	if len(fields) == 0 || fields[0].ID != chainID {
		t.Fatalf("authres reads %+v", fields)
	}
	for _, f := range fields[1:] {
		if strings.EqualFold(f.ID, chainID) {
			t.Errorf("authres reads another of our fields: %+v", f)
		}
	}
	return fields[0].Results
}

// composeAll has every message written: as it is sent, and as it is to arrive. Forgeries stand outside of what is
// signed; a signature is made without them, and goes on top.
func (w *chainWorld) composeAll(t *testing.T, mails []chainMail) (texts, kept [][]byte) {
	t.Helper()
	for _, m := range mails {
		q := chainQuestion{Do: "compose", Message: []byte(m.text), Steps: m.steps}
		if m.kept != "" {
			q.Message = []byte(m.kept)
		}
		clean := w.oracle.ask(t, q).Message
		text := clean
		if m.kept != "" {
			signature := bytes.TrimSuffix(clean, []byte(m.kept))
			text = append(bytes.Clone(signature), m.text...)
		}
		texts = append(texts, text)
		kept = append(kept, bytes.Replace(clean, []byte(chainSignedForgery), nil, 1))
	}
	return texts, kept
}

// fill puts defaults into what was left empty.
func (m *chainMail) fill() {
	set := func(s *string, value string) {
		if *s == "" {
			*s = value
		}
	}
	set(&m.client, "127.0.0.11")
	set(&m.helo, "mx.good.example")
	set(&m.from, "a@good.example")
	set(&m.text, chainPlain)
	set(&m.to, "tree.test")
	if strings.Contains(m.client, ":") {
		m.to = "six.test"
	}
}

// submitAll sends every message on its way.
func (w *chainWorld) submitAll(t *testing.T, mails []chainMail, texts [][]byte) {
	t.Helper()
	d, greeting, err := mta.Dial(mtatest.Context(t), w.exim.Addr(), "", nil)
	if err != nil || greeting.Code != 220 {
		t.Fatalf("Exim: %v, %v", greeting, err)
	}
	defer d.Close()
	realHear(t, d, 250, "EHLO client.test")
	dir := t.TempDir()
	for i, m := range mails {
		to := chainRecipient(i) + "@" + m.to
		if !m.swaks {
			w.submit(t, d, m, to, texts[i])
			continue
		}
		file := filepath.Join(dir, "text")
		end := "." // swaks ends lines of its own, and without fixing data up leaves the dot to us
		if err := os.WriteFile(file, append(bytes.Clone(texts[i]), end...), 0o600); err != nil {
			t.Fatal(err)
		}
		w.swaks(t, m, file, to)
	}
}

// sendAll sends every message on its way, and returns what Postfix delivered by local part of the recipient.
func (w *chainWorld) sendAll(t *testing.T, mails []chainMail, texts [][]byte) map[string][]byte {
	t.Helper()
	w.submitAll(t, mails, texts)
	delivered, err := w.postfix.WaitDelivered(mtatest.Context(t), len(mails))
	if err != nil {
		t.Fatal(err)
	}
	arrived := make(map[string][]byte)
	for _, m := range delivered {
		local, _, _ := strings.Cut(m.Recipient, "@")
		arrived[local] = m.Raw
	}
	return arrived
}

// chainSplit takes what arrived apart: Postfix's Received, our field, which it returns, our Received, and the message.
func chainSplit(t *testing.T, raw []byte, kept string) (field string) {
	t.Helper()
	top, whole := strings.CutSuffix(string(raw), kept)
	if !whole {
		t.Fatalf("below our fields is not what was sent; what arrived:\n%.4000q\nwhat was sent:\n%.4000q", raw, kept)
	}
	headers, err := arc.SplitHeader([]byte(top))
	if err != nil {
		t.Fatal(err)
	}
	var names []string
	for _, h := range headers {
		names = append(names, h.Name)
	}
	if got := strings.Join(names, " "); got != "Received Authentication-Results Received" {
		t.Fatalf("on top of the message stand %s:\n%s", got, top)
	}
	if !bytes.Contains(headers[0].Raw, []byte("(Postfix)")) || !bytes.Contains(headers[2].Raw, []byte("(Slipstream)")) {
		t.Errorf("on top of the message stand\n%s", top)
	}
	return string(headers[1].Raw)
}

// chainFound are the results of one message by method; dkim from the top down.
type chainFound struct {
	iprev, spf, helo, arc, dmarc string
	dkim                         []string
}

// chainWords finds the results in what authres read.
func chainWords(t *testing.T, results []chainResult) chainFound {
	t.Helper()
	var f chainFound
	for i, r := range results {
		switch r.Method {
		case "iprev":
			f.iprev = r.Value
		case "spf":
			// MAIL FROM is judged first, or for the null path HELO is alone.
			if f.spf == "" {
				f.spf = r.Value
			} else {
				f.helo = r.Value
			}
		case "dkim":
			f.dkim = append(f.dkim, r.Value)
		case "arc":
			f.arc = r.Value
			if oldest, ok := r.Properties["header.oldest-pass"]; ok {
				f.arc += "/" + oldest
			}
		case "dmarc":
			f.dmarc = r.Value
			if r.Value == "fail" {
				f.dmarc += "/" + r.Properties["policy.dmarc"]
			}
		default:
			t.Errorf("result %d is of %s", i, r.Method)
		}
	}
	return f
}

// String is the form of chainMail.want.
func (f chainFound) String() string {
	s := fmt.Sprintf("iprev=%s spf=%s", f.iprev, f.spf)
	if f.helo != "" {
		s += " helo=" + f.helo
	}
	return s + fmt.Sprintf(" dkim=%s arc=%s dmarc=%s", strings.Join(f.dkim, ","), f.arc, f.dmarc)
}

// identities holds what the results are about against what is known.
func (m chainMail) identities(t *testing.T, results []chainResult, theirs chainAnswer) {
	t.Helper()
	_, domain, _ := strings.Cut(m.from, "@")
	signatures := theirs.DKIM
	for _, r := range results {
		want := map[string]string{}
		switch r.Method {
		case "iprev":
			want["policy.iprev"] = m.client
		case "arc":
			want["smtp.remote-ip"] = m.client
		case "spf":
			if _, ok := r.Properties["smtp.mailfrom"]; ok {
				want["smtp.mailfrom"] = domain
			} else if m.helo[0] != '[' { // an address is no domain that could be judged
				want["smtp.helo"] = m.helo
			}
		case "dkim":
			if len(signatures) == 0 || len(r.Properties) == 0 {
				continue // not signed, or not looked at
			}
			if s := signatures[0]; s.Domain != "" {
				want["header.d"], want["header.s"] = s.Domain, s.Selector
			}
			signatures = signatures[1:]
		}
		for name, value := range want {
			if got := r.Properties[name]; got != value {
				t.Errorf("%s: %s=%q, want %q", r.Method, name, got, value)
			}
		}
	}
}
