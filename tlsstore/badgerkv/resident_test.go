//go:build linux

package badgerkv_test

import (
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"slipstream/tlsstore/badgerkv"
)

// TestRelease: what was read leaves the process's memory, also of a directory that is named by way of a link, and is
// read again as it was. The store next to it is left alone.
func TestRelease(t *testing.T) {
	parent := t.TempDir()
	link := filepath.Join(parent, "link")
	if err := os.Symlink(filepath.Join(parent, "a"), link); err != nil {
		t.Fatal(err)
	}
	if err := os.Mkdir(filepath.Join(parent, "a"), 0o700); err != nil {
		t.Fatal(err)
	}
	a, b := open(t, link), open(t, filepath.Join(parent, "b"))
	for _, kv := range []*badgerkv.KV{a, b} {
		for i := range 400 { // 22 MB, more than is in memory tables
			setLarge(t, kv, i)
		}
		for i := range 400 {
			wantLarge(t, kv, i)
		}
	}
	tables, err := a.Release()
	if err != nil || tables == 0 {
		t.Fatalf("Release: %d tables, %v", tables, err)
	}
	if n := tablesInMemory(t, filepath.Join(parent, "a")); n > 1<<20 {
		t.Errorf("%d octets of tables in memory after Release", n) // what Badger reads meanwhile
	}
	if tablesInMemory(t, filepath.Join(parent, "b")) == 0 {
		t.Error("the other store's tables have gone, too")
	}
	for i := range 400 {
		wantLarge(t, a, i)
	}
	mustClose(t, a)
	mustClose(t, b)
	if _, err := a.Release(); err == nil {
		t.Error("Release of a closed KV: no error")
	}
}

// setLarge sets a record of 56,000 octets.
func setLarge(t *testing.T, kv *badgerkv.KV, i int) {
	t.Helper()
	if err := kv.Set(numberedKey(i), []byte(largeValue(i)), time.Hour); err != nil {
		t.Fatal(err)
	}
}

func wantLarge(t *testing.T, kv *badgerkv.KV, i int) {
	t.Helper()
	if v, err := kv.Get(numberedKey(i)); err != nil || string(v) != largeValue(i) {
		t.Fatalf("record %d: %d octets, %v", i, len(v), err)
	}
}

func largeValue(i int) string { return strings.Repeat(numberedValue(i), 8) }

// tablesInMemory returns how many octets of tables of a directory are in the process's memory, as the kernel counts.
func tablesInMemory(t *testing.T, dir string) int64 {
	t.Helper()
	smaps, err := os.ReadFile("/proc/self/smaps")
	if err != nil {
		t.Skip("no /proc: ", err)
	}
	var sum, kb int64
	table := false
	for line := range strings.Lines(string(smaps)) {
		if _, _, path, ok := badgerkv.ParseMap(line); ok || strings.Contains(line, "-") {
			table = ok && filepath.Dir(path) == dir && filepath.Ext(path) == ".sst"
		} else if table && strings.HasPrefix(line, "Rss:") {
			fmt.Sscanf(line, "Rss: %d kB", &kb)
			sum += kb << 10
		}
	}
	return sum
}

// TestReleaseWhileBusy releases tables all the time while Badger joins and removes them and memory is in demand:
// nothing that is not a table may change.
func TestReleaseWhileBusy(t *testing.T) {
	kv := open(t, t.TempDir())
	kv.SetMaxSize(1 << 40)
	var wg sync.WaitGroup
	var bells []chan struct{}
	busy := func(f func(i int)) { // f is called for each record, or less often where it is slow
		bell := make(chan struct{}, 1)
		bells = append(bells, bell)
		wg.Go(func() {
			i := 0
			for range bell {
				f(i)
				i++
			}
		})
	}
	releases := 0
	busy(func(int) {
		if _, err := kv.Release(); err != nil {
			t.Errorf("Release: %v", err)
		}
		releases++
	})
	busy(func(i int) { // takes what addresses become free
		b := make([]byte, 4<<20)
		for j := range len(b) / 4096 {
			b[j*4096] = byte(i) | 1
		}
		for j := range len(b) / 4096 {
			if b[j*4096] != byte(i)|1 {
				t.Error("memory was lost")
				return
			}
		}
	})
	r := rand.New(rand.NewPCG(1, 2))
	for i := range 900 { // over and over the same, so that tables are joined
		setLarge(t, kv, i%300)
		wantLarge(t, kv, r.IntN(min(i+1, 300)))
		for _, bell := range bells {
			select {
			case bell <- struct{}{}:
			default:
			}
		}
	}
	for _, bell := range bells {
		close(bell)
	}
	wg.Wait()
	t.Logf("released %d times", releases)
	for i := range 300 {
		wantLarge(t, kv, i)
	}
	mustClose(t, kv)
}

func TestParseMap(t *testing.T) {
	const good = "7f1c4a600000-7f1c4a800000 rw-s 00000000 fe:00 1310742                    /var/my store/000012.sst\n"
	start, end, path, ok := badgerkv.ParseMap(good)
	if start != 0x7f1c4a600000 || end != 0x7f1c4a800000 || path != "/var/my store/000012.sst" || !ok {
		t.Errorf("%x %x %q %v", start, end, path, ok)
	}
	for _, line := range []string{
		"", "\n", "x", strings.Replace(good, "rw-s", "rw-p", 1), strings.Replace(good, "-7f1c", " 7f1c", 1),
		strings.Replace(good, "7f1c4a800000", "7f1c4a600000", 1), "7f1c4a600000-7f1c4a800000 rw-s 00000000 00:00 0 \n",
		strings.Replace(good, "7f1c4a6", "xyz", 1),
		"7f1c4a600000-7f1c4a800000 rw-s 00000000 00:00 0                          [stack]\n", "Rss:   4 kB\n",
	} {
		if _, _, path, ok := badgerkv.ParseMap(line); ok {
			t.Errorf("%q is a map of %q", line, path)
		}
	}
}

// TestResident: however much is read, not much of it stays in memory.
func TestResident(t *testing.T) {
	kv := open(t, t.TempDir())
	for i := range 800 { // 45 MB
		setLarge(t, kv, i)
	}
	before := badgerkv.FilesInMemory()
	if _, err := kv.Release(); err != nil {
		t.Fatal(err)
	}
	base := badgerkv.FilesInMemory()
	var most int64
	for i := range 800 {
		wantLarge(t, kv, i*7919%800)
		most = max(most, badgerkv.FilesInMemory())
	}
	t.Logf("at most %d MiB of files in memory, %d besides tables; %d after writing", most>>20, base>>20, before>>20)
	// The bound, and what is read between two looks, or by Badger.
	if most > base+32<<20 {
		t.Errorf("%d octets of files in memory, of which %d are not tables", most, base)
	}
	mustClose(t, kv)
}
