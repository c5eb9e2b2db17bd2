package auth

import (
	"fmt"
	"strings"
	"testing"
)

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

// TestUnknown: where a key or an SPF record cannot be looked up that might have had the message pass, nobody knows
// whether it fails. https://www.rfc-editor.org/rfc/rfc9989#section-5.3.6
func TestUnknown(t *testing.T) {
	const (
		records   = "example.com: p=reject"
		undecided = "temperror temperror example.com example.com reject -"
		fails     = "reject fail example.com example.com reject -"
	)
	runDMARC(t, []dmarcCase{
		{"a key", records, "example.com", "", "?example.com", undecided},
		{"an SPF record", records, "example.com", "?example.com", "", undecided},
		{"both", records, "example.com", "?example.com", "?example.com", undecided},
		{"a key below", records, "example.com", "", "?a.example.com", undecided},
		{"a key above", records, "a.example.com", "", "?example.com",
			"temperror temperror a.example.com example.com reject -"},
		{"one of several keys", records, "example.com", "other.test", "other.test ?evil.test ?example.com", undecided},
		{"in another case", records, "example.com", "?EXAMPLE.com.", "", undecided},
		{"alignment not known either", records + "\na.example.com: fails", "example.com", "", "?a.example.com",
			undecided},
		{"p=quarantine", "example.com: p=quarantine", "example.com", "", "?example.com",
			"temperror temperror example.com example.com quarantine -"},
		{"policy not known either", "example.com: p=none; np=reject\na.example.com: existence fails", "a.example.com",
			"", "?example.com", "temperror temperror a.example.com example.com - -"},

		{"passed otherwise", records, "example.com", "?example.com", "example.com",
			"accept pass example.com example.com reject dkim"},
		{"no record", "", "example.com", "?example.com", "?example.com", "norecord none example.com - - -"},

		{"a stranger's key", records, "example.com", "", "?evil.test ?example.com.evil.test ?badexample.com", fails},
		{"a stranger's SPF record", records, "example.com", "?evil.test", "", fails},
		{"a stranger whom nobody knows", records + "\nevil.com: fails\nevil.test: fails", "example.com", "?evil.test",
			"?evil.com", fails},
		{"another organization below", records + "\nb.example.com: p=none; psd=n", "example.com", "?b.example.com", "",
			fails},
		{"strict keys", records + "; adkim=s", "example.com", "", "?a.example.com", fails},
		{"strict SPF", records + "; aspf=s", "example.com", "?a.example.com", "", fails},
		{"strict, the very domain", records + "; adkim=s; aspf=s", "example.com", "?example.com", "", undecided},
		{"strict SPF alone", records + "; aspf=s", "example.com", "?a.example.com", "?a.example.com", undecided},
		{"what is no domain", records, "example.com", "?(x)", "?(y)", fails},
		{"two fields", records, "more than one From field: example.com", "?example.com", "?example.com", fails},
		{"two authors, one of them not known", "a.test: p=quarantine\nb.test: p=reject", "a.test b.test", "", "?b.test",
			"quarantine fail a.test a.test quarantine -"},
		{"two authors, p=none not known", "a.test: p=none\nb.test: p=reject", "a.test b.test", "?a.test", "?b.test",
			"temperror temperror b.test b.test reject -"},
	})
}

// TestNamed: an author in a display name alone has mail set aside, and the one in angle brackets has it refused.
func TestNamed(t *testing.T) {
	runDMARC(t, []dmarcCase{
		{"the other is aligned", "a.test: p=reject\nb.test: p=reject", "~a.test b.test", "b.test", "",
			"quarantine fail a.test a.test reject -"},
		{"neither is", "a.test: p=reject\nb.test: p=reject", "~a.test b.test", "", "",
			"reject fail b.test b.test reject -"},
		{"the other asks for quarantine", "a.test: p=reject\nb.test: p=quarantine", "~a.test b.test", "", "",
			"quarantine fail b.test b.test quarantine -"},
		{"the other asks for nothing", "a.test: p=reject\nb.test: p=none", "~a.test b.test", "", "",
			"quarantine fail a.test a.test reject -"},
		{"quarantine", "a.test: p=quarantine", "~a.test b.test", "b.test", "",
			"quarantine fail a.test a.test quarantine -"},
		{"none", "a.test: p=none\nb.test: p=none", "~a.test b.test", "b.test", "", "none fail a.test a.test none -"},
		{"it is aligned, the other not", "a.test: p=reject\nb.test: p=reject", "~a.test b.test", "a.test", "",
			"reject fail b.test b.test reject -"},
		{"both are", "a.test: p=reject\nb.test: p=reject", "~a.test b.test", "a.test", "b.test",
			"accept pass a.test a.test reject spf"},
		{"it is not known", "a.test: p=reject\nb.test: p=reject", "~a.test b.test", "?a.test", "b.test",
			"temperror temperror a.test a.test reject -"},
		{"neither is known", "a.test: p=reject\nb.test: p=reject", "~a.test b.test", "?a.test", "?b.test",
			"temperror temperror b.test b.test reject -"},
	})
	d := &DMARC{Resolver: dmarcCase{records: "a.test: p=reject"}.zone()}
	author := Author{Domains: []string{"a.test", "b.test"}, Named: []string{"a.test"}}
	v := d.Begin(t.Context(), author).Evaluate(t.Context(), Identifiers{})
	if !v.Named || !v.Each[0].Named || v.Each[1].Named || !strings.Contains(v.Reason, "display name") {
		t.Errorf("%+v", v)
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
			// Where nobody knows whether it fails, a sealer counts all the same.
			v := d.Begin(t.Context(), Author{Domains: []string{"example.com"}}).Evaluate(t.Context(),
				Identifiers{Seals: test.seals, SPFUnknown: "example.com"})
			if want := map[bool]Status{true: StatusAccept, false: StatusTempError}[test.by != ""]; v.Status != want ||
				v.Result != ResultTemperror {
				t.Errorf("not known: %+v", v)
			}
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
