package tlsstore

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"sync"
	"testing"
	"testing/synctest"
	"time"
)

// filled returns a KV that knows peers, as after a restart.
func filled(t *testing.T, peers int) *testKV {
	t.Helper()
	kv := newTestKV()
	s := New(kv, Options{Pending: peers + 1})
	for i := range peers {
		s.Learn(numbered(i), testEHLO)
	}
	mustClose(t, s)
	return kv
}

// wantOnly checks what a Store of the next process would find.
func wantOnly(t *testing.T, kv *testKV, peers int, known func(i int) bool) {
	t.Helper()
	kv.stuck.Store(nil)
	kv.failWith(func() error { return nil })
	s := New(kv, Options{})
	for i := range peers {
		wantKnown(t, s, numbered(i), known(i))
	}
	mustClose(t, s)
}

// What was forgotten is gone after a restart, however many writes wait, and however many deletions.
func TestDeletionsAreNotLost(t *testing.T) {
	const peers, limit = 200, 10
	for _, most := range []int{pendingDeletions, 2 * limit, 0} {
		synctest.Test(t, func(t *testing.T) {
			kv := filled(t, peers)
			s := New(kv, Options{Pending: limit, FrontOctets: 1})
			s.writes.most = most
			release := kv.stick()
			for i := range 10 * limit {
				s.Learn(numbered(1000+i), testEHLO)
				synctest.Wait() // the first is being written
			}
			for i := range peers / 2 {
				s.Forget(numbered(i))
			}
			st := s.Stats()
			if want := limit + 9*limit + peers/2; st.Pending != want || st.Lost != 9*limit {
				t.Errorf("%+v, want %d pending and %d lost", st, want, 9*limit)
			}
			if outside := len(s.writes.waiting); outside > limit+most {
				t.Errorf("%d wait outside the sieve, want at most %d", outside, limit+most)
			}
			for i := range peers / 2 {
				wantKnown(t, s, numbered(i), false) // and not what the KV still has
			}
			n := 0
			if err := s.List("", func(Entry) bool { n++; return true }); err != nil || n != peers/2+limit {
				t.Errorf("%d are listed, %v; want %d", n, err, peers/2+limit)
			}
			release()
			kv.stuck.Store(nil)
			synctest.Wait()
			if n := s.Stats().Pending; n != 0 {
				t.Errorf("%d still wait", n)
			}
			mustClose(t, s)
			wantOnly(t, kv, peers, func(i int) bool { return i >= peers/2 })
		})
	}
}

// A deletion that fails is tried again, and hides what it could not delete until then.
func TestDeletionsAreRetried(t *testing.T) {
	const peers = 20
	for _, most := range []int{pendingDeletions, 5, 0} {
		synctest.Test(t, func(t *testing.T) {
			kv := filled(t, peers)
			told := 0
			s := New(kv, Options{FrontOctets: 1, Trouble: func(error) { told++ }})
			s.writes.most = most
			kv.failWith(func() error { return errors.ErrUnsupported })
			for i := range peers / 2 {
				s.Forget(numbered(i))
			}
			synctest.Wait()
			kv.failWith(func() error { return nil })
			for i := range peers {
				wantKnown(t, s, numbered(i), i >= peers/2)
			}
			if s.Stats().Pending != peers/2 || s.Stats().Lost != 0 || told == 0 {
				t.Errorf("%+v, told %d times; want %d pending", s.Stats(), told, peers/2)
			}
			s.Learn(numbered(0), testEHLO) // another word counts at once
			time.Sleep(deleteAgain)
			synctest.Wait()
			if n := s.Stats().Pending; n != 0 {
				t.Errorf("%d still wait", n)
			}
			s.Learn(numbered(0), testEHLO)
			mustClose(t, s)
			wantOnly(t, kv, peers, func(i int) bool { return i >= peers/2 || i == 0 })
		})
	}
}

// At the end deletions go first, once more those that failed.
func TestDeletionsGoFirst(t *testing.T) {
	const peers = 10
	for _, most := range []int{pendingDeletions, 0} {
		synctest.Test(t, func(t *testing.T) {
			kv := filled(t, peers)
			s := New(kv, Options{})
			s.writes.most = most
			kv.failWith(func() error { return errors.ErrUnsupported })
			s.Forget(numbered(0))
			synctest.Wait()
			kv.failWith(func() error { return nil })
			kv.delay = drainWait / 10
			for i := range 1000 {
				s.Learn(numbered(1000+i), testEHLO)
			}
			for i := range 4 {
				s.Forget(numbered(i))
			}
			mustClose(t, s)
			kv.delay = 0
			wantOnly(t, kv, peers, func(i int) bool { return i >= 4 })
		})
	}
}

// A value that is lost does not leave the one before it behind.
func TestLostValueIsAMiss(t *testing.T) {
	other := testEHLO.With(offer("SIZE", "7"))
	for _, failing := range []bool{true, false} {
		synctest.Test(t, func(t *testing.T) {
			kv := filled(t, 3)
			s := New(kv, Options{Pending: 1, FrontOctets: 1})
			if failing {
				kv.failWith(func() error { return errors.ErrUnsupported })
				s.Learn(numbered(0), other)
				synctest.Wait()
				kv.failWith(func() error { return nil })
			} else {
				release := kv.stick()
				s.Learn(numbered(1000), testEHLO)
				synctest.Wait()
				s.Learn(numbered(0), other)
				release()
				kv.stuck.Store(nil)
			}
			wantKnown(t, s, numbered(0), false)
			if n := s.Stats().Lost; n != 1 {
				t.Errorf("%d are lost, want 1", n)
			}
			mustClose(t, s)
			deletes := kv.deletes.Load()
			wantOnly(t, kv, 3, func(i int) bool { return i > 0 })
			if deletes != 1 {
				t.Errorf("%d were deleted, want 1", deletes)
			}
		})
	}
}

// A full disk is not written to for what it never had.
func TestLostValueOfNobody(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		kv := newTestKV()
		s := New(kv, Options{})
		kv.failWith(func() error { return errors.ErrUnsupported })
		s.Learn(testPeer, testEHLO)
		synctest.Wait()
		kv.failWith(func() error { return nil })
		time.Sleep(deleteAgain)
		synctest.Wait()
		if st := s.Stats(); st.Pending != 0 || st.Lost != 1 || st.Writes != 0 || kv.deletes.Load() != 0 {
			t.Errorf("%+v, %d deletions; want 1 lost and nothing else", st, kv.deletes.Load())
		}
		mustClose(t, s)
	})
}

// A session that was dropped while another of its peer was not is a smaller record; there may be no room for that.
func TestDroppedSessionIsNotBack(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		kv := newTestKV()
		s := New(kv, Options{})
		fill(s)
		mustClose(t, s)
		s = New(kv, Options{Pending: 1})
		cache := s.Sessions(sessionScope)
		s.get(sessionScope.key())
		synctest.Wait()
		release := kv.stick()
		s.Learn(numbered(1000), testEHLO)
		synctest.Wait()
		cache.mu.Lock()
		cache.remove([]byte("the ticket"))
		cache.mu.Unlock()
		if n := s.Stats().Lost; n != 1 {
			t.Errorf("%d are lost, want 1", n)
		}
		release()
		kv.stuck.Store(nil)
		mustClose(t, s)
		s = New(kv, Options{})
		if value := s.get(sessionScope.key()); value != nil {
			t.Errorf("what was dropped is back: %q", value)
		}
		mustClose(t, s)
	})
}

// unlucky fails now and then.
func unlucky(seed uint64, chance float64) func() error {
	var mu sync.Mutex
	r := rand.New(rand.NewPCG(seed, 0))
	return func() error {
		mu.Lock()
		defer mu.Unlock()
		if r.Float64() < chance {
			return errors.ErrUnsupported
		}
		return nil
	}
}

// Whatever is lost, what is found is the last that was said, or nothing.
func TestStoreNeverGoesBack(t *testing.T) {
	for seed := range uint64(30) {
		synctest.Test(t, func(t *testing.T) {
			r := rand.New(rand.NewPCG(seed, 0))
			kv, last := newTestKV(), make(map[int]string)
			wantLast := func(s *Store, i int) {
				e, ok := s.Known(numbered(i))
				if got, _ := e.Get("X-ROUND"); ok && got != last[i] {
					t.Fatalf("seed %d: peer %d offers %q, want %q or nothing", seed, i, got, last[i])
				}
			}
			for life := range 4 {
				s := New(kv, Options{Pending: 1 + r.IntN(4), FrontOctets: r.IntN(3) << 13})
				s.writes.most = r.IntN(5)
				for step := range 400 {
					i := r.IntN(30)
					switch r.IntN(8) {
					case 0, 1:
						last[i] = ""
						s.Forget(numbered(i))
					case 2, 3, 4:
						last[i] = fmt.Sprint(life, step)
						s.Learn(numbered(i), testEHLO.With(offer("X-ROUND", last[i])))
					case 5:
						wantLast(s, i)
					case 6:
						kv.failWith(unlucky(r.Uint64(), r.Float64()))
					default:
						time.Sleep(time.Duration(r.Int64N(int64(deleteAgain))))
						synctest.Wait()
					}
				}
				kv.failWith(func() error { return nil })
				for i := range 30 {
					wantLast(s, i)
				}
				mustClose(t, s)
			}
			s := New(kv, Options{})
			for i := range 30 {
				wantLast(s, i)
			}
			mustClose(t, s)
		})
	}
}

// What is in a sieve is hidden while that is swept, and what comes meanwhile is not lost with it.
func TestSieve(t *testing.T) {
	w := newWrites(1)
	w.most = 0
	want := func(state string, keys ...int) {
		t.Helper()
		for i := range 3 {
			_, waits := w.find(numbered(i).key())
			if hidden := len(keys) > i; waits != hidden {
				t.Errorf("%s: key %d waits: %v, want %v", state, i, waits, hidden)
			}
		}
		if w.len() != len(keys) {
			t.Errorf("%s: %d wait, want %d", state, w.len(), len(keys))
		}
	}
	w.add(numbered(0).key(), nil)
	if w.takeSieve() == nil {
		t.Fatal("there is nothing to sweep")
	}
	want("being swept", 0)
	w.add(numbered(1).key(), nil)
	want("one more", 0, 1)
	w.finishSieve(errors.ErrUnsupported)
	want("failed", 0, 1)
	if !w.failing() || w.takeSieve() != nil {
		t.Error("it is swept again at once")
	}
	w.add(numbered(2).key(), nil)
	want("another", 0, 1, 2)
	w.retry()
	if full := w.takeSieve(); w.failing() || !full.has(numbered(0).key()) || !full.has(numbered(1).key()) || !full.has(numbered(2).key()) {
		t.Error("not all of them are swept in the end")
	}
	w.finishSieve(nil)
	want("done")
}
