package kvtest

import (
	"bytes"
	"errors"
	"fmt"
	"sync"
	"testing"

	"slipstream/tlsstore"
)

// testConcurrent: all methods at once. What is read was written whole, and what one goroutine alone writes it finds.
func testConcurrent(t *testing.T, kv tlsstore.KV) {
	const (
		workers = 4
		rounds  = 60
		shared  = 3
	)
	var wg sync.WaitGroup
	for w := range workers {
		wg.Go(func() {
			for i := range rounds {
				ours := fmt.Sprintf("own %d %d", w, i)
				if err := kv.Set([]byte(ours), pattern(w, i), life); err != nil {
					t.Errorf("Set: %v", err)
					return
				}
				if got, err := kv.Get([]byte(ours)); err != nil || !bytes.Equal(got, pattern(w, i)) {
					t.Errorf("Get of what was just set: %s, error %v", short(string(got)), err)
				}
				fight(t, kv, []byte(fmt.Sprintf("shared %d", i%shared)), w, i)
			}
			err := kv.Iterate(nil, func(key, value []byte) bool { wantWhole(t, key, value); return true })
			if err != nil {
				t.Errorf("Iterate: %v", err)
			}
		})
	}
	wg.Wait()
	if got := len(all(t, kv, "own ")) / 2; got != workers*rounds {
		t.Errorf("%d records are there in the end, want %d", got, workers*rounds)
	}
}

// fight sets, reads or deletes what others have their hands on.
func fight(t *testing.T, kv tlsstore.KV, key []byte, worker, round int) {
	if round%7 == 6 {
		if err := kv.Delete(key); err != nil {
			t.Errorf("Delete: %v", err)
		}
	} else if err := kv.Set(key, pattern(worker, round), life); err != nil {
		t.Errorf("Set: %v", err)
	}
	got, err := kv.Get(key)
	switch {
	case err == nil:
		wantWhole(t, key, got)
	case !errors.Is(err, tlsstore.ErrNotFound):
		t.Errorf("Get: %v", err)
	}
}

// pattern is a value of some length in which all octets are the same.
func pattern(worker, round int) []byte {
	return bytes.Repeat([]byte{byte('a' + worker)}, 1+round*17)
}

func wantWhole(t *testing.T, key, value []byte) {
	t.Helper()
	if len(value) == 0 || bytes.Count(value, value[:1]) != len(value) {
		t.Errorf("the value of %q was torn: %s", key, short(string(value)))
	}
}
