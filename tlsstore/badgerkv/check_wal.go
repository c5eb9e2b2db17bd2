package badgerkv

import (
	"bufio"
	"encoding/binary"
	"errors"
	"hash/crc32"
	"io"
	"os"
	"path/filepath"

	"github.com/dgraph-io/badger/v4"
)

const (
	walHeader  = 20 // octets: the number of a data key, and an initial vector
	maxWALKey  = 1 << 16
	maxWALText = MaxValue
)

// checkWAL goes through a write-ahead log, which is there when the process did not end in order, and cuts off what is
// behind the last whole record: what was being written then. Badger would take whatever length it reads there for true.
func checkWAL(o Options, path string, keys *badger.KeyRegistry) error {
	name := filepath.Base(path)
	f, err := os.OpenFile(path, os.O_RDWR, 0)
	if err != nil {
		return typed(err)
	}
	defer f.Close()
	info, err := f.Stat()
	if err != nil {
		return typed(err)
	}
	if info.Size() > o.maxWAL() {
		return corrupt(name, "%d octets, more than %d", info.Size(), o.maxWAL())
	}
	r := bufio.NewReaderSize(f, 64<<10)
	var header [walHeader]byte
	if _, err := io.ReadFull(r, header[:]); errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) {
		return typed(os.Remove(path)) // nothing was written to it
	} else if err != nil {
		return corrupt(name, "%v", err)
	}
	id := binary.BigEndian.Uint64(header[:])
	if id == 0 {
		return typed(os.Remove(path)) // as it was made, before its header
	}
	if _, err := dataKey(keys, id); err != nil {
		return corrupt(name, "%v", err)
	}
	end := int64(walHeader)
	for {
		n, err := walRecord(r)
		if errors.Is(err, errTorn) || errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) {
			break
		} else if err != nil {
			return corrupt(name, "%v", err)
		}
		end += n
	}
	if end == info.Size() {
		return nil
	}
	if o.Sync {
		warnTorn(o, f, end)
	}
	return typed(f.Truncate(end))
}

// warnTorn tells of what is cut off, where that matters. Behind the last record there are zeros, unless something was
// being written, which nobody counts on, or was damaged.
func warnTorn(o Options, f *os.File, end int64) {
	if _, err := f.Seek(end, io.SeekStart); err != nil {
		return // it cannot be read, which Badger will find, too
	}
	n := 0
	for r := bufio.NewReaderSize(f, 64<<10); ; {
		c, err := r.ReadByte()
		if err != nil {
			break
		}
		if c != 0 {
			n++
		}
	}
	if n > 0 {
		logger{o.Log}.Warningf("the log %s could not be read behind octet %d, and was cut off there: if the process or the "+
			"machine ended in the middle of a write, that is all that is lost; else the disk has damaged what was written",
			f.Name(), end)
	}
}

var errTorn = errors.New("torn")

// walRecord reads a record: two octets of flags, the lengths of key and value, when it is over, key and value, and the
// CRC of all that. It returns how long it is.
func walRecord(r *bufio.Reader) (int64, error) {
	h := &hashing{r: r}
	h.octet()
	h.octet()
	key, value, _ := h.number(), h.number(), h.number()
	switch {
	case h.err != nil:
		return 0, h.err
	case key == 0, key > maxWALKey, value > maxWALText:
		return 0, errTorn
	}
	for n := int(key + value); n > 0 && h.err == nil; {
		n -= h.some(n)
	}
	var sum [crc32.Size]byte
	if h.err != nil {
		return 0, h.err
	}
	if _, err := io.ReadFull(r, sum[:]); err != nil {
		return 0, err
	}
	if binary.BigEndian.Uint32(sum[:]) != h.sum {
		return 0, errTorn
	}
	return h.n + crc32.Size, nil
}

// hashing reads, and follows the CRC of what it has read.
type hashing struct {
	r   *bufio.Reader
	sum uint32
	n   int64
	err error
}

func (h *hashing) octet() byte {
	if h.err != nil {
		return 0
	}
	b, err := h.r.ReadByte()
	if err != nil {
		h.err = err
		return 0
	}
	h.took([]byte{b})
	return b
}

// number reads a varint.
func (h *hashing) number() uint64 {
	var v uint64
	for shift := 0; shift < 64; shift += 7 {
		b := h.octet()
		v |= uint64(b&0x7f) << shift
		if b < 0x80 {
			return v
		}
	}
	if h.err == nil {
		h.err = errTorn
	}
	return 0
}

// some reads up to n octets, and says how many.
func (h *hashing) some(n int) int {
	b, err := h.r.Peek(min(n, h.r.Size()))
	if len(b) == 0 {
		h.err = err
		return 0
	}
	h.took(b)
	if _, err := h.r.Discard(len(b)); err != nil {
		h.err = err
	}
	return len(b)
}

func (h *hashing) took(b []byte) {
	h.sum = crc32.Update(h.sum, castagnoli(), b)
	h.n += int64(len(b))
}
