package badgerkv

import (
	"bytes"
	"encoding/binary"
	"hash/crc32"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/dgraph-io/badger/v4"
)

// sample makes a store, closed in order or as if the process had been killed.
func sample(t testing.TB, killed bool) Options {
	t.Helper()
	o := Options{Dir: filepath.Join(t.TempDir(), "db"), Key: bytes.Repeat([]byte{1, 2}, 16)}
	kv, err := Open(o)
	if err != nil {
		t.Fatal(err)
	}
	for _, key := range []string{"a", "b", "c"} {
		if err := kv.Set([]byte(key), []byte(strings.Repeat(key, 500)), time.Hour); err != nil {
			t.Fatal(err)
		}
	}
	if killed {
		to := filepath.Join(t.TempDir(), "db")
		if err := os.CopyFS(to, os.DirFS(o.Dir)); err != nil {
			t.Fatal(err)
		}
		o.Dir = to
	}
	if err := kv.Close(); err != nil {
		t.Fatal(err)
	}
	return o
}

// theFile returns the only file of a kind.
func theFile(t testing.TB, o Options, pattern string) (path string, content []byte) {
	t.Helper()
	names, err := filepath.Glob(filepath.Join(o.Dir, pattern))
	if err != nil || len(names) != 1 {
		t.Fatalf("%s: %q, %v", pattern, names, err)
	}
	content, err = os.ReadFile(names[0])
	if err != nil {
		t.Fatal(err)
	}
	return names[0], content
}

// TestCheckOrder: no table is removed before all that is there was found to be good.
func TestCheckOrder(t *testing.T) {
	for _, missing := range []string{manifestName, registryName} {
		o := sample(t, false)
		if err := os.Remove(filepath.Join(o.Dir, missing)); err != nil {
			t.Fatal(err)
		}
		table, want := theFile(t, o, "*.sst")
		if _, err := Open(o); err == nil || !strings.Contains(err.Error(), missing) {
			t.Errorf("Open without %s: %v", missing, err)
		}
		if got, err := os.ReadFile(table); err != nil || !bytes.Equal(got, want) {
			t.Errorf("without %s the table was changed: %v", missing, err)
		}
	}
}

// TestNeverClear: there is a data key before there is anything else, and everything is sealed with it.
func TestNeverClear(t *testing.T) {
	o := sample(t, true)
	keys, err := badger.OpenKeyRegistry(badger.KeyRegistryOptions{Dir: o.Dir, EncryptionKey: o.Key, ReadOnly: true})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := dataKey(keys, 0); err == nil {
		t.Error("a file in clear would be taken")
	}
	if k, err := dataKey(keys, 1); err != nil || len(k) != keyOctets {
		t.Errorf("the data key has %d octets, %v", len(k), err)
	}
	_, wal := theFile(t, o, "*.mem")
	if id := binary.BigEndian.Uint64(wal); id != 1 {
		t.Errorf("the write-ahead log is sealed with data key %d", id)
	}
}

// TestTornWAL: what is cut off is what was not written whole.
func TestTornWAL(t *testing.T) {
	o := sample(t, true)
	keys, err := dataKeys(o, true)
	if err != nil {
		t.Fatal(err)
	}
	path, wal := theFile(t, o, "*.mem")
	if err := checkWAL(o, path, keys); err != nil {
		t.Fatal(err)
	}
	_, whole := theFile(t, o, "*.mem")
	if len(whole) < 1500 || len(whole) > 2500 || !bytes.HasPrefix(wal, whole) {
		t.Fatalf("%d octets are left of three records of 500", len(whole))
	}
	for _, test := range []struct {
		name string
		tail []byte
	}{
		{"nothing", nil},
		{"half a record", whole[walHeader : walHeader+100]},
		{"zeros", make([]byte, 5000)},
		{"a key that is too long", []byte{0, 0, 0xff, 0xff, 0xff, 0x7f, 1, 1, 1, 1}},
		{"a value of 4 GB", []byte{0, 0, 1, 0xff, 0xff, 0xff, 0xff, 0x0f, 1, 1, 1}},
		{"a number without an end", bytes.Repeat([]byte{0xff}, 100)},
		{"a record without a key", sealRecord([]byte{0, 0, 0, 3, 0, 'a', 'b', 'c'})},
	} {
		if err := os.WriteFile(path, append(bytes.Clone(whole), test.tail...), 0o600); err != nil {
			t.Fatal(err)
		}
		if err := checkWAL(o, path, keys); err != nil {
			t.Errorf("behind it %s: %v", test.name, err)
		}
		if got, err := os.ReadFile(path); err != nil || !bytes.Equal(got, whole) {
			t.Errorf("behind it %s: %d octets are left, want %d; %v", test.name, len(got), len(whole), err)
		}
	}
	if err := os.WriteFile(path, make([]byte, o.maxWAL()+1), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := checkWAL(o, path, keys); err == nil {
		t.Error("one was taken that is longer than Badger's")
	}
}

// sealRecord puts a CRC behind a record.
func sealRecord(b []byte) []byte {
	return binary.BigEndian.AppendUint32(b, crc32.Checksum(b, castagnoli()))
}

// FuzzTable: a table that was changed anywhere is refused.
func FuzzTable(f *testing.F) {
	o := sample(f, false)
	path, good := theFile(f, o, "*.sst")
	keys, err := dataKeys(o, true)
	if err != nil {
		f.Fatal(err)
	}
	key, err := dataKey(keys, 1)
	if err != nil {
		f.Fatal(err)
	}
	if err := checkTable(path, key); err != nil {
		f.Fatal(err)
	}
	for _, at := range []int{0, 1, len(good) / 2, len(good) - 1, len(good) - 4, len(good) - 8, len(good) - 12} {
		f.Add(at, []byte{1}, 0)
		f.Add(at, []byte{0xff, 0xff, 0xff, 0xff}, at)
	}
	bad := filepath.Join(f.TempDir(), "000002.sst")
	f.Fuzz(func(t *testing.T, at int, xor []byte, cut int) {
		b := bytes.Clone(good)
		for i, x := range xor {
			b[uint(at+i)%uint(len(b))] ^= x
		}
		b = b[:uint(len(b)-cut)%uint(len(b)+1)]
		if bytes.Equal(b, good) {
			return
		}
		if err := os.WriteFile(bad, b, 0o600); err != nil {
			t.Fatal(err)
		}
		if err := guarded(func() error { return checkTable(bad, key) }); err == nil {
			t.Error("nobody noticed")
		}
	})
}

// FuzzWAL: whatever is in a write-ahead log, what is left of it is good, and not touched again.
func FuzzWAL(f *testing.F) {
	o := sample(f, true)
	keys, err := dataKeys(o, true)
	if err != nil {
		f.Fatal(err)
	}
	_, wal := theFile(f, o, "*.mem")
	f.Add(wal[:1300]) // two records, and a torn one
	f.Add(wal[:walHeader])
	f.Add([]byte{})
	path := filepath.Join(f.TempDir(), "00001.mem")
	f.Fuzz(func(t *testing.T, b []byte) {
		if err := os.WriteFile(path, b, 0o600); err != nil {
			t.Fatal(err)
		}
		if err := checkWAL(o, path, keys); err != nil {
			return
		}
		left, err := os.ReadFile(path)
		if os.IsNotExist(err) {
			return
		}
		if err != nil || len(left) < walHeader || !bytes.HasPrefix(b, left) {
			t.Fatalf("%d octets are left of %d, %v", len(left), len(b), err)
		}
		if err := checkWAL(o, path, keys); err != nil {
			t.Errorf("the second time: %v", err)
		}
		if again, err := os.ReadFile(path); err != nil || !bytes.Equal(again, left) {
			t.Errorf("the second time %d octets are left of %d, %v", len(again), len(left), err)
		}
	})
}

func TestChecksum(t *testing.T) {
	for _, test := range []struct {
		b    string
		want uint32
		ok   bool
	}{
		{"", 0, true},
		{"\x10\x01", 1, true},
		{"\x10\xff\xff\xff\xff\x0f", 0xffffffff, true},
		{"\x10\xff\xff\xff\xff\x1f", 0, false}, // 33 bits
		{"\x10", 0, false},
		{"\x10\x80", 0, false},
		{"\x10\x01\x01", 0, false},
		{"\x08\x01", 0, false}, // another kind of sum
		{"\x08\x01\x10\x01", 0, false},
	} {
		if got, ok := checksum([]byte(test.b)); ok != test.ok || ok && got != test.want {
			t.Errorf("%q: %#x, %v; want %#x, %v", test.b, got, ok, test.want, test.ok)
		}
	}
}

func TestLog(t *testing.T) {
	var got []string
	l := logger{func(level, msg string) { got = append(got, level+": "+msg) }}
	l.Errorf("100%")
	l.Warningf("two\nlines\x00 \xff%d\n", 2)
	l.Infof("\n")
	l.Infof("%s", strings.Repeat("x", 10_000))
	l.Debugf("not said")
	want := []string{"error: 100%", "warn: two lines ?2", "debug: " + strings.Repeat("x", maxLog) + "…"}
	if strings.Join(got, "|") != strings.Join(want, "|") {
		t.Errorf("said %q\nwant %q", got, want)
	}
	logger{}.Errorf("to nobody")
}
