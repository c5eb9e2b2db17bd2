package proxy

import (
	"strings"
	"testing"
	"testing/synctest"

	"slipstream/bench/refpeer"
)

// A hop that has envelope and text in one flight, takes the message and dies
// before any of its answers is out: whatever command the client hears it at, it
// hears that the outcome is unknown.
func TestDoubtBeforeAnyAnswer(t *testing.T) {
	for _, heard := range []string{"", "MAIL", "RCPT"} { // the last command that is answered
		t.Run("answered up to: "+heard, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				w := newWorld(t)
				b := w.serve(backendAddr, &refpeer.Server{
					Keywords: refpeer.Modern(),
					Behave: func(ev refpeer.Event) refpeer.Action {
						switch {
						case ev.Kind == refpeer.EndOfData:
							return refpeer.Action{Close: true}
						case ev.Verb == "MAIL" && heard == "", ev.Verb == "RCPT" && heard != "RCPT":
							return refpeer.Action{Silent: true}
						}
						return refpeer.Action{}
					},
				})
				w.inbound()
				w.start()
				c := w.client(inboundAt)
				c.ask("EHLO client.example", "250")
				c.say("MAIL FROM:<a@client.example>", "RCPT TO:<b@example.net>", "BDAT 3 LAST", "x")
				said := c.want("")
				for strings.HasPrefix(said, "250 ") {
					said = c.want("")
				}
				if !strings.HasPrefix(said, "451 4.4.2 ") || !strings.Contains(said, "outcome unknown") {
					t.Errorf("the client hears %q", said)
				}
				if n := len(b.Messages()); n != 1 {
					t.Fatalf("the backend took %d messages, want 1", n)
				}
				c.ask("RSET", "")
				if s := w.last(); !s.InDoubt {
					t.Errorf("summary: %+v", s)
				}
			})
		})
	}
}
