package badgerkv

import "github.com/dgraph-io/badger/v4"

// Release has the kernel take the tables out of memory now, and returns how many there were.
func (k *KV) Release() (tables int, err error) {
	err = k.hold(func(db *badger.DB) error {
		tables = len(db.Tables())
		return k.release(db)
	})
	return tables, err
}

// FilesInMemory is what the bound goes by.
func FilesInMemory() int64 { return filesInMemory() }

// ParseMap takes a line of /proc/self/maps apart.
func ParseMap(line string) (start, end uintptr, path string, ok bool) {
	m, ok := parseMap(line)
	return m.start, m.end, m.path, ok
}
