//go:build unix

package proxy

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"go.uber.org/zap"
	"go.uber.org/zap/zaptest/observer"
)

// tapCopyOf makes a copy as a transaction would.
func tapCopyOf(t *testing.T, n int, text string, sync bool) *tapCopy {
	t.Helper()
	m := &message{prefix: []byte("X-Ours: 1\r\n"), body: newSpools(t.TempDir(), 1<<10, 1<<20).open()}
	if _, err := m.body.Write([]byte(text)); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(m.close)
	name := newTapName(time.Now(), fmt.Sprintf("00000000ab.%d", n))
	envelope := (&tapMail{Version: tapVersion, File: name + tapText, Octets: m.size()}).encode()
	return &tapCopy{name: name, door: "d", conf: TapConfig{Sync: sync}, envelope: envelope, text: m, octets: m.size()}
}

// openTap opens a directory for a test.
func openTap(t *testing.T, path string) *tapDir {
	t.Helper()
	place, err := openTapDir(path, zap.NewNop())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(place.close)
	return place.(*tapDir)
}

// namesIn lists a directory.
func namesIn(t *testing.T, dir string) (names []string) {
	t.Helper()
	entries, err := os.ReadDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	for _, e := range entries {
		names = append(names, e.Name())
	}
	return names
}

// A text in memory and in a file, with and without sync, is what the message was.
func TestTapDirPut(t *testing.T) {
	dir := t.TempDir()
	d := openTap(t, dir)
	for i, text := range []string{"", "Subject: x\r\n\r\n", strings.Repeat("long\r\n", 100000)} {
		for _, sync := range []bool{false, true} {
			c := tapCopyOf(t, i, text, sync)
			before, _ := d.used()
			if err := d.put(c); err != nil {
				t.Fatal(err)
			}
			got, err := os.ReadFile(filepath.Join(dir, c.name+tapText))
			if err != nil || string(got) != "X-Ours: 1\r\n"+text {
				t.Errorf("%d octets became %d, %v", len(text), len(got), err)
			}
			if after, err := d.used(); err != nil || after-before != c.size() {
				t.Errorf("%d octets of the directory, %v; want %d", after-before, err, c.size())
			}
		}
	}
	tapped(t, dir)
}

// Who may read a copy follows from who may read the directory.
func TestTapDirModes(t *testing.T) {
	gid := os.Getegid()
	other := gid
	if os.Geteuid() == 0 {
		other = gid + 1234
	}
	for _, tt := range []struct {
		dir  fs.FileMode
		file fs.FileMode
		gid  int
	}{
		{0o700, 0o600, gid},
		{0o710, 0o600, gid}, // may not see what there is
		{0o750, 0o640, other},
		{0o770 | fs.ModeSetgid, 0o640, other},
		{0o755, 0o640, other}, // the world gets nothing
		{0o777, 0o640, other},
	} {
		dir := t.TempDir()
		if err := errors.Join(os.Chown(dir, -1, other), os.Chmod(dir, tt.dir)); err != nil {
			t.Fatal(err)
		}
		for _, mask := range []int{0o000, 0o077} {
			old := syscall.Umask(mask)
			c := tapCopyOf(t, 1, "x", false)
			err := openTap(t, dir).put(c)
			syscall.Umask(old)
			if err != nil {
				t.Fatal(err)
			}
			for _, name := range []string{c.name + tapText, c.name + tapEnvelope} {
				info, err := os.Stat(filepath.Join(dir, name))
				if err != nil {
					t.Fatal(err)
				}
				owner := info.Sys().(*syscall.Stat_t)
				if info.Mode().Perm() != tt.file || tt.file == 0o640 && int(owner.Gid) != tt.gid {
					t.Errorf("%v, umask %04o: mode %04o of group %d, want %04o of group %d",
						tt.dir, mask, info.Mode().Perm(), owner.Gid, tt.file, tt.gid)
				}
			}
		}
	}
}

// Names sort by time, and nobody can know them before.
func TestTapNames(t *testing.T) {
	at := time.Date(2026, 11, 22, 9, 45, 1, 123456789, time.FixedZone("x", 3600))
	form := regexp.MustCompile(`^20261122T084501\.123456Z-00000000ab\.1-[0-9a-f]{16}$`)
	seen := make(map[string]bool)
	for range 1000 {
		name := newTapName(at, "00000000ab.1")
		ours := tapNames().MatchString(name+tapText) && tapNames().MatchString("."+name+tapEnvelope)
		if !form.MatchString(name) || seen[name] || !ours {
			t.Fatalf("%q", name)
		}
		seen[name] = true
	}
	var names []string
	for i := range 100 {
		later := at.Add(time.Duration(i) * 1100 * time.Microsecond)
		names = append(names, newTapName(later, fmt.Sprintf("00000000ab.%d", i)))
	}
	if !slices.IsSorted(names) {
		t.Error("names do not sort by time")
	}
}

// What a process that died has begun is ended: a text in sight gets its envelope,
// all else goes, and nothing that is not ours is touched.
func TestTapDirTidy(t *testing.T) {
	dir := t.TempDir()
	name := func(n int) string { return newTapName(time.Now(), fmt.Sprintf("00000000ab.%d", n)) }
	whole, torn, begun := name(1), name(2), name(3)
	taken := name(4) // its reader has the envelope already
	foreign := []string{".nfs0001", ".x" + tapText, "notes", "." + begun, begun + ".tmp"}
	for name, text := range map[string]string{
		whole + tapText: "x", "." + whole + tapEnvelope: `{"version":1}`,
		torn + tapText: "x", "." + torn + tapEnvelope: "\x00\x00",
		"." + begun + tapText: "x", "." + begun + tapEnvelope: "{}",
		taken + tapText: "x",
	} {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	for _, name := range foreign {
		if err := os.WriteFile(filepath.Join(dir, name), nil, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	trap := "." + name(5) + tapText
	if err := os.MkdirAll(filepath.Join(dir, trap, "x"), 0o700); err != nil {
		t.Fatal(err)
	}
	openTap(t, dir)
	want := append(foreign, whole+tapText, whole+tapEnvelope, taken+tapText, trap)
	slices.Sort(want)
	if got := namesIn(t, dir); !slices.Equal(got, want) {
		t.Errorf("got  %q\nwant %q", got, want)
	}
}

// One leftover that cannot be dealt with is logged and stays; the others are, and
// copies go on.
func TestTapDirTidyStuck(t *testing.T) {
	for _, stuckFirst := range []bool{true, false} {
		dir := t.TempDir()
		stuck, whole := newTapName(time.Unix(1, 0), "00000000ab.1"), newTapName(time.Unix(2, 0), "00000000ab.2")
		if !stuckFirst {
			stuck, whole = whole, stuck
		}
		for _, name := range []string{stuck, whole} {
			for file, text := range map[string]string{name + tapText: "x", "." + name + tapEnvelope: "{}"} {
				if err := os.WriteFile(filepath.Join(dir, file), []byte(text), 0o600); err != nil {
					t.Fatal(err)
				}
			}
		}
		if err := os.MkdirAll(filepath.Join(dir, stuck+tapEnvelope, "x"), 0o700); err != nil {
			t.Fatal(err)
		}
		core, logs := observer.New(zap.DebugLevel)
		place, err := openTapDir(dir, zap.New(core))
		if err != nil {
			t.Fatal(err)
		}
		defer place.close()
		want := []string{"." + stuck + tapEnvelope, stuck + tapText, stuck + tapEnvelope, whole + tapText, whole + tapEnvelope}
		slices.Sort(want)
		if got := namesIn(t, dir); !slices.Equal(got, want) {
			t.Errorf("got  %q\nwant %q", got, want)
		}
		if logs.Len() != 1 || !mentions(logs, stuck) || mentions(logs, whole) {
			t.Errorf("logged %v", logs.All())
		}
		if err := place.put(tapCopyOf(t, 3, "x", false)); err != nil {
			t.Error(err)
		}
	}
}

// A thousand of them are one line of the log, and no endless one.
func TestTapDirTidyManyStuck(t *testing.T) {
	dir := t.TempDir()
	for i := range maxStaysTold + 5 {
		name := newTapName(time.Now(), fmt.Sprintf("00000000ab.%d", i))
		for file, text := range map[string]string{name + tapText: "x", "." + name + tapEnvelope: "{}"} {
			if err := os.WriteFile(filepath.Join(dir, file), []byte(text), 0o600); err != nil {
				t.Fatal(err)
			}
		}
		if err := os.MkdirAll(filepath.Join(dir, name+tapEnvelope, "x"), 0o700); err != nil {
			t.Fatal(err)
		}
	}
	stays, err := openTap(t, dir).tidy()
	if err != nil || stays == nil || strings.Count(stays.Error(), "\n") != maxStaysTold || !strings.HasSuffix(stays.Error(), "and 5 more") {
		t.Errorf("%v, %v", stays, err)
	}
}

// Who may write to the directory cannot have us write, or read, anywhere else.
func TestTapDirSymlinks(t *testing.T) {
	outside := t.TempDir()
	target := filepath.Join(outside, "target")
	if err := os.WriteFile(target, []byte("precious"), 0o600); err != nil {
		t.Fatal(err)
	}
	for _, end := range []string{tapText, tapEnvelope} {
		for _, dot := range []string{".", ""} {
			dir := t.TempDir()
			d := openTap(t, dir)
			c := tapCopyOf(t, 1, "evil", false)
			planted := filepath.Join(dir, dot+c.name+end)
			if err := os.Symlink(target, planted); err != nil {
				t.Fatal(err)
			}
			err := d.put(c)
			if dot == "." && !errors.Is(err, fs.ErrExist) || dot == "" && err != nil {
				t.Errorf("behind a link at %s%s: %v", dot, end, err)
			}
			if b, err := os.ReadFile(target); err != nil || string(b) != "precious" {
				t.Fatalf("what the link was to: %q, %v", b, err)
			}
			if _, err := d.used(); err != nil {
				t.Error(err)
			}
		}
	}
	dir := t.TempDir()
	d := openTap(t, dir)
	if err := os.Rename(dir, dir+".old"); err != nil {
		t.Fatal(err)
	}
	if err := os.Symlink(outside, dir); err != nil {
		t.Fatal(err)
	}
	if d.current() {
		t.Error("another directory has taken the name, and is taken for the one that is open")
	}
	if err := d.put(tapCopyOf(t, 1, "x", false)); err != nil {
		t.Error(err)
	}
	if got := namesIn(t, outside); len(got) != 1 {
		t.Errorf("elsewhere there are %q", got)
	}
}

// What goes wrong leaves nothing behind.
func TestTapDirFails(t *testing.T) {
	t.Run("no such directory", func(t *testing.T) {
		if _, err := openTapDir(filepath.Join(t.TempDir(), "none"), zap.NewNop()); !errors.Is(err, fs.ErrNotExist) {
			t.Error(err)
		}
	})
	t.Run("a file", func(t *testing.T) {
		file := filepath.Join(t.TempDir(), "file")
		if err := os.WriteFile(file, nil, 0o600); err != nil {
			t.Fatal(err)
		}
		if _, err := openTapDir(file, zap.NewNop()); err == nil {
			t.Error("was opened")
		}
	})
	t.Run("removed", func(t *testing.T) {
		dir := filepath.Join(t.TempDir(), "tap")
		if err := os.Mkdir(dir, 0o700); err != nil {
			t.Fatal(err)
		}
		d := openTap(t, dir)
		if err := os.Remove(dir); err != nil {
			t.Fatal(err)
		}
		if err := d.put(tapCopyOf(t, 1, "x", false)); err == nil || d.current() {
			t.Errorf("%v, still there: %t", err, d.current())
		}
	})
	t.Run("the text cannot be read", func(t *testing.T) {
		dir := t.TempDir()
		c := tapCopyOf(t, 1, "x", false)
		c.text.close()
		if err := openTap(t, dir).put(c); err == nil {
			t.Error("a text that is gone was written")
		}
		if got := namesIn(t, dir); len(got) != 0 {
			t.Errorf("left behind: %q", got)
		}
	})
	t.Run("the envelope cannot appear", func(t *testing.T) {
		dir := t.TempDir()
		c := tapCopyOf(t, 1, "x", false)
		blocked := filepath.Join(dir, c.name+tapEnvelope)
		if err := os.MkdirAll(filepath.Join(blocked, "x"), 0o700); err != nil {
			t.Fatal(err)
		}
		if err := openTap(t, dir).put(c); err == nil {
			t.Error("it was written over a directory")
		}
		if got := namesIn(t, dir); len(got) != 1 {
			t.Errorf("left behind: %q", got)
		}
	})
}
