package proxy

import (
	"bytes"
	"errors"
	"fmt"
	"maps"
	"math/rand/v2"
	"os"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"slipstream/bench/netsim"
)

// A deathEnd is what one death led to.
type deathEnd struct {
	res       deathResult
	delivered bool // the hop has the message
	left      bool // octets of the text were sent over the connection that died
	lost      bool // and none of them arrived before its end, which shows
	struck    bool // the plan came to pass
	again     bool // the text was sent over another connection as well
	ours      bool // the connection was kept, or spoken to early and not confirmed: its death is our affair
	ran       deathRan
}

// deathRan is what was seen of the victim until the message was through.
type deathRan struct {
	read, wrote, events int
	last                int // octets of the last piece that it read
}

// word says how it ended for the client.
func (e deathEnd) word() string {
	switch said := e.res.said(); {
	case e.res.ok() && e.again:
		return "250, sent again"
	case e.res.ok():
		return "250"
	case e.res.doubt() && e.delivered:
		return "451 in doubt, delivered"
	case e.res.doubt():
		return "451 in doubt, not delivered"
	case strings.Contains(said, "421 4.3.2 going away"):
		return "the hop's own 421"
	case e.left:
		return "4xx, text left"
	}
	return "4xx, text never left"
}

// TestDeathAtEveryOctet has the connection of a message break at every octet of
// what the hop reads and of what it answers, in every way, for every way in
// which we are ahead of a plain client. SLIPSTREAM_DEATHS=all runs all of the
// combinations.
func TestDeathAtEveryOctet(t *testing.T) {
	cert := newTestCert(t, "mx.example.org")
	var mu sync.Mutex
	count := map[string]map[string]int{}
	t.Run("cases", func(t *testing.T) {
		for _, c := range deathCases() {
			t.Run(c.name, func(t *testing.T) {
				t.Parallel()
				for _, plan := range deathPlans(c, deathClean(t, c, &cert)) {
					end, ok := deathOne(t, c, &cert, plan)
					if !ok {
						continue
					}
					mu.Lock()
					row := fmt.Sprintf("%-26s %-15s %-6s", c.name, plan.part(), plan.way)
					if count[row] == nil {
						count[row] = map[string]int{}
					}
					count[row][end.word()]++
					mu.Unlock()
				}
			})
		}
	})
	total := map[string]int{}
	for _, row := range slices.Sorted(maps.Keys(count)) {
		t.Log(row, deathCount(count[row]))
		for word, n := range count[row] {
			total[word] += n
			total["runs"] += n
		}
	}
	t.Log(deathCount(total))
}

func deathCount(words map[string]int) string {
	var list []string
	for _, word := range slices.Sorted(maps.Keys(words)) {
		list = append(list, fmt.Sprintf("%s: %d", word, words[word]))
	}
	return strings.Join(list, "; ")
}

// deathRuns is how many of its deaths each case dies.
func deathRuns() int {
	switch {
	case os.Getenv("SLIPSTREAM_DEATHS") == "all":
		return 1 << 30
	case testing.Short() || underRace:
		return 40
	}
	return 500
}

// deathClean sends a message that nothing happens to, to measure by.
func deathClean(t *testing.T, c deathCase, cert *testCert) (ran deathRan) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) {
		b := newDeathBench(t, c, cert)
		end, err := b.die(neverDies())
		if err != nil || !end.res.ok() || !end.delivered {
			t.Fatalf("%s, without a death: %+v, %v", c.name, end, err)
		}
		ran = end.ran
	})
	if t.Failed() {
		t.FailNow()
	}
	return ran
}

// deathPlans picks deaths of a case: at every octet one, and more at random.
func deathPlans(c deathCase, clean deathRan) []deathPlan {
	draw := rand.New(rand.NewPCG(1, 2))
	var always, must, more []deathPlan
	offer := func(plans []deathPlan) {
		draw.Shuffle(len(plans), func(i, j int) { plans[i], plans[j] = plans[j], plans[i] })
		must, more = append(must, plans[0]), append(more, plans[1:]...)
	}
	ways := deathWays()
	if c.secure {
		ways = ways[:3] // a hop in TLS says 421 in there
	}
	first := 0
	if c.inside {
		first = clean.read - clean.last
	}
	for n := first; n <= clean.read; n++ {
		var plans []deathPlan
		for _, way := range ways {
			for _, deaf := range []bool{false, true} {
				p := neverDies()
				p.way, p.read, p.deaf = way, n, deaf
				plans = append(plans, p)
			}
		}
		offer(plans)
	}
	for n := range clean.wrote {
		var plans []deathPlan
		for _, way := range ways {
			p := neverDies()
			p.way, p.wrote = way, n
			plans = append(plans, p)
		}
		offer(plans)
	}
	for n := range clean.events {
		p := neverDies()
		p.way, p.event = death421, n
		always = append(always, p)
	}
	for _, way := range ways[:2] {
		for _, cross := range []time.Duration{
			0, 1, deathDelay / 2, deathDelay - 1, deathDelay, deathDelay + 1, 3 * deathDelay,
		} {
			for _, first := range []bool{false, true} {
				p := neverDies()
				p.way, p.cross, p.first = way, cross, first
				always = append(always, p)
			}
		}
	}
	for _, list := range [][]deathPlan{must, more} {
		draw.Shuffle(len(list), func(i, j int) { list[i], list[j] = list[j], list[i] })
		always = append(always, list...)
	}
	return always[:min(len(always), deathRuns())]
}

// deathOne runs one death in a bubble of its own.
func deathOne(t *testing.T, c deathCase, cert *testCert, plan deathPlan) (end deathEnd, ok bool) {
	t.Helper()
	var err error
	synctest.Test(t, func(t *testing.T) {
		b := newDeathBench(t, c, cert)
		end, err = b.die(plan)
		if err == nil {
			err = b.judge(plan, end)
		}
	})
	if err != nil {
		t.Errorf("%s: %v: %v; the client heard %+v", c.name, plan, err, end.res)
	}
	return end, err == nil
}

// session makes sure that there is a client to go on with.
func (b *deathBench) session() (err error) {
	if b.client != nil && !b.client.over && b.c.stay {
		return nil
	}
	if b.client != nil {
		if err := b.client.quit(); err != nil {
			return err
		}
	}
	b.client, err = b.connectDeath()
	return err
}

// die carries a message to a connection that breaks by a plan.
func (b *deathBench) die(plan deathPlan) (end deathEnd, err error) {
	for n := range b.c.warmUps {
		if err := b.whole(fmt.Sprintf("warm%d", n)); err != nil {
			return end, err
		}
	}
	if err := b.ready(plan); err != nil {
		return end, err
	}
	time.Sleep(b.c.pause)
	if end.res, err = b.client.send(b.c.style, deathID); err != nil {
		return end, err
	}
	time.Sleep(time.Second)
	synctest.Wait()
	end.ran.read, end.ran.wrote, end.ran.events = b.ln.disarm()
	if !b.client.over {
		if err := b.client.inStep(); err != nil {
			return end, err
		}
	}
	b.seen(&end)
	// One that is kept and deaf from now on takes the next message down with it.
	if err := b.whole("next"); err != nil && !(plan.way == deathStall && end.struck && end.res.ok()) {
		return end, fmt.Errorf("the next message: %w", err)
	}
	return end, b.client.quit()
}

// ready prepares for the message, and begins to watch.
func (b *deathBench) ready(plan deathPlan) error {
	if err := b.session(); err != nil {
		return err
	}
	if b.c.resets {
		// From the client and to the hop, and back: then comes RSET, while the client hears its reply.
		time.Sleep(time.Second)
		time.AfterFunc(3*deathDelay+deathDelay/2, func() { b.ln.arm(plan) })
		return b.whole("before")
	}
	if b.c.refused {
		if err := b.client.refuse(); err != nil {
			return err
		}
	}
	time.Sleep(time.Second)
	b.ln.arm(plan)
	return nil
}

// whole sends a message that must be taken.
func (b *deathBench) whole(id string) error {
	if err := b.session(); err != nil {
		return err
	}
	res, err := b.client.send(b.c.style, id)
	if err != nil {
		return err
	}
	if err := b.named(id, res); err != nil {
		return err
	}
	if !res.ok() {
		return fmt.Errorf("message %s was not taken: %+v", id, res)
	}
	return nil
}

// seen enters what the hop and the network know.
func (b *deathBench) seen(end *deathEnd) {
	l := b.ln
	for _, m := range b.hop.Messages() {
		end.delivered = end.delivered || m.Sender() == deathID+"@client.example"
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	end.struck = l.victim != nil && !l.victim.ended.IsZero()
	if l.victim == nil {
		return
	}
	if n := len(l.victim.pieces); n > 0 {
		end.ran.last = l.victim.pieces[n-1]
	}
	end.ours = l.victim.old || b.c.early && !l.victim.met ||
		b.c.relay && l.victim.met && !l.victim.mailed && l.plan.way != deathStall // one that was made ahead
	victim := l.victim.RemoteAddr().String()
	own := slices.IndexFunc(l.texts, func(s netsim.Segment) bool { return s.From.String() == victim })
	if own >= 0 {
		at := l.texts[own].Arrives
		end.left = true
		// Behind a reset nobody can know.
		end.lost = end.struck && (l.plan.way == deathClose || l.plan.way == death421) && at.After(l.victim.ended)
	}
	end.again = end.left && slices.ContainsFunc(l.texts, func(s netsim.Segment) bool { return s.From.String() != victim })
}

// named makes sure that every reply is to what was asked.
func (b *deathBench) named(id string, res deathResult) error {
	strange := func(r, want string) bool {
		about := slices.ContainsFunc([]string{"taken", "sender", "recipient"}, func(word string) bool {
			return strings.Contains(r, word)
		})
		return about && r[0] == '2' && !strings.Contains(r, "going away") && !strings.Contains(r, want) &&
			!strings.Contains(r, "recipient noted") && !strings.Contains(r, "sender noted")
	}
	if strange(res.mail, "sender "+id+"@client.example") && b.c.inbound {
		return fmt.Errorf("MAIL was answered %q", res.mail)
	}
	for i, r := range res.rcpts {
		to := id + "@" + []string{"example.org", "other.example"}[i]
		if strange(r, "recipient "+to) || strings.HasPrefix(r, "250") && strings.Contains(r, "taken") {
			return fmt.Errorf("RCPT TO:<%s> was answered %q", to, r)
		}
	}
	for _, r := range res.final {
		if r[0] == '2' && !strings.Contains(r, "taken "+id+"@client.example") && !strings.Contains(r, "going away") {
			return fmt.Errorf("the text was answered %q", r)
		}
	}
	return nil
}

// judge holds what the client heard against what became of the message.
func (b *deathBench) judge(plan deathPlan, end deathEnd) error {
	if err := b.named(deathID, end.res); err != nil {
		return err
	}
	if b.other != nil {
		if n := len(b.other.Messages()); n != 2+b.c.warmUps || len(end.res.final) != 2 || end.res.final[1][0] != '2' {
			return fmt.Errorf("the other hop has %d messages", n)
		}
	}
	n := 0
	for _, m := range append(b.hop.Messages(), b.hop.Refused()...) {
		if !bytes.Contains(m.Body, []byte(deathMark)) {
			continue
		}
		n++
		if m.Sender() != deathID+"@client.example" || !slices.Equal(m.Recipients(), []string{deathID + "@example.org"}) ||
			string(m.Body) != b.deathText(deathID) {
			return fmt.Errorf("the hop has %+v", m)
		}
	}
	switch said := end.res.said(); {
	case n > 1 && !(plan.way == death421 && plan.wrote >= 0): // it took the text and said 421 in place of that
		return fmt.Errorf("P2: the hop has the message %d times", n)
	case end.res.ok() && n < 1:
		return errors.New("P1: the hop has nothing")
	case said[0] != '2' && said[0] != '4':
		return fmt.Errorf("P6: the client heard %q", said)
	case end.again && !end.lost && plan.way != death421:
		return errors.New("P2: the text was sent again, though it may have arrived")
	case !end.res.ok() && b.owed(plan, end):
		return errors.New("P6: nothing of the text can have been taken")
	}
	if v := b.hop.Violations(); len(v) > 0 && plan.read < 0 {
		return fmt.Errorf("the hop saw violations: %v", v)
	}
	return nil
}

// owed tells whether the client must hear 250: what broke is our affair.
func (b *deathBench) owed(plan deathPlan, end deathEnd) bool {
	switch {
	case !end.struck:
		return true
	case strings.Contains(end.word(), "own 421"), strings.Contains(end.res.said(), "negotiating TLS"),
		!b.c.early && strings.Contains(end.res.said(), "answer to EHLO"),
		plan.way == death421 && plan.wrote >= 0: // it may pass for the end of another reply
		return false
	}
	return end.ours && (!end.left || end.lost)
}
