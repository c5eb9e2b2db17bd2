package refpeer

import (
	"bufio"
	"context"
	"crypto/tls"
	"errors"
	"io"
	"net"
	"strings"
)

// session is one connection of a Server.
type session struct {
	ctx  context.Context
	srv  *Server
	rec  *Connection // under srv.mu
	tap  *tap
	conn net.Conn // tap, or TLS over it
	r    *bufio.Reader
	w    *bufio.Writer
	seen map[string]int

	verb    string // HELO, EHLO or LHLO, once obeyed
	hello   string // its line
	state   *tls.ConnectionState
	xclient []string
	proxy   Proxy

	tried bool     // MAIL came, and no end of a transaction since
	mail  string   // line of an open transaction
	rcpts []string // accepted lines
	text  *text    // of an open BDAT sequence
}

func newSession(ctx context.Context, s *Server, conn net.Conn, rec *Connection) *session {
	c := &session{ctx: ctx, srv: s, rec: rec, seen: make(map[string]int)}
	c.tap = &tap{Conn: conn, c: c}
	if s.Cut != nil {
		c.tap.cut = s.Cut(rec.ID)
	}
	c.conn = c.tap
	c.r = bufio.NewReaderSize(clear{c}, readBuffer)
	c.w = bufio.NewWriter(clear{c})
	return c
}

func (c *session) secured() bool { return c.state != nil }

func (c *session) write(reply string) { c.w.WriteString(reply) }

// serve runs the connection to its end.
func (c *session) serve() error {
	err := c.begin()
	for err == nil {
		err = c.command()
	}
	// QUIT, and an error that we answered, may leave something to say.
	c.w.Flush()
	c.conn.Close()
	if errors.Is(err, io.EOF) || c.ctx.Err() != nil {
		return nil
	}
	return err
}

// begin goes as far as the banner.
func (c *session) begin() error {
	if c.srv.ProxyHeader {
		p, err := readProxy(c.tap)
		if err != nil {
			c.violation("no PROXY header", p.Raw)
			return err
		}
		c.proxy = p
		c.srv.note(func() { c.rec.Proxy = p })
	}
	if c.srv.Implicit {
		if err := c.secure(); err != nil {
			return err
		}
	}
	banner := c.srv.Banner
	if banner == "" {
		banner = c.srv.hostname() + " ESMTP"
	}
	d, err := c.answer(Event{Kind: Connect}, "220 "+banner)
	if err == nil && d.code == 421 {
		return errDone
	}
	return err
}

// secure does the TLS handshake.
func (c *session) secure() error {
	if c.srv.TLS == nil {
		return errors.New("refpeer: Server.Implicit without Server.TLS")
	}
	conn := tls.Server(c.tap, c.srv.TLS)
	if err := conn.HandshakeContext(c.ctx); err != nil {
		return err
	}
	state := conn.ConnectionState()
	c.conn, c.state = conn, &state
	c.r.Reset(clear{c})
	c.w.Reset(clear{c})
	c.srv.note(func() {
		c.rec.TLS, c.rec.Cipher = state.Version, state.CipherSuite
		c.rec.ServerName, c.rec.Resumed = state.ServerName, state.DidResume
	})
	return nil
}

// readLine returns a command line without its end.
func (c *session) readLine() (string, error) {
	var line []byte
	for {
		piece, err := c.r.ReadSlice('\n')
		line = append(line, piece...)
		switch {
		case len(line) > MaxLine:
			c.violation("line too long", string(line[:64]))
			c.write(c.reply("500", "5.5.2", "line too long") + "\r\n")
			return "", errDone
		case err == nil:
			return string(line), nil
		case errors.Is(err, bufio.ErrBufferFull):
		case len(line) > 0 && errors.Is(err, io.EOF):
			c.violation("end of input within a line", string(line))
			return "", io.ErrUnexpectedEOF
		default:
			return "", err
		}
	}
}

// command reads one and does it.
func (c *session) command() error {
	raw, err := c.readLine()
	if err != nil {
		return err
	}
	line := trimCRLF(raw)
	verb, arg, _ := cutVerb(line)
	c.srv.note(func() {
		if !c.srv.Brief && len(c.rec.Commands) < MaxRecords {
			c.rec.Commands = append(c.rec.Commands, line)
		}
	})
	ev := Event{Kind: Command, Verb: verb, Line: line}
	if what := c.malformed(raw, line); what != "" {
		c.violation(what, line)
		if what != "line ends in a bare LF" || len(c.srv.Lenient) == 0 {
			_, err := c.answer(ev, c.reply("500", "5.5.2", what))
			return err
		}
	}
	return c.dispatch(ev, arg)
}

// malformed returns what is wrong with the octets of a line.
func (c *session) malformed(raw, line string) string {
	switch {
	case !strings.HasSuffix(raw, "\r\n"):
		return "line ends in a bare LF"
	case strings.ContainsAny(line, "\r\x00"):
		return "CR or NUL within a line"
	case !c.srv.Keywords.SMTPUTF8 && strings.ContainsFunc(line, func(r rune) bool { return r > 126 }):
		return "line with octets above 126"
	}
	return ""
}

func (c *session) dispatch(ev Event, arg string) error {
	switch ev.Verb {
	case "HELO", "EHLO", "LHLO":
		return c.doHello(ev, arg)
	case "MAIL":
		return c.doMail(ev, arg)
	case "RCPT":
		return c.doRcpt(ev, arg)
	case "DATA":
		return c.doData(ev, arg)
	case "BDAT":
		return c.doBdat(ev, arg)
	case "STARTTLS":
		return c.doStarttls(ev, arg)
	case "XCLIENT":
		return c.doXclient(ev, arg)
	case "QUIT":
		d, err := c.answer(ev, c.reply("221", "2.0.0", "bye"))
		if err == nil && d.obeyed {
			err = errDone
		}
		return err
	case "RSET":
		d, err := c.answer(ev, c.reply("250", "2.0.0", "ok"))
		if d.obeyed {
			c.forget()
		}
		return err
	}
	normal := c.reply("500", "5.5.2", "unknown command")
	switch ev.Verb {
	case "NOOP":
		normal = c.reply("250", "2.0.0", "ok")
	case "VRFY":
		normal = c.reply("252", "2.1.5", "send some mail")
	case "HELP":
		normal = c.reply("214", "2.0.0", "https://www.rfc-editor.org/rfc/rfc5321")
	case "EXPN", "TURN", "ETRN", "AUTH":
		normal = c.reply("502", "5.5.1", "not implemented")
	}
	_, err := c.answer(ev, normal)
	return err
}

// forget ends a transaction.
func (c *session) forget() { c.tried, c.mail, c.rcpts, c.text = false, "", nil, nil }

// badSequence returns the reply to a command that may not come now. It is no
// violation if the client could not know yet: it sent the command behind others,
// as it may, of which one was refused.
func (c *session) badSequence(ev Event, text string) string {
	k := c.srv.Keywords
	follows := c.tried && c.text == nil && ev.Verb != "MAIL" && k.Pipelining && c.verb != "HELO"
	if !follows && (c.verb != "" || !k.PipeConnect) {
		c.violation("out of sequence: "+text, ev.Line)
	}
	return c.reply("503", "5.5.1", text)
}

func trimCRLF(s string) string {
	return strings.TrimSuffix(strings.TrimSuffix(s, "\n"), "\r")
}
