package resolver

import (
	"context"
	"fmt"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/miekg/dns"
)

var good = zone{"x.example. 60 IN A 192.0.2.1"}

func TestTruncated(t *testing.T) {
	var udp, tcp atomic.Int64
	r := newResolver(t, serve(t, func(w dns.ResponseWriter, q *dns.Msg) {
		m := new(dns.Msg)
		m.SetReply(q)
		if _, ok := w.RemoteAddr().(*net.UDPAddr); ok {
			udp.Add(1)
			m.Truncated = true
			m.Answer = []dns.RR{record("x.example. 60 IN TXT part")}
		} else {
			tcp.Add(1)
			for i := range 200 {
				m.Answer = append(m.Answer, record(fmt.Sprintf("x.example. 60 IN TXT %d%s", i, strings.Repeat("x", 200))))
			}
		}
		w.WriteMsg(m)
	}))
	res, err := r.LookupTXT(t.Context(), "x.example")
	if err != nil || len(res.Records) != maxRecords || udp.Load() != 1 || tcp.Load() != 1 {
		t.Errorf("%d records, %v; %d over UDP, %d over TCP", len(res.Records), err, udp.Load(), tcp.Load())
	}
}

func TestTruncatedWithoutTCP(t *testing.T) {
	pc, err := net.ListenPacket("udp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	run(t, &dns.Server{PacketConn: pc, Handler: dns.HandlerFunc(func(w dns.ResponseWriter, q *dns.Msg) {
		m := good.answer(q)
		m.Truncated = true
		w.WriteMsg(m)
	})})
	r := newResolver(t, netip.MustParseAddrPort(pc.LocalAddr().String()))
	if res, err := r.LookupA(t.Context(), "x.example"); verdict(err) != "temporary" {
		t.Errorf("part of an answer was taken: %v, %v", res.Records, err)
	}
}

// Answers that are not to our question, or not from our server, are not heard; the true one behind them is.
func TestForged(t *testing.T) {
	tests := []struct {
		name  string
		forge func(m *dns.Msg)
	}{
		{"wrong id", func(m *dns.Msg) { m.Id++ }},
		{"wrong name", func(m *dns.Msg) { m.Question[0].Name = "y.example." }},
		{"wrong type", func(m *dns.Msg) { m.Question[0].Qtype = dns.TypeTXT }},
		{"wrong class", func(m *dns.Msg) { m.Question[0].Qclass = dns.ClassCHAOS }},
		{"no question", func(m *dns.Msg) { m.Question = nil }},
		{"two questions", func(m *dns.Msg) { m.Question = append(m.Question, m.Question[0]) }},
		{"a query", func(m *dns.Msg) { m.Response = false }},
		{"another operation", func(m *dns.Msg) { m.Opcode = dns.OpcodeNotify }},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			r := newResolver(t, serve(t, func(w dns.ResponseWriter, q *dns.Msg) {
				bad := zone{"x.example. 60 IN A 203.0.113.66"}.answer(q)
				tt.forge(bad)
				w.WriteMsg(bad)
				w.Write([]byte("noise"))
				w.WriteMsg(good.answer(q))
			}))
			wantGood(t, r)
		})
	}
	t.Run("another source", func(t *testing.T) {
		other, err := net.ListenPacket("udp", "127.0.0.1:0")
		if err != nil {
			t.Fatal(err)
		}
		defer other.Close()
		r := newResolver(t, serve(t, func(w dns.ResponseWriter, q *dns.Msg) {
			packet, err := zone{"x.example. 60 IN A 203.0.113.66"}.answer(q).Pack()
			if err != nil {
				t.Error(err)
			}
			if _, err := other.WriteTo(packet, w.RemoteAddr()); err != nil {
				t.Error(err)
			}
			w.WriteMsg(good.answer(q))
		}))
		wantGood(t, r)
	})
}

func wantGood(t *testing.T, r *Resolver) {
	t.Helper()
	res, err := r.LookupA(t.Context(), "x.example")
	if err != nil || len(res.Records) != 1 || res.Records[0].String() != "192.0.2.1" {
		t.Errorf("got %v, %v", res.Records, err)
	}
}

// Who sends many wrong answers is guessing; TCP cannot be guessed into.
func TestManyStrays(t *testing.T) {
	var tcp atomic.Int64
	r := newResolver(t, serve(t, func(w dns.ResponseWriter, q *dns.Msg) {
		if _, ok := w.RemoteAddr().(*net.TCPAddr); ok {
			tcp.Add(1)
			w.WriteMsg(good.answer(q))
			return
		}
		for i := range maxStray {
			m := zone{"x.example. 60 IN A 203.0.113.66"}.answer(q)
			m.Id += uint16(i + 1)
			w.WriteMsg(m)
		}
	}))
	wantGood(t, r)
	if tcp.Load() != 1 {
		t.Errorf("%d questions over TCP, want 1", tcp.Load())
	}
}

func TestWrongOverTCP(t *testing.T) {
	r := newResolver(t, serve(t, func(w dns.ResponseWriter, q *dns.Msg) {
		m := good.answer(q)
		m.Truncated = true // over TCP as well
		w.WriteMsg(m)
	}))
	if _, err := r.LookupA(t.Context(), "x.example"); verdict(err) != "temporary" || !strings.Contains(err.Error(), "does not match") {
		t.Error(err)
	}
}

func TestFailover(t *testing.T) {
	lame := func(w dns.ResponseWriter, q *dns.Msg) {
		m := new(dns.Msg)
		m.SetReply(q)
		m.Ns = []dns.RR{record("example. 60 IN NS ns.example.")}
		w.WriteMsg(m)
	}
	for name, first := range map[string]netip.AddrPort{
		"lame": serve(t, lame), "servfail": serve(t, code(dns.RcodeServerFailure)), "refused": serve(t, code(dns.RcodeRefused)),
		"dead": deadPort(t), "formerr": serve(t, code(dns.RcodeFormatError)), "odd": serve(t, code(14)),
		"silent": serve(t, func(dns.ResponseWriter, *dns.Msg) {}),
		"header": serve(t, func(w dns.ResponseWriter, q *dns.Msg) {
			m := new(dns.Msg)
			m.SetRcode(q, dns.RcodeRefused)
			m.Question = nil
			w.WriteMsg(m)
		}),
	} {
		t.Run(name, func(t *testing.T) {
			wantGood(t, newResolver(t, first, serve(t, good.ServeDNS)))
		})
	}
}

func TestNoServerAnswers(t *testing.T) {
	var n atomic.Int64
	r := newResolver(t, serve(t, func(w dns.ResponseWriter, q *dns.Msg) {
		n.Add(1)
		code(dns.RcodeServerFailure)(w, q)
	}))
	_, err := r.LookupA(t.Context(), "x.example")
	if verdict(err) != "temporary" || !strings.Contains(err.Error(), "SERVFAIL") || n.Load() != 1 {
		t.Errorf("%v after %d questions; a server that has said so is not asked again", err, n.Load())
	}
	if _, err := newResolver(t, deadPort(t)).LookupA(t.Context(), "x.example"); verdict(err) != "temporary" {
		t.Error(err)
	}
}

// Of two servers the one that has refused is not asked again; the silent one is, while tries are left.
func TestRefusedAndSilent(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := &fakeNet{handle: func(server, _ string, q *dns.Msg) (*dns.Msg, time.Duration) {
			if server == "192.0.2.2:53" {
				return nil, 0
			}
			m := new(dns.Msg)
			return m.SetRcode(q, dns.RcodeRefused), 0
		}}
		r := f.resolver(t, Config{Servers: testServers(2)})
		start := time.Now()
		_, err := r.LookupA(t.Context(), "x.example")
		if took := time.Since(start); verdict(err) != "timeout" || took != 6*time.Second || f.queries.Load() != 3 {
			t.Errorf("%v after %v and %d questions, want 6s and 3", err, took, f.queries.Load())
		}
	})
}

// Who waits for a slot waits no longer than for anything else, and takes none when he has gone.
func TestNoSlot(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := &fakeNet{handle: func(string, string, *dns.Msg) (*dns.Msg, time.Duration) { return nil, 0 }}
		r := f.resolver(t, Config{MaxQueries: 1, Timeout: 10 * time.Second, Attempts: 1})
		go r.LookupA(t.Context(), "x.example")
		synctest.Wait()
		ctx, cancel := context.WithTimeout(t.Context(), 2*time.Second)
		defer cancel()
		start := time.Now()
		if _, err := r.LookupA(ctx, "y.example"); verdict(err) != "timeout" || time.Since(start) != 2*time.Second {
			t.Errorf("%v after %v", err, time.Since(start))
		}
		time.Sleep(10 * time.Second)
		synctest.Wait()
		if n := f.queries.Load(); n != 1 || len(r.slots) != 0 || len(r.flights) != 0 {
			t.Errorf("%d questions, %d slots and %d flights left; want 1, 0, 0", n, len(r.slots), len(r.flights))
		}
	})
}

// "Responders that choose not to implement the protocol extensions … MUST respond with a return code (RCODE) of FORMERR":
// https://www.rfc-editor.org/rfc/rfc6891#section-7
func TestWithoutEDNS(t *testing.T) {
	for _, rcode := range []int{dns.RcodeFormatError, dns.RcodeNotImplemented} {
		var n atomic.Int64
		r := newResolver(t, serve(t, func(w dns.ResponseWriter, q *dns.Msg) {
			n.Add(1)
			if q.IsEdns0() != nil {
				code(rcode)(w, q)
				return
			}
			w.WriteMsg(good.answer(q))
		}))
		wantGood(t, r)
		if n.Load() != 2 {
			t.Errorf("%d questions, want 2", n.Load())
		}
	}
}

func testServers(n int) []netip.AddrPort {
	var list []netip.AddrPort
	for i := range n {
		list = append(list, netip.AddrPortFrom(netip.AddrFrom4([4]byte{192, 0, 2, byte(i + 1)}), 53))
	}
	return list
}

func TestTries(t *testing.T) {
	tests := []struct {
		name    string
		cfg     Config
		took    time.Duration
		queries int64
	}{
		{"default", Config{}, 9 * time.Second, 3},
		{"two servers", Config{Servers: testServers(2), Timeout: time.Second, Attempts: 5}, 5 * time.Second, 5},
		{"one try", Config{Attempts: 1, Timeout: 2 * time.Second}, 2 * time.Second, 1},
		{"total", Config{Total: 4 * time.Second}, 4 * time.Second, 2},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				f := &fakeNet{handle: func(string, string, *dns.Msg) (*dns.Msg, time.Duration) { return nil, 0 }}
				r := f.resolver(t, tt.cfg)
				start := time.Now()
				_, err := r.LookupA(t.Context(), "x.example")
				if took := time.Since(start); verdict(err) != "timeout" || took != tt.took || f.queries.Load() != tt.queries {
					t.Errorf("%v after %v and %d questions, want %v and %d", err, took, f.queries.Load(), tt.took, tt.queries)
				}
			})
		})
	}
}

// A server that stays silent is asked last for a while, then first again.
func TestSetBack(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var mu sync.Mutex // the race detector does not know that look-ups follow one another
		silent := true
		var asked []string
		f := &fakeNet{handle: func(server, _ string, q *dns.Msg) (*dns.Msg, time.Duration) {
			mu.Lock()
			defer mu.Unlock()
			asked = append(asked, server)
			if silent && server == "192.0.2.1:53" {
				return nil, 0
			}
			return good.answer(q), 0
		}}
		r := f.resolver(t, Config{Servers: testServers(2), CacheEntries: -1})
		ask := func(beSilent bool, want string) {
			t.Helper()
			mu.Lock()
			silent, asked = beSilent, nil
			mu.Unlock()
			wantGood(t, r)
			mu.Lock()
			defer mu.Unlock()
			if got := strings.Join(asked, " "); got != want {
				t.Errorf("asked %s, want %s", got, want)
			}
		}
		const first, second = "192.0.2.1:53", "192.0.2.2:53"
		for range maxMisses {
			ask(true, first+" "+second)
		}
		ask(true, second)
		ask(false, second)
		time.Sleep(setBack)
		ask(false, first)
		ask(true, first+" "+second) // it answered meanwhile, so the count begins anew
		ask(true, first+" "+second)
		ask(false, first)
	})
}

func TestBoundedQueries(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := slowly(time.Second, good)
		r := f.resolver(t, Config{MaxQueries: 4})
		start := time.Now()
		done := make(chan time.Duration)
		for i := range 12 {
			go func() {
				r.LookupA(t.Context(), fmt.Sprintf("n%d.example", i))
				done <- time.Since(start)
			}()
		}
		var took []time.Duration
		for range 12 {
			took = append(took, <-done)
		}
		slices.Sort(took)
		for i, d := range took {
			if want := time.Duration(i/4+1) * time.Second; d != want {
				t.Errorf("look-up %d took %v, want %v: four at once", i, d, want)
			}
		}
	})
}

func TestSystemServers(t *testing.T) {
	const local = "127.0.0.1:53 [::1]:53"
	for text, want := range map[string]string{
		"":                                      local,
		"search example.org\noptions ndots:2\n": local,
		"nameserver 192.0.2.1\nnameserver 2001:db8::1 # x\nnameserver fe80::1%eth0\n": "192.0.2.1:53 [2001:db8::1]:53 [fe80::1%eth0]:53",
		strings.Repeat("nameserver 192.0.2.1\n", 20):                                  strings.TrimSpace(strings.Repeat("192.0.2.1:53 ", maxServers)),
		"nameserver dns.example\n":                                                    "error",
	} {
		file := filepath.Join(t.TempDir(), "resolv.conf")
		if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		wantServers(t, file, want)
	}
	wantServers(t, filepath.Join(t.TempDir(), "none"), local)
	wantServers(t, t.TempDir(), "error")
}

func wantServers(t *testing.T, file, want string) {
	t.Helper()
	list, err := systemServers(file)
	var words []string
	for _, s := range list {
		words = append(words, s.String())
	}
	got := strings.Join(words, " ")
	if err != nil {
		got = "error"
	}
	if got != want {
		t.Errorf("got %s (%v), want %s", got, err, want)
	}
}

func TestConfig(t *testing.T) {
	if _, err := New(Config{Servers: testServers(1)}); err != nil {
		t.Error(err)
	}
	for name, cfg := range map[string]Config{
		"Timeout":        {Timeout: -1},
		"Total":          {Total: -1},
		"MaxTTL":         {MaxTTL: -1},
		"Attempts":       {Attempts: -1},
		"MaxQueries":     {MaxQueries: -1},
		"MinNegativeTTL": {Servers: testServers(1), MinNegativeTTL: time.Hour},
		"MaxNegativeTTL": {MaxNegativeTTL: -1},
		"9 servers":      {Servers: testServers(9)},
		"server":         {Servers: []netip.AddrPort{{}}},
	} {
		if _, err := New(cfg); err == nil || !strings.Contains(err.Error(), name) {
			t.Errorf("%s: %v", name, err)
		}
	}
}
