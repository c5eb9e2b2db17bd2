package proxy

import (
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"slipstream/bench/refpeer"
	"slipstream/tlsstore"
)

// shyWorld is a world with a door that gives tickets.
func shyWorld(t *testing.T, cert testCert, hold bool) *world {
	t.Helper()
	w := newWorld(t)
	w.serve(backendAddr, &refpeer.Server{Keywords: refpeer.Modern()})
	w.inbound(func(in *InboundConfig) { in.TLSCert, in.TLSKey = cert.certFile, cert.keyFile })
	w.cfg.Tickets.Hold = hold
	var err error
	if w.tickets, err = tlsstore.NewTickets(tlsstore.TicketOptions{}); err != nil {
		t.Fatal(err)
	}
	w.shy = tlsstore.NewShy(tlsstore.ShyOptions{})
	return w
}

// muted sends nothing but the first flight.
type muted struct {
	net.Conn
	writes int
}

func (m *muted) Write(b []byte) (int, error) {
	if m.writes++; m.writes > 1 {
		return len(b), nil
	}
	return m.Conn.Write(b)
}

// A ticketVisit is how a client takes a ticket: what it does once it has said
// STARTTLS, and how its end is to be seen.
type ticketVisit func(d *dialog, conf *tls.Config) error

func visitWithAlert(err error) ticketVisit {
	return func(d *dialog, conf *tls.Config) error {
		conf.VerifyConnection = func(tls.ConnectionState) error { return err }
		return tls.Client(d.conn, conf).Handshake()
	}
}

func visitAndSay(lines string, wait time.Duration) ticketVisit {
	return func(d *dialog, conf *tls.Config) error {
		conn := tls.Client(d.conn, conf)
		err := conn.Handshake()
		for line := range strings.Lines(lines) {
			if err == nil {
				_, err = conn.Write([]byte(line))
			}
			if err == nil {
				_, err = conn.Read(make([]byte, 512))
			}
		}
		time.Sleep(wait)
		return err
	}
}

func visitMute(wait time.Duration) ticketVisit {
	return func(d *dialog, conf *tls.Config) error {
		err := tls.Client(&muted{Conn: d.conn}, conf).Handshake()
		time.Sleep(wait)
		return err
	}
}

// ticketVisits are all of them; breaks says that the client may not bear
// tickets, stays that it does.
func ticketVisits() []struct {
	name          string
	visit         ticketVisit
	breaks, stays bool
} {
	return []struct {
		name          string
		visit         ticketVisit
		breaks, stays bool
	}{
		{"an alert", visitWithAlert(errors.New("no ticket, please")), false, false}, // crypto/tls says bad_certificate
		{"an alert about the certificate", visitWithAlert(x509.UnknownAuthorityError{}), false, false},
		{"silence", visitMute(time.Hour), true, false},
		{"hanging up", visitMute(0), true, false},
		{"hanging up later", visitMute(5 * time.Second), true, false},
		{"a handshake and silence", visitAndSay("", 20*time.Minute), false, false},
		{"commands, then hanging up", visitAndSay("EHLO mta1.out.example\r\nNOOP\r\n", 0), false, true},
		{"QUIT", visitAndSay("QUIT\r\n", time.Second), false, true},
	}
}

// call makes a client's visit.
func (w *world) call(visit ticketVisit) {
	w.t.Helper()
	d := w.client(inboundAt)
	d.ask("EHLO mta1.out.example", "250")
	d.ask("STARTTLS", "220 ")
	_ = visit(d, &tls.Config{InsecureSkipVerify: true, ServerName: "proxy.example",
		ClientSessionCache: tls.NewLRUClientSessionCache(1)}) // how it ends is its own affair
	_ = d.conn.Close()
	time.Sleep(5 * time.Second)
	synctest.Wait()
}

func (w *world) withheld() bool {
	return w.shy.Withhold(netip.MustParseAddr(clientHost), "mta1.out.example")
}

// What a client does with a ticket is told apart: breaking on it, bearing it,
// and what says nothing.
func TestWhatClientsDoWithTickets(t *testing.T) {
	for _, hold := range []bool{true, false} {
		for _, tt := range ticketVisits() {
			t.Run(fmt.Sprintf("%s/hold=%v", tt.name, hold), func(t *testing.T) {
				cert := newTestCert(t, "proxy.example")
				synctest.Test(t, func(t *testing.T) {
					w := shyWorld(t, cert, hold)
					w.start()
					for range tlsstore.ShyStrikes {
						w.call(tt.visit)
					}
					if w.withheld() != tt.breaks {
						t.Errorf("withheld: %v, want %v", w.withheld(), tt.breaks)
					}
					if tt.breaks || !hold || strings.Contains(tt.name, "silence") {
						return // so many would take days
					}
					for range tlsstore.ShyStrikes - 1 {
						w.call(visitMute(0))
					}
					for range tlsstore.ShyStrikes*tlsstore.ShyShare + 1 {
						w.call(tt.visit)
					}
					w.call(visitMute(0))
					if w.withheld() == tt.stays {
						t.Errorf("withheld: %v, though it went well: %v", w.withheld(), tt.stays)
					}
				})
			})
		}
	}
}

// Of a client that leaves behind its handshake without a word nothing is known
// where tickets are not held back: it may have left before it saw one.
func TestClientsThatSayNothing(t *testing.T) {
	cert := newTestCert(t, "proxy.example")
	synctest.Test(t, func(t *testing.T) {
		w := shyWorld(t, cert, false)
		w.start()
		silent := visitAndSay("", 0)
		for range tlsstore.ShyStrikes {
			w.call(silent)
		}
		if w.withheld() {
			t.Error("they were taken for clients that broke")
		}
		w.call(visitMute(0))
		for range tlsstore.ShyStrikes*tlsstore.ShyShare + 1 {
			w.call(silent)
		}
		if w.call(visitMute(0)); !w.withheld() {
			t.Error("they were taken for clients that bear tickets")
		}
	})
}

// The alerts of clients that speak of something else than our certificate.
func TestAlertsThatBlameTickets(t *testing.T) {
	alert := func(text string) error { return &net.OpError{Op: "remote error", Err: errors.New(text)} }
	tests := []struct {
		err  error
		want bool
	}{
		{alert("tls: unexpected message"), true},
		{alert("tls: error decoding message"), true},
		{alert("tls: internal error"), true},
		{alert("tls: bad certificate"), false},
		{alert("tls: unknown certificate authority"), false},
		{alert("tls: expired certificate"), false},
		{&waitError{what: "the TLS handshake", limit: time.Second}, true},
		{errCut, false},
		{&net.OpError{Op: "local error", Err: errors.New("tls: no cipher suite")}, false},
		{errors.New("tls: first record does not look like a TLS handshake"), false},
	}
	for _, tt := range tests {
		if got := blamesTicket(tt.err); got != tt.want {
			t.Errorf("%v: %v, want %v", tt.err, got, tt.want)
		}
	}
	// That these are the words of crypto/tls is for crypto/tls to change.
	client, server := net.Pipe()
	defer client.Close()
	go func() {
		defer server.Close()
		_, _ = server.Read(make([]byte, 4096))
		_, _ = server.Write([]byte{21, 3, 3, 0, 2, 2, 42}) // bad_certificate
	}()
	err := tls.Client(client, &tls.Config{InsecureSkipVerify: true}).Handshake()
	if err == nil || blamesTicket(err) || !strings.Contains(err.Error(), "certificate") {
		t.Errorf("%v", err)
	}
}

// When tickets are withheld from clients from now on, a line says from whom and
// until when, and a gauge how many there are.
func TestWithheldClientsAreSeen(t *testing.T) {
	cert := newTestCert(t, "proxy.example")
	synctest.Test(t, func(t *testing.T) {
		w := shyWorld(t, cert, true)
		logs := w.observe()
		for range tlsstore.ShyStrikes + 1 {
			w.call(visitMute(0))
		}
		var who []string
		for _, e := range logs.All() {
			if !strings.HasPrefix(e.Message, "clients break on tickets") {
				continue
			}
			fields := e.ContextMap()
			who = append(who, fields["who"].(string))
			if left := time.Until(fields["until"].(time.Time)); left < tlsstore.ShyFor-time.Hour || left > tlsstore.ShyFor {
				t.Errorf("until %v", fields["until"])
			}
		}
		if got := strings.Join(who, " "); got != "198.51.100.0/24 out.example" {
			t.Errorf("the log tells of %q", got)
		}
		if n := w.gauge("slipstream_tickets_withheld"); n != 2 {
			t.Errorf("the gauge says %v, want a network and a domain", n)
		}
	})
}

// gauge returns a metric without labels.
func (w *world) gauge(name string) float64 {
	w.t.Helper()
	families, err := w.registry.Gather()
	if err != nil {
		w.t.Fatal(err)
	}
	for _, f := range families {
		if f.GetName() == name {
			return f.GetMetric()[0].GetGauge().GetValue()
		}
	}
	w.t.Fatalf("there is no %s", name)
	return 0
}
