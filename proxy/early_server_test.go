package proxy

import (
	"bufio"
	"fmt"
	"net"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"slipstream/bench/netsim"
	"slipstream/bench/refpeer"
)

// firstWords is when the inbound door said something first.
type firstWords struct {
	mu   sync.Mutex
	when time.Time
}

func (w *world) firstWords() *firstWords {
	f := &firstWords{}
	w.net.Trace = func(s netsim.Segment) {
		f.mu.Lock()
		defer f.mu.Unlock()
		if s.From.String() == inboundAt && s.Len > 0 && f.when.IsZero() {
			f.when = s.At
		}
	}
	return f
}

func (f *firstWords) forget() {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.when = time.Time{}
}

func (f *firstWords) at() time.Time {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.when
}

// The trips from the SYN to the final reply, which are the fewest there can be
// without Fast Open. They depend on nobody behind us.
func TestEarlyTalkTrips(t *testing.T) {
	want := map[string]int{"clear, DATA": 3, "clear, BDAT": 2, "STARTTLS, BDAT": 4, "TLS on connect, BDAT": 3}
	for name, backend := range map[string]*refpeer.Server{
		"old backend":    {Old: true, StrictLockstep: true},
		"modern backend": {Keywords: refpeer.Modern()},
	} {
		for _, e := range earlyTalks() {
			t.Run(name+"/"+e.name, func(t *testing.T) {
				cert := newTestCert(t, "proxy.example")
				synctest.Test(t, func(t *testing.T) {
					b := &refpeer.Server{Old: backend.Old, StrictLockstep: backend.StrictLockstep, Keywords: backend.Keywords}
					w := e.open(t, cert, b)
					w.start()
					begun := time.Now()
					final, _ := e.talk(t, w, 0, 0)
					if got := float64(final.Sub(begun)) / float64(2*earlyDelay); got != float64(want[e.name]) {
						t.Errorf("%v trips, want %d", got, want[e.name])
					}
					if n, v := len(b.Messages()), b.Violations(); n != 1 || len(v) != 0 {
						t.Errorf("the backend got %d messages and saw %v", n, v)
					}
				})
			})
		}
	}
}

// The greeting and the answers to what is here already leave in one write. The
// final reply, which the backend has still to give, is not among them.
func TestEarlyTalkOneWrite(t *testing.T) {
	for _, e := range earlyTalks() {
		t.Run(e.name, func(t *testing.T) {
			cert := newTestCert(t, "proxy.example")
			synctest.Test(t, func(t *testing.T) {
				w := e.open(t, cert, &refpeer.Server{Keywords: refpeer.Modern()})
				words := make(chan string, 100)
				w.net.TraceData = 4096
				w.net.Trace = func(s netsim.Segment) {
					if s.From.String() == inboundAt && s.Len > 0 {
						words <- string(s.Data)
					}
				}
				w.start()
				first := ""
				if c := w.connect(inboundAt); e.implicit() {
					held := &earlyConn{Conn: c.conn}
					conn := held.secure(t)
					c.conn = conn
					c.raw(e.flights[0].octets)
					if err := held.release(); err != nil {
						t.Fatal(err)
					}
					buf := make([]byte, 4096) // a write is a record
					n, err := conn.Read(buf)
					if err != nil {
						t.Fatal(err)
					}
					first = string(buf[:n])
				} else {
					c.raw(e.flights[0].octets)
					first = <-words
				}
				heard := &dialog{t: t, conn: nopDeadline{}, r: bufio.NewReader(strings.NewReader(first))}
				replies := strings.Split(e.flights[0].replies, " | ")
				if last := len(replies) - 1; strings.HasPrefix(replies[last], "221") {
					replies = replies[:last-1]
				}
				for _, want := range replies {
					heard.want(strings.TrimSpace(want))
				}
				if rest, err := heard.r.ReadString(0); err == nil || rest != "" {
					t.Errorf("and more: %q", rest)
				}
			})
		})
	}
}

// nopDeadline is for a dialog that has heard all there is.
type nopDeadline struct{ net.Conn }

func (nopDeadline) SetReadDeadline(time.Time) error { return nil }

// A recipient is refused whose text is already here: it is read and dropped,
// whatever it looks like, and the next message goes through. All of it comes in
// one segment, with the client's FIN, and the backend takes its time.
func TestEarlyTalkRefusedRecipient(t *testing.T) {
	for name, backend := range map[string]*refpeer.Server{
		"old backend":    {Old: true, StrictLockstep: true},
		"modern backend": {Keywords: refpeer.Modern()},
	} {
		for _, split := range []bool{false, true} { // the refused text, into two chunks
			t.Run(fmt.Sprintf("%s, in chunks: %t", name, split), func(t *testing.T) {
				synctest.Test(t, func(t *testing.T) {
					w := newWorld(t)
					b := &refpeer.Server{
						Old: backend.Old, StrictLockstep: backend.StrictLockstep, Keywords: backend.Keywords,
						RcptReplies: map[string]string{"nobody@example.net": "550 5.1.1 no such user"},
						Behave: func(ev refpeer.Event) refpeer.Action {
							if ev.Kind == refpeer.EndOfData || ev.Verb == "RCPT" {
								return refpeer.Action{Delay: 30 * time.Second}
							}
							return refpeer.Action{}
						},
					}
					w.serve(backendAddr, b)
					w.inbound()
					w.start()
					const trap = "Subject: x\r\n\r\n\r\n.\r\nRSET\r\nMAIL FROM:<evil@client.example>\r\nRCPT TO:<evil@example.net>\r\n"
					refused := earlyChunk(trap)
					if split {
						refused = fmt.Sprintf("BDAT 9\r\n%sBDAT %d LAST\r\n%s", trap[:9], len(trap)-9, trap[9:])
					}
					c := w.connect(inboundAt)
					c.raw(earlyHello + "MAIL FROM:<a@client.example>\r\nRCPT TO:<nobody@example.net>\r\n" + refused +
						"RSET\r\nMAIL FROM:<a@client.example>\r\nRCPT TO:<b@example.net>\r\n" + earlyChunk(earlyText) + "QUIT\r\n")
					if err := c.conn.(*netsim.Conn).CloseWrite(); err != nil {
						t.Fatal(err)
					}
					c.want("220 ")
					c.want("250 ")
					c.want("250 ")
					c.want("550 5.1.1")
					c.want("5")
					if split {
						c.want("503 ")
					}
					for _, want := range []string{"250 2.0.0", "250 ", "250 ", "250 2.0.0", "221 "} {
						c.want(want)
					}
					c.wantClosed()
					got := b.Messages()
					if len(got) != 1 || string(got[0].Body) != earlyText || got[0].Sender() != "a@client.example" {
						t.Errorf("the backend got %+v", got)
					}
				})
			})
		}
	}
}
