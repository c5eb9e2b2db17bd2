package tlsstore

import (
	"context"
	"crypto/tls"
	"encoding/pem"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// holdListener serves clients one after the other and reports each visit.
func holdListener(t *testing.T, d *ticketDoor) (addr string, visits <-chan ticketVisit) {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	out := make(chan ticketVisit, 8)
	done := make(chan struct{})
	go func() {
		defer close(done)
		for {
			conn, err := l.Accept()
			if err != nil {
				return
			}
			out <- d.serve(conn)
		}
	}()
	t.Cleanup(func() { l.Close(); <-done })
	return l.Addr().String(), out
}

// runPeer runs a program that is another's TLS client, and returns what it says.
func runPeer(t *testing.T, cmd *exec.Cmd, stdin string) string {
	t.Helper()
	cmd.Stdin = strings.NewReader(stdin)
	out, err := cmd.CombinedOutput()
	if err != nil {
		t.Fatalf("%v: %v\n%s", cmd.Args, err, out)
	}
	return string(out)
}

func wantVisit(t *testing.T, visits <-chan ticketVisit, resumed bool, output string) {
	t.Helper()
	select {
	case v := <-visits:
		if v.err != nil || v.resumed != resumed {
			t.Fatalf("server: %v; resumed %v, want %v\n%s", v.err, v.resumed, resumed, output)
		}
	case <-time.After(20 * time.Second):
		t.Fatalf("no one came\n%s", output)
	}
}

func TestHoldOpenSSL(t *testing.T) {
	openssl, err := exec.LookPath("openssl")
	if err != nil {
		t.Skip("no openssl here")
	}
	eachTLS(t, func(t *testing.T, version uint16) {
		for _, startTLS := range []bool{false, true} {
			for _, release := range []bool{false, true} {
				t.Run(fmt.Sprintf("STARTTLS=%v,released=%v", startTLS, release), func(t *testing.T) {
					d, _ := newTicketDoor(t, TicketOptions{}, version)
					d.startTLS, d.release = startTLS, release
					addr, visits := holdListener(t, d)
					session := filepath.Join(t.TempDir(), "session")
					ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
					defer cancel()
					for i := range 3 {
						args := []string{"s_client", "-connect", addr, "-servername", "mx.example.org", "-crlf", "-ign_eof",
							"-sess_out", session}
						if startTLS {
							args = append(args, "-starttls", "smtp")
						}
						if i > 0 {
							args = append(args, "-sess_in", session)
						}
						out := runPeer(t, exec.CommandContext(ctx, openssl, args...), "EHLO c\nQUIT\n")
						wantVisit(t, visits, i > 0, out)
						if !strings.Contains(out, "221 bye") {
							t.Errorf("the answer to QUIT did not arrive:\n%s", out)
						}
						if got := strings.Contains(out, "Reused, TLS"); got != (i > 0) {
							t.Errorf("visit %d: the client says reused: %v\n%s", i, got, out)
						}
					}
					if held := d.tickets.Stats().Held; version == tls.VersionTLS13 && held != 3 {
						t.Errorf("%d tickets were held", held)
					}
				})
			}
		}
	})
}

// gnutls-cli comes twice, the second time with the session of the first.
func TestHoldGnuTLS(t *testing.T) {
	program, env := findGnuTLS(t)
	eachTLS(t, func(t *testing.T, version uint16) {
		for _, tt := range []struct {
			startTLS, release bool
		}{{false, false}, {false, true}, {true, true}} {
			t.Run(fmt.Sprintf("STARTTLS=%v,released=%v", tt.startTLS, tt.release), func(t *testing.T) {
				d, _ := newTicketDoor(t, TicketOptions{}, version)
				d.startTLS, d.release = tt.startTLS, tt.release
				addr, visits := holdListener(t, d)
				host, port, _ := net.SplitHostPort(addr)
				ca := filepath.Join(t.TempDir(), "ca.pem")
				block := &pem.Block{Type: "CERTIFICATE", Bytes: d.config.Certificates[0].Certificate[0]}
				if err := os.WriteFile(ca, pem.EncodeToMemory(block), 0o600); err != nil {
					t.Fatal(err)
				}
				args := []string{"--resume", "--waitresumption", "--x509cafile", ca, "--verify-hostname", "mx.example.org",
					"--sni-hostname", "mx.example.org", "-p", port, host}
				if tt.startTLS {
					args = append([]string{"--starttls-proto", "smtp"}, args...)
				}
				ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
				defer cancel()
				cmd := exec.CommandContext(ctx, program, args...)
				cmd.Env = env
				out := runPeer(t, cmd, "QUIT\r\n")
				<-visits // it says no QUIT the first time
				wantVisit(t, visits, true, out)
				if !strings.Contains(out, "*** This is a resumed session") {
					t.Errorf("the client does not say that it resumed:\n%s", out)
				}
			})
		}
	})
}

// Postfix's own TLS client, which comes twice.
func TestHoldPostfix(t *testing.T) {
	tree, err := filepath.Abs(filepath.Join("..", ".peers", "postfix"))
	if err != nil {
		t.Fatal(err)
	}
	program := filepath.Join(tree, "usr", "sbin", "posttls-finger")
	if _, err := os.Stat(program); err != nil || os.Getuid() != 0 {
		t.Skip("no posttls-finger in .peers/postfix, or not root")
	}
	for release, version := range map[bool]uint16{false: tls.VersionTLS13, true: tls.VersionTLS12} {
		t.Run(fmt.Sprintf("%s,released=%v", tls.VersionName(version), release), func(t *testing.T) {
			t.Parallel()
			d, _ := newTicketDoor(t, TicketOptions{}, version)
			d.startTLS, d.release = true, release
			addr, visits := holdListener(t, d)
			_, port, _ := net.SplitHostPort(addr)
			dir := t.TempDir()
			config := "compatibility_level = 3.6\nmyhostname = client.example\nmail_owner = nobody\n" +
				"default_privs = daemon\nsetgid_group = mail\nqueue_directory = " + dir + "\n"
			if err := os.WriteFile(filepath.Join(dir, "main.cf"), []byte(config), 0o600); err != nil {
				t.Fatal(err)
			}
			ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
			defer cancel()
			cmd := exec.CommandContext(ctx, program, "-c", "-r", "1", "-m", "2", "-l", "encrypt", "[127.0.0.1]:"+port)
			cmd.Env = append(peerLibraries(t, tree), "MAIL_CONFIG="+dir)
			out := runPeer(t, cmd, "")
			wantVisit(t, visits, false, out)
			wantVisit(t, visits, true, out)
			if !strings.Contains(out, "Reusing old session") {
				t.Errorf("the client does not say that it resumed:\n%s", out)
			}
		})
	}
}

// findGnuTLS looks for gnutls-cli on this machine and in the directory that "make peers" fills.
func findGnuTLS(t *testing.T) (program string, env []string) {
	t.Helper()
	if program, err := exec.LookPath("gnutls-cli"); err == nil {
		return program, nil
	}
	tree, err := filepath.Abs(filepath.Join("..", ".peers", "gnutls"))
	if err != nil {
		t.Fatal(err)
	}
	program = filepath.Join(tree, "usr", "bin", "gnutls-cli")
	if _, err := os.Stat(program); err != nil {
		t.Skip("no gnutls-cli here, and none in .peers/gnutls")
	}
	return program, peerLibraries(t, tree)
}

// peerLibraries is an environment for the programs of a tree in .peers.
func peerLibraries(t *testing.T, tree string) []string {
	t.Helper()
	var dirs []string
	for _, pattern := range []string{"postfix", "*-linux-gnu"} {
		found, err := filepath.Glob(filepath.Join(tree, "usr", "lib", pattern))
		if err != nil {
			t.Fatal(err)
		}
		dirs = append(dirs, found...)
	}
	return append(os.Environ(), "LC_ALL=C", "LD_LIBRARY_PATH="+strings.Join(dirs, ":"))
}
