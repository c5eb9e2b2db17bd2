package proxy

import (
	"context"
	"errors"
	"fmt"
	"net"
	"strings"
	"sync"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"go.uber.org/zap"
	"go.uber.org/zap/zaptest/observer"

	"slipstream/bench/refpeer"
)

// healthWorld has an LMTP door and one domain, whose host is at 203.0.113.21.
func healthWorld(t *testing.T, s *refpeer.Server, change ...func(*OutboundConfig)) (*world, *refpeer.Server) {
	w := newWorld(t)
	hop := w.lmtpDomain("dest.example", "203.0.113.21", s)
	w.outbound(append([]func(*OutboundConfig){func(o *OutboundConfig) {
		o.Protocol, o.LateVerdict, o.ConnectAhead, o.DestinationFailures = "lmtp", false, false, 3
	}}, change...)...)
	w.start()
	return w, hop
}

// tryOnce asks for one recipient and returns the answer.
func (w *world) tryOnce() string {
	w.t.Helper()
	c := w.lmtpClient()
	c.ask("MAIL FROM:<a@client.example>", "250 ")
	got := c.ask("RCPT TO:<b@dest.example>", "")
	c.ask("QUIT", "221 ")
	return got
}

// heardOf checks what begins a reply and what it has in it.
func heardOf(t *testing.T, got, prefix string, words ...string) {
	t.Helper()
	for _, word := range append(words, prefix) {
		if !strings.HasPrefix(got, prefix) || !strings.Contains(got, word) {
			t.Errorf("heard %q, want %q with %q", got, prefix, word)
		}
	}
}

// A destination that nobody answers at: three are tried, the others hear so at
// once, one tries when the time has come, and success ends it.
func TestHealthOfTheDead(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w, _ := healthWorld(t, nil)
		for range 3 {
			heardOf(t, w.tryOnce(), "451 4.4.1 Slipstream: mx.dest.example[203.0.113.21]:25: connecting: ", "refused")
		}
		until := time.Now().Add(time.Minute)
		next := "; next attempt at " + until.UTC().Format(time.RFC3339)
		for range 3 {
			got := w.tryOnce()
			heardOf(t, got, "451 4.4.1 Slipstream: mx of dest.example: last trouble: ",
				"trouble: mx.dest.example[203.0.113.21]:25: connecting: ", next)
			time.Sleep(10 * time.Second)
		}
		if n := w.counter("slipstream_destination_refusals_total", w.proxy.doors[0].name); n != 3 {
			t.Errorf("%v fast refusals", n)
		}
		time.Sleep(time.Until(until))
		heardOf(t, w.tryOnce(), "451 4.4.1 Slipstream: mx.dest.example[")
		until = time.Now().Add(2 * time.Minute)
		heardOf(t, w.tryOnce(), "451 4.4.1 Slipstream: mx of dest.example: ",
			"; next attempt at "+until.UTC().Format(time.RFC3339))
		w.serve("203.0.113.21:25", &refpeer.Server{Keywords: refpeer.Modern()})
		heardOf(t, w.tryOnce(), "451 4.4.1 Slipstream: mx of dest.example: ")
		time.Sleep(time.Until(until))
		for range 2 {
			heardOf(t, w.tryOnce(), "250 ")
		}
		if len(w.proxy.health.known) != 0 || w.proxy.health.failing.Len() != 0 {
			t.Errorf("left over: %v", w.proxy.health.known)
		}
	})
}

// While one transaction tries for all, the others hear what they would hear
// before it, and its client's leaving leaves it to the next.
func TestHealthOneTries(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w, _ := healthWorld(t, nil)
		for range 3 {
			w.tryOnce()
		}
		w.net.Blackhole("203.0.113.21:25")
		time.Sleep(time.Minute)
		began := time.Now()
		first := w.lmtpClient()
		first.ask("MAIL FROM:<a@client.example>", "250 ")
		first.say("RCPT TO:<b@dest.example>")
		synctest.Wait()
		for range 5 {
			heardOf(t, w.tryOnce(), "451 4.4.1 Slipstream: mx of dest.example: last trouble: ",
				"; an attempt is under way since "+began.UTC().Format(time.RFC3339))
		}
		if time.Since(began) != 0 {
			t.Errorf("others waited %v", time.Since(began))
		}
		first.want("451 4.4.1 Slipstream: mx.dest.example[203.0.113.21]:25: connecting: no progress in 30s")
		heardOf(t, w.tryOnce(), "451 4.4.1", "; next attempt at ")
	})
}

// What counts as not reached, and what does not.
func TestHealthWhatCounts(t *testing.T) {
	at := func(kind refpeer.Kind, verb string, a refpeer.Action) *refpeer.Server {
		return &refpeer.Server{Keywords: refpeer.Modern(), Behave: func(ev refpeer.Event) refpeer.Action {
			if ev.Kind == kind && (verb == "" || ev.Verb == verb) {
				return a
			}
			return refpeer.Action{}
		}}
	}
	for name, tt := range map[string]struct {
		server *refpeer.Server
		change func(*OutboundConfig)
		paused bool
	}{
		"greeting 421": {at(refpeer.Connect, "", refpeer.Say("421 4.3.2 busy")), nil, true},
		"greeting 554": {at(refpeer.Connect, "", refpeer.Say("554 5.3.2 no mail here")), nil, true},
		"hangs up":     {at(refpeer.Connect, "", refpeer.Action{Close: true}), nil, true},
		"silent":       {at(refpeer.Connect, "", refpeer.Action{Stall: true}), nil, true},
		"EHLO 421":     {at(refpeer.Command, "EHLO", refpeer.Say("421 4.3.2 busy")), nil, true},
		"no TLS": {&refpeer.Server{Keywords: refpeer.Modern()},
			func(o *OutboundConfig) { o.TLS = "verify" }, true},
		"MAIL 421":          {at(refpeer.Command, "MAIL", refpeer.Say("421 4.3.2 busy")), nil, false},
		"MAIL 451":          {at(refpeer.Command, "MAIL", refpeer.Say("451 4.3.0 later")), nil, false},
		"MAIL 550":          {at(refpeer.Command, "MAIL", refpeer.Say("550 5.7.1 no")), nil, false},
		"RCPT 450":          {at(refpeer.Command, "RCPT", refpeer.Say("450 4.2.1 greylisted")), nil, false},
		"RCPT 421":          {at(refpeer.Command, "RCPT", refpeer.Say("421 4.3.2 busy")), nil, false},
		"nobody, but never": {nil, func(o *OutboundConfig) { o.DestinationFailures = 0 }, false},
		"nobody, no pause":  {nil, func(o *OutboundConfig) { o.DestinationPause = 0 }, false},
		"nobody, once":      {nil, func(o *OutboundConfig) { o.DestinationFailures = 1 }, true},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				change := tt.change
				if change == nil {
					change = func(*OutboundConfig) {}
				}
				w, _ := healthWorld(t, tt.server, change)
				for range 5 {
					if got := w.tryOnce(); got[0] == '2' {
						t.Fatalf("heard %q", got)
					}
				}
				if got := strings.HasPrefix(w.tryOnce(), "451 4.4.1 Slipstream: mx of dest.example: "); got != tt.paused {
					t.Errorf("let alone: %t, want %t", got, tt.paused)
				}
			})
		})
	}
}

// A relay is all there is: the MTA's own health logic is for that.
func TestHealthNotOfARelay(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w, _ := healthWorld(t, nil, func(o *OutboundConfig) {
			o.Route, o.Offer, o.Relay = "", nil, Endpoint{Host: "203.0.113.21", Port: 25}
		})
		for range 10 {
			heardOf(t, w.tryOnce(), "451 4.4.1 Slipstream: ", "refused")
		}
	})
}

// A reload keeps what is known, and the rule is that of the new configuration.
func TestHealthSurvivesReload(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w, _ := healthWorld(t, nil)
		for range 3 {
			w.tryOnce()
		}
		w.cfg.Outbound[0].DestinationPause = time.Hour / 2
		if err := w.proxy.Reload(t.Context(), w.cfg); err != nil {
			t.Fatal(err)
		}
		heardOf(t, w.tryOnce(), "451 4.4.1 Slipstream: mx of dest.example: ")
		w.cfg.Outbound[0].DestinationFailures = 0
		if err := w.proxy.Reload(t.Context(), w.cfg); err != nil {
			t.Fatal(err)
		}
		heardOf(t, w.tryOnce(), "451 4.4.1 Slipstream: mx.dest.example[")
	})
}

// One transaction, several destinations, one of them let alone: the others have
// the message, and each recipient hears its own.
func TestHealthAmongOthers(t *testing.T) {
	for _, late := range []bool{false, true} {
		synctest.Test(t, func(t *testing.T) {
			w, _ := healthWorld(t, nil, func(o *OutboundConfig) { o.LateVerdict, o.ConnectAhead = late, late })
			good := w.lmtpDomain("good.example", "203.0.113.22", &refpeer.Server{Keywords: refpeer.Modern()})
			for range 3 {
				w.tryOnce()
			}
			w.net.Blackhole("203.0.113.21:25") // it would be felt
			began := time.Now()
			c := w.lmtpClient()
			c.say("MAIL FROM:<a@client.example>", "RCPT TO:<a@good.example>", "RCPT TO:<b@dest.example>",
				"RCPT TO:<c@good.example>", "DATA")
			c.want("250 ")
			c.want("250 ")
			if late {
				c.want("250 ")
			} else {
				c.want("451 4.4.1 Slipstream: mx of dest.example: ")
			}
			c.want("250 ")
			c.want("354 ")
			c.say("Subject: x", "", "text", ".")
			c.want("250 ")
			if late {
				c.want("451 4.4.1 Slipstream: mx of dest.example: ")
			}
			c.want("250 ")
			if m := good.Messages(); len(m) != 1 || len(m[0].Rcpts) != 2 {
				t.Errorf("the living have %+v", m)
			}
			if took := time.Since(began); took != 0 {
				t.Errorf("it took %v", took)
			}
		})
	}
}

// healthTable is a table alone, with a rule.
func healthTable() (*health, *healthRule, *observer.ObservedLogs) {
	core, logs := observer.New(zap.InfoLevel)
	h := newHealth(zap.New(core), NewMetrics(prometheus.NewRegistry()), nil)
	return h, &healthRule{health: h, failures: 3, pause: time.Minute}, logs
}

// The pause doubles, up to half an hour, is told at each change, and is forgotten
// when nobody has asked for long.
func TestHealthPauses(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h, rule, logs := healthTable()
		at := destination{"out", "d.example"}
		fail := func() {
			a, err := rule.begin(at)
			if err != nil {
				t.Fatal(err)
			}
			a.failed(errors.New("one\ntwo"))
			a.over()
		}
		for range 3 {
			fail()
		}
		for _, minutes := range []int{1, 2, 4, 8, 16, 30, 30} {
			if d := h.known[at].pause; d != time.Duration(minutes)*time.Minute {
				t.Errorf("pause of %v, want %d minutes", d, minutes)
			}
			_, err := rule.begin(at)
			if err == nil || !strings.Contains(err.Error(), "last trouble: one; two; next attempt at ") {
				t.Error(err)
			}
			time.Sleep(h.known[at].pause)
			fail()
		}
		time.Sleep(30*time.Minute + failuresCount + time.Second)
		fail()
		if c := h.known[at]; c.failures != 1 || c.pause != 0 {
			t.Errorf("old failures still count: %+v", c)
		}
		a, _ := rule.begin(at)
		a.reached()
		a.over()
		if n := logs.FilterMessage("destination cannot be reached: its mail is put off").Len(); n != 8 {
			t.Errorf("%d lines about pauses", n)
		}
		if len(h.known) != 0 || h.failing.Len() != 0 {
			t.Error("left over")
		}
	})
}

// Attempts that began before something was known do not tell otherwise; those that
// were given up, or failed for want of our own means, tell nothing.
func TestHealthOldNews(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h, rule, _ := healthTable()
		at := destination{"out", "d.example"}
		var slow []*attempt
		for range 20 {
			a, err := rule.begin(at)
			if err != nil {
				t.Fatal(err)
			}
			slow = append(slow, a)
		}
		time.Sleep(time.Second)
		a, _ := rule.begin(at)
		a.reached()
		for _, old := range slow[:10] {
			old.failed(errors.New("timeout"))
		}
		if h.known[at].failures != 0 {
			t.Error("failures count that began before it was reached")
		}
		time.Sleep(time.Second)
		for range 3 {
			a, err := rule.begin(at)
			if err != nil {
				t.Fatal(err)
			}
			a.failed(errors.New("refused"))
		}
		for _, old := range slow[10:15] {
			old.failed(errors.New("timeout"))
		}
		if c := h.known[at]; c.failures != 3 || c.pause != time.Minute {
			t.Errorf("failures count that began before the pause: %+v", c)
		}
		time.Sleep(time.Minute)
		probe, err := rule.begin(at)
		if err != nil {
			t.Fatal(err)
		}
		probe.over() // its client left
		if probe, err = rule.begin(at); err != nil {
			t.Fatalf("nobody may try any more: %v", err)
		}
		slow[15].reached() // one of before came through after all
		probe.failed(errors.New("refused"))
		if c := h.known[at]; c.failures != 0 || c.pause != 0 {
			t.Errorf("an attempt counts that began before it was reached: %+v", c)
		}
		for _, old := range slow[16:] {
			old.over()
		}
		if len(h.known) != 0 {
			t.Error("left over")
		}
	})
	for _, err := range []error{
		context.Canceled, &peerError{err: fmt.Errorf("dial: %w", syscall.EMFILE)},
		&peerError{err: &crowdedError{why: "no place"}}, errors.Join(errors.New("x"), errCut),
	} {
		if !noFault(err) {
			t.Errorf("%v is held against the destination", err)
		}
	}
	refused := &peerError{err: &net.OpError{Op: "dial", Err: syscall.ECONNREFUSED}}
	if noFault(refused) || noFault(&waitError{what: "the next hop"}) {
		t.Error("a refused connection, or silence, is not held against the destination")
	}
}

// There are so many failing destinations at the most; the first to fail goes.
func TestHealthIsBounded(t *testing.T) {
	h, rule, _ := healthTable()
	for i := range maxFailing + 500 {
		at := destination{"out", fmt.Sprint(i)}
		for range 3 {
			a, err := rule.begin(at)
			if err != nil {
				t.Fatal(err)
			}
			a.failed(errors.New("refused"))
		}
	}
	if len(h.known) != maxFailing || h.failing.Len() != maxFailing {
		t.Errorf("%d are known", len(h.known))
	}
	for _, tt := range []struct {
		route string
		known bool
	}{{"0", false}, {"499", false}, {"500", true}, {fmt.Sprint(maxFailing + 499), true}} {
		if h.known[destination{"out", tt.route}] != nil != tt.known {
			t.Errorf("%s is known: %t", tt.route, !tt.known)
		}
	}
}

// Many at once: one tries, whatever the moment.
func TestHealthCrowd(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h, rule, _ := healthTable()
		at := destination{"out", "d.example"}
		var mu sync.Mutex
		under, most, tried := 0, 0, 0
		var wg sync.WaitGroup
		for range 3 {
			a, _ := rule.begin(at)
			a.failed(errors.New("refused"))
		}
		for i := range 2000 {
			wg.Go(func() {
				time.Sleep(time.Duration(i) * 500 * time.Millisecond)
				a, err := rule.begin(at)
				if err != nil {
					return
				}
				defer a.over()
				mu.Lock()
				under, tried = under+1, tried+1
				most = max(most, under)
				mu.Unlock()
				time.Sleep(20 * time.Second)
				mu.Lock()
				under--
				mu.Unlock()
				a.failed(errors.New("timeout"))
			})
		}
		wg.Wait()
		if most != 1 || tried < 3 || tried > 5 {
			t.Errorf("%d tried in a quarter of an hour, %d at a time", tried, most)
		}
		if h.known[at].attempts != 0 {
			t.Error("attempts are left over")
		}
	})
}
