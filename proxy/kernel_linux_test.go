package proxy

import (
	"errors"
	"io"
	"net"
	"os"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// deadWait is how long an acknowledgement is waited for in vain.
const deadWait = 300 * time.Millisecond

// deafen has the kernel drop whatever comes for a socket: to the other side the path is dead.
func deafen(t *testing.T, socket any) {
	t.Helper()
	drop := unix.SockFilter{Code: unix.BPF_RET | unix.BPF_K}
	var err error
	if !onSocket(socket, func(fd int) error {
		err = unix.SetsockoptSockFprog(fd, unix.SOL_SOCKET, unix.SO_ATTACH_FILTER, &unix.SockFprog{Len: 1, Filter: &drop})
		return err
	}) {
		t.Skipf("a dead path needs a filter on a socket: %v", err)
	}
}

// mark is ackedOctets where there must be an answer.
func mark(t *testing.T, c net.Conn) int64 {
	t.Helper()
	n, ok := ackedOctets(c)
	if !ok {
		t.Fatal("the kernel does not tell what is acknowledged")
	}
	return n
}

// wantAcked compares once a reply has brought all acknowledgements.
func wantAcked(t *testing.T, c net.Conn, want int64) {
	t.Helper()
	if n := mark(t, c); n != want {
		t.Errorf("%d octets acknowledged, want %d", n, want)
	}
}

func wantKernelError(t *testing.T, err, want error) {
	t.Helper()
	if !errors.Is(err, want) {
		t.Errorf("error %v, want %v", err, want)
	}
}

func kernelSend(t *testing.T, c net.Conn, text string) {
	t.Helper()
	if _, err := io.WriteString(c, text); err != nil {
		t.Fatal(err)
	}
}

func kernelTake(t *testing.T, c net.Conn, text string) {
	t.Helper()
	got := make([]byte, len(text))
	if _, err := io.ReadFull(c, got); err != nil || string(got) != text {
		t.Fatalf("read %q, %v, want %q", got, err, text)
	}
}

// kernelAsk sends a line and takes the reply to it, which brings the acknowledgement.
func kernelAsk(t *testing.T, here, there net.Conn, text string) {
	t.Helper()
	kernelSend(t, here, text)
	kernelTake(t, there, text)
	kernelSend(t, there, "250 ok\r\n")
	kernelTake(t, here, "250 ok\r\n")
}

// kernelAbort ends a connection with a reset.
func kernelAbort(t *testing.T, c *net.TCPConn) {
	t.Helper()
	if err := errors.Join(c.SetLinger(0), c.Close()); err != nil {
		t.Fatal(err)
	}
}

// wantReadError reads what must be an error.
func wantReadError(t *testing.T, c net.Conn, want error) {
	t.Helper()
	n, err := c.Read(make([]byte, 1))
	if n > 0 {
		t.Error("read something")
	}
	wantKernelError(t, err, want)
}

const (
	kernelHello  = "EHLO client.example\r\n"
	kernelFlight = "MAIL FROM:<a@example.net>\r\nRCPT TO:<b@example.org>\r\nBDAT 6 LAST\r\ntext\r\n"
)

// What is counted is what was written and acknowledged, without the SYN and the SYN-ACK.
func TestAckedCounts(t *testing.T) {
	here, there := tcpPair(t)
	wantAcked(t, here, 0)
	kernelAsk(t, here, there, kernelHello)
	wantAcked(t, here, int64(len(kernelHello)))
	wantAcked(t, newWire(&proxiedConn{Conn: here}, true), int64(len(kernelHello)))
	if err := here.CloseWrite(); err != nil {
		t.Fatal(err)
	}
	kernelTakeEnd(t, there)
	kernelSend(t, there, "221 bye\r\n")
	kernelTake(t, here, "221 bye\r\n")
	wantAcked(t, here, int64(len(kernelHello))+1) // and the FIN
	_ = here.Close()
	if n, ok := ackedOctets(here); ok {
		t.Errorf("once closed, %d are acknowledged", n)
	}
}

func kernelTakeEnd(t *testing.T, c net.Conn) {
	t.Helper()
	wantReadError(t, c, io.EOF)
}

// What an accepted connection says is not told for want of a way to see that nobody counted the SYN.
func TestAckedNotWithoutSYN(t *testing.T) {
	_, there := tcpPair(t)
	if n, ok := ackedOctets(there); ok {
		t.Errorf("%d acknowledged on a connection that was accepted", n)
	}
	a, b := net.Pipe()
	defer a.Close()
	defer b.Close()
	if n, ok := ackedOctets(a); ok {
		t.Errorf("%d acknowledged through a pipe", n)
	}
	near, far := unixPair(t)
	kernelSend(t, near, kernelHello)
	kernelTake(t, far, kernelHello)
	if n, ok := ackedOctets(near); ok {
		t.Errorf("%d acknowledged through a Unix socket", n)
	}
	limitUnacked(near, time.Second) // does nothing
	if synData(near) {
		t.Error("a Unix socket has a SYN")
	}
}

func unixPair(t *testing.T) (near, far net.Conn) {
	t.Helper()
	fds, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	conns := make([]net.Conn, 2)
	for i, fd := range fds {
		file := os.NewFile(uintptr(fd), "pair")
		conns[i], err = net.FileConn(file)
		_ = file.Close()
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { _ = conns[i].Close() })
	}
	return conns[0], conns[1]
}

// After each way in which a connection can end the mark is still there.
func TestAckedAfterFailure(t *testing.T) {
	t.Run("reset, nothing acknowledged", func(t *testing.T) {
		here, there := tcpPair(t)
		kernelAsk(t, here, there, kernelHello)
		before := mark(t, here)
		deafen(t, there)
		kernelSend(t, here, kernelFlight)
		kernelAbort(t, there)
		wantReadError(t, here, syscall.ECONNRESET)
		wantAcked(t, here, before)
		wantReadError(t, here, io.EOF) // the error is told once
		wantAcked(t, here, before)
	})
	t.Run("reset, all acknowledged", func(t *testing.T) {
		here, there := tcpPair(t)
		kernelAsk(t, here, there, kernelHello)
		before := mark(t, here)
		kernelAsk(t, here, there, kernelFlight)
		kernelAbort(t, there)
		wantReadError(t, here, syscall.ECONNRESET)
		wantAcked(t, here, before+int64(len(kernelFlight)))
	})
	t.Run("end, nothing acknowledged", func(t *testing.T) {
		here, there := tcpPair(t)
		kernelAsk(t, here, there, kernelHello)
		before := mark(t, here)
		_ = there.Close()
		kernelSend(t, here, kernelFlight) // a reset answers it
		wantReadError(t, here, io.EOF)
		wantAcked(t, here, before)
		awaitState(t, here, tcpClose)
		wantReadError(t, here, io.EOF)
		wantAcked(t, here, before)
		_, err := io.WriteString(here, kernelFlight)
		wantKernelError(t, err, syscall.EPIPE)
		wantAcked(t, here, before)
	})
	t.Run("end, all acknowledged", func(t *testing.T) {
		here, there := tcpPair(t)
		kernelAsk(t, here, there, kernelHello)
		before := mark(t, here)
		kernelSend(t, here, kernelFlight)
		kernelTake(t, there, kernelFlight)
		_ = there.Close() // the FIN acknowledges
		wantReadError(t, here, io.EOF)
		wantAcked(t, here, before+int64(len(kernelFlight)))
	})
	t.Run("timeout, nothing acknowledged", func(t *testing.T) {
		here, there := tcpPair(t)
		kernelAsk(t, here, there, kernelHello)
		before := mark(t, here)
		limitUnacked(here, deadWait)
		deafen(t, there)
		kernelSend(t, here, kernelFlight)
		wantReadError(t, here, syscall.ETIMEDOUT)
		wantAcked(t, here, before)
	})
	t.Run("timeout, the first half acknowledged", func(t *testing.T) {
		here, there := tcpPair(t)
		kernelAsk(t, here, there, kernelHello)
		before := mark(t, here)
		limitUnacked(here, deadWait)
		kernelAsk(t, here, there, kernelFlight[:20])
		deafen(t, there)
		kernelSend(t, here, kernelFlight[20:])
		wantReadError(t, here, syscall.ETIMEDOUT)
		wantAcked(t, here, before+20)
	})
}

// awaitState waits until the kernel has a connection in a state.
func awaitState(t *testing.T, c net.Conn, state uint8) {
	t.Helper()
	end := time.Now().Add(10 * time.Second)
	for {
		info, ok := tcpInfo(c)
		switch {
		case !ok:
			t.Fatal("the kernel does not tell the state")
		case info.State == state:
			return
		case time.Now().After(end):
			t.Fatalf("state %d, want %d", info.State, state)
		}
	}
}

// What the marks do not prove: a flight can be in the other side's hands without an acknowledgement.
func TestUnackedIsNotUnreceived(t *testing.T) {
	t.Run("the way back is dead", func(t *testing.T) {
		here, there := tcpPair(t)
		kernelAsk(t, here, there, kernelHello)
		before := mark(t, here)
		limitUnacked(here, deadWait)
		deafen(t, here)
		kernelSend(t, here, kernelFlight)
		kernelTake(t, there, kernelFlight)
		wantReadError(t, here, syscall.ETIMEDOUT)
		wantAcked(t, here, before)
	})
	t.Run("aborted before the kernel acknowledged", func(t *testing.T) {
		for range 10 {
			here, there := tcpPair(t)
			word := make([]byte, 1)
			for round := 0; acknowledges(t, there); round++ {
				if round == 100 {
					t.Skip("this kernel acknowledges at once anyway")
				}
				exchange(t, here, there, word)
				exchange(t, there, here, word)
			}
			kernelAsk(t, here, there, kernelHello)
			before := mark(t, here)
			kernelSend(t, here, kernelFlight)
			kernelTake(t, there, kernelFlight)
			kernelAbort(t, there)
			wantReadError(t, here, syscall.ECONNRESET)
			if mark(t, here) == before {
				return // as it can be
			}
		}
		t.Skip("what was read was acknowledged each time, so that this kernel does not show the case")
	})
}

// A dead path ends with an error in the time that was set, and a closed window is one.
func TestLimitUnacked(t *testing.T) {
	userTimeout := func(t *testing.T, c *net.TCPConn) (ms int) {
		t.Helper()
		if !onSocket(c, func(fd int) (err error) {
			ms, err = unix.GetsockoptInt(fd, unix.IPPROTO_TCP, unix.TCP_USER_TIMEOUT)
			return err
		}) {
			t.Fatal("the kernel does not tell the limit")
		}
		return ms
	}
	t.Run("values", func(t *testing.T) {
		here, _ := tcpPair(t)
		for _, tt := range []struct {
			limit time.Duration
			want  int
		}{{time.Second, 1000}, {time.Microsecond, 1}, {0, 0}, {30 * 24 * time.Hour, 1<<31 - 1}, {-1, 0}} {
			limitUnacked(newWire(here, true), tt.limit)
			if ms := userTimeout(t, here); ms != tt.want {
				t.Errorf("%v is %d ms, want %d", tt.limit, ms, tt.want)
			}
		}
	})
	t.Run("dead path", func(t *testing.T) {
		here, there := tcpPair(t)
		limitUnacked(here, deadWait)
		deafen(t, there)
		begun := time.Now()
		kernelSend(t, here, kernelFlight)
		wantReadError(t, here, syscall.ETIMEDOUT)
		if took := time.Since(begun); took < deadWait/2 || took > 20*deadWait {
			t.Errorf("that took %v, want about %v", took, deadWait)
		}
		_, err := io.WriteString(here, kernelFlight)
		wantKernelError(t, err, syscall.EPIPE)
	})
	t.Run("idle", func(t *testing.T) {
		here, there := tcpPair(t)
		limitUnacked(here, time.Millisecond)
		kernelAsk(t, here, there, kernelHello)
		_ = here.SetReadDeadline(time.Now().Add(deadWait)) // nothing to acknowledge
		wantReadError(t, here, os.ErrDeadlineExceeded)
	})
	t.Run("closed window", func(t *testing.T) {
		here, _ := tcpPair(t)
		limitUnacked(here, deadWait)
		_, err := io.WriteString(here, strings.Repeat("x", 64<<20)) // nobody reads
		wantKernelError(t, err, syscall.ETIMEDOUT)
	})
}

// A connection that was accepted counts what was written and acknowledged, and no SYN.
func TestAckedByClient(t *testing.T) {
	here, there := tcpPair(t)
	if n, ok := ackedByClient(there); !ok || n != 0 {
		t.Fatalf("%d, %t acknowledged before anything was written", n, ok)
	}
	kernelSend(t, there, kernelHello)
	kernelTake(t, here, kernelHello)
	kernelSend(t, here, kernelHello)
	kernelTake(t, there, kernelHello) // it brings the acknowledgement
	if n, ok := ackedByClient(newWire(there, false)); !ok || n != int64(len(kernelHello)) {
		t.Errorf("%d, %t acknowledged, want %d", n, ok, len(kernelHello))
	}
	if closed(there) {
		t.Error("an open connection is closed")
	}
	_ = here.Close()
	kernelTakeEnd(t, there)
	kernelSend(t, there, kernelFlight) // a reset answers it
	awaitState(t, there, tcpClose)
	if n, ok := ackedByClient(there); !ok || n > int64(len(kernelHello))+1 {
		t.Errorf("%d, %t acknowledged of what nobody took", n, ok)
	}
	if !closed(there) {
		t.Error("a connection that was reset is not closed")
	}
}
