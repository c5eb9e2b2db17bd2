package proxy

import (
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"
)

func TestPassableMechanisms(t *testing.T) {
	for _, tt := range []struct{ offered, pass string }{
		{"", ""},
		{"PLAIN LOGIN CRAM-MD5", "PLAIN LOGIN CRAM-MD5"},
		{"plain Login", "PLAIN LOGIN"},
		{"PLAIN PLAIN", "PLAIN"},
		{"EXTERNAL GSSAPI GS2-KRB5 GS2-KRB5-PLUS KERBEROS_V4 NTLM MSN NEGOTIATE GSS-SPNEGO SPNEGO", ""},
		{"DIGEST-MD5 SRP PASSDSS-3DES-1", ""},
		{"XOAUTH2 OAUTHBEARER OTP ANONYMOUS", "XOAUTH2 OAUTHBEARER OTP ANONYMOUS"},
		// A client that could bind says so in the one without, and is refused for it.
		{"SCRAM-SHA-256 SCRAM-SHA-1", "SCRAM-SHA-256 SCRAM-SHA-1"},
		{"SCRAM-SHA-256-PLUS SCRAM-SHA-256 SCRAM-SHA-1 PLAIN", "SCRAM-SHA-1 PLAIN"},
		{"PLAIN " + strings.Repeat("X", 21), "PLAIN"},
		{strings.Repeat("A", 20), strings.Repeat("A", 20)},
	} {
		if got := strings.Join(passable(tt.offered), " "); got != tt.pass {
			t.Errorf("%q: %q, want %q", tt.offered, got, tt.pass)
		}
	}
	var many []string
	for i := range 100 {
		many = append(many, "X"+strings.Repeat("I", i%10)+string(rune('A'+i/10)))
	}
	if got := passable(strings.Join(many, " ")); len(got) != maxMechanisms {
		t.Errorf("%d pass", len(got))
	}
}

func TestRelayAuthIsOfferedInsideTLSAlone(t *testing.T) {
	for name, tt := range map[string]struct {
		offers []string
		want   string
		change func(*InboundConfig)
	}{
		"as the backend does": {[]string{"AUTH PLAIN LOGIN EXTERNAL CRAM-MD5", "AUTH=LOGIN"}, "AUTH PLAIN LOGIN CRAM-MD5",
			nil},
		"the old form alone": {[]string{"SIZE", "AUTH=LOGIN PLAIN"}, "", nil},
		"nothing is left":    {[]string{"SIZE", "AUTH EXTERNAL GSSAPI"}, "", nil},
		"not at all":         {[]string{"SIZE"}, "", nil},
		"not asked for":      {[]string{"AUTH PLAIN"}, "", func(in *InboundConfig) { in.RelayAuth = false }},
		"to who talks early": {[]string{"AUTH PLAIN"}, "AUTH PLAIN",
			func(in *InboundConfig) { in.PipeconnectAdvertiseHosts = everyNetwork() }},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				change := tt.change
				if change == nil {
					change = func(*InboundConfig) {}
				}
				w, _, _ := loginWorld(t, &loginBackend{offers: tt.offers}, change)
				d := w.client(inboundAt)
				if all := d.ask("EHLO client.example", "250"); strings.Contains(all, "AUTH") {
					t.Errorf("in clear: %s", all)
				}
				refused := "538 5.7.11 "
				if name == "not asked for" {
					refused = "502 5.5.1 "
				}
				d.ask("AUTH PLAIN AGEAYg==", refused)
				d.startTLS()
				var got string
				for line := range strings.Lines(d.ask("EHLO client.example", "250")) {
					if strings.Contains(line, "AUTH") {
						got = strings.TrimSpace(line[len("250-"):])
					}
				}
				if got != tt.want {
					t.Errorf("inside TLS: %q, want %q", got, tt.want)
				}
			})
		})
	}
}

// Each way in, and mail to a foreign domain behind it, all on one connection.
func TestRelayAuth(t *testing.T) {
	for name, talk := range map[string][]string{
		"PLAIN, at once":       {"AUTH PLAIN AGEAYg==", "235 2.7.0 welcome"},
		"PLAIN, in two steps":  {"AUTH PLAIN", "334 ", "AGEAYg==", "235 2.7.0 welcome"},
		"LOGIN":                {"AUTH LOGIN", "334 VXNlcm5hbWU6", "YQ==", "334 UGFzc3dvcmQ6", "Yg==", "235 2.7.0 welcome"},
		"LOGIN, with the name": {"auth login YQ==", "334 UGFzc3dvcmQ6", "Yg==", "235 2.7.0 welcome"},
		"CRAM-MD5":             {"AUTH CRAM-MD5", "334 PDFAYmFja2VuZC5leGFtcGxlPg==", "YSBkaWdlc3Q=", "235 2.7.0 welcome"},
		"at the second try":    {"AUTH PLAIN AGEAYw==", "535 5.7.8 wrong", "AUTH PLAIN AGEAYg==", "235 2.7.0 welcome"},
		"cancelled before":     {"AUTH LOGIN", "334 ", "*", "501 5.7.0 cancelled", "AUTH PLAIN AGEAYg==", "235 "},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				w, b, logs := loginWorld(t, &loginBackend{},
					func(in *InboundConfig) { in.AddReceived = true; in.PoolIdle = time.Hour })
				other := w.secured()
				other.ask("MAIL FROM:<x@y.example>", "250")
				other.ask("RCPT TO:<friend@far.example>", "550 5.7.1 relaying denied")
				other.ask("RSET", "250")
				d := w.secured()
				for i := 0; i < len(talk); i += 2 {
					d.ask(talk[i], talk[i+1])
				}
				for range 2 {
					d.ask("MAIL FROM:<a@example.org>", "250")
					d.ask("RCPT TO:<friend@far.example>", "250")
					d.ask("DATA", "354")
					d.ask("Subject: x\r\n\r\nhi\r\n.", "250 2.0.0 queued as")
				}
				d.ask("AUTH PLAIN AGEAYg==", "503 5.5.1 ")
				d.ask("QUIT", "221")
				d.wantClosed()
				time.Sleep(3 * time.Second) // the client is listened to for one, then there is QUIT
				mine := slices.IndexFunc(b.all(), func(c *loginConn) bool { return len(b.texts(c.n)) > 0 })
				if mine < 0 || len(b.texts(mine)) != 2 || !b.ended(mine) {
					t.Fatalf("connection %d", mine)
				}
				if text := b.texts(mine)[0]; !strings.Contains(text, " with ESMTPSA id ") {
					t.Errorf("text: %s", text)
				}
				for _, c := range b.all() {
					if c.n != mine && slices.ContainsFunc(b.said(c.n), func(l string) bool { return strings.HasPrefix(l, "AUTH") }) {
						t.Errorf("a login on connection %d: %q", c.n, b.said(c.n))
					}
				}
				// The next one finds nothing of it.
				other.ask("MAIL FROM:<x@y.example>", "250")
				other.ask("RCPT TO:<friend@far.example>", "550 5.7.1 relaying denied")
				if got := w.counterOf("slipstream_logins_total", "result", loginAccepted); got != 1 {
					t.Errorf("%v logins", got)
				}
				keepsSecrets(t, logs, "AGEAYg", "Yg==", "YQ==", "YSBkaWdlc3Q", "VXNlcm5hbWU6", "PDFAYmFja2Vu")
				if logs.FilterMessage("login passed to the backend").Len() < 1 || logs.FilterFieldKey("client_login").Len() != 2 {
					t.Error("the log says nothing of it")
				}
			})
		})
	}
}

// In whatever pieces a client's lines come, the backend hears the same.
func TestRelayAuthInPieces(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w, b, _ := loginWorld(t, &loginBackend{})
		for size := 1; size < 12; size++ {
			d := w.secured()
			for _, step := range [][2]string{{"AUTH LOGIN", "334 VXNlcm5hbWU6"}, {"YQ==", "334 UGFzc3dvcmQ6"}, {"Yg==",
				"235 "}} {
				for piece := range slices.Chunk([]byte(step[0]+"\r\n"), size) {
					d.raw(string(piece))
					time.Sleep(time.Millisecond)
				}
				d.want(step[1])
			}
			synctest.Wait()
			last := len(b.all()) - 1
			if got := b.said(last); !slices.Equal(got, []string{"AUTH LOGIN", "YQ==", "Yg=="}) {
				t.Errorf("in pieces of %d: %q", size, got)
			}
		}
	})
}

func TestRelayAuthTooManyFailures(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w, b, _ := loginWorld(t, &loginBackend{})
		d := w.secured()
		start := time.Now()
		for i := 1; i <= maxLoginFailures; i++ {
			d.ask("AUTH PLAIN AGEAYw==", "535 5.7.8 wrong name or password")
		}
		d.want("421 4.7.0 ")
		d.wantClosed()
		if took := time.Since(start); took > 2*time.Second {
			t.Errorf("it took %v: nobody is to be slowed", took)
		}
		if got := w.counterOf("slipstream_logins_total", "result", loginRefused); got != maxLoginFailures {
			t.Errorf("%v were counted", got)
		}
		synctest.Wait()
		if n := len(b.said(1)); n != maxLoginFailures {
			t.Errorf("the backend heard %q", b.said(1))
		}
	})
}

// What a client sends before it was asked is no response: the backend never hears
// it, and no command is made of it.
func TestRelayAuthGlued(t *testing.T) {
	for name, tt := range map[string]struct {
		said  []string // in one segment each
		want  []string
		heard []string
	}{
		"all of it":   {[]string{"AUTH LOGIN\r\nYQ==\r\nYg=="}, []string{"554 5.5.0 "}, nil},
		"a command":   {[]string{"AUTH CRAM-MD5\r\nMAIL FROM:<a@example.org>"}, []string{"554 5.5.0 "}, nil},
		"half a line": {[]string{"AUTH CRAM-MD5\r\nMAIL FR"}, []string{"554 5.5.0 "}, nil},
		"behind a response": {[]string{"AUTH LOGIN", "YQ==\r\nYg=="}, []string{"334 ", "554 5.5.0 "},
			[]string{"AUTH LOGIN"}},
		"behind the last": {[]string{"AUTH LOGIN", "YQ==", "Yg==\r\nRSET"}, []string{"334 ", "334 ", "554 5.5.0 "},
			[]string{"AUTH LOGIN", "YQ=="}},
		"behind a first one": {[]string{"AUTH LOGIN YQ==\r\nYg=="}, []string{"554 5.5.0 "}, []string{"AUTH LOGIN YQ=="}},
		"a cancel ahead":     {[]string{"AUTH LOGIN YQ==\r\n*"}, []string{"554 5.5.0 "}, []string{"AUTH LOGIN YQ=="}},
		"none where it is over": {[]string{"AUTH PLAIN AGEAYw==\r\nNOOP\r\nAUTH PLAIN AGEAYg==\r\nNOOP"}, []string{"535 ",
			"250 ", "235 ", "250 "}, []string{"AUTH PLAIN AGEAYw==", "AUTH PLAIN AGEAYg=="}},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				w, b, logs := loginWorld(t, &loginBackend{})
				d := w.secured()
				for i, line := range tt.said {
					d.say(line)
					d.want(tt.want[i])
				}
				for _, want := range tt.want[len(tt.said):] {
					d.want(want)
				}
				if strings.HasPrefix(tt.want[len(tt.want)-1], "554") {
					d.wantClosed()
				}
				synctest.Wait()
				if got := b.said(1); !slices.Equal(got, tt.heard) {
					t.Errorf("the backend heard %q, want %q", got, tt.heard)
				}
				keepsSecrets(t, logs, "AGEAYg", "Yg==", "YQ==")
			})
		})
	}
}

// RFC 4954 section 5.
func TestRelayAuthParameter(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w, b, _ := loginWorld(t, &loginBackend{})
		d := w.secured()
		d.ask("MAIL FROM:<a@example.org> AUTH=boss@example.org", "250")
		d.ask("RSET", "250")
		d.ask("MAIL FROM:<a@example.org> AUTH=+5", "501 5.5.4 ")
		d.ask("AUTH PLAIN AGEAYg==", "235")
		d.ask("MAIL FROM:<a@example.org> AUTH=boss@example.org", "250")
		d.ask("RSET", "250")
		d.ask("EHLO again.example", "250")
		d.ask("MAIL FROM:<a@example.org>", "250")
		synctest.Wait()
		if got := b.said(1); !slices.Contains(got, "MAIL FROM:<a@example.org> AUTH=<>") {
			t.Errorf("of a stranger: %q", got)
		}
		if got := b.said(2); !slices.Contains(got, "MAIL FROM:<a@example.org> AUTH=boss@example.org") ||
			got[len(got)-1] != "MAIL FROM:<a@example.org>" {
			t.Errorf("of a user: %q", got)
		}
	})
}

// Who has logged in is not asked who the mail is from, but may not speak for us.
func TestRelayAuthIsNotJudged(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		b := w.loginBackend(&loginBackend{})
		cert := newTestCert(t, "proxy.example")
		dns := w.judged(func(in *InboundConfig) {
			in.Backend = Endpoint{Host: "127.0.0.1", Port: 10025}
			in.TLSCert, in.TLSKey, in.RelayAuth = cert.certFile, cert.keyFile, true
			in.Auth.Enforce = "reject"
		})
		w.startObserved()
		const text = "Authentication-Results: proxy.example; spf=pass\r\nFrom: <ceo@bank.example>\r\nSubject: x\r\n" +
			"Authentication-Results: other.example; spf=pass\r\n\r\nhi\r\n"
		send := func(d *dialog, final string) {
			d.ask("MAIL FROM:<ceo@bank.example>", "250")
			d.ask("RCPT TO:<you@example.org>", "250")
			d.ask("DATA", "354")
			d.ask(text+".", final)
		}
		send(w.secured(), "550 5.7.26 ")
		d := w.secured()
		d.ask("AUTH PLAIN AGEAYg==", "235")
		asked := len(dns.asked)
		send(d, "250 2.0.0 queued")
		if len(dns.asked) != asked {
			t.Errorf("the DNS was asked: %q", dns.asked[asked:])
		}
		if w.last().Auth != nil {
			t.Errorf("it was judged: %+v", w.last().Auth)
		}
		got := b.texts(len(b.all()) - 1)
		_, want, _ := strings.Cut(text, "\r\n")
		if len(got) != 1 || got[0] != want {
			t.Errorf("the backend has %q, want %q", got, want)
		}
	})
}
