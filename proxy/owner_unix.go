//go:build unix

package proxy

import (
	"os"
	"syscall"
)

// giveTo gives a directory that root made to the owner of another, as far as it
// goes: it is theirs to use.
func giveTo(owner, dir string) {
	info, err := os.Stat(owner)
	if err != nil || os.Geteuid() != 0 {
		return
	}
	if s, ok := info.Sys().(*syscall.Stat_t); ok && s.Uid != 0 {
		_ = os.Lchown(dir, int(s.Uid), int(s.Gid)) // root can use it all the same
	}
}
