package refpeer

import (
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net"
	"slices"
	"strings"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"go.uber.org/goleak"

	"slipstream/bench/netsim"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

const rtt = 100 * time.Millisecond

// world is a server and a network to it, in virtual time.
type world struct {
	t   *testing.T
	srv *Server
	net *netsim.Network
}

// simulate runs a test against a server.
func simulate(t *testing.T, srv *Server, test func(*testing.T, *world)) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) {
		n := netsim.New()
		n.SetLink("198.51.100.7", "192.0.2.1", netsim.Link{Delay: rtt / 2})
		ln, err := n.Listen("192.0.2.1:25")
		if err != nil {
			t.Fatal(err)
		}
		srv.Start(ln)
		defer srv.Close()
		test(t, &world{t, srv, n})
	})
}

func (w *world) dial() net.Conn {
	w.t.Helper()
	conn, err := w.net.Dial(w.t.Context(), "198.51.100.7", "192.0.2.1:25")
	if err != nil {
		w.t.Fatal(err)
	}
	w.t.Cleanup(func() { conn.Close() })
	return conn
}

func (w *world) script() *Script { w.t.Helper(); return NewScript(w.dial()) }

// noViolations fails a test if a client did wrong.
func (w *world) noViolations() {
	w.t.Helper()
	for _, v := range w.srv.Violations() {
		w.t.Error(v)
	}
}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

var body = []byte("Subject: hi\r\n\r\n.dot\r\n..dots\r\nend\r\n")

func mail(body []byte, to ...string) Mail {
	return Mail{From: "a@client.example", To: to, Body: body}
}

func tlsConfigs(t *testing.T) (server, client *tls.Config) {
	t.Helper()
	cert, pool, err := Certificate("mx.example")
	must(t, err)
	return &tls.Config{Certificates: []tls.Certificate{cert}}, &tls.Config{RootCAs: pool, ServerName: "mx.example"}
}

// What a message costs, in round trips from the SYN to the final reply.
func TestTrips(t *testing.T) {
	all := Modern()
	all.PipeConnect = true
	for _, test := range []struct {
		style    Style
		security string
		trips    int
	}{
		{OldLockStep, "", 7}, {LockStep, "", 7}, {Pipelining, "", 5}, {Chunking, "", 4}, {Early, "", 2},
		{LockStep, "starttls", 10}, {Pipelining, "starttls", 8}, {Chunking, "starttls", 7}, {Early, "starttls", 4},
		{Chunking, "implicit", 5}, {Early, "implicit", 3},
	} {
		t.Run(fmt.Sprint(test.style, " ", test.security), func(t *testing.T) {
			server, client := tlsConfigs(t)
			srv := &Server{Keywords: all, StrictLockstep: true}
			if test.security != "" {
				srv.TLS, srv.Implicit = server, test.security == "implicit"
			}
			simulate(t, srv, func(t *testing.T, w *world) {
				start := time.Now()
				c := &Client{Conn: w.dial(), Style: test.style}
				if test.security != "" {
					c.TLS, c.Implicit = client, srv.Implicit
				}
				res, err := c.Send(t.Context(), mail(body, "u@mx.example"))
				must(t, err)
				if got, want := res.Done.Sub(start), time.Duration(test.trips)*rtt; got != want || !res.OK() {
					t.Errorf("took %v, want %v; %v", got, want, res.Log)
				}
				must(t, c.Quit(t.Context()))
				w.noViolations()
				messages := srv.Messages()
				if len(messages) != 1 || string(messages[0].Body) != string(body) {
					t.Fatalf("delivered %+v", messages)
				}
				m := messages[0]
				via := "BDAT"
				if test.style < Chunking {
					via = "DATA"
				}
				if m.Via != via || m.Sender() != "a@client.example" || !slices.Equal(m.Recipients(), []string{"u@mx.example"}) ||
					(m.TLS == tls.VersionTLS13) != (test.security != "") {
					t.Errorf("%+v", m)
				}
			})
		})
	}
}

// One connection, several messages, each style.
func TestReuse(t *testing.T) {
	for style := OldLockStep; style <= Early; style++ {
		for _, lmtp := range []bool{false, true} {
			t.Run(fmt.Sprint(style, lmtp), func(t *testing.T) {
				if lmtp && style == OldLockStep {
					style = LockStep
				}
				keywords := Modern()
				keywords.PipeConnect = true
				srv := &Server{LMTP: lmtp, Keywords: keywords, StrictLockstep: true,
					RcptReplies:  map[string]string{"no@x": "550 5.1.1 unknown"},
					FinalReplies: map[string]string{"full@x": "452 4.2.2 full"}}
				simulate(t, srv, func(t *testing.T, w *world) {
					c := &Client{Conn: w.dial(), Style: style, LMTP: lmtp, ChunkSize: 10}
					for _, to := range [][]string{{"a@x"}, {"no@x"}, {"a@x", "no@x", "b@x"}, {"full@x"}, {"a@x", "full@x"}, {"c@x"}} {
						res, err := c.Send(t.Context(), mail(body, to...))
						must(t, err)
						var codes []int
						for _, f := range res.Final {
							codes = append(codes, f.Code)
						}
						if want := finals(to, lmtp, style); !slices.Equal(codes, want) {
							t.Errorf("to %v: final %v, want %v: %v", to, codes, want, res.Log)
						}
					}
					must(t, c.Quit(t.Context()))
					want, refused := 3, 2
					if lmtp {
						want, refused = 4, 1
					}
					if got := len(srv.Messages()); got != want {
						t.Errorf("%d delivered, want %d", got, want)
					}
					if got := len(srv.Refused()); got != refused {
						t.Errorf("%d refused, want %d", got, refused)
					}
					w.noViolations()
				})
			})
		}
	}
}

func finals(to []string, lmtp bool, style Style) []int {
	var codes []int
	for _, r := range to {
		switch r {
		case "full@x":
			codes = append(codes, 452)
		case "no@x":
		default:
			codes = append(codes, 250)
		}
	}
	if len(codes) == 0 && style >= Chunking {
		return []int{503}
	}
	if !lmtp && len(codes) > 1 {
		return []int{slices.Max(codes)}
	}
	return codes
}

func TestOld(t *testing.T) {
	simulate(t, &Server{Old: true, StrictLockstep: true}, func(t *testing.T, w *world) {
		s := w.script()
		for _, step := range [][2]string{
			{"", "^220 mx.example ESMTP$"}, {"EHLO c", "^500 "}, {"HELO c", "^250 mx.example$"},
			{"mail from:<a@b>", "^250 ok$"}, {"RCPT TO:<c@d>", "^250 ok$"}, {"DATA", "^354 "}, {"x\r\n.", "^250 taken"},
			{"MAIL FROM:<> SIZE=1", "^555"}, {"BDAT 1", "^502"}, {"QUIT", "^221"},
		} {
			if step[0] != "" {
				must(t, s.Send(step[0]+"\r\n"))
			}
			if step[0] == "BDAT 1" {
				must(t, s.Send("x"))
			}
			_, err := s.Expect(step[1])
			must(t, err)
		}
		must(t, s.ExpectEOF())
		if v := w.srv.Violations(); len(v) != 2 {
			t.Errorf("%v", v)
		}
	})
}

func TestLockstepEnforced(t *testing.T) {
	pipelining := Keywords{Pipelining: true, Chunking: true}
	for _, test := range []struct {
		name     string
		keywords Keywords
		sent     []string
		fine     bool
	}{
		{"two commands", Keywords{}, []string{"HELO c\r\n", "NOOP\r\nNOOP\r\n"}, false},
		{"alone", Keywords{}, []string{"HELO c\r\n", "NOOP\r\n", "NOOP\r\n"}, true},
		{"group", pipelining, []string{"EHLO c\r\n", "MAIL FROM:<a@b>\r\nRCPT TO:<a@b>\r\nDATA\r\n"}, true},
		{"behind HELO", pipelining, []string{"HELO c\r\n", "MAIL FROM:<a@b>\r\nRCPT TO:<a@b>\r\n"}, false},
		{"behind EHLO", pipelining, []string{"EHLO c\r\nMAIL FROM:<a@b>\r\n"}, false},
		{"behind DATA", pipelining, []string{"EHLO c\r\n", "MAIL FROM:<a@b>\r\nRCPT TO:<a@b>\r\nDATA\r\nx\r\n.\r\n"}, false},
		{"behind dot", pipelining, []string{"EHLO c\r\n", "MAIL FROM:<a@b>\r\nRCPT TO:<a@b>\r\nDATA\r\n", ".\r\nRSET\r\n"}, true},
		{"behind dot, lock-step", Keywords{}, []string{"EHLO c\r\n", "MAIL FROM:<a@b>\r\n", "RCPT TO:<a@b>\r\n", "DATA\r\n", ".\r\nQUIT\r\n"}, false},
		{"behind NOOP", pipelining, []string{"EHLO c\r\n", "NOOP\r\nRSET\r\n"}, false},
	} {
		t.Run(test.name, func(t *testing.T) {
			simulate(t, &Server{Keywords: test.keywords, StrictLockstep: true}, func(t *testing.T, w *world) {
				s := w.script()
				time.Sleep(rtt)
				for _, octets := range test.sent {
					must(t, s.Send(octets))
					time.Sleep(2 * rtt)
				}
				if got := len(w.srv.Violations()) == 0; got != test.fine {
					t.Errorf("violations: %v", w.srv.Violations())
				}
			})
		})
	}
}

// A banner that comes late shows who does not wait for it.
func TestEarlyTalker(t *testing.T) {
	late := func(ev Event) Action {
		if ev.Kind == Connect {
			return Action{Delay: 5 * rtt}
		}
		return Action{}
	}
	simulate(t, &Server{StrictLockstep: true, Behave: late}, func(t *testing.T, w *world) {
		s := w.script()
		must(t, s.Send("EHLO c\r\n"))
		_, err := s.Expect("^554 ")
		must(t, err)
		if v := w.srv.Violations(); len(v) != 1 {
			t.Errorf("%v", v)
		}
		s = w.script()
		_, err = s.Expect("^220 ")
		must(t, err)
		_, err = s.Do("EHLO c", "^250 ")
		must(t, err)
	})
}

func TestBehave(t *testing.T) {
	at := func(kind Kind, verb string, a Action) func(Event) Action {
		return func(ev Event) Action {
			if ev.Kind == kind && (verb == "" || verb == ev.Verb) && ev.N == 0 {
				return a
			}
			return Action{}
		}
	}
	for _, test := range []struct {
		name      string
		behave    func(Event) Action
		log       string // codes
		err       error
		delivered int
	}{
		{"normal", nil, "220 250 250 250 354 250", nil, 1},
		{"refused banner", at(Connect, "", Say("554 no")), "554", errAny, 0},
		{"delay", at(Command, "RCPT", Action{Delay: 10 * time.Second}), "220 250 250 250 354 250", nil, 1},
		{"other reply", at(Command, "RCPT", Say("250-one\r\n250 two")), "220 250 250 250 354 250", nil, 1},
		{"refused MAIL", at(Command, "MAIL", Say("451 later")), "220 250 451 503 503", nil, 0},
		{"reset at RCPT", at(Command, "RCPT", Action{Reset: true}), "220 250 250", syscall.ECONNRESET, 0},
		{"close at RCPT", at(Command, "RCPT", Action{Reply: "421 bye\r\n", Close: true}), "220 250 250 421", errAny, 0},
		{"close before text", at(DataStart, "", Action{Close: true}), "220 250 250 250 354", io.EOF, 0},
		{"talks into text", at(DataStart, "", Say("421 tired")), "220 250 250 250 354 421", nil, 1},
		{"twice", at(EndOfData, "", Action{Twice: true}), "220 250 250 250 354 250", nil, 1},
		{"refused text", at(EndOfData, "", Say("554 no")), "220 250 250 250 354 554", nil, 0},
		{"taken and closed", at(EndOfData, "", Action{Close: true}), "220 250 250 250 354", io.EOF, 1},
		{"taken and reset", at(EndOfData, "", Action{Reset: true}), "220 250 250 250 354", syscall.ECONNRESET, 1},
		{"stall", at(EndOfData, "", Action{Stall: true}), "220 250 250 250 354", errTime, 1},
		{"silent", at(EndOfData, "", Action{Silent: true}), "220 250 250 250 354", errTime, 1},
		{"cut line", at(EndOfData, "", Action{Reply: "250 o", Close: true}), "220 250 250 250 354", io.ErrUnexpectedEOF, 1},
	} {
		t.Run(test.name, func(t *testing.T) {
			simulate(t, &Server{Keywords: Keywords{Pipelining: true}, Behave: test.behave}, func(t *testing.T, w *world) {
				c := &Client{Conn: w.dial(), Style: Pipelining, Timeout: 20 * time.Second}
				res, err := c.Send(t.Context(), mail(body, "u@mx.example"))
				var codes []string
				for _, e := range res.Log {
					codes = append(codes, fmt.Sprint(e.Reply.Code))
				}
				if got := strings.Join(codes, " "); got != test.log {
					t.Errorf("replies %s, want %s", got, test.log)
				}
				if !matches(err, test.err) {
					t.Errorf("error %v, want %v", err, test.err)
				}
				time.Sleep(rtt)
				if got := len(w.srv.Messages()); got != test.delivered {
					t.Errorf("%d delivered, want %d", got, test.delivered)
				}
				if test.name == "twice" && c.Nothing(time.Second) == nil {
					t.Error("one reply only")
				}
			})
		})
	}
}

var (
	errAny  = errors.New("any")
	errTime = errors.New("timeout")
)

func matches(err, want error) bool {
	var timeout net.Error
	switch want {
	case errAny:
		return err != nil
	case errTime:
		return errors.As(err, &timeout) && timeout.Timeout()
	}
	return errors.Is(err, want)
}

func TestCut(t *testing.T) {
	hello, mailLine := "EHLO c\r\n", "MAIL FROM:<a@b>\r\n"
	both := int64(len(hello) + len(mailLine))
	for _, test := range []struct {
		cut  Cut
		read string
		err  error
	}{
		{Cut{After: both}, "220 250", io.EOF},
		{Cut{After: both, Answered: true}, "220 250 250", io.EOF},
		{Cut{After: both, Reset: true}, "220 250", syscall.ECONNRESET},
		{Cut{After: both - 1, Answered: true, Reset: true}, "220 250", syscall.ECONNRESET},
		{Cut{}, "220 250 250", errOpen},
	} {
		t.Run(fmt.Sprintf("%+v", test.cut), func(t *testing.T) {
			srv := &Server{Keywords: Modern(), Cut: func(int) Cut { return test.cut }}
			simulate(t, srv, func(t *testing.T, w *world) {
				s := w.script()
				must(t, s.Send(hello))
				time.Sleep(rtt)
				must(t, s.Send(mailLine))
				var codes []string
				for {
					r, err := s.wire.reply()
					if err != nil {
						if test.err != errOpen && !errors.Is(err, test.err) {
							t.Errorf("error %v, want %v", err, test.err)
						}
						break
					}
					codes = append(codes, fmt.Sprint(r.Code))
				}
				if got := strings.Join(codes, " "); got != test.read {
					t.Errorf("replies %s, want %s", got, test.read)
				}
			})
		})
	}
}

var errOpen = errors.New("deadline")

// The same octets mean the same, however they are cut.
func TestSplits(t *testing.T) {
	dialog := "EHLO c\r\nMAIL FROM:<a@b>\r\nRCPT TO:<c@d>\r\nDATA\r\n..a\r\n.\n\r.\r\n.\r\n" +
		"MAIL FROM:<e@f>\r\nRCPT TO:<c@d>\r\nBDAT 3\r\n.\r\nBDAT 2 LAST\r\n\r\nQUIT\r\n"
	for first, rest := range Splits(dialog) {
		simulate(t, &Server{Keywords: Modern()}, func(t *testing.T, w *world) {
			s := w.script()
			must(t, s.SendParts(rtt, first, rest))
			_, err := s.Expect("^220", "^250", "^250", "^250", "^354", "^250", "^250", "^250", "^250", "^250", "^221")
			must(t, err)
			must(t, s.ExpectEOF())
			var bodies []string
			for _, m := range w.srv.Messages() {
				bodies = append(bodies, string(m.Body))
			}
			if want := []string{".a\r\n\n\r.\r\n", ".\r\n\r\n"}; !slices.Equal(bodies, want) {
				t.Fatalf("split at %d: %q", len(first), bodies)
			}
			conns := w.srv.Connections()
			if string(conns[0].Received.Data) != dialog || conns[0].WireReceived.Total != int64(len(dialog)) {
				t.Fatalf("recorded %q", conns[0].Received.Data)
			}
		})
	}
}

func TestSendSlowly(t *testing.T) {
	simulate(t, &Server{}, func(t *testing.T, w *world) {
		s := w.script()
		must(t, s.SendSlowly(time.Second, 1, "HELO c\r\n"))
		_, err := s.Expect("^220", "^250")
		must(t, err)
		must(t, s.ExpectNothing(time.Second))
		if err := s.ExpectEOF(); err == nil {
			t.Error("no error while open")
		}
	})
}

// A client that asked for PRDR with MAIL reads a reply for each recipient that
// was accepted, and one more, where the server begins with 353.
func TestPRDR(t *testing.T) {
	each := Say("353 one by one\r\n250 2.0.0 yes\r\n550-5.7.1 no\r\n550 5.7.1 not you\r\n250 2.0.0 taken")
	for _, style := range []Style{LockStep, Pipelining, Chunking} {
		srv := &Server{Keywords: Modern(), RcptReplies: map[string]string{"b@mx.example": "550 5.1.1 nobody"}}
		srv.Keywords.Extra = []string{"PRDR"}
		srv.Behave = func(ev Event) Action {
			if ev.Kind == EndOfData && ev.N == 0 {
				return each
			}
			return Action{}
		}
		simulate(t, srv, func(t *testing.T, w *world) {
			c := &Client{Conn: w.dial(), Style: style}
			m := mail(body, "a@mx.example", "b@mx.example", "c@mx.example")
			m.Params = "PRDR"
			res, err := c.Send(t.Context(), m)
			must(t, err)
			if len(res.Final) != 2 || !res.Final[0].OK() || res.Final[1].Code != 550 || res.OK() || res.All.String() != "250 2.0.0 taken" ||
				res.Done != res.All.At {
				t.Errorf("%v: %v, %v", style, res.Final, res.All)
			}
			if res, err = c.Send(t.Context(), m); err != nil || len(res.Final) != 1 || !res.OK() || res.All.Code != 0 {
				t.Errorf("%v: %v, %v, %v", style, err, res.Final, res.All)
			}
			must(t, c.Quit(t.Context()))
			w.noViolations()
		})
	}
}
