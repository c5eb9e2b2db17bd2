package resolver

import (
	"context"
	"encoding/binary"
	"net"
	"net/netip"
	"sync/atomic"
	"testing"
	"time"

	"github.com/miekg/dns"
	"go.uber.org/goleak"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// serve runs a DNS server on loopback, UDP and TCP on one port, for as long as the test.
func serve(t *testing.T, handle dns.HandlerFunc) netip.AddrPort {
	t.Helper()
	for range 10 { // the port may be taken on TCP
		pc, err := net.ListenPacket("udp", "127.0.0.1:0")
		if err != nil {
			t.Fatal(err)
		}
		ln, err := net.Listen("tcp", pc.LocalAddr().String())
		if err != nil {
			pc.Close()
			continue
		}
		run(t, &dns.Server{PacketConn: pc, Handler: handle})
		run(t, &dns.Server{Listener: ln, Handler: handle})
		return netip.MustParseAddrPort(pc.LocalAddr().String())
	}
	t.Fatal("no port is free on both UDP and TCP")
	panic("unreachable")
}

func run(t *testing.T, srv *dns.Server) {
	up, down := make(chan struct{}), make(chan error, 1)
	srv.NotifyStartedFunc = func() { close(up) }
	go func() { down <- srv.ActivateAndServe() }()
	<-up
	t.Cleanup(func() {
		srv.Shutdown()
		<-down
	})
}

// deadPort is a UDP port on loopback that nobody listens on.
func deadPort(t *testing.T) netip.AddrPort {
	pc, err := net.ListenPacket("udp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer pc.Close()
	return netip.MustParseAddrPort(pc.LocalAddr().String())
}

// zone answers from records as a zone file writes them: whole CNAME chains, and denials with the SOA record of "example.".
type zone []string

const soa = "example. 300 IN SOA ns.example. root.example. 1 2 3 4 60"

func (z zone) answer(q *dns.Msg) *dns.Msg {
	m := new(dns.Msg)
	m.SetReply(q)
	m.RecursionAvailable = true
	name, exists := dns.CanonicalName(q.Question[0].Name), false
	for range 20 {
		next := ""
		for _, line := range z {
			rr := record(line)
			if dns.CanonicalName(rr.Header().Name) != name {
				continue
			}
			exists = true
			cname, alias := rr.(*dns.CNAME)
			if rr.Header().Rrtype == q.Question[0].Qtype || alias {
				m.Answer = append(m.Answer, rr)
			}
			if alias {
				next = dns.CanonicalName(cname.Target)
			}
		}
		if next == "" {
			break
		}
		name, exists = next, false
	}
	if n := len(m.Answer); n == 0 || m.Answer[n-1].Header().Rrtype != q.Question[0].Qtype {
		m.Ns = append(m.Ns, record(soa))
		if !exists {
			m.Rcode = dns.RcodeNameError
		}
	}
	return m
}

func (z zone) ServeDNS(w dns.ResponseWriter, q *dns.Msg) { w.WriteMsg(z.answer(q)) }

// record reads a line of a zone file, and gives it as it comes off the wire: with the library's way of escaping.
func record(line string) dns.RR {
	rr, err := dns.NewRR(line)
	if err != nil {
		panic(err)
	}
	packet := make([]byte, 4096)
	if _, err := dns.PackRR(rr, packet, 0, nil, false); err != nil {
		panic(err)
	}
	rr, _, err = dns.UnpackRR(packet, 0)
	if err != nil {
		panic(err)
	}
	return rr
}

func code(rcode int) dns.HandlerFunc {
	return func(w dns.ResponseWriter, q *dns.Msg) {
		m := new(dns.Msg)
		m.SetRcode(q, rcode)
		w.WriteMsg(m)
	}
}

// newResolver makes a resolver over servers with short waits.
func newResolver(t *testing.T, servers ...netip.AddrPort) *Resolver {
	t.Helper()
	r, err := New(Config{Servers: servers, Timeout: 300 * time.Millisecond})
	if err != nil {
		t.Fatal(err)
	}
	return r
}

// fakeNet is a network of DNS servers for tests in virtual time.
type fakeNet struct {
	// handle gives the answer of a server and how long it takes; nil: none ever.
	handle  func(server, network string, q *dns.Msg) (*dns.Msg, time.Duration)
	queries atomic.Int64
}

func (f *fakeNet) dial(_ context.Context, network, address string) (net.Conn, error) {
	client, srv := net.Pipe()
	go func() {
		defer srv.Close()
		buf := make([]byte, 4096)
		n, err := srv.Read(buf)
		if err != nil {
			return
		}
		f.queries.Add(1)
		packet := buf[:n]
		if network == "tcp" {
			packet = packet[2:]
		}
		q := new(dns.Msg)
		if err := q.Unpack(packet); err != nil {
			panic(err)
		}
		m, delay := f.handle(address, network, q)
		if m == nil {
			srv.Read(buf) // until the client has gone
			return
		}
		time.Sleep(delay) // virtual time
		out, err := m.Pack()
		if err != nil {
			panic(err)
		}
		if network == "tcp" {
			out = append(binary.BigEndian.AppendUint16(nil, uint16(len(out))), out...)
		}
		srv.Write(out)
	}()
	return client, nil
}

// virtual makes a resolver over f.
func (f *fakeNet) resolver(t *testing.T, cfg Config) *Resolver {
	t.Helper()
	if len(cfg.Servers) == 0 {
		cfg.Servers = []netip.AddrPort{netip.MustParseAddrPort("127.0.0.1:53")}
	}
	cfg.Dial = f.dial
	r, err := New(cfg)
	if err != nil {
		t.Fatal(err)
	}
	return r
}
