package proxy

import (
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"slipstream/bench/refpeer"
	"slipstream/proxy/once"
	"slipstream/tlsstore"
)

// A fanWorld is an outbound door that sends to several destinations at once, and
// hops whose answers a test may change.
type fanWorld struct {
	*world
	kv   *failingKV
	hops []*refpeer.Server
}

// A failingKV takes nothing while it is told so.
type failingKV struct {
	tlsstore.KV
	failing atomic.Bool
	writes  atomic.Int64
}

var errNoRoom = errors.New("no room")

func (kv *failingKV) Set(key, value []byte, ttl time.Duration) error {
	kv.writes.Add(1)
	if kv.failing.Load() {
		return errNoRoom
	}
	return kv.KV.Set(key, value, ttl)
}

func (kv *failingKV) Delete(key []byte) error {
	kv.writes.Add(1)
	return kv.KV.Delete(key)
}

func newFanWorld(t *testing.T, change ...func(*OutboundConfig)) *fanWorld {
	t.Helper()
	f := &fanWorld{world: newWorld(t), kv: &failingKV{KV: tlsstore.Memory()}}
	f.outbound(append(change, func(o *OutboundConfig) { o.ReplyAttribution = attributionOff })...)
	memory, err := once.Open(f.kv, once.Options{})
	if err != nil {
		t.Fatal(err)
	}
	f.once = memory
	t.Cleanup(func() { _ = memory.Close() })
	return f
}

// hop adds a destination NAME.example with final replies for its recipients.
func (f *fanWorld) hop(name string, finals map[string]string) *refpeer.Server {
	s := &refpeer.Server{Keywords: refpeer.Modern(), FinalReplies: finals, RcptReplies: map[string]string{}}
	f.lmtpDomain(name+".example", fmt.Sprintf("203.0.113.%d", 11+len(f.hops)), s)
	f.hops = append(f.hops, s)
	return s
}

// wantCopies checks how often each recipient has the message.
func (f *fanWorld) wantCopies(want ...string) {
	f.t.Helper()
	got := f.copies()
	slices.Sort(want)
	if !slices.Equal(got, want) {
		f.t.Errorf("delivered to %q, want %q", got, want)
	}
}

func (f *fanWorld) copies() (got []string) {
	for _, s := range f.hops {
		for _, m := range s.Messages() {
			got = append(got, m.Recipients()...)
		}
		for _, v := range s.Violations() {
			f.t.Error(v)
		}
	}
	slices.Sort(got)
	return got
}

// wantHeld checks how many outcomes are remembered.
func (f *fanWorld) wantHeld(want int) {
	f.t.Helper()
	synctest.Wait()
	if got := f.once.Stats().Outcomes; got != want {
		f.t.Errorf("%d outcomes are remembered, want %d", got, want)
	}
}

const fanMail = "MAIL FROM:<s@client.example>"

func fanTo(recipients ...string) string {
	return fanMail + "\r\nRCPT TO:<" + strings.Join(recipients, ">\r\nRCPT TO:<") + ">\r\nDATA"
}

// All agree: that reply, in one attempt, and nothing is written.
func TestFanoutAgrees(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newFanWorld(t)
		f.hop("one", nil)
		f.hop("two", nil)
		f.hop("three", map[string]string{"no@three.example": "550 5.7.1 not this"})
		f.start()
		before := f.kv.writes.Load()
		c := f.client(outboundAt)
		offered := c.ask("EHLO client.example", "250")
		if strings.Contains(offered, "LIMITS") {
			t.Errorf("a client that may send to everybody at once is told %q", offered)
		}
		c.talk(fanTo("a@one.example", "b@two.example", "c@three.example", "d@one.example"), "250 | 250 | 250 | 250 | 250 | 354 ",
			hostileText+".", "250 2.0.0",
			// In lock step too.
			fanMail, "250 ", "RCPT TO:<e@two.example>", "250 ", "RCPT TO:<e@one.example>", "250 ", "DATA", "354 ",
			hostileText+".", "250 2.0.0",
			// Who is refused at RCPT hears his own hop.
			fanTo("f@one.example", "x@nowhere.example"), "250 | 250 | 550 5.1.2 | 354 ", hostileText+".", "250 2.0.0",
			"QUIT", "221 ")
		f.wantCopies("a@one.example", "b@two.example", "c@three.example", "d@one.example", "e@two.example", "e@one.example",
			"f@one.example")
		f.wantHeld(0)
		if n := f.kv.writes.Load() - before; n != 0 {
			t.Errorf("%d writes", n)
		}
	})
}

// They differ: who has it does not get it again, who was refused for good hears
// so alone, who was put off gets it later.
func TestFanoutDiffers(t *testing.T) {
	const apart = "451 4.5.3 Slipstream: the answer for this recipient is not that for the others"
	all := []string{"later@three.example", "a@one.example", "no@two.example", "d@one.example"}
	for _, lockStep := range []bool{false, true} {
		t.Run(fmt.Sprintf("lock step %t", lockStep), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				f := newFanWorld(t)
				f.hop("one", nil)
				f.hop("two", map[string]string{"no@two.example": "550 5.7.1 not this"})
				third := f.hop("three", map[string]string{"later@three.example": "451 4.7.1 later"})
				f.start()
				c := f.client(outboundAt)
				c.ask("EHLO client.example", "250")
				attempt := func(to []string, replies []string, final string) {
					t.Helper()
					if lockStep {
						c.ask(fanMail, "250 ")
						for i, r := range to {
							c.ask("RCPT TO:<"+r+">", replies[i])
						}
						c.ask("DATA", "354 ")
					} else {
						c.talk(fanTo(to...), "250 | "+strings.Join(replies, " | ")+" | 354 ")
					}
					c.talk(hostileText+".", final)
				}
				ok := []string{"250 ", "250 ", "250 ", "250 "}
				attempt(all, ok, "451 4.3.0 Slipstream: 2 of 4 recipients have the message")
				f.wantHeld(4)
				// The refused goes first.
				attempt(all, []string{apart, apart, "250 ", apart}, "550 5.7.1 not this")
				left := []string{all[0], all[1], all[3]}
				attempt(left, ok[:3], "451 4.3.0 Slipstream: 2 of 3 recipients have the message")
				third.FinalReplies = nil
				attempt(left, ok[:3], "250 2.0.0")
				c.talk("QUIT", "221 ")
				f.wantCopies("a@one.example", "d@one.example", "later@three.example")
				f.wantHeld(0)
				if n := len(f.hops[0].Messages()) + len(f.hops[1].Refused()); n != 2 {
					t.Errorf("%d messages to those who had answered for good, want 2", n)
				}
				// What looks alike is another message.
				c = f.client(outboundAt)
				c.ask("EHLO client.example", "250")
				c.talk(fanTo(left...), "250 | 250 | 250 | 250 | 354 ", hostileText+".", "250 2.0.0", "QUIT", "221 ")
				f.wantHeld(0)
				if n := len(f.copies()); n != 6 {
					t.Errorf("%d copies, want 6", n)
				}
			})
		})
	}
}

// Who asks for the refused and never sends to him again is not kept waiting for
// ever, and nor is the refused, whoever is put off beside him.
func TestFanoutTakesTurns(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newFanWorld(t)
		f.hop("one", nil)
		f.hop("two", map[string]string{"no@two.example": "550 5.7.1 not this"})
		f.start()
		c := f.client(outboundAt)
		c.ask("EHLO client.example", "250")
		c.talk(fanTo("a@one.example", "no@two.example"), "250 | 250 | 250 | 354 ", hostileText+".", "451 4.3.0",
			// Nobody can know that the refused does not come.
			fanMail, "250 ", "RCPT TO:<a@one.example>", "451 4.5.3", "RSET", "250 ",
			fanMail, "250 ", "RCPT TO:<a@one.example>", "250 ", "DATA", "354 ", hostileText+".", "250 2.0.0",
			fanTo("no@two.example"), "250 | 250 | 354 ", hostileText+".", "550 5.7.1 not this",
			"QUIT", "221 ")
		f.wantCopies("a@one.example")
		f.wantHeld(0)
	})
}

// Without a memory a client sends to each destination on its own; where it is
// lost in the middle of a transaction, nothing is sent.
func TestFanoutWithoutMemory(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newFanWorld(t)
		f.hop("one", nil)
		f.hop("two", map[string]string{"no@two.example": "550 5.7.1 not this"})
		f.start()
		c := f.client(outboundAt)
		c.ask("EHLO client.example", "250")
		f.kv.failing.Store(true)
		c.talk(fanTo("a@one.example", "no@two.example"), "250 | 250 | 250 | 354 ", hostileText+".", "451 4.3.0")
		// It did not reach the disk, but is held.
		c.talk(fanMail, "250 ", "RCPT TO:<a@one.example>", "451 4.5.3 ", "RCPT TO:<no@two.example>", "250 ",
			"RCPT TO:<b@one.example>", "451 4.5.3 ", "RSET", "250 ")
		c.talk(fanMail, "250 ", "RCPT TO:<b@one.example>", "250 ", "RCPT TO:<b@two.example>",
			"451 4.5.3 Slipstream: one destination", "DATA", "354 ", hostileText+".", "250 2.0.0")
		if offered := c.ask("EHLO client.example", "250"); !strings.Contains(offered, "LIMITS RCPTDOMAINMAX=1") {
			t.Errorf("offered %q", offered)
		}
		f.kv.failing.Store(false)
		time.Sleep(time.Hour)
		c = f.client(outboundAt)
		c.ask("EHLO client.example", "250")
		c.talk(fanMail, "250 ", "RCPT TO:<c@one.example>", "250 ", "RCPT TO:<c@two.example>", "250 ", "DATA", "354 ")
		_ = f.once.Close()
		c.talk(hostileText+".", "451 4.3.0", "QUIT", "221 ")
		f.wantCopies("a@one.example", "b@one.example")
	})
}

// A client that leaves before it can have heard comes again, and hears.
func TestFanoutVanishedClient(t *testing.T) {
	for _, protocol := range []string{"smtp", "lmtp"} {
		t.Run(protocol, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				f := newFanWorld(t, func(o *OutboundConfig) { o.Protocol = protocol })
				hop := f.hop("one", nil)
				hop.Behave = func(e refpeer.Event) refpeer.Action {
					if e.Kind == refpeer.EndOfData {
						return refpeer.Action{Delay: time.Minute}
					}
					return refpeer.Action{}
				}
				f.start()
				hello := "EHLO client.example"
				if protocol == "lmtp" {
					hello = "LHLO client.example"
				}
				c := f.client(outboundAt)
				c.ask(hello, "250")
				c.talk(fanTo("a@one.example"), "250 | 250 | 354 ")
				c.say(hostileText + ".")
				time.Sleep(time.Second)
				_ = c.conn.Close()
				time.Sleep(5 * time.Minute)
				f.wantCopies("a@one.example")
				f.wantHeld(1)
				c = f.client(outboundAt)
				c.ask(hello, "250")
				c.talk(fanTo("a@one.example"), "250 | 250 | 354 ", hostileText+".", "250 2.0.0", "QUIT", "221 ")
				f.wantCopies("a@one.example")
				f.wantHeld(0)
				c = f.client(outboundAt)
				c.ask(hello, "250")
				c.talk(fanTo("a@one.example"), "250 | 250 | 354 ", hostileText+".", "250 2.0.0")
				_ = c.conn.Close() // it has heard
				time.Sleep(5 * time.Minute)
				f.wantCopies("a@one.example", "a@one.example")
				f.wantHeld(0)
			})
		})
	}
}

// An LMTP hop answers for each recipient: those who have the message do not get it
// again where others of the same hop do.
func TestFanoutToLMTP(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newFanWorld(t, func(o *OutboundConfig) {
			o.Route, o.Offer = "", nil
			o.Relay = Endpoint{Host: "203.0.113.50", Port: 24, LMTP: true}
		})
		hop := &refpeer.Server{LMTP: true, Keywords: refpeer.Modern(),
			FinalReplies: map[string]string{"later@x.example": "451 4.2.2 full", "no@x.example": "550 5.1.1 nobody"}}
		f.serve("203.0.113.50:24", hop)
		f.start()
		c := f.client(outboundAt)
		c.ask("EHLO client.example", "250")
		c.talk(fanTo("a@x.example", "later@x.example", "no@x.example"), "250 | 250 | 250 | 250 | 354 ", hostileText+".", "451 4.3.0",
			fanTo("a@x.example", "later@x.example", "no@x.example"), "250 | 451 | 451 | 250 | 354 ", hostileText+".", "550 5.1.1 nobody")
		hop.FinalReplies = nil
		c.talk(fanTo("a@x.example", "later@x.example"), "250 | 250 | 250 | 354 ", hostileText+".", "250 2.0.0", "QUIT", "221 ")
		var got []string
		for _, m := range hop.Messages() {
			got = append(got, strings.Join(m.Recipients(), " "))
		}
		if want := []string{"a@x.example later@x.example no@x.example", "later@x.example"}; !slices.Equal(got, want) {
			t.Errorf("the hop got %q, want %q", got, want)
		}
		f.wantHeld(0)
	})
}

// With PRDR each recipient has a final reply, wherever it is: nothing has to be
// remembered.
func TestFanoutPRDR(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newFanWorld(t)
		f.hop("one", nil)
		f.hop("two", map[string]string{"no@two.example": "550 5.7.1 not this"})
		f.hop("three", map[string]string{"later@three.example": "451 4.7.1 later"})
		f.kv.failing.Store(true) // nor can it be
		f.start()
		c := f.client(outboundAt)
		c.ask("EHLO client.example", "250")
		c.talk(prdrTo("a@one.example", "no@two.example", "later@three.example", "b@one.example"),
			"250 | 250 | 250 | 250 | 250 | 354 ", hostileText+".",
			"353 | 250 2.0.0 taken | 550 5.7.1 not this | 451 4.7.1 later | 250 2.0.0 taken | 250 2.0.0 taken", "QUIT", "221 ")
		f.wantCopies("a@one.example", "b@one.example")
		f.wantHeld(0)
	})
}

// With "single" each recipient comes on its own, also to one destination.
func TestFanoutSingle(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newFanWorld(t, func(o *OutboundConfig) { o.Split = splitSingle })
		f.hop("one", nil)
		f.start()
		c := f.client(outboundAt)
		if offered := c.ask("EHLO client.example", "250"); !strings.Contains(offered, "LIMITS RCPTMAX=1") ||
			strings.Contains(offered, "PRDR") {
			t.Errorf("offered %q", offered)
		}
		c.talk(fanTo("a@one.example", "b@one.example"), "250 | 250 | 452 4.5.3 | 354 ", hostileText+".", "250 2.0.0",
			fanTo("b@one.example"), "250 | 250 | 354 ", hostileText+".", "250 2.0.0", "QUIT", "221 ")
		f.wantCopies("a@one.example", "b@one.example")
	})
}

// Should the service be killed while one of several hops takes its time, what the
// others have is written down; where all agree in the end, it is forgotten.
func TestFanoutSlowLeg(t *testing.T) {
	for _, protocol := range []string{"smtp", "lmtp"} {
		t.Run(protocol, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				f := newFanWorld(t, func(o *OutboundConfig) { o.Protocol = protocol })
				f.hop("one", nil)
				slow := f.hop("two", nil)
				slow.Behave = func(e refpeer.Event) refpeer.Action {
					if e.Kind == refpeer.EndOfData {
						return refpeer.Action{Delay: time.Minute}
					}
					return refpeer.Action{}
				}
				f.start()
				hello := "EHLO client.example"
				if protocol == "lmtp" {
					hello = "LHLO client.example"
				}
				c := f.client(outboundAt)
				c.ask(hello, "250")
				c.talk(fanTo("a@one.example", "b@two.example"), "250 | 250 | 250 | 354 ")
				c.say(hostileText + ".")
				time.Sleep(10 * time.Second)
				f.wantHeld(1)
				c.want("250 2.0.0")
				if protocol == "lmtp" {
					c.want("250 2.0.0")
				}
				c.ask("NOOP", "250 ")
				f.wantHeld(0)
				f.wantCopies("a@one.example", "b@two.example")
				c.talk("QUIT", "221 ")
			})
		})
	}
}

// Exim takes a refusal for good at the end of data for recipients too that were told
// 452 behind one that was accepted: where one was, the refusal waits until its
// recipient comes without them.
func TestFanoutRefusalBehind452(t *testing.T) {
	for _, split := range []string{split452, splitSingle, splitFanout} {
		t.Run(split, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				f := newFanWorld(t, func(o *OutboundConfig) { o.Split = split })
				f.hop("one", map[string]string{"no@one.example": "550 5.7.1 not this"})
				f.hop("two", nil).RcptReplies["full@two.example"] = "452 4.2.2 full"
				f.start()
				c := f.client(outboundAt)
				c.ask("EHLO client.example", "250")
				to := fanTo("no@one.example", "full@two.example")
				c.talk(to, "250 | 250 | 452 4. | 354 ", hostileText+".", "451 4.3.0 Slipstream: 0 of 1 recipients",
					to, "250 | 250 | 451 4.5.3 | 354 ", hostileText+".", "550 5.7.1 not this",
					fanTo("full@two.example"), "250 | 250 | 354 ", hostileText+".", "452 4.2.2 full", "QUIT", "221 ")
				f.wantCopies()
				f.wantHeld(0)
			})
		})
	}
}
