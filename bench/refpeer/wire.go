package refpeer

import (
	"bufio"
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net"
	"strings"
	"time"
)

const (
	// MaxReplyLines and MaxReplyLine bound a reply that a Client or Script takes.
	MaxReplyLines = 200
	MaxReplyLine  = 4096
	// DefaultTimeout is how long a Client or Script waits for one reply.
	DefaultTimeout = time.Minute
)

// Reply is one reply of a server.
type Reply struct {
	Code  int
	Lines []string  // the text of each line, behind "250-" or "250 "
	At    time.Time // when its last octet was read
}

// String returns the reply in one line: "250 first; second".
func (r Reply) String() string { return fmt.Sprintf("%03d %s", r.Code, strings.Join(r.Lines, "; ")) }

// OK reports whether the reply is positive: 2xx.
func (r Reply) OK() bool { return r.Code/100 == 2 }

// Exchange is a command and what was replied.
type Exchange struct {
	Command string // its line, "greeting", "." for the end of data
	Reply   Reply
}

// wire is the client's end of a connection.
type wire struct {
	raw     net.Conn // below TLS
	conn    net.Conn
	r       *bufio.Reader
	timeout time.Duration

	overhear func(sent bool, octets []byte) // nil: nobody does
}

func newWire(conn net.Conn, timeout time.Duration) *wire {
	if timeout <= 0 {
		timeout = DefaultTimeout
	}
	return &wire{raw: conn, conn: conn, r: bufio.NewReader(conn), timeout: timeout}
}

// during breaks what blocks when ctx ends. The function it returns is to be
// called with what happened.
func (w *wire) during(ctx context.Context) func(error) error {
	stop := context.AfterFunc(ctx, func() { w.raw.Close() })
	return func(err error) error {
		stop()
		if err != nil && ctx.Err() != nil {
			return errors.Join(ctx.Err(), err)
		}
		return err
	}
}

// send writes octets at once.
func (w *wire) send(p []byte) error {
	w.conn.SetWriteDeadline(time.Now().Add(w.timeout))
	_, err := w.conn.Write(p)
	return err
}

// reply reads one reply, strictly: https://www.rfc-editor.org/rfc/rfc5321#section-4.2
func (w *wire) reply() (Reply, error) {
	w.conn.SetReadDeadline(time.Now().Add(w.timeout))
	var r Reply
	for {
		line, err := w.line()
		if err != nil {
			if errors.Is(err, io.EOF) && (line != "" || len(r.Lines) > 0) {
				err = io.ErrUnexpectedEOF
			}
			return r, err
		}
		n := code(line)
		switch {
		case n < 200 || n > 599 || len(line) > 3 && line[3] != ' ' && line[3] != '-':
			return r, fmt.Errorf("refpeer: malformed reply %q", line)
		case len(r.Lines) > 0 && n != r.Code:
			return r, fmt.Errorf("refpeer: reply of several codes: %d and %q", r.Code, line)
		case len(r.Lines) >= MaxReplyLines:
			return r, errors.New("refpeer: reply of too many lines")
		}
		r.Code = n
		r.Lines = append(r.Lines, line[min(4, len(line)):])
		if len(line) == 3 || line[3] == ' ' {
			r.At = time.Now()
			return r, nil
		}
	}
}

func (w *wire) line() (string, error) {
	var line []byte
	for len(line) < MaxReplyLine {
		b, err := w.r.ReadByte()
		if err != nil {
			return string(line), err
		}
		line = append(line, b)
		if b != '\n' {
			continue
		}
		text, ok := strings.CutSuffix(string(line), "\r\n")
		if !ok || strings.ContainsAny(text, "\r\x00") {
			return "", fmt.Errorf("refpeer: malformed reply %q", line)
		}
		return text, nil
	}
	return "", fmt.Errorf("refpeer: reply line too long: %q…", line[:64])
}

// nothing makes sure that nothing comes within d.
func (w *wire) nothing(d time.Duration) error {
	w.conn.SetReadDeadline(time.Now().Add(d))
	_, err := w.r.Peek(1)
	var timeout net.Error
	if errors.As(err, &timeout) && timeout.Timeout() {
		return nil
	}
	if err != nil {
		return err
	}
	more, _ := w.r.Peek(w.r.Buffered())
	return fmt.Errorf("refpeer: unexpected %q", more)
}

// secure does the TLS handshake. What a server sent in clear behind its 220 may
// not be there: https://www.rfc-editor.org/rfc/rfc3207#section-6
func (w *wire) secure(ctx context.Context, conf *tls.Config) error {
	if n := w.r.Buffered(); n > 0 {
		more, _ := w.r.Peek(n)
		return fmt.Errorf("refpeer: unexpected %q before TLS", more)
	}
	w.conn.SetDeadline(time.Now().Add(w.timeout))
	conn := tls.Client(w.conn, conf)
	if err := conn.HandshakeContext(ctx); err != nil {
		return err
	}
	w.conn = conn
	if w.overhear != nil {
		w.conn = overheard{conn, w.overhear}
	}
	w.r.Reset(w.conn)
	return nil
}

// overheard is a TLS connection that somebody listens in on.
type overheard struct {
	*tls.Conn
	tell func(sent bool, octets []byte)
}

func (o overheard) Read(p []byte) (int, error) {
	n, err := o.Conn.Read(p)
	if n > 0 {
		o.tell(false, p[:n])
	}
	return n, err
}

func (o overheard) Write(p []byte) (int, error) {
	o.tell(true, p)
	return o.Conn.Write(p)
}

// stuff makes of a body what follows 354: dots doubled, CRLF at the end, and the
// final dot. https://www.rfc-editor.org/rfc/rfc5321#section-4.5.2
func stuff(body []byte) []byte {
	out := make([]byte, 0, len(body)+len(body)/64+8)
	for i, b := range body {
		if b == '.' && (i == 0 || i >= 2 && body[i-1] == '\n' && body[i-2] == '\r') {
			out = append(out, '.')
		}
		out = append(out, b)
	}
	if n := len(body); n > 0 && (n < 2 || body[n-2] != '\r' || body[n-1] != '\n') {
		out = append(out, "\r\n"...)
	}
	return append(out, ".\r\n"...)
}
