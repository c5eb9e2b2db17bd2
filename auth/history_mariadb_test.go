//go:build darwin || dragonfly || freebsd || linux || netbsd || openbsd

package auth

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"
)

// Bounds of a database of a test.
const (
	mariadbStart = 30 * time.Second // else there is none
	mariadbStop  = 10 * time.Second // else it is killed
	importTime   = time.Minute
)

// peerTree is where the packages of one name are unpacked. It skips the test where they are not.
func peerTree(t *testing.T, name, want string) string {
	t.Helper()
	peers := os.Getenv("SLIPSTREAM_PEERS")
	if peers == "" {
		peers = filepath.Join("..", ".peers")
	}
	tree, err := filepath.Abs(filepath.Join(peers, name))
	if err != nil {
		t.Fatal(err)
	}
	if _, err := os.Stat(filepath.Join(tree, want)); err != nil {
		t.Skipf("no %s in %s", want, tree)
	}
	return tree
}

// peerEnv is the environment of programs of a tree.
func peerEnv(tree string, more ...string) []string {
	libraries, _ := filepath.Glob(filepath.Join(tree, "usr/lib/*-linux-*"))
	return append([]string{"PATH=/usr/sbin:/usr/bin:/sbin:/bin", "LC_ALL=C", "HOME=/nonexistent",
		"LD_LIBRARY_PATH=" + strings.Join(libraries, ":")}, more...)
}

// A mariadb is a server of Debian's with OpenDMARC's tables in it. It listens on a socket in a directory of its own and
// nowhere else.
type mariadb struct{ tree, dir string }

// watched runs a program until it ends or standard input does, which happens also when this process is killed.
const watched = `exec 3<&0 </dev/null
"$@" 3<&- &
program=$!
(cat <&3 >/dev/null; kill -TERM $program) &
wait $program
`

// startMariaDB runs a server until the test ends. It skips the test where that cannot be done.
func startMariaDB(t *testing.T, schema string) *mariadb {
	t.Helper()
	m := &mariadb{tree: peerTree(t, "mariadb", "usr/sbin/mariadbd")}
	// The name of a socket is bounded, those of t.TempDir are long.
	dir, err := os.MkdirTemp("", "mariadb-")
	if err != nil {
		t.Fatal(err)
	}
	m.dir = dir
	t.Cleanup(func() {
		if err := os.RemoveAll(dir); err != nil {
			t.Error(err)
		}
	})
	ctx, cancel := context.WithTimeout(t.Context(), mariadbStart)
	defer cancel()
	if err := m.bootstrap(ctx); err != nil {
		t.Skip("MariaDB does not make its tables here: ", err)
	}
	if err := m.start(t, ctx); err != nil {
		t.Skip("MariaDB does not start here: ", err)
	}
	if out, err := m.client(t.Context(), schema); err != nil {
		t.Fatalf("OpenDMARC's tables: %v: %s", err, out)
	}
	return m
}

func (m *mariadb) path(name string) string { return filepath.Join(m.dir, name) }

// options are those of a server that keeps to its directory and is in a hurry.
func (m *mariadb) options(first ...string) []string {
	share := filepath.Join(m.tree, "usr/share/mysql")
	options := append(append([]string{"--no-defaults"}, first...), "--datadir="+m.path("data"), "--tmpdir="+m.dir,
		"--plugin-dir="+m.dir, "--lc-messages-dir="+share, "--character-sets-dir="+filepath.Join(share, "charsets"),
		"--skip-networking", "--socket="+m.path("s"), "--pid-file="+m.path("pid"), "--skip-log-bin",
		"--innodb-buffer-pool-size=8M", "--innodb-log-file-size=4M", "--innodb-flush-log-at-trx-commit=0")
	if os.Geteuid() == 0 {
		options = append(options, "--user=root") // it insists
	}
	return options
}

// bootstrap makes the server's own tables, and a user and a database with the names that opendmarc-import has built in.
func (m *mariadb) bootstrap(ctx context.Context) error {
	script := []byte("CREATE DATABASE mysql;\nUSE mysql;\n")
	for _, name := range []string{"mysql_system_tables.sql", "mysql_system_tables_data.sql"} {
		text, err := os.ReadFile(filepath.Join(m.tree, "usr/share/mysql", name))
		if err != nil {
			return err
		}
		script = append(script, text...)
	}
	script = append(script, `
CREATE DATABASE opendmarc;
FLUSH PRIVILEGES;
CREATE USER opendmarc@localhost IDENTIFIED BY 'opendmarc';
GRANT ALL ON opendmarc.* TO opendmarc@localhost;
`...)
	if err := os.Mkdir(m.path("data"), 0o700); err != nil {
		return err
	}
	cmd := exec.CommandContext(ctx, filepath.Join(m.tree, "usr/sbin/mariadbd"), m.options("--bootstrap")...)
	cmd.Env, cmd.Stdin, cmd.WaitDelay = peerEnv(m.tree), bytes.NewReader(script), time.Second
	if out, err := cmd.CombinedOutput(); err != nil {
		return fmt.Errorf("%w: %s", err, lastLine(string(out)))
	}
	return nil
}

// start runs the server and returns once it listens.
func (m *mariadb) start(t *testing.T, ctx context.Context) error {
	log, err := os.Create(m.path("log"))
	if err != nil {
		return err
	}
	defer log.Close()
	args := append([]string{"-c", watched, "sh", filepath.Join(m.tree, "usr/sbin/mariadbd")}, m.options()...)
	cmd := exec.Command("/bin/sh", args...)
	cmd.Env, cmd.Stdout, cmd.Stderr = peerEnv(m.tree), log, log
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	stdin, err := cmd.StdinPipe()
	if err != nil {
		return err
	}
	if err := cmd.Start(); err != nil {
		return err
	}
	done := make(chan struct{})
	go func() {
		defer close(done)
		_ = cmd.Wait()
	}()
	t.Cleanup(func() {
		stdin.Close()
		timer := time.NewTimer(mariadbStop)
		defer timer.Stop()
		select {
		case <-done:
		case <-timer.C:
			t.Error("MariaDB does not stop: it is killed")
		}
		// Its group, even when the shell has ended: nothing of it is left, or this finds nobody.
		if err := syscall.Kill(-cmd.Process.Pid, syscall.SIGKILL); err != nil && !errors.Is(err, syscall.ESRCH) {
			t.Error(err)
		}
		<-done
	})
	tick := time.NewTicker(20 * time.Millisecond)
	defer tick.Stop()
	for {
		conn, err := net.Dial("unix", m.path("s"))
		if err == nil {
			return conn.Close()
		}
		select {
		case <-tick.C:
			continue
		case <-done:
		case <-ctx.Done():
		}
		text, _ := os.ReadFile(m.path("log"))
		return fmt.Errorf("%w: %s", err, lastLine(string(text)))
	}
}

// client gives the server statements and returns what it answers.
func (m *mariadb) client(ctx context.Context, sql string) ([]byte, error) {
	ctx, cancel := context.WithTimeout(ctx, importTime)
	defer cancel()
	cmd := exec.CommandContext(ctx, filepath.Join(m.tree, "usr/bin/mariadb"), "--no-defaults", "--socket="+m.path("s"),
		"--user=opendmarc", "--password=opendmarc", "--batch", "--raw", "--skip-column-names", "opendmarc")
	cmd.Env, cmd.Stdin, cmd.WaitDelay = peerEnv(m.tree), strings.NewReader(sql), time.Second
	return cmd.CombinedOutput()
}

// rows returns the rows that a statement selects, the columns of each with blanks between.
func (m *mariadb) rows(t *testing.T, sql string) []string {
	t.Helper()
	out, err := m.client(t.Context(), sql)
	if err != nil {
		t.Fatalf("%s: %v: %s", sql, err, out)
	}
	rows := strings.Split(strings.ReplaceAll(string(out), "\t", " "), "\n")
	return rows[:len(rows)-1]
}

// importHistory runs Debian's opendmarc-import on a history file, and returns what it complains of.
func (m *mariadb) importHistory(t *testing.T, path string) (complaints string) {
	t.Helper()
	tree := peerTree(t, "opendmarc", "usr/sbin/opendmarc-import")
	perl, err := exec.LookPath("perl")
	if err != nil {
		t.Skip("no perl here")
	}
	modules := []string{filepath.Join(tree, "usr/share/perl5")}
	for _, pattern := range []string{"usr/lib/*/perl5/*", "usr/share/perl/5*", "usr/lib/*/perl/5*"} {
		more, _ := filepath.Glob(filepath.Join(tree, pattern))
		modules = append(modules, more...)
	}
	env := peerEnv(tree, "PERL5LIB="+strings.Join(modules, ":"), "MYSQL_UNIX_PORT="+m.path("s"))
	ctx, cancel := context.WithTimeout(t.Context(), importTime)
	defer cancel()
	probe := exec.CommandContext(ctx, perl, "-MSwitch", "-MJSON", "-MDBD::mysql", "-e1")
	probe.Env = env
	if out, err := probe.CombinedOutput(); err != nil {
		line, _, _ := strings.Cut(string(out), "(")
		t.Skip("what opendmarc-import needs is not all here: ", line)
	}
	cmd := exec.CommandContext(ctx, perl, filepath.Join(tree, "usr/sbin/opendmarc-import"), "--input="+path)
	cmd.Env, cmd.WaitDelay = env, time.Second
	out, err := cmd.CombinedOutput()
	if err != nil {
		t.Fatalf("opendmarc-import: %v: %s", err, out)
	}
	return string(out)
}
