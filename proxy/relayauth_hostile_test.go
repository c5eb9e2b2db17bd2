package proxy

import (
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"slipstream/smtpwire"
)

// A backend that does not behave within a login. The client hears 454 and may try
// again, on another connection.
func TestRelayAuthHostileBackend(t *testing.T) {
	long := "334 " + strings.Repeat("A", smtpwire.MaxAuthLine)
	for name, script := range map[string]func(line string) (string, bool){
		"dies at once":    func(string) (string, bool) { return "", true },
		"nonsense":        func(string) (string, bool) { return "what?", true },
		"another success": func(string) (string, bool) { return "250 2.0.0 ok", true },
		"354":             func(string) (string, bool) { return "354 go on", true },
		"several lines":   func(string) (string, bool) { return "334-a\n334 b", true },
		"too long a line": func(string) (string, bool) { return long, true },
		"more than one": func(string) (string, bool) {
			return "334 VXNlcm5hbWU6\n334 UGFzc3dvcmQ6",
				true
		},
		"two answers": func(string) (string, bool) {
			return "235 2.7.0 welcome\n250 2.0.0 ok",
				true
		},
		"an answer and an end without a line": func(string) (string, bool) { return "334 VXNl\n2", true },
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				w, b, logs := loginWorld(t, &loginBackend{script: func(c *loginConn, line string) (string, bool) {
					if c.n != 1 || !strings.HasPrefix(line, "AUTH") {
						return "", false
					}
					return script(line)
				}})
				d := w.secured()
				d.ask("AUTH PLAIN AGEAYg==", "454 4.7.0 ")
				d.ask("AUTH PLAIN AGEAYg==", "235 ")
				d.ask("MAIL FROM:<a@example.org>", "250")
				d.ask("RCPT TO:<friend@far.example>", "250")
				synctest.Wait()
				if !b.ended(1) || b.ended(2) {
					t.Error("the wrong connection was closed")
				}
				keepsSecrets(t, logs, "AGEAYg", "VXNl", "UGFz")
			})
		})
	}
}

// Challenges without end, silence, and a last word within a login.
func TestRelayAuthBounds(t *testing.T) {
	for name, tt := range map[string]struct {
		script func(n int) string
		want   string
		closed bool
	}{
		"challenges without end": {func(int) string { return "334 QUFB" }, "454 4.7.0 ", false},
		"long ones": {func(int) string { return "334 " + strings.Repeat("A", smtpwire.MaxAuthLine-10) },
			"454 4.7.0 ", false},
		"421": {func(int) string { return "421 4.3.2 going down" }, "421 4.3.2 going down", true},
		"later 421": {func(n int) string {
			if n == 0 {
				return "334 QUFB"
			}
			return "421 4.3.2 going down"
		}, "421 4.3.2 going down", true},
		"passing trouble": {func(int) string { return "454 4.7.0 the directory is away" },
			"454 4.7.0 the directory is away", false},
		"a code alone": {func(int) string { return "535" }, "535 5.0.0", false},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				rounds := 0
				w, _, _ := loginWorld(t, &loginBackend{script: func(c *loginConn, line string) (string, bool) {
					if c.n != 1 || strings.HasPrefix(line, "EHLO") || line == "QUIT" {
						return "", false
					}
					rounds++
					return tt.script(rounds - 1), true
				}})
				d := w.secured()
				d.say("AUTH PLAIN AGEAYg==")
				got := d.want("")
				for n := 0; strings.HasPrefix(got, "334 "); n++ {
					if n > maxLoginRounds {
						t.Fatal("there is no end of it")
					}
					got = d.ask("QUFB", "")
				}
				if !strings.HasPrefix(got, tt.want) {
					t.Errorf("got %.80q, want %q", got, tt.want)
				}
				if tt.closed {
					d.wantClosed()
				} else {
					d.ask("NOOP", "250")
				}
			})
		})
	}
	t.Run("silence", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			block := make(chan struct{})
			w, _, _ := loginWorld(t, &loginBackend{script: func(c *loginConn, line string) (string, bool) {
				if strings.HasPrefix(line, "AUTH") {
					<-block
				}
				return "", false
			}})
			defer close(block)
			d := w.secured()
			start := time.Now()
			d.ask("AUTH PLAIN AGEAYg==", "454 4.7.0 ")
			if took := time.Since(start); took > loginWait+time.Second {
				t.Errorf("it took %v", took)
			}
		})
	})
}

// A client that does not behave within a login.
func TestRelayAuthHostileClient(t *testing.T) {
	long := strings.Repeat("A", smtpwire.MaxAuthLine-2)
	for name, tt := range map[string]struct {
		octets string
		want   string
		heard  []string
	}{
		"the longest line":     {long + "\r\n", "535 5.7.8 ", []string{"AUTH CRAM-MD5", long}},
		"too long a line":      {long + "A\r\n", "500 5.5.6 ", []string{"AUTH CRAM-MD5"}},
		"much too long a line": {long + long + long + "\r\n", "500 5.5.6 ", []string{"AUTH CRAM-MD5"}},
		"a line without end":   {strings.Repeat("A", smtpwire.MaxOverlongLine+1), "421 4.7.0 ", []string{"AUTH CRAM-MD5"}},
		"a bare LF":            {"AAAA\n", "500 5.5.2 ", []string{"AUTH CRAM-MD5"}},
		"a bare CR":            {"AA\rAA\r\n", "501 5.5.2 ", []string{"AUTH CRAM-MD5"}},
		"NUL":                  {"AA\x00AA\r\n", "501 5.5.2 ", []string{"AUTH CRAM-MD5"}},
		"a command":            {"MAIL FROM:<a@example.org>\r\n", "501 5.5.2 ", []string{"AUTH CRAM-MD5"}},
		"nothing":              {"\r\n", "535 5.7.8 ", []string{"AUTH CRAM-MD5", ""}},
		"cancelled":            {"*\r\n", "501 5.7.0 cancelled", []string{"AUTH CRAM-MD5", "*"}},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				w, b, _ := loginWorld(t, &loginBackend{})
				d := w.secured()
				d.ask("AUTH CRAM-MD5", "334 ")
				d.raw(tt.octets)
				got := d.want(tt.want)
				synctest.Wait()
				if heard := b.said(1); !slices.Equal(heard, tt.heard) {
					t.Errorf("the backend heard %.80q", heard)
				}
				if strings.HasPrefix(got, "421") {
					d.wantClosed()
					return
				}
				d.ask("AUTH PLAIN AGEAYg==", "235 ")
			})
		})
	}
	t.Run("leaves", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			w, b, _ := loginWorld(t, &loginBackend{})
			d := w.secured()
			d.ask("AUTH LOGIN", "334 ")
			_ = d.conn.Close()
			synctest.Wait()
			if !b.ended(1) || !slices.Equal(b.said(1), []string{"AUTH LOGIN"}) {
				t.Errorf("the backend heard %q", b.said(1))
			}
			if got := w.counterOf("slipstream_logins_total", "result", loginCancelled); got != 1 {
				t.Errorf("%v were counted", got)
			}
		})
	})
	t.Run("falls silent", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			w, _, _ := loginWorld(t, &loginBackend{})
			d := w.secured()
			d.ask("AUTH LOGIN", "334 ")
			start := time.Now()
			d.want("421 4.4.2 ")
			d.wantClosed()
			if took := time.Since(start); took > loginWait+time.Second {
				t.Errorf("it took %v", took)
			}
		})
	})
	t.Run("while the service stops", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			w, b, _ := loginWorld(t, &loginBackend{})
			d := w.secured()
			d.ask("AUTH LOGIN", "334 ")
			go w.stop()
			d.want("421 4.3.2 ")
			synctest.Wait()
			if !b.ended(1) {
				t.Error("the backend's connection is open")
			}
		})
	})
}

// When the connection with the login ends, the session does: nothing goes on
// another one.
func TestRelayAuthLosesItsConnection(t *testing.T) {
	const mail, foreign = "MAIL FROM:<a@example.org>", "RCPT TO:<friend@far.example>"
	for name, tt := range map[string]struct {
		dies string   // the verb at which the backend does
		talk []string // behind the login
	}{
		"at MAIL":       {"MAIL", []string{mail, "421 4.3.2 "}},
		"at RCPT":       {"RCPT", []string{mail, "250 ", foreign, "421 4.3.2 "}},
		"in one flight": {"RCPT", []string{mail + "\r\n" + foreign + "\r\nDATA", "250 ", "", "421 4.3.2 "}},
		"at the text": {"BDAT", []string{mail, "250 ", foreign, "250 ", "DATA", "354 ", "hi\r\n.",
			"451 4.4.2 ", "", "421 4.3.2 "}},
		"at RSET":                    {"RSET", []string{mail, "250 ", "RSET", "250 ", mail, "421 4.3.2 "}},
		"while idle":                 {"", []string{mail, "421 4.3.2 "}},
		"while idle, and a question": {"", []string{"VRFY a", "421 4.3.2 "}},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				w, b, _ := loginWorld(t, &loginBackend{script: func(c *loginConn, line string) (string, bool) {
					return "", tt.dies != "" && c.user && strings.HasPrefix(line, tt.dies)
				}}, func(in *InboundConfig) { in.PoolIdle = time.Hour; in.RelayCommands = []string{"VRFY"} })
				d := w.secured()
				d.ask("AUTH PLAIN AGEAYg==", "235 ")
				if tt.dies == "" {
					_ = b.all()[1].conn.Close()
					synctest.Wait()
				}
				for i := 0; i < len(tt.talk); i += 2 {
					if tt.talk[i] != "" {
						d.say(tt.talk[i])
					}
					d.want(tt.talk[i+1])
				}
				d.wantClosed()
				synctest.Wait()
				if n := len(b.all()); n != 2 {
					t.Errorf("%d connections", n)
				}
			})
		})
	}
}

// What the backend itself says to MAIL passes, and its 421 ends the session.
func TestRelayAuthOwnWords(t *testing.T) {
	for _, tt := range []struct {
		said, heard string
		closed      bool
	}{
		{"451 4.3.0 busy", "451 4.3.0 busy", false},
		{"550 5.1.0 not yours", "550 5.1.0 not yours", false},
		{"421 4.3.2 that is enough", "421 4.3.2 that is enough", true},
	} {
		synctest.Test(t, func(t *testing.T) {
			w, b, _ := loginWorld(t, &loginBackend{script: func(c *loginConn, line string) (string, bool) {
				return tt.said, c.user && line == "MAIL FROM:<b@example.org>"
			}})
			d := w.secured()
			d.ask("AUTH PLAIN AGEAYg==", "235 ")
			d.ask("MAIL FROM:<a@example.org>", "250 ")
			d.ask("RSET", "250 ")
			d.ask("MAIL FROM:<b@example.org>", tt.heard)
			if tt.closed {
				d.wantClosed()
			} else {
				d.ask("MAIL FROM:<a@example.org>", "250 ")
			}
			synctest.Wait()
			if n := len(b.all()); n != 2 {
				t.Errorf("%d connections", n)
			}
		})
	}
}

// A connection that no login came of is in nobody's way, also where there may be
// no other.
func TestRelayAuthWithOneConnection(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w, _, _ := loginWorld(t, &loginBackend{},
			func(in *InboundConfig) { in.HopConnections = 1; in.PoolIdle = time.Hour })
		d := w.secured()
		start := time.Now()
		d.ask("MAIL FROM:<a@example.org>", "250 ")
		d.ask("RCPT TO:<you@example.org>", "250 ")
		d.ask("RSET", "250 ")
		d.ask("AUTH PLAIN AGEAYw==", "535 ")
		d.ask("MAIL FROM:<a@example.org>", "250 ")
		d.ask("RCPT TO:<you@example.org>", "250 ")
		d.ask("RSET", "250 ")
		d.ask("AUTH PLAIN AGEAYg==", "235 ")
		d.ask("MAIL FROM:<a@example.org>", "250 ")
		if took := time.Since(start); took > 5*time.Second {
			t.Errorf("it took %v", took)
		}
	})
}

// A text that comes with its envelope travels on with it on this connection too.
func TestRelayAuthPipelined(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w, b, _ := loginWorld(t, &loginBackend{})
		d := w.secured()
		const mail = "MAIL FROM:<a@example.org>"
		d.say("AUTH PLAIN AGEAYg==", mail, "RCPT TO:<friend@far.example>", "BDAT 4 LAST\r\nhi", mail)
		for _, want := range []string{"235 ", "250 ", "250 ", "250 2.0.0 queued as B1", "250 "} {
			d.want(want)
		}
		synctest.Wait()
		if got := b.texts(1); !slices.Equal(got, []string{"hi\r\n"}) {
			t.Errorf("the backend has %q", got)
		}
	})
}
