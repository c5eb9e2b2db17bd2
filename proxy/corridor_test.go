package proxy

import (
	"strings"
	"testing"
	"testing/synctest"

	"slipstream/bench/refpeer"
)

func TestInboundMessage(t *testing.T) {
	for name, backend := range map[string]*refpeer.Server{
		"modern": {Keywords: refpeer.Modern()},
		"old":    {Old: true, StrictLockstep: true},
		"lmtp":   {LMTP: true, Keywords: refpeer.Modern()},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				w := newWorld(t)
				b := w.serve(backendAddr, backend)
				w.inbound(func(in *InboundConfig) { in.Backend.LMTP = backend.LMTP })
				w.start()
				c := w.client(inboundAt)
				c.ask("EHLO client.example", "250")
				c.say("MAIL FROM:<a@client.example>", "RCPT TO:<b@example.net>", "DATA")
				c.want("250 ")
				c.want("250 ")
				c.want("354 ")
				c.say("Subject: x", "", "..stuffed", ".")
				c.want("250 ")
				c.ask("QUIT", "221 ")
				c.wantClosed()
				msgs := b.Messages()
				if len(msgs) != 1 || string(msgs[0].Body) != "Subject: x\r\n\r\n.stuffed\r\n" {
					t.Fatalf("backend got %d messages: %+v", len(msgs), msgs)
				}
				if v := b.Violations(); len(v) != 0 {
					t.Errorf("backend saw violations: %v", v)
				}
				if s := w.last(); s.Status != "sent" || s.Door != "inbound" {
					t.Errorf("summary: %+v", s)
				}
			})
		})
	}
}

func TestOutboundMessage(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		cert := newTestCert(t, "mx.example.org")
		mx := w.serve(mxAddr, &refpeer.Server{Keywords: refpeer.Modern(), TLS: cert.server()})
		w.outbound()
		w.start()
		c := w.client(outboundAt)
		ehlo := c.ask("EHLO old.example", "250")
		for _, want := range []string{"PIPELINING", "CHUNKING", "8BITMIME", "SMTPUTF8", "LIMITS RCPTDOMAINMAX=1"} {
			if !strings.Contains(ehlo, want) {
				t.Errorf("EHLO lacks %s: %q", want, ehlo)
			}
		}
		c.ask("MAIL FROM:<a@old.example> BODY=8BITMIME", "250 ")
		c.ask("RCPT TO:<b@example.org>", "250 ")
		c.ask("RCPT TO:<b@elsewhere.example>", "550 5.1.2")
		c.ask("DATA", "354 ")
		c.say("Subject: x", "", "gr\xfc\xdfe", ".")
		c.want("250 ")
		c.ask("QUIT", "221 ")
		msgs := mx.Messages()
		if len(msgs) != 1 || string(msgs[0].Body) != "Subject: x\r\n\r\ngr\xfc\xdfe\r\n" || msgs[0].TLS == 0 || msgs[0].Via != "BDAT" {
			t.Fatalf("peer got %+v", msgs)
		}
		if s := w.last(); s.Status != "sent" || s.TLS == "none" || s.Verified {
			t.Errorf("summary: %+v", s)
		}
	})
}

func TestOutboundOffer(t *testing.T) {
	tests := []struct {
		name   string
		change func(*OutboundConfig)
		want   string
	}{
		{"as it comes", func(o *OutboundConfig) { o.Offer = DefaultOutbound().Offer },
			"PIPELINING;SIZE 100000000;ENHANCEDSTATUSCODES;PRDR;LIMITS RCPTDOMAINMAX=1;8BITMIME;SMTPUTF8"},
		{"all that may be promised", func(o *OutboundConfig) { o.Offer = []string{"CHUNKING", "8BITMIME", "SMTPUTF8", "DSN"} },
			"PIPELINING;SIZE 100000000;ENHANCEDSTATUSCODES;CHUNKING;PRDR;LIMITS RCPTDOMAINMAX=1;8BITMIME;SMTPUTF8;DSN"},
		{"to LMTP clients", func(o *OutboundConfig) { o.Protocol = "lmtp" },
			"PIPELINING;SIZE 100000000;ENHANCEDSTATUSCODES;8BITMIME;SMTPUTF8"},
		{"with a relay: what it offers, and any domain", func(o *OutboundConfig) {
			o.Route, o.Offer, o.Relay = "", nil, Endpoint{Host: mxHost, Port: 25}
		}, "PIPELINING;SIZE 52428800;ENHANCEDSTATUSCODES;CHUNKING;PRDR;8BITMIME;SMTPUTF8;DSN"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				w := newWorld(t)
				w.serve(mxAddr, &refpeer.Server{Keywords: refpeer.Modern()})
				w.outbound(tt.change)
				w.start()
				c := w.client(outboundAt)
				hello := "EHLO old.example"
				if w.cfg.Outbound[0].Protocol == "lmtp" {
					hello = "LHLO old.example"
				}
				var got []string
				for _, line := range strings.Split(c.ask(hello, "250"), "\n")[1:] {
					got = append(got, line[4:])
				}
				if s := strings.Join(got, ";"); s != tt.want {
					t.Errorf("offered %s\nwant    %s", s, tt.want)
				}
			})
		})
	}
}
