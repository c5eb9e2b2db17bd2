package proxy

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
)

// tap checks the directory for copies. No finding stops mail.
func (c *check) tap() {
	const about = "tap"
	dir := c.cfg.Tap.Dir
	if dir == "" {
		return
	}
	var info fs.FileInfo
	err := soon(dir, func() (err error) {
		if info, err = os.Stat(dir); err == nil && info.IsDir() {
			err = writable(dir)
		}
		return err
	})
	switch {
	case errors.Is(err, fs.ErrNotExist):
		c.say(Doubtful, about, "%s does not exist, and nothing would be copied; "+
			"make it, for the group of the program that reads there: install -d -o %s -g GROUP -m 2770 %s", dir, accountName(), dir)
	case err == nil && !info.IsDir():
		c.say(Doubtful, about, "%s is not a directory, and nothing would be copied; correct tap.dir", dir)
	case err != nil:
		c.say(Doubtful, about, "%v, and nothing would be copied; make it writable for %s", err, accountName())
	default:
		c.tapReaders(dir, info)
		c.tapRoom(dir)
	}
}

// tapReaders says who may read what will be there.
func (c *check) tapReaders(dir string, info fs.FileInfo) {
	const about = "tap"
	const world, worldWrites = 0o007, 0o002
	mode := info.Mode().Perm()
	switch {
	case mode&worldWrites != 0:
		c.say(Doubtful, about, "anyone on this machine can remove copies from %s, or put files there that look like some "+
			"(mode %04o); chmod o= %s", dir, mode, dir)
	case mode&world != 0:
		c.say(Doubtful, about, "anyone on this machine can look into %s (mode %04o), though not into the files; chmod o= %s",
			dir, mode, dir)
	}
	who := accountName() + " alone"
	if share := sharedWith(info); share.group {
		who = fmt.Sprintf("%s and group %s", accountName(), groupName(share.gid))
		if !mayGive(info, share.gid) {
			c.say(Doubtful, about, "copies in %s cannot be given to its group %s, and that could not read them; "+
				"add %s to the group, or chmod g+s %s", dir, groupName(share.gid), accountName(), dir)
			return
		}
	}
	c.say(Fine, about, "%s can be written; copies can be read by %s", dir, who)
}

// tapRoom compares the limits with what the disk has.
func (c *check) tapRoom(dir string) {
	const about = "tap"
	t := c.cfg.Tap
	if free, ok := freeSpace(dir); ok && free < int64(t.MaxSize) {
		c.say(Doubtful, about, "the file system of %s has %s free, and tap.max_size is %s: "+
			"it would be full before that; lower tap.max_size", dir, Size(free)/megabyte*megabyte, t.MaxSize)
	}
	if most := c.cfg.Limits.MaxMessageSize; t.MaxSize < most {
		c.say(Doubtful, about, "tap.max_size is %s: larger messages, up to limits.max_message_size = %s, are never copied",
			t.MaxSize, most)
	}
}
