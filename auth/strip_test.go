package auth

import (
	"bytes"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"
)

// ours are the ids that the tests below strip.
var ours = []string{"mx.example.org", "Example.com", "bücher.example"}

const forged = "; dkim=pass header.d=bank.example"

// A disguise is a field that one reader or another takes for ours.
type disguise struct{ name, field string }

func disguises() []disguise {
	long := strings.Repeat("x", 1<<16)
	return []disguise{
		{"plain", "Authentication-Results: mx.example.org" + forged},
		{"no blank after the colon", "Authentication-Results:mx.example.org" + forged},
		{"name in capitals", "AUTHENTICATION-RESULTS: mx.example.org" + forged},
		{"id in capitals", "authentication-results: MX.EXAMPLE.ORG" + forged},
		{"another id of ours", "Authentication-Results: example.com" + forged},
		{"a comment before", "Authentication-Results: (for you) mx.example.org" + forged},
		{"a comment right before", "Authentication-Results:(x)mx.example.org" + forged},
		{"a comment with a semicolon before", "Authentication-Results: (a;b) mx.example.org" + forged},
		{"a comment after", "Authentication-Results: mx.example.org (of us)" + forged},
		{"a comment right after", "Authentication-Results: mx.example.org(x)" + forged},
		{"nested comments", "Authentication-Results: (a(b(c))d) mx.example.org" + forged},
		{"an escaped parenthesis in a comment", `Authentication-Results: (a \) b) mx.example.org` + forged},
		{"an id in a comment", "Authentication-Results: (other.example;) mx.example.org" + forged},
		{"a comment of 64 KB", "Authentication-Results: (" + long + ") mx.example.org" + forged},
		{"comments within", "Authentication-Results: mx.(a)example.(b)org" + forged},
		{"blanks within", "Authentication-Results: mx . example . org" + forged},
		{"quoted", `Authentication-Results: "mx.example.org"` + forged},
		{"quoted pairs", `Authentication-Results: "m\x.ex\ample.org"` + forged},
		{"quoted in part", `Authentication-Results: mx."example".org` + forged},
		{"a semicolon in the quotes", `Authentication-Results: "mx.example.org; x"` + forged},
		{"quoted and folded", "Authentication-Results: \"mx.\r\n example.org\"" + forged},
		{"folded", "Authentication-Results:\r\n mx.example.org\r\n\t" + forged},
		{"folded with a tab", "Authentication-Results:\r\n\tmx.example.org" + forged},
		{"folded with blank lines", "Authentication-Results:\r\n \r\n\t\r\n mx.example.org" + forged},
		{"folded in a comment", "Authentication-Results: (a\r\n b)\r\n mx.example.org" + forged},
		{"lines that end in LF", "Authentication-Results:\n mx.example.org" + strings.ReplaceAll(forged, " ", "\n ")},
		{"a blank before the colon", "Authentication-Results : mx.example.org" + forged},
		{"blanks before the colon", "Authentication-Results \t : mx.example.org" + forged},
		{"a fold before the colon", "Authentication-Results\r\n : mx.example.org" + forged},
		{"a dot at the end", "Authentication-Results: mx.example.org." + forged},
		{"version 1", "Authentication-Results: mx.example.org 1" + forged},
		{"version 001 in comments", "Authentication-Results: mx.example.org (a) 001 (b)" + forged},
		{"version 2", "Authentication-Results: mx.example.org 2" + forged},
		{"an A-label", "Authentication-Results: xn--bcher-kva.example" + forged},
		{"an A-label in capitals", "Authentication-Results: XN--BCHER-KVA.Example" + forged},
		{"a U-label", "Authentication-Results: bücher.example" + forged},
		{"a U-label in capitals", "Authentication-Results: BÜCHER.example" + forged},
		{"a U-label in two characters", "Authentication-Results: bu\u0308cher.example" + forged},
		{"wide letters and dots", "Authentication-Results: ｍｘ。ｅｘａｍｐｌｅ．ｏｒｇ" + forged},
		{"soft hyphens", "Authentication-Results: mx.exam\u00adple.org" + forged},
		{"a space of no width", "Authentication-Results: \u200bmx.example.org\u200b" + forged},
		{"a space that does not break", "Authentication-Results: \u00a0mx.example.org" + forged},
		{"a byte of Latin-1", "Authentication-Results: mx.example.org\xa0" + forged},
		{"an encoded word", "Authentication-Results: =?utf-8?q?mx.example.org?=" + forged},
		{"an encoded word in base64", "Authentication-Results: =?UTF-8?B?bXguZXhhbXBsZS5vcmc=?=" + forged},
		{"half an encoded word", "Authentication-Results: =?us-ascii?q?mx=2Eexam?= =?latin1?q?ple=2Eorg?=" + forged},
		{"an encoded word with the semicolon", "Authentication-Results: =?utf-8?q?mx.example.org=3B_dkim=3Dpass?="},
		{"an encoded word that ends a comment",
			"Authentication-Results: (=?utf-8?q?=29_mx.example.org=3B_dkim=3Dpass_=28?=) other.example; none"},
		{"an encoded word of a charset that few know", "Authentication-Results: =?utf-7?q?mx.example.org?=" + forged},
		{"an encoded word that is torn", "Authentication-Results: =?utf-8?b?bX!g?=" + forged},
		{"too many encoded words",
			"Authentication-Results: (" + strings.Repeat("=?utf-8?q?x?= ", 20) + ") other.example"},
		{"an encoded word and a version", "Authentication-Results: =?utf-8?q?mx.example.org?=1" + forged},
		{"an encoded word in base64 and a version",
			"Authentication-Results: =?us-ascii?b?bXguZXhhbXBsZS5vcmc=?=1" + forged},
		{"an id and an encoded word", "Authentication-Results: mx.example.org=?utf-8?q?1?=" + forged},
		{"an encoded word with another blank", "Authentication-Results: =?utf-8?q?mx.example.org=C2=A01?=" + forged},
		{"an encoded word with a byte of Latin-1", "Authentication-Results: =?latin1?q?mx.example.org=A01?=" + forged},
		{"a next line and a version", "Authentication-Results: mx.example.org\u00851" + forged},
		{"a space that does not break and a version", "Authentication-Results: mx.example.org\u00a01" + forged},
		{"a separator of lines and a version", "Authentication-Results: mx.example.org\u20281" + forged},
		{"a wide space and a version", "Authentication-Results: MX.example.org\u30001" + forged},
		{"a space of no width and a version", "Authentication-Results: mx.example.org\ufeff1" + forged},
		{"a byte of Latin-1 and a version", "Authentication-Results: mx.example.org\xa01" + forged},
		{"another blank in quotes", "Authentication-Results: \"mx.example.org\u00a01\"" + forged},
		{"another blank after an umlaut", "Authentication-Results: bücher.example\u20031" + forged},
		{"a semicolon before, after another blank", "Authentication-Results: \u00a0; mx.example.org" + forged},
		{"dots at the end", "Authentication-Results: mx.example.org..." + forged},
		{"dots at the end of a quoted id", `Authentication-Results: "mx.example.org.."` + forged},
		{"dots at the end of a U-label", "Authentication-Results: bücher.example。.." + forged},
		{"dots at the end, divided", "Authentication-Results: mx.example.org. . . 1" + forged},
		{"dots at the end of an encoded word", "Authentication-Results: =?utf-8?q?mx.example.org?=..1" + forged},
		{"no results", "Authentication-Results: mx.example.org"},
		{"no results, but a version", "Authentication-Results: mx.example.org 1"},
		{"none", "Authentication-Results: mx.example.org; none"},
		{"a slash after it", "Authentication-Results: mx.example.org/1" + forged},
		{"words after it", "Authentication-Results: mx.example.org by me" + forged},
		{"an equals sign after it", "Authentication-Results: mx.example.org=x" + forged},
		{"a comma after it", "Authentication-Results: mx.example.org, x" + forged},
		{"angle brackets", "Authentication-Results: <mx.example.org>" + forged},
		{"an at sign before", "Authentication-Results: @mx.example.org" + forged},
		{"a semicolon before", "Authentication-Results: ; mx.example.org" + forged},
		{"a comment without end after", "Authentication-Results: mx.example.org (" + forged},
		{"a comment without end before", "Authentication-Results: (mx.example.org" + forged},
		{"a comment that ends too often", "Authentication-Results: ()) mx.example.org" + forged},
		{"quotes without end", `Authentication-Results: "mx.example.org` + forged},
		{"quotes without begin", `Authentication-Results: mx.example.org"` + forged},
		{"a backslash before", `Authentication-Results: \mx.example.org` + forged},
		{"backslashes within", `Authentication-Results: mx\.example\.org` + forged},
		{"controls within", "Authentication-Results: mx\x01.exa\x7fmple.org" + forged},
		{"an unknown version", "Authentication-Results: other.example 2; none"},
		{"an unknown version of many digits", "Authentication-Results: other.example (a) 99999999999999999999 ; none"},
		{"version 0", "Authentication-Results: other.example 0"},
		{"an unknown version, and no semicolon", "Authentication-Results: other.example 3 (x) what else"},
		{"an international id without end", "Authentication-Results: " + strings.Repeat("m\u00ad", 5000) + forged},
	}
}

// lookAlikes are fields that stay.
func lookAlikes() []disguise {
	return []disguise{
		{"somebody else's", "Authentication-Results: other.example" + forged},
		{"somebody else's, version 1", "Authentication-Results: other.example 1" + forged},
		{"ours is a prefix", "Authentication-Results: example.com.evil" + forged},
		{"ours is a prefix of a label", "Authentication-Results: example.community" + forged},
		{"ours and a hyphen", "Authentication-Results: example.com-evil" + forged},
		{"ours and an underscore", "Authentication-Results: example.com_evil" + forged},
		{"ours and an odd letter", "Authentication-Results: example.com!evil" + forged},
		{"ours is a suffix", "Authentication-Results: evilexample.com" + forged},
		{"a host of ours with an id of its own", "Authentication-Results: host.example.com" + forged},
		{"the parent of ours", "Authentication-Results: example.org" + forged},
		{"ours in a comment before", "Authentication-Results: (mx.example.org) other.example" + forged},
		{"ours in a comment after", "Authentication-Results: other.example (mx.example.org)" + forged},
		{"ours in a result", "Authentication-Results: other.example; spf=pass smtp.mailfrom=mx.example.org"},
		{"ours in quotes", `Authentication-Results: other.example; spf=pass reason="; mx.example.org; x"`},
		{"quoted", `Authentication-Results: "other.example"` + forged},
		{"no id, ours is the sender", "Authentication-Results: spf=pass (sender IP is 192.0.2.1)\r\n" +
			" smtp.mailfrom=example.com; example.com; dkim=pass"},
		{"a letter of another script", "Authentication-Results: mx.ехample.org" + forged},
		{"an umlaut less", "Authentication-Results: bucher.example" + forged},
		{"an encoded word in a comment", "Authentication-Results: (=?utf-8?q?gr=C3=BCn?=) other.example" + forged},
		{"an encoded word in a result", "Authentication-Results: other.example; dkim=pass (=?koi8-r?q?mx?=)"},
		{"an encoded word that is not ours", "Authentication-Results: =?utf-8?q?other.example?=1" + forged},
		{"an encoded word before ours", "Authentication-Results: =?utf-8?q?other?=mx.example.org" + forged},
		{"another's, another blank and a version", "Authentication-Results: other.example\u00a01" + forged},
		{"ours behind another's and another blank", "Authentication-Results: other.example\u2028mx.example.org" + forged},
		{"another's with dots at the end", "Authentication-Results: other.example..." + forged},
		{"dots within", "Authentication-Results: mx..example.org" + forged},
		{"malformed, and not ours", "Authentication-Results: other example; (mx.example.org"},
		{"empty", "Authentication-Results:"},
		{"a comment alone", "Authentication-Results: (mx)"},
		{"ARC's", "ARC-Authentication-Results: i=1; mx.example.org" + forged},
		{"the name is longer", "Authentication-Results-Original: mx.example.org" + forged},
		{"the name is another", "X-Authentication-Results: mx.example.org" + forged},
		{"the name has a blank", "Authentication -Results: mx.example.org" + forged},
		{"the field continues another", "X-Note: a\r\n Authentication-Results: mx.example.org" + forged},
		{"no colon", "Authentication-Results mx.example.org" + forged},
	}
}

func TestStripOwnDisguises(t *testing.T) {
	for _, d := range disguises() {
		t.Run(d.name, func(t *testing.T) {
			for _, surroundings := range []struct{ before, after string }{
				{"", "\r\nSubject: x\r\n\r\nbody\r\n"},
				{"Received: y\r\n", "\r\n\r\nbody\r\n"},
				{"Received: y\r\n folded\r\n", "\r\n"},
				{"Received: y\r\n", ""},
				{" blank-led\r\n", "\r\nno field\r\n\r\n"},
			} {
				section := surroundings.before + d.field + surroundings.after
				want := surroundings.before + strings.TrimPrefix(surroundings.after, "\r\n")
				kept, removed := StripOwn([]byte(section), ours, false)
				if string(kept) != want || removed != 1 {
					t.Errorf("%d removed of %.200q: %.200q", removed, section, kept)
				}
			}
		})
	}
}

func TestStripOwnLookAlikes(t *testing.T) {
	for _, d := range lookAlikes() {
		section := []byte("Received: y\r\n" + d.field + "\r\nSubject: x\r\n\r\n")
		kept, removed := StripOwn(section, ours, false)
		if removed != 0 || &kept[0] != &section[0] || len(kept) != len(section) {
			t.Errorf("%s: %d removed: %q", d.name, removed, kept)
		}
	}
}

func TestStripOwnTrusted(t *testing.T) {
	const section = "Authentication-Results: other.example 2; x\r\nAuthentication-Results: mx.example.org 2; x\r\n" +
		"Authentication-Results: mx.example.org; none\r\n\r\n"
	if kept, n := StripOwn([]byte(section), ours, true); n != 2 || !strings.HasPrefix(section, string(kept[:40])) {
		t.Errorf("trusted: %d, %q", n, kept)
	}
	if kept, n := StripOwn([]byte(section), ours, false); n != 3 || string(kept) != "\r\n" {
		t.Errorf("not trusted: %d, %q", n, kept)
	}
	if kept, n := StripOwn([]byte(section), nil, true); n != 0 || string(kept) != section {
		t.Errorf("no id: %d, %q", n, kept)
	}
}

// TestStripOwnBody: what looks like a header behind the first empty line is none.
func TestStripOwnBody(t *testing.T) {
	const own = "Authentication-Results: mx.example.org; none\r\n"
	for _, body := range []string{
		own + "\r\n" + own,
		"--b\r\nContent-Type: message/rfc822\r\n\r\n" + own + "From: x\r\n\r\nx\r\n--b--\r\n",
	} {
		for _, header := range []string{"", "Subject: x\r\n", "Subject: x\r\n y\r\n"} {
			kept, removed := StripOwn([]byte(own+header+own+"\r\n"+body), ours, false)
			if removed != 2 || string(kept) != header+"\r\n"+body {
				t.Errorf("%d removed: %q", removed, kept)
			}
		}
	}
	for _, section := range []string{"", "\r\n", "\n", "\r\n" + own, " ", "x", ":"} {
		if kept, removed := StripOwn([]byte(section), ours, false); removed != 0 || string(kept) != section {
			t.Errorf("%q: %d removed: %q", section, removed, kept)
		}
	}
}

// TestStripOwnTogether strips all disguises out of one header, among all look-alikes.
func TestStripOwnTogether(t *testing.T) {
	var section, want []byte
	forgeries := disguises()
	for i, keep := range lookAlikes() {
		for range 3 {
			section = append(section, forgeries[i%len(forgeries)].field+"\r\n"...)
		}
		section = append(section, keep.field+"\r\n"...)
		want = append(want, keep.field+"\r\n"...)
	}
	before := bytes.Clone(section)
	kept, removed := StripOwn(section, ours, false)
	if removed != 3*len(lookAlikes()) || !bytes.Equal(kept, want) {
		t.Errorf("%d removed: %q", removed, kept)
	}
	if !bytes.Equal(section, before) {
		t.Error("the section was written to")
	}
	again, removed := StripOwn(kept, ours, false)
	if removed != 0 || !bytes.Equal(again, want) {
		t.Errorf("stripped again: %d removed", removed)
	}
}

// TestStripOwnBounds: no header takes long.
func TestStripOwnBounds(t *testing.T) {
	const size, long = 2 << 20, 20 << 20
	tests := []struct{ name, unit, tail string }{
		{"500 forgeries among long fields", "X: " + strings.Repeat("y", long/1000) + "\r\n" +
			"Authentication-Results: mx.example.org; none\r\n", ""},
		{"small forgeries", "Authentication-Results:mx.example.org\r\n", ""},
		{"small fields", "Authentication-Results:;\r\n", ""},
		{"torn ids", "Authentication-Results:" + strings.Repeat(" m", 64) + "\r\n", ""},
		{"torn ids of another script", "Authentication-Results:" + strings.Repeat(" ü", 64) + "\r\n", ""},
		{"ids of another script", "Authentication-Results:ü;\r\n", ""},
		{"long ids of another script", "Authentication-Results:" + strings.Repeat("ü", 500) + "\r\n", ""},
		{"long labels", "Authentication-Results:" + strings.Repeat("x", 4000) + ".ü\r\n", ""},
		{"encoded words", "Authentication-Results:" + strings.Repeat("=?utf-8?q?x?=", 16) + "\r\n", ""},
		{"folds", "\r\n ", "\r\n"},
		{"one comment", "(", "\r\n"},
		{"comments", "()", "\r\n"},
		{"comments without end", "Authentication-Results:" + strings.Repeat("(", 1000) + "\r\n", ""},
		{"quotes", `"`, "\r\n"},
		{"backslashes", `\`, "\r\n"},
		{"letters", "x", "\r\n"},
		{"letters of another script", "ü", "\r\n"},
		{"blanks", " ", "\r\n"},
		{"characters that say nothing", "\u00ad", "\r\n"},
		{"ids divided by other blanks", "Authentication-Results:ü" + strings.Repeat("\u00a0x", 32) + ";\r\n", ""},
		{"digits", "1", "\r\n"},
		{"the start of encoded words", "=?", "\r\n"},
		{"empty encoded words", "=?a?q??=", "\r\n"},
	}
	for _, tt := range tests {
		n := size
		if len(tt.unit) > 10000 || tt.unit == "(" {
			n = long
		}
		section := []byte(strings.Repeat(tt.unit, n/len(tt.unit)) + tt.tail)
		if tt.tail != "" {
			section = append([]byte("Authentication-Results: "), section...)
		}
		began := time.Now()
		_, removed := StripOwn(section, ours, false)
		took := time.Since(began)
		t.Logf("%-40s %8d removed in %v", tt.name, removed, took.Round(time.Millisecond))
		// Megabytes are read in a fraction of a second; what is quadratic takes minutes.
		if took > 20*time.Second {
			t.Errorf("%s: %v", tt.name, took)
		}
	}
}

func TestOnTop(t *testing.T) {
	fields := model().Field()
	for _, tt := range []struct {
		message string
		led     bool
	}{
		{"", false}, {"\r\nbody", false}, {"Subject: x\r\n\r\n", false}, {"no field\r\n", false},
		{" x\r\nSubject: y\r\n\r\n", true}, {"\tx\r\n", true}, {" \r\n", true},
	} {
		if got := BlankLed([]byte(tt.message)); got != tt.led {
			t.Errorf("%q: %v", tt.message, got)
		}
		top := OnTop(fields, []byte(tt.message))
		sent := string(top) + tt.message
		// Whatever the message begins with, our field is the first one, and as long as it was.
		for start, end := range fieldsOf(sent) {
			if start != 0 || sent[start:end] != string(fields) {
				t.Errorf("%q: the first field is %q", tt.message, sent[start:end])
			}
			break
		}
		if tt.led != (len(top) > len(fields)) || !strings.HasSuffix(sent, tt.message) {
			t.Errorf("%q: %q", tt.message, sent)
		}
		if top := OnTop(nil, []byte(tt.message)); len(top) != 0 {
			t.Errorf("nothing on top of %q: %q", tt.message, top)
		}
	}
	shared := append(make([]byte, 0, 4096), fields...)
	OnTop(shared, []byte(" x"))
	if tail := shared[len(shared) : len(shared)+1]; tail[0] != 0 {
		t.Error("OnTop writes behind the fields")
	}
}

func fieldsOf(s string) func(func(start, end int) bool) { return fields([]byte(s)) }

// FuzzStripOwn: what is kept is what was there, less whole fields that have the name; nothing is left to strip; what
// the parser takes for ours is gone.
func FuzzStripOwn(f *testing.F) {
	for _, d := range slices.Concat(disguises(), lookAlikes()) {
		f.Add([]byte("Received: y\r\n" + d.field + "\r\nSubject: x\r\n\r\n" + d.field + "\r\n"))
	}
	f.Fuzz(func(t *testing.T, section []byte) {
		kept, removed := StripOwn(section, ours, false)
		var want [][]byte
		gone, at := 0, 0
		own := newOwnIDs(ours)
		for start, end := range fields(section) {
			field := section[start:end]
			if start != at {
				t.Fatalf("the field at %d follows one that ends at %d", start, at)
			}
			at = end
			value, ok := resultsValue(field)
			if !ok {
				want = append(want, field)
				continue
			}
			if claimed, known := own.claimed(value); claimed || !known {
				gone++
				continue
			}
			want = append(want, field)
			if r, err := ParseResults(value); err == nil && newOwnIDs(ours).has([]byte(r.ID)) {
				t.Fatalf("%q is kept", field)
			}
		}
		want = append(want, section[at:])
		if gone != removed || !bytes.Equal(bytes.Join(want, nil), kept) {
			t.Fatalf("%d and %d removed of %q: %q", gone, removed, section, kept)
		}
		if _, again := StripOwn(kept, ours, false); again != 0 {
			t.Fatalf("%q leaves %q: %d more to remove", section, kept, again)
		}
	})
}

func ExampleStripOwn() {
	header := "Authentication-Results: (trust me) MX.Example.ORG; dkim=pass\r\n" +
		"Authentication-Results: mx.example.org.elsewhere.example; none\r\n"
	kept, removed := StripOwn([]byte(header), []string{"mx.example.org"}, false)
	fmt.Printf("%d\n%s", removed, kept)
	// Output:
	// 1
	// Authentication-Results: mx.example.org.elsewhere.example; none
}
