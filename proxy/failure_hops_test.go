package proxy

import (
	"bufio"
	"fmt"
	"net"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"slipstream/bench/netsim"
	"slipstream/bench/refpeer"
)

// Several hosts and addresses, and connections that die between two messages.

// hopsHosts makes the mail hosts of example.org: one for each list of addresses,
// best first.
func (w *world) hopsHosts(hosts ...[]string) {
	w.dns.mx["example.org"] = nil
	for i, addrs := range hosts {
		name := fmt.Sprintf("mx%d.example.org", i+1)
		w.dns.mx["example.org"] = append(w.dns.mx["example.org"], &net.MX{Host: name, Pref: uint16(10 * (i + 1))})
		for _, a := range addrs {
			w.dns.addrs[name] = append(w.dns.addrs[name], netip.MustParseAddr(a))
		}
	}
}

// hopsAt returns a Behave that does something at one kind of command, or at an
// event without one.
func hopsAt(verb string, a refpeer.Action) func(refpeer.Event) refpeer.Action {
	return func(ev refpeer.Event) refpeer.Action {
		if ev.Verb == verb && ev.Kind == refpeer.Command || string(ev.Kind) == verb {
			return a
		}
		return refpeer.Action{}
	}
}

// deliver sends a message in lock step; it must be taken.
func (d *dialog) deliver(id string) {
	d.t.Helper()
	d.ask("MAIL FROM:<"+id+"@client.example>", "250 ")
	d.ask("RCPT TO:<one@example.org>", "250 ")
	d.ask("DATA", "354 ")
	d.say("Subject: "+id, "", "text", ".")
	d.want("250 ")
}

// took measures, in virtual time.
func took(f func()) time.Duration {
	begun := time.Now()
	f()
	return time.Since(begun)
}

const (
	hopsOne = "203.0.113.2"
	hopsTwo = "203.0.113.3"
	hopsSix = "2001:db8::2"
)

func TestHopsNextHost(t *testing.T) {
	for name, tt := range map[string]struct {
		first func(refpeer.Event) refpeer.Action // nil: nobody listens
		hole  bool
		takes time.Duration
	}{
		"refused":                  {},
		"black hole":               {hole: true, takes: 30 * time.Second},
		"greeting 554":             {first: hopsAt("connect", refpeer.Say("554 5.3.2 no mail here"))},
		"greeting 421":             {first: hopsAt("connect", refpeer.Action{Reply: "421 4.3.2 busy\r\n", Close: true})},
		"closed before greeting":   {first: hopsAt("connect", refpeer.Action{Close: true})},
		"reset before greeting":    {first: hopsAt("connect", refpeer.Action{Reset: true})},
		"silent greeting":          {first: hopsAt("connect", refpeer.Action{Stall: true}), takes: 2 * time.Minute},
		"garbage greeting":         {first: hopsAt("connect", refpeer.Say("SSH-2.0-OpenSSH_9.2"))},
		"EHLO 421":                 {first: hopsAt("EHLO", refpeer.Action{Reply: "421 4.3.2 busy\r\n", Close: true})},
		"EHLO 450":                 {first: hopsAt("EHLO", refpeer.Say("450 4.3.2 later"))},
		"closed at EHLO":           {first: hopsAt("EHLO", refpeer.Action{Close: true})},
		"MAIL 451":                 {first: hopsAt("MAIL", refpeer.Say("451 4.3.0 later"))},
		"MAIL 421 and closed":      {first: hopsAt("MAIL", refpeer.Action{Reply: "421 4.3.2 busy\r\n", Close: true})},
		"closed at MAIL":           {first: hopsAt("MAIL", refpeer.Action{Close: true})},
		"closed at RCPT":           {first: hopsAt("RCPT", refpeer.Action{Close: true})},
		"reset at RCPT":            {first: hopsAt("RCPT", refpeer.Action{Reset: true})},
		"more replies than due":    {first: hopsAt("RCPT", refpeer.Action{Twice: true})},
		"garbage instead of a 250": {first: hopsAt("RCPT", refpeer.Say("ok"))},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				w := newWorld(t)
				w.hopsHosts([]string{hopsOne}, []string{hopsTwo})
				if tt.first != nil {
					first := w.serve(hopsOne+":25", &refpeer.Server{Keywords: refpeer.Modern(), Behave: tt.first})
					defer func() {
						if v := first.Violations(); len(v) > 0 || len(first.Messages()) > 0 {
							t.Errorf("the first host has messages %v and saw %v", first.Messages(), v)
						}
					}()
				}
				if tt.hole {
					w.net.Blackhole(hopsOne)
				}
				second := w.serve(hopsTwo+":25", &refpeer.Server{Keywords: refpeer.Modern()})
				w.outbound()
				w.start()
				c := w.client(outboundAt)
				c.ask("EHLO client.example", "250")
				c.ask("MAIL FROM:<a@client.example>", "250 ")
				if d := took(func() { c.ask("RCPT TO:<one@example.org>", "250 2.1.5") }); d < tt.takes || d > tt.takes+time.Second {
					t.Errorf("the recipient was answered after %v, want %v", d, tt.takes)
				}
				c.ask("RCPT TO:<two@example.org>", "250 2.1.5")
				c.ask("DATA", "354 ")
				c.say("Subject: x", "", "text", ".")
				c.want("250 2.0.0 taken")
				c.ask("QUIT", "221 ")
				if m := second.Messages(); len(m) != 1 || len(m[0].Rcpts) != 2 {
					t.Errorf("the second host has %+v", m)
				}
				if s := w.last(); s.Status != "sent" || s.Relay != "mx2.example.org[203.0.113.3]:25" {
					t.Errorf("summary: %+v", s)
				}
			})
		})
	}
}

// A hop that knows no EHLO is greeted with HELO, and hears no parameter.
func TestHopsHelo(t *testing.T) {
	for _, refusal := range []string{"500 what?", "502 5.5.1 no", "504 5.5.4 no", "550 5.0.0 no"} {
		synctest.Test(t, func(t *testing.T) {
			w := newWorld(t)
			mx := w.serve(mxAddr, &refpeer.Server{Keywords: refpeer.Modern(), Behave: hopsAt("EHLO", refpeer.Say(refusal))})
			w.outbound()
			w.start()
			c := w.client(outboundAt)
			c.ask("EHLO client.example", "250")
			c.ask("MAIL FROM:<a@client.example> SIZE=100 BODY=8BITMIME", "250 ")
			c.ask("RCPT TO:<one@example.org>", "250 ")
			c.ask("DATA", "354 ")
			c.say("Subject: x", "", "seven bits", ".")
			c.want("250 ")
			c.ask("QUIT", "221 ")
			c.wantClosed()
			_ = c.conn.Close()
			synctest.Wait()
			want := []string{"EHLO proxy.example", "HELO proxy.example", "MAIL FROM:<a@client.example>", "RCPT TO:<one@example.org>", "DATA", "QUIT"}
			if got := mx.Connections()[0].Commands; !slices.Equal(got, want) {
				t.Errorf("after %q to EHLO: %q, want %q", refusal, got, want)
			}
		})
	}
}

// When every host fails the client hears what the last of them said.
func TestHopsAllFail(t *testing.T) {
	const label = "mx2.example.org[203.0.113.3]:25"
	for _, tt := range []struct {
		last func(refpeer.Event) refpeer.Action
		want string
	}{
		{nil, "451 4.4.1 Slipstream: " + label + ": connecting: "},
		{hopsAt("connect", refpeer.Say("554 5.3.2 no mail here")),
			"451 4.3.2 Slipstream: " + label + ` said "554 5.3.2 no mail here" while waiting for the greeting`},
		{hopsAt("connect", refpeer.Say("421 4.7.0 you again")),
			"451 4.7.0 Slipstream: " + label + ` said "421 4.7.0 you again" while waiting for the greeting`},
		{hopsAt("EHLO", refpeer.Say("450 4.3.2 later")),
			"451 4.3.2 Slipstream: " + label + ` said "450 4.3.2 later" while waiting for the answer to EHLO`},
		{hopsAt("connect", refpeer.Action{Close: true}),
			"451 4.4.2 Slipstream: " + label + ": waiting for the greeting: the connection was closed by the other side"},
		{hopsAt("MAIL", refpeer.Say("451 4.7.1 greylisted, come back")), "451 4.7.1 greylisted, come back"},
		{hopsAt("MAIL", refpeer.Say("452 no room")), "452 4.0.0 no room"},
		{hopsAt("MAIL", refpeer.Action{Reply: "421 4.3.2 full\r\n", Close: true}), "451 4.3.2 Slipstream: " + label + " said: 421 4.3.2 full"},
		{hopsAt("MAIL", refpeer.Action{Reply: "421 full\r\n", Close: true}), "451 4.4.2 Slipstream: " + label + " said: 421 full"},
		{hopsAt("RCPT", refpeer.Action{Stall: true}), "451 4.4.2 Slipstream: " + label + ": waiting for the answer to MAIL or RCPT: no progress in 4m0s"},
		{hopsAt("RCPT", refpeer.Say("421 4.3.2 full")), "451 4.3.2 Slipstream: " + label + " said: 421 4.3.2 full"},
	} {
		synctest.Test(t, func(t *testing.T) {
			w := newWorld(t)
			w.hopsHosts([]string{hopsOne}, []string{hopsTwo})
			if tt.last != nil {
				w.serve(hopsTwo+":25", &refpeer.Server{Keywords: refpeer.Modern(), Behave: tt.last})
			}
			w.outbound()
			w.start()
			c := w.client(outboundAt)
			c.ask("EHLO client.example", "250")
			c.ask("MAIL FROM:<a@client.example>", "250 ")
			c.ask("RCPT TO:<one@example.org>", tt.want)
			c.ask("RCPT TO:<two@example.org>", tt.want) // no host is bothered again
			c.ask("DATA", "554 5.5.1 no valid recipients")
			c.ask("RSET", "250 ")
			c.ask("NOOP", "250 2.0.0 ok")
		})
	}
}

// The addresses of one host race, IPv6 first (RFC 8305).
func TestHopsFamilies(t *testing.T) {
	for name, tt := range map[string]struct {
		serve, holes []string
		want         string
		takes        time.Duration
	}{
		"both":                      {serve: []string{hopsSix, hopsOne}, want: hopsSix},
		"v6 refused":                {serve: []string{hopsOne}, want: hopsOne},
		"v6 black hole":             {serve: []string{hopsSix, hopsOne}, holes: []string{hopsSix}, want: hopsOne, takes: 250 * time.Millisecond},
		"v4 black hole":             {serve: []string{hopsSix, hopsOne}, holes: []string{hopsOne}, want: hopsSix},
		"v6 black hole, v4 refused": {serve: []string{hopsSix}, holes: []string{hopsSix}, takes: 30 * time.Second},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				w := newWorld(t)
				w.hopsHosts([]string{hopsOne, hopsSix})
				servers := make(map[string]*refpeer.Server)
				for _, a := range tt.serve {
					servers[a] = w.serve(netip.AddrPortFrom(netip.MustParseAddr(a), 25).String(), &refpeer.Server{Keywords: refpeer.Modern()})
				}
				for _, a := range tt.holes {
					w.net.Blackhole(a)
				}
				w.outbound()
				w.start()
				c := w.client(outboundAt)
				c.ask("EHLO client.example", "250")
				c.ask("MAIL FROM:<a@client.example>", "250 ")
				want := "250 "
				if tt.want == "" {
					want = "451 4.4.1 "
				}
				if d := took(func() { c.ask("RCPT TO:<one@example.org>", want) }); d != tt.takes {
					t.Errorf("the recipient was answered after %v, want %v", d, tt.takes)
				}
				if tt.want == "" {
					return
				}
				c.ask("DATA", "354 ")
				c.say("Subject: x", "", "text", ".")
				c.want("250 ")
				for a, s := range servers {
					if got := len(s.Messages()); (got == 1) != (a == tt.want) {
						t.Errorf("%s has %d messages", a, got)
					}
				}
			})
		})
	}
}

// An address that answers and then fails is followed by the others of its host.
func TestHopsNextAddress(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		w.hopsHosts([]string{hopsSix, hopsOne, hopsTwo})
		w.serve("["+hopsSix+"]:25", &refpeer.Server{Behave: hopsAt("connect", refpeer.Say("421 4.3.2 full"))})
		w.serve(hopsOne+":25", &refpeer.Server{Behave: hopsAt("MAIL", refpeer.Say("451 4.3.0 later"))})
		mx := w.serve(hopsTwo+":25", &refpeer.Server{})
		w.outbound()
		w.start()
		c := w.client(outboundAt)
		c.ask("EHLO client.example", "250")
		c.deliver("m")
		if len(mx.Messages()) != 1 {
			t.Errorf("the last address has %v", mx.Messages())
		}
	})
}

// However many hosts there are, the client does not wait longer than the setup
// may take.
func TestHopsSetupBudget(t *testing.T) {
	slow := func(ev refpeer.Event) refpeer.Action { return refpeer.Action{Delay: 119 * time.Second} }
	for name, tt := range map[string]struct {
		behave func(refpeer.Event) refpeer.Action // nil: black holes
		want   string
	}{
		"black holes":        {nil, "451 4.4.1 Slipstream: mx"}, // the eighth attempt ends with the budget
		"silent greetings":   {hopsAt("connect", refpeer.Action{Stall: true}), "451 4.4.2 Slipstream: mx2.example.org[203.0.113.11]:25: waiting for the greeting: "},
		"slow at everything": {slow, "451 4.4.2 Slipstream: mx1.example.org[203.0.113.10]:25: waiting for the answer to "},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				w := newWorld(t)
				var hosts [][]string
				for i := range 10 {
					addr := fmt.Sprintf("203.0.113.%d", 10+i)
					hosts = append(hosts, []string{addr})
					if tt.behave == nil {
						w.net.Blackhole(addr)
						continue
					}
					w.serve(addr+":25", &refpeer.Server{Behave: tt.behave})
				}
				w.hopsHosts(hosts...)
				w.outbound()
				w.start()
				c := w.client(outboundAt)
				c.ask("EHLO client.example", "250")
				c.ask("MAIL FROM:<a@client.example>", "250 ")
				if d := took(func() { c.ask("RCPT TO:<one@example.org>", tt.want) }); d < 4*time.Minute || d > 4*time.Minute+2*time.Second {
					t.Errorf("the recipient was answered after %v, want 4m", d)
				}
				c.ask("NOOP", "250 2.0.0 ok")
			})
		})
	}
}

// What a hop says about a recipient is passed on with every line.
func TestHopsWordsVerbatim(t *testing.T) {
	for _, tt := range []struct{ said, want string }{
		{"550-5.1.1 no such user\r\n550-5.1.1 <one@example.org>\r\n550 5.1.1 see https://example.org/550", ""},
		{"550-no such user\r\n550 at all", "550-5.0.0 no such user\n550 5.0.0 at all"},
		{"450-4.2.1 busy\r\n450 retry", "450-4.2.1 busy\n450 4.2.1 retry"},
		{"553 5.7.0 tabs\tand UTF-8 \u00fc", ""},
		{"552", "552 5.0.0"},
		{"251 2.1.5 user not local, will forward", ""},
		{"252 2.5.2 cannot say", ""},
		{"521 5.1.8 \x07 bell", "521 5.1.8 ? bell"},
	} {
		for _, at := range []string{inboundAt, outboundAt} {
			synctest.Test(t, func(t *testing.T) {
				w := newWorld(t)
				behave := hopsAt("RCPT", refpeer.Action{Reply: tt.said + "\r\n"})
				w.serve(mxAddr, &refpeer.Server{Keywords: refpeer.Modern(), Behave: behave})
				w.serve(backendAddr, &refpeer.Server{Keywords: refpeer.Modern(), Behave: behave})
				w.outbound()
				w.inbound()
				w.start()
				c := w.client(at)
				c.ask("EHLO client.example", "250")
				c.ask("MAIL FROM:<a@client.example>", "250 ")
				want := tt.want
				if want == "" {
					want = strings.ReplaceAll(tt.said, "\r\n", "\n")
				}
				if got := c.ask("RCPT TO:<one@example.org>", ""); got != want {
					t.Errorf("%s: got %q, want %q", at, got, want)
				}
			})
		}
	}
}

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

// hopsSlow answers recipients one after the other.
func hopsSlow(ev refpeer.Event) refpeer.Action {
	if ev.Verb == "RCPT" {
		return refpeer.Action{Delay: 700 * time.Millisecond}
	}
	return refpeer.Action{}
}

// The answers to a long flight do not wait for the last of them.
func TestHopsSlowFlight(t *testing.T) {
	for _, at := range []string{inboundAt, outboundAt} {
		synctest.Test(t, func(t *testing.T) {
			w := newWorld(t)
			w.serve(mxAddr, &refpeer.Server{Keywords: refpeer.Modern(), Behave: hopsSlow})
			w.serve(backendAddr, &refpeer.Server{Keywords: refpeer.Modern(), Behave: hopsSlow})
			w.outbound()
			w.inbound()
			w.start()
			c := w.client(at)
			c.ask("EHLO client.example", "250")
			const n = 30
			c.say(append([]string{"MAIL FROM:<a@client.example>"}, hopsRcpts(n)...)...)
			begun := time.Now()
			c.want("250 ")
			for i := range n {
				c.want("250 ")
				said := time.Duration(i+1) * 700 * time.Millisecond
				if late := time.Since(begun) - said; late < 0 || late > slowReply+700*time.Millisecond {
					t.Errorf("%s: the answer to recipient %d came %v after the hop gave it", at, i, late)
				}
			}
			c.ask("DATA", "354 ")
			c.say("Subject: x", "", "text", ".")
			c.want("250 ")
		})
	}
}

// Once an answer has left for the client no other host may contradict it; before
// that, the next host is asked about everybody.
func TestHopsDiesInSlowFlight(t *testing.T) {
	for _, dies := range []int{0, 5} {
		synctest.Test(t, func(t *testing.T) {
			w := newWorld(t)
			w.hopsHosts([]string{hopsOne}, []string{hopsTwo})
			w.serve(hopsOne+":25", &refpeer.Server{Keywords: refpeer.Modern(), Behave: func(ev refpeer.Event) refpeer.Action {
				a := hopsSlow(ev)
				a.Close = ev.Verb == "RCPT" && ev.N == dies
				return a
			}})
			second := w.serve(hopsTwo+":25", &refpeer.Server{Keywords: refpeer.Modern()})
			w.outbound()
			w.start()
			c := w.client(outboundAt)
			c.ask("EHLO client.example", "250")
			const n = 10
			c.say(append([]string{"MAIL FROM:<a@client.example>"}, hopsRcpts(n)...)...)
			c.want("250 ")
			for i := range n {
				if i < dies || dies == 0 {
					c.want("250 ")
				} else {
					c.want("451 4.4.2 Slipstream: mx1.example.org[203.0.113.2]:25: ")
				}
			}
			c.ask("DATA", "354 ")
			c.say("Subject: x", "", "text", ".")
			if dies == 0 {
				c.want("250 ")
			} else {
				c.want("451 4.4.2 ")
			}
			if got := len(second.Messages()) == 1; got != (dies == 0) || second.Accepted() > 0 != got {
				t.Errorf("the first host dies at recipient %d: the second has %d messages of %d connections", dies, len(second.Messages()), second.Accepted())
			}
			c.ask("NOOP", "250 2.0.0 ok")
		})
	}
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

func hopsRcpts(n int) []string {
	var lines []string
	for i := range n {
		lines = append(lines, fmt.Sprintf("RCPT TO:<u%d@example.org>", i))
	}
	return lines
}

// A hop that does not wait for a client which takes its time over the text is
// asked again: it has heard nothing of the message yet.
func TestHopsDiesWhileClientSends(t *testing.T) {
	for name, end := range map[string]func(*netsim.Conn){
		"FIN": func(conn *netsim.Conn) { _ = conn.Close() },
		"RST": func(conn *netsim.Conn) { conn.Reset() },
		"421": func(conn *netsim.Conn) { _, _ = conn.Write([]byte("421 4.4.2 too slow\r\n")); _ = conn.Close() },
	} {
		for _, inbound := range []bool{true, false} {
			for _, kind := range failKinds() {
				for _, pipelined := range []bool{false, true} { // DATA travels with the envelope, so that the hop waits for the text
					for _, changed := range []bool{false, true} {
						t.Run(fmt.Sprintf("%s/inbound=%v/%s/pipelined=%v/changed=%v", name, inbound, kind.name, pipelined, changed), func(t *testing.T) {
							synctest.Test(t, func(t *testing.T) {
								hopsSlowClient(t, failSetup{inbound: inbound, kind: kind}, end, pipelined, changed)
							})
						})
					}
				}
			}
		}
	}
}

// hopsSlowClient ends the hop's connection in the middle of the text. changed:
// asked again, the hop refuses the recipient.
func hopsSlowClient(t *testing.T, s failSetup, end func(*netsim.Conn), pipelined, changed bool) {
	b := newFailBench(t, s)
	c := b.client(b.at)
	c.ask("EHLO client.example", "250")
	flight := []string{"MAIL FROM:<slow@client.example>", "RCPT TO:<one@example.org>", "DATA"}
	for i, line := range flight {
		if !pipelined {
			c.say(line)
		} else if i == 0 {
			c.say(flight...)
		}
		c.want(map[bool]string{true: "354 ", false: "250 "}[i == 2])
	}
	text := strings.ReplaceAll(failText("slow"), "\r\n.", "\r\n..") + ".\r\n"
	c.raw(text[:20])
	time.Sleep(time.Minute)
	end(b.listener.newest())
	if changed {
		b.fault.Store(&failFault{at: func(ev refpeer.Event) bool { return ev.Verb == "RCPT" },
			do: func(refpeer.Event) refpeer.Action { return refpeer.Say("550 5.1.1 gone meanwhile") }})
	}
	time.Sleep(time.Minute)
	c.raw(text[20:])
	want, sent := "250 2.0.0 taken", 1
	if changed {
		want, sent = "451 4.", 0
	}
	if d := took(func() { c.want(want) }); d > 2*time.Second {
		t.Errorf("answered after %v", d)
	}
	c.ask("NOOP", "250 2.0.0 ok")
	if n := len(b.hop.Messages()); n != sent || len(b.hop.Refused()) > 0 {
		t.Errorf("the hop has %d messages, want %d", n, sent)
	}
	if err := b.truthful("slow", failResult{}); err != nil {
		t.Error(err)
	}
	if v := b.hop.Violations(); len(v) > 0 {
		t.Error(v)
	}
}
