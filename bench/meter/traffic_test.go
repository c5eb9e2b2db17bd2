package meter_test

import (
	"crypto/tls"
	"fmt"
	"math/rand/v2"
	"net"
	"net/netip"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"slipstream/bench/meter"
	"slipstream/bench/netsim"
	"slipstream/bench/refpeer"
)

const (
	rtt        = 100 * time.Millisecond
	serverAddr = "192.0.2.1:25"
	headers    = 40 // octets of IPv4 and TCP without options
	all        = 1 << 20
)

// recorder keeps what a simulated network carries, with the numbers that TCP would give it. They begin shortly before
// they turn over.
type recorder struct {
	segments []meter.Segment
	next     map[[2]netip.AddrPort]uint32
}

func (r *recorder) trace(s netsim.Segment) {
	way := [2]netip.AddrPort{s.From, s.To}
	if r.next == nil {
		r.next = make(map[[2]netip.AddrPort]uint32)
	}
	if s.SYN {
		r.next[way] = 0xFFFF_FF00
	}
	r.segments = append(r.segments, meter.Segment{At: s.At, Arrives: s.Arrives, From: s.From, To: s.To,
		SYN: s.SYN, ACK: s.From.String() == serverAddr || !s.SYN, FIN: s.FIN, RST: s.RST,
		Seq: r.next[way], Len: s.Len, Size: s.Len + headers, Data: s.Data})
	r.next[way] += uint32(s.Len)
	if s.SYN || s.FIN {
		r.next[way]++
	}
}

// converse runs a conversation with a server over a link of 50 ms each way, and returns what was seen of it:
// the first octets of every write.
func converse(t *testing.T, srv *refpeer.Server, keep int, talk func(*testing.T, net.Conn)) []meter.Segment {
	t.Helper()
	var seen recorder
	synctest.Test(t, func(t *testing.T) {
		n := &netsim.Network{Default: netsim.Link{Delay: rtt / 2}, Trace: seen.trace, TraceData: keep}
		ln, err := n.Listen(serverAddr)
		must(t, err)
		srv.Start(ln)
		defer srv.Close()
		conn, err := n.Dial(t.Context(), "198.51.100.7", serverAddr)
		must(t, err)
		defer conn.Close()
		talk(t, conn)
	})
	return seen.segments
}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func mail(size int) refpeer.Mail {
	line := "0123456789012345678901234567890123456789012345678901234567890123456789\r\n"
	return refpeer.Mail{From: "a@client.example", To: []string{"u@mx.example"},
		Body: []byte(strings.Repeat(line, size/len(line)+1))}
}

func server() *refpeer.Server {
	keywords := refpeer.Modern()
	keywords.PipeConnect = true
	return &refpeer.Server{Keywords: keywords}
}

// only returns the one connection.
func only(t testing.TB, segments []meter.Segment) meter.Conn {
	t.Helper()
	conns := meter.Conns(segments)
	if len(conns) != 1 {
		t.Fatalf("%d connections, want 1", len(conns))
	}
	return conns[0]
}

// configs returns what a server and a client need for TLS of one version.
func configs(t *testing.T, version uint16) (server, client *tls.Config) {
	t.Helper()
	cert, pool, err := refpeer.Certificate("mx.example")
	must(t, err)
	server = &tls.Config{Certificates: []tls.Certificate{cert}, MaxVersion: version}
	return server, &tls.Config{RootCAs: pool, ServerName: "mx.example", MinVersion: version,
		ClientSessionCache: tls.NewLRUClientSessionCache(1)}
}

func trips(t *testing.T, c meter.Conn, since time.Time) float64 {
	t.Helper()
	l, err := c.Ledger(since)
	must(t, err)
	return l.Trips(rtt)
}

// The trips that are known from the arithmetic of the protocol are those that the packets show.
func TestTripsOfConversations(t *testing.T) {
	for _, tt := range []struct {
		style    refpeer.Style
		security string
		version  uint16
		want     float64
	}{
		{refpeer.OldLockStep, "", 0, 7}, {refpeer.LockStep, "", 0, 7}, {refpeer.Pipelining, "", 0, 5},
		{refpeer.Chunking, "", 0, 4}, {refpeer.Early, "", 0, 2},
		{refpeer.LockStep, "starttls", tls.VersionTLS13, 10}, {refpeer.Pipelining, "starttls", tls.VersionTLS13, 8},
		{refpeer.Chunking, "starttls", tls.VersionTLS13, 7}, {refpeer.Early, "starttls", tls.VersionTLS13, 4},
		{refpeer.LockStep, "starttls", tls.VersionTLS12, 11}, {refpeer.Pipelining, "starttls", tls.VersionTLS12, 9},
		{refpeer.Chunking, "starttls", tls.VersionTLS12, 8}, {refpeer.Early, "starttls", tls.VersionTLS12, 5},
		{refpeer.Chunking, "implicit", tls.VersionTLS13, 5}, {refpeer.Early, "implicit", tls.VersionTLS13, 3},
		{refpeer.Chunking, "implicit", tls.VersionTLS12, 5}, {refpeer.Early, "implicit", tls.VersionTLS12, 4},
	} {
		for _, size := range []int{1, 2 << 10, 200 << 10} {
			t.Run(fmt.Sprint(tt.style, tt.security, tls.VersionName(tt.version), size), func(t *testing.T) {
				forServer, forClient := configs(t, tt.version)
				srv := server()
				if tt.security != "" {
					srv.TLS, srv.Implicit = forServer, tt.security == "implicit"
				}
				var took time.Duration
				c := only(t, converse(t, srv, all, func(t *testing.T, conn net.Conn) {
					start := time.Now().Add(-rtt)
					cl := &refpeer.Client{Conn: conn, Style: tt.style}
					if tt.security != "" {
						cl.TLS, cl.Implicit = forClient, srv.Implicit
					}
					res, err := cl.Send(t.Context(), mail(size))
					must(t, err)
					took = res.Done.Sub(start)
					must(t, cl.Quit(t.Context()))
				}))
				l, err := c.Ledger(time.Time{})
				must(t, err)
				if l.Trips(rtt) != tt.want || l.Elapsed != took {
					t.Errorf("%v trips in %v, want %v in %v", l.Trips(rtt), l.Elapsed, tt.want, took)
				}
				for _, f := range c.Flights() {
					if f.Final != (f.Complete.Equal(l.Final)) || f.Label == "" || f.Complete.Sub(f.Start) != rtt/2 {
						t.Errorf("%v; the final reply arrived after %v", f, l.Elapsed)
					}
				}
				r := rand.New(rand.NewPCG(uint64(size), 0))
				if got, want := told(only(t, disturb(r, c.Segments))), told(c); got != want {
					t.Errorf("of pieces:\n%s\nof the whole:\n%s", got, want)
				}
			})
		}
	}
}

// Messages on one connection cost what each of them took, under TLS too where it is known when the next one began.
func TestTripsOfSeveralMessages(t *testing.T) {
	for _, tt := range []struct {
		style  refpeer.Style
		secure bool
		first  float64
		second float64
	}{
		{refpeer.LockStep, false, 7, 4}, {refpeer.Pipelining, false, 5, 2}, {refpeer.Chunking, false, 4, 1},
		{refpeer.LockStep, true, 10, 4}, {refpeer.Pipelining, true, 8, 2}, {refpeer.Chunking, true, 7, 1},
	} {
		t.Run(fmt.Sprint(tt.style, tt.secure), func(t *testing.T) {
			srv, forClient := server(), (*tls.Config)(nil)
			if tt.secure {
				srv.TLS, forClient = configs(t, tls.VersionTLS13)
			}
			var begun [4]time.Time
			c := only(t, converse(t, srv, all, func(t *testing.T, conn net.Conn) {
				cl := &refpeer.Client{Conn: conn, Style: tt.style, TLS: forClient}
				for i := range begun {
					time.Sleep(time.Second)
					begun[i] = time.Now()
					if i < 3 {
						_, err := cl.Send(t.Context(), mail(3000))
						must(t, err)
					}
				}
				must(t, cl.Quit(t.Context()))
			}))
			// The first began with the SYN, and then the client waited a second.
			for i, want := range []float64{tt.first + 9, tt.second, tt.second} {
				since := begun[i]
				if i == 0 {
					since = time.Time{}
				}
				l, err := c.LedgerBetween(since, begun[i+1])
				must(t, err)
				if l.Trips(rtt) != want {
					t.Errorf("message %d: %v trips, want %v", i+1, l.Trips(rtt), want)
				}
				flights := c.FlightsBetween(since, begun[i+1])
				if last := flights[len(flights)-1]; !last.Final || !last.Complete.Equal(l.Final) {
					t.Errorf("message %d: the last flight is not the final one: %v", i+1, flights)
				}
			}
		})
	}
}

// Little of each segment need be kept, as long as the replies are.
func TestTripsWhereDataIsCut(t *testing.T) {
	for _, tt := range []struct {
		style  refpeer.Style
		secure bool
		want   float64
	}{
		{refpeer.LockStep, false, 7}, {refpeer.Pipelining, false, 5}, {refpeer.Chunking, false, 4},
		{refpeer.Early, false, 2},
		{refpeer.LockStep, true, 10}, {refpeer.Chunking, true, 7},
	} {
		srv, forClient := server(), (*tls.Config)(nil)
		if tt.secure {
			srv.TLS, forClient = configs(t, tls.VersionTLS13)
		}
		c := only(t, converse(t, srv, 2048, func(t *testing.T, conn net.Conn) {
			cl := &refpeer.Client{Conn: conn, Style: tt.style, TLS: forClient}
			_, err := cl.Send(t.Context(), mail(100<<10))
			must(t, err)
			must(t, cl.Quit(t.Context()))
		}))
		if got := trips(t, c, time.Time{}); got != tt.want {
			t.Errorf("%v, TLS: %v: %v trips, want %v", tt.style, tt.secure, got, tt.want)
		}
	}
}

// A session that began with an earlier one is known as such.
func TestResumedConversations(t *testing.T) {
	for _, tt := range []struct {
		version uint16
		trips   [2]float64
	}{
		{tls.VersionTLS12, [2]float64{8, 7}}, {tls.VersionTLS13, [2]float64{7, 7}},
	} {
		srv := server()
		var forClient *tls.Config
		srv.TLS, forClient = configs(t, tt.version)
		segments := converse(t, srv, all, func(t *testing.T, conn net.Conn) {
			cl := &refpeer.Client{Conn: conn, Style: refpeer.Chunking, TLS: forClient}
			_, err := cl.Send(t.Context(), mail(1))
			must(t, err)
			must(t, cl.Quit(t.Context()))
		})
		again := server()
		again.TLS = srv.TLS
		segments = append(segments, shifted(converse(t, again, all, func(t *testing.T, conn net.Conn) {
			cl := &refpeer.Client{Conn: conn, Style: refpeer.Chunking, TLS: forClient}
			_, err := cl.Send(t.Context(), mail(1))
			must(t, err)
			must(t, cl.Quit(t.Context()))
		}))...)
		conns := meter.Conns(segments)
		if len(conns) != 2 {
			t.Fatalf("%d connections, want 2", len(conns))
		}
		for i, c := range conns {
			if yes, known := c.Resumed(); yes != (i == 1) || !known {
				t.Errorf("%s, connection %d: %v, %v", tls.VersionName(tt.version), i, yes, known)
			}
			if got := trips(t, c, time.Time{}); got != tt.trips[i] {
				t.Errorf("%s, connection %d: %v trips, want %v", tls.VersionName(tt.version), i, got, tt.trips[i])
			}
		}
	}
}

// shifted moves segments an hour ahead, and their numbers by as much as two connections differ.
func shifted(segments []meter.Segment) []meter.Segment {
	for i := range segments {
		s := &segments[i]
		s.At, s.Arrives, s.Seq = s.At.Add(time.Hour), s.Arrives.Add(time.Hour), s.Seq+1<<20
	}
	return segments
}
