package badgerkv_test

import (
	"bytes"
	"errors"
	"os"
	"path/filepath"
	"testing"

	"slipstream/tlsstore/badgerkv"
)

// TestInspect: what Open would say is told beforehand, and nothing changes.
func TestInspect(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "db")
	o := options(t, dir)
	if _, _, err := badgerkv.Inspect(o); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("a directory that is missing: %v", err)
	}
	kv := open(t, dir)
	set(t, kv, "a", "b")
	if _, _, err := badgerkv.Inspect(o); !errors.Is(err, badgerkv.ErrLocked) {
		t.Errorf("while it is open: %v, want ErrLocked", err)
	}
	mustClose(t, kv)
	before := readAll(t, dir)
	size, free, err := badgerkv.Inspect(o)
	if err != nil || size <= 0 || free <= 0 {
		t.Errorf("a good one: %d octets, %d free, %v", size, free, err)
	}
	o.Key = bytes.Repeat([]byte{7}, 32)
	if _, _, err := badgerkv.Inspect(o); !errors.Is(err, badgerkv.ErrKey) {
		t.Errorf("with another key: %v, want ErrKey", err)
	}
	o.Key = nil
	if _, _, err := badgerkv.Inspect(o); err != nil {
		t.Errorf("without a key: %v", err)
	}
	after := readAll(t, dir)
	if len(before) != len(after) {
		t.Errorf("there were %d files, there are %d", len(before), len(after))
	}
	for name, b := range before {
		if !bytes.Equal(b, after[name]) {
			t.Errorf("%s was changed", name)
		}
	}
	if err := os.WriteFile(filepath.Join(dir, "theirs"), nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if _, _, err := badgerkv.Inspect(o); !errors.Is(err, badgerkv.ErrForeign) {
		t.Errorf("with a file of others: %v, want ErrForeign", err)
	}
}
