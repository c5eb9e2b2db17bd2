package main

import (
	"bufio"
	"crypto/tls"
	"fmt"
	"io"
	"net"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"go.uber.org/goleak"

	"slipstream/bench/refpeer"
)

// A trial is a service in this process, with a mail server behind it.
type trial struct {
	t       *testing.T
	dir     string
	backend *refpeer.Server
	mta     string // its address
	signals chan os.Signal
	log     *watchedLog
	ended   chan error
}

// newTrial starts the mail server; serve starts the service.
func newTrial(t *testing.T, backend *refpeer.Server) *trial {
	t.Helper()
	t.Cleanup(func() { goleak.VerifyNone(t) })
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	backend.Start(ln)
	t.Cleanup(backend.Close)
	return &trial{
		t: t, dir: t.TempDir(), backend: backend, mta: ln.Addr().String(),
		signals: make(chan os.Signal, 4), log: newWatchedLog(), ended: make(chan error, 1),
	}
}

func (s *trial) path() string { return filepath.Join(s.dir, "slipstream.toml") }

// configure writes the configuration: a part for all tests, then that of one.
func (s *trial) configure(format string, args ...any) {
	s.t.Helper()
	text := fmt.Sprintf("hostname = \"proxy.example\"\nstate_dir = \"state\"\n[dns]\nservers = [\"127.0.0.1:1\"]\n"+format, args...)
	if err := os.WriteFile(s.path(), []byte(text), 0o600); err != nil {
		s.t.Fatal(err)
	}
}

// serve runs the service; a test that does not end it has it ended.
func (s *trial) serve() {
	s.t.Helper()
	go func() { s.ended <- serve(s.path(), s.log, s.signals) }()
	s.t.Cleanup(func() {
		select {
		case err := <-s.ended:
			s.ended <- err
			return
		default:
		}
		s.signals <- syscall.SIGTERM
		s.signals <- syscall.SIGTERM
		_ = s.wait()
	})
}

// wait waits for the end of the service.
func (s *trial) wait() error {
	s.t.Helper()
	select {
	case err := <-s.ended:
		s.ended <- err
		return err
	case <-time.After(patience):
		s.t.Fatalf("the service does not end; its log:\n%s", s.log)
		return nil
	}
}

func (s *trial) hangUp(want string) {
	s.t.Helper()
	s.signals <- syscall.SIGHUP
	s.await(want)
}

// await waits for a line of the log, behind those awaited before.
func (s *trial) await(want string) {
	s.t.Helper()
	if !s.log.await(want) {
		s.t.Fatalf("no %q in the log:\n%s", want, s.log)
	}
}

// freeAddr finds an address to listen on.
func (s *trial) freeAddr() string {
	s.t.Helper()
	addr, err := freeAddr()
	if err != nil {
		s.t.Fatal(err)
	}
	return addr
}

// certify puts a new certificate for a name into cert.pem and key.pem.
func (s *trial) certify(name string) {
	s.t.Helper()
	cert, err := newCertificate(name)
	if err == nil {
		err = cert.write(filepath.Join(s.dir, "cert.pem"), filepath.Join(s.dir, "key.pem"))
	}
	if err != nil {
		s.t.Fatal(err)
	}
}

// A dialog is a client that a test writes line by line.
type dialog struct {
	t    *testing.T
	conn net.Conn
	r    *bufio.Reader
}

func (s *trial) client(addr string) *dialog {
	s.t.Helper()
	conn, err := net.Dial("tcp", addr)
	if err != nil {
		s.t.Fatal(err)
	}
	s.t.Cleanup(func() { _ = conn.Close() })
	_ = conn.SetDeadline(time.Now().Add(patience))
	d := &dialog{t: s.t, conn: conn, r: bufio.NewReader(conn)}
	d.want("220 ")
	return d
}

func (d *dialog) say(lines string) {
	d.t.Helper()
	if _, err := io.WriteString(d.conn, lines); err != nil {
		d.t.Fatal(err)
	}
}

func (d *dialog) want(prefix string) {
	d.t.Helper()
	for {
		line, err := d.r.ReadString('\n')
		if err != nil {
			d.t.Fatalf("got %q, %v; want %q", line, err, prefix)
		}
		if len(line) > 3 && line[3] == '-' {
			continue
		}
		if !strings.HasPrefix(line, prefix) {
			d.t.Fatalf("got %q, want %q", line, prefix)
		}
		return
	}
}

func (d *dialog) ask(line, prefix string) {
	d.t.Helper()
	d.say(line + "\r\n")
	d.want(prefix)
}

// wantEnd checks that the connection ends and nothing else is said.
func (d *dialog) wantEnd() {
	d.t.Helper()
	if rest, err := io.ReadAll(d.r); len(rest) > 0 || err != nil {
		d.t.Errorf("got %q, %v; want the end", rest, err)
	}
}

// startTLS secures the dialog and returns whom the certificate is for.
func (d *dialog) startTLS() string {
	d.t.Helper()
	d.ask("EHLO client.example", "250 ")
	d.ask("STARTTLS", "220 ")
	conn := tls.Client(d.conn, &tls.Config{InsecureSkipVerify: true})
	if err := conn.Handshake(); err != nil {
		d.t.Fatal(err)
	}
	d.conn, d.r = conn, bufio.NewReader(conn)
	d.ask("EHLO client.example", "250 ")
	return conn.ConnectionState().PeerCertificates[0].Subject.CommonName
}

// A watchedLog can be waited on.
type watchedLog struct {
	mu      sync.Mutex
	changed *sync.Cond
	text    strings.Builder
	seen    int // octets up to the end of what was awaited last
	over    bool
}

func newWatchedLog() *watchedLog {
	l := &watchedLog{}
	l.changed = sync.NewCond(&l.mu)
	return l
}

// Write implements [io.Writer].
func (l *watchedLog) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.changed.Broadcast()
	return l.text.Write(p)
}

// String returns all of the log.
func (l *watchedLog) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.text.String()
}

func (l *watchedLog) await(want string) bool {
	timer := time.AfterFunc(patience, func() {
		l.mu.Lock()
		defer l.mu.Unlock()
		l.over = true
		l.changed.Broadcast()
	})
	defer timer.Stop()
	l.mu.Lock()
	defer l.mu.Unlock()
	for !l.over {
		if i := strings.Index(l.text.String()[l.seen:], want); i >= 0 {
			l.seen += i + len(want)
			return true
		}
		l.changed.Wait()
	}
	return false
}
