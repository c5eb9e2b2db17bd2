package badgerkv

import (
	"bytes"
	"crypto/aes"
	"crypto/cipher"
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"os"
	"path/filepath"
	"sync"

	"github.com/dgraph-io/badger/v4"
	"github.com/dgraph-io/badger/v4/fb"
)

const (
	checkers = 2       // tables that are checked at once
	maxTable = 1 << 30 // octets
	maxBlock = 4 << 20 // octets of a block, which has 4 KiB or one record
)

// inParallel calls f for all tables, a few at a time, and returns the first error.
func inParallel(tables map[uint64]badger.TableManifest, f func(uint64, badger.TableManifest) error) error {
	ids := make(chan uint64, len(tables))
	for id := range tables {
		ids <- id
	}
	close(ids)
	errs := make([]error, checkers)
	var wg sync.WaitGroup
	for i := range checkers {
		wg.Go(func() {
			for id := range ids {
				if errs[i] = guarded(func() error { return f(id, tables[id]) }); errs[i] != nil {
					return
				}
			}
		})
	}
	wg.Wait()
	return errors.Join(errs...)
}

// A tableFile is a file of Badger's: sealed blocks, the sealed index of them, its length, and its checksum with that of
// the checksum behind it. Numbers are in network order.
type tableFile struct {
	*os.File
	name  string
	size  int64
	block cipher.Block
	buf   []byte // what was read last
}

// checkTable reads a whole table: its index must be as it was written, and so must every block, and there must be
// nothing between them.
func checkTable(path string, key []byte) error {
	t := &tableFile{name: filepath.Base(path)}
	var err error
	if t.block, err = aes.NewCipher(key); err != nil {
		return corrupt(registryName, "%v", err)
	}
	if t.File, err = os.Open(path); err != nil {
		return typed(err)
	}
	defer t.Close()
	info, err := t.Stat()
	if err != nil {
		return typed(err)
	}
	if t.size = info.Size(); t.size > maxTable {
		return corrupt(t.name, "%d octets", t.size)
	}
	data, end, err := t.readIndex()
	if err != nil {
		return err
	}
	// The index has a checksum, so that it has not come to harm by chance; were it made up, guarded would catch it.
	index := fb.GetRootAsTableIndex(data, 0)
	var at int64
	for i := range index.OffsetsLength() {
		var o fb.BlockOffset
		if !index.Offsets(&o, i) || int64(o.Offset()) != at {
			return corrupt(t.name, "block %d is not at %d", i, at)
		}
		if err := t.checkBlock(at, int64(o.Len())); err != nil {
			return err
		}
		at += int64(o.Len())
	}
	if at != end || at == 0 {
		return corrupt(t.name, "blocks end at %d, not at %d", at, end)
	}
	return nil
}

// readIndex returns the index, unsealed, and where it begins.
func (t *tableFile) readIndex() (index []byte, start int64, err error) {
	sum, at, err := t.readBack(t.size, 16)
	if err != nil {
		return nil, 0, err
	}
	want, ok := checksum(bytes.Clone(sum))
	if !ok {
		return nil, 0, corrupt(t.name, "no checksum at the end")
	}
	sealed, start, err := t.readBack(at, at)
	if err != nil {
		return nil, 0, err
	}
	if crc32.Checksum(sealed, castagnoli()) != want {
		return nil, 0, corrupt(t.name, "the index is damaged")
	}
	plain, ok := t.unseal(sealed)
	if !ok {
		return nil, 0, corrupt(t.name, "the index is too short")
	}
	return bytes.Clone(plain), start, nil
}

// readBack reads what ends at an offset with its own length, which may not be more than limit, and returns where it
// begins.
func (t *tableFile) readBack(end, limit int64) (b []byte, start int64, err error) {
	const head = 4
	if end < head {
		return nil, 0, corrupt(t.name, "%d octets, too short", t.size)
	}
	if b, err = t.read(end-head, head); err != nil {
		return nil, 0, err
	}
	n := int64(binary.BigEndian.Uint32(b))
	if n > limit || n > end-head {
		return nil, 0, corrupt(t.name, "a length of %d at %d", n, end-head)
	}
	start = end - head - n
	b, err = t.read(start, n)
	return b, start, err
}

// checkBlock unseals a block and compares its checksum, which ends it, as in the file.
func (t *tableFile) checkBlock(at, n int64) error {
	if n > maxBlock || at+n > t.size {
		return corrupt(t.name, "a block of %d octets at %d", n, at)
	}
	sealed, err := t.read(at, n)
	if err != nil {
		return err
	}
	if b, ok := t.unseal(sealed); ok {
		if sum, rest, ok := cutBack(b); ok {
			if want, ok := checksum(sum); ok && crc32.Checksum(rest, castagnoli()) == want {
				return nil
			}
		}
	}
	return corrupt(t.name, "the block at %d is damaged", at)
}

// cutBack takes off the end what ends with its own length.
func cutBack(b []byte) (last, rest []byte, ok bool) {
	const head = 4
	if len(b) < head {
		return nil, nil, false
	}
	b, n := b[:len(b)-head], binary.BigEndian.Uint32(b[len(b)-head:])
	if uint64(n) > uint64(len(b)) {
		return nil, nil, false
	}
	return b[len(b)-int(n):], b[:len(b)-int(n)], true
}

// unseal decrypts b in place. Its initial vector is behind it.
func (t *tableFile) unseal(b []byte) ([]byte, bool) {
	if len(b) < aes.BlockSize {
		return nil, false
	}
	b, iv := b[:len(b)-aes.BlockSize], b[len(b)-aes.BlockSize:]
	cipher.NewCTR(t.block, iv).XORKeyStream(b, b)
	return b, true
}

// read returns octets of the file, until the next read.
func (t *tableFile) read(at, n int64) ([]byte, error) {
	if int64(cap(t.buf)) < n {
		t.buf = make([]byte, n, n+n/2)
	}
	b := t.buf[:n]
	if _, err := t.ReadAt(b, at); err != nil {
		return nil, fmt.Errorf("%w: %w", corrupt(t.name, "cannot be read at %d", at), err)
	}
	return b, nil
}

// checksum reads a checksum message of protocol buffers as Badger writes it: CRC-32C, which is not told since it is the
// first of its kind, and the sum, unless it is zero.
func checksum(b []byte) (sum uint32, ok bool) {
	const field2varint = 2 << 3
	if len(b) == 0 {
		return 0, true
	}
	v, n := binary.Uvarint(b[1:])
	return uint32(v), b[0] == field2varint && n > 0 && n == len(b)-1 && v == uint64(uint32(v))
}
