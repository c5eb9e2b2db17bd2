package tlsstore

import (
	"bytes"
	"crypto/aes"
	"crypto/cipher"
	"crypto/tls"
	"testing"
	"time"
)

// What is known to go wrong with resumption in mail, one by one.
func TestKnownIssues(t *testing.T) {
	runRows(t, []row{
		{"balanced name keeps sessions apart", issueBalanced},
		{"balanced name that nobody named: full handshakes, no harm", issueBalancedUnnamed},
		{"resumed session has the version and cipher of its origin", issueCipher},
		{"resumed session has the extended master secret", issueMasterSecret},
		{"OCSP status is not lost", rowOCSP},
		{"no ticket key can be known beforehand", issueZeroKey},
		{"another virtual host takes no ticket", issueVirtualHosts},
		{"client certificate: not resumed as somebody else", issueClientCert},
		{"client certificate: a ticket is no way around it", issueClientCertAsked},
		{"copies of a configuration share no keys", issueClone},
		{"ticket key dies, and with it what it could open", issueKeyDies},
		{"resumed TLS 1.3 exchanges keys anew", issueForwardSecrecy},
		{"another protocol is turned away, ticket or no ticket", issueALPN},
	})
}

// at is a visit to one of several servers that share an address and not their keys.
func (r *rowsRig) at(tickets *Tickets, sc Scope, resumed bool) rowsVisit {
	r.t.Helper()
	ours := r.door.tickets
	defer func() { r.door.tickets = ours }()
	r.door.tickets = tickets
	return r.must(sc, resumed)
}

func (r *rowsRig) moreTickets() *Tickets {
	r.t.Helper()
	tickets, err := NewTickets(TicketOptions{Now: r.clock.now})
	if err != nil {
		r.t.Fatal(err)
	}
	return tickets
}

// Exim finds the node in the answer to EHLO, with outlook.com only. We do so where store.load_balanced says it, for
// any name; its node is then part of the scope.
func issueBalanced(r *rowsRig) {
	a, b := rowsScope, rowsScope
	a.Node, b.Node = "node-a.example.org", "node-b.example.org"
	keysA, keysB := r.moreTickets(), r.moreTickets()
	for i := range 4 {
		r.at(keysA, a, i > 0)
		r.at(keysB, b, i > 0)
	}
	if s := keysA.Stats(); s.Foreign != 0 {
		r.t.Errorf("%d tickets went to the wrong node", s.Foreign)
	}
}

// Exim keeps the last ticket only, so that two nodes that take turns never resume. Here turns are as bad, at the price
// of a full handshake; but a node that comes again finds its ticket.
func issueBalancedUnnamed(r *rowsRig) {
	keysA, keysB := r.moreTickets(), r.moreTickets()
	for range 3 {
		r.at(keysA, rowsScope, false)
		r.at(keysB, rowsScope, false)
	}
	r.at(keysB, rowsScope, true)
	r.at(keysB, rowsScope, true)
	if n := len(r.sessions(rowsScope)); n != SessionsKept {
		r.t.Errorf("%d sessions are kept, want %d", n, SessionsKept)
	}
}

// Exim with GnuTLS names the cipher otherwise when it resumed.
func issueCipher(r *rowsRig) {
	first := r.must(rowsScope, false).client
	again := r.must(rowsScope, true).client
	if first.Version != again.Version || first.CipherSuite != again.CipherSuite || first.Version != r.version() {
		r.t.Errorf("%s %s, resumed %s %s", tls.VersionName(first.Version), tls.CipherSuiteName(first.CipherSuite),
			tls.VersionName(again.Version), tls.CipherSuiteName(again.CipherSuite))
	}
}

// Channel binding over a resumed TLS 1.2 is sound only with it (https://www.rfc-editor.org/rfc/rfc7627#section-5.3).
// crypto/tls exports nothing where it is missing.
func issueMasterSecret(r *rowsRig) {
	for _, resumed := range []bool{false, true} {
		v := r.must(rowsScope, resumed)
		ours, err := v.client.ExportKeyingMaterial("EXPORTER-Channel-Binding", nil, 32)
		if err != nil {
			r.t.Fatal(err)
		}
		theirs, err := v.state.ExportKeyingMaterial("EXPORTER-Channel-Binding", nil, 32)
		if err != nil || !bytes.Equal(ours, theirs) {
			r.t.Errorf("resumed: %v: client and server do not agree, %v", resumed, err)
		}
	}
}

// GnuTLS 3.6.4 to 3.6.13 sealed with zeros until its keys changed first (CVE-2020-13777). The first of ours is as good
// as all others, and no two servers have one in common.
func issueZeroKey(r *rowsRig) {
	r.must(rowsScope, false)
	ticket := r.sessions(rowsScope)[0].ticket
	name, sealed := ticket[:ticketNameSize], ticket[ticketNameSize:]
	if bytes.Equal(name, make([]byte, ticketNameSize)) {
		r.t.Error("the key's name is zero")
	}
	for _, key := range [][]byte{make([]byte, ticketKeySize), append(bytes.Clone(name), name...)} {
		block, err := aes.NewCipher(key)
		if err != nil {
			r.t.Fatal(err)
		}
		aead, err := cipher.NewGCMWithRandomNonce(block)
		if err != nil {
			r.t.Fatal(err)
		}
		if _, err := aead.Open(nil, nil, sealed, name); err == nil {
			r.t.Errorf("%x opens the ticket", key)
		}
	}
	first := r.sealedBy(rowsScope)
	r.at(r.moreTickets(), rowsScope, false)
	if r.sealedBy(rowsScope) == first {
		r.t.Error("two servers have the same key")
	}
}

// Exim's session id context is the same on all ports. A ticket of ours is good for the server name it was asked for and
// the door that gave it; and a client of ours does not even try.
// https://www.rfc-editor.org/rfc/rfc6066#section-3
func issueVirtualHosts(r *rowsRig) {
	cache := &oneSession{LRU: tls.NewLRUClientSessionCache(1)} // of a client that would
	reckless := func(c *tls.Config) { c.ClientSessionCache = cache }
	other := rowsScope
	other.ServerName = "mx2.example.org"
	r.must(rowsScope, false, reckless)
	r.must(rowsScope, true, reckless)
	r.wantBits(r.must(other, false, reckless), 0x0F, "client offered session, server only provided new ticket")
	r.door.scope = "another door"
	r.must(other, false, reckless)
	if n := r.door.tickets.Stats().Scope; n != 2 {
		r.t.Errorf("%d tickets were out of their scope, want 2", n)
	}
	r.must(rowsScope, false)
	if v := r.must(other, false); v.use.Offered() {
		r.t.Error("the other host was offered a ticket")
	}
}

// Exim's key says nothing of the client's certificate.
func issueClientCert(r *rowsRig) {
	r.door.config.ClientAuth = tls.RequestClientCert
	cert, _ := ticketCert(r.t, 0)
	as := func(c *tls.Config) { c.Certificates = []tls.Certificate{cert} }
	sc := rowsScope
	sc.ClientCert = ClientCertOf(&cert)
	r.must(sc, false, as)
	if v := r.must(sc, true, as); len(v.state.PeerCertificates) != 1 {
		r.t.Error("resumed, the client is nobody")
	}
	if v := r.must(rowsScope, false); v.use.Offered() || len(v.state.PeerCertificates) != 0 {
		r.t.Errorf("without a certificate: offered %v, %d certificates", v.use.Offered(), len(v.state.PeerCertificates))
	}
}

// A server that begins to ask for certificates takes no session without one, even at the same door.
func issueClientCertAsked(r *rowsRig) {
	cert, _ := ticketCert(r.t, 0)
	as := func(c *tls.Config) { c.Certificates = []tls.Certificate{cert} }
	r.must(rowsScope, false, as)
	r.must(rowsScope, true, as)
	r.door.config.ClientAuth = tls.RequireAnyClientCert
	v := r.must(rowsScope, false, as)
	if !v.use.Offered() || len(v.state.PeerCertificates) != 1 {
		r.t.Errorf("offered: %v, %d certificates", v.use.Offered(), len(v.state.PeerCertificates))
	}
}

// crypto/tls let copies share the keys it makes by itself (CVE-2025-68121). None of ours are in a configuration:
// without Configure no copy takes a ticket, and with it only the tickets of its own scope.
func issueClone(r *rowsRig) {
	cache := &oneSession{LRU: tls.NewLRUClientSessionCache(1)}
	reckless := func(c *tls.Config) { c.ClientSessionCache = cache }
	r.must(rowsScope, false, reckless)
	bare := r.door.config.Clone()
	bare.Time = r.clock.now
	a, b := ticketPair(r.t)
	done := make(chan bool, 1)
	go func() {
		server := tls.Server(b, bare)
		_, err := server.Write([]byte("220 mx\r\n"))
		done <- err == nil && !server.ConnectionState().DidResume
	}()
	client := tls.Client(a, &tls.Config{
		ServerName: rowsScope.ServerName, RootCAs: r.roots, Time: r.clock.now, ClientSessionCache: cache,
	})
	if n, err := client.Read(make([]byte, 64)); n == 0 || err != nil {
		r.t.Fatalf("%d octets, %v", n, err)
	}
	if !<-done || client.ConnectionState().DidResume {
		r.t.Error("a copy took the ticket")
	}
}

// Who gets hold of a key can read the TLS 1.2 sessions that it sealed, so it must not live long: Exim's with GnuTLS
// live 6 h. Ours are gone from memory one rotation and one life after they were made.
func issueKeyDies(r *rowsRig) {
	r.must(rowsScope, false)
	ticket := r.sessions(rowsScope)[0].ticket
	keys := &r.door.tickets.keys
	opens := func() bool { return keys.opening(ticket[:ticketNameSize], r.clock.now()) != nil }
	r.clock.pass(TicketRotate + TicketLife - time.Second)
	if !opens() {
		r.t.Error("the key is gone too early")
	}
	r.clock.pass(time.Second)
	if opens() || len(keys.ring) != 0 {
		r.t.Errorf("the key is still there, one of %d", len(keys.ring))
	}
	r.wantBits(r.must(rowsScope, false), 0x0F, "client offered session, server only provided new ticket")
}

// With a key exchange a stolen ticket key does not open what was said. TLS 1.2 has none on resumption, which is what
// issueKeyDies is for. https://www.rfc-editor.org/rfc/rfc8446#section-2.2
func issueForwardSecrecy(r *rowsRig) {
	const keyShare, preSharedKey = 51, 41
	r.wire = &ticketWire{life: TicketLife}
	tls13 := r.version() == tls.VersionTLS13
	r.must(rowsScope, false)
	if r.agreed(preSharedKey) || r.agreed(keyShare) != tls13 {
		r.t.Errorf("first: a key of before %v, keys exchanged %v", r.agreed(preSharedKey), r.agreed(keyShare))
	}
	r.must(rowsScope, true)
	if r.agreed(preSharedKey) != tls13 || r.agreed(keyShare) != tls13 {
		r.t.Errorf("resumed: a key of before %v, keys exchanged %v", r.agreed(preSharedKey), r.agreed(keyShare))
	}
}

// As Exim since 4.95. Clients that name no protocol, as ours does not, are served.
func issueALPN(r *rowsRig) {
	r.door.config.NextProtos = []string{"smtp", "lmtp"}
	r.must(rowsScope, false)
	r.must(rowsScope, true)
	if _, err := r.visit(rowsScope, func(c *tls.Config) { c.NextProtos = []string{"http/1.1"} }); err == nil {
		r.t.Error("a client of HTTP is served")
	}
	r.must(rowsScope, true, func(c *tls.Config) { c.NextProtos = []string{"smtp"} })
}
