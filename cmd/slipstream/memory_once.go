package main

import (
	"context"
	"errors"
	"fmt"
	"path/filepath"
	"sync"
	"time"

	"go.uber.org/zap"

	"slipstream/proxy"
	"slipstream/proxy/once"
	"slipstream/tlsstore"
	"slipstream/tlsstore/badgerkv"
)

const (
	onceName = "once" // the directory in the state directory
	// onceMinSize is what the directory may always take, and twice a record for each outcome that may be held comes to
	// more where those are many. Nothing is dropped for it.
	onceMinSize = 64 << 20
)

// outcomes are the memory of what became of recipients, where a door needs it. Nil: none does.
type outcomes struct {
	*once.Memory
	log *zap.Logger
}

// needsOnce tells whether a door of a configuration has a use for the memory of outcomes: each that the MTA sends its
// mail through, since it may be gone before it hears what became of that.
func needsOnce(cfg *proxy.Config) bool { return cfg.Once.Enabled && len(cfg.Outbound) > 0 }

// onceRestart names the keys by which the memory of outcomes is opened, which a reload does not do again.
func onceRestart(old, new *proxy.Config) (keys []string) {
	if old.Once.Enabled != new.Once.Enabled {
		keys = append(keys, "once.enabled")
	}
	if needsOnce(new) && !needsOnce(old) && old.Once.Enabled {
		keys = append(keys, "the first outbound door (nothing of outcomes is remembered yet)")
	}
	if old.Once.Keep != new.Once.Keep {
		keys = append(keys, "once.keep")
	}
	if old.Once.MaxRecipients != new.Once.MaxRecipients {
		keys = append(keys, "once.max_recipients")
	}
	return keys
}

// openOutcomes opens the memory of outcomes, if it is needed. Where it cannot be used, that is tried again and again,
// and the memory says so to those who ask. It takes no longer than openWait.
func openOutcomes(cfg *proxy.Config, log *zap.Logger) *outcomes {
	if !needsOnce(cfg) {
		return nil
	}
	open := func() (tlsstore.KV, error) { return openOnceDisk(cfg, log) }
	m := once.OpenSoon(open, openWait, once.Options{Keep: cfg.Once.Keep, Max: cfg.Once.MaxRecipients, Log: log})
	return &outcomes{m, log}
}

func (o *outcomes) memory() *once.Memory {
	if o == nil {
		return nil
	}
	return o.Memory
}

// Close writes what is to be remembered. It takes no longer than once.CloseWait and tlsstore.CloseWait together.
func (o *outcomes) Close() {
	if o == nil {
		return
	}
	if err := o.Memory.Close(); err != nil {
		o.log.Warn("the memory of outcomes did not close in order; what was written before is on the disk", zap.Error(err))
	}
}

// openOnceDisk opens the directory of the memory of outcomes, with the key of the store. Nothing takes its place when
// that fails, and it is not put aside as long as anything in it could be of use: the MTA counts on it.
func openOnceDisk(cfg *proxy.Config, log *zap.Logger) (tlsstore.KV, error) {
	if err := makeStateDir(cfg.StateDir); err != nil {
		return nil, err
	}
	key, err := badgerkv.LoadKey(storeKey(cfg))
	if err != nil {
		return nil, err
	}
	o := onceOptions(cfg, key)
	o.Log = sayFor(onceName, log)
	kv, err := badgerkv.Open(o)
	if useless(err) {
		as, failed := badgerkv.PutAside(o.Dir, time.Now().Add(-cfg.Once.Keep))
		switch {
		case failed != nil:
			return nil, fmt.Errorf("%w, and it cannot be put aside either: %w", err, failed)
		case as == "":
			return nil, fmt.Errorf("%w: %s", err, onceAdvice(cfg, err))
		}
		log.Warn("the memory of outcomes could not be read, and was put aside; since nothing was written there for longer "+
			"than once.keep, nothing in it was of use any more", zap.String("as", as), zap.Error(err))
		kv, err = badgerkv.Open(o)
	}
	if err != nil {
		return nil, fmt.Errorf("%s: %w: %s", o.Dir, err, badgerkv.Advice(o.Dir, err))
	}
	return newTendedKV(kv, log), nil
}

// useless tells whether a directory is there that cannot be read, and never will be as it is.
func useless(err error) bool {
	return errors.Is(err, badgerkv.ErrKey) || errors.Is(err, badgerkv.ErrCorrupt)
}

func onceOptions(cfg *proxy.Config, key []byte) badgerkv.Options {
	return badgerkv.Options{
		Dir: filepath.Join(cfg.StateDir, onceName), Key: key, Sync: true, Small: true,
		MaxSize: max(onceMinSize, 2*int64(once.MaxRecord)*int64(cfg.Once.MaxRecipients)),
	}
}

// onceAdvice says what to do about a directory that cannot be read.
func onceAdvice(cfg *proxy.Config, err error) string {
	dir := filepath.Join(cfg.StateDir, onceName)
	advice := fmt.Sprintf("put a good copy of %s there", dir)
	if errors.Is(err, badgerkv.ErrKey) {
		advice = fmt.Sprintf("put the old key back as %s", storeKey(cfg))
	}
	return fmt.Sprintf("%s, or, if there is none, \"mv %s %s.bad\": then a recipient of a message that waits in the "+
		"MTA's queue just now may get it twice; else a new one is begun %v after the last write to it",
		advice, dir, dir, cfg.Once.Keep)
}

// A tendedKV is one with its upkeep.
type tendedKV struct {
	*badgerkv.KV
	cancel context.CancelFunc
	upkeep sync.WaitGroup
}

func newTendedKV(kv *badgerkv.KV, log *zap.Logger) *tendedKV {
	ctx, cancel := context.WithCancel(context.Background())
	t := &tendedKV{KV: kv, cancel: cancel}
	t.upkeep.Go(func() { t.tend(ctx, log) }) // ends with Close
	return t
}

// tend does the upkeep now and then, and when the KV has grown too large.
func (t *tendedKV) tend(ctx context.Context, log *zap.Logger) {
	timer := time.NewTimer(upkeepFirst)
	defer timer.Stop()
	var last time.Time
	for {
		select {
		case <-ctx.Done():
			return
		case <-t.Outgrown():
			timer.Reset(max(0, upkeepFirst-time.Since(last)))
		case <-timer.C:
			if _, err := t.Maintain(ctx); err != nil && ctx.Err() == nil {
				log.Warn("upkeep of the memory of outcomes failed", zap.Error(err))
			}
			last = time.Now()
			timer.Reset(upkeepEvery)
		}
	}
}

// Close ends the upkeep, and waits for it no longer than the KV waits for itself.
func (t *tendedKV) Close() error {
	t.cancel()
	_, _ = within(upkeepGrace, func() struct{} { t.upkeep.Wait(); return struct{}{} }, func(struct{}) {})
	return t.KV.Close()
}
