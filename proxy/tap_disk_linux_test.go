package proxy

import (
	"context"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"syscall"
	"testing"
	"time"

	"slipstream/bench/refpeer"
)

// sendOneTapped has one message delivered.
func sendOneTapped(t *testing.T, door string, size int) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	s := &refpeer.Source{Addr: door, Size: size, Style: refpeer.Pipelining}
	if stats := s.Run(ctx); len(stats.Acknowledged) != 1 {
		t.Fatalf("the message was not acknowledged: %v", stats.Err)
	}
}

// sendUntil sends messages until a counter of those that are (not) copied is more
// than it was.
func (w *world) sendUntil(door string, size int, counter func() float64) {
	w.t.Helper()
	before := counter()
	for end := time.Now().Add(time.Minute); counter() == before; {
		if time.Now().After(end) {
			w.t.Fatal("nothing happens to copies")
		}
		sendOneTapped(w.t, door, size)
	}
}

// The directory goes away and comes back, as somebody who is tidying up would have
// it. It is not made by us: what was mounted there may not be any more.
func TestTapDirectoryGone(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "tap")
	w, _, door := startTapped(t, func(cfg *Config) { cfg.Tap.Dir = dir })
	w.sendUntil(door, 500, w.uncopied) // it was never there
	if err := os.Mkdir(dir, 0o700); err != nil {
		t.Fatal(err)
	}
	w.sendUntil(door, 500, w.copied)
	if err := os.Rename(dir, dir+".old"); err != nil {
		t.Fatal(err)
	}
	w.sendUntil(door, 500, w.uncopied)
	if err := os.Mkdir(dir, 0o700); err != nil {
		t.Fatal(err)
	}
	w.sendUntil(door, 500, w.copied)
	w.stop()
	if list, _ := tapped(t, dir); len(list) == 0 {
		t.Error("the new directory has no copies")
	}
	tapped(t, dir+".old")
}

// tapMountDir has this process, which has mounts of its own, do the test there.
const tapMountDir = "SLIPSTREAM_TAP_MOUNT"

// A full disk, and one that cannot be written to any more, cost copies and nothing
// else; when there is room again, copies are made again.
func TestTapFullDisk(t *testing.T) {
	if dir := os.Getenv(tapMountDir); dir != "" {
		testTapFullDisk(t, dir)
		return
	}
	child := exec.CommandContext(t.Context(), os.Args[0], "-test.run=^TestTapFullDisk$", "-test.count=1", "-test.v")
	child.Env = append(os.Environ(), tapMountDir+"="+t.TempDir())
	child.SysProcAttr = &syscall.SysProcAttr{Cloneflags: syscall.CLONE_NEWNS}
	out, err := child.CombinedOutput()
	if errors.Is(err, os.ErrPermission) {
		t.Skip("a disk of one's own needs root: ", err)
	}
	if err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
}

func testTapFullDisk(t *testing.T, dir string) {
	if err := syscall.Mount("", "/", "", syscall.MS_REC|syscall.MS_PRIVATE, ""); err != nil {
		t.Fatal(err)
	}
	if err := syscall.Mount("tmpfs", dir, "tmpfs", 0, "size=512k,mode=0700"); err != nil {
		t.Fatal(err)
	}
	w, _, door := startTapped(t, func(cfg *Config) { cfg.Tap.Dir = dir })
	w.sendUntil(door, 50<<10, w.uncopied)
	if list, _ := tapped(t, dir); len(list) < 5 {
		t.Errorf("%d copies, and no room for more", len(list))
	}
	for _, name := range namesIn(t, dir) {
		if err := os.Remove(filepath.Join(dir, name)); err != nil {
			t.Fatal(err)
		}
	}
	w.sendUntil(door, 50<<10, w.copied)
	if err := syscall.Mount("", dir, "", syscall.MS_REMOUNT|syscall.MS_RDONLY, ""); err != nil {
		t.Fatal(err)
	}
	w.sendUntil(door, 50<<10, w.uncopied)
	if err := syscall.Mount("", dir, "", syscall.MS_REMOUNT, ""); err != nil {
		t.Fatal(err)
	}
	w.sendUntil(door, 50<<10, w.copied)
	w.stop()
	tapped(t, dir)
}
