package main

import (
	"context"
	"errors"
	"io"
	"os"
	"os/signal"
	"runtime/debug"
	"syscall"
	"time"

	"github.com/coreos/go-systemd/v22/daemon"
	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"
	"go.uber.org/zap"

	"slipstream/proxy"
	"slipstream/proxy/resolver"
)

// configFlag is the configuration file on the command line.
type configFlag struct {
	Config string `short:"c" default:"/etc/slipstream/slipstream.toml" placeholder:"FILE" help:"Configuration file (${default})."`
}

type serveCmd struct{ configFlag }

// Help tells what the one line does not.
func (*serveCmd) Help() string {
	return `The log goes to standard error.

Signals: HUP reads the configuration and the certificates again; no session is dropped, and if anything is wrong
everything stays as it was. TERM and INT close the doors, let transactions under way finish within
limits.shutdown_timeout, and end the process; a second one cuts what is left.

Under systemd use Type=notify-reload and, if you like, WatchdogSec.

Exit codes: 0 stopped as told, 1 could not start or broke, 64 wrong command line, 78 wrong configuration.`
}

// Run serves until a signal ends it.
func (c *serveCmd) Run(con console) error {
	signals := make(chan os.Signal, 8)
	signal.Notify(signals, syscall.SIGHUP, syscall.SIGTERM, os.Interrupt)
	defer signal.Stop(signals)
	return serve(c.Config, con.err, signals)
}

// serve wires the parts of the service together, in the order in which they run.
func serve(path string, stderr io.Writer, signals <-chan os.Signal) error {
	cfg, err := proxy.LoadConfig(path)
	if err != nil {
		return &exitError{exitConfig, err}
	}
	log, level, err := newLogger(cfg.Log, stderr)
	if err != nil {
		return &exitError{exitConfig, err}
	}
	info, _ := debug.ReadBuildInfo()
	log.Info("starting", zap.String("version", version(info)), zap.String("config", path), zap.Int("pid", os.Getpid()))
	warnAboutFiles(log, cfg.Limits)

	sockets := inheritSockets()
	defer sockets.Close()
	if err := sockets.check(cfg); err != nil {
		return failed(log, &exitError{exitConfig, err})
	} else if len(sockets) > 0 {
		log.Info("systemd passed sockets", zap.Stringer("sockets", sockets))
	}
	dns, err := newResolver(cfg.DNS)
	if err != nil {
		return failed(log, err)
	}
	defer dns.Close()
	authDNS, err := newAuthResolver(cfg.DNS)
	if err != nil {
		return failed(log, err)
	}
	defer authDNS.Close()
	metrics := prometheus.NewRegistry()
	metrics.MustRegister(collectors.NewGoCollector(), collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}))
	kept, stop := awaitKept(func() kept { return openKept(cfg, log) }, signals)
	if stop != nil {
		log.Info("stopping", zap.Stringer("signal", stop)) // nobody is inside yet
		return nil
	}
	if kept.err != nil {
		return failed(log, kept.err)
	}
	defer kept.Close()
	mem := kept.mem
	if outcomes := kept.once.memory(); outcomes != nil {
		metrics.MustRegister(proxy.NewOutcomeMetrics(outcomes))
	}
	of := proxy.NewMemoryMetrics(mem.Store, mem.Tickets)
	if mem.Store != nil {
		of = of.WithStored(mem.Stored).WithDisk(mem.octets.Load)
	}
	metrics.MustRegister(of)
	px, err := proxy.New(cfg, proxy.Options{
		Log: log, Metrics: proxy.NewMetrics(metrics), Resolver: dns, AuthDNS: authDNS, Version: buildVersion(),
		Store: mem.Store, Once: kept.once.memory(), Tickets: mem.Tickets, Shy: mem.Shy, Listen: sockets.option(),
	})
	if err != nil {
		return failed(log, &exitError{exitConfig, err})
	}
	s := &service{
		path: path, config: cfg, log: log, level: level, proxy: px, memory: mem, again: kept.again, signals: signals,
		notify: notifier(log),
	}
	if cfg.Admin.Listen != "" {
		admin, err := proxy.OpenAdmin(cfg.Admin.Listen, px, metrics, log)
		if err != nil {
			return failed(log, err)
		}
		log.Info("admin socket open", zap.Stringer("listen", admin.Addr()))
		defer closeAdmin(admin, log)
	}
	if err := s.run(); err != nil {
		return failed(log, err)
	}
	return nil
}

// controlWait is how long a start waits for the control socket.
const controlWait = 5 * time.Second

// kept is the memory, and the socket through which people see it.
type kept struct {
	mem     *memory
	once    *outcomes // nil: no door needs them
	control *control
	again   bool // somebody asked for a reload meanwhile
	err     error
}

// openKept opens all of it. The disk may hang: nothing is waited for without end.
func openKept(cfg *proxy.Config, log *zap.Logger) kept {
	mem, err := openMemory(cfg, log)
	if err != nil {
		return kept{err: err}
	}
	control, ok := within(controlWait, func() *control { return openControl(cfg, mem, log) }, (*control).Close)
	if !ok {
		log.Warn("there is no control socket, so what is remembered cannot be looked at while the service runs: "+
			"no answer from the disk", zap.String("socket", controlPath(cfg)), zap.Duration("waited", controlWait))
	}
	return kept{mem: mem, once: openOutcomes(cfg, log), control: control}
}

// Close closes what was opened.
func (k kept) Close() {
	k.control.Close()
	if k.mem != nil {
		k.mem.Close()
	}
	k.once.Close()
}

// awaitKept opens the memory and hears signals meanwhile. After one to stop, what comes late is closed.
func awaitKept(open func() kept, signals <-chan os.Signal) (k kept, stop os.Signal) {
	done := make(chan kept, 1)
	go func() { done <- open() }() // ends when the disk has answered, or is not waited for any more
	again := false
	for {
		select {
		case k = <-done:
			k.again = again
			return k, nil
		case sig := <-signals:
			if sig == syscall.SIGHUP {
				again = true
				continue
			}
			go func() { (<-done).Close() }() // ends right behind it
			return kept{}, sig
		}
	}
}

// failed logs why the service ends, and leaves the exit code.
func failed(log *zap.Logger, err error) error {
	log.Error("slipstream failed", zap.Error(err))
	code := exitFailed
	var exit *exitError
	var relays *proxy.RelayError
	if errors.As(err, &exit) {
		code = exit.code
	} else if errors.As(err, &relays) {
		code = exitConfig
	}
	return &exitError{code: code}
}

func warnAboutFiles(log *zap.Logger, limits proxy.LimitsConfig) {
	limit, err := proxy.OpenFiles(limits)
	if err != nil {
		log.Warn("cannot tell how many files may be open", zap.Error(err))
	} else if !limit.Enough() {
		log.Warn("too few files may be open", zap.Stringer("files", limit))
	}
}

// resolverTries is how often a question is asked.
const resolverTries = 3

// newResolver gives each of three tries its share of the time for one question.
func newResolver(conf proxy.DNSConfig) (*resolver.Resolver, error) {
	return resolver.New(resolver.Config{
		Servers: conf.Servers, Attempts: resolverTries, Timeout: conf.Timeout / resolverTries, Total: conf.Timeout,
		MaxStale: conf.ServeStale,
	})
}

// maxAuthQueries is how many questions about senders may be under way at once. Strangers choose whom they are for, and
// those of one message whose name servers are silent are some thirty: with fewer, a few messages could make others wait.
const maxAuthQueries = 1024

// newAuthResolver is newResolver for what is asked about the senders of mail.
func newAuthResolver(conf proxy.DNSConfig) (*resolver.Resolver, error) {
	return resolver.New(resolver.Config{
		Servers: conf.Servers, Attempts: resolverTries, Timeout: conf.Timeout / resolverTries, Total: conf.Timeout,
		MaxQueries: maxAuthQueries,
	})
}

// adminGrace is how long answers of the admin socket may take at the end.
const adminGrace = 2 * time.Second

func closeAdmin(admin *proxy.Admin, log *zap.Logger) {
	ctx, cancel := context.WithTimeout(context.Background(), adminGrace)
	defer cancel()
	if err := admin.Close(ctx); err != nil {
		log.Warn("the admin socket did not close in order", zap.Error(err))
	}
}

// notifier tells systemd how the service is, if it wants to know.
func notifier(log *zap.Logger) func(state string) {
	return func(state string) {
		if _, err := daemon.SdNotify(false, state); err != nil {
			log.Warn("cannot tell systemd", zap.String("state", state), zap.Error(err))
		}
	}
}
