//go:build linux

package proxy_test

import (
	"context"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"testing"
	"time"

	"slipstream/proxy"
)

const (
	fanoutUsual = 300 // fan-outs, unless SLIPSTREAM_FANOUTS says otherwise
	fanoutPart  = 500 // with the same hops and the same MTA
)

// An MTA sends messages for several destinations through the service, and everybody
// is killed with SIGKILL at random moments: the service, the hops, the MTA. Each
// keeps what it has on its disk. In the end each recipient has the message once,
// or the MTA has heard that its hop refused it; second copies there are only where
// nobody can know better, and those are counted. Without the memory there are more.
// SLIPSTREAM_FANOUTS says how many, SLIPSTREAM_SEED repeats the messages.
func TestFanoutKilled(t *testing.T) {
	if testing.Short() {
		t.Skip("-short: so much killing takes a while")
	}
	all := fanoutInt(t, "SLIPSTREAM_FANOUTS", fanoutUsual)
	binary := buildBinary(t)
	for _, memory := range []bool{true, false} {
		t.Run(map[bool]string{true: "with the memory", false: "without"}[memory], func(t *testing.T) {
			n := all
			if !memory && all == fanoutUsual {
				n /= 3 // to compare with
			}
			var sum proxy.FanoutVerdict
			killed := map[string]int{}
			start := time.Now()
			for ; n > 0 && !t.Failed(); n -= fanoutPart {
				f := newFanoutField(t, binary, min(n, fanoutPart), memory)
				sum.Add(f.run(t))
				for who, n := range f.killed {
					killed[who] += n
				}
			}
			t.Logf("killed %v in %v; %v", killed, time.Since(start).Round(time.Second), sum)
		})
	}
}

// fanoutConfig is the service's. Hops that are dead come back soon.
const fanoutConfig = `
hostname = "proxy.test"
state_dir = %q
admin.listen = ""
dns.servers = [%q]
once.enabled = %t
[[outbound]]
name = "smtp"
split = "fanout"
offer = ["8BITMIME", "SMTPUTF8", "DSN", "CHUNKING"]
destination_failures = 0
mx_port = %d
listen = [%q]
allow_private_destinations = true
`

// A fanoutField is where that takes place.
type fanoutField struct {
	mails   int
	forgets bool
	seed    uint64
	proxy   *mortalProxy
	hops    []*fanoutChild
	mta     *fanoutChild
	deaths  []proxy.FanoutEvent
	killed  map[string]int
}

func newFanoutField(t *testing.T, binary string, mails int, memory bool) *fanoutField {
	t.Helper()
	f := &fanoutField{mails: mails, forgets: !memory, seed: rand.Uint64N(1 << 32), killed: map[string]int{}}
	if os.Getenv("SLIPSTREAM_SEED") != "" {
		f.seed = uint64(fanoutInt(t, "SLIPSTREAM_SEED", 0))
	}
	at := realNeighbours(t, len(fanoutDomains)+1)
	domains := map[string]string{}
	for i, name := range fanoutDomains {
		domains[name+".test"] = at[i]
		f.hops = append(f.hops, newFanoutChild(t, "hop", at[i]))
	}
	dir := t.TempDir()
	f.proxy = &mortalProxy{binary: binary, config: filepath.Join(dir, "slipstream.toml"), doors: at[len(f.hops):]}
	text := fmt.Sprintf(fanoutConfig, dir, serveDomains(t, domains).String(), memory, portOf(at[0]), f.proxy.doors[0])
	if err := os.WriteFile(f.proxy.config, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	var err error
	if f.proxy.log, err = os.Create(filepath.Join(dir, "log")); err != nil {
		t.Fatal(err)
	}
	f.mta = newFanoutChild(t, "mta", f.proxy.doors[0], fmt.Sprintf("%s=%d", fanoutMails, mails),
		fmt.Sprintf("%s=%d", fanoutSeed, f.seed))
	return f
}

// run has everything sent while everybody is killed, and judges.
func (f *fanoutField) run(t *testing.T) proxy.FanoutVerdict {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute+time.Duration(f.mails)*200*time.Millisecond)
	defer cancel()
	if err := f.proxy.start(ctx); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = f.proxy.kill() // the test is over either way
		_ = f.proxy.log.Close()
	})
	for _, child := range append(f.hops, f.mta) {
		if err := child.start(); err != nil {
			t.Fatal(err)
		}
	}
	start := time.Now()
	for f.sending(t) && time.Since(start) < time.Duration(f.mails)*fanoutEach {
		pauseFor(ctx, 5*time.Millisecond+rand.N(fanoutUnderLoad))
		f.killOne(t, ctx)
	}
	for f.sending(t) { // what is left of it, in peace
		select {
		case <-f.mta.done:
		case <-ctx.Done():
			t.Fatalf("not all is settled after %v, with %v killed; the MTA: %s", time.Since(start), f.killed, f.mta.said())
		}
	}
	_ = f.proxy.kill() // nothing is under way
	for _, hop := range f.hops {
		hop.kill()
		if said := hop.said(); said != "" {
			t.Errorf("a hop says: %s", said)
		}
	}
	v := f.judge(t)
	if t.Failed() {
		t.Logf("SLIPSTREAM_SEED=%d", f.seed)
	}
	if len(f.deaths) == 0 || v.Delivered == 0 {
		t.Error("nobody was killed, or nothing delivered: this shows nothing")
	}
	return v
}

const (
	fanoutUnderLoad = 100 * time.Millisecond // the most time from one killing to the next
	fanoutEach      = 25 * time.Millisecond  // of killing, for each message
)

// sending tells whether the MTA is still at it.
func (f *fanoutField) sending(t *testing.T) bool {
	select {
	case <-f.mta.done:
		if f.mta.err != nil {
			f.judge(t)
			t.Fatalf("the MTA ended with %v: %s", f.mta.err, f.mta.said())
		}
		return false
	default:
		return true
	}
}

// killOne kills somebody and starts him again.
func (f *fanoutField) killOne(t *testing.T, ctx context.Context) {
	t.Helper()
	var err error
	victim := rand.IntN(4)
	if n := len(f.deaths); victim == 0 && n > 0 && time.Since(f.deaths[n-1].Until) < proxy.FanoutHandedOver {
		victim = 3 // what becomes of a transaction is to be our doing more often than our death's
	}
	switch victim {
	case 0:
		death := proxy.FanoutEvent{At: time.Now(), Kind: proxy.FanoutDeath}
		err = f.proxy.kill()
		death.Until = time.Now()
		f.deaths = append(f.deaths, death)
		f.killed["us"]++
		if err == nil {
			err = f.proxy.start(ctx)
		}
	case 1:
		if !f.sending(t) {
			return
		}
		f.mta.kill()
		if f.mta.err == nil { // it had done
			return
		}
		f.killed["the MTA"]++
		err = f.mta.start()
	default:
		hop := f.hops[rand.IntN(len(f.hops))]
		hop.kill()
		f.killed["a hop"]++
		pauseFor(ctx, rand.N(fanoutUnderLoad/4)) // connections to it are refused
		err = hop.start()
	}
	if err != nil {
		t.Fatal(err)
	}
}

// judge holds the journals against each other.
func (f *fanoutField) judge(t *testing.T) proxy.FanoutVerdict {
	t.Helper()
	mails := map[string][]string{}
	for i := range f.mails {
		mail := fanoutMailOf(f.seed, i)
		mails[mail.ID] = mail.To
	}
	events := f.deaths
	for _, child := range append(f.hops, f.mta) {
		written, err := child.book.read()
		if err != nil {
			t.Fatal(err)
		}
		events = append(events, written...)
	}
	v := proxy.JudgeFanouts(mails, events, f.forgets)
	for _, wrong := range v.Wrong {
		t.Error(wrong)
	}
	return v
}
