//go:build !linux && !darwin && !freebsd

package badgerkv

import (
	"io/fs"
	"os"
)

const noFollow = 0

func lockDir(string) (*os.File, error)  { return nil, ErrUnsupported }
func sameFile(*os.File, string) bool    { return false }
func diskFree(string) (int64, error)    { return 0, ErrUnsupported }
func allocated(info fs.FileInfo) int64  { return info.Size() }
func ownedByRoot(info fs.FileInfo) bool { return false }

func ownerOf(fs.FileInfo) (uid int, known bool) { return 0, false }
func mayChange(string) bool                     { return true }
