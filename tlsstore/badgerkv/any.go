package badgerkv

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"time"

	"slipstream/tlsstore"
)

// aside is what is put behind the name of a directory that cannot be used.
const aside = ".bad"

// A directory that another process uses is tried again for a while: a command that looks into the store has it for a
// moment.
const (
	lockWait  = time.Second
	lockEvery = 50 * time.Millisecond
)

// OpenAny opens the directory as [Open] does, or else something that does as well for a while. It never fails. What was
// sealed with another key or is damaged is put aside, as Dir with ".bad" behind it, where an older one goes for it, and
// a new directory is begun. What was put aside is taken back once the key fits that and not the new one. In all other
// cases the KV is [tlsstore.Memory]. The warnings are for people: what happened, what it means, and what to do.
func OpenAny(o Options) (kv tlsstore.KV, warnings []string) {
	k, err := openUnlocked(o)
	if errors.Is(err, ErrKey) && takeBack(o) {
		warnings = append(warnings, fmt.Sprintf("the key that %s%s was sealed with is back: that is %s again, and what was "+
			"learned under another key meanwhile is gone; nothing has to be done", o.Dir, aside, o.Dir))
		k, err = Open(o)
	}
	if errors.Is(err, ErrKey) || errors.Is(err, ErrCorrupt) {
		reason := err
		if err = putAside(o.Dir); err != nil {
			warnings = append(warnings, fmt.Sprintf("%v, and it cannot be put aside either (%v): "+
				"remove %s yourself", reason, err, o.Dir))
			return tlsstore.Memory(), append(warnings, inMemory)
		}
		warnings = append(warnings, putAsideWarning(o.Dir, reason))
		k, err = Open(o)
	}
	if err != nil {
		return tlsstore.Memory(), append(warnings, fmt.Sprintf("%v: %s", err, Advice(o.Dir, err)), inMemory)
	}
	return k, warnings
}

// openUnlocked opens the directory, once another process has let go of it.
func openUnlocked(o Options) (*KV, error) {
	for until := time.Now().Add(lockWait); ; time.Sleep(lockEvery) {
		k, err := Open(o)
		if !errors.Is(err, ErrLocked) || !time.Now().Before(until) {
			return k, err
		}
	}
}

const inMemory = "what is learned about peers is kept in memory only, and lost when the process ends; " +
	"mail flows as it would, a little slower after each start"

func putAsideWarning(dir string, reason error) string {
	doing := "nothing has to be done, and " + dir + aside + " may be removed"
	if errors.Is(reason, ErrKey) {
		doing = fmt.Sprintf("if the key was not changed on purpose, stop the service, put the old key back, "+
			"\"rm -r %s && mv %s%s %s\", and start it; else nothing has to be done", dir, dir, aside, dir)
	}
	return fmt.Sprintf("%v: the store was put aside as %s, and a new one was begun, "+
		"so that peers are learned anew; %s", reason, dir+aside, doing)
}

// Advice says what to do about a directory that [Open] does not open.
func Advice(dir string, err error) string {
	switch {
	case errors.Is(err, ErrLocked):
		return "end the other process that uses " + dir + ", or give this one a directory of its own"
	case errors.Is(err, ErrDenied):
		return ownership(dir)
	case errors.Is(err, ErrReadOnly):
		return fmt.Sprintf("make %s writable for %s", dir, Account(os.Geteuid()))
	case errors.Is(err, ErrFull):
		return fmt.Sprintf("make room: %d MiB must be free where %s is", Reserve>>20, dir)
	case errors.Is(err, ErrForeign):
		return "name an empty directory, or one that is missing"
	case errors.Is(err, ErrUnsupported):
		return "nothing can be done about it"
	}
	return "see to that"
}

// PutAside puts a directory aside that [Open] finds sealed with another key or damaged, as [OpenAny] does, but only if
// nothing was written there since a time: when all that was in it is over. It returns how it is called then; "" if it
// was left where it is.
func PutAside(dir string, since time.Time) (as string, err error) {
	dir = filepath.Clean(dir)
	last, err := lastWritten(dir)
	if err != nil || last.After(since) {
		return "", typed(err)
	}
	if err := putAside(dir); err != nil {
		return "", err
	}
	return dir + aside, nil
}

// putAside renames a directory, and removes what was put aside before. It touches nothing but what is ours, and nothing
// that another process uses.
func putAside(dir string) error {
	dir = filepath.Clean(dir)
	for _, d := range []string{dir, dir + aside} {
		lock, err := lockDir(d)
		if d != dir && errors.Is(err, os.ErrNotExist) {
			continue
		} else if err != nil {
			return err
		}
		defer lock.Close()
		if _, err := list(d); err != nil {
			return err
		}
	}
	if err := os.RemoveAll(dir + aside); err != nil {
		return err
	}
	return os.Rename(dir, dir+aside)
}
