package proxy

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"testing/iotest"

	"go.uber.org/goleak"
)

// spoolBody returns n octets of which no part looks like another.
func spoolBody(n int) []byte {
	r := rand.New(rand.NewPCG(uint64(n), 0))
	p := make([]byte, n)
	for i := range p {
		p[i] = byte(r.Uint32())
	}
	return p
}

// spoolFull writes body to a new spool, in pieces of at most size octets.
func spoolFull(t *testing.T, from *spools, body []byte, size int) *spool {
	t.Helper()
	s := from.open()
	t.Cleanup(func() { s.Close() })
	for rest := body; len(rest) > 0; {
		k := min(size, len(rest))
		if n, err := s.Write(rest[:k]); n != k || err != nil {
			t.Fatalf("Write of %d = %d, %v", k, n, err)
		}
		rest = rest[k:]
	}
	return s
}

// spoolHolds asserts what a spool gives back, in both ways of reading.
func spoolHolds(t *testing.T, s *spool, want []byte) {
	t.Helper()
	if got := s.Size(); got != int64(len(want)) {
		t.Errorf("Size() = %d, want %d", got, len(want))
	}
	if err := iotest.TestReader(struct{ io.Reader }{s.Reader()}, want); err != nil {
		t.Errorf("Read: %v", err)
	}
	var b bytes.Buffer
	n, err := s.Reader().(io.WriterTo).WriteTo(&b)
	if n != int64(len(want)) || err != nil || !bytes.Equal(b.Bytes(), want) {
		t.Errorf("WriteTo = %d, %v; equal: %v", n, err, bytes.Equal(b.Bytes(), want))
	}
	if len(want) > 1 { // a little by Read, the rest by WriteTo
		r := s.Reader()
		head := make([]byte, len(want)/2)
		if _, err := io.ReadFull(r, head); err != nil {
			t.Errorf("Read: %v", err)
		}
		b.Reset()
		if _, err := r.(io.WriterTo).WriteTo(&b); err != nil || !bytes.Equal(append(head, b.Bytes()...), want) {
			t.Errorf("Read, then WriteTo: not what was written, %v", err)
		}
	}
}

func TestSpool(t *testing.T) {
	const kib = 1 << 10
	tests := []struct {
		name       string
		size       int
		perMessage int64
		total      int64
		memory     int64 // octets held there
		taken      int64 // of the total
	}{
		{"empty", 0, 256 * kib, 1 << 20, 0, 0},
		{"one octet", 1, 256 * kib, 1 << 20, 1, 4 * kib},
		{"one chunk", 4 * kib, 256 * kib, 1 << 20, 4 * kib, 4 * kib},
		{"two chunks", 4*kib + 1, 256 * kib, 1 << 20, 4*kib + 1, 8 * kib},
		{"chunks of all sizes", 200 * kib, 256 * kib, 1 << 20, 200 * kib, 256 * kib},
		{"all its memory", 256 * kib, 256 * kib, 1 << 20, 256 * kib, 256 * kib},
		{"one octet more", 256*kib + 1, 256 * kib, 1 << 20, 256 * kib, 256 * kib},
		{"a large file", 1 << 20, 256 * kib, 1 << 20, 256 * kib, 256 * kib},
		{"tiny limit", 100, 10, 1 << 20, 10, 10},
		{"no memory for messages", 100, 0, 1 << 20, 0, 0},
		{"no memory at all", 100, 10, 0, 0, 0},
		{"budget used up in mid-message", 100 * kib, 256 * kib, 20 * kib, 16 * kib, 16 * kib},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			from := newSpools(t.TempDir(), tt.perMessage, tt.total)
			body := spoolBody(tt.size)
			s := spoolFull(t, from, body, 1000)
			if s.memory != tt.memory || tt.total-from.free.Load() != tt.taken {
				t.Errorf("in memory %d of %d, want %d of %d", s.memory, tt.total-from.free.Load(), tt.memory, tt.taken)
			}
			if inFile := s.file != nil; inFile != (int64(tt.size) > tt.memory) {
				t.Errorf("has a file: %v", inFile)
			}
			spoolHolds(t, s, body)
			spoolHolds(t, s, body)
			for range 2 {
				if err := s.Close(); err != nil {
					t.Errorf("Close: %v", err)
				}
			}
			if got := from.free.Load(); got != tt.total {
				t.Errorf("%d octets are free after Close, want %d", got, tt.total)
			}
		})
	}
}

// However a message is cut, it is the same.
func TestSpoolChunking(t *testing.T) {
	from := newSpools(t.TempDir(), 30000, 1<<20)
	body := spoolBody(50000)
	for _, size := range []int{7, 4096, 4097, 32 << 10, len(body)} {
		s := spoolFull(t, from, body, size)
		spoolHolds(t, s, body)
		s.Close()
	}
}

// A large piece does not go through small chunks first.
func TestSpoolLargeWrite(t *testing.T) {
	from := newSpools(t.TempDir(), 1<<20, 1<<20)
	s := spoolFull(t, from, spoolBody(200<<10), 200<<10)
	var sizes []int
	for _, c := range s.chunks {
		sizes = append(sizes, len(c)>>10)
	}
	if got := fmt.Sprint(sizes); got != "[64 64 64 64]" {
		t.Errorf("chunks of %s KiB, want [64 64 64 64]", got)
	}
}

func TestSpoolFileIsPrivate(t *testing.T) {
	dir := t.TempDir()
	s := spoolFull(t, newSpools(dir, 0, 0), spoolBody(10), 10)
	info, err := s.file.Stat()
	if err != nil {
		t.Fatal(err)
	}
	if mode := info.Mode(); mode != 0o600 {
		t.Errorf("mode %v, want 0600", mode)
	}
	if stat, ok := info.Sys().(*syscall.Stat_t); !ok || stat.Nlink != 0 {
		t.Errorf("the file has a name: %+v", info.Sys())
	}
	if names, err := os.ReadDir(dir); len(names) != 0 || err != nil {
		t.Errorf("directory holds %v, %v; want nothing", names, err)
	}
	if _, err := os.Stat("/proc/self/fd"); err == nil && spoolFiles(t, dir) != 1 {
		t.Errorf("%d open files in the directory, want 1", spoolFiles(t, dir))
	}
	s.Close()
	if got := spoolFiles(t, dir); got != 0 {
		t.Errorf("%d open files after Close", got)
	}
}

func TestSpoolLimit(t *testing.T) {
	for _, perMessage := range []int64{0, 7, 1000} {
		s := newSpools(t.TempDir(), perMessage, 1<<20).open()
		defer s.Close()
		s.limit = 10
		if n, err := s.Write([]byte("0123456789")); n != 10 || err != nil {
			t.Fatalf("Write up to the limit = %d, %v", n, err)
		}
		if n, err := s.Write(nil); n != 0 || err != nil {
			t.Errorf("Write of nothing = %d, %v", n, err)
		}
		spoolHolds(t, s, []byte("0123456789"))
		for _, p := range []string{"x", ""} { // it is final
			if n, err := s.Write([]byte(p)); n != 0 || !errors.Is(err, errTooLarge) {
				t.Errorf("Write(%q) beyond the limit = %d, %v; want 0, %v", p, n, err, errTooLarge)
			}
		}
		if _, err := s.Reader().Read(make([]byte, 1)); !errors.Is(err, errTooLarge) {
			t.Errorf("Read of a part: %v, want %v", err, errTooLarge)
		}
		if got := s.Size(); got != 10 {
			t.Errorf("Size() = %d, want 10", got)
		}
	}
}

// All trouble with the file is of one type, final, and never a shorter message.
func TestSpoolFailure(t *testing.T) {
	missing := func(t *testing.T) *spools {
		return newSpools(filepath.Join(t.TempDir(), "missing"), 4, 100)
	}
	t.Run("no directory", func(t *testing.T) {
		s := missing(t).open()
		defer s.Close()
		n, err := s.Write([]byte("012345"))
		var failed *spoolError
		if n != 4 || !errors.As(err, &failed) || !errors.Is(err, fs.ErrNotExist) {
			t.Errorf("Write = %d, %v; want 4 and a *spoolError of %v", n, err, fs.ErrNotExist)
		}
		if n, again := s.Write([]byte("6")); n != 0 || again != err {
			t.Errorf("second Write = %d, %v; want 0, %v", n, again, err)
		}
		if _, got := io.ReadAll(s.Reader()); got != err {
			t.Errorf("Read: %v, want %v", got, err)
		}
		if _, got := s.Reader().(io.WriterTo).WriteTo(io.Discard); got != err {
			t.Errorf("WriteTo: %v, want %v", got, err)
		}
	})
	t.Run("small messages need no directory", func(t *testing.T) {
		spoolHolds(t, spoolFull(t, missing(t), []byte("0123"), 1), []byte("0123"))
	})
	t.Run("disk full", func(t *testing.T) {
		full, err := os.OpenFile("/dev/full", os.O_RDWR, 0)
		if err != nil {
			t.Skipf("no device that is always full: %v", err)
		}
		s := newSpools("", 4, 100).open()
		defer s.Close()
		s.file = full
		_, err = s.Write([]byte("012345"))
		var failed *spoolError
		if !errors.As(err, &failed) || !errors.Is(err, syscall.ENOSPC) {
			t.Errorf("Write: %v, want a *spoolError of %v", err, syscall.ENOSPC)
		}
		if !strings.HasPrefix(err.Error(), "spool: write: ") {
			t.Errorf("Error() = %q", err)
		}
	})
	t.Run("file lost its end", func(t *testing.T) {
		s := spoolFull(t, newSpools(t.TempDir(), 4, 100), spoolBody(100), 100)
		if err := s.file.Truncate(50); err != nil {
			t.Fatal(err)
		}
		for _, read := range []func(io.Reader) error{
			func(r io.Reader) error { _, err := io.ReadAll(r); return err },
			func(r io.Reader) error { _, err := io.Copy(io.Discard, r); return err },
		} {
			var failed *spoolError
			if err := read(s.Reader()); !errors.As(err, &failed) || !errors.Is(err, io.ErrUnexpectedEOF) {
				t.Errorf("Read: %v, want a *spoolError of %v", err, io.ErrUnexpectedEOF)
			}
		}
	})
	t.Run("closed", func(t *testing.T) {
		from := newSpools(t.TempDir(), 4, 100)
		s := spoolFull(t, from, spoolBody(100), 100)
		before := s.Reader()
		s.Close()
		if _, err := s.Write([]byte("x")); !errors.Is(err, fs.ErrClosed) {
			t.Errorf("Write: %v, want %v", err, fs.ErrClosed)
		}
		for _, r := range []io.Reader{before, s.Reader()} {
			if _, err := io.ReadAll(r); !errors.Is(err, fs.ErrClosed) {
				t.Errorf("Read: %v, want %v", err, fs.ErrClosed)
			}
		}
		if got := from.free.Load(); got != 100 {
			t.Errorf("%d octets are free, want 100", got)
		}
	})
}

// fullWriter is a writer that takes n octets and then fails with err, or takes less
// than it is given and does not say so.
type fullWriter struct {
	n   int
	err error
}

func (w *fullWriter) Write(p []byte) (int, error) {
	k := min(w.n, len(p))
	w.n -= k
	if k < len(p) {
		return k, w.err
	}
	return k, nil
}

// The other side's trouble is not the spool's.
func TestSpoolWriteToFailure(t *testing.T) {
	s := spoolFull(t, newSpools(t.TempDir(), 40, 100), spoolBody(100), 100)
	for _, n := range []int{0, 20, 40, 60} {
		for _, tt := range []struct{ said, want error }{{syscall.EPIPE, syscall.EPIPE}, {nil, io.ErrShortWrite}} {
			written, err := io.Copy(&fullWriter{n, tt.said}, s.Reader())
			if written != int64(n) || err != tt.want {
				t.Errorf("writer full after %d: %d, %v; want %d, %v", n, written, err, n, tt.want)
			}
		}
	}
}

// A reader sees what was written before it was made, whatever is written later.
func TestSpoolReadWhileWritten(t *testing.T) {
	from := newSpools(t.TempDir(), 10000, 1<<20)
	body := spoolBody(20000)
	s := from.open()
	defer s.Close()
	var wg sync.WaitGroup
	for i := 0; i < len(body); i += 100 {
		if _, err := s.Write(body[i : i+100]); err != nil {
			t.Fatal(err)
		}
		r, want := s.Reader(), body[:i+100]
		wg.Go(func() {
			if got, err := io.ReadAll(r); err != nil || !bytes.Equal(got, want) {
				t.Errorf("reader of %d octets: %d, %v", len(want), len(got), err)
			}
		})
	}
	wg.Wait()
}

// Many at once: the budget holds, each message is its own, and nothing is left
// behind.
func TestSpoolConcurrent(t *testing.T) {
	const total = 64 << 10
	from := newSpools(t.TempDir(), 32<<10, total)
	leaks := goleak.IgnoreCurrent()
	var wg sync.WaitGroup
	for i := range 32 {
		wg.Go(func() {
			for round := range 10 {
				body := spoolBody((i*10+round)*311 + 1)
				s := from.open()
				for rest := body; len(rest) > 0; {
					k := min(3000, len(rest))
					if _, err := s.Write(rest[:k]); err != nil {
						t.Error(err)
					}
					rest = rest[k:]
					if free := from.free.Load(); free > total {
						t.Errorf("%d octets free of %d", free, total)
					}
				}
				if s.taken > 32<<10 {
					t.Errorf("one message took %d octets of memory", s.taken)
				}
				var b bytes.Buffer
				if _, err := io.Copy(&b, s.Reader()); err != nil || !bytes.Equal(b.Bytes(), body) {
					t.Errorf("read %d of %d octets, %v", b.Len(), len(body), err)
				}
				if err := s.Close(); err != nil {
					t.Error(err)
				}
			}
		})
	}
	wg.Wait()
	if got := from.free.Load(); got != total {
		t.Errorf("%d octets are free at the end, want %d", got, total)
	}
	if names, err := os.ReadDir(from.dir); len(names) != 0 || err != nil {
		t.Errorf("directory holds %v, %v; want nothing", names, err)
	}
	goleak.VerifyNone(t, leaks)
	if got := spoolFiles(t, from.dir); got != 0 {
		t.Errorf("%d files are still open", got)
	}
}

// spoolFiles counts the files in dir, with or without a name, that this process
// has open.
func spoolFiles(t *testing.T, dir string) int {
	t.Helper()
	const open = "/proc/self/fd"
	names, err := os.ReadDir(open)
	if err != nil {
		t.Logf("open files are not counted: %v", err)
		return 0
	}
	n := 0
	for _, name := range names {
		target, err := os.Readlink(filepath.Join(open, name.Name()))
		if err == nil && strings.HasPrefix(target, dir+"/") {
			n++
		}
	}
	return n
}

func BenchmarkSpool(b *testing.B) {
	for _, size := range []int{4 << 10, 256 << 10, 1 << 20} {
		b.Run(fmt.Sprintf("%dKiB", size>>10), func(b *testing.B) {
			from := newSpools(b.TempDir(), 256<<10, 64<<20)
			body := spoolBody(size)
			b.ReportAllocs()
			b.SetBytes(int64(size))
			for b.Loop() {
				s := from.open()
				for rest := body; len(rest) > 0; {
					k := min(32<<10, len(rest))
					s.Write(rest[:k])
					rest = rest[k:]
				}
				if n, err := io.Copy(io.Discard, s.Reader()); n != int64(size) || err != nil {
					b.Fatal(n, err)
				}
				s.Close()
			}
		})
	}
}
