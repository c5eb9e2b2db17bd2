package netsim

import (
	"io"
	"net"
	"os"
	"sync"
	"syscall"
	"testing"
	"testing/synctest"
	"time"
)

// acked asserts what is acknowledged.
func acked(t *testing.T, c *Conn, want int64) {
	t.Helper()
	if n, ok := c.Acked(); n != want || !ok {
		t.Errorf("acknowledged: %d, %v; want %d", n, ok, want)
	}
}

// Acknowledgements come one delay after the data arrived, and never behind the end.
func TestAcked(t *testing.T) {
	tests := []struct {
		name string
		run  func(t *testing.T, c, s *Conn)
	}{
		{"in time", func(t *testing.T, c, s *Conn) {
			acked(t, c, 0)
			write(t, c, "hello")
			time.Sleep(delay)
			write(t, c, "world!")
			time.Sleep(delay - time.Nanosecond)
			acked(t, c, 0)
			time.Sleep(time.Nanosecond)
			acked(t, c, 5) // unread
			time.Sleep(delay)
			acked(t, c, 11)
			acked(t, s, 0)
		}},
		{"through bandwidth", func(t *testing.T, c, s *Conn) {
			c.end.net.SetLink(clientIP, serverIP, Link{Delay: delay, Bandwidth: 1000})
			write(t, c, string(make([]byte, 1000)))
			time.Sleep(rtt + time.Second - time.Nanosecond)
			acked(t, c, 0)
			time.Sleep(time.Nanosecond)
			acked(t, c, 1000)
		}},
		{"a FIN is not counted", func(t *testing.T, c, s *Conn) {
			write(t, c, "hello")
			c.CloseWrite()
			time.Sleep(time.Second)
			acked(t, c, 5)
		}},
		{"closed by us", func(t *testing.T, c, s *Conn) {
			c.Close()
			if _, ok := c.Acked(); ok {
				t.Error("there is an answer after Close")
			}
		}},
		{"the peer had closed", func(t *testing.T, c, s *Conn) {
			write(t, c, "hello")
			time.Sleep(rtt)
			reads(t, s, "hello")
			s.Close()
			write(t, c, "too late")
			fails(t, c, io.EOF)
			acked(t, c, 5)
			time.Sleep(time.Second)
			breaks(t, c, syscall.EPIPE)
			acked(t, c, 5)
		}},
		{"the peer aborts before it arrives", func(t *testing.T, c, s *Conn) {
			write(t, c, "hello")
			time.Sleep(delay)
			write(t, c, "world!")
			time.Sleep(delay / 2)
			s.Reset()
			fails(t, c, syscall.ECONNRESET)
			acked(t, c, 5)
			time.Sleep(time.Second)
			acked(t, c, 5)
		}},
		{"the peer aborts once it has it", func(t *testing.T, c, s *Conn) {
			write(t, c, "hello")
			time.Sleep(delay)
			s.Reset()
			fails(t, c, syscall.ECONNRESET)
			acked(t, c, 5)
		}},
		{"it was lost", func(t *testing.T, c, s *Conn) {
			write(t, c, "hello")
			time.Sleep(rtt)
			c.end.net.Blackhole(serverIP)
			write(t, c, "lost")
			time.Sleep(time.Hour)
			acked(t, c, 5)
		}},
		{"its acknowledgement was lost", func(t *testing.T, c, s *Conn) {
			write(t, c, "hello")
			time.Sleep(delay / 2)
			c.end.net.Blackhole(server)
			reads(t, s, "hello")
			time.Sleep(time.Hour)
			acked(t, c, 0)
		}},
		{"its acknowledgement was under way", func(t *testing.T, c, s *Conn) {
			write(t, c, "hello")
			time.Sleep(delay + time.Nanosecond)
			c.end.net.Blackhole(server)
			time.Sleep(time.Hour)
			acked(t, c, 5)
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

// What stays unacknowledged for too long ends the connection, for a reader as for a writer.
func TestLimitUnacked(t *testing.T) {
	const limit = 10 * time.Second
	tests := []struct {
		name string
		run  func(t *testing.T, c, s *Conn)
	}{
		{"a dead path wakes the reader", func(t *testing.T, c, s *Conn) {
			c.LimitUnacked(limit)
			c.end.net.Blackhole(serverIP)
			start := time.Now()
			write(t, c, "hello")
			fails(t, c, syscall.ETIMEDOUT)
			took(t, "the end", start, limit)
			acked(t, c, 0)
			fails(t, c, io.EOF)
			breaks(t, c, syscall.EPIPE)
		}},
		{"who reads already is woken too", func(t *testing.T, c, s *Conn) {
			c.end.net.Blackhole(serverIP)
			start := time.Now()
			time.AfterFunc(time.Second, func() { write(t, c, "hello") })
			time.AfterFunc(2*time.Second, func() { c.LimitUnacked(limit) })
			fails(t, c, syscall.ETIMEDOUT)
			took(t, "the end", start, time.Second+limit)
		}},
		{"a writer is told", func(t *testing.T, c, s *Conn) {
			c.LimitUnacked(limit)
			c.end.net.Blackhole(serverIP)
			write(t, c, "hello")
			time.Sleep(limit - time.Nanosecond)
			write(t, c, "still there")
			if c.Readable() {
				t.Error("readable before the end")
			}
			time.Sleep(time.Nanosecond)
			if !c.Readable() {
				t.Error("not readable at the end")
			}
			breaks(t, c, syscall.ETIMEDOUT)
			breaks(t, c, syscall.EPIPE)
			fails(t, c, io.EOF)
		}},
		{"only the acknowledgement is lost", func(t *testing.T, c, s *Conn) {
			c.LimitUnacked(limit)
			start := time.Now()
			write(t, c, "hello")
			time.AfterFunc(delay/2, func() { c.end.net.Blackhole(serverIP) })
			go reads(t, s, "hello")
			fails(t, c, syscall.ETIMEDOUT)
			took(t, "the end", start, limit)
			acked(t, c, 0)
		}},
		{"later than the limit is too late", func(t *testing.T, c, s *Conn) {
			c.LimitUnacked(delay)
			write(t, c, "hello")
			time.Sleep(time.Hour) // nobody looks meanwhile
			fails(t, c, syscall.ETIMEDOUT)
			acked(t, c, 0)
		}},
		{"in time", func(t *testing.T, c, s *Conn) {
			c.LimitUnacked(rtt)
			start := time.Now()
			for range 10 {
				write(t, c, "hello")
				time.Sleep(delay / 4)
			}
			c.SetReadDeadline(start.Add(time.Hour))
			fails(t, c, os.ErrDeadlineExceeded)
			acked(t, c, 50)
		}},
		{"no limit", func(t *testing.T, c, s *Conn) {
			c.LimitUnacked(limit)
			c.LimitUnacked(0)
			c.end.net.Blackhole(serverIP)
			write(t, c, "hello")
			c.SetReadDeadline(time.Now().Add(time.Hour))
			fails(t, c, os.ErrDeadlineExceeded)
		}},
		{"a closed window", func(t *testing.T, c, s *Conn) {
			c.LimitUnacked(limit)
			start := time.Now()
			n, err := c.Write(make([]byte, DefaultWindow+1))
			if op, is := err.(*net.OpError); !is || n != DefaultWindow || op.Err.(*os.SyscallError).Err != syscall.ETIMEDOUT {
				t.Errorf("Write = %d, %v; want %d, %v", n, err, DefaultWindow, syscall.ETIMEDOUT)
			}
			took(t, "the end", start, limit)
			acked(t, c, DefaultWindow)
		}},
		{"a slow reader", func(t *testing.T, c, s *Conn) {
			c.LimitUnacked(limit)
			var reader sync.WaitGroup
			reader.Go(func() {
				for buf := make([]byte, DefaultWindow/4); ; {
					time.Sleep(limit - rtt)
					if n, err := s.Read(buf); n == 0 || err != nil {
						return
					}
				}
			})
			if n, err := c.Write(make([]byte, 3*DefaultWindow)); n != 3*DefaultWindow || err != nil {
				t.Errorf("Write = %d, %v", n, err)
			}
			c.Close()
			reader.Wait()
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
