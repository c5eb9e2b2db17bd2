package aggregate

import (
	"crypto/rand"
	"encoding/hex"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync/atomic"
	"time"
)

// What is in the directory, besides a file for each day.
const (
	daySuffix = ".records" // 2026-05-31.records
	lockName  = "lock"     // whoever has it locked writes
	idName    = "id"       // a random number that tells this directory from all others
	sentName  = "sent"     // see state.go

	privateDir  = 0o700
	privateFile = 0o600
)

var (
	// ErrInUse is the error for a directory that somebody else writes to.
	ErrInUse = errors.New("another process keeps its journal there")

	errFull  = errors.New("journal: the day has reached the limit of size")
	errPause = errors.New("journal: the file could not be opened a moment ago")
)

// A directory has the files of a journal. All but total is for one goroutine.
type directory struct {
	path    string
	maxSize int64
	lock    *os.File
	total   atomic.Int64 // octets of all days

	file   *os.File // of day; nil: none is open
	day    Day
	size   int64 // of file: where the next frame belongs
	failed time.Time
}

func openDirectory(path string, maxSize int64) (*directory, error) {
	if err := os.MkdirAll(path, privateDir); err != nil {
		return nil, fmt.Errorf("reports: %w", err)
	}
	info, err := os.Stat(path)
	if err != nil {
		return nil, fmt.Errorf("reports: %w", err)
	}
	const others = 0o022
	if perm := info.Mode().Perm(); perm&others != 0 {
		return nil, fmt.Errorf("reports: others may write to %s (mode %04o): chmod go-w it", path, perm)
	}
	lock, err := os.OpenFile(filepath.Join(path, lockName), os.O_RDWR|os.O_CREATE, privateFile)
	if err != nil {
		return nil, fmt.Errorf("reports: %w", err)
	}
	if err := lockFile(lock); err != nil {
		lock.Close()
		return nil, fmt.Errorf("reports: %s: %w", path, err)
	}
	d := &directory{path: path, maxSize: maxSize, lock: lock}
	if _, err := installation(path); err != nil {
		if err := makeInstallation(path); err != nil {
			return nil, errors.Join(fmt.Errorf("reports: %w", err), lock.Close())
		}
	}
	return d, nil
}

func (d *directory) close() error {
	var err error
	if d.file != nil {
		err = d.file.Close()
		d.file = nil
	}
	if d.lock != nil {
		err = errors.Join(err, d.lock.Close())
		d.lock = nil
	}
	return err
}

// roll opens the file of a day. What is left there of a write that was cut short is cut off.
func (d *directory) roll(day Day, now time.Time) error {
	if d.file != nil && d.day == day {
		return nil
	}
	if d.file != nil {
		_ = errors.Join(d.file.Sync(), d.file.Close()) // that day has what it has
		d.file = nil
	}
	if now.Sub(d.failed) < openPause {
		return errPause
	}
	err := d.open(day)
	if err != nil {
		d.failed = now
	}
	return err
}

func (d *directory) open(day Day) error {
	if err := os.MkdirAll(d.path, privateDir); err != nil {
		return err
	}
	f, err := os.OpenFile(dayFile(d.path, day), os.O_RDWR|os.O_CREATE|os.O_APPEND, privateFile)
	if err != nil {
		return err
	}
	info, err := f.Stat()
	if err != nil {
		return errors.Join(err, f.Close())
	}
	end, err := goodEnd(f, info.Size())
	if err == nil && end < info.Size() {
		err = f.Truncate(end)
	}
	if err == nil {
		err = syncDir(d.path)
	}
	if err != nil {
		return errors.Join(err, f.Close())
	}
	d.file, d.day, d.size = f, day, end
	return nil
}

// append writes whole frames, or nothing.
func (d *directory) append(frames []byte) error {
	if d.total.Load()+int64(len(frames)) > d.maxSize {
		return errFull
	}
	n, err := d.file.Write(frames)
	if err == nil {
		d.size += int64(n)
		d.total.Add(int64(n))
		return nil
	}
	if short := d.file.Truncate(d.size); short != nil {
		// Whoever reads finds the next frame; but this file is opened anew, which is another way to be rid of it.
		err = errors.Join(err, short, d.file.Close())
		d.file = nil
	}
	return err
}

// sync has what was written survive a power failure. A file that somebody removed is not written any further.
func (d *directory) sync() error {
	if d.file == nil {
		return nil
	}
	err := d.file.Sync()
	if _, gone := os.Lstat(dayFile(d.path, d.day)); gone != nil {
		err = errors.Join(err, gone, d.file.Close())
		d.file = nil
	}
	return err
}

// prune removes days that are too old, and the oldest that stand in the way of more octets, but never the one that is
// written. It returns those that were removed for want of room.
func (d *directory) prune(today Day, more int64) (dropped []Day) {
	if more > 0 && d.total.Load()+more <= d.maxSize && d.file != nil && d.day == today && d.size > 0 {
		return nil // nothing has changed since the last time but the size
	}
	days, err := Days(d.path)
	if err != nil {
		return nil
	}
	sizes := make(map[Day]int64)
	var total int64
	for _, day := range days {
		if info, err := os.Stat(dayFile(d.path, day)); err == nil {
			sizes[day] = info.Size()
			total += info.Size()
		}
	}
	for _, day := range days {
		old := day+KeepDays < today
		current := d.file != nil && day == d.day
		if current || !old && total+more <= d.maxSize {
			continue
		}
		if os.Remove(dayFile(d.path, day)) == nil {
			total -= sizes[day]
			if !old {
				dropped = append(dropped, day)
			}
		}
	}
	d.total.Store(total)
	return dropped
}

func dayFile(dir string, day Day) string { return filepath.Join(dir, day.String()+daySuffix) }

// Days returns the days that a directory has records of, oldest first. A directory that is missing has none.
func Days(dir string) ([]Day, error) {
	entries, err := os.ReadDir(dir)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	var days []Day
	for _, e := range entries {
		if name, ok := strings.CutSuffix(e.Name(), daySuffix); ok && e.Type().IsRegular() {
			if day, err := ParseDay(name); err == nil {
				days = append(days, day)
			}
		}
	}
	slices.Sort(days)
	return days, nil
}

const installationSize = 16

// installation reads what tells a directory from all others.
func installation(dir string) ([]byte, error) {
	text, err := os.ReadFile(filepath.Join(dir, idName))
	if err != nil {
		return nil, err
	}
	id, err := hex.DecodeString(strings.TrimSpace(string(text)))
	if err != nil || len(id) != installationSize {
		return nil, fmt.Errorf("%s is damaged", filepath.Join(dir, idName))
	}
	return id, nil
}

func makeInstallation(dir string) error {
	id := make([]byte, installationSize)
	_, _ = rand.Read(id) // never fails
	return replaceFile(filepath.Join(dir, idName), []byte(hex.EncodeToString(id)+"\n"))
}

// replaceFile puts content in the place of a file: whatever happens, it is the old one or the new one.
func replaceFile(path string, content []byte) error {
	next := path + ".new"
	f, err := os.OpenFile(next, os.O_WRONLY|os.O_CREATE|os.O_TRUNC, privateFile)
	if err != nil {
		return err
	}
	_, err = f.Write(content)
	if err := errors.Join(err, f.Sync(), f.Close()); err != nil {
		return err
	}
	if err := os.Rename(next, path); err != nil {
		return err
	}
	return syncDir(filepath.Dir(path))
}
