package main

import (
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"slipstream/tlsstore/badgerkv"
)

// smallDisk mounts a file system of some octets.
func smallDisk(t *testing.T, size int) (dir string) {
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

// fill writes to a file until the disk is full.
func fill(t *testing.T, path string) {
	t.Helper()
	f, err := os.Create(path)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	for block := make([]byte, 1<<20); ; {
		if _, err := f.Write(block); errors.Is(err, syscall.ENOSPC) || errors.Is(err, io.ErrShortWrite) {
			return
		} else if err != nil {
			t.Fatal(err)
		}
	}
}

// TestOutcomesDiskFull: on a full disk nothing is promised, nothing is lost, and when there is room again all is well.
func TestOutcomesDiskFull(t *testing.T) {
	mount := smallDisk(t, badgerkv.Reserve+40<<20)
	ballast := filepath.Join(mount, "ballast")
	cfg := onceConfig(t, filepath.Join(mount, "state"))
	synctest.Test(t, func(t *testing.T) {
		o, logs := openOnceTest(t, cfg)
		if err := errors.Join(o.Ready(4), o.Remember(someOutcomes(1))); err != nil {
			t.Fatal(err)
		}
		fill(t, ballast)
		time.Sleep(2 * time.Second) // the disk is looked at once a second
		if err := o.Ready(4); !errors.Is(err, badgerkv.ErrFull) {
			t.Errorf("Ready on a full disk: %v", err)
		}
		if err := o.Remember(someOutcomes(2)); !errors.Is(err, badgerkv.ErrFull) {
			t.Errorf("Remember on a full disk: %v", err)
		}
		wantOutcomes(t, o, 1)
		wantOutcomes(t, o, 2)
		if err := os.Remove(ballast); err != nil {
			t.Fatal(err)
		}
		time.Sleep(2 * time.Minute)
		synctest.Wait()
		if err := o.Ready(4); err != nil {
			t.Errorf("Ready, when there was room again: %v", err)
		}
		if n := o.Stats().Unsaved; n != 0 {
			t.Errorf("%d are still not on the disk", n)
		}
		o.Close()
		if said := logs.String(); strings.Count(said, "cannot be written") != 1 || !strings.Contains(said, "written again") {
			t.Errorf("said:\n%s", said)
		}
	})
}

// TestOutcomesDiskFullAtStart: a start on a full disk, or one that cannot be written to, says so, and waits.
func TestOutcomesDiskFullAtStart(t *testing.T) {
	mount := smallDisk(t, badgerkv.Reserve+40<<20)
	ballast := filepath.Join(mount, "ballast")
	cfg := onceConfig(t, filepath.Join(mount, "state"))
	o, _ := openOnceTest(t, cfg)
	if err := o.Remember(someOutcomes(1)); err != nil {
		t.Fatal(err)
	}
	o.Close()
	synctest.Test(t, func(t *testing.T) {
		fill(t, ballast)
		wantUnusable(t, cfg, "make room", func(string) error { return os.Remove(ballast) })
	})
	if err := syscall.Mount("", mount, "", syscall.MS_REMOUNT|syscall.MS_RDONLY, ""); err != nil {
		t.Skip("cannot be made read-only: ", err)
	}
	synctest.Test(t, func(t *testing.T) {
		wantUnusable(t, cfg, "writable", func(string) error { return syscall.Mount("", mount, "", syscall.MS_REMOUNT, "") })
	})
}
