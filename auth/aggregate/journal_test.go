package aggregate

import (
	"bytes"
	"context"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"testing/synctest"
	"time"
)

// messages counts the records of a day.
func messages(t testing.TB, dir string, day Day) int64 {
	t.Helper()
	_, sum := made(t, dir, day, testConfig())
	return sum.Messages
}

func TestJournal(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "a", "reports")
	j := openJournal(t, Options{Dir: dir})
	info, err := os.Stat(dir)
	if err != nil || info.Mode().Perm() != privateDir {
		t.Fatal(info, err)
	}
	if _, err := Open(Options{Dir: dir}); !errors.Is(err, ErrInUse) {
		t.Errorf("a second journal: %v", err)
	}
	for n := range 1000 {
		j.Add(sample("example.com", n), sample("example.net", n))
	}
	flush(t, j)
	days, err := Days(dir)
	if err != nil || len(days) == 0 {
		t.Fatal(days, err)
	}
	var total int64
	for _, day := range days { // two, around midnight
		total += messages(t, dir, day)
		file, err := os.Stat(dayFile(dir, day))
		if err != nil || file.Mode().Perm() != privateFile {
			t.Error(file, err)
		}
	}
	if s := j.Stats(); total != 2000 || s.Written != 2000 || s.Dropped+s.Lost+s.Days != 0 || s.Octets == 0 {
		t.Errorf("%d records; %+v", total, s)
	}
	var none *Journal
	none.Add(sample("example.com", 1))
	if err := errors.Join(none.Flush(t.Context()), none.Close()); err != nil || none.Stats() != (Stats{}) {
		t.Error("a journal that is nil does something")
	}
}

func TestJournalClosed(t *testing.T) {
	dir := t.TempDir()
	j, err := Open(Options{Dir: dir})
	if err != nil {
		t.Fatal(err)
	}
	j.Add(sample("example.com", 1))
	if err := errors.Join(j.Close(), j.Close()); err != nil {
		t.Fatal(err)
	}
	if err := j.Flush(t.Context()); !errors.Is(err, errClosed) {
		t.Errorf("Flush: %v", err)
	}
	for range 2 * queueLength {
		j.Add(sample("example.com", 2)) // waits for nobody
	}
	if s := j.Stats(); s.Written != 1 || s.Dropped < queueLength {
		t.Errorf("%+v", s)
	}
}

func TestJournalOpenFails(t *testing.T) {
	dir := t.TempDir()
	file := filepath.Join(dir, "file")
	if err := os.WriteFile(file, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.Mkdir(filepath.Join(dir, "open"), 0o700); err != nil {
		t.Fatal(err)
	}
	if err := os.Chmod(filepath.Join(dir, "open"), 0o770); err != nil {
		t.Fatal(err)
	}
	for path, want := range map[string]string{file: "not a directory", filepath.Join(dir, "open"): "chmod go-w"} {
		if j, err := Open(Options{Dir: path}); err == nil {
			t.Error(j.Close())
		} else if !strings.Contains(err.Error(), want) {
			t.Errorf("%v; want %q in it", err, want)
		}
	}
}

// TestTorn: what a write that was cut short has left costs no record but its own.
func TestTorn(t *testing.T) {
	today := DayOf(time.Now())
	whole := written(t, today, sample("example.com", 1), sample("example.com", 2), sample("example.com", 3))
	file, err := os.ReadFile(dayFile(whole, today))
	if err != nil {
		t.Fatal(err)
	}
	size := len(file) / 3
	for name, broken := range map[string][]byte{
		"cut": file[:len(file)-1], "cut to the header": file[:2*size+5], "zeros": append(bytes.Clone(file[:2*size]),
			make([]byte, 100_000)...), "middle": append(append(bytes.Clone(file[:size]), 0xff), file[size+1:]...),
	} {
		t.Run(name, func(t *testing.T) {
			dir := written(t, today, sample("example.com", 1))
			if err := os.WriteFile(dayFile(dir, today), broken, privateFile); err != nil {
				t.Fatal(err)
			}
			if n := messages(t, dir, today); n != 2 {
				t.Errorf("%d records before", n)
			}
			writeDay(t, dir, today, sample("example.com", 4))
			_, sum := made(t, dir, today, testConfig())
			if sum.Messages != 3 || name != "middle" && sum.Skipped != 0 {
				t.Errorf("afterwards %+v", sum)
			}
		})
	}
}

func TestMidnight(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		dir := t.TempDir()
		j := openJournal(t, Options{Dir: dir})
		first := DayOf(time.Now())
		time.Sleep(time.Until(first.End().Add(-time.Second)))
		j.Add(sample("example.com", 1))
		time.Sleep(2 * time.Second)
		j.Add(sample("example.com", 2))
		flush(t, j)
		if a, b := messages(t, dir, first), messages(t, dir, first+1); a != 1 || b != 1 {
			t.Errorf("%d records before midnight, %d after", a, b)
		}
	})
}

// TestOldDays: days go when they are old, without a word, and before that when there is no room, which is told.
func TestOldDays(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		today := DayOf(time.Now())
		dir := t.TempDir()
		for n := range KeepDays + 3 {
			writeDay(t, dir, today-Day(n), sample("example.com", 1))
		}
		var seen events
		j := openJournal(t, Options{Dir: dir, Observe: seen.observe})
		days, err := Days(dir)
		if err != nil || len(days) != KeepDays+1 || days[0] != today-KeepDays || len(seen.take(KindDropped)) != 0 {
			t.Fatalf("%v: %v", days, err)
		}
		if err := j.Close(); err != nil {
			t.Fatal(err)
		}
		one := j.Stats().Octets / int64(len(days))
		small := openJournal(t, Options{Dir: dir, MaxSize: 3 * one, Observe: seen.observe})
		if days, _ := Days(dir); len(days) != 3 || days[0] != today-2 || len(seen.take(KindDropped)) != KeepDays-2 {
			t.Errorf("%v are left", days)
		}
		small.Add(sample("example.com", 2), sample("example.com", 3))
		flush(t, small)
		if days, _ := Days(dir); len(days) != 1 || messages(t, dir, today) != 3 {
			t.Errorf("%v are left, of today %d records", days, messages(t, dir, today))
		}
		// Nothing is left that could make room.
		small.Add(sample("example.com", 4))
		flush(t, small)
		lost := seen.take(KindLost)
		if s := small.Stats(); s.Lost != 1 || s.Octets > 3*one || len(lost) != 1 || !errors.Is(lost[0].Err, errFull) {
			t.Errorf("%+v, %v", s, lost)
		}
		time.Sleep(24 * time.Hour)
		small.Add(sample("example.com", 5))
		flush(t, small)
		if messages(t, dir, today+1) != 1 {
			t.Error("the next day has no room")
		}
	})
}

// TestFlood: more than can be written is dropped and counted, and nobody waits.
func TestFlood(t *testing.T) {
	dir, err := openDirectory(t.TempDir(), DefaultMaxSize)
	if err != nil {
		t.Fatal(err)
	}
	defer dir.close()
	j := &Journal{dir: dir, queue: make(chan queued, queueLength)} // nobody writes
	for n := range queueLength + 100 {
		j.Add(sample("example.com", n))
	}
	if s := j.Stats(); s.Dropped != 100 {
		t.Errorf("%+v", s)
	}
}

// TestRemoved: a directory that somebody removes under a journal that runs is made anew.
func TestRemoved(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		dir := filepath.Join(t.TempDir(), "reports")
		var seen events
		j := openJournal(t, Options{Dir: dir, Observe: seen.observe})
		j.Add(sample("example.com", 1))
		flush(t, j)
		if err := os.RemoveAll(dir); err != nil {
			t.Fatal(err)
		}
		j.Add(sample("example.com", 2))
		if err := j.Flush(context.Background()); err == nil || len(seen.take(KindLost)) != 1 {
			t.Errorf("it is not noticed: %v", err)
		}
		j.Add(sample("example.com", 3))
		flush(t, j)
		if days, err := Days(dir); err != nil || len(days) != 1 {
			t.Errorf("%v, %v", days, err)
		}
	})
}

// TestRecordTooLong: a record that is too long is lost, and none with it.
func TestRecordTooLong(t *testing.T) {
	j := openJournal(t, Options{Dir: t.TempDir()})
	long := sample("example.com", 1)
	long.Row.SPFHuman = strings.Repeat("x", maxPayload)
	j.Add(sample("example.com", 1), long, sample("example.com", 2))
	flush(t, j)
	if s := j.Stats(); s.Written != 2 || s.Lost != 1 {
		t.Errorf("%+v", s)
	}
}
