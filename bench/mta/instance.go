package mta

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"time"
)

// inside is where Instance.data appears in the root of an instance.
const inside = "/slipstream"

// Instance is a running server. Its methods may be called from several goroutines.
type Instance struct {
	kind    Kind
	config  Config
	data    string // directory shared with the instance
	dir     string // parent of data
	ownsDir bool
	root    *root
}

// startAttempts bounds how often a free port is looked for: between finding one and the server's taking it, another
// program may be quicker.
const startAttempts = 3

// Start runs a server and returns once it greets. ctx bounds the start only; the instance runs until Stop or Kill.
//
// The server inherits the network namespace of the calling thread.
func Start(ctx context.Context, kind Kind, c Config) (*Instance, error) {
	for attempt := 1; ; attempt++ {
		in, err := startOnce(ctx, kind, c)
		taken := err != nil && strings.Contains(err.Error(), "ddress already in use")
		if !taken || !anyPort(c.Listen) || attempt == startAttempts {
			return in, err
		}
	}
}

func startOnce(ctx context.Context, kind Kind, c Config) (*Instance, error) {
	c, err := c.withDefaults(kind)
	if err != nil {
		return nil, err
	}
	if err := privileged(); err != nil {
		return nil, err
	}
	peer, err := findPeer(c.Peers, string(kind))
	if err != nil {
		return nil, err
	}
	in := &Instance{kind: kind, config: c, dir: c.Dir}
	if in.dir == "" {
		in.ownsDir = true
		if in.dir, err = os.MkdirTemp("", "slipstream-mta-"); err != nil {
			return nil, err
		}
	}
	in.data = filepath.Join(in.dir, "data")
	if err := in.boot(ctx, peer); err != nil {
		err = fmt.Errorf("mta: %s on %s: %w", kind, c.Listen, err)
		return nil, errors.Join(err, in.Kill())
	}
	return in, nil
}

// boot builds the root and waits for the greeting.
func (in *Instance) boot(ctx context.Context, peer string) error {
	top, err := in.layOut()
	if err != nil {
		return err
	}
	in.root, err = startRoot(in.dir, peer, top)
	if err != nil {
		return err
	}
	err = in.waitGreeting(ctx)
	switch {
	case err == nil:
		return nil
	case !in.root.built():
		return fmt.Errorf("%w: no overlay root: %w\n%s", ErrUnavailable, err, in.root.output())
	default:
		return fmt.Errorf("%w\n%s", err, in.root.output())
	}
}

// Addr returns the address it listens on.
func (in *Instance) Addr() string { return in.config.Listen }

// Kind returns what it is.
func (in *Instance) Kind() Kind { return in.kind }

// Dir returns the directory that the server keeps everything in.
func (in *Instance) Dir() string { return in.dir }

// Config returns the configuration in force, defaults filled in.
func (in *Instance) Config() Config { return in.config }

// Stop ends the server in its own orderly way, then removes what Start made. It waits five seconds at most before it
// does as Kill does.
func (in *Instance) Stop() error { return in.end(5 * time.Second) }

// Kill ends every process of the server at once with SIGKILL, as a crash would, then removes what Start made. Queue and
// deliveries stay where Config.Dir was given.
func (in *Instance) Kill() error { return in.end(0) }

func (in *Instance) end(patience time.Duration) error {
	var err error
	if in.root != nil {
		err = in.root.end(patience)
	}
	if in.ownsDir {
		return errors.Join(err, os.RemoveAll(in.dir))
	}
	return err
}

// Run runs a command in the instance's root as root there, for instance "postqueue", "-p", and returns what it printed.
func (in *Instance) Run(ctx context.Context, stdin []byte, command ...string) ([]byte, error) {
	return in.root.run(ctx, stdin, command...)
}

// Submit hands a message to the server's sendmail command, so that it sends it on its way. Lines of raw may end in CRLF
// or LF. It returns once the message is in the queue.
func (in *Instance) Submit(ctx context.Context, from string, to []string, raw []byte) error {
	command := []string{"/usr/sbin/sendmail", "-i", "-f", from}
	if from == "" {
		command[3] = "<>"
	}
	if bytes.ContainsFunc(raw, func(r rune) bool { return r >= 0x80 }) && in.kind == Postfix {
		command = append(command, "-B8BITMIME")
	}
	command = append(append(command, "--"), to...)
	out, err := in.Run(ctx, bytes.ReplaceAll(raw, []byte("\r\n"), []byte("\n")), command...)
	if err != nil {
		return fmt.Errorf("mta: %s does not take the message: %w: %s", in.kind, err, bytes.TrimSpace(out))
	}
	return nil
}

// Flush makes the server try its whole queue at once.
func (in *Instance) Flush(ctx context.Context) error {
	command := []string{"/usr/sbin/postqueue", "-f"}
	switch in.kind {
	case Exim:
		command = []string{"/usr/sbin/exim4", "-qf"}
	case OpenSMTPD:
		command = []string{"/usr/sbin/smtpctl", "schedule", "all"}
	}
	out, err := in.Run(ctx, nil, command...)
	if err != nil {
		return fmt.Errorf("mta: flush: %w: %s", err, bytes.TrimSpace(out))
	}
	return nil
}

// Log returns all that the server has logged so far.
func (in *Instance) Log() string {
	files, _ := filepath.Glob(filepath.Join(in.data, "log", "*"))
	var b strings.Builder
	for _, name := range files {
		text, err := os.ReadFile(name)
		if err == nil {
			b.Write(text)
		}
	}
	return b.String()
}

// WaitLog waits until the log contains text.
func (in *Instance) WaitLog(ctx context.Context, text string) error {
	return in.poll(ctx, fmt.Sprintf("%q in the log", text), func() (bool, error) {
		return strings.Contains(in.Log(), text), nil
	})
}

// poll asks done every few milliseconds, and gives up with the end of the log.
func (in *Instance) poll(ctx context.Context, what string, done func() (bool, error)) error {
	tick := time.NewTicker(10 * time.Millisecond)
	defer tick.Stop()
	for {
		ok, err := done()
		if ok || err != nil {
			return err
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("mta: %s: no %s: %w\n%s", in.kind, what, context.Cause(ctx), tail(in.Log(), 20))
		case <-in.root.done:
			return fmt.Errorf("mta: %s: no %s: the server has ended\n%s", in.kind, what, tail(in.Log(), 20))
		case <-tick.C:
		}
	}
}

// tail returns the last n lines.
func tail(text string, n int) string {
	lines := strings.SplitAfter(text, "\n")
	return strings.Join(lines[max(0, len(lines)-n-1):], "")
}
