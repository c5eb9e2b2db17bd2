package auth

import (
	"bytes"
	"net/mail"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"slipstream/auth/arc"
)

func TestParseFrom(t *testing.T) {
	tests := []struct {
		name    string
		from    string // the fields, "From:" included; lines end at \n
		domains string
		fault   FromFault
	}{
		{"bare", "From: joe@example.com\n", "example.com", ""},
		{"angle", "From: Joe <joe@Example.COM>\n", "example.com", ""},
		{"name of the field", "fROM: joe@example.com\n", "example.com", ""},
		{"space before the colon", "From : joe@example.com\n", "example.com", ""},
		{"no space", "From:joe@example.com\n", "example.com", ""},
		{"folded", "From:\n\tJoe\n <joe@\n example.com>\n", "example.com", ""},
		{"two authors, one domain", "From: a@example.com, b@EXAMPLE.com\nSender: a@example.com\n", "example.com", ""},
		{"two domains", "From: a@example.com, B <b@example.net>\n", "example.com example.net", ""},
		{"four domains", "From: a@a.test,a@b.test,a@c.test,a@d.test,a@a.test\n", "a.test b.test c.test d.test", ""},
		{"five domains", "From: a@a.test,a@b.test,a@c.test,a@d.test,a@e.test\n", "a.test b.test c.test d.test",
			FromTooMany},
		{"two fields", "From: a@example.com\nTo: b@example.com\nFrom: c@example.net\n", "example.com example.net",
			FromRepeated},
		{"the same field twice", "From: a@example.com\nFrom: a@example.com\n", "example.com", FromRepeated},
		{"six fields", strings.Repeat("From: a@example.com\n", 6), "example.com", FromRepeated},
		{"no field", "To: a@example.com\nX-From: a@example.com\n", "", FromMissing},
		{"empty field", "From:\n", "", FromNobody},
		{"null address", "From: <>\n", "", FromNobody},
		{"null address with a name", "From: \"Scanner\" <>\n", "", FromNobody},
		{"null address of blanks", "From: Scanner < (x) >\n", "", FromNobody},
		{"postmaster", "From: \"Mail Delivery\" <postmaster>\n", "", FromNobody},
		{"two nobodies", "From: <>, <joe>\n", "", FromNobody},
		{"nobody in a group", "From: Us:<joe>;\n", "", FromNobody},
		{"nobody, by a handle", "From: Joe @home <joe>\n", "", FromNobody},
		{"nobody, by a quoted address", "From: \"a@bank.test\" <>\n", "", FromNobody},
		{"nobody, by an address", "From: a@bank.test <>\n", "bank.test", FromMalformed},
		{"nobody and somebody", "From: <joe>, a@bank.test\n", "bank.test", FromMalformed},
		{"somebody and nobody", "From: a@bank.test, <>\n", "bank.test", FromMalformed},
		{"nobody not closed", "From: <joe\n", "", FromMalformed},
		{"nobody and words", "From: <joe> a@bank.test\n", "", FromMalformed},
		{"nobody by a route", "From: <@a.test:joe>\n", "", FromMalformed},
		{"nobody, twice", "From: <>\nFrom: a@bank.test\n", "bank.test", FromRepeated},
		{"no domain behind the at sign", "From: <joe@>\n", "", FromMalformed},
		{"only a name", "From: Joe\n", "", FromNobody},
		{"only a local part", "From: <joe>\n", "", FromNobody},

		{"empty group", "From: Nobody:;\n", "", FromNobody},
		{"group", "From: Us: a@example.com, B <b@example.net> ;\n", "example.com example.net", ""},
		{"group and mailbox", "From: Us:a@example.com;, b@example.net\n", "example.com example.net", ""},
		{"group not ended", "From: Us: a@example.com\n", "example.com", FromMalformed},
		{"group in a group", "From: Us: Them: a@example.com;;\n", "", FromMalformed},
		{"semicolon", "From: a@example.com;\n", "example.com", FromMalformed},
		{"group without a name", "From: : a@example.com;\n", "", FromMalformed},

		{"quoted local part", "From: \"a@evil.test\"@example.com\n", "example.com", ""},
		{"quoted local part, angle", "From: <\"a>,b@evil.test\\\"\"@example.com>\n", "example.com", ""},
		{"quoted name with an address", "From: \"ceo@bank.test\" <a@example.com>\n", "example.com", ""},
		{"quoted pair", "From: \"a\\\"<b@evil.test>\" <a@example.com>\n", "example.com", ""},
		{"quotation not ended", "From: \"Joe <a@example.com>\n", "", FromMalformed},
		{"local part in pieces", "From: \"a\" . b . \"c\"@example.com\n", "example.com", ""},
		{"dots of NTT", "From: a..b.@example.com\n", "example.com", ""},
		{"comments", "From: (x)a(y)@(z)example(evil.test).(w)com(v)\n", "example.com", ""},
		{"comments in comments", "From: a@example.com (b (c@evil.test) \\) <d@evil.test>)\n", "example.com", ""},
		{"comment not ended", "From: a@example.com (b\n", "example.com", FromMalformed},
		{"blanks about the dots", "From: <a@ example . com >\n", "example.com", ""},
		{"source route", "From: <@evil.test,@evil2.test:a@example.com>\n", "example.com", ""},
		{"empty source route", "From: <,,@evil.test:a@example.com>\n", "example.com", ""},
		{"source route alone", "From: <@evil.test>\n", "", FromMalformed},
		{"empty members", "From: ,, a@example.com ,,(x),\n", "example.com", ""},
		{"encoded word", "From: =?utf-8?q?J=C3=B6?= <a@example.com>\n", "example.com", ""},
		{"address in an encoded word", "From: =?utf-8?b?YUBleGFtcGxlLmNvbQ==?=\n", "", FromNobody},
		{"encoded word with an address", "From: =?utf-8?q?a@bank.test?= <a@example.com>\n",
			"example.com", ""},
		{"handle", "From: Joe @home <a@example.com>\n", "example.com", ""},
		{"old name with dots", "From: Joe Q. Public <a@example.com>\n", "example.com", ""},
		{"unquoted comma", "From: Public, Joe <a@example.com>\n", "example.com", ""},
		{"unquoted brackets", "From: [list] Joe <a@example.com>\n", "example.com", ""},
		{"Latin-1 name", "From: J\xf6 <a@example.com>\n", "example.com", ""},
		{"UTF-8 local part", "From: <j\u00f6@example.com>\n", "example.com", ""},

		{"unquoted address as the name", "From: a@bank.test <b@example.com>\n", "bank.test example.com", ""},
		{"the same address as the name", "From: a@example.com <a@example.com>\n", "example.com", ""},
		{"unquoted address in the name", "From: Joe a@bank.test via list <b@example.com>\n",
			"bank.test example.com", ""},
		{"at sign in the name", "From: Joe @ <b@example.com>\n", "example.com", ""},
		{"name without brackets", "From: Joe joe@example.com\n", "example.com", FromMalformed},
		{"two addresses, no comma", "From: a@example.com b@example.net\n", "example.com example.net", FromMalformed},
		{"two angles", "From: <a@example.com><b@example.net>\n", "example.com", FromMalformed},
		{"words behind", "From: <a@example.com> Joe\n", "example.com", FromMalformed},
		{"words behind a bare address", "From: a@example.com Joe\n", "example.com", FromMalformed},
		{"bracket not closed", "From: <a@example.com\n", "example.com", FromMalformed},
		{"bracket not opened", "From: a@example.com>\n", "example.com", FromMalformed},
		{"two brackets", "From: <<a@example.com>>\n", "", FromMalformed},
		{"final dot", "From: a@example.com.\n", "example.com", FromMalformed},
		{"two dots", "From: a@example..com\n", "example", FromMalformed},
		{"two at signs", "From: a@b@example.com\n", "b example.com", FromMalformed},
		{"quoted pair in the domain", "From: a@exam\\ple.com\n", "exam", FromMalformed},
		{"quoted domain", "From: a@\"example.com\"\n", "", FromMalformed},

		{"address literal", "From: a@[192.0.2.1]\n", "", FromLiteral},
		{"literal of a scanner", "From: \"Scanner\" <scanner@[192.168.1.5]>\n", "", FromLiteral},
		{"IPv6 literal", "From: <a@[IPv6:2001:db8::1]>\n", "", FromLiteral},
		{"IPv6 literal without a tag", "From: <a@[2001:db8::1]>\n", "", FromLiteral},
		{"blanks in the literal", "From: <a@ [ 192.0.2.1 ] >\n", "", FromLiteral},
		{"literal of the wrong kind", "From: <a@[IPv6:192.0.2.1]>\n", "", FromNoDomain},
		{"literal with a zone", "From: <a@[IPv6:fe80::1%eth0]>\n", "", FromNoDomain},
		{"a domain in brackets", "From: <a@[bank.test]>\n", "", FromNoDomain},
		{"empty brackets", "From: <a@[]>\n", "", FromNoDomain},
		{"literal and a domain behind", "From: <a@[192.0.2.1].bank.test>\n", "", FromMalformed},
		{"literal, then worse", "From: a@[192.0.2.1], b@bank.test@c.test\n", "bank.test c.test", FromMalformed},
		{"literal, then no domain", "From: a@[192.0.2.1], a@[bank.test]\n", "", FromNoDomain},
		{"literal, by an address", "From: a@bank.test <a@[192.0.2.1]>\n", "bank.test", FromLiteral},
		{"literal and nobody", "From: a@[192.0.2.1], <joe>\n", "", FromMalformed},
		{"literal not closed", "From: a@[192.0.2.1\n", "", FromMalformed},
		{"one of two is a literal", "From: a@example.com, b@[192.0.2.1]\n", "example.com", FromLiteral},
		{"one label", "From: root@localhost\n", "localhost", ""},
		{"underscore", "From: a@my_host.example.com\n", "my_host.example.com", ""},
		{"U-label", "From: a@B\u00fccher.example\n", "xn--bcher-kva.example", ""},
		{"U-label and A-label", "From: a@b\u00fccher.example, b@XN--BCHER-KVA.example\n", "xn--bcher-kva.example", ""},
		{"ideographic full stop", "From: a@example\u3002com\n", "example.com", ""},
		{"wide letters", "From: a@\uff45xample.com\n", "example.com", ""},
		{"Latin-1 domain", "From: a@b\xfccher.example\n", "", FromNoDomain},
		{"wide at sign in the domain", "From: a@b\uff20example.com\n", "", FromNoDomain},
		{"percent sign", "From: a@ex%61mple.com\n", "", FromNoDomain},
		{"label of 64", "From: a@" + strings.Repeat("a", 64) + ".com\n", "", FromNoDomain},
		{"domain of 254", "From: a@" + strings.Repeat("a.", 125) + "comm\n", "", FromNoDomain},
		{"domain of 253", "From: a@" + strings.Repeat("a.", 125) + "com\n", strings.Repeat("a.", 125) + "com", ""},

		{"NUL", "From: a@example.com\x00\n", "example.com", FromMalformed},
		{"NUL in the domain", "From: a@example\x00.com\n", "example", FromMalformed},
		{"NUL in the name", "From: \"a\x00\" <a@example.com>\n", "", FromMalformed},
		{"NUL quoted", "From: \"a\\\x00\" <a@example.com>\n", "", FromMalformed},
		{"NUL in a comment", "From: (\x00) a@example.com\n", "", FromMalformed},
		{"bare CR", "From: a@example.com\r, b@example.net\n", "example.com", FromMalformed},
		{"longest", "From: \"" + strings.Repeat("x", maxFrom-16) + "\" <a@a.test>\n", "a.test", ""},
		{"too long", "From: \"" + strings.Repeat("x", maxFrom) + "\" <a@a.test>\n", "", FromTooLong},
		{"deep", "From: " + strings.Repeat("(", 8000) + strings.Repeat(")", 8000) + "a@a.test\n", "a.test", ""},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			headers, err := arc.SplitHeader([]byte(strings.ReplaceAll(test.from, "\n", "\r\n")))
			if err != nil {
				t.Fatal(err)
			}
			got := ParseFrom(headers)
			if domains := strings.Join(got.Domains, " "); domains != test.domains || got.Fault != test.fault {
				t.Errorf("got %q, %q; want %q, %q", domains, got.Fault, test.domains, test.fault)
			}
		})
	}
}

// TestParseFromNamed: whose address stands in a display name alone, beside somebody's that does not.
func TestParseFromNamed(t *testing.T) {
	for _, test := range []struct{ from, domains, named string }{
		{"a@bank.test <b@example.com>", "bank.test example.com", "bank.test"},
		{"a@Bank.test via Helpdesk <b@example.com>", "bank.test example.com", "bank.test"},
		{"a@bank.test, or b@two.test <c@example.com>", "bank.test two.test example.com", "two.test"},
		{"a@bank.test b@two.test <c@example.com>", "bank.test two.test example.com", "bank.test two.test"},
		{"a@example.com <a@example.com>", "example.com", ""},
		{"\"a@bank.test\" <b@example.com>", "example.com", ""},
		{"a@bank.test <b@example.com>, c@bank.test", "bank.test example.com", ""},
		{"c@bank.test, a@bank.test <b@example.com>", "bank.test example.com", ""},
		{"a@bank.test <b@example.com>, a@bank.test <c@two.test>", "bank.test example.com two.test", "bank.test"},
		{"g: a@bank.test <b@example.com>;", "bank.test example.com", "bank.test"},
		{"me @home <b@example.com>", "example.com", ""},

		// Where something is wrong, whatever stands there may be what is shown.
		{"a@bank.test <b@example.com> x", "bank.test example.com", ""},
		{"a@bank.test <b@example.com", "bank.test example.com", ""},
		{"a@bank.test <>", "bank.test", ""},
		{"a@bank.test <b@[192.0.2.1]>", "bank.test", ""},
		{"a@bank.test <b@example.com>, <joe>", "bank.test example.com", ""},
		{"a@bank.test <b@example.com>\r\nFrom: c@example.com", "bank.test example.com", ""},
		{"a@a.test b@b.test c@c.test d@d.test <e@example.com>", "a.test b.test c.test d.test", ""},
	} {
		headers, err := arc.SplitHeader([]byte("From: " + test.from + "\r\n"))
		if err != nil {
			t.Fatal(err)
		}
		a := ParseFrom(headers)
		if domains, named := strings.Join(a.Domains, " "), strings.Join(a.Named, " "); domains != test.domains ||
			named != test.named {
			t.Errorf("%q: got %q, names %q; want %q, %q", test.from, domains, named, test.domains, test.named)
		}
	}
}

func TestDeceptive(t *testing.T) {
	for fault, want := range map[FromFault]bool{
		"": false, FromMissing: false, FromNobody: false, FromLiteral: false, FromRepeated: true, FromTooLong: true,
		FromMalformed: true, FromNoDomain: true, FromTooMany: true, faultyHeader: true,
	} {
		if fault.Deceptive() != want {
			t.Errorf("%q: %v", fault, !want)
		}
	}
}

// TestParseFromBareLF: bare line feeds get no further than the door, but nothing may depend on that.
func TestParseFromBareLF(t *testing.T) {
	a := ParseFrom([]arc.Header{{Name: "From", Raw: []byte("From: a@example.com\n\t, b@example.net\r\n")}})
	if a.Fault != FromMalformed {
		t.Errorf("fault %q", a.Fault)
	}
}

// TestParseFromUnicodeBounded: making A-labels is what costs, so there is an end to it.
func TestParseFromUnicodeBounded(t *testing.T) {
	for n, want := range map[int]FromFault{maxFromUnicode: "", maxFromUnicode + 1: FromTooMany} {
		value := "From: " + strings.Repeat("a@b\u00fccher.example,", n) + "\r\n"
		a := ParseFrom([]arc.Header{{Name: "From", Raw: []byte(value)}})
		if a.Fault != want || !slices.Equal(a.Domains, []string{"xn--bcher-kva.example"}) {
			t.Errorf("%d: %+v", n, a)
		}
	}
	if _, ok := CanonicalDomain(strings.Repeat("\ufdfa", maxLabelText/3+1)); ok {
		t.Error("a label of that length is taken")
	}
}

// BenchmarkParseFromWorst reads the most expensive fields that are known.
func BenchmarkParseFromWorst(b *testing.B) {
	label := strings.Repeat("\ufdfa", maxLabelText/3) + "."
	for name, unit := range map[string]string{
		"expanding": "a@" + strings.Repeat(label, 4) + "x ", "names": "a@b.c ", "u-labels": "a@\u00fc\u4e2d\u0634.x ",
	} {
		value := "From: " + strings.Repeat(unit, (maxFrom-30)/len(unit)) + "<a@b.c>\r\n"
		headers := slices.Repeat([]arc.Header{{Name: "From", Raw: []byte(value)}}, maxFromFields)
		b.Run(name, func(b *testing.B) {
			for b.Loop() {
				ParseFrom(headers)
			}
		})
	}
}

// TestParseFromSuite reads the messages and the reports of a foreign test suite.
func TestParseFromSuite(t *testing.T) {
	dir := dmarcSuites(t, "dmarc")
	want := map[string]string{
		"001.eml": "example.com", "002.eml": "example.com", "003.eml": "example.com",
		"004.eml": "box.mydomain.name", "005.eml": "mail.receiver.example",
	}
	for name, domain := range want {
		text, err := os.ReadFile(filepath.Join(dir, name))
		if err != nil {
			t.Fatal(err)
		}
		text = bytes.ReplaceAll(bytes.ReplaceAll(text, []byte("\r\n"), []byte("\n")), []byte("\n"), []byte("\r\n"))
		headers, err := arc.SplitHeader(text)
		if err != nil {
			t.Fatal(err)
		}
		if a := ParseFrom(headers); a.Fault != "" || !slices.Equal(a.Domains, []string{domain}) {
			t.Errorf("%s: got %+v, want %s", name, a, domain)
		}
	}
}

// dmarcSuites is a directory of foreign test data.
func dmarcSuites(t *testing.T, name string) string {
	t.Helper()
	dir := os.Getenv("SLIPSTREAM_SUITES")
	if dir == "" {
		dir = filepath.Join("..", "..", "shared", "suites")
	}
	dir = filepath.Join(dir, name)
	if _, err := os.Stat(dir); err != nil {
		t.Skipf("no test suite %s (%v); SLIPSTREAM_SUITES names the directory of suites", name, err)
	}
	return dir
}

func FuzzParseFrom(f *testing.F) {
	for _, seed := range []string{
		"a@example.com", "Joe <joe@example.com>, \"x@y\"@z", "<@a,@b:c@d>", "g: a@b, c@d;", "a@[192.0.2.1]",
		"=?utf-8?q?a?= (x(y)) <a . b @ c . d>", "a@b <c@d>", "a@b\u00fccher.example", "\r\n \"\\\"\" @ x.y",
		"a@b c@d <", "a@b.c via D <d@e.f>", "<>, x@[1.2.3.4]", "a@b.c <d@[IPv6:::1]>",
	} {
		f.Add([]byte(seed))
	}
	f.Fuzz(func(t *testing.T, value []byte) {
		raw := slices.Concat([]byte("From:"), value, []byte("\r\n"))
		a := ParseFrom([]arc.Header{{Name: "From", Raw: raw}})
		if len(a.Domains) > maxAuthorDomains || len(a.Domains) == 0 && a.Fault == "" {
			t.Fatalf("%q: %+v", value, a)
		}
		for _, d := range a.Named {
			if a.Fault != "" || !slices.Contains(a.Domains, d) || len(a.Named) == len(a.Domains) {
				t.Fatalf("%q: %+v", value, a)
			}
		}
		for _, d := range a.Domains {
			if again, ok := CanonicalDomain(d); !ok || again != d {
				t.Fatalf("%q: domain %q", value, d)
			}
		}
		if a.Fault != "" || len(value) > 200 {
			return
		}
		// What another parser takes as well, it takes the same way.
		list, err := (&mail.AddressParser{}).ParseList(string(value))
		if err != nil {
			return
		}
		for _, address := range list {
			domain, ok := CanonicalDomain(address.Address[strings.LastIndexByte(address.Address, '@')+1:])
			if !ok || !slices.Contains(a.Domains, domain) {
				t.Errorf("%q: got %q, but net/mail found %q", value, a.Domains, address.Address)
			}
		}
	})
}
