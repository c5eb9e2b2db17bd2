package refpeer

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"net"
	"slices"
	"strconv"
	"time"
)

// Message is one message whose text came to its end.
type Message struct {
	Conn     int       // number of the connection
	At       time.Time // of its last octet
	From     string    // the MAIL line as it came: "MAIL FROM:<a@b> SIZE=3"
	Rcpts    []string  // the RCPT lines that were accepted
	Body     []byte    // the octets, unstuffed; nil for a brief Server
	Size     int64     // of the body
	Digest   [32]byte  // SHA-256 of the body
	ID       string    // value of the first IDField in its beginning
	Via      string    // "DATA" or "BDAT"
	Chunks   int       // BDAT commands
	Hello    string    // the command: "EHLO a.example"
	TLS      uint16    // version, 0 without
	Resumed  bool      // the TLS session
	Xclient  []string  // arguments of the XCLIENT commands before it
	Proxy    Proxy     // header of the connection
	Final    []string  // replies to its end, without the last CRLF; empty: none was given
	Accepted bool      // for a recipient at least; also if the reply was withheld
}

// Sender returns the mailbox of the MAIL line, without brackets.
func (m Message) Sender() string {
	_, rest, _ := cutVerb(m.From)
	address, _, _ := cutPath(rest, "FROM:")
	return address
}

// Recipients returns the mailboxes of the RCPT lines, without brackets.
func (m Message) Recipients() []string {
	var all []string
	for _, line := range m.Rcpts {
		_, rest, _ := cutVerb(line)
		address, _, _ := cutPath(rest, "TO:")
		all = append(all, address)
	}
	return all
}

func (m Message) clone() Message {
	m.Rcpts, m.Final, m.Xclient = slices.Clone(m.Rcpts), slices.Clone(m.Final), slices.Clone(m.Xclient)
	m.Body = bytes.Clone(m.Body)
	return m
}

// Connection is what happened on one connection so far.
type Connection struct {
	ID            int // order of acceptance, from 0
	Local, Remote net.Addr
	Start, End    time.Time // End is zero while it is open
	Commands      []string  // lines as they came, without line end; no text
	Received      Octets    // SMTP as the server saw it: TLS and PROXY header removed
	Sent          Octets
	WireReceived  Octets // as it came from the network
	WireSent      Octets
	TLS           uint16 // version, 0 without
	Cipher        uint16
	ServerName    string // of the TLS client
	Resumed       bool
	Proxy         Proxy
	Err           error // why it ended, if not by QUIT, by the end of input, or as told
}

// Octets is the beginning of a stream.
type Octets struct {
	Data  []byte // as much as Server.Record allows
	Total int64
}

func (o *Octets) add(p []byte, limit int) {
	o.Total += int64(len(p))
	if room := limit - len(o.Data); room > 0 {
		o.Data = append(o.Data, p[:min(room, len(p))]...)
	}
}

// Violation is something that a client may not do.
type Violation struct {
	Conn int
	What string
	Line string // the command, if it was in one
}

func (v Violation) String() string {
	return fmt.Sprintf("connection %d: %s: %q", v.Conn, v.What, v.Line)
}

// Messages returns the messages that were accepted for a recipient at least, in
// the order of their ends.
func (s *Server) Messages() []Message { return s.list(true) }

// Refused returns the complete messages that were accepted for nobody.
func (s *Server) Refused() []Message { return s.list(false) }

func (s *Server) list(accepted bool) []Message {
	s.mu.Lock()
	defer s.mu.Unlock()
	var all []Message
	for _, m := range s.messages {
		if m.Accepted == accepted {
			all = append(all, m.clone())
		}
	}
	return all
}

// WaitMessages waits until there are n of Messages, and returns all.
func (s *Server) WaitMessages(ctx context.Context, n int) ([]Message, error) {
	for {
		s.mu.Lock()
		have := s.delivered
		if s.changed == nil {
			s.changed = make(chan struct{})
		}
		changed := s.changed
		s.mu.Unlock()
		if have >= n {
			return s.Messages(), nil
		}
		select {
		case <-changed:
		case <-ctx.Done():
			return s.Messages(), fmt.Errorf("refpeer: %d messages of %d: %w", have, n, ctx.Err())
		}
	}
}

// Connections returns all connections; a brief Server only those that are open.
func (s *Server) Connections() []Connection {
	s.mu.Lock()
	defer s.mu.Unlock()
	all := make([]Connection, len(s.conns))
	for i, c := range s.conns {
		all[i] = *c
		all[i].Commands = slices.Clone(c.Commands)
		for _, o := range []*Octets{&all[i].Received, &all[i].Sent, &all[i].WireReceived, &all[i].WireSent} {
			o.Data = bytes.Clone(o.Data)
		}
	}
	return all
}

// Accepted returns how many connections were accepted so far.
func (s *Server) Accepted() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.accepted
}

// Violations returns what clients did and may not do.
func (s *Server) Violations() []Violation {
	s.mu.Lock()
	defer s.mu.Unlock()
	return slices.Clone(s.violations)
}

// enter makes the record of a new connection, and reports whether it is one too
// many.
func (s *Server) enter(conn net.Conn) (*Connection, bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	rec := &Connection{ID: s.accepted, Local: conn.LocalAddr(), Remote: conn.RemoteAddr(), Start: time.Now()}
	s.accepted++
	s.open++
	if len(s.conns) < MaxRecords {
		s.conns = append(s.conns, rec)
	}
	return rec, s.open > MaxOpen
}

func (s *Server) leave(rec *Connection, err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.open--
	rec.End, rec.Err = time.Now(), err
	if s.Brief {
		if i := slices.Index(s.conns, rec); i >= 0 {
			s.conns = slices.Delete(s.conns, i, i+1)
		}
	}
}

// note changes a record.
func (s *Server) note(change func()) {
	s.mu.Lock()
	defer s.mu.Unlock()
	change()
}

// complete lists a message, not yet accepted, and returns how many there were.
func (s *Server) complete(m *Message) int {
	s.mu.Lock()
	defer s.mu.Unlock()
	if len(s.messages) < MaxRecords {
		s.messages = append(s.messages, m)
	}
	return len(s.messages) - 1
}

// outcome notes one final reply of a message.
func (s *Server) outcome(m *Message, d answer) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if d.text != "" {
		m.Final = append(m.Final, trimCRLF(d.text))
	}
	if !d.obeyed || m.Accepted {
		return
	}
	m.Accepted = true
	s.delivered++
	if s.changed != nil {
		close(s.changed)
		s.changed = nil
	}
}

func (c *session) violation(what, line string) {
	c.srv.note(func() {
		if len(c.srv.violations) < MaxRecords {
			c.srv.violations = append(c.srv.violations, Violation{c.rec.ID, what, line})
		}
	})
}

var (
	errDone    = errors.New("done")
	errCrowded = errors.New("refpeer: too many connections")
)

func decimal(n int64) string { return strconv.FormatInt(n, 10) }
