package main

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"sync/atomic"
	"time"

	"go.uber.org/zap"

	"slipstream/proxy"
	"slipstream/tlsstore"
	"slipstream/tlsstore/badgerkv"
)

// The upkeep of what is remembered: the store is kept within its size, and what was learned about clients is saved.
const (
	upkeepFirst = 10 * time.Minute // after the start, which has other work to do
	upkeepEvery = time.Hour
	upkeepGrace = 5 * time.Second // that upkeep may take at the end, before the store's own tlsstore.CloseWait
)

const (
	storeName      = "store"                 // the directory in the state directory
	storeKeyName   = "store.key"             // in the state directory, or among systemd's credentials
	credentialsEnv = "CREDENTIALS_DIRECTORY" // https://systemd.io/CREDENTIALS
)

// A memory is what the service remembers about those it talks to. Whatever is wrong with it, mail goes on.
type memory struct {
	Store   *tlsstore.Store   // of peers; nil: nothing is to be remembered
	Tickets *tlsstore.Tickets // for clients; nil: they get none
	Shy     *tlsstore.Shy     // the clients that are better given no ticket; nil where nobody gets one

	log    *zap.Logger
	learn  atomic.Bool // Shy is told which clients left and which stayed, and that is worth keeping
	secret ticketSecret
	octets atomic.Int64 // that the store takes on disk, when it was looked at last
	kv     tlsstore.KV  // under Store, which closes it; nil without one
	open   func() opened
	cancel context.CancelFunc
	done   chan struct{} // closed when upkeep has ended

	// Of whoever opens the store: openMemory, and then keep.
	opening <-chan opened   // a store that is being opened; nil: none is
	full    <-chan struct{} // says that the store on disk takes no more until it is looked after; nil: nothing does
	told    string          // what was wrong the last time
}

// openMemory opens the memory. It is to be closed when the proxy is done with it. What cannot be used is replaced by
// what ends with the process, and the log says so. It takes no longer than openWait and secretWait together.
func openMemory(cfg *proxy.Config, log *zap.Logger) (*memory, error) {
	m := newMemory(log, func() opened { return openDisk(cfg, log) })
	if err := m.openTickets(cfg.Tickets); err != nil {
		return nil, &exitError{exitConfig, err}
	}
	if !cfg.Store.Enabled {
		close(m.done)
		return m, nil
	}
	m.start()
	return m, nil
}

func newMemory(log *zap.Logger, open func() opened) *memory {
	return &memory{log: log, open: open, cancel: func() {}, done: make(chan struct{})}
}

// start opens the store and has it looked after until Close.
func (m *memory) start() {
	m.kv = newHeldKV()
	m.openFirst()
	m.Store = tlsstore.New(m.kv, tlsstore.Options{Trouble: func(err error) {
		m.log.Warn("trouble with the store; mail goes on without what was lost", zap.Error(err))
	}})
	var ctx context.Context
	ctx, m.cancel = context.WithCancel(context.Background())
	go m.keep(ctx) // ends with Close
}

// storeKey is the file with the key of the store.
func storeKey(cfg *proxy.Config) string {
	if cfg.Store.KeyFile != "" {
		return cfg.Store.KeyFile
	}
	if dir := os.Getenv(credentialsEnv); dir != "" {
		path := filepath.Join(dir, storeKeyName)
		if _, err := os.Stat(path); !errors.Is(err, os.ErrNotExist) {
			return path // or unreadable, which is worth a word
		}
	}
	return filepath.Join(cfg.StateDir, storeKeyName)
}

// A remembered is all that was learned about peers: hops and clients.
type remembered struct {
	store *tlsstore.Store
	shy   *tlsstore.Shy
	kv    tlsstore.KV // of both
}

// remembered is for a memory with a store.
func (m *memory) remembered() remembered {
	r := remembered{m.Store, m.Shy, m.kv}
	if r.shy == nil {
		r.shy = tlsstore.NewShy(tlsstore.ShyOptions{}) // for what the store still has
	}
	return r
}

// list shows f what is remembered about a peer until it returns false; "" is everybody.
func (r remembered) list(peer string, f func(tlsstore.Entry) bool) error {
	stopped := false
	err := r.store.List(peer, func(e tlsstore.Entry) bool {
		stopped = !f(e)
		return !stopped
	})
	if err != nil || stopped {
		return err
	}
	return r.shy.List(r.kv, peer, f)
}

// drop forgets a peer, and returns how many entries that were; "" is everybody.
func (r remembered) drop(peer string) (int, error) {
	hops, err := r.store.Drop(peer)
	clients, failed := r.shy.Drop(r.kv, peer)
	return hops + clients, errors.Join(err, failed)
}

// keep does the upkeep until ctx ends, and once more then as far as nothing may be lost.
func (m *memory) keep(ctx context.Context) {
	defer close(m.done)
	timer := time.NewTimer(upkeepFirst)
	defer timer.Stop()
	var last time.Time
	for {
		select {
		case <-ctx.Done():
			m.save()
			m.giveUpOpening()
			return
		case got := <-m.opening:
			m.opening = nil
			m.adopt(got)
		case <-m.full:
			timer.Reset(max(0, upkeepFirst-time.Since(last))) // whoever fills it is not to keep us busy
		case <-timer.C:
			m.save()
			m.maintain(ctx)
			m.openAgain()
			last = time.Now()
			timer.Reset(upkeepEvery)
		}
	}
}

// save keeps what was learned about clients for the next start.
func (m *memory) save() {
	if m.kv == nil || !m.learn.Load() {
		return
	}
	if err := m.Shy.Save(m.kv); err != nil {
		m.log.Warn("cannot save which clients break on tickets", zap.Error(err))
	}
}

// load reads what was learned about clients before.
func (m *memory) load() {
	if m.kv == nil || !m.learn.Load() {
		return
	}
	if err := m.Shy.Load(m.kv); err != nil {
		m.log.Warn("cannot tell which clients break on tickets; they are learned anew", zap.Error(err))
	}
}

// A maintainer is a KV that wants upkeep.
type maintainer interface {
	Maintain(context.Context) (badgerkv.Stats, error)
}

func (m *memory) maintain(ctx context.Context) {
	kv, ok := m.kv.(maintainer)
	if !ok {
		return
	}
	stats, err := kv.Maintain(ctx)
	m.octets.Store(stats.Size)
	switch {
	case ctx.Err() != nil: // the next start will see to it
	case err != nil:
		m.log.Warn("upkeep of the store failed", zap.Error(err))
	case stats.Dropped > 0 || stats.Emptied:
		m.log.Info("the store was too large; some of it was forgotten", zap.Int("records", stats.Dropped),
			zap.Bool("all", stats.Emptied), zap.Int64("mib", stats.Size>>20))
	}
}

// Close writes what is to be remembered. It takes no longer than upkeepGrace and tlsstore.CloseWait together.
func (m *memory) Close() {
	m.cancel()
	timer := time.NewTimer(upkeepGrace)
	defer timer.Stop()
	select {
	case <-m.done:
	case <-timer.C:
		m.log.Warn("upkeep of the store does not end; closing the store all the same", zap.Duration("waited", upkeepGrace))
	}
	if m.Store == nil {
		return
	}
	if err := m.Store.Close(); err != nil {
		m.log.Warn("the store did not close in order; some of what was learned may be lost", zap.Error(err))
	}
}
