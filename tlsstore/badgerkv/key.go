package badgerkv

import (
	"crypto/rand"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
)

// LoadKey reads the key that seals the store: a file of exactly 32 octets that nobody but its owner may read, who is us
// or root. A file that belongs to root and that nobody may write may also be readable for its group, since that is how
// systemd's credentials look to a service that runs as somebody else. See [OpenPrivate] for the rest. Where there is no
// file, one is made, with a key that nobody has ever seen; the directory, too.
//
// The key protects a copy of the directory, not more: who can read both reads all.
func LoadKey(path string) ([]byte, error) {
	key, err := ReadKey(path)
	if !errors.Is(err, fs.ErrNotExist) {
		return key, err
	}
	if err := makeKey(path); err != nil {
		dir := filepath.Dir(path)
		return nil, fmt.Errorf("badgerkv: no key can be made in %s: %w; make that a directory that %s can write to, "+
			"with room on its disk", dir, inDir(err), Account(os.Geteuid()))
	}
	return ReadKey(path)
}

// inDir leaves out of an error the name of a file that nobody has heard of, since the directory is at fault.
func inDir(err error) error {
	var file *fs.PathError
	var link *os.LinkError
	switch {
	case errors.As(err, &file):
		return typed(file.Err)
	case errors.As(err, &link):
		return typed(link.Err)
	}
	return typed(err)
}

// ReadKey is [LoadKey] where nothing is to be made. The key may belong to one of the other users given.
func ReadKey(path string, owners ...int) ([]byte, error) {
	f, info, err := OpenPrivate(path, owners...)
	if err != nil {
		return nil, fmt.Errorf("badgerkv: key: %w", err)
	}
	defer f.Close()
	if !info.Mode().IsRegular() {
		return nil, fmt.Errorf("badgerkv: the key %s is not a plain file (%s): put the key there, "+
			"or remove what is there so that a new one is made", path, kindOf(info.Mode()))
	}
	if perm := info.Mode().Perm(); perm&0o077 != 0 && (perm != 0o440 || !ownedByRoot(info)) {
		return nil, fmt.Errorf("badgerkv: others may read or write the key %s (mode %04o): chmod 600 it, "+
			"and if they should not have read it, remove it so that a new one is made", path, perm)
	}
	if info.Size() != keyOctets {
		return nil, fmt.Errorf("badgerkv: the key %s has %d octets, it must have %d: "+
			"put the right one there, or remove it so that a new one is made", path, info.Size(), keyOctets)
	}
	key := make([]byte, keyOctets)
	if _, err := io.ReadFull(f, key); err != nil {
		return nil, fmt.Errorf("badgerkv: key %s: %w", path, err)
	}
	return key, nil
}

// makeKey makes a key that is there whole or not at all, whatever happens meanwhile. When two do it at once, one wins,
// and both read the winner's.
func makeKey(path string) (err error) {
	dir := filepath.Dir(path)
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return err
	}
	tmp := fmt.Sprintf("%s.%s", path, rand.Text()) // nobody has guessed it, so that O_EXCL fails for nobody
	f, err := os.OpenFile(tmp, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return err
	}
	defer os.Remove(tmp)
	key := make([]byte, keyOctets)
	rand.Read(key) // never fails
	_, err = f.Write(key)
	err = errors.Join(err, f.Sync(), f.Close())
	if err != nil {
		return err
	}
	if err := publish(tmp, path); err != nil {
		return err
	}
	return syncDir(dir)
}

// publish gives a file its name, unless another has got it meanwhile. Where there are no links, the last one wins.
func publish(tmp, path string) error {
	switch err := os.Link(tmp, path); {
	case err == nil, errors.Is(err, fs.ErrExist):
		return nil
	default:
		return os.Rename(tmp, path)
	}
}

func syncDir(dir string) error {
	d, err := os.Open(dir)
	if err != nil {
		return err
	}
	defer d.Close()
	return d.Sync()
}
