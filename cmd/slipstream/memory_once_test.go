package main

import (
	"bufio"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"go.uber.org/goleak"

	"slipstream/proxy"
	"slipstream/proxy/once"
	"slipstream/smtpwire"
)

// onceConfig has a door that needs the memory of outcomes, and a state directory that is made.
func onceConfig(t testing.TB, state string) *proxy.Config {
	t.Helper()
	t.Setenv(credentialsEnv, "")
	cfg := proxy.DefaultConfig()
	cfg.StateDir = state
	cfg.Outbound = []proxy.OutboundConfig{proxy.DefaultOutbound()}
	return cfg
}

// openOnceTest opens the memory of outcomes, with a log to look at.
func openOnceTest(t testing.TB, cfg *proxy.Config) (*outcomes, *watchedLog) {
	t.Helper()
	logs := newWatchedLog()
	log, _, err := newLogger(cfg.Log, logs)
	if err != nil {
		t.Fatal(err)
	}
	o := openOutcomes(cfg, log)
	if o == nil {
		t.Fatal("there is none")
	}
	return o, logs
}

// someOutcomes are those of a message with a number.
func someOutcomes(n int) (all []once.Outcome) {
	for r := range 4 {
		o := once.Outcome{
			Key: once.Key{
				Client: netip.MustParseAddr("192.0.2.1"), Sender: "news@sender.example",
				Recipient: fmt.Sprintf("to%d@rcpt.example", r), Content: sha256.Sum256(fmt.Append(nil, n)),
			},
			Reply: smtpwire.NewReply(250, "2.0.0", fmt.Sprintf("message %d", n)),
		}
		if r == 3 {
			o.Reply = smtpwire.NewReply(550, "5.1.1", "nobody here")
		}
		all = append(all, o)
	}
	return all
}

// wantOutcomes checks that all outcomes of a message are known.
func wantOutcomes(t testing.TB, o *outcomes, n int) {
	t.Helper()
	for _, want := range someOutcomes(n) {
		if got, ok := o.Recall(want.Key); !ok || got.String() != want.Reply.String() {
			t.Errorf("message %d, %s: %q, %v", n, want.Key.Recipient, got, ok)
		}
	}
}

// TestNeedsOnce: the directory is made for those who need it.
func TestNeedsOnce(t *testing.T) {
	for name, test := range map[string]struct {
		change func(*proxy.Config, *proxy.OutboundConfig)
		want   bool
	}{
		"the defaults":  {func(*proxy.Config, *proxy.OutboundConfig) {}, true},
		"original":      {func(_ *proxy.Config, d *proxy.OutboundConfig) { d.Route = "original" }, true},
		"split 452":     {func(_ *proxy.Config, d *proxy.OutboundConfig) { d.Split = "452" }, true},
		"an LMTP door":  {func(_ *proxy.Config, d *proxy.OutboundConfig) { d.Protocol = "lmtp" }, true},
		"inbound alone": {func(c *proxy.Config, _ *proxy.OutboundConfig) { c.Outbound = nil }, false},
		"switched off":  {func(c *proxy.Config, _ *proxy.OutboundConfig) { c.Once.Enabled = false }, false},
	} {
		cfg := onceConfig(t, t.TempDir())
		test.change(cfg, &cfg.Outbound[0])
		if got := needsOnce(cfg); got != test.want {
			t.Errorf("%s: %v", name, got)
		}
		if !test.want {
			o := openOutcomes(cfg, nil)
			o.Close()
			if o.memory() != nil || isThere(filepath.Join(cfg.StateDir, onceName)) {
				t.Errorf("%s: a memory was opened", name)
			}
		}
	}
}

// TestOutcomesStay: over a restart, with the store's key, or with that alone.
func TestOutcomesStay(t *testing.T) {
	defer goleak.VerifyNone(t)
	for _, enabled := range []bool{true, false} {
		cfg := onceConfig(t, filepath.Join(t.TempDir(), "state"))
		cfg.Store.Enabled = enabled
		for n := range 3 {
			o, logs := openOnceTest(t, cfg)
			if err := errors.Join(o.Ready(4), o.Remember(someOutcomes(n))); err != nil {
				t.Error(err)
			}
			for before := range n + 1 {
				wantOutcomes(t, o, before)
			}
			o.Close()
			if said := logs.String(); said != "" {
				t.Errorf("said: %s", said)
			}
		}
		err := filepath.WalkDir(filepath.Join(cfg.StateDir, onceName), func(path string, d os.DirEntry, err error) error {
			if err != nil {
				return err
			}
			info, err := d.Info()
			if err == nil && info.Mode().Perm()&0o077 != 0 {
				t.Errorf("others may open %s: %v", path, info.Mode())
			}
			return err
		})
		if err != nil {
			t.Error(err)
		}
	}
}

// TestOutcomesSealed: nobody reads from the disk who wrote to whom, nor what was answered.
func TestOutcomesSealed(t *testing.T) {
	cfg := onceConfig(t, filepath.Join(t.TempDir(), "state"))
	o, _ := openOnceTest(t, cfg)
	if err := o.Remember(someOutcomes(1)); err != nil {
		t.Fatal(err)
	}
	look := func() {
		t.Helper()
		files, err := filepath.Glob(filepath.Join(cfg.StateDir, onceName, "*"))
		if err != nil || len(files) == 0 {
			t.Fatal(files, err)
		}
		for _, file := range files {
			b, err := os.ReadFile(file)
			if err != nil {
				t.Fatal(err)
			}
			for _, word := range []string{"rcpt.example", "sender.example", "nobody here"} {
				if strings.Contains(string(b), word) {
					t.Errorf("%s has %q in clear", file, word)
				}
			}
		}
	}
	look()
	o.Close()
	look()
}

// TestOutcomesKilled: what Remember has returned nil for is there after kill -9, at whatever moment that came.
func TestOutcomesKilled(t *testing.T) {
	state := filepath.Join(t.TempDir(), "state")
	acked := 0
	for _, lines := range []int{1, 5, 60, 150} {
		cmd := exec.Command(os.Args[0], "-test.run=^TestOutcomesChild$", "-test.v")
		cmd.Env = append(os.Environ(), childState+"="+state, fmt.Sprint(childFrom, "=", acked+1))
		out, err := cmd.StdoutPipe()
		if err != nil {
			t.Fatal(err)
		}
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		read := bufio.NewScanner(out)
		for seen := 0; seen < lines && read.Scan(); {
			if _, err := fmt.Sscanf(read.Text(), "remembered %d", &acked); err == nil {
				seen++
			}
		}
		if err := cmd.Process.Kill(); err != nil {
			t.Fatal(err)
		}
		for read.Scan() { // what was on its way to us was remembered, too
			_, _ = fmt.Sscanf(read.Text(), "remembered %d", &acked)
		}
		_ = cmd.Wait() // killed

		o, logs := openOnceTest(t, onceConfig(t, state))
		for n := 1; n <= acked; n++ {
			wantOutcomes(t, o, n)
		}
		if held := o.Stats().Outcomes; held < 4*acked || held > 4*(acked+1) || held%4 != 0 {
			t.Errorf("%d outcomes are held after %d messages of 4", held, acked)
		}
		if err := o.Ready(1); err != nil {
			t.Error(err)
		}
		o.Close()
		if said := logs.String(); strings.Contains(said, "damaged, and was dropped") {
			t.Errorf("said: %s", said)
		}
	}
	t.Logf("%d messages remembered before four kill -9, all known", acked)
}

// What the child of TestOutcomesKilled is told.
const (
	childState = "SLIPSTREAM_TEST_STATE"
	childFrom  = "SLIPSTREAM_TEST_FROM"
)

// TestOutcomesChild remembers one message after the other, until it is killed.
func TestOutcomesChild(t *testing.T) {
	state := os.Getenv(childState)
	if state == "" {
		t.Skip("it is for the child process of TestOutcomesKilled")
	}
	var from int
	if _, err := fmt.Sscan(os.Getenv(childFrom), &from); err != nil {
		t.Fatal(err)
	}
	o, _ := openOnceTest(t, onceConfig(t, state))
	for n := from; ; n++ {
		if err := o.Remember(someOutcomes(n)); err != nil {
			t.Fatal(err)
		}
		fmt.Printf("remembered %d\n", n)
	}
}

// TestOutcomesUnusable: a directory that cannot be used is told of, once; nothing takes its place, nothing in it is
// touched, and it is used when it can be.
func TestOutcomesUnusable(t *testing.T) {
	damage := func(pattern string) func(string) error {
		return func(dir string) error {
			files, err := filepath.Glob(filepath.Join(dir, onceName, pattern))
			if err != nil || len(files) == 0 {
				return fmt.Errorf("%q, %w", files, err)
			}
			b, err := os.ReadFile(files[0])
			if err == nil {
				b[len(b)/2] ^= 1
				err = os.WriteFile(files[0], b, 0o600)
			}
			return err
		}
	}
	key := func(dir string) string { return filepath.Join(dir, storeKeyName) }
	for name, test := range map[string]struct {
		spoil  func(state string) error
		mend   func(state string) error
		reason string
	}{
		"another key": {
			func(dir string) error {
				return errors.Join(os.Rename(key(dir), key(dir)+".old"), os.WriteFile(key(dir), make([]byte, 32), 0o600))
			},
			func(dir string) error { return os.Rename(key(dir)+".old", key(dir)) }, "put the old key back",
		},
		"no key": {
			func(dir string) error { return os.Rename(key(dir), key(dir)+".old") },
			func(dir string) error { return os.Rename(key(dir)+".old", key(dir)) }, "put the old key back",
		},
		"a key for all": {
			func(dir string) error { return os.Chmod(key(dir), 0o644) },
			func(dir string) error { return os.Chmod(key(dir), 0o600) }, "chmod 600",
		},
		"a damaged table": {damage("*.sst"), damage("*.sst"), "put a good copy"},
		"a damaged list":  {damage("MANIFEST"), damage("MANIFEST"), "put a good copy"},
		"files of others": {
			func(dir string) error { return os.WriteFile(filepath.Join(dir, onceName, "theirs"), nil, 0o600) },
			func(dir string) error { return os.Remove(filepath.Join(dir, onceName, "theirs")) }, "files of others",
		},
		"a file": {
			func(dir string) error {
				dir = filepath.Join(dir, onceName)
				return errors.Join(os.Rename(dir, dir+".old"), os.WriteFile(dir, nil, 0o600))
			},
			func(dir string) error {
				dir = filepath.Join(dir, onceName)
				return errors.Join(os.Remove(dir), os.Rename(dir+".old", dir))
			}, "not a directory",
		},
	} {
		t.Run(name, func(t *testing.T) {
			cfg := onceConfig(t, filepath.Join(t.TempDir(), "state"))
			o, _ := openOnceTest(t, cfg)
			if err := o.Remember(someOutcomes(1)); err != nil {
				t.Fatal(err)
			}
			o.Close()
			if err := test.spoil(cfg.StateDir); err != nil {
				t.Fatal(err)
			}
			synctest.Test(t, func(t *testing.T) { wantUnusable(t, cfg, test.reason, test.mend) })
		})
	}
}

func wantUnusable(t *testing.T, cfg *proxy.Config, reason string, mend func(state string) error) {
	t.Helper()
	o, logs := openOnceTest(t, cfg)
	defer o.Close()
	if err := o.Ready(1); err == nil || !strings.Contains(err.Error(), reason) {
		t.Errorf("Ready: %v, want a word of %q", err, reason)
	}
	if err := o.Remember(someOutcomes(2)); err == nil {
		t.Error("Remember: no error")
	}
	wantOutcomes(t, o, 2)
	time.Sleep(24 * time.Hour)
	said := logs.String()
	if strings.Count(said, "level=warn") != 1 || !strings.Contains(said, reason) {
		t.Errorf("within a day it said:\n%s", said)
	}
	if isThere(filepath.Join(cfg.StateDir, onceName+".bad")) {
		t.Error("it was put aside")
	}
	if err := mend(cfg.StateDir); err != nil {
		t.Fatal(err)
	}
	time.Sleep(10 * time.Minute) // as long as is waited between two tries at most
	synctest.Wait()
	if err := o.Ready(1); err != nil {
		t.Errorf("Ready, when all was well again: %v", err)
	}
	wantOutcomes(t, o, 1)
	wantOutcomes(t, o, 2)
}

// TestOutcomesInUse: while another process has the directory, nothing takes its place.
func TestOutcomesInUse(t *testing.T) {
	cfg := onceConfig(t, filepath.Join(t.TempDir(), "state"))
	first, _ := openOnceTest(t, cfg)
	if err := first.Remember(someOutcomes(1)); err != nil {
		t.Fatal(err)
	}
	synctest.Test(t, func(t *testing.T) {
		wantUnusable(t, cfg, "end the other process", func(string) error { first.Close(); return nil })
	})
}

// TestOutcomesUseless: what cannot be read is put aside once nothing in it can be of use any more.
func TestOutcomesUseless(t *testing.T) {
	keep := proxy.DefaultConfig().Once.Keep
	for _, age := range []time.Duration{keep - time.Hour, keep + time.Hour} {
		cfg := onceConfig(t, filepath.Join(t.TempDir(), "state"))
		dir := filepath.Join(cfg.StateDir, onceName)
		o, _ := openOnceTest(t, cfg)
		if err := o.Remember(someOutcomes(1)); err != nil {
			t.Fatal(err)
		}
		o.Close()
		if err := os.Remove(storeKey(cfg)); err != nil {
			t.Fatal(err)
		}
		files, _ := filepath.Glob(filepath.Join(dir, "*"))
		for _, f := range files {
			if err := os.Chtimes(f, time.Time{}, time.Now().Add(-age)); err != nil {
				t.Fatal(err)
			}
		}
		o, logs := openOnceTest(t, cfg)
		ready, aside := o.Ready(1) == nil, isThere(dir+".bad")
		o.Close()
		if want := age > cfg.Once.Keep; ready != want || aside != want || strings.Count(logs.String(), "level=warn") != 1 {
			t.Errorf("not written to for %v: ready %v, put aside %v; %s", age, ready, aside, logs)
		}
	}
}

// TestTendedKV: the upkeep ends with the KV.
func TestTendedKV(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		cfg := onceConfig(t, filepath.Join(t.TempDir(), "state"))
		o, logs := openOnceTest(t, cfg)
		if err := o.Remember(someOutcomes(1)); err != nil {
			t.Fatal(err)
		}
		time.Sleep(upkeepFirst + time.Second)
		synctest.Wait()
		wantOutcomes(t, o, 1)
		begin := time.Now()
		o.Close()
		if took := time.Since(begin); took != 0 || logs.String() != "" {
			t.Errorf("closing took %v; %s", took, logs)
		}
	})
}

// TestOnceRestart: what a reload does not bring into force is named.
func TestOnceRestart(t *testing.T) {
	old, changed := onceConfig(t, "x"), onceConfig(t, "x")
	if list := onceRestart(old, changed); len(list) != 0 {
		t.Errorf("nothing changed: %q", list)
	}
	changed.Once.Keep, changed.Once.MaxRecipients = time.Hour, 7
	if got := strings.Join(onceRestart(old, changed), " "); got != "once.keep once.max_recipients" {
		t.Error(got)
	}
	changed.Once.Enabled = false
	if got := strings.Join(onceRestart(old, changed), " "); got != "once.enabled once.keep once.max_recipients" {
		t.Error(got)
	}
	changed = onceConfig(t, "x")
	changed.Outbound = nil
	if got := onceRestart(old, changed); len(got) != 0 {
		t.Errorf("nobody needs it any more: %q", got)
	}
	if got := strings.Join(onceRestart(changed, old), " "); !strings.HasPrefix(got, "the first outbound door") {
		t.Errorf("somebody needs it now: %q", got)
	}
}

// BenchmarkRemember writes four outcomes to the disk, as for a message whose four recipients had different ones.
func BenchmarkRemember(b *testing.B) {
	cfg := onceConfig(b, b.TempDir())
	log, _, err := newLogger(cfg.Log, io.Discard)
	if err != nil {
		b.Fatal(err)
	}
	for _, clients := range []int{1, 16} {
		b.Run(fmt.Sprintf("clients=%d", clients), func(b *testing.B) {
			o := openOutcomes(cfg, log)
			defer o.Close()
			if err := o.Ready(4); err != nil {
				b.Fatal(err)
			}
			b.SetParallelism(clients)
			b.RunParallel(func(pb *testing.PB) {
				all := someOutcomes(time.Now().Nanosecond())
				keys := make([]once.Key, len(all))
				for i := range all {
					keys[i] = all[i].Key
				}
				for pb.Next() {
					if err := o.Remember(all); err != nil {
						b.Error(err)
					}
					o.Heard(keys)
				}
			})
			b.ReportMetric(float64(o.Stats().Writes)/float64(b.N), "writes/op")
		})
	}
}

// BenchmarkReady is what is asked before a message goes to several destinations.
func BenchmarkReady(b *testing.B) {
	o, _ := openOnceTest(b, onceConfig(b, b.TempDir()))
	defer o.Close()
	for b.Loop() {
		if err := o.Ready(4); err != nil {
			b.Fatal(err)
		}
	}
}
