package proxy

import (
	"bytes"
	"context"
	"fmt"
	"net"
	"net/netip"
	"testing"
	"testing/synctest"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"go.uber.org/zap"

	"slipstream/bench/refpeer"
)

// Several hops that did not wait for a slow client are asked again side by side.
// (The race detector watches their common record.)
func TestImpatientHopsSideBySide(t *testing.T) {
	const hops = 8
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		for i := range hops {
			w.lmtpDomain(fmt.Sprintf("d%d.example", i), fmt.Sprintf("203.0.113.%d", 20+i), &refpeer.Server{Keywords: refpeer.Modern(), Idle: 5 * time.Minute})
		}
		w.outbound(func(o *OutboundConfig) { o.Protocol = "lmtp" })
		w.start()
		c := w.lmtpClient()
		c.ask("MAIL FROM:<a@slow.example>", "250 ")
		for i := range hops {
			c.ask(fmt.Sprintf("RCPT TO:<b@d%d.example>", i), "250 ")
		}
		c.ask("DATA", "354 ")
		c.say("Subject: x", "")
		for range 4 {
			time.Sleep(150 * time.Second) // virtual
			c.say("line")
		}
		c.say(".")
		for range hops {
			c.want("250 ")
		}
	})
}

// A bombConn stands for an error of ours: it panics at one hop's RCPT.
type bombConn struct{ net.Conn }

func (b bombConn) Write(p []byte) (int, error) {
	if bytes.Contains(p, []byte("RCPT TO:<b@d0")) {
		panic("an error of ours")
	}
	return b.Conn.Write(p)
}

// An error of ours on one leg is a 451 for its recipients, nothing to the others
// and not the end of the process.
func TestLegSurvivesOurOwnError(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		for i := range 2 {
			w.lmtpDomain(fmt.Sprintf("d%d.example", i), fmt.Sprintf("203.0.113.%d", 20+i), &refpeer.Server{Keywords: refpeer.Modern()})
		}
		w.outbound(func(o *OutboundConfig) { o.Protocol, o.LateVerdict = "lmtp", false })
		startWithBombs(w)
		c := w.lmtpClient()
		c.say("MAIL FROM:<a@x.example>", "RCPT TO:<b@d0.example>", "RCPT TO:<b@d1.example>")
		c.want("250 ")
		c.want("451 ")
		c.want("250 ")
		c.ask("DATA", "354 ")
		c.say("Subject: x", "", ".")
		c.want("250 ")
		c.ask("NOOP", "250 ")
	})
}

// An error of ours in a session ends that session and no other.
func TestServiceSurvivesOurOwnError(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		hop := w.serve(mxAddr, &refpeer.Server{Keywords: refpeer.Modern()})
		w.dns.mx["d0.example"] = w.dns.mx["example.org"]
		w.outbound()
		startWithBombs(w)
		other := w.client(outboundAt)
		other.ask("EHLO a.example", "250")
		c := w.client(outboundAt)
		c.ask("EHLO b.example", "250")
		c.ask("MAIL FROM:<a@x.example>", "250 ")
		c.say("RCPT TO:<b@d0.example>")
		c.wantClosed()
		other.ask("MAIL FROM:<a@x.example>", "250 ")
		other.ask("RCPT TO:<b@example.org>", "250 ")
		other.ask("DATA", "354 ")
		other.say("Subject: x", "", ".")
		other.want("250 ")
		if n := len(hop.Messages()); n != 1 {
			t.Errorf("the hop has %d messages, want 1", n)
		}
	})
}

// startWithBombs is start with connections that panic.
func startWithBombs(w *world) {
	w.t.Helper()
	dial := w.net.Dialer(proxyHost)
	p, err := New(w.cfg, Options{
		Log: zap.NewNop(), Metrics: NewMetrics(prometheus.NewRegistry()), Resolver: w.dns,
		Dial: func(ctx context.Context, network string, local netip.Addr, remote string) (net.Conn, error) {
			c, err := dial(ctx, network, local, remote)
			if err != nil {
				return nil, err
			}
			return bombConn{c}, nil
		},
		Listen: func(_ context.Context, addr string) (net.Listener, error) { return w.net.Listen(addr) },
	})
	if err != nil {
		w.t.Fatal(err)
	}
	w.proxy = p
	if err := p.Start(w.t.Context()); err != nil {
		w.t.Fatal(err)
	}
	w.t.Cleanup(w.stop)
}
