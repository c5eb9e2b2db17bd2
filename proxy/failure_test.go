package proxy

import (
	"crypto/tls"
	"errors"
	"fmt"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"pgregory.net/rapid"

	"slipstream/bench/refpeer"
)

// The death matrix. A hop dies or lies at every event of a conversation, in
// every way that was thought of; what a client must see is the same for all.

// Limits on our answers, as the documentation of the timeouts has them. Saying
// goodbye to a hop may cost a moment more.
const (
	failEnvelope = 4*time.Minute + 2*time.Second
	failFinal    = 9*time.Minute + 30*time.Second + 2*time.Second
)

// A failEvent is a moment at which a hop may fail.
type failEvent struct {
	name  string
	match func(refpeer.Event) bool
	start bool // no reply is due: words come on top
	tls   bool // there is no such moment without TLS
}

func failEvents(s failSetup) []failEvent {
	greet := "EHLO"
	if s.kind.name == "lmtp" {
		greet = "LHLO"
	}
	command := func(verb string, n int) func(refpeer.Event) bool {
		return func(ev refpeer.Event) bool {
			return ev.Kind == refpeer.Command && ev.Verb == verb && (ev.N == n || verb == "RCPT" && ev.N%2 == n || verb != "RCPT" && verb != greet)
		}
	}
	events := []failEvent{
		{name: "the greeting", match: func(ev refpeer.Event) bool { return ev.Kind == refpeer.Connect }},
		{name: greet, match: command(greet, 0)},
		{name: "MAIL", match: command("MAIL", 0)},
		{name: "the first RCPT", match: command("RCPT", 0)},
		{name: "the second RCPT", match: command("RCPT", 1)},
		{name: "DATA", match: command("DATA", 0)},
		{name: "the beginning of the text", start: true, match: func(ev refpeer.Event) bool { return ev.Kind == refpeer.DataStart }},
		{name: "the end of the text", match: func(ev refpeer.Event) bool { return ev.Kind == refpeer.EndOfData }},
		{name: "the last verdict", match: func(ev refpeer.Event) bool { return ev.Kind == refpeer.EndOfData && ev.Rcpt == 1 }},
		{name: "RSET", match: command("RSET", 0)},
		{name: "QUIT", match: command("QUIT", 0)},
	}
	if s.kind.old {
		events = append(events, failEvent{name: "HELO", match: command("HELO", 0)})
	}
	if s.tls != nil {
		events = append(events, failEvent{name: "STARTTLS", tls: true, match: command("STARTTLS", 0)},
			failEvent{name: greet + " inside TLS", tls: true, match: command(greet, 1)})
	}
	return events
}

// failFaults is everything that goes wrong at one moment.
func failFaults(at failEvent) []failFault {
	var list []failFault
	add := func(name string, f failFault, do func(ev refpeer.Event) refpeer.Action) {
		f.name, f.at, f.do = name+" at "+at.name, at.match, do
		list = append(list, f)
	}
	if at.start {
		liar := failFault{name: "250 before the text is there, 550 behind it", lies: true, permanent: true}
		liar.at = func(ev refpeer.Event) bool { return at.match(ev) || ev.Kind == refpeer.EndOfData }
		liar.do = func(ev refpeer.Event) refpeer.Action {
			if ev.Kind == refpeer.EndOfData {
				return refpeer.Say("550 5.0.0 late")
			}
			return refpeer.Say("250 2.0.0 early")
		}
		list = append(list, liar)
	}
	act := func(a refpeer.Action) func(refpeer.Event) refpeer.Action {
		return func(refpeer.Event) refpeer.Action { return a }
	}
	add("close", failFault{}, act(refpeer.Action{Close: true}))
	add("reset", failFault{}, act(refpeer.Action{Reset: true}))
	add("stall", failFault{}, act(refpeer.Action{Stall: true}))
	add("silence", failFault{lies: true}, act(refpeer.Action{Silent: true}))
	add("421 and close", failFault{closes421: true}, act(refpeer.Action{Reply: "421 4.3.2 going away\r\n", Close: true}))
	add("421 and stay", failFault{closes421: true, lies: true}, act(refpeer.Say("421 4.3.2 going away")))
	add("451", failFault{lies: at.start}, act(refpeer.Say("451 4.3.0 not now")))
	add("550", failFault{lies: at.start, permanent: true}, act(refpeer.Say("550 5.7.1 never")))
	add("550 and close", failFault{permanent: true}, act(refpeer.Action{Reply: "550 5.7.1 never\r\n", Close: true}))
	for _, garbage := range []string{"\x00\xff\xfe\r\n", "hello\r\n", "250 2.0.0 ok\n", "250-a\r\n251 b\r\n", "600 high\r\n", "150 low\r\n",
		"25\r\n", "\r\n", "250\t2.0.0 ok\r\n", "250 " + strings.Repeat("x", 5000) + "\r\n"} {
		add(fmt.Sprintf("garbage %.12q", garbage), failFault{lies: true}, act(refpeer.Action{Reply: garbage}))
	}
	for _, wrong := range []string{"220 what", "250 2.0.0 what", "354 what", "221 2.0.0 what"} {
		add("wrong reply "+wrong, failFault{lies: true, permanent: true}, act(refpeer.Say(wrong)))
	}
	add("half a reply and close", failFault{}, act(refpeer.Action{Reply: "250-2.0.0 he", Close: true}))
	add("half a reply and stall", failFault{}, act(refpeer.Action{Reply: "250-2.0.0 half\r\n", Stall: true}))
	if !at.start {
		add("twice", failFault{lies: true}, act(refpeer.Action{Twice: true}))
		for _, early := range []string{"250 2.0.0 early", "550 5.0.0 early", "421 4.0.0 early"} {
			add("too early "+early, failFault{lies: true, permanent: true, closes421: true}, func(ev refpeer.Event) refpeer.Action {
				return refpeer.Action{Reply: ev.Reply + "\r\n" + early + "\r\n"}
			})
		}
	}
	return list
}

// clean sends a message without a fault, to measure by.
func clean(t *testing.T, s failSetup, style string) (octets int64) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) {
		b := newFailBench(t, s)
		c, err := b.failClient()
		if err != nil {
			t.Fatal(err)
		}
		if res, err := c.send(style, "clean"); err != nil || !res.ok() {
			t.Fatal(res, err)
		}
		conns := b.hop.Connections()
		octets = conns[len(conns)-1].WireReceived.Total
	})
	return octets
}

// TestFailureAtEveryOctet breaks the connection when the hop has read so many
// octets, for every number of them.
func TestFailureAtEveryOctet(t *testing.T) {
	failEach(t, func(t *testing.T, s failSetup) {
		t.Parallel()
		for i, style := range failStyles() {
			total, step := clean(t, s, style), int64(1)
			if s.tls != nil {
				step = 97 // the handshake alone is two thousand octets
			}
			for n := int64(1); n <= total; n += step {
				for way := range int64(4) {
					cut := refpeer.Cut{After: n, Reset: way&1 != 0, Answered: way&2 != 0}
					if failAll() || (n+int64(i))%4 == way {
						failCase(t, s, failFault{name: fmt.Sprintf("%+v", cut), cut: cut, lies: true}, style)
					}
				}
			}
		}
	})
}

// TestFailureInsideFinalReply ends the verdict at every octet of it.
func TestFailureInsideFinalReply(t *testing.T) {
	const verdict = "250-2.0.0 taken\r\n250 2.0.0 queued as 4F\r\n"
	failEach(t, func(t *testing.T, s failSetup) {
		t.Parallel()
		for n := range len(verdict) + 1 {
			for i, a := range []refpeer.Action{{Close: true}, {Reset: true}, {Stall: true}} {
				a.Reply = verdict[:n]
				fault := failFault{name: fmt.Sprintf("%d octets of the verdict, then %+v", n, a)}
				fault.at = func(ev refpeer.Event) bool { return ev.Kind == refpeer.EndOfData }
				fault.do = func(refpeer.Event) refpeer.Action { return a }
				for _, style := range failTurns(n + i) {
					failCase(t, s, fault, style)
				}
			}
		}
	})
}

func TestFailureInHandshake(t *testing.T) {
	failEach(t, func(t *testing.T, s failSetup) {
		if s.tls == nil {
			return
		}
		for _, style := range failStyles() {
			failCase(t, s, failFault{name: "alert", handshake: func(*tls.ClientHelloInfo) error { return errors.New("no") }}, style)
			failCase(t, s, failFault{name: "stall", handshake: func(hello *tls.ClientHelloInfo) error {
				<-hello.Context().Done()
				return hello.Context().Err()
			}}, style)
		}
	})
}

func TestFailureAtEveryEvent(t *testing.T) {
	failEach(t, func(t *testing.T, s failSetup) {
		t.Parallel()
		for n, at := range failEvents(s) {
			for i, fault := range failFaults(at) {
				if s.tls != nil && !at.tls && (n+i)%3 != 0 && !failAll() {
					continue // what is inside TLS is as outside
				}
				for _, style := range failTurns(i) {
					failCase(t, s, fault, style)
				}
			}
		}
	})
}

// A failStep is one transaction of a random session.
type failStep struct {
	style string
	fault *failFault
}

// TestFailureRandomSessions has several messages sent on one connection to a hop
// that now and then fails in any way.
func TestFailureRandomSessions(t *testing.T) {
	kinds := failKinds()
	rapid.Check(t, func(rt *rapid.T) {
		s := failSetup{inbound: rapid.Bool().Draw(rt, "inbound"), kind: kinds[rapid.IntRange(0, len(kinds)-1).Draw(rt, "kind")]}
		events := failEvents(s)
		var steps []failStep
		for range rapid.IntRange(2, 6).Draw(rt, "messages") {
			step := failStep{style: rapid.SampledFrom(failStyles()).Draw(rt, "style")}
			if rapid.IntRange(0, 2).Draw(rt, "in order") > 0 {
				at := events[rapid.IntRange(0, len(events)-1).Draw(rt, "event")]
				faults := failFaults(at)
				step.fault = &faults[rapid.IntRange(0, len(faults)-1).Draw(rt, "fault")]
				rt.Log(s, step.style, step.fault.name)
			}
			steps = append(steps, step)
		}
		var err error
		synctest.Test(t, func(t *testing.T) { err = failSession(newFailBench(t, s), s, steps) })
		if err != nil {
			rt.Fatal(err)
		}
	})
}

func failSession(b *failBench, s failSetup, steps []failStep) error {
	c, err := b.failClient()
	if err != nil {
		return err
	}
	heard := make(map[string]failResult)
	for i, step := range steps {
		id := fmt.Sprintf("message%d", i)
		if c, heard[id], err = b.one(c, s, step.fault, step.style, id); err != nil {
			return fmt.Errorf("%s: %w", id, err)
		}
	}
	for id, res := range heard { // nothing may have followed
		if err := b.truthful(id, res); err != nil {
			return err
		}
	}
	if _, err := c.ask("QUIT", 0, 2); err != nil {
		return err
	}
	return c.wantEnd()
}
