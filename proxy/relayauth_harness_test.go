package proxy

import (
	"bufio"
	"fmt"
	"io"
	"net"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"

	"go.uber.org/zap"
	"go.uber.org/zap/zapcore"
	"go.uber.org/zap/zaptest/observer"
)

// Where the tests' backend with users lives: on the machine of the proxy.
const loginBackendAddr = "127.0.0.1:10025"

// A loginBackend is a mail server with one user, "a", whose password is "b". It
// relays to foreign domains for that user alone. script, where it is set, may
// answer any line in its place.
type loginBackend struct {
	offers []string
	script func(c *loginConn, line string) (reply string, ok bool)

	mu    sync.Mutex
	conns []*loginConn
}

// A loginConn is one connection to it.
type loginConn struct {
	b     *loginBackend
	conn  net.Conn
	r     *bufio.Reader
	n     int    // which one, from 0
	step  string // of a login: what the line is that comes next
	user  bool   // it has logged in
	heard []string
	asked []bool // which of them answer a challenge
	texts []string
	ended bool
}

func (w *world) loginBackend(b *loginBackend) *loginBackend {
	w.t.Helper()
	if b.offers == nil {
		b.offers = []string{"PIPELINING", "8BITMIME", "SIZE 1000000", "CHUNKING", "AUTH PLAIN LOGIN EXTERNAL CRAM-MD5"}
	}
	ln, err := w.net.Listen(loginBackendAddr)
	if err != nil {
		w.t.Fatal(err)
	}
	var all sync.WaitGroup
	all.Go(func() {
		for {
			conn, err := ln.Accept()
			if err != nil {
				return
			}
			b.mu.Lock()
			c := &loginConn{b: b, conn: conn, r: bufio.NewReader(conn), n: len(b.conns)}
			b.conns = append(b.conns, c)
			b.mu.Unlock()
			all.Go(c.serve)
		}
	})
	w.t.Cleanup(func() {
		_ = ln.Close()
		for _, c := range b.all() {
			_ = c.conn.Close()
		}
		all.Wait()
	})
	return b
}

func (b *loginBackend) all() []*loginConn {
	b.mu.Lock()
	defer b.mu.Unlock()
	return slices.Clone(b.conns)
}

// said returns what a connection has heard, without EHLO and QUIT.
func (b *loginBackend) said(n int) []string {
	b.mu.Lock()
	defer b.mu.Unlock()
	if n >= len(b.conns) {
		return nil
	}
	return slices.DeleteFunc(slices.Clone(b.conns[n].heard), func(line string) bool {
		return strings.HasPrefix(line, "EHLO ") || line == "QUIT"
	})
}

// A loginLine is a line that a connection has heard, and whether it was asked for
// one by a challenge.
type loginLine struct {
	text  string
	asked bool
}

func (c *loginConn) lines() []loginLine {
	c.b.mu.Lock()
	defer c.b.mu.Unlock()
	var all []loginLine
	for i, line := range c.heard {
		all = append(all, loginLine{line, c.asked[i]})
	}
	return all
}

func (b *loginBackend) texts(n int) []string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return slices.Clone(b.conns[n].texts)
}

func (b *loginBackend) ended(n int) bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.conns[n].ended
}

func (c *loginConn) serve() {
	defer func() {
		_ = c.conn.Close()
		c.b.mu.Lock()
		defer c.b.mu.Unlock()
		c.ended = true
	}()
	c.say("220 backend.example ESMTP")
	for {
		line, err := c.r.ReadString('\n')
		if err != nil {
			return
		}
		line = strings.TrimSuffix(line, "\r\n")
		c.b.mu.Lock()
		c.heard, c.asked = append(c.heard, line), append(c.asked, c.step != "")
		c.b.mu.Unlock()
		reply, ok := "", false
		if c.b.script != nil {
			reply, ok = c.b.script(c, line)
		}
		if !ok {
			reply = c.answer(line)
		}
		if reply == "" {
			return
		}
		c.say(reply)
		if line == "QUIT" {
			return
		}
	}
}

// say sends lines, which "\n" parts.
func (c *loginConn) say(reply string) {
	_, _ = io.WriteString(c.conn, strings.ReplaceAll(reply, "\n", "\r\n")+"\r\n")
}

// answer is what an ordinary server says.
func (c *loginConn) answer(line string) string {
	if c.step != "" {
		return c.goOn(line)
	}
	verb, arg, _ := strings.Cut(line, " ")
	switch verb {
	case "EHLO":
		return "250-backend.example\n250-" + strings.Join(c.b.offers[:len(c.b.offers)-1], "\n250-") + "\n250 " +
			c.b.offers[len(c.b.offers)-1]
	case "AUTH":
		if mech, initial, ok := strings.Cut(arg, " "); ok {
			c.step = mech
			return c.goOn(initial)
		}
		c.step = arg
		switch arg {
		case "LOGIN":
			return "334 VXNlcm5hbWU6"
		case "CRAM-MD5":
			return "334 PDFAYmFja2VuZC5leGFtcGxlPg=="
		}
		return "334 "
	case "RCPT":
		if !c.user && !strings.Contains(arg, "@example.org>") {
			return "550 5.7.1 relaying denied"
		}
		return "250 2.1.5 ok"
	case "DATA":
		c.say("354 go on")
		var text strings.Builder
		for {
			line, err := c.r.ReadString('\n')
			if err != nil {
				return ""
			}
			if line == ".\r\n" {
				break
			}
			text.WriteString(line)
		}
		c.keep(text.String())
		return "250 2.0.0 queued as D1"
	case "BDAT":
		size, _ := strconv.Atoi(strings.Fields(arg)[0])
		text := make([]byte, size)
		if _, err := io.ReadFull(c.r, text); err != nil {
			return ""
		}
		c.keep(string(text))
		return "250 2.0.0 queued as B1"
	case "QUIT":
		return "221 2.0.0 bye"
	}
	return "250 2.0.0 ok"
}

func (c *loginConn) keep(text string) {
	c.b.mu.Lock()
	defer c.b.mu.Unlock()
	c.texts = append(c.texts, text)
}

// goOn takes a line of a login.
func (c *loginConn) goOn(line string) string {
	step := c.step
	c.step = ""
	right := false
	switch {
	case line == "*":
		return "501 5.7.0 cancelled"
	case step == "LOGIN" && line == "YQ==":
		c.step = "password"
		return "334 UGFzc3dvcmQ6"
	case step == "PLAIN":
		right = line == "AGEAYg=="
	case step == "password":
		right = line == "Yg=="
	case step == "CRAM-MD5":
		right = line == "YSBkaWdlc3Q="
	}
	if !right {
		return "535 5.7.8 wrong name or password"
	}
	c.user = true
	return "235 2.7.0 welcome"
}

// loginWorld is a world with such a backend behind an inbound door with a
// certificate, and without a log where it could be seen.
func loginWorld(t *testing.T, b *loginBackend, change ...func(*InboundConfig)) (*world, *loginBackend,
	*observer.ObservedLogs) {
	t.Helper()
	w := newWorld(t)
	w.loginBackend(b)
	cert := newTestCert(t, "proxy.example")
	w.inbound(append([]func(*InboundConfig){func(in *InboundConfig) {
		in.Backend = Endpoint{Host: "127.0.0.1", Port: 10025}
		in.TLSCert, in.TLSKey = cert.certFile, cert.keyFile
		in.RelayAuth = true
	}}, change...)...)
	return w, b, w.startObserved()
}

// startObserved is start with a log that tests read.
func (w *world) startObserved() *observer.ObservedLogs {
	w.t.Helper()
	p := w.build()
	core, logs := observer.New(zapcore.DebugLevel)
	p.log = zap.New(core)
	if err := p.Start(w.t.Context()); err != nil {
		w.t.Fatal(err)
	}
	w.t.Cleanup(w.stop)
	return logs
}

// secured is a client that is inside TLS and has said EHLO.
func (w *world) secured() *dialog {
	w.t.Helper()
	d := w.client(inboundAt)
	d.ask("EHLO client.example", "250")
	d.startTLS()
	d.ask("EHLO client.example", "250")
	return d
}

// keepsSecrets checks that no word of a login stands in the log.
func keepsSecrets(t *testing.T, logs *observer.ObservedLogs, secrets ...string) {
	t.Helper()
	for _, e := range logs.All() {
		line := e.Message + " " + fmt.Sprint(e.ContextMap())
		for _, s := range secrets {
			if strings.Contains(line, s) {
				t.Errorf("the log says %q: %s", s, line)
			}
		}
	}
}
