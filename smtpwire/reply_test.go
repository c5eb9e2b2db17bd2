package smtpwire

import (
	"bytes"
	"reflect"
	"strconv"
	"strings"
	"testing"
)

func TestReplyAppendTo(t *testing.T) {
	tests := []struct {
		r         Reply
		wire, log string
	}{
		{Reply{}, "", ""},
		{NewReply(250, "2.1.0", "ok"), "250 2.1.0 ok\r\n", "250 2.1.0 ok"},
		{NewReply(354, "", "go on"), "354 go on\r\n", "354 go on"},
		// "senders SHOULD NOT send bare codes"
		{Reply{Code: 250}, "250 \r\n", "250"},
		{Reply{Code: 250, Lines: []string{""}}, "250 \r\n", "250 "},
		{Reply{Code: 250, Lines: []string{"a", "", "b"}}, "250-a\r\n250-\r\n250 b\r\n", "250 a; ; b"},
		{NewReply(550, "5.7.1", "no\nreally not"), "550-5.7.1 no\r\n550 5.7.1 really not\r\n", "550 5.7.1 no; 5.7.1 really not"},
		{NewReply(451, "4.3.0", "a\r\nb\rc\x00"), "451-4.3.0 a\r\n451 4.3.0 b?c?\r\n", "451 4.3.0 a; 4.3.0 b?c?"},
		{Reply{Code: 250, Lines: []string{"a\r\n250 b\x7f", "t\tb ü"}}, "250-a??250 b?\r\n250 t\tb ü\r\n", "250 a??250 b?; t b ü"},
	}
	for _, tt := range tests {
		if got := string(tt.r.AppendTo([]byte("-"))); got != "-"+tt.wire {
			t.Errorf("%+v.AppendTo = %q, want %q", tt.r, got, tt.wire)
		}
		if got := tt.r.String(); got != tt.log {
			t.Errorf("%+v.String = %q, want %q", tt.r, got, tt.log)
		}
	}
}

func TestReplyClass(t *testing.T) {
	for code, want := range map[int]int{0: 0, 99: 0, 199: 0, 200: 2, 354: 3, 421: 4, 599: 5, 600: 0, -250: 0} {
		if got := (Reply{Code: code}).Class(); got != want {
			t.Errorf("Class of %d = %d, want %d", code, got, want)
		}
	}
	if !(Reply{}).IsZero() || (Reply{Code: 250}).IsZero() {
		t.Error("IsZero")
	}
}

func TestReplyEnhanced(t *testing.T) {
	tests := []struct {
		rule string
		code int
		text string
		want string
	}{
		// https://www.rfc-editor.org/rfc/rfc3463#section-2
		{"status-code = class \".\" subject \".\" detail", 250, "2.1.5 ok", "2.1.5"},
		{"", 250, "2.1.5", "2.1.5"},
		{"", 550, "5.123.999 no", "5.123.999"},
		{"subject = 1*3digit", 550, "5.1234.1 no", ""},
		{"detail = 1*3digit", 550, "5.1.1234 no", ""},
		{"", 550, "5.1 no", ""},
		{"", 550, "5.1. no", ""},
		{"", 550, "5..1 no", ""},
		{"", 550, "5.1.1: no", ""},
		{"", 550, "5.1.1.1 no", ""},
		{"", 550, "", ""},
		{"", 550, "[5.1.1] no", ""},
		// https://www.rfc-editor.org/rfc/rfc2034#section-4
		{"the class of the status code agrees with the first digit of the reply code", 550, "4.1.1 no", ""},
		{"class = \"2\"/\"4\"/\"5\"", 354, "3.0.0 go", ""},
	}
	rule := ""
	for _, tt := range tests {
		if tt.rule != "" {
			rule = tt.rule
		}
		got, ok := Reply{Code: tt.code, Lines: []string{tt.text}}.Enhanced()
		if got != tt.want || ok != (tt.want != "") {
			t.Errorf("%s\n\tEnhanced of %d %q = %q, %v", rule, tt.code, tt.text, got, ok)
		}
	}
	if _, ok := (Reply{Code: 250}).Enhanced(); ok {
		t.Error("Enhanced of no lines")
	}
}

// https://www.rfc-editor.org/rfc/rfc2034#section-4: "the text part of all 2xx,
// 4xx, and 5xx SMTP responses other than the initial greeting and any response
// to HELO or EHLO are prefaced with a status code"
func TestReplyWithEnhanced(t *testing.T) {
	tests := []struct {
		code     int
		in, want []string
	}{
		{250, []string{"ok"}, []string{"2.0.0 ok"}},
		{451, []string{"later"}, []string{"4.0.0 later"}},
		{550, []string{"no", "never"}, []string{"5.0.0 no", "5.0.0 never"}},
		{550, []string{"5.7.1 no"}, []string{"5.7.1 no"}},
		{550, []string{"5.7.1 no", "see there"}, []string{"5.7.1 no", "5.7.1 see there"}},
		{550, []string{"no", "5.7.1 see there"}, []string{"5.0.0 no", "5.7.1 see there"}},
		{250, []string{"5.7.1 no"}, []string{"2.0.0 5.7.1 no"}},
		{250, []string{""}, []string{"2.0.0"}},
		{250, nil, []string{"2.0.0"}},
		{354, []string{"go on"}, []string{"go on"}},
		{0, nil, nil},
	}
	for _, tt := range tests {
		in := append([]string(nil), tt.in...)
		got := Reply{tt.code, in}.WithEnhanced()
		if got.Code != tt.code || !reflect.DeepEqual(got.Lines, tt.want) && len(got.Lines)+len(tt.want) > 0 {
			t.Errorf("%d %q.WithEnhanced = %q, want %q", tt.code, tt.in, got.Lines, tt.want)
		}
		if !reflect.DeepEqual(in, append([]string(nil), tt.in...)) {
			t.Errorf("%d %q was changed to %q", tt.code, tt.in, in)
		}
	}
}

// checkReplyWire fails unless the wire form of r is a Reply-line with the code
// on every line:
//
//	Reply-line     = *( Reply-code "-" [ textstring ] CRLF )
//	               Reply-code [ SP textstring ] CRLF
func checkReplyWire(t *testing.T, r Reply) {
	t.Helper()
	wire := r.AppendTo(nil)
	text, ok := bytes.CutSuffix(wire, []byte("\r\n"))
	if !ok {
		t.Fatalf("%q has no CRLF", wire)
	}
	lines := strings.Split(string(text), "\r\n")
	if len(lines) != max(1, len(r.Lines)) {
		t.Fatalf("%d lines became %q", len(r.Lines), wire)
	}
	for i, line := range lines {
		sep := "-"
		if i == len(lines)-1 {
			sep = " "
		}
		text, ok := strings.CutPrefix(line, strconv.Itoa(r.Code)+sep)
		if !ok || strings.ContainsAny(text, "\r\n\x00\x7f") {
			t.Fatalf("line %d of %q is malformed", i, wire)
		}
	}
	if log := r.String(); !isClean(log) || strings.Contains(log, "\t") {
		t.Fatalf("log form %q", log)
	}
}

// FuzzReplyText: no text, composed or received, can break out of its line, and
// WithEnhanced says everything that must be said, once.
func FuzzReplyText(f *testing.F) {
	f.Add(uint16(50), "5.1.1", "no such user", "second")
	f.Add(uint16(50), "", "a\r\n250 b", "5.1.1\x00")
	f.Add(uint16(154), "", "go\n\n", "")
	f.Add(uint16(300), "5.0", "ü\x7f\t", "5.7.1 x")
	f.Fuzz(func(t *testing.T, n uint16, enhanced, one, two string) {
		code := 200 + int(n)%400
		for _, r := range []Reply{NewReply(code, "", one), NewReply(code, cleanText(enhanced), two), {code, []string{one, two}}, {Code: code}} {
			checkReplyWire(t, r)
			e := r.WithEnhanced()
			checkReplyWire(t, e)
			if again := e.WithEnhanced(); !reflect.DeepEqual(again, e) {
				t.Fatalf("%q with enhanced codes twice: %q", e.Lines, again.Lines)
			}
			if r.Class() == 3 {
				if !reflect.DeepEqual(e, r) {
					t.Fatalf("3xx changed: %q", e.Lines)
				}
				continue
			}
			for i, line := range e.Lines {
				status, ok := e.enhanced(line)
				if !ok || int(status[0]-'0') != e.Class() {
					t.Fatalf("line %q has no code", line)
				}
				if len(r.Lines) > 0 && !strings.HasSuffix(strings.TrimRight(line, " "), strings.TrimRight(r.Lines[i], " ")) {
					t.Fatalf("%q became %q", r.Lines[i], line)
				}
			}
		}
	})
}
