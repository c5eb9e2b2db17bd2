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
	walHeader  = 20           // octets: the number of a data key, and an initial vector
	maxWAL     = 2 * memTable // octets: what Badger makes it. With a longer one its memory table would overflow
	maxWALKey  = 1 << 16
	maxWALText = MaxValue
)

// checkWAL goes through a write-ahead log, which is there when the process did not end in order, and cuts off what is
// behind the last whole record: what was being written then. Badger would take whatever length it reads there for true.
func checkWAL(path string, keys *badger.KeyRegistry) error {
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
	if info.Size() > maxWAL {
		return corrupt(name, "%d octets, more than %d", info.Size(), maxWAL)
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
	return typed(f.Truncate(end))
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
