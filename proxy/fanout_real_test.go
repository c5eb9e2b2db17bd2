package proxy_test

import (
	"bytes"
	"fmt"
	"maps"
	"regexp"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"go.uber.org/zap"
	"go.uber.org/zap/zaptest"

	"slipstream/bench/refpeer"
	"slipstream/proxy"
	"slipstream/proxy/once"
	"slipstream/tlsstore"
)

// What the hops of the real fan-outs say at the end of the text.
const (
	fanoutNo    = "554 5.7.1 c.test does not want this"
	fanoutLater = "451 4.7.1 d.test has no time now"
	fanoutOff   = 2 // how often d.test says so
)

// fanoutTo is one message's recipients, in three domains.
var fanoutTo = [4]string{"one@b.test", "two@c.test", "three@b.test", "four@d.test"}

// One message to four recipients in three domains, each with a hop of its own, from
// each of the servers. Where all hops take it, everybody has it after one
// transaction. Where one refuses the text for good and one puts it off, the others
// have it once, the author hears the refusal in its own words, and whoever was put
// off has it later.
func TestRealFanout(t *testing.T) {
	var mu sync.Mutex
	rows := map[string]string{}
	t.Run("mta", func(t *testing.T) {
		for name, start := range fanoutSenders() {
			t.Run(name, func(t *testing.T) {
				t.Parallel()
				f := newRealFanout(t, start)
				alike := f.alike(t)
				differ := f.differ(t)
				mu.Lock()
				defer mu.Unlock()
				rows[name] = fmt.Sprintf("%-20s %-18s %s", name, alike, differ)
			})
		}
	})
	t.Logf("%-20s %-18s %s", "", "all take it", "one refuses the text, one puts it off twice")
	for _, name := range slices.Sorted(maps.Keys(rows)) {
		t.Log(rows[name])
	}
}

// A realFanout is a server, the proxy, and the hops.
type realFanout struct {
	sender fanoutSender
	px     *realProxy
	memory *once.Memory
	hops   map[string]*refpeer.Server // by domain; "a.test" is the author's

	mu       sync.Mutex
	differs  bool
	attempts map[string]int // at the end of the text
}

func newRealFanout(t *testing.T, start func(*testing.T, string) fanoutSender) *realFanout {
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
	addOutbound(cfg, doorSMTP, portOf(at[0]), func(out *proxy.OutboundConfig) { out.Split = "fanout" })
	memory, err := once.Open(tlsstore.Memory(), once.Options{})
	if err != nil {
		t.Fatal(err)
	}
	f.memory = memory
	t.Cleanup(func() {
		if err := memory.Close(); err != nil { // behind the proxy's shutdown
			t.Error(err)
		}
	})
	f.px, err = startRealWith(t, cfg, serveDomains(t, domains), proxy.Options{
		Log: zaptest.NewLogger(t, zaptest.Level(zap.InfoLevel)), Once: memory})
	if err != nil {
		t.Fatal(err)
	}
	f.sender = start(t, f.px.at(doorSMTP))
	t.Cleanup(func() {
		if t.Failed() {
			t.Log(f.sender.log())
		}
	})
	return f
}

// behave is what a hop does.
func (f *realFanout) behave(name string, ev refpeer.Event) refpeer.Action {
	f.mu.Lock()
	defer f.mu.Unlock()
	if ev.Kind != refpeer.EndOfData {
		return refpeer.Action{}
	}
	f.attempts[name]++
	switch {
	case f.differs && name == "c.test":
		return refpeer.Say(fanoutNo)
	case f.differs && name == "d.test" && f.attempts[name] <= fanoutOff:
		return refpeer.Say(fanoutLater)
	}
	return refpeer.Action{}
}

// send sends a message and has the queue tried until it is empty.
func (f *realFanout) send(t *testing.T, id string) (raw []byte, transactions int, took time.Duration) {
	t.Helper()
	before := len(f.px.transactions())
	f.mu.Lock()
	clear(f.attempts)
	f.mu.Unlock()
	raw = realMessage(id, 0)
	start := time.Now()
	f.sender.submit(t, raw, fanoutTo[:]...)
	awaitReal(t, "an empty queue", func() bool {
		if f.sender.empty(t) {
			return true
		}
		f.sender.drive(t)
		return false
	})
	return raw, len(f.px.transactions()) - before, time.Since(start)
}

// taken returns who has a message at the hops, and how often.
func (f *realFanout) taken(t *testing.T, raw []byte) map[string]int {
	t.Helper()
	count := map[string]int{}
	for name, hop := range f.hops {
		for _, v := range hop.Violations() {
			t.Errorf("%s saw %v", name, v)
		}
		for _, m := range hop.Messages() {
			if !m.Accepted || !bytes.HasSuffix(m.Body, raw[bytes.Index(raw, []byte("Subject: ")):]) {
				continue
			}
			for _, to := range m.Recipients() {
				count[to]++
			}
		}
	}
	return count
}

// alike: every hop takes it.
func (f *realFanout) alike(t *testing.T) string {
	t.Helper()
	raw, n, _ := f.send(t, "alike")
	awaitReal(t, "the record of the transaction", func() bool { return len(f.px.transactions()) > 0 })
	n = max(n, len(f.px.transactions()))
	got := f.taken(t, raw)
	for _, to := range fanoutTo {
		if got[to] != 1 {
			t.Errorf("%s has it %d times", to, got[to])
		}
	}
	if n != 1 || len(got) != len(fanoutTo) {
		t.Errorf("it took %d transactions, and %v have it", n, got)
	}
	for _, name := range []string{"b.test", "c.test", "d.test"} {
		if f.attempts[name] != 1 {
			t.Errorf("%s was sent it %d times", name, f.attempts[name])
		}
	}
	if s := f.memory.Stats(); s.Outcomes != 0 || s.Writes > 1 { // one when it was opened
		t.Errorf("something was remembered of what all agree on: %+v", s)
	}
	return fmt.Sprintf("%d transaction", n)
}

// fanoutFailed finds whom a report is about: https://www.rfc-editor.org/rfc/rfc3464#section-2.3.2
var fanoutFailed = regexp.MustCompile(`(?i)final-recipient: *rfc822; *(\S+)`)

// differ: one hop refuses the text, one puts it off.
func (f *realFanout) differ(t *testing.T) string {
	t.Helper()
	f.mu.Lock()
	f.differs = true
	f.mu.Unlock()
	raw, n, took := f.send(t, "differ")
	got := f.taken(t, raw)
	for _, to := range fanoutTo {
		want := 1
		if to == "two@c.test" {
			want = 0
		}
		if got[to] != want {
			t.Errorf("%s has it %d times, want %d", to, got[to], want)
		}
	}
	report := f.report(t)
	if !strings.Contains(report, fanoutNo) {
		t.Errorf("no %q in what the author was told:\n%s", fanoutNo, report)
	}
	for _, failed := range fanoutFailed.FindAllStringSubmatch(report, -1) {
		if failed[1] != fanoutTo[1] {
			t.Errorf("the author was told that %s failed:\n%s", failed[1], report)
		}
	}
	awaitReal(t, "nothing to be remembered", func() bool { return f.memory.Stats().Outcomes == 0 })
	f.mu.Lock()
	defer f.mu.Unlock()
	return fmt.Sprintf("%d transactions in %v; the text was sent to b.test %d times, c.test %d, d.test %d", n,
		took.Round(10*time.Millisecond), f.attempts["b.test"], f.attempts["c.test"], f.attempts["d.test"])
}

// report waits for what the author is told, and returns it in one line.
func (f *realFanout) report(t *testing.T) string {
	t.Helper()
	var text string
	awaitReal(t, "the report to the author", func() bool {
		if s, ok := f.sender.(*fanoutInstance); ok {
			list, err := s.Delivered()
			if err != nil {
				t.Fatal(err)
			}
			for _, m := range list {
				text += string(m.Raw)
			}
		}
		for _, m := range f.hops["a.test"].Messages() {
			text += string(m.Body)
		}
		return text != ""
	})
	return strings.Join(strings.Fields(text), " ")
}
