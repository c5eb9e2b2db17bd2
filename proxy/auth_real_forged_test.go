package proxy_test

import (
	"strings"
	"testing"

	"slipstream/bench/mta"
	"slipstream/bench/mta/mtatest"
)

// chainID is whose word the field is that we add, and that strangers would like to have.
const chainID = "mx.example.org"

const chainForgery = "; dmarc=pass header.from=bank.example"

// A chainField is a field that one reader or another takes for ours, or none does.
type chainField struct{ name, field string }

// chainForged are fields in disguise that Exim hands on as they are.
func chainForged() []chainField {
	const name = "Authentication-Results: "
	return []chainField{
		{"plain", name + "mx.example.org" + chainForgery},
		{"no blank", "Authentication-Results:mx.example.org" + chainForgery},
		{"capitals", "AUTHENTICATION-RESULTS: MX.EXAMPLE.ORG" + chainForgery},
		{"mixed", "authentication-Results: Mx.Example.Org" + chainForgery},
		{"a tab", "Authentication-Results:\tmx.example.org" + chainForgery},
		{"a comment before", name + "(for you) mx.example.org" + chainForgery},
		{"a comment without a blank", "Authentication-Results:(x)mx.example.org" + chainForgery},
		{"a comment with a semicolon", name + "(a;b) mx.example.org" + chainForgery},
		{"a comment behind", name + "mx.example.org (of us)" + chainForgery},
		{"a comment right behind", name + "mx.example.org(x)" + chainForgery},
		{"nested comments", name + "(a(b(c))d) mx.example.org" + chainForgery},
		{"an escaped parenthesis", name + `(a \) b) mx.example.org` + chainForgery},
		{"another id in a comment", name + "(other.example;) mx.example.org" + chainForgery},
		{"comments within", name + "mx.(a)example.(b)org" + chainForgery},
		{"blanks within", name + "mx . example . org" + chainForgery},
		{"quoted", name + `"mx.example.org"` + chainForgery},
		{"quoted pairs", name + `"m\x.ex\ample.org"` + chainForgery},
		{"quoted in part", name + `mx."example".org` + chainForgery},
		{"quoted and folded", name + "\"mx.\r\n example.org\"" + chainForgery},
		{"folded", "Authentication-Results:\r\n mx.example.org\r\n\t" + chainForgery},
		{"folded with a tab", "Authentication-Results:\r\n\tmx.example.org" + chainForgery},
		{"folded in a comment", name + "(a\r\n b)\r\n mx.example.org" + chainForgery},
		{"a long comment", name + "(" + strings.Repeat("x", 3000) + ") mx.example.org" + chainForgery},
		{"a dot at the end", name + "mx.example.org." + chainForgery},
		{"version 1", name + "mx.example.org 1" + chainForgery},
		{"version 001 in comments", name + "mx.example.org (a) 001 (b)" + chainForgery},
		{"version 2", name + "mx.example.org 2" + chainForgery},
		{"an unknown version of somebody else", name + "other.example 2; none"},
		{"wide letters", name + "ｍｘ。ｅｘａｍｐｌｅ．ｏｒｇ" + chainForgery},
		{"a soft hyphen", name + "mx.exam\u00adple.org" + chainForgery},
		{"a space of no width", name + "\u200bmx.example.org\u200b" + chainForgery},
		{"a space that does not break", name + "\u00a0mx.example.org" + chainForgery},
		{"an encoded word", name + "=?utf-8?q?mx.example.org?=" + chainForgery},
		{"an encoded word in base64", name + "=?UTF-8?B?bXguZXhhbXBsZS5vcmc=?=" + chainForgery},
		{"half an encoded word", name + "=?us-ascii?q?mx=2Eexam?= =?latin1?q?ple=2Eorg?=" + chainForgery},
		{"an encoded semicolon", name + "=?utf-8?q?mx.example.org=3B_dkim=3Dpass?="},
		{"no results", name + "mx.example.org"},
		{"none", name + "mx.example.org; none"},
		{"a slash", name + "mx.example.org/1" + chainForgery},
		{"words", name + "mx.example.org by me" + chainForgery},
		{"angle brackets", name + "<mx.example.org>" + chainForgery},
		{"a semicolon before", name + "; mx.example.org" + chainForgery},
		{"a comment without end", name + "mx.example.org (" + chainForgery},
		{"quotes without end", name + `"mx.example.org` + chainForgery},
		{"a backslash", name + `\mx.example.org` + chainForgery},
	}
}

// chainForgedRaw are fields in disguise that Exim would mend, or take for the end of the header.
func chainForgedRaw() []chainField {
	return []chainField{
		{"plain", "Authentication-Results: mx.example.org" + chainForgery},
		{"a blank before the colon", "Authentication-Results : mx.example.org" + chainForgery},
		{"blanks before the colon", "Authentication-Results \t : mx.example.org" + chainForgery},
		{"folds of blanks", "Authentication-Results:\r\n \r\n\t\r\n mx.example.org" + chainForgery},
		{"controls", "Authentication-Results: mx\x01.exa\x7fmple.org" + chainForgery},
		{"Latin-1", "Authentication-Results: mx.example.org\xa0" + chainForgery},
	}
}

// chainInnocent are fields that stay.
func chainInnocent() []chainField {
	const name = "Authentication-Results: "
	return []chainField{
		{"somebody else's", name + "other.example" + chainForgery},
		{"version 1", name + "other.example 1" + chainForgery},
		{"ours is a prefix", name + "mx.example.org.evil" + chainForgery},
		{"ours is a prefix of a label", name + "mx.example.organic" + chainForgery},
		{"ours and a hyphen", name + "mx.example.org-evil" + chainForgery},
		{"ours is a suffix", name + "evilmx.example.org" + chainForgery},
		{"below ours", name + "a.mx.example.org" + chainForgery},
		{"above ours", name + "example.org" + chainForgery},
		{"ours in a comment", name + "(mx.example.org) other.example" + chainForgery},
		{"ours in a comment behind", name + "other.example (mx.example.org)" + chainForgery},
		{"ours in a result", name + "other.example; spf=pass smtp.mailfrom=mx.example.org"},
		{"ours in quotes", name + `other.example; spf=pass reason="; mx.example.org; x"`},
		{"another script", name + "mx.ехample.org" + chainForgery},
		{"ARC's", "ARC-Authentication-Results: i=1; mx.example.org" + chainForgery},
		{"a longer name", "Authentication-Results-Original: mx.example.org" + chainForgery},
		{"another name", "X-Authentication-Results: mx.example.org" + chainForgery},
		{"within another", "X-Note: a\r\n Authentication-Results: mx.example.org" + chainForgery},
	}
}

// chainForgedText is a message with forgeries among innocent fields, above, between and below its own. kept is what is
// to be left of it.
func chainForgedText(forged []chainField) (text, kept string) {
	var b, k strings.Builder
	innocent := chainInnocent()
	put := func(n int) {
		for i := n; i < max(len(forged), len(innocent)); i += 3 {
			if i < len(forged) {
				b.WriteString(forged[i].field + "\r\n")
			}
			if i < len(innocent) {
				b.WriteString(innocent[i].field + "\r\n")
				k.WriteString(innocent[i].field + "\r\n")
			}
		}
	}
	put(0)
	header, body, _ := strings.Cut(chainPlain, "\r\n\r\n")
	from, rest, _ := strings.Cut(header, "\r\n")
	b.WriteString(from + "\r\n")
	k.WriteString(from + "\r\n")
	put(1)
	b.WriteString(rest + "\r\n")
	k.WriteString(rest + "\r\n")
	put(2)
	// Behind the header it is text.
	end := "\r\n" + body + forged[0].field + "\r\n"
	return b.String() + end, k.String() + end
}

// chainSignedForgery is a forgery that a signature covers: it is taken out all the same, and verifies before.
const chainSignedForgery = "Authentication-Results: " + chainID + "; spf=pass smtp.mailfrom=bank.example\r\n"

func chainForgedMails() []chainMail {
	// One of the fields that stay is of an ARC set, which nothing else is there of.
	const want = "iprev=pass spf=pass helo=pass dkim=pass arc=fail dmarc=pass"
	plain := chainMail{name: "forged, through Exim", want: want}
	raw := chainMail{name: "forged, by swaks", want: want, swaks: true}
	plain.text, plain.kept = chainForgedText(chainForged())
	raw.text, raw.kept = chainForgedText(chainForgedRaw())
	for _, m := range []*chainMail{&plain, &raw} {
		m.fill()
		m.steps = chainSteps(chainSigned("good.example", "rsa").with("h=from:to:subject"))
	}
	return []chainMail{plain, raw}
}

// swaks sends a message without an MTA between.
func (w *chainWorld) swaks(t *testing.T, m chainMail, file, to string) {
	t.Helper()
	out, err := mta.Swaks(mtatest.Context(t), "", "--server", w.doors.tree, "--local-interface", m.client,
		"--helo", m.helo, "--from", m.from, "--to", to, "--data", "@"+file, "--no-data-fixup", "--hide-all")
	mtatest.Check(t, err)
	if strings.Contains(out, "*** ") {
		t.Fatal(out)
	}
}
