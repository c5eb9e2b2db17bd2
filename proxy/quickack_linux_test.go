package proxy

import (
	"context"
	"crypto/tls"
	"net"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// Behind a handshake comes a read that has the kernel acknowledge at once: a server that leaves Nagle's algorithm on
// holds its reply to EHLO back until its tickets are acknowledged.
func TestAcknowledgesAtOnceAfterHandshake(t *testing.T) {
	here, there := tcpPair(t)
	// A conversation has the kernel wait for something to send its acknowledgements with.
	word := make([]byte, 1)
	for round := 0; acknowledges(t, here); round++ {
		if round == 100 {
			t.Skip("this kernel acknowledges at once anyway")
		}
		exchange(t, here, there, word)
		exchange(t, there, here, word)
	}

	cert := newTestCert(t, "mx.example.org")
	served := make(chan error, 1)
	go func() {
		conn := tls.Server(there, cert.server())
		err := conn.Handshake()
		if err == nil {
			_, err = conn.Write([]byte("250 fine\r\n"))
		}
		served <- err
	}()
	p := newPeer(here, "mx.example.org", false, &DefaultConfig().Timeouts)
	if err := p.handshake(context.Background(), &tls.Config{InsecureSkipVerify: true}, true); err != nil {
		t.Fatal(err)
	}
	if err := <-served; err != nil {
		t.Fatal(err)
	}
	if !p.wire.hurry {
		t.Error("after the handshake there is no hurry")
	}
	if _, err := p.rw.Read(make([]byte, 100)); err != nil {
		t.Fatal(err)
	}
	if p.wire.hurry {
		t.Error("the hurry does not end with the first read")
	}
	if !acknowledges(t, here) {
		t.Error("the kernel was not told to acknowledge at once")
	}
}

// tcpPair is a connection of the kernel's.
func tcpPair(t *testing.T) (here, there *net.TCPConn) {
	t.Helper()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer ln.Close()
	dialed, err := net.Dial("tcp", ln.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	accepted, err := ln.Accept()
	if err != nil {
		t.Fatal(err)
	}
	for _, c := range []net.Conn{dialed, accepted} {
		t.Cleanup(func() { _ = c.Close() })
		_ = c.SetDeadline(time.Now().Add(time.Minute))
	}
	return dialed.(*net.TCPConn), accepted.(*net.TCPConn)
}

func exchange(t *testing.T, from, to net.Conn, word []byte) {
	t.Helper()
	if _, err := from.Write(word); err != nil {
		t.Fatal(err)
	}
	if _, err := to.Read(word); err != nil {
		t.Fatal(err)
	}
}

// acknowledges asks the kernel whether it does so at once.
func acknowledges(t *testing.T, conn *net.TCPConn) bool {
	t.Helper()
	raw, err := conn.SyscallConn()
	if err != nil {
		t.Fatal(err)
	}
	value := 0
	if ctl := raw.Control(func(fd uintptr) {
		value, err = unix.GetsockoptInt(int(fd), unix.IPPROTO_TCP, unix.TCP_QUICKACK)
	}); ctl != nil || err != nil {
		t.Fatal(ctl, err)
	}
	return value == 1
}
