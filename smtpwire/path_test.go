package smtpwire

import (
	"strings"
	"testing"
)

func TestCutPath(t *testing.T) {
	long := strings.Repeat("x", 256)
	label := strings.Repeat("d", 63)
	tests := []struct {
		rule    string // what the cases from here on hold
		in      string
		want    Path
		rest    string
		problem string // part of it; "" for a good path
	}{
		// https://www.rfc-editor.org/rfc/rfc5321#section-4.1.2
		{"Path           = \"<\" [ A-d-l \":\" ] Mailbox \">\"",
			"<a@b>", Path{"a", "b"}, "", ""},
		{"", "<a@b> SIZE=1", Path{"a", "b"}, " SIZE=1", ""},
		{"", "<a@b>x", Path{"a", "b"}, "x", ""},
		{"", "a@b", Path{}, "", "angle brackets"},
		{"", "", Path{}, "", "angle brackets"},
		{"", "<a@b", Path{}, "", `only ">"`},
		{"", "<a@b c>", Path{}, "", `only ">"`},
		{"", "<", Path{}, "", "local part is empty"},
		{"", "< a@b>", Path{}, "", "local part is empty"},
		{"", "< >", Path{}, "", "local part is empty"},
		{"", "<a@b >", Path{}, "", `only ">"`},
		{"", "<<a@b>>", Path{}, "", "local part is empty"},
		{"", "<a>", Path{}, "", "a domain must follow"},
		{"", "<a@>", Path{}, "", "the domain is empty"},
		{"", "<@b>", Path{}, "", "source route"},
		{"Reverse-path   = Path / \"<>\"", "<>", Path{}, "", ""},
		{"", "<> BODY=7BIT", Path{}, " BODY=7BIT", ""},

		{"A-d-l [...] MUST BE accepted, SHOULD NOT be generated, and SHOULD be ignored",
			"<@hosta.int,@jkl.org:userc@d.bar.org>", Path{"userc", "d.bar.org"}, "", ""},
		{"", "<@a:u@d>", Path{"u", "d"}, "", ""},
		{"", "<@a,@b,@c:\"q@x\"@d>", Path{`"q@x"`, "d"}, "", ""},
		{"", "<@a,b:u@d>", Path{}, "", "source route"},
		{"", "<@a@b:u@d>", Path{}, "", "source route"},
		{"", "<@a,:u@d>", Path{}, "", "source route"},
		{"", "<@a;u@d>", Path{}, "", "source route"},
		{"", "<@:u@d>", Path{}, "", "source route: the domain is empty"},
		{"", "<@[192.0.2.1]:u@d>", Path{}, "", "source route"},
		{"", "<@a:>", Path{}, "", "local part is empty"},
		{"", "<@a:@b:u@d>", Path{}, "", "local part is empty"},
		{"", "<@a:postmaster>", Path{}, "", "a domain must follow"},

		{"the \"Postmaster\" string shown above is treated as case-insensitive",
			"<Postmaster>", Path{"Postmaster", ""}, "", ""},
		{"", "<POSTmaster> NOTIFY=NEVER", Path{"POSTmaster", ""}, " NOTIFY=NEVER", ""},
		{"", "<postmaster@b>", Path{"postmaster", "b"}, "", ""},
		{"", `<"postmaster">`, Path{}, "", "a domain must follow"},

		{"Dot-string     = Atom *(\".\"  Atom)",
			"<a.b.c@d>", Path{"a.b.c", "d"}, "", ""},
		{"", "<!#$%&'*+-/=?^_`{|}~@d>", Path{"!#$%&'*+-/=?^_`{|}~", "d"}, "", ""},
		{"against the grammar, but in use: the next hop judges",
			"<a..b@d>", Path{"a..b", "d"}, "", ""},
		{"", "<.a@d>", Path{".a", "d"}, "", ""},
		{"", "<a.@d>", Path{"a.", "d"}, "", ""},
		{"", "<a,b@d>", Path{}, "", "a domain must follow"},
		{"", "<a(c)@d>", Path{}, "", "a domain must follow"},
		{"", `<a\@b@d>`, Path{}, "", "a domain must follow"},
		{"", `<a"b"@d>`, Path{}, "", "a domain must follow"},
		{"", "<a@b@d>", Path{}, "", `only ">"`},

		{"Quoted-string  = DQUOTE *QcontentSMTP DQUOTE",
			`<"a b"@d>`, Path{`"a b"`, "d"}, "", ""},
		{"", `<""@d>`, Path{`""`, "d"}, "", ""},
		{"", `<"a@b>c"@d> X`, Path{`"a@b>c"`, "d"}, " X", ""},
		{"the backslash, \"\\\", is a quote character, [...] the next character is to be used literally",
			`<"a\"b\\"@d>`, Path{`"a\"b\\"`, "d"}, "", ""},
		{"", `<"Joe\,Smith"@d>`, Path{`"Joe\,Smith"`, "d"}, "", ""},
		{"", `<"a@d>`, Path{}, "", "no end"},
		{"", `<"a\"@d>`, Path{}, "", "no end"},
		{"", `<"a\`, Path{}, "", "no end"},
		{"", `<"a"b@d>`, Path{}, "", "a domain must follow"},
		{"quoted-pairSMTP  = %d92 %d32-126", `<"\é"@d>`, Path{}, "", "backslash"},

		{"Domain         = sub-domain *(\".\" sub-domain)",
			"<a@b-c.example.1>", Path{"a", "b-c.example.1"}, "", ""},
		{"", "<a@192.0.2.1>", Path{"a", "192.0.2.1"}, "", ""},
		{"", "<a@b.>", Path{}, "", "misplaced dot"},
		{"", "<a@.b>", Path{}, "", "misplaced dot"},
		{"", "<a@b..c>", Path{}, "", "misplaced dot"},
		{"against the grammar, but in use: the next hop judges",
			"<a@-b>", Path{"a", "-b"}, "", ""},
		{"", "<a@b-.c>", Path{"a", "b-.c"}, "", ""},
		{"", "<a@b_c>", Path{"a", "b_c"}, "", ""},

		// https://www.rfc-editor.org/rfc/rfc5321#section-4.1.3
		{"IPv4-address-literal  = Snum 3(\".\"  Snum)",
			"<a@[123.255.37.2]>", Path{"a", "[123.255.37.2]"}, "", ""},
		{"", "<a@[256.0.0.1]>", Path{}, "", "literal is malformed"},
		{"", "<a@[1.2.3]>", Path{}, "", "literal is malformed"},
		{"", "<a@[]>", Path{}, "", "literal is malformed"},
		{"", "<a@[1.2.3.4>", Path{}, "", "literal has no end"},
		{"", "<a@[1.2.3.4]x>", Path{}, "", `only ">"`},
		{"IPv6-address-literal  = \"IPv6:\" IPv6-addr",
			"<a@[IPv6:2001:db8::1]>", Path{"a", "[IPv6:2001:db8::1]"}, "", ""},
		{"", "<a@[ipv6:::ffff:192.0.2.1]>", Path{"a", "[ipv6:::ffff:192.0.2.1]"}, "", ""},
		{"", "<a@[2001:db8::1]>", Path{}, "", "literal is malformed"},
		{"", "<a@[IPv6:192.0.2.1]>", Path{}, "", "literal is malformed"},
		{"", "<a@[IPv6:fe80::1%eth0]>", Path{}, "", "literal is malformed"},
		{"Standardized-tag MUST be specified in a Standards-Track RFC and registered with IANA",
			"<a@[X25:1234]>", Path{}, "", "literal is malformed"},

		// https://www.rfc-editor.org/rfc/rfc5321#section-4.5.3.1
		{"Every implementation MUST be able to receive objects of at least these sizes.",
			"<" + long[:64] + "@b>", Path{long[:64], "b"}, "", ""},
		{"implementation techniques that impose no limits on the length of these objects should be used",
			"<" + long[:255] + "@b>", Path{long[:255], "b"}, "", ""},
		{"", "<" + long + "@b>", Path{}, "", "longer than 255 octets"},
		{"", `<"` + long[:254] + `"@b>`, Path{}, "", "longer than 255 octets"},
		{"The maximum total length of a domain name or number is 255 octets.",
			"<a@" + strings.Repeat("d.", 127) + "d>", Path{"a", strings.Repeat("d.", 127) + "d"}, "", ""},
		{"", "<a@" + strings.Repeat("d.", 127) + "dd>", Path{}, "", "longer than 255 octets"},
		{"", "<a@[" + long + "]>", Path{}, "", "no end"},
		{"labels          63 octets or less",
			"<a@" + label + ".d>", Path{"a", label + ".d"}, "", ""},
		{"", "<a@" + label + "d>", Path{}, "", "longer than 63 octets"},

		// https://www.rfc-editor.org/rfc/rfc6531#section-3.3
		{"The definition of <sub-domain> is extended to permit both the RFC 5321 definition and a UTF-8 string",
			"<a@bücher.example>", Path{"a", "bücher.example"}, "", ""},
		{"The definition of <atext> is extended to permit both the RFC 5321 definition and a UTF-8 string",
			"<jörg.müller@d>", Path{"jörg.müller", "d"}, "", ""},
		{"The definition of <qtextSMTP> is extended", `<"ö ü"@d>`, Path{`"ö ü"`, "d"}, "", ""},
	}
	rule := ""
	for _, tt := range tests {
		if tt.rule != "" {
			rule = tt.rule
		}
		p, rest, problem := cutPath(tt.in)
		if tt.problem != "" {
			if !strings.Contains(problem, tt.problem) || p != (Path{}) {
				t.Errorf("%s\n\tcutPath(%q) = %+v, problem %q, want %q", rule, tt.in, p, problem, tt.problem)
			}
			continue
		}
		if p != tt.want || rest != tt.rest || problem != "" {
			t.Errorf("%s\n\tcutPath(%q) = %+v, rest %q, problem %q", rule, tt.in, p, rest, problem)
		}
	}
}

func TestPathForms(t *testing.T) {
	tests := []struct {
		p               Path
		str, mailbox    string
		null, needsUTF8 bool
	}{
		{Path{}, "<>", "", true, false},
		{Path{"a", "b"}, "<a@b>", "a@b", false, false},
		{Path{"postmaster", ""}, "<postmaster>", "postmaster", false, false},
		{Path{`"a b"`, "[192.0.2.1]"}, `<"a b"@[192.0.2.1]>`, `"a b"@[192.0.2.1]`, false, false},
		{Path{"ä", "b"}, "<ä@b>", "ä@b", false, true},
		{Path{"a", "bücher.example"}, "<a@bücher.example>", "a@bücher.example", false, true},
	}
	for _, tt := range tests {
		if got := tt.p.String(); got != tt.str {
			t.Errorf("%+v.String() = %q, want %q", tt.p, got, tt.str)
		}
		if got := string(tt.p.appendTo(nil)); got != tt.str {
			t.Errorf("%+v.appendTo = %q, want %q", tt.p, got, tt.str)
		}
		if got := tt.p.Mailbox(); got != tt.mailbox {
			t.Errorf("%+v.Mailbox() = %q, want %q", tt.p, got, tt.mailbox)
		}
		if tt.p.IsNull() != tt.null || tt.p.NeedsUTF8() != tt.needsUTF8 {
			t.Errorf("%+v: IsNull %v, NeedsUTF8 %v", tt.p, tt.p.IsNull(), tt.p.NeedsUTF8())
		}
	}
}

// FuzzPath: what is taken is bounded, has no control characters, and reads back
// from its own form as the same path.
func FuzzPath(f *testing.F) {
	for _, s := range []string{
		"<>", "<a@b>", "<a@b> SIZE=1", "<Postmaster>", `<"a\"b>"@[192.0.2.1]>`, "<@a,@b:u@d>",
		"<a@[IPv6:2001:db8::1]>", "<ä@ü.example>", "<a..b@c>", "<a@b_c>", `<"\`, "<@", "<a@[",
	} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		if !isText(s) {
			t.Skip("ParseCommand lets no such text through")
		}
		p, rest, problem := cutPath(s)
		if problem != "" {
			if p != (Path{}) {
				t.Fatalf("problem %q and %+v", problem, p)
			}
			return
		}
		if !strings.HasSuffix(s, ">"+rest) {
			t.Fatalf("rest %q is not the end of %q", rest, s)
		}
		if len(p.Local) > maxLocal || len(p.Domain) > maxDomain {
			t.Fatalf("too long: %+v", p)
		}
		if p.Domain == "" && !p.IsNull() && !strings.EqualFold(p.Local, "postmaster") {
			t.Fatalf("no domain: %+v", p)
		}
		again, rest, problem := cutPath(p.String() + " rest")
		if again != p || rest != " rest" || problem != "" {
			t.Fatalf("%q reads back as %+v, rest %q, problem %q", p.String(), again, rest, problem)
		}
	})
}
