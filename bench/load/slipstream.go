package load

import (
	"context"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"
)

const (
	// startWait is how long a contestant may take to open its door.
	startWait = 10 * time.Second
	// startTries bounds how often a free port is looked for: another program may be quicker to take it.
	startTries = 3
	// pollWait is how often a starting contestant is asked whether it listens yet.
	pollWait = 2 * time.Millisecond
)

// slipstream starts a Slipstream with one door.
func (a *arena) slipstream(ctx context.Context, way Way) (*contestant, error) {
	if len(a.options.Command) == 0 {
		return nil, fmt.Errorf("%w: no command was given that starts Slipstream", errAbsent)
	}
	dir, err := os.MkdirTemp("", "slipstream-load-")
	if err != nil {
		return nil, err
	}
	c := &contestant{version: a.options.Version}
	if way == Inbound {
		c.tls = a.secrets.client
	}
	var p *process
	for try := 1; ; try++ {
		if c.addr, err = freeAddr(); err == nil {
			p, err = a.serve(ctx, dir, way, c.addr)
		}
		if err == nil || try == startTries || !strings.Contains(err.Error(), "address already in use") {
			break
		}
	}
	if err != nil {
		_ = os.RemoveAll(dir) // the system clears its temporary directory, too
		return nil, err
	}
	c.log = p.log.String
	c.stop = func() {
		p.stop()
		_ = os.RemoveAll(dir) // as above
	}
	if c.accounts, err = openLedger(p.pid()); err != nil {
		c.stop()
		return nil, err
	}
	return c, nil
}

// serve runs Slipstream and returns once its door is open.
func (a *arena) serve(ctx context.Context, dir string, way Way, addr string) (*process, error) {
	config, err := a.configure(dir, way, addr)
	if err != nil {
		return nil, err
	}
	p, err := startProcess(append(slices.Clone(a.options.Command), "serve", "-c", config))
	if err != nil {
		return nil, err
	}
	if err := listening(ctx, addr, p.done); err != nil {
		p.stop()
		return nil, fmt.Errorf("%w\n%s", err, p.log)
	}
	return p, nil
}

// configure writes the configuration: the defaults, but for the door, the limits that a load would meet, and an admin
// socket that two processes would have to share.
func (a *arena) configure(dir string, way Way, addr string) (string, error) {
	var b strings.Builder
	fmt.Fprintf(&b, `hostname = "proxy.example"
state_dir = %q
admin.listen = ""
[limits]
max_connections = %d
max_connections_per_client = %[2]d
max_transactions_per_connection = %d
[[%s]]
listen = [%q]
`, dir, 10*MaxSessions, 2*MaxPerConnection, way, addr)
	hop := a.sink.addr()
	if way == Inbound {
		// Nobody else here asks who mail is from, and there is no DNS to ask.
		fmt.Fprintf(&b, "auth.enabled = false\nbackend = %q\nbackend_trusts_us = true\npool_idle = \"30s\"\npool_size = %d\n", hop, MaxSessions)
	} else {
		protection := "none"
		if a.options.TLS {
			protection = "encrypt"
		}
		fmt.Fprintf(&b, "relay = %q\ntls = %q\n", hop, protection)
	}
	if way == Inbound && a.options.TLS {
		for name, text := range map[string][]byte{"cert.pem": a.secrets.cert, "key.pem": a.secrets.key} {
			if err := os.WriteFile(filepath.Join(dir, name), text, 0o600); err != nil {
				return "", err
			}
		}
		b.WriteString("tls_cert = \"cert.pem\"\ntls_key = \"key.pem\"\n")
	}
	name := filepath.Join(dir, "slipstream.toml")
	return name, os.WriteFile(name, []byte(b.String()), 0o600)
}

// freeAddr is an address that nobody listens at.
func freeAddr() (string, error) {
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return "", err
	}
	return ln.Addr().String(), ln.Close()
}

// listening waits until somebody listens at addr, or done is closed.
func listening(ctx context.Context, addr string, done <-chan struct{}) error {
	ctx, cancel := context.WithTimeoutCause(ctx, startWait, fmt.Errorf("nobody listens at %s after %v", addr, startWait))
	defer cancel()
	ticks := time.NewTicker(pollWait)
	defer ticks.Stop()
	for {
		conn, err := new(net.Dialer).DialContext(ctx, "tcp", addr)
		if err == nil {
			return conn.Close()
		}
		select {
		case <-ctx.Done():
			return context.Cause(ctx)
		case <-done:
			return fmt.Errorf("it ended before it listened at %s", addr)
		case <-ticks.C:
		}
	}
}
