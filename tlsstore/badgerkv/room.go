package badgerkv

import (
	"errors"
	"fmt"
	"os"
	"strings"
	"sync"
	"syscall"
	"time"
)

// The disk is looked at once for as many octets written, and as often.
const (
	lookOctets = 1 << 20
	lookEvery  = time.Second
)

// A room remembers how full the disk was when it was last looked at.
type room struct {
	mu      sync.Mutex
	looked  time.Time
	written int64 // since then
	disk    error // nothing may be written
	size    error // the store must not grow
}

// hasRoom says whether n octets may be written, by which the store grows or not.
func (k *KV) hasRoom(n int, grows bool) error {
	r := &k.room
	r.mu.Lock()
	defer r.mu.Unlock()
	r.written += int64(n)
	if now := time.Now(); r.written > lookOctets || now.Sub(r.looked) >= lookEvery || now.Before(r.looked) {
		before, outgrown := errors.Join(r.disk, r.size), r.size != nil
		r.looked, r.written = now, 0
		r.disk, r.size = k.lookAtDisk(Reserve), k.lookAtSize()
		k.tell(before, errors.Join(r.disk, r.size))
		if r.size != nil && !outgrown {
			select {
			case k.outgrown <- struct{}{}:
			default: // nobody has heard of the last time
			}
		}
	}
	if r.disk != nil || !grows {
		return r.disk
	}
	return r.size
}

// Room says whether anything could be set now: there is room on the disk, see [Reserve], and Badger has not broken
// down. The disk is looked at no more than once a second for that.
func (k *KV) Room() error {
	if k.broken.Load() {
		return errBroken
	}
	return k.hasRoom(0, true)
}

// Outgrown sends when the KV has begun to refuse writes for its own size, so that Maintain is called before its time.
func (k *KV) Outgrown() <-chan struct{} { return k.outgrown }

// lookAgain has the next write look at the disk.
func (r *room) lookAgain() {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.looked = time.Time{}
}

func (k *KV) tell(before, now error) {
	switch log := (logger{k.o.Log}); {
	case before == nil && now != nil:
		log.Warningf("nothing more is kept for now: %v", now)
	case before != nil && now == nil:
		log.say("info", "there is room on the disk again", nil)
	}
}

// lookAtDisk says whether anything may be written, which needs some octets of the disk to be free.
func (k *KV) lookAtDisk(needed int64) error {
	if !sameFile(k.lock, k.o.Dir) {
		return fmt.Errorf("badgerkv: %s was moved or removed: %w", k.o.Dir, os.ErrNotExist)
	}
	free, err := diskFree(k.o.Dir)
	if err == nil && free < needed {
		err = noRoom(free, needed)
	}
	return err
}

func noRoom(free, needed int64) error {
	return fmt.Errorf("%w: %d MiB are free, %d must be", ErrFull, free>>20, needed>>20)
}

// lookAtSize says whether the store may grow until it is maintained.
func (k *KV) lookAtSize() error {
	if size, limit := k.Size(), k.o.MaxSize+k.o.MaxSize/4; size > limit {
		return fmt.Errorf("%w: the store takes %d MiB, more than %d", ErrFull, size>>20, limit>>20)
	}
	return nil
}

// Size returns how many octets the store takes on the disk.
func (k *KV) Size() int64 {
	entries, err := os.ReadDir(k.o.Dir)
	if err != nil {
		return 0
	}
	var sum int64
	for _, e := range entries {
		if info, err := e.Info(); err == nil && info.Mode().IsRegular() {
			sum += allocated(info)
		}
	}
	return sum
}

// environment says whether an error is none of the files' fault. It goes by the text, which is all that Badger keeps.
func environment(err error) bool {
	for _, e := range []syscall.Errno{syscall.EMFILE, syscall.ENFILE, syscall.ENOMEM, syscall.EINTR, syscall.EAGAIN,
		syscall.ENOSPC, syscall.EROFS, syscall.EACCES, syscall.EPERM, syscall.EIO} {
		if strings.Contains(err.Error(), e.Error()) {
			return true
		}
	}
	return false
}
