package main

import (
	"context"
	"encoding/json"
	"io/fs"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"go.uber.org/goleak"
	"go.uber.org/zap"

	"slipstream/proxy"
	"slipstream/tlsstore"
	"slipstream/tlsstore/badgerkv"
)

// openBoth opens a memory and its control socket as serve does, with a log to look at.
func openBoth(t *testing.T, cfg *proxy.Config) (*memory, *control, *watchedLog) {
	t.Helper()
	logs := newWatchedLog()
	log, _, err := newLogger(cfg.Log, logs)
	if err != nil {
		t.Fatal(err)
	}
	mem, err := openMemory(cfg, log)
	if err != nil {
		t.Fatal(err)
	}
	return mem, openControl(cfg, mem, log), logs
}

func memoryConfig(t *testing.T) *proxy.Config {
	t.Helper()
	t.Cleanup(func() { goleak.VerifyNone(t) })
	t.Setenv(credentialsEnv, "")
	cfg := proxy.DefaultConfig()
	cfg.StateDir = filepath.Join(t.TempDir(), "state")
	return cfg
}

func TestMemoryOverARestart(t *testing.T) {
	cfg := memoryConfig(t)
	client, hello := netip.MustParseAddr("203.0.113.5"), "mta1.out.example.com"
	peer := netip.MustParseAddrPort("192.0.2.7:25")

	mem, ctl, logs := openBoth(t, cfg)
	learnSome(mem.Store)
	for range tlsstore.ShyStrikes {
		mem.Shy.Left(client, hello)
	}
	if mem.octets.Load() <= 0 || !mem.Stored() {
		t.Errorf("on disk: %v, %d octets", mem.Stored(), mem.octets.Load())
	}
	if !mem.learn.Load() || mem.Tickets == nil || !mem.Shy.Withhold(client, "ab.mail.outlook.com") {
		t.Error("the defaults are not in force")
	}
	err := filepath.WalkDir(cfg.StateDir, func(path string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		info, err := d.Info()
		if err != nil {
			return err
		}
		want := fs.FileMode(0o600)
		if d.IsDir() {
			want = 0o700
		}
		if got := info.Mode().Perm(); got != want {
			t.Errorf("%s has mode %04o, want %04o", path, got, want)
		}
		return nil
	})
	if err != nil {
		t.Error(err)
	}
	ctl.Close()
	mem.Close()

	mem, ctl, more := openBoth(t, cfg)
	defer mem.Close()
	defer ctl.Close()
	if entries, err := mem.Store.Show(peer.String()); err != nil || len(entries) != 2 {
		t.Errorf("after a restart: %v, %v; want 2 entries", entries, err)
	}
	if !mem.Shy.Withhold(client, hello) {
		t.Error("after a restart it is not known which clients break on tickets")
	}
	for _, l := range []*watchedLog{logs, more} {
		if text := l.String(); text != "" {
			t.Errorf("there was nothing to say:\n%s", text)
		}
	}
}

func TestMemoryOff(t *testing.T) {
	cfg := memoryConfig(t)
	cfg.Store.Enabled, cfg.Tickets.Enabled = false, false
	mem, ctl, _ := openBoth(t, cfg)
	if mem.Store != nil || mem.Tickets != nil || mem.Shy != nil || mem.learn.Load() || ctl != nil {
		t.Errorf("something is on: %+v", mem)
	}
	ctl.Close()
	mem.Close()
	if _, err := os.Stat(cfg.StateDir); !os.IsNotExist(err) {
		t.Errorf("the state directory was made: %v", err)
	}

	cfg.Tickets.Enabled, cfg.Tickets.Learn = true, false
	mem, _, _ = openBoth(t, cfg)
	defer mem.Close()
	if mem.learn.Load() || !mem.Shy.Withhold(netip.Addr{}, "x.outlook.com") || mem.Shy.Withhold(netip.Addr{}, "x.example.com") {
		t.Error("without learning the patterns hold, and nothing else")
	}
}

// TestMemoryInTrouble has mail go on with a memory that ends with the process.
func TestMemoryInTrouble(t *testing.T) {
	for name, test := range map[string]struct {
		prepare func(t *testing.T, cfg *proxy.Config) error
		want    string
		socket  bool
	}{
		"state_dir is a file": {func(t *testing.T, cfg *proxy.Config) error {
			return os.WriteFile(cfg.StateDir, nil, 0o600)
		}, "make state_dir a directory", false},
		"key of a wrong size": {func(t *testing.T, cfg *proxy.Config) error {
			cfg.Store.KeyFile = filepath.Join(filepath.Dir(cfg.StateDir), "key")
			return os.WriteFile(cfg.Store.KeyFile, []byte("short"), 0o600)
		}, "has 5 octets", true},
		"credential that others may read": {func(t *testing.T, cfg *proxy.Config) error {
			dir := t.TempDir()
			t.Setenv(credentialsEnv, dir)
			return os.WriteFile(filepath.Join(dir, storeKeyName), make([]byte, 32), 0o644)
		}, "others may read or write the key", true},
		"not a socket": {func(t *testing.T, cfg *proxy.Config) error {
			return os.MkdirAll(controlPath(cfg), 0o700)
		}, "something that is not a socket", false},
	} {
		t.Run(name, func(t *testing.T) {
			cfg := memoryConfig(t)
			if err := test.prepare(t, cfg); err != nil {
				t.Fatal(err)
			}
			mem, ctl, logs := openBoth(t, cfg)
			defer mem.Close()
			defer ctl.Close()
			if text := logs.String(); !strings.Contains(text, "level=warn") || !strings.Contains(text, test.want) {
				t.Errorf("no warning of %q:\n%s", test.want, text)
			}
			if test.socket != (ctl != nil) {
				t.Errorf("there is a control socket: %v", ctl != nil)
			}
			learnSome(mem.Store)
			if n, err := mem.Store.Drop(""); n != 4 || err != nil {
				t.Errorf("%d entries were remembered (%v), want 4", n, err)
			}
		})
	}
}

func TestStoreKeyOfSystemd(t *testing.T) {
	cfg, dir := memoryConfig(t), t.TempDir()
	t.Setenv(credentialsEnv, dir)
	if got := storeKey(cfg); got != filepath.Join(cfg.StateDir, storeKeyName) {
		t.Errorf("without a credential the key is %s", got)
	}
	path := filepath.Join(dir, storeKeyName)
	if err := os.WriteFile(path, make([]byte, 32), 0o400); err != nil {
		t.Fatal(err)
	}
	if got := storeKey(cfg); got != path {
		t.Errorf("with a credential the key is %s", got)
	}
	if cfg.Store.KeyFile = "/other"; storeKey(cfg) != "/other" {
		t.Errorf("the configured key is not used")
	}
}

func TestTicketSecret(t *testing.T) {
	cfg := memoryConfig(t)
	cfg.Store.Enabled = false
	path := filepath.Join(t.TempDir(), "secret")
	cfg.Tickets.SecretFile = path
	groupMay := "" // a file of root's
	if os.Geteuid() != 0 {
		groupMay = "others may"
	}
	for _, test := range []struct {
		octets int
		mode   fs.FileMode
		want   string
	}{
		{32, 0o600, ""}, {64, 0o400, ""}, {maxTicketSecret, 0o600, ""},
		{31, 0o600, "must have 32 to"}, {maxTicketSecret + 1, 0o600, "must have 32 to"},
		{32, 0o644, "others may read or write"}, {32, 0o660, "others may read or write"}, {32, 0o602, "others may"},
		{32, 0o640, groupMay}, {32, 0o440, groupMay},
		{-1, 0, "no such file"},
	} {
		_ = os.Remove(path)
		if test.octets >= 0 {
			if err := os.WriteFile(path, make([]byte, test.octets), 0o600); err != nil {
				t.Fatal(err)
			}
			if err := os.Chmod(path, test.mode); err != nil {
				t.Fatal(err)
			}
		}
		// Mail goes on whatever is wrong, and with keys of our own.
		mem, _, logs := openBoth(t, cfg)
		if said := logs.String(); (said == "") != (test.want == "") || !strings.Contains(said, test.want) ||
			said != "" && !strings.Contains(said, "level=warn msg=\"the tickets' secret cannot be used: ") {
			t.Errorf("%d octets, mode %04o: %s; want %q", test.octets, test.mode, said, test.want)
		}
		if mem.Tickets == nil || mem.secret.read != (test.want == "") {
			t.Errorf("%d octets, mode %04o: there are tickets: %v, from the secret: %v",
				test.octets, test.mode, mem.Tickets != nil, mem.secret.read)
		}
		mem.Close()
	}
}

// A keptKV counts how often it is looked after.
type keptKV struct {
	tlsstore.KV
	times chan time.Time
	stuck bool
}

func (k *keptKV) Maintain(ctx context.Context) (badgerkv.Stats, error) {
	k.times <- time.Now()
	if k.stuck {
		time.Sleep(time.Hour) // does not care for ctx
	}
	return badgerkv.Stats{Dropped: 1}, nil
}

func TestUpkeep(t *testing.T) {
	for _, stuck := range []bool{false, true} {
		synctest.Test(t, func(t *testing.T) {
			kv := &keptKV{KV: tlsstore.Memory(), times: make(chan time.Time, 10), stuck: stuck}
			ctx, cancel := context.WithCancel(t.Context())
			m := &memory{log: zap.NewNop(), kv: kv, cancel: cancel, done: make(chan struct{}),
				Shy: tlsstore.NewShy(tlsstore.ShyOptions{}), Store: tlsstore.New(kv, tlsstore.Options{})}
			m.learn.Store(true)
			begin := time.Now()
			go m.keep(ctx)
			if got := (<-kv.times).Sub(begin); got != upkeepFirst {
				t.Errorf("first upkeep after %v", got)
			}
			if !stuck {
				if got := (<-kv.times).Sub(begin); got != upkeepFirst+upkeepEvery {
					t.Errorf("second upkeep after %v", got)
				}
				for range tlsstore.ShyStrikes {
					m.Shy.Left(netip.MustParseAddr("192.0.2.1"), "")
				}
			}
			closing := time.Now()
			m.Close()
			want := time.Duration(0)
			if stuck {
				want = upkeepGrace
			}
			if got := time.Since(closing); got != want {
				t.Errorf("stuck %v: closing took %v, want %v", stuck, got, want)
			}
			<-m.done
		})
	}
}

// TestUpkeepEarly: a store that takes no more is looked after at once, but not all the time.
func TestUpkeepEarly(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		kv := &keptKV{KV: tlsstore.Memory(), times: make(chan time.Time, 10)}
		ctx, cancel := context.WithCancel(t.Context())
		full := make(chan struct{})
		m := &memory{log: zap.NewNop(), kv: kv, cancel: cancel, done: make(chan struct{}), full: full,
			Store: tlsstore.New(kv, tlsstore.Options{})}
		begin := time.Now()
		go m.keep(ctx)
		for _, want := range []time.Duration{time.Minute, time.Minute + upkeepFirst} {
			time.Sleep(time.Until(begin.Add(time.Minute)))
			full <- struct{}{}
			if got := (<-kv.times).Sub(begin); got != want {
				t.Errorf("upkeep after %v, want %v", got, want)
			}
		}
		if got := (<-kv.times).Sub(begin); got != time.Minute+upkeepFirst+upkeepEvery {
			t.Errorf("the next upkeep after %v", got)
		}
		m.Close()
	})
}

func TestCacheEntryJSON(t *testing.T) {
	e := newCacheEntry(tlsstore.Entry{Kind: "session", Host: "mx.example.net",
		Addr: netip.MustParseAddrPort("192.0.2.7:25"), Fields: []tlsstore.Field{{Name: "level", Value: "may"}}})
	got, err := json.Marshal(e)
	const want = `{"kind":"session","peer":"mx.example.net[192.0.2.7]:25","host":"mx.example.net","addr":"192.0.2.7:25",` +
		`"written":"0001-01-01T00:00:00Z","expires":"0001-01-01T00:00:00Z","octets":0,` +
		`"fields":[{"name":"level","value":"may"}]}`
	if err != nil || string(got) != want {
		t.Errorf("%s, %v\nwant %s", got, err, want)
	}
}
