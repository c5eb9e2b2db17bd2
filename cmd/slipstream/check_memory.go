package main

import (
	"errors"
	"fmt"
	"io/fs"
	"net"
	"os"
	"path/filepath"
	"time"

	"slipstream/proxy"
	"slipstream/tlsstore/badgerkv"
)

// checkWait is how long the disk of the state directory may take to show all that is looked at.
const checkWait = 10 * time.Second

// checkMemory looks at what is remembered, as far as that can be done without changing it, and says what a start would
// make of it. Nothing that is wrong here holds mail up.
func checkMemory(cfg *proxy.Config, report func(proxy.Finding)) {
	found, ok := within(checkWait, func() []proxy.Finding {
		c := &memoryCheck{cfg: cfg}
		c.stateDir()
		c.key()
		c.store()
		c.once()
		c.tickets()
		return c.found
	}, func([]proxy.Finding) {})
	for _, f := range found {
		report(f)
	}
	if !ok {
		report(proxy.Finding{State: proxy.Doubtful, About: "state_dir", Text: fmt.Sprintf("%s: no answer from the disk "+
			"within %v; a start would wait %v, and then %s", cfg.StateDir, checkWait, openWait, wouldForget)})
	}
}

const wouldForget = "what is learned about peers would be kept in memory only"

type memoryCheck struct {
	cfg   *proxy.Config
	found []proxy.Finding
}

func (c *memoryCheck) say(s proxy.State, about, format string, args ...any) {
	c.found = append(c.found, proxy.Finding{State: s, About: about, Text: fmt.Sprintf(format, args...)})
}

// stateDir looks at the directory that all else is in.
func (c *memoryCheck) stateDir() {
	const about = "state_dir"
	dir := c.cfg.StateDir
	us := badgerkv.Account(os.Geteuid())
	info, err := os.Stat(dir)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		if err := canMakeIn(nearest(dir)); err != nil {
			c.say(proxy.Doubtful, about, "%s is missing and cannot be made: %v; write StateDirectory=slipstream in the "+
				"[Service] section of the unit, or make it for %s", dir, err, us)
			return
		}
		c.say(proxy.Fine, about, "%s would be made", dir)
	case err != nil:
		c.say(proxy.Doubtful, about, "%v; make it a directory that %s can write to", err, us)
	case !info.IsDir():
		c.say(proxy.Doubtful, about, "%s is not a directory; remove it, or change state_dir", dir)
	default:
		c.stateDirThere(info)
	}
	if err := proxy.SocketName(controlPath(c.cfg)); err != nil && c.cfg.Store.Enabled {
		c.say(proxy.Doubtful, about, "%v; \"slipstream cache\" would not reach the service: change state_dir", err)
	}
}

func (c *memoryCheck) stateDirThere(info os.FileInfo) {
	const about = "state_dir"
	dir := c.cfg.StateDir
	us := badgerkv.Account(os.Geteuid())
	err := canMakeIn(dir)
	owner, abroad := rootAbroad(dir)
	uid, known := ownerOf(info)
	switch {
	case err != nil && known && uid != os.Geteuid():
		c.say(proxy.Doubtful, about, "%v, it belongs to %s; if the service runs as %s: chown -R %s %s",
			err, badgerkv.Account(uid), us, us, dir)
	case err != nil:
		c.say(proxy.Doubtful, about, "%v; make it a directory that %s can write to", err, us)
	case info.Mode().Perm()&0o022 != 0:
		c.say(proxy.Doubtful, about, "others may write to %s (mode %04o); chmod 700 it", dir, info.Mode().Perm())
	case abroad && c.cfg.Store.Enabled:
		c.say(proxy.Fine, about, "%s belongs to %s; a service that runs as root would leave the store there alone, and %s",
			dir, owner, wouldForget)
	default:
		c.say(proxy.Fine, about, "%s can be written", dir)
	}
}

// key looks at what seals the store.
func (c *memoryCheck) key() {
	const about = "store.key"
	if !c.cfg.Store.Enabled {
		return
	}
	path := storeKey(c.cfg)
	_, service := c.owner()
	_, err := badgerkv.ReadKey(path, service)
	switch {
	case err == nil:
		if owner := c.strange(path); owner != "" {
			c.say(proxy.Doubtful, about, "%s belongs to %s, which the service's user could not read; chown it", path, owner)
			return
		}
		c.say(proxy.Fine, about, "%s can be read", path)
	case !errors.Is(err, fs.ErrNotExist):
		c.say(proxy.Doubtful, about, "%v; %s", err, wouldForget)
	case isThere(c.storeDir()):
		c.say(proxy.Doubtful, about, "%s is missing, and the store was sealed with another than would be made now: it "+
			"would be put aside, and a new one begun; put the key back (systemd's credential %s does not show here)",
			path, storeKeyName)
	default:
		if err := canMakeIn(nearest(path)); err != nil {
			c.say(proxy.Doubtful, about, "%s is missing and cannot be made: %v; %s", path, err, wouldForget)
			return
		}
		c.say(proxy.Fine, about, "%s would be made", path)
	}
}

func (c *memoryCheck) storeDir() string { return filepath.Join(c.cfg.StateDir, storeName) }

// store looks at the store and at the room for it.
func (c *memoryCheck) store() {
	const about = "store"
	if !c.cfg.Store.Enabled {
		lost := ""
		if c.cfg.Tickets.Enabled && c.cfg.Tickets.Learn {
			lost = ", and which clients break on tickets is learned anew after each start"
		}
		c.say(proxy.Fine, about, "off (store.enabled = false): nothing is remembered about hops%s", lost)
		return
	}
	dir := c.storeDir()
	if !isThere(dir) {
		c.room(dir)
		return
	}
	o := badgerkv.Options{Dir: dir}
	_, service := c.owner()
	if key, err := badgerkv.ReadKey(storeKey(c.cfg), service); err == nil {
		o.Key = key
	}
	size, free, err := badgerkv.Inspect(o)
	switch {
	case errors.Is(err, badgerkv.ErrLocked) && c.answers():
		c.say(proxy.Fine, about, "%s is in use, by a service that runs", dir)
	case errors.Is(err, badgerkv.ErrKey), errors.Is(err, badgerkv.ErrCorrupt):
		c.say(proxy.Doubtful, about, "%s: %v; it would be put aside as %s.bad, and a new one begun: put the right key "+
			"back if there is one", dir, err, dir)
	case err != nil:
		c.say(proxy.Doubtful, about, "%s: %v; %s: %s", dir, err, wouldForget, badgerkv.Advice(dir, err))
	case c.strangers(dir) != "":
		owner, _ := c.owner()
		c.say(proxy.Doubtful, about, "%s belongs to another user than %s, who could not open it; chown -R %s %s",
			c.strangers(dir), c.cfg.StateDir, owner, dir)
	case free < badgerkv.Reserve:
		c.say(proxy.Doubtful, about, "%s can be opened, but nothing would be written: %d MiB are free on its disk, "+
			"%d must be", dir, free>>20, badgerkv.Reserve>>20)
	default:
		c.say(proxy.Fine, about, "%s can be opened: %d MiB, and %d MiB are free", dir, size>>20, free>>20)
	}
}

// room looks at the disk of a store that is to be made.
func (c *memoryCheck) room(dir string) {
	free, err := badgerkv.Free(nearest(dir))
	switch {
	case err != nil:
		c.say(proxy.Doubtful, "store", "%s cannot be made: %v; %s: %s", dir, err, wouldForget, badgerkv.Advice(dir, err))
	case free < badgerkv.Reserve:
		c.say(proxy.Doubtful, "store", "%s would find no room: %d MiB are free on its disk, %d must be; %s",
			dir, free>>20, badgerkv.Reserve>>20, wouldForget)
	default:
		c.say(proxy.Fine, "store", "%s would be made, %d MiB are free", dir, free>>20)
	}
}

// answers tells whether a service listens at the control socket.
func (c *memoryCheck) answers() bool {
	conn, err := net.DialTimeout("unix", controlPath(c.cfg), controlDial)
	if err != nil {
		return false
	}
	_ = conn.Close()
	return true
}

// tickets looks at what clients' tickets are made from.
func (c *memoryCheck) tickets() {
	const about = "tickets"
	path := c.cfg.Tickets.SecretFile
	if !c.cfg.Tickets.Enabled {
		c.say(proxy.Fine, about, "off (tickets.enabled = false)")
		return
	}
	if path == "" {
		c.say(proxy.Fine, about, "sealed with keys of the process alone (tickets.secret_file is empty)")
		return
	}
	_, service := c.owner()
	if _, err := ticketSecretSoon(path, service); err != nil {
		c.say(proxy.Doubtful, about, "tickets.secret_file: %v; until then %s", err, ownKeys)
		return
	}
	if owner := c.strange(path); owner != "" {
		c.say(proxy.Doubtful, about, "tickets.secret_file: %s belongs to %s, which the service's user could not read; "+
			"chown it", path, owner)
		return
	}
	c.say(proxy.Fine, about, "the secret in %s can be read", path)
}

// owner is who the state directory belongs to: as whom the service runs, where root looks.
func (c *memoryCheck) owner() (name string, uid int) {
	if info, err := os.Stat(c.cfg.StateDir); err == nil {
		if uid, known := ownerOf(info); known {
			return badgerkv.Account(uid), uid
		}
	}
	return badgerkv.Account(os.Geteuid()), os.Geteuid()
}

// strange names the owner of a file that root can read and whoever the state directory belongs to cannot. What others
// may not read at all is theirs alone; a credential of systemd is shown to the service in its own way.
func (c *memoryCheck) strange(path string) (owner string) {
	info, err := os.Stat(path)
	if err != nil || os.Geteuid() != 0 || info.Mode().Perm()&0o040 != 0 {
		return ""
	}
	_, service := c.owner()
	if uid, known := ownerOf(info); known && uid != service && service != 0 {
		return badgerkv.Account(uid)
	}
	return ""
}

// strangers names a file of a directory that is strange.
func (c *memoryCheck) strangers(dir string) (path string) {
	entries, err := os.ReadDir(dir)
	if err != nil {
		return ""
	}
	for _, e := range entries {
		if path := filepath.Join(dir, e.Name()); c.strange(path) != "" {
			return path
		}
	}
	return ""
}

func isThere(path string) bool {
	_, err := os.Lstat(path)
	return err == nil
}

// nearest finds the directory above a path that is there.
func nearest(path string) string {
	for {
		up := filepath.Dir(path)
		if info, err := os.Stat(up); err == nil && info.IsDir() || up == path {
			return up
		}
		path = up
	}
}

// canMakeIn tells whether something can be made in a directory.
func canMakeIn(dir string) error {
	made, err := os.MkdirTemp(dir, ".slipstream-check-")
	if err != nil {
		var e *fs.PathError
		if errors.As(err, &e) {
			return fmt.Errorf("%s: %w", dir, e.Err)
		}
		return err
	}
	return os.Remove(made)
}
