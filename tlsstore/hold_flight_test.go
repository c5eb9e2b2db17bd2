package tlsstore

import (
	"bufio"
	"bytes"
	"crypto/aes"
	"crypto/cipher"
	"crypto/hkdf"
	"crypto/sha256"
	"crypto/sha512"
	"crypto/tls"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"hash"
	"net"
	"slices"
	"strings"
	"sync"
	"testing"

	"go.uber.org/goleak"
)

// A wireTap records what crosses a connection, write by write.
type wireTap struct {
	net.Conn
	mu     sync.Mutex
	events []tapEvent
}

type tapEvent struct {
	sent bool // by the server
	data []byte
}

func (c *wireTap) Write(p []byte) (int, error) {
	c.note(true, p)
	return c.Conn.Write(p)
}

func (c *wireTap) Read(p []byte) (int, error) {
	n, err := c.Conn.Read(p)
	if n > 0 {
		c.note(false, p[:n])
	}
	return n, err
}

func (c *wireTap) note(sent bool, p []byte) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.events = append(c.events, tapEvent{sent, bytes.Clone(p)})
}

// flights returns what each side sent before it heard the other again, from the ClientHello on.
func (c *wireTap) flights(t *testing.T) []tapEvent {
	t.Helper()
	c.mu.Lock()
	defer c.mu.Unlock()
	var flights []tapEvent
	for _, e := range c.events {
		if n := len(flights); n > 0 && flights[n-1].sent == e.sent {
			flights[n-1].data = append(flights[n-1].data, e.data...)
		} else if n > 0 || !e.sent && e.data[0] == 22 {
			flights = append(flights, tapEvent{e.sent, bytes.Clone(e.data)})
		}
	}
	return flights
}

// tapRecords splits a flight into records.
func tapRecords(t *testing.T, b []byte) (records [][]byte) {
	t.Helper()
	for len(b) > 0 {
		n, ok := tlsRecordSize(b)
		if !ok {
			t.Fatalf("not a record: % x", b[:min(len(b), 10)])
		}
		records = append(records, b[:n])
		b = b[n:]
	}
	return records
}

// openTapped opens the nth record that the server sealed with its application keys, and returns its true type and text.
func openTapped(t *testing.T, keylog string, suite uint16, n uint64, record []byte) (kind byte, text []byte, ok bool) {
	t.Helper()
	newHash, keySize := func() hash.Hash { return sha256.New() }, 16
	switch suite {
	case tls.TLS_AES_128_GCM_SHA256:
	case tls.TLS_AES_256_GCM_SHA384:
		newHash, keySize = func() hash.Hash { return sha512.New384() }, 32
	default:
		t.Skip("this machine does not prefer AES, and the test opens nothing else")
	}
	var secret []byte
	for line := range strings.Lines(keylog) { // the last connection's
		if fields := strings.Fields(line); fields[0] == "SERVER_TRAFFIC_SECRET_0" {
			secret, _ = hex.DecodeString(fields[2])
		}
	}
	expand := func(label string, n int) []byte {
		label = "tls13 " + label
		info := append([]byte{byte(n >> 8), byte(n), byte(len(label))}, label...)
		out, err := hkdf.Expand(newHash, secret, string(append(info, 0)), n)
		if err != nil {
			t.Fatal(err)
		}
		return out
	}
	block, err := aes.NewCipher(expand("key", keySize))
	if err != nil {
		t.Fatal(err)
	}
	aead, err := cipher.NewGCM(block)
	if err != nil {
		t.Fatal(err)
	}
	nonce := expand("iv", aead.NonceSize())
	for i, b := range binary.BigEndian.AppendUint64(nil, n) {
		nonce[4+i] ^= b
	}
	text, err = aead.Open(nil, nonce, record[tlsRecordHeader:], record[:tlsRecordHeader])
	if err != nil {
		return 0, nil, false
	}
	text = bytes.TrimRight(text, "\x00")
	return text[len(text)-1], text[:len(text)-1], true
}

// A firstFlight is what a server sent between the ClientHello and what the client said next, and after that.
type firstFlight struct {
	first, rest [][]byte
	keylog      string
	visit       ticketVisit
}

// tappedVisit records one visit.
func tappedVisit(t *testing.T, d *ticketDoor, client *tls.Config) firstFlight {
	t.Helper()
	a, b := ticketPair(t)
	tap := &wireTap{Conn: b}
	var keylog bytes.Buffer
	d.config.KeyLogWriter = &keylog
	v, err := d.visitOver(client, a, tap)
	if err != nil || v.err != nil {
		t.Fatalf("client: %v; server: %v", err, v.err)
	}
	out := firstFlight{keylog: keylog.String(), visit: v}
	flights := tap.flights(t)
	for i := 1; i < len(flights); i += 2 {
		records := tapRecords(t, flights[i].data)
		hello := i == 1 && len(flights) > 3 && len(records) == 2 && records[1][0] == tlsChangeCipherSpec
		switch {
		case hello: // a HelloRetryRequest
		case out.first == nil:
			out.first = records
		default:
			out.rest = append(out.rest, records...)
		}
	}
	return out
}

// Message types of a handshake.
const (
	tlsNewSessionTicket = 4
	tlsHandshakeRecord  = 22
)

// The proof: with the server's keys at hand, no record of its first flight opens as a session ticket, and the first
// record after it does.
func TestHoldFirstFlight(t *testing.T) {
	defer goleak.VerifyNone(t)
	for _, tt := range []struct {
		name  string
		setup func(d *ticketDoor, client *tls.Config)
	}{
		{"implicit", func(*ticketDoor, *tls.Config) {}},
		{"STARTTLS", func(d *ticketDoor, _ *tls.Config) { d.startTLS = true }},
		{"implicit, released", func(d *ticketDoor, _ *tls.Config) { d.release = true }},
		{"STARTTLS, released", func(d *ticketDoor, _ *tls.Config) { d.startTLS, d.release = true, true }},
		{"with a retry", func(d *ticketDoor, client *tls.Config) {
			d.config.CurvePreferences = []tls.CurveID{tls.CurveP384}
			client.CurvePreferences = []tls.CurveID{tls.X25519, tls.CurveP384}
		}},
		{"a client certificate", func(d *ticketDoor, client *tls.Config) {
			cert, _ := ticketCert(t, 0)
			client.Certificates = []tls.Certificate{cert}
			d.config.ClientAuth = tls.RequestClientCert
		}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			d, client := newTicketDoor(t, TicketOptions{}, tls.VersionTLS13)
			tt.setup(d, client)
			for i, resumed := range []bool{false, true, true} {
				f := tappedVisit(t, d, client)
				if f.visit.resumed != resumed {
					t.Fatalf("visit %d: resumed = %v", i, f.visit.resumed)
				}
				checkHeld(t, f, d)
			}
			if got := d.tickets.Stats(); got.Held != 3 || got.Released != 3 || got.Slipped != 0 {
				t.Errorf("stats: %+v", got)
			}
		})
	}
}

func checkHeld(t *testing.T, f firstFlight, d *ticketDoor) {
	t.Helper()
	suite := f.visit.state.CipherSuite
	for i, record := range f.first {
		if record[0] != tlsApplicationData {
			continue
		}
		if kind, text, ok := openTapped(t, f.keylog, suite, 0, record); ok {
			t.Errorf("record %d of the first flight is after its Finished: type %d, % x…", i, kind, text[:4])
		}
	}
	if len(f.rest) == 0 {
		t.Fatal("nothing came after the first flight")
	}
	kind, text, ok := openTapped(t, f.keylog, suite, 0, f.rest[0])
	if !ok || kind != tlsHandshakeRecord || text[0] != tlsNewSessionTicket {
		t.Errorf("the first record after the first flight is no ticket: opens %v, type %d", ok, kind)
	}
	if kind, text, ok = openTapped(t, f.keylog, suite, 1, f.rest[1]); !ok || kind != tlsApplicationData {
		t.Errorf("the next is not the server's first word: opens %v, type %d, %q", ok, kind, text)
	}
}

// The same without a HeldConn: the ticket is in the first flight. If this fails, crypto/tls has changed, and HeldConn
// may not be needed any more.
func TestHoldIsNeeded(t *testing.T) {
	d, client := newTicketDoor(t, TicketOptions{}, tls.VersionTLS13)
	d.plain = true
	for range 2 {
		f := tappedVisit(t, d, client)
		kind, text, ok := openTapped(t, f.keylog, f.visit.state.CipherSuite, 0, f.first[len(f.first)-1])
		if !ok || kind != tlsHandshakeRecord || text[0] != tlsNewSessionTicket {
			t.Errorf("the last record of the first flight is no ticket: opens %v, type %d", ok, kind)
		}
	}
}

// Release sends the ticket in a write of its own; without it, it is in front of the next word.
func TestHoldRelease(t *testing.T) {
	for _, release := range []bool{false, true} {
		d, client := newTicketDoor(t, TicketOptions{}, tls.VersionTLS13)
		d.release = release
		a, b := ticketPair(t)
		tap := &wireTap{Conn: b}
		if v, err := d.visitOver(client, a, tap); err != nil || v.err != nil {
			t.Fatal(err, v.err)
		}
		var sizes []int // records in each write
		for _, e := range tap.events {
			if e.sent {
				sizes = append(sizes, len(tapRecords(t, e.data)))
			}
		}
		want := []int{6, 2, 1, 1} // the first flight; ticket and greeting; the answer to QUIT; close_notify
		if release {
			want = []int{6, 1, 1, 1, 1}
		}
		if !slices.Equal(sizes, want) {
			t.Errorf("released %v: records in each write %v, want %v", release, sizes, want)
		}
	}
}

func TestHoldLeavesTLS12Alone(t *testing.T) {
	d, client := newTicketDoor(t, TicketOptions{}, tls.VersionTLS12)
	for _, resumed := range []bool{false, true} {
		a, b := ticketPair(t)
		above, below := &wireTap{}, &wireTap{Conn: b}
		above.Conn = HoldTicket(below)
		d.plain = true
		v, err := d.visitOver(client, a, above)
		if err != nil || v.err != nil || v.resumed != resumed {
			t.Fatalf("client: %v; server: %v; resumed %v", err, v.err, v.resumed)
		}
		if len(above.events) != len(below.events) {
			t.Errorf("%d reads and writes became %d", len(above.events), len(below.events))
		}
	}
	d.plain = false
	d.mustVisit(client, true)
	if got := d.tickets.Stats(); got.Held+got.Slipped+got.Released != 0 || got.Issued != 3 {
		t.Errorf("stats: %+v", got)
	}
}

// A client that breaks off where more than the handshake is in the first flight, as Microsoft's do. What the server
// writes at once arrives at once, over loopback.
type shyClient struct {
	net.Conn
	r     *bufio.Reader
	heard []byte
	most  int // sealed records in a first flight
	spoke bool
}

func newShyClient(conn net.Conn, most int) *shyClient {
	return &shyClient{Conn: conn, r: bufio.NewReaderSize(conn, 1<<15), most: most}
}

var errShy = errors.New("a ticket: good bye")

func (c *shyClient) Read(p []byte) (int, error) {
	n, err := c.r.Read(p)
	if !c.spoke {
		c.heard = append(c.heard, p[:n]...)
	}
	return n, err
}

func (c *shyClient) Write(p []byte) (int, error) {
	if p[0] == tlsChangeCipherSpec && !c.spoke { // Finished is behind it
		c.spoke = true
		ahead, _ := c.r.Peek(c.r.Buffered())
		sealed := 0
		for b := append(c.heard, ahead...); len(b) > 0; {
			size, ok := tlsRecordSize(b)
			if !ok {
				return 0, errors.New("a torn record")
			}
			if b[0] == tlsApplicationData {
				sealed++
			}
			b = b[size:]
		}
		if sealed > c.most {
			return 0, errShy
		}
	}
	return c.Conn.Write(p)
}

func TestHoldKeepsShyClients(t *testing.T) {
	d, client := newTicketDoor(t, TicketOptions{}, tls.VersionTLS13)
	visit := func(most int) (ticketVisit, error) {
		a, b := ticketPair(t)
		return d.visitOver(client, newShyClient(a, most), b)
	}
	// Sealed are EncryptedExtensions, Certificate, CertificateVerify and Finished; resumed, the first and the last.
	for _, most := range []int{4, 2, 2} {
		if v, err := visit(most); err != nil || v.err != nil || v.resumed != (most == 2) {
			t.Fatalf("client: %v; server: %v; resumed %v", err, v.err, v.resumed)
		}
	}
	d.plain = true
	if _, err := visit(2); !errors.Is(err, errShy) {
		t.Errorf("resumed without a HeldConn, the client says %v", err)
	}
	client.ClientSessionCache = tls.NewLRUClientSessionCache(1)
	if _, err := visit(4); !errors.Is(err, errShy) {
		t.Errorf("without a HeldConn, the client says %v", err)
	}
}
