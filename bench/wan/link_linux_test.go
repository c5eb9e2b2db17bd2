package wan_test

import (
	"context"
	"errors"
	"io"
	"net"
	"net/netip"
	"os"
	"strings"
	"sync"
	"testing"
	"time"

	"slipstream/bench/meter"
	"slipstream/bench/wan"
)

// TestMain turns the program into one that TestKilled kills, where it is asked to.
func TestMain(m *testing.M) {
	if os.Getenv(victimVariable) != "" {
		victim()
		return
	}
	os.Exit(m.Run())
}

// open opens a link that ends with the test, and skips the test where there can be none.
func open(tb testing.TB, c wan.Config) *wan.Link {
	tb.Helper()
	l, err := wan.Open(tb.Context(), c)
	if errors.Is(err, wan.ErrUnavailable) {
		tb.Skip(err)
	}
	if err != nil {
		tb.Fatal(err)
	}
	tb.Cleanup(func() {
		if err := l.Close(); err != nil {
			tb.Error(err)
		}
	})
	return l
}

// listen listens at a side and hands each connection to serve, on a goroutine of its own. All of them end with the
// test: a connection over a link that is closed would not hear of the end of the other side.
func listen(tb testing.TB, s *wan.Side, addr netip.Addr, serve func(net.Conn)) string {
	tb.Helper()
	listener, err := s.Listen(tb.Context(), "tcp", netip.AddrPortFrom(addr, 0).String())
	if err != nil {
		tb.Fatal(err)
	}
	answer(tb, listener, serve)
	return listener.Addr().String()
}

// answer does so with a listener that is there.
func answer(tb testing.TB, listener net.Listener, serve func(net.Conn)) {
	tb.Helper()
	var running sync.WaitGroup
	running.Go(func() { accept(tb.Context(), listener, &running, serve) })
	tb.Cleanup(func() { // after the context has ended
		listener.Close()
		running.Wait()
	})
}

func accept(ctx context.Context, listener net.Listener, running *sync.WaitGroup, serve func(net.Conn)) {
	for {
		conn, err := listener.Accept()
		if err != nil {
			return
		}
		running.Go(func() {
			defer context.AfterFunc(ctx, func() { conn.Close() })()
			defer conn.Close()
			serve(conn)
		})
	}
}

func dial(tb testing.TB, s *wan.Side, local netip.Addr, address string) net.Conn {
	tb.Helper()
	conn, err := s.Dial(tb.Context(), "tcp", local, address)
	if err != nil {
		tb.Fatal(err)
	}
	tb.Cleanup(func() { conn.Close() })
	return conn
}

// echo answers with what it hears.
func echo(conn net.Conn) { io.Copy(conn, conn) }

// discard reads to the end.
func discard(conn net.Conn) { io.Copy(io.Discard, conn) }

// say sends text and reads as much back.
func say(tb testing.TB, conn net.Conn, text string) string {
	tb.Helper()
	if _, err := io.WriteString(conn, text); err != nil {
		tb.Fatal(err)
	}
	back := make([]byte, len(text))
	if _, err := io.ReadFull(conn, back); err != nil {
		tb.Fatal(err)
	}
	return string(back)
}

// await waits until done says nothing more, and fails with what it said last.
func await(tb testing.TB, done func() string) {
	tb.Helper()
	const patience = 10 * time.Second
	tick := time.NewTicker(5 * time.Millisecond)
	defer tick.Stop()
	for end := time.Now().Add(patience); ; <-tick.C {
		wrong := done()
		if wrong == "" {
			return
		}
		if time.Now().After(end) {
			tb.Fatalf("after %v: %s", patience, wrong)
		}
	}
}

// settle waits until nothing is under way, so that every segment tells when it did arrive.
func settle(tb testing.TB, l *wan.Link) {
	tb.Helper()
	await(tb, func() string {
		if s := l.Carried(); s.Delivered+s.Lost+s.Dropped < s.Packets {
			return "packets are under way"
		}
		return ""
	})
}

func TestConversation(t *testing.T) {
	const delay = 20 * time.Millisecond
	for name, addr := range map[string]func(*wan.Side) netip.Addr{"IPv4": (*wan.Side).Addr, "IPv6": (*wan.Side).Addr6} {
		t.Run(name, func(t *testing.T) {
			l := open(t, wan.Config{Shape: wan.Shape{Delay: delay}})
			if !addr(l.Far()).IsValid() {
				t.Skip("this machine has no IPv6")
			}
			address := listen(t, l.Far(), addr(l.Far()), echo)
			begun := time.Now()
			conn := dial(t, l.Near(), addr(l.Near()), address)
			if got := say(t, conn, "EHLO near.test\r\n"); got != "EHLO near.test\r\n" {
				t.Errorf("echo: %q", got)
			}
			if took := time.Since(begun); took < 4*delay {
				t.Errorf("two trips took %v", took)
			}
			client, server := netip.MustParseAddrPort(conn.LocalAddr().String()), netip.MustParseAddrPort(address)
			checkConversation(t, l.Segments(), client, server)
		})
	}
}

// checkConversation expects a handshake and one line each way.
func checkConversation(t *testing.T, segments []meter.Segment, client, server netip.AddrPort) {
	t.Helper()
	if len(segments) < 5 {
		t.Fatalf("%d segments", len(segments))
	}
	var said, heard string
	for i, s := range segments {
		if (s.From != client || s.To != server) && (s.From != server || s.To != client) {
			t.Errorf("segment %d from %v to %v", i, s.From, s.To)
		}
		if s.SYN != (i < 2) || s.ACK != (i > 0) || s.RST || s.Lost() || s.Size < 40 || s.Len != len(s.Data) {
			t.Errorf("segment %d: %+v", i, s)
		}
		if s.From == client {
			said += string(s.Data)
		} else {
			heard += string(s.Data)
		}
	}
	if said != "EHLO near.test\r\n" || heard != said {
		t.Errorf("said %q, heard %q", said, heard)
	}
}

// A link on which nobody speaks is silent: what a device would say by itself would be in every measurement.
func TestSilence(t *testing.T) {
	l := open(t, wan.Config{})
	// Whatever a device says when it is new, it says while this takes its time.
	address := listen(t, l.Near(), netip.MustParseAddr("127.0.0.1"), echo)
	for range 100 {
		conn := dial(t, l.Near(), netip.Addr{}, address)
		say(t, conn, "NOOP\r\n")
		conn.Close()
	}
	if s := l.Carried(); s.Packets != 0 {
		t.Errorf("%d packets", s.Packets)
	}
}

func TestSegmentsFitTheMTU(t *testing.T) {
	const mtu, size = 1400, 100_000
	l := open(t, wan.Config{MTU: mtu, Snap: 10})
	conn := dial(t, l.Near(), l.Near().Addr(), listen(t, l.Far(), l.Far().Addr(), discard))
	if _, err := conn.Write(make([]byte, size)); err != nil {
		t.Fatal(err)
	}
	most, octets := 0, 0
	await(t, func() string {
		most, octets = 0, 0
		for _, s := range l.Segments() {
			most, octets = max(most, s.Size), octets+s.Len
			if len(s.Data) != min(s.Len, 10) {
				t.Fatalf("kept %d octets of %d", len(s.Data), s.Len)
			}
		}
		if octets < size {
			return "data is missing"
		}
		return ""
	})
	if most != mtu {
		t.Errorf("the longest packet has %d octets", most)
	}
}

func TestReset(t *testing.T) {
	l := open(t, wan.Config{})
	address := listen(t, l.Far(), l.Far().Addr(), echo)
	conn := dial(t, l.Near(), l.Near().Addr(), address)
	say(t, conn, "first")
	before := l.Segments()
	l.Reset()
	say(t, conn, "second")
	var said strings.Builder
	for _, s := range l.Segments() {
		said.Write(s.Data)
	}
	if got := said.String(); got != "secondsecond" || l.Overflow() {
		t.Errorf("after Reset %q, overflow %v", got, l.Overflow())
	}
	if len(before) < 5 || !before[0].SYN {
		t.Errorf("before: %v", before)
	}
}

// Everything may be called at once.
func TestConcurrency(t *testing.T) {
	l := open(t, wan.Config{Shape: wan.Shape{Jitter: time.Millisecond}})
	address := listen(t, l.Far(), l.Far().Addr(), echo)
	conn := dial(t, l.Near(), l.Near().Addr(), address)
	stop, done := make(chan struct{}), make(chan struct{})
	go func() {
		defer close(done)
		for i := 0; ; i++ {
			select {
			case <-stop:
				return
			default:
			}
			l.Segments()
			l.Carried()
			l.Overflow()
			if err := l.SetShape(wan.Shape{Jitter: time.Duration(i%3) * time.Millisecond}); err != nil {
				t.Error(err)
			}
			if i%10 == 0 {
				l.Reset()
			}
		}
	}()
	for range 100 {
		say(t, conn, strings.Repeat("x", 5000))
	}
	close(stop)
	<-done
}
