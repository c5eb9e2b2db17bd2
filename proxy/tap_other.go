//go:build !unix

package proxy

import (
	"io/fs"
	"strconv"
)

// sharedWith: there are no groups here.
func sharedWith(fs.FileInfo) tapShared { return tapShared{} }

func groupOf(fs.FileInfo) int { return -1 }

func mayGive(fs.FileInfo, int) bool { return true }

func groupName(gid int) string { return strconv.Itoa(gid) }
