package tlsstore

import (
	"bufio"
	"bytes"
	"crypto/aes"
	"crypto/cipher"
	"crypto/hkdf"
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"encoding/binary"
	"encoding/hex"
	"net"
	"net/netip"
	"sync"
	"testing"
	"time"

	"go.uber.org/goleak"
)

// rowsScope is how the client of these tests calls the door.
var rowsScope = Scope{Host: "mx.example.org", Addr: testAddr, ServerName: "mx.example.org", Level: "verify"}

// addrPortOf is another port of the same peer.
func addrPortOf(sc Scope, port uint16) netip.AddrPort {
	return netip.AddrPortFrom(sc.Addr.Addr(), port)
}

// A rowsRig is our client and our server, with one clock that is set by hand.
type rowsRig struct {
	t     *testing.T
	clock *ticketClock
	kv    *testKV // outlives the store
	store *Store
	door  *ticketDoor
	roots *x509.CertPool
	wire  *ticketWire // nil: nothing looks at what the server sends
}

func newRowsRig(t *testing.T, version uint16) *rowsRig {
	t.Helper()
	t.Cleanup(func() { goleak.VerifyNone(t) })
	r := &rowsRig{t: t, clock: newTicketClock(), kv: newTestKV()}
	r.open()
	t.Cleanup(func() { mustClose(t, r.store) })
	door, client := newTicketDoor(t, TicketOptions{Now: r.clock.now}, version)
	r.door, r.roots = door, client.RootCAs
	r.door.startTLS = true
	return r
}

func (r *rowsRig) open() {
	r.store = New(r.kv, Options{Now: r.clock.now})
	r.store.readWait = CloseWait // machines that run tests can be busy
}

// restart is another process of the client's, with the same disk.
func (r *rowsRig) restart() {
	r.t.Helper()
	mustClose(r.t, r.store)
	r.open()
}

// version is the only one that the server speaks.
func (r *rowsRig) version() uint16 { return r.door.config.MaxVersion }

// life is how long the client offers a session.
func (r *rowsRig) life() time.Duration {
	if r.version() == tls.VersionTLS13 {
		return SessionLife13
	}
	return SessionLife12
}

// A rowsVisit is what became of one connection.
type rowsVisit struct {
	ticketVisit                     // as the server saw it
	cache       *SessionCache       // of the client
	client      tls.ConnectionState // as the client saw it
}

func (v rowsVisit) bits() int { return v.use.Bits(v.resumed) }

// visit makes a connection as a caller does that keeps to the rules, but for what change makes of them.
func (r *rowsRig) visit(sc Scope, change ...func(*tls.Config)) (rowsVisit, error) {
	cache := r.store.Sessions(sc)
	config := &tls.Config{ServerName: sc.ServerName, RootCAs: r.roots, Time: r.clock.now, ClientSessionCache: cache}
	config.VerifyConnection = func(state tls.ConnectionState) error {
		cache.SetResumed(state.DidResume)
		cache.SetVerified(!config.InsecureSkipVerify)
		return nil
	}
	for _, f := range change {
		f(config)
	}
	a, b := ticketPair(r.t)
	below := b
	if r.wire != nil {
		r.door.config.KeyLogWriter = r.wire
		below = r.wire.under(b)
	}
	done := make(chan ticketVisit, 1)
	go func() { done <- r.door.serve(below) }()
	state, err := rowsCall(config, a, r.door.startTLS)
	_ = a.Close() // so that the server ends too
	v := rowsVisit{<-done, cache, state}
	if err == nil {
		err = v.err
	}
	return v, err
}

// rowsCall says what an SMTP client says that has no mail.
func rowsCall(config *tls.Config, conn net.Conn, startTLS bool) (tls.ConnectionState, error) {
	none := tls.ConnectionState{}
	if err := conn.SetDeadline(time.Now().Add(20 * time.Second)); err != nil {
		return none, err
	}
	first := ""
	if startTLS {
		r := bufio.NewReader(conn)
		for _, say := range []string{"", "EHLO c\r\n", "STARTTLS\r\n"} {
			if err := ticketAsk(conn, r, say); err != nil {
				return none, err
			}
		}
		first = "EHLO c\r\n" // nobody greets twice
	}
	client := tls.Client(conn, config)
	if err := client.Handshake(); err != nil {
		return none, err
	}
	r := bufio.NewReader(client)
	for _, say := range []string{first, "QUIT\r\n"} {
		if err := ticketAsk(client, r, say); err != nil {
			return none, err
		}
	}
	return client.ConnectionState(), nil
}

// must is visit where the outcome is clear.
func (r *rowsRig) must(sc Scope, resumed bool, change ...func(*tls.Config)) rowsVisit {
	r.t.Helper()
	v, err := r.visit(sc, change...)
	if err != nil {
		r.t.Fatalf("%v; %+v", err, r.door.tickets.Stats())
	}
	if v.resumed != resumed || v.client.DidResume != resumed {
		r.t.Fatalf("resumed: %v for the server, %v for the client, want %v; %+v",
			v.resumed, v.client.DidResume, resumed, r.door.tickets.Stats())
	}
	return v
}

// wantBits checks what resumption came to, in the bits that Exim has for it.
func (r *rowsRig) wantBits(v rowsVisit, want int, meaning string) {
	r.t.Helper()
	if got := v.bits(); got != want {
		r.t.Errorf("bits %#02x, want %#02x: %s", got, want, meaning)
	}
}

// sessions returns what the client keeps of a scope.
func (r *rowsRig) sessions(sc Scope) []session {
	r.t.Helper()
	record := r.store.look(sc.key())
	if record == nil {
		return nil
	}
	all, ok := decodeSessions(bodyOf(record))
	if !ok {
		r.t.Fatal("the record is broken")
	}
	return all.sessions
}

// sealedBy names the key that the newest ticket of a scope was sealed with.
func (r *rowsRig) sealedBy(sc Scope) string {
	r.t.Helper()
	all := r.sessions(sc)
	if len(all) == 0 {
		r.t.Fatal("there is no session")
	}
	return string(all[0].ticket[:ticketNameSize])
}

// records counts what is on the client's disk.
func (r *rowsRig) records() (n int) {
	r.t.Helper()
	if err := r.kv.Iterate(nil, func(_, _ []byte) bool { n++; return true }); err != nil {
		r.t.Fatal(err)
	}
	return n
}

// A ticketWire sees the ticket that a server sends, and with TLS 1.3 changes the life that is named in it, since
// crypto/tls knows no other than a week.
type ticketWire struct {
	life time.Duration // to name; with TLS 1.2 it is under the handshake's seal

	mu     sync.Mutex
	secret []byte        // of what the server sends, TLS 1.3
	named  time.Duration // what the client was told last
	seen   bool          // it was told something
	hello  []byte        // the server's
}

// Write takes a line of the server's key log.
func (w *ticketWire) Write(line []byte) (int, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if words := bytes.Fields(line); len(words) == 3 && string(words[0]) == "SERVER_TRAFFIC_SECRET_0" {
		secret, err := hex.DecodeString(string(words[2]))
		if err != nil {
			return 0, err
		}
		w.secret = secret
	}
	return len(line), nil
}

func (w *ticketWire) under(conn net.Conn) net.Conn {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.secret, w.seen = nil, false
	return wiredConn{conn, w}
}

// wiredConn is the server's side of the connection.
type wiredConn struct {
	net.Conn
	wire *ticketWire
}

func (c wiredConn) Write(p []byte) (int, error) {
	out := bytes.Clone(p)
	for at := 0; at < len(out); {
		size, ok := tlsRecordSize(out[at:])
		if !ok {
			break // it speaks in clear
		}
		c.wire.look(out[at : at+size])
		at += size
	}
	return c.Conn.Write(out)
}

// look finds the life in a record that is a ticket. https://www.rfc-editor.org/rfc/rfc5077#section-3.3
func (w *ticketWire) look(record []byte) {
	const handshake, serverHello, newSessionTicket, message = 22, 2, 4, 4 // the last is the size of a message's header
	w.mu.Lock()
	defer w.mu.Unlock()
	if record[0] == handshake && record[tlsRecordHeader] == serverHello {
		w.hello = bytes.Clone(record[tlsRecordHeader+message:])
	}
	whole := len(record) > tlsRecordHeader+message+4
	if record[0] == handshake && record[tlsRecordHeader] == newSessionTicket && whole {
		w.seen = true
		w.named = time.Duration(binary.BigEndian.Uint32(record[tlsRecordHeader+message:])) * time.Second
		return
	}
	if w.secret == nil || w.seen || record[0] != tlsApplicationData {
		return
	}
	aead, nonce, err := sealOf(w.secret)
	if err != nil {
		return
	}
	text, err := aead.Open(nil, nonce, record[tlsRecordHeader:], record[:tlsRecordHeader])
	if err != nil || len(text) < message+4 || text[0] != newSessionTicket {
		return
	}
	w.seen, w.named = true, w.life
	binary.BigEndian.PutUint32(text[message:], uint32(w.life/time.Second))
	aead.Seal(record[tlsRecordHeader:tlsRecordHeader], nonce, text, record[:tlsRecordHeader])
}

// sealOf is what TLS_AES_128_GCM_SHA256 makes of a secret for the first record.
// https://www.rfc-editor.org/rfc/rfc8446#section-7.3
func sealOf(secret []byte) (cipher.AEAD, []byte, error) {
	expand := func(label string, size int) ([]byte, error) {
		info := []byte{0, byte(size), byte(len("tls13 " + label))}
		return hkdf.Expand(sha256.New, secret, string(append(info, "tls13 "+label+"\x00"...)), size)
	}
	key, err := expand("key", 16)
	if err != nil {
		return nil, nil, err
	}
	nonce, err := expand("iv", 12)
	if err != nil {
		return nil, nil, err
	}
	block, err := aes.NewCipher(key)
	if err != nil {
		return nil, nil, err
	}
	aead, err := cipher.NewGCM(block)
	return aead, nonce, err
}

// named returns the life that the client was told.
func (r *rowsRig) named(v rowsVisit) time.Duration {
	r.t.Helper()
	r.wire.mu.Lock()
	defer r.wire.mu.Unlock()
	if !r.wire.seen && v.state.CipherSuite != tls.TLS_AES_128_GCM_SHA256 && r.version() == tls.VersionTLS13 {
		r.t.Skip("the rig knows AES-128-GCM only, which this machine is too old to prefer")
	}
	if !r.wire.seen {
		r.t.Fatal("no ticket went over the wire")
	}
	return r.wire.named
}

// agreed reports whether an extension is in the server's hello.
// https://www.rfc-editor.org/rfc/rfc8446#section-4.1.3
func (r *rowsRig) agreed(extension uint16) bool {
	r.t.Helper()
	r.wire.mu.Lock()
	defer r.wire.mu.Unlock()
	const version, random, suite, compression, length = 2, 32, 2, 1, 2
	b := r.wire.hello
	if len(b) < version+random+1 {
		r.t.Fatal("the server said no hello")
	}
	at := version + random + 1 + int(b[version+random]) + suite + compression + length
	for at+4 <= len(b) {
		if binary.BigEndian.Uint16(b[at:]) == extension {
			return true
		}
		at += 4 + int(binary.BigEndian.Uint16(b[at+2:]))
	}
	return false
}
