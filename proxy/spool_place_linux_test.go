package proxy

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
)

// nobody is a user who owns nothing.
const nobody = 65534

// as runs f as another user.
func as(t *testing.T, uid int, f func()) {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Skip("only root may become somebody else")
	}
	if err := syscall.Seteuid(uid); err != nil {
		t.Skip("cannot become somebody else: ", err)
	}
	defer func() {
		if err := syscall.Seteuid(0); err != nil {
			t.Fatal(err)
		}
	}()
	f()
}

// TestSpoolOfAnotherUser: a directory that is there and not ours to write to is no reason to refuse mail, and a check
// says where it will go.
func TestSpoolOfAnotherUser(t *testing.T) {
	state := t.TempDir()
	for _, dir := range []string{filepath.Dir(state), state} {
		if err := os.Chmod(dir, 0o755); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.Mkdir(filepath.Join(state, "spool"), 0o700); err != nil {
		t.Fatal(err)
	}
	w := newWorld(t)
	w.cfg.SpoolDir, w.cfg.StateDir = "", state
	w.inbound()
	as(t, nobody, func() {
		for _, mayMake := range []bool{true, false} {
			dir, why := spoolDir(w.cfg, mayMake)
			if dir != os.TempDir() || !errors.Is(why, fs.ErrPermission) {
				t.Errorf("may make it %v: %s, %v; want %s", mayMake, dir, why, os.TempDir())
			}
		}
		wantFinding(t, w.findings(), "warn spool "+state+"/spool: permission denied; large messages go to "+os.TempDir()+
			" instead: chown -R … "+state+"/spool, or set spool_dir")
	})
	if dir, why := spoolDir(w.cfg, true); dir != filepath.Join(state, "spool") || why != nil {
		t.Errorf("as its owner: %s, %v", dir, why)
	}
}

// TestSpoolMadeByRoot: what root makes in a directory of somebody else does not stand in their way.
func TestSpoolMadeByRoot(t *testing.T) {
	state := t.TempDir()
	if err := os.Chown(state, nobody, nobody); err != nil {
		t.Skip("only root may give a directory away: ", err)
	}
	cfg := testConfig()
	cfg.SpoolDir, cfg.StateDir = "", state
	if dir, why := spoolDir(cfg, true); dir != filepath.Join(state, "spool") || why != nil {
		t.Fatalf("%s, %v", dir, why)
	}
	info, err := os.Stat(filepath.Join(state, "spool"))
	if err != nil {
		t.Fatal(err)
	}
	if uid := info.Sys().(*syscall.Stat_t).Uid; uid != nobody || info.Mode().Perm() != 0o700 {
		t.Errorf("it belongs to user %d and has the mode %04o", uid, info.Mode().Perm())
	}
}

// TestSpoolLost: a directory that is lost while the service runs costs no message.
func TestSpoolLost(t *testing.T) {
	lost := filepath.Join(t.TempDir(), "lost")
	from := newSpools(lost, 0, 0)
	s := from.open()
	if _, err := s.Write([]byte("text")); err == nil {
		t.Error("something was written to a directory that is not there")
	}
	_ = s.Close()
	from.spare = t.TempDir()
	s = from.open()
	if _, err := s.Write([]byte("text")); err != nil {
		t.Errorf("with another directory to spare: %v", err)
	}
	spoolHolds(t, s, []byte("text"))
	_ = s.Close()
}

// TestSocketName: a name that is too long is called that.
func TestSocketName(t *testing.T) {
	for octets, good := range map[int]bool{82: true, 83: false, 200: false} {
		dir := "/" + strings.Repeat("d", octets-1)
		err := SocketName(dir + "/control.sock")
		if (err == nil) != good || err != nil && !strings.Contains(err.Error(), "at most 82 may be") {
			t.Errorf("a directory of %d octets: %v", octets, err)
		}
	}
	_, err := ListenPrivate("/tmp/" + strings.Repeat("d", 200) + "/s")
	if err == nil || !strings.Contains(err.Error(), "too long") {
		t.Errorf("ListenPrivate: %v", err)
	}
}

// TestSpoolChosenAgain: a reload goes by what can be written to now.
func TestSpoolChosenAgain(t *testing.T) {
	w := newWorld(t)
	state := filepath.Join(t.TempDir(), "state")
	w.cfg.SpoolDir, w.cfg.StateDir = "", state
	if err := os.WriteFile(state, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	p := &Proxy{config: w.cfg}
	p.spools = p.spoolsFor(w.cfg)
	if p.spools.dir != os.TempDir() || p.spools.why == nil {
		t.Errorf("%s, %v", p.spools.dir, p.spools.why)
	}
	if err := os.Remove(state); err != nil {
		t.Fatal(err)
	}
	p.spools = p.spoolsFor(w.cfg)
	if p.spools.dir != filepath.Join(state, "spool") || p.spools.spare != os.TempDir() {
		t.Errorf("once it can be made: %s, and to spare %q", p.spools.dir, p.spools.spare)
	}
	if again := p.spoolsFor(w.cfg); again != p.spools {
		t.Error("the budget does not outlive a reload that changes nothing")
	}
}
