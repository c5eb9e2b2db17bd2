package proxy_test

import (
	"bytes"
	"context"
	"fmt"
	"math/rand/v2"
	"os"
	"regexp"
	"strconv"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"slipstream/bench/mta"
	"slipstream/bench/mta/mtatest"
	"slipstream/bench/refpeer"
)

// crashRounds is how often something is killed in all, unless the environment
// asks for more.
const crashRounds = 12

// Bounds of the times in a round.
const (
	crashUnderLoad = 400 * time.Millisecond // before the kill, at the most
	crashDown      = 100 * time.Millisecond // before the new start, at the most
	crashPause     = 20 * time.Millisecond  // before a client tries the same message again
)

// The proxy, the backend and the peer are killed in turn, with SIGKILL, while
// clients send through all doors. A client that got no acknowledgement sends the
// message again. In the end:
//
//   - whatever was acknowledged is there, whole (P1);
//   - whatever is there more often than it was acknowledged was in doubt each
//     further time: its client was told so, or heard nothing (P2).
func TestRealCrashes(t *testing.T) {
	if testing.Short() {
		t.Skip("-short: so much killing takes a while")
	}
	rounds := crashRounds
	if s := os.Getenv("SLIPSTREAM_CRASH_ROUNDS"); s != "" {
		var err error
		if rounds, err = strconv.Atoi(s); err != nil {
			t.Fatal("SLIPSTREAM_CRASH_ROUNDS: ", err)
		}
	}
	binary := buildBinary(t)
	for i, kinds := range [][2]mta.Kind{{mta.Postfix, mta.Exim}, {mta.Exim, mta.Postfix}} {
		t.Run(fmt.Sprintf("backend %s, peer %s", kinds[0], kinds[1]), func(t *testing.T) {
			f := newField(t, binary, kinds[0], kinds[1])
			f.sendAndKill(t, (rounds+1-i)/2)
			f.settle(t)
			f.judge(t)
		})
	}
}

// A field is where the killing takes place.
type field struct {
	proxy         *mortalProxy
	backend, peer *mortalServer
	crews         []*crew
	victims       []mortal
	killed        map[string]int
}

func newField(t *testing.T, binary string, backend, peer mta.Kind) *field {
	t.Helper()
	f := &field{killed: make(map[string]int)}
	cert := newRealCert(t, "mx.b.test")
	f.backend, f.peer = newMortalServer(t, backend, cert), newMortalServer(t, peer, cert)
	f.proxy = newMortalProxy(t, binary, f.backend.config.Listen, f.peer.config.Listen, cert)
	f.victims = []mortal{f.proxy, f.backend, f.peer}
	for i, door := range realDoors() {
		c := newCrew(f.proxy.doors[i], door == doorLMTP, 7)
		c.prefix, c.large, c.secure, c.timeout = door+"-", 8, true, 20*time.Second
		f.crews = append(f.crews, c)
	}
	return f
}

// sendAndKill keeps all crews at work while one victim after the other is
// killed. It returns when every message that was begun is acknowledged.
func (f *field) sendAndKill(t *testing.T, rounds int) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute+time.Duration(rounds)*5*time.Second)
	defer cancel()
	var enough atomic.Bool
	var work sync.WaitGroup
	for _, c := range f.crews {
		var next atomic.Int64
		for n := range 3 {
			work.Go(func() {
				m := c.member(n)
				defer m.leave(ctx)
				for !enough.Load() && ctx.Err() == nil {
					m.insist(ctx, fmt.Sprintf("%s%d", c.prefix, next.Add(1)))
				}
			})
		}
	}
	defer work.Wait()
	defer enough.Store(true)
	var turn []int // each victim as often as the others, in no order
	for range rounds {
		if len(turn) == 0 {
			turn = rand.Perm(len(f.victims))
		}
		v := f.victims[turn[0]]
		turn = turn[1:]
		pauseFor(ctx, rand.N(crashUnderLoad))
		if err := v.kill(); err != nil {
			t.Error(err)
		}
		f.killed[fmt.Sprint(v)]++
		pauseFor(ctx, rand.N(crashDown))
		if err := v.start(ctx); err != nil {
			t.Fatalf("%v does not start again: %v", v, err)
		}
	}
	pauseFor(ctx, crashUnderLoad)
}

// insist tries a message until it is acknowledged.
func (m *member) insist(ctx context.Context, id string) {
	for m.try(ctx, id) != acked && ctx.Err() == nil {
		pauseFor(ctx, crashPause)
	}
}

// pauseFor lets real time pass: what is tested happens in other processes.
func pauseFor(ctx context.Context, d time.Duration) {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
	case <-ctx.Done():
	}
}

// settle waits until the servers have delivered all that they took. Postfix lists its queues one after the other, and a
// message on its way from the deferred to the active one can be in neither listing: so a queue is empty when two looks
// say so.
func (f *field) settle(t *testing.T) {
	t.Helper()
	for _, s := range []*mortalServer{f.backend, f.peer} {
		empty := 0
		awaitReal(t, fmt.Sprintf("an empty queue of %v", s), func() bool {
			queue, err := s.Queue(mtatest.Context(t))
			if err == nil && len(queue) == 0 {
				empty++
			} else {
				empty = 0
			}
			return empty == 2
		})
	}
}

// copies are what a server has of one message: files, by its own queue id.
type copies map[string]int

// receivedID finds a server's own id of a message in the first Received field.
var receivedID = regexp.MustCompile(`\bid ([0-9A-Za-z-]{6,})`)

// delivered reads what arrived at both servers, by the id of the message.
func (f *field) delivered(t *testing.T) map[string]copies {
	t.Helper()
	all := make(map[string]copies)
	bodies := make(map[string][]byte)
	for _, s := range []*mortalServer{f.backend, f.peer} {
		list, err := s.Delivered()
		if err != nil {
			t.Fatal(err)
		}
		for _, m := range list {
			trace, text, found := bytes.Cut(m.Raw, []byte(refpeer.IDField+": "))
			queue := receivedID.FindSubmatch(trace)
			if !found || queue == nil {
				t.Errorf("something else arrived at %v:\n%.300s", s, m.Raw)
				continue
			}
			line, _, _ := bytes.Cut(text, []byte("\r\n"))
			id := string(line)
			if bodies[id] == nil {
				bodies[id] = f.crews[0].body(id)
			}
			if !bytes.HasSuffix(m.Raw, bodies[id]) || len(trace)+len(bodies[id]) != len(m.Raw) {
				t.Errorf("%s arrived at %v with another body, of %d octets", id, s, len(m.Raw)-len(trace))
			}
			if all[id] == nil {
				all[id] = make(copies)
			}
			all[id][string(queue[1])]++
		}
	}
	return all
}

// judge compares what was acknowledged with what is there.
func (f *field) judge(t *testing.T) {
	t.Helper()
	there := f.delivered(t)
	var messages, acknowledged, doubled, redelivered int // in numbers of messages
	ended := make(map[try]int)
	for _, c := range f.crews {
		// A message may be there once for its acknowledgement, and once for each attempt whose end nobody knows.
		for id, tries := range c.tries {
			messages++
			yes, maybe := 0, 0
			for _, r := range tries {
				ended[r]++
				switch r {
				case acked:
					yes++
				case doubted, unheard:
					maybe++
				}
			}
			acknowledged += yes
			if yes == 0 {
				t.Errorf("%s was never acknowledged; last: %s", id, c.why[id])
			}
			taken := len(there[id])
			switch {
			case taken < yes:
				t.Errorf("LOST: %s was acknowledged and is not there (%v)", id, tries)
			case taken > yes+maybe:
				t.Errorf("DOUBLED: %s was taken %d times, for %v; %s", id, taken, tries, c.why[id])
			case taken > 1:
				doubled += taken - 1
			}
			for _, files := range there[id] {
				redelivered += files - 1
			}
			delete(there, id)
		}
	}
	for id := range there {
		t.Errorf("%s is there, and nobody sent it", id)
	}
	if acknowledged == 0 {
		t.Error("nothing was acknowledged")
	}
	t.Logf("killed: %v; messages: %d; acknowledged: %d; attempts: %v; taken once more after an attempt of unknown outcome: %d; "+
		"delivered twice by a server that was killed while it delivered: %d",
		f.killed, messages, acknowledged, ended, doubled, redelivered)
}
