//go:build darwin || dragonfly || freebsd || linux || netbsd || openbsd

package auth

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
)

// An importer takes the file away again and again, in both ways in which that can be done, and knows what it has seen.
type importer struct {
	path               string
	renamed, truncated int
	order              map[string][]int // what came from each writer
}

// byRename is what opendmarc-importstats does: rename, wait for the lock, read, remove.
func (im *importer) byRename(t *testing.T) {
	old := fmt.Sprint(im.path, ".", im.renamed)
	if err := os.Rename(im.path, old); errors.Is(err, fs.ErrNotExist) {
		return
	} else if err != nil {
		t.Fatal(err)
	}
	im.renamed++
	f := hold(t, old)
	im.read(t, f)
	if err := errors.Join(f.Close(), os.Remove(old)); err != nil {
		t.Fatal(err)
	}
}

// byTruncation waits for the lock, reads, and truncates before it lets go.
func (im *importer) byTruncation(t *testing.T) {
	if _, err := os.Lstat(im.path); err != nil {
		return
	}
	im.truncated++
	f := hold(t, im.path)
	im.read(t, f)
	if err := errors.Join(f.Truncate(0), f.Close()); err != nil {
		t.Fatal(err)
	}
}

func (im *importer) read(t *testing.T, f *os.File) {
	text, err := io.ReadAll(f)
	if err != nil {
		t.Fatal(err)
	}
	for _, job := range jobs(t, string(text)) {
		writer, number, _ := strings.Cut(job, "-")
		n, err := strconv.Atoi(number)
		if err != nil {
			t.Fatalf("a record that nobody wrote: %q", job)
		}
		im.order[writer] = append(im.order[writer], n)
	}
}

// addSlowly adds records of one writer, of which there are never many in the queue, so that the lock is taken often.
// pause is called every now and then.
func addSlowly(h *HistoryFile, writer string, records int, pause func()) error {
	for i := range records {
		if i%4 == 0 {
			pause()
		}
		if err := h.Add(named(fmt.Sprint(writer, "-", i))); err != nil {
			return err
		}
	}
	return nil
}

func (h *HistoryFile) pending() int {
	h.mu.Lock()
	defer h.mu.Unlock()
	return len(h.queue)
}

// historyChild names what a process is to do that a test has started from its own binary.
const historyChild = "HISTORY_CHILD"

// child returns a command that runs this test again, in which inChild then does what role says.
func child(t *testing.T, role, path string) *exec.Cmd {
	cmd := exec.CommandContext(t.Context(), os.Args[0], "-test.run=^"+t.Name()+"$", "-test.count=1")
	cmd.Env = append(os.Environ(), historyChild+"="+role+" "+path, "GORACE=atexit_sleep_ms=0 "+os.Getenv("GORACE"))
	return cmd
}

func inChild() (role, path string, ok bool) {
	role, path, ok = strings.Cut(os.Getenv(historyChild), " ")
	return role, path, ok
}

// TestHistoryFileRotation has an importer take the file away again and again, while several goroutines of two processes
// write to it by three HistoryFiles: no record is lost, none comes twice, none is torn, and those of each writer are in
// order.
func TestHistoryFileRotation(t *testing.T) {
	const records = 240
	if role, path, ok := inChild(); ok {
		h := openHistory(t, path, HistoryOptions{})
		pause := func() { wait(t, func() bool { return h.pending() == 0 }) }
		if err := addSlowly(h, role, records, pause); err != nil {
			t.Fatal(err)
		}
		flush(t, h)
		return
	}
	im := importer{path: filepath.Join(t.TempDir(), "history"), order: make(map[string][]int)}
	files := []*HistoryFile{openHistory(t, im.path, HistoryOptions{}), openHistory(t, im.path, HistoryOptions{})}
	var wg sync.WaitGroup
	var left atomic.Int32
	start := func(write func() error) {
		left.Add(1)
		wg.Go(func() {
			defer left.Add(-1)
			if err := write(); err != nil {
				t.Error(err)
			}
		})
	}
	// Writers wait for the importer to go round, lest they be done before it has begun.
	var mu sync.Mutex
	round := sync.NewCond(&mu)
	pause := func() {
		mu.Lock()
		defer mu.Unlock()
		round.Wait()
	}
	for w := range 4 {
		start(func() error { return addSlowly(files[w%2], fmt.Sprint("w", w), records, pause) })
	}
	start(func() error {
		out, err := child(t, "w4", im.path).CombinedOutput()
		if err != nil {
			return fmt.Errorf("%w: %s", err, out)
		}
		return nil
	})
	for left.Load() > 0 {
		if rand.IntN(2) == 0 {
			im.byRename(t)
		} else {
			im.byTruncation(t)
		}
		round.Broadcast()
	}
	wg.Wait()
	for _, h := range files {
		flush(t, h)
	}
	im.byRename(t)
	t.Logf("taken away %d times by renaming, %d times by truncation", im.renamed, im.truncated)
	for w := range 5 {
		got := im.order[fmt.Sprint("w", w)]
		if len(got) != records || !slices.IsSorted(got) || len(slices.Compact(got)) != records {
			t.Errorf("writer %d: %d records: %v", w, len(got), got)
		}
	}
}

// TestHistoryFileKilled kills a process again and again while it writes long records. What it had written is there,
// from its first record on and without a gap; its last record may lack lines, but no line is torn once another process
// has written.
func TestHistoryFileKilled(t *testing.T) {
	if role, path, ok := inChild(); ok {
		go func() { // until it is killed, or whoever would have done so
			_, _ = io.Copy(io.Discard, os.Stdin)
			os.Exit(1)
		}()
		h := openHistory(t, path, HistoryOptions{})
		for i := 0; ; i++ {
			if err := h.Add(long(fmt.Sprint(role, "-", i))); err != nil && !errors.Is(err, ErrHistoryQueue) {
				t.Fatal(err)
			}
			for h.pending() > 4 {
				runtime.Gosched()
			}
		}
	}
	path := filepath.Join(t.TempDir(), "history")
	h := openHistory(t, path, HistoryOptions{})
	killed, torn, whole := 10, 0, 0
	if testing.Short() {
		killed = 3
	}
	for k := range killed {
		size := fileSize(t, path) + 1 + rand.Int64N(4<<20)
		victim := child(t, fmt.Sprint("k", k), path)
		if _, err := victim.StdinPipe(); err != nil {
			t.Fatal(err)
		}
		if err := victim.Start(); err != nil {
			t.Fatal(err)
		}
		wait(t, func() bool { return fileSize(t, path) > size })
		if err := errors.Join(victim.Process.Kill(), ignoreExit(victim.Wait())); err != nil {
			t.Fatal(err)
		}
		text := contents(t, path)
		if !strings.HasSuffix(text, "\n") {
			torn++
		}
		n := h.Written()
		add(t, h, fmt.Sprint("h-", k))
		wait(t, func() bool { return h.Written() > n })
		whole += checkKilled(t, contents(t, path), k)
		if err := os.Truncate(path, 0); err != nil {
			t.Fatal(err)
		}
	}
	t.Logf("%d killed after %d records, %d of them in the middle of a line", killed, whole, torn)
}

// checkKilled returns how many whole records the killed writer has in text, behind which there is one of ours.
func checkKilled(t *testing.T, text string, k int) int {
	t.Helper()
	want, _ := long("NAME").Append(nil)
	name := func(i int) string { return strings.Replace(string(want), "NAME", fmt.Sprintf("k%d-%d", k, i), 1) }
	whole := 0
	for strings.HasPrefix(text, name(whole)) {
		text = text[len(name(whole)):]
		whole++
	}
	ours, _ := named(fmt.Sprint("h-", k)).Append(nil)
	rest, ok := strings.CutSuffix(text, string(ours))
	if !ok || !strings.HasPrefix(name(whole), rest) || rest != "" && !strings.HasSuffix(rest, "\n") {
		t.Errorf("behind %d records: %.200q", whole, text)
	}
	return whole
}

// long is a record of many pages, lest a write be over before anybody is killed.
func long(job string) HistoryRecord {
	r := named(job)
	for i := range maxHistoryDKIM {
		selector := strings.Repeat(fmt.Sprint(i, "."), 50) + "x"
		r.DKIM = append(r.DKIM, HistoryDKIM{strings.Repeat("x", 60) + ".example", selector, ResultPass})
	}
	return r
}

func fileSize(t *testing.T, path string) int64 {
	t.Helper()
	info, err := os.Stat(path)
	if err != nil {
		t.Fatal(err)
	}
	return info.Size()
}

// ignoreExit takes it for granted that a process which was killed says so.
func ignoreExit(err error) error {
	if exit := (*exec.ExitError)(nil); errors.As(err, &exit) && !exit.Exited() {
		return nil
	}
	return fmt.Errorf("it was not killed: %w", err)
}
