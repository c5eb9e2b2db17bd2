package proxy

import (
	"bufio"
	"crypto/tls"
	"fmt"
	"net"
	"net/netip"
	"strings"
	"sync"
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

// Who is told PIPECONNECT, in clear and inside TLS. Those who are not are served
// early all the same: what they once learned may be old.
func TestEarlyOffer(t *testing.T) {
	client := netip.MustParsePrefix(clientHost + "/32")
	other := netip.MustParsePrefix("203.0.113.0/24")
	tests := []struct {
		name   string
		hosts  Prefixes
		header string // PROXY
		want   bool
	}{
		{"everybody", DefaultInbound().PipeconnectAdvertiseHosts, "", true},
		{"nobody", Prefixes{}, "", false},
		{"this one", Prefixes{client}, "", true},
		{"others", Prefixes{other}, "", false},
		{"who comes through a proxy", Prefixes{other}, "PROXY TCP4 203.0.113.9 192.0.2.1 4321 25\r\n", true},
		{"the proxy alone", Prefixes{client}, "PROXY TCP4 203.0.113.9 192.0.2.1 4321 25\r\n", false},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			cert := newTestCert(t, "proxy.example")
			synctest.Test(t, func(t *testing.T) {
				w := newWorld(t)
				b := w.serve(backendAddr, &refpeer.Server{Keywords: refpeer.Modern()})
				w.inbound(func(in *InboundConfig) {
					in.PipeconnectAdvertiseHosts = tt.hosts
					in.TLSCert, in.TLSKey = cert.certFile, cert.keyFile
					if tt.header != "" {
						in.ProxyProtocolFrom = Prefixes{client}
					}
				})
				w.start()
				c := w.connect(inboundAt)
				c.raw(tt.header + earlyMail + earlyChunk(earlyText)) // one segment
				for _, want := range []string{"220 ", "250", "250 ", "250 ", "250 2.0.0"} {
					c.want(want)
				}
				clear := c.ask("EHLO client.example", "250")
				c.startTLS()
				for _, ehlo := range []string{clear, c.ask("EHLO client.example", "250")} {
					if got := strings.Contains(ehlo, "\n250-PIPELINING\n250-PIPECONNECT\n"); got != tt.want {
						t.Errorf("told: %t, want %t: %q", got, tt.want, ehlo)
					}
				}
				if n := len(b.Messages()); n != 1 {
					t.Errorf("%d messages came", n)
				}
			})
		})
	}
	t.Run("the MTA at an outbound door", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			w := newWorld(t)
			mx := w.serve(mxAddr, &refpeer.Server{Keywords: refpeer.Modern()})
			w.outbound()
			w.start()
			c := w.connect(outboundAt)
			c.raw(strings.ReplaceAll(earlyMail, "example.net", "example.org") + earlyChunk(earlyText))
			c.want("220 ")
			if ehlo := c.want("250"); strings.Contains(ehlo, "PIPECONNECT") {
				t.Errorf("told: %q", ehlo)
			}
			for _, want := range []string{"250 ", "250 ", "250 2.0.0"} {
				c.want(want)
			}
			if n := len(mx.Messages()); n != 1 {
				t.Errorf("%d messages came", n)
			}
		})
	})
}

// A client that talks early goes by what the backend could do when they last
// met. If that has changed it must not hear a final word for our sake.
func TestEarlyTalkOfWhatWasOffered(t *testing.T) {
	for _, tt := range []struct {
		name, mail, rcpt string
		replies          string
		lockstep         string // what one hears that was told better
	}{
		{"a parameter that can be left out", " RET=HDRS", " NOTIFY=NEVER", "250 | 250 ", "555 "},
		{"one that cannot", " BODY=8BITMIME SMTPUTF8", "", "451 4.3.2", "555 "},
	} {
		t.Run(tt.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				w := newWorld(t)
				b := w.serve(backendAddr, &refpeer.Server{Keywords: refpeer.Keywords{Pipelining: true, Chunking: true}})
				w.inbound()
				w.start()
				mail := "MAIL FROM:<a@client.example>" + tt.mail
				c := w.client(inboundAt)
				c.ask("EHLO client.example", "250")
				c.ask(mail, tt.lockstep)

				c = w.connect(inboundAt)
				c.raw(earlyHello + mail + "\r\nRCPT TO:<b@example.net>" + tt.rcpt + "\r\n" + earlyChunk(earlyText) + "QUIT\r\n")
				c.want("220 ")
				c.want("250")
				for want := range strings.SplitSeq(tt.replies, " | ") {
					c.want(strings.TrimSpace(want))
				}
				if strings.HasPrefix(tt.replies, "250") {
					c.want("250 2.0.0")
					c.want("221 ")
				}
				synctest.Wait()
				for _, m := range b.Messages() {
					if strings.Contains(m.From+strings.Join(m.Rcpts, ""), "R=") || strings.Contains(m.From, "RET") {
						t.Errorf("the backend heard what it does not know: %+v", m)
					}
				}
			})
		})
	}
}

// Where a door must refuse, the first word says so and is not final, TLS or not.
func TestEarlyTalkTurnedAway(t *testing.T) {
	away := map[string]struct {
		change func(*world, *InboundConfig)
		then   func(*world)
		want   string
	}{
		"not allowed": {func(_ *world, in *InboundConfig) {
			in.Allow = Prefixes{netip.MustParsePrefix("10.0.0.0/8")}
		}, nil, "421 4.7.0 proxy.example does not serve " + clientHost},
		"shut": {func(_ *world, in *InboundConfig) { in.Backend.Port, in.BackendTrustsUs = 26, false }, nil, "421 4.3.2 "},
		"stopping": {nil, func(w *world) {
			w.proxy.mu.Lock() // as it is from the moment of the order until the doors are closed
			defer w.proxy.mu.Unlock()
			w.proxy.stopping = true
		}, "421 4.3.2 "},
	}
	for name, tt := range away {
		for _, e := range earlyTalks()[1:] {
			if name == "stopping" && e.implicit() {
				continue // they are let go before TLS
			}
			t.Run(name+"/"+e.name, func(t *testing.T) {
				cert := newTestCert(t, "proxy.example")
				synctest.Test(t, func(t *testing.T) {
					w := newWorld(t)
					resets := 0
					w.net.Trace = func(s netsim.Segment) {
						if s.RST && s.From.String() == inboundAt {
							resets++
						}
					}
					w.serve(backendAddr, &refpeer.Server{Keywords: refpeer.Modern()})
					w.inbound(func(in *InboundConfig) {
						in.TLSCert, in.TLSKey = cert.certFile, cert.keyFile
						if e.implicit() {
							in.Listen, in.ListenTLS = nil, in.Listen
						}
						if tt.change != nil {
							tt.change(w, in)
						}
					})
					w.start()
					if tt.then != nil {
						tt.then(w)
					}
					begun := time.Now()
					c := w.connect(inboundAt)
					if e.implicit() {
						conn := tls.Client(c.conn, &tls.Config{InsecureSkipVerify: true})
						c = newDialog(t, conn)
					}
					c.raw(e.flights[0].octets)
					c.want(tt.want)
					c.wantClosed()
					if took := time.Since(begun); took != 0 {
						t.Errorf("the end came after %v", took)
					}
					_ = c.conn.Close()
					synctest.Wait()
					if resets != 0 {
						t.Error("a reset ate the reply")
					}
				})
			})
		}
	}
	t.Run("at an outbound door", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			w := newWorld(t)
			w.outbound(func(o *OutboundConfig) { o.Allow = loopbackNetworks() })
			w.start()
			c := w.connect(outboundAt)
			c.raw(earlyHello)
			c.want("554 5.7.1 proxy.example does not serve " + clientHost)
			c.wantClosed()
		})
	})
}

// The service stops while a client negotiates TLS: its first word is 421 too.
func TestEarlyTalkDraining(t *testing.T) {
	cert := newTestCert(t, "proxy.example")
	synctest.Test(t, func(t *testing.T) {
		e := earlyTalks()[3]
		w := e.open(t, cert, &refpeer.Server{Keywords: refpeer.Modern()})
		w.start()
		raw := w.connect(inboundAt).conn
		c := &earlyConn{Conn: raw}
		conn := c.secure(t)
		d := newDialog(t, conn)
		d.raw(e.flights[0].octets)
		done := w.lifecycleStop(time.Minute)
		if err := c.release(); err != nil {
			t.Fatal(err)
		}
		d.want("421 4.3.2 ")
		d.wantClosed()
		_ = conn.Close()
		if err := <-done; err != nil {
			t.Error(err)
		}
	})
}
