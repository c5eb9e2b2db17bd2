package auth

import (
	"bytes"
	"errors"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

func TestParseResults(t *testing.T) {
	prop := NewProperty
	tests := []struct {
		rule string
		in   string
		want Results
	}{
		{"https://www.rfc-editor.org/rfc/rfc8601#appendix-B.2", " example.org 1; none",
			Results{ID: "example.org", Version: 1}},
		{"B.3", " example.com;\r\n        spf=pass smtp.mailfrom=example.net\r\n",
			Results{ID: "example.com", Version: 1, List: []Result{{Method: "spf", Value: "pass",
				Properties: []Property{prop(PropMailFrom, "example.net")}}}}},
		{"B.4", " example.com;\r\n auth=pass (cram-md5) smtp.auth=sender@example.net;\r\n spf=pass " +
			"smtp.mailfrom=example.net\r\n",
			Results{ID: "example.com", Version: 1, List: []Result{
				{Method: "auth", Value: "pass", Comment: "cram-md5",
					Properties: []Property{prop(PropAuth, "sender@example.net")}},
				{Method: "spf", Value: "pass", Properties: []Property{prop(PropMailFrom, "example.net")}}}}},
		{"B.6", " example.com;\r\n dkim=pass reason=\"good signature\"\r\n  header.i=@mail-router.example.net;\r\n" +
			" dkim=fail reason=\"bad signature\"\r\n  header.i=@newyork.example.com\r\n",
			Results{ID: "example.com", Version: 1, List: []Result{
				{Method: "dkim", Value: "pass", Reason: "good signature",
					Properties: []Property{prop(PropHeaderI, "@mail-router.example.net")}},
				{Method: "dkim", Value: "fail", Reason: "bad signature",
					Properties: []Property{prop(PropHeaderI, "@newyork.example.com")}}}}},
		{"B.7, comments everywhere", " foo.example.net (foobar) 1 (baz);\r\n" +
			"    dkim (Because I like it) / 1 (One yay) = (wait for it) fail\r\n" +
			"      policy (A dot can go here) . (like that) expired\r\n" +
			"      (this surprised me) = (as I wasn't expecting it) 1362471462\r\n",
			Results{ID: "foo.example.net", Version: 1, List: []Result{{Method: "dkim", Value: "fail", Version: 1,
				Properties: []Property{prop("policy.expired", "1362471462")}}}}},

		{"comments and quotes hide semicolons", ` x; dkim=fail (a; b (c; d) \) e) reason="f; \"g\" (h)"`,
			Results{ID: "x", Version: 1, List: []Result{{Method: "dkim", Value: "fail",
				Comment: "a; b (c; d) ) e", Reason: `f; "g" (h)`}}}},
		{"mailboxes", ` x; dkim=pass header.i="john doe"@example.org header.i="a\"b" @ (c) example.org`,
			Results{ID: "x", Version: 1, List: []Result{{Method: "dkim", Value: "pass", Properties: []Property{
				prop(PropHeaderI, `"john doe"@example.org`), prop(PropHeaderI, `"a\"b"@example.org`)}}}}},
		{"an id in quotes, names in capitals", ` "mx.example.org" ; DKIM=Pass Header.D=Example.ORG`,
			Results{ID: "mx.example.org", Version: 1, List: []Result{{Method: "dkim", Value: "pass",
				Properties: []Property{prop(PropHeaderD, "Example.ORG")}}}}},
		{"what nobody registered is kept", ` x; x-new=maybe x-type.x-name=y`,
			Results{ID: "x", Version: 1, List: []Result{{Method: "x-new", Value: "maybe",
				Properties: []Property{prop("x-type.x-name", "y")}}}}},
		{"no quotes where they belong", ` x; dkim=pass header.b=ab+/c= ; arc=pass smtp.remote-ip=2001:db8::1;` +
			`spf=none smtp.mailfrom=<>; spf=none smtp.helo=`,
			Results{ID: "x", Version: 1, List: []Result{
				{Method: "dkim", Value: "pass", Properties: []Property{prop(PropHeaderB, "ab+/c=")}},
				{Method: "arc", Value: "pass", Properties: []Property{prop(PropRemoteIP, "2001:db8::1")}},
				{Method: "spf", Value: "none", Properties: []Property{prop(PropMailFrom, "<>")}},
				{Method: "spf", Value: "none", Properties: []Property{prop(PropHelo, "")}}}}},
		{"Exim", " x;\r\n\tlocal=pass (non-smtp, host) u=user-1;\r\n\tiprev=pass (h.example) smtp.remote-ip=::1;\r\n" +
			"\tdkim=fail (body hash mismatch; body probably modified in transit) header.d=y;\r\n\tarc=none",
			Results{ID: "x", Version: 1, List: []Result{
				{Method: "local", Value: "pass", Comment: "non-smtp, host",
					Properties: []Property{{"", "u", "user-1"}}},
				{Method: "iprev", Value: "pass", Comment: "h.example",
					Properties: []Property{prop(PropRemoteIP, "::1")}},
				{Method: "dkim", Value: "fail", Comment: "body hash mismatch; body probably modified in transit",
					Properties: []Property{prop(PropHeaderD, "y")}},
				{Method: "arc", Value: "none"}}}},
		{"a reason after properties, semicolons too many", ` x;; dmarc=pass action=none reason=100;;`,
			Results{ID: "x", Version: 1, List: []Result{{Method: "dmarc", Value: "pass", Reason: "100",
				Properties: []Property{{"", "action", "none"}}}}}},
		{"international mail", " bücher.example; spf=pass (grün) smtp.mailfrom=дима@пример.example",
			Results{ID: "bücher.example", Version: 1, List: []Result{{Method: "spf", Value: "pass", Comment: "grün",
				Properties: []Property{prop(PropMailFrom, "дима@пример.example")}}}}},
		{"nothing between", `x;none`, Results{ID: "x", Version: 1}},
		{"only a semicolon", `x;`, Results{ID: "x", Version: 1}},
	}
	for _, tt := range tests {
		got, err := ParseResults([]byte(tt.in))
		if err != nil {
			t.Errorf("%s: %v", tt.rule, err)
		}
		if diff := cmp.Diff(tt.want, got); diff != "" {
			t.Errorf("%s: %s", tt.rule, diff)
		}
	}
}

func TestParseResultsRefuses(t *testing.T) {
	deep := strings.Repeat("(", maxCommentDepth+1) + strings.Repeat(")", maxCommentDepth+1)
	for _, tt := range []struct{ in, want string }{
		{"", "no authserv-id"},
		{";", "no authserv-id"},
		{`""; none`, "no authserv-id"},
		{"x", "no result"},
		{"x 1", "no result"},
		{"x y; none", "semicolon is missing"},
		{"spf=pass smtp.mailfrom=x; x", "semicolon is missing"},
		{"x; spf", `"=" is missing`},
		{"x; spf=", "result of a method is missing"},
		{"x; =pass", "name of a method is missing"},
		{"x; spf=pass smtp", `"=" is missing`},
		{"x; spf=pass smtp.=y", "second half"},
		{"x; spf=pass smtp.mailfrom", `"=" is missing`},
		{"x; spf=pass .y=z", "name of a property"},
		{"x; spf/a=pass", "version of a method"},
		{"x; spf/9999999999=pass", "version of a method"},
		{"x; none=pass", "cannot be a method"},
		{`x; spf=pass reason="a`, "quoted string has no end"},
		{`x; spf=pass reason="a\`, "quoted string has no end"},
		{"x; spf=pass (a", "comment has no end"},
		{`x; spf=pass (a\`, "comment has no end"},
		{"x; spf=pass " + deep, "nested too deep"},
		{"x; spf=pass\r\nBcc: y", "0x0d cannot stand"},
		{"x; spf=pass\ny", "0x0a cannot stand"},
		{"x; spf=pass\x00", "0x00 cannot stand"},
		{"x; spf=pass \xff", "neither ASCII nor UTF-8"},
		{"x" + strings.Repeat("; spf=pass", maxParsedResults+1), "too many results"},
		{"x; spf=pass" + strings.Repeat(" a.b=c", maxParsedProperties+1), "too many properties"},
		{"x;" + strings.Repeat(" ", maxResultsField), "too long"},
	} {
		if r, err := ParseResults([]byte(tt.in)); err == nil || !strings.Contains(err.Error(), tt.want) {
			t.Errorf("%.40q: %v, %v; want %q", tt.in, r, err, tt.want)
		}
	}
}

func TestParseResultsVersion(t *testing.T) {
	for in, want := range map[string]int{
		"x 2; none": 2, "x 0; a": 0, "x (c) 17 (d) =;": 17, "x 99999999999999999999; none": -1,
	} {
		r, err := ParseResults([]byte(in))
		if !errors.Is(err, ErrResultsVersion) || r.ID != "x" || r.Version != want || r.List != nil {
			t.Errorf("%q: %+v, %v", in, r, err)
		}
	}
	if r, err := ParseResults([]byte("x 0001; none")); err != nil || r.Version != 1 {
		t.Errorf("%+v, %v", r, err)
	}
}

// FuzzParseResults: whatever is read is written so that reading it again gives the same; how it is folded changes
// nothing.
func FuzzParseResults(f *testing.F) {
	for _, field := range [][]byte{
		bytes.TrimPrefix(model().Field(), []byte("Authentication-Results:")),
		[]byte(` "x" (a(b)\)) 1 ; dkim/1 = fail (c;d) reason="e\"f" header.i="g h"@i header.b=ab+/ ; none`),
		[]byte(" x;\r\n\tspf=pass smtp.mailfrom=дима@пример.example (x); auth=pass smtp.auth=\"a  b \""),
		[]byte(" x 2; y"), []byte("x;spf=none smtp.helo=[::1]"),
	} {
		f.Add(field, uint64(0xaaaa))
	}
	f.Fuzz(func(t *testing.T, value []byte, mask uint64) {
		r, err := ParseResults(value)
		if err == nil {
			for _, write := range []func(Results) []byte{Results.Field, Results.FieldUTF8} {
				once := write(r)
				checkField(t, once)
				if once == nil {
					continue
				}
				again, err := ParseResults(once[len("Authentication-Results:"):])
				if err != nil {
					t.Fatalf("%q\nis written as %q\nand cannot be read: %v", value, once, err)
				}
				if twice := write(again); !bytes.Equal(once, twice) {
					t.Fatalf("%q\nis written as %q\nand then as %q", value, once, twice)
				}
			}
		}
		if bytes.ContainsAny(value, "\r\n") {
			return
		}
		folded, ferr := ParseResults(fold(value, mask))
		if len(value) < maxResultsField/3 && (fault(ferr) != fault(err) || cmp.Diff(r, folded) != "") {
			t.Fatalf("%q: %+v, %v\nfolded: %+v, %v", value, r, err, folded, ferr)
		}
	})
}

func fault(err error) string {
	if err == nil {
		return ""
	}
	return err.Error()
}

// fold begins a new line at some of the blanks.
func fold(value []byte, mask uint64) (out []byte) {
	for _, c := range value {
		if isBlank(c) {
			if mask&1 == 1 {
				out = append(out, "\r\n"...)
			}
			mask = mask>>1 | mask<<63
		}
		out = append(out, c)
	}
	return out
}

// FuzzResultsField: nothing that a stranger wrote can do more than fill its place.
func FuzzResultsField(f *testing.F) {
	f.Add("mx.example.org", "bad; (sig)", "a\r\nb", "x@y", "[192.0.2.1]", "2001:db8::1", "ab+/")
	f.Add("bücher.example", "=?utf-8?q?x?=", "ü", `"a\"b"@ü.example`, "-", "::ffff:1.2.3.4", "a;b")
	f.Add("A", "bad; (sig", "x", "?x@y", "[192.0.2.1]", "2b8::db8", "ab+/")
	f.Fuzz(func(t *testing.T, id, reason, comment, mailbox, helo, ip, b string) {
		r := Results{ID: id, List: []Result{
			{Method: MethodSPF, Value: ResultFail, Reason: reason, Comment: comment, Properties: []Property{
				NewProperty(PropMailFrom, mailbox), NewProperty(PropHelo, helo)}},
			{Method: MethodIPRev, Value: ResultPass, Properties: []Property{NewProperty(PropPolicyIPRev, ip)}},
			{Method: MethodDKIM, Value: ResultPass, Comment: reason, Reason: comment, Properties: []Property{
				NewProperty(PropHeaderD, helo), NewProperty(PropHeaderI, mailbox), NewProperty(PropHeaderB, b)}},
			{Method: MethodAuth, Value: ResultPass, Properties: []Property{NewProperty(PropAuth, mailbox)}},
			{Method: MethodDNSWL, Value: ResultPass, Properties: []Property{NewProperty(PropPolicyTXT, comment)}},
		}}
		for _, field := range [][]byte{r.Field(), r.FieldUTF8()} {
			checkField(t, field)
			if (field == nil) != (CheckID(id) != nil) {
				t.Fatalf("the id %q makes %q", id, field)
			}
			if field == nil {
				continue
			}
			if n := bytes.Count(field, []byte(";")); n != 5 {
				t.Fatalf("%d semicolons: %q", n, field)
			}
			got, err := ParseResults(field[len("Authentication-Results:"):])
			if err != nil || len(got.List) != 5 {
				t.Fatalf("%q: %+v, %v", field, got, err)
			}
			for i, result := range got.List {
				if result.Method != r.List[i].Method || result.Value != r.List[i].Value ||
					len(result.Properties) > len(r.List[i].Properties) {
					t.Fatalf("%q: %+v", field, result)
				}
			}
		}
		if field := r.Field(); !asciiOnly(string(field)) {
			t.Fatalf("not ASCII: %q", field)
		}
	})
}
