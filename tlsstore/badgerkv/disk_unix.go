//go:build linux || darwin || freebsd

package badgerkv

import (
	"fmt"
	"io/fs"
	"os"
	"syscall"

	"golang.org/x/sys/unix"
)

// lockDir takes a directory for this process, until the file is closed. It is the lock that Badger's own tools take.
func lockDir(dir string) (*os.File, error) {
	f, err := os.Open(dir)
	if err != nil {
		return nil, typed(err)
	}
	if err := unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB); err != nil {
		f.Close()
		if err == unix.EWOULDBLOCK {
			return nil, fmt.Errorf("%w: %s", ErrLocked, dir)
		}
		return nil, fmt.Errorf("badgerkv: lock %s: %w", dir, err)
	}
	// It may have been renamed before the lock was ours.
	if !sameFile(f, dir) {
		f.Close()
		return nil, fmt.Errorf("%w: %s was put aside just now", ErrLocked, dir)
	}
	return f, nil
}

// noFollow has the opening of a symbolic link fail.
const noFollow = syscall.O_NOFOLLOW

func sameFile(f *os.File, path string) bool {
	a, err := f.Stat()
	if err != nil {
		return false
	}
	b, err := os.Stat(path)
	return err == nil && os.SameFile(a, b)
}

// diskFree returns how many octets others than root may still write where a directory is, and ErrReadOnly where nothing
// may be written. A file system that has no more inodes is full. One that has quotas for users does not tell of them.
func diskFree(dir string) (int64, error) {
	const (
		readOnly  = 0x1 // the same flag everywhere
		fewInodes = 100
	)
	var s unix.Statfs_t
	if err := unix.Statfs(dir, &s); err != nil {
		return 0, fmt.Errorf("badgerkv: free space of %s: %w", dir, err)
	}
	if s.Flags&readOnly != 0 {
		return 0, fmt.Errorf("%w: the file system of %s", ErrReadOnly, dir)
	}
	if s.Files > 0 && s.Ffree < fewInodes {
		return 0, nil
	}
	return int64(s.Bavail) * int64(s.Bsize), nil
}

// allocated returns how many octets of the disk a file takes: Badger's are full of holes.
func allocated(info fs.FileInfo) int64 {
	if s, ok := info.Sys().(*syscall.Stat_t); ok {
		return s.Blocks * 512
	}
	return info.Size()
}

// ownedByRoot says whether a file belongs to root.
func ownedByRoot(info fs.FileInfo) bool {
	uid, known := ownerOf(info)
	return known && uid == 0
}

// ownerOf returns the user that a file belongs to.
func ownerOf(info fs.FileInfo) (uid int, known bool) {
	s, ok := info.Sys().(*syscall.Stat_t)
	if !ok {
		return 0, false
	}
	return int(s.Uid), true
}

// mayChange says whether we may read a file and write to it.
func mayChange(path string) bool {
	return unix.Faccessat(unix.AT_FDCWD, path, unix.R_OK|unix.W_OK, unix.AT_EACCESS) == nil
}
