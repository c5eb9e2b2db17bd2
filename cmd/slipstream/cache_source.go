package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"syscall"

	"slipstream/proxy"
	"slipstream/tlsstore"
	"slipstream/tlsstore/badgerkv"
)

// A cacheSource is where a command finds what is remembered.
type cacheSource interface {
	each(peer string, f func(cacheEntry) bool) error // until f returns false; peer "" is everybody
	drop(peer string) (int, error)                   // peer "" is everybody
	Close() error
}

// openCache asks the service where it runs, and else opens its store.
func openCache(config string) (cacheSource, error) {
	cfg, err := proxy.LoadConfig(config)
	if err != nil {
		return nil, &exitError{exitConfig, err}
	}
	path := controlPath(cfg)
	if tooLong := proxy.SocketName(path); tooLong != nil {
		source, err := openStored(cfg) // nobody can listen there
		if err != nil {
			err = fmt.Errorf("%w; so a service that runs cannot be asked: change state_dir (%w)", tooLong, err)
		}
		return source, err
	}
	conn, err := net.DialTimeout("unix", path, controlDial)
	switch {
	case err == nil:
		_ = conn.Close()
		return newServiceCache(path), nil
	case errors.Is(err, os.ErrNotExist), errors.Is(err, syscall.ECONNREFUSED), errors.Is(err, syscall.ENOTDIR):
		return openStored(cfg) // nobody listens
	case errors.Is(err, os.ErrPermission):
		return nil, fmt.Errorf("%w; run this as the user that the service runs as", err)
	}
	return nil, err
}

// A serviceCache speaks to a service that runs.
type serviceCache struct {
	client *http.Client
	socket string
}

func newServiceCache(socket string) *serviceCache {
	return &serviceCache{socket: socket, client: &http.Client{
		Timeout: controlTime + controlGrace,
		Transport: &http.Transport{
			DisableKeepAlives: true, // nothing stays behind
			DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
				dialer := net.Dialer{Timeout: controlDial}
				return dialer.DialContext(ctx, "unix", socket)
			},
		},
	}}
}

// ask sends a request; the caller closes the body of the answer.
func (s *serviceCache) ask(method string, query url.Values) (*http.Response, error) {
	to := url.URL{Scheme: "http", Host: "slipstream", Path: cachePath, RawQuery: query.Encode()}
	request, err := http.NewRequest(method, to.String(), nil)
	if err != nil {
		return nil, err
	}
	answer, err := s.client.Do(request)
	if err != nil {
		return nil, s.broken(err)
	}
	if answer.StatusCode != http.StatusOK {
		defer answer.Body.Close()
		const most = 1 << 10
		text, _ := io.ReadAll(io.LimitReader(answer.Body, most)) // whatever there is
		return nil, fmt.Errorf("the service says: %s: %s", answer.Status, strings.TrimSpace(string(text)))
	}
	return answer, nil
}

func (s *serviceCache) broken(err error) error {
	return fmt.Errorf("the service broke off at %s, its log may say why: %w", s.socket, err)
}

func (s *serviceCache) each(peer string, f func(cacheEntry) bool) error {
	query := url.Values{}
	if peer != "" {
		query.Set("peer", peer)
	}
	answer, err := s.ask(http.MethodGet, query)
	if err != nil {
		return err
	}
	defer answer.Body.Close()
	for lines := json.NewDecoder(answer.Body); ; {
		var e cacheEntry
		if err := lines.Decode(&e); errors.Is(err, io.EOF) {
			return nil
		} else if err != nil {
			return s.broken(err)
		}
		if !f(e) {
			return nil
		}
	}
}

func (s *serviceCache) drop(peer string) (int, error) {
	query := url.Values{"peer": {peer}}
	if peer == "" {
		query = url.Values{"all": {"true"}}
	}
	answer, err := s.ask(http.MethodDelete, query)
	if err != nil {
		return 0, err
	}
	defer answer.Body.Close()
	var d dropped
	if err := json.NewDecoder(answer.Body).Decode(&d); err != nil {
		return 0, s.broken(err)
	}
	return d.Dropped, nil
}

func (s *serviceCache) Close() error { return nil }

// A storedCache is the store of a service that does not run.
type storedCache struct{ remembered }

// openStored opens what is there, and makes nothing.
func openStored(cfg *proxy.Config) (cacheSource, error) {
	dir := filepath.Join(cfg.StateDir, storeName)
	if !cfg.Store.Enabled {
		return nil, fmt.Errorf("the store is switched off (store.enabled = false), so nothing is remembered; "+
			"what is at %s from before, if anything, may be removed", dir)
	}
	info, err := os.Stat(dir)
	switch {
	case errors.Is(err, os.ErrNotExist):
		return nil, fmt.Errorf("there is no store at %s: "+
			"either the service has not run yet, or its state_dir is another", dir)
	case errors.Is(err, syscall.ENOTDIR):
		return nil, fmt.Errorf("state_dir %s is not a directory: remove it, or change state_dir", cfg.StateDir)
	case err != nil:
		return nil, fmt.Errorf("%w; run this as the user that the service runs as", err)
	}
	if uid, known := ownerOf(info); known && uid != os.Geteuid() {
		// What root makes in there, the service could not open.
		return nil, fmt.Errorf("the service does not run, and its store %s belongs to %s: run this as that user, "+
			"or start the service", dir, badgerkv.Account(uid))
	}
	if _, err := os.Stat(storeKey(cfg)); err != nil {
		return nil, fmt.Errorf("the store cannot be read without its key: %w; "+
			"where systemd keeps it, start the service", err)
	}
	key, err := badgerkv.ReadKey(storeKey(cfg))
	if err != nil {
		return nil, err
	}
	kv, err := badgerkv.Open(badgerkv.Options{Dir: dir, Key: key, MaxSize: int64(cfg.Store.MaxSize)})
	if err != nil {
		return nil, openAdvice(dir, err)
	}
	return &storedCache{(&memory{Store: tlsstore.New(kv, tlsstore.Options{}), kv: kv}).remembered()}, nil
}

// openAdvice says what to do about a store that cannot be opened.
func openAdvice(dir string, err error) error {
	doing := "see to that, and try again"
	switch {
	case errors.Is(err, badgerkv.ErrLocked):
		doing = "a service uses it and has no control socket, its log says why; or another of these commands is at work"
	case errors.Is(err, badgerkv.ErrKey):
		doing = "put the key back that was there before, or start the service, which begins a new store"
	case errors.Is(err, badgerkv.ErrCorrupt):
		doing = "start the service, which begins a new store"
	case errors.Is(err, badgerkv.ErrFull):
		doing = fmt.Sprintf("make room: %d MiB must be free", badgerkv.Reserve>>20)
	case errors.Is(err, badgerkv.ErrReadOnly):
		doing = "run this as the user that the service runs as, where it can write"
	case errors.Is(err, badgerkv.ErrDenied), errors.Is(err, badgerkv.ErrForeign):
		doing = badgerkv.Advice(dir, err)
	}
	return fmt.Errorf("the store %s cannot be opened: %w: %s", dir, err, doing)
}

func (s *storedCache) each(peer string, f func(cacheEntry) bool) error {
	return s.list(peer, func(e tlsstore.Entry) bool { return f(newCacheEntry(e)) })
}

func (s *storedCache) Close() error { return s.store.Close() }
