package mta_test

import (
	"bytes"
	"crypto/tls"
	"fmt"
	"strings"
	"testing"

	"slipstream/bench/mta"
	"slipstream/bench/mta/mtatest"
)

const sample = "From: <sender@a.test>\r\n" +
	"To: <you@b.test>\r\n" +
	"Subject: =?utf-8?q?Gr=C3=BC=C3=9Fe?=\r\n" +
	"Date: Sat, 21 Nov 2026 12:00:00 +0000\r\n" +
	"Message-ID: <1@a.test>\r\n" +
	"MIME-Version: 1.0\r\n" +
	"Content-Type: text/plain; charset=utf-8\r\n" +
	"Content-Transfer-Encoding: 8bit\r\n" +
	"\r\n" +
	"Grüße aus dem Norden\r\n" +
	".a line with a dot in front\r\n" +
	"..and one with two\r\n" +
	"\r\n"

// secret makes a certificate that both ends of a test share.
func secret(t *testing.T) (cert, key []byte) {
	t.Helper()
	cert, key, err := mta.SelfSigned("mx.b.test", "127.0.0.1")
	if err != nil {
		t.Fatal(err)
	}
	return cert, key
}

// Every server sends to every other, in clear and over TLS.
func TestDelivery(t *testing.T) {
	for _, from := range mta.Kinds() {
		for _, to := range mta.Kinds() {
			for _, policy := range []mta.TLSPolicy{mta.TLSNone, mta.TLSMay, mta.TLSEncrypt, mta.TLSVerify} {
				t.Run(fmt.Sprintf("%s to %s, tls %q", from, to, policy), func(t *testing.T) {
					t.Parallel()
					testDelivery(t, from, to, policy)
				})
			}
		}
	}
}

func testDelivery(t *testing.T, from, to mta.Kind, policy mta.TLSPolicy) {
	ctx := mtatest.Context(t)
	cert, key := secret(t)
	receiver := mtatest.Start(t, to, mta.Config{
		Hostname: "mx.b.test", Local: []string{"b.test"}, Cert: cert, Key: key,
	})
	_, port, _ := strings.Cut(receiver.Addr(), ":")
	sender := mtatest.Start(t, from, mta.Config{
		Hostname: "mx.a.test", Local: []string{"a.test"}, Via: "mx.b.test:" + port,
		Hosts: map[string]string{"mx.b.test": "127.0.0.1"}, ClientTLS: policy, CA: cert,
	})
	if err := sender.Submit(ctx, "sender@a.test", []string{"you@b.test", "me@b.test"}, []byte(sample)); err != nil {
		t.Fatal(err)
	}
	got, err := receiver.WaitDelivered(ctx, 2)
	if err != nil {
		t.Fatalf("%v\n%s", err, sender.Log())
	}
	recipients := map[string]bool{}
	for _, m := range got {
		recipients[m.Recipient] = true
		if m.Sender != "sender@a.test" {
			t.Errorf("sender %q", m.Sender)
		}
		if !bytes.HasSuffix(m.Raw, []byte(sample)) {
			t.Errorf("message came as\n%s", m.Raw)
		}
		secured := strings.Contains(strings.ToUpper(string(m.Raw)), "WITH ESMTPS")
		if secured != (policy != mta.TLSNone) {
			t.Errorf("secured: %t\n%s", secured, m.Raw)
		}
	}
	if len(got) != 2 || !recipients["you@b.test"] || !recipients["me@b.test"] {
		t.Errorf("%d deliveries, to %v", len(got), recipients)
	}
}

// A server that must verify does not send where it cannot.
func TestVerifyRefuses(t *testing.T) {
	for _, kind := range mta.Kinds() {
		t.Run(string(kind), func(t *testing.T) {
			t.Parallel()
			ctx := mtatest.Context(t)
			cert, key := secret(t)
			other, _ := secret(t)
			receiver := mtatest.Start(t, mta.Postfix, mta.Config{Local: []string{"b.test"}, Cert: cert, Key: key})
			sender := mtatest.Start(t, kind, mta.Config{Via: receiver.Addr(), ClientTLS: mta.TLSVerify, CA: other})
			if err := sender.Submit(ctx, "a@a.test", []string{"b@b.test"}, []byte(sample)); err != nil {
				t.Fatal(err)
			}
			word := map[mta.Kind]string{mta.Exim: "certificate verification failed", mta.Postfix: "status=deferred"}[kind]
			if err := sender.WaitLog(ctx, word); err != nil {
				t.Fatal(err)
			}
			if got, err := receiver.Delivered(); err != nil || len(got) != 0 {
				t.Errorf("delivered %d, %v", len(got), err)
			}
		})
	}
}

func TestReplies(t *testing.T) {
	tests := []struct {
		to   string
		want string // prefix; empty: 250
	}{
		{to: "anybody@b.test"},
		{"reject-me@b.test", "550 5.1.1 no such user here"},
		{"defer-me@b.test", "451 4.7.1 come back later"},
		{"someone@elsewhere.test", "55"},
	}
	refusals := []mta.Refusal{{"reject-me", "550 5.1.1 no such user here"}, {"defer-me", "451 4.7.1 come back later"}}
	for _, kind := range mta.Kinds() {
		t.Run(string(kind), func(t *testing.T) {
			t.Parallel()
			in := mtatest.Start(t, kind, mta.Config{Local: []string{"b.test"}, Refusals: refusals})
			d := dial(t, in, "", nil)
			say(t, d, 250, "EHLO client.test")
			say(t, d, 250, "MAIL FROM:<sender@a.test>")
			for _, test := range tests {
				a, err := d.Say("RCPT TO:<%s>", test.to)
				if err != nil {
					t.Fatal(err)
				}
				if test.want == "" {
					test.want = "250 "
				}
				// Postfix puts its own words around what the table says.
				code, text, _ := strings.Cut(test.want, " ")
				enhanced, text, _ := strings.Cut(text, " ")
				if got := a.String(); !strings.HasPrefix(got, strings.TrimSpace(code+" "+enhanced)) || !strings.Contains(got, text) {
					t.Errorf("RCPT TO:<%s>: %q, want %q", test.to, got, test.want)
				}
			}
		})
	}
}

// An open relay takes mail for anywhere; that is what a probe must find.
func TestOpenRelay(t *testing.T) {
	for _, kind := range mta.Kinds() {
		t.Run(string(kind), func(t *testing.T) {
			t.Parallel()
			in := mtatest.Start(t, kind, mta.Config{RelayFrom: []string{"127.0.0.0/8"}})
			d := dial(t, in, "", nil)
			say(t, d, 250, "EHLO client.test")
			say(t, d, 250, "MAIL FROM:<sender@a.test>")
			say(t, d, 250, "RCPT TO:<someone@elsewhere.test>")
		})
	}
}

func TestExtensions(t *testing.T) {
	switchable := []string{"PIPELINING", "CHUNKING", "8BITMIME", "SMTPUTF8", "DSN"}
	for _, kind := range mta.Kinds() {
		t.Run(string(kind), func(t *testing.T) {
			t.Parallel()
			cert, key := secret(t)
			with := mtatest.Start(t, kind, mta.Config{Cert: cert, Key: key, MaxSize: 1234567})
			a := say(t, dial(t, with, "", nil), 250, "EHLO client.test")
			for _, keyword := range append([]string{"STARTTLS", "SIZE"}, switchable...) {
				if !a.Has(keyword) {
					t.Errorf("no %s in %s", keyword, a)
				}
			}
			if !strings.Contains(a.String(), "SIZE 1234567") {
				t.Errorf("no SIZE 1234567 in %s", a)
			}
			if kind == mta.Exim && !a.Has("PIPECONNECT") {
				t.Errorf("no PIPECONNECT in %s", a)
			}

			without := mtatest.Start(t, kind, mta.Config{Without: append([]string{"PIPECONNECT"}, switchable...)})
			a = say(t, dial(t, without, "", nil), 250, "EHLO client.test")
			for _, keyword := range append([]string{"STARTTLS", "PIPECONNECT"}, switchable...) {
				if a.Has(keyword) {
					t.Errorf("%s in %s", keyword, a)
				}
			}
		})
	}
}

// One message that uses 8BITMIME, SMTPUTF8, DSN and BDAT, over STARTTLS and over TLS on connect.
func TestParameters(t *testing.T) {
	for _, kind := range mta.Kinds() {
		for _, implicit := range []bool{false, true} {
			t.Run(fmt.Sprintf("%s, implicit %t", kind, implicit), func(t *testing.T) {
				t.Parallel()
				cert, key := secret(t)
				in := mtatest.Start(t, kind, mta.Config{
					Local: []string{"b.test"}, Cert: cert, Key: key, ImplicitTLS: implicit,
				})
				insecure := &tls.Config{InsecureSkipVerify: true}
				var d *mta.Dialog
				if implicit {
					d = dial(t, in, "", insecure)
				} else {
					d = dial(t, in, "", nil)
					say(t, d, 250, "EHLO client.test")
					if _, err := d.StartTLS(insecure); err != nil {
						t.Fatal(err)
					}
				}
				say(t, d, 250, "EHLO client.test")
				say(t, d, 250, "MAIL FROM:<grüße@a.test> BODY=8BITMIME SMTPUTF8 RET=HDRS ENVID=one SIZE=%d", len(sample))
				say(t, d, 250, "RCPT TO:<jürgen@b.test> NOTIFY=FAILURE ORCPT=rfc822;me@b.test")
				if a, err := d.Chunk([]byte(sample)); err != nil || a.Code != 250 {
					t.Fatal(a, err)
				}
				say(t, d, 221, "QUIT")
				got, err := in.WaitDelivered(mtatest.Context(t), 1)
				if err != nil {
					t.Fatal(err)
				}
				if got[0].Sender != "grüße@a.test" || got[0].Recipient != "jürgen@b.test" || !bytes.HasSuffix(got[0].Raw, []byte(sample)) {
					t.Errorf("from %q to %q:\n%s", got[0].Sender, got[0].Recipient, got[0].Raw)
				}
			})
		}
	}
}

// The server believes whom a PROXY header, or XCLIENT, names.
func TestClientIdentity(t *testing.T) {
	tests := []struct {
		name   string
		kind   mta.Kind
		config mta.Config
		header string
		before func(t *testing.T, d *mta.Dialog)
	}{
		{name: "exim, PROXY", kind: mta.Exim, config: mta.Config{Proxy: []string{"127.0.0.1"}},
			header: "PROXY TCP4 192.0.2.7 127.0.0.1 4321 25\r\n"},
		{name: "postfix, PROXY", kind: mta.Postfix, config: mta.Config{Proxy: []string{"127.0.0.1"}},
			header: "PROXY TCP4 192.0.2.7 127.0.0.1 4321 25\r\n"},
		{name: "postfix, XCLIENT", kind: mta.Postfix, config: mta.Config{XCLIENT: []string{"127.0.0.1"}},
			before: func(t *testing.T, d *mta.Dialog) {
				if a := say(t, d, 250, "EHLO proxy.test"); !a.Has("XCLIENT") {
					t.Errorf("no XCLIENT in %s", a)
				}
				say(t, d, 220, "XCLIENT NAME=[UNAVAILABLE] ADDR=192.0.2.7 PORT=4321")
			}},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			// Whoever seems to be on this machine may relay; the header says that the client is not.
			test.config.RelayFrom = []string{"127.0.0.0/8"}
			in := mtatest.Start(t, test.kind, test.config)
			d := dial(t, in, test.header, nil)
			if test.before != nil {
				test.before(t, d)
			}
			say(t, d, 250, "EHLO client.test")
			say(t, d, 250, "MAIL FROM:<sender@a.test>")
			a, err := d.Say("RCPT TO:<someone@elsewhere.test>")
			if err != nil || a.Code/100 != 5 {
				t.Errorf("RCPT: %s, %v; want a refusal", a, err)
			}
			if err := in.WaitLog(mtatest.Context(t), "192.0.2.7"); err != nil {
				t.Error(err)
			}
		})
	}
}

// Exim sends early to an Exim that it has met before, and says so in its log.
func TestPipeConnect(t *testing.T) {
	t.Parallel()
	ctx := mtatest.Context(t)
	receiver := mtatest.Start(t, mta.Exim, mta.Config{Local: []string{"b.test"}})
	sender := mtatest.Start(t, mta.Exim, mta.Config{Via: receiver.Addr(), PipeConnect: true})
	for n := range 2 {
		if err := sender.Submit(ctx, "a@a.test", []string{"b@b.test"}, []byte(sample)); err != nil {
			t.Fatal(err)
		}
		if _, err := receiver.WaitDelivered(ctx, n+1); err != nil {
			t.Fatalf("%v\n%s", err, sender.Log())
		}
	}
	if err := sender.WaitLog(ctx, " L* "); err != nil {
		t.Error(err)
	}
}

func dial(t *testing.T, in *mta.Instance, header string, config *tls.Config) *mta.Dialog {
	t.Helper()
	d, greeting, err := mta.Dial(mtatest.Context(t), in.Addr(), header, config)
	if err != nil || greeting.Code != 220 {
		t.Fatal(greeting, err)
	}
	t.Cleanup(func() { d.Close() })
	return d
}

func say(t *testing.T, d *mta.Dialog, code int, format string, args ...any) mta.Answer {
	t.Helper()
	a, err := d.Say(format, args...)
	if err != nil || a.Code != code {
		t.Fatalf("%s: %s, %v; want %d", fmt.Sprintf(format, args...), a, err, code)
	}
	return a
}
