package kvtest

import (
	"fmt"
	"strings"
	"sync"
	"testing"
	"time"

	"slipstream/tlsstore"
)

// testBatch: of several changes all are made, in order, or none. A KV that is no Batcher has nothing to show.
func testBatch(t *testing.T, kv tlsstore.KV) {
	b, ok := kv.(tlsstore.Batcher)
	if !ok {
		t.Skipf("%T makes one change at a time", kv)
	}
	mustApply(t, b)
	mustSet(t, kv, "gone", "1", life)
	mustSet(t, kv, "changed", "old", life)
	key := []byte("copied")
	mustApply(t, b,
		change("new", "2"), change("changed", "new"), removal("gone"), removal("never there"),
		change("twice", "first"), change("twice", "last"),
		change("set and removed", "x"), removal("set and removed"),
		removal("removed and set"), change("removed and set", "3"),
		tlsstore.Change{Key: key, Value: nil, TTL: life})
	copy(key, "COPIED")
	wantAll(t, kv, "", "changed", "new", "copied", "", "new", "2", "removed and set", "3", "twice", "last")

	for name, bad := range map[string]tlsstore.Change{
		"an empty key":              change("", "x"),
		"an empty key to delete":    removal(""),
		"a value for half a second": {Key: []byte("short"), Value: []byte("x"), TTL: time.Second / 2},
	} {
		if err := b.Apply([]tlsstore.Change{change("before", "x"), removal("new"), bad, change("behind", "x")}); err == nil {
			t.Errorf("Apply took %s", name)
		}
		wantNone(t, kv, "before")
		wantNone(t, kv, "behind")
		want(t, kv, "new", "2")
	}
}

// testBatchLarge: as much as a Batcher must take.
func testBatchLarge(t *testing.T, kv tlsstore.KV) {
	b, ok := kv.(tlsstore.Batcher)
	if !ok {
		t.Skipf("%T makes one change at a time", kv)
	}
	const each = tlsstore.BatchOctets / tlsstore.BatchChanges
	var changes []tlsstore.Change
	for i := range tlsstore.BatchChanges {
		key := fmt.Sprintf("%05d", i)
		changes = append(changes, change(key, strings.Repeat("v", each-len(key))))
	}
	mustApply(t, b, changes...)
	if got := all(t, kv, ""); len(got) != 2*len(changes) {
		t.Errorf("%d records are there, want %d", len(got)/2, len(changes))
	}
	mustApply(t, b, change("one", strings.Repeat("v", tlsstore.BatchOctets-len("one"))))
	for i := range changes {
		changes[i].Value, changes[i].TTL = nil, 0
	}
	mustApply(t, b, append(changes[1:], removal("one"))...)
	wantAll(t, kv, "", "00000", strings.Repeat("v", each-5))
}

// testBatchConcurrent: who reads sees all of a batch or nothing of it, and batches do not mix.
func testBatchConcurrent(t *testing.T, kv tlsstore.KV) {
	b, ok := kv.(tlsstore.Batcher)
	if !ok {
		t.Skipf("%T makes one change at a time", kv)
	}
	const writers, rounds = 4, 30
	var running sync.WaitGroup
	for w := range writers {
		running.Go(func() {
			for r := range rounds {
				v := fmt.Sprintf("%d/%d", w, r)
				if err := b.Apply([]tlsstore.Change{change("first", v), change("second", v), change("third", v)}); err != nil {
					t.Errorf("Apply: %v", err)
				}
			}
		})
	}
	running.Wait()
	got := all(t, kv, "")
	if len(got) != 6 || got[1] != got[3] || got[3] != got[5] {
		t.Errorf("batches were mixed: %s", shorts(got))
	}
}

func change(key, value string) tlsstore.Change {
	return tlsstore.Change{Key: []byte(key), Value: []byte(value), TTL: life}
}

func removal(key string) tlsstore.Change { return tlsstore.Change{Key: []byte(key)} }

func mustApply(t *testing.T, b tlsstore.Batcher, changes ...tlsstore.Change) {
	t.Helper()
	if err := b.Apply(changes); err != nil {
		t.Fatalf("Apply of %d changes: %v", len(changes), err)
	}
}
