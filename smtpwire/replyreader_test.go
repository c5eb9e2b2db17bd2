package smtpwire

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"os"
	"reflect"
	"strings"
	"testing"
)

func TestReadReply(t *testing.T) {
	for _, tt := range []struct {
		in   string
		want Reply
	}{
		{"250 ok\r\n", Reply{250, []string{"ok"}}},
		// "any text, including no text at all (although senders SHOULD NOT
		// send bare codes), MUST be acceptable."
		// https://www.rfc-editor.org/rfc/rfc5321#section-4.2
		{"250\r\n", Reply{250, []string{""}}},
		{"250 \r\n", Reply{250, []string{""}}},
		{"250-\r\n250\r\n", Reply{250, []string{"", ""}}},
		{"250  ok \t\r\n", Reply{250, []string{" ok \t"}}},
		{"250-mx.example.org\r\n250-PIPELINING\r\n250 SIZE 1000\r\n", Reply{250, []string{"mx.example.org", "PIPELINING", "SIZE 1000"}}},
		{"200 lowest\r\n", Reply{200, []string{"lowest"}}},
		{"599 highest\r\n", Reply{599, []string{"highest"}}},
		{"550-5.1.1 gr\u00fc\u00dfe\r\n550 5.1.1 \xff\x1b[31m\r\n", Reply{550, []string{"5.1.1 gr\u00fc\u00dfe", "5.1.1 \xff\x1b[31m"}}},
	} {
		for how, sizes := range splittings {
			r := NewReader(&pieces{text: []byte(tt.in + "221 next\r\n"), sizes: sizes})
			got, err := r.ReadReply()
			if err != nil || !reflect.DeepEqual(got, tt.want) {
				t.Errorf("%q, %s: %q, %v; want %q", tt.in, how, got, err, tt.want)
			}
			if rest := remains(r); rest != "221 next\r\n" {
				t.Errorf("%q, %s: left %q", tt.in, how, rest)
			}
		}
	}
}

func TestReadReplyMalformed(t *testing.T) {
	for _, tt := range []struct {
		in   string
		want ReplyError
	}{
		{"250 ok\n", ReplyError{"bare LF", "250 ok"}},
		{"\n", ReplyError{"bare LF", ""}},
		{"250 ok\r\r\n", ReplyError{"bare CR", "250 ok"}},
		{"250 a\rb\r\n", ReplyError{"bare CR", "250 a?b"}},
		{"250 a\x00b\r\n", ReplyError{"NUL", "250 a?b"}},
		{"\r\n", ReplyError{"no code from 200 to 599", ""}},
		{"25\r\n", ReplyError{"no code from 200 to 599", "25"}},
		{"199 a\r\n", ReplyError{"no code from 200 to 599", "199 a"}},
		{"600 a\r\n", ReplyError{"no code from 200 to 599", "600 a"}},
		{"2x0 a\r\n", ReplyError{"no code from 200 to 599", "2x0 a"}},
		{"+50 a\r\n", ReplyError{"no code from 200 to 599", "+50 a"}},
		{" 250 a\r\n", ReplyError{"no code from 200 to 599", " 250 a"}},
		{"HTTP/1.1 400 Bad Request\r\n", ReplyError{"no code from 200 to 599", "HTTP/1.1 400 Bad Request"}},
		{"\x15\x03\x01\x00\x02\x02\x46\r\n", ReplyError{"no code from 200 to 599", "??????F"}},
		{"2500 a\r\n", ReplyError{"neither space nor hyphen behind the code", "2500 a"}},
		{"250\ta\r\n", ReplyError{"neither space nor hyphen behind the code", "250?a"}},
		{"250-a\r\n251 b\r\n", ReplyError{"code changed from 250 within a reply", "251 b"}},
		{"250-a\r\n250 b\n", ReplyError{"bare LF", "250 b"}},
		{"250 \x1b[31m\u00fc\n", ReplyError{"bare LF", "250 ?[31m?"}},
		{"250 " + strings.Repeat("x", 200) + "\n", ReplyError{"bare LF", "250 " + strings.Repeat("x", 76)}},
	} {
		for how, sizes := range splittings {
			r := NewReader(&pieces{text: []byte(tt.in + "250 ok\r\n"), sizes: sizes})
			_, err := r.ReadReply()
			var malformed *ReplyError
			if !errors.As(err, &malformed) || *malformed != tt.want {
				t.Errorf("%q, %s: %v, want %v", tt.in, how, err, &tt.want)
				continue
			}
			if say := err.Error(); !strings.Contains(say, tt.want.What) {
				t.Errorf("%q lacks %q", say, tt.want.What)
			}
			// Out of step: the good reply behind it answers something else.
			if _, again := r.ReadReply(); again != err {
				t.Errorf("%q, %s: then %v, want the same again", tt.in, how, again)
			}
		}
	}
}

func TestReadReplyLimits(t *testing.T) {
	line := func(sep string, octets int) string {
		return "250" + sep + strings.Repeat("x", octets-6) + "\r\n"
	}
	for _, tt := range []struct {
		name, in, what string
	}{
		{"longest line", line(" ", MaxReplyLine), ""},
		{"line too long", line(" ", MaxReplyLine+1), "line too long"},
		{"no line end", strings.Repeat("x", MaxReplyLine), "line too long"},
		{"most lines", strings.Repeat("250-a\r\n", MaxReplyLines-1) + "250 a\r\n", ""},
		{"too many lines", strings.Repeat("250-a\r\n", MaxReplyLines) + "250 a\r\n", "too many lines"},
		{"longest reply", strings.Repeat(line("-", MaxReplyLine), MaxReply/MaxReplyLine-1) + line(" ", MaxReplyLine), ""},
		{"too long", strings.Repeat(line("-", MaxReplyLine), MaxReply/MaxReplyLine) + "250\r\n", "too long"},
	} {
		for how, sizes := range splittings {
			_, err := NewReader(&pieces{text: []byte(tt.in), sizes: sizes}).ReadReply()
			var malformed *ReplyError
			switch {
			case tt.what == "" && err != nil:
				t.Errorf("%s, %s: %v", tt.name, how, err)
			case tt.what != "" && (!errors.As(err, &malformed) || malformed.What != tt.what):
				t.Errorf("%s, %s: %v, want %q", tt.name, how, err, tt.what)
			}
		}
	}
}

func TestReadReplyEnd(t *testing.T) {
	for _, tt := range []struct {
		in  string
		err error
	}{
		{"", io.EOF},
		{"2", io.ErrUnexpectedEOF},
		{"250 ok", io.ErrUnexpectedEOF},
		{"250 ok\r", io.ErrUnexpectedEOF},
		{"250-ok\r\n", io.ErrUnexpectedEOF},
		{"250-ok\r\n25", io.ErrUnexpectedEOF},
	} {
		if _, err := NewReader(strings.NewReader(tt.in)).ReadReply(); err != tt.err {
			t.Errorf("%q: %v, want %v", tt.in, err, tt.err)
		}
	}
}

// A deadline before a reply is harmless; inside one its first lines are lost,
// and the others must not pass for a reply.
func TestReadReplyDeadline(t *testing.T) {
	r := NewReader(&script{reads: []string{"25", "", "0 ok\r\n250-a\r\n", "", "250 b\r\n"}, err: os.ErrDeadlineExceeded})
	if _, err := r.ReadReply(); err != os.ErrDeadlineExceeded {
		t.Fatalf("%v, want a deadline", err)
	}
	if got, err := r.ReadReply(); err != nil || got.Code != 250 || got.Lines[0] != "ok" {
		t.Fatalf("%v, %v", got, err)
	}
	for range 2 {
		if got, err := r.ReadReply(); err != os.ErrDeadlineExceeded {
			t.Errorf("%v, %v; want a deadline", got, err)
		}
	}
}

func allReplies(src io.Reader) (replies []Reply, left string, err error) {
	r := NewReader(src)
	for {
		reply, err := r.ReadReply()
		if err != nil {
			return replies, remains(r), err
		}
		replies = append(replies, reply)
	}
}

func FuzzReadReply(f *testing.F) {
	for _, in := range []string{
		"220 mx.example.org ESMTP\r\n250-mx.example.org\r\n250-SIZE 1000\r\n250 PIPELINING\r\n221\r\n",
		"250-a\r\n251 b\r\n", "250 ok\n", "250 a\rb\r\n", "250 \x00\r\n", "199 a\r\n", "2500\r\n",
		strings.Repeat("250-a\r\n", 129), strings.Repeat("x", 5000), "250 " + strings.Repeat("x", 4090) + "\r\n250 a\r\n",
	} {
		f.Add([]byte(in), []byte{1, 0, 7, 255})
	}
	f.Fuzz(func(t *testing.T, in, sizes []byte) {
		want, _, wantErr := allReplies(bytes.NewReader(in))
		got, _, err := allReplies(&pieces{text: bytes.Clone(in), sizes: sizes})
		if !reflect.DeepEqual(got, want) || !reflect.DeepEqual(err, wantErr) {
			t.Fatalf("in pieces %q, %v; whole %q, %v", got, err, want, wantErr)
		}
		var wire []byte
		for _, reply := range want {
			if reply.Code < 200 || reply.Code > 599 || len(reply.Lines) < 1 || len(reply.Lines) > MaxReplyLines {
				t.Fatalf("%d with %d lines", reply.Code, len(reply.Lines))
			}
			for i, text := range reply.Lines {
				if strings.ContainsAny(text, "\r\n\x00") {
					t.Fatalf("%q", text)
				}
				sep := '-'
				if i == len(reply.Lines)-1 {
					sep = ' '
				}
				wire = fmt.Appendf(wire, "%d%c%s\r\n", reply.Code, sep, text)
			}
		}
		// What was understood reads the same when it is said again, unless
		// the spaces behind bare codes exceed the limit.
		again, _, err := allReplies(bytes.NewReader(wire))
		var malformed *ReplyError
		if !reflect.DeepEqual(again, want) && !(errors.As(err, &malformed) && malformed.What == "too long") {
			t.Fatalf("said again %q, %v; want %q", again, err, want)
		}
	})
}

func BenchmarkReadReply(b *testing.B) {
	in := []byte("250-mx.example.org Hello client.example.net [192.0.2.1]\r\n250-SIZE 52428800\r\n250-8BITMIME\r\n" +
		"250-PIPELINING\r\n250-PIPECONNECT\r\n250-CHUNKING\r\n250-STARTTLS\r\n250 HELP\r\n")
	src := bytes.NewReader(in)
	r := NewReader(src)
	b.SetBytes(int64(len(in)))
	b.ReportAllocs()
	for b.Loop() {
		src.Reset(in)
		if reply, err := r.ReadReply(); err != nil || len(reply.Lines) != 8 {
			b.Fatal(reply, err)
		}
	}
}

// A reply that breaks off in another one ends the reading, unless somebody knows
// better.
func TestReaderGoOn(t *testing.T) {
	whole := "220-mx.example ESMTP\r\n521-5.5.1 Protocol\r\n521 error\r\n250 ok\r\n"
	for cut := range len(whole) {
		r := NewReader(io.MultiReader(strings.NewReader(whole[:cut]), strings.NewReader(whole[cut:])))
		if r.GoOn() {
			t.Error("nothing broke off yet")
		}
		var broke *ReplyError
		if _, err := r.ReadReply(); !errors.As(err, &broke) {
			t.Fatalf("cut at %d: %v", cut, err)
		}
		if _, err := r.ReadReply(); !errors.As(err, &broke) {
			t.Errorf("cut at %d: not final: %v", cut, err)
		}
		if !r.GoOn() || r.GoOn() {
			t.Errorf("cut at %d: it goes on never, or twice", cut)
		}
		for _, want := range []string{"521 5.5.1 Protocol / error", "250 ok"} {
			reply, err := r.ReadReply()
			if got := fmt.Sprintf("%d %s", reply.Code, strings.Join(reply.Lines, " / ")); err != nil || got != want {
				t.Errorf("cut at %d: %q, %v; want %q", cut, got, err, want)
			}
		}
	}
	r := NewReader(strings.NewReader("250-a\r\nnonsense\r\n250 ok\r\n"))
	if _, err := r.ReadReply(); err == nil || r.GoOn() {
		t.Errorf("it goes on behind nonsense: %v", err)
	}
}
