package proxy

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"go.uber.org/zap"

	"slipstream/bench/refpeer"
)

// adminWorld is a proxy with one door, not started yet.
func adminWorld(t *testing.T) (*Proxy, *prometheus.Registry) {
	t.Helper()
	w := newWorld(t)
	w.serve(backendAddr, &refpeer.Server{Keywords: refpeer.Modern()})
	w.inbound()
	p := w.build()
	t.Cleanup(w.stop)
	metrics := prometheus.NewRegistry()
	NewMetrics(metrics).entered("inbound")
	return p, metrics
}

func TestAdminHandler(t *testing.T) {
	p, metrics := adminWorld(t)
	h := AdminHandler(p, metrics)
	get := func(method, path string, code int, want string) {
		t.Helper()
		w := httptest.NewRecorder()
		h.ServeHTTP(w, httptest.NewRequest(method, path, nil))
		if w.Code != code || !strings.Contains(w.Body.String(), want) {
			t.Errorf("%s %s: %d %q, want %d and %q", method, path, w.Code, w.Body.String(), code, want)
		}
	}
	get("GET", "/healthz", 200, "alive\n")
	get("GET", "/readyz", 503, "not started\n")
	get("GET", "/metrics", 200, `slipstream_connections{door="inbound"} 1`)
	get("GET", "/", 404, "")
	get("POST", "/metrics", 405, "")
	if err := p.Start(t.Context()); err != nil {
		t.Fatal(err)
	}
	get("GET", "/readyz", 200, "ready\n")
	if err := p.Shutdown(t.Context()); err != nil {
		t.Fatal(err)
	}
	get("GET", "/readyz", 503, "shutting down\n")
	get("GET", "/healthz", 200, "alive\n")
}

func TestAdminTCP(t *testing.T) {
	p, metrics := adminWorld(t)
	a, err := OpenAdmin("127.0.0.1:0", p, metrics, zap.NewNop())
	if err != nil {
		t.Fatal(err)
	}
	resp, err := http.Get("http://" + a.Addr().String() + "/healthz")
	if err != nil {
		t.Fatal(err)
	}
	body, err := io.ReadAll(resp.Body)
	_ = resp.Body.Close()
	if err != nil || string(body) != "alive\n" {
		t.Errorf("got %q, %v", body, err)
	}
	http.DefaultClient.CloseIdleConnections()
	if _, err := OpenAdmin(a.Addr().String(), p, metrics, zap.NewNop()); err == nil {
		t.Error("the same address was opened twice")
	}
	if err := a.Close(t.Context()); err != nil {
		t.Error(err)
	}
	if conn, err := net.Dial("tcp", a.Addr().String()); err == nil {
		_ = conn.Close()
		t.Error("the socket is open after Close")
	}
}

func TestAdminUnix(t *testing.T) {
	p, metrics := adminWorld(t)
	dir := t.TempDir()
	path := filepath.Join(dir, "admin.sock")
	if isAdmin(t.Context(), path) {
		t.Error("nobody is taken for an admin socket")
	}
	a, err := OpenAdmin("unix:"+path, p, metrics, zap.NewNop())
	if err != nil {
		t.Fatal(err)
	}
	info, err := os.Stat(path)
	if err != nil || info.Mode().Perm() != 0o600 || info.Mode().Type() != fs.ModeSocket {
		t.Errorf("mode %v, %v; want a socket with 0600", info.Mode(), err)
	}
	if left, err := os.ReadDir(dir); err != nil || len(left) != 1 {
		t.Errorf("beside the socket there is %v, %v", left, err)
	}
	if !isAdmin(t.Context(), path) {
		t.Error("the admin socket is not known as one")
	}
	if _, err := OpenAdmin("unix:"+path, p, metrics, zap.NewNop()); !errors.Is(err, errSocketHeld) {
		t.Errorf("a socket in use was opened: %v", err)
	}
	if err := a.Close(t.Context()); err != nil {
		t.Error(err)
	}
	if _, err := os.Lstat(path); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("after Close: %v", err)
	}
}

func TestAdminUnixReplacesOnlyDeadSockets(t *testing.T) {
	p, metrics := adminWorld(t)
	path := filepath.Join(t.TempDir(), "admin.sock")
	dead, err := net.ListenUnix("unix", &net.UnixAddr{Name: path, Net: "unix"})
	if err != nil {
		t.Fatal(err)
	}
	dead.SetUnlinkOnClose(false)
	if err := dead.Close(); err != nil {
		t.Fatal(err)
	}
	a, err := OpenAdmin("unix:"+path, p, metrics, zap.NewNop())
	if err != nil {
		t.Fatalf("a dead socket stood in the way: %v", err)
	}
	if err := a.Close(t.Context()); err != nil {
		t.Error(err)
	}
	if err := os.WriteFile(path, []byte("precious"), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := OpenAdmin("unix:"+path, p, metrics, zap.NewNop()); err == nil {
		t.Error("a file was replaced by a socket")
	}
	if data, err := os.ReadFile(path); err != nil || string(data) != "precious" {
		t.Errorf("the file holds %q, %v", data, err)
	}
}

// Close gives up on an answer that takes too long, and leaves nothing running;
// TestMain looks for goroutines.
func TestAdminCloseCutsWhatHangs(t *testing.T) {
	p, metrics := adminWorld(t)
	a, err := OpenAdmin("127.0.0.1:0", p, metrics, zap.NewNop())
	if err != nil {
		t.Fatal(err)
	}
	conn, err := net.Dial("tcp", a.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	p.mu.Lock() // a request for readiness hangs on this
	_, _ = fmt.Fprint(conn, "GET /healthz HTTP/1.1\r\nHost: x\r\n\r\n")
	time.AfterFunc(50*time.Millisecond, p.mu.Unlock)
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if err := a.Close(ctx); err != nil && !errors.Is(err, context.Canceled) {
		t.Errorf("Close: %v", err)
	}
}
