package proxy

import (
	"bufio"
	"fmt"
	"io"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"

	"slipstream/bench/refpeer"
	"slipstream/smtpwire"
)

// A hop's reply is one reply: whatever stands in it, the client never hears a
// line of the hop's making that it did not ask for (CVE-2023-52354 turned
// around), and the session stays in step.
func TestHopReplyInjection(t *testing.T) {
	replies := map[string]string{
		"CR":           "%s ok\r550 5.0.0 injected\r\n",
		"LF":           "%s ok\n550 5.0.0 injected\r\n",
		"LF only":      "%s ok\n",
		"NUL":          "%s ok\x00550 5.0.0 injected\r\n",
		"CR CR LF":     "%s ok\r\r\n",
		"inner line":   "%[1]s-ok\r\n\n550 5.0.0 injected\r\n%[1]s ok\r\n",
		"two codes":    "%s-ok\r\n550 5.0.0 injected\r\n",
		"no code":      "injected\r\n",
		"code 199":     "199 injected\r\n",
		"code 600":     "600 injected\r\n",
		"overlong":     "%s " + strings.Repeat("x", smtpwire.MaxReplyLine) + "\r\n550 5.0.0 injected\r\n",
		"without end":  strings.Repeat("%[1]s-ok\r\n", smtpwire.MaxReplyLines+1) + "550 5.0.0 injected\r\n",
		"half a reply": "%[1]s-ok\r\n550-5.0.0 injected\r\n",
	}
	for _, h := range smuggleHops() {
		h.endings = nil
		for _, at := range []string{"connect", "EHLO", "MAIL", "RCPT", "DATA", "end of data"} {
			t.Run(h.name+"/"+at, func(t *testing.T) {
				for name, format := range replies {
					t.Run(name, func(t *testing.T) {
						synctest.Test(t, func(t *testing.T) { injectReply(t, h, at, format) })
					})
				}
			})
		}
	}
}

// injectReply has the hop say a reply once at a point of its first connection.
func injectReply(t *testing.T, h smuggleHop, at, format string) {
	var said atomic.Bool
	armed := func(ev refpeer.Event) refpeer.Action {
		if !smuggleAt(ev, at) || said.Swap(true) {
			return refpeer.Action{}
		}
		if !strings.Contains(format, "%") {
			return refpeer.Action{Reply: format}
		}
		return refpeer.Action{Reply: fmt.Sprintf(format, ev.Reply[:3])}
	}
	s := newSmugglerTo(t, h, armed)
	var heard strings.Builder
	s.c.r = bufio.NewReader(io.TeeReader(s.c.conn, &heard))
	text := s.head() + "\r\n"
	for range 2 {
		if h.lmtp {
			s.c.raw(s.envelope("NOOP\r\nDATA\r\n"))
		} else {
			s.c.raw(s.envelope(fmt.Sprintf("NOOP\r\nBDAT %d LAST\r\n%s", len(text), text)))
		}
		for range 3 {
			s.c.want("")
		}
		if reply := s.c.want(""); strings.HasPrefix(reply, "354 ") {
			s.c.raw(text + ".\r\n")
			s.c.want("")
		}
		s.c.ask("RSET", "250 ")
	}
	s.c.ask("QUIT", "221 ")
	s.c.wantClosed()
	for line := range strings.SplitAfterSeq(heard.String(), "\r\n") {
		if body := strings.TrimSuffix(line, "\r\n"); strings.ContainsAny(body, "\r\n\x00") {
			t.Errorf("heard a line with more than text: %q", line)
		}
		if strings.HasPrefix(line, "550") || strings.HasPrefix(line, "injected") || len(line) > 4200 {
			t.Errorf("heard the hop's own line: %.100q", line)
		}
	}
	if reached := at != "DATA" || !h.chunking; said.Load() != reached {
		t.Errorf("said: %t, want %t", said.Load(), reached)
	}
}

// smuggleAt tells whether a hop's reply is due at a point: a kind of event, or
// the verb of a command.
func smuggleAt(ev refpeer.Event, at string) bool {
	switch {
	case ev.Kind != refpeer.Command:
		return string(ev.Kind) == at
	case at == "EHLO":
		return ev.Verb == "EHLO" || ev.Verb == "LHLO"
	}
	return ev.Verb == at
}

// A hop that says something twice is off by one from there on: each reply would
// pass for the answer to the command behind its own. That must not make a
// refused message look accepted (P1).
func TestHopRepliesTwice(t *testing.T) {
	for _, h := range smuggleHops() {
		h.endings = nil
		for _, at := range []string{"connect", "EHLO", "MAIL", "RCPT", "DATA", "end of data"} {
			t.Run(h.name+"/"+at, func(t *testing.T) {
				synctest.Test(t, func(t *testing.T) {
					s := newSmugglerTo(t, h, func(ev refpeer.Event) refpeer.Action {
						a := refpeer.Action{Twice: smuggleAt(ev, at)}
						if ev.Kind == refpeer.EndOfData {
							a.Reply = "554 5.7.1 not this one\r\n"
						}
						return a
					})
					repliesTwice(t, s, h, at)
				})
			})
		}
	}
}

func repliesTwice(t *testing.T, s *smuggler, h smuggleHop, at string) {
	text := s.head() + "\r\n"
	for range 3 {
		s.c.raw(s.envelope("DATA\r\n"))
		mail, rcpt, data := s.c.want(""), s.c.want(""), s.c.want("")
		final := data
		if strings.HasPrefix(data, "354 ") {
			s.c.raw(text + ".\r\n")
			final = s.c.want("")
		}
		if strings.HasPrefix(final, "2") {
			t.Errorf("a refused message was accepted: %q %q %q %q", mail, rcpt, data, final)
		}
		if at == "end of data" && !strings.HasPrefix(final, "554 5.7.1 not this one") {
			t.Errorf("got %q, want the hop's own words", final)
		}
		s.c.ask("RSET", "250 ")
	}
	for range 3 {
		if h.lmtp {
			break // is not offered BDAT
		}
		s.c.raw(s.envelope(fmt.Sprintf("BDAT %d LAST\r\n%sRSET\r\n", len(text), text)))
		mail, rcpt, final := s.c.want(""), s.c.want(""), s.c.want("")
		if strings.HasPrefix(final, "2") {
			t.Errorf("a refused message was accepted: %q %q %q", mail, rcpt, final)
		}
		s.c.want("250 ")
	}
	s.c.ask("QUIT", "221 ")
	s.c.wantClosed()
}
