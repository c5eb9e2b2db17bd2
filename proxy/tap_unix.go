//go:build unix

package proxy

import (
	"io/fs"
	"os"
	"os/user"
	"slices"
	"strconv"
	"syscall"
)

// sharedWith tells whether the group of a directory may read what is in it.
func sharedWith(dir fs.FileInfo) tapShared {
	const readAndEnter = 0o050
	gid := groupOf(dir)
	if gid < 0 || dir.Mode().Perm()&readAndEnter != readAndEnter {
		return tapShared{}
	}
	return tapShared{group: true, gid: gid}
}

// groupOf returns the group that a file belongs to, -1 where that is not known.
func groupOf(file fs.FileInfo) int {
	if s, ok := file.Sys().(*syscall.Stat_t); ok {
		return int(s.Gid)
	}
	return -1
}

// mayGive tells whether what we make in a directory can be its group's.
func mayGive(dir fs.FileInfo, gid int) bool {
	if os.Geteuid() == 0 || os.Getegid() == gid || dir.Mode()&fs.ModeSetgid != 0 {
		return true
	}
	groups, err := os.Getgroups()
	return err == nil && slices.Contains(groups, gid)
}

func groupName(gid int) string {
	if g, err := user.LookupGroupId(strconv.Itoa(gid)); err == nil {
		return g.Name
	}
	return strconv.Itoa(gid)
}
