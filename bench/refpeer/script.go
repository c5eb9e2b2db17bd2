package refpeer

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"iter"
	"net"
	"regexp"
	"strings"
	"time"
)

// Script says octets to a server, and looks at what comes back.
type Script struct{ wire *wire }

// NewScript returns a Script over conn, with DefaultTimeout for each reply.
func NewScript(conn net.Conn) *Script { return &Script{newWire(conn, 0)} }

// Send writes octets at once, as they are.
func (s *Script) Send(octets string) error { return s.wire.send([]byte(octets)) }

// SendParts makes one write of each part, with a pause between them.
func (s *Script) SendParts(pause time.Duration, parts ...string) error {
	for i, p := range parts {
		if i > 0 && pause > 0 {
			time.Sleep(pause)
		}
		if err := s.Send(p); err != nil {
			return err
		}
	}
	return nil
}

// SendSlowly writes size octets at a time, with a pause between them.
func (s *Script) SendSlowly(pause time.Duration, size int, octets string) error {
	var parts []string
	for size = max(1, size); len(octets) > size; octets = octets[size:] {
		parts = append(parts, octets[:size])
	}
	return s.SendParts(pause, append(parts, octets)...)
}

// Splits yields octets cut in two at every offset: "", all; first, rest; …
func Splits(octets string) iter.Seq2[string, string] {
	return func(yield func(string, string) bool) {
		for i := range len(octets) + 1 {
			if !yield(octets[:i], octets[i:]) {
				return
			}
		}
	}
}

// Expect reads a reply for each pattern, and returns the last. A pattern is a
// regular expression for a whole reply, with "\n" between its lines:
// "250-mx.*\n250 SIZE". Without anchors it may match anywhere.
func (s *Script) Expect(patterns ...string) (Reply, error) {
	var r Reply
	for _, pattern := range patterns {
		var err error
		if r, err = s.wire.reply(); err != nil {
			return r, fmt.Errorf("waiting for %q: %w", pattern, err)
		}
		ok, err := regexp.MatchString(pattern, strings.ReplaceAll(lines(decimal(int64(r.Code)), r.Lines), "\r\n", "\n"))
		if err != nil {
			return r, err
		}
		if !ok {
			return r, fmt.Errorf("refpeer: %q does not match %q", r, pattern)
		}
	}
	return r, nil
}

// Do sends a line, to which CRLF is added, and expects a reply.
func (s *Script) Do(line, pattern string) (Reply, error) {
	if err := s.Send(line + "\r\n"); err != nil {
		return Reply{}, err
	}
	r, err := s.Expect(pattern)
	if err != nil {
		err = fmt.Errorf("%q: %w", line, err)
	}
	return r, err
}

// ExpectNothing makes sure that nothing comes within d, not even the end.
func (s *Script) ExpectNothing(d time.Duration) error { return s.wire.nothing(d) }

// ExpectEOF makes sure that the server sends nothing more and closes. A reset is
// an error, the connection's own.
func (s *Script) ExpectEOF() error {
	switch err := s.wire.nothing(s.wire.timeout); {
	case err == nil:
		return errors.New("refpeer: the connection is still open")
	case errors.Is(err, io.EOF):
		return nil
	default:
		return err
	}
}

// StartTLS does the handshake. The error tells of octets that came before it.
func (s *Script) StartTLS(ctx context.Context, conf *tls.Config) error {
	return s.wire.secure(ctx, conf)
}
