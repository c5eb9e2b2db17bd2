package badgerkv

import (
	"errors"
	"fmt"
	"io/fs"
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
	case errors.Is(err, syscall.EROFS), errors.Is(err, fs.ErrPermission):
		return fmt.Errorf("%w: %w", ErrReadOnly, err)
	case errors.Is(err, syscall.ENOSPC), errors.Is(err, syscall.EDQUOT):
		return fmt.Errorf("%w: %w", ErrFull, err)
	}
	return err
}

// corrupt says which file is damaged, and how.
func corrupt(file, format string, args ...any) error {
	return fmt.Errorf("%w: %s: %s", ErrCorrupt, file, oneLine(fmt.Sprintf(format, args...)))
}
