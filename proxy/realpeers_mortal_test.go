package proxy_test

import (
	"context"
	"fmt"
	"io"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"slipstream/bench/mta"
	"slipstream/bench/mta/mtatest"
)

// A mortal can be killed and started again where it was.
type mortal interface {
	start(ctx context.Context) error
	kill() error
}

// A mortalServer is a real mail server that keeps its queue over its death.
type mortalServer struct {
	*mta.Instance
	config mta.Config
	kind   mta.Kind
}

func newMortalServer(t *testing.T, kind mta.Kind, cert realCert) *mortalServer {
	t.Helper()
	s := &mortalServer{kind: kind, config: mta.Config{
		Dir: t.TempDir(), Listen: realNeighbours(t, 1)[0], Hostname: "mx.b.test", Local: []string{"b.test"},
		Cert: cert.cert, Key: cert.key,
	}}
	if kind == mta.Postfix {
		s.config.Extra = []string{"enable_long_queue_ids = yes"} // short ones are used again
	}
	mtatest.Check(t, s.start(mtatest.Context(t)))
	t.Cleanup(func() {
		if t.Failed() {
			lines := strings.Split(strings.TrimSpace(s.Log()), "\n")
			t.Logf("log of %v:\n%s", s, strings.Join(lines[max(0, len(lines)-40):], "\n"))
		}
		_ = s.Kill() // the test is over either way
	})
	return s
}

func (s *mortalServer) String() string { return string(s.kind) }

func (s *mortalServer) start(ctx context.Context) error {
	in, err := mta.Start(ctx, s.kind, s.config)
	if err == nil {
		s.Instance = in
	}
	return err
}

func (s *mortalServer) kill() error { return s.Kill() }

// A mortalProxy is the service as a process of its own.
type mortalProxy struct {
	binary, config string
	doors          []string // in the order of realDoors
	log            *os.File

	stdin io.Closer     // closed: die
	done  chan struct{} // closed: dead
}

// mortalConfig is a configuration with a door of each kind.
const mortalConfig = `
hostname = "proxy.test"
state_dir = %[1]q
admin.listen = ""
dns.servers = [%[2]q]
[[inbound]]
auth.enabled = false
listen = [%[3]q]
backend = %[4]q
backend_tls = "may"
tls_cert = %[5]q
tls_key = %[6]q
[[outbound]]
name = "smtp"
mx_port = %[7]d
listen = [%[8]q]
tls_cert = %[5]q
tls_key = %[6]q
allow_private_destinations = true
[[outbound]]
name = "lmtp"
protocol = "lmtp"
mx_port = %[7]d
listen = [%[9]q]
tls_cert = %[5]q
tls_key = %[6]q
allow_private_destinations = true
`

func newMortalProxy(t *testing.T, binary, backend, peer string, cert realCert) *mortalProxy {
	t.Helper()
	dir := t.TempDir()
	p := &mortalProxy{binary: binary, config: filepath.Join(dir, "slipstream.toml"), doors: realNeighbours(t, 3)}
	names := serveDomains(t, map[string]string{"b.test": peer})
	text := fmt.Sprintf(mortalConfig, dir, names.String(), p.doors[0], backend, cert.certFile, cert.keyFile, portOf(peer), p.doors[1], p.doors[2])
	if err := os.WriteFile(p.config, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	var err error
	if p.log, err = os.Create(filepath.Join(dir, "log")); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = p.kill() // the test is over either way
		_ = p.log.Close()
		if t.Failed() {
			text, _ := os.ReadFile(p.log.Name())
			lines := strings.Split(strings.TrimSpace(string(text)), "\n")
			t.Logf("log of the proxy:\n%s", strings.Join(lines[max(0, len(lines)-40):], "\n"))
		}
	})
	if err := p.start(mtatest.Context(t)); err != nil {
		t.Fatal(err)
	}
	return p
}

func (p *mortalProxy) String() string { return "proxy" }

// dieScript runs a program until it ends, or kills it when standard input ends,
// which happens also when the test is killed.
const dieScript = `exec 3<&0 </dev/null
"$@" 3<&- &
pid=$!
(cat <&3 >/dev/null; kill -KILL $pid) &
wait $pid
`

func (p *mortalProxy) start(ctx context.Context) error {
	cmd := exec.Command("/bin/sh", "-c", dieScript, "sh", p.binary, "serve", "-c", p.config)
	cmd.Stdout, cmd.Stderr = p.log, p.log
	stdin, err := cmd.StdinPipe()
	if err != nil {
		return err
	}
	if err := cmd.Start(); err != nil {
		return err
	}
	done := make(chan struct{})
	p.stdin, p.done = stdin, done
	go func() { // ends with the process
		defer close(done)
		_ = cmd.Wait() // it was killed
	}()
	for _, door := range p.doors {
		if err := p.listening(ctx, door); err != nil {
			return err
		}
	}
	return nil
}

// listening waits until a door is open.
func (p *mortalProxy) listening(ctx context.Context, door string) error {
	for {
		conn, err := new(net.Dialer).DialContext(ctx, "tcp", netip.MustParseAddrPort(door).String())
		if err == nil {
			return conn.Close()
		}
		select {
		case <-p.done:
			return fmt.Errorf("the proxy has ended by itself: %w", err)
		case <-ctx.Done():
			return err
		case <-time.After(5 * time.Millisecond):
		}
	}
}

func (p *mortalProxy) kill() error {
	err := p.stdin.Close()
	<-p.done
	return err
}

// buildBinary builds the service as it is shipped.
func buildBinary(t *testing.T) string {
	t.Helper()
	tool, err := exec.LookPath("go")
	if err != nil {
		t.Skip("no go command to build the service with: ", err)
	}
	binary := filepath.Join(t.TempDir(), "slipstream")
	if out, err := exec.Command(tool, "build", "-o", binary, "../cmd/slipstream").CombinedOutput(); err != nil {
		t.Fatalf("go build: %v\n%s", err, out)
	}
	return binary
}
