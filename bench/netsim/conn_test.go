package netsim

import (
	"bytes"
	"errors"
	"io"
	"math/rand/v2"
	"net"
	"os"
	"strings"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"golang.org/x/net/nettest"
)

// The conformance suite of net.Conn, in real time.
func TestConformance(t *testing.T) {
	for _, tt := range []struct {
		name   string
		link   Link
		window int
	}{
		{"no delay", Link{}, 0},
		{"delay", Link{Delay: 100 * time.Microsecond}, 0},
		{"small window", Link{Delay: 10 * time.Microsecond}, 1000},
		{"bandwidth", Link{Bandwidth: 1 << 30}, 0},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			nettest.TestConn(t, func() (c1, c2 net.Conn, stop func(), err error) {
				n := &Network{Default: tt.link, Window: tt.window}
				ln, err := n.Listen(server)
				if err != nil {
					return nil, nil, nil, err
				}
				if c1, err = n.Dial(t.Context(), clientIP, server); err != nil {
					return nil, nil, nil, err
				}
				if c2, err = ln.Accept(); err != nil {
					return nil, nil, nil, err
				}
				return c1, c2, func() {
					c1.Close()
					c2.Close()
					ln.Close()
				}, nil
			})
		})
	}
}

// Each Write arrives on its own, and what has arrived is read at once.
func TestSegments(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c, s := open(t, New(), Link{Delay: delay})
		start := time.Now()
		write(t, c, "MAIL ")
		write(t, c, "RCPT ")
		took(t, "Write", start, 0)
		time.Sleep(delay / 2)
		write(t, c, "DATA")
		reads(t, s, "MAIL RCPT ")
		took(t, "first flight", start, delay)
		reads(t, s, "DATA")
		took(t, "second flight", start, delay+delay/2)
		if sent, received := s.Segments(); sent != 0 || received != 3 {
			t.Errorf("Segments() = %d, %d; want 0, 3", sent, received)
		}
		write(t, c, "a long line")
		time.Sleep(delay)
		for _, want := range []string{"a lo", "ng l", "ine"} {
			buf := make([]byte, 4)
			if n, err := s.Read(buf); err != nil || string(buf[:n]) != want {
				t.Errorf("Read = %q, %v; want %q", buf[:n], err, want)
			}
		}
		if n, err := s.Read(nil); n != 0 || err != nil {
			t.Errorf("Read(nil) = %d, %v", n, err)
		}
	})
}

// A shorter link takes nothing past what is on the way.
func TestNoOvertaking(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := New()
		c, s := open(t, n, Link{Delay: delay})
		start := time.Now()
		write(t, c, "first ")
		n.SetLink(serverIP, clientIP, Link{})
		write(t, c, "second")
		reads(t, s, "first second")
		took(t, "both", start, delay)
		write(t, c, "third")
		reads(t, s, "third")
		took(t, "third", start, delay)
	})
}

func TestWindow(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c, s := open(t, &Network{Window: 10}, Link{Delay: delay})
		start := time.Now()
		go func() {
			write(t, c, "0123456789abcdefghijKLMNO")
			took(t, "Write", start, 5*time.Second+3*delay) // read at 5 s and one trip later; the news takes a delay
			c.CloseWrite()
		}()
		time.Sleep(5 * time.Second)
		for _, step := range []struct {
			want  string
			after time.Duration
		}{{"0123456789", 0}, {"abcdefghij", rtt}, {"KLMNO", 2 * rtt}} {
			reads(t, s, step.want)
			took(t, step.want, start, 5*time.Second+step.after)
		}
		fails(t, s, io.EOF)
		if sent, _ := c.Segments(); sent != 3 {
			t.Errorf("%d segments, want 3", sent)
		}
	})
}

func TestWindowDefault(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c, _ := open(t, New(), Link{Delay: delay})
		start := time.Now()
		c.SetWriteDeadline(start.Add(time.Minute))
		n, err := c.Write(make([]byte, DefaultWindow+1))
		if n != DefaultWindow || !errors.Is(err, os.ErrDeadlineExceeded) {
			t.Errorf("Write = %d, %v; want %d, %v", n, err, DefaultWindow, os.ErrDeadlineExceeded)
		}
		took(t, "Write", start, time.Minute)
	})
}

func TestHalfClose(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c, s := open(t, New(), Link{Delay: delay})
		start := time.Now()
		write(t, c, "QUIT\r\n")
		for range 2 {
			if err := c.CloseWrite(); err != nil {
				t.Errorf("CloseWrite: %v", err)
			}
		}
		breaks(t, c, syscall.EPIPE)
		reads(t, s, "QUIT\r\n")
		for range 2 {
			fails(t, s, io.EOF)
		}
		took(t, "end", start, delay)
		write(t, s, "221 bye\r\n")
		s.Close()
		reads(t, c, "221 bye\r\n")
		fails(t, c, io.EOF)
		took(t, "end of the other way", start, rtt)
		if err := c.Close(); err != nil {
			t.Errorf("Close: %v", err)
		}
	})
}

// How connections end, as it was seen over the loopback interface of Linux.
func TestEnds(t *testing.T) {
	tests := []struct {
		name string
		run  func(t *testing.T, c, s *Conn)
	}{
		{"a reset is told once, behind the data", func(t *testing.T, c, s *Conn) {
			start := time.Now()
			write(t, c, "hello")
			c.Reset()
			c.Reset()
			write(t, s, "crossing")
			reads(t, s, "hello")
			fails(t, s, syscall.ECONNRESET)
			took(t, "reset", start, delay)
			fails(t, s, io.EOF)
			breaks(t, s, syscall.EPIPE)
			fails(t, c, net.ErrClosed)
			breaks(t, c, net.ErrClosed)
		}},
		{"a reset is told to a writer", func(t *testing.T, c, s *Conn) {
			c.Reset()
			time.Sleep(delay)
			breaks(t, s, syscall.ECONNRESET)
			breaks(t, s, syscall.EPIPE)
			fails(t, s, io.EOF)
		}},
		{"a reset wakes a blocked writer", func(t *testing.T, c, s *Conn) {
			start := time.Now()
			time.AfterFunc(time.Second, c.Reset)
			_, err := s.Write(make([]byte, DefaultWindow+1))
			if !errors.Is(err, syscall.ECONNRESET) {
				t.Errorf("Write: %v, want %v", err, syscall.ECONNRESET)
			}
			took(t, "reset", start, time.Second+delay)
		}},
		{"closed with data unread", func(t *testing.T, c, s *Conn) {
			write(t, s, "unread")
			time.Sleep(delay)
			write(t, c, "554 go away")
			c.Close()
			reads(t, s, "554 go away")
			fails(t, s, syscall.ECONNRESET)
		}},
		{"closed while data comes", func(t *testing.T, c, s *Conn) {
			start := time.Now()
			write(t, s, "too late")
			write(t, c, "bye")
			c.Close()
			reads(t, s, "bye")
			fails(t, s, io.EOF)
			took(t, "end", start, delay)
			write(t, s, "no reset yet")
			time.Sleep(delay)
			breaks(t, s, syscall.EPIPE)
			fails(t, s, io.EOF)
		}},
		{"written to after close", func(t *testing.T, c, s *Conn) {
			c.Close()
			time.Sleep(time.Second)
			write(t, s, "lost")
			time.Sleep(rtt - time.Nanosecond)
			write(t, s, "lost too")
			time.Sleep(time.Nanosecond)
			breaks(t, s, syscall.EPIPE)
			if _, received := c.Segments(); received != 0 {
				t.Errorf("%d segments arrived at a closed end", received)
			}
		}},
		{"half-closed, then closed with data unread", func(t *testing.T, c, s *Conn) {
			c.CloseWrite()
			write(t, s, "unread")
			time.Sleep(delay)
			c.Close()
			fails(t, s, io.EOF)
			time.Sleep(delay)
			breaks(t, s, syscall.EPIPE)
			fails(t, s, io.EOF)
		}},
		{"both close", func(t *testing.T, c, s *Conn) {
			c.Close()
			if err := s.Close(); err != nil {
				t.Errorf("Close: %v", err)
			}
			if err := s.Close(); !errors.Is(err, net.ErrClosed) {
				t.Errorf("second Close: %v", err)
			}
			s.Reset()
			for _, err := range []error{s.CloseWrite(), s.SetDeadline(time.Now()), c.SetReadDeadline(time.Time{})} {
				if !errors.Is(err, net.ErrClosed) {
					t.Errorf("after Close: %v, want %v", err, net.ErrClosed)
				}
			}
		}},
		{"Close wakes both", func(t *testing.T, c, s *Conn) {
			time.AfterFunc(time.Second, func() { c.Close() })
			go fails(t, c, net.ErrClosed)
			n, err := c.Write(make([]byte, 2*DefaultWindow))
			if n != DefaultWindow || !errors.Is(err, net.ErrClosed) {
				t.Errorf("Write = %d, %v; want %d, %v", n, err, DefaultWindow, net.ErrClosed)
			}
		}},
		{"the other side vanishes", func(t *testing.T, c, s *Conn) {
			c.end.net.Blackhole(serverIP)
			start := time.Now()
			write(t, s, "anybody there?")
			s.Close()
			c.SetDeadline(start.Add(time.Hour))
			fails(t, c, os.ErrDeadlineExceeded)
			took(t, "deadline", start, time.Hour)
			if sent, _ := s.Segments(); sent != 1 {
				t.Errorf("%d segments sent, want 1", sent)
			}
			if _, received := c.Segments(); received != 0 {
				t.Errorf("%d segments received, want none", received)
			}
		}},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				c, s := open(t, New(), Link{Delay: delay})
				tt.run(t, c, s)
			})
		})
	}
}

func TestDeadlines(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c, s := open(t, New(), Link{Delay: delay})
		start := time.Now()
		s.SetReadDeadline(start.Add(delay / 2))
		write(t, c, "late")
		fails(t, s, os.ErrDeadlineExceeded)
		took(t, "deadline", start, delay/2)
		time.Sleep(delay)
		fails(t, s, os.ErrDeadlineExceeded) // even though there is something to read
		s.SetReadDeadline(time.Time{})
		reads(t, s, "late")

		// A deadline set in the past wakes a Read that waits already.
		start = time.Now()
		time.AfterFunc(time.Second, func() { s.SetDeadline(time.Unix(1, 0)) })
		fails(t, s, os.ErrDeadlineExceeded)
		took(t, "deadline", start, time.Second)
		breaks(t, s, os.ErrDeadlineExceeded)
		var timeout net.Error
		if _, err := s.Read(make([]byte, 1)); !errors.As(err, &timeout) || !timeout.Timeout() {
			t.Errorf("Read: %v, want a timeout", err)
		}

		// One that is moved does not strike at its first time.
		s.SetDeadline(start.Add(time.Minute))
		time.AfterFunc(30*time.Second, func() { s.SetDeadline(start.Add(time.Hour)) })
		fails(t, s, os.ErrDeadlineExceeded)
		took(t, "moved deadline", start, time.Hour)
	})
}

// Two Writes do not mix, however small the window, and the second one also keeps
// its deadline while it waits for the first.
func TestConcurrentWrites(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c, s := open(t, &Network{Window: 3}, Link{Delay: delay})
		for _, letter := range []string{"a", "b", "c"} {
			go func() {
				write(t, c, strings.Repeat(letter, 100))
			}()
		}
		buf := make([]byte, 300)
		if _, err := io.ReadFull(s, buf); err != nil {
			t.Fatal(err)
		}
		for i, b := range buf {
			if b != buf[i/100*100] {
				t.Fatalf("mixed: %s", buf)
			}
		}
		synctest.Wait()
		start := time.Now()
		c.SetWriteDeadline(start.Add(time.Minute))
		go c.Write(make([]byte, 100))
		synctest.Wait()
		breaks(t, c, os.ErrDeadlineExceeded)
		took(t, "deadline", start, time.Minute)
	})
}

// Whatever the sizes, the link and the window: what arrives is what was sent.
func TestStream(t *testing.T) {
	for seed := range uint64(20) {
		synctest.Test(t, func(t *testing.T) {
			r := rand.New(rand.NewPCG(seed, 1))
			link := Link{Delay: time.Duration(r.IntN(100)) * time.Millisecond, Bandwidth: r.Int64N(3) * 1e6}
			n := &Network{Window: 1 + r.IntN(1<<14)}
			c, s := open(t, n, link)
			sent := make([]byte, 1<<16)
			for i := range sent {
				sent[i] = byte(r.Uint32())
			}
			sizes := rand.New(rand.NewPCG(seed, 2))
			go func() {
				for rest := sent; len(rest) > 0; {
					k := min(len(rest), 1+sizes.IntN(1<<13))
					if _, err := c.Write(rest[:k]); err != nil {
						t.Error(err)
						return
					}
					rest = rest[k:]
					if sizes.IntN(4) == 0 {
						n.SetLink(clientIP, serverIP, Link{Delay: time.Duration(sizes.IntN(100)) * time.Millisecond})
					}
				}
				c.Close()
			}()
			var got bytes.Buffer
			if _, err := io.CopyBuffer(struct{ io.Writer }{&got}, s, make([]byte, 1+r.IntN(1<<12))); err != nil {
				t.Error(err)
			}
			if !bytes.Equal(got.Bytes(), sent) {
				t.Errorf("seed %d: %d octets arrived, and not those that were sent", seed, got.Len())
			}
		})
	}
}

func TestPair(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c, s := Pair(Link{Delay: delay})
		start := time.Now()
		write(t, s, "220 hello")
		reads(t, c, "220 hello")
		took(t, "greeting", start, Link{Delay: delay}.RTT()/2)
		c.Close()
		fails(t, s, io.EOF)
		s.Close()
	})
}
