package proxy

import (
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"slipstream/bench/refpeer"
)

// forwardAttrs are what Postfix 3.7 offers.
const forwardAttrs = "NAME ADDR PROTO HELO SOURCE PORT IDENT"

// forwarder serves a backend that takes XFORWARD.
func (w *world) forwarder(offers string, answer string) *refpeer.Server {
	w.t.Helper()
	k := refpeer.Modern()
	if offers != "" {
		k.Extra = []string{"XFORWARD " + offers}
	}
	behave := func(ev refpeer.Event) refpeer.Action {
		if ev.Verb != "XFORWARD" {
			return refpeer.Action{}
		}
		if strings.HasPrefix(answer, "421") {
			return refpeer.Action{Reply: answer + "\r\n", Close: true}
		}
		return refpeer.Say(answer)
	}
	return w.serve(backendAddr, &refpeer.Server{Keywords: k, StrictLockstep: true, Behave: behave})
}

func forwarding5m(in *InboundConfig) { in.ClientAddress, in.PoolIdle = announceForward, 5*time.Minute }

// clientFrom connects to the inbound door from an address.
func (w *world) clientFrom(addr string) *dialog {
	w.t.Helper()
	conn, err := w.net.Dial(w.t.Context(), addr, inboundAt)
	if err != nil {
		w.t.Fatal(err)
	}
	w.t.Cleanup(func() { _ = conn.Close() })
	d := newDialog(w.t, conn)
	d.want("220 ")
	return d
}

// said are the lines of a backend's connection that have a prefix, each with what came right before it.
func said(s *refpeer.Server, conn int, prefix string) (lines, before []string) {
	last := ""
	for _, line := range s.Connections()[conn].Commands {
		if strings.HasPrefix(line, prefix) {
			lines, before = append(lines, line), append(before, last)
		}
		last = strings.Fields(line)[0]
	}
	return lines, before
}

// Each transaction says whose it is, in the flight of its MAIL, on a connection that clients share.
func TestForward(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		w.dns.ptr[clientHost] = []string{"mail.client.example."}
		w.dns.addrs["mail.client.example."] = []netip.Addr{netip.MustParseAddr(clientHost)}
		backend := w.forwarder(forwardAttrs, "250 2.0.0 Ok")
		w.inbound(forwarding5m)
		w.start()
		var ports []uint16
		for i, from := range []string{clientHost, "2001:db8::7", "127.0.0.9"} {
			c := w.clientFrom(from)
			ports = append(ports, addrPort(c.conn.LocalAddr()).Port())
			c.ask([]string{"EHLO client.example", "HELO +=odd", "EHLO [127.0.0.9]"}[i], "250")
			if i == 1 {
				c.deliver("m") // in lock step
			} else {
				c.flight("m", "b@example.org")
			}
			if trips := w.last().Trips; i == 2 && trips != 1 {
				t.Errorf("%d trips on a warm connection, want 1", trips)
			}
			c.ask("QUIT", "221 ")
			time.Sleep(5 * time.Second) // the connection goes back to the pool
		}
		if n := len(backend.Connections()); n != 2 { // the first is the start's question
			t.Fatalf("%d connections, want one that all clients share", n-1)
		}
		lines, before := said(backend, 1, "XFORWARD ")
		want := []string{
			"XFORWARD NAME=mail.client.example ADDR=198.51.100.7 PORT=%d PROTO=ESMTP HELO=client.example IDENT=%s SOURCE=REMOTE",
			"XFORWARD NAME=[UNAVAILABLE] ADDR=IPV6:2001:db8::7 PORT=%d PROTO=SMTP HELO=+2B+3Dodd IDENT=%s SOURCE=REMOTE",
			"XFORWARD NAME=[UNAVAILABLE] ADDR=127.0.0.9 PORT=%d PROTO=ESMTP HELO=[127.0.0.9] IDENT=%s SOURCE=LOCAL",
		}
		for i := range want {
			want[i] = fmt.Sprintf(want[i], ports[i], w.done[i].ID)
		}
		if !slices.Equal(lines, want) {
			t.Errorf("the backend heard\n%s\nwant\n%s", strings.Join(lines, "\n"), strings.Join(want, "\n"))
		}
		if slices.Contains(before, "MAIL") || before[0] != "EHLO" {
			t.Errorf("before it came %q", before)
		}
		if _, behind := said(backend, 1, "MAIL "); !slices.Equal(behind, []string{"XFORWARD", "XFORWARD", "XFORWARD"}) {
			t.Errorf("MAIL came behind %q", behind)
		}
		if hellos, _ := said(backend, 1, "EHLO "); !slices.Equal(hellos, []string{"EHLO proxy.example"}) {
			t.Errorf("it was greeted with %q", hellos)
		}
		if v := backend.Violations(); len(v) > 0 {
			t.Error(v)
		}
	})
}

// A backend that does not know XFORWARD, or does not want it, gets its mail all the same; that is said once.
func TestForwardWithout(t *testing.T) {
	for _, tt := range []struct{ name, offers, answer, log string }{
		{"not offered", "", "", "smtpd_authorized_xforward_hosts"},
		{"refused", forwardAttrs, "550 5.7.0 insufficient authorization", "insufficient authorization"},
		{"put off", forwardAttrs, "450 4.3.0 not now", "not now"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				w := newWorld(t)
				backend := w.forwarder(tt.offers, tt.answer)
				w.inbound(forwarding5m)
				logs := w.observe()
				for range 2 {
					c := w.client(inboundAt)
					c.ask("EHLO client.example", "250")
					c.deliver("m")
					c.ask("QUIT", "221 ")
				}
				if n := len(backend.Messages()); n != 2 {
					t.Errorf("%d messages, want 2", n)
				}
				n := 0
				for _, e := range logs.All() {
					if strings.Contains(e.Message, "XFORWARD") {
						n++
					}
				}
				if n != 1 || !mentions(logs, tt.log) {
					t.Errorf("%d lines about XFORWARD, want one with %q", n, tt.log)
				}
			})
		})
	}
}

// A backend that hangs up at XFORWARD is tried again, as at MAIL.
func TestForwardHangsUp(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		backend := w.forwarder(forwardAttrs, "421 4.3.2 closing")
		w.inbound(forwarding5m)
		w.start()
		c := w.client(inboundAt)
		c.ask("EHLO client.example", "250")
		c.ask("MAIL FROM:<a@client.example>", "4")
		if n := len(backend.Messages()); n != 0 {
			t.Errorf("%d messages", n)
		}
	})
}

// What does not fit into one command goes into several, and what fits into none is not said.
func TestForwarded(t *testing.T) {
	long := strings.Repeat("a", 255)
	for _, tt := range []struct {
		name, offered string
		id            identity
		want          []string
	}{
		{"nothing wanted", "LOGIN", identity{}, nil},
		{"nothing known", "addr helo NAME ident port", identity{},
			[]string{"NAME=[UNAVAILABLE] ADDR=[UNAVAILABLE] PORT=[UNAVAILABLE] HELO=[UNAVAILABLE] IDENT=7f.1"}},
		{"long", "NAME HELO IDENT", identity{helo: long, name: clientName{name: long}},
			[]string{"NAME=" + long, "HELO=" + long + " IDENT=7f.1"}},
		{"too long", "NAME HELO", identity{helo: strings.Repeat("+", 255), name: clientName{name: long + "a"}},
			[]string{"NAME=[UNAVAILABLE] HELO=[UNAVAILABLE]"}},
		{"injection", "HELO", identity{helo: "a b=c\r\nMAIL FROM:<x@y>"}, []string{"HELO=a+20b+3Dc+0D+0AMAIL+20FROM:<x@y>"}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			got := (&transaction{id: "7f.1", who: &tt.id}).forwarded(tt.offered)
			if !slices.Equal(got, tt.want) {
				t.Errorf("got %q, want %q", got, tt.want)
			}
			for _, line := range got {
				if len("XFORWARD ")+len(line) > maxForward {
					t.Errorf("%d octets", len(line))
				}
			}
		})
	}
}
