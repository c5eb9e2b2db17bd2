package auth

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"testing/synctest"
	"time"
)

// TestHistoryFileNoSpace fills a small disk: of the record that does not fit nothing is left, those behind it wait, and
// all are written once there is room.
func TestHistoryFileNoSpace(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("only root may mount a small file system")
	}
	const disk = 64 << 10
	dir := t.TempDir()
	if err := syscall.Mount("tmpfs", dir, "tmpfs", 0, fmt.Sprint("size=", disk)); err != nil {
		t.Skip("no file system can be mounted here: ", err)
	}
	defer func() {
		if err := syscall.Unmount(dir, syscall.MNT_DETACH); err != nil {
			t.Error(err)
		}
	}()
	path, ballast := filepath.Join(dir, "history"), filepath.Join(dir, "ballast")
	if err := os.WriteFile(ballast, make([]byte, disk/2), 0o600); err != nil {
		t.Fatal(err)
	}
	const records, fit = 100, disk / 2 / len(historyPassed)
	if disk/2%len(historyPassed) == 0 {
		t.Fatal("no record would be cut")
	}
	synctest.Test(t, func(t *testing.T) {
		var told failures
		h := openHistory(t, path, HistoryOptions{Failed: told.add})
		for range records {
			if err := h.Add(passed()); err != nil {
				t.Fatal(err)
			}
		}
		pass(time.Minute)
		if list := told.all(); len(list) != 1 || !errors.Is(list[0], syscall.ENOSPC) || h.Written() != uint64(fit) {
			t.Errorf("full: %v, %d written", list, h.Written())
		}
		if got := contents(t, path); got != strings.Repeat(historyPassed, fit) {
			t.Errorf("%d octets are left of %d records", len(got), fit)
		}
		if err := os.Remove(ballast); err != nil {
			t.Fatal(err)
		}
		pass(historyFailMax)
		if list := told.all(); len(list) != 2 || list[1] != nil || h.Written() != records {
			t.Errorf("afterwards: %v, %d written", list, h.Written())
		}
		if got := contents(t, path); got != strings.Repeat(historyPassed, records) {
			t.Errorf("afterwards: %d octets", len(got))
		}
	})
}

// TestHistoryFileLimit is the same with a limit of file sizes, which needs no root but a process of its own.
func TestHistoryFileLimit(t *testing.T) {
	const limit = 1000
	role, path, ok := inChild()
	if !ok {
		path := filepath.Join(t.TempDir(), "history")
		if out, err := child(t, "limited", path).CombinedOutput(); err != nil {
			t.Fatalf("%v: %s", err, out)
		}
		if got := contents(t, path); got != strings.Repeat(historyPassed, limit/len(historyPassed)) {
			t.Errorf("%d octets", len(got))
		}
		return
	}
	// The signal that comes with it is ignored by the runtime.
	if err := syscall.Setrlimit(syscall.RLIMIT_FSIZE, &syscall.Rlimit{Cur: limit, Max: limit}); err != nil {
		t.Fatal(role, err)
	}
	p, err := newHistoryPlace(path, HistoryOptions{})
	if err != nil {
		t.Fatal(err)
	}
	text, _ := passed().Append(nil)
	for range 10 {
		if err = p.lock(); err != nil {
			t.Fatal(err)
		}
		err = p.append(text)
		p.unlock()
	}
	if !errors.Is(err, syscall.EFBIG) {
		t.Errorf("at the limit: %v", err)
	}
}
