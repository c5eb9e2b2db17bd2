package tlsstore

import (
	"bytes"
	"crypto/tls"
	"crypto/x509"
	"testing"
	"time"
)

// A row is one condition, held with TLS 1.2 and with TLS 1.3.
type row struct {
	name string
	run  func(r *rowsRig)
}

func runRows(t *testing.T, rows []row) {
	t.Helper()
	for _, row := range rows {
		t.Run(row.name, func(t *testing.T) {
			eachTLS(t, func(t *testing.T, version uint16) { row.run(newRowsRig(t, version)) })
		})
	}
}

// The conditions under which Exim's client asks for tickets, keeps sessions and offers them, one by one, and what we do
// in its place.
func TestClientConditions(t *testing.T) {
	runRows(t, []row{
		{"not asked for: no ticket is requested, none is stored", rowNotAsked},
		{"asked for: a ticket is requested and stored", rowAsked},
		{"no node is named: offered and stored, STARTTLS or not", rowNoNode},
		{"expired session is deleted, not offered", rowExpired},
		{"expired hint", rowExpiredHint},
		{"hint 0", rowHintZero},
		{"stale ticket: full handshake on the same connection", rowStale},
		{"session that cannot be resumed is not stored", rowNotResumable},
		{"certificate refused: nothing is stored", rowRefused},
		{"certificate doubted: stored, and never counts as verified", rowDoubted},
		{"OCSP status comes back with the session", rowOCSP},
		{"DANE: the set of TLSA records counts, not the answer", rowTLSA},
	})
}

func noSessions(c *tls.Config) { c.ClientSessionCache = nil }

// Exim resumes only with hosts in tls_resumption_hosts, which is empty by default; built with GnuTLS it asks for
// tickets all the same. We resume by default; without it nothing is asked for.
func rowNotAsked(r *rowsRig) {
	for range 2 {
		v := r.must(rowsScope, false, noSessions)
		r.wantBits(v, 0x01, "not requested or offered")
		if n := r.door.tickets.Stats().Issued; n != 0 {
			r.t.Errorf("%d tickets were made", n)
		}
	}
	r.restart()
	if n := r.records(); n != 0 {
		r.t.Errorf("%d records were kept", n)
	}
}

// As Exim does with a host in its list.
func rowAsked(r *rowsRig) {
	v := r.must(rowsScope, false)
	r.wantBits(v, 0x0B, "client requested new ticket, server provided")
	if v.cache.Stored() != 1 || v.cache.Offered() {
		r.t.Errorf("%d stored, offered: %v", v.cache.Stored(), v.cache.Offered())
	}
	r.restart()
	v = r.must(rowsScope, true)
	r.wantBits(v, 0x1F, "session resumed, also new ticket")
}

// Exim neither offers nor stores before it has looked for a load balancer in the answer to EHLO: not on connections
// that another process began, nor, in 4.96 and 4.97, with TLS on connect. Our sessions have a node only where the
// configuration says that there are several; everywhere else none is waited for.
func rowNoNode(r *rowsRig) {
	for port, startTLS := range map[uint16]bool{25: true, 465: false} {
		r.door.startTLS = startTLS
		sc := rowsScope
		sc.Addr = addrPortOf(sc, port)
		r.must(sc, false)
		r.must(sc, true)
	}
}

// Exim with OpenSSL throws a session away whose hint is over ("discard expired resumption session in client"); with
// GnuTLS it offers what is stale. We throw away by our clock, whatever the library tells.
func rowExpired(r *rowsRig) {
	r.must(rowsScope, false)
	r.clock.pass(r.life() - time.Second)
	if _, ok := r.store.Sessions(rowsScope).Get(""); !ok {
		r.t.Error("not offered a second before its end")
	}
	r.clock.pass(time.Second)
	cache := r.store.Sessions(rowsScope)
	if _, ok := cache.Get(""); ok || cache.Offered() || cache.Expired() != 1 {
		r.t.Errorf("offered: %v, %v; %d expired, want 1", ok, cache.Offered(), cache.Expired())
	}
	if n := len(r.sessions(rowsScope)); n != 0 {
		r.t.Errorf("%d sessions are left", n)
	}
	r.restart()
	if n := r.records(); n != 0 {
		r.t.Errorf("%d records are left on the disk", n)
	}
	v := r.must(rowsScope, false)
	r.wantBits(v, 0x0B, "client requested new ticket, server provided")

	r.clock.pass(r.life() / 2) // a younger one stays
	r.must(rowsScope, false, func(c *tls.Config) { c.ClientSessionCache.(*SessionCache).Withhold() })
	r.clock.pass(r.life() / 2)
	cache = r.store.Sessions(rowsScope)
	_, ok := cache.Get("")
	if left := len(r.sessions(rowsScope)); !ok || cache.Expired() != 1 || left != 1 {
		r.t.Errorf("offered: %v; %d expired, %d are left, want 1 and 1", ok, cache.Expired(), left)
	}
}

// Exim believes the hint of either version. crypto/tls tells nobody that of TLS 1.2, and what comes of not knowing it
// is rowStale; that of TLS 1.3, which is the ticket's life and binds the client, we keep to.
// https://www.rfc-editor.org/rfc/rfc8446#section-4.6.1
func rowExpiredHint(r *rowsRig) {
	const hint = time.Hour
	r.wire = &ticketWire{life: hint}
	v := r.must(rowsScope, false)
	named := r.named(v)
	if r.version() == tls.VersionTLS12 {
		r.clock.pass(hint)
		r.must(rowsScope, true)
		return
	}
	if named != hint {
		r.t.Fatalf("the client was told %v", named)
	}
	r.clock.pass(hint - time.Second)
	if _, ok := r.store.Sessions(rowsScope).Get(""); !ok {
		r.t.Error("not offered a second before its end")
	}
	r.clock.pass(time.Second)
	v = r.must(rowsScope, false)
	if v.cache.Offered() || v.cache.Expired() != 1 || v.use.Offered() {
		r.t.Errorf("offered: %v, %d expired", v.cache.Offered(), v.cache.Expired())
	}
}

// With TLS 1.2 a hint of 0 says that there is none (https://www.rfc-editor.org/rfc/rfc5077#section-3.3), and that is
// what crypto/tls sends: Exim with OpenSSL takes it for a life of 0 s and throws all of them away. We resume. With TLS
// 1.3 a life of 0 does mean at once, and nothing is stored.
func rowHintZero(r *rowsRig) {
	r.wire = &ticketWire{}
	v := r.must(rowsScope, false)
	if named := r.named(v); named != 0 {
		r.t.Fatalf("the client was told %v", named)
	}
	if r.version() == tls.VersionTLS12 {
		r.clock.pass(time.Minute)
		r.must(rowsScope, true)
		return
	}
	if n := len(r.sessions(rowsScope)); n != 0 || v.cache.Stored() != 0 {
		r.t.Errorf("%d sessions were stored, %d are there", v.cache.Stored(), n)
	}
	v = r.must(rowsScope, false)
	if v.use.Offered() {
		r.t.Error("a ticket was offered")
	}
}

// A ticket that the server takes no more, which Exim with GnuTLS cannot know either, costs what none would have cost.
// What is new is offered next.
func rowStale(r *rowsRig) {
	r.must(rowsScope, false)
	r.clock.pass(TicketLife)
	v := r.must(rowsScope, false)
	r.wantBits(v, 0x0F, "client offered session, server only provided new ticket")
	if !v.cache.Offered() || v.cache.Stored() != 1 {
		r.t.Errorf("offered: %v, %d stored", v.cache.Offered(), v.cache.Stored())
	}
	r.must(rowsScope, true)
}

// Exim asks the library whether a session can be resumed. crypto/tls gives away no other.
func rowNotResumable(r *rowsRig) {
	cert := r.door.config.Certificates
	none := &tls.Config{Certificates: cert, MaxVersion: r.version(), SessionTicketsDisabled: true, Time: r.clock.now}
	sc := rowsScope
	sc.Host = "no tickets"
	a, b := ticketPair(r.t)
	done := make(chan error, 1)
	go func() {
		server := tls.Server(b, none)
		_, err := server.Write([]byte("220 mx\r\n"))
		done <- err
	}()
	cache := r.store.Sessions(sc)
	client := tls.Client(a, &tls.Config{
		ServerName: sc.ServerName, RootCAs: r.roots, Time: r.clock.now, ClientSessionCache: cache,
	})
	if n, err := client.Read(make([]byte, 64)); n == 0 || err != nil {
		r.t.Fatalf("%d octets, %v", n, err)
	}
	if err := <-done; err != nil {
		r.t.Fatal(err)
	}
	if n := len(r.sessions(sc)); n != 0 || cache.Stored() != 0 {
		r.t.Errorf("%d sessions were stored, %d are there", cache.Stored(), n)
	}
}

// As Exim with tls_verify_hosts; nor is a session of before offered where its authority is believed no more.
func rowRefused(r *rowsRig) {
	nobody := func(c *tls.Config) { c.RootCAs = x509.NewCertPool() }
	if _, err := r.visit(rowsScope, nobody); err == nil {
		r.t.Fatal("a certificate of nobody's is good")
	}
	if n := len(r.sessions(rowsScope)); n != 0 {
		r.t.Errorf("%d sessions were stored", n)
	}
	r.must(rowsScope, false)
	if v, err := r.visit(rowsScope, nobody); err == nil || v.use.Offered() {
		r.t.Errorf("%v, offered: %v", err, v.use.Offered())
	}
	r.must(rowsScope, false)
}

// As Exim's verify_override with tls_try_verify_hosts, and we too keep that with the session; Exim with GnuTLS looks at
// the certificate again instead. We do both, and it takes both: a session of a doubtful origin stays doubtful, whatever
// its certificate seems to be today.
func rowDoubted(r *rowsRig) {
	sc := rowsScope
	sc.Level = "may"
	lax := func(c *tls.Config) { c.RootCAs, c.InsecureSkipVerify = x509.NewCertPool(), true }
	r.must(sc, false, lax)
	r.restart()
	for range 2 {
		v := r.must(sc, true, lax)
		if origin, known := v.cache.Verified(); origin || !known {
			r.t.Errorf("verified: %v, known: %v; want false, and that known", origin, known)
		}
	}
	seems := func(c *tls.Config) {
		lax(c)
		cache := c.ClientSessionCache.(*SessionCache)
		c.VerifyConnection = func(state tls.ConnectionState) error {
			cache.SetResumed(state.DidResume)
			cache.SetVerified(true)
			return nil
		}
	}
	for range 2 {
		v := r.must(sc, true, seems)
		if origin, known := v.cache.Verified(); origin || !known {
			r.t.Errorf("it seems good: verified: %v, known: %v; want false, and that known", origin, known)
		}
	}
}

// Exim with OpenSSL saves the status since 4.96; with GnuTLS it is gone. Ours is in the session.
func rowOCSP(r *rowsRig) {
	status := []byte("as good as it was")
	r.door.config.Certificates[0].OCSPStaple = status
	if v := r.must(rowsScope, false); !bytes.Equal(v.client.OCSPResponse, status) {
		r.t.Fatalf("at first: %q", v.client.OCSPResponse)
	}
	r.door.config.Certificates[0].OCSPStaple = nil
	r.restart()
	for range 2 {
		if v := r.must(rowsScope, true); !bytes.Equal(v.client.OCSPResponse, status) {
			r.t.Errorf("resumed: %q", v.client.OCSPResponse)
		}
	}
}

// Exim's key takes in the DNS answer as it came, so it is another one with every second of its TTL. Ours takes in the
// set of records.
func rowTLSA(r *rowsRig) {
	one, two := []byte("\x03\x01\x01one"), []byte("\x03\x01\x01two")
	sc := rowsScope
	sc.Level, sc.Trust = "dane", TrustOf(one, two)
	r.must(sc, false)
	sc.Trust = TrustOf(two, one, two)
	r.must(sc, true)
	sc.Trust = TrustOf(two)
	if v := r.must(sc, false); v.use.Offered() {
		r.t.Error("offered though a record is gone")
	}
}
