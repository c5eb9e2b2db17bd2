package tlsstore

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"io"
	"math/big"
	"net"
	"testing"
	"testing/synctest"
	"time"

	"slipstream/bench/netsim"
)

// sessionHost is whom the sessions of these tests are with.
const sessionHost = "mx.example.net"

var sessionScope = Scope{Host: sessionHost, Addr: testAddr, ServerName: sessionHost, Level: "verify"}

// sessionCert is a certificate for sessionHost that is valid in virtual time too.
func sessionCert(t testing.TB) (tls.Certificate, *x509.CertPool) {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{
		SerialNumber:          big.NewInt(1),
		Subject:               pkix.Name{CommonName: sessionHost},
		DNSNames:              []string{sessionHost},
		NotBefore:             time.Date(1999, 1, 1, 0, 0, 0, 0, time.UTC),
		NotAfter:              time.Date(2099, 1, 1, 0, 0, 0, 0, time.UTC),
		IsCA:                  true,
		BasicConstraintsValid: true,
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	if err != nil {
		t.Fatal(err)
	}
	leaf, err := x509.ParseCertificate(der)
	if err != nil {
		t.Fatal(err)
	}
	pool := x509.NewCertPool()
	pool.AddCert(leaf)
	return tls.Certificate{Certificate: [][]byte{der}, PrivateKey: key}, pool
}

// A sessionWorld is a TLS server, and a KV that outlives the stores over it.
type sessionWorld struct {
	t       testing.TB
	kv      *testKV
	store   *Store
	server  *tls.Config
	roots   *x509.CertPool
	version uint16
}

// eachVersion runs a test with TLS 1.2 and with TLS 1.3, in virtual time.
func eachVersion(t *testing.T, f func(t *testing.T, w *sessionWorld)) {
	for _, version := range []uint16{tls.VersionTLS12, tls.VersionTLS13} {
		t.Run(tls.VersionName(version), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				cert, roots := sessionCert(t)
				w := &sessionWorld{t: t, kv: newTestKV(), roots: roots, version: version}
				w.server = &tls.Config{Certificates: []tls.Certificate{cert}, MaxVersion: version}
				w.server.SetSessionTicketKeys([][32]byte{{1}})
				w.store = New(w.kv, Options{})
				defer func() { mustClose(t, w.store) }()
				f(t, w)
			})
		})
	}
}

// restart ends the store and begins another one over what it has written.
func (w *sessionWorld) restart() {
	if err := w.store.Close(); err != nil {
		w.t.Errorf("Close: %v", err)
	}
	w.store = New(w.kv, Options{})
}

// config is what a caller that keeps to the rules gives to crypto/tls.
func (w *sessionWorld) config(cache *SessionCache) *tls.Config {
	return &tls.Config{
		ServerName: sessionHost, RootCAs: w.roots, ClientSessionCache: cache,
		VerifyConnection: func(state tls.ConnectionState) error {
			cache.SetResumed(state.DidResume)
			cache.SetVerified(true)
			return nil
		},
	}
}

// visit makes a connection in a scope, and reports whether it was resumed.
func (w *sessionWorld) visit(sc Scope) (cache *SessionCache, resumed bool, err error) {
	cache = w.store.Sessions(sc)
	resumed, err = w.connect(w.config(cache))
	return cache, resumed, err
}

// mustVisit is visit where the outcome is clear.
func (w *sessionWorld) mustVisit(sc Scope, resumed bool) *SessionCache {
	w.t.Helper()
	cache, did, err := w.visit(sc)
	switch {
	case err != nil:
		w.t.Fatal(err)
	case did != resumed:
		w.t.Errorf("resumed: %v, want %v", did, resumed)
	case cache.Offered() != resumed:
		w.t.Errorf("offered: %v, want %v", cache.Offered(), resumed)
	case cache.Stored() != 1:
		w.t.Errorf("%d sessions came, want 1", cache.Stored())
	}
	return cache
}

// connect makes a connection, and reads something: that is when the tickets of TLS 1.3 are seen.
func (w *sessionWorld) connect(config *tls.Config) (resumed bool, err error) {
	a, b := netsim.Pair(netsim.Link{Delay: time.Millisecond})
	defer a.Close()
	over := make(chan struct{})
	go func() {
		defer close(over)
		defer b.Close()
		server := tls.Server(b, w.server)
		if server.Handshake() == nil {
			_, _ = io.WriteString(server, "220 hello\r\n")
			_, _ = io.Copy(io.Discard, server)
		}
	}()
	defer func() { <-over }()
	defer a.Close()
	return talk(a, config)
}

// talk is a client that says something, hears something and leaves.
func talk(conn net.Conn, config *tls.Config) (resumed bool, err error) {
	client := tls.Client(conn, config)
	if err := client.Handshake(); err != nil {
		return false, err
	}
	if _, err := io.WriteString(client, "hello\r\n"); err != nil {
		return false, err
	}
	if _, err := client.Read(make([]byte, 64)); err != nil {
		return false, err
	}
	return client.ConnectionState().DidResume, client.Close()
}

// sessionsOf returns what the store has of a scope.
func (w *sessionWorld) sessionsOf(sc Scope) []session {
	value := w.store.get(sc.key())
	if value == nil {
		return nil
	}
	r, ok := decodeSessions(bodyOf(value))
	if !ok {
		w.t.Fatal("the record is broken")
	}
	return r.sessions
}

// keep puts sessions in the place of those that the store has of a scope.
func (w *sessionWorld) keep(sc Scope, sessions ...session) {
	key := sc.key()
	w.store.set(key, encodeSessions(key, sc, sessions, w.store.now()))
}
