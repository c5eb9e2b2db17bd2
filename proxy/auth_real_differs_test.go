package proxy_test

import (
	"fmt"
	"strings"
	"testing"
)

// A chainDifference is a result that somebody else has of a message, of which we say something else: and why.
type chainDifference struct{ mail, method, theirs, why string }

// chainDifferences are those that are meant. Where dkimpy differs, so does OpenDMARC, which is told what dkimpy found.
func chainDifferences() []chainDifference {
	const (
		follows = "it follows from dkim"
		length  = "RFC 6376, section 8.2: we trust none that leaves part of the body out; dkimpy does not look"
		open    = "RFC 9989, section 5.3.6: what might have passed did not fail; OpenDMARC takes temperror for fail"
		nothing = "RFC 9989, section 9.2: permerror is a result; OpenDMARC lets the message through without one"
	)
	return []chainDifference{
		{"dkim, a key for the domain itself, i= below", "dkim", "pass",
			"RFC 6376, section 3.6.1: with t=s the domain of i= is that of d=; dkimpy does not look at t="},
		{"dkim, a key for the domain itself, i= below", "dmarc", "pass", follows},
		{"dkim, a key for another hash", "dkim", "pass",
			"RFC 6376, section 3.6.1: h= has the hashes that a key is for; dkimpy does not look at it"},
		{"dkim, a key for another hash", "dmarc", "pass", follows},
		{"dkim, no author signed", "dkim", "pass", "RFC 6376, section 5.4: From must be signed; dkimpy does not ask for it"},
		{"dkim, no author signed", "dmarc", "pass", follows},
		{"dkim, l=, and more behind it", "dkim", "pass", length},
		{"dkim, l=, and more behind it", "dmarc", "pass", follows},
		{"dkim, twelve", "dkim", "pass" + strings.Repeat(",pass", 11),
			"RFC 6376, section 6.1: a verifier may limit how many signatures it tries; we try 10"},
		{"dmarc, the same in letters", "dmarc", "none",
			"RFC 9989, section 5.3.1: U-labels become A-labels; OpenDMARC asks for the letters"},
		{"form, SMTPUTF8", "dmarc", "none",
			"RFC 9989, section 5.3.1: U-labels become A-labels; OpenDMARC asks for the letters"},
		{"dmarc, np=", "dmarc", "fail/none",
			"RFC 9989, section 4.7: np= is for names that do not exist; OpenDMARC does not know it"},
		{"dmarc, t=y", "dmarc", "fail/reject",
			"RFC 9989, section 4.7: t=y makes the policy one less harsh; OpenDMARC does not know it"},
		{"dmarc, two records", "dmarc", "fail/reject",
			"RFC 9989, section 4.10: several records are discarded, all of them; OpenDMARC takes one"},
		{"dmarc, no usable policy, but an address", "dmarc", "permerror",
			"RFC 9989, section 4.10.1: as if the record said p=none; OpenDMARC gives up"},
		{"dmarc, v= is not first", "dmarc", "fail/reject",
			"RFC 9989, section 4.7: v= is the first tag, or there is no record; OpenDMARC takes it anywhere"},
		{"dmarc, nobody can tell", "dmarc", "none",
			"RFC 9989, section 9.2: a later attempt may tell, so temperror; OpenDMARC takes SERVFAIL for no record"},
		{"dmarc, SPF that nobody can tell", "dmarc", "fail/reject", open},
		{"dkim, a key that nobody can tell", "dmarc", "fail/reject", open},
		{"dmarc, strict, a subdomain", "dmarc", "pass",
			"RFC 9989, section 3.2.10.2: the very domain; OpenDMARC before 1.4.3 takes strict for relaxed"},
		{"dmarc, neighbours at a public suffix", "dmarc", "pass",
			"RFC 9989, section 4.10.2: below psd=y are domains of their own; OpenDMARC compares with the suffix"},
		{"organizational domain, tree.test", "dmarc", "pass", "RFC 9989, section 4.10.2: no record stands above " +
			"sub.own.example, which is then the organizational domain; by the list it is own.example"},
		{"author, two domains", "dmarc", "unjudged",
			"RFC 9989, section 11.5: each domain is judged, and the worst counts; OpenDMARC lets it through"},
		{"author, an address as a name", "dmarc", "pass",
			"RFC 9989, section 11.5: readers differ in which of two addresses they show, so both count"},
		{"author, an address of a host", "dmarc", "none",
			"RFC 9989, section 5.3.1: no domain can be extracted; OpenDMARC takes the brackets for one without a record"},
		{"author, nobody in brackets", "dmarc", "unjudged", nothing},
		{"author, a group of nobody", "dmarc", "unjudged", nothing},
		{"author, no domain", "dmarc", "unjudged", nothing},
		{"author, none", "dmarc", "unjudged", nothing},
	}
}

// compare holds our results against those of the others, and returns how many there are.
func (m chainMail) compare(t *testing.T, ours chainFound, theirs chainAnswer, verdict string) (compared int) {
	t.Helper()
	for _, row := range []struct{ method, ours, theirs, why string }{
		{"iprev", ours.iprev, theirs.IPRev, ""},
		{"spf", ours.spf, theirs.SPF.Value, theirs.SPF.Why},
		{"helo", ours.helo, theirs.HELO.Value, theirs.HELO.Why},
		{"dkim", chainCoarse(ours.dkim), chainSignatures(theirs.DKIM), fmt.Sprint(theirs.DKIM)},
		{"arc", ours.arc, chainOf(theirs.ARC), theirs.ARC.Why},
		{"dmarc", ours.dmarc, verdict, ""},
	} {
		compared++
		var known chainDifference
		for _, d := range chainDifferences() {
			if d.mail == m.name && d.method == row.method {
				known = d
			}
		}
		switch {
		case known.why == "" && row.ours != row.theirs:
			t.Errorf("%s: we say %s, others %s (%s)", row.method, row.ours, row.theirs, row.why)
		case known.why != "" && (known.theirs != row.theirs || row.ours == row.theirs):
			t.Errorf("%s: we say %s, others %s (%s); expected %s, since %s", row.method, row.ours, row.theirs, row.why,
				known.theirs, known.why)
		case known.why != "":
			t.Logf("%s: we say %s, others %s: %s", row.method, row.ours, row.theirs, known.why)
		}
	}
	return compared
}

// chainCoarse is as much of the results of DKIM as dkimpy tells: a signature verifies, or does not, or nobody knows.
func chainCoarse(values []string) string {
	var coarse []string
	for _, value := range values {
		switch value {
		case "policy", "neutral", "permerror":
			value = "fail"
		}
		coarse = append(coarse, value)
	}
	return strings.Join(coarse, ",")
}

func chainSignatures(found []chainWord) string {
	if len(found) == 0 {
		return "none"
	}
	var values []string
	for _, s := range found {
		values = append(values, s.Value)
	}
	return strings.Join(values, ",")
}

func chainOf(found chainWord) string {
	if found.Value == "pass" {
		return fmt.Sprintf("pass/%d", found.Oldest)
	}
	return found.Value
}
