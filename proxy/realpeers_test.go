package proxy_test

import (
	"bytes"
	"fmt"
	"strings"
	"testing"

	"slipstream/bench/mta"
	"slipstream/bench/mta/mtatest"
)

// Every server sends to every other through every door, in clear and over TLS.
func TestRealDelivery(t *testing.T) {
	for _, from := range mta.Kinds() {
		for _, door := range realDoors() {
			for _, to := range mta.Kinds() {
				for _, secured := range []bool{false, true} {
					w := realWay{from: from, door: door, to: to, secured: secured}
					t.Run(w.String(), func(t *testing.T) {
						t.Parallel()
						testRealDelivery(t, w)
					})
				}
			}
		}
	}
}

func testRealDelivery(t *testing.T, w realWay) {
	c := w.open(t)
	raw := realMessage("delivery", 0)
	realSubmit(t, c.sender, raw, "you@b.test", "me@b.test")
	got := c.arrive(t, 2)
	recipients := map[string]bool{}
	for _, m := range got {
		recipients[m.Recipient] = true
		if m.Sender != realSender {
			t.Errorf("sender %q", m.Sender)
		}
		if !bytes.HasSuffix(m.Raw, raw) {
			t.Errorf("came as\n%q\nwant\n%q", m.Raw, raw)
		}
		checkTrace(t, w, string(m.Raw))
	}
	if len(got) != 2 || !recipients["you@b.test"] || !recipients["me@b.test"] {
		t.Errorf("%d deliveries, to %v", len(got), recipients)
	}
	// P5: the sender's log has the receiver's own words.
	words := map[mta.Kind]string{mta.Exim: " id=", mta.Postfix: "queued as "}[w.to]
	if err := c.sender.WaitLog(mtatest.Context(t), words); err != nil {
		t.Error(err)
	}
	awaitReal(t, "the proxy's account", func() bool { return len(c.proxy.transactions()) > 0 })
	for _, s := range c.proxy.transactions() {
		if s.Status != "sent" || s.Verified != w.secured || (s.TLS != "none") != w.secured {
			t.Errorf("summary %+v", s)
		}
	}
}

// checkTrace looks at the Received fields: the receiver's, then perhaps ours.
func checkTrace(t *testing.T, w realWay, raw string) {
	t.Helper()
	fields := strings.Split(raw, "Received: ")
	if len(fields) < 3 {
		t.Fatalf("too few Received fields in\n%s", raw)
	}
	theirs, ours := fields[1], fields[2]
	if secured := strings.Contains(strings.ToUpper(theirs), "ESMTPS"); secured != w.secured {
		t.Errorf("the receiver was told over TLS: %t\n%s", secured, theirs)
	}
	if !strings.Contains(theirs, realProxyName) {
		t.Errorf("the receiver did not hear from us:\n%s", theirs)
	}
	mark := "by " + realProxyName + " (Slipstream) with ESMTP"
	if w.secured {
		mark += "S"
	}
	if w.door == doorInbound && !strings.Contains(ours, mark+" id ") {
		t.Errorf("no %q in our field:\n%s", mark, ours)
	}
	if w.door != doorInbound && strings.Contains(raw, "Slipstream") {
		t.Errorf("an outbound door left a trace:\n%s", raw)
	}
}

// A message that is far too large for memory.
func TestRealLargeMessage(t *testing.T) {
	if testing.Short() {
		t.Skip("-short: large messages take a while")
	}
	raw := realMessage("large", 25<<20)
	for _, w := range []realWay{
		{from: mta.Exim, door: doorInbound, to: mta.Postfix},
		{from: mta.Postfix, door: doorInbound, to: mta.Exim, secured: true},
		{from: mta.Postfix, door: doorSMTP, to: mta.Exim, secured: true},
		{from: mta.Exim, door: doorLMTP, to: mta.Postfix},
	} {
		t.Run(w.String(), func(t *testing.T) {
			t.Parallel()
			c := w.open(t)
			realSubmit(t, c.sender, raw, "you@b.test")
			got := c.arrive(t, 1)
			if len(got) != 1 || !bytes.HasSuffix(got[0].Raw, raw) {
				t.Errorf("%d deliveries, the first of %d octets; want one that ends in %d octets sent", len(got), len(got[0].Raw), len(raw))
			}
		})
	}
}

// A hundred recipients, some of whom are refused or put off: everybody else has
// the message once, and the sender hears about each in the receiver's own words.
func TestRealRefusals(t *testing.T) {
	for _, from := range mta.Kinds() {
		for _, door := range realDoors() {
			to := mta.Postfix
			if from == mta.Postfix {
				to = mta.Exim
			}
			w := realWay{from: from, door: door, to: to}
			t.Run(w.String(), func(t *testing.T) {
				t.Parallel()
				testRealRefusals(t, w)
			})
		}
	}
}

func testRealRefusals(t *testing.T, w realWay) {
	const all = 100
	var to []string
	said := make(map[string]string) // the words about a recipient
	for i := range all {
		local := fmt.Sprintf("user-%02d", i)
		rcpt := local + "@b.test"
		to = append(to, rcpt)
		switch i % 10 {
		case 3:
			said[rcpt] = fmt.Sprintf("550 5.1.1 nobody is called number %d", i)
		case 7:
			said[rcpt] = fmt.Sprintf("451 4.2.1 number %d is out for lunch", i)
		default:
			continue
		}
		w.receives.Refusals = append(w.receives.Refusals, mta.Refusal{Local: local, Reply: said[rcpt]})
	}
	if w.to == mta.Postfix { // by default it makes whoever is refused wait, for seconds each time, and then hangs up
		w.receives.Extra = []string{"smtpd_error_sleep_time = 0", "smtpd_hard_error_limit = 1000"}
	}
	c := w.open(t)
	raw := realMessage("refusals", 0)
	realSubmit(t, c.sender, raw, to...)
	count := make(map[string]int)
	for _, m := range c.arrive(t, all-len(said)) {
		count[m.Recipient]++
		if !bytes.HasSuffix(m.Raw, raw) {
			t.Errorf("%s has another message", m.Recipient)
		}
	}
	for _, rcpt := range to {
		want := 1
		if said[rcpt] != "" {
			want = 0
		}
		if count[rcpt] != want {
			t.Errorf("%s has the message %d times, want %d", rcpt, count[rcpt], want)
		}
	}
	checkRefusals(t, c.sender, said)
}

// checkRefusals looks for the words about each recipient in the sender's log,
// and in its report to the author where they are final.
func checkRefusals(t *testing.T, sender *mta.Instance, said map[string]string) {
	t.Helper()
	for rcpt, reply := range said {
		code, text := reply[:len("550 5.1.1")], reply[len("550 5.1.1 "):]
		awaitReal(t, rcpt+" in the sender's log", func() bool { return len(realLogged(sender, rcpt, code, text)) > 0 })
	}
	list, err := sender.WaitDelivered(mtatest.Context(t), 1)
	if err != nil {
		t.Fatal(err)
	}
	var report strings.Builder
	for _, m := range list {
		report.WriteString(strings.Join(strings.Fields(string(m.Raw)), " ")) // unfolded
	}
	for rcpt, reply := range said {
		if text := reply[len("550 5.1.1 "):]; reply[0] == '5' && !strings.Contains(report.String(), text) {
			t.Errorf("no %q about %s in the report to the author:\n%s", text, rcpt, report.String())
		}
	}
}
