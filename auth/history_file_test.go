//go:build darwin || dragonfly || freebsd || linux || netbsd || openbsd

package auth

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"go.uber.org/goleak"
)

// named is a record that can be told from others.
func named(job string) HistoryRecord {
	r := passed()
	r.Job = job
	return r
}

func contents(t *testing.T, path string) string {
	t.Helper()
	text, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	return string(text)
}

// jobs returns the names of the records of a file, each of which must be whole.
func jobs(t *testing.T, text string) (names []string) {
	t.Helper()
	entries, err := readHistory(text)
	if err != nil {
		t.Fatal(err)
	}
	for _, e := range entries {
		names = append(names, e.values["job"])
	}
	return names
}

func openHistory(t *testing.T, path string, o HistoryOptions) *HistoryFile {
	t.Helper()
	h, err := OpenHistory(path, o)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := h.Close(context.Background()); err != nil && !t.Failed() && !errors.Is(err, context.Canceled) {
			t.Log(err)
		}
		goleak.VerifyNone(t, goleak.IgnoreCurrent())
	})
	return h
}

func add(t *testing.T, h *HistoryFile, names ...string) {
	t.Helper()
	for _, name := range names {
		if err := h.Add(named(name)); err != nil {
			t.Fatal(err)
		}
	}
}

// flush waits until everything is written.
func flush(t *testing.T, h *HistoryFile) {
	t.Helper()
	if err := h.Close(context.Background()); err != nil {
		t.Fatal(err)
	}
}

// hold locks a file as opendmarc-import does, until it is closed.
func hold(t *testing.T, path string) *os.File {
	t.Helper()
	f, err := os.OpenFile(path, os.O_RDWR, 0)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { f.Close() })
	for err = syscall.EINTR; err == syscall.EINTR; {
		err = syscall.Flock(int(f.Fd()), syscall.LOCK_SH)
	}
	if err != nil {
		t.Fatal(err)
	}
	return f
}

// failures are what Failed was told.
type failures struct {
	mu   sync.Mutex
	list []error
}

func (f *failures) add(err error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.list = append(f.list, err)
}

func (f *failures) all() []error {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.list
}

// pass lets time pass, and what it sets off happen.
func pass(d time.Duration) {
	time.Sleep(d)
	synctest.Wait()
}

func TestHistoryFile(t *testing.T) {
	path := filepath.Join(t.TempDir(), "history")
	h := openHistory(t, path, HistoryOptions{})
	if got := contents(t, path); got != "" {
		t.Errorf("it begins with %q", got)
	}
	add(t, h, "a", "b")
	if err := h.Add(HistoryRecord{}); !errors.Is(err, ErrNoPolicy) || h.Dropped() != 0 {
		t.Errorf("nothing to say: %v, %d dropped", err, h.Dropped())
	}
	if err := h.Add(named("a\njob b")); err == nil || h.Dropped() != 1 {
		t.Errorf("a line in a name: %v, %d dropped", err, h.Dropped())
	}
	flush(t, h)
	flush(t, h)
	if err := h.Add(passed()); !errors.Is(err, ErrHistoryClosed) || h.Dropped() != 2 {
		t.Errorf("after Close: %v, %d dropped", err, h.Dropped())
	}
	other := openHistory(t, path, HistoryOptions{})
	for i := range 500 {
		add(t, other, fmt.Sprint("c", i))
	}
	flush(t, other)
	got := jobs(t, contents(t, path))
	if len(got) != 502 || !slices.Equal(got[:3], []string{"a", "b", "c0"}) || got[501] != "c499" {
		t.Errorf("%d: %v", len(got), got)
	}
	if h.Written() != 2 || other.Written() != 500 || other.Dropped() != 0 {
		t.Errorf("%d and %d written, %d dropped", h.Written(), other.Written(), other.Dropped())
	}
}

func TestHistoryFileMode(t *testing.T) {
	for mode, want := range map[fs.FileMode]fs.FileMode{
		0: 0o640, 0o600: 0o600, 0o640: 0o640, 0o644: 0, 0o660: 0, 0o200: 0, 0o640 | fs.ModeSetuid: 0,
	} {
		path := filepath.Join(t.TempDir(), "history")
		h, err := OpenHistory(path, HistoryOptions{Mode: mode})
		info, serr := os.Stat(path)
		switch {
		case want == 0 && (err == nil || serr == nil):
			t.Errorf("%#o is taken: %v", mode, err)
		case want != 0 && (err != nil || serr != nil || info.Mode() != want):
			t.Errorf("%#o: %v, %v", mode, err, info)
		}
		if err == nil {
			flush(t, h)
		}
	}
	// A file that is there keeps its mode.
	path := filepath.Join(t.TempDir(), "history")
	if err := errors.Join(os.WriteFile(path, nil, 0o600), os.Chmod(path, 0o664)); err != nil {
		t.Fatal(err)
	}
	h := openHistory(t, path, HistoryOptions{})
	add(t, h, "a")
	flush(t, h)
	if info, err := os.Stat(path); err != nil || info.Mode() != 0o664 {
		t.Errorf("%v, %v", err, info)
	}
}

// TestHistoryFileTakenAway: whatever becomes of a file, the next record goes into what path names.
func TestHistoryFileTakenAway(t *testing.T) {
	path := filepath.Join(t.TempDir(), "history")
	h := openHistory(t, path, HistoryOptions{})
	written := func(job string) {
		t.Helper()
		n := h.Written()
		add(t, h, job)
		wait(t, func() bool { return h.Written() > n })
	}
	written("one")
	if err := os.Rename(path, path+".old"); err != nil {
		t.Fatal(err)
	}
	written("two")
	if err := os.Remove(path); err != nil {
		t.Fatal(err)
	}
	written("three")
	written("four")
	if got := jobs(t, contents(t, path+".old")); !slices.Equal(got, []string{"one"}) {
		t.Errorf("renamed: %v", got)
	}
	if got := jobs(t, contents(t, path)); !slices.Equal(got, []string{"three", "four"}) {
		t.Errorf("anew: %v", got)
	}
	// Another file in its place, as somebody makes who copies.
	if err := errors.Join(os.WriteFile(path+".new", []byte(historyPassed), 0o600),
		os.Rename(path+".new", path)); err != nil {
		t.Fatal(err)
	}
	written("five")
	if got := jobs(t, contents(t, path)); len(got) != 2 || got[1] != "five" {
		t.Errorf("replaced: %v", got)
	}
	if err := os.Truncate(path, 0); err != nil {
		t.Fatal(err)
	}
	written("six")
	if got := jobs(t, contents(t, path)); !slices.Equal(got, []string{"six"}) {
		t.Errorf("truncated: %v", got)
	}
	// An importer that has renamed it and holds it is not waited for.
	if err := os.Rename(path, path+".old"); err != nil {
		t.Fatal(err)
	}
	hold(t, path+".old")
	written("seven")
}

// wait returns once something is so that does not take long.
func wait(t *testing.T, so func() bool) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	tick := time.NewTicker(time.Millisecond)
	defer tick.Stop()
	for !so() {
		select {
		case <-tick.C:
		case <-ctx.Done():
			t.Fatal("it takes too long")
		}
	}
}

// TestHistoryFileHeld: while an importer has the lock nothing is written, nobody waits, and nothing is lost but what
// there is no room for.
func TestHistoryFileHeld(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		path := filepath.Join(t.TempDir(), "history")
		if err := os.WriteFile(path, nil, 0o600); err != nil {
			t.Fatal(err)
		}
		importer := hold(t, path)
		var told failures
		h := openHistory(t, path, HistoryOptions{Failed: told.add})
		began, queued := time.Now(), 0
		var refused error
		for refused == nil {
			if refused = h.Add(passed()); refused == nil {
				queued++
			}
		}
		if !errors.Is(refused, ErrHistoryQueue) || h.Dropped() != 1 || queued < 5000 || queued > maxHistoryQueue/400 {
			t.Errorf("%v after %d records, %d dropped", refused, queued, h.Dropped())
		}
		pass(historyHeld / 2)
		if len(told.all()) != 0 || h.Written() != 0 || contents(t, path) != "" {
			t.Errorf("held for half a minute: %v, %d written", told.all(), h.Written())
		}
		pass(historyHeld)
		if len(told.all()) != 1 || !errors.Is(told.all()[0], errHistoryHeld) || h.Written() != 0 {
			t.Errorf("held for long: %v, %d written", told.all(), h.Written())
		}
		if err := importer.Close(); err != nil {
			t.Fatal(err)
		}
		pass(historyLockMax)
		if len(told.all()) != 2 || told.all()[1] != nil || h.Written() != uint64(queued) {
			t.Errorf("free: %v, %d written of %d", told.all(), h.Written(), queued)
		}
		if took := time.Since(began); took != historyHeld*3/2+historyLockMax {
			t.Errorf("somebody waited: %v", took)
		}
		if got := contents(t, path); got != strings.Repeat(historyPassed, queued) {
			t.Errorf("%d octets for %d records", len(got), queued)
		}
	})
}

// TestHistoryFileClose: it writes what it can in its time, and says what it cannot.
func TestHistoryFileClose(t *testing.T) {
	for _, tt := range []struct {
		name    string
		release time.Duration // of the lock, after Close
		ctx     time.Duration // of Close
		took    time.Duration // at most
		written uint64
	}{
		{"soon", time.Second, time.Hour, time.Second + historyLockMax, 100},
		{"too late", time.Minute, 3 * time.Second, 3 * time.Second, 0},
		{"never", time.Hour, time.Hour, historyFlush, 0},
		{"no time", time.Second, 0, 0, 0},
	} {
		synctest.Test(t, func(t *testing.T) {
			path := filepath.Join(t.TempDir(), "history")
			h := openHistory(t, path, HistoryOptions{})
			importer := hold(t, path)
			timer := time.AfterFunc(tt.release, func() { importer.Close() })
			defer timer.Stop()
			for range 100 {
				add(t, h, "x")
			}
			synctest.Wait()
			ctx, cancel := context.WithTimeout(t.Context(), tt.ctx)
			defer cancel()
			began := time.Now()
			err := h.Close(ctx)
			if took := time.Since(began); took > tt.took || h.Written() != tt.written || h.Dropped() != 100-tt.written {
				t.Errorf("%s: %v, %d written, %d dropped", tt.name, took, h.Written(), h.Dropped())
			}
			if lost := tt.written == 0; lost != (err != nil) || lost != errors.Is(err, errHistoryHeld) {
				t.Errorf("%s: %v", tt.name, err)
			}
			if err != nil && !strings.Contains(err.Error(), "100 records are lost") {
				t.Errorf("%s: %v", tt.name, err)
			}
			if again := h.Close(ctx); !errors.Is(again, err) {
				t.Errorf("%s: closed again: %v", tt.name, again)
			}
			if got := contents(t, path); len(got) != int(tt.written)*len(historyPassed)-
				int(tt.written)*(len(passed().Job)-1) {
				t.Errorf("%s: %d octets", tt.name, len(got))
			}
		})
	}
}

func TestHistoryFileFull(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		path := filepath.Join(t.TempDir(), "history")
		var told failures
		h := openHistory(t, path, HistoryOptions{MaxBytes: int64(2*len(historyPassed) + 10),
			Failed: told.add})
		for range 3 {
			if err := h.Add(passed()); err != nil {
				t.Fatal(err)
			}
		}
		pass(time.Minute)
		if got := contents(t, path); got != historyPassed+historyPassed || len(told.all()) != 1 ||
			!errors.Is(told.all()[0], ErrHistoryFull) {
			t.Errorf("full: %v, %q", told.all(), got)
		}
		if err := os.Rename(path, path+".old"); err != nil {
			t.Fatal(err)
		}
		pass(historyFailMax)
		if got := contents(t, path); got != historyPassed || len(told.all()) != 2 || told.all()[1] != nil {
			t.Errorf("imported: %v, %q", told.all(), got)
		}
		// One that is larger than any file would be in the way for ever.
		large := failed()
		large.Verdict.Record.RUA = []ReportURI{{Text: "mailto:" + strings.Repeat("x", 240)}}
		for i := range 5 {
			signature := HistoryDKIM{strings.Repeat("x", 63) + ".example", fmt.Sprint("k", i), "pass"}
			large.DKIM = append(large.DKIM, signature)
		}
		if err := h.Add(large); err == nil || h.Dropped() != 1 {
			t.Errorf("a large one: %v", err)
		}
		// Closing does not wait for what a failure would have to be mended for.
		add(t, h, "a", "b", "c")
		began := time.Now()
		if err := h.Close(t.Context()); !errors.Is(err, ErrHistoryFull) || !strings.Contains(err.Error(), "2 records") {
			t.Errorf("closed: %v", err)
		}
		if time.Since(began) != 0 || h.Written() != 4 || h.Dropped() != 3 {
			t.Errorf("%v, %d written, %d dropped", time.Since(began), h.Written(), h.Dropped())
		}
	})
}

func BenchmarkHistoryFile(b *testing.B) {
	h, err := OpenHistory(filepath.Join(b.TempDir(), "history"), HistoryOptions{})
	if err != nil {
		b.Fatal(err)
	}
	r := passed()
	for b.Loop() {
		for h.Add(r) != nil {
			runtime.Gosched() // it is the file that is measured: add when there is room
		}
	}
	if err := h.Close(context.Background()); err != nil {
		b.Fatal(err)
	}
}
