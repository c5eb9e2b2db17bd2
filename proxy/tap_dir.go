package proxy

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"regexp"
	"strings"

	"go.uber.org/zap"
)

// What a copy's two files end in.
const (
	tapText     = ".eml"
	tapEnvelope = ".json"
)

// A tapDir is a directory in which copies appear. It is held open, so that what
// else is put in the place of its name has no effect on what is under way, and
// nothing in it is followed anywhere.
//
// A file is made under its name with a dot in front, and renamed when it is whole;
// that of the envelope last. So who sees NAME.json may read NAME.eml.
type tapDir struct {
	path  string
	root  *os.Root
	self  *os.File // the directory itself
	info  fs.FileInfo
	share tapShared
}

// A tapShared says whether others than our user may read copies.
type tapShared struct {
	group bool // of the directory
	gid   int
}

// tapNames are the names that we make, whole or begun.
func tapNames() *regexp.Regexp {
	return regexp.MustCompile(`^\.?([0-9]{8}T[0-9]{6}\.[0-9]{6}Z-[0-9a-f]+\.[0-9]+-[0-9a-f]{16})(\.eml|\.json)$`)
}

// openTapDir opens a directory, and takes away what a process that died has left
// in it. What cannot be taken away is logged, and stays.
func openTapDir(path string, log *zap.Logger) (tapPlace, error) {
	root, err := os.OpenRoot(path)
	if err != nil {
		return nil, err
	}
	d := &tapDir{path: path, root: root}
	if d.self, err = root.Open("."); err == nil {
		d.info, err = d.self.Stat()
	}
	if err == nil {
		d.share = sharedWith(d.info)
		var stays error
		if stays, err = d.tidy(); stays != nil {
			log.Warn("tap: what a process that died has left cannot be put in order; copies go on", zap.String("dir", path),
				zap.Error(stays))
		}
	}
	if err != nil {
		d.close()
		return nil, err
	}
	return d, nil
}

func (d *tapDir) close() {
	if d.self != nil {
		_ = d.self.Close() // nothing was written to it
	}
	_ = d.root.Close() // as above
}

func (d *tapDir) current() bool {
	info, err := os.Stat(d.path)
	return err == nil && os.SameFile(info, d.info)
}

// readBatch is how many names of a directory are held at a time.
const readBatch = 1000

// each calls do for every entry.
func (d *tapDir) each(do func(fs.DirEntry) error) error {
	list, err := d.root.Open(".")
	if err != nil {
		return err
	}
	defer list.Close()
	for {
		entries, err := list.ReadDir(readBatch)
		for _, e := range entries {
			if err := do(e); err != nil {
				return err
			}
		}
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return err
		}
	}
}

func (d *tapDir) used() (int64, error) {
	var sum int64
	err := d.each(func(e fs.DirEntry) error {
		info, err := d.root.Lstat(e.Name())
		switch {
		case errors.Is(err, fs.ErrNotExist): // it was read and removed
			return nil
		case err != nil:
			return err
		case info.Mode().IsRegular():
			sum += blocks(info.Size())
		}
		return nil
	})
	return sum, err
}

// maxStaysTold is of how many leftovers the log says why they stay.
const maxStaysTold = 10

// tidy ends what a process that died had begun. A copy whose text was in sight is
// whole, and its envelope appears too, where that has survived; of others nothing
// is left. One that cannot be dealt with stays, and stays says why; err is trouble
// with the directory itself.
func (d *tapDir) tidy() (stays, err error) {
	pattern := tapNames()
	var left []string
	err = d.each(func(e fs.DirEntry) error {
		if e.Type().IsRegular() && strings.HasPrefix(e.Name(), ".") && pattern.MatchString(e.Name()) {
			left = append(left, e.Name())
		}
		return nil
	})
	if err != nil {
		return nil, err
	}
	var why []error
	more := 0
	for _, hidden := range left {
		switch err := d.end(hidden); {
		case err == nil:
		case len(why) < maxStaysTold:
			why = append(why, err)
		default:
			more++
		}
	}
	if more > 0 {
		why = append(why, fmt.Errorf("and %d more", more))
	}
	return errors.Join(why...), nil
}

// end ends one file that was begun.
func (d *tapDir) end(hidden string) error {
	name := hidden[1:]
	if text, is := strings.CutSuffix(name, tapEnvelope); is && d.seen(text+tapText) {
		if d.whole(hidden) {
			return d.root.Rename(hidden, name)
		}
		if err := d.root.Remove(text + tapText); err != nil {
			return err // while its envelope is here, it is tried again
		}
	}
	return d.root.Remove(hidden)
}

func (d *tapDir) seen(name string) bool {
	info, err := d.root.Lstat(name)
	return err == nil && info.Mode().IsRegular()
}

// whole tells whether an envelope is: a machine that lost its power may have left
// the name and not what was in it.
func (d *tapDir) whole(name string) bool {
	info, err := d.root.Lstat(name)
	if err != nil || info.Size() > maxTapEnvelope {
		return false
	}
	b, err := d.root.ReadFile(name)
	return err == nil && json.Valid(b)
}

// maxTapEnvelope is more than any envelope has.
const maxTapEnvelope = 64 << 20

func (d *tapDir) put(c *tapCopy) error {
	text, envelope := c.name+tapText, c.name+tapEnvelope
	var made []string
	make := func(name string, write func(io.Writer) error) error {
		return d.make("."+name, c.conf.Sync, &made, write)
	}
	err := make(text, c.text.writeTo)
	if err == nil {
		err = make(envelope, func(w io.Writer) error { _, err := w.Write(c.envelope); return err })
	}
	if err == nil {
		err = d.root.Rename("."+text, text)
	}
	if err == nil {
		made[0] = text
		err = d.root.Rename("."+envelope, envelope)
	}
	if err == nil {
		if c.conf.Sync {
			err = d.self.Sync()
		}
		return err
	}
	for _, name := range made {
		_ = d.root.Remove(name) // what cannot be removed now is when the directory is opened again
	}
	return err
}

// make makes one file, and notes that it is there.
func (d *tapDir) make(name string, sync bool, made *[]string, write func(io.Writer) error) error {
	f, err := d.root.OpenFile(name, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return err
	}
	*made = append(*made, name)
	err = write(f)
	if err == nil {
		err = d.share.with(f)
	}
	if err == nil && sync {
		err = f.Sync()
	}
	return errors.Join(err, f.Close())
}

// with lets the group of the directory read a file, where it may read the
// directory. Where the file cannot be given to that group it stays ours alone.
func (s tapShared) with(f *os.File) error {
	if !s.group {
		return f.Chmod(0o600) // whatever the umask is
	}
	if info, err := f.Stat(); err != nil || groupOf(info) != s.gid { // in a set-group-ID directory it is theirs already
		err := f.Chown(-1, s.gid)
		if errors.Is(err, fs.ErrPermission) {
			return f.Chmod(0o600)
		}
		if err != nil {
			return fmt.Errorf("give it to group %d: %w", s.gid, err)
		}
	}
	return f.Chmod(0o640)
}
