package proxy_test

import (
	"bytes"
	"fmt"
	"strings"
	"testing"

	"slipstream/bench/mta"
	"slipstream/bench/mta/mtatest"
	"slipstream/bench/refpeer"
	"slipstream/proxy"
)

// Where a message comes from that uses every extension, and to whom.
const (
	utf8Sender    = "grüße@a.test"
	utf8Recipient = "jürgen@b.test"
)

// sayEverything hands a server a message that uses 8BITMIME, SMTPUTF8 and DSN.
func sayEverything(t *testing.T, in *mta.Instance, notify string, raw []byte) {
	t.Helper()
	d := realDial(t, in.Addr())
	realHear(t, d, 250, "EHLO author.test")
	realHear(t, d, 250, "MAIL FROM:<%s> BODY=8BITMIME SMTPUTF8 RET=HDRS ENVID=envelope+2B1", utf8Sender)
	realHear(t, d, 250, "RCPT TO:<%s> NOTIFY=%s ORCPT=rfc822;first@b.test", utf8Recipient, notify)
	realHear(t, d, 354, "DATA")
	if a, err := d.Text(raw); err != nil || a.Code != 250 {
		t.Fatal(a, err)
	}
	realHear(t, d, 221, "QUIT")
}

// relayTo makes an outbound door one to a relay.
func relayTo(addr string) func(*proxy.OutboundConfig) {
	return func(out *proxy.OutboundConfig) {
		out.Relay, out.Route, out.Offer = realEndpoint(addr), "", nil
	}
}

// promiseDSN makes an outbound door promise DSN before the peer is known.
func promiseDSN(out *proxy.OutboundConfig) { out.Offer = []string{"8BITMIME", "SMTPUTF8", "DSN"} }

// What a server says about a message reaches the next one, word for word, where
// that one understands it.
func TestRealParameters(t *testing.T) {
	for _, from := range mta.Kinds() {
		for _, test := range []struct {
			name   string
			door   string
			relay  bool
			change func(*proxy.OutboundConfig)
			dsn    bool // the sender is offered DSN
		}{
			{name: "inbound", door: doorInbound, dsn: true},
			{name: "smtp, relay", door: doorSMTP, relay: true, dsn: true},
			{name: "lmtp, relay", door: doorLMTP, relay: true, dsn: true},
			{name: "smtp, mx, DSN promised", door: doorSMTP, change: promiseDSN, dsn: true},
			{name: "lmtp, mx, DSN promised", door: doorLMTP, change: promiseDSN, dsn: true},
			{name: "smtp, mx", door: doorSMTP},
		} {
			t.Run(string(from)+", "+test.name, func(t *testing.T) {
				t.Parallel()
				at := realNeighbours(t, 1)[0]
				peer := &refpeer.Server{Hostname: "mx.b.test", Keywords: refpeer.Modern()}
				cfg := realConfig(t)
				if test.relay {
					test.change = relayTo(at)
				}
				if test.door == doorInbound {
					addInbound(cfg, doorInbound, at, func(in *proxy.InboundConfig) { in.BackendTrustsUs = true })
				} else {
					addOutbound(cfg, test.door, portOf(at), test.change)
				}
				serveReference(t, at, peer)
				px := startReal(t, cfg, serveDomains(t, map[string]string{"b.test": at}))
				sender := sendThrough(t, from, px.at(test.door), test.door, mta.Config{RelayFrom: []string{"127.0.0.0/8"}})
				raw := realMessage("parameters", 0)
				sayEverything(t, sender, "SUCCESS,FAILURE", raw)
				got, err := peer.WaitMessages(mtatest.Context(t), 1)
				if err != nil {
					t.Fatalf("%v\n%s", err, sender.Log())
				}
				// Exim 4.96 never says BODY; its 8-bit text goes through all the same.
				checkParameters(t, got[0], test.dsn, from == mta.Postfix)
				if !bytes.HasSuffix(got[0].Body, raw) {
					t.Errorf("came as\n%q", got[0].Body)
				}
				if v := peer.Violations(); len(v) != 0 {
					t.Error(v)
				}
			})
		}
	}
}

func checkParameters(t *testing.T, m refpeer.Message, dsn, body bool) {
	t.Helper()
	if len(m.Rcpts) != 1 {
		t.Fatalf("%d recipients: %q", len(m.Rcpts), m.Rcpts)
	}
	rcpt := m.Rcpts[0]
	want := []struct {
		in, word string
		is       bool
	}{
		{m.From, "FROM:<" + utf8Sender + ">", true}, {m.From, " BODY=8BITMIME", body}, {m.From, " SMTPUTF8", true},
		{m.From, " RET=HDRS", dsn}, {m.From, " ENVID=envelope+2B1", dsn},
		{rcpt, "TO:<" + utf8Recipient + ">", true}, {rcpt, " ORCPT=rfc822;first@b.test", dsn},
		{rcpt, " NOTIFY=SUCCESS,FAILURE", dsn},
	}
	for _, w := range want {
		if strings.Contains(w.in, w.word) != w.is {
			t.Errorf("%q: has %q: %t, want %t", w.in, w.word, !w.is, w.is)
		}
	}
}

// A real receiver does as it is asked: it reports a success to the author, under
// the author's own name for the message.
func TestRealDeliveryReport(t *testing.T) {
	for _, test := range []struct {
		way   realWay
		relay bool
	}{
		{way: realWay{from: mta.Exim, door: doorInbound, to: mta.Postfix}},
		{way: realWay{from: mta.Postfix, door: doorSMTP, to: mta.Exim}, relay: true},
		{way: realWay{from: mta.Exim, door: doorLMTP, to: mta.Postfix, outbound: promiseDSN}},
		{way: realWay{from: mta.Postfix, door: doorSMTP, to: mta.Exim, outbound: promiseDSN}},
	} {
		t.Run(fmt.Sprintf("%s, relay %t", test.way, test.relay), func(t *testing.T) {
			t.Parallel()
			w := test.way
			author := refpeer.Server{Hostname: "author.test", Keywords: refpeer.Modern()}
			at := realNeighbours(t, 1)[0]
			serveReference(t, at, &author)
			w.receives = mta.Config{Hostname: "mx.b.test", Local: []string{"b.test"}, Via: at, Listen: realNeighbours(t, 1)[0]}
			if test.relay {
				w.outbound = relayTo(w.receives.Listen)
			}
			w.sends.RelayFrom = []string{"127.0.0.0/8"}
			c := w.open(t)
			raw := realMessage("report", 0)
			sayEverything(t, c.sender, "SUCCESS", raw)
			if got := c.arrive(t, 1)[0]; got.Sender != utf8Sender || got.Recipient != utf8Recipient || !bytes.HasSuffix(got.Raw, raw) {
				t.Errorf("from %q to %q:\n%s", got.Sender, got.Recipient, got.Raw)
			}
			reports, err := author.WaitMessages(mtatest.Context(t), 1)
			if err != nil {
				t.Fatal(err)
			}
			report := string(reports[0].Body)
			for _, word := range []string{"original-envelope-id: envelope+", "original-recipient: rfc822;first@b.test", "action: delivered", "reporting-mta: dns; mx.b.test"} {
				if !strings.Contains(strings.ToLower(report), word) {
					t.Errorf("no %q in the report:\n%s", word, report)
				}
			}
			if strings.Contains(report, "Grüße aus dem Norden") {
				t.Errorf("RET=HDRS was not heard:\n%s", report)
			}
			if reports[0].Sender() != "" || reports[0].Recipients()[0] != utf8Sender {
				t.Errorf("report from %q to %q", reports[0].From, reports[0].Rcpts)
			}
		})
	}
}

// A server whose relay takes 7-bit text alone is told so by an inbound or relay
// door, and turns its message into such text by itself; by MX it was promised
// more than the peer holds, and its author hears so.
func TestRealSevenBitPeer(t *testing.T) {
	old := refpeer.Modern()
	old.EightBitMIME, old.SMTPUTF8 = false, false
	for _, relay := range []bool{true, false} {
		t.Run(fmt.Sprintf("relay %t", relay), func(t *testing.T) {
			t.Parallel()
			at := realNeighbours(t, 1)[0]
			peer := serveReference(t, at, &refpeer.Server{Hostname: "mx.b.test", Keywords: old})
			cfg := realConfig(t)
			change := func(*proxy.OutboundConfig) {}
			if relay {
				change = relayTo(at)
			}
			addOutbound(cfg, doorSMTP, portOf(at), change)
			px := startReal(t, cfg, serveDomains(t, map[string]string{"b.test": at}))
			sender := sendThrough(t, mta.Postfix, px.at(doorSMTP), doorSMTP, mta.Config{})
			realSubmit(t, sender, realMessage("old", 0), "you@b.test")
			if !relay {
				if err := sender.WaitLog(mtatest.Context(t), "554 5.6.3"); err != nil {
					t.Error(err)
				}
				return
			}
			got, err := peer.WaitMessages(mtatest.Context(t), 1)
			if err != nil {
				t.Fatal(err)
			}
			if !bytes.Contains(got[0].Body, []byte("Gr=C3=BC=C3=9Fe aus dem Norden")) {
				t.Errorf("came as\n%s", got[0].Body)
			}
			if v := peer.Violations(); len(v) != 0 {
				t.Error(v)
			}
		})
	}
}
