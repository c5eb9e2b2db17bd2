package badgerkv_test

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"syscall"
	"testing"
	"time"

	"slipstream/tlsstore/badgerkv"
)

// tmpfs mounts a file system of some octets, which has nothing but the test's directory in it.
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

func TestSmallDisk(t *testing.T) {
	dir := filepath.Join(tmpfs(t, badgerkv.Reserve/4), "db")
	if _, err := badgerkv.Open(options(t, dir)); !errors.Is(err, badgerkv.ErrFull) {
		t.Errorf("Open on a disk with too little room: %v, want ErrFull", err)
	}
	kv, warnings := badgerkv.OpenAny(options(t, dir))
	wantMemory(t, kv, warnings, "make room")
}

func TestReadOnly(t *testing.T) {
	mount := tmpfs(t, 2*badgerkv.Reserve)
	dir := filepath.Join(mount, "db")
	kv := open(t, dir)
	if err := kv.Set([]byte("a"), []byte("b"), time.Hour); err != nil {
		t.Fatal(err)
	}
	if err := kv.Close(); err != nil {
		t.Fatal(err)
	}
	if err := syscall.Mount("", mount, "", syscall.MS_REMOUNT|syscall.MS_RDONLY, ""); err != nil {
		t.Skip("cannot be made read-only: ", err)
	}
	for _, dir := range []string{dir, filepath.Join(mount, "missing")} {
		if _, err := badgerkv.Open(options(t, dir)); !errors.Is(err, badgerkv.ErrReadOnly) {
			t.Errorf("Open of %s on a file system that is read-only: %v, want ErrReadOnly", dir, err)
		}
		any, warnings := badgerkv.OpenAny(options(t, dir))
		wantMemory(t, any, warnings, "writable")
	}
	if err := syscall.Mount("", mount, "", syscall.MS_REMOUNT, ""); err != nil {
		t.Fatal(err)
	}
	kv = open(t, dir)
	if v, err := kv.Get([]byte("a")); err != nil || string(v) != "b" {
		t.Errorf("afterwards: %q, %v", v, err)
	}
	if err := kv.Close(); err != nil {
		t.Error(err)
	}
}

// TestFullDisk: a disk that fills up costs nothing but what is not kept, least of all the process.
func TestFullDisk(t *testing.T) {
	mount := tmpfs(t, badgerkv.Reserve+30<<20)
	dir := filepath.Join(mount, "db")
	t.Log(run(t, "full", dir))

	if _, err := badgerkv.Open(options(t, dir)); !errors.Is(err, badgerkv.ErrFull) {
		t.Errorf("Open on a full disk: %v, want ErrFull", err)
	}
	if err := os.Remove(filepath.Join(mount, "ballast")); err != nil {
		t.Fatal(err)
	}
	kv := open(t, dir)
	n := 0
	if err := kv.Iterate(nil, func(key, value []byte) bool { n++; return true }); err != nil {
		t.Error(err)
	}
	if n < 10 {
		t.Errorf("%d records are left", n)
	}
	if err := kv.Close(); err != nil {
		t.Error(err)
	}
}
