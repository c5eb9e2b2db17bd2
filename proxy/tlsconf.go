package proxy

import (
	"crypto/tls"
	"crypto/x509"
	"fmt"
	"os"
	"sync/atomic"

	"slipstream/tlsstore"
)

// A certificate is a pair of files that can be read again while sessions use it.
type certificate struct {
	certFile, keyFile string
	pair              atomic.Pointer[tls.Certificate]
}

func loadCertificate(certFile, keyFile string) (*certificate, error) {
	c := &certificate{certFile: certFile, keyFile: keyFile}
	return c, c.reload()
}

func (c *certificate) reload() error {
	pair, err := tls.LoadX509KeyPair(c.certFile, c.keyFile)
	if err != nil {
		return fmt.Errorf("certificate %s with key %s: %w", c.certFile, c.keyFile, err)
	}
	c.pair.Store(&pair)
	return nil
}

// serverTLS is how we secure a client's connection.
func (c *certificate) serverTLS(minVersion TLSVersion) *tls.Config {
	return &tls.Config{
		MinVersion:     uint16(minVersion),
		GetCertificate: func(*tls.ClientHelloInfo) (*tls.Certificate, error) { return c.pair.Load(), nil },
		// A client that came for another protocol is turned away (ALPACA); one
		// that names none is served.
		NextProtos: []string{"smtp", "lmtp"},
		// Microsoft's clients break off where a TLS 1.3 ticket comes in the first
		// flight, as it does here: https://github.com/golang/go/issues/70232
		SessionTicketsDisabled: true,
	}
}

// authorities are those to believe; the zero value stands for the system's.
type authorities struct {
	pool   *x509.CertPool
	digest [32]byte // tells them from others
}

// loadRoots reads the authorities to believe; no file means the system's.
func loadRoots(file string) (authorities, error) {
	if file == "" {
		return authorities{}, nil
	}
	pem, err := os.ReadFile(file)
	if err != nil {
		return authorities{}, fmt.Errorf("certificate authorities: %w", err)
	}
	pool := x509.NewCertPool()
	if !pool.AppendCertsFromPEM(pem) {
		return authorities{}, fmt.Errorf("certificate authorities: %s holds no certificate in PEM form", file)
	}
	return authorities{pool, tlsstore.TrustOfPEM(pem)}, nil
}
