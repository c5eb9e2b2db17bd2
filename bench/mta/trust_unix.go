//go:build unix

package mta

import (
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"syscall"
)

// trust refuses a directory that was come upon, not named, if root would run programs from it that somebody else could
// have put there. Whoever called sudo counts as root.
func trust(dir string) error {
	if os.Geteuid() != 0 {
		return nil
	}
	sudoer, err := strconv.ParseUint(os.Getenv("SUDO_UID"), 10, 32)
	if err != nil {
		sudoer = 0
	}
	for at := dir; ; at = filepath.Dir(at) {
		info, err := os.Lstat(at)
		if err != nil {
			return err
		}
		owner, ok := info.Sys().(*syscall.Stat_t)
		if !ok {
			return nil
		}
		if why := doubt(info.Mode(), owner, uint32(sudoer), at == dir); why != "" {
			return fmt.Errorf("%w: root would run programs from %s, but %s %s; name the directory if that is meant",
				ErrUnavailable, dir, at, why)
		}
		if at == filepath.Dir(at) {
			return nil
		}
	}
}

// doubt says what is wrong with a directory; "" if nothing. Above the last one, a sticky directory such as /tmp will do,
// since nobody can replace there what belongs to another.
func doubt(mode os.FileMode, owner *syscall.Stat_t, sudoer uint32, last bool) string {
	switch {
	case owner.Uid != 0 && owner.Uid != sudoer:
		return fmt.Sprintf("belongs to user %d", owner.Uid)
	case mode&os.ModeSymlink != 0:
		return "is a link"
	case !last && mode&os.ModeSticky != 0:
		return ""
	case mode.Perm()&0o002 != 0, mode.Perm()&0o020 != 0 && owner.Gid != 0 && sudoer == 0:
		return "can be written by others"
	}
	return ""
}
