package badgerkv_test

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"slipstream/tlsstore/badgerkv"
)

// nobody is a user who owns nothing.
const nobody = 65534

// passable makes a directory that everybody may go through.
func passable(t *testing.T) string {
	t.Helper()
	dir := t.TempDir()
	for _, d := range []string{filepath.Dir(dir), dir} {
		if err := os.Chmod(d, 0o755); err != nil {
			t.Fatal(err)
		}
	}
	return dir
}

// as runs f as another user.
func as(t *testing.T, uid int, f func()) {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Skip("only root may become somebody else")
	}
	if err := syscall.Seteuid(uid); err != nil {
		t.Skip("cannot become somebody else: ", err)
	}
	defer func() {
		if err := syscall.Seteuid(0); err != nil {
			t.Fatal(err)
		}
	}()
	f()
}

// TestFilesOfAnotherUser: a file that root left behind is told from a directory that cannot be written to.
func TestFilesOfAnotherUser(t *testing.T) {
	dir := filepath.Join(passable(t), "db")
	kv := open(t, dir)
	set(t, kv, "a", "b")
	mustClose(t, kv)
	if err := os.Chown(dir, nobody, nobody); err != nil {
		t.Skip("only root may give a directory away: ", err)
	}
	as(t, nobody, func() {
		if _, _, err := badgerkv.Inspect(options(t, dir)); !errors.Is(err, badgerkv.ErrDenied) {
			t.Errorf("Inspect: %v, want ErrDenied", err)
		}
		_, err := badgerkv.Open(options(t, dir))
		if !errors.Is(err, badgerkv.ErrDenied) || !strings.Contains(err.Error(), "root") {
			t.Errorf("Open: %v, want ErrDenied and whose it is", err)
		}
		kv, warnings := badgerkv.OpenAny(options(t, dir))
		wantMemory(t, kv, warnings, "chown -R")
	})
}

// TestDirectoryOfAnotherUser: a directory that is not ours to write to is called that.
func TestDirectoryOfAnotherUser(t *testing.T) {
	parent := passable(t)
	as(t, nobody, func() {
		if _, err := badgerkv.Open(options(t, filepath.Join(parent, "db"))); !errors.Is(err, badgerkv.ErrReadOnly) {
			t.Errorf("Open: %v, want ErrReadOnly", err)
		}
		_, err := badgerkv.LoadKey(filepath.Join(parent, "store.key"))
		if err == nil || strings.Contains(err.Error(), "store.key.") || !strings.Contains(err.Error(), "in "+parent+": ") ||
			!strings.Contains(err.Error(), "can write to") {
			t.Errorf("LoadKey where nothing can be made: %v", err)
		}
	})
}

// TestKeyOfAStranger: a key that a third user knows is not ours.
func TestKeyOfAStranger(t *testing.T) {
	path := filepath.Join(passable(t), "store.key")
	if _, err := badgerkv.LoadKey(path); err != nil {
		t.Fatal(err)
	}
	if err := os.Chown(path, nobody, nobody); err != nil {
		t.Skip("only root may give a file away: ", err)
	}
	_, err := badgerkv.LoadKey(path)
	if err == nil || !strings.Contains(err.Error(), "belongs to ") || !strings.Contains(err.Error(), ": chown root ") {
		t.Errorf("LoadKey: %v", err)
	}
	if _, err := badgerkv.ReadKey(path, nobody); err != nil {
		t.Errorf("ReadKey for its owner: %v", err)
	}
}

func TestKeyOfAnotherUser(t *testing.T) {
	path := filepath.Join(passable(t), "store.key")
	if _, err := badgerkv.LoadKey(path); err != nil {
		t.Fatal(err)
	}
	as(t, nobody, func() {
		_, err := badgerkv.LoadKey(path)
		if err == nil || !strings.Contains(err.Error(), "it belongs to root: as root, chown -R ") {
			t.Errorf("LoadKey: %v", err)
		}
	})
}

// TestKeyIsAPipe: nobody writes to it, and nobody waits for that.
func TestKeyIsAPipe(t *testing.T) {
	path := filepath.Join(passable(t), "store.key")
	if err := syscall.Mkfifo(path, 0o600); err != nil {
		t.Skip("no pipe can be made: ", err)
	}
	done := make(chan error, 1)
	go func() {
		_, err := badgerkv.LoadKey(path)
		done <- err
	}()
	select {
	case err := <-done:
		if err == nil || !strings.Contains(err.Error(), "is not a plain file (a pipe): put the key there") {
			t.Errorf("LoadKey: %v", err)
		}
	case <-time.After(10 * time.Second):
		t.Error("LoadKey waits for a pipe")
	}
}

// TestLockedForAMoment: a command that looks into the directory does not cost a service its store.
func TestLockedForAMoment(t *testing.T) {
	dir := filepath.Join(passable(t), "db")
	mustClose(t, open(t, dir))
	lock, err := os.Open(dir)
	if err != nil {
		t.Fatal(err)
	}
	if err := syscall.Flock(int(lock.Fd()), syscall.LOCK_EX); err != nil {
		t.Fatal(err)
	}
	if _, err := badgerkv.Open(options(t, dir)); !errors.Is(err, badgerkv.ErrLocked) {
		t.Errorf("it is not locked: %v", err)
	}
	released := make(chan error, 1)
	time.AfterFunc(100*time.Millisecond, func() { released <- lock.Close() })
	kv, warnings := badgerkv.OpenAny(options(t, dir))
	if _, ok := kv.(*badgerkv.KV); !ok || len(warnings) > 0 {
		t.Errorf("%T with the warnings %q", kv, warnings)
	}
	if err := <-released; err != nil {
		t.Error(err)
	}
	mustClose(t, kv)
}
