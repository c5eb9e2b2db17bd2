//go:build darwin || dragonfly || freebsd || linux || netbsd || openbsd

package auth

import (
	"os"
	"syscall"
)

// nonblocking keeps the opening of a pipe from waiting for its other end.
const nonblocking = syscall.O_NONBLOCK

// tryLockFile takes the lock that opendmarc-import waits for, unless somebody has it.
func tryLockFile(f *os.File) bool {
	return syscall.Flock(int(f.Fd()), syscall.LOCK_EX|syscall.LOCK_NB) == nil
}

func unlockFile(f *os.File) {
	// It cannot fail for a file that is open and locked; closing the file unlocks it too.
	_ = syscall.Flock(int(f.Fd()), syscall.LOCK_UN)
}
