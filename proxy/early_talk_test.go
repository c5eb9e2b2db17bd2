package proxy

import (
	"crypto/tls"
	"fmt"
	"net"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"slipstream/bench/netsim"
	"slipstream/bench/refpeer"
)

// An earlyTalk is one of the ways in which a client begins that has met us
// before, in flights: all that it says without waiting.
type earlyTalk struct {
	name    string
	flights []earlyFlight
}

type earlyFlight struct {
	secure  bool // TLS comes first
	octets  string
	replies string // beginnings of the replies, with " | " between them
}

// implicit tells whether TLS comes before all else.
func (e earlyTalk) implicit() bool { return e.flights[0].secure }

const (
	earlyHello = "EHLO client.example\r\n"
	earlyText  = "Subject: early\r\n\r\n.\r\nRCPT TO:<c@example.net>\r\nQUIT\r\n"
	earlyMail  = earlyHello + "MAIL FROM:<a@client.example> SIZE=60\r\nRCPT TO:<b@example.net>\r\n"
)

func earlyChunk(text string) string { return fmt.Sprintf("BDAT %d LAST\r\n%s", len(text), text) }

// earlyTalks are those that Exim 4.96 was seen to use. It says QUIT behind the
// text, and closes its side behind that, before it has heard a word.
func earlyTalks() []earlyTalk {
	whole := earlyMail + earlyChunk(earlyText) + "QUIT\r\n"
	stuffed := strings.Replace(earlyText, "\n.", "\n..", 1) + ".\r\nQUIT\r\n"
	return []earlyTalk{
		{"clear, DATA", []earlyFlight{
			{octets: earlyMail + "DATA\r\n", replies: "220 | 250 | 250 | 250 | 354 "},
			{octets: stuffed, replies: "250 2.0.0 | 221 "},
		}},
		{"clear, BDAT", []earlyFlight{{octets: whole, replies: "220 | 250 | 250 | 250 | 250 2.0.0 | 221 "}}},
		{"STARTTLS, BDAT", []earlyFlight{
			{octets: earlyHello + "STARTTLS\r\n", replies: "220 | 250 | 220 "},
			{secure: true, octets: whole, replies: "250 | 250 | 250 | 250 2.0.0 | 221 "},
		}},
		{"TLS on connect, BDAT", []earlyFlight{
			{secure: true, octets: whole, replies: "220 | 250 | 250 | 250 | 250 2.0.0 | 221 "},
		}},
	}
}

// An earlyConn sends flights in one segment, or in two where it is told to cut.
// Behind a handshake the client's Finished is part of its flight.
type earlyConn struct {
	net.Conn
	cut     int // behind so many octets of all flights together; 0: not at all
	pause   time.Duration
	sent    int
	holding bool
	held    []byte
}

func (c *earlyConn) Write(p []byte) (int, error) {
	if c.holding {
		c.held = append(c.held, p...)
		return len(p), nil
	}
	return c.Conn.Write(p)
}

// release sends what was held back.
func (c *earlyConn) release() error {
	if err := c.Conn.SetWriteDeadline(time.Time{}); err != nil { // CloseWrite of TLS leaves one that has passed
		return err
	}
	p, before := c.held, c.cut-c.sent
	c.held, c.holding, c.sent = nil, false, c.sent+len(c.held)
	if before > 0 && before < len(p) {
		if _, err := c.Conn.Write(p[:before]); err != nil {
			return err
		}
		time.Sleep(c.pause)
		p = p[before:]
	}
	_, err := c.Conn.Write(p)
	return err
}

// secure negotiates TLS, and holds back from the client's Finished on.
func (c *earlyConn) secure(t *testing.T) *tls.Conn {
	t.Helper()
	conn := tls.Client(c, &tls.Config{InsecureSkipVerify: true, VerifyConnection: func(tls.ConnectionState) error {
		c.holding = true // Finished comes next
		return nil
	}})
	if err := conn.Handshake(); err != nil {
		t.Fatalf("cut behind %d: %v", c.cut, err)
	}
	return conn
}

// talk is a whole session. It returns when the final reply came, and how many
// octets the flights had.
func (e earlyTalk) talk(t *testing.T, w *world, cut int, pause time.Duration) (final time.Time, octets int) {
	t.Helper()
	raw, err := w.net.Dial(t.Context(), clientHost, inboundAt)
	if err != nil {
		t.Fatal(err)
	}
	defer raw.Close()
	c := &earlyConn{Conn: raw, cut: cut, pause: pause}
	d := newDialog(t, c)
	for i, f := range e.flights {
		if f.secure {
			d = newDialog(t, c.secure(t))
		}
		c.holding = true
		d.raw(f.octets)
		last := i == len(e.flights)-1
		if conn, ok := d.conn.(*tls.Conn); ok && last {
			if err := conn.CloseWrite(); err != nil {
				t.Fatal(err)
			}
		}
		if err := c.release(); err != nil {
			t.Fatalf("cut behind %d: %v", cut, err)
		}
		if last {
			if err := raw.(*netsim.Conn).CloseWrite(); err != nil {
				t.Fatal(err)
			}
		}
		for want := range strings.SplitSeq(f.replies, " | ") {
			d.want(strings.TrimSpace(want))
			if strings.HasPrefix(want, "250 2.0.0") {
				final = time.Now()
			}
		}
	}
	d.wantClosed()
	return final, c.sent
}

// open readies an inbound door for a sequence, far from its clients.
func (e earlyTalk) open(t *testing.T, cert testCert, backend *refpeer.Server, change ...func(*InboundConfig)) *world {
	t.Helper()
	w := newWorld(t)
	w.net.SetLink(clientHost, proxyHost, netsim.Link{Delay: earlyDelay})
	w.serve(backendAddr, backend)
	w.inbound(append(change, func(in *InboundConfig) {
		in.TLSCert, in.TLSKey = cert.certFile, cert.keyFile
		if e.implicit() {
			in.Listen, in.ListenTLS = nil, in.Listen
		}
	})...)
	return w
}

const earlyDelay = 50 * time.Millisecond

// The whole of a message with QUIT and FIN in the first flight, cut in two
// wherever it can be, both parts at once or one a while behind the other: it is
// delivered once, as it is, and every reply is heard. Who has sent half a line
// hears the greeting no later than anybody else.
func TestEarlyTalkCutAnywhere(t *testing.T) {
	for _, e := range earlyTalks() {
		t.Run(e.name, func(t *testing.T) {
			cert := newTestCert(t, "proxy.example")
			synctest.Test(t, func(t *testing.T) {
				b := &refpeer.Server{Keywords: refpeer.Modern()}
				w := e.open(t, cert, b)
				first := w.firstWords()
				w.start()
				_, octets := e.talk(t, w, 0, 0)
				if octets < 80 {
					t.Fatalf("only %d octets to cut", octets)
				}
				want := 1
				for _, pause := range []time.Duration{0, time.Second} {
					for cut := 1; cut < octets; cut++ {
						begun := time.Now()
						first.forget()
						e.talk(t, w, cut, pause)
						if at := first.at().Sub(begun); at != 3*earlyDelay && !e.implicit() {
							t.Errorf("cut behind %d: greeted after %v", cut, at)
						}
						want++
					}
				}
				got := b.Messages()
				for i, m := range got {
					if string(m.Body) != earlyText || len(m.Rcpts) != 1 {
						t.Fatalf("message %d came as %q, for %q", i, m.Body, m.Rcpts)
					}
				}
				if len(got) != want {
					t.Errorf("%d messages came, %d were sent", len(got), want)
				}
				if v := b.Violations(); len(v) != 0 {
					t.Errorf("the backend saw %v", v)
				}
			})
		})
	}
}
