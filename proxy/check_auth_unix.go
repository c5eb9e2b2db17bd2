//go:build unix

package proxy

import (
	"fmt"
	"os"
	"os/user"
	"strconv"
	"syscall"
)

// fileOfOther names the owner of a plain file that root looks at and that is somebody else's: of what is refused to
// strangers, root's view says nothing.
func fileOfOther(path string) (owner string, other bool) {
	info, err := os.Lstat(path)
	if err != nil || os.Geteuid() != 0 || !info.Mode().IsRegular() {
		return "", false
	}
	stat, ok := info.Sys().(*syscall.Stat_t)
	if !ok || stat.Uid == 0 {
		return "", false
	}
	if u, err := user.LookupId(strconv.FormatUint(uint64(stat.Uid), 10)); err == nil {
		return u.Username, true
	}
	return fmt.Sprintf("user %d", stat.Uid), true
}
