package badgerkv_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"go.uber.org/goleak"

	"slipstream/tlsstore"
	"slipstream/tlsstore/badgerkv"
	"slipstream/tlsstore/kvtest"
)

// durable are the options of a store of a few small records that must not be lost.
func durable(t testing.TB, dir string) badgerkv.Options {
	o := options(t, dir)
	o.Sync, o.Small = true, true
	return o
}

func openDurable(t testing.TB, dir string) *badgerkv.KV {
	t.Helper()
	kv, err := badgerkv.Open(durable(t, dir))
	if err != nil {
		t.Fatal(err)
	}
	return kv
}

// TestKVDurable: what is small and written through is a KV as any other.
func TestKVDurable(t *testing.T) {
	t.Cleanup(func() { goleak.VerifyNone(t) })
	kvtest.Run(t, func(t *testing.T) tlsstore.KV { return openDurable(t, t.TempDir()) })
	kvtest.RunDurable(t, func(t *testing.T, dir string) tlsstore.KV { return openDurable(t, dir) })
}

func TestSmallBounds(t *testing.T) {
	kv := openDurable(t, t.TempDir())
	defer mustClose(t, kv)
	large := make([]byte, badgerkv.SmallMaxValue+1)
	if err := kv.Set([]byte("large"), large, time.Hour); !errors.Is(err, badgerkv.ErrSize) {
		t.Errorf("Set of %d octets: %v, want ErrSize", len(large), err)
	}
	if err := kv.Set([]byte("large"), large[1:], time.Hour); err != nil {
		t.Error(err)
	}
	var many []tlsstore.Change
	for i := range 5000 {
		many = append(many, tlsstore.Change{Key: fmt.Appendf(nil, "key %d", i), Value: []byte("x"), TTL: time.Hour})
	}
	if err := kv.Apply(many); !errors.Is(err, badgerkv.ErrSize) {
		t.Errorf("Apply of %d changes: %v, want ErrSize", len(many), err)
	}
	if _, err := kv.Get([]byte("key 0")); !errors.Is(err, tlsstore.ErrNotFound) {
		t.Errorf("a part of what was refused is there: %v", err)
	}
	if err := kv.Apply(many[:tlsstore.BatchChanges]); err != nil {
		t.Errorf("after that: %v", err)
	}
}

// TestSmallKilled: batches that were applied before kill -9 are there whole, through many tables; and one that was not
// answered is there as a whole or not at all.
func TestSmallKilled(t *testing.T) {
	dir := t.TempDir()
	acked := 0
	for _, lines := range []int{1, 30, 300} {
		c := talk(t, "batches", dir)
		for range lines {
			if _, err := fmt.Sscan(c.line(t), &acked); err != nil {
				t.Fatal(err)
			}
		}
		if err := c.Process.Kill(); err != nil {
			t.Fatal(err)
		}
		for c.out.Scan() {
			fmt.Sscan(c.out.Text(), &acked)
		}
		c.Wait()
		if c.stderr.Len() > 0 {
			t.Errorf("standard error: %s", c.stderr)
		}
	}
	kv := openDurable(t, dir)
	defer mustClose(t, kv)
	parts := make(map[int]int)
	err := kv.Iterate([]byte("batch "), func(key, value []byte) bool {
		var n, part int
		if _, err := fmt.Sscanf(string(key), "batch %d %d", &n, &part); err != nil || len(value) != batchValue {
			t.Errorf("record %q of %d octets: %v", key, len(value), err)
		}
		parts[n]++
		return true
	})
	if err != nil {
		t.Fatal(err)
	}
	for n := 1; n <= acked; n++ {
		if parts[n] != batchParts {
			t.Errorf("batch %d of %d has %d records, want %d", n, acked, parts[n], batchParts)
		}
	}
	for n, have := range parts {
		if n > acked && have != batchParts {
			t.Errorf("batch %d was made by half: %d records", n, have)
		}
	}
	t.Logf("%d batches before kill -9, all there", acked)
}

const (
	batchParts = 7
	batchValue = 2000
)

// childBatches applies one batch after the other, and writes the number of each once it was applied.
func childBatches(dir string) error {
	kv, err := badgerkv.Open(badgerkv.Options{Dir: dir, Key: testKey, Sync: true, Small: true})
	if err != nil {
		return err
	}
	last := 0
	err = kv.Iterate([]byte("batch "), func(key, value []byte) bool {
		_, err := fmt.Sscanf(string(key), "batch %d", &last)
		return err == nil
	})
	for n := last + 1; err == nil; n++ {
		var changes []tlsstore.Change
		for part := range batchParts {
			changes = append(changes, tlsstore.Change{
				Key: fmt.Appendf(nil, "batch %07d %d", n, part), Value: bytes.Repeat([]byte{byte(n)}, batchValue), TTL: time.Hour,
			})
		}
		if err = kv.Apply(changes); err == nil {
			fmt.Println(n)
		}
	}
	return err
}

// TestSyncKeepsAll: a store that must not lose anything takes no more when it is too large, and upkeep drops nothing
// but what is over.
func TestSyncKeepsAll(t *testing.T) {
	kv := openDurable(t, t.TempDir())
	defer mustClose(t, kv)
	value := bytes.Repeat([]byte("0123456789abcdef"), 60_000/16)
	n := 0
	for ; n < 100; n++ {
		if err := kv.Set(fmt.Appendf(nil, "key %d", n), value, time.Hour); err != nil {
			t.Fatal(err)
		}
	}
	if err := kv.Room(); err != nil {
		t.Fatal(err)
	}
	kv.SetMaxSize(1 << 20)
	var err error
	for more := 0; err == nil && more < 100; more++ { // the disk is looked at once a megabyte
		err = kv.Set([]byte("more"), value, time.Hour)
	}
	if room := kv.Room(); !errors.Is(room, badgerkv.ErrFull) || !errors.Is(err, badgerkv.ErrFull) {
		t.Errorf("Room of one that is too large: %v; Set: %v; want ErrFull", room, err)
	}
	stats, err := kv.Maintain(context.Background())
	if err != nil || stats.Dropped != 0 || stats.Emptied {
		t.Errorf("Maintain: %+v, %v", stats, err)
	}
	for i := range n {
		if got, err := kv.Get(fmt.Appendf(nil, "key %d", i)); err != nil || !bytes.Equal(got, value) {
			t.Fatalf("record %d after Maintain: %d octets, %v", i, len(got), err)
		}
		if err := kv.Delete(fmt.Appendf(nil, "key %d", i)); err != nil {
			t.Fatalf("Delete where there is too much: %v", err)
		}
	}
}

// TestTornTold: where nothing may be lost, somebody hears of what a log lost.
func TestTornTold(t *testing.T) {
	for _, damaged := range []bool{false, true} {
		dir := filepath.Join(t.TempDir(), "db")
		kv := openDurable(t, dir)
		set(t, kv, "first", "1")
		set(t, kv, "second", "2")
		crashed := filepath.Join(t.TempDir(), "db")
		if err := os.CopyFS(crashed, os.DirFS(dir)); err != nil {
			t.Fatal(err)
		}
		mustClose(t, kv)
		if damaged {
			logs, err := filepath.Glob(filepath.Join(crashed, "*.mem"))
			if err != nil || len(logs) != 1 {
				t.Fatal(logs, err)
			}
			b, err := os.ReadFile(logs[0])
			if err != nil {
				t.Fatal(err)
			}
			b[len(bytes.TrimRight(b, "\x00"))-1] ^= 1
			if err := os.WriteFile(logs[0], b, 0o600); err != nil {
				t.Fatal(err)
			}
		}
		var said lines
		o := durable(t, crashed)
		o.Log = said.add
		again, err := badgerkv.Open(o)
		if err != nil {
			t.Fatal(err)
		}
		if told := strings.Contains(said.String(), "warn: the log"); told != damaged {
			t.Errorf("damaged %v: said %q", damaged, said.String())
		}
		if v, err := again.Get([]byte("first")); err != nil || string(v) != "1" {
			t.Errorf("damaged %v: first: %q, %v", damaged, v, err)
		}
		mustClose(t, again)
	}
}

// lines are what a log was told.
type lines struct {
	mu sync.Mutex
	b  strings.Builder
}

func (l *lines) add(level, msg string) {
	l.mu.Lock()
	defer l.mu.Unlock()
	fmt.Fprintf(&l.b, "%s: %s\n", level, msg)
}

func (l *lines) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.String()
}

// BenchmarkApply writes four records of an outcome's size, with and without waiting for the disk.
func BenchmarkApply(b *testing.B) {
	for _, sync := range []bool{false, true} {
		b.Run(fmt.Sprintf("sync=%v", sync), func(b *testing.B) {
			o := durable(b, b.TempDir())
			o.Sync = sync
			kv, err := badgerkv.Open(o)
			if err != nil {
				b.Fatal(err)
			}
			defer mustClose(b, kv)
			var changes []tlsstore.Change
			for i := range 4 {
				changes = append(changes, tlsstore.Change{Key: make([]byte, 33), Value: make([]byte, 120), TTL: time.Hour})
				changes[i].Key[0] = byte(i)
			}
			for b.Loop() {
				if err := kv.Apply(changes); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}
