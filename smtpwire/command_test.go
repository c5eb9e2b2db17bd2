package smtpwire

import (
	"bytes"
	"reflect"
	"strings"
	"testing"
)

func TestParseCommand(t *testing.T) {
	tests := []struct {
		rule string
		line string
		want Command
		wire string // "" where it is the line itself
	}{
		// https://www.rfc-editor.org/rfc/rfc5321#section-4.1.1.1
		{"ehlo           = \"EHLO\" SP ( Domain / address-literal ) CRLF",
			"EHLO mail.example.org", Command{Verb: VerbEhlo, Arg: "mail.example.org"}, ""},
		{"", "EHLO [192.0.2.1]", Command{Verb: VerbEhlo, Arg: "[192.0.2.1]"}, ""},
		{"", "HELO x", Command{Verb: VerbHelo, Arg: "x"}, ""},
		{"", "LHLO x", Command{Verb: VerbLhlo, Arg: "x"}, ""},
		{"real life: nothing is decided by the name, and old hosts give odd ones",
			"HELO MY_PC!.(none)", Command{Verb: VerbHelo, Arg: "MY_PC!.(none)"}, ""},
		{"", "HELO " + strings.Repeat("h", 255), Command{Verb: VerbHelo, Arg: strings.Repeat("h", 255)}, ""},

		// https://www.rfc-editor.org/rfc/rfc5321#section-2.4
		{"a command verb, an argument value other than a mailbox local-part [...] MAY be encoded in upper case, lower case, or any mixture",
			"eHlO Mail", Command{Verb: VerbEhlo, Arg: "Mail"}, "EHLO Mail"},
		{"", "mail from:<A@b>", Command{Verb: VerbMail, Path: Path{"A", "b"}}, "MAIL FROM:<A@b>"},
		{"sendmail writes it so", "MAIL From:<a@b>", Command{Verb: VerbMail, Path: Path{"a", "b"}}, "MAIL FROM:<a@b>"},
		{"", "rcpt tO:<a@b>", Command{Verb: VerbRcpt, Path: Path{"a", "b"}}, "RCPT TO:<a@b>"},

		// https://www.rfc-editor.org/rfc/rfc5321#section-4.1.1
		{"SMTP receivers SHOULD tolerate trailing white space before the terminating <CRLF>",
			"DATA \t ", Command{Verb: VerbData}, "DATA"},
		{"", "MAIL FROM:<a@b> \t", Command{Verb: VerbMail, Path: Path{"a", "b"}}, "MAIL FROM:<a@b>"},
		{"", "NOOP ", Command{Verb: VerbNoop}, "NOOP"},

		// https://www.rfc-editor.org/rfc/rfc5321#section-4.1.1.2
		{"mail = \"MAIL FROM:\" Reverse-path [SP Mail-parameters] CRLF",
			"MAIL FROM:<a@b> SIZE=3 BODY=8BITMIME",
			Command{Verb: VerbMail, Path: Path{"a", "b"}, Params: Params{{"SIZE", "3"}, {"BODY", "8BITMIME"}}}, ""},
		{"", "MAIL FROM:<>", Command{Verb: VerbMail}, ""},
		{"", "MAIL FROM:<postmaster@b>", Command{Verb: VerbMail, Path: Path{"postmaster", "b"}}, ""},
		{"real life: spaces behind the colon", "MAIL FROM:  <a@b>  SIZE=3",
			Command{Verb: VerbMail, Path: Path{"a", "b"}, Params: Params{{"SIZE", "3"}}}, "MAIL FROM:<a@b> SIZE=3"},
		{"real life: spaces behind the verb", "RCPT  TO: <a@b>", Command{Verb: VerbRcpt, Path: Path{"a", "b"}}, "RCPT TO:<a@b>"},

		// https://www.rfc-editor.org/rfc/rfc5321#section-4.1.1.3
		{"Receiving systems MUST recognize source route syntax but SHOULD strip off the source route specification",
			"RCPT TO:<@hosta.int,@jkl.org:userc@d.bar.org>",
			Command{Verb: VerbRcpt, Path: Path{"userc", "d.bar.org"}}, "RCPT TO:<userc@d.bar.org>"},
		// https://www.rfc-editor.org/rfc/rfc5321#section-4.5.1
		{"the special case of \"RCPT TO:<Postmaster>\" (with no domain specification), MUST be supported",
			"RCPT TO:<PostMaster>", Command{Verb: VerbRcpt, Path: Path{"PostMaster", ""}}, ""},
		{"", "RCPT TO:<a@b> NOTIFY=SUCCESS,DELAY ORCPT=rfc822;a+2Bx@b",
			Command{Verb: VerbRcpt, Path: Path{"a", "b"}, Params: Params{{"NOTIFY", "SUCCESS,DELAY"}, {"ORCPT", "rfc822;a+2Bx@b"}}}, ""},

		// https://www.rfc-editor.org/rfc/rfc3030#section-2
		{"bdat-cmd   ::= \"BDAT\" SP chunk-size [ SP end-marker ] CR LF",
			"BDAT 10", Command{Verb: VerbBdat, Size: 10}, ""},
		{"", "BDAT 10 LAST", Command{Verb: VerbBdat, Size: 10, Last: true}, ""},
		{"", "bdat 10 laSt", Command{Verb: VerbBdat, Size: 10, Last: true}, "BDAT 10 LAST"},
		{"", "BDAT 007", Command{Verb: VerbBdat, Size: 7}, "BDAT 7"},
		{"The last BDAT command MAY have a byte-count of zero",
			"BDAT 0 LAST", Command{Verb: VerbBdat, Last: true}, ""},
		{"", "BDAT 9223372036854775806", Command{Verb: VerbBdat, Size: 1<<63 - 2}, ""},

		// https://www.rfc-editor.org/rfc/rfc5321#section-4.1.1.9
		{"noop = \"NOOP\" [ SP String ] CRLF", "NOOP any  thing", Command{Verb: VerbNoop, Arg: "any  thing"}, ""},
		{"", "HELP", Command{Verb: VerbHelp}, ""},
		{"", "HELP mail", Command{Verb: VerbHelp, Arg: "mail"}, ""},
		{"", "VRFY jörg SMTPUTF8", Command{Verb: VerbVrfy, Arg: "jörg SMTPUTF8"}, ""},
		{"", "EXPN list", Command{Verb: VerbExpn, Arg: "list"}, ""},
		{"", "AUTH PLAIN AGEAYg==", Command{Verb: VerbAuth, Arg: "PLAIN", Initial: []byte("AGEAYg==")}, ""},
		// https://www.rfc-editor.org/rfc/rfc4954#section-4
		{"", "auth cram-md5", Command{Verb: VerbAuth, Arg: "CRAM-MD5"}, "AUTH CRAM-MD5"},
		{"transmit the response as a single equals sign", "AUTH X_1-2 =", Command{Verb: VerbAuth, Arg: "X_1-2", Initial: []byte("=")}, ""},
		{"", "ETRN @example.org", Command{Verb: VerbEtrn, Arg: "@example.org"}, ""},
		{"", "XCLIENT ADDR=192.0.2.1 NAME=a", Command{Verb: VerbXclient, Arg: "ADDR=192.0.2.1 NAME=a"}, ""},
		{"", "XFORWARD ADDR=192.0.2.1 IDENT=a", Command{Verb: VerbXforward, Arg: "ADDR=192.0.2.1 IDENT=a"}, ""},
		{"", "rset", Command{Verb: VerbRset}, "RSET"},
		{"", "quit", Command{Verb: VerbQuit}, "QUIT"},
		{"", "starttls", Command{Verb: VerbStarttls}, "STARTTLS"},
	}
	rule := ""
	for _, tt := range tests {
		if tt.rule != "" {
			rule = tt.rule
		}
		got := ParseCommand([]byte(tt.line))
		if !reflect.DeepEqual(got, tt.want) {
			t.Errorf("%s\n\tParseCommand(%q) = %+v", rule, tt.line, got)
		}
		wire := tt.wire
		if wire == "" {
			wire = tt.line
		}
		if got := string(tt.want.AppendTo([]byte("x"))); got != "x"+wire+"\r\n" {
			t.Errorf("%s\n\tAppendTo of %q = %q", rule, tt.line, got)
		}
	}
}

func TestParseCommandRefuses(t *testing.T) {
	tests := []struct {
		rule  string
		line  string
		verb  Verb
		reply string
	}{
		// https://www.rfc-editor.org/rfc/rfc5321#section-4.1.5
		{"An SMTP server that does not recognize such a command is expected to reply with \"500 Command not recognized\"",
			"XYZZY now", "", `500 5.5.1 Command "XYZZY" not recognized`},
		{"", "", "", `500 5.5.1 Command "" not recognized`},
		{"", " MAIL FROM:<a@b>", "", `500 5.5.1 Command "" not recognized`},
		{"", ".", "", `500 5.5.1 Command "." not recognized`},
		{"", "MAILFROM:<a@b>", "", `500 5.5.1 Command "MAILFROM:<a@b>" not recognized`},
		{"", "XYZ\x01", "", `500 5.5.1 Command "XYZ?" not recognized`},
		{"commands [...] are alphabetic characters terminated by <SP>",
			"MAIL\tFROM:<a@b>", VerbMail, "501 5.5.2 MAIL: control character or broken UTF-8 in the line"},
		{"", "BDAT\t10", VerbBdat, "501 5.5.2 BDAT: control character or broken UTF-8 in the line"},
		{"", "\x16\x03\x01\x02\x00\"\xff", "", `500 5.5.1 Command "???????" not recognized`},
		{"", strings.Repeat("A", 40), "", `500 5.5.1 Command "` + strings.Repeat("A", 32) + `..." not recognized`},

		// https://www.rfc-editor.org/rfc/rfc5321#section-4.1.1
		{"servers SHOULD reject commands containing them as having invalid syntax",
			"DATA now", VerbData, "501 5.5.4 DATA: no argument is allowed"},
		{"", "RSET x", VerbRset, "501 5.5.4 RSET: no argument is allowed"},
		{"", "QUIT x", VerbQuit, "501 5.5.4 QUIT: no argument is allowed"},
		// https://www.rfc-editor.org/rfc/rfc3207#section-4
		{"501 Syntax error (no parameters allowed)",
			"STARTTLS x", VerbStarttls, "501 5.5.4 STARTTLS: no argument is allowed"},
		{"vrfy = \"VRFY\" SP String CRLF", "VRFY", VerbVrfy, "501 5.5.4 VRFY: an argument is needed"},
		{"", "EXPN ", VerbExpn, "501 5.5.4 EXPN: an argument is needed"},
		{"", "AUTH", VerbAuth, "501 5.5.4 AUTH: an argument is needed"},
		{"", "AUTH PL.IN", VerbAuth, "501 5.5.4 AUTH: that is no name of a mechanism"},
		{"", "AUTH " + strings.Repeat("X", 21), VerbAuth, "501 5.5.4 AUTH: that is no name of a mechanism"},
		{"MUST reject (and not ignore) any character not explicitly allowed by the BASE64 alphabet",
			"AUTH PLAIN AGE$Yg==", VerbAuth, "501 5.5.2 AUTH: a response must be in base64"},
		{"(e.g., \"=AAA\" and \"AAA=BBB\" are not allowed)", "AUTH PLAIN =AAA", VerbAuth, "501 5.5.2 AUTH: a response must be in base64"},
		{"", "AUTH PLAIN AAA=BBB", VerbAuth, "501 5.5.2 AUTH: a response must be in base64"},
		{"", "AUTH PLAIN AAA===", VerbAuth, "501 5.5.2 AUTH: a response must be in base64"},
		{"", "AUTH PLAIN AAAA BBBB", VerbAuth, "501 5.5.2 AUTH: a response must be in base64"},
		{"", "AUTH PLAIN \x00", VerbAuth, "501 5.5.2 AUTH: a response must be in base64"},
		{"", "ETRN", VerbEtrn, "501 5.5.4 ETRN: an argument is needed"},
		{"", "XCLIENT", VerbXclient, "501 5.5.4 XCLIENT: an argument is needed"},

		{"ehlo           = \"EHLO\" SP ( Domain / address-literal ) CRLF",
			"EHLO", VerbEhlo, "501 5.5.4 EHLO: a host name is needed"},
		{"", "HELO \t", VerbHelo, "501 5.5.4 HELO: a host name is needed"},
		{"", "EHLO a b", VerbEhlo, "501 5.5.4 EHLO: the host name must be one word of printable ASCII"},
		{"", "EHLO bücher.example", VerbEhlo, "501 5.5.4 EHLO: the host name must be one word of printable ASCII"},
		{"", "EHLO " + strings.Repeat("h", 256), VerbEhlo, "501 5.5.4 EHLO: the host name is longer than 255 octets"},

		// https://www.rfc-editor.org/rfc/rfc5321#section-4.1.4
		{"If the transaction beginning command argument is not acceptable, a 501 failure reply MUST be returned",
			"MAIL", VerbMail, "501 5.5.4 MAIL: FROM:<address> is needed"},
		{"", "MAIL FROM", VerbMail, "501 5.5.4 MAIL: FROM:<address> is needed"},
		{"", "MAIL FROM :<a@b>", VerbMail, "501 5.5.4 MAIL: FROM:<address> is needed"},
		{"", "MAIL TO:<a@b>", VerbMail, "501 5.5.4 MAIL: FROM:<address> is needed"},
		{"", "MAIL FROM:", VerbMail, "501 5.5.4 MAIL: the address must stand in angle brackets, as FROM:<user@example.org>"},
		{"", "MAIL FROM:a@b", VerbMail, "501 5.5.4 MAIL: the address must stand in angle brackets, as FROM:<user@example.org>"},
		{"", "RCPT TO: a@b", VerbRcpt, "501 5.5.4 RCPT: the address must stand in angle brackets, as TO:<user@example.org>"},
		{"", "MAIL FROM:<a@b", VerbMail, `501 5.1.7 MAIL: bad address: only ">" may follow the domain`},
		{"", "MAIL FROM:<a@b>SIZE=3", VerbMail, "501 5.5.4 MAIL: a space must follow the address"},
		{"", "MAIL FROM:<a@b> SIZE=3\tBODY=7BIT", VerbMail, "501 5.5.2 MAIL: control character or broken UTF-8 in the line"},
		{"", "MAIL FROM:<a@b> SIZE=", VerbMail, `501 5.5.4 MAIL: parameter "SIZE" has an empty value`},
		{"Reverse-path   = Path / \"<>\"", "RCPT TO:<>", VerbRcpt, "501 5.1.3 RCPT: a recipient address is needed"},
		{"", "MAIL FROM:<postmaster>", VerbMail, "501 5.1.7 MAIL: the sender address must have a domain"},
		{"", "RCPT TO:<root>", VerbRcpt, `501 5.1.3 RCPT: bad address: "@" and a domain must follow the local part`},
		{"SMTP servers that receive a command in which invalid character codes have been employed, [...] MUST reject that command with a 501 response",
			"RCPT TO:<a@b!c>", VerbRcpt, `501 5.1.3 RCPT: bad address: only ">" may follow the domain`},
		{"", "MAIL FROM:<a\x00@b>", VerbMail, "501 5.5.2 MAIL: control character or broken UTF-8 in the line"},
		{"", "MAIL FROM:<a@b>\rRCPT TO:<c@d>", VerbMail, "501 5.5.2 MAIL: control character or broken UTF-8 in the line"},
		{"", "NOOP a\nQUIT", VerbNoop, "501 5.5.2 NOOP: control character or broken UTF-8 in the line"},
		{"", "MAIL FROM:<a\x7f@b>", VerbMail, "501 5.5.2 MAIL: control character or broken UTF-8 in the line"},
		// https://www.rfc-editor.org/rfc/rfc6531#section-3.3
		{"UTF8-non-ascii [...] is limited to RFC 3629: Latin-1 is not UTF-8",
			"MAIL FROM:<j\xf6rg@b>", VerbMail, "501 5.5.2 MAIL: control character or broken UTF-8 in the line"},
		{"", "MAIL FROM:<a\u0085@b>", VerbMail, "501 5.5.2 MAIL: control character or broken UTF-8 in the line"},
		{"", "MAIL FROM:<a\xed\xa0\x80@b>", VerbMail, "501 5.5.2 MAIL: control character or broken UTF-8 in the line"},

		// https://www.rfc-editor.org/rfc/rfc3030#section-2
		{"chunk-size ::= 1*DIGIT", "BDAT", VerbBdat, "501 5.5.4 BDAT: the chunk size must be a number of octets"},
		{"", "BDAT LAST", VerbBdat, "501 5.5.4 BDAT: the chunk size must be a number of octets"},
		{"", "BDAT -1", VerbBdat, "501 5.5.4 BDAT: the chunk size must be a number of octets"},
		{"", "BDAT +1", VerbBdat, "501 5.5.4 BDAT: the chunk size must be a number of octets"},
		{"", "BDAT 0x10", VerbBdat, "501 5.5.4 BDAT: the chunk size must be a number of octets"},
		{"", "BDAT 9223372036854775807", VerbBdat, "501 5.5.4 BDAT: the chunk size is too large"},
		{"", "BDAT 99999999999999999999999", VerbBdat, "501 5.5.4 BDAT: the chunk size is too large"},
		{"end-marker ::= \"LAST\"", "BDAT 1 LASTS", VerbBdat, "501 5.5.4 BDAT: only LAST may follow the chunk size"},
		{"", "BDAT 1 LAST LAST", VerbBdat, "501 5.5.4 BDAT: only LAST may follow the chunk size"},
	}
	rule := ""
	for _, tt := range tests {
		if tt.rule != "" {
			rule = tt.rule
		}
		got := ParseCommand([]byte(tt.line))
		if want := (Command{Verb: tt.verb, Refused: got.Refused}); !reflect.DeepEqual(got, want) || got.Refused.String() != tt.reply {
			t.Errorf("%s\n\tParseCommand(%q) = %+v\n\twant %s", rule, tt.line, got, tt.reply)
		}
	}
}

func TestCommandAppendTo(t *testing.T) {
	tests := []struct {
		c    Command
		want string
	}{
		{Command{}, ""},
		{Command{Verb: VerbEndOfData}, ""},
		{Command{Verb: VerbMail}, "MAIL FROM:<>\r\n"},
		// What cannot come from a line cannot make a second one either.
		{Command{Verb: VerbEhlo, Arg: "a\r\nMAIL FROM:<x@y>"}, "EHLO a??MAIL FROM:<x@y>\r\n"},
		{Command{Verb: "RSET\r\nQUIT"}, "RSET??QUIT\r\n"},
		{Command{Verb: VerbRcpt, Path: Path{"a\n", "b\r"}, Params: Params{{"X\n", "\x00"}}}, "RCPT TO:<a?@b?> X?=?\r\n"},
	}
	for _, tt := range tests {
		if got := string(tt.c.AppendTo(nil)); got != tt.want {
			t.Errorf("%+v.AppendTo = %q, want %q", tt.c, got, tt.want)
		}
	}
}

// FuzzCommand: a line is refused with a well-formed reply, or its regular form
// is one line that reads back as the same command; and nothing of the slice is
// kept.
func FuzzCommand(f *testing.F) {
	for _, s := range []string{
		"EHLO a", "HELO", "MAIL FROM:<a@b> SIZE=3 BODY=8BITMIME", "mail from: <>", "RCPT TO:<@x:a@b> NOTIFY=NEVER",
		"RCPT TO:<Postmaster>", "BDAT 10 LAST", "bdat 5", "DATA ", "QUIT x", "VRFY ä", "AUTH PLAIN =", ".", "STARTTLS",
		"MAIL FROM:<\"a\\\"b\"@[IPv6:::1]>", "NOOP \x00", "X\xff", "MAIL FROM:<a@b>\r\nDATA",
	} {
		f.Add([]byte(s))
	}
	f.Fuzz(func(t *testing.T, kept []byte) {
		line := bytes.Clone(kept)
		c := ParseCommand(line)
		if !bytes.Equal(line, kept) {
			t.Fatal("the line was written to")
		}
		for i := range line {
			line[i] = '#'
		}
		if again := ParseCommand(kept); !reflect.DeepEqual(again, c) {
			t.Fatalf("the line was kept: %+v, then %+v", again, c)
		}
		if c.Refused.Code != 0 {
			if c.Refused.Code != 500 && c.Refused.Code != 501 {
				t.Fatalf("refused with %v", c.Refused)
			}
			if _, ok := c.Refused.Enhanced(); !ok || c.Path != (Path{}) || c.Params != nil || c.Arg != "" || c.Size != 0 {
				t.Fatalf("half refused: %+v", c)
			}
			checkReplyWire(t, c.Refused)
			return
		}
		wire := c.AppendTo(nil)
		text, ok := bytes.CutSuffix(wire, []byte("\r\n"))
		if !ok || bytes.ContainsAny(text, "\r\n\x00") {
			t.Fatalf("wire form %q", wire)
		}
		if again := ParseCommand(text); !reflect.DeepEqual(again, c) {
			t.Fatalf("%q reads back as %+v, was %+v", wire, again, c)
		}
	})
}

var sinkCommand Command

func BenchmarkParseCommand(b *testing.B) {
	for _, line := range []string{
		"MAIL FROM:<sender@example.org> SIZE=12345 BODY=8BITMIME",
		"RCPT TO:<recipient@example.net>",
		"BDAT 12345 LAST",
		"DATA",
	} {
		b.Run(line[:4], func(b *testing.B) {
			in := []byte(line)
			b.ReportAllocs()
			for b.Loop() {
				sinkCommand = ParseCommand(in)
			}
		})
	}
}

func TestParseCommandAllocations(t *testing.T) {
	tests := []struct {
		line string
		max  float64
	}{
		{"MAIL FROM:<sender@example.org> SIZE=12345 BODY=8BITMIME", 2}, // text and parameters
		{"RCPT TO:<recipient@example.net>", 1},
		{"DATA", 0},
	}
	for _, tt := range tests {
		in := []byte(tt.line)
		if got := testing.AllocsPerRun(100, func() { sinkCommand = ParseCommand(in) }); got > tt.max {
			t.Errorf("ParseCommand(%q) allocates %v times, want at most %v", tt.line, got, tt.max)
		}
	}
}
