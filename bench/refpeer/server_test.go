package refpeer

import (
	"context"
	"crypto/tls"
	"errors"
	"net"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"
)

// A lenient server believes in messages that nobody sent; a strict one does not.
func TestLenient(t *testing.T) {
	smuggled := "MAIL FROM:<evil@b>\r\nRCPT TO:<c@d>\r\nDATA\r\nfake\r\n.\r\n"
	for _, e := range []Ending{LFDotLF, LFDotCRLF, CRLFDotLF, LFDotCR, CRLFDotCR, CRDotCR, CRDotLF, CRDotCRLF} {
		text := "first" + string(e) + smuggled
		for _, lenient := range []bool{true, false} {
			srv := &Server{Keywords: Modern()}
			want := []string{strings.ReplaceAll(text[:len(text)-3], "\r\n.", "\r\n")}
			if lenient {
				srv.Lenient = []Ending{e}
				eol, _, _ := strings.Cut(string(e), ".")
				want = []string{"first" + eol, "fake\r\n"}
			}
			simulate(t, srv, func(t *testing.T, w *world) {
				s := w.script()
				must(t, s.Send("EHLO c\r\nMAIL FROM:<a@b>\r\nRCPT TO:<c@d>\r\nDATA\r\n"+text+"QUIT\r\n"))
				time.Sleep(10 * rtt)
				var bodies []string
				for _, m := range srv.Messages() {
					bodies = append(bodies, string(m.Body))
				}
				if !slices.Equal(bodies, want) {
					t.Errorf("%q lenient %v: %q, want %q", e, lenient, bodies, want)
				}
			})
		}
	}
}

func TestLenientUnstuffs(t *testing.T) {
	simulate(t, &Server{Lenient: []Ending{LFDotLF}}, func(t *testing.T, w *world) {
		c := &Client{Conn: w.dial(), Style: LockStep}
		_, err := c.Send(t.Context(), mail(body, "a@b"))
		must(t, err)
		if m := w.srv.Messages(); len(m) != 1 || string(m[0].Body) != string(body) {
			t.Errorf("%+v", m)
		}
	})
}

func TestViolations(t *testing.T) {
	hello := "EHLO c\r\n"
	envelope := hello + "MAIL FROM:<a@b>\r\nRCPT TO:<c@d>\r\n"
	for _, test := range []struct {
		keywords Keywords
		sent     string
		want     string // part of the first violation; empty: none
	}{
		{Modern(), envelope + "BDAT 3\r\na\r\nBDAT 0 LAST\r\n", ""},
		{Modern(), hello + "NOOP\n", "bare LF"},
		{Modern(), hello + "NOOP\r\r\n", "CR or NUL"},
		{Keywords{}, hello + "NOOP \xff\r\n", "octets above 126"},
		{Keywords{}, hello + "MAIL FROM:<a@b> SIZE=1\r\n", "not offered: SIZE=1"},
		{Keywords{}, hello + "MAIL FROM:<a@b> BODY=8BITMIME\r\n", "not offered: BODY"},
		{Keywords{DSN: true}, hello + "MAIL FROM:<a@b> RET=HDRS ENVID=x\r\n", ""},
		{Modern(), "HELO c\r\nMAIL FROM:<a@b> SIZE=1\r\n", "not offered: SIZE=1"},
		{Modern(), hello + "MAIL FROM:<a@b> BODY=BINARYMIME\r\n", "not offered: BODY"},
		{Modern(), hello + "MAIL FROM: <a@b>\r\n", "malformed MAIL"},
		{Modern(), hello + "MAIL FROM:<\"a> b\"@b>\r\n", ""},
		{Modern(), hello + "MAIL FROM:<a@b>\r\nRCPT TO:<>\r\n", "malformed RCPT"},
		{Modern(), hello + "RCPT TO:<a@b>\r\n", "out of sequence"},
		{Modern(), hello + "MAIL FROM:<a@b> X=1\r\nRCPT TO:<a@b>\r\n", "not offered: X"},
		{Modern(), "MAIL FROM:<a@b>\r\n", "greet first"},
		{Modern(), hello + "MAIL FROM:<a@b>\r\nMAIL FROM:<a@b>\r\n", "nested"},
		{Modern(), hello + "STARTTLS\r\n", "not offered"},
		{Modern(), hello + "XCLIENT NAME=a\r\n", "not offered"},
		{Modern(), envelope + "BDAT x\r\n", "malformed BDAT"},
		{Keywords{}, envelope + "BDAT 1 LAST\r\nx", "not offered"},
		{Modern(), envelope + "DATA\r\na\rb\r\n.\r\n", "bare CR"},
		{Modern(), envelope + "DATA\r\na\nb\r\n.\r\n", "bare LF"},
		{Modern(), envelope + "BDAT 2 LAST\r\na\r", "bare CR"},
		{Modern(), envelope + "BDAT 3\r\na\r\nDATA\r\n", "DATA after BDAT"},
		{Modern(), envelope + "DATA\r\n\x00\r\n.\r\n", "NUL"},
		{Keywords{}, envelope + "DATA\r\n\xff\r\n.\r\n", "8 bit"},
		{Modern(), envelope + "DATA\r\n\xff\r\n.\r\n", ""},
		{Modern(), strings.Repeat("x", MaxLine) + "\r\n", "line too long"},
	} {
		simulate(t, &Server{Keywords: test.keywords}, func(t *testing.T, w *world) {
			s := w.script()
			must(t, s.Send(test.sent))
			time.Sleep(10 * rtt)
			v := w.srv.Violations()
			if test.want == "" && len(v) > 0 || test.want != "" && (len(v) == 0 || !strings.Contains(v[0].What, test.want)) {
				t.Errorf("%q: %v, want %q", test.sent, v, test.want)
			}
		})
	}
}

func TestStarttlsInjection(t *testing.T) {
	server, client := tlsConfigs(t)
	simulate(t, &Server{TLS: server, Keywords: Modern()}, func(t *testing.T, w *world) {
		s := w.script()
		_, err := s.Expect("^220")
		must(t, err)
		_, err = s.Do("EHLO c", "STARTTLS")
		must(t, err)
		_, err = s.Do("STARTTLS\r\nMAIL FROM:<evil@b>", "^220")
		must(t, err)
		must(t, s.StartTLS(t.Context(), client))
		must(t, s.ExpectNothing(time.Second))
		r, err := s.Do("EHLO c", "^250")
		must(t, err)
		if slices.Contains(r.Lines, "STARTTLS") {
			t.Error("STARTTLS under TLS")
		}
		if v := w.srv.Violations(); len(v) != 1 || v[0].What != "input behind STARTTLS" {
			t.Errorf("%v", v)
		}
		conn := w.srv.Connections()[0]
		if conn.TLS != tls.VersionTLS13 || conn.ServerName != "mx.example" || !strings.HasSuffix(string(conn.Received.Data), "EHLO c\r\n") {
			t.Errorf("%+v", conn)
		}
	})
}

func TestProxyHeader(t *testing.T) {
	v2 := proxySignature + "\x21\x11\x00\x0c" + "\xc6\x33\x64\x07" + "\xc0\x00\x02\x01" + "\x10\x01" + "\x00\x19"
	for _, test := range []struct {
		raw     string
		version int
		source  string
	}{
		{"PROXY TCP4 198.51.100.7 192.0.2.1 4097 25\r\n", 1, "198.51.100.7:4097"},
		{"PROXY TCP6 2001:db8::7 2001:db8::1 4097 25\r\n", 1, "[2001:db8::7]:4097"},
		{"PROXY UNKNOWN\r\n", 1, ""},
		{v2, 2, "198.51.100.7:4097"},
		{proxySignature + "\x20\x00\x00\x00", 2, ""},
		{"PROXY TCP4 198.51.100.7 192.0.2.1 4097\r\n", 0, ""},
		{"EHLO client.example\r\n", 0, ""},
	} {
		simulate(t, &Server{ProxyHeader: true, Keywords: Modern()}, func(t *testing.T, w *world) {
			c := &Client{Conn: w.dial(), Style: Chunking, ProxyHeader: test.raw}
			_, err := c.Send(t.Context(), mail(body, "a@b"))
			if test.version == 0 {
				if err == nil || len(w.srv.Violations()) != 1 {
					t.Errorf("%q: %v, %v", test.raw, err, w.srv.Violations())
				}
				return
			}
			must(t, err)
			var source netip.AddrPort
			if test.source != "" {
				source = netip.MustParseAddrPort(test.source)
			}
			m := w.srv.Messages()[0]
			if m.Proxy.Raw != test.raw || m.Proxy.Version != test.version || m.Proxy.Source != source {
				t.Errorf("%q: %+v", test.raw, m.Proxy)
			}
			w.noViolations()
		})
	}
}

func TestXclient(t *testing.T) {
	k := Modern()
	k.Xclient = "NAME ADDR"
	simulate(t, &Server{Keywords: k}, func(t *testing.T, w *world) {
		s := w.script()
		_, err := s.Expect("^220")
		must(t, err)
		for _, step := range [][2]string{
			{"EHLO c", "XCLIENT NAME ADDR"}, {"XCLIENT NAME=a.example ADDR=192.0.2.9", "^220"}, {"MAIL FROM:<a@b>", "^503"},
			{"EHLO d", "^250"}, {"XCLIENT PORT=1", "^501"}, {"MAIL FROM:<a@b>\r\nRCPT TO:<a@b>\r\nBDAT 0 LAST", "^250"},
		} {
			_, err = s.Do(step[0], step[1])
			must(t, err)
		}
		_, err = s.Expect("^250", "^250")
		must(t, err)
		m := w.srv.Messages()[0]
		if !slices.Equal(m.Xclient, []string{"NAME=a.example ADDR=192.0.2.9"}) || m.Hello != "EHLO d" {
			t.Errorf("%+v", m)
		}
	})
}

func TestSizeLimit(t *testing.T) {
	simulate(t, &Server{Keywords: Keywords{Size: 100}}, func(t *testing.T, w *world) {
		c := &Client{Conn: w.dial(), Style: LockStep}
		m := mail([]byte(strings.Repeat("0123456\r\n", 20)), "a@b")
		m.Params = "SIZE=101"
		res, err := c.Send(t.Context(), m)
		must(t, err)
		if res.Mail.Code != 552 {
			t.Errorf("%v", res.Log)
		}
		m.Params = ""
		res, err = c.Send(t.Context(), m)
		must(t, err)
		if res.OK() || res.Final[0].Code != 552 {
			t.Errorf("%v", res.Log)
		}
	})
}

func TestWaitMessages(t *testing.T) {
	simulate(t, &Server{}, func(t *testing.T, w *world) {
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		if _, err := w.srv.WaitMessages(ctx, 1); !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("error %v", err)
		}
		conn := w.dial()
		go func() {
			c := &Client{Conn: conn}
			c.Send(t.Context(), mail(body, "a@b"))
			c.Quit(t.Context())
		}()
		messages, err := w.srv.WaitMessages(t.Context(), 1)
		if err != nil || len(messages) != 1 {
			t.Errorf("%v, %v", messages, err)
		}
		synctest.Wait()
	})
}

// Behind a chunk that was refused, all others are too, until RSET.
func TestRefusedChunk(t *testing.T) {
	refuse := func(ev Event) Action {
		if ev.Kind == Command && ev.Verb == "BDAT" && ev.N == 0 {
			return Say("452 4.3.1 full")
		}
		return Action{}
	}
	simulate(t, &Server{Keywords: Modern(), Behave: refuse}, func(t *testing.T, w *world) {
		c := &Client{Conn: w.dial(), Style: Chunking, ChunkSize: 10}
		res, err := c.Send(t.Context(), mail(body, "a@b"))
		must(t, err)
		if res.BDAT[0].Code != 452 || res.Final[0].Code != 503 || len(w.srv.Messages()) != 0 {
			t.Errorf("%v", res.Log)
		}
		if res, err = c.Send(t.Context(), mail(body, "a@b")); err != nil || !res.OK() {
			t.Errorf("%v, %v", err, res.Log)
		}
		w.noViolations()
	})
}

// A client that goes away, and one that never says a word.
func TestEnds(t *testing.T) {
	simulate(t, &Server{Idle: time.Minute}, func(t *testing.T, w *world) {
		w.dial().Close()
		w.dial()
		time.Sleep(time.Minute + rtt)
		conns := w.srv.Connections()
		if conns[0].Err != nil || conns[1].Err == nil || conns[0].End.IsZero() || conns[1].End.IsZero() {
			t.Errorf("%+v", conns)
		}
	})
}

// Client breaks off with its context.
func TestContext(t *testing.T) {
	stall := func(ev Event) Action { return Action{Stall: ev.Verb == "MAIL"} }
	simulate(t, &Server{Behave: stall}, func(t *testing.T, w *world) {
		ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
		defer cancel()
		start := time.Now()
		c := &Client{Conn: w.dial()}
		if _, err := c.Send(ctx, mail(body, "a@b")); !errors.Is(err, context.DeadlineExceeded) || time.Since(start) != 10*time.Second {
			t.Errorf("error %v after %v", err, time.Since(start))
		}
	})
}

// The kernel's TCP.
func TestRealTCP(t *testing.T) {
	server, client := tlsConfigs(t)
	srv := &Server{Keywords: Modern(), TLS: server, Behave: func(ev Event) Action { return Action{Reset: ev.Verb == "VRFY"} }}
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	must(t, err)
	srv.Start(ln)
	defer srv.Close()
	for style := OldLockStep; style < Early; style++ {
		conn, err := net.Dial("tcp", ln.Addr().String())
		must(t, err)
		c := &Client{Conn: conn, Style: style}
		if style != OldLockStep {
			c.TLS = client
		}
		big := []byte(strings.Repeat(".0123456789\r\n", 100_000))
		res, err := c.Send(t.Context(), mail(big, "a@b"))
		must(t, err)
		if !res.OK() {
			t.Errorf("%v: %v", style, res.Log)
		}
		must(t, c.Quit(t.Context()))
		messages := srv.Messages()
		if string(messages[len(messages)-1].Body) != string(big) {
			t.Errorf("%v: %d octets delivered", style, len(messages[len(messages)-1].Body))
		}
	}
	conn, err := net.Dial("tcp", ln.Addr().String())
	must(t, err)
	defer conn.Close()
	s := NewScript(conn)
	_, err = s.Expect("^220")
	must(t, err)
	must(t, s.Send("VRFY a\r\n"))
	if err := s.ExpectEOF(); err == nil {
		t.Error("no reset")
	}
}
