//go:build linux

package proxy_test

import (
	"bufio"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"encoding/pem"
	"fmt"
	"math/big"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// BenchmarkIdleTLS is [BenchmarkIdle] with clients that said STARTTLS and EHLO
// again, and were given tickets.
//
//	go test -run '^$' -bench IdleTLS -benchtime 1x ./proxy/
func BenchmarkIdleTLS(b *testing.B) {
	for _, version := range []uint16{tls.VersionTLS12, tls.VersionTLS13} {
		b.Run(tls.VersionName(version), func(b *testing.B) {
			sink, cert := referenceSink(b), idleCertificate(b)
			open := func(addr string, from net.IP) (net.Conn, error) { return idleTLSClient(addr, from, version) }
			var grown memory
			for b.Loop() {
				px := startProxy(b, sink, cert...)
				before := px.memory(b)
				clients := openIdle(b, px.doors["inbound"], open)
				grown = px.memory(b).minus(before)
				for _, c := range clients {
					_ = c.Close() // it is not needed any more
				}
			}
			grown.report(b)
		})
	}
}

// idleTLSClient is idleClient behind STARTTLS.
func idleTLSClient(addr string, from net.IP, version uint16) (net.Conn, error) {
	conn, err := idleClient(addr, from)
	if err != nil {
		return nil, err
	}
	if _, err := fmt.Fprint(conn, "STARTTLS\r\n"); err != nil {
		return nil, err
	}
	if line, err := bufio.NewReader(conn).ReadString('\n'); err != nil || !strings.HasPrefix(line, "220 ") {
		return nil, fmt.Errorf("the answer to STARTTLS is %q: %w", line, err)
	}
	client := tls.Client(conn, &tls.Config{
		InsecureSkipVerify: true, MaxVersion: version, ServerName: "proxy.example",
		ClientSessionCache: tls.NewLRUClientSessionCache(1), // or TLS 1.2 clients ask for no ticket
	})
	if _, err := fmt.Fprint(client, "EHLO client.example\r\n"); err != nil {
		return nil, err
	}
	lines := bufio.NewScanner(client)
	for lines.Scan() {
		if strings.HasPrefix(lines.Text(), "250 ") {
			return client, nil
		}
	}
	return nil, fmt.Errorf("no answer to EHLO: %w", lines.Err())
}

// idleCertificate returns the lines of a door with a certificate.
func idleCertificate(b *testing.B) []string {
	b.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		b.Fatal(err)
	}
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1), DNSNames: []string{"proxy.example"},
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(24 * time.Hour),
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, &key.PublicKey, key)
	if err != nil {
		b.Fatal(err)
	}
	keyDER, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		b.Fatal(err)
	}
	dir := b.TempDir()
	write := func(setting, kind string, der []byte) string {
		path := filepath.Join(dir, setting)
		if err := os.WriteFile(path, pem.EncodeToMemory(&pem.Block{Type: kind, Bytes: der}), 0o600); err != nil {
			b.Fatal(err)
		}
		return fmt.Sprintf("%s = %q", setting, path)
	}
	return []string{write("tls_cert", "CERTIFICATE", der), write("tls_key", "PRIVATE KEY", keyDER)}
}
