package proxy_test

import (
	"bytes"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"sync"
	"testing"

	"go.uber.org/zap"
	"go.uber.org/zap/zaptest"

	"slipstream/bench/mta"
	"slipstream/bench/refpeer"
	"slipstream/proxy"
	"slipstream/proxy/once"
	"slipstream/tlsstore"
)

// lmtpSenders are the servers that send everything through an LMTP door.
func lmtpSenders() map[string]func(t *testing.T, door string) fanoutSender {
	instance := func(kind mta.Kind) func(*testing.T, string) fanoutSender {
		return func(t *testing.T, door string) fanoutSender {
			return &fanoutInstance{sendThrough(t, kind, door, doorLMTP, mta.Config{})}
		}
	}
	return map[string]func(*testing.T, string) fanoutSender{
		"exim": instance(mta.Exim), "postfix": instance(mta.Postfix), "opensmtpd": instance(mta.OpenSMTPD),
		"sendmail": startSendmailLMTP,
	}
}

// startSendmailLMTP has sendmail speak LMTP, which its flag z does.
func startSendmailLMTP(t *testing.T, door string) fanoutSender {
	t.Helper()
	s := startSendmailSender(t, door)
	file := filepath.Join(s.(*sendmailSender).dir, "sendmail.cf")
	cf, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	mailer := regexp.MustCompile(`(?m)^(Mesmtp,.*F=\w+)`)
	if len(mailer.FindAll(cf, -1)) != 1 {
		t.Fatal("no mailer esmtp in sendmail.cf")
	}
	if err := os.WriteFile(file, mailer.ReplaceAll(cf, []byte("${1}z")), 0o600); err != nil {
		t.Fatal(err)
	}
	return s
}

// One message to four recipients in three domains, each with a hop of its own,
// through the LMTP door, from each of the servers: everybody has it once after one
// transaction. Then one hop refuses the text for good and one puts it off: the
// others have it once, the author hears the refusal in its own words, and whoever
// was put off has it later.
func TestRealLMTP(t *testing.T) {
	var mu sync.Mutex
	rows := map[string]string{}
	t.Run("mta", func(t *testing.T) {
		for name, start := range lmtpSenders() {
			t.Run(name, func(t *testing.T) {
				t.Parallel()
				f := newRealLMTP(t, start)
				alike := f.alike(t)
				differ := f.differ(t)
				mu.Lock()
				defer mu.Unlock()
				rows[name] = fmt.Sprintf("%-12s %-18s %s", name, alike, differ)
			})
		}
	})
	t.Logf("%-12s %-18s %s", "", "all take it", "one refuses the text, one puts it off twice")
	for _, name := range slices.Sorted(maps.Keys(rows)) {
		t.Log(rows[name])
	}
}

// newRealLMTP is newRealFanout with an LMTP door.
func newRealLMTP(t *testing.T, start func(*testing.T, string) fanoutSender,
	change ...func(*proxy.OutboundConfig)) *realFanout {
	t.Helper()
	f := &realFanout{hops: map[string]*refpeer.Server{}, attempts: map[string]int{}}
	at := realNeighbours(t, 4)
	domains := map[string]string{}
	for i, name := range []string{"a.test", "b.test", "c.test", "d.test"} {
		domains[name] = at[i]
		f.hops[name] = serveReference(t, at[i], &refpeer.Server{Hostname: "mx." + name, Keywords: refpeer.Modern(),
			Behave: func(ev refpeer.Event) refpeer.Action { return f.behave(name, ev) }})
	}
	cfg := realConfig(t)
	addOutbound(cfg, doorLMTP, portOf(at[0]), func(out *proxy.OutboundConfig) {
		for _, c := range change {
			c(out)
		}
	})
	var err error
	if f.memory, err = once.Open(tlsstore.Memory(), once.Options{}); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := f.memory.Close(); err != nil { // behind the proxy's shutdown
			t.Error(err)
		}
	})
	f.px, err = startRealWith(t, cfg, serveDomains(t, domains), proxy.Options{
		Log: zaptest.NewLogger(t, zaptest.Level(zap.InfoLevel)), Once: f.memory})
	if err != nil {
		t.Fatal(err)
	}
	f.sender = start(t, f.px.at(doorLMTP))
	t.Cleanup(func() {
		if t.Failed() {
			t.Log(f.sender.log())
		}
	})
	return f
}

// OpenSMTPD takes two replies in one read for too much. So each has a read of its
// own, however many there are and however busy the machine is: it is watched until
// it has read, where that can be seen, and given a tenth of a second where not.
func TestRealOpenSMTPDPace(t *testing.T) {
	for name, test := range map[string]struct {
		pace   proxy.Pace
		rcpts  int
		broken bool
	}{
		"auto":       {proxy.PaceAuto, 90, false},
		"configured": {proxy.Pace(20e6), 30, false},
		"not paced":  {0, 90, true},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			f := newRealLMTP(t, lmtpSenders()["opensmtpd"], func(out *proxy.OutboundConfig) { out.ReplyPace = test.pace })
			var to []string
			for i := range test.rcpts {
				to = append(to, fmt.Sprintf("user-%02d@%c.test", i, "bcd"[i%3]))
			}
			raw := realMessage("many", 0)
			f.sender.submit(t, raw, to...)
			f.px.records(t, 1)
			in := f.sender.(*fanoutInstance).Instance
			awaitReal(t, "its log of all recipients", func() bool {
				return len(realLogged(in, "mta delivery", "result=")) >= test.rcpts
			})
			failed := len(realLogged(in, "mta delivery", `result="TempFail"`))
			if failed > 0 != test.broken {
				t.Errorf("it took %d of %d recipients for not delivered", failed, test.rcpts)
			}
			if test.broken {
				return // so it is without a pause: its next attempt would be no better
			}
			count := map[string]int{}
			for _, hop := range f.hops {
				for _, m := range hop.Messages() {
					if m.Accepted && bytes.Contains(m.Body, []byte("Subject: many")) {
						for _, rcpt := range m.Recipients() {
							count[rcpt]++
						}
					}
				}
			}
			for _, rcpt := range to {
				if count[rcpt] != 1 {
					t.Errorf("%s has it %d times", rcpt, count[rcpt])
				}
			}
			if n := strings.Count(in.Log(), "result=\"PermFail\""); n > 0 {
				t.Errorf("%d were refused", n)
			}
		})
	}
}
