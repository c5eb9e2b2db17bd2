package tlsstore_test

import (
	"crypto/tls"
	"crypto/x509"
	"net"
	"net/netip"
	"testing"

	"slipstream/bench/mta"
	"slipstream/tlsstore"
)

// BenchmarkHandshake is what a handshake costs both sides together, with an ECDSA certificate that the client verifies.
func BenchmarkHandshake(b *testing.B) {
	for _, version := range []uint16{tls.VersionTLS12, tls.VersionTLS13} {
		for _, resume := range []bool{false, true} {
			name := tls.VersionName(version) + "/full"
			if resume {
				name = tls.VersionName(version) + "/resumed"
			}
			b.Run(name, func(b *testing.B) { benchmarkHandshake(b, version, resume) })
		}
	}
}

func benchmarkHandshake(b *testing.B, version uint16, resume bool) {
	cert, key, err := mta.SelfSigned("mx.example")
	if err != nil {
		b.Fatal(err)
	}
	pair, err := tls.X509KeyPair(cert, key)
	if err != nil {
		b.Fatal(err)
	}
	roots := x509.NewCertPool()
	roots.AppendCertsFromPEM(cert)
	tickets, err := tlsstore.NewTickets(tlsstore.TicketOptions{})
	if err != nil {
		b.Fatal(err)
	}
	store := tlsstore.New(tlsstore.Memory(), tlsstore.Options{})
	defer store.Close()
	scope := tlsstore.Scope{Host: "mx.example", Addr: netip.MustParseAddrPort("192.0.2.1:25"), ServerName: "mx.example", Level: "verify"}
	server := &tls.Config{Certificates: []tls.Certificate{pair}, MaxVersion: version}
	client := &tls.Config{RootCAs: roots, ServerName: "mx.example", MaxVersion: version}
	n := 0
	for b.Loop() {
		s, c := server.Clone(), client.Clone()
		tickets.Configure(s, "bench", nil)
		if resume {
			sessions := store.Sessions(scope)
			c.VerifyConnection = func(state tls.ConnectionState) error {
				sessions.SetResumed(state.DidResume)
				sessions.SetVerified(true)
				return nil
			}
			c.ClientSessionCache = sessions
		}
		if got := shakeHands(b, s, c); got != (resume && n > 0) {
			b.Fatalf("handshake %d resumed: %v", n, got)
		}
		n++
	}
}

// shakeHands connects both, passes a word so that a ticket comes along, and says whether a session was resumed.
func shakeHands(b *testing.B, s, c *tls.Config) bool {
	b.Helper()
	near, far := net.Pipe()
	done := make(chan error, 1)
	go func() {
		conn := tls.Server(far, s)
		_, err := conn.Write([]byte("250 fine\r\n"))
		done <- err
	}()
	conn := tls.Client(near, c)
	if _, err := conn.Read(make([]byte, 16)); err != nil {
		b.Fatal(err)
	}
	if err := <-done; err != nil {
		b.Fatal(err)
	}
	resumed := conn.ConnectionState().DidResume
	_, _ = near.Close(), far.Close() // without TLS's goodbyes, which nobody reads
	return resumed
}
