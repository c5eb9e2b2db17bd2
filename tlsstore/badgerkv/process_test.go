package badgerkv_test

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"slipstream/tlsstore"
	"slipstream/tlsstore/badgerkv"
)

func openChild(dir string) (*badgerkv.KV, error) {
	return badgerkv.Open(badgerkv.Options{Dir: dir, Key: testKey})
}

// TestLocked: one process at a time has the directory; others are told so, and do with memory.
func TestLocked(t *testing.T) {
	dir := t.TempDir()
	c := talk(t, "hold", dir)
	c.line(t)
	if _, err := badgerkv.Open(options(t, dir)); !errors.Is(err, badgerkv.ErrLocked) {
		t.Errorf("Open while another process has it: %v, want ErrLocked", err)
	}
	kv, warnings := badgerkv.OpenAny(options(t, dir))
	wantMemory(t, kv, warnings, "another process")
	c.in.Close()
	if err := c.Wait(); err != nil {
		t.Errorf("the other process: %v\n%s", err, c.stderr)
	}

	first := open(t, dir)
	if _, err := badgerkv.Open(options(t, dir)); !errors.Is(err, badgerkv.ErrLocked) {
		t.Errorf("Open twice in one process: %v, want ErrLocked", err)
	}
	if err := first.Close(); err != nil {
		t.Error(err)
	}
	if err := open(t, dir).Close(); err != nil {
		t.Error(err)
	}
}

// wantMemory checks that a KV works, is not on disk, and that the warnings tell of it.
func wantMemory(t *testing.T, kv tlsstore.KV, warnings []string, word string) {
	t.Helper()
	if _, ok := kv.(*badgerkv.KV); ok {
		t.Error("OpenAny opened the directory")
	}
	if err := kv.Set([]byte("a"), []byte("b"), time.Minute); err != nil {
		t.Errorf("Set: %v", err)
	}
	if all := strings.Join(warnings, "; "); !strings.Contains(all, word) || !strings.Contains(all, "memory") {
		t.Errorf("warnings %q, want them to speak of %q and of memory", warnings, word)
	}
	if err := kv.Close(); err != nil {
		t.Error(err)
	}
}

// TestKilled: what was set before kill -9 is there, whole, and nothing else is. Some of it was in tables, some in
// write-ahead logs.
func TestKilled(t *testing.T) {
	dir := t.TempDir()
	var acked int
	for _, lines := range []int{1, 40, 3000} {
		c := talk(t, "write", dir)
		for range lines {
			n, err := strconv.Atoi(c.line(t))
			if err != nil {
				t.Fatal(err)
			}
			acked = n
		}
		if err := c.Process.Kill(); err != nil {
			t.Fatal(err)
		}
		for c.out.Scan() { // what was on its way to us was set, too
			if n, err := strconv.Atoi(c.out.Text()); err == nil {
				acked = n
			}
		}
		c.Wait()
		if c.stderr.Len() > 0 {
			t.Errorf("standard error: %s", c.stderr)
		}
	}
	kv := open(t, dir)
	for i := 1; i <= acked; i++ {
		got, err := kv.Get(numberedKey(i))
		if err != nil || string(got) != numberedValue(i) {
			t.Fatalf("record %d of %d: %d octets, error %v", i, acked, len(got), err)
		}
	}
	wantSound(t, kv)
	if err := kv.Close(); err != nil {
		t.Error(err)
	}
	t.Logf("%d records set before kill -9, all found", acked)
}

// wantSound checks that there is no record that was never set.
func wantSound(t *testing.T, kv tlsstore.KV) {
	t.Helper()
	if err := sound(kv); err != nil {
		t.Error(err)
	}
}

func sound(kv tlsstore.KV) error {
	var bad error
	err := kv.Iterate(nil, func(key, value []byte) bool {
		var i int
		if _, err := fmt.Sscanf(string(key), "key %d", &i); err != nil || string(value) != numberedValue(i) {
			bad = fmt.Errorf("key %q has a value of %d octets that nobody set", key, len(value))
		}
		return bad == nil
	})
	return errors.Join(err, bad)
}

func numberedKey(i int) []byte { return fmt.Appendf(nil, "key %07d", i) }

// numberedValue is some 7,000 octets, so that memory tables fill within a test.
func numberedValue(i int) string { return strings.Repeat(fmt.Sprintf("value %d ", i), 700) }

// childWrite writes one record after the other, and the number of each once it was set.
func childWrite(dir string) error {
	kv, err := openChild(dir)
	if err != nil {
		return err
	}
	n := 0
	if err := kv.Iterate([]byte("key "), func(key, value []byte) bool { n++; return true }); err != nil {
		return err
	}
	for i := n + 1; ; i++ {
		if err := kv.Set(numberedKey(i), []byte(numberedValue(i)), time.Hour); err != nil {
			return err
		}
		fmt.Println(i)
	}
}

// TestMoved: a directory that is no longer where it was is left alone, and so is what took its place.
func TestMoved(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "db")
	t.Log(run(t, "moved", dir))
	if entries, err := os.ReadDir(dir); err != nil || len(entries) > 0 {
		t.Errorf("%d files in what took the place of the directory, %v", len(entries), err)
	}
	kv := open(t, dir+".moved")
	if _, err := kv.Get([]byte("first")); err != nil {
		t.Errorf("Get of what was set before: %v", err)
	}
	mustClose(t, kv)
}

func childMoved(dir string) error {
	kv, err := openChild(dir)
	if err != nil {
		return err
	}
	if err := kv.Set([]byte("first"), nil, time.Hour); err != nil {
		return err
	}
	if err := errors.Join(os.Rename(dir, dir+".moved"), os.Mkdir(dir, 0o700)); err != nil {
		return err
	}
	for n := 0; err == nil && n < 100; n++ { // more than Badger keeps in one write-ahead log
		err = kv.Set([]byte("more"), make([]byte, 500_000), time.Hour)
	}
	if !errors.Is(err, os.ErrNotExist) {
		return fmt.Errorf("Set: %w", err)
	}
	if _, err := kv.Maintain(context.Background()); err == nil {
		return errors.New("Maintain: no error")
	}
	if err := kv.Close(); !errors.Is(err, os.ErrNotExist) {
		return fmt.Errorf("Close: %w", err)
	}
	fmt.Println("Set, in the end:", err)
	return nil
}
