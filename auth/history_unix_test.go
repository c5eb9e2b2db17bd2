//go:build darwin || dragonfly || freebsd || linux || netbsd || openbsd

package auth

import (
	"io"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
)

// lockedContents reads a file as opendmarc-import does: once it has a shared lock on it.
func lockedContents(t *testing.T, path string) string {
	t.Helper()
	f, err := os.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if err := syscall.Flock(int(f.Fd()), syscall.LOCK_SH); err != nil {
		t.Fatal(err)
	}
	text, err := io.ReadAll(f)
	if err != nil {
		t.Fatal(err)
	}
	return string(text)
}

// TestHistoryFileNeverWaits: neither for the reader of a pipe nor for somebody's lock.
func TestHistoryFileNeverWaits(t *testing.T) {
	pipe := filepath.Join(t.TempDir(), "pipe")
	if err := syscall.Mkfifo(pipe, 0o600); err != nil {
		t.Skip("no pipes here: ", err)
	}
	h := &HistoryFile{Path: pipe}
	if err := h.Write(passed()); err == nil || !strings.Contains(err.Error(), "not a regular file") {
		t.Errorf("a pipe: %v", err)
	}
	h = &HistoryFile{Path: "/dev/null"}
	if err := h.Write(passed()); err == nil {
		t.Error("a device is written to")
	}
	h = &HistoryFile{Path: filepath.Join(t.TempDir(), "history")}
	defer h.Close()
	if err := h.Check(); err != nil {
		t.Fatal(err)
	}
	f, err := os.Open(h.Path)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if err := syscall.Flock(int(f.Fd()), syscall.LOCK_SH); err != nil {
		t.Fatal(err)
	}
	if err := h.Write(passed()); err != nil {
		t.Errorf("a locked file: %v", err)
	}
	if got := contents(t, h.Path); got != historyPassed {
		t.Errorf("a locked file: %q", got)
	}
}
