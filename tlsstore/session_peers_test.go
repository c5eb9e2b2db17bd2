package tlsstore

import (
	"bufio"
	"crypto/ecdsa"
	"crypto/tls"
	"crypto/x509"
	"encoding/pem"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"go.uber.org/goleak"
)

// opensslServer starts a server that returns what it is sent, and returns where.
func opensslServer(t *testing.T, args ...string) (addr string, roots *x509.CertPool) {
	t.Helper()
	program, err := exec.LookPath("openssl")
	if err != nil {
		t.Skip("no openssl here")
	}
	cert, roots := sessionCert(t)
	key, err := x509.MarshalECPrivateKey(cert.PrivateKey.(*ecdsa.PrivateKey))
	if err != nil {
		t.Fatal(err)
	}
	file := filepath.Join(t.TempDir(), "both.pem")
	both := pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: cert.Certificate[0]})
	both = append(both, pem.EncodeToMemory(&pem.Block{Type: "EC PRIVATE KEY", Bytes: key})...)
	if err := os.WriteFile(file, both, 0o600); err != nil {
		t.Fatal(err)
	}
	args = append([]string{"s_server", "-accept", "127.0.0.1:0", "-rev", "-cert", file, "-key", file}, args...)
	cmd := exec.Command(program, args...)
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { cmd.Process.Kill(); cmd.Wait() })
	for lines := bufio.NewScanner(out); lines.Scan(); {
		if addr, ok := strings.CutPrefix(lines.Text(), "ACCEPT "); ok {
			return strings.TrimSpace(addr), roots
		}
	}
	t.Skip("this openssl does not say where it listens")
	return "", nil
}

// OpenSSL gives two tickets in TLS 1.3, one on resumption, and none with a resumed TLS 1.2, where the old one is used
// again.
func TestSessionsWithOpenSSL(t *testing.T) {
	tests := []struct {
		name  string
		flag  string
		came  []int // sessions that each visit brings; all but the first are resumed
		stays int   // in the end
	}{
		{"TLS 1.2", "-tls1_2", []int{1, 0, 0, 0}, 1},
		{"TLS 1.3", "-tls1_3", []int{2, 1, 1, 1}, SessionsKept},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			defer goleak.VerifyNone(t)
			addr, roots := opensslServer(t, test.flag)
			w := &sessionWorld{t: t, kv: newTestKV(), roots: roots}
			for i, came := range test.came {
				later := time.Duration(i) * sessionsEvery // what came before was written
				w.store = New(w.kv, Options{Now: func() time.Time { return time.Now().Add(later) }})
				w.store.readWait = CloseWait // machines that run tests can be busy
				cache := w.store.Sessions(sessionScope)
				conn, err := net.Dial("tcp", addr)
				if err != nil {
					t.Fatal(err)
				}
				resumed, err := talk(conn, w.config(cache))
				if err != nil {
					t.Fatal(err)
				}
				if resumed != (i > 0) || cache.Stored() != came {
					t.Errorf("visit %d: resumed: %v, %d sessions came, want %d", i, resumed, cache.Stored(), came)
				}
				if i == len(test.came)-1 {
					if n := len(w.sessionsOf(sessionScope)); n != test.stays {
						t.Errorf("%d sessions stay, want %d", n, test.stays)
					}
				}
				mustClose(t, w.store)
			}
		})
	}
}

// A session that was made without a check is no help where the check is asked for, whatever scope it is in: crypto/tls
// sees to that as well.
func TestUncheckedSessionIsNotResumedWhereItMatters(t *testing.T) {
	eachVersion(t, func(t *testing.T, w *sessionWorld) {
		cache := w.store.Sessions(sessionScope)
		config := w.config(cache)
		config.InsecureSkipVerify = true
		config.VerifyConnection = func(tls.ConnectionState) error { cache.SetVerified(false); return nil }
		if _, err := w.connect(config); err != nil {
			t.Fatal(err)
		}
		if _, resumed, err := w.visit(sessionScope); resumed || err != nil {
			t.Errorf("resumed: %v, %v", resumed, err)
		}
	})
}
