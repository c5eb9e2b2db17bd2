//go:build !(darwin || dragonfly || freebsd || linux || netbsd || openbsd)

package auth

import "os"

const nonblocking = 0

// Without flock a record can go into a file that has just been renamed and read.
func tryLockFile(*os.File) bool { return false }

func unlockFile(*os.File) {}
