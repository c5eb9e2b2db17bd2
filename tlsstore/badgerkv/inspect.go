package badgerkv

import (
	"os"
	"path/filepath"

	"github.com/dgraph-io/badger/v4"
)

// Inspect says what [Open] would say about a directory that is there, as far as that can be told without changing
// anything and without reading all of it. It returns how many octets the store takes, and how many are free on its
// disk. Key may be nil: then nobody knows whether it fits.
//
// Where another process uses the directory, the error is ErrLocked, and all else is well.
func Inspect(o Options) (size, free int64, err error) {
	k := &KV{o: o}
	found, err := list(o.Dir)
	if err != nil {
		return 0, 0, err
	}
	if err := allOurs(o.Dir); err != nil {
		return 0, 0, err
	}
	size = k.Size()
	if free, err = diskFree(o.Dir); err != nil {
		return size, 0, err
	}
	if free < openRoom {
		return size, free, noRoom(free, openRoom)
	}
	if found.registry && len(o.Key) == keyOctets {
		if err := fits(o.Dir, o.Key); err != nil {
			return size, free, err
		}
	}
	lock, err := lockDir(o.Dir)
	if err != nil {
		return size, free, err
	}
	return size, free, lock.Close()
}

// Free returns how many octets others than root may still write where a directory is.
func Free(dir string) (int64, error) { return diskFree(dir) }

// fits says whether what is in a directory was sealed with a key: nil, ErrKey, or that nobody can tell.
func fits(dir string, key []byte) error {
	if err := checkRegistry(filepath.Join(dir, registryName)); err != nil {
		return err
	}
	_, err := badger.OpenKeyRegistry(badger.KeyRegistryOptions{Dir: dir, EncryptionKey: key, ReadOnly: true})
	if err != nil {
		return registryError(err)
	}
	return nil
}

// takeBack puts what was put aside in the place of a directory, if that was sealed with another key than ours and this
// with ours: somebody put the key back. What was learned under the other key goes.
func takeBack(o Options) bool {
	dir := filepath.Clean(o.Dir)
	for _, d := range []string{dir, dir + aside} {
		lock, err := lockDir(d)
		if err != nil {
			return false
		}
		defer lock.Close()
		if _, err := list(d); err != nil {
			return false
		}
	}
	if fits(dir+aside, o.Key) != nil {
		return false
	}
	return os.RemoveAll(dir) == nil && os.Rename(dir+aside, dir) == nil
}
