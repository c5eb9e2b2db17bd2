package badgerkv_test

import (
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"slipstream/tlsstore/badgerkv"
)

const damageRecords = 12

// TestDamage damages every file in many places, in a directory that was closed in order and in one that was not. In a
// child, so that it can be told when Badger ends the process.
func TestDamage(t *testing.T) {
	if testing.Short() {
		t.Skip("takes some seconds; not with -short")
	}
	for _, killed := range []bool{false, true} {
		t.Run(map[bool]string{false: "closed", true: "killed"}[killed], func(t *testing.T) {
			dir := filepath.Join(t.TempDir(), "db")
			for range 6 { // so many that Badger joins the first tables
				kv := open(t, dir)
				if err := fill(kv); err != nil {
					t.Fatal(err)
				}
				if err := kv.Close(); err != nil {
					t.Fatal(err)
				}
			}
			if killed { // with what was written last in a write-ahead log
				c := talk(t, "fill", dir)
				c.line(t)
				if err := c.Process.Kill(); err != nil {
					t.Fatal(err)
				}
				c.Wait()
			}
			base := filepath.Join(t.TempDir(), "db")
			if err := copyDir(base, dir); err != nil {
				t.Fatal(err)
			}
			out := run(t, "damage", base)
			t.Log(out[strings.LastIndex(out, "case:"):])
		})
	}
}

// copyDir copies a directory of Badger's, without the holes at the end of its files. Tables are linked: nobody writes
// to them.
func copyDir(to, from string) error {
	entries, err := os.ReadDir(from)
	if err != nil {
		return err
	}
	if err := os.MkdirAll(to, 0o700); err != nil {
		return err
	}
	for _, e := range entries {
		from, to := filepath.Join(from, e.Name()), filepath.Join(to, e.Name())
		if filepath.Ext(from) == ".sst" {
			err = os.Link(from, to)
		} else {
			err = copyFile(to, from)
		}
		if err != nil {
			return err
		}
	}
	return nil
}

func copyFile(to, from string) error {
	b, err := os.ReadFile(from)
	if err != nil {
		return err
	}
	end := len(b)
	for end > 0 && b[end-1] == 0 {
		end--
	}
	return os.WriteFile(to, b[:min(len(b), end+100)], 0o600)
}

func fill(kv *badgerkv.KV) error {
	for i := range damageRecords {
		if err := kv.Set(numberedKey(i), []byte(numberedValue(i)), time.Hour); err != nil {
			return err
		}
	}
	return nil
}

// childFill waits to be killed once it has written.
func childFill(dir string) error {
	kv, err := openChild(dir)
	if err != nil {
		return err
	}
	if err := fill(kv); err != nil {
		return err
	}
	fmt.Println("filled")
	_, err = io.Copy(io.Discard, os.Stdin)
	return err
}

// A harm is something that was done to a file.
type harm struct {
	file, what string
	do         func(path string) error
	often      bool // others are much like it
}

// harms lists what is done to a file of a size. Both ends are where the lengths are, and small files matter throughout.
func harms(file string, size int64) []harm {
	r := rand.New(rand.NewPCG(uint64(len(file)), uint64(size)))
	ends, inside := int64(30), 10
	switch {
	case unneeded(file):
		ends, inside = 1, 1
	case filepath.Ext(file) == ".mem": // these are opened nearly always, which takes its time
		ends, inside = 8, 6
	}
	var places []int64
	for i := range min(size, ends) {
		places = append(places, i, size-1-i)
	}
	for range inside {
		places = append(places, r.Int64N(max(size, 1)))
	}
	slices.Sort(places)
	var all []harm
	for _, at := range slices.Compact(places) {
		if at < 0 || at >= size {
			continue
		}
		bit := byte(1) << r.IntN(8)
		all = append(all, harm{file, fmt.Sprintf("octet %d xor %#x", at, bit), func(path string) error {
			return flip(path, at, bit)
		}, at%8 != 0})
	}
	cuts := []int64{0, 1, 19, 20, 21, 28, size / 3, size / 2, size - 20, size - 5, size - 1}
	for i, n := range cuts {
		if n >= 0 && n < size && (i%4 == 0 || !unneeded(file)) {
			all = append(all, harm{file, fmt.Sprintf("cut to %d", n), func(path string) error {
				return os.Truncate(path, n)
			}, i%4 != 0})
		}
	}
	return append(all,
		harm{file, "removed", os.Remove, false},
		harm{file, "longer", func(path string) error { return appendTo(path, "\x00\x00\x00\x10and more") }, false},
		harm{file, "noise", func(path string) error { return os.WriteFile(path, noise(r, 3000), 0o600) }, false},
	)
}

func noise(r *rand.Rand, n int) []byte {
	b := make([]byte, n)
	for i := range b {
		b[i] = byte(r.Uint32())
	}
	return b
}

func flip(path string, at int64, bit byte) error {
	f, err := os.OpenFile(path, os.O_RDWR, 0)
	if err != nil {
		return err
	}
	defer f.Close()
	var b [1]byte
	if _, err := f.ReadAt(b[:], at); err != nil {
		return err
	}
	b[0] ^= bit
	_, err = f.WriteAt(b[:], at)
	return err
}

func appendTo(path, what string) error {
	f, err := os.OpenFile(path, os.O_WRONLY|os.O_APPEND, 0)
	if err != nil {
		return err
	}
	_, err = f.WriteString(what)
	return errors.Join(err, f.Close())
}

// childDamage harms copies of a directory, and tells how often they were opened all the same.
func childDamage(dir string) error {
	entries, err := os.ReadDir(dir)
	if err != nil {
		return err
	}
	killed := slices.ContainsFunc(entries, func(e os.DirEntry) bool { return filepath.Ext(e.Name()) == ".mem" })
	var refused, opened int
	var tally strings.Builder
	for _, e := range entries {
		if n, _ := strconv.Atoi(strings.TrimSuffix(e.Name(), ".sst")); n > 1 && n < 6 {
			continue // like the first
		}
		if killed && filepath.Ext(e.Name()) != ".mem" && e.Name() != "MANIFEST" {
			continue // like in a directory that was closed
		}
		info, err := e.Info()
		if err != nil {
			return err
		}
		refused, opened = 0, 0
		for _, h := range harms(e.Name(), info.Size()) {
			fmt.Fprintln(os.Stdout, "case:", h.file, h.what)
			was, err := suffer(dir, h)
			if err != nil {
				return fmt.Errorf("%s, %s: %w", h.file, h.what, err)
			}
			if was {
				opened++
			} else {
				refused++
			}
		}
		fmt.Fprintf(&tally, "%s (%d octets): harmed %d times, refused %d, opened %d\n",
			e.Name(), info.Size(), refused+opened, refused, opened)
	}
	fmt.Print(tally.String())
	return nil
}

// suffer harms a copy of a directory, and uses it.
func suffer(dir string, h harm) (opened bool, err error) {
	parent, err := os.MkdirTemp(filepath.Dir(dir), "harmed-")
	if err != nil {
		return false, err
	}
	defer os.RemoveAll(parent)
	dir2 := filepath.Join(parent, "db")
	if err := copyDir(dir2, dir); err != nil {
		return false, err
	}
	file := filepath.Join(dir2, h.file)
	if err := errors.Join(os.Remove(file), copyFile(file, filepath.Join(dir, h.file)), h.do(file)); err != nil {
		return false, err
	}
	o := badgerkv.Options{Dir: dir2, Key: testKey}
	kv, err := badgerkv.Open(o)
	opened = err == nil
	if err := mustRefuse(h, opened); err != nil {
		return opened, err
	}
	if !opened {
		if !errors.Is(err, badgerkv.ErrCorrupt) && !errors.Is(err, badgerkv.ErrKey) {
			return opened, fmt.Errorf("not what it is: %w", err)
		}
		if h.often {
			return opened, nil
		}
		if kv, err = openBeside(o); err != nil {
			return opened, err
		}
	}
	if err := sound(kv); err != nil {
		return opened, err
	}
	for i := range 10 {
		if err := kv.Set(numberedKey(i), []byte(numberedValue(i)), time.Hour); err != nil {
			return opened, err
		}
	}
	return opened, errors.Join(sound(kv), kv.Close())
}

// openBeside opens what was refused: it must be put aside.
func openBeside(o badgerkv.Options) (*badgerkv.KV, error) {
	kv, warnings := badgerkv.OpenAny(o)
	disk, ok := kv.(*badgerkv.KV)
	if !ok || len(warnings) == 0 {
		return nil, fmt.Errorf("not on disk, or without a warning: %q", warnings)
	}
	_, err := os.Stat(o.Dir + ".bad")
	return disk, err
}

// mustRefuse: there is no octet in these files that may change unnoticed.
func mustRefuse(h harm, opened bool) error {
	switch {
	case h.file == "MANIFEST" && strings.HasPrefix(h.what, "cut"):
		// It may end between two records, as it did once.
	case filepath.Ext(h.file) == ".sst", h.file == "MANIFEST", h.file == "KEYREGISTRY":
		if opened {
			return errors.New("nobody noticed")
		}
	case unneeded(h.file):
		if !opened {
			return errors.New("refused for a file that nobody needs")
		}
	}
	return nil
}

// unneeded says whether a file may be lost.
func unneeded(file string) bool { return filepath.Ext(file) == ".vlog" || file == "DISCARD" }
