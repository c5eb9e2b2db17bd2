package wan_test

import (
	"errors"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"runtime"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"slipstream/bench/wan"
)

// space names the network namespace of the calling thread.
func space(tb testing.TB) string {
	tb.Helper()
	name, err := os.Readlink("/proc/thread-self/ns/net")
	if err != nil {
		tb.Fatal(err)
	}
	return name
}

// spaceOf names that of a side.
func spaceOf(tb testing.TB, s *wan.Side) string {
	tb.Helper()
	var name string
	if err := s.Do(func() error { name = space(tb); return nil }); err != nil {
		tb.Fatal(err)
	}
	return name
}

func TestDo(t *testing.T) {
	l := open(t, wan.Config{})
	home, near, far := space(t), spaceOf(t, l.Near()), spaceOf(t, l.Far())
	if home == near || home == far || near == far {
		t.Errorf("namespaces %s, %s and %s", home, near, far)
	}
	t.Run("error", func(t *testing.T) {
		want := errors.New("no")
		if err := l.Near().Do(func() error { return want }); err != want {
			t.Errorf("error %v", err)
		}
	})
	t.Run("goexit", func(t *testing.T) {
		if err := l.Near().Do(func() error { runtime.Goexit(); return nil }); err == nil {
			t.Error("no error")
		}
	})
	t.Run("process", func(t *testing.T) {
		var out []byte
		err := l.Far().Do(func() (err error) {
			out, err = exec.Command("readlink", "/proc/self/ns/net").Output()
			return err
		})
		if err != nil || strings.TrimSpace(string(out)) != far {
			t.Errorf("a process is in %s, want %s: %v", out, far, err)
		}
	})
	t.Run("threads", func(t *testing.T) {
		// Many at once, so that many threads have been there and are back.
		done := make(chan error)
		for range 50 {
			go func() { done <- l.Near().Do(func() error { time.Sleep(time.Millisecond); return nil }) }()
		}
		for range 50 {
			if err := <-done; err != nil {
				t.Error(err)
			}
		}
		await(t, func() string {
			if threads := holders(os.Getpid(), near, far).threads; len(threads) > 0 {
				return strings.Join(threads, ", ")
			}
			return ""
		})
	})
}

// What a side listens on is its own: the machine does not have its addresses, and neither sees the other's loopback.
func TestIsolation(t *testing.T) {
	l := open(t, wan.Config{})
	for _, addr := range []netip.Addr{l.Near().Addr(), l.Far().Addr(), l.Near().Addr6(), l.Far().Addr6()} {
		if !addr.IsValid() {
			continue
		}
		// Nothing is sent to them from here: they might be somebody's. Not to have them is enough.
		if listener, err := net.Listen("tcp", netip.AddrPortFrom(addr, 0).String()); err == nil {
			listener.Close()
			t.Errorf("the machine has %s", addr)
		}
	}
	loopback := netip.MustParseAddr("127.0.0.1")
	inside := listen(t, l.Near(), loopback, echo)
	if conn, err := net.Dial("tcp", inside); err == nil {
		conn.Close()
		t.Error("the machine reaches the loopback of a side")
	}
	outside, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer outside.Close()
	for _, address := range []string{inside, outside.Addr().String()} {
		if conn, err := l.Far().Dial(t.Context(), "tcp", netip.Addr{}, address); err == nil {
			conn.Close()
			t.Errorf("the far side reaches %s", address)
		}
	}
	if got := say(t, dial(t, l.Near(), loopback, inside), "ok"); got != "ok" {
		t.Errorf("the side's own loopback says %q", got)
	}
	if _, err := l.Near().Dial(t.Context(), "tcp", netip.Addr{}, "192.0.2.1:25"); !errors.Is(err, syscall.ENETUNREACH) {
		t.Errorf("elsewhere: %v", err)
	}
}

func TestRefusals(t *testing.T) {
	l := open(t, wan.Config{})
	if _, err := l.Near().Dial(t.Context(), "tcp", netip.Addr{}, "198.18.0.2:25"); !errors.Is(err, syscall.ECONNREFUSED) {
		t.Errorf("a closed port: %v", err)
	}
	if _, err := l.Near().Dial(t.Context(), "tcp", netip.Addr{}, "mx.test:25"); err == nil {
		t.Error("a name was dialed")
	}
	if _, err := l.Near().Listen(t.Context(), "tcp", "mx.test:25"); err == nil {
		t.Error("a name was listened on")
	}
	if _, err := l.Near().Listen(t.Context(), "tcp", "198.18.0.2:25"); err == nil {
		t.Error("the other side's address was listened on")
	}
}

func TestSysctls(t *testing.T) {
	const name, value = "net.ipv4.tcp_fastopen", "3"
	file := "/proc/sys/net/ipv4/tcp_fastopen"
	before, err := os.ReadFile(file)
	if err != nil {
		t.Skip("no setting to look at: ", err)
	}
	l := open(t, wan.Config{Sysctls: map[string]string{name: value, "net.ipv4.tcp_no_metrics_save": "1"}})
	for _, s := range []*wan.Side{l.Near(), l.Far()} {
		if got, err := s.Sysctl(name); err != nil || got != value {
			t.Errorf("%s is %q, %v", name, got, err)
		}
	}
	if after, err := os.ReadFile(file); err != nil || string(after) != string(before) {
		t.Errorf("the machine's own went from %q to %q, %v", before, after, err)
	}
	if _, err := l.Near().Sysctl("net.ipv4.no_such_thing"); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("a setting that does not exist: %v", err)
	}
	if _, err := l.Near().Sysctl("kernel.hostname"); err == nil {
		t.Error("a setting of the machine was read")
	}
	for _, bad := range []map[string]string{{"net.ipv4.no_such_thing": "1"}, {name: "nonsense"}} {
		if l, err := wan.Open(t.Context(), wan.Config{Sysctls: bad}); err == nil {
			l.Close()
			t.Errorf("%v was accepted", bad)
		}
	}
}

// Sockets with options of their own are made in Do. The second connection carries data in its SYN.
func TestFastOpen(t *testing.T) {
	l := open(t, wan.Config{Sysctls: map[string]string{"net.ipv4.tcp_fastopen": "3"}})
	option := func(option, value int) func(string, string, syscall.RawConn) error {
		return func(_, _ string, c syscall.RawConn) error {
			var err error
			return errors.Join(c.Control(func(fd uintptr) {
				err = unix.SetsockoptInt(int(fd), unix.IPPROTO_TCP, option, value)
			}), err)
		}
	}
	var listener net.Listener
	err := l.Far().Do(func() (err error) {
		config := net.ListenConfig{Control: option(unix.TCP_FASTOPEN, 16)}
		listener, err = config.Listen(t.Context(), "tcp4", "198.18.0.2:25")
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	answer(t, listener, echo)
	for range 2 {
		var conn net.Conn
		err := l.Near().Do(func() (err error) {
			dialer := net.Dialer{Control: option(unix.TCP_FASTOPEN_CONNECT, 1)}
			conn, err = dialer.DialContext(t.Context(), "tcp4", "198.18.0.2:25")
			return err
		})
		if err != nil {
			t.Fatal(err)
		}
		l.Reset()
		say(t, conn, "EHLO near.test\r\n")
		conn.Close()
	}
	for _, s := range l.Segments() {
		if s.SYN && !s.ACK && string(s.Data) == "EHLO near.test\r\n" {
			return
		}
	}
	t.Error("the second SYN carries no data")
}
