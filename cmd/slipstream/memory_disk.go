package main

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"time"

	"go.uber.org/zap"

	"slipstream/proxy"
	"slipstream/tlsstore"
	"slipstream/tlsstore/badgerkv"
)

// openWait is how long a start waits for the store on disk. It takes seconds where it is large and the disk is slow.
const openWait = 20 * time.Second

// opened is what came of opening the store on disk.
type opened struct {
	kv       tlsstore.KV // nil: it cannot be used
	warnings []string    // what happened, what it means, and what to do
}

// within waits for f as long as limit. What f returns after that goes to late, and ok is false.
func within[T any](limit time.Duration, f func() T, late func(T)) (v T, ok bool) {
	done := make(chan T, 1)
	go func() { done <- f() }() // ends when f does, which nobody can hasten
	timer := time.NewTimer(limit)
	defer timer.Stop()
	select {
	case v = <-done:
		return v, true
	case <-timer.C:
		go func() { late(<-done) }() // ends right behind f
		return v, false
	}
}

// openDisk opens the store on disk.
func openDisk(cfg *proxy.Config, log *zap.Logger) opened {
	if err := makeStateDir(cfg.StateDir); err != nil {
		return opened{warnings: []string{err.Error(), inMemory}}
	}
	o, err := storeOptions(cfg, log)
	if err != nil {
		return opened{warnings: []string{err.Error(), inMemory}}
	}
	kv, warnings := badgerkv.OpenAny(o)
	if _, onDisk := kv.(*badgerkv.KV); !onDisk {
		_ = kv.Close() // it has nothing to lose
		kv = nil
	}
	return opened{kv, warnings}
}

// makeStateDir makes the state directory, if need be, or says why nothing of ours can be in it.
func makeStateDir(dir string) error {
	if owner, abroad := rootAbroad(dir); abroad {
		return fmt.Errorf("this is root, but state_dir %s belongs to %s, who could not read what root writes there: "+
			"run the service as %s, or chown -R root %s", dir, owner, owner, dir)
	}
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return fmt.Errorf("%w; make state_dir a directory that %s can write to", err, badgerkv.Account(os.Geteuid()))
	}
	if owner, strange := stranger(dir); strange {
		us := badgerkv.Account(os.Geteuid())
		return fmt.Errorf("state_dir %s belongs to %s, not to %s or root: chown -R %s %s, or name another directory",
			dir, owner, us, us, dir)
	}
	return nil
}

const inMemory = "what is learned about peers is kept in memory only, and lost when the process ends"

// storeOptions reads the key, or makes it.
func storeOptions(cfg *proxy.Config, log *zap.Logger) (badgerkv.Options, error) {
	key, err := badgerkv.LoadKey(storeKey(cfg))
	return badgerkv.Options{
		Dir:     filepath.Join(cfg.StateDir, storeName),
		Key:     key,
		MaxSize: int64(cfg.Store.MaxSize),
		Log:     sayFor(storeName, log),
	}, err
}

// sayFor logs what Badger has to say of a directory.
func sayFor(name string, log *zap.Logger) func(level, msg string) {
	return func(level, msg string) {
		switch msg = name + ": " + msg; level {
		case "error":
			log.Error(msg)
		case "warn":
			log.Warn(msg)
		case "info":
			log.Info(msg)
		default:
			log.Debug(msg)
		}
	}
}

// beginOpening opens the store on disk beside all else.
func (m *memory) beginOpening() {
	done := make(chan opened, 1)
	m.opening = done
	go func() { done <- m.open() }() // ends when the disk has answered
}

// openFirst waits for the store on disk, but not for ever. What comes later is still good: see keep.
func (m *memory) openFirst() {
	m.beginOpening()
	timer := time.NewTimer(openWait)
	defer timer.Stop()
	select {
	case got := <-m.opening:
		m.opening = nil
		m.adopt(got)
	case <-timer.C:
		m.log.Warn("the store does not open in time, see to the disk of state_dir; until it does, "+inMemory,
			zap.Duration("waited", openWait))
	}
}

// openAgain tries once more, since most of what is in the way of a store passes: a full disk, another process.
func (m *memory) openAgain() {
	if held, ok := m.kv.(*heldKV); ok && !held.Stored() && m.opening == nil {
		m.beginOpening()
	}
}

// giveUpOpening has a store closed that comes too late.
func (m *memory) giveUpOpening() {
	if m.opening == nil {
		return
	}
	go func(late <-chan opened) { // ends when the disk has answered
		if got := <-late; got.kv != nil {
			_ = got.kv.Close() // nothing was written to it
		}
	}(m.opening)
	m.opening = nil
}

// adopt goes over to a store that was opened, and says what was wrong with it, but not every hour.
func (m *memory) adopt(got opened) {
	say := m.log.Warn
	text := strings.Join(got.warnings, "; ")
	if text == m.told {
		say = m.log.Debug
	}
	m.told = text
	for _, w := range got.warnings {
		say("store: " + w)
	}
	if got.kv == nil {
		say("store: the disk is tried again later",
			zap.Duration("first", upkeepFirst), zap.Duration("then_every", upkeepEvery))
		return
	}
	taken, err := m.kv.(*heldKV).Move(got.kv)
	if err != nil {
		m.log.Warn("store: not all that was learned in memory could be taken along to the disk", zap.Error(err))
	}
	if sized, ok := got.kv.(interface{ Size() int64 }); ok {
		m.octets.Store(sized.Size())
	}
	if bounded, ok := got.kv.(interface{ Outgrown() <-chan struct{} }); ok {
		m.full = bounded.Outgrown()
	}
	m.load()
	if m.Store != nil {
		m.log.Info("store: it is on disk from now on", zap.Int("taken_along", taken))
	}
}

// Stored tells whether what is learned outlives the process.
func (m *memory) Stored() bool {
	held, ok := m.kv.(*heldKV)
	return ok && held.Stored()
}
