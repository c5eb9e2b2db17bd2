package proxy

import (
	"fmt"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"slipstream/auth"
	"slipstream/auth/arc"
	"slipstream/bench/netsim"
	"slipstream/bench/refpeer"
)

// signedText has names of every kind in it: a signature, and a sealed chain whose sealer is somebody else.
const signedText = "DKIM-Signature: v=1; a=rsa-sha256; d=author.example; s=k1; h=from:subject;\r\n" +
	" bh=47DEQpj8HBSa+/TImW+5JCeuQeRkm5NMpJWZG3hSuFU=; b=AAAA\r\n" +
	"ARC-Seal: i=1; a=rsa-sha256; d=sealer.example; s=k2; cv=none; b=AAAA\r\n" +
	"ARC-Message-Signature: i=1; a=rsa-sha256; d=sealer.example; s=k3; c=relaxed/relaxed; h=from;\r\n" +
	" bh=47DEQpj8HBSa+/TImW+5JCeuQeRkm5NMpJWZG3hSuFU=; b=AAAA\r\n" +
	"ARC-Authentication-Results: i=1; sealer.example; spf=pass\r\n" + honestText

// A client that is 100 ms away waits for its verdict as long as one whose mail nobody looks at: when the end of the text
// is here, everything is known, although each look-up takes 50 ms.
func TestAuthAddsNoTrip(t *testing.T) {
	const rtt, dns = 100 * time.Millisecond, 50 * time.Millisecond
	// The text comes in two flights, as any does that is longer than the first window of its connection.
	header, body, _ := strings.Cut(signedText, "\r\n\r\n")
	took := map[bool]time.Duration{}
	for _, enabled := range []bool{false, true} {
		synctest.Test(t, func(t *testing.T) {
			w := newWorld(t)
			w.net.SetLink(clientHost, proxyHost, netsim.Link{Delay: rtt / 2})
			hop := w.serve(backendAddr, &refpeer.Server{Keywords: refpeer.Modern()})
			names := w.judged(func(in *InboundConfig) { in.Auth.Enabled = enabled })
			names.wait = dns
			w.start()
			c := w.client(inboundAt)
			c.ask("EHLO client.example", "250")
			c.talk(honestMail+"\r\nDATA", "250 | 250 | 354 ")
			c.raw(header + "\r\n\r\n")
			time.Sleep(rtt)
			start := time.Now()
			c.raw(body + ".\r\n")
			c.want("250 ")
			took[enabled] = time.Since(start)
			if sum := w.last(); enabled && sum.Auth.DMARC.Status != auth.StatusAccept {
				t.Errorf("recorded: %+v", sum.Auth)
			}
			if enabled {
				got := receivedTexts(hop)[0]
				if strings.Contains(got, "temperror") || !strings.Contains(got, "\tdkim=") || !strings.Contains(got, "\tarc=fail") {
					t.Errorf("the hop has %q", got)
				}
				for _, name := range []string{"k1._domainkey.author.example", "k2._domainkey.sealer.example",
					"k3._domainkey.sealer.example", "_dmarc.author.example", "author.example"} {
					if !strings.Contains(strings.Join(names.asked, "\n")+"\n", "TXT "+name+"\n") {
						t.Errorf("nobody asked for %s: %q", name, names.asked)
					}
				}
			}
			c.talk("QUIT", "221 ")
		})
	}
	if took[true] != took[false] || took[true] != rtt {
		t.Errorf("the verdict took %v with authentication and %v without; a trip takes %v", took[true], took[false], rtt)
	}
}

// Of a text that comes in one flight nothing is known before: it waits for its look-ups, all of which run side by side.
func TestAuthWaitsOnce(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		const dns = 50 * time.Millisecond
		w := newWorld(t)
		w.serve(backendAddr, &refpeer.Server{Keywords: refpeer.Modern()})
		w.judged().wait = dns
		w.start()
		c := w.client(inboundAt)
		c.ask("EHLO client.example", "250")
		c.talk(honestMail+"\r\nDATA", "250 | 250 | 354 ")
		time.Sleep(200 * time.Millisecond) // SPF and iprev have been at it since MAIL
		start := time.Now()
		c.raw(signedText + ".\r\n")
		c.want("250 ")
		if took := time.Since(start); took != dns {
			t.Errorf("took %v, one look-up takes %v", took, dns)
		}
		c.talk("QUIT", "221 ")
	})
}

// A dead resolver holds a message up for the deadline, whether its text is short or long, comes at once or slowly.
func TestAuthDeadline(t *testing.T) {
	const deadline = 5 * time.Second
	long := signedText + strings.Repeat(strings.Repeat("x", 70)+"\r\n", 10000) // more than waits for keys in memory
	for name, tt := range map[string]struct {
		text  string
		pause time.Duration // between header and body
	}{
		"short":             {signedText, 0},
		"long":              {long, 0},
		"slow":              {signedText, 2 * time.Second},
		"slower than that":  {signedText, time.Minute},
		"nothing to verify": {honestText, 0},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				w := newWorld(t)
				hop := w.serve(backendAddr, &refpeer.Server{Keywords: refpeer.Modern()})
				w.judged(func(in *InboundConfig) { in.Auth.Enforce = "reject" }).dead = true
				w.start()
				c := w.client(inboundAt)
				c.ask("EHLO client.example", "250")
				c.talk(honestMail+"\r\nDATA", "250 | 250 | 354 ")
				header, body, _ := strings.Cut(tt.text, "\r\n\r\n")
				c.raw(header + "\r\n\r\n")
				time.Sleep(tt.pause)
				start := time.Now()
				c.raw(body + ".\r\n")
				c.want("250 ")
				if took := time.Since(start); took > deadline {
					t.Errorf("took %v", took)
				}
				got := receivedTexts(hop)[0]
				if !strings.Contains(got, "\tspf=temperror") || !strings.Contains(got, "\tdmarc=temperror") {
					t.Errorf("the hop has %.1000q", got)
				}
				if !w.last().Auth.Late {
					t.Error("not counted as late")
				}
				if n := w.counter("slipstream_auth_late_total", "inbound"); n != 1 {
					t.Errorf("counted %v", n)
				}
				c.talk("QUIT", "221 ")
			})
		})
	}
}

// Where that is wanted, mail that the DNS does not tell about is put off, and taken as soon as it does.
func TestAuthDefers(t *testing.T) {
	for name, send := range transports {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				w := newWorld(t)
				hop := w.serve(backendAddr, &refpeer.Server{Keywords: refpeer.Modern()})
				dns := w.judged(func(in *InboundConfig) { in.Auth.Enforce, in.Auth.OnTemperror = "reject", "defer" })
				dns.dead = true
				w.start()
				c := w.client(inboundAt)
				c.ask("EHLO client.example", "250")
				send(c, honestMail, honestText)
				c.want("451 4.7.0 Slipstream: ")
				if sum := w.last(); sum.Status != "deferred" || len(hop.Messages()) != 0 {
					t.Errorf("%s, and %d messages at the backend", sum.Status, len(hop.Messages()))
				}
				dns.dead = false
				send(c, honestMail, honestText)
				c.want("250 ")
				c.talk("QUIT", "221 ")
			})
		})
	}
}

// A key that was there in time still counts when the body takes longer than the deadline.
func TestAuthSlowBody(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		hop := w.serve(backendAddr, &refpeer.Server{Keywords: refpeer.Modern()})
		names := w.judged()
		text := sealedText(t, names, honestText)
		w.start()
		c := w.client(inboundAt)
		c.ask("EHLO client.example", "250")
		c.talk(honestMail+"\r\nDATA", "250 | 250 | 354 ")
		header, body, _ := strings.Cut(text, "\r\n\r\n")
		c.raw(header + "\r\n\r\n")
		time.Sleep(time.Minute)
		start := time.Now()
		c.raw(body + ".\r\n")
		c.want("250 ")
		if took := time.Since(start); took != 0 {
			t.Errorf("took %v", took)
		}
		if got := receivedTexts(hop)[0]; !strings.Contains(got, "\tarc=pass (i=1) header.oldest-pass=0") ||
			!strings.Contains(got, "\tdmarc=pass") {
			t.Errorf("the hop has %q", got)
		}
		c.talk("QUIT", "221 ")
	})
}

// sealedText seals a message in the name of sealer.example, whose key names then has.
func sealedText(t *testing.T, names *slowDNS, text string) string {
	t.Helper()
	key, record := sealingKey(t)
	names.txt["k1._domainkey.sealer.example"] = []string{record}
	headers, err := arc.SplitHeader([]byte(text))
	if err != nil {
		t.Fatal(err)
	}
	_, body, _ := strings.Cut(text, "\r\n\r\n")
	hash := arc.NewBodyHash(arc.Relaxed)
	fmt.Fprint(hash, body)
	s := arc.Sealer{Domain: "sealer.example", Selector: "k1", Key: key}
	set, err := s.Seal(headers, hash, arc.Result{Value: arc.None}, []byte("sealer.example; arc=none; dmarc=pass header.from=bank.example"))
	if err != nil {
		t.Fatal(err)
	}
	return string(set) + text
}
