package badgerkv

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"syscall"
)

// OpenPrivate opens a file with a secret in it: a plain file that is not reached by a symbolic link, that belongs to
// us, to root or to one of the other users given, and that lies where nobody else may put another in its place. Which
// mode it must have is for the caller to say. What is no plain file is not waited for.
//
// The error of a file that is not there is [fs.ErrNotExist]; all others say what to do.
func OpenPrivate(path string, owners ...int) (*os.File, fs.FileInfo, error) {
	if err := ourAlone(filepath.Dir(path)); err != nil {
		return nil, nil, err
	}
	// O_NONBLOCK, since a pipe would have us wait for whoever writes.
	f, err := os.OpenFile(path, os.O_RDONLY|syscall.O_NONBLOCK|noFollow, 0)
	switch info, gone := os.Lstat(path); {
	case err != nil && gone == nil && info.Mode()&fs.ModeSymlink != 0:
		return nil, nil, fmt.Errorf("%s is a symbolic link, which is not followed: name the file that it leads to, "+
			"or put that in its place", path)
	case errors.Is(err, fs.ErrPermission):
		return nil, nil, fmt.Errorf("%w; %s", err, ownership(path))
	case err != nil:
		return nil, nil, err
	}
	info, err := f.Stat()
	if err == nil {
		err = ofUs(path, info, owners)
	}
	if err != nil {
		f.Close()
		return nil, nil, err
	}
	return f, info, nil
}

// ofUs says whether a file belongs to somebody who may know what is in it.
func ofUs(path string, info fs.FileInfo, owners []int) error {
	uid, known := ownerOf(info)
	if !known || uid == os.Geteuid() || uid == 0 || slices.Contains(owners, uid) {
		return nil
	}
	us := Account(os.Geteuid())
	return fmt.Errorf("%s belongs to %s, not to %s or root: chown %s %s, if what %s knows may be used",
		path, Account(uid), us, us, path, Account(uid))
}

// ourAlone says whether others may change what is in a directory. In one like /tmp they may not change what is ours.
func ourAlone(dir string) error {
	info, err := os.Stat(dir)
	if err != nil {
		return err
	}
	const others = 0o022
	if perm := info.Mode().Perm(); perm&others != 0 && info.Mode()&fs.ModeSticky == 0 {
		return fmt.Errorf("others may write to %s (mode %04o): chmod go-w it", dir, perm)
	}
	return nil
}
