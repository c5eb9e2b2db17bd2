//go:build unix

package proxy

import (
	"fmt"
	"syscall"
)

// raiseFileLimit sets the soft limit to the hard one, which needs no privilege,
// and returns the soft limit. That it could not be raised is no error: then the
// limit is as it was.
func raiseFileLimit() (uint64, error) {
	var limit syscall.Rlimit
	if err := syscall.Getrlimit(syscall.RLIMIT_NOFILE, &limit); err != nil {
		return 0, fmt.Errorf("limit on open files: %w", err)
	}
	if limit.Cur >= limit.Max {
		return uint64(limit.Cur), nil
	}
	raised := limit
	raised.Cur = raised.Max
	if err := syscall.Setrlimit(syscall.RLIMIT_NOFILE, &raised); err != nil {
		return uint64(limit.Cur), nil
	}
	return uint64(raised.Cur), nil
}
