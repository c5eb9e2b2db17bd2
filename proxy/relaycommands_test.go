package proxy

import (
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"
)

// questions is a backend that answers them.
func questions(c *loginConn, line string) (string, bool) {
	switch verb, _, _ := strings.Cut(line, " "); verb {
	case "VRFY":
		return "250 2.1.5 Ann <ann@example.org>", true
	case "EXPN":
		return "250-2.1.5 <ann@example.org>\n250 2.1.5 <bob@example.org>", true
	case "ETRN":
		return "459 no such queue", true
	}
	return "", false
}

func TestRelayCommands(t *testing.T) {
	for name, tt := range map[string]struct {
		relayed []string
		offers  []string
		talk    []string
		heard   []string // on a connection of its own
	}{
		"none": {nil, []string{"VRFY", "ETRN", "EXPN"},
			[]string{"VRFY ann", "252 2.5.2 ", "EXPN all", "502 5.5.1 ", "ETRN example.org", "502 5.5.1 "}, nil},
		"all": {[]string{"VRFY", "EXPN", "ETRN"}, []string{"VRFY", "ETRN", "EXPN"},
			[]string{"VRFY ann", "250 2.1.5 Ann <ann@example.org>", "EXPN all",
				"250-2.1.5 <ann@example.org>\n250 2.1.5 <bob@example.org>",
				"etrn @example.org", "459 4.0.0 no such queue"},
			[]string{"VRFY ann", "EXPN all", "ETRN @example.org"}},
		"not offered by the backend": {[]string{"VRFY", "EXPN", "ETRN"}, []string{"SIZE"},
			[]string{"EXPN all", "250-2.1.5 ", "ETRN a", "459 "}, []string{"EXPN all", "ETRN a"}},
		"one": {[]string{"ETRN"}, []string{"SIZE"},
			[]string{"VRFY ann", "252 2.5.2 ", "EXPN all", "502 5.5.1 ", "ETRN a", "459 "}, []string{"ETRN a"}},
		"malformed": {[]string{"VRFY", "ETRN"}, []string{"SIZE"},
			[]string{"VRFY", "501 5.5.4 ", "ETRN", "501 5.5.4 ", "VRFY j\u00f6rg", "553 5.6.7 ", "VRFY \x01", "501 5.5.2 "},
			nil},
		"within a transaction": {[]string{"VRFY", "EXPN", "ETRN"}, []string{"SIZE"},
			[]string{"MAIL FROM:<a@b.example>", "250 ", "VRFY ann", "252 2.5.2 ", "EXPN all", "503 5.5.1 ", "ETRN a",
				"503 5.5.1 ", "RSET", "250 ", "ETRN a", "459 "},
			[]string{"ETRN a"}},
		"behind HELO": {[]string{"EXPN"}, []string{"SIZE"}, []string{"HELO client.example", "250 ", "EXPN all",
			"250-2.1.5 "}, []string{"EXPN all"}},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				w, b, _ := loginWorld(t, &loginBackend{offers: tt.offers, script: questions}, func(in *InboundConfig) {
					in.RelayCommands, in.RelayAuth = tt.relayed, false
				})
				d := w.client(inboundAt)
				if len(tt.relayed) > 0 && !slices.Contains(tt.relayed, "VRFY") {
					d.ask("VRFY ann", "252 ")
				}
				if slices.Contains(tt.relayed, "EXPN") {
					d.ask("EXPN all", "503 5.5.1 ")
				}
				all := d.ask("EHLO client.example", "250")
				for _, verb := range []string{"VRFY", "EXPN", "ETRN"} {
					want := slices.Contains(tt.relayed, verb) && slices.Contains(tt.offers, verb)
					if strings.Contains(all, verb) != want {
						t.Errorf("%s is offered: %t", verb, !want)
					}
				}
				for i := 0; i < len(tt.talk); i += 2 {
					if got := d.ask(tt.talk[i], tt.talk[i+1]); strings.Contains(tt.talk[i+1], "\n") && got != tt.talk[i+1] {
						t.Errorf("%s: %q", tt.talk[i], got)
					}
				}
				d.ask("QUIT", "221")
				time.Sleep(3 * time.Second)
				var heard []string
				for _, c := range b.all()[1:] { // behind the look at start
					if !b.ended(c.n) {
						t.Errorf("connection %d is open", c.n)
					}
					heard = append(heard, slices.DeleteFunc(b.said(c.n), func(l string) bool {
						return strings.HasPrefix(l,
							"MAIL")
					})...)
				}
				if !slices.Equal(heard, tt.heard) {
					t.Errorf("the backend heard %q, want %q", heard, tt.heard)
				}
			})
		})
	}
}

// A backend that is away, that goes, or says what makes no sense.
func TestRelayCommandsHostileBackend(t *testing.T) {
	for name, tt := range map[string]struct {
		said, want string
		closed     bool
	}{
		"dies":         {"", "451 4.3.2 ", false},
		"421":          {"421 4.3.2 bye", "421 4.3.2 bye", true},
		"nonsense":     {"what", "451 4.3.2 ", false},
		"a 3xx":        {"354 go on", "451 4.3.2 ", false},
		"two answers":  {"250 a\n250 b", "451 4.3.2 ", false},
		"without text": {"250", "250 2.0.0", false},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				w, b, _ := loginWorld(t, &loginBackend{script: func(c *loginConn, line string) (string, bool) {
					return tt.said, c.n == 1 && strings.HasPrefix(line, "VRFY")
				}}, func(in *InboundConfig) { in.RelayCommands = []string{"VRFY"} })
				d := w.client(inboundAt)
				d.ask("EHLO client.example", "250")
				d.ask("VRFY ann", tt.want)
				if tt.closed {
					d.wantClosed()
					return
				}
				d.ask("VRFY ann", "250 2.0.0")
				if n := len(b.all()); tt.want[0] == '4' && n != 3 {
					t.Errorf("%d connections", n)
				}
			})
		})
	}
}

// Questions have an end, and those of a user go where it has logged in.
func TestRelayCommandsBounds(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w, b, _ := loginWorld(t, &loginBackend{script: questions}, func(in *InboundConfig) {
			in.RelayCommands = []string{"VRFY", "EXPN"}
		})
		d := w.secured()
		d.ask("AUTH PLAIN AGEAYg==", "235 ")
		for range maxPassedOn {
			d.ask("VRFY ann", "250 2.1.5 Ann")
		}
		d.ask("VRFY ann", "252 ")
		d.ask("EXPN all", "450 4.7.0 ")
		d.ask("MAIL FROM:<a@example.org>", "250 ")
		if n := len(b.all()); n != 2 {
			t.Errorf("%d connections", n)
		}
	})
}

// A command that finds the login gone has that for its answer, and nothing behind
// it is answered in its place.
func TestRelayCommandBehindLostLogin(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w, b, _ := loginWorld(t, &loginBackend{script: questions}, func(in *InboundConfig) {
			in.RelayCommands = []string{"VRFY"}
		})
		d := w.secured()
		d.ask("AUTH PLAIN AGEAYg==", "235 ")
		for _, c := range b.all() {
			_ = c.conn.Close()
		}
		synctest.Wait()
		d.say("VRFY ann", "NOOP")
		d.want("421 ")
	})
}
