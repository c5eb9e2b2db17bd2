package proxy_test

import (
	"bytes"
	"fmt"
	"net/netip"
	"strings"
	"testing"

	"slipstream/bench/mta"
	"slipstream/bench/mta/mtatest"
	"slipstream/proxy"
)

// earlyChannels are the ways to an inbound door.
func earlyChannels() []string { return []string{"clear", "STARTTLS", "TLS on connect"} }

// An earlyCourse is an Exim that may talk early to an inbound door.
type earlyCourse struct {
	realCourse
	cfg *proxy.Config
}

func openEarly(t *testing.T, channel string) earlyCourse {
	t.Helper()
	receiver := mtatest.Start(t, mta.Postfix, mta.Config{Hostname: "mx.b.test", Local: []string{"b.test"}})
	cert := newRealCert(t, realProxyName)
	sends := mta.Config{PipeConnect: true}
	cfg := realConfig(t)
	addInbound(cfg, doorInbound, receiver.Addr(), func(in *proxy.InboundConfig) {
		if channel == "clear" {
			return
		}
		in.TLSCert, in.TLSKey = cert.certFile, cert.keyFile
		sends.ClientTLS, sends.CA = mta.TLSVerify, cert.cert
		if channel == "TLS on connect" {
			in.Listen, in.ListenTLS = nil, in.Listen
			sends.ExtraClient = []string{"protocol = smtps"}
		}
	})
	px := startReal(t, cfg, serveDomains(t, map[string]string{"b.test": receiver.Addr()}))
	sender := sendThrough(t, mta.Exim, px.at(doorInbound), doorInbound, sends)
	return earlyCourse{realCourse{sender, receiver, px}, cfg}
}

// reload changes the door.
func (c earlyCourse) reload(t *testing.T, change func(*proxy.InboundConfig)) {
	t.Helper()
	cfg := *c.cfg
	cfg.Inbound = append([]proxy.InboundConfig(nil), c.cfg.Inbound...)
	change(&cfg.Inbound[0])
	if err := c.proxy.Reload(mtatest.Context(t), &cfg); err != nil {
		t.Fatal(err)
	}
}

// sendOne sends a message to somebody and returns the line of Exim's log about it.
func (c earlyCourse) sendOne(t *testing.T, who string) string {
	t.Helper()
	rcpt := who + "@b.test"
	realSubmit(t, c.sender, realMessage(who, 0), rcpt)
	if err := c.sender.WaitLog(mtatest.Context(t), "=> "+rcpt); err != nil {
		t.Fatal(err)
	}
	return realLogged(c.sender, "=> "+rcpt)[0]
}

// Exim learns at its first message that it may talk early, and does from the
// second on. "L*" in its log says so.
func TestRealEximTalksEarly(t *testing.T) {
	for _, channel := range earlyChannels() {
		t.Run(channel, func(t *testing.T) {
			t.Parallel()
			c := openEarly(t, channel)
			if line := c.sendOne(t, "first"); strings.Contains(line, " L* ") || !strings.Contains(line, " L ") {
				t.Errorf("the first message: %s", line)
			}
			if line := c.sendOne(t, "second"); !strings.Contains(line, " L* ") {
				t.Errorf("the second message: %s", line)
			}
			all := 50
			if testing.Short() {
				all = 5
			}
			sent := map[string][]byte{"first@b.test": realMessage("first", 0), "second@b.test": realMessage("second", 0)}
			for i := len(sent); i < all; i++ {
				who, size := fmt.Sprintf("user-%d", i), 0
				if i%10 == 0 {
					size = 100 << 10 // its header comes in a chunk of its own
				}
				sent[who+"@b.test"] = realMessage(who, size)
				realSubmit(t, c.sender, sent[who+"@b.test"], who+"@b.test")
			}
			for _, m := range c.arrive(t, all) {
				if raw := sent[m.Recipient]; raw == nil || !bytes.HasSuffix(m.Raw, raw) {
					t.Errorf("%s has a message twice, or another", m.Recipient)
				}
				delete(sent, m.Recipient)
			}
			if len(sent) != 0 {
				t.Errorf("%d messages are lost", len(sent))
			}
			early := func() int { return len(realLogged(c.sender, " => ", " L* ")) }
			awaitReal(t, "Exim's account", func() bool { return len(realLogged(c.sender, " => ")) == all })
			if n := early(); n != all-1 {
				t.Errorf("%d of %d messages were early, want all but the first", n, all)
			}
			if late := postponements(c.sender, ""); len(late) != 0 {
				t.Errorf("Exim came again: %s", late)
			}
		})
	}
}

// Exim goes on talking early to a door that does not say any more that it may:
// the message is delivered at once all the same, and Exim learns.
func TestRealEximTalksEarlyUntold(t *testing.T) {
	for _, channel := range earlyChannels() {
		t.Run(channel, func(t *testing.T) {
			t.Parallel()
			c := openEarly(t, channel)
			c.sendOne(t, "first")
			if line := c.sendOne(t, "second"); !strings.Contains(line, " L* ") {
				t.Errorf("the second message: %s", line)
			}
			c.reload(t, func(in *proxy.InboundConfig) { in.PipeconnectAdvertiseHosts = proxy.Prefixes{} })
			for _, who := range []string{"third", "fourth"} {
				if line := c.sendOne(t, who); strings.Contains(line, " L* ") {
					t.Errorf("the %s message: %s", who, line)
				}
			}
			if late := postponements(c.sender, ""); len(late) != 0 {
				t.Errorf("Exim came again: %s", late)
			}
			if got := c.arrive(t, 4); len(got) != 4 {
				t.Errorf("%d messages arrived", len(got))
			}
		})
	}
}

// Exim talks early to a door that has meanwhile been closed to it. It comes
// again, where a 554 in the greeting would have had it return the message.
func TestRealEximTalksEarlyTurnedAway(t *testing.T) {
	for _, channel := range earlyChannels() {
		t.Run(channel, func(t *testing.T) {
			t.Parallel()
			c := openEarly(t, channel)
			c.sendOne(t, "first")
			c.sendOne(t, "second")
			c.reload(t, func(in *proxy.InboundConfig) {
				in.Allow = proxy.Prefixes{netip.MustParsePrefix("10.0.0.0/8")}
			})
			realSubmit(t, c.sender, realMessage("third", 0), "third@b.test")
			awaitReal(t, "Exim to be turned away", func() bool { return len(postponements(c.sender, "third@b.test")) > 0 })
			c.reload(t, func(*proxy.InboundConfig) {})
			if err := c.sender.WaitLog(mtatest.Context(t), "=> third@b.test"); err != nil {
				t.Fatal(err)
			}
			if lost := realLogged(c.sender, " ** "); len(lost) != 0 {
				t.Errorf("given up: %s", lost)
			}
		})
	}
}
