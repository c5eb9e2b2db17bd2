package main

import (
	"errors"
	"io/fs"
	"path/filepath"

	"slipstream/proxy"
	"slipstream/tlsstore/badgerkv"
)

// wouldSplit is what becomes of mail while outcomes cannot be remembered.
const wouldSplit = `until it can be used, split = "fanout" does what "452" does`

// once looks at the memory of outcomes, where a door needs it, and at the room for it.
func (c *memoryCheck) once() {
	const about = "once"
	if len(c.cfg.Outbound) == 0 {
		return
	}
	if !c.cfg.Once.Enabled {
		c.say(proxy.Fine, about, "off (once.enabled = false): split = \"fanout\" does what \"452\" does")
		return
	}
	dir := filepath.Join(c.cfg.StateDir, onceName)
	_, service := c.owner()
	key, err := badgerkv.ReadKey(storeKey(c.cfg), service)
	switch {
	case err != nil && !errors.Is(err, fs.ErrNotExist):
		c.say(proxy.Doubtful, about, "%v; %s", err, wouldSplit)
		return
	case !isThere(dir):
		c.onceRoom(dir)
		return
	case err != nil:
		c.say(proxy.Doubtful, about, "%s was sealed with a key that is not there: %s (systemd's credential %s does not "+
			"show here); %s", dir, onceAdvice(c.cfg, badgerkv.ErrKey), storeKeyName, wouldSplit)
		return
	}
	c.onceThere(dir, key)
}

func (c *memoryCheck) onceThere(dir string, key []byte) {
	const about = "once"
	size, free, err := badgerkv.Inspect(onceOptions(c.cfg, key))
	switch {
	case errors.Is(err, badgerkv.ErrLocked) && (c.answers() || !c.cfg.Store.Enabled):
		c.say(proxy.Fine, about, "%s is in use, by a service that runs", dir)
	case useless(err):
		c.say(proxy.Doubtful, about, "%s: %v: %s; %s", dir, err, onceAdvice(c.cfg, err), wouldSplit)
	case err != nil:
		c.say(proxy.Doubtful, about, "%s: %v: %s; %s", dir, err, badgerkv.Advice(dir, err), wouldSplit)
	case c.strangers(dir) != "":
		owner, _ := c.owner()
		c.say(proxy.Doubtful, about, "%s belongs to another user than %s, who could not open it; chown -R %s %s; %s",
			c.strangers(dir), c.cfg.StateDir, owner, dir, wouldSplit)
	case free < badgerkv.Reserve:
		c.say(proxy.Doubtful, about, "%s can be opened, but nothing would be written: %d MiB are free on its disk, "+
			"%d must be; %s", dir, free>>20, badgerkv.Reserve>>20, wouldSplit)
	default:
		c.say(proxy.Fine, about, "%s can be opened: %d MiB, and %d MiB are free", dir, size>>20, free>>20)
	}
}

// onceRoom looks at the disk of a directory that is to be made.
func (c *memoryCheck) onceRoom(dir string) {
	const about = "once"
	free, err := badgerkv.Free(nearest(dir))
	if err == nil {
		err = canMakeIn(nearest(dir))
	}
	switch {
	case err != nil:
		c.say(proxy.Doubtful, about, "%s cannot be made: %v; %s", dir, err, wouldSplit)
	case free < badgerkv.Reserve:
		c.say(proxy.Doubtful, about, "%s would find no room: %d MiB are free on its disk, %d must be; %s",
			dir, free>>20, badgerkv.Reserve>>20, wouldSplit)
	default:
		c.say(proxy.Fine, about, "%s would be made, %d MiB are free; up to %d MiB for %d outcomes",
			dir, free>>20, onceOptions(c.cfg, nil).MaxSize>>20, c.cfg.Once.MaxRecipients)
	}
}
