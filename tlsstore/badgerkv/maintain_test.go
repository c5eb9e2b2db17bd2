package badgerkv_test

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"testing"
	"time"

	"slipstream/tlsstore/badgerkv"
)

// TestMaintain: a store that has become too large takes no more, then loses what is over soonest, and goes on.
func TestMaintain(t *testing.T) {
	const size = 24 << 20
	kv := open(t, t.TempDir())
	kv.SetMaxSize(size)
	value := noise(rand.New(rand.NewPCG(1, 2)), 10_000)
	var n int
	var err error
	for ; err == nil; n++ {
		// One in ten is to last.
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
	full := kv.Size()
	stats, err := kv.Maintain(context.Background())
	if err != nil {
		t.Fatal(err)
	}
	t.Logf("full with %d records, %d octets; %+v", n, full, stats)
	if stats.Size > size || stats.Size != kv.Size() || stats.Emptied || stats.Dropped == 0 || stats.Dropped > n*8/10 {
		t.Errorf("%+v", stats)
	}
	left := make(map[int]int)
	if err := kv.Iterate(nil, func(key, _ []byte) bool {
		var i int
		fmt.Sscanf(string(key), "key %d", &i)
		left[i%10]++
		return true
	}); err != nil {
		t.Error(err)
	}
	if left[9] < n/10-1 || left[0] > 0 {
		t.Errorf("of %d records there are left, by hours they had to live: %v", n, left)
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
