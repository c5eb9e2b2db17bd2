package proxy

import (
	"errors"
	"net"
	"os"
	"path/filepath"
	"syscall"
	"testing"
)

// A socket is replaced if nobody listens there, and not if somebody is too busy
// to answer.
func TestListenPrivateReplacesTheDeadOnly(t *testing.T) {
	dir, err := os.MkdirTemp("", "") // short, since the name of a socket is bounded
	if err != nil {
		t.Fatal(err)
	}
	defer os.RemoveAll(dir)
	path := filepath.Join(dir, "s")
	fd, err := syscall.Socket(syscall.AF_UNIX, syscall.SOCK_STREAM, 0)
	if err != nil {
		t.Fatal(err)
	}
	closed := false
	defer func() {
		if !closed {
			_ = syscall.Close(fd)
		}
	}()
	if err := syscall.Bind(fd, &syscall.SockaddrUnix{Name: path}); err != nil {
		t.Fatal(err)
	}
	if err := syscall.Listen(fd, 1); err != nil {
		t.Fatal(err)
	}
	full := false
	for range 64 { // nobody accepts
		c, err := net.Dial("unix", path)
		if err != nil {
			full = true
			break
		}
		defer c.Close()
	}
	if !full {
		t.Skip("this system's queues are never full")
	}
	if ln, err := ListenPrivate(path); !errors.Is(err, errSocketHeld) {
		t.Errorf("over a busy one: %v", err)
		if ln != nil {
			_ = ln.Close()
		}
	}
	closed = true
	if err := syscall.Close(fd); err != nil {
		t.Fatal(err)
	}
	ln, err := ListenPrivate(path)
	if err != nil {
		t.Fatalf("over a dead one: %v", err)
	}
	if err := ln.Close(); err != nil {
		t.Error(err)
	}
}
