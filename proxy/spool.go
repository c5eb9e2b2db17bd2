package proxy

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"sync"
	"sync/atomic"
)

// Memory for bodies is taken in chunks, so that nothing is copied when a message
// grows. The first is small, as most messages are; each further one is as large
// as all before it together, so that no more than twice the need is taken.
const (
	minSpoolChunk = 4 << 10
	maxSpoolChunk = 64 << 10
)

// errTooLarge says that a message has more octets than its spool may hold.
var errTooLarge = errors.New("the message is too large")

// A spoolError says that our own storage failed: the message is not at fault,
// and may be sent again later.
type spoolError struct {
	op  string // "create", "write", "read"
	err error
}

func (e *spoolError) Error() string { return fmt.Sprintf("spool: %s: %v", e.op, e.err) }

func (e *spoolError) Unwrap() error { return e.err }

// spools makes the spools of one service and bounds the memory that they take
// together.
type spools struct {
	dir        string // for files; "" is the system's directory for temporary files
	spare      string // where that cannot be written to any more; "" is nowhere
	why        error  // dir is not the one that is meant for them; nil: it is
	perMessage int64
	free       atomic.Int64 // octets of memory that no spool has
	headers    *headerRoom  // for those who look at headers
}

// newSpools returns spools that hold in memory up to perMessage octets of each
// message and up to total octets of all, both counted in whole chunks. The rest
// goes to files in dir.
func newSpools(dir string, perMessage, total int64) *spools {
	s := &spools{dir: dir, perMessage: perMessage}
	s.free.Store(total)
	return s
}

// open returns an empty spool without a limit. The caller closes it.
func (s *spools) open() *spool { return &spool{from: s} }

// take reports whether n octets of memory may be used; if so, they must be
// given back.
func (s *spools) take(n int64) bool {
	if s.free.Add(-n) >= 0 {
		return true
	}
	s.free.Add(n)
	return false
}

func (s *spools) give(n int64) { s.free.Add(n) }

// A spool holds one message body while it passes through: in memory as far as
// that is allowed, and from there on in a file that has no name and so dies with
// the process. It can be read as often as needed, also by several at once and
// while it is written; only one may write.
type spool struct {
	limit int64 // octets that it may hold; 0 = no limit. Set before the first Write.
	from  *spools

	mu     sync.Mutex
	chunks [][]byte // at full length; those before the last are full
	taken  int64    // sum of their lengths
	memory int64    // octets that they hold
	file   *os.File // what does not fit into them, or nil
	filed  int64    // octets that it holds
	err    error    // why nothing more is taken
}

// Size returns how many octets were written.
func (s *spool) Size() int64 {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.memory + s.filed
}

// Write appends p. It fails with errTooLarge, and takes nothing of p, if the
// whole would exceed the limit, and with a *spoolError if it cannot be stored.
// Any failure is final.
func (s *spool) Write(p []byte) (int, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.err != nil {
		return 0, s.err
	}
	// Compared in this way round, since the sum might not fit an int64.
	if s.limit > 0 && int64(len(p)) > s.limit-s.memory-s.filed {
		s.err = errTooLarge
		return 0, s.err
	}
	n := s.remember(p)
	if n == len(p) {
		return n, nil
	}
	filed, err := s.store(p[n:])
	s.err = err
	return n + filed, err
}

// remember appends what it may of p to the chunks and returns how much that is.
func (s *spool) remember(p []byte) int {
	n := 0
	for n < len(p) {
		if s.memory == s.taken && !s.grow(len(p)-n) {
			break
		}
		last := s.chunks[len(s.chunks)-1]
		k := copy(last[len(last)-int(s.taken-s.memory):], p[n:])
		s.memory += int64(k)
		n += k
	}
	return n
}

// grow adds a chunk, best one that holds need octets. Once there is a file there
// are no more chunks: what comes later stands behind it.
func (s *spool) grow(need int) bool {
	if s.file != nil {
		return false
	}
	size := max(minSpoolChunk, s.taken)
	for size < int64(need) && size < maxSpoolChunk {
		size *= 2
	}
	size = min(size, maxSpoolChunk, s.from.perMessage-s.taken)
	if size <= 0 || !s.from.take(size) {
		return false
	}
	s.chunks = append(s.chunks, make([]byte, size))
	s.taken += size
	return true
}

// store appends p to the file.
func (s *spool) store(p []byte) (int, error) {
	if s.file == nil {
		f, err := unnamedFile(s.from.dir)
		if err != nil && s.from.spare != "" {
			f, err = unnamedFile(s.from.spare)
		}
		if err != nil {
			return 0, &spoolError{"create", err}
		}
		s.file = f
	}
	n, err := s.file.WriteAt(p, s.filed)
	s.filed += int64(n)
	if err != nil {
		return n, &spoolError{"write", err}
	}
	return n, nil
}

// unnamedFile opens a file that nobody else can find or read, and that is gone
// when it is closed.
func unnamedFile(dir string) (*os.File, error) {
	f, err := os.CreateTemp(dir, "slipstream-body-*") // mode 0600
	if err != nil {
		return nil, err
	}
	if err := os.Remove(f.Name()); err != nil {
		f.Close() // the file is empty, and the error to tell is that of Remove
		return nil, err
	}
	return f, nil
}

// Reader returns a reader of all that was written so far, from the start. It
// also implements io.WriterTo. After Close it may fail with a *spoolError of
// fs.ErrClosed, but does no harm, so nobody has to wait for it. What could not
// be stored as a whole cannot be read: a reader of a spool that failed has the
// same error. A file that cannot be read is a *spoolError, and so is one that
// ends early.
func (s *spool) Reader() io.Reader {
	s.mu.Lock()
	defer s.mu.Unlock()
	// The writer changes neither these octets nor these slices any more.
	return &spoolReader{chunks: s.chunks, memory: s.memory, file: s.file, filed: s.filed, err: s.err}
}

// Close frees the memory and the file. Closing again does nothing.
func (s *spool) Close() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.from.give(s.taken)
	f := s.file
	s.chunks, s.taken, s.memory, s.file, s.filed = nil, 0, 0, nil, 0
	s.err = &spoolError{"use", fs.ErrClosed}
	if f == nil {
		return nil
	}
	return f.Close()
}

// A spoolReader reads what a spool held when it was made.
type spoolReader struct {
	chunks [][]byte // not read yet
	start  int      // octets of the first that were read
	memory int64    // octets of all that were not
	file   *os.File
	offset int64 // octets of file that were read
	filed  int64 // octets of file that are to be read
	err    error
}

func (r *spoolReader) Read(p []byte) (int, error) {
	switch {
	case r.err != nil:
		return 0, r.err
	case len(p) == 0:
		return 0, nil
	case r.memory > 0:
		n := copy(p, r.chunk())
		r.skip(n)
		return n, nil
	case r.offset < r.filed:
		return r.readFile(p)
	}
	return 0, io.EOF
}

// WriteTo writes what was not read yet to w, chunks as they are.
func (r *spoolReader) WriteTo(w io.Writer) (int64, error) {
	if r.err != nil {
		return 0, r.err
	}
	var written int64
	for r.memory > 0 {
		n, err := writeAll(w, r.chunk())
		written += int64(n)
		r.skip(n)
		if err != nil {
			return written, err
		}
	}
	buf := make([]byte, min(maxSpoolChunk, r.filed-r.offset))
	for r.offset < r.filed {
		k, err := r.readFile(buf)
		if err != nil {
			return written, err
		}
		n, err := writeAll(w, buf[:k])
		written += int64(n)
		if err != nil {
			return written, err
		}
	}
	return written, nil
}

// writeAll does not trust a writer to say that it wrote too little.
func writeAll(w io.Writer, p []byte) (int, error) {
	n, err := w.Write(p)
	if err == nil && n < len(p) {
		err = io.ErrShortWrite
	}
	return n, err
}

// chunk returns what was not read of the first chunk.
func (r *spoolReader) chunk() []byte {
	rest := r.chunks[0][r.start:]
	return rest[:min(int64(len(rest)), r.memory)]
}

// skip moves on by n octets of the first chunk.
func (r *spoolReader) skip(n int) {
	r.memory -= int64(n)
	r.start += n
	if r.start == len(r.chunks[0]) {
		r.chunks, r.start = r.chunks[1:], 0
	}
}

// readFile reads the next octets of the file, of which there are some: its end
// is an error.
func (r *spoolReader) readFile(p []byte) (int, error) {
	p = p[:min(int64(len(p)), r.filed-r.offset)]
	n, err := r.file.ReadAt(p, r.offset)
	r.offset += int64(n)
	if n == len(p) {
		return n, nil
	}
	if err == io.EOF {
		err = io.ErrUnexpectedEOF
	}
	r.err = &spoolError{"read", err}
	return n, r.err
}
