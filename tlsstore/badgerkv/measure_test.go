package badgerkv_test

import (
	"fmt"
	"math/rand/v2"
	"os"
	"runtime/debug"
	"slices"
	"strings"
	"testing"
	"time"

	"slipstream/tlsstore/badgerkv"
)

const (
	million   = 1_000_000
	recordLen = 300
)

// BenchmarkMillion measures what a store with a million records of 300 octets takes: the time to open it, the memory,
// and the time of a Get. It takes minutes; run it with -benchtime 1x.
func BenchmarkMillion(b *testing.B) {
	dir := b.TempDir()
	kv, err := badgerkv.Open(badgerkv.Options{Dir: dir, Key: testKey, MaxSize: 2 << 30})
	if err != nil {
		b.Fatal(err)
	}
	start := time.Now()
	value := noise(rand.New(rand.NewPCG(1, 2)), recordLen)
	for i := range million {
		if err := kv.Set(hashedKey(i), value, 24*time.Hour); err != nil {
			b.Fatal(err)
		}
	}
	b.Logf("%.1f µs per Set", float64(time.Since(start).Microseconds())/million)
	start = time.Now()
	if err := kv.Close(); err != nil {
		b.Fatal(err)
	}
	b.Logf("closed in %v", time.Since(start))
	b.Log("while Badger still joins tables:\n", run(b, "measure", dir))
	for b.Loop() {
		b.Log(run(b, "measure", dir))
	}
}

// hashedKey is as evenly spread as a digest, and as long.
func hashedKey(i int) []byte {
	r := rand.NewPCG(uint64(i), 7)
	return fmt.Appendf(nil, "s%016x%016x", r.Uint64(), r.Uint64())[:17]
}

func childMeasure(dir string) error {
	start := time.Now()
	kv, err := badgerkv.Open(badgerkv.Options{Dir: dir, Key: testKey, MaxSize: 2 << 30})
	if err != nil {
		return err
	}
	fmt.Printf("opened in %v, %d MiB on disk\n", time.Since(start).Round(time.Millisecond), kv.Size()>>20)
	memory("after opening")
	r := rand.New(rand.NewPCG(3, 4))
	for _, known := range []bool{true, false} {
		took := make([]time.Duration, 100_000)
		for i := range took {
			key := hashedKey(r.IntN(million))
			if !known {
				key = hashedKey(million + i)
			}
			start := time.Now()
			_, err := kv.Get(key)
			took[i] = time.Since(start)
			if (err == nil) != known {
				return fmt.Errorf("Get: %w", err)
			}
		}
		slices.Sort(took)
		at := func(p int) time.Duration { return took[len(took)*p/1000] }
		fmt.Printf("Get, there: %v: p50 %v, p99 %v, p99.9 %v\n", known, at(500), at(990), at(999))
	}
	memory("after 200,000 Gets")
	debug.FreeOSMemory()
	memory("and with what is free given back")
	return kv.Close()
}

// memory tells of the process's memory, as Linux does.
func memory(when string) {
	b, _ := os.ReadFile("/proc/self/status")
	for line := range strings.Lines(string(b)) {
		if name, value, _ := strings.Cut(line, ":"); strings.HasPrefix(name, "Rss") || name == "VmRSS" {
			fmt.Printf("%s: %s %s\n", when, name, strings.TrimSpace(value))
		}
	}
}
