package proxy_test

import (
	"bytes"
	"encoding/base64"
	"fmt"
	"math/rand/v2"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/miekg/dns"

	"slipstream/bench/mta"
	"slipstream/bench/refpeer"
)

// serveDomains answers for domains: "b.test" has the mail host "mx.b.test", and
// that the address given for it. A domain without one has a server that fails.
func serveDomains(t *testing.T, domains map[string]string) netip.AddrPort {
	t.Helper()
	zone := make(map[string]dns.RR) // by type and name
	fails := make(map[string]bool)
	for domain, addr := range domains {
		if addr == "" {
			fails[domain+"."] = true
			continue
		}
		host, _, err := net.SplitHostPort(addr)
		if err != nil {
			t.Fatal(err)
		}
		zone["MX "+domain+"."] = realRecord(t, domain+". 300 IN MX 10 mx."+domain+".")
		zone["A mx."+domain+"."] = realRecord(t, "mx."+domain+". 300 IN A "+host)
	}
	return serveRealDNS(t, func(w dns.ResponseWriter, q *dns.Msg) {
		m := new(dns.Msg).SetReply(q)
		name, kind := dns.CanonicalName(q.Question[0].Name), dns.TypeToString[q.Question[0].Qtype]
		rr := zone[kind+" "+name]
		switch {
		case rr != nil:
			m.Answer = []dns.RR{rr}
		case fails[name]:
			m.Rcode = dns.RcodeServerFailure
		case zone["MX "+name] == nil && zone["A "+name] == nil:
			m.Rcode = dns.RcodeNameError
		}
		_ = w.WriteMsg(m) // who asks, asks again
	})
}

func realRecord(t *testing.T, line string) dns.RR {
	t.Helper()
	rr, err := dns.NewRR(line)
	if err != nil {
		t.Fatal(err)
	}
	return rr
}

// serveRealDNS runs a name server on loopback, over UDP, until the test ends. No
// answer of ours needs TCP.
func serveRealDNS(t *testing.T, handle dns.HandlerFunc) netip.AddrPort {
	t.Helper()
	pc, err := net.ListenPacket("udp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	up, down := make(chan struct{}), make(chan error, 1)
	srv := &dns.Server{PacketConn: pc, Handler: handle, NotifyStartedFunc: func() { close(up) }}
	go func() { down <- srv.ActivateAndServe() }()
	select {
	case <-up:
	case err := <-down:
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = srv.Shutdown() // the test is over either way
		<-down
	})
	return netip.MustParseAddrPort(pc.LocalAddr().String())
}

// serveReference puts a reference peer at an address of loopback.
func serveReference(t *testing.T, addr string, s *refpeer.Server) *refpeer.Server {
	t.Helper()
	ln, err := net.Listen("tcp", addr)
	if err != nil {
		t.Fatal(err)
	}
	s.Start(ln)
	t.Cleanup(s.Close)
	return s
}

// realNeighbours returns n addresses on loopback that share one free port, as mail
// hosts share port 25. It is none that the system gives away by itself: nobody
// takes it before it is used, or while its server is dead.
func realNeighbours(t *testing.T, n int) []string {
	t.Helper()
	var why error
	for range 20 {
		network := fmt.Sprintf("127.%d.%d.", 60+rand.IntN(190), rand.IntN(256))
		port := 10000 + rand.IntN(20000)
		var addrs []string
		for len(addrs) < n {
			addr := fmt.Sprintf("%s%d:%d", network, len(addrs)+1, port)
			ln, err := net.Listen("tcp", addr)
			if err != nil {
				why = err
				break
			}
			_ = ln.Close() // it was only to see whether it is free
			addrs = append(addrs, addr)
		}
		if len(addrs) == n {
			return addrs
		}
	}
	t.Skip("loopback has not all of 127.0.0.0/8 here: ", why)
	return nil
}

// A realCert is a certificate for tests, as PEM and as files.
type realCert struct {
	cert, key         []byte
	certFile, keyFile string
}

func newRealCert(t *testing.T, names ...string) realCert {
	t.Helper()
	dir := t.TempDir()
	c := realCert{certFile: filepath.Join(dir, "cert.pem"), keyFile: filepath.Join(dir, "key.pem")}
	var err error
	if c.cert, c.key, err = mta.SelfSigned(names...); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(c.certFile, c.cert, 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(c.keyFile, c.key, 0o600); err != nil {
		t.Fatal(err)
	}
	return c
}

// realMessage is a message that a careless hand would change: 8-bit text, dots,
// blanks at line ends, long lines, empty lines at the end. It has size octets at
// least.
func realMessage(id string, size int) []byte {
	var b bytes.Buffer
	fmt.Fprintf(&b, "From: <%s>\r\nTo: <you@b.test>\r\nSubject: %s\r\nDate: Sat, 21 Nov 2026 12:00:00 +0000\r\n"+
		"Message-ID: <%s@a.test>\r\nMIME-Version: 1.0\r\nContent-Type: text/plain; charset=utf-8\r\n"+
		"Content-Transfer-Encoding: 8bit\r\nX-Folded: one\r\n\ttwo \r\n\r\n", realSender, id, id)
	b.WriteString("Grüße aus dem Norden\r\n.\ta dot\r\n..\r\n...\r\n. \r\n \t \r\n" + strings.Repeat("x", 900) + "\r\nFrom here on\r\n")
	var block []byte
	for n := 0; b.Len() < size; n++ {
		if n == 0 {
			block = realBlock(id)
		}
		fmt.Fprintf(&b, "block %d\r\n", n)
		b.Write(block)
	}
	b.WriteString("\r\n.the end\r\n\r\n")
	return b.Bytes()
}

// realBlock is text that no compression makes shorter, in lines as MIME has them.
func realBlock(id string) []byte {
	raw := make([]byte, 32<<10)
	_, _ = rand.NewChaCha8([32]byte([]byte(fmt.Sprintf("%32.32s", id)))).Read(raw) // it cannot fail
	var b bytes.Buffer
	for line := range slices.Chunk(raw, 57) {
		b.WriteString(base64.StdEncoding.EncodeToString(line) + "\r\n")
	}
	return b.Bytes()
}
