package refpeer

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"net"
	"strings"
	"time"
)

// Style is how a Client speaks.
type Style int

// Styles, from old to new.
const (
	OldLockStep Style = iota // HELO, every command alone, DATA
	LockStep                 // EHLO, every command alone, DATA
	Pipelining               // MAIL, RCPT… and DATA in one write, then text and dot in one
	Chunking                 // MAIL, RCPT…, BDAT and the octets in one write
	Early                    // as Chunking, but EHLO too, and all of it before the banner
)

func (s Style) String() string {
	return [...]string{"old lock-step", "lock-step", "pipelining", "chunking", "early"}[s]
}

// Client sends messages over Conn. It does as it is told, whatever the server
// offers.
type Client struct {
	Conn  net.Conn
	Style Style
	Name  string // in the greeting; default "client.example"
	LMTP  bool   // LHLO, and one final reply for each accepted recipient

	TLS      *tls.Config // STARTTLS first
	Implicit bool        // or a handshake before all else, with TLS

	ProxyHeader string        // octets to send before all else
	ChunkSize   int           // of BDAT; 0: the body in one
	Timeout     time.Duration // for one reply; default DefaultTimeout

	// Overhear, if set, is told of what passes inside of TLS: what is about to be sent, and what was read. It may not keep
	// the octets.
	Overhear func(sent bool, octets []byte)

	// Greeting and Hello are the latest banner, and reply to EHLO.
	Greeting, Hello Reply

	wire   *wire
	log    []Exchange
	unsent string   // early commands
	unread []string // commands whose replies are read later
	dirty  bool     // a transaction is open that went wrong
}

// Mail is one message to send.
type Mail struct {
	From       string   // mailbox, without brackets
	Params     string   // of MAIL, raw: "SIZE=10 BODY=8BITMIME"
	To         []string // mailboxes, without brackets
	RcptParams string   // of every RCPT, raw
	Body       []byte
}

// Result is what became of a Mail. Replies are missing where the client did not
// get that far.
type Result struct {
	Mail  Reply
	Rcpts []Reply
	Data  Reply   // to DATA
	BDAT  []Reply // to all BDAT commands but the last
	Final []Reply // one; with LMTP, or behind a 353, one for each accepted recipient
	All   Reply   // behind a 353: the last word about all of them
	Log   []Exchange
	Start time.Time // of Send, before a greeting that it sent
	Done  time.Time // when the last final reply was read
}

// OK reports whether the message was accepted, for all recipients that were.
func (r Result) OK() bool {
	for _, f := range r.Final {
		if !f.OK() {
			return false
		}
	}
	return len(r.Final) > 0
}

// Open goes as far as the reply to EHLO, the one under TLS if there is TLS. With
// Early, it stops before all that a server which is known need not be asked.
// Send calls it where nobody else has.
func (c *Client) Open(ctx context.Context) (err error) {
	if c.wire != nil {
		return nil
	}
	c.wire = newWire(c.Conn, c.Timeout)
	c.wire.overhear = c.Overhear
	done := c.wire.during(ctx)
	defer func() { err = done(err) }()
	if c.ProxyHeader != "" {
		if err := c.wire.send([]byte(c.ProxyHeader)); err != nil {
			return err
		}
	}
	if c.Implicit {
		if err := c.wire.secure(ctx, c.TLS); err != nil {
			return err
		}
	}
	c.unread = []string{"greeting"}
	if c.Style == Early {
		c.later(c.hello())
	} else if err := c.greet(); err != nil {
		return err
	}
	if c.TLS == nil || c.Implicit {
		return nil
	}
	return c.starttls(ctx)
}

// Replies returns everything that the server said so far.
func (c *Client) Replies() []Exchange { return append([]Exchange(nil), c.log...) }

// Offers reports whether the latest reply to EHLO has a keyword.
func (c *Client) Offers(keyword string) bool {
	for _, line := range c.Hello.Lines[min(1, len(c.Hello.Lines)):] {
		own, _, _ := strings.Cut(line, " ")
		if strings.EqualFold(own, keyword) {
			return true
		}
	}
	return false
}

// ConnectionState returns the state of TLS; the zero value without.
func (c *Client) ConnectionState() tls.ConnectionState {
	if c.wire != nil {
		if conn, ok := c.wire.conn.(interface{ ConnectionState() tls.ConnectionState }); ok {
			return conn.ConnectionState()
		}
	}
	return tls.ConnectionState{}
}

// Quit sends QUIT, waits for the reply, and closes the connection.
func (c *Client) Quit(ctx context.Context) (err error) {
	if c.wire == nil {
		return c.Conn.Close()
	}
	done := c.wire.during(ctx)
	defer func() { err = done(err) }()
	_, err = c.exchange("", "QUIT")
	return errors.Join(err, c.wire.conn.Close())
}

// Nothing makes sure that the server says nothing within d.
func (c *Client) Nothing(d time.Duration) error { return c.wire.nothing(d) }

func (c *Client) hello() string {
	verb := "EHLO "
	switch {
	case c.LMTP:
		verb = "LHLO "
	case c.Style == OldLockStep:
		verb = "HELO "
	}
	if c.Name == "" {
		return verb + "client.example"
	}
	return verb + c.Name
}

// greet waits for the banner, if there is one to come, and says hello.
func (c *Client) greet() error {
	if len(c.unread) > 0 {
		if _, err := c.exchange(""); err != nil {
			return err
		}
		if !c.Greeting.OK() {
			return fmt.Errorf("refpeer: greeted with %v", c.Greeting)
		}
	}
	if _, err := c.exchange("", c.hello()); err != nil {
		return err
	}
	if !c.Hello.OK() {
		return fmt.Errorf("refpeer: %s answered with %v", c.hello(), c.Hello)
	}
	return nil
}

func (c *Client) starttls(ctx context.Context) error {
	replies, err := c.exchange("", "STARTTLS")
	if err != nil {
		return err
	}
	if r := replies[0]; r.Code != 220 {
		return fmt.Errorf("refpeer: STARTTLS answered with %v", r)
	}
	if err := c.wire.secure(ctx, c.TLS); err != nil {
		return err
	}
	if c.Style == Early {
		c.later(c.hello())
		return nil
	}
	return c.greet()
}

// later makes a command part of the next flight.
func (c *Client) later(command string) {
	c.unsent += command + "\r\n"
	c.unread = append(c.unread, command)
}

// exchange sends commands, and octets behind them, in one write, and reads the
// reply to each command. Replies that are still to come are read before.
func (c *Client) exchange(octets string, commands ...string) ([]Reply, error) {
	flight := c.unsent
	for _, command := range commands {
		flight += command + "\r\n"
	}
	c.unsent = ""
	if flight += octets; flight != "" {
		if err := c.wire.send([]byte(flight)); err != nil {
			return nil, err
		}
	}
	return c.read(commands...)
}

// read reads the replies to commands, and those still to come before.
func (c *Client) read(commands ...string) ([]Reply, error) {
	before := c.unread
	c.unread = nil
	var replies []Reply
	for i, command := range append(before, commands...) {
		r, err := c.wire.reply()
		if err != nil {
			return replies, err
		}
		c.log = append(c.log, Exchange{command, r})
		verb, _, _ := cutVerb(command)
		switch verb {
		case "GREETING":
			c.Greeting = r
		case "HELO", "EHLO", "LHLO":
			c.Hello = r
		case "RSET":
			c.dirty = false
		}
		if i >= len(before) {
			replies = append(replies, r)
		}
	}
	return replies, nil
}
