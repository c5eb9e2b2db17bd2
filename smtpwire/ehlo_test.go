package smtpwire

import (
	"fmt"
	"math"
	"reflect"
	"strings"
	"testing"
)

func TestParseEHLO(t *testing.T) {
	tests := []struct {
		rule     string
		reply    Reply
		host     string
		keywords []Param
		again    []string // lines of Reply(); nil where they are those of reply
	}{
		// https://www.rfc-editor.org/rfc/rfc5321#section-4.1.1.1
		{"ehlo-line      = ehlo-keyword *( SP ehlo-param )",
			Reply{250, []string{"mx.example.org Hello [192.0.2.1]", "SIZE 52428800", "PIPELINING", "AUTH PLAIN LOGIN"}},
			"mx.example.org", []Param{{"SIZE", "52428800"}, {"PIPELINING", ""}, {"AUTH", "PLAIN LOGIN"}}, nil},
		{"", Reply{250, []string{"mx", "AUTH  PLAIN   LOGIN ", "HELP "}},
			"mx", []Param{{"AUTH", "PLAIN LOGIN"}, {"HELP", ""}}, []string{"mx", "AUTH PLAIN LOGIN", "HELP"}},
		{"ehlo-ok-rsp    = ( \"250\" SP Domain [ SP ehlo-greet ] CRLF )",
			Reply{250, []string{"mx.example.org"}}, "mx.example.org", []Param{}, nil},
		{"", Reply{250, []string{""}}, "", []Param{}, nil},
		{"ehlo-greet     = 1*(%d0-9 / %d11-12 / %d14-127)",
			Reply{250, []string{"mx hi\x00there\t!"}}, "mx", []Param{}, []string{"mx hi?there\t!"}},
		{"ehlo-keyword   = (ALPHA / DIGIT) *(ALPHA / DIGIT / \"-\")",
			Reply{250, []string{"mx", "8BITMIME", "AUTH=LOGIN PLAIN", "-X", "", " SIZE 5", "X\tY", "DS\u00d1", "dsn"}},
			"mx", []Param{{"8BITMIME", ""}, {"dsn", ""}}, []string{"mx", "8BITMIME", "dsn"}},
		{"ehlo-param     = 1*(%d33-126)",
			Reply{250, []string{"mx", "SIZE 5\x00", "X-A \u00fc", "X-B a\tb", "X-C !~="}},
			"mx", []Param{{"X-C", "!~="}}, []string{"mx", "X-C !~="}},
		{"MUST always be recognized and processed in a case-insensitive manner; the first counts",
			Reply{250, []string{"mx", "Size 5", "SIZE 6", "size"}}, "mx", []Param{{"Size", "5"}}, []string{"mx", "Size 5"}},
		{"Exim 4.95 and before: names with underscores",
			Reply{250, []string{"mx", "PIPE_CONNECT", "X_PIPE_CONNECT"}},
			"mx", []Param{{"PIPE_CONNECT", ""}, {"X_PIPE_CONNECT", ""}}, nil},
	}
	rule := ""
	for _, tt := range tests {
		if tt.rule != "" {
			rule = tt.rule
		}
		e := ParseEHLO(tt.reply)
		if got := e.Keywords(); e.Host() != tt.host || len(got)+len(tt.keywords) > 0 && !reflect.DeepEqual(got, tt.keywords) {
			t.Errorf("%s\n\tParseEHLO(%q) = %q %q", rule, tt.reply.Lines, e.Host(), got)
		}
		again := tt.again
		if again == nil {
			again = tt.reply.Lines
		}
		if got := e.Reply(); got.Code != 250 || !reflect.DeepEqual(got.Lines, again) {
			t.Errorf("%s\n\tReply() = %q, want %q", rule, got.Lines, again)
		}
	}
}

func TestParseEHLOOfOtherReplies(t *testing.T) {
	for _, r := range []Reply{{}, {Code: 250}, {550, []string{"mx", "SIZE"}}, {220, []string{"mx ESMTP"}}} {
		if e := ParseEHLO(r); !e.IsZero() {
			t.Errorf("ParseEHLO(%v) = %+v", r, e)
		}
	}
}

func TestParseEHLOBound(t *testing.T) {
	lines := []string{"mx"}
	for i := range 3 * maxKeywords {
		lines = append(lines, fmt.Sprintf("X-%d", i))
	}
	e := ParseEHLO(Reply{250, lines})
	if got := len(e.Keywords()); got != maxKeywords {
		t.Errorf("%d keywords, want %d", got, maxKeywords)
	}
	if got := e.With(Param{Name: "SIZE"}); !got.Equal(e) {
		t.Error("With went beyond the bound")
	}
	if got := e.With(Param{Name: "X-0", Value: "y"}); !got.Has("X-0") || len(got.Keywords()) != maxKeywords {
		t.Error("With did not replace at the bound")
	}
}

func TestEHLOIsAValue(t *testing.T) {
	in := []Param{{"SIZE", "5"}, {"DSN", ""}, {"dsn", "x"}, {"b ad", ""}}
	e := NewEHLO("mx.example.org trailing", in...)
	want := []Param{{"SIZE", "5"}, {"DSN", ""}}
	if e.Host() != "mx.example.org" || !reflect.DeepEqual(e.Keywords(), want) {
		t.Fatalf("NewEHLO = %q %q", e.Host(), e.Keywords())
	}
	in[0].Value = "6"
	e.Keywords()[0].Value = "7"
	a := e.With(Param{"size", "8"})
	b := e.With(Param{"A", "1"})
	c := e.With(Param{"B", "2"})
	d := e.Without("dsn", "nothing")
	bad := e.With(Param{"C", "\r\n"})
	for _, tt := range []struct {
		e    EHLO
		want []Param
	}{
		{e, want},
		{a, []Param{{"size", "8"}, {"DSN", ""}}},
		{b, []Param{{"SIZE", "5"}, {"DSN", ""}, {"A", "1"}}},
		{c, []Param{{"SIZE", "5"}, {"DSN", ""}, {"B", "2"}}},
		{d, []Param{{"SIZE", "5"}}},
		{bad, want},
	} {
		if got := tt.e.Keywords(); !reflect.DeepEqual(got, tt.want) {
			t.Errorf("keywords %q, want %q", got, tt.want)
		}
	}
	if v, ok := e.Get("Dsn"); v != "" || !ok || e.Has("RET") {
		t.Error("Get or Has")
	}
	if !(EHLO{}).IsZero() || e.IsZero() || NewEHLO("mx").IsZero() || NewEHLO("", Param{Name: "DSN"}).IsZero() {
		t.Error("IsZero")
	}
	for _, host := range []string{"a\nb", "\xff", strings.Repeat("h", 256)} {
		if got := NewEHLO(host).Host(); got != "" {
			t.Errorf("NewEHLO(%q).Host() = %q", host, got)
		}
	}
}

func TestEHLOEqual(t *testing.T) {
	base := ParseEHLO(Reply{250, []string{"mx.example.org Hello [192.0.2.1]", "SIZE 5", "DSN"}})
	tests := []struct {
		lines []string
		want  bool
	}{
		{[]string{"mx.example.org Hello [192.0.2.1]", "SIZE 5", "DSN"}, true},
		{[]string{"mx.example.org Hello [192.0.2.99]", "SIZE 5", "DSN"}, true},
		{[]string{"MX.example.org", "dsn", "size 5"}, true},
		{[]string{"mx2.example.org", "SIZE 5", "DSN"}, false},
		{[]string{"mx.example.org", "SIZE 6", "DSN"}, false},
		{[]string{"mx.example.org", "SIZE 5"}, false},
		{[]string{"mx.example.org", "SIZE 5", "DSN", "HELP"}, false},
		{[]string{"mx.example.org", "SIZE 5", "HELP"}, false},
	}
	for _, tt := range tests {
		o := ParseEHLO(Reply{250, tt.lines})
		if base.Equal(o) != tt.want || o.Equal(base) != tt.want {
			t.Errorf("Equal(%q) = %v, %v, want %v", tt.lines, base.Equal(o), o.Equal(base), tt.want)
		}
	}
	if !(EHLO{}).Equal(EHLO{}) || (EHLO{}).Equal(base) {
		t.Error("the zero value")
	}
}

// https://www.rfc-editor.org/rfc/rfc1870#section-3: "A parameter value of 0
// (zero) indicates that no fixed maximum message size is in force. If the
// parameter is omitted no information is conveyed"
func TestEHLOSize(t *testing.T) {
	tests := []struct {
		value   string
		limit   int64
		offered bool
	}{
		{"", 0, true},
		{"0", 0, true},
		{"10485760", 10485760, true},
		{"99999999999999999999", math.MaxInt64, true},
		{"-5", 0, true},
		{"5 6", 0, true},
		{"5MB", 0, true},
	}
	for _, tt := range tests {
		if limit, offered := NewEHLO("mx", Param{"SIZE", tt.value}).Size(); limit != tt.limit || offered != tt.offered {
			t.Errorf("SIZE %q: %d, %v", tt.value, limit, offered)
		}
	}
	if limit, offered := NewEHLO("mx").Size(); limit != 0 || offered {
		t.Errorf("no SIZE: %d, %v", limit, offered)
	}
}

func TestEHLOPipeConnect(t *testing.T) {
	for keyword, want := range map[string]bool{
		"PIPECONNECT": true, "PIPE_CONNECT": true, "X_PIPE_CONNECT": true, "pipeconnect": true, "PIPELINING": false, "PIPE-CONNECT": false,
	} {
		if got := NewEHLO("mx", Param{Name: keyword}).PipeConnect(); got != want {
			t.Errorf("%s: %v", keyword, got)
		}
	}
}

// FuzzEHLO: whatever a server answers, what is kept of it is bounded and
// well-formed, reads back from its own reply as the same, and Offer lets nothing
// through that the table does not allow.
func FuzzEHLO(f *testing.F) {
	f.Add("mx hi\nSIZE 5\nPIPELINING\nX_PIPE_CONNECT\nAUTH=LOGIN\nAUTH PLAIN", "us\nSIZE 3\nLIMITS RCPTMAX=5")
	f.Add("\n\n \nSMTPUTF8\n8BITMIME\nLIMITS RCPTMAX=1 MAILMAX=x", "us\nSIZE\nSTARTTLS\nDSN\nXCLIENT NAME")
	f.Add(" a  b\nSIZE 99999999999999999999999", "")
	f.Fuzz(func(t *testing.T, theirs, ours string) {
		next := ParseEHLO(Reply{250, strings.Split(theirs, "\n")})
		own := ParseEHLO(Reply{250, strings.Split(ours, "\n")})
		for _, e := range []EHLO{next, own, NewEHLO(theirs, Param{ours, theirs}), next.With(Param{theirs, ours})} {
			checkEHLO(t, e)
		}
		offer := Offer(own, next)
		checkEHLO(t, offer)
		for _, p := range offer.Keywords() {
			x := extensionNamed(p.Name)
			switch {
			case x == nil || x.Scope == Masked:
				t.Fatalf("%q was let through", p.Name)
			case x.Scope == EndToEnd && !next.Has(p.Name):
				t.Fatalf("%q is not offered by the next hop", p.Name)
			case x.Scope == HopByHop && !own.Has(p.Name) && x.Keyword != "SIZE" && x.Keyword != "LIMITS":
				t.Fatalf("%q is not ours", p.Name)
			}
		}
		if again := Offer(offer, next); !again.Equal(offer) {
			t.Fatalf("offered again: %q, was %q", again.Keywords(), offer.Keywords())
		}
	})
}

func checkEHLO(t *testing.T, e EHLO) {
	t.Helper()
	if n := len(e.Keywords()); n > maxKeywords {
		t.Fatalf("%d keywords", n)
	}
	if len(e.Host()) > maxDomain || strings.Contains(e.Host(), " ") || !isText(e.Host()) {
		t.Fatalf("host %q", e.Host())
	}
	for i, p := range e.Keywords() {
		if clean, ok := cleanKeyword(p); !ok || clean != p || indexParam(e.keywords, p.Name) != i {
			t.Fatalf("keyword %+v", p)
		}
	}
	checkReplyWire(t, e.Reply())
	again := ParseEHLO(e.Reply())
	if !again.Equal(e) || !e.Equal(again) || !reflect.DeepEqual(again.Reply(), e.Reply()) {
		t.Fatalf("%q reads back as %q", e.Reply().Lines, again.Reply().Lines)
	}
	if !reflect.DeepEqual(again.Keywords(), e.Keywords()) {
		t.Fatalf("keywords %q read back as %q", e.Keywords(), again.Keywords())
	}
	if limit, _ := e.Size(); limit < 0 {
		t.Fatalf("SIZE %d", limit)
	}
}
