package badgerkv_test

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"math/big"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"runtime"
	"testing"
	"time"

	"go.uber.org/goleak"

	"slipstream/tlsstore"
	"slipstream/tlsstore/badgerkv"
)

// A session whose record was corrupted on Badger's disk is a full handshake, and the next one is resumed again.
func TestSessionCorruptedInBadger(t *testing.T) {
	defer goleak.VerifyNone(t)
	dir, key := filepath.Join(t.TempDir(), "store"), bytes.Repeat([]byte{7}, 32)
	client, server := badgerEnds(t)
	scope := tlsstore.Scope{Host: "mx.example.org", Addr: netip.MustParseAddrPort("192.0.2.7:25")}
	tickets, err := tlsstore.NewTickets(tlsstore.TicketOptions{})
	if err != nil {
		t.Fatal(err)
	}
	visit := func() (resumed, offered bool) {
		t.Helper()
		kv, _ := badgerkv.OpenAny(badgerkv.Options{Dir: dir, Key: key})
		store := tlsstore.New(kv, tlsstore.Options{})
		defer func() {
			if err := store.Close(); err != nil {
				t.Error(err)
			}
		}()
		cache := store.Sessions(scope)
		ours, theirs := client.Clone(), server.Clone()
		ours.ClientSessionCache = cache
		untilWritten(t, store, scope)
		a, b := net.Pipe()
		defer a.Close()
		held := tlsstore.HoldTicket(b)
		tickets.Configure(theirs, "", held)
		go func() {
			defer b.Close()
			_, _ = tls.Server(held, theirs).Write([]byte("220 mx\r\n")) // the client sees whether it came
		}()
		conn := tls.Client(a, ours)
		if n, err := conn.Read(make([]byte, 64)); n == 0 || err != nil {
			t.Fatalf("%d octets, %v", n, err)
		}
		return conn.ConnectionState().DidResume, cache.Offered()
	}
	if resumed, _ := visit(); resumed {
		t.Fatal("resumed what was never there")
	}
	if resumed, _ := visit(); !resumed {
		t.Fatal("not resumed over a restart")
	}
	if n := corruptBadger(t, dir); n == 0 {
		t.Fatal("there is nothing to corrupt")
	}
	if resumed, offered := visit(); resumed || offered {
		t.Errorf("a corrupted session: resumed %v, offered %v", resumed, offered)
	}
	if resumed, _ := visit(); !resumed {
		t.Error("not resumed with what came in its place")
	}
}

// untilWritten waits until the store knows what its disk has of a scope: a look-up that is late is a miss, and machines that
// run tests can be busy.
func untilWritten(t *testing.T, store *tlsstore.Store, scope tlsstore.Scope) {
	t.Helper()
	for end := time.Now().Add(10 * time.Second); time.Now().Before(end); runtime.Gosched() {
		late := store.Stats().Late
		store.Sessions(scope).Get("")
		if store.Stats().Late == late {
			return
		}
	}
	t.Fatal("the disk does not answer")
}

// corruptBadger flips a bit in every fourth octet of what holds records, and returns in how many octets.
func corruptBadger(t *testing.T, dir string) (n int) {
	t.Helper()
	files, err := os.ReadDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	for _, f := range files {
		if ext := filepath.Ext(f.Name()); ext != ".sst" && ext != ".vlog" && ext != ".mem" {
			continue
		}
		path := filepath.Join(dir, f.Name())
		b, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		end := len(bytes.TrimRight(b, "\x00"))
		for i := 20; i < end; i += 4 { // behind the header, without which the file would be no file of Badger's
			b[i] ^= 0x10
			n++
		}
		if err := os.WriteFile(path, b, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	return n
}

// badgerEnds are the two ends of a connection to mx.example.org.
func badgerEnds(t *testing.T) (client, server *tls.Config) {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1), DNSNames: []string{"mx.example.org"},
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour),
		IsCA: true, BasicConstraintsValid: true,
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	if err != nil {
		t.Fatal(err)
	}
	roots := x509.NewCertPool()
	if leaf, err := x509.ParseCertificate(der); err == nil {
		roots.AddCert(leaf)
	}
	return &tls.Config{ServerName: "mx.example.org", RootCAs: roots},
		&tls.Config{Certificates: []tls.Certificate{{Certificate: [][]byte{der}, PrivateKey: key}}}
}
