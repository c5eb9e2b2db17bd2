package netsim

import (
	"context"
	"errors"
	"io"
	"net"
	"net/netip"
	"os"
	"strings"
	"sync"
	"syscall"
	"testing"
	"testing/synctest"
	"time"
)

// A fastWorld has a client with a cookie of a server.
type fastWorld struct {
	*Network
	t  *testing.T
	ln net.Listener
}

func newFastWorld(t *testing.T) *fastWorld {
	t.Helper()
	w := &fastWorld{Network: New(), t: t}
	w.SetLink(clientIP, serverIP, Link{Delay: delay})
	w.ln = listen(t, w.Network, server)
	w.SetFastOpen(server, true)
	start := time.Now()
	first := w.dial()
	took(t, "the first contact", start, rtt)
	if _, err := w.ln.Accept(); err != nil || first.SynData() {
		t.Errorf("the first contact: %v, data in the SYN: %v", err, first.SynData())
	}
	return w
}

// dial dials fast, which must not fail.
func (w *fastWorld) dial() *Conn {
	w.t.Helper()
	c, err := w.FastDialer(clientIP)(w.t.Context(), "tcp", netip.Addr{}, server)
	if err != nil {
		w.t.Fatal(err)
	}
	w.t.Cleanup(func() { c.Close() })
	return c.(*Conn)
}

// serve answers all that comes at once with "250 ok".
func (w *fastWorld) serve() {
	go func() {
		for {
			s, err := w.ln.Accept()
			if err != nil {
				return
			}
			go func() {
				defer s.Close()
				for {
					if _, err := s.Read(make([]byte, 1<<10)); err != nil {
						return
					}
					if _, err := io.WriteString(s, "250 ok"); err != nil {
						return
					}
				}
			}()
		}
	}()
}

// Fast Open saves exactly one trip.
func TestFastOpenTrip(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newFastWorld(t)
		w.serve()
		for _, tt := range []struct {
			name string
			dial func(context.Context, string, netip.Addr, string) (net.Conn, error)
			want time.Duration
		}{
			{"with", w.FastDialer(clientIP), rtt},
			{"without", w.Dialer(clientIP), 2 * rtt},
		} {
			start := time.Now()
			c, err := tt.dial(t.Context(), "tcp", netip.Addr{}, server)
			if err != nil {
				t.Fatal(err)
			}
			write(t, c, "EHLO client.example\r\n")
			reads(t, c, "250 ok")
			took(t, tt.name, start, tt.want)
			c.Close()
		}
		w.ln.Close()
		time.Sleep(delay) // until the servers have heard of the end
	})
}

func TestFastOpen(t *testing.T) {
	long := strings.Repeat("x", MaxSynData)
	tests := []struct {
		name string
		run  func(t *testing.T, w *fastWorld)
	}{
		{"the SYN brings the data", func(t *testing.T, w *fastWorld) {
			start := time.Now()
			c := w.dial()
			took(t, "Dial", start, 0)
			acked(t, c, 0)
			time.Sleep(time.Second) // nothing is sent meanwhile
			start = time.Now()
			write(t, c, "hello")
			took(t, "Write", start, 0)
			s, err := w.ln.Accept()
			took(t, "Accept", start, delay)
			if err != nil {
				t.Fatal(err)
			}
			reads(t, s, "hello")
			took(t, "Read", start, delay)
			write(t, s, "250 ok")
			if c.SynData() {
				t.Error("the SYN-ACK is here before its time")
			}
			acked(t, c, 0)
			reads(t, c, "250 ok")
			took(t, "the answer", start, rtt)
			acked(t, c, 5)
			if !c.SynData() {
				t.Error("the SYN carried no data")
			}
			write(t, c, "more")
			reads(t, s, "more")
			took(t, "more", start, 3*delay)
		}},
		{"a second write waits for the SYN-ACK", func(t *testing.T, w *fastWorld) {
			c := w.dial()
			start := time.Now()
			write(t, c, "commands")
			write(t, c, "text")
			took(t, "the second write", start, rtt)
			s, _ := w.ln.Accept()
			reads(t, s, "commands")
			took(t, "commands", start, rtt)
			reads(t, s, "text")
			took(t, "text", start, 3*delay)
		}},
		{"what the SYN has no room for waits", func(t *testing.T, w *fastWorld) {
			c := w.dial()
			start := time.Now()
			write(t, c, long+"more")
			took(t, "the write", start, rtt)
			s, _ := w.ln.Accept()
			buf := make([]byte, 2*MaxSynData)
			if n, err := s.Read(buf); n != MaxSynData || err != nil {
				t.Errorf("Read = %d, %v; want %d", n, err, MaxSynData)
			}
			reads(t, s, "more")
			took(t, "the rest", start, 3*delay)
			if sent, _ := c.Segments(); sent != 2 {
				t.Errorf("%d segments, want 2", sent)
			}
		}},
		{"it fits", func(t *testing.T, w *fastWorld) {
			c := w.dial()
			start := time.Now()
			write(t, c, long)
			took(t, "the write", start, 0)
		}},
		{"not taken any more", func(t *testing.T, w *fastWorld) {
			w.SetFastOpen(server, false)
			c := w.dial()
			start := time.Now()
			write(t, c, "hello")
			s, _ := w.ln.Accept()
			reads(t, s, "hello")
			took(t, "the data", start, 3*delay)
			acked(t, c, 0)
			write(t, s, "250 ok")
			reads(t, c, "250 ok")
			took(t, "the answer", start, 2*rtt)
			acked(t, c, 5)
			if c.SynData() {
				t.Error("the SYN carried data")
			}
		}},
		{"the server speaks first", func(t *testing.T, w *fastWorld) {
			c := w.dial()
			start := time.Now()
			write(t, c, "hello")
			s, _ := w.ln.Accept()
			write(t, s, "220 here")
			reads(t, c, "220 here")
			took(t, "the greeting", start, rtt)
		}},
		{"reading first sends nothing", func(t *testing.T, w *fastWorld) {
			c := w.dial()
			start := time.Now()
			c.SetReadDeadline(start.Add(time.Hour))
			fails(t, c, os.ErrDeadlineExceeded)
			took(t, "the deadline", start, time.Hour)
			c.SetReadDeadline(time.Time{})
			time.AfterFunc(time.Second, func() {
				write(t, c, "") // is no data
				write(t, c, "hello")
			})
			go func() {
				s, _ := w.ln.Accept()
				write(t, s, "250 ok")
			}()
			reads(t, c, "250 ok") // who reads is woken
			took(t, "the answer", start, time.Hour+time.Second+rtt)
		}},
		{"nobody listens", func(t *testing.T, w *fastWorld) {
			w.ln.Close()
			c := w.dial()
			start := time.Now()
			write(t, c, "hello")
			fails(t, c, syscall.ECONNREFUSED)
			took(t, "the refusal", start, rtt)
			acked(t, c, 0)
			fails(t, c, io.EOF)
			breaks(t, c, syscall.EPIPE)
		}},
		{"nobody listens, says the second write", func(t *testing.T, w *fastWorld) {
			w.ln.Close()
			c := w.dial()
			start := time.Now()
			write(t, c, "commands")
			breaks(t, c, syscall.ECONNREFUSED)
			took(t, "the refusal", start, rtt)
		}},
		{"nobody answers", func(t *testing.T, w *fastWorld) {
			w.Blackhole(serverIP)
			c := w.dial()
			start := time.Now()
			write(t, c, "hello")
			fails(t, c, syscall.ETIMEDOUT)
			took(t, "the end", start, ConnectTimeout)
			acked(t, c, 0)
		}},
		{"nobody answers within the limit", func(t *testing.T, w *fastWorld) {
			w.Blackhole(serverIP)
			c := w.dial()
			c.LimitUnacked(5 * time.Second)
			start := time.Now()
			write(t, c, "hello")
			breaks(t, c, syscall.ETIMEDOUT)
			took(t, "the end", start, 5*time.Second)
			acked(t, c, 0)
		}},
		{"the SYN-ACK is lost", func(t *testing.T, w *fastWorld) {
			c := w.dial()
			start := time.Now()
			write(t, c, "hello")
			time.Sleep(delay / 2)
			w.Blackhole(serverIP)
			s, _ := w.ln.Accept()
			reads(t, s, "hello")
			write(t, s, "250 ok")
			fails(t, c, syscall.ETIMEDOUT)
			took(t, "the end", start, ConnectTimeout)
			acked(t, c, 0)
		}},
		{"half-closed before the SYN-ACK", func(t *testing.T, w *fastWorld) {
			c := w.dial()
			write(t, c, "hello")
			c.CloseWrite()
			fails(t, c, syscall.ECONNRESET)
			acked(t, c, 0)
			s, _ := w.ln.Accept()
			reads(t, s, "hello")
			fails(t, s, syscall.ECONNRESET)
		}},
		{"half-closed behind it", func(t *testing.T, w *fastWorld) {
			c := w.dial()
			write(t, c, "hello")
			time.Sleep(rtt)
			c.CloseWrite()
			s, _ := w.ln.Accept()
			reads(t, s, "hello")
			fails(t, s, io.EOF)
			write(t, s, "250 ok")
			reads(t, c, "250 ok")
		}},
		{"closed before the SYN-ACK", func(t *testing.T, w *fastWorld) {
			c := w.dial()
			start := time.Now()
			write(t, c, "hello")
			c.Close()
			fails(t, c, net.ErrClosed)
			s, _ := w.ln.Accept()
			reads(t, s, "hello")
			fails(t, s, syscall.ECONNRESET)
			took(t, "the reset", start, 3*delay)
		}},
		{"closed before the SYN", func(t *testing.T, w *fastWorld) {
			w.Trace = func(s Segment) { t.Errorf("sent: %v", s) }
			w.dial().Close()
			w.dial().Reset()
			w.dial().CloseWrite()
			w.Trace = nil // the first contact ends now
		}},
		{"the listener closes meanwhile", func(t *testing.T, w *fastWorld) {
			c := w.dial()
			write(t, c, "hello")
			w.ln.Close()
			fails(t, c, syscall.ECONNRESET)
		}},
		{"the cookie is for one address and all its ports", func(t *testing.T, w *fastWorld) {
			other := listen(t, w.Network, serverIP+":465")
			w.SetFastOpen(serverIP+":465", true)
			start := time.Now()
			c, err := w.FastDialer(clientIP)(t.Context(), "tcp", netip.Addr{}, serverIP+":465")
			if err != nil {
				t.Fatal(err)
			}
			took(t, "Dial", start, 0)
			write(t, c, "hello")
			s, _ := other.Accept()
			reads(t, s, "hello")
			took(t, "the data", start, delay)
			start = time.Now()
			w.SetLink("198.51.100.8", serverIP, Link{Delay: delay})
			if c, err = w.FastDialer("198.51.100.8")(t.Context(), "tcp", netip.Addr{}, server); err != nil {
				t.Fatal(err)
			}
			took(t, "Dial", start, rtt)
			c.Close()
		}},
		{"no cookie where none is given", func(t *testing.T, w *fastWorld) {
			const elsewhere = "192.0.2.9:25"
			listen(t, w.Network, elsewhere)
			w.SetLink(clientIP, "192.0.2.9", Link{Delay: delay})
			for range 2 {
				start := time.Now()
				c, err := w.FastDialer(clientIP)(t.Context(), "tcp", netip.Addr{}, elsewhere)
				if err != nil {
					t.Fatal(err)
				}
				took(t, "Dial", start, rtt)
				c.Close()
			}
		}},
		{"cancelled", func(t *testing.T, w *fastWorld) {
			ctx, cancel := context.WithCancel(t.Context())
			cancel()
			if _, err := w.FastDialer(clientIP)(ctx, "tcp", netip.Addr{}, server); !errors.Is(err, context.Canceled) {
				t.Errorf("Dial: %v, want %v", err, context.Canceled)
			}
		}},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) { tt.run(t, newFastWorld(t)) })
		})
	}
}

// The trace shows one SYN with data, and the answer to it.
func TestFastOpenTrace(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newFastWorld(t)
		var lines []string
		w.Trace = func(s Segment) { lines = append(lines, strings.Replace(s.String(), s.From.String(), "", 1)) }
		c := w.dial()
		write(t, c, "hello")
		s, _ := w.ln.Accept()
		write(t, s, "250")
		reads(t, c, "250")
		got := strings.Join(lines, "\n")
		if len(lines) != 3 || strings.Count(got, "SYN") != 2 || !strings.Contains(got, `SYN 5 "hello"`) {
			t.Errorf("the trace is\n%s", got)
		}
	})
}

// The first Write gives its lock up for a moment: in real time, with everybody at work.
func TestFastOpenConcurrent(t *testing.T) {
	n := New()
	ln := listen(t, n, server)
	n.SetFastOpen(server, true)
	dialFast := n.FastDialer(clientIP)
	var all sync.WaitGroup
	all.Go(func() {
		for {
			s, err := ln.Accept()
			if err != nil {
				return
			}
			s.SetDeadline(time.Now().Add(time.Minute))
			all.Go(func() {
				io.Copy(s, s)
				s.Close()
			})
		}
	})
	for range 500 {
		c, err := dialFast(t.Context(), "tcp", netip.Addr{}, server)
		if err != nil {
			t.Fatal(err)
		}
		c.SetDeadline(time.Now().Add(time.Minute))
		all.Go(func() { io.WriteString(c, "hello") })
		all.Go(func() { c.Read(make([]byte, 10)) })
		all.Go(func() { c.(*Conn).Acked() })
		all.Go(func() { c.(*Conn).LimitUnacked(time.Minute) })
		all.Go(func() { c.Close() })
	}
	ln.Close()
	all.Wait()
}
