package load

import (
	"bytes"
	"context"
	"crypto/tls"
	"fmt"
	"net"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"slipstream/bench/refpeer"
)

const (
	// replyWait bounds the wait for one reply.
	replyWait = 20 * time.Second
	// maxFailures ends a turn: a contestant that refuses everything would do so for ever.
	maxFailures = 20
)

// A crew is the sessions that send to one contestant during one turn. It speaks as an MTA does that knows PIPELINING:
// MAIL, RCPT and DATA in one write, the text and its dot in the next. Every way passes that on.
type crew struct {
	addr    string
	tls     *tls.Config
	perConn int
	letters *letters
	take    func() (arrival, bool) // the next message to send; false: there is none
	note    func(outcome)
}

// An outcome is what became of a message.
type outcome struct {
	serial int64
	due    arrival
	begun  time.Time // when a session had time for it
	done   time.Time // when its final reply was read
	sure   bool      // there was a final reply
	err    error     // why it was not acknowledged
}

// work runs the sessions to their end: each sends until there is nothing more to send. What still waits for a reply
// then may wait until ctx ends.
func (c *crew) work(ctx context.Context, sessions int) {
	var wg sync.WaitGroup
	for range sessions {
		wg.Go(func() { c.session(ctx) })
	}
	wg.Wait()
}

func (c *crew) session(ctx context.Context) {
	var client *refpeer.Client
	sent := 0
	for {
		due, ok := c.take()
		if !ok {
			break
		}
		o := outcome{due: due, begun: time.Now()}
		if client == nil {
			client, o.err = c.dial(ctx)
			sent = 0
		}
		if o.err == nil {
			o.serial, o.sure, o.err = c.send(ctx, client)
			sent++
		}
		o.done = time.Now()
		c.note(o)
		switch {
		case client == nil:
		case o.err != nil:
			_ = client.Conn.Close() // its trouble is known
			client = nil
		case sent >= c.perConn:
			_ = client.Quit(ctx) // every message was answered before
			client = nil
		}
	}
	if client != nil {
		_ = client.Quit(ctx) // as above
	}
}

func (c *crew) dial(ctx context.Context) (*refpeer.Client, error) {
	conn, err := (&net.Dialer{Timeout: replyWait}).DialContext(ctx, "tcp", c.addr)
	if err != nil {
		return nil, err
	}
	return &refpeer.Client{Conn: conn, Style: refpeer.Pipelining, TLS: c.tls, Timeout: replyWait}, nil
}

// send sends a message. Its serial number is 0 if it was not begun.
func (c *crew) send(ctx context.Context, client *refpeer.Client) (serial int64, sure bool, err error) {
	serial, mail := c.letters.write()
	res, err := client.Send(ctx, mail)
	if err != nil {
		return serial, false, err
	}
	if !res.OK() {
		return serial, true, fmt.Errorf("a message was refused: %v", refusal(res))
	}
	return serial, true, nil
}

// refusal finds the reply that decided.
func refusal(r refpeer.Result) refpeer.Reply {
	for _, reply := range append(append(append([]refpeer.Reply{r.Mail}, r.Rcpts...), r.Data), r.Final...) {
		if reply.Code >= 400 {
			return reply
		}
	}
	return r.Mail
}

// letters writes messages that are alike but for their id.
type letters struct {
	prefix string // of the ids
	rest   []byte // of a message, behind its id
	serial atomic.Int64
}

const (
	sender    = "source@client.example"
	recipient = "sink@sink.example"
)

// newLetters makes messages of a size in octets, as close as whole lines come to it.
func newLetters(prefix string, size int) *letters {
	const line = "0123456789012345678901234567890123456789012345678901234567890123456789\r\n"
	var b strings.Builder
	fmt.Fprintf(&b, "\r\nFrom: <%s>\r\nTo: <%s>\r\nSubject: load\r\n\r\n", sender, recipient)
	for room := size - len(refpeer.IDField+": "+prefix) - b.Len(); room >= len(line)/2; room -= len(line) {
		b.WriteString(line)
	}
	return &letters{prefix: prefix, rest: []byte(b.String())}
}

// id is that of the message with a serial number, from 1.
func (l *letters) id(serial int64) string { return l.prefix + strconv.FormatInt(serial, 10) }

func (l *letters) write() (serial int64, m refpeer.Mail) {
	serial = l.serial.Add(1)
	head := refpeer.IDField + ": " + l.id(serial)
	body := bytes.Join([][]byte{[]byte(head), l.rest}, nil)
	return serial, refpeer.Mail{From: sender, To: []string{recipient}, Body: body}
}
