package badgerkv_test

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"testing"
	"time"

	"slipstream/tlsstore/badgerkv"
)

// TestMaintain: a store that has become too large takes no more, then loses the oldest, however long that had to live,
// and goes on.
func TestMaintain(t *testing.T) {
	const size = 24 << 20
	kv := open(t, t.TempDir())
	kv.SetMaxSize(size)
	value := noise(rand.New(rand.NewPCG(1, 2)), 10_000)
	var n int
	var err error
	for ; err == nil; n++ {
		ttl := time.Duration(n%10+1) * time.Hour
		if err = kv.Set(fmt.Appendf(nil, "key %d", n), value, ttl); n > 10*size/len(value) {
			t.Fatal("it grows and grows")
		}
	}
	n--
	if !errors.Is(err, badgerkv.ErrFull) {
		t.Fatalf("Set: %v, want ErrFull", err)
	}
	if err := kv.Delete([]byte("key 0")); err != nil {
		t.Errorf("Delete from a store that is full: %v", err)
	}
	select {
	case <-kv.Outgrown():
	default:
		t.Error("nobody is told that it has outgrown its size")
	}
	full := kv.Size()
	stats, err := kv.Maintain(context.Background())
	if err != nil {
		t.Fatal(err)
	}
	t.Logf("full with %d records, %d octets; %+v", n, full, stats)
	if stats.Size > size || stats.Size != kv.Size() || stats.Emptied || stats.Dropped == 0 || stats.Dropped > n*8/10 {
		t.Errorf("%+v", stats)
	}
	left, first, kinds := 0, n, make(map[int]int)
	if err := kv.Iterate(nil, func(key, _ []byte) bool {
		var i int
		fmt.Sscanf(string(key), "key %d", &i)
		left, first = left+1, min(first, i)
		kinds[i%10]++
		return true
	}); err != nil {
		t.Error(err)
	}
	if left < n/2 || first < n-left-1 || len(kinds) != 10 {
		t.Errorf("of %d records %d are left, the first of them is %d, by hours they had to live: %v", n, left, first, kinds)
	}
	if err := kv.Set([]byte("new"), value, time.Hour); err != nil {
		t.Errorf("Set afterwards: %v", err)
	}
	if again, err := kv.Maintain(context.Background()); err != nil || again.Dropped > 0 {
		t.Errorf("once more: %+v, %v", again, err)
	}
	mustClose(t, kv)
	if _, err := kv.Maintain(context.Background()); err == nil {
		t.Error("Maintain of a closed KV: no error")
	}
}

// TestMaintainLargeFirst: who sends us large records that live long does not drive out small ones that live short.
func TestMaintainLargeFirst(t *testing.T) {
	const size = 24 << 20
	kv := open(t, t.TempDir())
	kv.SetMaxSize(size)
	r := rand.New(rand.NewPCG(1, 2))
	const small = 2000
	for i := range small {
		if err := kv.Set(fmt.Appendf(nil, "small %d", i), noise(r, 1+r.IntN(3000)), time.Hour); err != nil {
			t.Fatal(err)
		}
	}
	var err error
	n, large := 0, make(map[string]int)
	for ; err == nil; n++ {
		key, value := fmt.Sprintf("large %d", n), noise(r, 10_000+r.IntN(90_000))
		if err = kv.Set([]byte(key), value, 7*24*time.Hour); err == nil {
			large[key] = len(value)
		}
	}
	if !errors.Is(err, badgerkv.ErrFull) {
		t.Fatalf("Set: %v, want ErrFull", err)
	}
	stats, err := kv.Maintain(context.Background())
	if err != nil || stats.Emptied || stats.Dropped == 0 || stats.Dropped >= n {
		t.Errorf("%+v, %v", stats, err)
	}
	left := 0
	if err := kv.Iterate([]byte("small "), func(_, _ []byte) bool { left++; return true }); err != nil || left != small {
		t.Errorf("%d small records are left, %v; want %d", left, err, small)
	}
	if err := kv.Iterate([]byte("large "), func(k, _ []byte) bool { delete(large, string(k)); return true }); err != nil {
		t.Error(err)
	}
	for key, octets := range large {
		if octets < 1<<16-1<<8 {
			t.Errorf("%s of %d octets went before larger ones", key, octets)
		}
	}
	t.Logf("of %d large records %d went", n, len(large))
	mustClose(t, kv)
}

// TestMaintainAside: what was put aside goes when nothing in it is of use any more.
func TestMaintainAside(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "db")
	mustClose(t, open(t, dir+".bad"))
	kv := open(t, dir)
	maintain := func(want bool) {
		t.Helper()
		if _, err := kv.Maintain(context.Background()); err != nil {
			t.Error(err)
		}
		if _, err := os.Stat(dir + ".bad"); (err == nil) != want {
			t.Errorf("%v; want it to be there: %v", err, want)
		}
	}
	age := func(d time.Duration) {
		for name := range readAll(t, dir+".bad") {
			at := time.Now().Add(-d)
			if err := os.Chtimes(filepath.Join(dir+".bad", name), at, at); err != nil {
				t.Fatal(err)
			}
		}
		at := time.Now().Add(-d)
		if err := os.Chtimes(dir+".bad", at, at); err != nil {
			t.Fatal(err)
		}
	}
	maintain(true)
	age(7*24*time.Hour - time.Minute)
	maintain(true)
	stranger := filepath.Join(dir+".bad", "letter.txt")
	if err := os.WriteFile(stranger, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	age(8 * 24 * time.Hour)
	maintain(true)
	if err := os.Remove(stranger); err != nil {
		t.Fatal(err)
	}
	age(8 * 24 * time.Hour)
	maintain(false)
	mustClose(t, kv)
}

// TestMaintainCanceled: with what is over, nothing is half done.
func TestMaintainCanceled(t *testing.T) {
	kv := open(t, t.TempDir())
	set(t, kv, "a", "b")
	kv.SetMaxSize(1)
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	if _, err := kv.Maintain(ctx); !errors.Is(err, context.Canceled) {
		t.Errorf("Maintain: %v, want context.Canceled", err)
	}
	if v, err := kv.Get([]byte("a")); err != nil || string(v) != "b" {
		t.Errorf("Get: %q, %v", v, err)
	}
	// Nothing that is small enough can be made of this.
	if stats, err := kv.Maintain(context.Background()); err != nil || !stats.Emptied {
		t.Errorf("%+v, %v; want it emptied", stats, err)
	}
	if _, err := kv.Get([]byte("a")); err == nil {
		t.Error("still there")
	}
	kv.SetMaxSize(badgerkv.DefaultMaxSize)
	mustClose(t, kv)
}
