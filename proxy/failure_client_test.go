package proxy

import (
	"bufio"
	"fmt"
	"io"
	"net"
	"strings"
	"time"
)

// The client of the death matrix.

// A failClient speaks as an MTA does and believes nothing: every reply must be
// well-formed, in time, and fit its command.
type failClient struct {
	conn net.Conn
	r    *bufio.Reader
	over bool // heard 421
	took time.Duration
}

func (b *failBench) failClient() (*failClient, error) {
	conn, err := b.net.Dial(b.t.Context(), clientHost, b.at)
	if err != nil {
		return nil, err
	}
	b.t.Cleanup(func() { _ = conn.Close() })
	c := &failClient{conn: conn, r: bufio.NewReader(conn)}
	if _, err := c.reply("greeting", 0, 2); err != nil {
		return nil, err
	}
	_, err = c.ask("EHLO client.example", 0, 2)
	return c, err
}

// reply reads one, which must come within limit and be of one of the classes.
func (c *failClient) reply(to string, limit time.Duration, classes ...int) (string, error) {
	begun := time.Now()
	_ = c.conn.SetReadDeadline(begun.Add(time.Hour)) // virtual
	first, all := "", ""
	for {
		line, err := c.r.ReadString('\n')
		if err != nil {
			return all, fmt.Errorf("%s: %w, with %q read", to, err, all+line)
		}
		all += line
		if len(line) < 5 || !strings.HasSuffix(line, "\r\n") || strings.Trim(line[:3], "0123456789") != "" || line[3] != ' ' && line[3] != '-' {
			return all, fmt.Errorf("%s: malformed reply %q", to, all)
		}
		if first == "" {
			first = line[:3]
		}
		if line[:3] != first {
			return all, fmt.Errorf("%s: the code changed: %q", to, all)
		}
		if line[3] == ' ' {
			break
		}
	}
	if c.took = time.Since(begun); c.took > limit {
		return all, fmt.Errorf("%s: answered after %v, the limit is %v: %q", to, c.took, limit, all)
	}
	c.over = c.over || first == "421"
	for _, class := range classes {
		if first[0] == byte('0'+class) {
			return strings.TrimSuffix(all, "\r\n"), nil
		}
	}
	return all, fmt.Errorf("%s: answered %q, not with a class of %v", to, all, classes)
}

func (c *failClient) ask(line string, limit time.Duration, classes ...int) (string, error) {
	if _, err := c.conn.Write([]byte(line + "\r\n")); err != nil {
		return "", fmt.Errorf("%s: %w", line, err)
	}
	return c.reply(line, limit, classes...)
}

// failStyles are the ways in which clients send.
func failStyles() []string { return []string{"lock", "flight", "bdat"} }

// failTurns picks the styles for the nth of many cases.
func failTurns(n int) []string {
	if all := failStyles(); !failAll() {
		return all[n%len(all):][:1]
	}
	return failStyles()
}

// A failResult is what a client heard about one message.
type failResult struct {
	mail, final string
	rcpts       []string
}

func (r failResult) ok() bool { return strings.HasPrefix(r.final, "2") }

func failText(id string) string { return "X-Id: " + id + "\r\n\r\n.dot\r\nend " + id + "\r\n" }

// send has one message sent to two recipients.
func (c *failClient) send(style, id string) (res failResult, err error) {
	mail := "MAIL FROM:<" + id + "@client.example>"
	to := []string{"RCPT TO:<one@example.org>", "RCPT TO:<two@example.org>"}
	text := failText(id)
	classes := []int{2, 4, 5}
	ask := c.ask
	switch style {
	case "flight":
		_, err = c.conn.Write([]byte(mail + "\r\n" + strings.Join(to, "\r\n") + "\r\nDATA\r\n"))
		ask = c.reply
	case "bdat":
		_, err = c.conn.Write([]byte(mail + "\r\n" + strings.Join(to, "\r\n") + fmt.Sprintf("\r\nBDAT %d LAST\r\n", len(text)) + text))
		ask = c.reply
	}
	if err != nil {
		return res, err
	}
	if res.mail, err = ask(mail, failEnvelope, classes...); err != nil || c.over {
		return res, err
	}
	if style == "lock" && res.mail[0] != '2' {
		return res, nil
	}
	accepted := 0
	for _, line := range to {
		r, err := ask(line, failEnvelope, classes...)
		if res.rcpts = append(res.rcpts, r); err != nil || c.over {
			return res, err
		}
		if r[0] == '2' {
			accepted++
		}
	}
	if style == "bdat" {
		res.final, err = c.reply("BDAT", failFinal, classes...)
		return res, err
	}
	if style == "lock" && accepted == 0 {
		return res, nil
	}
	r, err := ask("DATA", failEnvelope, 3, 4, 5)
	if err != nil || c.over || r[0] != '3' {
		return res, err
	}
	stuffed := strings.ReplaceAll(text, "\r\n.", "\r\n..") + ".\r\n"
	if _, err := c.conn.Write([]byte(stuffed)); err != nil {
		return res, err
	}
	res.final, err = c.reply("the text", failFinal, classes...)
	return res, err
}

// inStep makes sure that the session is where the client thinks it is.
func (c *failClient) inStep() error {
	for _, line := range []string{"NOOP", "RSET"} {
		want := map[string]string{"NOOP": "250 2.0.0 ok", "RSET": "250 2.0.0 reset"}[line]
		if r, err := c.ask(line, 0, 2); err != nil || r != want {
			return fmt.Errorf("out of step: %s was answered %q (%v)", line, r, err)
		}
	}
	return nil
}

// wantEnd makes sure that nothing comes but the end, soon.
func (c *failClient) wantEnd() error {
	_ = c.conn.SetReadDeadline(time.Now().Add(5 * time.Second))
	if rest, err := io.ReadAll(c.r); err != nil || len(rest) > 0 {
		return fmt.Errorf("want the end, got %q, %v", rest, err)
	}
	return nil
}
