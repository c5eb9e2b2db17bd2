package mta

import (
	"bytes"
	"cmp"
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"time"
)

// Source is a run of Postfix's smtp-source, the load generator: clear SMTP in lock step.
type Source struct {
	Peers    string // as Config.Peers
	Addr     string // server, host:port
	From, To string // envelope; empty: source@source.test, sink@sink.test
	Sessions int    // at the same time; 0: 1
	Messages int    // in all; 0: 1
	Length   int    // octets of body
	Reuse    bool   // several messages on one connection
	LMTP     bool
	Args     []string // further options
}

// Run sends all messages. An error carries what smtp-source printed, such as a reply it did not like.
func (s Source) Run(ctx context.Context) error {
	tree, err := findPeer(s.Peers, "postfix")
	if err != nil {
		return err
	}
	args := []string{
		"-f", cmp.Or(s.From, "source@source.test"), "-t", cmp.Or(s.To, "sink@sink.test"),
		"-s", strconv.Itoa(max(s.Sessions, 1)), "-m", strconv.Itoa(max(s.Messages, 1)),
	}
	if s.Length > 0 {
		args = append(args, "-l", strconv.Itoa(s.Length))
	}
	if s.Reuse {
		args = append(args, "-d")
	}
	if s.LMTP {
		args = append(args, "-L")
	}
	args = append(append(args, s.Args...), s.Addr)
	cmd := exec.CommandContext(ctx, filepath.Join(tree, "usr/sbin/smtp-source"), args...)
	cmd.Env = libraries(tree)
	if out, err := cmd.CombinedOutput(); err != nil {
		return fmt.Errorf("mta: smtp-source: %w: %s", err, bytes.TrimSpace(out))
	}
	return nil
}

// Sink is a run of Postfix's smtp-sink, which accepts and forgets.
type Sink struct {
	Peers  string // as Config.Peers
	Listen string // empty or port 0: a free port
	LMTP   bool
	Args   []string // further options, as "-p" for no PIPELINING
}

// Start runs the sink and returns once it accepts connections.
func (s Sink) Start(ctx context.Context) (*Tool, error) {
	tree, err := findPeer(s.Peers, "postfix")
	if err != nil {
		return nil, err
	}
	addr, err := freePort(s.Listen)
	if err != nil {
		return nil, err
	}
	var args []string
	if s.LMTP {
		args = append(args, "-L")
	}
	if os.Getuid() == 0 {
		args = append(args, "-u", "nobody") // it insists
	}
	args = append(append(args, s.Args...), addr, "1000")
	return startTool(ctx, addr, libraries(tree), filepath.Join(tree, "usr/sbin/smtp-sink"), args...)
}

// HAProxy is a run of HAProxy that joins two addresses in mode tcp, as the plain proxy to compare with.
type HAProxy struct {
	Peers   string // as Config.Peers
	Listen  string // empty or port 0: a free port
	Backend string
	Options string // of the server line, as "send-proxy-v2"
}

// Start runs HAProxy and returns once it accepts connections.
func (h HAProxy) Start(ctx context.Context) (*Tool, error) {
	program, tree, err := findProgram(h.Peers, "haproxy", "usr/sbin/haproxy")
	if err != nil {
		return nil, err
	}
	addr, err := freePort(h.Listen)
	if err != nil {
		return nil, err
	}
	dir, err := os.MkdirTemp("", "slipstream-haproxy-")
	if err != nil {
		return nil, err
	}
	config := filepath.Join(dir, "haproxy.cfg")
	text := fmt.Sprintf(`global
  maxconn 4000
defaults
  mode tcp
  timeout connect 5s
  timeout client 5m
  timeout server 5m
listen smtp
  bind %s
  server backend %s %s
`, addr, h.Backend, h.Options)
	if err := os.WriteFile(config, []byte(text), 0o644); err != nil {
		return nil, errors.Join(err, os.RemoveAll(dir))
	}
	tool, err := startTool(ctx, addr, libraries(tree), program, "-db", "-f", config)
	if err != nil {
		return nil, errors.Join(err, os.RemoveAll(dir))
	}
	tool.trash = append(tool.trash, dir)
	return tool, nil
}

// Swaks runs swaks, the scripted SMTP client, and returns the transcript. An error is a transaction that failed; it
// carries no transcript of its own.
func Swaks(ctx context.Context, peers string, args ...string) (transcript string, err error) {
	tree, err := findPeer(peers, "swaks")
	if err != nil {
		return "", err
	}
	perl, err := exec.LookPath("perl")
	if err != nil {
		return "", fmt.Errorf("%w: swaks wants perl", ErrUnavailable)
	}
	cmd := exec.CommandContext(ctx, perl, append([]string{filepath.Join(tree, "usr/bin/swaks")}, args...)...)
	modules, _ := filepath.Glob(filepath.Join(tree, "usr/lib/*/perl5/*"))
	path := filepath.Join(tree, "usr/share/perl5")
	for _, dir := range modules {
		path += ":" + dir
	}
	cmd.Env = append(libraries(tree), "PERL5LIB="+path)
	out, err := cmd.CombinedOutput()
	if err != nil {
		err = fmt.Errorf("mta: swaks: %w", err)
	}
	return string(out), err
}

// libraries is the environment in which a program of an unpacked tree finds its shared libraries.
func libraries(tree string) []string {
	path := filepath.Join(tree, "usr/lib/postfix")
	dirs, _ := filepath.Glob(filepath.Join(tree, "usr/lib/*-linux-*"))
	for _, dir := range dirs {
		path += ":" + dir
	}
	return []string{"PATH=/usr/sbin:/usr/bin:/sbin:/bin", "LC_ALL=C", "LD_LIBRARY_PATH=" + path}
}

// greetDelay is how often a starting tool is asked whether it listens yet.
const greetDelay = 5 * time.Millisecond

// waitListening connects to addr until that works or done is closed.
func waitListening(ctx context.Context, addr string, done <-chan struct{}) error {
	tick := time.NewTicker(greetDelay)
	defer tick.Stop()
	for {
		var d net.Dialer
		conn, err := d.DialContext(ctx, "tcp", addr)
		if err == nil {
			return conn.Close()
		}
		select {
		case <-ctx.Done():
			return errors.Join(context.Cause(ctx), err)
		case <-done:
			return errors.New("it ended at once")
		case <-tick.C:
		}
	}
}
