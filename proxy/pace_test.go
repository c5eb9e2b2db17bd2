package proxy

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"slipstream/bench/netsim"
	"slipstream/bench/refpeer"
)

// byOpenSMTPD is how the mail of OpenSMTPD 6.8 begins.
const byOpenSMTPD = "Received: from localhost (a.test [local])\r\n" +
	"\tby a.test (OpenSMTPD) with ESMTPA id 5b0eb541;\r\n\tSun, 22 Nov 2026 09:51:00 +0000 (UTC)\r\n"

// The program is known by the Received field on top, however the text comes.
func TestTraceScan(t *testing.T) {
	long := strings.Repeat("x", 255)
	for _, tt := range []struct {
		header string
		want   bool
	}{
		{byOpenSMTPD + "Subject: x\r\n\r\n", true},
		{byOpenSMTPD, true},
		{"DKIM-Signature: v=1;\r\n\tb=x\r\n" + byOpenSMTPD, true},
		{strings.Replace(byOpenSMTPD, "Received:", "RECEIVED:", 1), true},
		{"Received: by a.test (OpenSMTPD) with SMTP\r\n", true},
		{"Received:\r\n from " + long + " (" + long + " [IPv6:2001:db8::1])\r\n" +
			" by " + long + " (OpenSMTPD) with ESMTP\r\n", true},
		{"Received: from x by y (Postfix)\r\n" + byOpenSMTPD, false},
		{"Received: from (OpenSMTPD) by a.test (Postfix)\r\n", false},
		{"Received: from x (OpenSMTPD)\r\n", false},
		{"Received-By: by a.test (OpenSMTPD)\r\n", false},
		{"X-Received: by a.test (OpenSMTPD)\r\n", false},
		{"Subject: x\r\n Received: by a.test (OpenSMTPD)\r\n", false},
		{"Received", false},
		{"", false},
		{"\r\n" + byOpenSMTPD, false}, // that is the body
		{"Received: " + strings.Repeat("x ", maxTrace) + "by a.test (OpenSMTPD)\r\n", false},
	} {
		for _, size := range []int{1, 2, 7, 4096} {
			head := headScan{}
			scan := traceScan{wanted: true}
			for part := range slices.Chunk([]byte(tt.header), size) {
				before := head.seen
				if err := head.scan(part); err != nil {
					t.Fatal(err)
				}
				scan.scan(part[:head.seen-before])
			}
			if got := scan.openSMTPD(); got != tt.want {
				t.Errorf("%.80q in pieces of %d: %t", tt.header, size, got)
			}
			if len(scan.field) > maxTrace {
				t.Errorf("%d octets are kept", len(scan.field))
			}
		}
	}
	var unwanted traceScan
	if unwanted.scan([]byte(byOpenSMTPD)); unwanted.openSMTPD() || unwanted.field != nil {
		t.Error("it reads along though nobody asked")
	}
}

func FuzzTraceScan(f *testing.F) {
	f.Add([]byte(byOpenSMTPD), uint8(3))
	f.Add([]byte("DKIM-Signature: x\r\n"+byOpenSMTPD), uint8(200))
	f.Fuzz(func(t *testing.T, header []byte, size uint8) {
		whole, parts := traceScan{wanted: true}, traceScan{wanted: true}
		whole.scan(header)
		for part := range slices.Chunk(header, 1+int(size)) {
			parts.scan(part)
		}
		if string(whole.field) != string(parts.field) || whole.done != parts.done || len(whole.field) > maxTrace {
			t.Errorf("%q and %q", whole.field, parts.field)
		}
	})
}

// pacedClient has sent a message to n recipients up to its final dot.
func (w *world) pacedClient(n int, header string) *dialog {
	w.t.Helper()
	c := w.lmtpClient()
	c.ask("MAIL FROM:<a@client.example>", "250 ")
	for i := range n {
		c.ask(fmt.Sprintf("RCPT TO:<u%d@example.org>", i), "250 ")
	}
	c.ask("DATA", "354 ")
	c.raw(header + "Subject: x\r\n\r\ntext\r\n.\r\n")
	return c
}

func pacedWorld(t *testing.T, pace Pace, change ...func(*Config)) (*world, *refpeer.Server) {
	w := newWorld(t)
	mx := w.serve(mxAddr, &refpeer.Server{LMTP: true, Keywords: refpeer.Modern()})
	w.outbound(func(o *OutboundConfig) {
		o.Protocol, o.Route, o.Offer, o.Relay = "lmtp", "", nil, Endpoint{Host: mxHost, Port: 25, LMTP: true}
		o.ReplyPace = pace
	})
	w.cfg.Limits.MaxRecipients = 2000
	for _, f := range change {
		f(w.cfg)
	}
	w.start()
	return w, mx
}

// Who needs a pause between the replies has one, and nobody else waits.
func TestPace(t *testing.T) {
	for name, tt := range map[string]struct {
		pace   Pace
		header string
		rcpts  int
		want   time.Duration // between two replies
	}{
		"OpenSMTPD":               {PaceAuto, byOpenSMTPD, 4, 100 * time.Millisecond},
		"OpenSMTPD, one":          {PaceAuto, byOpenSMTPD, 1, 0},
		"OpenSMTPD, a thousand":   {PaceAuto, byOpenSMTPD, 1000, 100 * time.Millisecond},
		"OpenSMTPD, two thousand": {PaceAuto, byOpenSMTPD, 2000, 2 * time.Minute / 1999},
		"another":                 {PaceAuto, "Received: from x by y (Postfix) with LMTP\r\n", 4, 0},
		"no trace":                {PaceAuto, "", 4, 0},
		"configured":              {Pace(20 * time.Millisecond), "", 4, 20 * time.Millisecond},
		"configured, one":         {Pace(20 * time.Millisecond), "", 1, 0},
		"configured, at most":     {maxPace, "", 1000, 2 * time.Minute / 999},
		"off":                     {0, byOpenSMTPD, 4, 0},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				w, mx := pacedWorld(t, tt.pace)
				c := w.pacedClient(tt.rcpts, tt.header)
				c.want("250 ")
				began := time.Now()
				segments := c.segments()
				for i := 1; i < tt.rcpts; i++ {
					before := time.Now()
					c.want("250 ")
					if gap := time.Since(before); gap != tt.want {
						t.Fatalf("reply %d came %v after the one before, want %v", i, gap, tt.want)
					}
				}
				if took := time.Since(began); took > maxPacing {
					t.Errorf("all took %v", took)
				}
				if got := c.segments() - segments; tt.want > 0 && got != tt.rcpts-1 {
					t.Errorf("%d segments", got)
				}
				c.ask("QUIT", "221 ")
				if m := mx.Messages(); len(m) != 1 || len(m[0].Rcpts) != tt.rcpts {
					t.Errorf("the hop has %d messages", len(m))
				}
			})
		})
	}
}

// Where the hop took nearly all the time that the client waits, the pauses fit
// into the rest.
func TestPaceWithinTheClientsPatience(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w, _ := pacedWorld(t, PaceAuto, func(c *Config) { c.Timeouts.DataDone = 10 * time.Second })
		w.net.SetLink(proxyHost, mxHost, netsim.Link{Delay: 4500 * time.Millisecond})
		c := w.lmtpClient()
		c.ask("MAIL FROM:<a@client.example>", "250 ")
		for i := range 101 {
			c.ask(fmt.Sprintf("RCPT TO:<u%d@example.org>", i), "250 ")
		}
		c.ask("DATA", "354 ")
		began := time.Now()
		c.raw(byOpenSMTPD + "Subject: x\r\n\r\ntext\r\n.\r\n")
		for range 101 {
			c.want("250 ")
		}
		if took := time.Since(began); took > 10*time.Second {
			t.Errorf("took %v, want 10s at most", took)
		}
	})
}

// A client that leaves between two replies is not waited for: the session ends,
// and the message is with its recipients once.
func TestPaceClientLeaves(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w, mx := pacedWorld(t, PaceAuto)
		c := w.pacedClient(1000, byOpenSMTPD)
		for range 3 {
			c.want("250 ")
		}
		began := time.Now()
		_ = c.conn.Close()
		time.Sleep(time.Second)
		synctest.Wait()
		if n := len(w.proxy.sessions); n != 0 {
			t.Errorf("%d sessions %v later", n, time.Since(began))
		}
		if s := w.last(); s.Status != "sent" || len(mx.Messages()) != 1 {
			t.Errorf("%+v", s)
		}
	})
}

// A shutdown in the middle of the replies: the rest is said at once, since it is
// known, and the session ends.
func TestPaceShutdown(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w, _ := pacedWorld(t, Pace(time.Second))
		c := w.pacedClient(60, "")
		c.want("250 ")
		c.want("250 ")
		began := time.Now()
		ctx, cancel := context.WithTimeout(t.Context(), 5*time.Second)
		defer cancel()
		done := make(chan error)
		go func() { done <- w.proxy.Shutdown(ctx) }()
		for range 58 {
			c.want("250 ")
		}
		c.want("421 4.3.2")
		c.wantClosed()
		<-done
		if took := time.Since(began); took > 10*time.Second {
			t.Errorf("it took %v", took)
		}
	})
}

// While a client hears its replies, the connections are there for others.
func TestPaceHoldsNothing(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w, mx := pacedWorld(t, Pace(time.Second), func(c *Config) {
			c.Outbound[0].HopConnections, c.Outbound[0].PoolIdle = 1, time.Minute
		})
		c := w.pacedClient(60, "")
		c.want("250 ")
		began := time.Now()
		other := w.pacedClient(1, "")
		other.want("250 ")
		if took := time.Since(began); took > time.Millisecond {
			t.Errorf("another client waited %v", took)
		}
		if n := len(mx.Connections()); n != 2 { // the probe at the start was the first
			t.Errorf("%d connections", n)
		}
		for range 59 {
			c.want("250 ")
		}
	})
}
