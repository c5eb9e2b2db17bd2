package refpeer

import (
	"bytes"
	"context"
	"strings"
	"time"
)

// Send sends a message, and opens the connection if need be. The error tells of
// a connection that failed or a server that broke the protocol, not of a refusal;
// Result has what was replied until then.
func (c *Client) Send(ctx context.Context, m Mail) (res Result, err error) {
	res.Start = time.Now()
	before := len(c.log)
	defer func() { res.Log = c.log[before:len(c.log):len(c.log)] }()
	if err := c.Open(ctx); err != nil {
		return res, err
	}
	done := c.wire.during(ctx)
	defer func() { err = done(err) }()
	if c.dirty {
		// RSET goes with the next flight, where there are flights.
		c.later("RSET")
		if c.Style < Pipelining {
			if _, err := c.exchange(""); err != nil {
				return res, err
			}
		}
	}
	switch c.Style {
	case Pipelining:
		err = c.sendPipelined(m, &res)
	case Chunking, Early:
		err = c.sendChunks(m, &res)
	default:
		err = c.sendLockStep(m, &res)
	}
	if err == nil && len(res.Final) > 0 {
		res.Done = res.Final[len(res.Final)-1].At
	}
	if err == nil && res.All.Code != 0 {
		res.Done = res.All.At
	}
	return res, err
}

func (m Mail) mailLine() string {
	return strings.TrimSuffix("MAIL FROM:<"+m.From+"> "+m.Params, " ")
}

func (m Mail) rcptLines() []string {
	var lines []string
	for _, to := range m.To {
		lines = append(lines, strings.TrimSuffix("RCPT TO:<"+to+"> "+m.RcptParams, " "))
	}
	return lines
}

func (r Result) accepted() int {
	n := 0
	for _, rcpt := range r.Rcpts {
		if rcpt.OK() {
			n++
		}
	}
	return n
}

func (c *Client) sendLockStep(m Mail, res *Result) error {
	replies, err := c.exchange("", m.mailLine())
	if err != nil {
		return err
	}
	if res.Mail = replies[0]; !res.Mail.OK() {
		return nil
	}
	c.dirty = true
	for _, line := range m.rcptLines() {
		if replies, err = c.exchange("", line); err != nil {
			return err
		}
		res.Rcpts = append(res.Rcpts, replies...)
	}
	if res.accepted() == 0 {
		return nil
	}
	if replies, err = c.exchange("", "DATA"); err != nil {
		return err
	}
	res.Data = replies[0]
	return c.sendText(m.Body, res)
}

func (c *Client) sendPipelined(m Mail, res *Result) error {
	commands := append([]string{m.mailLine()}, m.rcptLines()...)
	replies, err := c.exchange("", append(commands, "DATA")...)
	c.share(replies, len(m.To), res)
	if err != nil {
		return err
	}
	c.dirty = res.Mail.OK()
	res.Data = replies[len(replies)-1]
	if res.Data.Code == 354 && res.accepted() == 0 {
		// https://www.rfc-editor.org/rfc/rfc2920#section-3.1: a lone dot.
		return c.sendText(nil, res)
	}
	return c.sendText(m.Body, res)
}

// share gives replies to MAIL and RCPT their places.
func (c *Client) share(replies []Reply, rcpts int, res *Result) {
	if len(replies) > 0 {
		res.Mail = replies[0]
		res.Rcpts = replies[1:min(len(replies), 1+rcpts)]
	}
}

// sendText sends what DATA asked for.
func (c *Client) sendText(body []byte, res *Result) error {
	if res.Data.Code != 354 {
		return nil
	}
	if err := c.wire.send(stuff(body)); err != nil {
		return err
	}
	err := c.readFinal(".", res)
	c.dirty = c.dirty && err != nil
	return err
}

// readFinal reads the replies to the end of a message.
func (c *Client) readFinal(command string, res *Result) error {
	n := 1
	if c.LMTP {
		n = max(1, res.accepted())
	}
	for range n {
		replies, err := c.read(command)
		if err == nil && replies[0].Code == 353 && !c.LMTP {
			return c.readEach(command, res)
		}
		res.Final = append(res.Final, replies...)
		if err != nil {
			return err
		}
	}
	return nil
}

// readEach reads what follows a 353 to a client that asked for PRDR with MAIL.
func (c *Client) readEach(command string, res *Result) error {
	for range res.accepted() {
		replies, err := c.read(command)
		res.Final = append(res.Final, replies...)
		if err != nil {
			return err
		}
	}
	replies, err := c.read(command)
	if err == nil {
		res.All = replies[0]
	}
	return err
}

func (c *Client) sendChunks(m Mail, res *Result) error {
	var flight bytes.Buffer
	flight.WriteString(c.unsent)
	c.unsent = ""
	commands := append([]string{m.mailLine()}, m.rcptLines()...)
	for _, line := range commands {
		flight.WriteString(line + "\r\n")
	}
	envelope := len(commands)
	for body := m.Body; ; {
		n := len(body)
		if c.ChunkSize > 0 {
			n = min(n, c.ChunkSize)
		}
		line := "BDAT " + decimal(int64(n))
		if n == len(body) {
			line += " LAST"
		}
		commands = append(commands, line)
		flight.WriteString(line + "\r\n")
		flight.Write(body[:n])
		if body = body[n:]; len(body) == 0 {
			break
		}
	}
	if err := c.wire.send(flight.Bytes()); err != nil {
		return err
	}
	c.dirty = true
	last := len(commands) - 1
	replies, err := c.read(commands[:last]...)
	c.share(replies, len(m.To), res)
	if len(replies) > envelope {
		res.BDAT = replies[envelope:]
	}
	if err != nil {
		return err
	}
	err = c.readFinal(commands[last], res)
	// After a BDAT that failed, nothing is known but what RSET does:
	// https://www.rfc-editor.org/rfc/rfc3030#section-2
	c.dirty = err != nil || !res.OK()
	return err
}
