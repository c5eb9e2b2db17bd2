package proxy_test

import (
	"bufio"
	"fmt"
	"io"
	"net"
	"strings"
	"testing"
	"time"
)

// A client says QUIT along with its dot, as Postfix does, takes the last word, and
// closes without waiting for the answer to QUIT. It has heard: nothing stays behind.
func TestRealFanoutQuits(t *testing.T) {
	f := newRealFanout(t, func(t *testing.T, door string) fanoutSender { return &fanoutNobody{door} })
	f.differs = true
	f.attempts["d.test"] = fanoutOff // it takes all
	const all = 50
	for i := range all { // nothing special
		if r := fanoutQuits(t, f.px.at(doorSMTP), all+i, []string{"one@b.test"}); !strings.HasPrefix(r, "250 ") {
			t.Fatalf("message %d: the last word is %q", i, r)
		}
	}
	awaitReal(t, "the records of transactions", func() bool { return len(f.px.transactions()) == all })
	if s := f.memory.Stats(); s.Outcomes > 0 || s.Writes > 1 { // one when it was opened
		t.Errorf("%d ordinary messages are remembered: %+v", all, s)
	}
	for i := range all {
		say := func(want string, to ...string) {
			t.Helper()
			if r := fanoutQuits(t, f.px.at(doorSMTP), i, to); !strings.HasPrefix(r, want) {
				t.Fatalf("message %d to %q: the last word is %q, want %q", i, to, r, want)
			}
		}
		say("451 4.3.0", "one@b.test", "two@c.test")
		say("554 5.7.1", "two@c.test")
		awaitReal(t, "the refusal that was heard to be forgotten", func() bool { return f.memory.Stats().Refused == 0 })
		say("250 ", "one@b.test")
	}
	awaitReal(t, "nothing to be remembered", func() bool { return f.memory.Stats().Outcomes == 0 })
}

// fanoutQuits sends a message and returns the last word about it.
func fanoutQuits(t *testing.T, door string, n int, to []string) string {
	t.Helper()
	conn, err := net.Dial("tcp", door)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	_ = conn.SetDeadline(time.Now().Add(realPatience)) // reads tell
	r := bufio.NewReaderSize(conn, 16)                 // so that little is taken ahead
	ask := func(octets, want string) (line string) {
		t.Helper()
		if _, err := io.WriteString(conn, octets); err != nil {
			t.Fatal(err)
		}
		for line = "----"; line[3] == '-'; {
			if line, err = r.ReadString('\n'); err != nil {
				t.Fatal(err)
			}
		}
		if !strings.HasPrefix(line, want) {
			t.Fatalf("%q was answered %q", octets, line)
		}
		return line
	}
	ask("", "220")
	ask("EHLO mx.a.test\r\n", "250")
	ask("MAIL FROM:<sender@a.test>\r\n", "250")
	for _, rcpt := range to {
		ask("RCPT TO:<"+rcpt+">\r\n", "250")
	}
	ask("DATA\r\n", "354")
	return ask(fmt.Sprintf("X: %d\r\n\r\ntext\r\n.\r\nQUIT\r\n", n), "")
}

// fanoutNobody is no server.
type fanoutNobody struct{ door string }

func (*fanoutNobody) submit(*testing.T, []byte, ...string) {}
func (*fanoutNobody) drive(*testing.T)                     {}
func (*fanoutNobody) empty(*testing.T) bool                { return true }
func (s *fanoutNobody) log() string                        { return "no server sends to " + s.door }
