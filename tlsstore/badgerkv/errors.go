package badgerkv

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"syscall"
)

// What may be wrong. In all cases mail goes on without a cache, or with one in memory: see [OpenAny].
var (
	// ErrLocked: another process has the directory. Badger is for one at a time.
	ErrLocked = errors.New("badgerkv: another process uses the directory")
	// ErrKey: what is in the directory was sealed with another key, or the beginning of its key registry is damaged,
	// which nobody can tell apart.
	ErrKey = errors.New("badgerkv: the key does not fit")
	// ErrCorrupt: the files are damaged, or some are missing. From a method of a KV it means that Badger broke down;
	// the KV is of no more use then.
	ErrCorrupt = errors.New("badgerkv: the files are damaged")
	// ErrReadOnly: nothing can be written there.
	ErrReadOnly = errors.New("badgerkv: the directory cannot be written to")
	// ErrDenied: a file that is there may not be opened or changed, mostly because another user made it.
	ErrDenied = errors.New("badgerkv: what is there may not be opened")
	// ErrFull: less than Reserve is left on the disk, or the KV has outgrown MaxSize. What is there can be read.
	ErrFull = errors.New("badgerkv: no room on the disk")
	// ErrForeign: the directory holds something that is not ours. It is left alone.
	ErrForeign = errors.New("badgerkv: the directory holds files of others")
	// ErrUnsupported: there is no way to lock a directory here, or to learn how full a disk is.
	ErrUnsupported = errors.New("badgerkv: not supported on this system")
	// ErrSize: a key or a value is too long to be kept, or a key is empty.
	ErrSize = errors.New("badgerkv: a key or value of this size cannot be kept")
	// ErrStuck: Badger did not close in time, and was left as it is. The directory stays locked until the process ends.
	ErrStuck = errors.New("badgerkv: did not close in time")
)

// typed finds out which of our errors a failing system call means.
func typed(err error) error {
	switch {
	case err == nil:
		return nil
	case errors.Is(err, syscall.EROFS):
		return fmt.Errorf("%w: %w", ErrReadOnly, err)
	case errors.Is(err, fs.ErrPermission):
		if isThere(err) {
			return fmt.Errorf("%w: %w", ErrDenied, err)
		}
		return fmt.Errorf("%w: %w", ErrReadOnly, err)
	case errors.Is(err, syscall.ENOSPC), errors.Is(err, syscall.EDQUOT):
		return fmt.Errorf("%w: %w", ErrFull, err)
	}
	return err
}

// isThere tells whether what could not be opened or changed is there: the directory is not at fault then.
func isThere(err error) bool {
	var e *fs.PathError
	if !errors.As(err, &e) || e.Op != "open" && e.Op != "chmod" {
		return false
	}
	_, gone := os.Lstat(e.Path)
	return gone == nil
}

// corrupt says which file is damaged, and how.
func corrupt(file, format string, args ...any) error {
	return fmt.Errorf("%w: %s: %s", ErrCorrupt, file, oneLine(fmt.Sprintf(format, args...)))
}
