package main

import (
	"context"
	"errors"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"strings"
	"testing"

	"slipstream/proxy"
	"slipstream/tlsstore"
)

func TestControl(t *testing.T) {
	cfg := memoryConfig(t)
	mem, ctl, logs := openBoth(t, cfg)
	defer mem.Close()
	path := controlPath(cfg)
	ask := newServiceCache(path).client
	learnSome(mem.Store)
	learnClient(mem.Shy)
	for _, test := range []struct {
		method, target string
		code           int
		want           string
	}{
		{"GET", "/cache?peer=192.0.2.7", 200, `"value":"no-early"`},
		{"GET", "/cache?peer=nobody.example", 200, ""},
		{"DELETE", "/cache", 400, "which peer"},
		{"DELETE", "/cache?peer=", 400, "which peer"},
		{"DELETE", "/cache?peer=.", 400, "which peer"},
		{"DELETE", "/cache?peer=192.0.2.7&all=true", 400, "which peer"},
		{"DELETE", "/cache?all=1", 400, "which peer"},
		{"POST", "/cache", 405, ""},
		{"GET", "/", 404, ""},
		{"GET", "/cache?peer=" + strings.Repeat("x", 2*controlHeader), 431, ""},
		{"GET", "/cache?peer=203.0.113.99", 200, `"network":"203.0.113.0/24"`},
		{"GET", "/cache?peer=mta2.out.example.com", 200, `"peer":"out.example.com","host":"out.example.com","written":`},
		{"DELETE", "/cache?peer=203.0.113.99", 200, `{"dropped":1}`},
		{"DELETE", "/cache?peer=203.0.113.99", 200, `{"dropped":0}`},
		{"DELETE", "/cache?peer=192.0.2.7:25", 200, `{"dropped":2}`},
		{"DELETE", "/cache?peer=192.0.2.7:25", 200, `{"dropped":0}`},
		{"DELETE", "/cache?all=true", 200, `{"dropped":3}`},
		{"GET", "/cache", 200, ""},
	} {
		request, err := http.NewRequest(test.method, "http://slipstream"+test.target, nil)
		if err != nil {
			t.Fatal(err)
		}
		answer, err := ask.Do(request)
		if err != nil {
			t.Errorf("%s %.60s: %v", test.method, test.target, err)
			continue
		}
		text, err := io.ReadAll(answer.Body)
		_ = answer.Body.Close()
		if answer.StatusCode == http.StatusRequestHeaderFieldsTooLarge {
			err = nil // nobody waits until all of it is sent
		}
		if err != nil || answer.StatusCode != test.code || !strings.Contains(string(text), test.want) {
			t.Errorf("%s %.60s: %s %q, %v; want %d %q", test.method, test.target, answer.Status, text, err, test.code, test.want)
		}
	}
	if mem.Shy.Len() != 0 {
		t.Error("clients were not forgotten")
	}
	ctl.Close()
	if _, err := os.Lstat(path); !os.IsNotExist(err) {
		t.Errorf("the socket is left: %v", err)
	}
	if text := logs.String(); text != "" {
		t.Errorf("there was nothing to say:\n%s", text)
	}
}

// TestControlSocketLeftBehind replaces the socket of a dead process, and leaves that of one that lives.
func TestControlSocketLeftBehind(t *testing.T) {
	cfg := memoryConfig(t)
	if err := os.MkdirAll(cfg.StateDir, 0o700); err != nil {
		t.Fatal(err)
	}
	path := controlPath(cfg)
	dead, err := net.ListenUnix("unix", &net.UnixAddr{Name: path, Net: "unix"})
	if err != nil {
		t.Fatal(err)
	}
	dead.SetUnlinkOnClose(false)
	_ = dead.Close()
	first, err := proxy.ListenPrivate(path)
	if err != nil {
		t.Fatalf("over the socket of a dead process: %v", err)
	}
	if info, err := os.Lstat(path); err != nil || info.Mode() != os.ModeSocket|0o600 {
		t.Errorf("the socket is %v, %v", info.Mode(), err)
	}
	if ln, err := proxy.ListenPrivate(path); err == nil {
		_ = ln.Close()
		t.Error("the socket of a process that lives was replaced")
	}
	// Whoever lost the name does not take it from the one who has it.
	if err := os.Remove(path); err != nil {
		t.Fatal(err)
	}
	second, err := proxy.ListenPrivate(path)
	if err != nil {
		t.Fatal(err)
	}
	_ = first.Close()
	if _, err := os.Lstat(path); err != nil {
		t.Errorf("closing the first removed the second: %v", err)
	}
	_ = second.Close()
	if entries, err := os.ReadDir(cfg.StateDir); err != nil || len(entries) != 0 {
		t.Errorf("left behind: %v, %v", entries, err)
	}
}

// A brokenKV cannot be gone through.
type brokenKV struct{ tlsstore.KV }

func (brokenKV) Iterate([]byte, func(key, value []byte) bool) error {
	return errors.New("the disk is gone")
}

// TestCacheHalfAList has a list that is not whole end in a way that nobody takes for its end.
func TestCacheHalfAList(t *testing.T) {
	get := func(ctx context.Context, store *tlsstore.Store, kv tlsstore.KV) (code int, thrown any) {
		defer func() { thrown = recover() }()
		w := httptest.NewRecorder()
		all := remembered{store, tlsstore.NewShy(tlsstore.ShyOptions{}), kv}
		cacheHandler(all).ServeHTTP(w, httptest.NewRequestWithContext(ctx, http.MethodGet, cachePath, nil))
		return w.Code, nil
	}
	brokenKV, wholeKV := brokenKV{tlsstore.Memory()}, tlsstore.Memory()
	broken, whole := tlsstore.New(brokenKV, tlsstore.Options{}), tlsstore.New(wholeKV, tlsstore.Options{})
	defer broken.Close()
	defer whole.Close()
	if code, thrown := get(t.Context(), broken, brokenKV); code != http.StatusInternalServerError || thrown != nil {
		t.Errorf("nothing read: %d, %v", code, thrown)
	}
	learnSome(broken)
	if _, thrown := get(t.Context(), broken, brokenKV); thrown != http.ErrAbortHandler {
		t.Errorf("not all read: %v", thrown)
	}
	learnSome(whole)
	if code, thrown := get(t.Context(), whole, wholeKV); code != http.StatusOK || thrown != nil {
		t.Errorf("all read: %d, %v", code, thrown)
	}
	if _, thrown := get(t.Context(), whole, brokenKV); thrown != http.ErrAbortHandler {
		t.Errorf("no clients read: %v", thrown)
	}
	gone, cancel := context.WithCancel(t.Context())
	cancel()
	if _, thrown := get(gone, whole, wholeKV); thrown != http.ErrAbortHandler {
		t.Errorf("no time left: %v", thrown)
	}
}
