package netsim

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"io"
	"math/big"
	"testing"
	"testing/synctest"
	"time"
)

// certificate returns a self-signed certificate for mx.example that is valid in
// virtual time as well as in real time, and who trusts it.
func certificate(t *testing.T) (tls.Certificate, *x509.CertPool) {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{
		SerialNumber:          big.NewInt(1),
		Subject:               pkix.Name{CommonName: "mx.example"},
		DNSNames:              []string{"mx.example"},
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

// The product of this project is counted in round trips: here is what crypto/tls
// takes of them, from a connection that is open.
func TestTLS(t *testing.T) {
	cert, pool := certificate(t)
	tests := []struct {
		name    string
		version uint16
		resumed bool
		want    time.Duration
	}{
		{"1.3", tls.VersionTLS13, false, 1 * rtt},
		{"1.3, resumed", tls.VersionTLS13, true, 1 * rtt},
		{"1.2", tls.VersionTLS12, false, 2 * rtt},
		{"1.2, resumed", tls.VersionTLS12, true, 1 * rtt},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				server := &tls.Config{Certificates: []tls.Certificate{cert}, MaxVersion: tt.version}
				client := &tls.Config{ServerName: "mx.example", RootCAs: pool, MinVersion: tt.version,
					ClientSessionCache: tls.NewLRUClientSessionCache(1)}
				if tt.resumed {
					handshake(t, client, server)
				}
				took, state := handshake(t, client, server)
				if took != tt.want {
					t.Errorf("handshake took %v, want %v (%v trips)", took, tt.want, tt.want/rtt)
				}
				if state.Version != tt.version || state.DidResume != tt.resumed {
					t.Errorf("%s, resumed: %v", tls.VersionName(state.Version), state.DidResume)
				}
			})
		})
	}
}

// handshake exchanges a word over a new connection, and returns how long the
// client's handshake took.
func handshake(t *testing.T, client, server *tls.Config) (time.Duration, tls.ConnectionState) {
	t.Helper()
	near, far := open(t, New(), Link{Delay: delay})
	done := make(chan struct{})
	go func() {
		defer close(done)
		s := tls.Server(far, server)
		reads(t, s, "NOOP")
		write(t, s, "250 ok")
		fails(t, s, io.EOF)
		s.Close()
	}()
	c := tls.Client(near, client)
	start := time.Now()
	if err := c.HandshakeContext(t.Context()); err != nil {
		t.Fatal(err)
	}
	took := time.Since(start)
	write(t, c, "NOOP")
	reads(t, c, "250 ok")
	if got := time.Since(start); got != took+rtt {
		t.Errorf("the first command was answered after %v, want %v", got, took+rtt)
	}
	c.Close()
	<-done
	return took, c.ConnectionState()
}
