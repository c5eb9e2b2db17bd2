package auth

import (
	"context"
	"fmt"
	"maps"
	"net"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"
)

// A dmarcDNS is a Resolver over the records of a test, and keeps a list of what it was asked.
type dmarcDNS struct {
	policies map[string]string // by domain; several records: one a line
	domains  map[string]bool   // what exists besides; false: the question fails
	broken   []string          // domains at whose _dmarc the question fails
	delay    time.Duration     // before every answer
	dead     bool              // no answer at all

	mu    sync.Mutex
	asked []string // "TXT _dmarc.example.com"
}

func (d *dmarcDNS) ask(ctx context.Context, qtype, name string) error {
	d.mu.Lock()
	d.asked = append(d.asked, qtype+" "+name)
	d.mu.Unlock()
	if d.delay > 0 || d.dead {
		answer := time.After(d.delay)
		if d.dead {
			answer = nil
		}
		select {
		case <-answer:
		case <-ctx.Done():
			return &net.DNSError{Err: "stopped", Name: name, IsTimeout: true, IsTemporary: true}
		}
	}
	return nil
}

func (d *dmarcDNS) LookupTXT(ctx context.Context, name string) ([]string, error) {
	if err := d.ask(ctx, "TXT", name); err != nil {
		return nil, err
	}
	domain, ok := strings.CutPrefix(name, "_dmarc.")
	if ok && slices.Contains(d.broken, domain) {
		return nil, &net.DNSError{Err: "server failure", Name: name, IsTemporary: true}
	}
	if text := d.policies[domain]; ok && text != "" {
		return strings.Split(text, "\n"), nil
	}
	return nil, &net.DNSError{Err: "no such record", Name: name, IsNotFound: true}
}

func (d *dmarcDNS) exists(ctx context.Context, qtype, name string) error {
	if err := d.ask(ctx, qtype, name); err != nil {
		return err
	}
	there, known := d.domains[name]
	if known && !there {
		return &net.DNSError{Err: "server failure", Name: name, IsTemporary: true}
	}
	if !there || qtype == "MX" {
		return &net.DNSError{Err: "no such record", Name: name, IsNotFound: true}
	}
	return nil
}

func (d *dmarcDNS) LookupMX(ctx context.Context, name string) ([]*net.MX, error) {
	return nil, d.exists(ctx, "MX", name)
}

func (d *dmarcDNS) LookupIPAddr(ctx context.Context, name string) ([]net.IPAddr, error) {
	return nil, d.exists(ctx, "A", name)
}

func (d *dmarcDNS) LookupAddr(context.Context, string) ([]string, error) { panic("not for DMARC") }

// A dmarcExistsDNS can tell NXDOMAIN.
type dmarcExistsDNS struct{ *dmarcDNS }

func (d dmarcExistsDNS) Exists(ctx context.Context, name string) (bool, error) {
	if err := d.ask(ctx, "ANY", name); err != nil {
		return false, err
	}
	return d.domains[name], nil
}

// dmarcCase is a message and what is to become of it.
type dmarcCase struct {
	name    string
	records string // "domain: record", one a line, without "v=DMARC1; "
	from    string // domains, or "fault: domains"
	spf     string
	dkim    string
	want    string // status result domain policydomain policy spf|dkim|both|-
}

// zone reads records.
func (c dmarcCase) zone() *dmarcDNS {
	dns := &dmarcDNS{policies: make(map[string]string), domains: make(map[string]bool)}
	for line := range strings.Lines(c.records) {
		domain, record, _ := strings.Cut(strings.TrimSpace(line), ": ")
		switch {
		case record == "exists":
			dns.domains[domain] = true
		case record == "existence fails":
			dns.domains[domain] = false
		case record == "fails":
			dns.broken = append(dns.broken, domain)
		case dns.policies[domain] != "":
			dns.policies[domain] += "\nv=DMARC1; " + record
		case strings.HasPrefix(record, "v="):
			dns.policies[domain] = record
		default:
			dns.policies[domain] = "v=DMARC1; " + record
		}
	}
	return dns
}

func (c dmarcCase) author() Author {
	fault, domains, ok := strings.Cut(c.from, ": ")
	if !ok {
		fault, domains = "", c.from
	}
	return Author{Domains: strings.Fields(domains), Fault: FromFault(fault)}
}

func (c dmarcCase) identifiers() Identifiers {
	return Identifiers{SPF: c.spf, DKIM: strings.Fields(c.dkim)}
}

// summary is a verdict in the words of dmarcCase.want.
func summary(v Verdict) string {
	or := func(s string) string {
		if s == "" {
			return "-"
		}
		return s
	}
	by := "-"
	switch {
	case v.SPFAligned && v.DKIMAligned:
		by = "both"
	case v.SPFAligned:
		by = "spf"
	case v.DKIMAligned:
		by = "dkim"
	}
	return strings.Join([]string{string(v.Status), or(v.Result), or(v.Domain), or(v.PolicyDomain), or(string(v.Policy)),
		by}, " ")
}

// TestAppendixB has the examples of https://www.rfc-editor.org/rfc/rfc9989#appendix-B.
func TestAppendixB(t *testing.T) {
	const (
		example = "example.com: p=reject"
		deep    = "a.b.c.d.e.f.g.h.i.j.k.example.com"
		bank    = "giant.bank.example: p=quarantine\nbank.example: p=reject; psd=y"
	)
	runDMARC(t, []dmarcCase{
		{"B.1.1 1, SPF strict", "example.com: p=reject; aspf=s", "example.com", "example.com", "",
			"accept pass example.com example.com reject spf"},
		{"B.1.1 2, SPF relaxed", example, "example.com", "child.example.com", "",
			"accept pass example.com example.com reject spf"},
		{"B.1.1 2, were it strict", example + "; aspf=s", "example.com", "child.example.com", "",
			"reject fail example.com example.com reject -"},
		{"B.1.1 3, SPF not aligned", example, "child.example.com", "example.net", "",
			"reject fail child.example.com example.com reject -"},
		{"B.1.2 1, DKIM strict", "example.com: p=reject; adkim=s", "example.com", "", "example.com",
			"accept pass example.com example.com reject dkim"},
		{"B.1.2 2, DKIM relaxed", example, "child.example.com", "", "example.com",
			"accept pass child.example.com example.com reject dkim"},
		{"B.1.2 2, were it strict", example + "; adkim=s", "child.example.com", "", "example.com",
			"reject fail child.example.com example.com reject -"},
		{"B.1.2 3, DKIM not aligned", example, "child.example.com", "", "example.net",
			"reject fail child.example.com example.com reject -"},
		{"B.2.1", "example.com: p=none; rua=mailto:dmarc-feedback@example.com", "example.com", "", "",
			"none fail example.com example.com none -"},
		{"B.2.5, testing", "test.example.com: p=quarantine; rua=mailto:dmarc-feedback@example.com," +
			"mailto:tld-test@thirdparty.example.net; t=y", "test.example.com", "", "",
			"none fail test.example.com test.example.com none -"},
		{"B.2.5, tested", "test.example.com: p=reject; rua=mailto:dmarc-feedback@example.com," +
			"mailto:tld-test@thirdparty.example.net", "test.example.com", "", "",
			"reject fail test.example.com test.example.com reject -"},
		{"B.3.1", "example.com: p=reject; aspf=r; rua=mailto:dmarc-feedback@example.com", "example.com",
			"mail.example.com", "example.com", "accept pass example.com example.com reject both"},
		{"B.4.1", "example.com: p=reject\nsigning.example.com: p=none", "example.com", "example.com",
			"signing.example.com", "accept pass example.com example.com reject both"},
		{"B.4.1, nothing passed", "example.com: p=reject\nsigning.example.com: p=none", "example.com", "", "",
			"reject fail example.com example.com reject -"},
		{"B.4.2", "example.com: p=reject; sp=quarantine\nsigning.example.com: p=none", deep, "example.com",
			"signing.example.com", "accept pass " + deep + " example.com quarantine both"},
		{"B.4.2, nothing passed", "example.com: p=reject; sp=quarantine\nsigning.example.com: p=none", deep, "", "",
			"quarantine fail " + deep + " example.com quarantine -"},
		{"B.4.3", bank, "giant.bank.example", "mail.giant.bank.example", "mail.mega.bank.example",
			"accept pass giant.bank.example giant.bank.example quarantine spf"},
		{"B.4.3, the signature alone", bank, "giant.bank.example", "", "mail.mega.bank.example",
			"quarantine fail giant.bank.example giant.bank.example quarantine -"},
		{"B.4.3, of the suffix itself", bank, "mega.bank.example", "mail.mega.bank.example", "bank.example",
			"accept pass mega.bank.example bank.example reject spf"},
	})
}

func TestDMARC(t *testing.T) {
	const np = "example.com: p=none; sp=quarantine; np=reject\n"
	runDMARC(t, []dmarcCase{
		{"no record", "", "example.com", "example.com", "example.com", "norecord none example.com - - -"},
		{"record of another version", "example.com: v=DMARC2; p=reject", "example.com", "", "",
			"norecord none example.com - - -"},
		{"two records", "example.com: p=reject\nexample.com: p=none", "example.com", "", "",
			"norecord none example.com - - -"},
		{"two records, one above", "a.example.com: p=reject\na.example.com: p=none\nexample.com: p=reject; sp=none",
			"a.example.com", "", "", "none fail a.example.com example.com none -"},
		{"a record and another text", "example.com: v=spf1\nexample.com: p=reject", "example.com", "", "",
			"reject fail example.com example.com reject -"},
		{"defective", "example.com: p=bob", "example.com", "example.com", "",
			"norecord permerror example.com example.com - -"},
		{"defective, with one above", "a.example.com: p=bob\nexample.com: p=reject", "a.example.com", "", "",
			"norecord permerror a.example.com a.example.com - -"},
		{"defective, with rua", "example.com: p=bob; rua=mailto:a@b.c", "example.com", "example.com", "",
			"accept pass example.com example.com none spf"},
		{"defective sp, with rua", "example.com: p=reject; sp=bob; rua=mailto:a@b.c", "example.com", "", "",
			"none fail example.com example.com none -"},

		{"np, it exists", np + "a.example.com: exists", "a.example.com", "", "",
			"quarantine fail a.example.com example.com quarantine -"},
		{"np, it does not", np, "a.example.com", "", "", "reject fail a.example.com example.com reject -"},
		{"np, not known", np + "a.example.com: existence fails", "a.example.com", "", "",
			"temperror temperror a.example.com example.com - -"},
		{"np, not known but passed", np + "a.example.com: existence fails", "a.example.com", "example.com", "",
			"accept pass a.example.com example.com quarantine spf"},
		{"np, of the domain itself", np, "example.com", "", "", "none fail example.com example.com none -"},
		{"np of a suffix", "com: p=none; np=reject; psd=y", "example.com", "", "",
			"reject fail example.com com reject -"},
		{"np and t", "example.com: p=none; np=reject; t=y", "a.example.com", "", "",
			"quarantine fail a.example.com example.com quarantine -"},
		{"psd=n between", "example.com: p=none\nb.example.com: p=reject; psd=n", "a.b.example.com", "", "example.com",
			"reject fail a.b.example.com b.example.com reject -"},
		{"a record between is not used", "example.com: p=none\nb.example.com: p=reject", "a.b.example.com", "", "",
			"none fail a.b.example.com example.com none -"},
		{"a record between is not used, with a suffix", "example: p=none; psd=y\nb.c.example: p=reject",
			"a.b.c.example",
			"", "", "none fail a.b.c.example example none -"},
		{"aligned with the top", "com: p=reject", "a.com", "b.com", "", "accept pass a.com com reject spf"},
		{"case and form of identifiers", "example.com: p=reject; adkim=s; aspf=s", "example.com", "EXAMPLE.com.",
			"evil.test Example.Com", "accept pass example.com example.com reject both"},
		{"U-label", "xn--bcher-kva.example: p=reject", "xn--bcher-kva.example", "", "b\u00fccher.example",
			"accept pass xn--bcher-kva.example xn--bcher-kva.example reject dkim"},
		{"identifier that is none", "example.com: p=reject", "example.com", "example.com\r\n.evil.test", "(x)",
			"reject fail example.com example.com reject -"},
		{"look-alike", "example.com: p=reject", "example.com", "badexample.com", "example.com.evil.test",
			"reject fail example.com example.com reject -"},

		{"failure at the author", "example.com: fails", "example.com", "example.com", "",
			"temperror temperror example.com - - -"},
		{"failure above, not needed", "example.com: p=reject\ncom: fails", "example.com", "example.com", "",
			"accept pass example.com example.com reject spf"},
		{"failure above, nothing passed", "example.com: p=reject\ncom: fails", "example.com", "", "",
			"reject fail example.com example.com reject -"},
		{"failure above, needed", "example.com: p=reject\ncom: fails", "example.com", "a.example.com", "",
			"temperror temperror example.com example.com reject -"},
		{"failure above, needed for the record", "com: fails", "example.com", "", "",
			"temperror temperror example.com - - -"},
		{"failure above psd=n", "example.com: p=reject; psd=n\ncom: fails", "example.com", "a.example.com", "",
			"accept pass example.com example.com reject spf"},
		{"failure at an identifier", "example.com: p=reject\na.example.com: fails", "example.com", "a.example.com", "",
			"temperror temperror example.com example.com reject -"},
		{"failure at a stranger's identifier", "example.com: p=reject\na.evil.test: fails\nevil.com: fails",
			"example.com",
			"a.evil.test", "evil.com", "reject fail example.com example.com reject -"},

		{"two authors, both pass", "a.test: p=reject\nb.test: p=none", "a.test b.test", "a.test", "b.test",
			"accept pass a.test a.test reject spf"},
		{"two authors, one fails", "a.test: p=reject\nb.test: p=quarantine", "a.test b.test", "a.test", "",
			"quarantine fail b.test b.test quarantine -"},
		{"two authors, the worst", "a.test: p=none\nb.test: p=reject", "a.test b.test", "", "",
			"reject fail b.test b.test reject -"},
		{"two authors, one without a record", "a.test: p=reject", "a.test b.test", "a.test", "",
			"norecord none b.test - - -"},
		{"two authors, one not known", "a.test: p=reject\nb.test: fails", "a.test b.test", "a.test", "",
			"temperror temperror b.test - - -"},
		{"no author", "", "no From field: ", "example.com", "", "nofrom permerror - - - -"},
		{"two fields", "a.test: p=reject", "more than one From field: a.test", "a.test", "a.test",
			"reject fail a.test a.test reject -"},
		{"two fields, no record", "", "more than one From field: a.test", "a.test", "a.test",
			"nofrom permerror a.test - - -"},
	})
}

func runDMARC(t *testing.T, cases []dmarcCase) {
	for _, c := range cases {
		t.Run(c.name, func(t *testing.T) {
			for _, candidates := range [][]string{nil, append(strings.Fields(c.dkim), c.spf)} {
				d := &DMARC{Resolver: c.zone()}
				v := d.Begin(t.Context(), c.author(), candidates...).Evaluate(t.Context(), c.identifiers())
				if got := summary(v); got != c.want {
					t.Errorf("candidates %q:\n got %s (%s)\nwant %s", candidates, got, v.Reason, c.want)
				}
			}
		})
	}
}

// TestPSL is the older way to find records and organizational domains.
func TestPSL(t *testing.T) {
	const records = "example.co.uk: p=reject; sp=quarantine\nco.uk: p=reject\nb.example.co.uk: p=none; psd=n"
	list, err := ParseSuffixes(strings.NewReader("test\n*.wild.test\n"))
	if err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		dmarcCase
		list *Suffixes
	}{
		{dmarcCase{"aligned", records, "example.co.uk", "a.example.co.uk", "",
			"accept pass example.co.uk example.co.uk reject spf"}, nil},
		{dmarcCase{"record above", records, "x.y.example.co.uk", "", "z.example.co.uk",
			"accept pass x.y.example.co.uk example.co.uk quarantine dkim"}, nil},
		{dmarcCase{"a suffix has no say", records, "other.co.uk", "example.co.uk", "co.uk",
			"norecord none other.co.uk - - -"}, nil},
		{dmarcCase{"psd has none either", records, "b.example.co.uk", "example.co.uk", "",
			"accept pass b.example.co.uk b.example.co.uk none spf"}, nil},
		{dmarcCase{"not aligned", records, "example.co.uk", "other.co.uk", "",
			"reject fail example.co.uk example.co.uk reject -"}, nil},
		{dmarcCase{"list of a file", "x.b.wild.test: p=reject", "a.x.b.wild.test", "y.x.b.wild.test", "",
			"accept pass a.x.b.wild.test x.b.wild.test reject spf"}, list},
		{dmarcCase{"list of a file, not aligned", "x.b.wild.test: p=reject", "x.b.wild.test", "y.b.wild.test", "",
			"reject fail x.b.wild.test x.b.wild.test reject -"}, list},
	} {
		t.Run(c.name, func(t *testing.T) {
			dns := c.zone()
			d := &DMARC{Resolver: dns, Discovery: PSL, Suffixes: c.list}
			v := d.Begin(t.Context(), c.author(), c.spf).Evaluate(t.Context(), c.identifiers())
			if got := summary(v); got != c.want {
				t.Errorf("got %s, want %s", got, c.want)
			}
			if len(dns.asked) > 2 {
				t.Errorf("asked %q", dns.asked)
			}
		})
	}
}

// TestQueries: what is asked is what the RFC's example of a deep name says, each name once, whoever wants to know.
func TestQueries(t *testing.T) {
	c := dmarcCase{records: "example.com: p=reject", from: "a.b.c.d.e.f.g.h.i.j.mail.example.com",
		spf: "mail.example.com", dkim: "example.com evil.test x.evil.test mail.example.com"}
	dns := c.zone()
	d := &DMARC{Resolver: dns}
	v := d.Begin(t.Context(), c.author()).Evaluate(t.Context(), c.identifiers())
	if v.Status != StatusAccept || v.OrgDomain != "example.com" {
		t.Errorf("%s, %s", v.Status, v.OrgDomain)
	}
	want := []string{
		"TXT _dmarc.a.b.c.d.e.f.g.h.i.j.mail.example.com", "TXT _dmarc.com", "TXT _dmarc.example.com",
		"TXT _dmarc.g.h.i.j.mail.example.com", "TXT _dmarc.h.i.j.mail.example.com", "TXT _dmarc.i.j.mail.example.com",
		"TXT _dmarc.j.mail.example.com", "TXT _dmarc.mail.example.com",
	}
	if diff := cmp.Diff(want, slices.Sorted(slices.Values(dns.asked))); diff != "" {
		t.Error(diff)
	}
}

// TestExistence: one question where the resolver can tell, and none where nothing depends on it.
func TestExistence(t *testing.T) {
	for _, test := range []struct{ records, asked, status string }{
		{"example.com: p=none; np=reject", "ANY a.example.com", "reject"},
		{"example.com: p=none; np=reject\na.example.com: exists", "ANY a.example.com", "none"},
		{"example.com: p=reject; np=reject", "", "reject"},
		{"a.example.com: p=none; np=reject", "", "none"},
	} {
		dns := dmarcCase{records: test.records}.zone()
		d := &DMARC{Resolver: dmarcExistsDNS{dns}}
		v := d.Begin(t.Context(), Author{Domains: []string{"a.example.com"}}).Evaluate(t.Context(), Identifiers{})
		others := slices.DeleteFunc(slices.Clone(dns.asked), func(q string) bool {
			return strings.HasPrefix(q,
				"TXT _dmarc")
		})
		if string(v.Status) != test.status || strings.Join(others, ", ") != test.asked {
			t.Errorf("%s: %s, asked %q", test.records, v.Status, others)
		}
	}
}

// TestQueriesBounded: whatever a message claims, the DNS is asked no more than the bounds say.
func TestQueriesBounded(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		name := rapid.Custom(func(t *rapid.T) string {
			n := rapid.IntRange(1, 12).Draw(t, "labels")
			labels := rapid.SliceOfN(rapid.SampledFrom([]string{"a", "b", "c"}), n, n).Draw(t, "name")
			return strings.Join(append(labels, "x"), ".")
		})
		dns := &dmarcDNS{policies: make(map[string]string)}
		for _, at := range rapid.SliceOfN(name, 0, 20).Draw(t, "records") {
			for _, domain := range walkNames(at) {
				dns.policies[domain] = rapid.SampledFrom([]string{"", "", "v=DMARC1; p=reject",
					"v=DMARC1; p=none; psd=y",
					"v=DMARC1; p=none; np=reject; psd=n", "v=DMARC1"}).Draw(t, "record")
			}
		}
		author := Author{Domains: rapid.SliceOfNDistinct(name, 0, 6, rapid.ID).Draw(t, "authors")}
		ids := Identifiers{
			SPF: name.Draw(t, "spf"), DKIM: rapid.SliceOfN(name, 0, 60).Draw(t, "dkim"),
		}
		d := &DMARC{Resolver: dns}
		v := d.Begin(context.Background(), author, append(ids.DKIM, ids.SPF)...).Evaluate(context.Background(), ids)
		if v.Result == ResultTemperror {
			t.Fatalf("temperror without one: %+v", v)
		}
		counts := make(map[string]int)
		policies := 0
		for _, q := range dns.asked {
			counts[q]++
			if strings.HasPrefix(q, "TXT _dmarc.") {
				policies++
			}
		}
		if m := slices.Max(append(slices.Collect(maps.Values(counts)), 0)); m > 1 {
			t.Fatalf("the same %d times: %q", m, dns.asked)
		}
		most := maxAuthorQueries + maxHintQueries + maxAlignQueries
		if policies > most || len(dns.asked) > most+3*maxAuthorDomains {
			t.Fatalf("%d questions, %d of them for records", len(dns.asked), policies)
		}
		// With one author and nobody else it is one walk.
		dns.asked = nil
		if len(author.Domains) > 0 {
			e := d.Begin(context.Background(), Author{Domains: author.Domains[:1]})
			if e.Evaluate(context.Background(), Identifiers{}); len(dns.asked) > maxWalkQueries+3 {
				t.Fatalf("%d questions: %q", len(dns.asked), dns.asked)
			}
		}
	})
}

// TestNoWait: what was asked when the header was there need not be waited for at the end of the message.
func TestNoWait(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := dmarcCase{records: "example.com: p=none; np=reject\nb.example.com: p=none", from: "a.example.com",
			spf: "bounce.b.example.com", dkim: "b.example.com other.test"}
		dns := c.zone()
		dns.delay = 50 * time.Millisecond
		d := &DMARC{Resolver: dmarcExistsDNS{dns}}
		ctx, cancel := context.WithTimeout(t.Context(), 5*time.Second)
		defer cancel()
		began := time.Now()
		e := d.Begin(ctx, c.author(), append(strings.Fields(c.dkim), c.spf)...)
		if took := time.Since(began); took != 0 {
			t.Errorf("Begin took %s", took)
		}
		time.Sleep(100 * time.Millisecond) // the client is sending the body
		end := time.Now()
		v := e.Evaluate(ctx, c.identifiers())
		if took := time.Since(end); took != 0 || summary(v) != "accept pass a.example.com example.com reject both" {
			t.Errorf("%s after %s", summary(v), took)
		}

		// Without a hint, and at once, it is two or three answers one after the other: record, existence, alignment.
		end = time.Now()
		d.Begin(ctx, c.author()).Evaluate(ctx, c.identifiers())
		if took := time.Since(end); took > 200*time.Millisecond {
			t.Errorf("took %s", took)
		}
	})
}

// TestDeadline: a dead resolver holds a message as long as the deadline says, and nothing is left running.
func TestDeadline(t *testing.T) {
	for name, begin := range map[string]bool{"context of Begin": true, "context of Evaluate": false} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				d := &DMARC{Resolver: &dmarcDNS{dead: true}}
				short, cancel := context.WithTimeout(t.Context(), 5*time.Second)
				defer cancel()
				first, second := t.Context(), short
				if begin {
					first, second = short, t.Context()
				}
				began := time.Now()
				e := d.Begin(first, Author{Domains: []string{"a.example.com", "b.test"}}, "x.example.com")
				v := e.Evaluate(second, Identifiers{SPF: "example.com"})
				if took := time.Since(began); took != 5*time.Second {
					t.Errorf("took %s", took)
				}
				if got := summary(v); got != "temperror temperror a.example.com - - -" ||
					v.Reason != "no answer in time" {
					t.Errorf("%s, %q", got, v.Reason)
				}
				// synctest fails where a goroutine is left.
			})
		})
	}
}

// TestLateHalf: the record came in time, what alignment needs did not.
func TestLateHalf(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		dns := dmarcCase{records: "example.com: p=reject"}.zone()
		dns.delay = 3 * time.Second
		d := &DMARC{Resolver: dns}
		ctx, cancel := context.WithTimeout(t.Context(), 5*time.Second)
		defer cancel()
		v := d.Begin(ctx, Author{Domains: []string{"example.com"}}).Evaluate(ctx, Identifiers{SPF: "a.example.com"})
		if got := summary(v); got != "temperror temperror example.com example.com reject -" {
			t.Error(got)
		}
		v = d.Begin(t.Context(), Author{Domains: []string{"example.com"}}).Evaluate(ctx,
			Identifiers{SPF: "example.com"})
		if got := summary(v); got != "temperror temperror example.com - - -" {
			t.Error(got)
		}
	})
}

func TestCloseWithoutEvaluate(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		d := &DMARC{Resolver: &dmarcDNS{dead: true}}
		e := d.Begin(t.Context(), Author{Domains: []string{"example.com"}}, "a.example.com")
		e.Close()
		e.Close()
	})
}

func TestTrustedSealers(t *testing.T) {
	seal := func(domain, results string) Seal { return Seal{Domain: domain, Results: []byte(results)} }
	const (
		pass  = " list.test; dkim=pass header.d=example.com;\r\n dmarc=pass (p=reject; x) header.from=Example.com"
		fail  = "list.test; dmarc=fail header.from=example.com"
		other = "list.test; dmarc=pass header.from=other.test"
	)
	tests := []struct {
		name  string
		seals []Seal
		by    string
	}{
		{"no chain", nil, ""},
		{"trusted", []Seal{seal("List.Test", pass)}, "list.test"},
		{"not trusted", []Seal{seal("evil.test", pass)}, ""},
		{"below a trusted one", []Seal{seal("a.list.test", pass)}, ""},
		{"it failed there too", []Seal{seal("list.test", fail)}, ""},
		{"of another author", []Seal{seal("list.test", other)}, ""},
		{"nonsense", []Seal{seal("list.test", "\x00;(")}, ""},
		{"trusted upon trusted", []Seal{seal("list.test", pass), seal("two.test", fail)}, "list.test"},
		{"trusted upon a stranger", []Seal{seal("evil.test", pass), seal("list.test", fail)}, ""},
		{"a stranger upon trusted", []Seal{seal("list.test", pass), seal("evil.test", fail)}, ""},
		{"the last who knows", []Seal{seal("evil.test", fail), seal("list.test", pass)}, "list.test"},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			d := &DMARC{Resolver: dmarcCase{records: "example.com: p=reject"}.zone(),
				TrustedSealers: []string{"list.test", "TWO.test"}}
			for _, fault := range []FromFault{"", FromRepeated} {
				author := Author{Domains: []string{"example.com"}, Fault: fault}
				v := d.Begin(t.Context(), author).Evaluate(t.Context(), Identifiers{Seals: test.seals})
				want := "reject fail example.com example.com reject -"
				if test.by != "" && fault == "" {
					want = "accept fail example.com example.com reject -"
				}
				if got := summary(v); got != want || (v.Sealer != "") != strings.HasPrefix(want, "accept") ||
					v.Sealer != "" && !strings.Contains(v.Reason, test.by) {
					t.Errorf("%q: got %s, %q", fault, got, v.Reason)
				}
			}
		})
	}
}

func TestAuthResult(t *testing.T) {
	record := &DMARCRecord{}
	for _, test := range []struct {
		v    Verdict
		want string
	}{
		{Off("trusted network"), ""},
		{Verdict{Status: StatusAccept, Result: ResultPass, Domain: "a.test", Policy: PolicyReject, Record: record},
			"dmarc pass [{policy dmarc reject} {header from a.test}] "},
		{Verdict{Status: StatusNoRecord, Result: ResultNone, Domain: "a.test"}, "dmarc none [{header from a.test}] "},
		{Verdict{Status: StatusNoFrom, Result: ResultPermerror, Reason: string(FromMissing)},
			"dmarc permerror [] no From field"},
	} {
		r, ok := test.v.AuthResult()
		got := ""
		if ok {
			got = fmt.Sprintf("%s %s %v %s", r.Method, r.Value, r.Properties, r.Reason)
		}
		if got != test.want {
			t.Errorf("got %q, want %q", got, test.want)
		}
	}
}

func TestEach(t *testing.T) {
	d := &DMARC{Resolver: dmarcCase{records: "a.test: p=reject\nb.test: p=none"}.zone()}
	v := d.Begin(t.Context(), Author{Domains: []string{"a.test", "b.test"}}).Evaluate(t.Context(),
		Identifiers{SPF: "b.test"})
	if len(v.Each) != 2 || v.Each[0].Status != StatusReject || v.Each[1].Status != StatusAccept ||
		v.Domain != "a.test" {
		t.Errorf("%+v", v)
	}
}
