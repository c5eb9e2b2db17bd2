package main

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"slipstream/proxy"
)

// TestCheckOnceFine looks before a start, beside a service, and after one.
func TestCheckOnceFine(t *testing.T) {
	cfg := onceConfig(t, filepath.Join(t.TempDir(), "state"))
	dir := filepath.Join(cfg.StateDir, onceName)
	wantFound(t, found(cfg), "ok once "+dir+" would be made, … MiB are free; up to … MiB for 100000 outcomes")
	if isThere(cfg.StateDir) {
		t.Error("the check made the directory")
	}
	o, _ := openOnceTest(t, cfg)
	wantFound(t, found(cfg), "warn once "+dir+": badgerkv: another process uses the directory…: end the other process…"+
		wouldSplit)
	cfg.Store.Enabled = false // there is no socket then by which to tell
	wantFound(t, found(cfg), "ok once "+dir+" is in use, by a service that runs")
	o.Close()
	cfg.Store.Enabled = true
	wantFound(t, found(cfg), "ok once "+dir+" can be opened: … MiB, and … MiB are free")

	cfg.Once.Enabled = false
	wantFound(t, found(cfg), `ok once off (once.enabled = false): split = "fanout" does what "452" does`)
	cfg.Outbound = nil
	if all := strings.Join(found(cfg), "\n"); strings.Contains(all, " once ") {
		t.Errorf("nobody needs it, and there is a word about it:\n%s", all)
	}
}

// TestCheckOnceTrouble has each thing that is wrong told, with what to do.
func TestCheckOnceTrouble(t *testing.T) {
	for name, test := range map[string]struct {
		prepare func(cfg *proxy.Config) error
		want    string // S is the state directory
	}{
		"key is short": {func(cfg *proxy.Config) error { return os.Truncate(storeKey(cfg), 5) },
			"warn once …/store.key has 5 octets, it must have 32: …" + wouldSplit},
		"key is gone": {func(cfg *proxy.Config) error { return os.Remove(storeKey(cfg)) },
			"warn once S/once was sealed with a key that is not there: put the old key back as S/store.key…twice…" + wouldSplit},
		"key is another": {func(cfg *proxy.Config) error { return os.WriteFile(storeKey(cfg), make([]byte, 32), 0o600) },
			"warn once S/once: badgerkv: the key does not fit: put the old key back as S/store.key, or, if there is none, " +
				`"mv S/once S/once.bad": …twice…` + wouldSplit},
		"not ours": {func(cfg *proxy.Config) error {
			return os.WriteFile(filepath.Join(cfg.StateDir, onceName, "theirs"), nil, 0o600)
		}, "warn once S/once: badgerkv: the directory holds files of others: S/once/theirs: name an empty…" + wouldSplit},
		"state_dir is a file": {func(cfg *proxy.Config) error {
			return errors.Join(os.RemoveAll(cfg.StateDir), os.WriteFile(cfg.StateDir, nil, 0o600))
		}, "warn once …not a directory…" + wouldSplit},
	} {
		t.Run(name, func(t *testing.T) {
			cfg := onceConfig(t, filepath.Join(t.TempDir(), "state"))
			o, _ := openOnceTest(t, cfg)
			o.Close()
			if err := test.prepare(cfg); err != nil {
				t.Fatal(err)
			}
			wantFound(t, found(cfg), strings.ReplaceAll(test.want, "S/", cfg.StateDir+"/"))
		})
	}
}
