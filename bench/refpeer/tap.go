package refpeer

import (
	"errors"
	"net"
	"time"
)

// tap is a connection that writes down what passes, and that breaks where a Cut
// says.
type tap struct {
	net.Conn
	c     *session
	cut   Cut
	read  int64
	until time.Time // a deadline for the next read, instead of Server.Idle
}

var errCut = errors.New("cut")

func (t *tap) Read(p []byte) (int, error) {
	if t.cut.After > 0 {
		left := t.cut.After - t.read
		if left <= 0 {
			return 0, t.breakOff()
		}
		p = p[:min(int64(len(p)), left)]
	}
	until := t.until
	if until.IsZero() {
		until = time.Now().Add(t.c.srv.idle())
	}
	t.Conn.SetReadDeadline(until)
	n, err := t.Conn.Read(p)
	t.read += int64(n)
	t.c.record(func(rec *Connection) *Octets { return &rec.WireReceived }, p[:n])
	if t.cut.After > 0 && t.read >= t.cut.After && !t.cut.Answered {
		return 0, t.breakOff()
	}
	return n, err
}

func (t *tap) Write(p []byte) (int, error) {
	t.Conn.SetWriteDeadline(time.Now().Add(t.c.srv.idle()))
	n, err := t.Conn.Write(p)
	t.c.record(func(rec *Connection) *Octets { return &rec.WireSent }, p[:n])
	return n, err
}

func (t *tap) breakOff() error {
	if t.cut.Reset {
		t.reset()
	} else {
		t.Conn.Close()
	}
	return errCut
}

// reset aborts the connection.
func (t *tap) reset() {
	switch conn := t.Conn.(type) {
	case interface{ Reset() }:
		conn.Reset()
	case interface{ SetLinger(int) error }:
		conn.SetLinger(0)
	}
	t.Conn.Close()
}

// clear is the stream inside of TLS. Replies are sent together, when there is
// nothing left to read without waiting.
type clear struct{ c *session }

func (s clear) Read(p []byte) (int, error) {
	if err := s.c.w.Flush(); err != nil {
		return 0, err
	}
	n, err := s.c.conn.Read(p)
	s.overhear(false, p[:n])
	s.c.record(func(rec *Connection) *Octets { return &rec.Received }, p[:n])
	return n, err
}

func (s clear) Write(p []byte) (int, error) {
	s.overhear(true, p)
	n, err := s.c.conn.Write(p)
	s.c.record(func(rec *Connection) *Octets { return &rec.Sent }, p[:n])
	return n, err
}

func (s clear) overhear(sent bool, p []byte) {
	if s.c.srv.Overhear != nil && s.c.state != nil && len(p) > 0 {
		s.c.srv.Overhear(s.c.rec.ID, sent, p)
	}
}

// record adds to one of the streams of a record.
func (c *session) record(stream func(*Connection) *Octets, p []byte) {
	limit := c.srv.Record
	if limit == 0 {
		limit = MaxOctets
	}
	if limit < 0 || c.srv.Brief || len(p) == 0 {
		return
	}
	c.srv.note(func() { stream(c.rec).add(p, limit) })
}
