package proxy_test

import (
	"bytes"
	"context"
	"fmt"
	"net"
	"net/netip"
	"testing"

	"github.com/miekg/dns"
	"github.com/prometheus/client_golang/prometheus"
	"go.uber.org/zap"

	"slipstream/bench/refpeer"
	"slipstream/proxy"
	"slipstream/proxy/once"
	"slipstream/proxy/resolver"
	"slipstream/tlsstore"
)

// BenchmarkFanout sends messages over one connection to the SMTP door, on loopback,
// to hops that take all: with a memory of outcomes and without one, to one
// destination; and to three, which without one would be three messages. writes/op
// are those of the memory.
func BenchmarkFanout(b *testing.B) {
	for _, size := range []int{2 << 10, 1 << 20} {
		for _, test := range []struct {
			memory  bool
			domains int
		}{{false, 1}, {true, 1}, {true, 3}} {
			b.Run(fmt.Sprintf("%dKiB/domains=%d/memory=%t", size>>10, test.domains, test.memory), func(b *testing.B) {
				benchmarkFanout(b, size, test.domains, test.memory)
			})
		}
	}
}

func benchmarkFanout(b *testing.B, size, domains int, remembers bool) {
	var memory *once.Memory
	if remembers {
		var err error
		if memory, err = once.Open(tlsstore.Memory(), once.Options{}); err != nil {
			b.Fatal(err)
		}
		defer func() { _ = memory.Close() }() // it has been measured
	}
	door := fanoutBench(b, domains, memory)
	conn, err := net.Dial("tcp", door)
	if err != nil {
		b.Fatal(err)
	}
	client := &refpeer.Client{Conn: conn, Style: refpeer.Pipelining}
	const line = "0123456789abcde\r\n"
	mail := refpeer.Mail{From: "s@a.test"}
	mail.Body = append([]byte("Subject: x\r\n\r\n"), bytes.Repeat([]byte(line), size/len(line))...)
	for i := range domains {
		mail.To = append(mail.To, "you@"+fanoutDomains[i]+".test")
	}
	var before uint64
	b.SetBytes(int64(len(mail.Body)))
	for b.Loop() {
		if memory != nil && before == 0 {
			before = memory.Stats().Writes // of opening it
		}
		res, err := client.Send(b.Context(), mail)
		if err != nil || !res.OK() {
			b.Fatalf("%+v, %v", res, err)
		}
	}
	if memory != nil {
		wrote := memory.Stats().Writes - before
		b.ReportMetric(float64(wrote)/float64(b.N), "writes/op")
		if wrote != 0 {
			b.Errorf("%d writes for what all agree on", wrote)
		}
	}
	_ = client.Quit(context.Background()) // nothing depends on it
}

// fanoutBench starts hops and a proxy, and returns where its door is.
func fanoutBench(b *testing.B, domains int, memory *once.Memory) string {
	b.Helper()
	var port int
	zone := map[string]netip.Addr{}
	for i := range domains {
		host := netip.AddrFrom4([4]byte{127, 61, 7, byte(i + 1)})
		ln, err := net.Listen("tcp", netip.AddrPortFrom(host, uint16(port)).String())
		if err != nil {
			b.Skip("loopback has not all of 127.0.0.0/8 here, or the port is taken: ", err)
		}
		port = ln.Addr().(*net.TCPAddr).Port
		hop := refpeer.Sink("mx." + fanoutDomains[i] + ".test")
		hop.Start(ln)
		b.Cleanup(hop.Close)
		zone[fanoutDomains[i]+".test."] = host
	}
	cfg := proxy.DefaultConfig()
	cfg.Hostname, cfg.StateDir = realProxyName, b.TempDir()
	addOutbound(cfg, doorSMTP, port, func(out *proxy.OutboundConfig) { out.Split = "fanout" })
	cfg.Limits.MaxTransactions = 1 << 30
	res, err := resolver.New(resolver.Config{Servers: []netip.AddrPort{fanoutBenchDNS(b, zone)}})
	if err != nil {
		b.Fatal(err)
	}
	px, err := proxy.New(cfg, proxy.Options{Log: zap.NewNop(), Metrics: proxy.NewMetrics(prometheus.NewRegistry()),
		Resolver: res, Once: memory})
	if err != nil {
		b.Fatal(err)
	}
	if err := px.Start(b.Context()); err != nil {
		b.Fatal(err)
	}
	b.Cleanup(func() { _ = px.Shutdown(context.Background()) }) // it has been measured
	return px.Addrs(doorSMTP)[0].String()
}

// fanoutBenchDNS gives each domain a mail host at its address.
func fanoutBenchDNS(b *testing.B, zone map[string]netip.Addr) netip.AddrPort {
	b.Helper()
	pc, err := net.ListenPacket("udp", "127.0.0.1:0")
	if err != nil {
		b.Fatal(err)
	}
	srv := &dns.Server{PacketConn: pc, Handler: dns.HandlerFunc(func(w dns.ResponseWriter, q *dns.Msg) {
		m := new(dns.Msg).SetReply(q)
		name := dns.CanonicalName(q.Question[0].Name)
		line := fmt.Sprintf("%s 300 IN MX 10 mx.%s", name, name)
		if host, ok := zone[trimMX(name)]; ok && q.Question[0].Qtype == dns.TypeA {
			line = fmt.Sprintf("%s 300 IN A %s", name, host)
		}
		if rr, err := dns.NewRR(line); err == nil && rr.Header().Rrtype == q.Question[0].Qtype {
			m.Answer = append(m.Answer, rr)
		}
		_ = w.WriteMsg(m) // who asks, asks again
	})}
	done := make(chan struct{})
	go func() {
		defer close(done)
		_ = srv.ActivateAndServe() // until Shutdown
	}()
	b.Cleanup(func() {
		_ = srv.Shutdown()
		_ = pc.Close()
		<-done
	})
	return netip.MustParseAddrPort(pc.LocalAddr().String())
}

func trimMX(name string) string {
	if len(name) > 3 && name[:3] == "mx." {
		return name[3:]
	}
	return name
}
