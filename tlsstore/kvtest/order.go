package kvtest

import (
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"

	"slipstream/tlsstore"
)

// testIterate: all keys with a prefix, in the order of their octets, which are unsigned.
func testIterate(t *testing.T, kv tlsstore.KV) {
	keys := []string{"b", "a\xff", "a", "\xff", "ab", "\x00", "a\x00", "abc", "\xff\xff", "B", "\x7f", "\x80"}
	for _, key := range keys {
		mustSet(t, kv, key, "of "+key, life)
	}
	tests := []struct {
		prefix string
		want   []string
	}{
		{"", []string{"\x00", "B", "a", "a\x00", "ab", "abc", "a\xff", "b", "\x7f", "\x80", "\xff", "\xff\xff"}},
		{"a", []string{"a", "a\x00", "ab", "abc", "a\xff"}},
		{"ab", []string{"ab", "abc"}},
		{"abc", []string{"abc"}},
		{"abcd", nil},
		{"a\xff", []string{"a\xff"}},
		{"\xff", []string{"\xff", "\xff\xff"}},
		{"\xff\xff\xff", nil},
		{"\x00", []string{"\x00"}},
		{"nothing", nil},
	}
	for _, test := range tests {
		var wanted []string
		for _, key := range test.want {
			wanted = append(wanted, key, "of "+key)
		}
		wantAll(t, kv, test.prefix, wanted...)
	}
}

func testIterateStop(t *testing.T, kv tlsstore.KV) {
	for _, key := range []string{"a", "b", "c"} {
		mustSet(t, kv, key, key, life)
	}
	for stop := 1; stop <= 3; stop++ {
		calls := 0
		if err := kv.Iterate(nil, func(key, value []byte) bool { calls++; return calls < stop }); err != nil {
			t.Errorf("Iterate that was stopped: %v", err)
		}
		if calls != stop {
			t.Errorf("Iterate went on: called %d times, want %d", calls, stop)
		}
	}
}

// testIterateChange: what is shown may be asked for, changed and deleted from within.
func testIterateChange(t *testing.T, kv tlsstore.KV) {
	for _, key := range []string{"a", "b", "c", "d"} {
		mustSet(t, kv, key, "old", life)
	}
	var seen []string
	err := kv.Iterate(nil, func(key, value []byte) bool {
		seen = append(seen, string(key))
		want(t, kv, string(key), "old")
		if string(key) == "b" {
			mustSet(t, kv, "b", "new", life)
		} else if err := kv.Delete(key); err != nil {
			t.Errorf("Delete from within Iterate: %v", err)
		}
		return true
	})
	if err != nil {
		t.Errorf("Iterate: %v", err)
	}
	if wanted := []string{"a", "b", "c", "d"}; !slices.Equal(seen, wanted) {
		t.Errorf("Iterate that changes what it sees has seen %q, want %q", seen, wanted)
	}
	wantAll(t, kv, "", "b", "new")
}

// testMany: more than fits into one step of anything.
func testMany(t *testing.T, kv tlsstore.KV) {
	keys := make([]string, Number)
	for i := range keys {
		keys[i] = fmt.Sprintf("%c%05d", 'a'+i%2, i)
	}
	value := func(key string) string { return key + strings.Repeat(".", 100-len(key)) }
	order := rand.New(rand.NewPCG(1, 2)).Perm(len(keys))
	for _, i := range order {
		mustSet(t, kv, keys[i], value(keys[i]), life)
	}
	var wanted []string
	for i, key := range keys {
		switch {
		case i%5 == 0:
			if err := kv.Delete([]byte(key)); err != nil {
				t.Fatal(err)
			}
		case key[0] == 'b':
			wanted = append(wanted, key, value(key))
		}
	}
	wantAll(t, kv, "b", wanted...)
	for i, key := range keys {
		if i%5 == 0 {
			wantNone(t, kv, key)
		} else {
			want(t, kv, key, value(key))
		}
	}
}
