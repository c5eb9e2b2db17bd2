//go:build darwin || dragonfly || freebsd || linux || netbsd || openbsd

package auth

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"syscall"
)

// carefully keeps the opening of a pipe from waiting for its other end, and follows no symbolic link.
const carefully = syscall.O_NONBLOCK | syscall.O_NOFOLLOW

// tryLockFile takes the lock that opendmarc-import waits for, unless somebody has it. It is an error if there are no
// locks where the file is.
func tryLockFile(f *os.File) (bool, error) {
	err := syscall.Flock(int(f.Fd()), syscall.LOCK_EX|syscall.LOCK_NB)
	if errors.Is(err, syscall.EWOULDBLOCK) || errors.Is(err, syscall.EINTR) {
		return false, nil
	}
	return err == nil, os.NewSyscallError("flock", err)
}

// mayBeOurs refuses a file that belongs to another user, or that has a second name: it may be any file of ours.
func mayBeOurs(info fs.FileInfo) error {
	stat, ok := info.Sys().(*syscall.Stat_t)
	switch {
	case !ok:
		return nil
	case stat.Uid != 0 && int(stat.Uid) != os.Geteuid():
		return fmt.Errorf("it belongs to user %d, not to us (%d) or root", stat.Uid, os.Geteuid())
	case stat.Nlink > 1:
		return errors.New("it has another name too: there is a hard link to it")
	}
	return nil
}
