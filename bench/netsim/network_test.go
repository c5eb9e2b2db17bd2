package netsim

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"os"
	"slices"
	"strings"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"go.uber.org/goleak"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

const (
	clientIP = "198.51.100.7"
	serverIP = "192.0.2.1"
	server   = serverIP + ":25"
	delay    = 40 * time.Millisecond
	rtt      = 2 * delay
)

// open returns a network with one link, and both ends of a connection over it.
// The clock stands at the moment in which the last ACK arrived.
func open(t *testing.T, n *Network, l Link) (client, accepted *Conn) {
	t.Helper()
	n.SetLink(clientIP, serverIP, l)
	ln := listen(t, n, server)
	c := dial(t, n, clientIP, server)
	s, err := ln.Accept()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		c.Close()
		s.Close()
	})
	return c, s.(*Conn)
}

func listen(t *testing.T, n *Network, addr string) net.Listener {
	t.Helper()
	ln, err := n.Listen(addr)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { ln.Close() })
	return ln
}

func dial(t *testing.T, n *Network, from, to string) *Conn {
	t.Helper()
	c, err := n.Dial(t.Context(), from, to)
	if err != nil {
		t.Fatal(err)
	}
	return c.(*Conn)
}

// took asserts that exactly want has passed since start.
func took(t *testing.T, what string, start time.Time, want time.Duration) {
	t.Helper()
	if got := time.Since(start); got != want {
		t.Errorf("%s after %v, want %v", what, got, want)
	}
}

func write(t *testing.T, c net.Conn, s string) {
	t.Helper()
	if n, err := c.Write([]byte(s)); n != len(s) || err != nil {
		t.Errorf("Write(%.20q) = %d, %v", s, n, err)
	}
}

// reads asserts what one Read returns.
func reads(t *testing.T, c net.Conn, want string) {
	t.Helper()
	buf := make([]byte, 1<<10)
	n, err := c.Read(buf)
	if err != nil || string(buf[:n]) != want {
		t.Errorf("Read = %q, %v; want %q", buf[:n], err, want)
	}
}

// fails asserts the error of one Read.
func fails(t *testing.T, c net.Conn, want error) {
	t.Helper()
	n, err := c.Read(make([]byte, 16))
	if n != 0 || !errors.Is(err, want) {
		t.Errorf("Read = %d, %v; want %v", n, err, want)
	}
}

// breaks asserts the error of one Write.
func breaks(t *testing.T, c net.Conn, want error) {
	t.Helper()
	if n, err := c.Write([]byte("x")); n != 0 || !errors.Is(err, want) {
		t.Errorf("Write = %d, %v; want %v", n, err, want)
	}
}

func TestHandshake(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := New()
		n.SetLink(clientIP, serverIP, Link{Delay: delay})
		ln := listen(t, n, server)
		start := time.Now()
		done := make(chan struct{})
		go func() {
			defer close(done)
			s, err := ln.Accept()
			if err != nil {
				t.Error(err)
				return
			}
			defer s.Close()
			took(t, "Accept", start, 3*rtt/2)
			write(t, s, "220 greeting")
			reads(t, s, "early")
			took(t, "early data", start, 3*rtt/2)
		}()
		c := dial(t, n, clientIP, server)
		defer c.Close()
		took(t, "Dial", start, rtt)
		write(t, c, "early")
		reads(t, c, "220 greeting")
		took(t, "greeting", start, 2*rtt)
		<-done
	})
}

func TestRealTime(t *testing.T) {
	const delay = 5 * time.Millisecond
	start := time.Now()
	_, s := open(t, &Network{Default: Link{Delay: time.Hour}}, Link{Delay: delay})
	if got := time.Since(start); got < 3*delay || got > 30*time.Second {
		t.Errorf("Accept after %v, want a little more than %v", got, 3*delay)
	}
	start = time.Now()
	if err := s.SetReadDeadline(start.Add(delay)); err != nil {
		t.Error(err)
	}
	fails(t, s, os.ErrDeadlineExceeded)
	if got := time.Since(start); got < delay {
		t.Errorf("deadline after %v, want %v", got, delay)
	}
}

func TestDialErrors(t *testing.T) {
	tests := []struct {
		name    string
		from    string
		to      string
		timeout time.Duration
		want    error
		after   time.Duration
	}{
		{"nobody listens", clientIP, serverIP + ":26", 0, syscall.ECONNREFUSED, rtt},
		{"nobody listens there, no delay", clientIP, "192.0.2.9:25", 0, syscall.ECONNREFUSED, 0},
		{"black hole", clientIP, "192.0.2.2:25", 0, syscall.ETIMEDOUT, ConnectTimeout},
		{"black hole, deadline", clientIP, "192.0.2.2:25", time.Second, context.DeadlineExceeded, time.Second},
		{"one port is a black hole", clientIP, serverIP + ":465", time.Second, context.DeadlineExceeded, time.Second},
		{"from a black hole", "192.0.2.2", server, time.Second, context.DeadlineExceeded, time.Second},
		{"deadline before the SYN-ACK", clientIP, server, rtt - 1, context.DeadlineExceeded, rtt - 1},
		{"deadline before the SYN arrives", clientIP, server, 1, context.DeadlineExceeded, 1},
		{"malformed target", clientIP, "mx.example:25", 0, nil, 0},
		{"malformed source", "localhost", server, 0, nil, 0},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				n := New()
				n.SetLink(clientIP, serverIP, Link{Delay: delay})
				n.Blackhole("192.0.2.2")
				n.Blackhole(serverIP + ":465")
				listen(t, n, server)
				listen(t, n, serverIP+":465")
				ctx := t.Context()
				if tt.timeout > 0 {
					var cancel context.CancelFunc
					ctx, cancel = context.WithTimeout(ctx, tt.timeout)
					defer cancel()
				}
				start := time.Now()
				c, err := n.Dial(ctx, tt.from, tt.to)
				took(t, "Dial", start, tt.after)
				var op *net.OpError
				if c != nil || !errors.As(err, &op) || op.Op != "dial" {
					t.Fatalf("Dial = %v, %v; want an OpError of dial", c, err)
				}
				if tt.want != nil && !errors.Is(err, tt.want) {
					t.Errorf("Dial: %v, want %v", err, tt.want)
				}
				if wait := tt.want == context.DeadlineExceeded || tt.want == syscall.ETIMEDOUT; op.Timeout() != wait {
					t.Errorf("Timeout() = %v, want %v", op.Timeout(), wait)
				}
			})
		})
	}
}

func TestDialCancelled(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := &Network{Default: Link{Delay: delay}}
		ln := listen(t, n, server)
		ctx, cancel := context.WithCancel(t.Context())
		time.AfterFunc(delay/2, cancel)
		if _, err := n.Dial(ctx, clientIP, server); !errors.Is(err, context.Canceled) {
			t.Errorf("Dial: %v, want %v", err, context.Canceled)
		}
		if _, err := n.Dial(ctx, clientIP, server); !errors.Is(err, context.Canceled) {
			t.Errorf("Dial, cancelled before: %v, want %v", err, context.Canceled)
		}
		// Nothing of it reaches the listener.
		time.AfterFunc(time.Minute, func() { ln.Close() })
		if c, err := ln.Accept(); !errors.Is(err, net.ErrClosed) {
			t.Errorf("Accept = %v, %v; want %v", c, err, net.ErrClosed)
		}
	})
}

func TestAddresses(t *testing.T) {
	n := New()
	ln := listen(t, n, "[2001:db8::1]:25")
	for _, tt := range []struct{ from, local string }{
		{"2001:db8::7", "[2001:db8::7]:49152"},
		{"[2001:db8::7]:0", "[2001:db8::7]:49153"},
		{"[2001:db8::7]:1234", "[2001:db8::7]:1234"},
		{"::ffff:198.51.100.7", "198.51.100.7:49154"},
	} {
		c, err := n.Dial(t.Context(), tt.from, "[2001:db8::1]:25")
		if err != nil {
			t.Fatal(err)
		}
		s, err := ln.Accept()
		if err != nil {
			t.Fatal(err)
		}
		want := netip.MustParseAddrPort(tt.local)
		if got := c.LocalAddr().(*net.TCPAddr).AddrPort(); got != want {
			t.Errorf("from %s: LocalAddr = %v, want %v", tt.from, got, want)
		}
		if got := s.RemoteAddr().(*net.TCPAddr).AddrPort(); got != want {
			t.Errorf("from %s: RemoteAddr = %v, want %v", tt.from, got, want)
		}
		for _, a := range []net.Addr{c.RemoteAddr(), s.LocalAddr(), ln.Addr()} {
			if a.Network() != "tcp" || a.String() != "[2001:db8::1]:25" {
				t.Errorf("server address = %s %s", a.Network(), a)
			}
		}
	}
}

func TestDialer(t *testing.T) {
	n := New()
	listen(t, n, server)
	dial := n.Dialer(clientIP)
	for _, tt := range []struct {
		source netip.Addr
		want   string
	}{
		{netip.Addr{}, clientIP},
		{netip.MustParseAddr("203.0.113.1"), "203.0.113.1"},
	} {
		c, err := dial(t.Context(), "tcp4", tt.source, server)
		if err != nil {
			t.Fatal(err)
		}
		if got := c.LocalAddr().(*net.TCPAddr).IP.String(); got != tt.want {
			t.Errorf("from %v: LocalAddr = %s, want %s", tt.source, got, tt.want)
		}
	}
	if c, err := dial(t.Context(), "unix", netip.Addr{}, "/run/smtp"); err == nil {
		t.Errorf("dial unix = %v, want an error", c)
	}
}

func TestListenErrors(t *testing.T) {
	n := New()
	listen(t, n, server)
	if _, err := n.Listen(server); !errors.Is(err, syscall.EADDRINUSE) {
		t.Errorf("second Listen: %v, want %v", err, syscall.EADDRINUSE)
	}
	for _, addr := range []string{"", ":25", "mx.example:25", serverIP, "0.0.0.0:25", "[::]:25"} {
		if ln, err := n.Listen(addr); err == nil {
			t.Errorf("Listen(%q) = %v, want an error", addr, ln.Addr())
		}
	}
	a, b := listen(t, n, serverIP+":0"), listen(t, n, serverIP+":0")
	if a.Addr().String() == b.Addr().String() {
		t.Errorf("two listeners at %v", a.Addr())
	}
}

func TestListenerClose(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := &Network{Default: Link{Delay: delay}}
		ln := listen(t, n, server)
		waiting := dial(t, n, clientIP, server)
		time.Sleep(rtt)
		underway := dial(t, n, clientIP, server) // its ACK is not there yet
		late := make(chan *Conn)
		go func() { late <- dial(t, n, clientIP, server) }()
		time.Sleep(delay + delay/2) // and this one has its SYN-ACK under way
		start := time.Now()
		go ln.Close()

		fails(t, waiting, syscall.ECONNRESET)
		took(t, "reset of what waited", start, delay)
		fails(t, underway, syscall.ECONNRESET)
		fails(t, <-late, syscall.ECONNRESET)
		took(t, "reset of what came late", start, delay/2+rtt)

		if _, err := n.Dial(t.Context(), clientIP, server); !errors.Is(err, syscall.ECONNREFUSED) {
			t.Errorf("Dial: %v, want %v", err, syscall.ECONNREFUSED)
		}
		if err := ln.Close(); !errors.Is(err, net.ErrClosed) {
			t.Errorf("second Close: %v", err)
		}
		listen(t, n, server) // the address is free again
	})
}

// The first to be open is the first to be accepted, whoever dialed first.
func TestAcceptOrder(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := New()
		n.SetLink("203.0.113.1", serverIP, Link{Delay: delay})
		n.SetLink("203.0.113.2", serverIP, Link{Delay: delay / 4})
		ln := listen(t, n, server)
		start := time.Now()
		for _, from := range []string{"203.0.113.1", "203.0.113.2"} {
			go n.Dial(t.Context(), from, server)
		}
		go func() {
			time.Sleep(rtt) // while the far one waits for its ACK
			n.Dial(t.Context(), "203.0.113.3", server)
		}()
		for _, want := range []struct {
			from  string
			after time.Duration
		}{{"203.0.113.2", 3 * delay / 4}, {"203.0.113.3", rtt}, {"203.0.113.1", 3 * delay}} {
			c, err := ln.Accept()
			if err != nil {
				t.Fatal(err)
			}
			took(t, "Accept from "+want.from, start, want.after)
			if got := c.RemoteAddr().(*net.TCPAddr).IP.String(); got != want.from {
				t.Errorf("accepted %s, want %s", got, want.from)
			}
		}
	})
}

func TestBacklog(t *testing.T) {
	n := New()
	listen(t, n, server)
	for range MaxBacklog {
		dial(t, n, clientIP, server)
	}
	if _, err := n.Dial(t.Context(), clientIP, server); !errors.Is(err, syscall.ECONNREFUSED) {
		t.Errorf("Dial: %v, want %v", err, syscall.ECONNREFUSED)
	}
}

func TestTrace(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var got []string
		start := time.Now()
		n := &Network{Trace: func(s Segment) {
			arrives := "never"
			if !s.Arrives.IsZero() {
				arrives = s.Arrives.Sub(start).String()
			}
			got = append(got, fmt.Sprintf("%v %s %v", s.At.Sub(start), arrives, s))
		}}
		c, s := open(t, n, Link{Delay: delay})
		write(t, s, "220 mx.example ESMTP\r\n")
		reads(t, c, "220 mx.example ESMTP\r\n")
		write(t, c, "EHLO client.example\r\n")
		write(t, c, strings.Repeat("x", MaxTraceData+1))
		c.CloseWrite()
		time.Sleep(delay)
		if sent, received := c.Segments(); sent != 2 || received != 1 {
			t.Errorf("client: %d segments sent, %d received; want 2, 1", sent, received)
		}
		s.Close() // with data unread
		n.Dial(t.Context(), clientIP, serverIP+":26")
		n.Blackhole(serverIP)
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		n.Dial(ctx, clientIP, server)

		const c1, c2, c3 = clientIP + ":49152", clientIP + ":49153", clientIP + ":49154"
		want := []string{
			"0s 40ms " + c1 + " > " + server + " SYN",
			"40ms 80ms " + server + " > " + c1 + " SYN",
			"120ms 160ms " + server + " > " + c1 + ` 22 "220 mx.example ESMTP\r\n"`,
			"160ms 200ms " + c1 + " > " + server + ` 21 "EHLO client.example\r\n"`,
			"160ms 200ms " + c1 + " > " + server + ` 129 "` + strings.Repeat("x", MaxTraceData) + `"`,
			"160ms 200ms " + c1 + " > " + server + " FIN",
			"200ms 240ms " + server + " > " + c1 + " RST",
			"200ms 240ms " + c2 + " > " + serverIP + ":26 SYN",
			"240ms 280ms " + serverIP + ":26 > " + c2 + " RST",
			"280ms never " + c3 + " > " + server + " SYN lost",
		}
		if !slices.Equal(got, want) {
			t.Errorf("trace:\n%s\nwant:\n%s", strings.Join(got, "\n"), strings.Join(want, "\n"))
		}
	})
}

func TestTraceData(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		for _, keep := range []int{1, MaxTraceData + 1, 1 << 20} {
			kept := 0
			n := &Network{TraceData: keep, Trace: func(s Segment) { kept += len(s.Data) }}
			c, _ := open(t, n, Link{Delay: delay})
			write(t, c, strings.Repeat("x", MaxTraceData+2))
			if want := min(keep, MaxTraceData+2); kept != want {
				t.Errorf("of %d octets %d are kept, want %d", MaxTraceData+2, kept, want)
			}
		}
	})
}

func TestBandwidth(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := New()
		n.SetLink(clientIP, serverIP, Link{Delay: delay, Bandwidth: 100_000})
		ln := listen(t, n, server)
		var conns [2]net.Conn
		for i := range conns {
			conns[i] = dial(t, n, clientIP, server)
			defer conns[i].Close()
		}
		var accepted [2]net.Conn
		for i := range accepted {
			accepted[i], _ = ln.Accept()
			defer accepted[i].Close()
		}
		start := time.Now()
		body := strings.Repeat("x", 10_000)
		write(t, conns[0], body) // 100 ms of the line
		write(t, conns[1], body) // behind it
		write(t, conns[0], body)
		write(t, accepted[0], body) // the other way is free
		took(t, "Write", start, 0)

		for _, step := range []struct {
			conn  net.Conn
			after time.Duration
		}{
			{conns[0], 100*time.Millisecond + delay},
			{accepted[0], 100*time.Millisecond + delay},
			{accepted[1], 200*time.Millisecond + delay},
			{accepted[0], 300*time.Millisecond + delay},
		} {
			if _, err := io.ReadFull(step.conn, make([]byte, len(body))); err != nil {
				t.Fatal(err)
			}
			took(t, "body", start, step.after)
		}
	})
}

func TestSending(t *testing.T) {
	for _, tt := range []struct {
		size, bandwidth int64
		want            time.Duration
	}{
		{0, 1, 0},
		{1, 1, time.Second},
		{1, 3, 333333333},
		{10, 4, 2500 * time.Millisecond},
		{1 << 40, 1 << 40, time.Second},
		{1<<62 - 1, 1 << 62, time.Second - 1},
	} {
		if got := sending(tt.size, tt.bandwidth); got != tt.want {
			t.Errorf("sending(%d, %d) = %v, want %v", tt.size, tt.bandwidth, got, tt.want)
		}
	}
}
