package once

import (
	"errors"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"slipstream/tlsstore"
)

// TestDiskFails: what cannot be written is known all the same, Ready says why it is not to be counted on, and it is
// written when that is over.
func TestDiskFails(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		d := newDisk()
		var log watchedLog
		m := openTest(t, d, Options{Log: log.logger()})
		before := delivered("before@b.example", "x")
		mustRemember(t, m, before)
		d.breakDown(errDisk)
		a, b := delivered("a@b.example", "x"), refused("b@b.example", "x")
		for range 3 {
			if err := m.Remember([]Outcome{a, b}); !errors.Is(err, errDisk) {
				t.Errorf("Remember: %v", err)
			}
		}
		wantRecalled(t, m, a, b)
		wantReady(t, m, 1, errDisk.Error())
		m.Heard([]Key{a.Key, before.Key})
		wantForgotten(t, m, a.Key, before.Key)
		time.Sleep(time.Hour)
		wantReady(t, m, 1, errDisk.Error())
		writes, _ := d.count()
		if most := 1 + 10 + int(time.Hour/retryMost); writes > most || writes < 60 {
			t.Errorf("%d tries within an hour", writes)
		}
		if s := m.Stats(); s.Unsaved != 3 || s.Failures < 60 || s.Writes != s.Failures+1 {
			t.Errorf("%+v", s)
		}
		d.breakDown(nil)
		time.Sleep(retryMost)
		wantReady(t, m, 1, "")
		if n := d.outcomes(t); n != 1 {
			t.Errorf("%d are on the disk, want the one that was not heard", n)
		}
		writes, _ = d.count()
		time.Sleep(time.Hour)
		if now, _ := d.count(); now != writes {
			t.Errorf("%d writes for nothing", now-writes)
		}
		said := log.String()
		for _, word := range []string{"warn", "cannot be written", "again"} {
			if strings.Count(said, word) != 1 {
				t.Errorf("not %q once, but:\n%s", word, said)
			}
		}
		mustClose(t, m)
		m = openTest(t, d, Options{})
		wantRecalled(t, m, b)
		wantForgotten(t, m, a.Key, before.Key)
		mustClose(t, m)
	})
}

// TestDiskFailsFirst: that nothing can be written is found out at the start, not with the first message.
func TestDiskFailsFirst(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		d := newDisk()
		d.breakDown(errDisk)
		var log watchedLog
		m := openTest(t, d, Options{Log: log.logger()})
		wantReady(t, m, 1, errDisk.Error())
		if !strings.Contains(log.String(), "cannot be written") {
			t.Errorf("said: %s", log.String())
		}
		d.breakDown(nil)
		time.Sleep(retryFirst)
		synctest.Wait()
		wantReady(t, m, 1, "")
		mustClose(t, m)
	})
}

// TestDiskFailsLast: who ends with something that is not on the disk says so.
func TestDiskFailsLast(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		d := newDisk()
		m := openTest(t, d, Options{})
		d.breakDown(errDisk)
		if err := m.Remember([]Outcome{delivered("a@b.example", "x")}); err == nil {
			t.Error("remembered")
		}
		if err := m.Close(); !errors.Is(err, errDisk) || !strings.Contains(err.Error(), "1 outcome") {
			t.Errorf("Close: %v", err)
		}
		if _, closed := d.count(); closed != 1 {
			t.Errorf("the disk was closed %d times", closed)
		}
	})
}

// TestRoom: a disk that is filling up is asked before anything is sent.
func TestRoom(t *testing.T) {
	d := newDisk()
	m := openTest(t, d, Options{})
	defer mustClose(t, m)
	d.set(func(d *disk) { d.room = errors.New("the disk is full") })
	wantReady(t, m, 1, "the disk is full")
	d.set(func(d *disk) { d.room = nil })
	wantReady(t, m, 1, "")
}

// TestDiskHangs: nobody waits for ever for a disk that does not answer, and what it had not taken yet is not lost.
func TestDiskHangs(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		d := newDisk()
		m := openTest(t, d, Options{})
		answer := make(chan struct{})
		d.set(func(d *disk) { d.hang = answer })
		a, b, c := delivered("a@b.example", "x"), refused("b@b.example", "x"), delivered("c@b.example", "x")
		begin := time.Now()
		if err := m.Remember([]Outcome{a}); !errors.Is(err, ErrSlow) || time.Since(begin) != writeWait {
			t.Errorf("Remember: %v after %v", err, time.Since(begin))
		}
		wantReady(t, m, 1, ErrSlow.Error())
		begin = time.Now()
		if err := m.Remember([]Outcome{b}); !errors.Is(err, ErrSlow) || time.Since(begin) != 0 {
			t.Errorf("another Remember: %v after %v", err, time.Since(begin))
		}
		wantRecalled(t, m, a, b)
		m.Heard([]Key{a.Key})
		wantForgotten(t, m, a.Key)
		d.set(func(d *disk) { d.hang = nil })
		close(answer)
		synctest.Wait()
		wantReady(t, m, 1, "")
		mustRemember(t, m, c)
		if n := d.outcomes(t); n != 2 {
			t.Errorf("%d are on the disk, want 2", n)
		}

		answer = make(chan struct{})
		d.set(func(d *disk) { d.hang = answer })
		m.Heard([]Key{b.Key})
		begin = time.Now()
		if err := m.Close(); !errors.Is(err, ErrSlow) || time.Since(begin) != CloseWait+tlsstore.CloseWait {
			t.Errorf("Close: %v after %v", err, time.Since(begin))
		}
		close(answer)
	})
}

// TestOpenSoon: what cannot be opened is tried again; until it can be, it is not ready, and takes nothing for granted.
func TestOpenSoon(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		d := newDisk()
		old := refused("old@b.example", "x")
		m := openTest(t, d, Options{})
		mustRemember(t, m, old, delivered("both@b.example", "x"))
		mustClose(t, m)

		var tries atomic.Int32
		fail := errors.New("in use by another process")
		var log watchedLog
		m = OpenSoon(func() (tlsstore.KV, error) {
			if tries.Add(1) < 5 {
				return nil, fail
			}
			return d, nil
		}, time.Minute, Options{Log: log.logger()})
		if n := tries.Load(); n != 1 {
			t.Errorf("tried %d times at once", n)
		}
		wantReady(t, m, 1, "in use")
		a, both := delivered("a@b.example", "x"), refused("both@b.example", "x")
		begin := time.Now()
		if err := m.Remember([]Outcome{a, both}); !errors.Is(err, fail) || time.Since(begin) != 0 {
			t.Errorf("Remember: %v after %v", err, time.Since(begin))
		}
		wantRecalled(t, m, a, both)
		wantForgotten(t, m, old.Key)
		time.Sleep(15*time.Second - 1)
		wantReady(t, m, 1, "in use")
		time.Sleep(time.Nanosecond)
		synctest.Wait()
		wantReady(t, m, 1, "")
		wantRecalled(t, m, a, both, old) // what is in memory is later
		if n := d.outcomes(t); n != 3 || tries.Load() != 5 {
			t.Errorf("%d are on the disk after %d tries, want 3 after 5", n, tries.Load())
		}
		if said := log.String(); strings.Count(said, "warn") != 1 || strings.Count(said, "from now on") != 1 {
			t.Errorf("said:\n%s", said)
		}
		mustClose(t, m)
	})
}

// TestOpenSoonForgets: what the MTA heard while there was no disk does not come back with it.
func TestOpenSoonForgets(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		d := newDisk()
		a := delivered("a@b.example", "x")
		m := openTest(t, d, Options{})
		mustRemember(t, m, a)
		mustClose(t, m)
		var there atomic.Bool
		m = OpenSoon(func() (tlsstore.KV, error) {
			if !there.Load() {
				return nil, errDisk
			}
			return d, nil
		}, time.Minute, Options{})
		if err := m.Remember([]Outcome{a}); !errors.Is(err, errDisk) {
			t.Errorf("Remember: %v", err)
		}
		m.Heard([]Key{a.Key})
		there.Store(true)
		time.Sleep(openMost)
		synctest.Wait()
		wantReady(t, m, 1, "")
		wantForgotten(t, m, a.Key)
		if n := d.outcomes(t); n != 0 {
			t.Errorf("%d are on the disk", n)
		}
		mustClose(t, m)
	})
}

// TestOpenHangs: a start does not wait for ever for a disk, nor does an end.
func TestOpenHangs(t *testing.T) {
	for _, late := range []bool{false, true} {
		synctest.Test(t, func(t *testing.T) {
			d, answer := newDisk(), make(chan struct{})
			var log watchedLog
			begin := time.Now()
			m := OpenSoon(func() (tlsstore.KV, error) { <-answer; return d, nil }, time.Minute, Options{Log: log.logger()})
			if took := time.Since(begin); took != time.Minute || !strings.Contains(log.String(), "does not open in time") {
				t.Errorf("the start took %v; %s", took, log.String())
			}
			wantReady(t, m, 1, "not opened yet")
			if !late {
				close(answer)
				synctest.Wait()
				wantReady(t, m, 1, "")
				mustClose(t, m)
				return
			}
			if err := m.Close(); !errors.Is(err, ErrSlow) {
				t.Errorf("Close: %v", err)
			}
			close(answer)
			synctest.Wait()
			if _, closed := d.count(); closed != 1 {
				t.Errorf("what came late was closed %d times", closed)
			}
		})
	}
}

// TestOpenSoonClosed: who never gets to a disk can be ended all the same, and what was to be written is not lost in
// silence.
func TestOpenSoonClosed(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := OpenSoon(func() (tlsstore.KV, error) { return nil, errDisk }, time.Minute, Options{})
		if err := m.Remember([]Outcome{delivered("a@b.example", "x")}); err == nil {
			t.Error("remembered")
		}
		if err := m.Close(); !errors.Is(err, errDisk) {
			t.Errorf("Close: %v", err)
		}
	})
}

// TestUnreadableSoon: a KV that opens, but cannot be read, is closed and tried again.
func TestUnreadableSoon(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		first, d := newDisk(), newDisk()
		first.KV.Close()
		tries := 0
		m := OpenSoon(func() (tlsstore.KV, error) {
			if tries++; tries == 1 {
				return first, nil
			}
			return d, nil
		}, time.Minute, Options{})
		wantReady(t, m, 1, tlsstore.ErrClosed.Error())
		time.Sleep(retryFirst)
		synctest.Wait()
		wantReady(t, m, 1, "")
		if _, closed := first.count(); closed != 1 {
			t.Errorf("closed %d times", closed)
		}
		mustClose(t, m)
	})
}

// TestSilence: who only asks, writes nothing, and what nobody remembers is not looked for.
func TestSilence(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		d := newDisk()
		m := openTest(t, d, Options{})
		before, _ := d.count()
		o := delivered("a@b.example", "x")
		for range 100 {
			wantReady(t, m, 100, "")
			wantForgotten(t, m, o.Key)
			m.Heard([]Key{o.Key})
			m.Refused(mta, sender, "a@b.example")
			m.Awaits(mta, sender, "a@b.example")
		}
		time.Sleep(24 * time.Hour)
		mustRemember(t, m, o)
		m.Heard([]Key{key("else@b.example", "x")})
		synctest.Wait()
		if writes, _ := d.count(); writes != before+1 {
			t.Errorf("%d writes, want 1", writes-before)
		}
		mustClose(t, m)
	})
}
