package refpeer

import (
	"strings"
	"time"
)

// Kind says what happened.
type Kind string

// Kinds of events. A reply is due at all of them but DataStart.
const (
	Connect   Kind = "connect"     // the banner is due
	Command   Kind = "command"     // a command line came; for BDAT its octets too, but see EndOfData
	DataStart Kind = "data start"  // 354 was sent, or a BDAT line came; its octets are still unread
	EndOfData Kind = "end of data" // a message is complete, by a dot or BDAT LAST; with LMTP once for each recipient
)

// Event is what a Server is about to answer.
type Event struct {
	Kind    Kind
	Conn    int    // number of the connection, from 0
	N       int    // how often the same happened on this connection before: kind, and verb of a command
	Total   int    // EndOfData: complete messages before this one, over all connections
	Verb    string // Command: in upper case; DataStart, EndOfData: DATA or BDAT
	Line    string // Command: as it came, without line end; after BDAT that line
	Address string // MAIL, RCPT, and EndOfData with LMTP: the mailbox, without brackets
	Rcpt    int    // EndOfData with LMTP: number of the recipient, from 0
	Secured bool   // TLS is on
	Reply   string // what a normal server says, without the last CRLF; empty at DataStart
}

// Action is what to do at an Event, in the order of its fields. The zero value
// is what a normal server does.
//
// Reply decides what happened to a command: with 2xx or 3xx it was obeyed.
// Without a reply (Silent, or one of Close, Reset and Stall alone) it was obeyed
// if a normal server had done so: a message is delivered though nobody hears of
// it.
type Action struct {
	Delay  time.Duration // before all else
	Reply  string        // these octets instead, CRLF and all; at DataStart: in addition
	Silent bool          // no reply
	Twice  bool          // the reply two times

	// Then, at most one. Alone, they stand for the reply.
	Close bool // after what was written
	Reset bool // after what was written
	Stall bool // read and write nothing until the server is closed
}

// Say is the Action of another reply: a line, to which CRLF is added.
func Say(line string) Action { return Action{Reply: line + "\r\n"} }

// answer is a reply that was decided on.
type answer struct {
	text   string // octets
	obeyed bool
	code   int // of the text or, without one, of the normal reply
	then   Action
}

// decide asks Behave what to answer, and lets the delay pass.
func (c *session) decide(ev Event, normal string) (answer, error) {
	ev.Conn, ev.Secured, ev.Reply = c.rec.ID, c.secured(), normal
	ev.N = c.count(ev)
	var a Action
	if c.srv.Behave != nil {
		a = c.srv.Behave(ev)
	}
	if a.Delay > 0 {
		if err := c.pause(a.Delay); err != nil {
			return answer{}, err
		}
	}
	if c.impatient(ev) {
		c.violation("did not wait for the reply", ev.Line)
		a = Action{Reply: "554 5.5.0 synchronization error\r\n", Close: true}
	}
	d := answer{then: a, code: code(normal), text: a.Reply}
	switch {
	case a.Reply != "":
		d.code = code(a.Reply)
	case !a.Silent && !a.Close && !a.Reset && !a.Stall && normal != "":
		d.text = normal + "\r\n"
	}
	d.obeyed = d.code/100 == 2 || d.code/100 == 3
	return d, nil
}

// do gives an answer. The error is errDone if the connection ended with it.
func (c *session) do(d answer) error {
	c.write(d.text)
	if d.then.Twice {
		c.write(d.text)
	}
	if !d.then.Close && !d.then.Reset && !d.then.Stall {
		return nil
	}
	c.w.Flush()
	switch {
	case d.then.Reset:
		c.tap.reset()
	case d.then.Close:
		c.conn.Close()
	default:
		<-c.ctx.Done()
	}
	return errDone
}

// answer decides and does.
func (c *session) answer(ev Event, normal string) (answer, error) {
	d, err := c.decide(ev, normal)
	if err != nil {
		return d, err
	}
	return d, c.do(d)
}

// impatient reports whether the client sent more, though a reply is due that it
// has to wait for.
func (c *session) impatient(ev Event) bool {
	if !c.srv.StrictLockstep || c.r.Buffered() == 0 || ev.Kind == DataStart {
		return false
	}
	k := c.srv.Keywords
	if !k.Pipelining || c.verb == "HELO" {
		return true
	}
	if ev.Kind == Connect {
		return !k.PipeConnect
	}
	if ev.Kind == EndOfData {
		return false
	}
	switch ev.Verb {
	case "EHLO", "LHLO", "HELO":
		return !k.PipeConnect
	case "DATA", "VRFY", "EXPN", "TURN", "QUIT", "NOOP", "STARTTLS", "AUTH", "ETRN", "XCLIENT":
		return true
	}
	return false
}

// count returns how often the same happened before, and counts it.
func (c *session) count(ev Event) int {
	key := string(ev.Kind)
	if ev.Kind == Command {
		key += " " + ev.Verb
	}
	if ev.Rcpt > 0 {
		return c.seen[key] - 1
	}
	c.seen[key]++
	return c.seen[key] - 1
}

// pause waits. A strict server listens meanwhile.
func (c *session) pause(d time.Duration) error {
	c.w.Flush()
	until := time.Now().Add(d)
	if c.srv.StrictLockstep && c.r.Buffered() == 0 {
		// Whatever ends this, the next read will find it again.
		c.tap.until = until
		c.r.Peek(1)
		c.tap.until = time.Time{}
	}
	t := time.NewTimer(time.Until(until))
	defer t.Stop()
	select {
	case <-t.C:
		return nil
	case <-c.ctx.Done():
		return c.ctx.Err()
	}
}

// code returns the code of a reply, or 0.
func code(reply string) int {
	n := 0
	for i := range 3 {
		if i >= len(reply) || reply[i] < '0' || reply[i] > '9' {
			return 0
		}
		n = 10*n + int(reply[i]-'0')
	}
	return n
}

// reply makes the text of a normal reply, with its enhanced code if that is
// offered.
func (c *session) reply(code, enhanced, text string) string {
	if c.srv.Keywords.EnhancedStatusCodes && enhanced != "" && c.verb != "HELO" {
		return code + " " + enhanced + " " + text
	}
	return code + " " + text
}

// lines makes the text of a reply of several lines.
func lines(code string, all []string) string {
	var b strings.Builder
	for i, l := range all {
		sep := "-"
		if i == len(all)-1 {
			sep = " "
		}
		if i > 0 {
			b.WriteString("\r\n")
		}
		b.WriteString(code + sep + l)
	}
	return b.String()
}
