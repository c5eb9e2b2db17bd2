package tlsstore

import (
	"bytes"
	"errors"
	"fmt"
	"testing"
	"time"
)

// What any KV must do is tested by package kvtest.

func TestMemoryIsBounded(t *testing.T) {
	const room = 100 * (1000 + memoryOverhead)
	m := newMemory(nil, room)
	for i := range 1000 {
		if err := m.Set(fmt.Appendf(nil, "%04d", i), make([]byte, 996), time.Hour); err != nil {
			t.Fatal(err)
		}
		if m.octets > room || len(m.entries) != m.oldest.Len() {
			t.Fatalf("%d octets in %d entries, want at most %d octets", m.octets, len(m.entries), room)
		}
	}
	if len(m.entries) != 100 {
		t.Errorf("%d entries are left, want 100", len(m.entries))
	}
	if _, err := m.Get([]byte("0999")); err != nil {
		t.Errorf("the newest is gone: %v", err)
	}
	if _, err := m.Get([]byte("0000")); !errors.Is(err, ErrNotFound) {
		t.Errorf("the oldest: %v, want ErrNotFound", err)
	}
	for i := range 1000 {
		if err := m.Delete(fmt.Appendf(nil, "%04d", i)); err != nil {
			t.Fatal(err)
		}
	}
	if m.octets != 0 {
		t.Errorf("an empty memory counts %d octets", m.octets)
	}
}

func TestMemoryRefuses(t *testing.T) {
	tests := []struct {
		name       string
		key, value []byte
		ttl        time.Duration
	}{
		{"long key", make([]byte, MaxKey+1), nil, time.Hour},
		{"large value", []byte("k"), make([]byte, MaxValue+1), time.Hour},
		{"no time", []byte("k"), nil, time.Second - 1},
		{"negative time", []byte("k"), nil, -time.Hour},
	}
	m := Memory()
	for _, test := range tests {
		if err := m.Set(test.key, test.value, test.ttl); err == nil {
			t.Errorf("%s: taken", test.name)
		}
	}
	if err := m.Set(make([]byte, MaxKey), make([]byte, MaxValue), time.Second); err != nil {
		t.Errorf("the largest there may be: %v", err)
	}
}

func TestMemoryAt(t *testing.T) {
	now := time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)
	m := MemoryAt(func() time.Time { return now })
	if err := m.Set([]byte("k"), []byte("v"), time.Minute); err != nil {
		t.Fatal(err)
	}
	now = now.Add(time.Minute - 1)
	if v, err := m.Get([]byte("k")); err != nil || !bytes.Equal(v, []byte("v")) {
		t.Errorf("in time: %q, %v", v, err)
	}
	now = now.Add(1)
	if _, err := m.Get([]byte("k")); !errors.Is(err, ErrNotFound) {
		t.Errorf("afterwards: %v, want ErrNotFound", err)
	}
}
