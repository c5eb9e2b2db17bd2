package proxy_test

import (
	"crypto/tls"
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"

	"slipstream/bench/mta"
	"slipstream/bench/mta/mtatest"
	"slipstream/proxy"
)

// eximUsers are lines of Exim's configuration: one user, who may send anywhere.
// advertise is whom AUTH is offered.
func eximUsers(advertise string) []string {
	return []string{
		"auth_advertise_hosts = " + advertise,
		"begin authenticators",
		"plain:\n  driver = plaintext\n  public_name = PLAIN\n  server_prompts = :\n  server_set_id = $auth2",
		"  server_condition = ${if and {{eq{$auth2}{user}}{eq{$auth3}{secret}}}}",
		"login:\n  driver = plaintext\n  public_name = LOGIN\n  server_set_id = $auth1",
		"  server_prompts = Username:: : Password::",
		"  server_condition = ${if and {{eq{$auth1}{user}}{eq{$auth2}{secret}}}}",
		"cram:\n  driver = cram_md5\n  public_name = CRAM-MD5\n  server_set_id = $auth1",
		"  server_secret = ${if eq {$auth1}{user}{secret}fail}",
	}
}

// A realLogin is a way in for a user of Exim's.
type realLogin struct {
	mechanism string
	onConnect bool // TLS comes before the greeting; else STARTTLS
	secured   bool // towards Exim too, which offers AUTH inside TLS alone
}

func (l realLogin) String() string {
	front, back := "STARTTLS", "clear"
	if l.onConnect {
		front = "TLS on connect"
	}
	if l.secured {
		back = "TLS"
	}
	return fmt.Sprintf("%s, %s, %s", l.mechanism, front, back)
}

// A loginCourse is a door before an Exim with users, and a mail server elsewhere.
type loginCourse struct {
	exim, far *mta.Instance
	proxy     *realProxy
	server    []string // how swaks finds the door
}

func (l realLogin) open(t *testing.T) loginCourse {
	t.Helper()
	ours, theirs := newRealCert(t, realProxyName), newRealCert(t, "mx.b.test")
	far := mtatest.Start(t, mta.Exim, mta.Config{Hostname: "mx.far.test", Local: []string{"far.test"}})
	c := mta.Config{Hostname: "mx.b.test", Local: []string{"b.test"}, Via: far.Addr(), Proxy: []string{"127.0.0.1"}}
	c.RelayFrom = []string{"${if def:authenticated_id {*}}"}
	c.Extra = eximUsers("*")
	if l.secured {
		c.Cert, c.Key = theirs.cert, theirs.key
		c.Extra = eximUsers("${if def:tls_in_cipher {*}}")
	}
	exim := mtatest.Start(t, mta.Exim, c)
	cfg := realConfig(t)
	addInbound(cfg, doorInbound, exim.Addr(), func(in *proxy.InboundConfig) {
		in.TLSCert, in.TLSKey = ours.certFile, ours.keyFile
		in.ClientAddress, in.RelayAuth = "proxy-v2", true
		in.Auth.Enabled, in.Auth.TrustedNetworks = true, nil
		if l.onConnect {
			in.ListenTLS, in.Listen = in.Listen, nil
		}
		if l.secured {
			in.BackendTLS, in.BackendTLSName, in.BackendCAFile = "verify", "mx.b.test", theirs.certFile
		}
	})
	px := startReal(t, cfg, serveDomains(t, map[string]string{"b.test": exim.Addr(), "a.test": "127.0.0.9:25"}))
	course := loginCourse{exim: exim, far: far, proxy: px}
	course.server = []string{"--server", px.at(doorInbound), "--local-interface", "127.77.0.9", "--helo",
		"client.a.test", "--from", realSender}
	if l.onConnect {
		course.server = append(course.server, "--tls-on-connect")
	} else {
		course.server = append(course.server, "--tls")
	}
	return course
}

// swaks sends a message; ok is whether all went well.
func (c loginCourse) swaks(t *testing.T, args ...string) (transcript string, ok bool) {
	t.Helper()
	out, err := mta.Swaks(mtatest.Context(t), "", append(slices.Clone(c.server), args...)...)
	if errors.Is(err, mta.ErrUnavailable) {
		mtatest.Check(t, err)
	}
	if strings.Contains(out, "AUTH ") && strings.Contains(out, "*** Host did not advertise") {
		t.Fatal(out)
	}
	return out, err == nil
}

// A program logs in at Exim through a door, by each mechanism that is offered, and
// then Exim relays its mail, which nobody has judged. Who has not logged in, or
// has the password wrong, is refused in Exim's words.
func TestRealLogin(t *testing.T) {
	for _, mechanism := range []string{"PLAIN", "LOGIN", "CRAM-MD5"} {
		for i := range 4 {
			l := realLogin{mechanism, i&1 != 0, i&2 != 0}
			t.Run(l.String(), func(t *testing.T) {
				t.Parallel()
				l.test(t)
			})
		}
	}
}

func (l realLogin) test(t *testing.T) {
	c := l.open(t)
	user := []string{"--auth", l.mechanism, "--auth-user", "user", "--auth-password"}

	out, ok := c.swaks(t, "--to", "friend@far.test")
	if ok || !strings.Contains(out, "550 5.7.1 relaying denied") {
		t.Errorf("without a login:\n%s", out)
	}
	out, ok = c.swaks(t, append(user, "wrong", "--to", "friend@far.test")...)
	if ok || !strings.Contains(out, "535 ") || !strings.Contains(out, "Incorrect authentication data") {
		t.Errorf("with another password:\n%s", out)
	}
	out, ok = c.swaks(t, append(user, "secret", "--to", "friend@far.test")...)
	if !ok || !strings.Contains(out, "235 ") || !strings.Contains(out, "Authentication succeeded") {
		t.Fatalf("with the right one:\n%s", out)
	}
	got, err := c.far.WaitDelivered(mtatest.Context(t), 1)
	if err != nil {
		t.Fatal(err)
	}
	if text := string(got[0].Raw); !strings.Contains(text, "(Slipstream) with ESMTPSA id ") || strings.Contains(text,
		"Authentication-Results") {
		t.Errorf("it was judged, or not said to be of a user:\n%s", text)
	}
	if out, ok = c.swaks(t, "--to", "you@b.test"); !ok {
		t.Fatalf("to a local user:\n%s", out)
	}
	sums := c.proxy.records(t, 3)
	judged := slices.IndexFunc(sums, func(s proxy.Summary) bool { return s.Auth != nil })
	if n := len(sums) - 1; judged != n {
		t.Errorf("transaction %d of %d was judged", judged, n)
	}
	driver, _, _ := strings.Cut(strings.ToLower(l.mechanism), "-")
	lines := realLogged(c.exim, "<= "+realSender, " A="+driver+":user")
	if len(lines) != 1 || !strings.Contains(lines[0], "H=(client.a.test) [127.77.0.9]") {
		t.Errorf("Exim's log: %q\n%s", lines, c.exim.Log())
	}
}

// One login is good for all messages of a session, which go over one connection.
func TestRealLoginForManyMessages(t *testing.T) {
	for _, secured := range []bool{false, true} {
		l := realLogin{"LOGIN", true, secured}
		t.Run(l.String(), func(t *testing.T) {
			t.Parallel()
			c := l.open(t)
			config := &tls.Config{InsecureSkipVerify: true} // whoever it is
			d, _, err := mta.Dial(mtatest.Context(t), c.proxy.at(doorInbound), "", config)
			if err != nil {
				t.Fatal(err)
			}
			defer d.Close()
			realHear(t, d, 250, "EHLO client.a.test")
			realHear(t, d, 334, "AUTH LOGIN dXNlcg==")
			realHear(t, d, 235, "c2VjcmV0")
			const messages = 3
			for i := range messages {
				realHear(t, d, 250, "MAIL FROM:<%s> AUTH=<>", realSender)
				realHear(t, d, 250, "RCPT TO:<friend@far.test>")
				realHear(t, d, 354, "DATA")
				if a, err := d.Text(realMessage(fmt.Sprint(i), 1000)); err != nil || a.Code != 250 {
					t.Fatalf("%v, %v", a, err)
				}
			}
			realHear(t, d, 503, "AUTH LOGIN dXNlcg==")
			realHear(t, d, 221, "QUIT")
			if _, err := c.far.WaitDelivered(mtatest.Context(t), messages); err != nil {
				t.Fatal(err)
			}
			from := make(map[string]bool)
			lines := realLogged(c.exim, "<= "+realSender, " A=login:user")
			for _, line := range lines {
				_, after, _ := strings.Cut(line, "]:")
				port, _, _ := strings.Cut(after, " ")
				from[port] = true
			}
			if len(lines) != messages || len(from) != 1 {
				t.Errorf("Exim's log: %q", lines)
			}
		})
	}
}

// Postfix and Exim answer what is passed on, in their own words.
func TestRealRelayedCommands(t *testing.T) {
	for _, tt := range []struct {
		kind  mta.Kind
		extra []string
		asked []string
	}{
		{mta.Postfix, nil, []string{"VRFY you@b.test", "VRFY friend@far.test", "ETRN b.test", "ETRN far.test", "ETRN -",
			"EXPN all"}},
		{mta.Exim, []string{"acl_smtp_expn = accept", "acl_smtp_etrn = accept", "smtp_etrn_serialize = false",
			"smtp_etrn_command = /bin/true $domain"},
			[]string{"VRFY you@b.test", "VRFY friend@far.test", "EXPN you@b.test", "EXPN friend@far.test", "ETRN b.test",
				"ETRN #b.test"}},
	} {
		t.Run(string(tt.kind), func(t *testing.T) {
			t.Parallel()
			server := mtatest.Start(t, tt.kind, mta.Config{Hostname: "mx.b.test", Local: []string{"b.test"}, Extra: tt.extra})
			cfg := realConfig(t)
			addInbound(cfg, doorInbound, server.Addr(), func(in *proxy.InboundConfig) {
				in.RelayCommands, in.BackendTrustsUs = []string{"VRFY", "EXPN", "ETRN"}, true
			})
			px := startReal(t, cfg, serveDomains(t, map[string]string{"b.test": server.Addr()}))
			direct, through := realDial(t, server.Addr()), realDial(t, px.at(doorInbound))
			theirs, ours := realHear(t, direct, 250, "EHLO client.a.test"), realHear(t, through, 250, "EHLO client.a.test")
			for _, keyword := range []string{"VRFY", "EXPN", "ETRN"} {
				if theirs.Has(keyword) != ours.Has(keyword) {
					t.Errorf("%s: the server offers it: %t, we do: %t", keyword, theirs.Has(keyword), ours.Has(keyword))
				}
			}
			for _, line := range tt.asked {
				want, err := direct.Say("%s", line)
				if err != nil {
					t.Fatal(err)
				}
				got, err := through.Say("%s", line)
				if err != nil {
					t.Fatal(err)
				}
				t.Logf("%s: %s", line, got)
				if got.Code != want.Code || !saysTheSame(got, want) {
					t.Errorf("%s: %s, the server itself says %s", line, got, want)
				}
			}
		})
	}
}

// saysTheSame compares answers but for an enhanced code that the server left out.
func saysTheSame(got, want mta.Answer) bool {
	return slices.EqualFunc(got.Lines, want.Lines, func(a, b string) bool {
		_, words, _ := strings.Cut(a, " ")
		return a == b || words == b
	})
}
