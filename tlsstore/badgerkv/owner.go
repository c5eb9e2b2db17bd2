package badgerkv

import (
	"fmt"
	"io/fs"
	"os"
	"os/user"
	"path/filepath"
	"strconv"
)

// Account is the name of a user, for people.
func Account(uid int) string {
	if u, err := user.LookupId(strconv.Itoa(uid)); err == nil {
		return u.Username
	}
	return fmt.Sprintf("user %d", uid)
}

// allOurs says whether the files of a directory may be opened by us. Those that a service left there that once ran as
// root may not; Badger would find out one by one, and not tell why.
func allOurs(dir string) error {
	entries, err := os.ReadDir(dir)
	if err != nil {
		return typed(err)
	}
	for _, e := range entries {
		info, err := e.Info()
		if err != nil || !info.Mode().IsRegular() {
			continue // removed meanwhile, or left alone
		}
		path := filepath.Join(dir, e.Name())
		if uid, known := ownerOf(info); known && uid != os.Geteuid() && !mayChange(path) {
			return fmt.Errorf("%w: %s belongs to %s", ErrDenied, path, Account(uid))
		}
	}
	return nil
}

// ownership says what to do about a file or directory that may not be opened.
func ownership(path string) string {
	us := Account(os.Geteuid())
	if info, err := os.Stat(path); err == nil {
		if uid, known := ownerOf(info); known && uid != os.Geteuid() {
			return fmt.Sprintf("it belongs to %s: as root, chown -R %s %s", Account(uid), us, path)
		}
	}
	return fmt.Sprintf("see to it that %s may open it: as root, chown -R %s %s", us, us, path)
}

// kindOf names what is not a plain file.
func kindOf(mode fs.FileMode) string {
	switch {
	case mode.IsDir():
		return "a directory"
	case mode&fs.ModeNamedPipe != 0:
		return "a pipe"
	case mode&fs.ModeSocket != 0:
		return "a socket"
	}
	return "a device"
}
