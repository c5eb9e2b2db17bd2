package proxy

import (
	"bufio"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"math/big"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"go.uber.org/goleak"
	"go.uber.org/zap"
	"go.uber.org/zap/zaptest"

	"slipstream/bench/netsim"
	"slipstream/bench/refpeer"
	"slipstream/proxy/once"
	"slipstream/proxy/resolver"
	"slipstream/tlsstore"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// Where everybody lives in the simulated network.
const (
	proxyHost   = "192.0.2.1"
	clientHost  = "198.51.100.7"
	backendAddr = "203.0.113.1:25"
	mxHost      = "203.0.113.2"
	mxAddr      = mxHost + ":25"
	inboundAt   = proxyHost + ":25"
	outboundAt  = proxyHost + ":587"
)

// A world is a proxy between simulated hosts.
type world struct {
	t     *testing.T
	net   *netsim.Network
	proxy *Proxy
	dns   *fakeDNS
	cfg   *Config

	resolver Resolver // nil: dns

	store   *tlsstore.Store   // nil: nothing is kept
	once    *once.Memory      // nil: nothing is remembered of recipients
	tickets *tlsstore.Tickets // nil: none are made
	shy     *tlsstore.Shy

	registry *prometheus.Registry
	dialFast DialFunc // nil: there is no Fast Open

	mu   sync.Mutex
	done []Summary
}

// newWorld prepares hosts without a proxy; start adds it.
func newWorld(t *testing.T) *world {
	t.Helper()
	return &world{t: t, net: netsim.New(), dns: newFakeDNS(), cfg: testConfig()}
}

// remember gives the world a store over kv, which ends with the test.
func (w *world) remember(kv tlsstore.KV) {
	w.t.Helper()
	w.store = tlsstore.New(kv, tlsstore.Options{})
	w.t.Cleanup(func() { _ = w.store.Close() }) // before the bubble ends
}

// counter returns the sum of a metric over a door's labels.
func (w *world) counter(name, door string) float64 {
	w.t.Helper()
	return w.counterOf(name, "door", door)
}

// counterOf returns the sum of a metric where a label is value.
func (w *world) counterOf(name, label, value string) float64 {
	w.t.Helper()
	families, err := w.registry.Gather()
	if err != nil {
		w.t.Fatal(err)
	}
	sum := 0.0
	for _, f := range families {
		for _, m := range f.GetMetric() {
			for _, l := range m.GetLabel() {
				if f.GetName() == name && l.GetName() == label && l.GetValue() == value {
					sum += m.GetCounter().GetValue()
				}
			}
		}
	}
	return sum
}

func testConfig() *Config {
	cfg := DefaultConfig()
	cfg.Hostname = "proxy.example"
	cfg.StateDir = os.TempDir()
	cfg.SpoolDir = os.TempDir()
	return cfg
}

// inbound adds an inbound door to the backend. It keeps no connections between sessions.
func (w *world) inbound(change ...func(*InboundConfig)) {
	in := DefaultInbound()
	in.Auth.Enabled = false // worlds that have the DNS for it switch it on
	in.Listen = []string{inboundAt}
	in.Backend = Endpoint{Host: "203.0.113.1", Port: 25}
	in.BackendTrustsUs = true
	in.AddReceived = false
	in.PoolIdle = 0
	for _, f := range change {
		f(&in)
	}
	w.cfg.Inbound = append(w.cfg.Inbound, in)
}

// outbound adds an outbound door that goes by MX. It keeps no connections between sessions.
func (w *world) outbound(change ...func(*OutboundConfig)) {
	out := DefaultOutbound()
	out.Listen = []string{outboundAt}
	out.Offer = append(out.Offer, "CHUNKING")
	out.PoolIdle = 0
	out.DestinationFailures = 0           // worlds that are about destinations switch it on
	out.ReplyAttribution = attributionOff // most tests are about what hops say, to the octet
	out.Allow = Prefixes{netip.MustParsePrefix("0.0.0.0/0")}
	for _, f := range change {
		f(&out)
	}
	w.cfg.Outbound = append(w.cfg.Outbound, out)
}

// serve puts a reference peer at an address.
func (w *world) serve(addr string, s *refpeer.Server) *refpeer.Server {
	w.t.Helper()
	ln, err := w.net.Listen(addr)
	if err != nil {
		w.t.Fatal(err)
	}
	s.Start(ln)
	w.t.Cleanup(s.Close)
	return s
}

// build makes the proxy without starting it.
func (w *world) build() *Proxy {
	w.t.Helper()
	w.registry = prometheus.NewRegistry()
	log := zap.NewNop()
	if testing.Verbose() {
		log = zaptest.NewLogger(w.t)
	}
	p, err := New(w.cfg, Options{
		Log: log, Metrics: NewMetrics(w.registry), Resolver: w.names(),
		Store: w.store, Once: w.once, Tickets: w.tickets, Shy: w.shy,
		Dial:     w.net.Dialer(proxyHost),
		DialFast: w.dialFast,
		Listen:   func(_ context.Context, addr string) (net.Listener, error) { return w.net.Listen(addr) },
		Done: func(s Summary) {
			w.mu.Lock()
			defer w.mu.Unlock()
			w.done = append(w.done, s)
		},
	})
	if err != nil {
		w.t.Fatal(err)
	}
	w.proxy = p
	return p
}

// names is the DNS: w.dns, or what takes its place.
func (w *world) names() Resolver {
	if w.resolver != nil {
		return w.resolver
	}
	return w.dns
}

// start makes the proxy and opens its doors; it is shut down with the test.
func (w *world) start() {
	w.t.Helper()
	p := w.build()
	if err := p.Start(w.t.Context()); err != nil {
		w.t.Fatal(err)
	}
	w.t.Cleanup(w.stop)
}

func (w *world) stop() {
	ctx, cancel := context.WithTimeout(context.Background(), time.Second)
	defer cancel()
	_ = w.proxy.Shutdown(ctx) // a test that cares shuts down itself
}

// last returns what is known of the newest transaction.
func (w *world) last() Summary {
	w.t.Helper()
	synctest.Wait()
	w.mu.Lock()
	defer w.mu.Unlock()
	if len(w.done) == 0 {
		w.t.Fatal("no transaction was finished")
	}
	return w.done[len(w.done)-1]
}

// A dialog is a client that a test writes line by line.
type dialog struct {
	t    *testing.T
	conn net.Conn
	r    *bufio.Reader
}

// client connects to a door and takes the greeting.
func (w *world) client(addr string) *dialog {
	w.t.Helper()
	d := w.connect(addr)
	d.want("220 ")
	return d
}

func (w *world) connect(addr string) *dialog {
	w.t.Helper()
	conn, err := w.net.Dial(w.t.Context(), clientHost, addr)
	if err != nil {
		w.t.Fatal(err)
	}
	w.t.Cleanup(func() { _ = conn.Close() })
	return &dialog{t: w.t, conn: conn, r: bufio.NewReader(conn)}
}

// say sends lines in one segment.
func (d *dialog) say(lines ...string) {
	d.t.Helper()
	d.raw(strings.Join(lines, "\r\n") + "\r\n")
}

func (d *dialog) raw(octets string) {
	d.t.Helper()
	if _, err := d.conn.Write([]byte(octets)); err != nil {
		d.t.Fatalf("sending %.40q: %v", octets, err)
	}
}

// want reads one reply and checks how it begins.
func (d *dialog) want(prefix string) string {
	d.t.Helper()
	_ = d.conn.SetReadDeadline(time.Now().Add(time.Hour)) // virtual
	var lines []string
	for {
		line, err := d.r.ReadString('\n')
		if err != nil {
			d.t.Fatalf("waiting for %q: %v (got %q)", prefix, err, lines)
		}
		lines = append(lines, strings.TrimRight(line, "\r\n"))
		if len(line) < 4 || line[3] != '-' {
			break
		}
	}
	all := strings.Join(lines, "\n")
	if !strings.HasPrefix(lines[len(lines)-1], prefix) && !strings.HasPrefix(all, prefix) {
		d.t.Fatalf("got %q, want %q", all, prefix)
	}
	return all
}

// ask is say and want.
func (d *dialog) ask(line, prefix string) string {
	d.t.Helper()
	d.say(line)
	return d.want(prefix)
}

// wantClosed checks that nothing more comes but the end.
func (d *dialog) wantClosed() {
	d.t.Helper()
	_ = d.conn.SetReadDeadline(time.Now().Add(time.Hour))
	if b, err := d.r.ReadByte(); err == nil {
		rest, _ := d.r.Peek(d.r.Buffered())
		d.t.Fatalf("got %q, want the end", string(b)+string(rest))
	}
}

// startTLS secures the dialog, whatever the certificate.
func (d *dialog) startTLS() {
	d.t.Helper()
	d.ask("STARTTLS", "220 ")
	conn := tls.Client(d.conn, &tls.Config{InsecureSkipVerify: true})
	if err := conn.Handshake(); err != nil {
		d.t.Fatal(err)
	}
	d.conn, d.r = conn, bufio.NewReader(conn)
}

// fakeDNS answers from maps.
type fakeDNS struct {
	mx    map[string][]*net.MX
	addrs map[string][]netip.Addr
	ptr   map[string][]string
	fail  map[string]bool
}

func newFakeDNS() *fakeDNS {
	return &fakeDNS{
		mx:    map[string][]*net.MX{"example.org": {{Host: "mx.example.org", Pref: 10}}},
		addrs: map[string][]netip.Addr{"mx.example.org": {netip.MustParseAddr(mxHost)}},
		ptr:   map[string][]string{},
		fail:  map[string]bool{},
	}
}

func (f *fakeDNS) missing(name string) error {
	if f.fail[name] {
		return &net.DNSError{Err: "server misbehaving", Name: name, IsTemporary: true}
	}
	return &net.DNSError{Err: "no such host", Name: name, IsNotFound: true}
}

func (f *fakeDNS) MX(_ context.Context, domain string) ([]*net.MX, error) {
	if mx, ok := f.mx[domain]; ok {
		return mx, nil
	}
	return nil, f.missing(domain)
}

func (f *fakeDNS) Addrs(_ context.Context, _, host string) ([]netip.Addr, error) {
	if a, ok := f.addrs[host]; ok {
		return a, nil
	}
	return nil, f.missing(host)
}

func (f *fakeDNS) LookupPTR(_ context.Context, addr netip.Addr) (resolver.Result[string], error) {
	if names, ok := f.ptr[addr.String()]; ok {
		return resolver.Result[string]{Records: names}, nil
	}
	return resolver.Result[string]{}, f.missing(addr.String())
}

// A testCert is a certificate for tests, in memory and as files.
type testCert struct {
	pair     tls.Certificate
	certFile string
	keyFile  string
}

func newTestCert(t *testing.T, names ...string) testCert {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	serial, _ := rand.Int(rand.Reader, big.NewInt(1<<62))
	tmpl := &x509.Certificate{
		SerialNumber: serial, Subject: pkix.Name{CommonName: names[0]}, DNSNames: names,
		NotBefore: time.Unix(0, 0), NotAfter: time.Date(2100, 1, 1, 0, 0, 0, 0, time.UTC),
		IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign | x509.KeyUsageDigitalSignature,
	}
	der, err := x509.CreateCertificate(rand.Reader, tmpl, tmpl, &key.PublicKey, key)
	if err != nil {
		t.Fatal(err)
	}
	keyDER, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		t.Fatal(err)
	}
	certPEM := pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der})
	keyPEM := pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: keyDER})
	c := testCert{certFile: filepath.Join(t.TempDir(), "cert.pem"), keyFile: filepath.Join(t.TempDir(), "key.pem")}
	for file, data := range map[string][]byte{c.certFile: certPEM, c.keyFile: keyPEM} {
		if err := os.WriteFile(file, data, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	if c.pair, err = tls.X509KeyPair(certPEM, keyPEM); err != nil {
		t.Fatal(err)
	}
	return c
}

func (c testCert) server() *tls.Config {
	return &tls.Config{Certificates: []tls.Certificate{c.pair}}
}
