package smtpwire

import (
	"fmt"
	"reflect"
	"strings"
	"testing"
)

func TestParams(t *testing.T) {
	ps := Params{{"SIZE", "10"}, {"Body", "8BITMIME"}, {"SMTPUTF8", ""}}
	orig := append(Params(nil), ps...)

	if v, ok := ps.Get("body"); v != "8BITMIME" || !ok {
		t.Errorf("Get(body) = %q, %v", v, ok)
	}
	if v, ok := ps.Get("smtputf8"); v != "" || !ok {
		t.Errorf("Get(smtputf8) = %q, %v", v, ok)
	}
	if v, ok := ps.Get("RET"); v != "" || ok {
		t.Errorf("Get(RET) = %q, %v", v, ok)
	}
	// U+017F folds to s in Unicode, and is no letter of any keyword.
	if _, ok := ps.Get("\u017fIZE"); ok {
		t.Error("Get folds beyond ASCII")
	}
	if got, want := ps.With("size", "11"), (Params{{"size", "11"}, {"Body", "8BITMIME"}, {"SMTPUTF8", ""}}); !reflect.DeepEqual(got, want) {
		t.Errorf("With(size) = %v", got)
	}
	if got, want := ps.With("RET", "HDRS"), append(append(Params(nil), ps...), Param{"RET", "HDRS"}); !reflect.DeepEqual(got, want) {
		t.Errorf("With(RET) = %v", got)
	}
	if got, want := ps.Without("SIZE", "smtputf8", "X"), (Params{{"Body", "8BITMIME"}}); !reflect.DeepEqual(got, want) {
		t.Errorf("Without = %v", got)
	}
	if got := ps.Without("SIZE", "BODY", "SMTPUTF8"); got != nil {
		t.Errorf("Without all = %#v, want nil", got)
	}
	if got, want := Params(nil).With("A", "1"), (Params{{"A", "1"}}); !reflect.DeepEqual(got, want) {
		t.Errorf("nil.With = %v", got)
	}
	if !reflect.DeepEqual(ps, orig) {
		t.Errorf("a method changed its receiver: %v", ps)
	}
}

// With must not write into spare capacity that another copy shares.
func TestParamsWithCopies(t *testing.T) {
	base := make(Params, 1, 8)
	base[0] = Param{"A", "1"}
	one, two := base.With("B", "1"), base.With("C", "2")
	if one[1].Name != "B" || two[1].Name != "C" {
		t.Errorf("copies share memory: %v %v", one, two)
	}
}

func TestParseParams(t *testing.T) {
	tests := []struct {
		rule    string
		in      string
		want    Params
		problem string
	}{
		// https://www.rfc-editor.org/rfc/rfc5321#section-4.1.2
		{"esmtp-param    = esmtp-keyword [\"=\" esmtp-value]",
			"SIZE=10 SMTPUTF8", Params{{"SIZE", "10"}, {"SMTPUTF8", ""}}, ""},
		{"", "", nil, ""},
		{"", "   ", nil, ""},
		{"", " size=1  x-y=2 ", Params{{"size", "1"}, {"x-y", "2"}}, ""},
		{"", "8BIT", Params{{"8BIT", ""}}, ""},
		{"esmtp-keyword  = (ALPHA / DIGIT) *(ALPHA / DIGIT / \"-\")",
			"-X=1", nil, `parameter name "-X" is malformed`},
		{"", "X_Y=1", nil, "malformed"},
		{"", "=1", nil, `parameter name "" is malformed`},
		{"", "ß=1", nil, "malformed"},
		{"esmtp-value    = 1*(%d33-60 / %d62-126)",
			"SIZE=", nil, `parameter "SIZE" has an empty value`},
		{"", "A==", nil, `parameter "A" has a malformed value`},
		{"", "A=b=c", nil, "malformed value"},
		{"", "AUTH=<>", Params{{"AUTH", "<>"}}, ""},
		{"", "A=!~+{\\", Params{{"A", "!~+{\\"}}, ""},
		{"this string is an email address, i.e., a Mailbox, then the \"xtext\" syntax [32] SHOULD be used",
			"ORCPT=rfc822;a+3Db@c", Params{{"ORCPT", "rfc822;a+3Db@c"}}, ""},
		// https://www.rfc-editor.org/rfc/rfc6531#section-3.3
		{"esmtp-value    =/ UTF8-non-ascii", "ORCPT=utf-8;ä@b", Params{{"ORCPT", "utf-8;ä@b"}}, ""},
		// https://www.rfc-editor.org/rfc/rfc3461#section-4.5
		{"If more than one of either of these parameters appears [...] SHOULD respond with \"501",
			"RET=FULL ret=HDRS", nil, `parameter "ret" is given twice`},
	}
	rule := ""
	for _, tt := range tests {
		if tt.rule != "" {
			rule = tt.rule
		}
		got, problem := parseParams(tt.in)
		if tt.problem == "" && (problem != "" || !reflect.DeepEqual(got, tt.want)) ||
			tt.problem != "" && (!strings.Contains(problem, tt.problem) || got != nil) {
			t.Errorf("%s\n\tparseParams(%q) = %v, problem %q", rule, tt.in, got, problem)
		}
	}
}

func TestParseParamsBound(t *testing.T) {
	var b strings.Builder
	for i := range maxParams {
		fmt.Fprintf(&b, " P%d", i)
	}
	if ps, problem := parseParams(b.String()); problem != "" || len(ps) != maxParams {
		t.Errorf("%d parameters: %d taken, problem %q", maxParams, len(ps), problem)
	}
	if _, problem := parseParams(b.String() + " X"); problem != "too many parameters" {
		t.Errorf("%d parameters: problem %q", maxParams+1, problem)
	}
}
