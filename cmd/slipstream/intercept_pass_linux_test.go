package main

import (
	"bufio"
	"context"
	"errors"
	"net"
	"os"
	"regexp"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// greet answers every connection with a line.
func greet(ln net.Listener, line string) {
	for {
		conn, err := ln.Accept()
		if err != nil {
			return
		}
		_, _ = conn.Write([]byte(line + "\r\n"))
		_ = conn.Close()
	}
}

// wantGreeting dials, and reads a line.
func (n *netspace) wantGreeting(addr, want string) {
	n.t.Helper()
	conn, err := n.dial(addr)
	if err != nil {
		n.t.Errorf("%s: %v, want %q", addr, err, want)
		return
	}
	defer conn.Close()
	_ = conn.SetDeadline(time.Now().Add(10 * time.Second))
	if got, err := bufio.NewReader(conn).ReadString('\n'); !strings.HasPrefix(got, want) {
		n.t.Errorf("%s: %q (%v), want %q", addr, got, err, want)
	}
}

// Through a router with rules, the world's mail comes to the MTA behind it, and who is not a client goes out, as if
// there were none.
func TestInterceptPassesOthers(t *testing.T) {
	t.Parallel()
	w := newInterceptWorld(t, true)
	w.mta.run("ip addr add 10.9.2.77/24 dev v2a")
	w.configure(`intercept = "tproxy"`, `allow = ["10.9.2.1", "fd09:2::1"]`)
	s := w.serve(unix.CAP_NET_RAW)
	const greeting = "220 the MTA itself"
	for _, addr := range []string{"10.9.2.1:25", "[fd09:2::1]:25"} {
		ln := w.mta.listen(addr)
		t.Cleanup(func() { _ = ln.Close() })
		go greet(ln, greeting) // ends with the listener
	}
	w.apply()
	w.mta.wantGreeting(firstIPv4, "220 [198.51.100.1] ")
	for i := range 2 { // with the service, and with none
		if i == 1 {
			_ = s.cmd.Process.Kill()
			_ = s.cmd.Wait() // it tells of the kill
			if conn, err := w.mta.dial(firstIPv4); !errors.Is(err, syscall.ECONNREFUSED) {
				t.Errorf("without the service: %v, %v", conn, err)
			}
		}
		w.beyond.wantGreeting("10.9.2.1:25", greeting)
		w.beyond.wantGreeting("[fd09:2::1]:25", greeting)
		if err := w.mta.do(func() error {
			d := net.Dialer{Timeout: 10 * time.Second, LocalAddr: &net.TCPAddr{IP: net.IPv4(10, 9, 2, 77)}}
			conn, err := d.Dial("tcp", firstIPv4)
			if err != nil {
				return err
			}
			defer conn.Close()
			_ = conn.SetDeadline(time.Now().Add(10 * time.Second))
			line, err := bufio.NewReader(conn).ReadString('\n')
			if !strings.HasPrefix(line, "220 mx.one.test ") {
				t.Errorf("another host than the MTA heard %q (%v)", line, err)
			}
			return nil
		}); err != nil {
			t.Error(err)
		}
	}
}

// Where nobody listens behind the rules, clients are refused, and nothing of theirs goes on in clear. What was
// accepted before stays, and so does what is nobody's.
func TestInterceptFailsClosed(t *testing.T) {
	t.Parallel()
	w := newInterceptWorld(t, true)
	w.configure(`intercept = "tproxy"`, `allow = ["10.9.2.0/24", "fd09:2::/64"]`)
	mta := w.mta.listen("10.9.2.1:25")
	t.Cleanup(func() { _ = mta.Close() })
	go greet(mta, "220 the MTA itself") // ends with the listener
	other := w.beyond.listen("198.51.100.1:2525")
	t.Cleanup(func() { _ = other.Close() })
	go greet(other, "220 another port") // ends with the listener
	w.apply()

	var ln net.Listener
	if err := w.host.do(func() (err error) {
		lc := net.ListenConfig{Control: func(_, _ string, c syscall.RawConn) error {
			var failed error
			err := c.Control(func(fd uintptr) { failed = unix.SetsockoptInt(int(fd), unix.SOL_IP, unix.IP_TRANSPARENT, 1) })
			return errors.Join(err, failed)
		}}
		ln, err = lc.Listen(context.Background(), "tcp4", "127.0.0.1:10526")
		return err
	}); err != nil {
		t.Fatal(err)
	}
	client, err := w.mta.dial(firstIPv4)
	if err != nil {
		t.Fatal(err)
	}
	defer client.Close()
	door, err := ln.Accept()
	if err != nil {
		t.Fatal(err)
	}
	defer door.Close()
	_ = ln.Close()

	before := w.hosts["mx.one.test"].Accepted() + w.hosts["mx.two.test"].Accepted()
	for _, addr := range []string{firstIPv4, secondIPv6} {
		if conn, err := w.mta.dial(addr); !errors.Is(err, syscall.ECONNREFUSED) {
			t.Errorf("%s: %v, %v", addr, conn, err)
		}
	}
	if n := w.hosts["mx.one.test"].Accepted() + w.hosts["mx.two.test"].Accepted(); n != before {
		t.Errorf("the hosts saw %d connections", n-before)
	}
	_ = client.SetDeadline(time.Now().Add(10 * time.Second))
	_ = door.SetDeadline(time.Now().Add(10 * time.Second))
	for _, way := range [][2]net.Conn{{client, door}, {door, client}} {
		b := make([]byte, 4)
		_, werr := way[0].Write([]byte("text"))
		if _, err := way[1].Read(b); werr != nil || err != nil || string(b) != "text" {
			t.Errorf("what was accepted before: %v, %v, %q", werr, err, b)
		}
	}
	w.host.wantGreeting(firstIPv4, "220 mx.one.test ") // the router's own
	w.mta.wantGreeting("198.51.100.1:2525", "220 another port")
	w.beyond.wantGreeting("10.9.2.1:25", "220 the MTA itself")
}

// A configuration without interception takes away what one with it has put there, and is warned of it before.
func TestInterceptApplyNothing(t *testing.T) {
	t.Parallel()
	w := newInterceptWorld(t, false)
	w.configure()
	w.apply()
	text := "hostname = \"mail.test\"\nstate_dir = \"" + w.dir + "/state\"\n[admin]\nlisten = \"\"\n" +
		"[dns]\nservers = [\"198.51.100.53:53\"]\n[[outbound]]\n"
	if err := os.WriteFile(w.config, []byte(text), 0o644); err != nil {
		t.Fatal(err)
	}
	warned := regexp.MustCompile(`(?m)^warn +intercept +rules of another configuration are in force .*slipstream intercept remove`)
	if out, _ := w.slipstream("check", "-c", w.config); !warned.MatchString(out) {
		t.Errorf("check:\n%s", out)
	}
	for range 2 {
		out, err := w.slipstream("intercept", "apply", "-c", w.config)
		if err != nil || !strings.Contains(out, "is intercepted: all rules are taken away\n") || !strings.Contains(out, "table inet slipstream is gone") {
			t.Errorf("apply: %v: %s", err, out)
		}
	}
	if out, _ := w.slipstream("check", "-c", w.config); regexp.MustCompile(`(?m)^[a-z]+ +intercept `).MatchString(out) {
		t.Errorf("check:\n%s", out)
	}
	w.talk(firstIPv4).ask("", "220 mx.one.test ")
}
