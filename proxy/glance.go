package proxy

import (
	"errors"
	"net"
	"syscall"
)

// glance takes in what the client has sent already, and waits for nothing. It
// returns true where a whole command is among it: then the client talks early.
func (s *session) glance() bool {
	s.wire.glancing = true
	_, _ = s.r.Poll() // an error that stays is told again where the next command is read
	s.wire.glancing = false
	return s.r.HasLine()
}

// A glanceError is a read that would have had to wait. It is temporary, so that
// TLS goes on behind it where it was.
type glanceError struct{}

func (glanceError) Error() string   { return "nothing to read without waiting" }
func (glanceError) Timeout() bool   { return true }
func (glanceError) Temporary() bool { return true }

var _ net.Error = glanceError{}

// readable tells whether a read from a connection would return at once: with
// octets, or with its end. Deadlines count for nothing.
func readable(conn net.Conn) bool {
	if c, ok := conn.(interface{ Readable() bool }); ok {
		return c.Readable() // a simulated connection knows without a socket
	}
	sc, ok := conn.(syscall.Conn)
	if !ok {
		return false // not a socket
	}
	raw, err := sc.SyscallConn()
	if err != nil {
		return true
	}
	nothing := false
	err = raw.Control(func(fd uintptr) { // Control, since Read heeds the deadline of the last wait
		var b [1]byte
		_, _, err := syscall.Recvfrom(int(fd), b[:], syscall.MSG_PEEK|syscall.MSG_DONTWAIT)
		nothing = errors.Is(err, syscall.EAGAIN)
	})
	return err != nil || !nothing
}
