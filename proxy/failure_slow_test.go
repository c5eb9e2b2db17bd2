package proxy

import (
	"fmt"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"slipstream/bench/netsim"
	"slipstream/bench/refpeer"
)

// Clients and flights that take their time while a hop dies.

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
		if pipelined && !s.inbound { // nothing of the hop's was said to the client before
			want = "550 5.1.1 gone meanwhile"
		}
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
