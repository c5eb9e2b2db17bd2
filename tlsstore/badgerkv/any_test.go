package badgerkv_test

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"slipstream/tlsstore"
	"slipstream/tlsstore/badgerkv"
)

// TestAnyGood: OpenAny has nothing to say about what is fine.
func TestAnyGood(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "not", "there")
	for range 2 {
		kv, warnings := badgerkv.OpenAny(options(t, dir))
		if _, ok := kv.(*badgerkv.KV); !ok || len(warnings) > 0 {
			t.Errorf("%T with the warnings %q", kv, warnings)
		}
		if err := kv.Close(); err != nil {
			t.Error(err)
		}
	}
}

// TestWrongKey: what another key sealed is put aside, once, and can be had back.
func TestWrongKey(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "db")
	kv := open(t, dir)
	set(t, kv, "first", "1")
	mustClose(t, kv)

	other := options(t, dir)
	other.Key = bytes.Repeat([]byte{7}, 32)
	if _, err := badgerkv.Open(other); !errors.Is(err, badgerkv.ErrKey) {
		t.Fatalf("Open with another key: %v, want ErrKey", err)
	}
	if _, err := os.Stat(dir + ".bad"); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("Open put it aside: %v", err)
	}
	any, warnings := badgerkv.OpenAny(other)
	if len(warnings) != 1 || !strings.Contains(warnings[0], dir+".bad") || !strings.Contains(warnings[0], "key") {
		t.Errorf("warnings %q", warnings)
	}
	if v, err := any.Get([]byte("first")); !errors.Is(err, tlsstore.ErrNotFound) {
		t.Errorf("Get of what another key sealed: %q, %v", v, err)
	}
	set(t, any, "second", "2")
	mustClose(t, any)

	if !strings.Contains(warnings[0], fmt.Sprintf("\"rm -r %[1]s && mv %[1]s.bad %[1]s\"", dir)) {
		t.Errorf("no commands that undo it: %q", warnings)
	}

	// A third key: what was put aside last is kept.
	third := options(t, dir)
	third.Key = bytes.Repeat([]byte{8}, 32)
	any, warnings = badgerkv.OpenAny(third)
	if len(warnings) != 1 {
		t.Errorf("warnings %q", warnings)
	}
	mustClose(t, any)

	// The commands that the warning names.
	if err := errors.Join(os.RemoveAll(dir), os.Rename(dir+".bad", dir)); err != nil {
		t.Fatal(err)
	}
	kv, err := badgerkv.Open(other)
	if err != nil {
		t.Fatal("what was put aside last cannot be had back: ", err)
	}
	if v, err := kv.Get([]byte("second")); err != nil || string(v) != "2" {
		t.Errorf("Get of what was put aside: %q, %v", v, err)
	}
	mustClose(t, kv)
}

// TestKeyPutBack: who puts the key back and starts at once, has back what it sealed.
func TestKeyPutBack(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "db")
	kv := open(t, dir)
	set(t, kv, "first", "1")
	mustClose(t, kv)
	other := options(t, dir)
	other.Key = bytes.Repeat([]byte{7}, 32)
	any, _ := badgerkv.OpenAny(other)
	set(t, any, "second", "2")
	mustClose(t, any)

	any, warnings := badgerkv.OpenAny(options(t, dir))
	if len(warnings) != 1 || !strings.Contains(warnings[0], "is back") {
		t.Errorf("warnings %q", warnings)
	}
	if v, err := any.Get([]byte("first")); err != nil || string(v) != "1" {
		t.Errorf("what the key sealed: %q, %v", v, err)
	}
	mustClose(t, any)
	if _, err := os.Stat(dir + ".bad"); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("something is still aside: %v", err)
	}
}

// TestForeign: what is not ours is not touched.
func TestForeign(t *testing.T) {
	names := []string{"passwd", "000001.sst.old", "x.sst", "00001.MEM", "MANIFEST~", "KEYREGISTRY/", ".ssh/", ".profile"}
	for _, name := range names {
		t.Run(strings.Trim(name, "/"), func(t *testing.T) {
			dir := filepath.Join(t.TempDir(), "db")
			file := filepath.Join(dir, name)
			if err := errors.Join(os.Mkdir(dir, 0o755), os.Chmod(dir, 0o755)); err != nil {
				t.Fatal(err)
			}
			if strings.HasSuffix(name, "/") {
				if err := os.Mkdir(file, 0o755); err != nil {
					t.Fatal(err)
				}
			} else if err := os.WriteFile(file, []byte("not yours"), 0o644); err != nil {
				t.Fatal(err)
			}
			if _, err := badgerkv.Open(options(t, dir)); !errors.Is(err, badgerkv.ErrForeign) {
				t.Errorf("Open: %v, want ErrForeign", err)
			}
			kv, warnings := badgerkv.OpenAny(options(t, dir))
			wantMemory(t, kv, warnings, "empty directory")
			if entries, _ := os.ReadDir(dir); len(entries) != 1 {
				t.Errorf("it has %d files now", len(entries))
			}
			if info, err := os.Stat(dir); err != nil || info.Mode().Perm() != 0o755 {
				t.Errorf("its mode is %v now, %v", info.Mode(), err)
			}
		})
	}
}

// TestForeignAside: what stands where something is to be put aside is not touched either.
func TestForeignAside(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "db")
	mustClose(t, open(t, dir))
	theirs := filepath.Join(dir+".bad", "theirs")
	if err := errors.Join(os.Mkdir(dir+".bad", 0o755), os.WriteFile(theirs, nil, 0o644)); err != nil {
		t.Fatal(err)
	}
	o := options(t, dir)
	o.Key = bytes.Repeat([]byte{7}, 32)
	kv, warnings := badgerkv.OpenAny(o)
	wantMemory(t, kv, warnings, "remove")
	if _, err := os.Stat(theirs); err != nil {
		t.Error(err)
	}
}

func TestOpenNonsense(t *testing.T) {
	file := filepath.Join(t.TempDir(), "file")
	if err := os.WriteFile(file, []byte("file"), 0o600); err != nil {
		t.Fatal(err)
	}
	for name, o := range map[string]badgerkv.Options{
		"nothing":   {},
		"no key":    {Dir: t.TempDir()},
		"short key": {Dir: t.TempDir(), Key: testKey[:31]},
		"no dir":    {Key: testKey},
		"a file":    {Dir: file, Key: testKey},
		"in a file": {Dir: filepath.Join(file, "db"), Key: testKey},
	} {
		if kv, err := badgerkv.Open(o); err == nil {
			t.Errorf("%s: opened", name)
			mustClose(t, kv)
		}
		kv, warnings := badgerkv.OpenAny(o)
		wantMemory(t, kv, warnings, "memory")
	}
}

func set(t testing.TB, kv tlsstore.KV, key, value string) {
	t.Helper()
	if err := kv.Set([]byte(key), []byte(value), time.Hour); err != nil {
		t.Fatal(err)
	}
}

func mustClose(t testing.TB, kv tlsstore.KV) {
	t.Helper()
	if err := kv.Close(); err != nil {
		t.Error(err)
	}
}
