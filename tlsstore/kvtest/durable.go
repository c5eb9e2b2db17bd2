package kvtest

import (
	"testing"
	"testing/synctest"
	"time"

	"slipstream/tlsstore"
)

// RunDurable tests KVs that keep what they have where open can find it again: in a directory, which is empty at first.
func RunDurable(t *testing.T, open func(t *testing.T, dir string) tlsstore.KV) {
	tests := []struct {
		name string
		test func(*testing.T, func() tlsstore.KV)
	}{
		{"stays", testStays},
		{"stays gone", testStaysGone},
		{"time to live", testTimeGoesOn},
	}
	for _, test := range tests {
		t.Run("durable "+test.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				dir := t.TempDir()
				test.test(t, func() tlsstore.KV { return open(t, dir) })
			})
		})
	}
}

func testStays(t *testing.T, open func() tlsstore.KV) {
	kv := open()
	for _, r := range odd() {
		mustSet(t, kv, r[0], r[1], life)
	}
	for range 3 {
		mustClose(t, kv)
		kv = open()
		for _, r := range odd() {
			want(t, kv, r[0], r[1])
		}
	}
	mustSet(t, kv, "a", "new", life)
	b, batches := kv.(tlsstore.Batcher)
	if batches {
		mustApply(t, b, change("b", "of a batch"), removal("NUL inside"))
	}
	mustClose(t, kv)
	kv = open()
	want(t, kv, "a", "new")
	if batches {
		want(t, kv, "b", "of a batch")
		wantNone(t, kv, "NUL inside")
	}
	mustClose(t, kv)
}

func testStaysGone(t *testing.T, open func() tlsstore.KV) {
	kv := open()
	mustSet(t, kv, "a", "1", life)
	mustSet(t, kv, "b", "2", life)
	mustClose(t, kv)
	kv = open()
	if err := kv.Delete([]byte("a")); err != nil {
		t.Fatal(err)
	}
	mustClose(t, kv)
	kv = open()
	wantNone(t, kv, "a")
	wantAll(t, kv, "", "b", "2")
	mustClose(t, kv)
}

// testTimeGoesOn: while a KV is closed, too.
func testTimeGoesOn(t *testing.T, open func() tlsstore.KV) {
	kv := open()
	mustSet(t, kv, "while open", "1", 2*time.Second)
	mustSet(t, kv, "while closed", "2", 10*time.Second)
	mustSet(t, kv, "later", "3", time.Minute)
	time.Sleep(2*time.Second + grace)
	wantNone(t, kv, "while open")
	mustClose(t, kv)
	time.Sleep(10 * time.Second)
	kv = open()
	wantNone(t, kv, "while open")
	wantNone(t, kv, "while closed")
	wantAll(t, kv, "", "later", "3")
	mustClose(t, kv)
	time.Sleep(time.Minute)
	kv = open()
	wantNone(t, kv, "later")
	wantAll(t, kv, "")
	mustClose(t, kv)
}
