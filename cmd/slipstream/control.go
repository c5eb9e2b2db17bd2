package main

import (
	"context"
	"encoding/json"
	"errors"
	"net/http"
	"net/netip"
	"path/filepath"
	"strings"
	"time"

	"go.uber.org/zap"
	"golang.org/x/net/netutil"

	"slipstream/proxy"
	"slipstream/tlsstore"
)

// Bounds of the control socket. Who may connect to it is us, but may be broken.
const (
	controlConnections = 4
	controlHeader      = 8 << 10 // octets
	controlReadTime    = 5 * time.Second
	controlTime        = 2 * time.Minute // for one answer: a large store takes a while to go through
	controlDial        = time.Second
	controlGrace       = 2 * time.Second // for answers under way at the end
)

const (
	controlName = "control.sock" // in the state directory
	cachePath   = "/cache"
)

func controlPath(cfg *proxy.Config) string { return filepath.Join(cfg.StateDir, controlName) }

// A control obeys the user that the service runs as, over HTTP on a socket that is closed to all others:
//
//	GET /cache[?peer=PEER]     what is remembered, a cacheEntry as JSON on each line
//	DELETE /cache?peer=PEER    forgets a peer, and says {"dropped":n}
//	DELETE /cache?all=true     forgets everyone
type control struct {
	log  *zap.Logger
	srv  *http.Server
	done chan struct{}
}

// openControl opens the control socket, and serves until Close. Without a store, or where the socket cannot be made,
// there is none, and nil is good for Close, too.
func openControl(cfg *proxy.Config, mem *memory, log *zap.Logger) *control {
	if mem.Store == nil {
		return nil
	}
	path := controlPath(cfg)
	ln, err := proxy.ListenPrivate(path)
	if err != nil {
		log.Warn("there is no control socket, so what is remembered cannot be looked at while the service runs",
			zap.String("socket", path), zap.Error(err))
		return nil
	}
	c := &control{log: log, done: make(chan struct{}), srv: &http.Server{
		Handler:           cacheHandler(mem.remembered()),
		ErrorLog:          zap.NewStdLog(zap.NewNop()), // there is nobody but us to make mistakes
		ReadHeaderTimeout: controlReadTime,
		ReadTimeout:       controlTime, // ends the context of a request even when all of that was read
		WriteTimeout:      controlTime,
		IdleTimeout:       controlReadTime,
		MaxHeaderBytes:    controlHeader,
	}}
	go func() { // ends with Close
		defer close(c.done)
		err := c.srv.Serve(netutil.LimitListener(ln, controlConnections))
		if !errors.Is(err, http.ErrServerClosed) {
			log.Error("the control socket failed", zap.Error(err))
		}
	}()
	return c
}

// Close removes the socket and lets answers under way finish for controlGrace.
func (c *control) Close() {
	if c == nil {
		return
	}
	ctx, cancel := context.WithTimeout(context.Background(), controlGrace)
	defer cancel()
	if err := c.srv.Shutdown(ctx); err != nil {
		_ = c.srv.Close() // cuts what Shutdown has given up on
		c.log.Warn("the control socket did not close in order", zap.Error(err))
	}
	<-c.done
}

// A cacheEntry is a tlsstore.Entry as it is told to others.
type cacheEntry struct {
	Kind    string         `json:"kind"`
	Peer    string         `json:"peer"`
	Host    string         `json:"host,omitempty"`
	Addr    netip.AddrPort `json:"addr,omitzero"`    // of a hop
	Network netip.Prefix   `json:"network,omitzero"` // of clients
	Written time.Time      `json:"written"`
	Expires time.Time      `json:"expires"`
	Octets  int            `json:"octets"`
	Fields  []cacheField   `json:"fields"` // in order; a name may come more than once
}

type cacheField struct {
	Name  string `json:"name"`
	Value string `json:"value"`
}

func newCacheEntry(e tlsstore.Entry) cacheEntry {
	c := cacheEntry{Kind: e.Kind, Peer: e.Peer(), Host: e.Host, Addr: e.Addr, Network: e.Network,
		Written: e.Written.UTC(), Expires: e.Expires.UTC(), Octets: e.Octets, Fields: make([]cacheField, len(e.Fields))}
	for i, f := range e.Fields {
		c.Fields[i] = cacheField(f)
	}
	return c
}

// dropped answers a DELETE.
type dropped struct {
	Dropped int `json:"dropped"`
}

// namesPeer tells whether a name stands for somebody: of none, and of the root of the DNS, the store would forget all.
func namesPeer(name string) bool { return strings.Trim(name, ". \t") != "" }

func cacheHandler(known remembered) http.Handler {
	mux := http.NewServeMux()
	mux.HandleFunc("GET "+cachePath, func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Content-Type", "application/jsonl; charset=utf-8")
		lines, begun := json.NewEncoder(w), false
		var failed error
		err := known.list(r.URL.Query().Get("peer"), func(e tlsstore.Entry) bool {
			begun = true
			failed = errors.Join(r.Context().Err(), lines.Encode(newCacheEntry(e)))
			return failed == nil
		})
		switch {
		case failed != nil, err != nil && begun:
			panic(http.ErrAbortHandler) // so that half of a list is not taken for the whole
		case err != nil:
			http.Error(w, err.Error(), http.StatusInternalServerError)
		}
	})
	mux.HandleFunc("DELETE "+cachePath, func(w http.ResponseWriter, r *http.Request) {
		query := r.URL.Query()
		peer, all := query.Get("peer"), query.Get("all") == "true"
		if all == namesPeer(peer) {
			http.Error(w, "which peer is to be forgotten? peer=PEER or all=true", http.StatusBadRequest)
			return
		}
		if all {
			peer = ""
		}
		n, err := known.drop(peer)
		if err != nil {
			http.Error(w, err.Error(), http.StatusInternalServerError)
			return
		}
		w.Header().Set("Content-Type", "application/json")
		_ = json.NewEncoder(w).Encode(dropped{n}) // who asked may have left
	})
	return mux
}
