package refpeer

import (
	"bufio"
	"bytes"
	"crypto/sha256"
	"errors"
	"hash"
	"io"
	"slices"
	"strings"
	"time"
)

// IDField is the header field that holds the id of a message of a Source.
const IDField = "X-Refpeer-ID"

// headSize is how much of a text is searched for IDField.
const headSize = 16 << 10

// text is a message on its way in.
type text struct {
	keep   bool
	buf    []byte
	head   []byte
	sum    hash.Hash
	size   int64
	chunks int
	last   byte
	line   string // the command it came with

	eightBit, bareCR, bareLF, nul bool
}

func (c *session) newText() *text { return &text{keep: !c.srv.Brief, sum: sha256.New()} }

// add takes octets, unstuffed.
func (t *text) add(p []byte) {
	if len(p) == 0 {
		return
	}
	t.size += int64(len(p))
	t.sum.Write(p)
	if room := headSize - len(t.head); room > 0 {
		t.head = append(t.head, p[:min(room, len(p))]...)
	}
	if t.keep && t.size <= MaxText {
		t.buf = append(t.buf, p...)
	}
	for _, b := range p {
		t.bareCR = t.bareCR || t.last == '\r' && b != '\n'
		t.bareLF = t.bareLF || b == '\n' && t.last != '\r'
		t.nul = t.nul || b == 0
		t.eightBit = t.eightBit || b >= 0x80
		t.last = b
	}
}

// id returns the value of IDField.
func (t *text) id() string {
	prefix := []byte(IDField + ": ")
	i := 0
	if !bytes.HasPrefix(t.head, prefix) {
		if i = bytes.Index(t.head, append([]byte("\n"), prefix...)); i < 0 {
			return ""
		}
		i++
	}
	value, _, _ := bytes.Cut(t.head[i+len(prefix):], []byte("\r\n"))
	return string(value)
}

func (c *session) doData(ev Event, arg string) error {
	var normal string
	switch {
	case c.text != nil:
		normal = c.badSequence(ev, "DATA after BDAT")
	case c.mail == "" || len(c.rcpts) == 0:
		normal = c.badSequence(ev, "no valid recipients")
	case arg != "":
		c.violation("DATA with arguments", ev.Line)
		normal = c.reply("501", "5.5.4", "no arguments")
	default:
		if c.binary() {
			c.violation("DATA with BODY=BINARYMIME", ev.Line)
		}
		normal = c.reply("354", "", "go ahead")
	}
	d, err := c.answer(ev, normal)
	if err != nil || d.code/100 != 3 {
		return err
	}
	if _, err := c.answer(Event{Kind: DataStart, Verb: "DATA", Line: ev.Line}, ""); err != nil {
		return err
	}
	t := c.newText()
	t.line = ev.Line
	if len(c.srv.Lenient) > 0 {
		err = c.readLenient(t)
	} else {
		err = c.readText(t)
	}
	if err != nil {
		return unexpected(err)
	}
	return c.finish(t, "DATA")
}

func (c *session) binary() bool {
	return strings.Contains(strings.ToUpper(c.mail), " BODY=BINARYMIME")
}

// readText reads to CRLF.CRLF and nothing else:
// https://www.rfc-editor.org/rfc/rfc5321#section-4.1.1.4
func (c *session) readText(t *text) error {
	start := true
	for {
		p, err := c.r.ReadSlice('\n')
		full := errors.Is(err, bufio.ErrBufferFull)
		if err != nil && !full {
			return err
		}
		if start && p[0] == '.' {
			if string(p) == ".\r\n" {
				return nil
			}
			p = p[1:]
		}
		before := t.last
		t.add(p)
		if len(p) > 1 {
			before = p[len(p)-2]
		}
		start = !full && before == '\r'
	}
}

// readLenient also takes the Endings of the server for one. A dot is removed
// behind everything that such a server takes for the end of a line.
func (c *session) readLenient(t *text) error {
	endings := append([]Ending{crlfDotCRLF}, c.srv.Lenient...)
	raw := []byte("\r\n")
	for {
		b, err := c.r.ReadByte()
		if err != nil {
			return err
		}
		raw = append(raw, b)
		if int64(len(raw)) > MaxText {
			return errors.New("refpeer: text too long")
		}
		i := slices.IndexFunc(endings, func(e Ending) bool { return bytes.HasSuffix(raw, []byte(e)) })
		if i < 0 {
			continue
		}
		if next, _ := c.r.Peek(min(1, c.r.Buffered())); b == '\r' && string(next) == "\n" {
			c.r.Discard(1)
		}
		dot := strings.IndexByte(string(endings[i]), '.')
		body := raw[:len(raw)-len(endings[i])+dot]
		t.add(unstuff(body, endings)[2:])
		return nil
	}
}

// unstuff removes the first dot of each line.
func unstuff(raw []byte, endings []Ending) []byte {
	var out []byte
	for i, b := range raw {
		if b == '.' && slices.ContainsFunc(endings, func(e Ending) bool {
			eol, _, _ := strings.Cut(string(e), ".")
			return bytes.HasSuffix(raw[:i], []byte(eol))
		}) {
			continue
		}
		out = append(out, b)
	}
	return out
}

func (c *session) doBdat(ev Event, arg string) error {
	digits, last, more := strings.Cut(arg, " ")
	size, ok := number(digits)
	if !ok || more && !strings.EqualFold(last, "LAST") {
		c.violation("malformed BDAT", ev.Line)
		c.write(c.reply("501", "5.5.4", "BDAT size [LAST]") + "\r\n")
		return errDone // nobody knows what follows
	}
	var normal string
	switch {
	case !c.srv.Keywords.Chunking || c.srv.Old || c.verb == "HELO":
		c.violation("BDAT that was not offered", ev.Line)
		normal = c.reply("502", "5.5.1", "not implemented")
	case c.mail == "" || len(c.rcpts) == 0:
		normal = c.badSequence(ev, "no valid recipients")
	}
	if _, err := c.answer(Event{Kind: DataStart, Verb: "BDAT", Line: ev.Line}, ""); err != nil {
		return err
	}
	t := c.text
	if normal != "" {
		t = nil
	} else if t == nil {
		t = c.newText()
		c.text = t
	}
	if err := c.readChunk(t, size); err != nil {
		return unexpected(err)
	}
	if t != nil && more {
		t.line = ev.Line
		return c.finish(t, "BDAT")
	}
	if normal == "" {
		normal = c.reply("250", "2.0.0", digits+" octets")
	}
	d, err := c.answer(ev, normal)
	if t != nil && !d.obeyed {
		c.text, c.rcpts = nil, nil // further chunks are refused until RSET
	}
	return err
}

// readChunk reads n octets into t, or to nowhere.
func (c *session) readChunk(t *text, n int64) error {
	if t != nil {
		t.chunks++
	}
	for n > 0 {
		if _, err := c.r.Peek(1); err != nil {
			return err
		}
		p, _ := c.r.Peek(int(min(n, int64(c.r.Buffered()))))
		if t != nil {
			t.add(p)
		}
		c.r.Discard(len(p))
		n -= int64(len(p))
	}
	return nil
}

// finish answers a complete message.
func (c *session) finish(t *text, via string) error {
	c.judge(t)
	m := &Message{
		Conn: c.rec.ID, At: time.Now(), From: c.mail, Rcpts: c.rcpts, Body: t.buf, Size: t.size, ID: t.id(),
		Via: via, Chunks: t.chunks, Hello: c.hello, Xclient: slices.Clone(c.xclient), Proxy: c.proxy,
	}
	t.sum.Sum(m.Digest[:0])
	if c.state != nil {
		m.TLS, m.Resumed = c.state.Version, c.state.DidResume
	}
	total := c.srv.complete(m)
	recipients := m.Recipients()
	c.forget()
	n := 1
	if c.srv.LMTP {
		n = len(recipients)
	}
	for i := range n {
		ev := Event{Kind: EndOfData, Verb: via, Line: t.line, Rcpt: i, Total: total}
		choice := recipients
		if c.srv.LMTP {
			ev.Address = recipients[i]
			choice = recipients[i : i+1]
		}
		d, err := c.decide(ev, c.verdict(t, choice))
		if err != nil {
			return err
		}
		c.srv.outcome(m, d)
		if err := c.do(d); err != nil {
			return err
		}
	}
	return nil
}

// verdict returns the normal reply at the end of data.
func (c *session) verdict(t *text, recipients []string) string {
	if size := c.srv.Keywords.Size; size > 0 && t.size > size || t.size > MaxText {
		return c.reply("552", "5.3.4", "too big")
	}
	for _, r := range recipients {
		if reply := c.srv.FinalReplies[r]; reply != "" {
			return reply
		}
	}
	return c.reply("250", "2.0.0", "taken")
}

// judge notes what may not be in a text.
func (c *session) judge(t *text) {
	binary := c.binary() && t.chunks > 0
	for _, v := range []struct {
		is   bool
		what string
	}{
		{(t.bareCR || t.last == '\r') && !binary, "bare CR in a text"},
		{t.bareLF && !binary, "bare LF in a text"},
		{t.nul && !binary, "NUL in a text"},
		{t.eightBit && !c.srv.Keywords.EightBitMIME, "8 bit text to a server without 8BITMIME"},
	} {
		if v.is {
			c.violation(v.what, t.line)
		}
	}
}

// unexpected names the end of input within a text.
func unexpected(err error) error {
	if errors.Is(err, io.EOF) {
		return io.ErrUnexpectedEOF
	}
	return err
}
