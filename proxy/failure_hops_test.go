package proxy

import (
	"fmt"
	"net"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"slipstream/bench/refpeer"
)

// Several hosts and addresses.

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
