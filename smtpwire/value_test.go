package smtpwire

import (
	"strings"
	"testing"
)

func TestParameterValues(t *testing.T) {
	tests := []struct {
		rule, keyword, name string
		good, bad           []string
	}{
		// https://www.rfc-editor.org/rfc/rfc1870#section-3
		{"size-value ::= 1*20DIGIT", "SIZE", "SIZE",
			[]string{"0", "10", "18446744073709551616", "00000000000000000001"},
			[]string{"", "-1", "+1", "1.5", "1K", "100000000000000000000"}},
		// https://www.rfc-editor.org/rfc/rfc6152#section-2
		{"body-value ::= \"7BIT\" / \"8BITMIME\"", "8BITMIME", "BODY",
			[]string{"7BIT", "8bitmime"}, []string{"", "BINARYMIME", "8BIT"}},
		// https://www.rfc-editor.org/rfc/rfc3030#section-3
		{"the BODY parameter [...] BINARYMIME", "BINARYMIME", "BODY",
			[]string{"BINARYMIME"}, []string{"", "7BIT"}},
		// https://www.rfc-editor.org/rfc/rfc6531#section-3.4
		{"The SMTPUTF8 parameter does not accept a value", "SMTPUTF8", "SMTPUTF8", []string{""}, []string{"1"}},
		{"REQUIRETLS has no value", "REQUIRETLS", "REQUIRETLS", []string{""}, []string{"1"}},
		{"PRDR has no value", "PRDR", "PRDR", []string{""}, []string{"1"}},
		// https://www.rfc-editor.org/rfc/rfc3461#section-4
		{"The FULL and HDRS keywords may be spelled in any combination of upper and lower case letters", "DSN", "RET",
			[]string{"FULL", "hdrs"}, []string{"", "HEADERS"}},
		{"envid-parameter = \"ENVID=\" xtext", "DSN", "ENVID",
			[]string{"x", "QQ314159", "a+20b+2B+3D", strings.Repeat("x", 100)},
			[]string{"", "a+", "a+2", "a+2g", "a+2b", strings.Repeat("x", 101)}},
		{"MUST consist entirely of printable (graphic and white space) characters", "DSN", "ENVID",
			[]string{"a+09b"}, []string{"a+0D+0ABcc:x", "+00", "+7F"}},
		{"the NEVER keyword MUST appear by itself", "DSN", "NOTIFY",
			[]string{"NEVER", "success", "SUCCESS,FAILURE,DELAY", "delay,failure"},
			[]string{"", "NEVER,SUCCESS", "SUCCESS,", ",", "ALWAYS"}},
		{"original-recipient-address = addr-type \";\" xtext", "DSN", "ORCPT",
			[]string{"rfc822;a@b", "rfc822;a+2Bb@c", "X400;/C+3DUS", "rfc822;" + strings.Repeat("x", 493)},
			[]string{"", "a@b", ";a@b", "rfc822;", "X400;/C=US", "rfc 822;a", "rfc822;a+b@c", "rfc822;a+0A@b", "rfc822;" + strings.Repeat("x", 494), "ü;a@b"}},
		// https://www.rfc-editor.org/rfc/rfc6533#section-3
		{"utf-8-addr-unitext", "DSN", "ORCPT", []string{"utf-8;ä@ü.example", `utf-8;\x{E4}@b`}, []string{"utf-8;ä+@b"}},
		// https://www.rfc-editor.org/rfc/rfc4954#section-5
		{"an <xtext> [...] or the two character sequence \"<>\"", "AUTH", "AUTH",
			[]string{"<>", "e+3Dmc2@example.com"}, []string{"", "a+b"}},
		// https://www.rfc-editor.org/rfc/rfc2852#section-4
		{"by-value = by-time\";\"by-mode[by-trace]", "DELIVERBY", "BY",
			[]string{"120;R", "-999999999;N", "+7;NT", "98;rt"}, []string{"", "120", "120;", "120;X", ";R", "-;R", "1000000000;R", "120;T", "1.5;R"}},
		// https://www.rfc-editor.org/rfc/rfc4865
		{"future-release-interval: a positive integer", "FUTURERELEASE", "HOLDFOR",
			[]string{"1", "999999999"}, []string{"", "0", "-1", "1000000000", "1h"}},
		{"future-release-date-time: Internet-style date and time in UTC", "FUTURERELEASE", "HOLDUNTIL",
			[]string{"2030-12-31T23:59:59Z", "2030-12-31T23:59:59.5Z"},
			[]string{"", "2030-12-31", "2030-12-31T23:59:59+01:00", "2030-13-31T23:59:59Z", "1787340000"}},
		// https://www.rfc-editor.org/rfc/rfc6710
		{"priority-value: an integer from -9 to 9", "MT-PRIORITY", "MT-PRIORITY",
			[]string{"0", "9", "-9", "-1"}, []string{"", "-", "-0", "10", "+1", "--1", "x"}},
		// https://www.rfc-editor.org/rfc/rfc7293
		{"date-time and perhaps an action", "RRVS", "RRVS",
			[]string{"2014-04-03T23:01:00Z", "2014-04-03T23:01:00+02:00;C", "2014-04-03T23:01:00Z;r"},
			[]string{"", ";C", "2014-04-03T23:01:00Z;", "2014-04-03T23:01:00Z;X", "2014-04-03"}},
	}
	for _, tt := range tests {
		x := extensionNamed(tt.keyword)
		for _, name := range []string{tt.name, strings.ToLower(tt.name)} {
			for _, value := range tt.good {
				if err := x.Check(name, value); err != nil {
					t.Errorf("%s\n\t%s=%s: %v", tt.rule, name, value, err)
				}
			}
			for _, value := range tt.bad {
				if err := x.Check(name, value); err == nil {
					t.Errorf("%s\n\t%s=%s is taken", tt.rule, name, value)
				}
			}
		}
	}
}
