package badgerkv_test

import (
	"bytes"
	"testing"

	"go.uber.org/goleak"

	"slipstream/tlsstore"
	"slipstream/tlsstore/badgerkv"
	"slipstream/tlsstore/kvtest"
)

// testKey seals what the tests write.
var testKey = bytes.Repeat([]byte("badger!?"), 4)

func open(t testing.TB, dir string) *badgerkv.KV {
	t.Helper()
	kv, err := badgerkv.Open(options(t, dir))
	if err != nil {
		t.Fatal(err)
	}
	return kv
}

// options are those of a test that wants to hear of errors.
func options(t testing.TB, dir string) badgerkv.Options {
	return badgerkv.Options{Dir: dir, Key: testKey, Log: func(level, msg string) {
		if level != "debug" {
			t.Logf("%s: %s", level, msg)
		}
	}}
}

func TestKV(t *testing.T) {
	t.Cleanup(func() { goleak.VerifyNone(t) })
	kvtest.Run(t, func(t *testing.T) tlsstore.KV { return open(t, t.TempDir()) })
	kvtest.RunDurable(t, func(t *testing.T, dir string) tlsstore.KV { return open(t, dir) })
}
