package proxy

import (
	"bufio"
	"fmt"
	"net"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"slipstream/bench/netsim"
	"slipstream/bench/refpeer"
	"slipstream/tlsstore"
)

// guessIn opens a door to one MX host in a world that remembers, and has it send
// a first message to the server there.
func guessIn(t *testing.T, first *refpeer.Server, change ...func(*OutboundConfig)) (*world, *stand, *overheard) {
	t.Helper()
	w := newWorld(t)
	w.remember(tlsstore.Memory())
	w.net.SetLink(proxyHost, mxHost, netsim.Link{Delay: guessRTT / 2})
	at, ears := w.stand(mxAddr), w.overhear(mxAddr)
	at.become(first)
	w.outbound(append([]func(*OutboundConfig){func(o *OutboundConfig) { o.TLS = "none" }}, change...)...)
	w.start()
	w.guessPositive(refpeer.Chunking)
	time.Sleep(time.Second)
	ears.take()
	return w, at, ears
}

// guessPositive sends the usual mail, and wants it to be taken.
func (w *world) guessPositive(style refpeer.Style) Summary {
	w.t.Helper()
	if said, err := w.guessSend(style, refpeer.Mail{}, guessed{}); err != nil || !positive(said) {
		w.t.Fatalf("the client heard %q, %v", said, err)
	}
	return w.last()
}

// liar offers early pipelining and ends every connection on which it is taken at
// its word.
func liar() *refpeer.Server {
	behave := func(ev refpeer.Event) refpeer.Action {
		switch {
		case ev.Kind == refpeer.Connect:
			return refpeer.Action{Delay: 50 * time.Millisecond}
		case ev.Kind == refpeer.Command && ev.Verb == "EHLO":
			return answer(strings.Replace(ev.Reply, "250-PIPELINING\r\n", "250-PIPELINING\r\n250-PIPECONNECT\r\n", 1))
		}
		return refpeer.Action{}
	}
	return &refpeer.Server{Keywords: refpeer.Modern(), StrictLockstep: true, Behave: behave}
}

// Who misleads us twice in a day is not believed for a week; after that, it is
// again.
func TestGuessDistrust(t *testing.T) {
	const day = 24 * time.Hour
	synctest.Test(t, func(t *testing.T) {
		hop := liar()
		w, _, ears := guessIn(t, hop)
		for i, step := range []struct {
			wait  time.Duration
			conns int // two: it was misled
			quirk bool
		}{
			{0, 2, false},
			{day + time.Minute, 2, false}, // the first time was yesterday
			{time.Hour, 2, true},
			{time.Hour, 1, true},
			{5 * day, 1, true},
			{day + 22*time.Hour, 1, true}, // a week has passed but for an hour
			{2 * time.Hour, 2, false},
			{time.Hour, 2, true},
			{0, 1, true},
		} {
			time.Sleep(step.wait)
			sum := w.guessPositive(refpeer.Chunking)
			time.Sleep(time.Second)
			if heard := ears.take(); len(heard) != step.conns {
				t.Errorf("message %d: %d connections, want %d: %q", i, len(heard), step.conns, heard)
			}
			if got := w.store.Quirk(netip.MustParseAddrPort(mxAddr), tlsstore.QuirkNoEarly); got != step.quirk {
				t.Errorf("message %d: distrusted %v, want %v", i, got, step.quirk)
			}
			if want := 2*step.conns + 2; sum.Trips != want || sum.Saved.String() != "bdat:1" {
				t.Errorf("message %d: the record says %q, want %d trips", i, costs(sum), want)
			}
		}
		if n := len(hop.Messages()); n != 10 {
			t.Errorf("the hop has %d messages", n)
		}
	})
}

// A hop that is too busy now and then says so to everybody: that is no reason to
// distrust it.
func TestGuessBusy(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		busy := false
		hop := &refpeer.Server{Keywords: early(), Behave: func(ev refpeer.Event) refpeer.Action {
			if ev.Kind == refpeer.Connect && busy {
				busy = false
				return answer("421 4.7.0 too many connections")
			}
			return refpeer.Action{}
		}}
		w, _, _ := guessIn(t, hop)
		for range 5 {
			busy = true
			w.guessPositive(refpeer.Chunking) // on a second connection
			if sum := w.guessPositive(refpeer.Chunking); sum.Saved.early != 2 {
				t.Errorf("the record says %q", costs(sum))
			}
		}
	})
}

// One address, two machines, and each connection comes to the other of the two:
// every message arrives, once.
func TestGuessTwoMachines(t *testing.T) {
	lacks := func(change func(k *refpeer.Keywords)) func() *refpeer.Server {
		return func() *refpeer.Server { return &refpeer.Server{Keywords: lacking(change)} }
	}
	others := map[string]func() *refpeer.Server{
		"without early pipelining, strict": func() *refpeer.Server {
			return guessed{}.server(machine{keywords: refpeer.Modern(), strict: true}, testCert{}, false)
		},
		"without early pipelining": func() *refpeer.Server { return &refpeer.Server{Keywords: refpeer.Modern()} },
		"without CHUNKING":         lacks(func(k *refpeer.Keywords) { k.Chunking = false }),
		"without 8BITMIME":         lacks(func(k *refpeer.Keywords) { k.EightBitMIME = false }),
		"knows HELO alone":         func() *refpeer.Server { return &refpeer.Server{Old: true} },
	}
	for name, other := range others {
		for _, style := range []refpeer.Style{refpeer.LockStep, refpeer.Pipelining, refpeer.Chunking} {
			t.Run(fmt.Sprintf("%s/%v", name, style), func(t *testing.T) {
				synctest.Test(t, func(t *testing.T) {
					a, b := &refpeer.Server{Keywords: early()}, other()
					w, at, _ := guessIn(t, a)
					at.choose(func(n int) *refpeer.Server { return []*refpeer.Server{b, a, b}[n%3] })
					for range 20 {
						w.guessPositive(style)
						time.Sleep(time.Minute)
					}
					if n := len(a.Messages()) + len(b.Messages()); n != 21 {
						t.Errorf("they have %d messages, want 21", n)
					}
				})
			})
		}
	}
}

// A host that misled us and then does not serve us in lock step either: the next
// one does.
func TestGuessTwoHosts(t *testing.T) {
	const otherHost = "203.0.113.3"
	tests := map[string]struct {
		says  func(refpeer.Event) refpeer.Action
		heard []string // by the first host: E, M and so on
	}{
		"greeting 554": {greets(answerAndClose("554 5.7.1 no")), []string{"E M", ""}},
		"EHLO 421":     {says("EHLO", answerAndClose("421 4.3.2 no")), []string{"E M", "E"}},
		"MAIL 450":     {both(withdraws(false), says("MAIL", answer("450 4.7.1 no"))), []string{"E M", "E M Q"}},
		"stalls":       {greets(refpeer.Action{Stall: true}), []string{"E M", ""}},
	}
	for name, tt := range tests {
		for _, known := range []bool{false, true} {
			t.Run(fmt.Sprintf("%s/the second is known=%v", name, known), func(t *testing.T) {
				synctest.Test(t, func(t *testing.T) {
					first := &refpeer.Server{Keywords: early()}
					w, at, ears := guessIn(t, first)
					second := w.serve(otherHost+":25", &refpeer.Server{Keywords: early()})
					w.dns.mx["example.org"] = append(w.dns.mx["example.org"], &net.MX{Host: "mx2.example.org", Pref: 20})
					w.dns.addrs["mx2.example.org"] = []netip.Addr{netip.MustParseAddr(otherHost)}
					if known {
						key := tlsstore.PeerKey{Addr: netip.MustParseAddrPort(otherHost + ":25"), Hello: "proxy.example"}
						set, _ := w.store.Known(tlsstore.PeerKey{Addr: netip.MustParseAddrPort(mxAddr), Hello: "proxy.example"})
						w.store.Learn(key, set)
					}
					at.become(&refpeer.Server{Keywords: early(), Behave: tt.says})
					start := time.Now()
					sum := w.guessPositive(refpeer.LockStep)
					if took := time.Since(start); took > 4*time.Minute {
						t.Errorf("it took %v", took)
					}
					time.Sleep(time.Second)
					g := guessed{}.withDefaults()
					var want []string
					for _, conn := range tt.heard {
						want = append(want, g.octets(conn, g.mail)...)
					}
					heard := ears.take()
					for len(heard) < len(want) { // nothing was said there
						heard = append(heard, "")
					}
					if !slices.Equal(heard, want) {
						t.Errorf("the first host heard\n%q, want\n%q", heard, want)
					}
					if n := len(second.Messages()); n != 1 || len(first.Messages()) != 1 {
						t.Errorf("the second host has %d messages", n)
					}
					if early := sum.Saved.early > 0; early != known || !strings.HasPrefix(sum.Relay, "mx2.") {
						t.Errorf("the record says %s: %q", sum.Relay, costs(sum))
					}
				})
			})
		}
	}
}

// Nobody is spoken to early of whom nothing is known, or who is not among those
// that may be.
func TestGuessNever(t *testing.T) {
	tests := map[string]struct {
		bare   bool // nothing is kept
		door   func(*OutboundConfig)
		before func(*world) // each message
	}{
		"no hosts": {door: func(o *OutboundConfig) { o.HostsPipeConnect = Prefixes{} }},
		"other hosts": {door: func(o *OutboundConfig) {
			o.HostsPipeConnect = Prefixes{netip.MustParsePrefix("198.51.100.0/24")}
		}},
		"no store": {bare: true},
		"an emptied store": {before: func(w *world) {
			w.store.Forget(tlsstore.PeerKey{Addr: netip.MustParseAddrPort(mxAddr), Hello: "proxy.example"})
		}},
		"the control share": {door: func(o *OutboundConfig) { o.ControlShare = 1 }},
		"distrust": {before: func(w *world) {
			w.store.SetQuirk(netip.MustParseAddrPort(mxAddr), tlsstore.QuirkNoEarly, time.Hour)
		}},
		"records of a week": {before: func(*world) { time.Sleep(tlsstore.HelloLife + time.Second) }},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				w := newWorld(t)
				if !tt.bare {
					w.remember(tlsstore.Memory())
				}
				hop := w.serve(mxAddr, liar())
				w.outbound(func(o *OutboundConfig) { o.TLS = "none" })
				if tt.door != nil {
					tt.door(&w.cfg.Outbound[0])
				}
				w.start()
				for _, style := range []refpeer.Style{refpeer.LockStep, refpeer.Pipelining, refpeer.Chunking} {
					if tt.before != nil {
						tt.before(w)
					}
					if sum := w.guessPositive(style); sum.Saved.early != 0 {
						t.Errorf("the record says %q", costs(sum))
					}
				}
				if v := hop.Violations(); len(v) != 0 {
					t.Errorf("the hop saw %v", v)
				}
			})
		})
	}
}

// A recipient that was refused on a connection on which we guessed wrong may be
// refused for how we spoke, so its sender is asked to come again. The text was
// taken, for the others: that stands.
func TestGuessRefusedRecipientOfTakenText(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w, at, ears := guessIn(t, &refpeer.Server{Keywords: early()})
		now := &refpeer.Server{
			Keywords: refpeer.Modern(), RcptReplies: map[string]string{"c@example.org": "550 5.5.1 protocol error"},
		}
		at.become(now)
		two := usual(func(m *refpeer.Mail) { m.To = []string{"b@example.org", "c@example.org"} })
		said, err := w.guessSend(refpeer.Chunking, two, guessed{})
		if want := []string{"250", "250", "451", "250"}; err != nil || !slices.Equal(codesOf(said), want) {
			t.Fatalf("the client heard %q, %v", said, err)
		}
		if !strings.HasPrefix(said[2], "451 4.5.0 Slipstream: ") || !strings.Contains(said[2], "550 5.5.1 protocol error") {
			t.Errorf("the client is not told why: %q", said[2])
		}
		if n := len(ears.take()); n != 1 || len(now.Messages()) != 1 {
			t.Errorf("%d connections, %d messages", n, len(now.Messages()))
		}
	})
}

// A hop that closed before the early text arrived cannot have it: the message is
// sent again, and arrives once.
func TestGuessNothingArrived(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w, at, ears := guessIn(t, &refpeer.Server{Keywords: early()})
		g := guessed{odd: greets(refpeer.Action{Close: true})}
		now := g.server(machine{keywords: early()}, testCert{}, true)
		at.become(now)
		c := w.client(outboundAt)
		c.ask("EHLO client.example", "250")
		c.say("MAIL FROM:<a@client.example>", "RCPT TO:<b@example.org>", "DATA")
		c.want("250 ")
		c.want("250 ")
		c.want("354 ")
		time.Sleep(time.Second) // the connection is made meanwhile, and ends
		c.raw(tripBody + ".\r\n")
		c.want("250 2.0.0 ")
		if n := len(now.Messages()); n != 1 {
			t.Errorf("the hop has %d messages: %q", n, ears.take())
		}
	})
}

// An oldHop knows no CHUNKING any more: what follows BDAT are commands to it.
type oldHop struct {
	mu    sync.Mutex
	texts []string
}

func (h *oldHop) serve(conn net.Conn) {
	defer conn.Close()
	fmt.Fprint(conn, "220 mx.example ESMTP\r\n")
	in := bufio.NewScanner(conn)
	text, reading := "", false
	for in.Scan() {
		line := in.Text()
		verb := strings.ToUpper(line[:min(4, len(line))])
		switch {
		case reading && line == ".":
			h.mu.Lock()
			h.texts = append(h.texts, text)
			h.mu.Unlock()
			text, reading = "", false
			fmt.Fprint(conn, "250 taken\r\n")
		case reading:
			text += line + "\n"
		case verb == "EHLO":
			fmt.Fprint(conn, "250-mx.example\r\n250 PIPELINING\r\n")
		case verb == "MAIL", verb == "RCPT":
			fmt.Fprint(conn, "250 ok\r\n")
		case verb == "DATA":
			fmt.Fprint(conn, "354 go\r\n")
			reading = true
		case verb == "QUIT":
			fmt.Fprint(conn, "221 bye\r\n")
			return
		default:
			fmt.Fprint(conn, "500 unknown\r\n")
		}
	}
}

// A text is never sent to a hop that might take it for commands, and find one
// among them that brings a text of its own.
func TestGuessNoSmuggling(t *testing.T) {
	for name, tt := range map[string]struct {
		text  string
		rides bool
	}{
		"words":      {"Subject: x\r\n\r\nhello\r\n", true},
		"no text":    {"RSET\r\nMAIL FROM:<evil@example.net>\r\nRCPT TO:<victim@example.org>\r\n", true},
		"DATA":       {"Subject: x\r\n\r\nDATA\r\nSubject: smuggled\r\n\r\nevil\r\n.\r\n", false},
		"data ":      {"Subject: x\r\n\r\ndata \r\nSubject: smuggled\r\n\r\nevil\r\n.\r\n", false},
		"blank DATA": {"Subject: x\r\n\r\n \tDatA\r\nSubject: smuggled\r\n\r\nevil\r\n.\r\n", false},
		"first line": {"DATA\r\nSubject: smuggled\r\n\r\nevil\r\n.\r\n", false},
		"BDAT":       {"Subject: x\r\n\r\nBDAT 5 LAST\r\nevil\r\n", false},
	} {
		for _, style := range []refpeer.Style{refpeer.Pipelining, refpeer.Chunking} {
			t.Run(fmt.Sprintf("%s/%v", name, style), func(t *testing.T) {
				synctest.Test(t, func(t *testing.T) {
					w, _, ears := guessIn(t, &refpeer.Server{Keywords: early()})
					ln, err := w.net.Listen("203.0.113.9:25")
					if err != nil {
						t.Fatal(err)
					}
					hop := &oldHop{}
					var wg sync.WaitGroup
					wg.Go(func() {
						for {
							conn, err := ln.Accept()
							if err != nil {
								return
							}
							wg.Go(func() { hop.serve(conn) })
						}
					})
					defer wg.Wait()
					defer ln.Close()
					ears.to = netip.MustParseAddrPort("203.0.113.9:25")
					w.dns.addrs["mx.example.org"] = []netip.Addr{ears.to.Addr()}
					set, _ := w.store.Known(tlsstore.PeerKey{Addr: netip.MustParseAddrPort(mxAddr), Hello: "proxy.example"})
					w.store.Learn(tlsstore.PeerKey{Addr: ears.to, Hello: "proxy.example"}, set)
					said, err := w.guessSend(style, usual(func(m *refpeer.Mail) { m.Body = []byte(tt.text) }), guessed{})
					if err != nil || !positive(said) {
						t.Errorf("the client heard %q, %v", said, err)
					}
					time.Sleep(time.Second)
					if rides := strings.Contains(ears.take()[0], "BDAT"); rides != tt.rides {
						t.Errorf("the text went along early: %v, want %v", rides, tt.rides)
					}
					sent := strings.ReplaceAll(strings.ReplaceAll("\n"+tt.text, "\r\n", "\n"), "\n.", "\n..")[1:]
					if !slices.Equal(hop.texts, []string{sent}) {
						t.Errorf("the hop has %q", hop.texts)
					}
				})
			})
		}
	}
}
