package auth

import (
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
)

// A historyPlace is where a history file is, and the file that is there while we hold the lock. It belongs to one
// goroutine.
//
// No file is kept open between two locks: what an importer has removed takes no room on the disk any more.
type historyPlace struct {
	path     string
	mode     fs.FileMode
	maxBytes int64
	file     *os.File
}

// maxHistoryText is more than a record has: of its signatures and seals each has two names of 253 octets at most.
const maxHistoryText = 1 << 17

// ErrHistoryFull is the error for a file that has grown to its limit and is not imported.
var ErrHistoryFull = errors.New("the file is as large as it may be: is it imported?")

// errHistoryHeld: somebody has locked the file, or is taking it away. It is soon over.
var errHistoryHeld = errors.New("another process has it")

func newHistoryPlace(path string, o HistoryOptions) (historyPlace, error) {
	p := historyPlace{path: path, mode: o.Mode, maxBytes: o.MaxBytes}
	if p.mode == 0 {
		p.mode = 0o640
	}
	if p.mode != 0o600 && p.mode != 0o640 {
		return p, fmt.Errorf("history: %s: the mode must be 0600 or 0640, not %#o", path, uint32(p.mode))
	}
	if p.maxBytes == 0 {
		p.maxBytes = MaxHistoryBytes
	}
	return p, nil
}

// lock opens what is at path, makes it where there is nothing, and locks it. It does not wait: the error is
// errHistoryHeld if somebody else has it. What a writer has left there that was killed is removed.
func (p *historyPlace) lock() error {
	f, err := p.open()
	if err != nil {
		return p.fault(err)
	}
	p.file = f
	locked, err := tryLockFile(f)
	if err == nil && !locked {
		err = errHistoryHeld
	}
	if err == nil {
		err = p.mend()
	}
	if err != nil {
		p.unlock()
		return p.fault(err)
	}
	return nil
}

func (p *historyPlace) fault(err error) error { return fmt.Errorf("history: %s: %w", p.path, err) }

// unlock closes the file, by which it is unlocked too. There is nothing that closing could still write.
func (p *historyPlace) unlock() {
	_ = p.file.Close()
	p.file = nil
}

// current tells of the file that is open; the error is errHistoryHeld if path does not name it any more. As long as it
// does and the lock is ours, no importer that renames the file has begun to read it.
func (p *historyPlace) current() (open fs.FileInfo, err error) {
	named, err := os.Lstat(p.path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, errHistoryHeld
	}
	if err != nil {
		return nil, err
	}
	open, err = p.file.Stat()
	if err == nil && !os.SameFile(named, open) {
		err = errHistoryHeld
	}
	return open, err
}

// open opens what is at path for appending.
func (p *historyPlace) open() (*os.File, error) {
	if err := noStrangers(filepath.Dir(p.path)); err != nil {
		return nil, err
	}
	const flags = os.O_RDWR | os.O_APPEND | carefully
	f, err := os.OpenFile(p.path, flags, 0)
	switch info, gone := os.Lstat(p.path); {
	case err == nil:
		return ofOurs(f)
	case gone == nil && info.Mode()&fs.ModeSymlink != 0:
		return nil, errors.New("it is a symbolic link, which is not followed")
	case !errors.Is(err, fs.ErrNotExist):
		return nil, err
	}
	f, err = os.OpenFile(p.path, flags|os.O_CREATE|os.O_EXCL, p.mode)
	if errors.Is(err, fs.ErrExist) {
		return nil, errHistoryHeld // somebody else was faster
	}
	if err != nil {
		return nil, err
	}
	if err := f.Chmod(p.mode); err != nil {
		return nil, errors.Join(err, f.Close())
	}
	return f, nil
}

// ofOurs refuses what is not a file, such as a pipe, and what others have prepared.
func ofOurs(f *os.File) (*os.File, error) {
	info, err := f.Stat()
	switch {
	case err != nil:
	case !info.Mode().IsRegular():
		err = errors.New("it is not a plain file")
	case info.Mode().Perm()&0o002 != 0:
		err = fmt.Errorf("everybody may write to it (mode %04o): chmod o-w it", info.Mode().Perm())
	default:
		err = mayBeOurs(info)
	}
	if err != nil {
		return nil, errors.Join(err, f.Close())
	}
	return f, nil
}

// noStrangers refuses a directory where everybody may replace what is ours.
func noStrangers(dir string) error {
	info, err := os.Stat(dir)
	if err != nil {
		return err
	}
	if perm := info.Mode().Perm(); perm&0o002 != 0 && info.Mode()&fs.ModeSticky == 0 {
		return fmt.Errorf("everybody may write to %s (mode %04o): chmod o-w it", dir, perm)
	}
	return nil
}

// mend removes a record that has no end: whoever wrote it was killed, since we have the lock now. What is not a record,
// and so nobody's that we know, is left alone.
func (p *historyPlace) mend() error {
	info, err := p.file.Stat()
	if err != nil || info.Size() == 0 {
		return err
	}
	size := info.Size()
	var last [1]byte
	if _, err := p.file.ReadAt(last[:], size-1); err != nil || last[0] == '\n' {
		return err
	}
	tail := make([]byte, min(size, maxHistoryText))
	from := size - int64(len(tail))
	if _, err := p.file.ReadAt(tail, from); err != nil {
		return err
	}
	start := bytes.LastIndex(tail, []byte("\njob ")) + 1
	// Where it is the first record, or nothing but the beginning of its first line.
	word := tail[bytes.LastIndexByte(tail, '\n')+1:]
	switch {
	case len(word) < len("job ") && bytes.HasPrefix([]byte("job "), word):
		start = len(tail) - len(word)
	case start == 0 && (from != 0 || !bytes.HasPrefix(tail, []byte("job "))):
		return errors.New("its last line has no end, and it does not look like a history file")
	}
	return p.file.Truncate(from + int64(start))
}

// append appends a record by one write. The file must be locked. The error is errHistoryHeld if it is not at path any
// more; whatever the error, nothing of the record is left, or lock will remove it.
func (p *historyPlace) append(text []byte) error {
	info, err := p.current()
	if err != nil {
		return p.fault(err)
	}
	size := info.Size()
	if size+int64(len(text)) > p.maxBytes {
		return p.fault(ErrHistoryFull)
	}
	n, err := p.file.Write(text)
	if err == nil {
		return nil
	}
	// Somebody who cares for no lock may have truncated it: it must not grow by being cut.
	if now, serr := p.file.Stat(); n > 0 && serr == nil && now.Size() == size+int64(n) {
		err = errors.Join(err, p.file.Truncate(size))
	}
	return p.fault(err)
}
