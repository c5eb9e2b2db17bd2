package mta

import (
	"bytes"
	"context"
	"crypto/tls"
	"fmt"
	"net"
	"net/textproto"
	"strings"
	"time"
)

// Dialog is the plainest of SMTP clients, one command at a time, for asking a server what it says to something.
type Dialog struct {
	conn net.Conn
	text *textproto.Conn
}

// Answer is one reply; Lines are the texts behind the code.
type Answer struct {
	Code  int
	Lines []string
}

// String returns the reply as one line, "550 5.1.1 no such user"; further lines follow after a semicolon.
func (a Answer) String() string { return fmt.Sprintf("%d %s", a.Code, strings.Join(a.Lines, "; ")) }

// Has says whether one of the lines is the EHLO keyword, with or without arguments.
func (a Answer) Has(keyword string) bool {
	for _, line := range a.Lines {
		word, _, _ := strings.Cut(line, " ")
		if strings.EqualFold(word, keyword) {
			return true
		}
	}
	return false
}

// Dial connects and reads the greeting. The whole dialog must end by ctx's deadline, or within a minute. header, where
// it is not empty, is sent first (a PROXY line). config, where it is not nil, puts TLS under it all.
func Dial(ctx context.Context, addr, header string, config *tls.Config) (*Dialog, Answer, error) {
	var dialer net.Dialer
	conn, err := dialer.DialContext(ctx, "tcp", addr)
	if err != nil {
		return nil, Answer{}, err
	}
	deadline, bounded := ctx.Deadline()
	if !bounded {
		deadline = time.Now().Add(time.Minute)
	}
	conn.SetDeadline(deadline)
	if _, err := conn.Write([]byte(header)); err != nil {
		conn.Close()
		return nil, Answer{}, err
	}
	if config != nil {
		conn = tls.Client(conn, config)
	}
	d := &Dialog{conn: conn, text: textproto.NewConn(conn)}
	greeting, err := d.read()
	if err != nil {
		conn.Close()
		return nil, greeting, err
	}
	return d, greeting, nil
}

// Say sends one line and returns the reply. An error is of the connection, never a reply with a bad code.
func (d *Dialog) Say(format string, args ...any) (Answer, error) {
	if err := d.text.PrintfLine(format, args...); err != nil {
		return Answer{}, err
	}
	return d.read()
}

// StartTLS says STARTTLS and does the handshake; EHLO is to be said again.
func (d *Dialog) StartTLS(config *tls.Config) (tls.ConnectionState, error) {
	a, err := d.Say("STARTTLS")
	if err != nil {
		return tls.ConnectionState{}, err
	}
	if a.Code != 220 {
		return tls.ConnectionState{}, fmt.Errorf("STARTTLS: %s", a)
	}
	secured := tls.Client(d.conn, config)
	if err := secured.Handshake(); err != nil {
		return tls.ConnectionState{}, err
	}
	d.conn, d.text = secured, textproto.NewConn(secured)
	return secured.ConnectionState(), nil
}

// Text sends a message, whose lines may end in CRLF or LF, and its final dot after a 354.
func (d *Dialog) Text(raw []byte) (Answer, error) {
	w := d.text.DotWriter()
	if _, err := w.Write(bytes.ReplaceAll(raw, []byte("\r\n"), []byte("\n"))); err != nil {
		return Answer{}, err
	}
	if err := w.Close(); err != nil {
		return Answer{}, err
	}
	return d.read()
}

// Chunk sends a message as one BDAT LAST, octet for octet.
func (d *Dialog) Chunk(raw []byte) (Answer, error) {
	if _, err := fmt.Fprintf(d.text.W, "BDAT %d LAST\r\n%s", len(raw), raw); err != nil {
		return Answer{}, err
	}
	if err := d.text.W.Flush(); err != nil {
		return Answer{}, err
	}
	return d.read()
}

// Close hangs up without QUIT.
func (d *Dialog) Close() error { return d.conn.Close() }

func (d *Dialog) read() (Answer, error) {
	code, text, err := d.text.ReadResponse(0)
	return Answer{Code: code, Lines: strings.Split(text, "\n")}, err
}
