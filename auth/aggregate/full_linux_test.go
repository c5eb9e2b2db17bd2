package aggregate

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"syscall"
	"testing"
	"time"
)

// tmpfs mounts a file system of some octets.
func tmpfs(t *testing.T, size int) (dir string) {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Skip("only root may mount a small file system")
	}
	dir = t.TempDir()
	if err := syscall.Mount("tmpfs", dir, "tmpfs", 0, fmt.Sprintf("size=%d", size)); err != nil {
		t.Skip("no file system can be mounted here: ", err)
	}
	t.Cleanup(func() {
		if err := syscall.Unmount(dir, syscall.MNT_DETACH); err != nil {
			t.Error(err)
		}
	})
	return dir
}

// TestFullDisk: what the disk does not take is lost and counted, what is there stays good, and when there is room again
// the journal goes on.
func TestFullDisk(t *testing.T) {
	mount := tmpfs(t, 1<<20)
	dir := filepath.Join(mount, "reports")
	var seen events
	j := openJournal(t, Options{Dir: dir, Observe: seen.observe})
	ballast := filepath.Join(mount, "ballast")
	if err := os.WriteFile(ballast, make([]byte, 700<<10), 0o600); err != nil {
		t.Fatal(err)
	}
	for n := 0; j.Stats().Lost == 0; n++ {
		j.Add(sample("example.com", n))
		if n%7 == 0 { // batches of several sizes
			flush(t, j)
		}
		if n > 1<<20 {
			t.Fatal("the disk is never full")
		}
	}
	flush(t, j) // it is counted before it is told
	lost := seen.take(KindLost)
	if len(lost) == 0 || !errors.Is(lost[0].Err, syscall.ENOSPC) {
		t.Errorf("%v", lost)
	}
	j.Add(sample("example.com", 1))
	flush(t, j)
	before := j.Stats()
	if err := os.Remove(ballast); err != nil {
		t.Fatal(err)
	}
	j.Add(sample("example.net", 1), sample("example.net", 2))
	flush(t, j)
	s := j.Stats()
	if s.Written != before.Written+2 || s.Lost != before.Lost {
		t.Errorf("%+v, then %+v", before, s)
	}
	var total, skipped int64
	days, err := Days(dir)
	if err != nil {
		t.Fatal(err)
	}
	for _, day := range days {
		_, sum := made(t, dir, day, testConfig())
		total += sum.Messages
		skipped += sum.Skipped
	}
	if total != s.Written || skipped != 0 {
		t.Errorf("%d records are there, %d octets of none; %+v", total, skipped, s)
	}
}

// TestFullDiskAndReports: what cannot be remembered is not sent.
func TestFullDiskAndReports(t *testing.T) {
	mount := tmpfs(t, 256<<10)
	dir := filepath.Join(mount, "reports")
	day := DayOf(time.Now()) - 1
	writeDay(t, dir, day, sample("a.example", 1), sample("b.example", 1))
	if err := os.WriteFile(filepath.Join(mount, "ballast"), make([]byte, 250<<10), 0o600); err == nil {
		t.Log("the disk takes all")
	}
	j := openJournal(t, Options{Dir: dir})
	if s, err := newScheduler(j, SchedulerOptions{Config: testConfig()}); err == nil {
		// There was a page left: it is used up now.
		fill, err := os.Create(filepath.Join(mount, "more"))
		if err != nil {
			t.Fatal(err)
		}
		for err == nil {
			_, err = fill.Write(make([]byte, 512))
		}
		mta, seen := &fakeMTA{}, &events{}
		s.observe = seen.observe
		s.options.Destinations, s.options.Mailer = asked{}, mta
		for err = nil; err == nil; { // until the page with the state is full
			err = s.sent.set(sentEntry{Day: day - 1, Outcome: outcomeBegun})
		}
		if !errors.Is(err, syscall.ENOSPC) {
			t.Fatal(err)
		}
		s.work(t.Context(), day, day.End())
		if n := len(mta.got); n != 0 {
			t.Errorf("%d reports were sent", n)
		}
		if err := os.Remove(filepath.Join(mount, "ballast")); err != nil {
			t.Fatal(err)
		}
		s.work(t.Context(), day, day.End())
		if n := len(mta.got); n != 2 {
			t.Errorf("%d reports were sent when there was room: %+v", n, seen.list)
		}
		if err := s.sent.close(); err != nil {
			t.Error(err)
		}
	} else if !errors.Is(err, syscall.ENOSPC) {
		t.Error(err)
	}
}
