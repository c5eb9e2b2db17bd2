package badgerkv

import (
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/dgraph-io/badger/v4"
)

// Badger trusts its files: a damaged one makes it panic in goroutines of its own, where nobody can recover, or ends the
// process. So every octet is looked at before Badger is let loose on it: tables, registry and manifest must be whole,
// and a write-ahead log is cut behind its last whole record. What is left out has no use for us: see [files.strays].

// Names of Badger's files.
const (
	manifestName = badger.ManifestFilename
	registryName = badger.KeyRegistryFileName
	discardName  = "DISCARD"
	lockName     = "LOCK"
	probePrefix  = ".probe-" // ours, to see whether a file can be made
	tableExt     = ".sst"
	walExt       = ".mem"
	valueLogExt  = ".vlog"

	maxRegistry = 64 << 10 // octets of the key registry: a data key takes some 70
	maxManifest = 16 << 20 // octets of the manifest, which is rewritten when it has 10,000 changes to lose
	maxFiles    = 20_000
)

// files are what lies in a directory, by name and in order.
type files struct {
	manifest, registry bool
	tables, wals       []string
	strays             []string // may be removed: what is made anew, or was left half-made
}

// list looks at a directory. A name that is not one of Badger's is ErrForeign, but for those that file systems leave
// there.
func list(dir string) (files, error) {
	var found files
	entries, err := os.ReadDir(dir)
	if err != nil {
		return found, typed(err)
	}
	if len(entries) > maxFiles {
		return found, fmt.Errorf("%w: %s: %d files", ErrForeign, dir, len(entries))
	}
	for _, e := range entries {
		name := e.Name()
		known := e.Type().IsRegular()
		switch ext := filepath.Ext(name); {
		case name == "lost+found" && e.IsDir(), strings.HasPrefix(name, ".nfs"):
			continue
		case strings.HasPrefix(name, probePrefix):
			found.strays = append(found.strays, name)
		case name == manifestName:
			found.manifest = true
		case name == registryName:
			found.registry = true
		case name == discardName, name == lockName, name == "MANIFEST-REWRITE", name == "REWRITE-KEYREGISTRY":
			found.strays = append(found.strays, name)
		case ext == tableExt && numbered(name, ext):
			found.tables = append(found.tables, name)
		case ext == walExt && numbered(name, ext):
			found.wals = append(found.wals, name)
		case ext == valueLogExt && numbered(name, ext):
			found.strays = append(found.strays, name)
		default:
			known = false
		}
		if !known {
			return found, fmt.Errorf("%w: %s", ErrForeign, filepath.Join(dir, name))
		}
	}
	return found, nil
}

// numbered says whether a name is a number that Badger would have written, in front of an extension.
func numbered(name, ext string) bool {
	digits := strings.TrimSuffix(name, ext)
	return len(digits) >= 5 && len(digits) <= 9 && strings.Trim(digits, "0123456789") == ""
}

// check makes sure that Badger can open what was found in a directory, or says why not. What is of no use is removed.
func check(o Options, found files) error {
	for _, name := range found.strays {
		if err := os.Remove(filepath.Join(o.Dir, name)); err != nil {
			return typed(err)
		}
	}
	switch {
	case !found.registry && (found.manifest || len(found.tables) > 0 || len(found.wals) > 0):
		return corrupt(registryName, "missing")
	case !found.manifest && (len(found.tables) > 0 || len(found.wals) > 0):
		return corrupt(manifestName, "missing")
	}
	if found.registry {
		if err := checkRegistry(filepath.Join(o.Dir, registryName)); err != nil {
			return err
		}
	}
	keys, err := dataKeys(o, found.registry)
	if err != nil {
		return err
	}
	if found.manifest {
		if err := checkTables(o, keys, found.tables); err != nil {
			return err
		}
	}
	for _, name := range found.wals {
		if err := checkWAL(o, filepath.Join(o.Dir, name), keys); err != nil {
			return err
		}
	}
	return nil
}

// checkRegistry walks through the key registry: an initial vector, a sealed text by which a wrong key is found out, and
// data keys, each behind its length and its CRC. Badger would read as many octets as a damaged length says.
func checkRegistry(path string) error {
	const head, sanity = 16, 12
	b, err := readSmall(path, maxRegistry)
	if err != nil {
		return err
	}
	if len(b) < head+sanity {
		return corrupt(registryName, "%d octets, too short", len(b))
	}
	for b = b[head+sanity:]; len(b) > 0; {
		rest, ok := cutRecord(b)
		if !ok {
			return corrupt(registryName, "a data key is torn or changed")
		}
		b = rest
	}
	return nil
}

// cutRecord takes one record off the front: its length, its CRC, and as many octets.
func cutRecord(b []byte) (rest []byte, ok bool) {
	const head = 8
	if len(b) < head {
		return nil, false
	}
	n, sum := binary.BigEndian.Uint32(b), binary.BigEndian.Uint32(b[4:])
	b = b[head:]
	if uint64(n) > uint64(len(b)) || crc32.Checksum(b[:n], castagnoli()) != sum {
		return nil, false
	}
	return b[n:], true
}

// castagnoli is a table that is made once, by the standard library.
func castagnoli() *crc32.Table { return crc32.MakeTable(crc32.Castagnoli) }

// dataKeys reads the data keys, and makes the registry and the first key where there is none yet. Badger would make
// one, too, but not when the clock has been set back to 1970: then it writes in clear.
func dataKeys(o Options, exists bool) (*badger.KeyRegistry, error) {
	opt := badger.KeyRegistryOptions{Dir: o.Dir, EncryptionKey: o.Key, ReadOnly: true}
	if exists {
		r, err := badger.OpenKeyRegistry(opt)
		if err != nil {
			return nil, registryError(err)
		}
		if _, err := r.DataKey(1); err == nil {
			return r, nil
		}
	}
	opt.ReadOnly = false // and from the standpoint of a life of no time, the clock does not matter
	r, err := badger.OpenKeyRegistry(opt)
	if err != nil {
		return nil, registryError(err)
	}
	_, err = r.LatestDataKey()
	if err = errors.Join(err, r.Close()); err != nil {
		return nil, typed(err)
	}
	opt.ReadOnly = true
	if r, err = badger.OpenKeyRegistry(opt); err != nil {
		return nil, registryError(err)
	}
	if _, err := r.DataKey(1); err != nil {
		return nil, corrupt(registryName, "no data key")
	}
	return r, nil
}

func registryError(err error) error {
	if errors.Is(err, badger.ErrEncryptionKeyMismatch) {
		return ErrKey
	}
	if err := typed(err); errors.Is(err, ErrReadOnly) || errors.Is(err, ErrDenied) || errors.Is(err, ErrFull) {
		return err
	}
	return corrupt(registryName, "%v", err)
}

// dataKey returns what a file was sealed with. Number 0 stands for a file in clear, which none of ours is.
func dataKey(keys *badger.KeyRegistry, id uint64) ([]byte, error) {
	if id == 0 {
		return nil, errors.New("not sealed")
	}
	k, err := keys.DataKey(id)
	if err != nil {
		return nil, err
	}
	return k.GetData(), nil
}

// checkTables checks the manifest, and every table that it names. Tables that it does not name were not finished:
// Badger removes them.
func checkTables(o Options, keys *badger.KeyRegistry, there []string) error {
	tables, err := readManifest(o)
	if err != nil {
		return err
	}
	names := make([]string, 0, len(tables))
	for id := range tables {
		names = append(names, fmt.Sprintf("%06d%s", id, tableExt))
	}
	slices.Sort(names)
	for _, name := range names {
		if _, ok := slices.BinarySearch(there, name); !ok {
			return corrupt(name, "missing")
		}
	}
	return inParallel(tables, func(id uint64, m badger.TableManifest) error {
		name := fmt.Sprintf("%06d%s", id, tableExt)
		key, err := dataKey(keys, m.KeyID)
		switch {
		case err != nil:
			return corrupt(name, "%v", err)
		case int(m.Level) >= maxLevels, m.Compression != 0:
			return corrupt(manifestName, "table %d on level %d, compressed by %d", id, m.Level, m.Compression)
		}
		return checkTable(filepath.Join(o.Dir, name), key)
	})
}

// readManifest reads which tables there are. Badger takes a torn end for the end, and so would go back to tables that
// are long gone: we do not.
func readManifest(o Options) (map[uint64]badger.TableManifest, error) {
	path := filepath.Join(o.Dir, manifestName)
	b, err := readSmall(path, maxManifest)
	if err != nil {
		return nil, err
	}
	const head = 8
	if len(b) < head {
		return nil, corrupt(manifestName, "%d octets, too short", len(b))
	}
	for b = b[head:]; len(b) > 0; {
		rest, ok := cutRecord(b)
		if !ok {
			return nil, corrupt(manifestName, "a record is torn or changed")
		}
		b = rest
	}
	f, err := os.Open(path)
	if err != nil {
		return nil, typed(err)
	}
	defer f.Close()
	m, _, err := badger.ReplayManifestFile(f, 0, badgerOptions(o))
	if err != nil {
		return nil, corrupt(manifestName, "%v", err)
	}
	return m.Tables, nil
}

// readSmall reads a file of bounded size.
func readSmall(path string, limit int64) ([]byte, error) {
	info, err := os.Lstat(path)
	if err != nil {
		return nil, typed(err)
	}
	if info.Size() > limit || info.Mode()&fs.ModeType != 0 {
		return nil, corrupt(filepath.Base(path), "%d octets, more than %d", info.Size(), limit)
	}
	b, err := os.ReadFile(path)
	return b, typed(err)
}
