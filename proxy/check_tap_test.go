//go:build unix

package proxy

import (
	"errors"
	"io/fs"
	"os"
	"os/user"
	"path/filepath"
	"strings"
	"testing"
)

// What may be wrong with the directory for copies, and what is to be done.
func TestCheckTap(t *testing.T) {
	me := accountName()
	group := "?"
	if g, err := user.LookupGroupId(groupID(t)); err == nil {
		group = g.Name
	}
	for _, tt := range []struct {
		name   string
		mode   fs.FileMode // 0: there is no directory
		change func(*Config)
		want   []string
	}{
		{"off", 0o700, func(cfg *Config) { cfg.Tap.Dir = "" }, nil},
		{"good", 0o700, nil, []string{"ok tap … can be written; copies can be read by " + me + " alone"}},
		{"for a group", 0o750 | fs.ModeSetgid, nil, []string{
			"ok tap … can be written; copies can be read by " + me + " and group " + group}},
		{"missing", 0, nil, []string{"warn tap … does not exist, and nothing would be copied; " +
			"make it, for the group of the program that reads there: install -d -o " + me + " -g GROUP -m 2770 …"}},
		{"a file", 0o700, func(cfg *Config) {
			cfg.Tap.Dir += "/file"
			if err := os.WriteFile(cfg.Tap.Dir, nil, 0o600); err != nil {
				panic(err)
			}
		}, []string{"warn tap …/file is not a directory, and nothing would be copied; correct tap.dir"}},
		{"seen by all", 0o755, nil, []string{
			"warn tap anyone on this machine can look into … (mode 0755), though not into the files; chmod o= …",
			"ok tap … can be written; copies can be read by " + me + " and group " + group}},
		{"for all", 0o707, nil, []string{
			"warn tap anyone on this machine can remove copies from …, or put files there that look like some " +
				"(mode 0707); chmod o= …",
			"ok tap …"}},
		{"no room", 0o700, func(cfg *Config) { cfg.Tap.MaxSize = 1e15 }, []string{"ok tap …",
			"warn tap the file system of … has … free, and tap.max_size is 1000TB: " +
				"it would be full before that; lower tap.max_size"}},
		{"less than a message", 0o700, func(cfg *Config) { cfg.Tap.MaxSize = megabyte }, []string{"ok tap …",
			"warn tap tap.max_size is 1MB: larger messages, up to limits.max_message_size = 100MB, are never copied"}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			w := &world{t: t, cfg: testConfig()}
			dir := filepath.Join(t.TempDir(), "tap")
			if tt.mode != 0 {
				if err := errors.Join(os.Mkdir(dir, 0o700), os.Chmod(dir, tt.mode)); err != nil {
					t.Fatal(err)
				}
			}
			if w.cfg.Tap.Dir = dir; tt.change != nil {
				tt.change(w.cfg)
			}
			var got []string
			c := &check{cfg: w.cfg, report: func(f Finding) {
				got = append(got, f.State.String()+" "+f.About+" "+f.Text)
			}}
			c.tap()
			if len(got) != len(tt.want) {
				t.Errorf("findings: %q, want %q", got, tt.want)
			}
			for _, want := range tt.want {
				wantFinding(t, got, want)
			}
			entries, _ := os.ReadDir(dir) // it may not be there
			for _, e := range entries {
				if strings.HasPrefix(e.Name(), ".") {
					t.Errorf("%s was left behind", e.Name())
				}
			}
		})
	}
}

// groupID is the group that directories of ours have.
func groupID(t *testing.T) string {
	t.Helper()
	u, err := user.Current()
	if err != nil {
		t.Skip("nobody knows who runs this: ", err)
	}
	return u.Gid
}
