package auth

import (
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

func TestParseRecord(t *testing.T) {
	mailto := func(address string) []ReportURI {
		return []ReportURI{{Text: "mailto:" + address, Scheme: "mailto", Mailbox: address}}
	}
	tests := []struct {
		name, text string
		want       DMARCRecord // what differs from the defaults
	}{
		{"B.2.1", "v=DMARC1; p=none; rua=mailto:dmarc-feedback@example.com",
			DMARCRecord{P: PolicyNone, RUA: mailto("dmarc-feedback@example.com")}},
		{"B.2.2", "v=DMARC1; p=none; rua=mailto:dmarc-feedback@example.com; ruf=mailto:auth-reports@example.com",
			DMARCRecord{P: PolicyNone, RUA: mailto("dmarc-feedback@example.com"),
				RUF: mailto("auth-reports@example.com")}},
		{"B.2.3, the receiver of reports", "v=DMARC1;", DMARCRecord{P: PolicyNone, Defective: true}},
		{"B.2.4", "v=DMARC1; rua=mailto:aggregate-reports@thirdparty.example.net; " +
			"ruf=mailto:failure-reports@thirdparty.example.net",
			DMARCRecord{P: PolicyNone, RUA: mailto("aggregate-reports@thirdparty.example.net"),
				RUF: mailto("failure-reports@thirdparty.example.net")}},
		{"B.2.5", "v=DMARC1; p=quarantine; rua=mailto:dmarc-feedback@example.com," +
			"mailto:tld-test@thirdparty.example.net; t=y",
			DMARCRecord{P: PolicyQuarantine, Testing: true,
				RUA: append(mailto("dmarc-feedback@example.com"), mailto("tld-test@thirdparty.example.net")...)}},
		{"everything", "v=DMARC1;p=reject;sp=quarantine;np=none;psd=y;t=n;adkim=s;aspf=s;fo=1:d:s;ruf=mailto:a@b.c",
			DMARCRecord{P: PolicyReject, SP: PolicyQuarantine, NP: PolicyNone, PSD: PSDYes, ADKIM: Strict, ASPF: Strict,
				FO: "1:d:s", RUF: mailto("a@b.c")}},
		{"case", "V = DMARC1 ; P\t=\tReJect ; PSD=N; T=Y; ADKIM=S",
			DMARCRecord{P: PolicyReject, PSD: PSDNo, Testing: true, ADKIM: Strict}},
		{"removed and unknown tags", "v=DMARC1; p=reject; pct=0; rf=afrf; ri=1; x=y; ünknown=1; =; ;; =x",
			DMARCRecord{P: PolicyReject}},
		{"nonsense", "v=DMARC1; p=reject; adkim=x; aspf=; psd=yes; t=1; fo=2; ruf=mailto:a@b.c",
			DMARCRecord{P: PolicyReject, RUF: mailto("a@b.c")}},
		{"the first of two", "v=DMARC1; p=reject; p=none", DMARCRecord{P: PolicyReject}},
		{"fo without ruf", "v=DMARC1; p=none; fo=1", DMARCRecord{P: PolicyNone}},
		{"fo twice 0 and 1", "v=DMARC1; p=none; fo=0:1; ruf=mailto:a@b.c",
			DMARCRecord{P: PolicyNone, RUF: mailto("a@b.c")}},
		{"fo twice d", "v=DMARC1; p=none; fo=d:d; ruf=mailto:a@b.c", DMARCRecord{P: PolicyNone, RUF: mailto("a@b.c")}},

		{"no p", "v=DMARC1; sp=reject", DMARCRecord{P: PolicyNone, Defective: true}},
		{"no p, rua", "v=DMARC1; sp=reject; rua=mailto:a@b.c", DMARCRecord{P: PolicyNone, RUA: mailto("a@b.c")}},
		{"wrong p", "v=DMARC1; p=bob", DMARCRecord{P: PolicyNone, Defective: true}},
		{"wrong p, rua", "v=DMARC1; p=bob; np=reject; rua=mailto:a@b.c",
			DMARCRecord{P: PolicyNone, RUA: mailto("a@b.c")}},
		{"wrong p, rua that is none", "v=DMARC1; p=bob; rua=a@b.c", DMARCRecord{P: PolicyNone, Defective: true}},
		{"wrong p, foreign rua", "v=DMARC1; p=; rua=https://b.c/d?e",
			DMARCRecord{P: PolicyNone, RUA: []ReportURI{{Text: "https://b.c/d?e", Scheme: "https"}}}},
		{"wrong sp", "v=DMARC1; p=reject; sp=x", DMARCRecord{P: PolicyNone, Defective: true}},
		{"wrong np, rua", "v=DMARC1; p=reject; np=x; rua=mailto:a@b.c",
			DMARCRecord{P: PolicyNone, RUA: mailto("a@b.c")}},
		{"NUL in p", "v=DMARC1; p=rej\x00ect", DMARCRecord{P: PolicyNone, Defective: true}},
		{"UTF-8 in p", "v=DMARC1; p=\u00a0reject", DMARCRecord{P: PolicyNone, Defective: true}},

		{"size limits", "v=DMARC1; p=none; rua=mailto:a@b.c!10m , MAILTO:d@E.f!5",
			DMARCRecord{P: PolicyNone, RUA: append(mailto("a@b.c"),
				ReportURI{Text: "MAILTO:d@E.f", Scheme: "mailto", Mailbox: "d@e.f"})}},
		{"addresses that are none", "v=DMARC1; p=none; rua=mailto:a@b.c!x,mailto:,mailto:@b.c,mailto:a@," +
			"mailto:a b@c.d,mailto:a%0d%0ab@c.d,mailto:a@b@c.d,1x:y,:y,mailto:%zz@b.c,,mailto:a@[192.0.2.1]",
			DMARCRecord{P: PolicyNone}},
		{"percent and header fields", "v=DMARC1; p=none; rua=mailto:a%2Cb%21@c.d?subject=x",
			DMARCRecord{P: PolicyNone}},
		{"header fields", "v=DMARC1; p=none; rua=mailto:a%21@c.d?subject=x%0d%0aBcc:e@f",
			DMARCRecord{P: PolicyNone, RUA: []ReportURI{{Text: "mailto:a%21@c.d?subject=x%0d%0aBcc:e@f",
				Scheme: "mailto", Mailbox: "a!@c.d"}}}},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			got, ok := ParseRecord(test.text)
			if !ok {
				t.Fatal("not a record")
			}
			want := test.want
			want.Text = test.text
			for _, d := range []struct {
				to *string
				is string
			}{{(*string)(&want.PSD), "u"}, {(*string)(&want.ADKIM), "r"}, {(*string)(&want.ASPF), "r"}, {&want.FO,
				"0"}} {
				if *d.to == "" {
					*d.to = d.is
				}
			}
			if diff := cmp.Diff(want, got); diff != "" {
				t.Error(diff)
			}
		})
	}
}

func TestParseRecordNone(t *testing.T) {
	for _, text := range []string{
		"", "v", "v=", "v=DMARC", "v=dmarc1; p=reject", "v=DMARC1 p=reject", "v=DMARC1p=none", "v=DMARC2; p=none",
		" v=DMARC1; p=none", "\tv=DMARC1; p=none", ";v=DMARC1; p=none", "p=none; v=DMARC1", "v=spf1 -all",
		"v=DMARC1\x00;p=none",
		"v==DMARC1; p=none", "\"v=DMARC1; p=none\"", "v\n=DMARC1", "v=DMARC1; p=none;" + strings.Repeat(" ", maxRecord),
	} {
		if r, ok := ParseRecord(text); ok {
			t.Errorf("%.40q is a record: %+v", text, r)
		}
	}
}

func TestParseRecordReportURIsBounded(t *testing.T) {
	r, ok := ParseRecord("v=DMARC1; p=none; rua=" + strings.Repeat("mailto:a@b.c,", 100))
	if !ok || len(r.RUA) != maxReportURIs {
		t.Errorf("%v, %d addresses", ok, len(r.RUA))
	}
	if d := r.RUA[0].Domain(); d != "b.c" {
		t.Errorf("domain %q", d)
	}
	if d := (ReportURI{Scheme: "https"}).Domain(); d != "" {
		t.Errorf("domain %q of a web address", d)
	}
}

func TestPolicyFor(t *testing.T) {
	tests := []struct {
		record                    string
		own, subdomain, notExists Policy
	}{
		{"p=reject", PolicyReject, PolicyReject, PolicyReject},
		{"p=reject; sp=none", PolicyReject, PolicyNone, PolicyNone},
		{"p=none; np=reject", PolicyNone, PolicyNone, PolicyReject},
		{"p=none; sp=quarantine; np=reject", PolicyNone, PolicyQuarantine, PolicyReject},
		{"p=reject; t=y", PolicyQuarantine, PolicyQuarantine, PolicyQuarantine},
		{"p=quarantine; sp=none; np=reject; t=y", PolicyNone, PolicyNone, PolicyQuarantine},
		{"p=none; t=y", PolicyNone, PolicyNone, PolicyNone},
	}
	for _, test := range tests {
		r, ok := ParseRecord("v=DMARC1; " + test.record)
		if !ok {
			t.Fatal(test.record)
		}
		if own, sub, not := r.policyFor(true, true), r.policyFor(false, false), r.policyFor(false,
			true); own != test.own ||
			sub != test.subdomain || not != test.notExists {
			t.Errorf("%s: got %s, %s, %s", test.record, own, sub, not)
		}
	}
}

func FuzzParseRecord(f *testing.F) {
	for _, seed := range []string{
		"v=DMARC1; p=reject; sp=none; np=quarantine; psd=n; t=y; adkim=s; aspf=r; fo=1:d; ruf=mailto:a@b.c",
		"v=DMARC1;", "v=DMARC1; rua=mailto:a%40b@c!10m,https://d", "v=DMARC1;p=none;;=;v=DMARC1",
	} {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, text string) {
		r, ok := ParseRecord(text)
		if !ok {
			return
		}
		for _, p := range []Policy{r.P, r.policyFor(false, false), r.policyFor(false, true)} {
			if p != PolicyNone && p != PolicyQuarantine && p != PolicyReject {
				t.Errorf("%q: policy %q", text, p)
			}
		}
		for _, u := range append(r.RUA, r.RUF...) {
			if strings.ContainsAny(u.Mailbox, "\r\n\x00<> ") || (u.Scheme == "mailto") != (u.Mailbox != "") {
				t.Errorf("%q: address %+v", text, u)
			}
			if again, ok := parseReportURI(u.Text); !ok || again != u {
				t.Errorf("%q: %+v read again is %+v", text, u, again)
			}
		}
		// A tag that nobody knows, at the end, changes nothing.
		longer, ok := ParseRecord(text + ";zz=1")
		longer.Text = text
		if ok && cmp.Diff(longer, r) != "" {
			t.Errorf("%q: %s", text, cmp.Diff(longer, r))
		}
	})
}
