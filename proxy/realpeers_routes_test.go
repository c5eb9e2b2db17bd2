package proxy_test

import (
	"bytes"
	"fmt"
	"strings"
	"testing"
	"time"

	"slipstream/bench/mta"
	"slipstream/bench/mta/mtatest"
	"slipstream/bench/refpeer"
	"slipstream/proxy"
)

// postponements are the lines in which a server says that it will try again.
func postponements(in *mta.Instance, about string) []string {
	if in.Kind() == mta.Exim {
		return realLogged(in, " == ", about)
	}
	return realLogged(in, "status=deferred", about)
}

// One message to four recipients in three domains, each with a server of its
// own. The LMTP door takes it as it is, and everybody has it after one attempt.
// With split = "452" a transaction at the SMTP door has one destination: Exim sends
// the rest at once, and so does Postfix where it is told to take recipients one by
// one; else Postfix comes back for the rest. Exim asks for PRDR, with which one
// transaction goes everywhere.
func TestRealManyDomains(t *testing.T) {
	for name, test := range map[string]manyDomains{
		"exim, lmtp":    {from: mta.Exim, door: doorLMTP, transactions: 1},
		"postfix, lmtp": {from: mta.Postfix, door: doorLMTP, transactions: 1},
		"exim, smtp":    {from: mta.Exim, door: doorSMTP, split: "452", transactions: 3},
		"exim, PRDR":    {from: mta.Exim, door: doorSMTP, split: "fanout", transactions: 1},
		"postfix, smtp": {from: mta.Postfix, door: doorSMTP, split: "452", transactions: 3, anew: true},
		"postfix, smtp, one by one": {from: mta.Postfix, door: doorSMTP, split: "452", transactions: 4,
			extra: []string{"smtp_destination_recipient_limit = 1"}},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			test.run(t)
		})
	}
}

// manyDomains is one sender's way with several domains.
type manyDomains struct {
	from         mta.Kind
	door         string
	split        string   // of the door; empty: the default
	extra        []string // configuration of the sender
	transactions int      // that it takes
	anew         bool     // it comes back for the rest later
}

func (test manyDomains) run(t *testing.T) {
	at := realNeighbours(t, 3)
	receivers := []*mta.Instance{
		mtatest.Start(t, mta.Postfix, mta.Config{Listen: at[0], Hostname: "mx.b.test", Local: []string{"b.test"}}),
		mtatest.Start(t, mta.Exim, mta.Config{Listen: at[1], Hostname: "mx.c.test", Local: []string{"c.test"}}),
		mtatest.Start(t, mta.Postfix, mta.Config{Listen: at[2], Hostname: "mx.d.test", Local: []string{"d.test"}}),
	}
	cfg := realConfig(t)
	addOutbound(cfg, test.door, portOf(at[0]), func(o *proxy.OutboundConfig) {
		if test.split != "" {
			o.Split = test.split
		}
	})
	px := startReal(t, cfg, serveDomains(t, map[string]string{"b.test": at[0], "c.test": at[1], "d.test": at[2]}))
	sender := sendThrough(t, test.from, px.at(test.door), test.door, mta.Config{Extra: test.extra})
	raw := realMessage("domains", 0)
	realSubmit(t, sender, raw, "one@b.test", "two@c.test", "three@b.test", "four@d.test")
	for i, want := range []int{2, 1, 1} {
		got, err := receivers[i].WaitDelivered(mtatest.Context(t), want)
		if err != nil {
			t.Fatal(err)
		}
		for _, m := range got {
			if !bytes.HasSuffix(m.Raw, raw) {
				t.Errorf("%s has another message:\n%q", m.Recipient, m.Raw)
			}
		}
		if len(got) != want {
			t.Errorf("%d deliveries at %s, want %d", len(got), at[i], want)
		}
	}
	done := map[mta.Kind]string{mta.Exim: "Completed", mta.Postfix: ": removed"}[test.from]
	if err := sender.WaitLog(mtatest.Context(t), done); err != nil {
		t.Error(err)
	}
	if again := postponements(sender, "@"); (len(again) > 0) != test.anew {
		t.Errorf("put off: %q, want any: %t", again, test.anew)
	}
	sent := 0
	for _, s := range px.transactions() {
		if s.Status == "sent" {
			sent++
		}
	}
	if sent != test.transactions {
		t.Errorf("%d transactions, want %d", sent, test.transactions)
	}
}

// A death is a way for a mail host to be of no use.
type death struct {
	name   string
	server *refpeer.Server // nil: nobody is there
}

func deaths() []death {
	behave := func(kind refpeer.Kind, verb string, a refpeer.Action) *refpeer.Server {
		return &refpeer.Server{Keywords: refpeer.Modern(), Record: -1, Behave: func(ev refpeer.Event) refpeer.Action {
			if ev.Kind == kind && (verb == "" || ev.Verb == verb) {
				return a
			}
			return refpeer.Action{}
		}}
	}
	hangUp, silent := refpeer.Action{Close: true}, refpeer.Action{Stall: true}
	return []death{
		{name: "absent"},
		{"hangs-up", behave(refpeer.Connect, "", hangUp)},
		{"silent", behave(refpeer.Connect, "", silent)},
		{"busy", behave(refpeer.Connect, "", refpeer.Say("421 4.3.2 too busy"))},
		{"closed", behave(refpeer.Connect, "", refpeer.Say("554 5.3.2 not here"))},
		{"busy-ehlo", behave(refpeer.Command, "EHLO", refpeer.Say("421 4.3.2 too busy"))},
		{"busy-mail", behave(refpeer.Command, "MAIL", refpeer.Say("421 4.3.2 too busy"))},
		{"later-mail", behave(refpeer.Command, "MAIL", refpeer.Say("451 4.3.0 later"))},
		{"hangs-up-mail", behave(refpeer.Command, "MAIL", hangUp)},
		{"silent-mail", behave(refpeer.Command, "MAIL", silent)},
		{"busy-rcpt", behave(refpeer.Command, "RCPT", refpeer.Say("421 4.3.2 too busy"))},
		{"hangs-up-rcpt", behave(refpeer.Command, "RCPT", hangUp)},
		{"hangs-up-text", behave(refpeer.DataStart, "", hangUp)},
		{"busy-final", behave(refpeer.EndOfData, "", refpeer.Say("421 4.3.2 too busy"))},
		{"hangs-up-final", behave(refpeer.EndOfData, "", hangUp)},
	}
}

// Behind one door there are living and dead destinations. A server must not take
// the door for dead, or hold up mail for the living, because of the dead.
func TestRealDeadDestinations(t *testing.T) {
	for _, from := range mta.Kinds() {
		for _, door := range []string{doorSMTP, doorLMTP} {
			t.Run(fmt.Sprintf("%s, %s", from, door), func(t *testing.T) {
				t.Parallel()
				testRealDeadDestinations(t, from, door)
			})
		}
	}
}

func testRealDeadDestinations(t *testing.T, from mta.Kind, door string) {
	list := deaths()
	at := realNeighbours(t, 1+len(list))
	alive := serveReference(t, at[0], refpeer.Sink("mx.live.test"))
	domains := map[string]string{"live.test": at[0], "servfail.test": ""}
	dead := []string{"you@servfail.test", "you@nowhere.test"}
	for i, d := range list {
		domains[d.name+".test"] = at[1+i]
		dead = append(dead, "you@"+d.name+".test")
		if d.server != nil {
			serveReference(t, at[1+i], d.server)
		}
	}
	cfg := realConfig(t)
	cfg.Timeouts.Greeting, cfg.Timeouts.PeerCommand = 3*time.Second, 3*time.Second
	addOutbound(cfg, door, portOf(at[0]), nil)
	px := startReal(t, cfg, serveDomains(t, domains))
	sender := sendThrough(t, from, px.at(door), door, mta.Config{})
	var sent []string
	live := func(n int) {
		id := fmt.Sprintf("live-%d", n)
		sent = append(sent, id)
		raw := append([]byte(refpeer.IDField+": "+id+"\r\n"), realMessage(id, 0)...)
		realSubmit(t, sender, raw, "you@live.test")
	}
	for i, to := range dead {
		realSubmit(t, sender, realMessage("dead", 0), to)
		live(i)
	}
	// By now it knows of the dead, and must not have drawn the wrong conclusion.
	for _, to := range dead {
		awaitReal(t, to+" in the sender's log", func() bool {
			return len(postponements(sender, to))+len(realLogged(sender, "** "+to))+len(realLogged(sender, "status=bounced", to)) > 0
		})
	}
	for i := range 5 {
		live(len(dead) + i)
	}
	if _, err := alive.WaitMessages(mtatest.Context(t), len(sent)); err != nil {
		t.Errorf("%v\n%s", err, strings.Join(postponements(sender, "@live.test"), ""))
	}
	came := alive.IDs()
	for _, id := range sent {
		if came[id] != 1 {
			t.Errorf("%s came %d times", id, came[id])
		}
	}
	if held := postponements(sender, "@live.test"); len(held) > 0 {
		t.Errorf("mail for the living was held up:\n%s", strings.Join(held, ""))
	}
	if lines := realLogged(sender, "temporarily suspended"); len(lines) > 0 {
		t.Errorf("the door was taken for dead:\n%s", strings.Join(lines, ""))
	}
	checkWords(t, sender)
}

// checkWords looks for what the sender was told about some of the dead.
func checkWords(t *testing.T, sender *mta.Instance) {
	t.Helper()
	for to, words := range map[string]string{
		"you@absent.test":         "connection refused",
		"you@closed.test":         "554 5.3.2 not here",
		"you@busy.test":           "421 4.3.2 too busy",
		"you@later-mail.test":     "451 4.3.0 later",
		"you@hangs-up-final.test": "outcome unknown",
		"you@silent.test":         "waiting for the greeting",
		"you@servfail.test":       "SERVFAIL",
		"you@nowhere.test":        "550 5.1.2",
	} {
		if len(realLogged(sender, to, words)) == 0 {
			t.Errorf("the sender was not told %q about %s:\n%s", words, to, strings.Join(realLogged(sender, to), ""))
		}
	}
}

// Where a connection may carry few messages, a server opens another, and puts
// nothing off.
func TestRealFewPerConnection(t *testing.T) {
	for _, from := range mta.Kinds() {
		t.Run(string(from), func(t *testing.T) {
			t.Parallel()
			sender := sendCrowd(t, from, func(cfg *proxy.Config) { cfg.Limits.MaxTransactions = 3 })
			if held := postponements(sender, "@"); len(held) > 0 {
				t.Errorf("put off:\n%s", strings.Join(held, ""))
			}
		})
	}
}

// Where the door has no room for all connections that a server wants, everything
// arrives once, though not at once.
func TestRealCrowdedDoor(t *testing.T) {
	for _, from := range mta.Kinds() {
		t.Run(string(from), func(t *testing.T) {
			t.Parallel()
			sendCrowd(t, from, func(cfg *proxy.Config) { cfg.Limits.MaxConnectionsPerClient = 2 })
		})
	}
}

// sendCrowd has a server send many messages to one destination, and sees each
// arrive once.
func sendCrowd(t *testing.T, from mta.Kind, change func(*proxy.Config)) *mta.Instance {
	t.Helper()
	at := realNeighbours(t, 1)[0]
	peer := serveReference(t, at, refpeer.Sink("mx.b.test"))
	cfg := realConfig(t)
	change(cfg)
	addOutbound(cfg, doorSMTP, portOf(at), nil)
	px := startReal(t, cfg, serveDomains(t, map[string]string{"b.test": at}))
	sender := sendThrough(t, from, px.at(doorSMTP), doorSMTP, mta.Config{})
	const all = 30
	for i := range all {
		id := fmt.Sprintf("crowd-%d", i)
		realSubmit(t, sender, append([]byte(refpeer.IDField+": "+id+"\r\n"), realMessage(id, 0)...), "you@b.test")
	}
	if _, err := peer.WaitMessages(mtatest.Context(t), all); err != nil {
		t.Errorf("%v\n%s", err, sender.Log())
	}
	for id, n := range peer.IDs() {
		if n != 1 {
			t.Errorf("%s came %d times", id, n)
		}
	}
	return sender
}
