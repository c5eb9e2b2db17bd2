package auth

import (
	"slices"
	"strings"
	"testing"

	"pgregory.net/rapid"
)

func TestCanonicalDomain(t *testing.T) {
	for domain, want := range map[string]string{
		"Example.COM": "example.com", "example.com.": "example.com", "a_b.c-": "a_b.c-", "com": "com",
		"B\u00fccher.Example": "xn--bcher-kva.example", "stra\u00dfe.de": "xn--strae-oqa.de", "1.2.3.4": "1.2.3.4",
		"": "", ".": "", ".com": "", "a..b": "", "a b": "", "a\x00b": "", "a;b": "", "a\r\nb": "", "(a)": "",
		"a@b": "", "[::1]": "",
		"com..": "", "\xff.com": "", "a\u2028b.com": "", strings.Repeat("a", 64): "",
		strings.Repeat("a.", 128): "", strings.Repeat("\u00fc", 600): "", "xn--a.\u00fc": "",
	} {
		got, ok := CanonicalDomain(domain)
		if got != want || ok != (want != "") {
			t.Errorf("%.40q: got %q, %v; want %q", domain, got, ok, want)
		}
	}
}

// TestWalkNames has the examples of https://www.rfc-editor.org/rfc/rfc9989#section-4.10 and #appendix-B.4.
func TestWalkNames(t *testing.T) {
	for domain, want := range map[string]string{
		"com":           "com",
		"example.com":   "example.com com",
		"a.b.c.d.e.f.g": "a.b.c.d.e.f.g b.c.d.e.f.g c.d.e.f.g d.e.f.g e.f.g f.g g",
		"x.a.b.c.d.e.f.g": "x.a.b.c.d.e.f.g a.b.c.d.e.f.g b.c.d.e.f.g c.d.e.f.g d.e.f.g e.f.g " +
			"f.g g",
		"a.b.c.d.e.f.g.h.i.j.mail.example.com": "a.b.c.d.e.f.g.h.i.j.mail.example.com g.h.i.j.mail.example.com " +
			"h.i.j.mail.example.com i.j.mail.example.com j.mail.example.com mail.example.com example.com com",
		"a.b.c.d.e.f.g.h.i.j.k.example.com": "a.b.c.d.e.f.g.h.i.j.k.example.com g.h.i.j.k.example.com " +
			"h.i.j.k.example.com i.j.k.example.com j.k.example.com k.example.com example.com com",
	} {
		if got := strings.Join(walkNames(domain), " "); got != want {
			t.Errorf("%s:\n got %s\nwant %s", domain, got, want)
		}
	}
}

func TestWalkNamesProperties(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		labels := rapid.SliceOfN(rapid.StringMatching(`[a-z0-9]{1,3}`), 1, 60).Draw(t, "labels")
		domain := strings.Join(labels, ".")
		names := walkNames(domain)
		if len(names) > maxWalkQueries || names[0] != domain || names[len(names)-1] != labels[len(labels)-1] {
			t.Fatal(names)
		}
		for i, name := range names[1:] {
			if !within(domain, name) || countLabels(name) > maxWalkLabels || i > 0 &&
				countLabels(name)+1 != countLabels(names[i]) {
				t.Fatal(names)
			}
		}
	})
}

func TestOrganizational(t *testing.T) {
	tests := []struct {
		name, domain, records, want string // records: name=psd
	}{
		{"no record", "a.mail.example.com", "", "a.mail.example.com"},
		{"4.10.2, first example", "a.mail.example.com", "mail.example.com=u example.com=u", "example.com"},
		{"4.10.2, second example", "a.mail.example.com", "mail.example.com=n example.com=u", "mail.example.com"},
		{"4.10.2, last example", "a.mail.example.com", "com=y", "example.com"},
		{"4.10.2, rule 2", "mail.example.com", "example.com=y", "mail.example.com"},
		{"B.4.3, author", "giant.bank.example", "giant.bank.example=u bank.example=y", "giant.bank.example"},
		{"B.4.3, MAIL FROM", "mail.giant.bank.example", "giant.bank.example=u bank.example=y", "giant.bank.example"},
		{"B.4.3, signature", "mail.mega.bank.example", "bank.example=y", "mega.bank.example"},
		{"the suffix itself", "bank.example", "bank.example=y example=u", "bank.example"},
		{"psd=n where the walk starts", "a.example.com", "a.example.com=n example.com=u", "a.example.com"},
		{"the longest psd counts", "a.b.c.d", "b.c.d=n c.d=y d=n", "b.c.d"},
		{"a record at the top", "a.example", "example=u", "example"},
		{"psd=y beyond the jump", "a.b.c.d.e.f.g.h.i", "c.d.e.f.g.h.i=y", "b.c.d.e.f.g.h.i"},
		{"psd=n that the jump misses", "a.b.c.d.e.f.g.h.i", "b.c.d.e.f.g.h.i=n i=u", "i"},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			records := make(map[string]PSD)
			for _, r := range strings.Fields(test.records) {
				name, psd, _ := strings.Cut(r, "=")
				records[name] = PSD(psd)
			}
			var steps []walkStep
			for _, name := range walkNames(test.domain) {
				step := walkStep{name: name}
				if psd, ok := records[name]; ok {
					step.record = &DMARCRecord{PSD: psd}
				}
				steps = append(steps, step)
				if step.ends() {
					break
				}
			}
			if got := organizational(steps); got != test.want {
				t.Errorf("got %s, want %s", got, test.want)
			}
		})
	}
}

func FuzzCanonicalDomain(f *testing.F) {
	f.Add("B\u00fccher.example.")
	f.Add("xn--a.\uff0ecom")
	f.Fuzz(func(t *testing.T, domain string) {
		got, ok := CanonicalDomain(domain)
		if !ok {
			return
		}
		if again, ok := CanonicalDomain(got); !ok || again != got || len(got) > maxDomainName {
			t.Errorf("%q: %q, of which %q", domain, got, again)
		}
		if i := slices.IndexFunc([]byte(got), func(c byte) bool { return c != '.' && notInLabel(rune(c)) }); i >= 0 {
			t.Errorf("%q: %q", domain, got)
		}
	})
}
