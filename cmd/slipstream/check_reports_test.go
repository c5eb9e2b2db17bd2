package main

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"slipstream/proxy"
)

// reportsFound runs the check of the directory of reports.
func reportsFound(cfg *proxy.Config) (lines []string) {
	checkReports(cfg, func(f proxy.Finding) { lines = append(lines, f.State.String()+" "+f.About+" "+f.Text) })
	return lines
}

// TestCheckReports has what is wrong with the directory told, and nothing changed in it.
func TestCheckReports(t *testing.T) {
	const so = "; mail would not be counted for aggregate reports: "
	for name, test := range map[string]struct {
		prepare func(cfg *proxy.Config, dir string) error
		want    string // D is the directory
	}{
		"to be made": {func(_ *proxy.Config, dir string) error { return os.Remove(dir) },
			"ok reports D would be made: it may grow by 244 MiB, and … are free"},
		"there": {func(cfg *proxy.Config, dir string) error {
			cfg.Reports.MaxSize = 3 << 20
			return os.WriteFile(filepath.Join(dir, "day"), make([]byte, 1<<20), 0o600)
		}, "ok reports D can be written: it may grow by 2 MiB, and … are free"},
		"more than it may": {func(cfg *proxy.Config, dir string) error {
			cfg.Reports.MaxSize = 1000
			return os.WriteFile(filepath.Join(dir, "day"), make([]byte, 2000), 0o600)
		}, "ok reports D can be written: it may grow by 0 MiB, and … are free"},
		"no room": {func(cfg *proxy.Config, _ string) error {
			cfg.Reports.MaxSize = 1 << 60
			return nil
		},
			"warn reports D can be written, but may grow by … MiB, and … are free on its disk; make room, or lower " +
				"reports.max_size"},
		"a file": {func(_ *proxy.Config, dir string) error {
			return errors.Join(os.Remove(dir), os.WriteFile(dir, nil, 0o600))
		}, "warn reports D is not a directory" + so + "remove it, or change reports.dir"},
		"below a file": {func(cfg *proxy.Config, dir string) error {
			cfg.Reports.Dir = filepath.Join(dir, "day", "reports")
			return os.WriteFile(filepath.Join(dir, "day"), nil, 0o600)
		}, "warn reports …: not a directory" + so + "make it a directory that … can write to"},
		"open": {func(_ *proxy.Config, dir string) error { return os.Chmod(dir, 0o770) },
			"warn reports others may write to D (mode 0770)" + so + "chmod go-w it"},
		"off": {func(cfg *proxy.Config, _ string) error {
			cfg.Inbound[0].Auth.AggregateReports = false
			return nil
		}, ""},
		"nothing is judged": {func(cfg *proxy.Config, _ string) error {
			cfg.Inbound[0].Auth.Enabled = false
			return nil
		}, ""},
	} {
		t.Run(name, func(t *testing.T) {
			dir := filepath.Join(t.TempDir(), "reports")
			cfg := proxy.DefaultConfig()
			in := proxy.DefaultInbound()
			in.Auth.AggregateReports = true
			cfg.Inbound, cfg.Reports.Dir = []proxy.InboundConfig{in}, dir
			if err := errors.Join(os.Mkdir(dir, 0o700), test.prepare(cfg, dir)); err != nil {
				t.Fatal(err)
			}
			before := tree(t, filepath.Dir(dir))
			lines := reportsFound(cfg)
			if test.want == "" {
				if len(lines) != 0 {
					t.Errorf("findings: %q", lines)
				}
				return
			}
			wantFound(t, lines, strings.ReplaceAll(test.want, "D", dir))
			if after := tree(t, filepath.Dir(dir)); after != before {
				t.Errorf("there was %q, now there is %q", before, after)
			}
		})
	}
}

// tree lists what is in a directory and below.
func tree(t *testing.T, root string) string {
	t.Helper()
	var names []string
	err := filepath.WalkDir(root, func(path string, _ os.DirEntry, err error) error {
		names = append(names, path)
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return strings.Join(names, " ")
}
