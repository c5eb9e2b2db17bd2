package proxy

import (
	"fmt"
	"net/netip"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"slipstream/auth"
	"slipstream/bench/refpeer"
)

// Mail of somebody who is who they say, and of somebody who is not.
const (
	honestMail = "MAIL FROM:<a@" + authorDomain + ">\r\nRCPT TO:<b@example.net>"
	honestText = "From: Author <a@" + authorDomain + ">\r\nSubject: x\r\n\r\nHello\r\n"
	forgedMail = "MAIL FROM:<a@" + bankDomain + ">\r\nRCPT TO:<b@example.net>"
	forgedText = "From: Bank <a@" + bankDomain + ">\r\nSubject: x\r\n\r\nHello\r\n"

	honestField = "Authentication-Results: proxy.example;\r\n" +
		"\tiprev=pass (client.example) policy.iprev=198.51.100.7;\r\n" +
		"\tspf=pass smtp.mailfrom=author.example;\r\n" +
		"\tspf=none smtp.helo=client.example;\r\n" +
		"\tdkim=none;\r\n" +
		"\tarc=none smtp.remote-ip=198.51.100.7;\r\n" +
		"\tdmarc=pass policy.dmarc=reject header.from=author.example\r\n"
)

// transports are the ways in which a text can come, each with what it is answered but for the last word.
var transports = map[string]func(c *dialog, envelope, text string){
	"DATA": func(c *dialog, envelope, text string) {
		c.talk(envelope+"\r\nDATA", "250 | 250 | 354 ")
		c.raw(text + ".\r\n")
	},
	"BDAT": func(c *dialog, envelope, text string) {
		c.talk(envelope, "250 | 250 ")
		c.raw(fmt.Sprintf("BDAT %d LAST\r\n%s", len(text), text))
	},
	"one flight": func(c *dialog, envelope, text string) {
		c.raw(fmt.Sprintf("%s\r\nBDAT %d LAST\r\n%s", envelope, len(text), text))
		c.want("250 ")
		c.want("250 ")
	},
	"chunks": func(c *dialog, envelope, text string) {
		c.talk(envelope, "250 | 250 ")
		for i := range len(text) {
			c.raw("BDAT 1\r\n" + text[i:i+1])
			c.want("250 ")
		}
		c.raw("BDAT 0 LAST\r\n")
	},
}

// Whichever way a text comes, the field stands on top of it, fields of our name are gone, and nothing else has changed.
func TestAuthField(t *testing.T) {
	const (
		forged = "authentication-results: (x) Proxy.EXAMPLE;\r\n dmarc=pass header.from=bank.example\r\n"
		others = "Authentication-Results: proxy.example.net; dmarc=pass header.from=x.example\r\n"
		inner  = "Authentication-Results: proxy.example; spf=pass\r\n"
	)
	text := forged + others + "Received: from x by y; now\r\n" + forged + honestText + inner
	for name, send := range transports {
		for _, adds := range []bool{true, false} {
			t.Run(fmt.Sprint(name, "/received ", adds), func(t *testing.T) {
				synctest.Test(t, func(t *testing.T) {
					w := newWorld(t)
					hop := w.serve(backendAddr, &refpeer.Server{Keywords: refpeer.Modern()})
					w.judged(func(in *InboundConfig) { in.AddReceived = adds })
					w.start()
					c := w.client(inboundAt)
					c.ask("EHLO client.example", "250")
					send(c, honestMail, text)
					c.want("250 ")
					got := receivedTexts(hop)
					if len(got) != 1 {
						t.Fatalf("the hop has %q", got)
					}
					rest, ok := strings.CutPrefix(got[0], honestField)
					if !ok {
						t.Fatalf("the hop has %q, which does not begin with %q", got[0], honestField)
					}
					above, rest := cutReceived(rest)
					want := others + "Received: from x by y; now\r\n" + honestText + inner
					if adds != (above != "") || rest != want {
						t.Errorf("below the field is %q and %q, want %q", above, rest, want)
					}
					if sum := w.last(); sum.Auth == nil || sum.Auth.DMARC.Status != auth.StatusAccept {
						t.Errorf("recorded: %+v", sum.Auth)
					}
					c.talk("QUIT", "221 ")
				})
			})
		}
	}
}

// A rejected message goes nowhere, its sender hears whose policy that is, and the next one is not held up.
func TestAuthRejects(t *testing.T) {
	for name, send := range transports {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				w := newWorld(t)
				hop := w.serve(backendAddr, &refpeer.Server{Keywords: refpeer.Modern()})
				w.judged(func(in *InboundConfig) { in.Auth.Enforce = "reject" })
				w.start()
				c := w.client(inboundAt)
				c.ask("EHLO client.example", "250")
				send(c, forgedMail, forgedText)
				c.want("550 5.7.26 Slipstream: Message rejected per DMARC policy of bank.example")
				if got := receivedTexts(hop); len(got) != 0 {
					t.Fatalf("the hop has %q", got)
				}
				if sum := w.last(); sum.Status != "bounced" || sum.Auth.Decision.Action != auth.ActionReject {
					t.Errorf("recorded: %s %+v", sum.Status, sum.Auth.Decision)
				}
				send(c, honestMail, honestText)
				c.want("250 ")
				if got := receivedTexts(hop); len(got) != 1 || !strings.HasPrefix(got[0], honestField) {
					t.Errorf("the hop has %q", got)
				}
				if n := w.counter("slipstream_auth_verdicts_total", "inbound"); n != 2 {
					t.Errorf("%v verdicts were counted", n)
				}
				c.talk("QUIT", "221 ")
			})
		})
	}
}

// What is done is no more than what the configuration allows, and no more than what the domain asks for.
func TestAuthEnforcement(t *testing.T) {
	const refused = "550 5.7.26 "
	for _, tt := range []struct {
		name, enforce, from string
		change              func(*AuthConfig)
		want                string
		marked              bool
	}{
		{"nothing", "none", bankDomain, nil, "250 ", false},
		{"quarantine for reject", "quarantine", bankDomain, nil, "250 ", true},
		{"reject", "reject", bankDomain, nil, refused, false},
		{"no more than asked for", "reject", "shop.example", nil, "250 ", true},
		{"nothing asked for", "reject", "nobody.example", nil, "250 ", false},
		{"exempt network", "reject", bankDomain, func(a *AuthConfig) {
			a.ExemptNetworks = Prefixes{netip.MustParsePrefix(clientHost + "/32")}
		}, "250 ", false},
		{"exempt domain", "reject", bankDomain, func(a *AuthConfig) { a.ExemptDomains = []string{authorDomain} }, "250 ", false},
		{"no author at all", "reject", "", nil, "250 ", false},
		{"an author at an address", "reject", "[192.0.2.1]", nil, "250 ", false},
		{"two authors", "reject", "x.example>, <b@y.example", nil, "250 ", false},
		{"an author that cannot be read", "reject", "bank.example@", nil, refused, false},
	} {
		t.Run(tt.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				w := newWorld(t)
				hop := w.serve(backendAddr, &refpeer.Server{Keywords: refpeer.Modern()})
				w.judged(func(in *InboundConfig) {
					if in.Auth.Enforce = tt.enforce; tt.change != nil {
						tt.change(&in.Auth)
					}
				})
				w.start()
				c := w.client(inboundAt)
				c.ask("EHLO client.example", "250")
				text := "Subject: x\r\n\r\nHello\r\n"
				if tt.from != "" {
					text = "From: <a@" + tt.from + ">\r\n" + text
				}
				transports["DATA"](c, honestMail, text)
				c.want(tt.want)
				got := strings.Join(receivedTexts(hop), "")
				mark := "\r\n" + auth.QuarantineField + ": dmarc " + tt.from + "\r\n"
				if strings.Contains(got, mark) != tt.marked {
					t.Errorf("the hop has %q", got)
				}
				if (tt.want == refused) != (got == "") {
					t.Errorf("the hop has %q", got)
				}
				c.talk("QUIT", "221 ")
			})
		})
	}
}

// A trusted client's mail goes on as it came.
func TestAuthTrusted(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		hop := w.serve(backendAddr, &refpeer.Server{Keywords: refpeer.Modern()})
		dns := w.judged(func(in *InboundConfig) {
			in.Auth.TrustedNetworks, in.Auth.Enforce = Prefixes{netip.MustParsePrefix("198.51.100.0/24")}, "reject"
		})
		w.start()
		c := w.client(inboundAt)
		c.ask("EHLO client.example", "250")
		text := honestField + forgedText
		transports["DATA"](c, forgedMail, text)
		c.want("250 ")
		if got := receivedTexts(hop); len(got) != 1 || got[0] != text {
			t.Errorf("the hop has %q", got)
		}
		if sum := w.last(); sum.Auth != nil {
			t.Errorf("recorded: %+v", sum.Auth)
		}
		if len(dns.asked) != 0 {
			t.Errorf("asked: %q", dns.asked)
		}
		c.talk("QUIT", "221 ")
	})
}

// A transaction that ends before its text leaves nothing behind, not even questions, and nobody waits for them; what was
// found about a text that nobody was to receive does not stick to the next.
func TestAuthAbandoned(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		hop := w.serve(backendAddr, &refpeer.Server{
			Keywords: refpeer.Modern(), RcptReplies: map[string]string{"nobody@example.net": "550 no such user"},
		})
		dns := w.judged()
		dns.dead = true
		w.start()
		c := w.client(inboundAt)
		c.ask("EHLO client.example", "250")
		for range 3 {
			start := time.Now()
			c.talk("MAIL FROM:<a@author.example>", "250 ")
			c.talk("RSET", "250 ")
			if took := time.Since(start); took != 0 {
				t.Errorf("took %v", took)
			}
		}
		dns.dead = false
		bad := "From: x@y.example\r\nX: " + strings.Repeat("x", 100) + "\r\n\r\n"
		c.raw(fmt.Sprintf("MAIL FROM:<a@author.example>\r\nRCPT TO:<nobody@example.net>\r\nBDAT %d LAST\r\n%s", len(bad), bad))
		c.want("250 ")
		c.want("550 ")
		c.want("554 ")
		c.talk("RSET", "250 ")
		transports["one flight"](c, honestMail, honestText)
		c.want("250 ")
		if got := receivedTexts(hop); len(got) != 1 || got[0] != honestField+honestText {
			t.Errorf("the hop has %q", got)
		}
		c.talk("QUIT", "221 ")
	})
}
