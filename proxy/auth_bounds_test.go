package proxy

import (
	"fmt"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"slipstream/auth"
	"slipstream/bench/refpeer"
	"slipstream/smtpwire"
)

// The sizes that we tell a client and a hop leave room for what is put on top.
func TestAuthSize(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		hop := w.serve(backendAddr, &refpeer.Server{Keywords: refpeer.Keywords{Pipelining: true, Size: 1_000_000, EightBitMIME: true}})
		w.judged(func(in *InboundConfig) { in.AddReceived = true })
		w.start()
		c := w.client(inboundAt)
		offered := c.ask("EHLO client.example", "250")
		if want := fmt.Sprintf("SIZE %d\n", 1000000-headerGrowth-resultsGrowth); !strings.Contains(offered+"\n", want) {
			t.Errorf("offered %q, want %q", offered, want)
		}
		text := honestText
		c.talk(fmt.Sprintf("MAIL FROM:<a@author.example> SIZE=%d\r\nRCPT TO:<b@example.net>\r\nDATA", len(text)), "250 | 250 | 354 ")
		c.raw(text + ".\r\n")
		c.want("250 ")
		m := hop.Messages()[0]
		if declared, ok := declaredSize(smtpwire.ParseCommand([]byte(m.From))); !ok || declared < int64(len(m.Body)) {
			t.Errorf("%d octets were declared, and %d came", declared, len(m.Body))
		}
		c.talk("QUIT", "221 ")
	})
}

// A message in an international envelope has its field in its own script, and still one that cannot be broken out of.
func TestAuthUTF8(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		hop := w.serve(backendAddr, &refpeer.Server{Keywords: refpeer.Modern()})
		names := w.judged()
		names.txt["xn--bcher-kva.example"] = []string{"v=spf1 ip4:" + clientHost + " -all"}
		names.txt["_dmarc.xn--bcher-kva.example"] = []string{"v=DMARC1; p=reject"}
		w.start()
		c := w.client(inboundAt)
		c.ask("EHLO client.example", "250")
		c.talk("MAIL FROM:<grüße@bücher.example> SMTPUTF8 BODY=8BITMIME\r\nRCPT TO:<b@example.net>\r\nDATA", "250 | 250 | 354 ")
		c.raw("From: Grüße <grüße@bücher.example>\r\n\r\nHallo\r\n.\r\n")
		c.want("250 ")
		got := receivedTexts(hop)[0]
		if !strings.Contains(got, "\tspf=pass smtp.mailfrom=xn--bcher-kva.example;\r\n") ||
			!strings.Contains(got, "\tdmarc=pass policy.dmarc=reject header.from=xn--bcher-kva.example\r\n") {
			t.Errorf("the hop has %q", got)
		}
		c.talk("QUIT", "221 ")
	})
}

// Long headers are looked at whatever the memory: while the text arrives where there is room, else when it has ended. All
// of it is given back.
func TestAuthHeaderMemory(t *testing.T) {
	for _, memory := range []Size{64 << 10, 512 << 10, 64 * megabyte} {
		t.Run(fmt.Sprint(memory), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				w := newWorld(t)
				hop := w.serve(backendAddr, &refpeer.Server{Keywords: refpeer.Modern()})
				w.cfg.Limits.SpoolMemory = memory
				w.judged()
				w.start()
				c := w.client(inboundAt)
				c.ask("EHLO client.example", "250")
				sent := 0
				for _, header := range []int{10 << 10, 40 << 10, 200 << 10, 900 << 10, 40 << 10} {
					for _, transport := range []string{"DATA", "BDAT", "one flight"} {
						transports[transport](c, honestMail, filler(header)+honestText)
						c.want("250 ")
						sent++
					}
				}
				got := receivedTexts(hop)
				if len(got) != sent {
					t.Errorf("%d of %d arrived", len(got), sent)
				}
				for _, text := range got {
					if !strings.HasPrefix(text, honestField) {
						t.Errorf("the hop has %.600q", text)
					}
				}
				c.talk("QUIT", "221 ")
				w.headersFree()
			})
		})
	}
}

// filler is so much header.
func filler(octets int) string {
	return strings.Repeat("X: "+strings.Repeat("x", 795)+"\r\n", octets/800)
}

// headersFree checks that no memory for headers is taken.
func (w *world) headersFree() {
	w.t.Helper()
	synctest.Wait()
	room := w.proxy.spools.headers
	if !room.held.TryAcquire(room.maxHeld) || !room.ended.TryAcquire(room.maxEnded) {
		w.t.Error("memory for headers was not given back")
	}
}

// Who sends headers without end, or long ones and then next to nothing, holds nobody else's mail up.
func TestAuthHeaderHogs(t *testing.T) {
	for name, hogs := range map[string]string{
		"headers without end": filler(900 << 10),
		"bodies without end":  filler(900<<10) + honestText,
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				w := newWorld(t)
				hop := w.serve(backendAddr, &refpeer.Server{Keywords: refpeer.Modern()})
				w.judged()
				w.start()
				for range 60 {
					c := w.client(inboundAt)
					c.ask("EHLO client.example", "250")
					c.talk(honestMail+"\r\nDATA", "250 | 250 | 354 ")
					c.raw(hogs)
				}
				start := time.Now()
				c := w.client(inboundAt)
				c.ask("EHLO client.example", "250")
				for _, header := range []int{20 << 10, 500 << 10} {
					transports["DATA"](c, honestMail, filler(header)+honestText)
					c.want("250 ")
				}
				if took := time.Since(start); took != 0 {
					t.Errorf("took %v", took)
				}
				for _, text := range receivedTexts(hop) {
					if !strings.HasPrefix(text, honestField) {
						t.Errorf("the hop has %.600q", text)
					}
				}
				c.talk("QUIT", "221 ")
			})
		})
	}
}

// Where even that which has ended finds no room within the deadline, it is put off, and nothing else happens.
func TestAuthNoHeaderRoom(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		hop := w.serve(backendAddr, &refpeer.Server{Keywords: refpeer.Modern()})
		w.judged()
		w.start()
		room := w.proxy.spools.headers
		if !room.held.TryAcquire(room.maxHeld) || !room.ended.TryAcquire(room.maxEnded) {
			t.Fatal("no room from the start")
		}
		c := w.client(inboundAt)
		c.ask("EHLO client.example", "250")
		start := time.Now()
		transports["DATA"](c, honestMail, filler(20<<10)+honestText)
		c.want("452 4.3.1 ")
		if took := time.Since(start); took != auth.DefaultDeadline {
			t.Errorf("took %v", took)
		}
		room.ended.Release(room.maxEnded)
		transports["DATA"](c, honestMail, filler(20<<10)+honestText)
		c.want("250 ")
		if n := len(hop.Messages()); n != 1 {
			t.Errorf("%d messages arrived", n)
		}
		c.talk("QUIT", "221 ")
	})
}

// A header that is longer than anybody reads has a result of its own, its forged fields go all the same, and who cannot
// be seen to be an honest author is treated as one who is not.
func TestAuthHugeHeader(t *testing.T) {
	for _, enforce := range []string{"none", "reject"} {
		t.Run(enforce, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				w := newWorld(t)
				hop := w.serve(backendAddr, &refpeer.Server{Keywords: refpeer.Modern()})
				w.cfg.Limits.MaxHeaderSize, w.cfg.Limits.SpoolMemory = 64*megabyte, 400*megabyte
				w.judged(func(in *InboundConfig) { in.Auth.Enforce = enforce })
				w.start()
				c := w.client(inboundAt)
				c.ask("EHLO client.example", "250")
				const forged = "Authentication-Results: proxy.example; dmarc=pass\r\n"
				text := strings.Repeat("X: "+strings.Repeat("x", 75)+"\r\n", 20_000_000/80) + forged + honestText
				c.talk(honestMail+"\r\nDATA", "250 | 250 | 354 ")
				go func() { _, _ = c.conn.Write([]byte(text + ".\r\n")) }() // what comes of it is awaited below
				if enforce == "reject" {
					c.want("550 5.7.26 ")
					return
				}
				c.want("250 ")
				got := receivedTexts(hop)[0]
				if n := strings.Count(got, "Authentication-Results: proxy.example;"); n != 1 || len(got) < 20_000_000-1000 {
					t.Errorf("%d fields of ours in %d octets", n, len(got))
				}
				field, _, _ := strings.Cut(got, "\r\nX: ")
				if !strings.Contains(field, "\tdkim=policy reason=\"header too large\"") ||
					!strings.Contains(field, "\tdmarc=permerror reason=\"header too large\"") {
					t.Errorf("the field is %q", field)
				}
				if v := w.last().Auth.DMARC; v.Status != auth.StatusNoFrom {
					t.Errorf("recorded: %+v", v)
				}
				c.talk("QUIT", "221 ")
			})
		})
	}
}
