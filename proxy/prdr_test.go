package proxy

import (
	"context"
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"slipstream/bench/netsim"
	"slipstream/bench/refpeer"
	"slipstream/tlsstore"
)

const prdrMail = "MAIL FROM:<a@client.example> PRDR"

// prdrTo is an envelope that asks for PRDR, with DATA behind it.
func prdrTo(rcpts ...string) string {
	return prdrMail + "\r\nRCPT TO:<" + strings.Join(rcpts, ">\r\nRCPT TO:<") + ">\r\nDATA"
}

// PRDR is offered where it makes late verdicts possible, whatever the hop has,
// and never asked of a hop.
func TestPRDROffer(t *testing.T) {
	hop := func() *refpeer.Server {
		k := refpeer.Modern()
		k.Extra = []string{"PRDR"}
		return &refpeer.Server{Keywords: k}
	}
	relay := func(o *OutboundConfig) { o.Route, o.Relay, o.Offer = "", Endpoint{Host: mxHost, Port: 25}, nil }
	tests := []struct {
		name    string
		change  func(*OutboundConfig)
		inbound bool
		offered bool
	}{
		{name: "MX", offered: true},
		{name: "relay", change: relay, offered: true},
		{name: "switched off", change: func(o *OutboundConfig) { o.LateVerdict = false }},
		{name: "relay, switched off", change: func(o *OutboundConfig) { relay(o); o.LateVerdict = false }},
		{name: "LMTP", change: func(o *OutboundConfig) { o.Protocol = "lmtp" }},
		{name: "inbound", inbound: true},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				w := newWorld(t)
				mx, at := w.serve(mxAddr, hop()), outboundAt
				if tt.inbound {
					mx, at = w.serve(backendAddr, hop()), inboundAt
					w.inbound()
				} else if w.outbound(); tt.change != nil {
					tt.change(&w.cfg.Outbound[0])
				}
				w.start()
				c, hello := w.client(at), "EHLO client.example"
				if tt.name == "LMTP" {
					hello = "LHLO client.example"
				}
				if ehlo := c.ask(hello, "250"); strings.Contains(ehlo, "PRDR") != tt.offered {
					t.Errorf("EHLO: %q, want PRDR: %v", ehlo, tt.offered)
				}
				if !tt.offered {
					c.ask(prdrMail, `555 5.5.4 MAIL: parameter "PRDR" is not offered`)
					return
				}
				c.ask("MAIL FROM:<a@client.example> PRDR=1", "501 5.5.4 ")
				c.talk(prdrMail+" SIZE=10\r\nRCPT TO:<b@example.org>\r\nRCPT TO:<c@example.org>\r\nDATA",
					"250 | 250 2.1.5 | 250 2.1.5 | 354 ",
					hostileText+".", "250 2.0.0", "HELO client.example", "250")
				c.ask(prdrMail, `555 5.5.4 MAIL: parameter "PRDR" is not offered`)
				for _, m := range mx.Messages() {
					if strings.Contains(m.From, "PRDR") || !strings.Contains(m.From, "SIZE=") {
						t.Errorf("the hop heard %q", m.From)
					}
				}
				if v := mx.Violations(); len(v) != 0 || len(mx.Messages()) != 1 {
					t.Errorf("%d messages, violations %v", len(mx.Messages()), v)
				}
			})
		})
	}
}

// What a client of several recipients pays that sends its text by DATA: as much
// as one of one recipient.
func TestPRDRTrips(t *testing.T) {
	const rtt = 100 * time.Millisecond
	tests := []struct {
		client             refpeer.Style
		params             string
		first, known, warm int
	}{
		{client: refpeer.Pipelining, params: "PRDR", first: 4, known: 2, warm: 1},
		{client: refpeer.LockStep, params: "PRDR", first: 4, known: 2, warm: 1},
		{client: refpeer.Chunking, params: "PRDR", first: 4, known: 2, warm: 1},
		// Who does not ask for it waits for what the hop says about each.
		{client: refpeer.Pipelining, first: 5, known: 3, warm: 2},
		{client: refpeer.LockStep, first: 7, known: 5, warm: 4},
	}
	for _, tt := range tests {
		for _, warm := range []bool{false, true} {
			t.Run(fmt.Sprintf("%v/%s/warm=%v", tt.client, tt.params, warm), func(t *testing.T) {
				synctest.Test(t, func(t *testing.T) {
					w := newWorld(t)
					w.remember(tlsstore.Memory())
					w.net.SetLink(proxyHost, mxHost, netsim.Link{Delay: rtt / 2})
					mx := w.serve(mxAddr, &refpeer.Server{Keywords: early()})
					w.outbound(func(o *OutboundConfig) {
						o.TLS = "none"
						if warm {
							o.PoolIdle = 30 * time.Second
						}
					})
					w.start()
					second := tt.known
					if warm {
						second = tt.warm
					}
					for i, want := range []int{tt.first, second} {
						start := time.Now()
						r := w.sendThree(tt.client, tt.params)
						if got := float64(r.Done.Sub(start)) / float64(rtt); got != float64(want) {
							t.Errorf("message %d: %v trips, want %d", i, got, want)
						}
						if s := w.last(); s.Trips != want || s.Status != "sent" || !r.OK() || len(r.Final) != 1 {
							t.Errorf("the record says %+v; final replies: %v", s, r.Final)
						}
						time.Sleep(time.Second)
					}
					msgs := mx.Messages()
					for _, m := range msgs {
						if len(m.Rcpts) != 3 || string(m.Body) != tripBody {
							t.Errorf("the hop has %+v", m)
						}
					}
					if len(msgs) != 2 {
						t.Errorf("the hop has %d messages", len(msgs))
					}
				})
			})
		}
	}
}

// sendThree sends a message to three recipients through the outbound door.
func (w *world) sendThree(style refpeer.Style, params string) refpeer.Result {
	w.t.Helper()
	conn, err := w.net.Dial(w.t.Context(), clientHost, outboundAt)
	if err != nil {
		w.t.Fatal(err)
	}
	defer conn.Close()
	c := &refpeer.Client{Style: style, Conn: conn}
	r, err := c.Send(context.Background(), refpeer.Mail{From: "a@client.example", Params: params,
		To: []string{"b@example.org", "c@example.org", "d@example.org"}, Body: []byte(tripBody)})
	if err != nil {
		w.t.Fatalf("not sent: %v, %+v", err, r)
	}
	return r
}

// prdrEnd is a talk that ends with a text: each of the replies is wanted, then
// the session must be in step.
func (d *dialog) prdrEnd(replies ...string) {
	d.t.Helper()
	d.talk(hostileText+".", strings.Join(replies, " | "), "NOOP", "250 2.0.0 ok")
}

// What the hop says of recipients that were answered before it was asked comes
// behind 353, in their order; one reply stands for all where it says as much.
func TestPRDROutcomes(t *testing.T) {
	const (
		no, later = "550 5.1.1 nobody", "452 4.2.2 full"
		each      = "353 not the same"
	)
	rcpt := func(pairs ...string) map[string]string {
		m := make(map[string]string)
		for i := 0; i < len(pairs); i += 2 {
			m[pairs[i]+"@example.org"] = pairs[i+1]
		}
		return m
	}
	tests := []struct {
		name    string
		rcpts   map[string]string
		behave  func(refpeer.Event) refpeer.Action
		finals  []string
		status  string
		arrives []string
		doubt   bool
	}{
		{name: "all accepted", finals: []string{"250 2.0.0 taken"}, status: "sent", arrives: []string{"a", "b", "c"}},
		{name: "the first refused", rcpts: rcpt("a", no), status: "mixed", arrives: []string{"b", "c"},
			finals: []string{each, no, "250 2.0.0 taken", "250 2.0.0 taken", "250 2.0.0 taken"}},
		{name: "the last put off", rcpts: rcpt("c", later), status: "mixed", arrives: []string{"a", "b"},
			finals: []string{each, "250 2.0.0 taken", "250 2.0.0 taken", later, "250 2.0.0 taken"}},
		{name: "all refused alike", rcpts: rcpt("a", no, "b", no, "c", no), status: "bounced", finals: []string{no}},
		{name: "all put off alike", rcpts: rcpt("a", later, "b", later, "c", later), status: "deferred",
			finals: []string{later}},
		{name: "all refused", rcpts: rcpt("a", no, "b", "551 5.1.6 moved", "c", no), status: "bounced",
			finals: []string{each, no, "551 5.1.6 moved", no,
				"554-5.0.0 Slipstream: <a@example.org>: 550 5.1.1 nobody\n" +
					"554-5.0.0 Slipstream: <b@example.org>: 551 5.1.6 moved\n" +
					"554-5.0.0 Slipstream: <c@example.org>: 550 5.1.1 nobody\n" +
					"554 5.0.0 Slipstream: no recipient was accepted"}},
		// A final refusal of all would make Exim give up those that may be sent again.
		{name: "all refused or put off", rcpts: rcpt("a", no, "b", later, "c", no), status: "mixed",
			finals: []string{each, no, later, no, "451-4.0.0 Slipstream: <a@example.org>: 550 5.1.1 nobody"}},
		{name: "421 to a recipient", behave: func(ev refpeer.Event) refpeer.Action {
			if ev.Address == "b@example.org" && ev.Kind == refpeer.Command {
				return refpeer.Say("421 4.3.2 bye")
			}
			return refpeer.Action{}
		}, status: "mixed", arrives: []string{"a", "c"},
			finals: []string{each, "250 2.0.0 taken", "451 4.3.2 Slipstream: ", "250 2.0.0 taken",
				"250 2.0.0 taken"}},
		{name: "the text refused", behave: hopsAt("end of data", refpeer.Say("554 5.7.1 spam")), status: "bounced",
			finals: []string{"554 5.7.1 spam"}},
		{name: "the text refused, and a recipient", rcpts: rcpt("b", no),
			behave: hopsAt("end of data", refpeer.Say("554 5.7.1 spam")), status: "bounced",
			finals: []string{each, "554 5.7.1 spam", no, "554 5.7.1 spam",
				"554-5.0.0 Slipstream: <a@example.org>: 554 5.7.1 spam"}},
		{name: "421 to the text", behave: hopsAt("end of data", refpeer.Say("421 4.3.2 bye")), status: "deferred",
			finals: []string{"451 4.3.2 Slipstream: mx.example.org[203.0.113.2]:25 said: 421 4.3.2 bye"}},
		{name: "421 to the text, and a recipient refused", rcpts: rcpt("b", no),
			behave: hopsAt("end of data", refpeer.Say("421 4.3.2 bye")), status: "mixed",
			finals: []string{each, "451 4.3.2 ", no, "451 4.3.2 ", "451-4.0.0 Slipstream: "}},
		{name: "no last word", rcpts: rcpt("b", no),
			behave: hopsAt("end of data", refpeer.Action{Close: true}),
			status: "mixed", arrives: []string{"a", "c"}, doubt: true,
			finals: []string{each, "451 4.4.2 Slipstream: outcome unknown", no, "451 4.4.2 ",
				"451-4.0.0 Slipstream: "}},
		{name: "MAIL refused", behave: hopsAt("MAIL", refpeer.Say("550 5.1.8 not you")), status: "bounced",
			finals: []string{"550 5.1.8 not you"}},
		{name: "MAIL put off", behave: hopsAt("MAIL", refpeer.Say("450 4.1.8 not now")), status: "deferred",
			finals: []string{"450 4.1.8 not now"}},
		{name: "421 to MAIL", behave: hopsAt("MAIL", refpeer.Say("421 4.3.2 bye")), status: "deferred",
			finals: []string{"451 4.3.2 Slipstream: "}},
		{name: "nobody there", behave: hopsAt("connect", refpeer.Action{Reset: true}), status: "deferred",
			finals: []string{"451 4.4.2 Slipstream: "}},
	}
	plain := refpeer.Keywords{Pipelining: true, EnhancedStatusCodes: true}
	for _, tt := range tests {
		for name, keywords := range map[string]refpeer.Keywords{"CHUNKING": refpeer.Modern(), "DATA": plain,
			"lock step": {EnhancedStatusCodes: true}} {
			t.Run(tt.name+"/"+name, func(t *testing.T) {
				synctest.Test(t, func(t *testing.T) {
					w := newWorld(t)
					mx := w.serve(mxAddr, &refpeer.Server{Keywords: keywords, RcptReplies: tt.rcpts,
						Behave: tt.behave})
					w.outbound()
					w.start()
					c := w.client(outboundAt)
					c.ask("EHLO client.example", "250")
					c.talk(prdrTo("a@example.org", "b@example.org", "c@example.org"),
						"250 | 250 2.1.5 | 250 2.1.5 | 250 2.1.5 | 354 ")
					c.prdrEnd(tt.finals...)
					var got []string
					for _, m := range mx.Messages() {
						got = append(got, m.Recipients()...)
					}
					var want []string
					for _, local := range tt.arrives {
						want = append(want, local+"@example.org")
					}
					if !slices.Equal(got, want) {
						t.Errorf("it arrived for %q, want %q", got, want)
					}
					if s := w.last(); s.Status != tt.status || s.InDoubt != tt.doubt || len(s.To) != 3 ||
						s.Reply.Code == 0 || s.Reply.Code == 421 {
						t.Errorf("the record says %+v", s)
					}
				})
			})
		}
	}
}

// Without PRDR in MAIL nothing is different, and with it a client may use BDAT,
// reset, or have one recipient.
func TestPRDRTalks(t *testing.T) {
	const (
		from = prdrMail + "\r\n"
		no   = "RCPT TO:<no@example.org>"
		b, c = "RCPT TO:<b@example.org>", "RCPT TO:<c@example.org>"
		text = "Subject: x\r\n\r\n."
	)
	tests := []struct {
		name  string
		talk  []string
		rcpts []string // of the messages that arrive
	}{
		{"not asked for", []string{"MAIL FROM:<a@client.example>\r\n" + no + "\r\n" + b + "\r\nDATA",
			"250 | 550 5.1.1 nobody | 250 | 354 ",
			text, "250 2.0.0 taken"}, []string{"b@example.org"}},
		{"in lock step", []string{prdrMail, "250 ", no, "250 2.1.5", b, "250 2.1.5", "DATA", "354 ",
			text, "353 | 550 5.1.1 nobody | 250 2.0.0 taken | 250 2.0.0 taken"}, []string{"b@example.org"}},
		{"one recipient", []string{from + b + "\r\nDATA", "250 | 250 2.1.5 | 354 ", text, "250 2.0.0 taken"},
			[]string{"b@example.org"}},
		{"one recipient, refused", []string{from + no + "\r\nDATA", "250 | 250 2.1.5 | 354 ", text,
			"550 5.1.1 nobody"}, nil},
		{"one recipient twice", []string{from + b + "\r\n" + b + "\r\nDATA", "250 | 250 | 250 | 354 ", text,
			"250 2.0.0 taken"},
			[]string{"b@example.org", "b@example.org"}},
		{"RSET behind RCPT", []string{from + no + "\r\n" + b + "\r\nRSET\r\n" + from + c + "\r\nDATA",
			"250 | 250 | 250 | 250 2.0.0 reset | 250 | 250 | 354 ",
			text, "250 2.0.0 taken"}, []string{"c@example.org"}},
		{"RSET, and again", []string{from + no + "\r\n" + b, "250 | 250 | 250 ", "RSET", "250 2.0.0 reset",
			from + b + "\r\n" + no + "\r\n" + c + "\r\nDATA", "250 | 250 | 250 | 250 | 354 ",
			text, "353 | 250 2.0.0 taken | 550 5.1.1 nobody | 250 2.0.0 taken | 250 2.0.0 taken",
			"MAIL FROM:<a@client.example>\r\n" + no + "\r\n" + c + "\r\nDATA", "250 | 550 5.1.1 nobody | 250 | 354 ",
			text, "250 2.0.0 taken"},
			[]string{"b@example.org", "c@example.org", "c@example.org"}},
		{"EHLO behind RCPT", []string{from + no + "\r\n" + b, "250 | 250 | 250 ", "EHLO client.example", "250",
			"DATA", "503 "}, nil},
		{"one transaction behind the other", []string{from + b + "\r\n" + no + "\r\nDATA", "250 | 250 | 250 | 354 ",
			text + "\r\n" + from + c + "\r\nDATA",
			"353 | 250 2.0.0 taken | 550 5.1.1 nobody | 250 2.0.0 taken | 250 | 250 | 354 ", text,
			"250 2.0.0 taken"},
			[]string{"b@example.org", "c@example.org"}},
		// The text is here: the hop can be asked at once.
		{"BDAT in one flight", []string{from + no + "\r\n" + b + "\r\nBDAT 3 LAST\r\nx",
			"250 | 550 5.1.1 nobody | 250 2.1.5 ok | 250 2.0.0 taken"},
			[]string{"b@example.org"}},
		{"BDAT in one flight, all refused", []string{from + no + "\r\nBDAT 3 LAST\r\nx",
			"250 | 550 5.1.1 nobody | 554 "}, nil},
		{"BDAT behind", []string{from + no + "\r\n" + b, "250 | 250 2.1.5 recipient | 250 2.1.5 recipient",
			"BDAT 3 LAST\r\nx", "353 | 550 5.1.1 nobody | 250 2.0.0 taken | 250 2.0.0 taken"},
			[]string{"b@example.org"}},
		{"BDAT behind a further recipient", []string{from + no, "250 | 250 2.1.5 recipient", b +
			"\r\nBDAT 3 LAST\r\nx",
			"250 2.1.5 recipient | 353 | 550 5.1.1 nobody | 250 2.0.0 taken | 250 2.0.0 taken"},
			[]string{"b@example.org"}},
		{"BDAT in chunks", []string{from + no + "\r\n" + b + "\r\nBDAT 3\r\nx\r\nBDAT 3 LAST\r\ny",
			"250 | 250 2.1.5 | 250 2.1.5 | 250 2.0.0 chunk | " +
				"353 | 550 5.1.1 nobody | 250 2.0.0 taken | 250 2.0.0 taken"},
			[]string{"b@example.org"}},
		{"all refused by BDAT, and again", []string{from + no + "\r\nBDAT 3 LAST\r\nx",
			"250 | 550 5.1.1 nobody | 554 ", b + "\r\n" + no, "503 | 503 ",
			"RSET", "250 ", from + no + "\r\n" + b + "\r\nDATA", "250 | 250 | 250 | 354 ", text,
			"353 | 550 5.1.1 | 250 2.0.0 | 250 2.0.0 "}, []string{"b@example.org"}},
		{"a text that is not wanted", []string{from + no + "\r\n" + b + "\r\nDATA",
			"250 | 250 2.1.5 | 250 2.1.5 | 354 ", "bare\rcr\r\n.", "550 5.6.0 "}, nil},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				w := newWorld(t)
				mx := w.serve(mxAddr, &refpeer.Server{Keywords: refpeer.Modern(),
					RcptReplies: map[string]string{"no@example.org": "550 5.1.1 nobody"}})
				w.outbound()
				w.start()
				c := w.client(outboundAt)
				c.ask("EHLO client.example", "250")
				c.talk(tt.talk...)
				c.talk("NOOP", "250 2.0.0 ok", "QUIT", "221 ")
				c.wantClosed()
				var got []string
				for _, m := range mx.Messages() {
					got = append(got, m.Recipients()...)
				}
				if !slices.Equal(got, tt.rcpts) {
					t.Errorf("it arrived for %q, want %q", got, tt.rcpts)
				}
				if v := mx.Violations(); len(v) != 0 {
					t.Error(v)
				}
			})
		})
	}
}

// A transaction has one destination. Who cannot be part of it hears so at RCPT,
// and no name is waited for.
// With split = "452" a transaction has one destination, for PRDR too.
func TestPRDRTwoDomains(t *testing.T) {
	const further = "451 4.5.3 Slipstream: one destination at a time"
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		k := refpeer.Modern()
		first := w.lmtpDomain("first.example", "203.0.113.11", &refpeer.Server{Keywords: k,
			RcptReplies: map[string]string{"no@FIRST.example": "550 5.1.1 nobody"}})
		second := w.lmtpDomain("second.example", "203.0.113.12", &refpeer.Server{Keywords: k})
		umlaut := w.lmtpDomain("xn--bcher-kva.example", "203.0.113.13", &refpeer.Server{Keywords: k})
		w.outbound(func(o *OutboundConfig) { o.Offer, o.Split = []string{"8BITMIME", "SMTPUTF8"}, split452 })
		w.start()
		c := w.client(outboundAt)
		c.ask("EHLO client.example", "250")
		c.talk(prdrTo("a@first.example", "b@second.example", "no@FIRST.example", "x@nowhere.example"),
			"250 | 250 2.1.5 | "+further+" | 250 2.1.5 | "+further+" | 354 ",
			hostileText+".", "353 | 250 2.0.0 taken | 550 5.1.1 nobody | 250 2.0.0 taken",
			// What is left comes again, in the same session.
			prdrTo("b@second.example", "x@nowhere.example"),
			"250 | 250 2.1.5 | "+further+" | 354 ",
			hostileText+".", "250 2.0.0 taken",
			prdrTo("x@nowhere.example", "y@nowhere.example"),
			"250 | 250 | 250 | 354 ", hostileText+".", "550 5.1.2",
			// In lock step too.
			prdrMail, "250 ", "RCPT TO:<c@second.example>", "250 2.1.5", "RCPT TO:<c@first.example>", further,
			"RCPT TO:<d@second.example>", "250 2.1.5",
			"DATA", "354 ", hostileText+".", "250 2.0.0 taken",
			// One domain may have two spellings.
			prdrMail+" SMTPUTF8\r\nRCPT TO:<a@b\u00fccher.example>\r\nRCPT TO:<b@xn--bcher-kva.example>\r\n"+
				"RCPT TO:<c@first.example>\r\n"+
				"RCPT TO:<d@B\u00fccher.example>\r\nRCPT TO:<e@b\u00fccher.nowhere>\r\nDATA",
			"250 | 250 2.1.5 | 250 2.1.5 | "+further+" | 250 2.1.5 | "+further+" | 354 ", hostileText+".",
			"250 2.0.0 taken",
			prdrMail+" SMTPUTF8\r\nRCPT TO:<b@xn--bcher-kva.example>", "250 | 250 ",
			"RCPT TO:<a@b\u00fccher.example>", "250 2.1.5", "RSET", "250 ",
			"QUIT", "221 ")
		var got []string
		for _, s := range []*refpeer.Server{first, second, umlaut} {
			for _, m := range s.Messages() {
				got = append(got, strings.Join(m.Recipients(), " "))
			}
			if v := s.Violations(); len(v) != 0 {
				t.Error(v)
			}
		}
		want := []string{"a@first.example", "b@second.example", "c@second.example d@second.example",
			"a@b\u00fccher.example b@xn--bcher-kva.example d@B\u00fccher.example"}
		if !slices.Equal(got, want) {
			t.Errorf("arrived: %q, want %q", got, want)
		}
	})
}

// With a relay everybody goes the same way, and one connection is made for them.
func TestPRDRRelay(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		mx := w.serve(mxAddr, &refpeer.Server{Keywords: refpeer.Modern()})
		w.outbound(func(o *OutboundConfig) { o.Route, o.Relay, o.Offer = "", Endpoint{Host: mxHost, Port: 25}, nil })
		w.start()
		probed := mx.Accepted()
		c := w.client(outboundAt)
		c.talk("EHLO client.example", "250", prdrMail, "250 ")
		const all = 60 // more domains than there may be destinations
		for i := range all {
			c.ask(fmt.Sprintf("RCPT TO:<a@d%d.example>", i), "250 2.1.5")
		}
		c.talk("DATA", "354 ", hostileText+".", "250 2.0.0 taken")
		if m := mx.Messages(); len(m) != 1 || len(m[0].Rcpts) != all || mx.Accepted() != probed+1 {
			t.Errorf("%d messages on %d connections", len(m), mx.Accepted()-probed)
		}
	})
}

// An LMTP hop has a last word for each recipient, and so has the client.
func TestPRDRToLMTP(t *testing.T) {
	for _, late := range []bool{true, false} {
		synctest.Test(t, func(t *testing.T) {
			w := newWorld(t)
			mx := w.serve(mxAddr, &refpeer.Server{LMTP: true, Keywords: refpeer.Modern(),
				RcptReplies: map[string]string{"b@example.org": "550 5.1.1 nobody"},
				FinalReplies: map[string]string{"c@example.org": "552 5.2.2 quota",
					"d@example.org": "421 4.3.2 later"}})
			w.outbound(func(o *OutboundConfig) {
				o.Route, o.Relay, o.Offer = "", Endpoint{Host: mxHost, Port: 25, LMTP: true}, nil
				if !late {
					o.ControlShare = 1
				}
			})
			w.start()
			c := w.client(outboundAt)
			c.ask("EHLO client.example", "250")
			b, finals := "250 2.1.5",
				"353 | 250 2.0.0 | 550 5.1.1 nobody | 552 5.2.2 quota | 451 4.3.2 Slipstream: | 250 2.0.0"
			if !late {
				b, finals = "550 5.1.1 nobody", strings.Replace(finals, "550 5.1.1 nobody | ", "", 1)
			}
			c.talk(prdrTo("a@example.org", "b@example.org", "c@example.org", "d@example.org"),
				"250 | 250 | "+b+" | 250 | 250 | 354 ", hostileText+".", finals, "NOOP", "250 2.0.0 ok")
			if m := mx.Messages(); len(m) != 1 || !slices.Equal(m[0].Recipients(), []string{"a@example.org",
				"c@example.org", "d@example.org"}) {
				t.Errorf("the hop has %d messages", len(m))
			}
		})
	}
}

// All that a client may say of a thousand recipients is said, and in step.
func TestPRDRManyRecipients(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		w.dns.addrs["mx.example.org"] = []netip.Addr{netip.MustParseAddr(mxHost)}
		w.serve(mxAddr, &refpeer.Server{Keywords: refpeer.Modern(), Behave: func(ev refpeer.Event) refpeer.Action {
			if strings.HasPrefix(ev.Address, "no") && ev.Kind == refpeer.Command {
				return refpeer.Say("550 5.1.1 " + ev.Address + strings.Repeat(" long", 80))
			}
			return refpeer.Action{}
		}})
		w.outbound()
		w.start()
		for _, accepted := range []bool{true, false} {
			c := w.client(outboundAt)
			c.talk("EHLO client.example", "250", prdrMail, "250 ")
			const all = 1000
			for i := range all {
				local := fmt.Sprintf("no%d", i)
				if accepted && i%3 == 0 {
					local = "yes"
				}
				c.ask("RCPT TO:<"+local+"@example.org>", "250 2.1.5")
			}
			c.talk("RCPT TO:<more@example.org>", "452 4.5.3 ", "DATA", "354 ", hostileText+".", "353 ")
			for i := range all {
				if accepted && i%3 == 0 {
					c.want("250 2.0.0 taken")
					continue
				}
				c.want(fmt.Sprintf("550 5.1.1 no%d@example.org", i))
			}
			if accepted {
				c.want("250 2.0.0 taken")
			} else if last := c.want("554-5.0.0 Slipstream: "); strings.Count(last, "\n") != maxOverall {
				t.Errorf("the last word has %d lines", 1+strings.Count(last, "\n"))
			}
			c.ask("NOOP", "250 2.0.0 ok")
		}
	})
}
