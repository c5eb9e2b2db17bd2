package main

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"syscall"
	"testing"
	"time"

	"slipstream/bench/mta"
	"slipstream/bench/mta/mtatest"
	"slipstream/bench/refpeer"
)

// A life is one run of the service as a process of its own.
type life struct {
	t   *testing.T
	cmd *exec.Cmd
	log bytes.Buffer
}

// live starts the service, and waits until it is ready at an address.
func live(ctx context.Context, t *testing.T, config, at string) *life {
	t.Helper()
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	l := &life{t: t, cmd: exec.CommandContext(ctx, self)}
	l.cmd.Args = []string{"slipstream", "serve", "-c", config}
	l.cmd.Stderr = &l.log
	if err := l.cmd.Start(); err != nil {
		t.Fatal(err)
	}
	for ctx.Err() == nil {
		conn, err := net.Dial("tcp", at)
		if err == nil {
			_ = conn.Close() // somebody is there
			return l
		}
		time.Sleep(10 * time.Millisecond)
	}
	t.Fatalf("the service does not come up\n%s", l.log.String())
	return nil
}

// end ends it in order and returns its log.
func (l *life) end() string {
	l.t.Helper()
	_ = l.cmd.Process.Signal(syscall.SIGTERM) // Wait tells whether it had ended before
	if err := l.cmd.Wait(); err != nil {
		l.t.Fatalf("%v\n%s", err, l.log.String())
	}
	return l.log.String()
}

// resumptions finds the bits in the log, of one message after the other.
func resumptions(log, field string) []string {
	var all []string
	for _, m := range regexp.MustCompile(`(?m)^.* `+field+`=(\S*) .*$`).FindAllStringSubmatch(log, -1) {
		all = append(all, m[1])
	}
	return all
}

// TLS sessions with real servers are resumed by the next process, too.
func TestResumesRealServersAfterRestart(t *testing.T) {
	old := map[mta.Kind][]string{
		mta.Exim:    {"tls_resumption_hosts = *", "tls_require_ciphers = NORMAL:-VERS-TLS1.3"},
		mta.Postfix: {"smtpd_tls_protocols = !TLSv1.3"},
	}
	today := map[mta.Kind][]string{mta.Exim: {"tls_resumption_hosts = *"}, mta.Postfix: nil}
	for _, kind := range mta.Kinds() {
		for version, extra := range map[string][]string{"TLS 1.2": old[kind], "TLS 1.3": today[kind]} {
			t.Run(fmt.Sprintf("%s/%s", kind, version), func(t *testing.T) {
				t.Parallel()
				cert, key, err := mta.SelfSigned("mx.peer.test")
				if err != nil {
					t.Fatal(err)
				}
				peer := mtatest.Start(t, kind, mta.Config{Hostname: "mx.peer.test", Local: []string{"peer.test"}, Cert: cert, Key: key, Extra: extra})
				dir, at, admin := t.TempDir(), spareAddr(t), spareAddr(t)
				config := writeConfig(t, dir, admin, "[[outbound]]\nlisten = [%q]\nrelay = %q\ntls = \"encrypt\"\npool_idle = \"0s\"\n", at, peer.Addr())
				// At its start each process asks the relay what it offers, then sends a message: that is two connections, of
				// which the first of the first process alone has nothing to resume.
				for _, resumed := range []int{1, 2} {
					ctx := mtatest.Context(t)
					l := live(ctx, t, config, at)
					sendMail(ctx, t, at, refpeer.Client{Style: refpeer.LockStep}, "you@peer.test")
					if err := awaitMetric(ctx, admin, `slipstream_tls_sessions_total{door="outbound",leg="hop",what="resumed"}`, resumed); err != nil {
						t.Errorf("%v\n%s", err, peer.Log())
					}
					if log := l.end(); !strings.Contains(log, `tls="`+version) {
						t.Errorf("not %s:\n%s", version, log)
					}
				}
			})
		}
	}
}

// awaitMetric waits until a counter has a value.
func awaitMetric(ctx context.Context, admin, name string, want int) error {
	var text []byte
	for ctx.Err() == nil {
		r, err := http.Get("http://" + admin + "/metrics")
		if err != nil {
			return err
		}
		text, err = io.ReadAll(r.Body)
		_ = r.Body.Close() // it was read
		if err != nil {
			return err
		}
		if strings.Contains(string(text), fmt.Sprintf("\n%s %d\n", name, want)) {
			return nil
		}
		time.Sleep(10 * time.Millisecond)
	}
	return fmt.Errorf("%s is not %d:\n%s", name, want, regexp.MustCompile(`(?m)^slipstream_tls_sessions.*$`).FindAllString(string(text), -1))
}

// Real clients resume their sessions with us.
func TestRealClientsResume(t *testing.T) {
	client := map[mta.Kind]mta.Config{
		mta.Exim:    {ExtraClient: []string{"tls_resumption_hosts = *"}},
		mta.Postfix: {Extra: []string{"smtp_tls_session_cache_database = btree:$data_directory/smtp_scache"}}, // tlsmgr's
	}
	for _, kind := range mta.Kinds() {
		t.Run(string(kind), func(t *testing.T) {
			t.Parallel()
			cert, key, err := mta.SelfSigned("proxy.example")
			if err != nil {
				t.Fatal(err)
			}
			backend := &refpeer.Server{Keywords: refpeer.Modern()}
			ln, err := net.Listen("tcp", "127.0.0.1:0")
			if err != nil {
				t.Fatal(err)
			}
			backend.Start(ln)
			t.Cleanup(backend.Close)
			dir, at := t.TempDir(), spareAddr(t)
			for name, text := range map[string][]byte{"cert.pem": cert, "key.pem": key} {
				if err := os.WriteFile(filepath.Join(dir, name), text, 0o600); err != nil {
					t.Fatal(err)
				}
			}
			config := writeConfig(t, dir, "", "[[inbound]]\nauth.enabled = false\nlisten = [%q]\nbackend = %q\nbackend_trusts_us = true\n"+
				"tls_cert = \"cert.pem\"\ntls_key = \"key.pem\"\n", at, ln.Addr())
			ctx := mtatest.Context(t)
			l := live(ctx, t, config, at)
			c := client[kind]
			c.Via, c.ClientTLS = at, mta.TLSEncrypt
			sender := mtatest.Start(t, kind, c)
			for n := range 3 { // one after the other
				if err := sender.Submit(ctx, "me@exim.test", []string{fmt.Sprintf("you%d@peer.test", n)}, []byte("Subject: hello\n\nhello\n")); err != nil {
					t.Fatal(err)
				}
				if _, err := backend.WaitMessages(ctx, n+1); err != nil {
					t.Fatalf("%v\n%s", err, sender.Log())
				}
			}
			log := l.end()
			bits := resumptions(log, "client_tls_session")
			if n := len(bits); n != 3 || len(bits[2]) != 4 || bits[2][2] != '1' {
				t.Errorf("bits %q, want the last message on a resumed session\n%s\n%s", bits, log, sender.Log())
			}
		})
	}
}

// writeConfig writes a configuration with doors.
func writeConfig(t *testing.T, dir, admin, doors string, args ...any) string {
	t.Helper()
	path := filepath.Join(dir, "slipstream.toml")
	text := fmt.Sprintf("hostname = \"proxy.example\"\nstate_dir = \"state\"\nadmin.listen = %q\n"+doors, append([]any{admin}, args...)...)
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

// spareAddr is an address that nobody listens at.
func spareAddr(t *testing.T) string {
	t.Helper()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer ln.Close()
	return ln.Addr().String()
}

func sendMail(ctx context.Context, t *testing.T, at string, c refpeer.Client, to string) {
	t.Helper()
	conn, err := net.Dial("tcp", at)
	if err != nil {
		t.Fatal(err)
	}
	c.Conn = conn
	r, err := c.Send(ctx, refpeer.Mail{From: "me@client.example", To: []string{to}, Body: []byte("Subject: hello\r\n\r\nhello\r\n")})
	if err != nil || !r.OK() {
		t.Fatalf("not sent: %v, %+v", err, r.Log)
	}
	if err := c.Quit(ctx); err != nil {
		t.Error(err)
	}
}
