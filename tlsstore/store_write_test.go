package tlsstore

import (
	"fmt"
	"testing"
	"testing/synctest"
	"time"
)

// What was pushed out of the front and is not written yet is found all the same.
func TestPendingIsFound(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		kv := newTestKV()
		s := New(kv, Options{FrontOctets: 1})
		release := kv.stick()
		s.Learn(testPeer, testEHLO)
		wantKnown(t, s, testPeer, true)
		s.Forget(testPeer)
		wantKnown(t, s, testPeer, false)
		s.Learn(testPeer, testEHLO)
		release()
		mustClose(t, s)
		s = New(kv, Options{})
		wantKnown(t, s, testPeer, true)
		mustClose(t, s)
	})
}

func TestWritesAreCoalescedAndBounded(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		const limit = 10
		kv := newTestKV()
		s := New(kv, Options{Pending: limit})
		release := kv.stick()
		begun := time.Now()
		for round := range 5 {
			for i := range 2 * limit {
				s.Learn(numbered(i), testEHLO.With(offer(fmt.Sprintf("X-ROUND-%d", round), "")))
				synctest.Wait()
			}
		}
		if took := time.Since(begun); took != 0 {
			t.Errorf("writing took %v of the caller's time", took)
		}
		if st := s.Stats(); st.Pending != 2*limit || st.Lost != 5*limit {
			t.Errorf("%+v, want %d pending and %d lost", st, limit, 5*limit)
		}
		release()
		mustClose(t, s)
		// The first was being written when it changed, so it was written twice.
		if n := kv.sets.Load(); n != limit+1 {
			t.Errorf("%d writes, want %d", n, limit+1)
		}
		s = New(kv, Options{})
		for i := range 2 * limit {
			e, ok := s.Known(numbered(i))
			if ok != (i < limit) || ok && !e.Has("X-ROUND-4") {
				t.Errorf("peer %d: %v, %v", i, e, ok)
			}
		}
		mustClose(t, s)
	})
}

func TestPendingOctetsAreBounded(t *testing.T) {
	w := newWrites(1 << 20)
	value := make([]byte, 1<<20)
	taken := 0
	for w.add(numberKey(taken), value) {
		taken++
	}
	if taken != pendingOctets>>20 {
		t.Errorf("%d MiB were taken, want %d", taken, pendingOctets>>20)
	}
	if !w.add(numberKey(0), nil) || !w.add(numberKey(taken), value) {
		t.Error("a deletion makes no room")
	}
	for {
		next, ok := w.take()
		if !ok {
			break
		}
		w.finish(next.key, nil)
	}
	if w.octets != 0 || w.len() != 0 {
		t.Errorf("%d octets and %d writes are left", w.octets, w.len())
	}
}

func TestCloseIsBounded(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		kv := newTestKV()
		s := New(kv, Options{})
		release := kv.stick()
		s.Learn(testPeer, testEHLO)
		begun := time.Now()
		err := s.Close()
		if took := time.Since(begun); err == nil || took != CloseWait {
			t.Errorf("Close of a stuck KV: %v after %v, want an error after %v", err, took, CloseWait)
		}
		release()
		mustClose(t, s)

		s = New(kv, Options{})
		kv.delay = time.Second
		for i := range 100 {
			s.Learn(numbered(i), testEHLO)
		}
		begun = time.Now()
		mustClose(t, s)
		if took := time.Since(begun); took > drainWait+3*time.Second {
			t.Errorf("Close of a slow KV took %v", took)
		}
		if st := s.Stats(); st.Lost < 90 || st.Lost+st.Writes != 100 {
			t.Errorf("%+v, want 100 lost or written", st)
		}
	})
}
