package proxy

import (
	"bufio"
	"fmt"
	"strings"
	"time"
)

// The message under test, and who sends it.

const (
	deathID    = "victim"
	deathMark  = "X-Id: " + deathID + "\r\n"
	deathLarge = 1000 // inside TLS, what is longer than that has the text in it
)

// deathText is the text of a message. Where nobody can read along it is large,
// so that it can be told from commands and handshakes by its length.
func (b *deathBench) deathText(id string) string {
	text := "X-Id: " + id + "\r\n\r\n.dot\r\n"
	if b.c.secure {
		text += strings.Repeat("01234567890123456789012345678901234567890123456789\r\n", 40)
	}
	return text + "end " + id + "\r\n"
}

// A deathClient is a failClient that knows LMTP.
type deathClient struct {
	*failClient
	b *deathBench
}

func (b *deathBench) connectDeath() (*deathClient, error) {
	conn, err := b.net.Dial(b.t.Context(), clientHost, b.at)
	if err != nil {
		return nil, err
	}
	b.t.Cleanup(func() { _ = conn.Close() })
	c := &deathClient{b: b, failClient: &failClient{conn: conn, r: bufio.NewReader(conn)}}
	if _, err := c.reply("greeting", time.Second, 2); err != nil {
		return nil, err
	}
	hello := "EHLO client.example"
	if b.c.lmtp {
		hello = "LHLO client.example"
	}
	_, err = c.ask(hello, time.Second, 2)
	return c, err
}

// A deathResult is what a client heard about one message.
type deathResult struct {
	mail  string
	rcpts []string
	data  string
	final []string // one for each accepted recipient
}

// said is the last word about the first recipient.
func (r deathResult) said() string {
	switch {
	case len(r.rcpts) > 0 && r.rcpts[0][0] != '2':
		return r.rcpts[0]
	case len(r.final) > 0:
		return r.final[0]
	case r.data != "" && r.data[0] != '3':
		return r.data
	}
	return r.mail
}

func (r deathResult) ok() bool { return len(r.final) > 0 && r.final[0][0] == '2' }

func (r deathResult) doubt() bool { return strings.Contains(r.said(), "outcome unknown") }

// send has one message sent.
func (c *deathClient) send(style, id string) (res deathResult, err error) {
	mail, to := "MAIL FROM:<"+id+"@client.example>", []string{"RCPT TO:<" + id + "@example.org>"}
	if c.b.c.lmtp {
		to = append(to, "RCPT TO:<"+id+"@other.example>")
	}
	text := c.b.deathText(id)
	ask := c.ask
	switch style {
	case "flight":
		_, err = c.conn.Write([]byte(mail + "\r\n" + strings.Join(to, "\r\n") + "\r\nDATA\r\n"))
		ask = c.reply
	case "bdat":
		chunk := fmt.Sprintf("\r\nBDAT %d LAST\r\n", len(text))
		_, err = c.conn.Write([]byte(mail + "\r\n" + strings.Join(to, "\r\n") + chunk + text))
		ask = c.reply
	}
	if err != nil {
		return res, err
	}
	if res.mail, err = ask(mail, failEnvelope, 2, 4); err != nil || c.over {
		return res, err
	}
	accepted := 0
	for _, line := range to {
		r, err := ask(line, failEnvelope, 2, 4, 5)
		if res.rcpts = append(res.rcpts, r); err != nil || c.over {
			return res, err
		}
		if r[0] == '2' {
			accepted++
		}
	}
	if style == "lock" && accepted == 0 {
		return res, nil
	}
	if style != "bdat" {
		if res.data, err = ask("DATA", failEnvelope, 3, 4, 5); err != nil || c.over || res.data[0] != '3' {
			return res, err
		}
		if _, err := c.conn.Write([]byte(strings.ReplaceAll(text, "\r\n.", "\r\n..") + ".\r\n")); err != nil {
			return res, err
		}
	}
	for range max(1, accepted) {
		r, err := c.reply("the text", failEnvelope+failFinal, 2, 4, 5)
		if res.final = append(res.final, r); err != nil {
			return res, err
		}
		if !c.b.c.lmtp {
			break
		}
	}
	return res, nil
}

// refuse begins a transaction without recipients.
func (c *deathClient) refuse() error {
	if _, err := c.ask("MAIL FROM:<before@client.example>", failEnvelope, 2); err != nil {
		return err
	}
	_, err := c.ask("RCPT TO:<nobody@example.org>", failEnvelope, 5)
	if err == nil && c.b.c.stay {
		_, err = c.ask("RSET", time.Second, 2)
	}
	return err
}

// inStep makes sure that the session is where the client thinks it is.
func (c *deathClient) inStep() error {
	for _, line := range []string{"NOOP", "RSET"} {
		if r, err := c.ask(line, 4*deathDelay+time.Second, 2); err != nil || !strings.HasPrefix(r, "250 2.0.0 ") ||
			strings.Contains(r, "taken") {
			return fmt.Errorf("out of step: %s was answered %q (%v)", line, r, err)
		}
	}
	return nil
}

func (c *deathClient) quit() error {
	if c.over {
		return nil
	}
	if _, err := c.ask("QUIT", time.Second, 2); err != nil {
		return err
	}
	return c.wantEnd()
}
