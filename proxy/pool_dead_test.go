package proxy

import (
	"crypto/tls"
	"errors"
	"net"
	"testing"
	"time"

	"slipstream/bench/netsim"
	"slipstream/bench/refpeer"
	"slipstream/smtpwire"
)

// A connection on which something waits is not handed out.
func TestPoolDead(t *testing.T) {
	for _, tt := range []struct {
		name string
		do   func(c net.Conn)
	}{
		{"421", func(c net.Conn) { _, _ = c.Write([]byte("421 4.4.2 bye\r\n")) }},
		{"half a 421", func(c net.Conn) { _, _ = c.Write([]byte("42")) }},
		{"one reply more", func(c net.Conn) { _, _ = c.Write([]byte("250 2.0.0 once more\r\n")) }},
		{"FIN", func(c net.Conn) { _ = c.(*netsim.Conn).CloseWrite() }},
		{"closed", func(c net.Conn) { _ = c.Close() }},
		{"reset", func(c net.Conn) { c.(*netsim.Conn).Reset() }},
	} {
		t.Run(tt.name, func(t *testing.T) {
			inHarbour(t, 100, func(h *harbour) {
				h.warm("a")
				near, far := netsim.Pair(netsim.Link{Delay: time.Millisecond})
				_, b, err := h.pool.enter(h.t.Context(), h.key("a"), mxAddr, h.limits)
				if err != nil {
					t.Fatal(err)
				}
				dead := newPeer(near, "hop", false, &DefaultConfig().Timeouts)
				dead.berth, dead.onClose = b, b.leave
				h.put("a", dead)
				tt.do(far)
				h.wait(time.Second)
				if c := h.pool.get(h.key("a"), h.limits); c == dead || c == nil {
					t.Fatalf("got %p", c)
				} else {
					h.put("a", c)
				}
				h.counted(poolDied, 1)
				h.counted(poolHit, 1)
				h.idle(1)
				_ = far.Close()
			})
		})
	}
}

// A connection that is out of step, or on which something was read too much, is
// closed where it stands.
func TestPoolBroken(t *testing.T) {
	inHarbour(t, 100, func(h *harbour) {
		c := h.connect("a")
		c.broken = true
		h.put("a", c)
		h.idle(0)
		c = h.connect("b")
		c.berth.leave()
		c.berth = nil
		h.put("b", c)
		h.idle(0)
		h.wait(time.Second)
		for i, conn := range h.hop.Connections() {
			if len(conn.Commands) != 1 || conn.End.IsZero() {
				t.Errorf("connection %d heard %q, and ended at %v", i, conn.Commands, conn.End)
			}
		}
	})
}

// Under TLS a connection is kept, found dead and ended like any other.
func TestPoolTLS(t *testing.T) {
	cert := newTestCert(t, "mx.example")
	inHarbour(t, 100, func(h *harbour) {
		const addr = "203.0.113.3:465"
		srv := h.serve(addr, &refpeer.Server{
			Keywords: refpeer.Modern(), TLS: cert.server(), Implicit: true, Idle: time.Minute,
		})
		conf := &tls.Config{InsecureSkipVerify: true}
		connect := func() *peer {
			_, b, err := h.pool.enter(h.t.Context(), h.key("a"), addr, h.limits)
			if err != nil {
				h.t.Fatal(err)
			}
			conn, err := h.net.Dial(h.t.Context(), proxyHost, addr)
			if err != nil {
				h.t.Fatal(err)
			}
			c := newPeer(conn, addr, false, &DefaultConfig().Timeouts)
			c.berth, c.onClose = b, b.leave
			if err := errors.Join(c.handshake(h.t.Context(), conf, false), c.greet(), c.hello("proxy.example")); err != nil {
				h.t.Fatal(err)
			}
			return c
		}
		c := connect()
		for range 3 {
			h.put("a", c)
			h.wait(10 * time.Second)
			h.get("a", c)
			if _, err := c.one("asking", time.Minute, smtpwire.Command{Verb: smtpwire.VerbNoop}); err != nil {
				h.t.Fatal(err)
			}
		}
		h.limits.idle = 2 * time.Minute
		h.put("a", c)
		h.wait(time.Minute + time.Second) // the server has had enough
		h.get("a", nil)
		h.counted(poolDied, 1)
		h.put("a", connect())
		h.pool.forget(h.caller)
		h.wait(time.Second)
		if got := srv.Connections()[1].Commands; got[len(got)-1] != "QUIT" {
			h.t.Errorf("heard %q", got)
		}
	})
}

// An idle connection holds no buffers.
func TestPoolIdleHoldsLittle(t *testing.T) {
	inHarbour(t, 100, func(h *harbour) {
		c := h.connect("a")
		c.buf = make([]byte, 100)
		before := c.r
		h.put("a", c)
		if c.buf != nil || c.r == before {
			t.Error("the buffers are kept")
		}
		h.get("a", c)
		if _, err := c.one("asking", time.Minute, smtpwire.Command{Verb: smtpwire.VerbNoop}); err != nil {
			t.Error(err)
		}
		h.put("a", c)
	})
}
