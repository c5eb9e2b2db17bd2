package proxy

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"net"
	"net/netip"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"slipstream/bench/refpeer"
	"slipstream/proxy/once"
	"slipstream/tlsstore"
)

// Messages for many destinations, in virtual time: several agents of one MTA, with
// few addresses among them, try until each recipient is settled. Hops answer by
// lot, the MTA is gone by lot, the proxy comes up anew with what it remembers.

// TestFanoutProperty: each recipient has one copy, or its hop's own refusal; a
// message that looks like one before it is another; nothing is remembered in the
// end. SLIPSTREAM_SEED repeats what was seen, SLIPSTREAM_PROPERTY goes on longer.
func TestFanoutProperty(t *testing.T) {
	seed, rounds := poolSeed(t), 0
	var sum FanoutVerdict
	stats := fanoutStats{}
	for end := time.Now().Add(poolTime(t)); time.Now().Before(end) && !t.Failed(); rounds++ {
		at := seed + uint64(rounds)
		synctest.Test(t, func(t *testing.T) {
			v, s, err := fanoutRound(t, at)
			if err != nil {
				t.Errorf("SLIPSTREAM_SEED=%d: %v", at, err)
			}
			sum.Add(v)
			stats.add(s)
		})
	}
	t.Logf("SLIPSTREAM_SEED=%d: %d rounds: %v; %d writes to the memory", seed, rounds, sum, stats.sets)
}

// fanoutStats is what a fanoutKV has counted.
type fanoutStats struct{ sets, deletes int }

func (s *fanoutStats) add(o fanoutStats) { s.sets, s.deletes = s.sets+o.sets, s.deletes+o.deletes }

// A fanoutKV is a disk that survives its closing, counts, and fails by lot.
type fanoutKV struct {
	tlsstore.KV
	mu    sync.Mutex
	fails func() bool // nil: never
	stats fanoutStats
}

var errFanoutDisk = errors.New("the disk fails, as was decided")

func (k *fanoutKV) Set(key, value []byte, ttl time.Duration) error {
	k.mu.Lock()
	defer k.mu.Unlock()
	if k.fails != nil && k.fails() {
		return errFanoutDisk
	}
	k.stats.sets++
	return k.KV.Set(key, value, ttl)
}

func (k *fanoutKV) Delete(key []byte) error {
	k.mu.Lock()
	defer k.mu.Unlock()
	k.stats.deletes++
	return k.KV.Delete(key)
}

func (k *fanoutKV) Close() error { return nil }

// left counts the records, but for what a writer tries the disk with.
func (k *fanoutKV) left() (n int) {
	_ = k.Iterate(nil, func(key, _ []byte) bool { // in memory
		if len(key) > 1 {
			n++
		}
		return true
	})
	return n
}

// counted returns what happened so far.
func (k *fanoutKV) counted() fanoutStats {
	k.mu.Lock()
	defer k.mu.Unlock()
	return k.stats
}

// A fanoutWorld is one round.
type fanoutWorld struct {
	*world
	kv   *fanoutKV
	hops []*refpeer.Server

	mu     sync.Mutex
	events []FanoutEvent
	mails  map[string]FanoutMail
}

// fanoutDoors are the addresses of both doors: by MX, and to an LMTP server.
var fanoutDoors = [2]string{outboundAt, proxyHost + ":588"}

func newFanoutWorld(t *testing.T, seed uint64) *fanoutWorld {
	draw := rand.New(rand.NewPCG(seed, 0))
	w := &fanoutWorld{world: newWorld(t), mails: map[string]FanoutMail{}, kv: &fanoutKV{KV: tlsstore.Memory()}}
	w.net.Default.Delay = time.Duration(draw.IntN(20)) * time.Millisecond
	for i, name := range []string{"a", "b", "c", "l"} {
		hop := &FanoutHop{Name: name, Draw: rand.New(rand.NewPCG(seed, uint64(i+1))), Note: w.note, LMTP: name == "l",
			Slow: 30 * time.Millisecond, Tells: true}
		addr := fmt.Sprintf("203.0.113.%d", 11+i)
		w.dns.mx[name+".example"] = []*net.MX{{Host: "mx." + name + ".example", Pref: 10}}
		w.dns.addrs["mx."+name+".example"] = []netip.Addr{netip.MustParseAddr(addr)}
		w.hops = append(w.hops, w.serve(addr+":25", hop.Server()))
	}
	idle, late := time.Duration(draw.IntN(2))*30*time.Second, draw.IntN(3) > 0
	for i, at := range fanoutDoors {
		w.outbound(func(out *OutboundConfig) {
			out.Name, out.Listen, out.Split = fmt.Sprint("door", i), []string{at}, splitFanout
			out.Offer, out.PoolIdle, out.LateVerdict = append(out.Offer, "DSN"), idle, late
			out.DestinationFailures = 0
			if i == 1 {
				out.Route, out.Relay = "", Endpoint{Host: "203.0.113.14", Port: 25, LMTP: true}
			}
		})
	}
	if draw.IntN(4) == 0 {
		w.kv.fails = func() bool { return draw.IntN(3) == 0 }
	}
	return w
}

func (w *fanoutWorld) note(events ...FanoutEvent) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.events = append(w.events, events...)
}

// open starts the proxy with what is remembered.
func (w *fanoutWorld) open() (closed func() error) {
	w.t.Helper()
	memory, err := once.Open(w.kv, once.Options{})
	if err != nil {
		w.t.Fatal(err)
	}
	w.once = memory
	p := w.build()
	if err := p.Start(w.t.Context()); err != nil {
		w.t.Fatal(err)
	}
	return func() error {
		w.stop()
		return memory.Close()
	}
}

// fanoutRound is one world from beginning to end.
func fanoutRound(t *testing.T, seed uint64) (v FanoutVerdict, stats fanoutStats, err error) {
	w := newFanoutWorld(t, seed)
	draw := rand.New(rand.NewPCG(seed, 100))
	agents := make([]*fanoutAgent, 1+draw.IntN(4))
	for i := range agents {
		agents[i] = w.agent(i, rand.New(rand.NewPCG(seed, uint64(101+i))))
	}
	phases := []int{1 << 10}
	if w.kv.fails == nil && draw.IntN(2) == 0 {
		phases = []int{1 + draw.IntN(4), 1 << 10} // the proxy comes up anew in between
	}
	for _, attempts := range phases {
		shut := w.open()
		errs := make([]error, len(agents))
		var wg sync.WaitGroup
		for i, a := range agents {
			wg.Go(func() { errs[i] = a.work(attempts) })
		}
		wg.Wait()
		time.Sleep(10 * time.Second) // until the sessions and the writer have done
		n := w.once.Stats().Outcomes
		err = errors.Join(append(errs, shut())...)
		if err != nil {
			return v, stats, err
		}
		if attempts == 1<<10 && n > 0 {
			err = fmt.Errorf("%d outcomes are remembered, and everything is settled", n)
		}
	}
	if n := w.kv.left(); n > 0 && w.kv.fails == nil {
		err = errors.Join(err, fmt.Errorf("%d records are on the disk, and everything is settled", n))
	}
	mails := map[string][]string{}
	for id, m := range w.mails {
		mails[id] = m.To
	}
	v = JudgeFanouts(mails, w.events, false)
	for _, wrong := range v.Wrong {
		err = errors.Join(err, errors.New(wrong))
	}
	return v, w.kv.counted(), errors.Join(err, w.texts())
}

// texts makes sure that what the hops have is what was sent, to those it was for.
func (w *fanoutWorld) texts() (err error) {
	for i, hop := range w.hops {
		for _, v := range hop.Violations() {
			err = errors.Join(err, fmt.Errorf("hop %d saw %v", i, v))
		}
		for _, got := range hop.Messages() {
			sent := w.mails[fanoutEnvelope(got.From).mail]
			if string(got.Body) != sent.Text || got.Sender() != sent.From {
				err = errors.Join(err, fmt.Errorf("hop %d has a text of %.60q for %s", i, got.Body, got.From))
			}
		}
	}
	return err
}

// A fanoutAgent is one delivery agent with its queue.
type fanoutAgent struct {
	FanoutMTA
	w     *fanoutWorld
	n     int
	queue []FanoutMail
	open  map[string][]string // by message: who is not settled
	tries map[string]int
}

func (w *fanoutWorld) agent(n int, draw *rand.Rand) *fanoutAgent {
	a := &fanoutAgent{w: w, n: n, open: map[string][]string{}, tries: map[string]int{}}
	door := 0
	if draw.IntN(4) == 0 {
		door = 1
	}
	a.FanoutMTA = FanoutMTA{
		Draw: draw, Note: w.note, Patience: 20 * time.Minute, Vanish: []float64{0, 0.1, 0.3}[draw.IntN(3)],
		Hasty: draw.IntN(2) == 0,
		Dial: func() (*FanoutConn, error) {
			conn, err := w.net.Dial(w.t.Context(), clientHost, fanoutDoors[door])
			return &FanoutConn{Conn: conn}, err
		},
		Pause: func(most time.Duration) { time.Sleep(time.Duration(draw.Int64N(int64(most)))) },
		Away:  func() { time.Sleep(5 * time.Second) }, // until what it left behind is over
	}
	for i := range 1 + draw.IntN(3) {
		mail := a.write(i, door)
		for j := range 1 + draw.IntN(2) {
			mail.ID = fmt.Sprintf("m%d-%d-%d", n, i, j)
			a.queue = append(a.queue, mail)
			w.mails[mail.ID] = mail
			a.open[mail.ID], a.tries[mail.ID] = mail.To, 1
		}
	}
	return a
}

// write makes up a message.
func (a *fanoutAgent) write(i, door int) FanoutMail {
	mail := FanoutMail{From: fmt.Sprintf("s%d@client.example", a.Draw.IntN(2))}
	seen := map[string]bool{}
	for range 1 + a.Draw.IntN(6) {
		domain := []string{"a", "b", "c"}[a.Draw.IntN(3)]
		if door == 1 {
			domain = "l"
		}
		local := fmt.Sprint("r", a.Draw.IntN(4))
		if a.Draw.IntN(12) == 0 {
			local = "nobody"
		}
		if to := local + "@" + domain + ".example"; !seen[to] {
			seen[to] = true
			mail.To = append(mail.To, to)
		}
	}
	filling := strings.Repeat(".text\r\n", []int{1, 100, 20000}[min(2, a.Draw.IntN(16)/7)])
	mail.Text = fmt.Sprintf("X-Nonce: %d-%d\r\n\r\n%send %d-%d\r\n", a.n, i, filling, a.n, i)
	return mail
}

// work goes through the queue: so many attempts for each message, at most. Those
// that look alike come one after the other.
func (a *fanoutAgent) work(attempts int) error {
	defer a.Leave()
	for _, mail := range a.queue {
		left, next, err := a.Deliver(mail, a.open[mail.ID], a.tries[mail.ID], attempts)
		a.open[mail.ID], a.tries[mail.ID] = left, next
		if err != nil {
			return err
		}
		if len(left) > 0 {
			if attempts == 1<<10 {
				return fmt.Errorf("%s is open for %q after %d transactions", mail.ID, left, next)
			}
			return nil
		}
	}
	return nil
}
