package badgerkv

import (
	"bytes"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"

	"github.com/dgraph-io/badger/v4"
	"golang.org/x/sys/unix"
)

// Badger reads its tables through memory maps. What was read once stays in the process's memory until the kernel is
// short of it, and with each page come fifteen beside it, so that a store of which a little is read here and there is
// soon there as a whole. So from time to time the kernel is told that we do not need it: it stays in the page cache,
// from where it is mapped again within a microsecond, and which counts for nobody.

const (
	residentOctets = 12 << 20 // of tables, about, that may be in the process's memory
	residentEvery  = 16       // so many times the database is used before we look again
)

// resident remembers how much of the process's memory is files.
type resident struct {
	uses atomic.Uint64

	mu   sync.Mutex // held while we look
	base int64      // the least octets of files in memory since tables were released last
}

// limitResident gives memory back where much has been taken. It is called after the database was used.
func (k *KV) limitResident() {
	r := &k.resident
	if r.uses.Add(1)%residentEvery != 0 || !r.mu.TryLock() {
		return
	}
	defer r.mu.Unlock()
	now := filesInMemory()
	if r.base = min(r.base, now); now <= r.base+residentOctets {
		return
	}
	// Where it fails, as with memory that is locked, nothing is lost but memory.
	_ = k.hold(k.release)
	r.base = filesInMemory()
}

// filesInMemory returns how many octets of files are in the process's memory: tables, logs and the program. 0 where
// the kernel does not say.
func filesInMemory() int64 {
	b, err := os.ReadFile("/proc/self/statm") // in pages: all of it, what is in memory, what of that is files
	if err != nil {
		return 0
	}
	var all, here, files int64
	if _, err := fmt.Sscan(string(b), &all, &here, &files); err != nil {
		return 0
	}
	return files * int64(os.Getpagesize())
}

// release tells the kernel that the tables need not be in the process's memory.
//
// Were a table unmapped by Badger meanwhile, its addresses might belong to something else, and that would be lost. So
// an iterator holds on to the tables, as it does while they are read. Which ones these are it does not say: those that
// were in the database both before and after it was made, since none that has left comes back.
func (k *KV) release(db *badger.DB) error {
	before := tableIDs(db)
	return db.View(func(txn *badger.Txn) error {
		o := badger.DefaultIteratorOptions
		o.PrefetchValues = false
		defer txn.NewIterator(o).Close()
		held := tableIDs(db)
		for id := range held {
			if !before[id] {
				delete(held, id)
			}
		}
		return k.releaseTables(held)
	})
}

func tableIDs(db *badger.DB) map[uint64]bool {
	ids := make(map[uint64]bool)
	for _, t := range db.Tables() {
		ids[t.ID] = true
	}
	return ids
}

// releaseTables looks for the tables among the process's maps. The directory is ours alone, so that nobody but Badger
// maps a file of that path.
func (k *KV) releaseTables(held map[uint64]bool) error {
	// The kernel's word for the path, as in maps: the directory may have been moved, or named by way of a link.
	dir, err := os.Readlink(fmt.Sprintf("/proc/self/fd/%d", k.lock.Fd()))
	if err != nil {
		return err
	}
	maps, err := os.ReadFile("/proc/self/maps")
	if err != nil {
		return err
	}
	for line := range bytes.Lines(maps) {
		m, ok := parseMap(string(line))
		if !ok || filepath.Dir(m.path) != dir {
			continue
		}
		name := filepath.Base(m.path)
		id, err := strconv.ParseUint(strings.TrimSuffix(name, tableExt), 10, 64)
		if err != nil || filepath.Ext(name) != tableExt || !held[id] {
			continue
		}
		if _, _, errno := unix.Syscall(unix.SYS_MADVISE, m.start, m.end-m.start, unix.MADV_DONTNEED); errno != 0 {
			return errno
		}
	}
	return nil
}

// A mapping is a file, or part of one, in the process's memory, that is shared with the file: what was changed there is
// not lost when the memory is given back.
type mapping struct {
	start, end uintptr
	path       string
}

// parseMap takes a line of /proc/self/maps apart.
//
//	7f1c4a600000-7f1c4a800000 rw-s 00000000 fe:00 1310742                    /var/lib/slipstream/store/000012.sst
func parseMap(line string) (mapping, bool) {
	const columns = 6
	fields := strings.SplitN(strings.TrimSuffix(line, "\n"), " ", columns)
	if len(fields) < columns || len(fields[1]) != 4 || fields[1][3] != 's' {
		return mapping{}, false
	}
	from, to, _ := strings.Cut(fields[0], "-")
	start, err1 := strconv.ParseUint(from, 16, strconv.IntSize)
	end, err2 := strconv.ParseUint(to, 16, strconv.IntSize)
	m := mapping{uintptr(start), uintptr(end), strings.TrimLeft(fields[5], " ")}
	return m, err1 == nil && err2 == nil && m.start < m.end && filepath.IsAbs(m.path)
}
