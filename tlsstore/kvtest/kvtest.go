// Package kvtest says what a [tlsstore.KV] must do. It is run by the tests of each:
//
//	func TestKV(t *testing.T) {
//		kvtest.Run(t, func(t *testing.T) tlsstore.KV { return tlsstore.Memory() })
//	}
package kvtest

import (
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"slipstream/tlsstore"
)

// What every KV must take. A larger one it may take, or refuse with an error.
const (
	Key    = 1 << 10  // octets of a key
	Value  = 64 << 10 // octets of a value
	Number = 2000     // records of 100 octets at once
)

// life is for what shall not go away during a test.
const life = time.Hour

// Run tests the KVs that open makes. Each is to be empty and to go by the time of the time package, which may be that
// of a bubble of testing/synctest. Run closes them.
func Run(t *testing.T, open func(t *testing.T) tlsstore.KV) {
	tests := []struct {
		name string
		test func(*testing.T, tlsstore.KV)
	}{
		{"empty", testEmpty},
		{"set and get", testSetGet},
		{"overwrite", testOverwrite},
		{"delete", testDelete},
		{"copies", testCopies},
		{"empty key", testEmptyKey},
		{"iterate", testIterate},
		{"iterate and stop", testIterateStop},
		{"iterate and change", testIterateChange},
		{"many", testMany},
		{"concurrent", testConcurrent},
		{"batch", testBatch},
		{"batch, large", testBatchLarge},
		{"batch, concurrent", testBatchConcurrent},
		{"close", testClose},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			kv := open(t)
			test.test(t, kv)
			mustClose(t, kv)
		})
	}
	t.Run("time to live", func(t *testing.T) { bubble(t, open, testTTL) })
	t.Run("time to live, renewed", func(t *testing.T) { bubble(t, open, testTTLRenewed) })
}

func testEmpty(t *testing.T, kv tlsstore.KV) {
	wantNone(t, kv, "nothing")
	if err := kv.Delete([]byte("nothing")); err != nil {
		t.Errorf("Delete of what is not there: %v, want no error", err)
	}
	wantAll(t, kv, "")
}

// odd are keys and values that a careless KV takes for something else.
func odd() [][2]string {
	return [][2]string{
		{"a", "b"},
		{"\x00", "NUL is a key"},
		{"\x00\x00", "and so are two"},
		{"\xff\xff\xff", "nothing comes behind it"},
		{"no value", ""},
		{"NUL inside", "\x00\x00\x00"},
		{"line\r\nend", "line\r\nend"},
		{strings.Repeat("k", Key), "a long key"},
		{strings.Repeat("k", Key-1), "and a shorter one"},
		{"large", strings.Repeat("0123456789abcdef", Value/16)},
		{"not UTF-8 \xc3", "\xc3\x28"},
	}
}

func testSetGet(t *testing.T, kv tlsstore.KV) {
	for _, r := range odd() {
		mustSet(t, kv, r[0], r[1], life)
	}
	for _, r := range odd() {
		want(t, kv, r[0], r[1])
	}
	wantNone(t, kv, "aa")
	wantNone(t, kv, "\x00\x00\x00")
}

func testOverwrite(t *testing.T, kv tlsstore.KV) {
	for _, value := range []string{"long, long, long", "short", "", "again"} {
		mustSet(t, kv, "key", value, life)
		want(t, kv, "key", value)
	}
	wantAll(t, kv, "", "key", "again")
}

func testDelete(t *testing.T, kv tlsstore.KV) {
	mustSet(t, kv, "key", "value", life)
	mustSet(t, kv, "key2", "value2", life)
	for range 2 {
		if err := kv.Delete([]byte("key")); err != nil {
			t.Fatalf("Delete: %v", err)
		}
		wantNone(t, kv, "key")
	}
	wantAll(t, kv, "", "key2", "value2")
	mustSet(t, kv, "key", "new", life)
	want(t, kv, "key", "new")
}

// testCopies: what a caller does with its own octets, or with those that it was given, changes nothing in the KV.
func testCopies(t *testing.T, kv tlsstore.KV) {
	key, value := []byte("key"), []byte("value")
	if err := kv.Set(key, value, life); err != nil {
		t.Fatal(err)
	}
	copy(key, "KEY")
	copy(value, "VALUE")
	want(t, kv, "key", "value")
	wantNone(t, kv, "KEY")

	got, err := kv.Get([]byte("key"))
	if err != nil {
		t.Fatal(err)
	}
	copy(got, "VALUE")
	_ = append(got, "and more"...)
	want(t, kv, "key", "value")
}

func testEmptyKey(t *testing.T, kv tlsstore.KV) {
	for _, key := range [][]byte{nil, {}} {
		if err := kv.Set(key, []byte("value"), life); err == nil {
			t.Error("Set took an empty key")
		}
		if value, err := kv.Get(key); err == nil {
			t.Errorf("Get of an empty key found %q", value)
		}
	}
	wantAll(t, kv, "")
}

// testClose: a second Close is no error, and whatever is asked of a closed KV is one, but no panic.
func testClose(t *testing.T, kv tlsstore.KV) {
	mustSet(t, kv, "key", "value", life)
	mustClose(t, kv)
	mustClose(t, kv)
	if _, err := kv.Get([]byte("key")); err == nil {
		t.Error("Get of a closed KV: no error")
	}
	if err := kv.Set([]byte("key"), []byte("value"), life); err == nil {
		t.Error("Set of a closed KV: no error")
	}
	if err := kv.Delete([]byte("key")); err == nil {
		t.Error("Delete of a closed KV: no error")
	}
	if b, ok := kv.(tlsstore.Batcher); ok {
		if err := b.Apply([]tlsstore.Change{change("key", "value")}); err == nil {
			t.Error("Apply to a closed KV: no error")
		}
	}
	err := kv.Iterate(nil, func(key, value []byte) bool { t.Error("a closed KV shows what it has"); return true })
	if err == nil {
		t.Error("Iterate of a closed KV: no error")
	}
}

func mustSet(t *testing.T, kv tlsstore.KV, key, value string, ttl time.Duration) {
	t.Helper()
	if err := kv.Set([]byte(key), []byte(value), ttl); err != nil {
		t.Fatalf("Set of %s: %v", short(key), err)
	}
}

func mustClose(t *testing.T, kv tlsstore.KV) {
	t.Helper()
	if err := kv.Close(); err != nil {
		t.Errorf("Close: %v", err)
	}
}

// want checks that a value is there.
func want(t *testing.T, kv tlsstore.KV, key, value string) {
	t.Helper()
	got, err := kv.Get([]byte(key))
	if err != nil {
		t.Errorf("Get of %s: %v", short(key), err)
	} else if string(got) != value {
		t.Errorf("Get of %s: %s, want %s", short(key), short(string(got)), short(value))
	}
}

// wantNone checks that nothing is there.
func wantNone(t *testing.T, kv tlsstore.KV, key string) {
	t.Helper()
	if got, err := kv.Get([]byte(key)); !errors.Is(err, tlsstore.ErrNotFound) {
		t.Errorf("Get of %s: %s, error %v; want tlsstore.ErrNotFound", short(key), short(string(got)), err)
	}
}

// wantAll checks what Iterate shows: keys and values, by turns.
func wantAll(t *testing.T, kv tlsstore.KV, prefix string, wanted ...string) {
	t.Helper()
	if got := all(t, kv, prefix); !slices.Equal(got, wanted) {
		t.Errorf("Iterate with the prefix %s shows\n%s, want\n%s", short(prefix), shorts(got), shorts(wanted))
	}
}

// all returns copies of what Iterate shows: keys and values, by turns.
func all(t *testing.T, kv tlsstore.KV, prefix string) []string {
	t.Helper()
	var got []string
	err := kv.Iterate([]byte(prefix), func(key, value []byte) bool {
		got = append(got, string(key), string(value))
		return true
	})
	if err != nil {
		t.Errorf("Iterate: %v", err)
	}
	return got
}

func short(s string) string {
	if len(s) > 40 {
		return fmt.Sprintf("%q… (%d octets)", s[:32], len(s))
	}
	return fmt.Sprintf("%q", s)
}

func shorts(all []string) string {
	const most = 20
	var b strings.Builder
	for i, s := range all {
		if i == most {
			fmt.Fprintf(&b, "  … %d in all\n", len(all))
			break
		}
		fmt.Fprintf(&b, "  %s\n", short(s))
	}
	return b.String()
}
