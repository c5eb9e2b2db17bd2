package tlsstore

import (
	"bufio"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"fmt"
	"io"
	"math/big"
	"net"
	"strings"
	"sync"
	"testing"
	"time"
)

// A ticketClock is set by hand.
type ticketClock struct {
	mu sync.Mutex
	at time.Time
}

func newTicketClock() *ticketClock {
	return &ticketClock{at: time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC)}
}

func (c *ticketClock) now() time.Time {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.at
}

func (c *ticketClock) pass(d time.Duration) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.at = c.at.Add(d)
}

// ticketCert makes a certificate for mx.example.org and mx2.example.org, with padding octets that make it large.
func ticketCert(t testing.TB, padding int) (tls.Certificate, *x509.CertPool) {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1),
		Subject:      pkix.Name{CommonName: "test", Organization: []string{strings.Repeat("x", padding)}},
		DNSNames:     []string{"mx.example.org", "mx2.example.org"},
		NotBefore:    time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC), NotAfter: time.Date(2056, 1, 1, 0, 0, 0, 0, time.UTC),
		KeyUsage:    x509.KeyUsageDigitalSignature,
		ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageClientAuth},
		IsCA:        true, BasicConstraintsValid: true,
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
	return tls.Certificate{Certificate: [][]byte{der}, PrivateKey: key, Leaf: leaf}, pool
}

// A ticketDoor is an SMTP server that says as much as is needed to hand out tickets.
type ticketDoor struct {
	t        testing.TB
	tickets  *Tickets
	scope    string
	config   *tls.Config // cloned for every connection
	startTLS bool
	plain    bool // no HeldConn
	release  bool
}

// A ticketVisit is what became of one connection, as the server saw it.
type ticketVisit struct {
	resumed bool
	state   tls.ConnectionState
	use     *TicketUse
	held    *HeldConn
	err     error
}

// serve speaks with one client until it says QUIT or goes.
func (d *ticketDoor) serve(conn net.Conn) (v ticketVisit) {
	defer conn.Close()
	if err := conn.SetDeadline(time.Now().Add(20 * time.Second)); err != nil {
		v.err = err
		return v
	}
	if d.startTLS {
		if v.err = ticketLines(conn, bufio.NewReader(conn), "220 mx\r\n", true); v.err != nil {
			return v
		}
	}
	config, below := d.config.Clone(), conn
	if !d.plain {
		v.held = HoldTicket(conn)
		below = v.held
	}
	v.use = d.tickets.Configure(config, d.scope, v.held)
	secured := tls.Server(below, config)
	if v.err = secured.Handshake(); v.err != nil {
		return v
	}
	v.state = secured.ConnectionState()
	v.resumed = v.state.DidResume
	if d.release {
		if v.err = v.held.Release(); v.err != nil {
			return v
		}
	}
	greeting := "220 mx\r\n"
	if d.startTLS {
		greeting = ""
	}
	v.err = ticketLines(secured, bufio.NewReader(secured), greeting, false)
	_ = secured.Close()
	return v
}

// ticketLines answers commands until QUIT, or STARTTLS where that is offered.
func ticketLines(w io.Writer, r *bufio.Reader, greeting string, startTLS bool) error {
	if greeting != "" {
		if _, err := io.WriteString(w, greeting); err != nil {
			return err
		}
	}
	for {
		line, err := r.ReadString('\n')
		if err != nil {
			return err
		}
		verb := strings.ToUpper(strings.TrimSpace(line))
		answer := "250 mx\r\n"
		switch {
		case verb == "STARTTLS" && startTLS:
			answer = "220 go ahead\r\n"
		case strings.HasPrefix(verb, "EHLO") && startTLS:
			answer = "250-mx\r\n250 STARTTLS\r\n"
		case verb == "QUIT":
			answer = "221 bye\r\n"
		}
		if _, err := io.WriteString(w, answer); err != nil {
			return err
		}
		if verb == "QUIT" || verb == "STARTTLS" && startTLS {
			return nil
		}
	}
}

// ticketPair returns the two ends of a TCP connection over loopback.
func ticketPair(t testing.TB) (client, server net.Conn) {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	client, err = net.Dial("tcp", l.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	if server, err = l.Accept(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { client.Close(); server.Close() })
	return client, server
}

// visit has a client of crypto/tls come once, with what it has in its session cache.
func (d *ticketDoor) visit(client *tls.Config) (ticketVisit, error) {
	a, b := ticketPair(d.t)
	return d.visitOver(client, a, b)
}

func (d *ticketDoor) visitOver(client *tls.Config, a, b net.Conn) (ticketVisit, error) {
	done := make(chan ticketVisit, 1)
	go func() { done <- d.serve(b) }()
	err := ticketCall(client, a, d.startTLS)
	a.Close()
	return <-done, err
}

// mustVisit fails the test unless all goes well, and the session was resumed or not as is wanted.
func (d *ticketDoor) mustVisit(client *tls.Config, resumed bool) ticketVisit {
	d.t.Helper()
	v, err := d.visit(client)
	if err != nil || v.err != nil {
		d.t.Fatalf("client: %v; server: %v", err, v.err)
	}
	if v.resumed != resumed {
		d.t.Fatalf("resumed = %v, want %v; %+v", v.resumed, resumed, d.tickets.Stats())
	}
	return v
}

// ticketCall is the client's side of a visit.
func ticketCall(config *tls.Config, conn net.Conn, startTLS bool) error {
	if err := conn.SetDeadline(time.Now().Add(20 * time.Second)); err != nil {
		return err
	}
	if startTLS {
		r := bufio.NewReader(conn)
		for _, say := range []string{"", "EHLO c\r\n", "STARTTLS\r\n"} {
			if err := ticketAsk(conn, r, say); err != nil {
				return err
			}
		}
	}
	secured := tls.Client(conn, config)
	r := bufio.NewReader(secured)
	if startTLS {
		if err := ticketAsk(secured, r, "EHLO c\r\n"); err != nil {
			return err
		}
	} else if err := ticketAsk(secured, r, ""); err != nil {
		return err
	}
	return ticketAsk(secured, r, "QUIT\r\n")
}

// ticketAsk says something and reads the whole reply.
func ticketAsk(w io.Writer, r *bufio.Reader, say string) error {
	if say != "" {
		if _, err := io.WriteString(w, say); err != nil {
			return err
		}
	}
	for {
		line, err := r.ReadString('\n')
		if err != nil {
			return err
		}
		if len(line) < 4 || line[0] != '2' {
			return fmt.Errorf("the server says %q", line)
		}
		if line[3] == ' ' {
			return nil
		}
	}
}

// newTicketDoor returns a door and a client that trusts it and has room for sessions.
func newTicketDoor(t testing.TB, o TicketOptions, version uint16) (*ticketDoor, *tls.Config) {
	t.Helper()
	tickets, err := NewTickets(o)
	if err != nil {
		t.Fatal(err)
	}
	cert, pool := ticketCert(t, 0)
	d := &ticketDoor{
		t: t, tickets: tickets, scope: "inbound",
		config: &tls.Config{Certificates: []tls.Certificate{cert}, MinVersion: version, MaxVersion: version},
	}
	client := &tls.Config{
		ServerName: "mx.example.org", RootCAs: pool, Time: o.Now,
		ClientSessionCache: tls.NewLRUClientSessionCache(8),
	}
	return d, client
}
