package tlsstore

import (
	"errors"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"go.uber.org/goleak"

	"slipstream/smtpwire"
)

func TestStoreRemembers(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		kv := newTestKV()
		s := New(kv, Options{})
		wantKnown(t, s, testPeer, false)
		s.Learn(testPeer, testEHLO)
		wantKnown(t, s, testPeer, true)
		mustClose(t, s)
		mustClose(t, s)
		if n := kv.closes.Load(); n != 1 {
			t.Errorf("the KV was closed %d times", n)
		}

		s = New(kv, Options{})
		wantKnown(t, s, testPeer, true)
		wantKnown(t, s, testPeer, true)
		if n := kv.gets.Load(); n != 2 {
			t.Errorf("the KV was read %d times, want once by each store", n)
		}
		if st := s.Stats(); st.Hits != 2 || st.Misses != 0 || st.Late != 0 || st.Entries != 1 {
			t.Errorf("%+v", st)
		}
		s.Forget(testPeer)
		wantKnown(t, s, testPeer, false)
		mustClose(t, s)

		s = New(kv, Options{})
		wantKnown(t, s, testPeer, false)
		mustClose(t, s)
	})
}

// A store over Memory has no one to wait for.
func TestStoreOverMemory(t *testing.T) {
	now := time.Now()
	kv := MemoryAt(func() time.Time { return now })
	s := New(kv, Options{Now: func() time.Time { return now }, FrontOctets: 1})
	s.readWait = 0
	for i := range 100 {
		s.Learn(numbered(i), testEHLO)
	}
	for i := range 100 {
		wantKnown(t, s, numbered(i), true)
	}
	if st := s.Stats(); st.Late != 0 || st.Entries != 0 {
		t.Errorf("%+v, want nothing late and nothing in the front", st)
	}
	mustClose(t, s)
	wantKnown(t, s, numbered(1), false)
	s.Learn(numbered(1), testEHLO)
	if st := s.Stats(); st.Lost != 1 {
		t.Errorf("after Close %d writes were lost, want 1", st.Lost)
	}
}

func TestReadDoesNotWaitForTheDisk(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		kv := newTestKV()
		s := New(kv, Options{})
		for i := range 10 {
			s.Learn(numbered(i), testEHLO)
		}
		mustClose(t, s)

		s = New(kv, Options{})
		release := kv.stick()
		synctest.Wait() // for the readers
		begun := time.Now()
		wantKnown(t, s, numbered(0), false)
		if took := time.Since(begun); took != ReadWait {
			t.Errorf("the first look-up took %v, want %v", took, ReadWait)
		}
		for i := range 10 {
			wantKnown(t, s, numbered(i), false)
		}
		s.Learn(numbered(9), testEHLO)
		wantKnown(t, s, numbered(9), true)
		if took := time.Since(begun); took != ReadWait {
			t.Errorf("all look-ups took %v, want %v: only the first waits", took, ReadWait)
		}
		if st := s.Stats(); st.Late != 11 || st.Misses != 11 {
			t.Errorf("%+v, want 11 late misses", st)
		}
		synctest.Wait()
		if n := kv.gets.Load(); n != readers {
			t.Errorf("%d reads at once, want %d", n, readers)
		}
		time.Sleep(time.Second)
		release()
		synctest.Wait()
		wantKnown(t, s, numbered(0), true) // was read in the meantime
		wantKnown(t, s, numbered(8), false)
		synctest.Wait()
		wantKnown(t, s, numbered(8), true) // the disk is in time again
		wantKnown(t, s, numbered(7), true)
		mustClose(t, s)
	})
}

// Those who want the same wait for the same read.
func TestReadsAreShared(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		kv := newTestKV()
		s := New(kv, Options{})
		s.Learn(testPeer, testEHLO)
		mustClose(t, s)
		kv.delay = ReadWait / 2
		s = New(kv, Options{})
		var all sync.WaitGroup
		for range 50 {
			all.Go(func() { wantKnown(t, s, testPeer, true) })
		}
		all.Wait()
		if n := kv.gets.Load(); n != 1 {
			t.Errorf("%d reads, want one", n)
		}
		mustClose(t, s)
	})
}

// However many want something, few are reading at once, and nobody waits for long.
func TestReadsAreBounded(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		const peers = 50
		kv := newTestKV()
		s := New(kv, Options{})
		for i := range peers {
			s.Learn(numbered(i), testEHLO)
		}
		mustClose(t, s)
		kv.delay = ReadWait * 2 / 5
		s = New(kv, Options{})
		var all sync.WaitGroup
		var known atomic.Int64
		begun := time.Now()
		for i := range peers {
			all.Go(func() {
				if _, ok := s.Known(numbered(i)); ok {
					known.Add(1)
				}
			})
		}
		all.Wait()
		if took := time.Since(begun); took != ReadWait {
			t.Errorf("all look-ups took %v, want %v", took, ReadWait)
		}
		if n := known.Load(); n != 2*readers {
			t.Errorf("%d were read in time, want %d", n, 2*readers)
		}
		time.Sleep(time.Second)
		if n := kv.gets.Load(); n != 3*readers {
			t.Errorf("%d reads, want %d: nobody waits for the others", n, 3*readers)
		}
		for i := range peers {
			wantKnown(t, s, numbered(i), true)
		}
		mustClose(t, s)
		wantKnown(t, s, numbered(0), true) // from the front
		wantKnown(t, s, numbered(peers), false)
	})
}

// What is learned while the KV reads is newer than what it reads.
func TestReadDoesNotUndoAWrite(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		kv := newTestKV()
		s := New(kv, Options{})
		s.Learn(testPeer, smtpwire.NewEHLO("old.example.net", offer("OLD", "")))
		mustClose(t, s)
		s = New(kv, Options{})
		kv.delay = time.Second
		if _, ok := s.Known(testPeer); ok {
			t.Error("known too soon")
		}
		s.Learn(testPeer, testEHLO)
		time.Sleep(5 * time.Second)
		wantKnown(t, s, testPeer, true)
		mustClose(t, s)
		s = New(kv, Options{})
		s.readWait = time.Minute
		wantKnown(t, s, testPeer, true)
		mustClose(t, s)
	})
}

func TestTroubleIsTold(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		kv := newTestKV()
		var told []string
		var mu sync.Mutex
		s := New(kv, Options{Trouble: func(err error) {
			mu.Lock()
			defer mu.Unlock()
			told = append(told, err.Error())
			if strings.Contains(err.Error(), "reading") != errors.Is(err, errors.ErrUnsupported) {
				t.Errorf("told of %v", err)
			}
		}})
		kv.failWith(func() error { return errors.ErrUnsupported })
		for i := range 10 {
			wantKnown(t, s, numbered(i), false)
		}
		kv.failWith(func() error { panic("no space left on device") })
		for i := range 10 {
			s.Learn(numbered(i), testEHLO)
			synctest.Wait()
		}
		if len(told) != 2 || !strings.Contains(told[1], "no space left") {
			t.Errorf("told %q, want one of reading and one of writing", told)
		}
		time.Sleep(troubleEvery)
		s.Learn(numbered(11), testEHLO)
		synctest.Wait()
		if len(told) != 3 || !strings.Contains(told[2], "9 failures before") {
			t.Errorf("told %q, want a third with 9 before", told)
		}
		if st := s.Stats(); st.Lost != 11 || st.Late != 0 {
			t.Errorf("%+v", st)
		}
		for i := range 10 {
			wantKnown(t, s, numbered(i), true) // in the front
		}
		if err := s.Close(); !errors.Is(err, errPanic) {
			t.Errorf("Close: %v", err)
		}
	})
}

// A look-up that failed says nothing about what is there.
func TestFailedReadIsNoKnowledge(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		kv := newTestKV()
		s := New(kv, Options{})
		s.Learn(testPeer, testEHLO)
		mustClose(t, s)
		s = New(kv, Options{})
		kv.failWith(func() error { return errors.New("input/output error") })
		wantKnown(t, s, testPeer, false)
		kv.failWith(func() error { return nil })
		wantKnown(t, s, testPeer, true)
		mustClose(t, s)
	})
}

// Records that were damaged where they lay are misses, and go.
func TestDamageIsAMiss(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		kv := newTestKV()
		s := New(kv, Options{})
		s.Learn(testPeer, testEHLO)
		mustClose(t, s)
		key := testPeer.key()
		whole, err := kv.Get(key[:])
		if err != nil {
			t.Fatal(err)
		}
		for i := range whole {
			damaged := append([]byte(nil), whole...)
			damaged[i] ^= 1 << (i % 8)
			for _, value := range [][]byte{damaged, whole[:i]} {
				if err := kv.Set(key[:], value, time.Hour); err != nil {
					t.Fatal(err)
				}
				s = New(kv, Options{})
				wantKnown(t, s, testPeer, false)
				if st := s.Stats(); st.Broken != 1 {
					t.Fatalf("octet %d: %+v, want one broken", i, st)
				}
				mustClose(t, s)
				if _, err := kv.Get(key[:]); !errors.Is(err, ErrNotFound) {
					t.Fatalf("octet %d: a damaged record was left: %v", i, err)
				}
			}
		}
	})
}

func TestStoreUnderLoad(t *testing.T) {
	defer goleak.VerifyNone(t)
	kv := newTestKV()
	s := New(kv, Options{FrontOctets: 64 << 10, Pending: 100})
	var all sync.WaitGroup
	for w := range 8 {
		all.Go(func() {
			for i := range 2000 {
				k := numbered((i*7 + w) % 300)
				switch i % 8 {
				case 0:
					s.Forget(k)
				case 1, 2:
					s.Learn(k, testEHLO)
				default:
					if e, ok := s.Known(k); ok && !e.Equal(testEHLO) {
						t.Errorf("Known: %v", e)
					}
				}
			}
		})
	}
	all.Wait()
	if st := s.Stats(); st.Octets > 64<<10 || st.Pending > 300 || st.Broken != 0 {
		t.Errorf("%+v", st)
	}
	mustClose(t, s)
	if len(s.writes.waiting) != 0 {
		t.Errorf("%d writes are left", len(s.writes.waiting))
	}
}
