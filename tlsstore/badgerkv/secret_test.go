//go:build unix

package badgerkv_test

import (
	"bytes"
	"context"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"slipstream/tlsstore/badgerkv"
)

// TestSealed: no file shows what was stored, nor under which key, whether it is still in the write-ahead log or in a
// table.
func TestSealed(t *testing.T) {
	dir := t.TempDir()
	kv := open(t, dir)
	const key, value = "peer mail.example.org", "session secret, 48 octets of it, in clear"
	for range 3 {
		set(t, kv, key, value)
	}
	clear := func(when string) {
		t.Helper()
		var octets int
		for name, b := range readAll(t, dir) {
			octets += len(bytes.Trim(b, "\x00"))
			for _, secret := range []string{key, value, "mail.example", "secret", string(testKey)} {
				if bytes.Contains(b, []byte(secret)) {
					t.Errorf("%s, %s shows %q", when, name, secret)
				}
			}
		}
		if octets < 200 {
			t.Errorf("%s, there is nothing to be looked at: %d octets", when, octets)
		}
	}
	clear("while open")
	mustClose(t, kv)
	clear("when closed")
}

// TestModes: the directory and its files are closed to others, whatever the umask, and whatever they were like before.
func TestModes(t *testing.T) {
	defer syscall.Umask(syscall.Umask(0))
	dir := filepath.Join(t.TempDir(), "db")
	kv := open(t, dir)
	wantClosed(t, dir, "when new")
	set(t, kv, "a", "b")
	mustClose(t, kv)
	wantClosed(t, dir, "when closed")

	for name := range readAll(t, dir) {
		if err := os.Chmod(filepath.Join(dir, name), 0o666); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.Chmod(dir, 0o777); err != nil {
		t.Fatal(err)
	}
	kv = open(t, dir)
	wantClosed(t, dir, "when opened again")
	for name := range readAll(t, dir) {
		if err := os.Chmod(filepath.Join(dir, name), 0o666); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := kv.Maintain(context.Background()); err != nil {
		t.Error(err)
	}
	wantClosed(t, dir, "when maintained")
	mustClose(t, kv)
}

func wantClosed(t *testing.T, dir, when string) {
	t.Helper()
	err := filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		info, err := d.Info()
		if err == nil && info.Mode().Perm()&0o077 != 0 {
			t.Errorf("%s, %s has the mode %04o", when, filepath.Base(path), info.Mode().Perm())
		}
		return err
	})
	if err != nil {
		t.Error(err)
	}
}

func readAll(t *testing.T, dir string) map[string][]byte {
	t.Helper()
	entries, err := os.ReadDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	all := make(map[string][]byte)
	for _, e := range entries {
		b, err := os.ReadFile(filepath.Join(dir, e.Name()))
		if err != nil {
			t.Fatal(err)
		}
		all[e.Name()] = b
	}
	return all
}

func TestLoadKey(t *testing.T) {
	defer syscall.Umask(syscall.Umask(0))
	path := filepath.Join(t.TempDir(), "state", "store.key")
	made, err := badgerkv.LoadKey(path)
	if err != nil || len(made) != 32 || bytes.Count(made, []byte{0}) > 5 {
		t.Fatalf("a key of %d octets was made, error %v", len(made), err)
	}
	if again, err := badgerkv.LoadKey(path); err != nil || !bytes.Equal(again, made) {
		t.Errorf("the second time it is another one, error %v", err)
	}
	wantClosed(t, filepath.Dir(path), "when made")
	if entries, _ := os.ReadDir(filepath.Dir(path)); len(entries) != 1 {
		t.Errorf("%d files are left where a key was made, want 1", len(entries))
	}
	link := path + ".link"
	if err := os.Symlink(path, link); err != nil {
		t.Fatal(err)
	}
	if _, err := badgerkv.LoadKey(link); err == nil || !strings.Contains(err.Error(), "is a symbolic link, which is not") {
		t.Errorf("by a link: %v", err)
	}
	for mode, good := range map[fs.FileMode]bool{0o700: true, 0o755: true, 0o775: false, 0o777: false,
		0o777 | fs.ModeSticky: true} {
		if err := os.Chmod(filepath.Dir(path), mode); err != nil {
			t.Fatal(err)
		}
		_, err := badgerkv.LoadKey(path)
		if (err == nil) != good || err != nil && !strings.Contains(err.Error(), "chmod go-w it") {
			t.Errorf("in a directory of mode %v: %v, want it to be good: %v", mode, err, good)
		}
	}
}

func TestLoadKeyRefuses(t *testing.T) {
	for _, test := range []struct {
		name string
		size int
		mode fs.FileMode
		good bool
	}{
		{"good", 32, 0o600, true},
		{"not writable", 32, 0o400, true},
		{"as a credential", 32, 0o440, os.Geteuid() == 0},
		{"group may read", 32, 0o640, false},
		{"all may read", 32, 0o604, false},
		{"all may read, none may write", 32, 0o444, false},
		{"all may write", 32, 0o602, false},
		{"empty", 0, 0o600, false},
		{"short", 31, 0o600, false},
		{"with a line end", 33, 0o600, false},
		{"large", 1 << 20, 0o600, false},
	} {
		t.Run(test.name, func(t *testing.T) {
			path := filepath.Join(t.TempDir(), "key")
			if err := os.WriteFile(path, bytes.Repeat([]byte{9}, test.size), 0o600); err != nil {
				t.Fatal(err)
			}
			if err := os.Chmod(path, test.mode); err != nil {
				t.Fatal(err)
			}
			key, err := badgerkv.LoadKey(path)
			if (err == nil) != test.good || err == nil && len(key) != 32 {
				t.Errorf("%d octets, error %v; want it to be good: %v", len(key), err, test.good)
			}
			if info, err := os.Stat(path); err != nil || info.Size() != int64(test.size) {
				t.Errorf("the file was changed: %v", err)
			}
		})
	}
	if _, err := badgerkv.LoadKey(t.TempDir()); err == nil {
		t.Error("a directory was taken for a key")
	}
}
