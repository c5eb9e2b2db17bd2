//go:build linux || darwin || freebsd

package proxy

import "golang.org/x/sys/unix"

// freeSpace returns how many octets others than root may still write where a
// directory is.
func freeSpace(dir string) (octets int64, ok bool) {
	var s unix.Statfs_t
	if err := unix.Statfs(dir, &s); err != nil {
		return 0, false
	}
	return int64(s.Bavail) * int64(s.Bsize), true
}
