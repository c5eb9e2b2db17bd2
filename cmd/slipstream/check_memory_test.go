package main

import (
	"errors"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"syscall"
	"testing"

	"slipstream/proxy"
)

// found runs the check of what is remembered.
func found(cfg *proxy.Config) (lines []string) {
	checkMemory(cfg, func(f proxy.Finding) { lines = append(lines, f.State.String()+" "+f.About+" "+f.Text) })
	return lines
}

// wantFound checks that there is a line as given; "…" stands for anything.
func wantFound(t *testing.T, lines []string, want string) {
	t.Helper()
	parts := strings.Split(want, "…")
	for i, p := range parts {
		parts[i] = regexp.QuoteMeta(p)
	}
	if !slices.ContainsFunc(lines, regexp.MustCompile("^"+strings.Join(parts, ".*")+"$").MatchString) {
		t.Errorf("no finding %q in\n%s", want, strings.Join(lines, "\n"))
	}
}

// TestCheckMemoryFine looks before a start, beside a service, and after one, and leaves nothing behind.
func TestCheckMemoryFine(t *testing.T) {
	cfg := memoryConfig(t)
	state := cfg.StateDir
	lines := found(cfg)
	wantFound(t, lines, "ok state_dir "+state+" would be made")
	wantFound(t, lines, "ok store.key "+state+"/store.key would be made")
	wantFound(t, lines, "ok store "+state+"/store would be made, … MiB are free")
	wantFound(t, lines, "ok tickets sealed with keys of the process alone (tickets.secret_file is empty)")
	if _, err := os.Stat(state); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("the check made the directory: %v", err)
	}
	mem, ctl, _ := openBoth(t, cfg)
	wantFound(t, found(cfg), "ok store "+state+"/store is in use, by a service that runs")
	ctl.Close()
	wantFound(t, found(cfg), "warn store "+state+"/store: badgerkv: another process uses the directory…: end the other…")
	mem.Close()
	lines = found(cfg)
	wantFound(t, lines, "ok state_dir "+state+" can be written")
	wantFound(t, lines, "ok store.key "+state+"/store.key can be read")
	wantFound(t, lines, "ok store "+state+"/store can be opened: … MiB, and … MiB are free")
	if entries, err := os.ReadDir(state); err != nil || len(entries) != 2 {
		t.Errorf("the check left something: %v, %v", entries, err)
	}
	cfg.Store.Enabled = false
	wantFound(t, found(cfg), "ok store off (store.enabled = false)…break on tickets is learned anew after each start")
	cfg.Tickets.Enabled = false
	wantFound(t, found(cfg), "ok tickets off (tickets.enabled = false)")
}

// TestCheckMemoryTrouble has each thing that is wrong told, with what to do; a start goes on without it.
func TestCheckMemoryTrouble(t *testing.T) {
	for name, test := range map[string]struct {
		prepare func(cfg *proxy.Config) error
		want    string // S is the state directory
	}{
		"state_dir is a file": {func(cfg *proxy.Config) error {
			return errors.Join(os.RemoveAll(cfg.StateDir), os.WriteFile(cfg.StateDir, nil, 0o600))
		}, "warn state_dir S is not a directory; remove it, or change state_dir"},
		"others may write": {func(cfg *proxy.Config) error { return os.Chmod(cfg.StateDir, 0o777) },
			"warn state_dir others may write to S (mode 0777); chmod 700 it"},
		"too long": {func(cfg *proxy.Config) error {
			cfg.StateDir = filepath.Join(cfg.StateDir, strings.Repeat("d", 100))
			return os.Mkdir(cfg.StateDir, 0o700)
		}, `warn state_dir … is too long a name for a directory with a socket in it: …"slipstream cache" would not reach…`},
		"key is short": {func(cfg *proxy.Config) error {
			return os.Truncate(storeKey(cfg), 5)
		}, "warn store.key …/store.key has 5 octets, it must have 32: …in memory only"},
		"key is a pipe": {func(cfg *proxy.Config) error {
			return errors.Join(os.Remove(storeKey(cfg)), syscall.Mkfifo(storeKey(cfg), 0o600))
		}, "warn store.key …/store.key is not a plain file (a pipe): …in memory only"},
		"key is gone": {func(cfg *proxy.Config) error { return os.Remove(storeKey(cfg)) },
			"warn store.key S/store.key is missing, and the store was sealed with another…put the key back…"},
		"key is another": {func(cfg *proxy.Config) error { return os.WriteFile(storeKey(cfg), make([]byte, 32), 0o600) },
			"warn store S/store: badgerkv: the key does not fit; it would be put aside as S/store.bad, and a new one begun…"},
		"not a store": {func(cfg *proxy.Config) error {
			return os.WriteFile(filepath.Join(cfg.StateDir, storeName, "theirs"), nil, 0o600)
		}, "warn store S/store: badgerkv: the directory holds files of others: …in memory only: name an empty directory…"},
		"secret is missing": {func(cfg *proxy.Config) error {
			cfg.Tickets.SecretFile = filepath.Join(cfg.StateDir, "no")
			return nil
		}, "warn tickets tickets.secret_file: open S/no: no such file or directory; until then tickets are sealed with keys of…"},
		"secret is short": {func(cfg *proxy.Config) error {
			cfg.Tickets.SecretFile = filepath.Join(cfg.StateDir, "secret")
			return os.WriteFile(cfg.Tickets.SecretFile, nil, 0o600)
		}, "warn tickets tickets.secret_file: S/secret must have 32 to …mail goes on"},
		"secret is good": {func(cfg *proxy.Config) error {
			cfg.Tickets.SecretFile = filepath.Join(cfg.StateDir, "secret")
			return os.WriteFile(cfg.Tickets.SecretFile, make([]byte, 32), 0o600)
		}, "ok tickets the secret in S/secret can be read"},
		"state_dir of another user": {func(cfg *proxy.Config) error { return giveAway(cfg.StateDir) },
			"ok state_dir S belongs to …; a service that runs as root would leave the store there alone, and …"},
		"key of another user": {func(cfg *proxy.Config) error { return giveAway(cfg.StateDir) },
			"warn store.key S/store.key belongs to root, which the service's user could not read; chown it"},
		"store of another user": {func(cfg *proxy.Config) error { return giveAway(cfg.StateDir) },
			"warn store S/store/… belongs to another user than S, who could not open it; chown -R … S/store"},
	} {
		t.Run(name, func(t *testing.T) {
			cfg := memoryConfig(t)
			state := cfg.StateDir
			mem, ctl, _ := openBoth(t, cfg)
			ctl.Close()
			mem.Close()
			if err := test.prepare(cfg); errors.Is(err, errNotRoot) {
				t.Skip(err)
			} else if err != nil {
				t.Fatal(err)
			}
			want := regexp.MustCompile(`\bS\b`).ReplaceAllLiteralString(test.want, state)
			lines := found(cfg)
			wantFound(t, lines, want)
			for _, l := range lines {
				if strings.HasPrefix(l, "fail ") {
					t.Errorf("mail would go on all the same: %s", l)
				}
			}
		})
	}
}

var errNotRoot = errors.New("only root may give a directory away")

func giveAway(path string) error {
	if os.Geteuid() != 0 {
		return errNotRoot
	}
	return os.Chown(path, 65534, 65534)
}
