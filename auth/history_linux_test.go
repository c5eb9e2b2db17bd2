package auth

import (
	"path/filepath"
	"syscall"
	"testing"
)

// TestHistoryFileNoSpace: of a record that does not fit nothing is left.
func TestHistoryFileNoSpace(t *testing.T) {
	var before syscall.Rlimit
	if err := syscall.Getrlimit(syscall.RLIMIT_FSIZE, &before); err != nil {
		t.Skip("no limit of file sizes here: ", err)
	}
	h := &HistoryFile{Path: filepath.Join(t.TempDir(), "history")}
	defer h.Close()
	if err := h.Write(passed()); err != nil {
		t.Fatal(err)
	}
	// It holds for the whole process, hence not in parallel and not for long. What lies beyond it is cut off, like on a
	// full disk. The signal that comes with it is ignored by the runtime.
	limit := before
	limit.Cur = uint64(len(historyPassed) + 100)
	if err := syscall.Setrlimit(syscall.RLIMIT_FSIZE, &limit); err != nil {
		t.Skip("the limit of file sizes cannot be set: ", err)
	}
	err := h.Write(passed())
	if rerr := syscall.Setrlimit(syscall.RLIMIT_FSIZE, &before); rerr != nil {
		t.Fatal(rerr)
	}
	if err == nil {
		t.Error("no error")
	}
	if got := contents(t, h.Path); got != historyPassed {
		t.Errorf("%d octets are left, not %d", len(got), len(historyPassed))
	}
	if err := h.Write(passed()); err != nil || contents(t, h.Path) != historyPassed+historyPassed {
		t.Errorf("afterwards: %v", err)
	}
}
