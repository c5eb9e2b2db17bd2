package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"slices"
	"strings"
	"sync"
	"syscall"
	"time"

	"github.com/coreos/go-systemd/v22/daemon"
	"go.uber.org/zap"

	"slipstream/proxy"
)

// A service runs a proxy and obeys signals.
type service struct {
	path    string
	config  *proxy.Config // in force
	log     *zap.Logger
	level   zap.AtomicLevel
	proxy   *proxy.Proxy
	memory  *memory
	again   bool // a reload is to follow the start
	signals <-chan os.Signal
	notify  func(state string) // to systemd
}

// A result is how a start or a reload ended.
type result struct {
	config  *proxy.Config
	restart []string // what of it needs a restart, besides what needRestart knows
	err     error
}

// run starts the proxy and serves until a signal ends it.
func (s *service) run() error {
	defer s.feedWatchdog()()
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	underWay := begin(func() result { return result{config: s.config, err: s.proxy.Start(ctx)} })
	started, again := false, s.again
	for {
		select {
		case r := <-underWay:
			underWay = nil
			switch {
			case started:
				s.reloaded(r)
			case r.err != nil:
				cancel()
				_ = s.proxy.Shutdown(ctx) // there is nobody inside
				return fmt.Errorf("cannot start: %w", r.err)
			default:
				s.log.Info("ready")
			}
			started = true
			s.notify(daemon.SdNotifyReady + "\nSTATUS=Serving")
			if again {
				again = false
				underWay = s.beginReload(ctx)
			}
		case sig := <-s.signals:
			switch {
			case sig != syscall.SIGHUP:
				cancel()
				if underWay != nil {
					s.overtaken(<-underWay, started)
				}
				s.stop(sig, started)
				return nil
			case underWay != nil:
				again = true
			default:
				underWay = s.beginReload(ctx)
			}
		}
	}
}

// begin runs f beside the loop that hears signals.
func begin(f func() result) <-chan result {
	done := make(chan result, 1)
	go func() { done <- f() }() // ends with f; run waits for it
	return done
}

func (s *service) beginReload(ctx context.Context) <-chan result {
	// systemd measures the reload from the time that stands here:
	// https://www.freedesktop.org/software/systemd/man/latest/sd_notify.html
	s.notify(daemon.SdNotifyReloading + "\n" + daemon.SdNotifyMonotonicUsec() + "STATUS=Reading the configuration")
	s.log.Info("reading the configuration again", zap.String("config", s.path))
	return begin(func() result {
		cfg, err := proxy.LoadConfig(s.path)
		if err == nil {
			err = s.proxy.Reload(ctx, cfg)
		}
		if err != nil {
			return result{config: cfg, err: err}
		}
		return result{config: cfg, restart: s.memory.reload(cfg.Tickets)}
	})
}

// overtaken ends a start or reload that a stop came upon: what is wrong with the
// configuration is worth a word all the same.
func (s *service) overtaken(r result, started bool) {
	if started && r.err != nil && !errors.Is(r.err, context.Canceled) {
		s.reloaded(r)
	}
}

// reloaded applies what is not the proxy's, or says why all is as before.
func (s *service) reloaded(r result) {
	var config *proxy.ConfigError
	switch {
	case errors.As(r.err, &config):
		for _, p := range config.Problems {
			s.log.Error("configuration: " + p.String())
		}
		s.log.Error("the configuration is wrong; the old one stays in force", zap.Int("problems", len(config.Problems)+config.More))
		return
	case r.err != nil:
		s.log.Error("cannot use the new configuration; the old one stays in force", zap.Error(r.err))
		return
	}
	if err := s.level.UnmarshalText([]byte(r.config.Log.Level)); err != nil {
		s.log.Error("log level", zap.Error(err)) // LoadConfig lets no other pass
	}
	if list := append(needRestart(s.config, r.config), r.restart...); len(list) > 0 {
		s.log.Warn("these changes need a restart", zap.String("keys", strings.Join(list, ", ")))
	}
	if r.config.Limits.MaxConnections != s.config.Limits.MaxConnections {
		warnAboutFiles(s.log, r.config.Limits)
	}
	s.config = r.config
	s.log.Info("the new configuration is in force")
}

// needRestart names the keys whose change a reload cannot bring into force.
func needRestart(old, new *proxy.Config) []string {
	var list []string
	if old.Log.Format != new.Log.Format {
		list = append(list, "log.format")
	}
	if old.Admin.Listen != new.Admin.Listen {
		list = append(list, "admin.listen")
	}
	if old.StateDir != new.StateDir {
		list = append(list, "state_dir")
	}
	if old.Store.Enabled != new.Store.Enabled {
		list = append(list, "store.enabled")
	}
	if old.Store.MaxSize != new.Store.MaxSize {
		list = append(list, "store.max_size")
	}
	if old.Store.KeyFile != new.Store.KeyFile {
		list = append(list, "store.key_file")
	}
	if old.Tickets.Enabled != new.Tickets.Enabled {
		list = append(list, "tickets.enabled")
	}
	if old.Tickets.SecretFile != new.Tickets.SecretFile {
		list = append(list, "tickets.secret_file")
	}
	if !slices.Equal(old.Tickets.NotFor, new.Tickets.NotFor) {
		list = append(list, "tickets.not_for")
	}
	if old.ReportsDir() != new.ReportsDir() {
		list = append(list, "reports.dir")
	}
	if old.Reports.MaxSize != new.Reports.MaxSize {
		list = append(list, "reports.max_size")
	}
	list = append(list, onceRestart(old, new)...)
	if !slices.Equal(old.DNS.Servers, new.DNS.Servers) {
		list = append(list, "dns.servers")
	}
	if old.DNS.Timeout != new.DNS.Timeout {
		list = append(list, "dns.timeout")
	}
	if old.DNS.ServeStale != new.DNS.ServeStale {
		list = append(list, "dns.serve_stale")
	}
	return list
}

// stopMargin is what systemd is asked for beyond the shutdown's own limit: for
// sessions that were cut, and for us.
const stopMargin = 30 * time.Second

// stop lets transactions finish until limits.shutdown_timeout or a second
// signal, whichever comes first. A proxy that is still starting has none.
func (s *service) stop(sig os.Signal, started bool) {
	limit := s.config.Limits.ShutdownTimeout
	s.log.Info("stopping", zap.Stringer("signal", sig), zap.Duration("limit", limit))
	// Without more time systemd would kill us after TimeoutStopSec, 90 s unless configured.
	s.notify(fmt.Sprintf("%s\nEXTEND_TIMEOUT_USEC=%d\nSTATUS=Waiting for transactions under way",
		daemon.SdNotifyStopping, (limit + stopMargin).Microseconds()))
	ctx, cancel := context.WithTimeout(context.Background(), limit)
	defer cancel()
	if !started {
		cancel()
	}
	ended := make(chan struct{})
	var hearing sync.WaitGroup
	hearing.Go(func() {
		for {
			select {
			case <-ended:
				return
			case sig := <-s.signals:
				if sig != syscall.SIGHUP {
					s.log.Warn("told again: cutting what is left", zap.Stringer("signal", sig))
					cancel()
					return
				}
			}
		}
	})
	err := s.proxy.Shutdown(ctx)
	close(ended)
	hearing.Wait()
	if err != nil && started {
		s.log.Warn("stopped; some sessions were cut", zap.Error(err))
		return
	}
	s.log.Info("stopped")
}

// feedWatchdog tells systemd at half of the interval it asks for that we are
// alive, until the function that is returned is called. A proxy that is stuck
// with its lock held is not.
func (s *service) feedWatchdog() (stop func()) {
	interval, err := daemon.SdWatchdogEnabled(false)
	if err != nil {
		s.log.Warn("the watchdog cannot be served", zap.Error(err))
	}
	if err != nil || interval <= 0 {
		return func() {}
	}
	ended := make(chan struct{})
	var feeding sync.WaitGroup
	feeding.Go(func() {
		ticks := time.NewTicker(interval / 2)
		defer ticks.Stop()
		for {
			select {
			case <-ended:
				return
			case <-ticks.C:
				_ = s.proxy.Ready() // not ready is alive
				s.notify(daemon.SdNotifyWatchdog)
			}
		}
	})
	return func() {
		close(ended)
		feeding.Wait()
	}
}
