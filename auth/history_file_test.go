package auth

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"
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

func TestHistoryFile(t *testing.T) {
	path := filepath.Join(t.TempDir(), "history")
	h := &HistoryFile{Path: path}
	defer h.Close()
	for i := range 3 {
		if err := h.Write(named(fmt.Sprint("job", i))); err != nil {
			t.Fatal(err)
		}
	}
	if got := jobs(t, contents(t, path)); len(got) != 3 || got[2] != "job2" {
		t.Errorf("%v", got)
	}
	if err := h.Write(HistoryRecord{}); !errors.Is(err, ErrNoPolicy) {
		t.Error(err)
	}
	if err := h.Close(); err != nil {
		t.Error(err)
	}
	if err := h.Close(); err != nil {
		t.Errorf("closed again: %v", err)
	}
	if err := h.Write(named("job3")); err != nil {
		t.Errorf("after Close: %v", err)
	}
	if got := jobs(t, contents(t, path)); len(got) != 4 {
		t.Errorf("%v", got)
	}
}

func TestHistoryFileMode(t *testing.T) {
	if runtime.GOOS == "windows" {
		t.Skip("no modes here")
	}
	for mode, want := range map[fs.FileMode]fs.FileMode{
		0: 0o600, 0o600: 0o600, 0o640: 0o640, 0o644: 0, 0o660: 0, 0o200: 0,
	} {
		h := &HistoryFile{Path: filepath.Join(t.TempDir(), "history"), Mode: mode}
		err := h.Check()
		info, serr := os.Stat(h.Path)
		switch {
		case want == 0 && (err == nil || serr == nil):
			t.Errorf("%#o is taken: %v", mode, err)
		case want != 0 && (err != nil || serr != nil || info.Mode() != want || info.Size() != 0):
			t.Errorf("%#o: %v, %v", mode, err, info)
		}
		if err := h.Close(); err != nil {
			t.Error(err)
		}
	}
	// A file that is there keeps its mode.
	path := filepath.Join(t.TempDir(), "history")
	if err := os.WriteFile(path, nil, 0o640); err != nil {
		t.Fatal(err)
	}
	h := &HistoryFile{Path: path}
	defer h.Close()
	if err := h.Write(passed()); err != nil {
		t.Error(err)
	}
	if info, err := os.Stat(path); err != nil || info.Mode()&0o640 != info.Mode() {
		t.Errorf("%v, %v", err, info)
	}
}

func TestHistoryFileRenamed(t *testing.T) {
	path := filepath.Join(t.TempDir(), "history")
	h := &HistoryFile{Path: path}
	defer h.Close()
	write := func(job string) {
		t.Helper()
		if err := h.Write(named(job)); err != nil {
			t.Fatal(err)
		}
	}
	write("one")
	if err := os.Rename(path, path+".old"); err != nil {
		t.Fatal(err)
	}
	write("two")
	if err := os.Remove(path); err != nil {
		t.Fatal(err)
	}
	write("three")
	write("four")
	if got := jobs(t, contents(t, path+".old")); len(got) != 1 || got[0] != "one" {
		t.Errorf("renamed: %v", got)
	}
	if got := jobs(t, contents(t, path)); len(got) != 2 || got[0] != "three" {
		t.Errorf("anew: %v", got)
	}
	// Another file in its place, as somebody makes who copies and truncates by hand.
	if err := os.WriteFile(path+".new", []byte(historyPassed), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.Rename(path+".new", path); err != nil {
		t.Fatal(err)
	}
	write("five")
	if err := os.Truncate(path, 0); err != nil {
		t.Fatal(err)
	}
	write("six")
	if got := jobs(t, contents(t, path)); len(got) != 1 || got[0] != "six" {
		t.Errorf("truncated: %v", got)
	}
}

func TestHistoryFileFull(t *testing.T) {
	path := filepath.Join(t.TempDir(), "history")
	h := &HistoryFile{Path: path, MaxBytes: int64(2*len(historyPassed) + 10)}
	defer h.Close()
	r := passed()
	for range 2 {
		if err := h.Write(r); err != nil {
			t.Fatal(err)
		}
	}
	if err := h.Write(r); !errors.Is(err, ErrHistoryFull) {
		t.Errorf("%v", err)
	}
	if got := jobs(t, contents(t, path)); len(got) != 2 {
		t.Errorf("%v", got)
	}
	if err := os.Rename(path, path+".old"); err != nil {
		t.Fatal(err)
	}
	if err := h.Write(r); err != nil {
		t.Errorf("imported, and still full: %v", err)
	}
}

// TestHistoryFileTorn: half a record, left by a machine that went down, spoils no other.
func TestHistoryFileTorn(t *testing.T) {
	path := filepath.Join(t.TempDir(), "history")
	if err := os.WriteFile(path, []byte(historyPassed[:len(historyPassed)-5]), 0o600); err != nil {
		t.Fatal(err)
	}
	h := &HistoryFile{Path: path}
	defer h.Close()
	if err := h.Write(named("next")); err != nil {
		t.Fatal(err)
	}
	if got := contents(t, path); !strings.Contains(got, "\njob next\n") {
		t.Errorf("%s", got)
	}
}

func TestHistoryFileRefuses(t *testing.T) {
	dir := t.TempDir()
	h := &HistoryFile{Path: dir}
	if err := h.Write(passed()); err == nil {
		t.Error("a directory is written to")
	}
	h = &HistoryFile{Path: filepath.Join(dir, "none", "history")}
	if err := h.Write(passed()); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("no directory: %v", err)
	}
	link := filepath.Join(dir, "link")
	if err := os.Symlink(filepath.Join(dir, "elsewhere"), link); err != nil {
		t.Skip("no links here: ", err)
	}
	h = &HistoryFile{Path: link}
	if err := h.Write(passed()); err == nil {
		t.Error("a link to nowhere is followed")
	}
}

// TestHistoryFileRotation has an importer rename the file again and again, take its lock and read it to its end, while
// several goroutines write: no record is lost, none comes twice and none is torn.
func TestHistoryFileRotation(t *testing.T) {
	path := filepath.Join(t.TempDir(), "history")
	const writers, records = 4, 300
	// Two files, as two processes have them.
	files := []*HistoryFile{{Path: path}, {Path: path}}
	var wg sync.WaitGroup
	var left atomic.Int32
	left.Store(writers)
	for w := range writers {
		wg.Go(func() {
			defer left.Add(-1)
			for i := range records {
				if err := files[w%2].Write(named(fmt.Sprintf("w%d-%d", w, i))); err != nil {
					t.Error(err)
				}
			}
		})
	}
	seen := make(map[string]bool)
	rotations := 0
	importAll := func() {
		old := path + ".old"
		if err := os.Rename(path, old); err != nil {
			return
		}
		rotations++
		for _, job := range jobs(t, lockedContents(t, old)) {
			if seen[job] {
				t.Errorf("%s comes twice", job)
			}
			seen[job] = true
		}
	}
	for left.Load() > 0 {
		importAll()
	}
	wg.Wait()
	importAll()
	for _, h := range files {
		if err := h.Close(); err != nil {
			t.Error(err)
		}
	}
	t.Logf("%d records in %d files", len(seen), rotations)
	if len(seen) != writers*records {
		t.Errorf("%d of %d records", len(seen), writers*records)
	}
}

func BenchmarkHistoryFile(b *testing.B) {
	h := &HistoryFile{Path: filepath.Join(b.TempDir(), "history")}
	defer h.Close()
	r := passed()
	r.Received = time.Unix(1795000000, 0)
	for b.Loop() {
		if err := h.Write(r); err != nil {
			b.Fatal(err)
		}
	}
}
