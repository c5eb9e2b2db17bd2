package auth

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"sync"
)

// A HistoryFile is a file that history records are appended to. Whoever imports it renames it first; the next record
// then goes into a new one. Its methods may be called from several goroutines.
type HistoryFile struct {
	Path string

	// Mode of a file that is made: 0600, or 0640 for an importer of the file's group. Zero is 0600. The umask does not
	// count.
	Mode fs.FileMode

	// MaxBytes is what the file may grow to, lest a forgotten importer fill the disk; 0 is no limit.
	MaxBytes int64

	mu   sync.Mutex
	file *os.File // what Path named when it was opened
}

// ErrHistoryFull is the error for a record that would make the file longer than MaxBytes.
var ErrHistoryFull = errors.New("history: the file is full")

// historyOpens bounds how often a file is opened that has been renamed by the time it is locked.
const historyOpens = 5

// Write appends a record, by one write. It waits for other records that are being written, and for nothing else than
// the file system: never for a lock, never for a reader of a pipe. Nothing of a record is left when it cannot be
// written to its end.
//
// An importer that renames the file and then takes a shared lock on it (flock), as opendmarc-import does, reads every
// record: no record goes into a file once it has been renamed and locked.
func (h *HistoryFile) Write(r HistoryRecord) error {
	text, err := r.Append(nil)
	if err != nil {
		return err
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	locked, err := h.hold()
	if err != nil {
		return err
	}
	if locked {
		defer unlockFile(h.file)
	}
	return h.append(text, locked)
}

// Check opens the file as Write would, and so makes it where there is none. It is for the start, where somebody can
// still do something about it.
func (h *HistoryFile) Check() error {
	h.mu.Lock()
	defer h.mu.Unlock()
	locked, err := h.hold()
	if locked {
		unlockFile(h.file)
	}
	return err
}

// Close closes the file. Write opens it again.
func (h *HistoryFile) Close() error {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.drop()
}

func (h *HistoryFile) drop() error {
	if h.file == nil {
		return nil
	}
	err := h.file.Close()
	h.file = nil
	return err
}

// hold makes h.file what Path names, and locks it. locked is false if somebody else has a lock on that very file: it is
// written to all the same.
func (h *HistoryFile) hold() (locked bool, err error) {
	for range historyOpens {
		if h.file == nil {
			if h.file, err = h.open(); err != nil {
				return false, fmt.Errorf("history: %w", err)
			}
		}
		locked = tryLockFile(h.file)
		// Only now: as long as it is locked and has its name, no importer has begun to read it.
		current, err := h.isCurrent()
		if current {
			return locked, nil
		}
		if locked {
			unlockFile(h.file)
		}
		if cerr := h.drop(); err != nil || cerr != nil {
			return false, fmt.Errorf("history: %w", errors.Join(err, cerr))
		}
	}
	return false, fmt.Errorf("history: %s is renamed again and again", h.Path)
}

// isCurrent reports whether Path still names the file that is open.
func (h *HistoryFile) isCurrent() (bool, error) {
	named, err := os.Stat(h.Path)
	if errors.Is(err, fs.ErrNotExist) {
		return false, nil
	}
	if err != nil {
		return false, err
	}
	open, err := h.file.Stat()
	return err == nil && os.SameFile(named, open), err
}

func (h *HistoryFile) open() (*os.File, error) {
	mode := h.Mode
	if mode == 0 {
		mode = 0o600
	}
	if mode&^0o640 != 0 || mode&0o600 != 0o600 {
		return nil, fmt.Errorf("the mode of %s must be 0600 or 0640, not %#o", h.Path, uint32(mode))
	}
	const flags = os.O_RDWR | os.O_APPEND | nonblocking
	for {
		f, err := os.OpenFile(h.Path, flags, 0)
		if !errors.Is(err, fs.ErrNotExist) {
			return regular(f, err)
		}
		f, err = os.OpenFile(h.Path, flags|os.O_CREATE|os.O_EXCL, mode)
		if errors.Is(err, fs.ErrExist) {
			// Somebody else was faster; a link to nowhere is never made good.
			if _, serr := os.Stat(h.Path); serr != nil {
				return nil, err
			}
			continue
		}
		if err != nil {
			return nil, err
		}
		if err := f.Chmod(mode); err != nil {
			return nil, errors.Join(err, f.Close())
		}
		return f, nil
	}
}

// regular refuses what is not a file: a pipe would take records until it is full.
func regular(f *os.File, err error) (*os.File, error) {
	if err != nil {
		return nil, err
	}
	info, err := f.Stat()
	if err == nil && !info.Mode().IsRegular() {
		err = fmt.Errorf("%s is not a regular file", f.Name())
	}
	if err != nil {
		return nil, errors.Join(err, f.Close())
	}
	return f, nil
}

// append appends text to h.file. What could not be written to its end is taken back, as long as nobody else can have
// written behind it.
func (h *HistoryFile) append(text []byte, locked bool) error {
	info, err := h.file.Stat()
	if err != nil {
		return fmt.Errorf("history: %w", err)
	}
	size := info.Size()
	if h.MaxBytes > 0 && size+int64(len(text)) > h.MaxBytes {
		return ErrHistoryFull
	}
	// A line that was left without end, by a machine that went down, does not get ours: empty lines mean nothing.
	var last [1]byte
	if _, err := h.file.ReadAt(last[:], size-1); size > 0 && err == nil && last[0] != '\n' {
		text = append([]byte{'\n'}, text...)
	}
	n, err := h.file.Write(text)
	if err == nil {
		return nil
	}
	if now, serr := h.file.Stat(); n > 0 && locked && serr == nil && now.Size() == size+int64(n) {
		err = errors.Join(err, h.file.Truncate(size))
	}
	return fmt.Errorf("history: %w", err)
}
