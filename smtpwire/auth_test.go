package smtpwire

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"reflect"
	"strings"
	"testing"
)

// https://www.rfc-editor.org/rfc/rfc4954#section-4
func TestSequenceAuth(t *testing.T) {
	const login, ehlo, mail = "AUTH PLAIN AGEAYg==", "EHLO x", "MAIL FROM:<a@a.example>"
	secured := func(s *Sequence) { s.Secured() }
	accepted := NewReply(235, "2.7.0", "welcome")
	for name, tt := range map[string]struct {
		offer  []string
		inTLS  bool // AuthInTLS
		before func(*Sequence)
		said   []string // each answered as it should be
		login  string
		code   int // of the refusal; 0: it passes
	}{
		"not offered, ever":        {said: []string{ehlo}, login: login, code: 502},
		"not offered, and no EHLO": {login: login, code: 502},
		"before EHLO":              {offer: []string{"AUTH PLAIN"}, inTLS: true, before: secured, login: login, code: 503},
		"in clear":                 {inTLS: true, said: []string{ehlo}, login: login, code: 538},
		"in clear, before EHLO":    {inTLS: true, login: login, code: 503},
		"in its place": {offer: []string{"AUTH LOGIN PLAIN"}, inTLS: true, before: secured,
			said: []string{ehlo}, login: login},
		"in lower case": {offer: []string{"AUTH plain"}, said: []string{ehlo}, login: "auth Plain", code: 0},
		"behind HELO": {offer: []string{"AUTH PLAIN"}, inTLS: true, before: secured,
			said: []string{"HELO x"}, login: login, code: 502},
		"another mechanism":   {offer: []string{"AUTH LOGIN"}, said: []string{ehlo}, login: login, code: 504},
		"part of a mechanism": {offer: []string{"AUTH LOGIN-PLAIN"}, said: []string{ehlo}, login: login, code: 504},
		"is not permitted during a mail transaction": {offer: []string{"AUTH PLAIN"}, said: []string{ehlo, mail},
			login: login, code: 503},
		"behind a transaction": {offer: []string{"AUTH PLAIN"}, said: []string{ehlo, mail, "RSET"},
			login: login},
		"no more AUTH commands": {offer: []string{"AUTH PLAIN"}, said: []string{ehlo, login},
			login: login, code: 503},
		"not after another EHLO either": {offer: []string{"AUTH PLAIN"}, said: []string{ehlo, login, ehlo},
			login: login, code: 503},
	} {
		t.Run(name, func(t *testing.T) {
			s := Sequence{AuthInTLS: tt.inTLS}
			if tt.before != nil {
				tt.before(&s)
			}
			s.Offered(offerOf(tt.offer...))
			for _, line := range tt.said {
				c := ParseCommand([]byte(line))
				if refusal, ok := s.Check(c); !ok {
					t.Fatalf("%s: %v", line, refusal)
				}
				r := NewReply(250, "2.0.0", "ok")
				if c.Verb == VerbAuth {
					r = accepted
				}
				s.Answered(c, r)
			}
			refusal, ok := s.Check(ParseCommand([]byte(tt.login)))
			if refusal.Code != tt.code || ok != (tt.code == 0) {
				t.Errorf("got %v, want %d", refusal, tt.code)
			}
		})
	}
}

// "If an AUTH command fails, the server MUST behave the same as if the client had
// not issued the AUTH command."
func TestSequenceAuthFailed(t *testing.T) {
	for _, code := range []int{235, 250, 334, 454, 501, 535} {
		s := Sequence{}
		s.Offered(offerOf("AUTH PLAIN"))
		s.Answered(Command{Verb: VerbEhlo, Arg: "x"}, NewReply(250, "", "x"))
		c := Command{Verb: VerbAuth, Arg: "PLAIN"}
		if _, ok := s.Check(c); !ok {
			t.Fatal("refused")
		}
		s.Answered(c, Reply{Code: code, Lines: []string{""}})
		if _, ok := s.Check(c); ok == (code == 235) {
			t.Errorf("behind %d a second AUTH passes: %t", code, ok)
		}
	}
}

// Secured keeps what the door is meant to do, and forgets a login.
func TestSequenceAuthSecured(t *testing.T) {
	s := Sequence{AuthInTLS: true, Relayed: []Verb{VerbEtrn}}
	s.authed = true
	s.Secured()
	if want := (Sequence{AuthInTLS: true, Relayed: []Verb{VerbEtrn}, secured: true}); !reflect.DeepEqual(s, want) {
		t.Errorf("left over: %+v", s)
	}
}

func TestSequenceRelayed(t *testing.T) {
	s := Sequence{Relayed: []Verb{VerbEtrn, VerbVrfy}}
	for _, tt := range []struct {
		line string
		code int
	}{
		{"ETRN a.example", 503}, {"EXPN list", 502}, {"VRFY a", 0},
		{"HELO x", 0}, {"ETRN a.example", 0}, {"EXPN list", 502},
		{"EHLO x", 0}, {"ETRN a.example", 0}, {"MAIL FROM:<a@b.example>", 0}, {"ETRN a.example", 0}, {"XCLIENT A=b", 502},
	} {
		c := ParseCommand([]byte(tt.line))
		refusal, ok := s.Check(c)
		if refusal.Code != tt.code || ok != (tt.code == 0) {
			t.Errorf("%s: %v, want %d", tt.line, refusal, tt.code)
		}
		if ok {
			s.Answered(c, NewReply(250, "2.0.0", "ok"))
		}
	}
}

func TestReadFlightAuth(t *testing.T) {
	long := "AUTH PLAIN " + strings.Repeat("A", MaxAuthLine-len("AUTH PLAIN \r\n"))
	for name, tt := range map[string]struct {
		in      string
		mech    string
		initial int // octets
		refused string
	}{
		"short":           {"AUTH PLAIN AGEAYg==", "PLAIN", 8, ""},
		"longer than any": {"AUTH PLAIN " + strings.Repeat("A", MaxCommandLine), "PLAIN", MaxCommandLine, ""},
		"longest":         {long, "PLAIN", MaxAuthLine - len("AUTH PLAIN \r\n"), ""},
		"too long":        {long + "A", "", 0, "500 5.5.6 line too long"},
		"much too long":   {long + long, "", 0, "500 5.5.6 line too long"},
		"not base64": {"AUTH PLAIN " + strings.Repeat("A", MaxCommandLine) + "!", "", 0,
			"501 5.5.2 AUTH: a response must be in base64"},
		"bare CR": {"AUTH PLAIN " + strings.Repeat("A", MaxCommandLine) + "\rA", "", 0,
			"500 5.5.2 bare CR in a command line"},
	} {
		for _, sizes := range [][]byte{nil, {1}, {255, 3}} {
			r := NewReader(&pieces{text: []byte(tt.in + "\r\nNOOP\r\n"), sizes: sizes})
			cmds, err := r.ReadFlight(nil)
			if err != nil || len(cmds) != 1 || cmds[0].Verb != VerbAuth {
				t.Fatalf("%s: %q, %v", name, verbs(cmds), err)
			}
			if c := cmds[0]; c.Arg != tt.mech || len(c.Initial) != tt.initial || c.Refused.String() != tt.refused {
				t.Errorf("%s: %q, %d octets, %v", name, c.Arg, len(c.Initial), c.Refused)
			}
			if bytes.Contains(r.buf[:cap(r.buf)], []byte("AAAA")) {
				t.Errorf("%s: the response stays in the buffer", name)
			}
			if cmds, err = r.ReadFlight(nil); verbs(cmds) != "NOOP" || err != nil {
				t.Errorf("%s: then %q, %v", name, verbs(cmds), err)
			}
		}
	}
}

func TestReadResponse(t *testing.T) {
	long := strings.Repeat("A", MaxAuthLine-2)
	for _, tt := range []struct{ in, response, refused string }{
		{"AGEAYg==\r\n", "AGEAYg==", ""},
		{"\r\n", "", ""},
		{"*\r\n", "*", ""},
		{long + "\r\n", long, ""},
		{long + "A\r\n", "", "500 5.5.6 line too long"},
		{long + long + "\r\n", "", "500 5.5.6 line too long"},
		{"AGEAYg==\n", "", "500 5.5.2 lines end in CRLF"},
		{"**\r\n", "", "501 5.5.2 a response must be in base64"},
		{"MAIL FROM:<a@b>\r\n", "", "501 5.5.2 a response must be in base64"},
		{"AG\rEA\r\n", "", "501 5.5.2 a response must be in base64"},
		{"AG\x00A\r\n", "", "501 5.5.2 a response must be in base64"},
		{"AAAA \r\n", "", "501 5.5.2 a response must be in base64"},
	} {
		r := NewReader(strings.NewReader(tt.in + "NOOP\r\n"))
		got, refused, err := r.ReadResponse()
		if string(got) != tt.response || refused.String() != tt.refused || err != nil {
			t.Errorf("%.40q: %.40q, %v, %v", tt.in, got, refused, err)
		}
		if rest := remains(r); rest != "NOOP\r\n" {
			t.Errorf("%.40q: then %q", tt.in, rest)
		}
	}
	for _, tt := range []struct {
		in  string
		err error
	}{{"", io.EOF}, {"AGE", io.ErrUnexpectedEOF}, {strings.Repeat("A", MaxOverlongLine), ErrFlood},
		{strings.Repeat("A", 2*MaxAuthLine), io.ErrUnexpectedEOF}} {
		r := NewReader(strings.NewReader(tt.in))
		if _, _, err := r.ReadResponse(); !errors.Is(err, tt.err) {
			t.Errorf("%.40q: %v, want %v", tt.in, err, tt.err)
		}
	}
}

func TestReadChallenge(t *testing.T) {
	long := "334 " + strings.Repeat("A", MaxAuthLine-len("334 \r\n")) + "\r\n"
	for _, tt := range []struct{ in, challenge, reply, err string }{
		{"334 VXNlcm5hbWU6\r\n", "334 VXNlcm5hbWU6\r\n", "", ""},
		{"334 \r\n", "334 \r\n", "", ""},
		{"334\r\n", "334\r\n", "", ""},
		{"334 Go on, please\r\n", "334 Go on, please\r\n", "", ""},
		{long, long, "", ""},
		{"235 2.7.0 welcome\r\n", "", "235 2.7.0 welcome", ""},
		{"535-no\r\n535 no\r\n", "", "535 no; no", ""},
		{"33\r\n", "", "", "malformed"},
		{"334-a\r\n334 b\r\n", "", "", "several lines"},
		{"334 a\n", "", "", "bare LF"},
		{"334 a\rb\r\n", "", "", "bare CR"},
		{"334 a\x00b\r\n", "", "", "NUL"},
		{"334 a\x1bb\r\n", "", "", "not printable"},
		{"334 \xc3\xa4\r\n", "", "", "not printable"},
		{"334x\r\n", "", "", "neither space nor hyphen"},
		{"334 " + long, "", "", "too long"},
		{"", "", "", "EOF"},
		{"33", "", "", "unexpected EOF"},
		{"334 AA", "", "", "unexpected EOF"},
	} {
		for _, sizes := range [][]byte{nil, {0}, {2, 250}} {
			r := NewReader(&pieces{text: []byte(tt.in), sizes: sizes})
			challenge, reply, err := r.ReadChallenge()
			if string(challenge) != tt.challenge || reply.String() != tt.reply ||
				(err == nil) != (tt.err == "") || err != nil && !strings.Contains(err.Error(), tt.err) {
				t.Errorf("%.40q: %.40q, %v, %v", tt.in, challenge, reply, err)
			}
			if bytes.Contains(r.buf[:cap(r.buf)], []byte("AAAA")) && tt.challenge != "" {
				t.Errorf("%.40q: the challenge stays in the buffer", tt.in)
			}
		}
	}
}

// FuzzAuthDialog: whatever way the octets of both sides are cut, they are the same
// lines; none has a control character within, and none is longer than it may be.
func FuzzAuthDialog(f *testing.F) {
	f.Add([]byte("AGEAYg==\r\n*\r\n\r\nX Y\r\n"), []byte{1, 2, 3})
	f.Add([]byte("334 VXNlcm5hbWU6\r\n334 \r\n334\r\n235 ok\r\n"), []byte{0})
	f.Add([]byte("334 a\n334-b\r\n535-no\r\n535 no\r\n"), []byte{7, 255})
	f.Add([]byte(strings.Repeat("A", MaxAuthLine)+"\r\nAA==\r\n"), []byte{255})
	responses := func(src io.Reader) (all []string) {
		for r := NewReader(src); ; {
			line, refused, err := r.ReadResponse()
			if err != nil {
				return append(all, err.Error())
			}
			all = append(all, string(line)+refused.String())
		}
	}
	challenges := func(src io.Reader) (all []string) {
		for r := NewReader(src); ; {
			line, reply, err := r.ReadChallenge()
			if err != nil {
				return append(all, fmt.Sprintf("%T", err))
			}
			all = append(all, string(line)+reply.String())
		}
	}
	f.Fuzz(func(t *testing.T, in, sizes []byte) {
		for _, read := range []func(io.Reader) []string{responses, challenges} {
			whole := read(bytes.NewReader(bytes.Clone(in)))
			if cut := read(&pieces{text: bytes.Clone(in), sizes: sizes}); !reflect.DeepEqual(cut, whole) {
				t.Fatalf("%q, whole %q", cut, whole)
			}
			for _, line := range whole {
				text := strings.TrimSuffix(line, "\r\n")
				if strings.ContainsAny(text, "\r\n\x00") || strings.HasPrefix(text, "334") && len(line) > MaxAuthLine {
					t.Fatalf("passed %q", line)
				}
			}
		}
	})
}
