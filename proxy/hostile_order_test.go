package proxy

import (
	"fmt"
	"strings"
	"testing"
	"testing/synctest"

	"slipstream/bench/refpeer"
)

// Every command where it does not belong, with the exact answer, and what of it
// the backend hears.
func TestHostileOrder(t *testing.T) {
	const ehlo, mail, rcpt = "EHLO client.example", "MAIL FROM:<a@client.example>", "RCPT TO:<b@example.org>"
	for name, tt := range map[string]struct {
		talk  []string
		heard []string

		closed bool // in the end
	}{
		"before EHLO": {talk: []string{
			mail, "503 5.5.1 ", rcpt, "503 5.5.1 ", "DATA", "503 5.5.1 ", "BDAT 0 LAST", "503 5.5.1 ",
			"STARTTLS", "502 5.5.1 ", "NOOP", "250 2.0.0 ", "RSET", "250 2.0.0 ", "VRFY a", "252 2.5.2 ", "HELP", "214 2.0.0 "}},
		"greetings": {talk: []string{
			"EHLO", "501 5.5.4 ", "EHLO a b", "501 5.5.4 ", "HELO", "501 5.5.4 ", "LHLO client.example", "500 5.5.1 ",
			"EHLO " + strings.Repeat("x", 256), "501 5.5.4 ", "EHLO \xc3\xa4.example", "501 5.5.4 ",
			mail, "503 5.5.1 ", "HELO client.example", "250 proxy.example", ehlo, "250-proxy.example"}},
		"not offered": {talk: []string{ehlo, "250",
			"STARTTLS", "502 5.5.1 ", "AUTH PLAIN AGEAYg==", "502 5.5.1 ", "AUTH", "501 5.5.4 ", "XCLIENT ADDR=127.0.0.1", "502 5.5.1 ",
			"XFORWARD ADDR=127.0.0.1", "502 5.5.1 ", "ETRN example.org", "502 5.5.1 ", "EXPN list", "502 5.5.1 ", "TURN", "500 5.5.1 ",
			"ATRN", "500 5.5.1 ", "BURL imap://x LAST", "500 5.5.1 ", "SEND FROM:<a@b.example>", "500 5.5.1 ", "DEBUG", "500 5.5.1 ", "WIZ", "500 5.5.1 "}},
		"with arguments": {talk: []string{ehlo, "250",
			"RSET now", "501 5.5.4 ", "DATA now", "501 5.5.4 ", "QUIT now", "501 5.5.4 ", "STARTTLS now", "501 5.5.4 ",
			"VRFY", "501 5.5.4 ", "EXPN", "501 5.5.4 ", "NOOP now", "250 2.0.0 ", "HELP me", "214 2.0.0 ", "BDAT", "501 5.5.4 "}, closed: true},
		"no MAIL": {talk: []string{ehlo, "250", rcpt, "503 5.5.1 ", "DATA", "503 5.5.1 ", "BDAT 5 LAST\r\nabc", "503 5.5.1 "}},
		"MAIL twice": {talk: []string{ehlo, "250", mail, "250 ", mail, "503 5.5.1 ", rcpt, "250 ", mail, "503 5.5.1 "},
			heard: []string{mail, rcpt}},
		"no recipient": {talk: []string{ehlo, "250", mail, "250 ", "DATA", "503 5.5.1 ", "BDAT 6 LAST\r\nQUIT", "503 5.5.1 "}, heard: []string{mail}},
		"EHLO within": {talk: []string{ehlo, "250", mail, "250 ", rcpt, "250 ", ehlo, "250", "DATA", "503 5.5.1 ", rcpt, "503 5.5.1 "},
			heard: []string{mail, rcpt}},
		"HELO within": {talk: []string{ehlo, "250", mail, "250 ", rcpt, "250 ", "HELO client.example", "250 ", "DATA", "503 5.5.1 ",
			"BDAT 3 LAST\r\nx", "503 5.5.1 "}, heard: []string{mail, rcpt}},
		"RSET within": {talk: []string{ehlo, "250", mail, "250 ", rcpt, "250 ", "RSET", "250 2.0.0 ", "DATA", "503 5.5.1 ", "RSET", "250 2.0.0 "},
			heard: []string{mail, rcpt}},
		"NOOP and VRFY within": {talk: []string{ehlo, "250",
			mail + "\r\nNOOP\r\n" + rcpt + "\r\nVRFY b\r\nRCPT TO:<c@example.org>\r\nHELP\r\nEXPN b\r\nRSET",
			"250 2.1.0 | 250 2.0.0 | 250 2.1.5 | 252 2.5.2 | 250 2.1.5 | 214 2.0.0 | 502 5.5.1 | 250 2.0.0 "},
			heard: []string{mail, rcpt, "RCPT TO:<c@example.org>"}},
		"malformed MAIL": {talk: []string{ehlo, "250",
			"MAIL", "501 5.5.4 ", "MAIL FROM", "501 5.5.4 ", "MAIL FROM:", "501 5.5.4 ", "MAIL FROM:a@b.example", "501 5.5.4 ",
			"MAIL TO:<a@b.example>", "501 5.5.4 ", "MAIL FROM:<a@b.example", "501 5.1.7 ", "MAIL FROM:<a>", "501 5.1.7 ",
			"MAIL FROM:<a@b.example>SIZE=1", "501 5.5.4 ", "MAIL FROM:<a@b.example> =", "501 5.5.4 ", "MAIL FROM:<a@b.example> SIZE=x", "501 5.5.4 ",
			"MAIL FROM:<a@b.example> SIZE=-1", "501 5.5.4 ", "MAIL FROM:<a@b.example> SIZE=1 SIZE=2", "501 5.5.4 "}},
		"malformed RCPT": {talk: []string{ehlo, "250", mail, "250 ",
			"RCPT TO:<>", "501 5.1.3 ", "RCPT TO:b@example.org", "501 5.5.4 ", "RCPT FROM:<b@example.org>", "501 5.5.4 ", "RCPT TO:<@>", "501 5.1.3 ",
			"RCPT TO:<b@example.org> NOTIFY=SOMETIMES", "501 5.5.4 ", "RCPT TO:<b@example.org> X=1", "555 5.5.4 "}, heard: []string{mail}},
		"after HELO": {talk: []string{"HELO client.example", "250 ",
			mail + " SMTPUTF8", "555 5.5.4 ", mail + " RET=HDRS", "555 5.5.4 ", mail, "250 ", rcpt + " NOTIFY=NEVER", "555 5.5.4 ", rcpt, "250 ",
			"BDAT 3 LAST\r\nx", "503 5.5.1 ", "RSET", "250 "}, heard: []string{mail, rcpt}},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				h := newHostile(t, nil)
				c := h.client(h.at)
				c.talk(tt.talk...)
				if tt.closed {
					c.wantClosed()
					c = h.client(h.at)
				}
				h.wantHeard(tt.heard...)
				c.talk("RSET", "250 2.0.0 ", "EHLO client.example", "250")
				c.send()
				c.talk("QUIT", "221 2.0.0 ")
				c.wantClosed()
				h.wantMessages(hostileText)
				h.over()
			})
		})
	}
}

// What the backend does not offer is not offered, and refused where it is used
// all the same.
func TestHostileParametersNotOffered(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := newHostile(t, &refpeer.Server{Keywords: refpeer.Keywords{Pipelining: true}}, func(cfg *Config, _ *InboundConfig) { cfg.Limits.MaxBadCommands = 100 })
		c := h.client(h.at)
		offer := c.ask("EHLO client.example", "250")
		for _, keyword := range []string{"8BITMIME", "SMTPUTF8", "DSN", "BINARYMIME", "AUTH", "XCLIENT", "REQUIRETLS", "STARTTLS"} {
			if strings.Contains(offer, keyword) {
				t.Errorf("offered %s: %q", keyword, offer)
			}
		}
		for _, param := range []string{"SMTPUTF8", "RET=FULL", "ENVID=x", "BODY=BINARYMIME", "AUTH=<>", "REQUIRETLS", "BY=1;R", "HOLDFOR=1",
			"MT-PRIORITY=1", "TRANSID=<a@b>", "XVERP", "PRDR", "FROB", "FROB=1"} {
			c.talk("MAIL FROM:<a@client.example> "+param, "555 5.5.4 MAIL: parameter ")
		}
		c.talk("MAIL FROM:<\xc3\xa4@client.example>", "550 5.6.7 ")
		c.talk("MAIL FROM:<a@client.example>", "250 ")
		for _, param := range []string{"NOTIFY=NEVER", "ORCPT=rfc822;a@b.example", "RRVS=2014-04-03T23:01:00Z", "CONNEG", "FROB"} {
			c.talk("RCPT TO:<b@example.org> "+param, "555 5.5.4 RCPT: parameter ")
		}
		c.talk("RCPT TO:<\xc3\xa4@example.org>", "553 5.6.7 ", "RSET", "250 ")
		h.wantHeard("MAIL FROM:<a@client.example>")
		c.send()
		h.wantMessages(hostileText)
	})
}

func TestHostileBadCommands(t *testing.T) {
	for _, way := range []string{"one by one", "in one flight"} {
		t.Run(way, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				h := newHostile(t, nil, func(cfg *Config, _ *InboundConfig) { cfg.Limits.MaxBadCommands = 5 })
				c := h.greeted()
				if way == "in one flight" {
					c.raw(strings.Repeat("FROB\r\n", 6))
				}
				for range 6 {
					if way == "one by one" {
						c.say("FROB")
					}
					c.want("500 5.5.1 ")
				}
				c.want("421 4.7.0 ")
				c.wantClosed()
				h.wantCount(h.proxy.metrics.refusals, 6)
				h.wantLog("too many bad commands")
				h.wantHeard()
				h.over()
			})
		})
	}
}

// A client that pipelines can't know yet that what it says has lost its sense:
// such refusals are no nonsense of its making, and its connection stays.
func TestRefusedMailIsNoNonsense(t *testing.T) {
	for name, tt := range map[string]struct {
		flight, want string
		change       func(*Config, *InboundConfig)
	}{
		"no recipient, DATA":     {"MAIL FROM:<a@client.example>\r\nRCPT TO:<no@example.org>\r\nDATA\r\nRSET\r\n", "250 |550 |554 5.5.1 |250 ", nil},
		"no recipient, BDAT":     {"MAIL FROM:<a@client.example>\r\nRCPT TO:<no@example.org>\r\nBDAT 6 LAST\r\nQUIT\r\nRSET\r\n", "250 |550 |554 5.5.1 |250 ", nil},
		"no sender":              {"MAIL FROM:<no@client.example>\r\nRCPT TO:<b@example.org>\r\nDATA\r\nRSET\r\n", "550 |503 |503 |250 ", nil},
		"parameter of MAIL":      {"MAIL FROM:<a@client.example> FROB\r\nRCPT TO:<b@example.org>\r\nDATA\r\nRSET\r\n", "555 |503 |503 |250 ", thirtyBad},
		"too many recipients":    {"MAIL FROM:<a@client.example>\r\n" + strings.Repeat("RCPT TO:<b@example.org>\r\n", 4) + "RSET\r\n", "250 |250 |452 4.5.3 |452 4.5.3 |452 4.5.3 |250 ", oneRcpt},
		"many commands for MAIL": {"MAIL FROM:<no@client.example>\r\n" + strings.Repeat("RCPT TO:<b@example.org>\r\n", 100) + "RSET\r\n", "550 " + strings.Repeat("|503 5.5.1 ", 100) + "|250 ", nil},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				hop := &refpeer.Server{Keywords: refpeer.Modern(),
					RcptReplies: map[string]string{"no@example.org": "550 5.1.1 no such user"},
					Behave: func(ev refpeer.Event) refpeer.Action {
						if ev.Verb == "MAIL" && ev.Address == "no@client.example" {
							return refpeer.Say("550 5.7.1 no such sender")
						}
						return refpeer.Action{}
					}}
				var change []func(*Config, *InboundConfig)
				if tt.change != nil {
					change = append(change, tt.change)
				}
				h := newHostile(t, hop, change...)
				c := h.greeted()
				for range 30 {
					c.raw(tt.flight)
					for want := range strings.SplitSeq(tt.want, "|") {
						c.want(want)
					}
				}
				c.send()
				c.talk("QUIT", "221 ")
				h.wantMessages(hostileText)
				h.over()
			})
		})
	}
}

func thirtyBad(cfg *Config, _ *InboundConfig) { cfg.Limits.MaxBadCommands = 30 }

func oneRcpt(cfg *Config, _ *InboundConfig) { cfg.Limits.MaxRecipients = 1 }

// Too many recipients are told so one by one, and the others get the message.
func TestHostileManyRecipients(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := newHostile(t, nil, func(cfg *Config, _ *InboundConfig) { cfg.Limits.MaxRecipients = 1000 })
		c := h.greeted()
		c.say("MAIL FROM:<a@client.example>")
		for i := range 1200 {
			c.say(fmt.Sprintf("RCPT TO:<b%d@example.org>", i))
		}
		c.want("250 2.1.0 ")
		for i := range 1200 {
			want := "250 2.1.5 "
			if i >= 1000 {
				want = "452 4.5.3 too many recipients"
			}
			c.want(want)
		}
		c.talk("DATA", "354 ", hostileText+".", "250 2.0.0 ")
		c.talk("QUIT", "221 ")
		h.wantMessages(hostileText)
		if n := len(h.hop.Messages()[0].Rcpts); n != 1000 {
			t.Errorf("the hop has %d recipients", n)
		}
		if s := h.last(); len(s.To) != 1000 || s.Status != "sent" {
			t.Errorf("summary of %d recipients: %s", len(s.To), s.Status)
		}
		h.over()
	})
}

// A second transaction in the segment of the first one's dot is a transaction
// of its own, and so is one behind BDAT.
func TestPipelinedTransactions(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := newHostile(t, nil)
		c := h.greeted()
		c.talk(hostileMail+"\r\nDATA", "250 | 250 | 354 ")
		chunk := fmt.Sprintf("BDAT %d LAST\r\n", len(hostileText))
		c.raw(hostileText + ".\r\n" +
			hostileMail + "\r\n" + chunk + hostileText +
			hostileMail + "\r\nNOOP\r\n" + chunk + hostileText +
			hostileMail + "\r\nBDAT 0\r\n" + chunk + hostileText + hostileMail + "\r\nDATA\r\n")
		for range 1 + 3 + 4 + 4 + 2 {
			c.want("250 ")
		}
		c.want("354 ")
		c.raw(hostileText + ".\r\nQUIT\r\nMAIL FROM:<evil@client.example>\r\n")
		c.want("250 ")
		c.want("221 ")
		c.wantClosed()
		h.wantMessages(hostileText, hostileText, hostileText, hostileText, hostileText)
		h.over()
	})
}
