package main

import (
	"errors"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"slipstream/bench/refpeer"
	"slipstream/proxy"
	"slipstream/tlsstore"
	"slipstream/tlsstore/kvtest"
)

// logTo returns a memory with a log to look at, whose store opens as given.
func logTo(t *testing.T, open func() opened) (*memory, *watchedLog) {
	t.Helper()
	logs := newWatchedLog()
	log, _, err := newLogger(proxy.DefaultConfig().Log, logs)
	if err != nil {
		t.Fatal(err)
	}
	return newMemory(log, open), logs
}

// A disk is a KV that remembers whether it was closed.
type disk struct {
	tlsstore.KV
	closed chan struct{}
}

func newDisk() *disk { return &disk{tlsstore.Memory(), make(chan struct{})} }

func (d *disk) Close() error {
	close(d.closed)
	return d.KV.Close()
}

func (d *disk) has(key string) bool {
	_, err := d.Get([]byte(key))
	return err == nil
}

// TestDiskHangs has a start not wait for a disk that hangs, and use it when it answers.
func TestDiskHangs(t *testing.T) {
	for _, answers := range []bool{true, false} {
		synctest.Test(t, func(t *testing.T) {
			late, d := make(chan struct{}), newDisk()
			m, logs := logTo(t, func() opened { <-late; return opened{kv: d} })
			begin := time.Now()
			m.start()
			if waited := time.Since(begin); waited != openWait {
				t.Errorf("the start waited %v, want %v", waited, openWait)
			}
			if !strings.Contains(logs.String(), "level=warn msg=\"the store does not open in time") || m.Stored() {
				t.Errorf("stored %v; %s", m.Stored(), logs)
			}
			learnSome(m.Store)
			synctest.Wait()
			if answers {
				close(late)
				synctest.Wait()
				n := 0
				_ = d.Iterate(nil, func(_, _ []byte) bool { n++; return true })
				if !m.Stored() || n != 4 {
					t.Errorf("the disk answered: stored %v, %d records were taken along; %s", m.Stored(), n, logs)
				}
			}
			closing := time.Now()
			m.Close()
			if took := time.Since(closing); took != 0 {
				t.Errorf("closing took %v", took)
			}
			if !answers {
				close(late)
			}
			<-d.closed
		})
	}
}

// TestDiskComesBack has a store that could not be opened tried again, without a word too many.
func TestDiskComesBack(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		d := newDisk()
		var tries atomic.Int32
		if err := d.Set([]byte("dropped"), []byte("x"), time.Hour); err != nil {
			t.Fatal(err)
		}
		m, logs := logTo(t, func() opened {
			if tries.Add(1) < 3 {
				return opened{warnings: []string{"the disk is full"}}
			}
			return opened{kv: d}
		})
		m.Shy = tlsstore.NewShy(tlsstore.ShyOptions{})
		m.learn.Store(true)
		learnClient(m.Shy)
		before := tlsstore.NewShy(tlsstore.ShyOptions{})
		for range tlsstore.ShyStrikes {
			before.Left(netip.MustParseAddr("198.51.100.1"), "")
		}
		if err := before.Save(d); err != nil {
			t.Fatal(err)
		}
		m.start()
		err := errors.Join(m.kv.Set([]byte("kept"), []byte("x"), 24*time.Hour), m.kv.Delete([]byte("dropped")))
		if err != nil {
			t.Fatal(err)
		}
		time.Sleep(upkeepFirst + time.Second)
		synctest.Wait()
		if m.Stored() || tries.Load() != 2 {
			t.Errorf("after the first upkeep: stored %v, tried %d times", m.Stored(), tries.Load())
		}
		time.Sleep(upkeepEvery)
		synctest.Wait()
		if !m.Stored() || tries.Load() != 3 || !d.has("kept") || d.has("dropped") {
			t.Errorf("stored %v, tried %d times, on disk: kept %v, dropped %v",
				m.Stored(), tries.Load(), d.has("kept"), d.has("dropped"))
		}
		if m.Shy.Len() != 3 || !d.has("withhold/net 203.0.113.0/24") {
			t.Errorf("%d clients are known, want two from memory and one from the disk", m.Shy.Len())
		}
		time.Sleep(2 * upkeepEvery)
		synctest.Wait()
		if said := logs.String(); tries.Load() != 3 || strings.Count(said, "the disk is full") != 1 ||
			!strings.Contains(said, "level=info msg=\"store: it is on disk from now on\" taken_along=3") {
			t.Errorf("tried %d times; %s", tries.Load(), said)
		}
		m.Close()
		<-d.closed
	})
}

func TestHeldKV(t *testing.T) {
	t.Run("memory", func(t *testing.T) {
		kvtest.Run(t, func(t *testing.T) tlsstore.KV { return newHeldKV() })
	})
	t.Run("disk", func(t *testing.T) {
		kvtest.Run(t, func(t *testing.T) tlsstore.KV {
			h := newHeldKV()
			if _, err := h.Move(tlsstore.Memory()); err != nil {
				t.Fatal(err)
			}
			return h
		})
	})
	t.Run("closed before", func(t *testing.T) {
		h, d := newHeldKV(), newDisk()
		if err := h.Close(); err != nil {
			t.Fatal(err)
		}
		if _, err := h.Move(d); err != nil || h.Stored() {
			t.Errorf("%v, stored %v", err, h.Stored())
		}
		<-d.closed
	})
}

// TestStopWhileOpening has a signal end a start whose disk hangs, and one to reload wait for it.
func TestStopWhileOpening(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		late, d := make(chan struct{}), newDisk()
		open := func() kept {
			<-late
			m, _ := logTo(t, func() opened { return opened{kv: d} })
			m.start()
			return kept{mem: m}
		}
		signals := make(chan os.Signal, 2)
		signals <- syscall.SIGHUP
		signals <- syscall.SIGTERM
		if _, stop := awaitKept(open, signals); stop != syscall.SIGTERM {
			t.Errorf("ended by %v", stop)
		}
		close(late)
		<-d.closed // what came late

		d = newDisk()
		signals <- syscall.SIGHUP
		k, stop := awaitKept(open, signals)
		if stop != nil || k.mem == nil {
			t.Fatalf("ended by %v", stop)
		}
		k.Close()
	})
}

// TestHangUpWhileOpening has no reload lost.
func TestHangUpWhileOpening(t *testing.T) {
	signals, asked := make(chan os.Signal), make(chan struct{})
	go func() {
		signals <- syscall.SIGHUP
		close(asked)
	}()
	k, stop := awaitKept(func() kept { <-asked; return kept{} }, signals)
	if stop != nil || !k.again {
		t.Errorf("again %v, ended by %v", k.again, stop)
	}
}

// TestKeyIsAPipe: neither key nor secret is waited for.
func TestKeyIsAPipe(t *testing.T) {
	cfg := memoryConfig(t)
	dir := t.TempDir()
	cfg.Store.KeyFile, cfg.Tickets.SecretFile = filepath.Join(dir, "key"), filepath.Join(dir, "secret")
	for _, path := range []string{cfg.Store.KeyFile, cfg.Tickets.SecretFile} {
		if err := syscall.Mkfifo(path, 0o600); err != nil {
			t.Skip("no pipe can be made: ", err)
		}
	}
	begin := time.Now()
	mem, ctl, logs := openBoth(t, cfg)
	defer mem.Close()
	defer ctl.Close()
	if took := time.Since(begin); took >= secretWait {
		t.Errorf("it took %v", took)
	}
	if said := logs.String(); strings.Count(said, "is not a plain file") != 2 {
		t.Errorf("said:\n%s", said)
	}
}

// TestSecretIsBad has mail go on with a secret that cannot be used, and a reload tell of another one.
func TestSecretIsBad(t *testing.T) {
	s := newTrial(t, &refpeer.Server{Keywords: refpeer.Modern()})
	addr := s.freeAddr()
	s.configure("[admin]\nlisten = \"\"\n[tickets]\nsecret_file = \"secret\"\n"+
		"[[inbound]]\nauth.enabled = false\nlisten = [%q]\nbackend = %q\nbackend_trusts_us = true\n", addr, s.mta)
	secret := filepath.Join(s.dir, "secret")
	s.serve()
	s.await("level=warn msg=\"the tickets' secret cannot be used: ")
	s.await("msg=ready")
	s.client(addr).ask("QUIT", "221 ")
	s.hangUp("level=warn msg=\"the tickets' secret cannot be used; nothing changes until a restart")
	if err := os.WriteFile(secret, make([]byte, 32), 0o600); err != nil {
		t.Fatal(err)
	}
	s.hangUp(`level=warn msg="these changes need a restart" keys="tickets.secret_file (what is in it)"`)
	s.signals <- syscall.SIGTERM
	if err := s.wait(); err != nil {
		t.Error(err)
	}
}

// TestReloadOfTickets has a reload compare what is in the secret's file, and switch learning.
func TestReloadOfTickets(t *testing.T) {
	cfg := memoryConfig(t)
	path := filepath.Join(t.TempDir(), "secret")
	cfg.Tickets.SecretFile, cfg.Tickets.Learn = path, false
	write := func(b byte) {
		t.Helper()
		if err := os.WriteFile(path, slices.Repeat([]byte{b}, 32), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	write(1)
	mem, ctl, logs := openBoth(t, cfg)
	if restart := mem.reload(cfg.Tickets); len(restart) != 0 {
		t.Errorf("nothing has changed, and %q needs a restart", restart)
	}
	write(2)
	if restart := mem.reload(cfg.Tickets); len(restart) != 1 {
		t.Errorf("the secret was changed, and %q needs a restart", restart)
	}
	write(1)
	cfg.Tickets.Learn = true
	if restart := mem.reload(cfg.Tickets); len(restart) != 0 {
		t.Errorf("the secret is the old one, and %q needs a restart", restart)
	}
	learnClient(mem.Shy)
	ctl.Close()
	mem.Close()

	// What was learned since learning was switched on outlives the process, and is read when it is.
	cfg.Tickets.Learn = false
	mem, ctl, more := openBoth(t, cfg)
	if mem.Shy.Len() != 0 {
		t.Error("learning is off, and something is known")
	}
	cfg.Tickets.Learn = true
	mem.reload(cfg.Tickets)
	if mem.Shy.Len() != 2 {
		t.Errorf("%d clients are known, want 2", mem.Shy.Len())
	}
	for range tlsstore.ShyStrikes {
		mem.Shy.Left(netip.MustParseAddr("198.51.100.1"), "")
	}
	cfg.Tickets.Learn = false
	mem.reload(cfg.Tickets) // what was learned until now is worth keeping
	ctl.Close()
	mem.Close()
	cfg.Tickets.Learn = true
	mem, ctl, last := openBoth(t, cfg)
	if mem.Shy.Len() != 3 {
		t.Errorf("%d clients are known, want 3", mem.Shy.Len())
	}
	ctl.Close()
	mem.Close()
	if said := logs.String() + more.String() + last.String(); said != "" {
		t.Errorf("there was nothing to say:\n%s", said)
	}
}

// TestRootAbroad: what root would write where a service of somebody else is at home, that could not read.
func TestRootAbroad(t *testing.T) {
	cfg := memoryConfig(t)
	if err := os.MkdirAll(cfg.StateDir, 0o700); err != nil {
		t.Fatal(err)
	}
	if err := os.Chown(cfg.StateDir, 65534, 65534); err != nil {
		t.Skip("only root may give a directory away: ", err)
	}
	mem, ctl, logs := openBoth(t, cfg)
	const want = "level=warn msg=\"store: this is root, but state_dir "
	if said := logs.String(); mem.Stored() || !strings.Contains(said, want) {
		t.Errorf("stored %v; %s", mem.Stored(), said)
	}
	ctl.Close()
	mem.Close()
	if left, err := os.ReadDir(cfg.StateDir); err != nil || len(left) != 0 {
		t.Errorf("root left behind %v, %v", left, err)
	}
}

// TestRestartIsTold has the docs name every key that needs a restart.
func TestRestartIsTold(t *testing.T) {
	old, new := proxy.DefaultConfig(), proxy.DefaultConfig()
	new.Log.Format, new.Admin.Listen, new.StateDir = "x", "x", "x"
	new.Store.Enabled, new.Store.MaxSize, new.Store.KeyFile = !old.Store.Enabled, 1, "x"
	new.Tickets.Enabled, new.Tickets.SecretFile, new.Tickets.NotFor = !old.Tickets.Enabled, "x", []string{"x"}
	new.DNS.Servers, new.DNS.Timeout = append(new.DNS.Servers, new.DNS.Servers...), 1
	text, err := os.ReadFile(filepath.Join("..", "..", "docs", "operating.md"))
	if err != nil {
		t.Fatal(err)
	}
	_, section, _ := strings.Cut(string(text), "These need a restart instead")
	section, _, _ = strings.Cut(section, "\n\n")
	keys := needRestart(old, new)
	if len(keys) < 10 {
		t.Errorf("%q need a restart, there should be more", keys)
	}
	for _, key := range keys {
		if !strings.Contains(section, "`"+key+"`") {
			t.Errorf("docs/operating.md does not say that %s needs a restart", key)
		}
	}
}
