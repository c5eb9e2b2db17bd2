package proxy_test

import (
	"fmt"
	"slices"
	"strings"
	"testing"

	"slipstream/bench/mta"
	"slipstream/bench/refpeer"
	"slipstream/proxy"
)

// settledBy waits until Exim has done with a message, and returns the lines about
// its recipients: "=>" and "->" delivered, "**" bounced, "==" put off.
func settledBy(t *testing.T, sender *mta.Instance) map[string]string {
	t.Helper()
	awaitReal(t, "Exim to have done with the message", func() bool {
		came := realLogged(sender, " <= "+realSender+" ")
		return len(came) > 0 && len(realLogged(sender, strings.Fields(came[0])[2]+" Completed")) > 0
	})
	lines := make(map[string]string)
	for _, mark := range []string{"=>", "->", "**", "=="} {
		for _, line := range realLogged(sender, " "+mark+" ") {
			_, rest, _ := strings.Cut(line, " "+mark+" ")
			to, _, _ := strings.Cut(strings.TrimRight(rest, ":"), " ")
			if to = strings.TrimRight(to, ":"); strings.Contains(to, "sender") {
				continue // the notice to the author
			}
			lines[to] += mark + " " + rest
		}
	}
	return lines
}

func bounced(line, why string) bool {
	return strings.HasPrefix(line, "** ") && strings.Contains(line, why) && strings.Count(line, "\n") == 1
}

func delivered(line string) bool {
	return (strings.HasPrefix(line, "=> ") || strings.HasPrefix(line, "-> ")) && strings.Count(line, "\n") == 1
}

// Exim asks for PRDR where a message has several recipients, and hears a last
// word about each: one has the message, one is refused by its envelope and one
// when the text was seen.
func TestRealPRDR(t *testing.T) {
	for name, extra := range map[string][]string{"DATA": {"hosts_try_chunking ="}, "BDAT": nil} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			at := realNeighbours(t, 1)[0]
			hop := serveReference(t, at, &refpeer.Server{LMTP: true, Hostname: "mx.b.test",
				Keywords:     refpeer.Modern(),
				RcptReplies:  map[string]string{"nobody@b.test": "550 5.1.1 no such user"},
				FinalReplies: map[string]string{"full@b.test": "552 5.2.2 quota is used up"}})
			cfg := realConfig(t)
			addOutbound(cfg, doorSMTP, portOf(at), func(out *proxy.OutboundConfig) {
				out.Route, out.MXPort, out.Offer, out.AllowPrivateDestinations = "", 0, nil, false
				out.Relay = realEndpoint(at)
				out.Relay.LMTP = true
			})
			px := startReal(t, cfg, serveDomains(t, nil))
			sender := sendThrough(t, mta.Exim, px.at(doorSMTP), doorSMTP, mta.Config{ExtraClient: extra})
			realSubmit(t, sender, realMessage("prdr", 0), "nobody@b.test", "you@b.test", "full@b.test")
			lines := settledBy(t, sender)
			if !delivered(lines["you@b.test"]) || !strings.Contains(lines["you@b.test"], " PRDR ") ||
				!bounced(lines["nobody@b.test"], "550 5.1.1 no such user") || !bounced(lines["full@b.test"],
				"552 5.2.2 quota is used up") {
				t.Errorf("the log says %q", lines)
			}
			if m := hop.Messages(); len(m) != 1 || !slices.Equal(m[0].Recipients(), []string{"you@b.test",
				"full@b.test"}) || strings.Contains(m[0].From, "PRDR") {
				t.Errorf("the hop has %d messages: %+v", len(m), m)
			}
			if v := hop.Violations(); len(v) != 0 {
				t.Error(v)
			}
			tx := px.records(t, 1)
			if len(tx) != 1 || tx[0].Status != "mixed" {
				t.Errorf("transactions: %+v", tx)
			}
		})
	}
}

// Where all of them come to the same end one reply stands for all, and where all
// come to different bad ends, none is given up that may be sent again.
func TestRealPRDRAlike(t *testing.T) {
	const (
		no, later = "550 5.1.1 no such user", "450 4.2.1 not now"
	)
	tests := []struct {
		name    string
		replies map[string]string
		final   string
		check   func(a, b string) bool
		status  string
	}{
		{"delivered", nil, "250 2.0.0 taken", func(a, b string) bool { return delivered(a) && delivered(b) }, "sent"},
		{"refused alike", map[string]string{"a@b.test": no, "b@b.test": no}, "", func(a,
			b string) bool {
			return bounced(a, no) && bounced(b, no)
		}, "bounced"},
		{"refused", map[string]string{"a@b.test": no, "b@b.test": "551 5.1.6 moved"}, "", func(a, b string) bool {
			return bounced(a, no) && bounced(b, "551 5.1.6 moved")
		}, "bounced"},
		{"the text refused", nil, "554 5.7.1 spam", func(a, b string) bool {
			return bounced(a, "554 5.7.1 spam") &&
				bounced(b, "554 5.7.1 spam")
		}, "bounced"},
		{"the text refused, and one", map[string]string{"a@b.test": no}, "554 5.7.1 spam", func(a, b string) bool {
			return bounced(a, no) && bounced(b, "554 5.7.1 spam")
		}, "bounced"},
		// The other one is put off until it is taken.
		{"one refused, one put off", map[string]string{"a@b.test": no, "b@b.test": later}, "", func(a,
			b string) bool {
			return bounced(a, no) && strings.HasPrefix(b, "=> ") && strings.Contains(b, "== ") && strings.Contains(b,
				later)
		}, "mixed"},
		{"one taken, one put off", map[string]string{"b@b.test": later}, "", func(a, b string) bool {
			return delivered(a) && strings.HasPrefix(b, "=> ") && strings.Contains(b, "== ") && strings.Contains(b,
				later)
		}, "mixed"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			at := realNeighbours(t, 1)[0]
			hop := serveReference(t, at, &refpeer.Server{Hostname: "mx.b.test", Keywords: refpeer.Modern(),
				Behave: func(ev refpeer.Event) refpeer.Action {
					reply := tt.replies[ev.Address]
					if ev.Kind == refpeer.EndOfData {
						reply = tt.final
					}
					if reply == "" || ev.Verb == "RCPT" && reply == later && ev.Conn > 0 {
						return refpeer.Action{}
					}
					return refpeer.Say(reply)
				}})
			cfg := realConfig(t)
			addOutbound(cfg, doorSMTP, portOf(at), func(out *proxy.OutboundConfig) { out.PoolIdle = 0 })
			px := startReal(t, cfg, serveDomains(t, map[string]string{"b.test": at}))
			sender := sendThrough(t, mta.Exim, px.at(doorSMTP), doorSMTP, mta.Config{})
			realSubmit(t, sender, realMessage("prdr", 0), "a@b.test", "b@b.test")
			lines := settledBy(t, sender)
			if !tt.check(lines["a@b.test"], lines["b@b.test"]) || len(lines) != 2 {
				t.Errorf("the log says %q", lines)
			}
			if tx := px.records(t, 1); tx[0].Status != tt.status || tx[0].Saved.String() == "" {
				t.Errorf("transactions: %+v", tx)
			}
			for _, m := range hop.Messages() {
				if len(slices.Compact(m.Recipients())) != len(m.Recipients()) {
					t.Errorf("it came for %q", m.Recipients())
				}
			}
		})
	}
}

// Recipients that cannot share a transaction come again at once, in the same
// session, wherever they stood among the others; where all can, there is one.
func TestRealPRDRManyDomains(t *testing.T) {
	t.Run("452", func(t *testing.T) { prdrDomains(t, "452", 4) })
	t.Run("fanout", func(t *testing.T) { prdrDomains(t, "fanout", 1) })
}

func prdrDomains(t *testing.T, split string, transactions int) {
	at := realNeighbours(t, 3)
	var hops []*refpeer.Server
	domains := make(map[string]string)
	for i, domain := range []string{"b.test", "c.test", "d.test"} {
		domains[domain] = at[i]
		hops = append(hops, serveReference(t, at[i], &refpeer.Server{Hostname: "mx." + domain,
			Keywords:    refpeer.Modern(),
			RcptReplies: map[string]string{"no@" + domain: "550 5.1.1 no such user"}}))
	}
	cfg := realConfig(t)
	addOutbound(cfg, doorSMTP, portOf(at[0]), func(o *proxy.OutboundConfig) { o.Split = split })
	px := startReal(t, cfg, serveDomains(t, domains))
	sender := sendThrough(t, mta.Exim, px.at(doorSMTP), doorSMTP, mta.Config{})
	to := []string{"one@b.test", "one@c.test", "no@b.test", "two@c.test", "two@b.test", "one@d.test", "three@b.test",
		"no@c.test", "you@nowhere.test"}
	realSubmit(t, sender, realMessage("prdr", 0), to...)
	lines := settledBy(t, sender)
	for _, rcpt := range to {
		ok := delivered(lines[rcpt])
		switch {
		case strings.HasPrefix(rcpt, "no@"):
			ok = bounced(lines[rcpt], "550 5.1.1 no such user")
		case rcpt == "you@nowhere.test":
			ok = bounced(lines[rcpt], "550 5.1.2")
		}
		if !ok {
			t.Errorf("%s: %q", rcpt, lines[rcpt])
		}
	}
	came := make(map[string]int)
	for _, hop := range hops {
		for _, m := range hop.Messages() {
			for _, rcpt := range m.Recipients() {
				came[rcpt]++
			}
		}
		if v := hop.Violations(); len(v) != 0 {
			t.Error(v)
		}
	}
	if want := map[string]int{"one@b.test": 1, "two@b.test": 1, "three@b.test": 1, "one@c.test": 1, "two@c.test": 1,
		"one@d.test": 1}; fmt.Sprint(came) != fmt.Sprint(want) {
		t.Errorf("arrived: %v, want %v", came, want)
	}
	sessions := make(map[string]bool)
	for _, tx := range px.transactions() {
		id, _, _ := strings.Cut(tx.ID, ".")
		sessions[id] = true
	}
	if len(sessions) != 1 || len(px.transactions()) != transactions {
		t.Errorf("%d transactions in %d sessions, want %d in 1", len(px.transactions()), len(sessions), transactions)
	}
}
