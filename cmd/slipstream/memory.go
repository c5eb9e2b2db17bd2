package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"syscall"
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
	storeName       = "store"                 // the directory in the state directory
	storeKeyName    = "store.key"             // in the state directory, or among systemd's credentials
	maxTicketSecret = 64 << 10                // octets of the file
	credentialsEnv  = "CREDENTIALS_DIRECTORY" // https://systemd.io/CREDENTIALS
)

// A memory is what the service remembers about those it talks to. Whatever is wrong with it, mail goes on.
type memory struct {
	Store   *tlsstore.Store   // of peers; nil: nothing is to be remembered
	Tickets *tlsstore.Tickets // for clients; nil: they get none
	Shy     *tlsstore.Shy     // the clients that are better given no ticket; nil where nobody gets one
	Learn   bool              // Shy is to be told which clients left and which stayed

	log    *zap.Logger
	kv     tlsstore.KV // under Store, which closes it; nil without one
	cancel context.CancelFunc
	done   chan struct{} // closed when upkeep has ended
}

// openMemory opens the memory. It is to be closed when the proxy is done with it. An error is one of the configuration;
// a store that cannot be used is replaced by one that ends with the process, and the log says so.
func openMemory(cfg *proxy.Config, log *zap.Logger) (*memory, error) {
	m := &memory{log: log, cancel: func() {}, done: make(chan struct{})}
	if err := m.openTickets(cfg.Tickets); err != nil {
		return nil, &exitError{exitConfig, err}
	}
	if !cfg.Store.Enabled {
		close(m.done)
		return m, nil
	}
	m.kv = openKV(cfg, log)
	m.Store = tlsstore.New(m.kv, tlsstore.Options{Trouble: func(err error) {
		log.Warn("trouble with the store; mail goes on without what was lost", zap.Error(err))
	}})
	if m.Learn {
		if err := m.Shy.Load(m.kv); err != nil {
			log.Warn("cannot tell which clients break on tickets; they are learned anew", zap.Error(err))
		}
	}
	var ctx context.Context
	ctx, m.cancel = context.WithCancel(context.Background())
	go m.keep(ctx) // ends with Close
	return m, nil
}

// openTickets prepares what clients are given.
func (m *memory) openTickets(conf proxy.TicketsConfig) error {
	if !conf.Enabled {
		return nil
	}
	var o tlsstore.TicketOptions
	var err error
	if conf.SecretFile != "" {
		if o.Secret, err = readTicketSecret(conf.SecretFile); err != nil {
			return fmt.Errorf("tickets.secret_file: %w", err)
		}
	}
	if m.Tickets, err = tlsstore.NewTickets(o); err != nil {
		return fmt.Errorf("tickets: %w", err)
	}
	m.Shy, m.Learn = tlsstore.NewShy(tlsstore.ShyOptions{Patterns: conf.NotFor}), conf.Learn
	return nil
}

// readTicketSecret reads a secret that nobody else may read. Systemd shows credentials as files of root that the
// service's group may read.
func readTicketSecret(path string) ([]byte, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	info, err := f.Stat()
	if err != nil {
		return nil, err
	}
	if !info.Mode().IsRegular() {
		return nil, fmt.Errorf("%s is not a plain file", path)
	}
	uid, known := ownerOf(info)
	if perm := info.Mode().Perm(); perm&0o077 != 0 && (perm != 0o440 || !known || uid != 0) {
		return nil, fmt.Errorf("others may read or write %s (mode %04o): chmod 600 it, "+
			"and make a new secret on all machines if they should not have read it", path, perm)
	}
	secret, err := io.ReadAll(io.LimitReader(f, maxTicketSecret+1))
	if err != nil {
		return nil, err
	}
	if n := len(secret); n < tlsstore.MinTicketSecret || n > maxTicketSecret {
		return nil, fmt.Errorf("%s must have %d to %d octets; "+
			"make it with \"head -c 32 /dev/urandom\" and copy it to all machines",
			path, tlsstore.MinTicketSecret, maxTicketSecret)
	}
	return secret, nil
}

// ownerOf returns the user that a file belongs to, where the system has such.
func ownerOf(info os.FileInfo) (uid int, ok bool) {
	stat, ok := info.Sys().(*syscall.Stat_t)
	if !ok {
		return 0, false
	}
	return int(stat.Uid), true
}

// openKV opens the store on disk, or else one in memory.
func openKV(cfg *proxy.Config, log *zap.Logger) tlsstore.KV {
	err := os.MkdirAll(cfg.StateDir, 0o700)
	if err != nil {
		err = fmt.Errorf("%w; make state_dir a directory that this user can write to, and restart", err)
	}
	var o badgerkv.Options
	if err == nil {
		o, err = storeOptions(cfg, log)
	}
	if err != nil {
		log.Warn("the store cannot be opened: what is learned about peers is lost when the process ends", zap.Error(err))
		return tlsstore.Memory()
	}
	kv, warnings := badgerkv.OpenAny(o)
	for _, text := range warnings {
		log.Warn("store: " + text)
	}
	return kv
}

// storeOptions reads the key, or makes it.
func storeOptions(cfg *proxy.Config, log *zap.Logger) (badgerkv.Options, error) {
	key, err := badgerkv.LoadKey(storeKey(cfg))
	return badgerkv.Options{
		Dir:     filepath.Join(cfg.StateDir, storeName),
		Key:     key,
		MaxSize: int64(cfg.Store.MaxSize),
		Log: func(level, msg string) {
			switch msg = "store: " + msg; level {
			case "error":
				log.Error(msg)
			case "warn":
				log.Warn(msg)
			default:
				log.Debug(msg)
			}
		},
	}, err
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

// keep does the upkeep until ctx ends, and once more then as far as nothing may be lost.
func (m *memory) keep(ctx context.Context) {
	defer close(m.done)
	timer := time.NewTimer(upkeepFirst)
	defer timer.Stop()
	for {
		select {
		case <-ctx.Done():
			m.save()
			return
		case <-timer.C:
			m.save()
			m.maintain(ctx)
			timer.Reset(upkeepEvery)
		}
	}
}

// save keeps what was learned about clients for the next start.
func (m *memory) save() {
	if !m.Learn {
		return
	}
	if err := m.Shy.Save(m.kv); err != nil {
		m.log.Warn("cannot save which clients break on tickets", zap.Error(err))
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
	switch {
	case ctx.Err() != nil: // the next start will see to it
	case err != nil:
		m.log.Warn("upkeep of the store failed", zap.Error(err))
	case stats.Dropped > 0 || stats.Emptied:
		m.log.Info("the store was too large; some of it was forgotten", zap.Int("records", stats.Dropped),
			zap.Bool("all", stats.Emptied), zap.Int64("octets", stats.Size))
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
