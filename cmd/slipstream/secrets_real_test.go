package main

import (
	"bytes"
	"crypto/tls"
	"crypto/x509"
	"encoding/hex"
	"fmt"
	"io"
	"io/fs"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"sync"
	"testing"
	"time"

	"go.uber.org/zap"

	"slipstream/proxy"
	"slipstream/tlsstore"
)

const (
	secretSessions = 1000
	secretRun      = 16 // octets of a secret that may not stand in any file
)

// After a thousand sessions with a real server no file of the state directory shows any of their tickets or secrets,
// nor a part of one.
func TestSecretsStaySecret(t *testing.T) {
	cfg := memoryConfig(t)
	mem, err := openMemory(cfg, zap.NewNop())
	if err != nil {
		t.Fatal(err)
	}
	seen := meetServer(t, mem.Store)
	if n := len(seen.secrets); n != 2*secretSessions {
		t.Fatalf("%d tickets and secrets are known, want %d", n, 2*secretSessions)
	}
	search := newSecretSearch(seen.secrets)
	search.wantNothing(t, cfg.StateDir, "while open")
	if lost := mem.Store.Stats().Lost; lost != 0 {
		t.Errorf("%d records were lost", lost)
	}
	mem.Close()
	search.wantNothing(t, cfg.StateDir, "when closed")

	mem, err = openMemory(cfg, zap.NewNop()) // as after a restart
	if err != nil {
		t.Fatal(err)
	}
	wantSessions(t, mem.Store, secretSessions/2)
	mem.Close()
	search.wantNothing(t, cfg.StateDir, "after a restart")
	wantPrivate(t, cfg)
	search.wantPlanted(t, cfg.StateDir, seen.secrets)
}

// A secretList is what sessions consist of that nobody else may know.
type secretList struct {
	mu      sync.Mutex
	secrets [][]byte
	log     bytes.Buffer // of TLS 1.2 and its master secrets
}

func (l *secretList) Write(line []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.log.Write(line)
}

// A watchedCache notes what is put into the store.
type watchedCache struct {
	*tlsstore.SessionCache
	list *secretList
	fail func(error)
}

func (c watchedCache) Put(key string, cs *tls.ClientSessionState) {
	c.SessionCache.Put(key, cs)
	if cs == nil {
		c.fail(fmt.Errorf("a session was refused"))
		return
	}
	ticket, state, err := cs.ResumptionState()
	if err != nil {
		c.fail(err)
		return
	}
	raw, err := state.Bytes()
	const before = 2 + 1 + 2 + 8 // version, type, cipher suite, time; then the secret's length and the secret
	if err != nil || len(raw) < before+1 || len(raw) < before+1+int(raw[before]) || raw[before] < 32 {
		c.fail(fmt.Errorf("%d octets of a session, %v", len(raw), err))
		return
	}
	secret := raw[before+1 : before+1+int(raw[before])]
	c.list.mu.Lock()
	defer c.list.mu.Unlock()
	c.list.secrets = append(c.list.secrets, bytes.Clone(ticket), bytes.Clone(secret))
	if raw[1] == 3 && !bytes.Contains(c.list.log.Bytes(), []byte(hex.EncodeToString(secret))) { // TLS 1.2
		c.fail(fmt.Errorf("%x is not the secret that the key log has", secret))
	}
}

// meetServer has a store remember sessions with a server: half of them with TLS 1.2, half of them resumed.
func meetServer(t *testing.T, store *tlsstore.Store) *secretList {
	t.Helper()
	made, err := newCertificate("mx.example.org")
	if err != nil {
		t.Fatal(err)
	}
	conf, err := made.server()
	if err != nil {
		t.Fatal(err)
	}
	roots := x509.NewCertPool()
	roots.AppendCertsFromPEM(made.cert)
	ln, err := tls.Listen("tcp", "127.0.0.1:0", conf)
	if err != nil {
		t.Fatal(err)
	}
	var serving sync.WaitGroup
	serving.Go(func() {
		for {
			conn, err := ln.Accept()
			if err != nil {
				return
			}
			serving.Go(func() {
				defer conn.Close()
				_, _ = io.WriteString(conn, "220 mx.example.org\r\n") // the client sees whether it came
				_, _ = io.Copy(io.Discard, conn)
			})
		}
	})
	defer serving.Wait()
	defer ln.Close()

	list := &secretList{}
	const hands = 8
	var calling sync.WaitGroup
	for hand := range hands {
		calling.Go(func() {
			for i := hand; i < secretSessions/2; i += hands {
				version := []uint16{tls.VersionTLS12, tls.VersionTLS13}[i%2]
				fail := func(err error) { t.Error(err) }
				for _, resumed := range []bool{false, true} {
					did, err := meet(ln.Addr().String(), version, roots, store, list, i, fail)
					if err != nil || did != resumed {
						t.Errorf("host %d: resumed %v, want %v; %v", i, did, resumed, err)
					}
				}
			}
		})
	}
	calling.Wait()
	return list
}

func meet(addr string, version uint16, roots *x509.CertPool, store *tlsstore.Store, list *secretList, host int,
	fail func(error)) (resumed bool, err error) {
	cache := store.Sessions(tlsstore.Scope{
		Host: fmt.Sprintf("mx%d.example.org", host), Addr: netip.MustParseAddrPort(addr),
		ServerName: "mx.example.org", Level: "verify",
	})
	conn, err := net.Dial("tcp", addr)
	if err != nil {
		return false, err
	}
	defer conn.Close()
	client := tls.Client(conn, &tls.Config{
		ServerName: "mx.example.org", RootCAs: roots, MaxVersion: version, KeyLogWriter: list,
		ClientSessionCache: watchedCache{cache, list, fail},
		VerifyConnection: func(state tls.ConnectionState) error {
			cache.SetResumed(state.DidResume)
			cache.SetVerified(true)
			return nil
		},
	})
	if _, err := client.Read(make([]byte, 64)); err != nil {
		return false, err
	}
	return client.ConnectionState().DidResume, client.Close()
}

// wantSessions checks that what was searched for is really there.
func wantSessions(t *testing.T, store *tlsstore.Store, hosts int) {
	t.Helper()
	n := 0
	err := store.List("", func(e tlsstore.Entry) bool {
		if e.Kind == "session" {
			n++
		}
		return true
	})
	if err != nil || n != hosts {
		t.Errorf("sessions with %d hosts are kept, want %d; %v", n, hosts, err)
	}
}

// wantPrivate checks that nobody else can look.
func wantPrivate(t *testing.T, cfg *proxy.Config) {
	t.Helper()
	tables := 0
	err := filepath.WalkDir(cfg.StateDir, func(path string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		info, err := d.Info()
		if err != nil {
			return err
		}
		want := fs.FileMode(0o600)
		if d.IsDir() {
			want = 0o700
		}
		if got := info.Mode().Perm(); got != want {
			t.Errorf("%s has mode %04o, want %04o", path, got, want)
		}
		if filepath.Ext(path) == ".sst" {
			tables++
		}
		return nil
	})
	if err != nil || tables == 0 {
		t.Errorf("%d tables of records, %v", tables, err)
	}
}

// A secretSearch finds runs of secrets.
type secretSearch struct {
	runs  map[[secretRun]byte]bool
	begin []bool // the first three octets of one
}

func newSecretSearch(secrets [][]byte) *secretSearch {
	s := &secretSearch{runs: make(map[[secretRun]byte]bool), begin: make([]bool, 1<<24)}
	for _, secret := range secrets {
		for i := 0; i+secretRun <= len(secret); i++ {
			run := [secretRun]byte(secret[i:])
			s.runs[run] = true
			s.begin[beginOf(run[:])] = true
		}
	}
	return s
}

func beginOf(b []byte) int { return int(b[0])<<16 | int(b[1])<<8 | int(b[2]) }

// in counts the runs in all files of a directory, and the octets that it looked at, zeros at the end left out.
func (s *secretSearch) in(t *testing.T, dir string) (found, octets int) {
	t.Helper()
	err := filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
		if err != nil || !d.Type().IsRegular() {
			return err
		}
		b, err := os.ReadFile(path)
		if err != nil {
			return err
		}
		b = bytes.TrimRight(b, "\x00")
		octets += len(b)
		for i := 0; i+secretRun <= len(b); i++ {
			if s.begin[beginOf(b[i:])] && s.runs[[secretRun]byte(b[i:])] {
				found++
			}
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	return found, octets
}

func (s *secretSearch) wantNothing(t *testing.T, dir, when string) {
	t.Helper()
	began := time.Now()
	found, octets := s.in(t, dir)
	t.Logf("%s: %d runs of %d octets of secrets looked for in %d octets of files, in %v", when, len(s.runs), secretRun,
		octets, time.Since(began))
	if found != 0 {
		t.Errorf("%s, %d runs of secrets are in clear", when, found)
	}
	if octets < secretSessions/2*500 {
		t.Errorf("%s, there are only %d octets to be looked at", when, octets)
	}
}

// wantPlanted checks that the search finds what is there.
func (s *secretSearch) wantPlanted(t *testing.T, dir string, secrets [][]byte) {
	t.Helper()
	ticket, secret := secrets[len(secrets)/2], secrets[len(secrets)-1]
	want := 0
	for i, planted := range [][]byte{
		ticket, secret,
		ticket[len(ticket)-secretRun:], // its end
		secret[7 : 7+secretRun],        // a part of it
		secret[:secretRun-1],           // less than a run
	} {
		want += max(len(planted)-secretRun+1, 0)
		text := append(append(bytes.Repeat([]byte("x"), 4097+i), planted...), "and so on"...)
		path := filepath.Join(dir, storeName, fmt.Sprintf("planted%d.sst", i))
		if err := os.WriteFile(path, text, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	if found, _ := s.in(t, dir); found != want {
		t.Errorf("of what was planted %d runs were found, want %d", found, want)
	}
}
