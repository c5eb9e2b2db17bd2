package proxy

import (
	"bufio"
	"fmt"
	"net"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"slipstream/bench/netsim"
	"slipstream/bench/refpeer"
)

// Connections that die, fall silent or talk between two messages.

// A hopsListener lets a test lay hands on a server's connections.
type hopsListener struct {
	net.Listener
	mu    sync.Mutex
	conns []*netsim.Conn
}

// Accept implements [net.Listener].
func (l *hopsListener) Accept() (net.Conn, error) {
	conn, err := l.Listener.Accept()
	if err == nil {
		l.mu.Lock()
		defer l.mu.Unlock()
		l.conns = append(l.conns, conn.(*netsim.Conn))
	}
	return conn, err
}

// newest is the connection that was accepted last.
func (l *hopsListener) newest() *netsim.Conn {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.conns[len(l.conns)-1]
}

// A connection that is kept between two messages of a session may die. That is
// repaired unseen: it was our idea to keep it.
func TestHopsKeptConnectionDies(t *testing.T) {
	say421 := func(conn *netsim.Conn) { _, _ = conn.Write([]byte("421 4.4.2 idle for too long\r\n")) }
	for name, end := range map[string]func(*netsim.Conn){
		"FIN":            func(conn *netsim.Conn) { _ = conn.Close() },
		"half-close":     func(conn *netsim.Conn) { _ = conn.CloseWrite() },
		"RST":            func(conn *netsim.Conn) { conn.Reset() },
		"421 and FIN":    func(conn *netsim.Conn) { say421(conn); _ = conn.Close() },
		"421 and RST":    func(conn *netsim.Conn) { say421(conn); conn.Reset() },
		"421 and silent": say421,
		"words":          func(conn *netsim.Conn) { _, _ = conn.Write([]byte("250 2.0.0 by the way\r\n")) },
		"garbage":        func(conn *netsim.Conn) { _, _ = conn.Write([]byte("\x00\x00")) },
	} {
		for _, inbound := range []bool{true, false} {
			for _, kind := range failKinds() {
				t.Run(fmt.Sprintf("%s/inbound=%v/%s", name, inbound, kind.name), func(t *testing.T) {
					for _, style := range failStyles() {
						for _, refused := range []bool{false, true} {
							synctest.Test(t, func(t *testing.T) {
								hopsKept(t, failSetup{inbound: inbound, kind: kind}, style, refused, end)
							})
						}
					}
				})
			}
		}
	}
}

// hopsKept sends two messages in a session and ends the kept connection between
// them. refused: the first had no recipient, so that RSET goes before the second.
func hopsKept(t *testing.T, s failSetup, style string, refused bool, end func(*netsim.Conn)) {
	b := newFailBench(t, s)
	c, err := b.failClient()
	if err != nil {
		t.Fatal(err)
	}
	if refused {
		b.fault.Store(&failFault{at: func(ev refpeer.Event) bool { return ev.Verb == "RCPT" },
			do: func(refpeer.Event) refpeer.Action { return refpeer.Say("550 5.1.1 nobody") }})
	}
	if res, err := c.send(style, "first"); err != nil || res.ok() == refused {
		t.Fatalf("the first message: %+v, %v", res, err)
	}
	if err := c.inStep(); err != nil {
		t.Fatal(err)
	}
	b.fault.Store(nil)
	time.Sleep(time.Minute)
	end(b.listener.newest())
	time.Sleep(time.Minute)
	var res failResult
	d := took(func() { res, err = c.send(style, "second") })
	if err != nil || !res.ok() {
		t.Errorf("%s: the second message: %+v, %v", style, res, err)
	}
	if d > 2*time.Second {
		t.Errorf("%s: the second message took %v", style, d)
	}
	if err := b.truthful("second", res); err != nil {
		t.Error(err)
	}
}

// A kept connection that has fallen silent costs time, and leaves enough of it.
func TestHopsKeptConnectionSilent(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		var silent bool
		mx := w.serve(mxAddr, &refpeer.Server{Keywords: refpeer.Modern(), Behave: func(ev refpeer.Event) refpeer.Action {
			return refpeer.Action{Stall: silent && ev.Conn == 0}
		}})
		w.outbound()
		w.start()
		c := w.client(outboundAt)
		c.ask("EHLO client.example", "250")
		c.deliver("first")
		silent = true
		c.ask("MAIL FROM:<a@client.example>", "250 ")
		if d := took(func() { c.ask("RCPT TO:<one@example.org>", "250 ") }); d != 2*time.Minute {
			t.Errorf("the recipient was answered after %v, want half of the setup time", d)
		}
		c.ask("DATA", "354 ")
		c.say("Subject: x", "", "text", ".")
		c.want("250 ")
		if n := len(mx.Messages()); n != 2 {
			t.Errorf("the host has %d messages, want 2", n)
		}
	})
}

// A hop that speaks on an idle connection would shift every later reply. This
// one needs a socket to look at.
func TestHopsKeptConnectionTalks(t *testing.T) {
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	talks := &hopsTalker{Listener: ln}
	backend := &refpeer.Server{StrictLockstep: true}
	backend.Start(talks)
	defer backend.Close()
	cfg := testConfig()
	in := DefaultInbound()
	in.Auth.Enabled = false
	in.Listen, in.BackendTrustsUs, in.AddReceived = []string{"127.0.0.1:0"}, true, false
	in.Backend = Endpoint{Host: "127.0.0.1", Port: addrPort(ln.Addr()).Port()}
	cfg.Inbound = append(cfg.Inbound, in)
	p, err := New(cfg, Options{Metrics: NewMetrics(prometheus.NewRegistry()), Resolver: newFakeDNS()})
	if err != nil {
		t.Fatal(err)
	}
	if err := p.Start(t.Context()); err != nil {
		t.Fatal(err)
	}
	defer p.Shutdown(t.Context())
	conn, err := net.Dial("tcp", p.Addrs("inbound")[0].String())
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	c := &dialog{t: t, conn: conn, r: bufio.NewReader(conn)}
	c.want("220 ")
	c.ask("EHLO client.example", "250")
	c.deliver("first")
	before := backend.Accepted()
	if _, err := talks.newest().Write([]byte("250 2.0.0 by the way\r\n")); err != nil {
		t.Fatal(err)
	}
	c.ask("NOOP", "250 ")
	c.deliver("second")
	if len(backend.Messages()) != 2 || backend.Accepted() != before+1 || len(backend.Violations()) > 0 {
		t.Errorf("messages %d, new connections %d, violations %v", len(backend.Messages()), backend.Accepted()-before, backend.Violations())
	}
	c.ask("QUIT", "221 ")
}

// A hopsTalker is a hopsListener for real connections.
type hopsTalker struct {
	net.Listener
	last atomic.Pointer[net.Conn]
}

// Accept implements [net.Listener].
func (l *hopsTalker) Accept() (net.Conn, error) {
	conn, err := l.Listener.Accept()
	l.last.Store(&conn)
	return conn, err
}

func (l *hopsTalker) newest() net.Conn { return *l.last.Load() }
