package kvtest

import (
	"testing"
	"testing/synctest"
	"time"

	"slipstream/tlsstore"
)

// A KV may forget what is over this much later: some count in whole seconds.
const grace = time.Second

// bubble runs a test in a time of its own, in which nobody waits.
func bubble(t *testing.T, open func(*testing.T) tlsstore.KV, test func(*testing.T, tlsstore.KV)) {
	synctest.Test(t, func(t *testing.T) {
		kv := open(t)
		test(t, kv)
		mustClose(t, kv)
	})
}

// testTTL: never forgotten too early, nor shown too late.
func testTTL(t *testing.T, kv tlsstore.KV) {
	time.Sleep(900 * time.Millisecond) // within a second, where rounding shows
	mustSet(t, kv, "1s", "a", time.Second)
	mustSet(t, kv, "2.5s", "b", 2500*time.Millisecond)
	mustSet(t, kv, "10s", "c", 10*time.Second)
	mustSet(t, kv, "7d", "d", 7*24*time.Hour)
	start := time.Now()
	at := func(d time.Duration) { time.Sleep(time.Until(start.Add(d))) }

	wantAll(t, kv, "", "10s", "c", "1s", "a", "2.5s", "b", "7d", "d")
	at(time.Second - 1)
	want(t, kv, "1s", "a")
	at(time.Second + grace)
	wantNone(t, kv, "1s")
	want(t, kv, "2.5s", "b")
	at(2500*time.Millisecond - 1)
	want(t, kv, "2.5s", "b")
	at(2500*time.Millisecond + grace)
	wantNone(t, kv, "2.5s")
	wantAll(t, kv, "", "10s", "c", "7d", "d")
	at(10*time.Second - 1)
	want(t, kv, "10s", "c")
	at(10*time.Second + grace)
	wantAll(t, kv, "", "7d", "d")
}

// testTTLRenewed: the last Set counts, whether it made the time longer or shorter.
func testTTLRenewed(t *testing.T, kv tlsstore.KV) {
	mustSet(t, kv, "longer", "old", 2*time.Second)
	mustSet(t, kv, "shorter", "old", 10*time.Second)
	mustSet(t, kv, "longer", "new", 10*time.Second)
	mustSet(t, kv, "shorter", "new", 2*time.Second)
	time.Sleep(2*time.Second + grace)
	want(t, kv, "longer", "new")
	wantNone(t, kv, "shorter")
	mustSet(t, kv, "shorter", "back", 5*time.Second)
	want(t, kv, "shorter", "back")
	time.Sleep(5*time.Second + grace)
	wantNone(t, kv, "shorter")
	if err := kv.Delete([]byte("shorter")); err != nil {
		t.Errorf("Delete of what is over: %v", err)
	}
}
