package tlsstore

import (
	"bytes"
	"crypto/tls"
	"fmt"
	"sync"
	"testing"
	"testing/synctest"
	"time"
)

// tickets returns what crypto/tls would put, n times, of a session that is kept.
func (w *sessionWorld) tickets(name string, n int) []*tls.ClientSessionState {
	w.t.Helper()
	w.mustVisit(sessionScope, false)
	state := w.sessionsOf(sessionScope)[0].state
	all := make([]*tls.ClientSessionState, n)
	for i := range all {
		var err error
		if all[i], err = (&session{ticket: fmt.Append(nil, name, i), state: state}).resumption(); err != nil {
			w.t.Fatal(err)
		}
	}
	return all
}

// A peer may send any number of tickets on a connection. What comes on top is not worth a lock.
func TestSessionsOfOneConnectionAreBounded(t *testing.T) {
	eachVersion(t, func(t *testing.T, w *sessionWorld) {
		flood := w.tickets("t", 1000)
		cache := w.store.Sessions(sessionScope)
		for _, ticket := range flood[:SessionsKept] {
			cache.Put("", ticket)
		}
		cache.mu.Lock() // whoever wants it from here on waits for ever
		for _, ticket := range flood[SessionsKept:] {
			cache.Put("", ticket)
		}
		cache.mu.Unlock()
		if n := cache.Stored(); n != SessionsKept {
			t.Errorf("%d sessions were kept, want %d", n, SessionsKept)
		}
		if newest := string(w.sessionsOf(sessionScope)[0].ticket); newest != fmt.Sprint("t", SessionsKept-1) {
			t.Errorf("%q is the newest", newest)
		}
	})
}

// However many connections there are to a peer, their sessions are written once in a while; and yet the next process
// has one that was never offered.
func TestSessionsAreWrittenOnceInAWhile(t *testing.T) {
	eachVersion(t, func(t *testing.T, w *sessionWorld) {
		w.mustVisit(sessionScope, false)
		synctest.Wait()
		before, start := w.store.Stats().Writes, time.Now()
		for time.Since(start) < 10*sessionsEvery {
			w.mustVisit(sessionScope, true)
			time.Sleep(sessionsEvery / 20)
		}
		synctest.Wait()
		if n := w.store.Stats().Writes - before; n < 8 || n > 10 {
			t.Errorf("%d writes in %v, want one each %v", n, time.Since(start), sessionsEvery)
		}
		time.Sleep(sessionsEvery)
		w.mustVisit(sessionScope, true)
		w.restart()
		w.store.look(sessionScope.key())
		if s := w.sessionsOf(sessionScope); len(s) == 0 || s[0].used {
			t.Errorf("after a restart there are %d sessions, the newest used", len(s))
		}
	})
}

// What must not be offered again is gone from the KV at once, and what still comes with it is not kept.
func TestSessionsAreDroppedAtOnce(t *testing.T) {
	eachVersion(t, func(t *testing.T, w *sessionWorld) {
		late := w.tickets("late", 1)[0]
		cache := w.mustVisit(sessionScope, true)
		cache.Discard()
		if s := w.sessionsOf(sessionScope); len(s) != 0 {
			t.Errorf("%d sessions are left, want neither the one that was offered nor the one that came", len(s))
		}
		if cache.Put("", late); len(w.sessionsOf(sessionScope)) != 0 {
			t.Error("a session that came later was kept")
		}
		w.restart()
		if _, ok := w.store.Sessions(sessionScope).Get(""); ok {
			t.Error("after a restart one is back")
		}
	})
}

// A record is made with no lock held, and nothing is lost where many are made at once.
func TestSessionChangesAtOnce(t *testing.T) {
	s := New(Memory(), Options{})
	defer mustClose(t, s)
	cache := func() *SessionCache { return s.Sessions(sessionScope) }
	var all sync.WaitGroup
	for range 8 {
		all.Go(func() {
			for range 50 {
				cache().change(func(old []byte) ([]byte, change) {
					sh := s.front.shard(sessionScope.key())
					sh.mu.Lock() // which others may have, too
					entries := len(sh.entries)
					sh.mu.Unlock()
					if entries > 1 {
						t.Errorf("%d entries", entries)
					}
					return append(bytes.Clone(old), 'x'), remembered
				})
			}
		})
	}
	all.Wait()
	if n := len(s.peek(sessionScope.key())); n != 8*50 {
		t.Errorf("%d changes were made, want %d", n, 8*50)
	}
}

// Whoever wants to know that a session is offered hears of it, and only then.
func TestSessionOnOffer(t *testing.T) {
	eachVersion(t, func(t *testing.T, w *sessionWorld) {
		for i, want := range []int{0, 1, 0} {
			cache, heard := w.store.Sessions(sessionScope), 0
			cache.OnOffer(func() {
				if heard++; !cache.Offered() {
					t.Error("it is told before it is so")
				}
			})
			if i == 2 {
				cache.Withhold()
			}
			if _, err := w.connect(w.config(cache)); err != nil || heard != want {
				t.Errorf("visit %d: told %d times, want %d; %v", i+1, heard, want, err)
			}
		}
	})
}

// A state that is too large to be worth its room is not kept.
func TestSessionThatIsTooLarge(t *testing.T) {
	eachVersion(t, func(t *testing.T, w *sessionWorld) {
		one := w.tickets("t", 1)[0]
		ticket, state, err := one.ResumptionState()
		if err != nil {
			t.Fatal(err)
		}
		for size, want := range map[int]bool{8 << 10: true, 20 << 10: false} {
			state.Extra = [][]byte{make([]byte, size)}
			big, err := tls.NewResumptionState(ticket, state)
			if err != nil {
				t.Fatal(err)
			}
			cache := w.store.Sessions(sessionScope)
			if cache.Put("", big); (cache.Stored() == 1) != want {
				t.Errorf("%d octets: %d kept", size, cache.Stored())
			}
		}
	})
}
