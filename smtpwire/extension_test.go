package smtpwire

import (
	"reflect"
	"strings"
	"testing"
)

func TestExtensionsTable(t *testing.T) {
	scopes := map[string]Scope{
		"PIPELINING": HopByHop, "PIPECONNECT": HopByHop, "STARTTLS": HopByHop, "ENHANCEDSTATUSCODES": HopByHop,
		"CHUNKING": HopByHop, "SIZE": HopByHop, "LIMITS": HopByHop, "PRDR": HopByHop,
		"AUTH": HopByHop, "VRFY": HopByHop, "EXPN": HopByHop, "ETRN": HopByHop,
		"8BITMIME": EndToEnd, "SMTPUTF8": EndToEnd, "DSN": EndToEnd, "DELIVERBY": EndToEnd, "FUTURERELEASE": EndToEnd,
		"MT-PRIORITY": EndToEnd, "RRVS": EndToEnd,
		"BINARYMIME": Masked, "REQUIRETLS": Masked, "XCLIENT": Masked, "XFORWARD": Masked,
		"ATRN": Masked, "HELP": Masked, "TURN": Masked, "BURL": Masked,
		"MTRK": Masked, "CONPERM": Masked, "CONNEG": Masked, "NO-SOLICITING": Masked, "CHECKPOINT": Masked, "VERP": Masked,
	}
	seen := map[string]bool{}
	for _, x := range Extensions() {
		if want, ok := scopes[x.Keyword]; ok && want != x.Scope {
			t.Errorf("%s has scope %d, want %d", x.Keyword, x.Scope, want)
		}
		delete(scopes, x.Keyword)
		for _, keyword := range append([]string{x.Keyword}, x.Aliases...) {
			if _, ok := cleanKeyword(Param{Name: keyword}); !ok || seen[keyword] || strings.ToUpper(keyword) != keyword {
				t.Errorf("keyword %q is malformed or there twice", keyword)
			}
			seen[keyword] = true
		}
		for _, name := range append(append([]string(nil), x.Mail...), x.Rcpt...) {
			if !isKeyword(name) {
				t.Errorf("%s: parameter %q is malformed", x.Keyword, name)
			}
			if x.Scope != Masked && x.Check == nil {
				t.Errorf("%s: parameter %s is not checked", x.Keyword, name)
			}
		}
		if x.Needs != "" && extensionNamed(x.Needs) == nil {
			t.Errorf("%s needs %s, which is unknown", x.Keyword, x.Needs)
		}
		if x.RFC == "" {
			t.Errorf("%s names no document", x.Keyword)
		}
	}
	for keyword := range scopes {
		t.Errorf("%s is missing", keyword)
	}
}

func TestExtensionsIsACopy(t *testing.T) {
	for _, x := range Extensions() {
		for _, s := range [][]string{x.Aliases, x.Mail, x.Rcpt} {
			for i := range s {
				s[i] = "broken"
			}
		}
	}
	if !reflect.DeepEqual(Extensions()[0].Keyword, "PIPELINING") || extensionNamed("x_pipe_connect") == nil ||
		!extensionNamed("SIZE").licenses(VerbMail, "size") {
		t.Error("a caller can change the table")
	}
}

// offerOf makes an EHLO of lines as in a reply.
func offerOf(lines ...string) EHLO {
	return ParseEHLO(Reply{250, append([]string{"us.example"}, lines...)})
}

func TestOffer(t *testing.T) {
	tests := []struct {
		name      string
		own, next []string
		want      []string
	}{
		{"nothing is known of the next hop",
			[]string{"PIPELINING", "CHUNKING", "SIZE 100"}, nil,
			[]string{"PIPELINING", "CHUNKING", "SIZE 100"}},
		{"hop-by-hop keywords are ours, whatever the next hop has",
			[]string{"STARTTLS", "PIPECONNECT", "PIPELINING", "ENHANCEDSTATUSCODES"},
			[]string{"CHUNKING", "PIPE_CONNECT", "LIMITS"},
			[]string{"STARTTLS", "PIPECONNECT", "PIPELINING", "ENHANCEDSTATUSCODES"}},
		{"who may ask us for a reply to each recipient is ours to say", []string{"PIPELINING", "PRDR"}, []string{"8BITMIME"},
			[]string{"PIPELINING", "PRDR", "8BITMIME"}},
		{"", []string{"PIPELINING"}, []string{"PIPELINING", "PRDR"}, []string{"PIPELINING"}},
		{"end-to-end keywords are the next hop's, in table order, with its arguments",
			[]string{"PIPELINING"},
			[]string{"rrvs", "DSN", "DELIVERBY 240", "8BITMIME", "MT-PRIORITY STANAG4406", "SMTPUTF8", "FUTURERELEASE 9 2030-01-01T00:00:00Z"},
			[]string{"PIPELINING", "8BITMIME", "SMTPUTF8", "DSN", "DELIVERBY 240", "FUTURERELEASE 9 2030-01-01T00:00:00Z", "MT-PRIORITY STANAG4406", "RRVS"}},
		{"end-to-end keywords of our own make no offer",
			[]string{"8BITMIME", "DSN", "PIPELINING"}, []string{"8BITMIME"},
			[]string{"PIPELINING", "8BITMIME"}},
		// https://www.rfc-editor.org/rfc/rfc6531#section-3.1
		{"Servers offering this extension MUST provide support for, and announce, the 8BITMIME extension",
			nil, []string{"SMTPUTF8"}, nil},
		{"masked and unknown keywords pass from neither side",
			[]string{"XCLIENT NAME", "X-OURS", "HELP", "BINARYMIME"},
			[]string{"AUTH LOGIN", "XFORWARD NAME", "X-THEIRS", "VRFY", "ETRN", "BINARYMIME", "CHUNKING", "REQUIRETLS", "PRDR", "BURL"}, nil},

		// https://www.rfc-editor.org/rfc/rfc1870#section-3
		{"SIZE: the smaller limit", []string{"SIZE 100", "CHUNKING"}, []string{"SIZE 50"}, []string{"SIZE 50", "CHUNKING"}},
		{"", []string{"SIZE 50"}, []string{"SIZE 100"}, []string{"SIZE 50"}},
		{"A parameter value of 0 (zero) indicates that no fixed maximum message size is in force",
			[]string{"SIZE 50"}, []string{"SIZE 0"}, []string{"SIZE 50"}},
		{"", []string{"SIZE 50"}, []string{"SIZE"}, []string{"SIZE 50"}},
		{"", []string{"SIZE 0"}, []string{"SIZE 50"}, []string{"SIZE 50"}},
		{"", []string{"SIZE"}, []string{"SIZE 50"}, []string{"SIZE 50"}},
		{"", []string{"SIZE"}, []string{"SIZE 0"}, []string{"SIZE"}},
		{"a hop without SIZE keeps our limit", []string{"SIZE 50"}, []string{"DSN"}, []string{"SIZE 50", "DSN"}},
		{"a door without SIZE passes the hop's on", []string{"CHUNKING"}, []string{"SIZE 50"}, []string{"CHUNKING", "SIZE 50"}},
		{"", nil, []string{"SIZE 0"}, []string{"SIZE 0"}},
		{"absent in both", nil, []string{"DSN"}, []string{"DSN"}},

		// https://www.rfc-editor.org/rfc/rfc9422#section-4
		{"LIMITS: the smaller number for each item",
			[]string{"LIMITS RCPTMAX=100 MAILMAX=10"}, []string{"LIMITS MAILMAX=20 RCPTMAX=50 RCPTDOMAINMAX=1"},
			[]string{"LIMITS MAILMAX=10 RCPTMAX=50 RCPTDOMAINMAX=1"}},
		{"", []string{"LIMITS RCPTMAX=100", "DSN"}, nil, []string{"LIMITS RCPTMAX=100"}},
		{"", []string{"CHUNKING"}, []string{"LIMITS rcptmax=7"}, []string{"CHUNKING", "LIMITS RCPTMAX=7"}},
		{"0 not allowed, six-digit maximum",
			nil, []string{"LIMITS RCPTMAX=0 MAILMAX=1000000 RCPTDOMAINMAX=999999"}, []string{"LIMITS RCPTDOMAINMAX=999999"}},
		{"malformed and unregistered items bind nobody",
			[]string{"LIMITS MAILMAX"}, []string{"LIMITS RCPTMAX=x X=3 RCPTMAX=3"}, []string{"LIMITS RCPTMAX=3"}},
		{"", []string{"LIMITS X=3"}, nil, nil},
	}
	for _, tt := range tests {
		got := Offer(offerOf(tt.own...), offerOf(tt.next...))
		if lines := got.Reply().Lines[1:]; strings.Join(lines, "|") != strings.Join(tt.want, "|") {
			t.Errorf("%s\n\tOffer(%q, %q) = %q, want %q", tt.name, tt.own, tt.next, lines, tt.want)
		}
		if got.Host() != "us.example" {
			t.Errorf("host %q", got.Host())
		}
	}
}

func TestOfferLeavesItsArguments(t *testing.T) {
	own, next := offerOf("SIZE 100", "LIMITS RCPTMAX=5"), offerOf("SIZE 50", "LIMITS RCPTMAX=3")
	Offer(own, next)
	if !own.Equal(offerOf("SIZE 100", "LIMITS RCPTMAX=5")) || !next.Equal(offerOf("SIZE 50", "LIMITS RCPTMAX=3")) {
		t.Errorf("changed: %q, %q", own.Keywords(), next.Keywords())
	}
}

func TestLicensed(t *testing.T) {
	const all = "SIZE 100|8BITMIME|SMTPUTF8|DSN|DELIVERBY|FUTURERELEASE 9 9|MT-PRIORITY|RRVS|CHUNKING"
	tests := []struct {
		rule, offer, line string
		refusal           string // "" where it is licensed
	}{
		// https://www.rfc-editor.org/rfc/rfc5321#section-4.1.1.11
		{"does not recognize or cannot implement one or more of the parameters [...] it will return code 555",
			"", "MAIL FROM:<a@b> RET=FULL", `555 5.5.4 MAIL: parameter "RET" is not offered`},
		{"", "DSN", "MAIL FROM:<a@b> RET=FULL ENVID=x", ""},
		{"", all, "MAIL FROM:<a@b> XYZZY=1", `555 5.5.4 MAIL: parameter "XYZZY" is not offered`},
		{"", all, "MAIL FROM:<a@b> NOTIFY=NEVER", `555 5.5.4 MAIL: parameter "NOTIFY" is not offered`},
		{"", all, "RCPT TO:<a@b> SIZE=3", `555 5.5.4 RCPT: parameter "SIZE" is not offered`},
		{"", "", "RCPT TO:<a@b> ORCPT=rfc822;a@b", `555 5.5.4 RCPT: parameter "ORCPT" is not offered`},
		{"", all, "RCPT TO:<a@b> ORCPT=rfc822;a@b notify=never", ""},
		{"", all, "MAIL FROM:<a@b> AUTH=<>", `555 5.5.4 MAIL: parameter "AUTH" is not offered`},
		{"", "AUTH PLAIN", "MAIL FROM:<a@b> AUTH=<>", ""},
		{"", all, "MAIL FROM:<a@b> REQUIRETLS", `555 5.5.4 MAIL: parameter "REQUIRETLS" is not offered`},
		{"", all, "MAIL FROM:<a@b> PRDR", `555 5.5.4 MAIL: parameter "PRDR" is not offered`},
		{"", "PIPELINING|PRDR", "MAIL FROM:<a@b> PRDR", ""},
		{"PRDR is of no use without PIPELINING", "PRDR", "MAIL FROM:<a@b> PRDR", `555 5.5.4 MAIL: parameter "PRDR" is not offered`},
		{"", "PIPELINING|PRDR", "MAIL FROM:<a@b> PRDR=1", `501 5.5.4 MAIL: parameter "PRDR" must have no value`},
		{"", "PIPELINING|PRDR", "RCPT TO:<a@b> PRDR", `555 5.5.4 RCPT: parameter "PRDR" is not offered`},
		{"the first bad one speaks", all, "MAIL FROM:<a@b> SIZE=x PRDR", `501 5.5.4 MAIL: parameter "SIZE" must be a number of 1 to 20 digits`},
		{"old MTAs send these after HELO too", "", "MAIL FROM:<a@b> SIZE=3 BODY=8BITMIME", ""},
		{"", "", "MAIL FROM:<a@b> BODY=7bit", ""},
		{"", "", "MAIL FROM:<a@b> SIZE=-3", `501 5.5.4 MAIL: parameter "SIZE" must be a number of 1 to 20 digits`},
		{"", "", "MAIL FROM:<a@b> BODY=9BIT", `501 5.5.4 MAIL: parameter "BODY" must be 7BIT or 8BITMIME`},
		{"", all, "MAIL FROM:<a@b> BODY=BINARYMIME", `555 5.5.4 MAIL: parameter "BODY" is not offered`},
		{"", "BINARYMIME|CHUNKING", "MAIL FROM:<a@b> BODY=BINARYMIME", ""},
		{"BINARYMIME is of no use without CHUNKING", "BINARYMIME", "MAIL FROM:<a@b> BODY=BINARYMIME", `555 5.5.4 MAIL: parameter "BODY" is not offered`},
		{"", "BINARYMIME|CHUNKING", "MAIL FROM:<a@b> BODY=X", `501 5.5.4 MAIL: parameter "BODY" must be BINARYMIME`},
		{"", all, "MAIL FROM:<a@b> BY=120;R HOLDFOR=9 MT-PRIORITY=3", ""},
		{"", all, "RCPT TO:<a@b> RRVS=2014-04-03T23:01:00Z", ""},

		// https://www.rfc-editor.org/rfc/rfc6531#section-3.5
		{"because the MAIL command requires an ASCII address, the reply-code 550 is returned",
			all, "MAIL FROM:<ä@b>", "550 5.6.7 MAIL: the address needs SMTPUTF8"},
		{"", all, "MAIL FROM:<ä@b> SMTPUTF8", ""},
		{"", "", "MAIL FROM:<ä@b> SMTPUTF8", `555 5.5.4 MAIL: parameter "SMTPUTF8" is not offered`},
		{"", all, "MAIL FROM:<a@b> SMTPUTF8=1", `501 5.5.4 MAIL: parameter "SMTPUTF8" must have no value`},
		{"because the RCPT command requires an ASCII address, the reply-code 553 is returned",
			"DSN", "RCPT TO:<ä@b>", "553 5.6.7 RCPT: the address needs SMTPUTF8"},
		{"", all, "RCPT TO:<ä@b> ORCPT=utf-8;ä@b", ""},
		{"", "DSN", "RCPT TO:<a@b> ORCPT=utf-8;ä@b", `501 5.5.4 RCPT: parameter "ORCPT" needs SMTPUTF8`},
		{"", "DSN", "MAIL FROM:<a@b> ENVID=ä", `501 5.5.4 MAIL: parameter "ENVID" needs SMTPUTF8`},

		{"other verbs have nothing to license", "", "EHLO a", ""},
		{"", "", "BDAT 3", ""},
	}
	rule := ""
	for _, tt := range tests {
		if tt.rule != "" {
			rule = tt.rule
		}
		c := parsed(t, tt.line)
		r, ok := Licensed(offerOf(strings.Split(tt.offer, "|")...), c)
		if ok != (tt.refusal == "") || r.String() != tt.refusal {
			t.Errorf("%s\n\tLicensed(%q, %q) = %q, %v; want %q", rule, tt.offer, tt.line, r, ok, tt.refusal)
		}
	}
}

// parsed returns the command of a good line.
func parsed(t *testing.T, line string) Command {
	t.Helper()
	c := ParseCommand([]byte(line))
	if c.Refused.Code != 0 {
		t.Fatalf("%q: %v", line, c.Refused)
	}
	return c
}

func TestAdapt(t *testing.T) {
	const all = "SIZE 100|8BITMIME|SMTPUTF8|DSN|DELIVERBY|FUTURERELEASE 9 9|MT-PRIORITY|RRVS|CHUNKING|BINARYMIME|AUTH PLAIN|REQUIRETLS|PIPELINING|PRDR"
	tests := []struct {
		rule, next, line string
		want             string // the line, or the refusal
		ok               bool
	}{
		{"what the hop offers passes unchanged", all,
			"MAIL FROM:<a@b> SIZE=3 BODY=8BITMIME RET=FULL ENVID=x AUTH=<> SMTPUTF8 BY=9;R HOLDFOR=3 MT-PRIORITY=1 REQUIRETLS",
			"MAIL FROM:<a@b> SIZE=3 BODY=8BITMIME RET=FULL ENVID=x AUTH=<> SMTPUTF8 BY=9;R HOLDFOR=3 MT-PRIORITY=1 REQUIRETLS", true},
		{"PRDR is between the client and us", all, "MAIL FROM:<a@b> prdr SIZE=3", "MAIL FROM:<a@b> SIZE=3", true},
		{"", all, "RCPT TO:<a@b> NOTIFY=NEVER ORCPT=rfc822;a@b RRVS=2014-04-03T23:01:00Z",
			"RCPT TO:<a@b> NOTIFY=NEVER ORCPT=rfc822;a@b RRVS=2014-04-03T23:01:00Z", true},
		{"", all, "MAIL FROM:<ä@b> SMTPUTF8 BODY=BINARYMIME", "MAIL FROM:<ä@b> SMTPUTF8 BODY=BINARYMIME", true},
		{"what changes nothing is left out", "",
			"MAIL FROM:<a@b> size=3 BODY=8BITMIME RET=FULL ENVID=x AUTH=<> MT-PRIORITY=1 PRDR", "MAIL FROM:<a@b>", true},
		{"", "", "MAIL FROM:<> BODY=7BIT", "MAIL FROM:<>", true},
		{"", "", "RCPT TO:<a@b> NOTIFY=NEVER ORCPT=rfc822;a@b", "RCPT TO:<a@b>", true},
		{"", "SIZE|DSN", "MAIL FROM:<a@b> BODY=8BITMIME RET=FULL SIZE=3", "MAIL FROM:<a@b> RET=FULL SIZE=3", true},
		{"", "BINARYMIME|CHUNKING", "MAIL FROM:<a@b> BODY=8BITMIME", "MAIL FROM:<a@b>", true},
		{"a bad value goes by its name; the hop may speak", "8BITMIME", "MAIL FROM:<a@b> BODY=9BIT SIZE=x", "MAIL FROM:<a@b> BODY=9BIT", true},

		// https://www.rfc-editor.org/rfc/rfc6531#section-3.5
		{"An SMTPUTF8-aware SMTP client MUST only send an internationalized message to an SMTP server that supports SMTPUTF8",
			"8BITMIME", "MAIL FROM:<a@b> SMTPUTF8", "550 5.6.7 MAIL: the next server does not offer SMTPUTF8", false},
		{"", "8BITMIME", "MAIL FROM:<ä@b>", "550 5.6.7 MAIL: the next server does not offer SMTPUTF8", false},
		{"", "SMTPUTF8", "MAIL FROM:<ä@b> SMTPUTF8", "550 5.6.7 MAIL: the next server does not offer SMTPUTF8", false},
		{"", "DSN", "RCPT TO:<ä@b>", "553 5.6.7 RCPT: the next server does not offer SMTPUTF8", false},
		{"", "DSN", "RCPT TO:<a@b> ORCPT=utf-8;ä@b", "553 5.6.7 RCPT: the next server does not offer SMTPUTF8", false},
		{"", "", "RCPT TO:<a@b> ORCPT=utf-8;ä@b", "RCPT TO:<a@b>", true},
		{"", "8BITMIME|SMTPUTF8", "RCPT TO:<ä@b>", "RCPT TO:<ä@b>", true},

		// https://www.rfc-editor.org/rfc/rfc3030#section-3
		{"must not, under any circumstances, send binary data using the DATA or BDAT commands",
			"8BITMIME|CHUNKING", "MAIL FROM:<a@b> BODY=BINARYMIME", "554 5.6.3 MAIL: the next server does not offer BINARYMIME", false},
		{"", "BINARYMIME", "MAIL FROM:<a@b> BODY=BINARYMIME", "554 5.6.3 MAIL: the next server does not offer BINARYMIME", false},
		// https://www.rfc-editor.org/rfc/rfc8689
		{"REQUIRETLS support required", "DSN", "MAIL FROM:<a@b> REQUIRETLS", "550 5.7.30 MAIL: the next server does not offer REQUIRETLS", false},
		{"to leave these out would deliver what should have been held or returned",
			"DSN", "MAIL FROM:<a@b> BY=120;R", `555 5.5.4 MAIL: parameter "BY" is not offered by the next server`, false},
		{"", "DSN", "MAIL FROM:<a@b> HOLDFOR=9", `555 5.5.4 MAIL: parameter "HOLDFOR" is not offered by the next server`, false},
		{"", "DSN", "RCPT TO:<a@b> RRVS=2014-04-03T23:01:00Z", `555 5.5.4 RCPT: parameter "RRVS" is not offered by the next server`, false},
		{"", all, "MAIL FROM:<a@b> XYZZY", `555 5.5.4 MAIL: parameter "XYZZY" is not known`, false},

		{"masked parameters that came all the same", "", "MAIL FROM:<a@b> SUBMITTER=c@d", "MAIL FROM:<a@b>", true},
		{"", "", "MAIL FROM:<a@b> SOLICIT=x", `555 5.5.4 MAIL: parameter "SOLICIT" is not offered by the next server`, false},
		{"other verbs pass", "", "EHLO a", "EHLO a", true},
	}
	rule := ""
	for _, tt := range tests {
		if tt.rule != "" {
			rule = tt.rule
		}
		c := parsed(t, tt.line)
		got, r, ok := Adapt(c, offerOf(strings.Split(tt.next, "|")...))
		said := r.String()
		if ok {
			said = strings.TrimSuffix(string(got.AppendTo(nil)), "\r\n")
		}
		if ok != tt.ok || said != tt.want || ok != r.IsZero() {
			t.Errorf("%s\n\tAdapt(%q, %q) = %q, %v; want %q", rule, tt.line, tt.next, said, ok, tt.want)
		}
		if !reflect.DeepEqual(c, parsed(t, tt.line)) {
			t.Errorf("Adapt changed %q", tt.line)
		}
	}
}

// What a client may send, and what Offer promises, must fit together: a command
// that is licensed by Offer(own, next) is never refused by Adapt for that next.
func TestLicensedFitsAdapt(t *testing.T) {
	lines := []string{
		"MAIL FROM:<ä@b> SMTPUTF8 BODY=8BITMIME SIZE=3", "MAIL FROM:<a@b> RET=FULL ENVID=x", "MAIL FROM:<a@b> BY=9;N",
		"MAIL FROM:<a@b> HOLDFOR=3", "MAIL FROM:<a@b> MT-PRIORITY=-3", "MAIL FROM:<a@b> BODY=BINARYMIME", "MAIL FROM:<a@b> REQUIRETLS",
		"MAIL FROM:<a@b> AUTH=<>", "MAIL FROM:<a@b> PRDR", "MAIL FROM:<a@b> XYZZY", "RCPT TO:<ä@b>", "RCPT TO:<a@b> NOTIFY=DELAY ORCPT=utf-8;ä@b",
		"RCPT TO:<a@b> RRVS=2014-04-03T23:01:00Z;C", "MAIL FROM:<a@b> SIZE=3 BODY=7BIT",
	}
	nexts := []string{"", "8BITMIME", "SMTPUTF8", "8BITMIME|SMTPUTF8", "8BITMIME|SMTPUTF8|DSN", "DSN|RRVS|DELIVERBY", "FUTURERELEASE|MT-PRIORITY",
		"AUTH PLAIN|BINARYMIME|CHUNKING|REQUIRETLS|PRDR|X-Y"}
	own := offerOf("PIPELINING", "CHUNKING", "SIZE 100", "AUTH PLAIN", "BINARYMIME", "REQUIRETLS", "PRDR")
	licensed := 0
	for _, lines1 := range nexts {
		next := offerOf(strings.Split(lines1, "|")...)
		for _, line := range lines {
			c := parsed(t, line)
			if _, ok := Licensed(Offer(own, next), c); !ok {
				continue
			}
			licensed++
			if _, r, ok := Adapt(c, next); !ok {
				t.Errorf("next %q: %q is licensed, then refused: %v", lines1, line, r)
			}
		}
	}
	if licensed < len(nexts) {
		t.Errorf("only %d were licensed", licensed)
	}
}

func BenchmarkLicensedAndAdapt(b *testing.B) {
	offer := offerOf("PIPELINING", "STARTTLS", "CHUNKING", "SIZE 52428800", "8BITMIME", "SMTPUTF8", "DSN")
	c := ParseCommand([]byte("MAIL FROM:<sender@example.org> SIZE=12345 BODY=8BITMIME RET=HDRS"))
	b.ReportAllocs()
	for b.Loop() {
		if _, ok := Licensed(offer, c); !ok {
			b.Fatal("not licensed")
		}
		sinkCommand, _, _ = Adapt(c, offer)
	}
}
