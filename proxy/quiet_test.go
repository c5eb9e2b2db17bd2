package proxy

import (
	"net"
	"testing"
	"time"
)

// Whether a connection is quiet is asked long after its last wait is over. A
// deadline that has passed says nothing about the socket.
func TestQuietHeedsNoDeadline(t *testing.T) {
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer ln.Close()
	near, err := net.Dial("tcp", ln.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	defer near.Close()
	far, err := ln.Accept()
	if err != nil {
		t.Fatal(err)
	}
	defer far.Close()
	p := newPeer(near, "hop", false, &DefaultConfig().Timeouts)
	_ = p.wire.SetDeadline(longAgo())
	if !p.quiet() {
		t.Error("a healthy connection whose deadline has passed is not quiet")
	}
	if _, err := far.Write([]byte("421 bye\r\n")); err != nil {
		t.Fatal(err)
	}
	for end := time.Now().Add(10 * time.Second); p.quiet(); {
		if time.Now().After(end) {
			t.Fatal("a 421 that waits is not seen")
		}
	}
}
