package auth

import (
	"bytes"
	"strings"
	"testing"
	"unicode/utf8"

	"github.com/google/go-cmp/cmp"
)

// model is the field that an inbound message gets.
func model() Results {
	return Results{ID: "mx.example.org", List: []Result{
		{Method: MethodIPRev, Value: ResultPass, Properties: []Property{NewProperty(PropPolicyIPRev, "2001:db8::25")}},
		{Method: MethodSPF, Value: ResultPass, Properties: []Property{NewProperty(PropMailFrom, "sender.example")}},
		{Method: MethodDKIM, Value: ResultPass, Properties: []Property{
			NewProperty(PropHeaderD, "sender.example"), NewProperty(PropHeaderS, "k1"),
			NewProperty(PropHeaderA, "rsa-sha256"), NewProperty(PropHeaderB, "abcdEF12"),
		}},
		{Method: MethodARC, Value: ResultNone, Properties: []Property{NewProperty(PropRemoteIP, "2001:db8::25")}},
		{Method: MethodDMARC, Value: ResultPass, Properties: []Property{
			NewProperty(PropPolicyDMARC, "none"), NewProperty(PropHeaderFrom, "sender.example"),
		}},
	}}
}

func TestResultsField(t *testing.T) {
	const want = "Authentication-Results: mx.example.org;\r\n" +
		"\tiprev=pass policy.iprev=\"2001:db8::25\";\r\n" +
		"\tspf=pass smtp.mailfrom=sender.example;\r\n" +
		"\tdkim=pass header.d=sender.example header.s=k1 header.a=rsa-sha256\r\n" +
		"\theader.b=\"abcdEF12\";\r\n" +
		"\tarc=none smtp.remote-ip=\"2001:db8::25\";\r\n" +
		"\tdmarc=pass policy.dmarc=none header.from=sender.example\r\n"
	if diff := cmp.Diff(want, string(model().Field())); diff != "" {
		t.Error(diff)
	}
	if got := "Authentication-Results: " + string(model().Payload()) + "\r\n"; got != want {
		t.Errorf("payload: %q", got)
	}
	none := Results{ID: "MX.Example.Org."}
	if got := string(none.Field()); got != "Authentication-Results: mx.example.org; none\r\n" {
		t.Errorf("without results: %q", got)
	}
}

// TestResultsValues holds what becomes of the value of one property.
func TestResultsValues(t *testing.T) {
	long := strings.Repeat("x", 64)
	tests := []struct {
		rule               string
		method, prop, in   string
		ascii, internation string // what stands behind "="; "" where the property is left out; one value: both
	}{
		{"names", MethodDKIM, PropHeaderD, "Example.ORG.", "example.org", ""},
		{"", MethodDKIM, PropHeaderD, "bücher.example", "xn--bcher-kva.example", ""},
		{"", MethodDKIM, PropHeaderD, "_spf.example", "_spf.example", ""},
		{"", MethodDKIM, PropHeaderD, "-", "", ""},
		{"", MethodDKIM, PropHeaderD, "a b", "", ""},
		{"", MethodDKIM, PropHeaderD, "a;b", "", ""},
		{"", MethodDKIM, PropHeaderD, "a(b)", "", ""},
		{"", MethodDKIM, PropHeaderD, "a\r\nX: y", "", ""},
		{"", MethodDKIM, PropHeaderD, "a\x00b", "", ""},
		{"", MethodDKIM, PropHeaderD, "a..b", "", ""},
		{"", MethodDKIM, PropHeaderD, long, "", ""},
		{"", MethodDKIM, PropHeaderD, strings.Repeat("abcdefg.", 32), "", ""},
		{"", MethodDKIM, PropHeaderD, "\xff.example", "", ""},
		{"", MethodDKIM, PropHeaderS, "k1._x", "k1._x", ""},
		{"", MethodDKIM, PropHeaderS, "k/1", "", ""},

		{"mailboxes", MethodSPF, PropMailFrom, "a.b@Example.org", "a.b@example.org", ""},
		{"", MethodSPF, PropMailFrom, "example.org", "example.org", ""},
		{"", MethodDKIM, PropHeaderI, "@example.org", "@example.org", ""},
		{"", MethodDKIM, PropHeaderI, `"john doe"@example.org`, `"john doe"@example.org`, ""},
		{"", MethodSPF, PropMailFrom, `"john.doe"@example.org`, `john.doe@example.org`, ""},
		{"", MethodSPF, PropMailFrom, `"a\"b\\"@example.org`, `"a\"b\\"@example.org`, ""},
		{"", MethodSPF, PropMailFrom, `a..b@example.org`, `"a..b"@example.org`, ""},
		{"", MethodSPF, PropMailFrom, `"a@b"@example.org`, `"a@b"@example.org`, ""},
		{"", MethodSPF, PropMailFrom, `"a;b"@example.org`, `example.org`, ""},
		{"", MethodSPF, PropMailFrom, `"a(b"@example.org`, `example.org`, ""},
		{"", MethodSPF, PropMailFrom, `"a"b"@example.org`, `example.org`, ""},
		{"", MethodSPF, PropMailFrom, `"a\`, ``, ""},
		{"", MethodSPF, PropMailFrom, "a\tb@example.org", "example.org", ""},
		{"an encoded word", MethodSPF, PropMailFrom, "=?utf-8?q?=3Bdkim=3Dpass?=@example.org", "example.org", ""},
		{"", MethodSPF, PropMailFrom, "дима@пример.example", "xn--e1afmkfd.example", "дима@xn--e1afmkfd.example"},
		{"", MethodSPF, PropMailFrom, "a\u2028b@example.org", "example.org", ""},
		{"", MethodSPF, PropMailFrom, "a\xffb@example.org", "example.org", ""},
		{"", MethodSPF, PropMailFrom, strings.Repeat("x", 256) + "@example.org", "example.org", ""},
		{"", MethodSPF, PropMailFrom, "a@b c", "", ""},
		{"", MethodSPF, PropMailFrom, "<>", "", ""},
		{"", MethodSPF, PropMailFrom, "", "", ""},
		{"", MethodSPF, PropMailFrom, strings.Repeat("x", 600), "", ""},

		{"clients", MethodSPF, PropHelo, "mail.example.", "mail.example", ""},
		{"", MethodSPF, PropHelo, "[192.0.2.1]", `"[192.0.2.1]"`, ""},
		{"", MethodSPF, PropHelo, "[ipv6:2001:DB8::1]", `"[IPv6:2001:db8::1]"`, ""},
		{"", MethodSPF, PropHelo, "[2001:db8::1]", "", ""},
		{"", MethodSPF, PropHelo, "[192.0.2.1];x", "", ""},
		{"", MethodSPF, PropHelo, "[]", "", ""},

		{"addresses", MethodIPRev, PropPolicyIPRev, "192.0.2.1", "192.0.2.1", ""},
		{"", MethodIPRev, PropPolicyIPRev, "::ffff:192.0.2.1", "192.0.2.1", ""},
		{"", MethodIPRev, PropPolicyIPRev, "2001:DB8:0::1", `"2001:db8::1"`, ""},
		{"", MethodIPRev, PropPolicyIPRev, "fe80::1%eth0", "", ""},
		{"", MethodIPRev, PropPolicyIPRev, "192.0.2", "", ""},

		{"the rest", MethodDKIM, PropHeaderB, "ab+/cd==", `"ab+/cd=="`, ""},
		{"", MethodDKIM, PropHeaderB, `ab"c`, "", ""},
		{"", MethodDKIM, PropHeaderB, "ab;c", "", ""},
		{"", MethodDKIM, PropHeaderA, "RSA-sha256", "rsa-sha256", ""},
		{"", MethodDKIM, PropHeaderA, "rsa sha256", "", ""},
		{"", MethodARC, PropOldestPass, "0", "0", ""},
		{"", MethodARC, PropOldestPass, "-1", "", ""},
		{"", MethodAuth, PropAuth, "user", "user", ""},
		{"", MethodAuth, PropAuth, "EXAMPLE\\user", `"EXAMPLE\\user"`, ""},
		{"", MethodAuth, PropAuth, "us;er", "", ""},
		{"", MethodAuth, PropAuth, "usér", "", "usér"},
		{"", MethodAuth, PropAuth, "user@example.org", "user@example.org", ""},
		{"", MethodDNSWL, PropPolicyTXT, "a  (b);\r\nc \"d\"", `"a [b], c \"d\""`, ""},
		{"not of the method", MethodSPF, PropHeaderD, "example.org", "", ""},
		{"not registered", MethodARC, "arc.oldest-pass", "0", "", ""},
	}
	for _, tt := range tests {
		r := Results{ID: "x", List: []Result{{Method: tt.method, Value: ResultPass,
			Properties: []Property{NewProperty(tt.prop, tt.in)}}}}
		field := func(v string) string {
			if v == "" {
				return tt.method + "=pass"
			}
			return tt.method + "=pass " + tt.prop + "=" + v
		}
		if tt.internation == "" {
			tt.internation = tt.ascii
		}
		got := strings.ReplaceAll(strings.TrimPrefix(string(r.Payload()), "x;\r\n\t"), "\r\n", "")
		if strings.ReplaceAll(got, "\t", " ") != field(tt.ascii) {
			t.Errorf("%s %q: %q", tt.prop, tt.in, got)
		}
		got = strings.ReplaceAll(strings.TrimPrefix(string(r.PayloadUTF8()), "x;\r\n\t"), "\r\n", "")
		if strings.ReplaceAll(got, "\t", " ") != field(tt.internation) {
			t.Errorf("%s %q in UTF-8: %q", tt.prop, tt.in, got)
		}
	}
}

func TestResultsVocabulary(t *testing.T) {
	all := []string{ResultNone, ResultPass, ResultFail, ResultSoftfail, ResultPolicy, ResultNeutral, ResultTemperror,
		ResultPermerror}
	for method, want := range map[string]string{
		MethodDKIM:   "none pass fail policy neutral temperror permerror",
		MethodSPF:    "none pass fail softfail policy neutral temperror permerror",
		MethodDMARC:  "none pass fail temperror permerror",
		MethodARC:    "none pass fail",
		MethodIPRev:  "pass fail temperror permerror",
		MethodAuth:   "none pass fail temperror permerror",
		MethodDNSWL:  "none pass temperror permerror",
		"sender-id":  "",
		"x-anything": "",
		"none":       "",
	} {
		var got []string
		for _, value := range all {
			if hasResult(method, value) {
				got = append(got, value)
			}
		}
		if strings.Join(got, " ") != strings.Join(sortLike(all, want), " ") {
			t.Errorf("%s: %q, want %q", method, got, want)
		}
	}
	r := Results{ID: "x", List: []Result{{Method: MethodDKIM, Value: "tmperror"}, {Method: "dkim;x", Value: "pass"}}}
	if got := string(r.Payload()); got != "x; none" {
		t.Errorf("outside of the vocabulary: %q", got)
	}
}

// sortLike returns the words of want in the order of all.
func sortLike(all []string, want string) (out []string) {
	for _, v := range all {
		if strings.Contains(" "+want+" ", " "+v+" ") {
			out = append(out, v)
		}
	}
	return out
}

func TestResultsText(t *testing.T) {
	tests := []struct{ in, comment, reason, utf8 string }{
		{"key not found", "(key not found)", `"key not found"`, ""},
		{"a;b", "(a,b)", `"a,b"`, ""},
		{"a(b)c", `(a\(b\)c)`, `"a[b]c"`, ""},
		{")", `(\))`, `"]"`, ""},
		{`a\`, `(a\\)`, `"a\\"`, ""},
		{`say "no"`, `(say "no")`, `"say \"no\""`, ""},
		{"a\r\nBcc: x", "(a Bcc: x)", `"a Bcc: x"`, ""},
		{"a\x00\x7f\x1bb", "(a???b)", `"a???b"`, ""},
		{"  a \t b  ", "(a b)", `"a b"`, ""},
		{"=?utf-8?q?=3B?=", "(=_utf-8?q?=3B?=)", `"=_utf-8?q?=3B?="`, ""},
		{"grün", "(gr?n)", `"gr?n"`, "(grün)"},
		{"a\u202eb\u2028c", "(a?b c)", `"a?b c"`, ""},
		{"token", "(token)", "token", ""},
		{" ", "", "", ""},
	}
	for _, tt := range tests {
		c := Results{ID: "x", List: []Result{{Method: MethodSPF, Value: ResultFail, Comment: tt.in}}}
		r := Results{ID: "x", List: []Result{{Method: MethodSPF, Value: ResultFail, Reason: tt.in}}}
		want := strings.TrimSpace("x;\r\n\tspf=fail " + tt.comment)
		if got := string(c.Payload()); got != want {
			t.Errorf("comment %q: %q, want %q", tt.in, got, want)
		}
		if tt.utf8 != "" {
			if got := string(c.PayloadUTF8()); got != "x;\r\n\tspf=fail "+tt.utf8 {
				t.Errorf("comment %q in UTF-8: %q", tt.in, got)
			}
		}
		want = "x;\r\n\tspf=fail"
		if tt.reason != "" {
			want += " reason=" + tt.reason
		}
		if got := string(r.Payload()); got != want {
			t.Errorf("reason %q: %q, want %q", tt.in, got, want)
		}
	}
	long := Results{ID: "x", List: []Result{{Method: MethodSPF, Value: ResultFail,
		Reason: strings.Repeat("why not? ", 1000), Comment: strings.Repeat("ü", 1000)}}}
	checkField(t, long.Field())
	checkField(t, long.FieldUTF8())
	if n := len(long.Field()); n > 600 {
		t.Errorf("%d octets of a text without end", n)
	}
}

func TestResultsBounds(t *testing.T) {
	r := Results{ID: "mx.example.org"}
	for range 200 {
		one := Result{Method: MethodDKIM, Value: ResultPass}
		for range 200 {
			one.Properties = append(one.Properties, NewProperty(PropHeaderD, strings.Repeat("abcdefg.", 31)+"x"))
		}
		r.List = append(r.List, one)
	}
	field := r.Field()
	checkField(t, field)
	if got := bytes.Count(field, []byte("dkim=pass")); got != maxWrittenResults {
		t.Errorf("%d results", got)
	}
	if got := bytes.Count(field, []byte("header.d=")); got != maxWrittenResults*maxWrittenProperties {
		t.Errorf("%d properties", got)
	}
}

func TestCheckID(t *testing.T) {
	for _, id := range []string{"mx.example.org", "MX.Example.ORG", "bücher.example", "localhost", "mx1", "a!b"} {
		if err := CheckID(id); err != nil {
			t.Errorf("%q: %v", id, err)
		}
	}
	for _, id := range []string{"", " ", "a b", "a;b", "a\r\nb", "1", "1.2", `"a"`, "(a)", "a\xffb",
		strings.Repeat("a", 300), "a@b", "[192.0.2.1]"} {
		if err := CheckID(id); err == nil {
			t.Errorf("%q is taken", id)
		}
		if field := (Results{ID: id}).Field(); field != nil {
			t.Errorf("%q makes %q", id, field)
		}
	}
}

// checkField holds what is true of every field that we write.
func checkField(t *testing.T, field []byte) {
	t.Helper()
	if field == nil {
		return
	}
	if !utf8.Valid(field) || !bytes.HasPrefix(field, []byte("Authentication-Results: ")) {
		t.Fatalf("not a field: %q", field)
	}
	lines := bytes.SplitAfter(field, []byte("\r\n"))
	if len(lines[len(lines)-1]) != 0 {
		t.Fatalf("no CRLF at the end: %q", field)
	}
	for i, line := range lines[:len(lines)-1] {
		line = bytes.TrimSuffix(line, []byte("\r\n"))
		switch {
		case i > 0 && !isBlank(line[0]):
			t.Fatalf("a second field: %q", field)
		case len(bytes.TrimSpace(line)) == 0:
			t.Fatalf("a blank line: %q", field)
		case len(line) > 998:
			t.Fatalf("a line of %d octets: %q", len(line), line)
		case utf8.RuneCount(line) > foldAt && len(bytes.Fields(line)) > 2:
			t.Fatalf("a line of %d characters that could be folded: %q", utf8.RuneCount(line), line)
		}
		for j, c := range line {
			if c < ' ' && (c != '\t' || j > 0) || c == 0x7f {
				t.Fatalf("the octet %#02x in %q", c, line)
			}
		}
	}
	if bytes.Contains(field, []byte("=?")) {
		t.Fatalf("an encoded word: %q", field)
	}
}
