package proxy

import (
	"fmt"
	"strings"
	"time"

	"slipstream/bench/netsim"
)

// poolPatience is how long a client waits for any reply: a hop may have no
// connection to spare for as long as setting one up may take.
const poolPatience = 15 * time.Minute

// send has the message of the client sent, or begun.
func (c *poolClient) send() error {
	m := c.mail
	lines := []string{"MAIL FROM:<" + m.from + ">" + m.params}
	for _, to := range m.to {
		lines = append(lines, "RCPT TO:<"+to+">")
	}
	switch way := c.draw.IntN(4); {
	case way == 0:
		return c.lockStep(lines)
	case way == 1 && c.bdat:
		return c.chunked(lines)
	case way == 2:
		return c.dropped(lines)
	}
	if err := c.say(strings.Join(append(lines, "DATA"), "\r\n") + "\r\n"); err != nil {
		return err
	}
	accepted, err := c.envelope(lines)
	if err != nil || c.c.over {
		return err
	}
	r, err := c.c.reply("DATA", poolPatience, 3, 4, 5)
	if err != nil {
		return err
	}
	return c.text(r, accepted)
}

func (c *poolClient) say(octets string) error {
	_, err := c.c.conn.Write([]byte(octets))
	return err
}

// envelope takes the answers to MAIL and RCPT.
func (c *poolClient) envelope(lines []string) (accepted []string, err error) {
	for i, line := range lines {
		r, err := c.c.reply(line, poolPatience, 2, 4, 5)
		if err != nil {
			return nil, err
		}
		if c.c.over {
			return nil, fmt.Errorf("%s was answered %q", line, r)
		}
		if err := c.fits(i, r); err != nil {
			return nil, err
		}
		if i > 0 && r[0] == '2' {
			accepted = append(accepted, c.mail.to[i-1])
		}
	}
	return accepted, nil
}

// fits makes sure that a reply is to MAIL (0), or to that recipient.
func (c *poolClient) fits(i int, r string) error {
	m := c.mail
	switch {
	case i == 0 && (!c.in && r == "250 2.1.0 sender noted" || c.in && poolSays(r, "sender", m.from)):
		return nil
	case i > 0 && (poolSays(r, "recipient", m.to[i-1]) || r == "250 2.1.5 recipient noted" && !c.in):
		return nil
	case i > 0 && r[0] != '2' && (poolSays(r, "", m.from) || poolOurs(r)):
		return nil
	case i > 0 && c.in && strings.HasPrefix(r, "503 5.5.1 "): // behind a MAIL that was refused
		return nil
	}
	return fmt.Errorf("reply %d was %q", i, r)
}

// poolSays tells whether a reply is a hop's, about that address.
func poolSays(r, about, address string) bool {
	_, words, _ := strings.Cut(r, " ") // behind the code
	_, words, _ = strings.Cut(words, " ")
	switch {
	case strings.HasPrefix(address, "no"):
		about = "no"
	case strings.HasPrefix(address, "later"):
		about = "later"
	case about == "":
		return false
	}
	want := map[string]byte{"no": '5', "later": '4'}[about]
	if want == 0 {
		want = '2'
	}
	return words == about+" "+address && r[0] == want
}

// poolOurs tells whether a refusal is one of ours that may happen in a world in
// which nothing breaks.
func poolOurs(r string) bool {
	for _, may := range []string{
		"451 4.5.3 ",                       // another destination
		"452 4.5.3 ",                       // as many as the hop takes
		"hop_connections",                  // it took too long until there was room
		"waiting for the next hop",         // the same
		"no progress in",                   // or it left too little
		"next hop takes 7-bit text only",   // and so on
		"503 5.5.1 ", "554 5.5.1 no valid", // behind a refusal
	} {
		if strings.Contains(r, may) {
			return true
		}
	}
	return false
}

// text sends the text if it is asked for, and takes the verdicts.
func (c *poolClient) text(r string, accepted []string) error {
	if r[0] != '3' {
		if len(accepted) > 0 && !poolSays(r, "", c.mail.from) && !poolOurs(r) {
			return fmt.Errorf("DATA was answered %q", r)
		}
		return c.over()
	}
	text := c.mail.text
	if len(accepted) > 0 && c.draw.IntN(6) == 0 {
		return c.abort(text[:c.draw.IntN(len(text))])
	}
	if err := c.say(strings.ReplaceAll(text, "\r\n.", "\r\n..") + ".\r\n"); err != nil {
		return err
	}
	return c.verdicts(accepted)
}

// abort breaks off in the middle of the text.
func (c *poolClient) abort(octets string) error {
	if err := c.say(octets); err != nil {
		return err
	}
	if c.draw.IntN(2) == 0 {
		c.c.conn.(*netsim.Conn).Reset()
	} else {
		_ = c.c.conn.Close()
	}
	c.c = nil
	return nil
}

// over ends what may be left of a transaction.
func (c *poolClient) over() error {
	if r, err := c.c.ask("RSET", poolPatience, 2); err != nil || r != "250 2.0.0 reset" {
		return fmt.Errorf("RSET was answered %q, %v", r, err)
	}
	return nil
}

// verdicts takes the final replies: one, or with LMTP one for each recipient that
// was accepted.
func (c *poolClient) verdicts(accepted []string) error {
	n := 1
	if c.lmtp {
		n = max(1, len(accepted))
	}
	for i := range n {
		r, err := c.c.reply("the text", poolPatience, 2, 4, 5)
		if err != nil {
			return err
		}
		about := accepted
		if c.lmtp && len(accepted) > 0 {
			about = accepted[i : i+1]
		}
		if err := c.verdict(r, about); err != nil {
			return err
		}
	}
	return nil
}

// verdict makes sure that a final reply is about this message, and keeps it.
func (c *poolClient) verdict(r string, about []string) error {
	from := c.mail.from
	judged, late := strings.CutPrefix(from, "text")
	taken := "250 2.0.0 taken " + from
	switch {
	case r == taken && !late && len(about) > 0:
	case late && strings.HasSuffix(r, " "+from) && poolSays(strings.TrimSuffix(r, from)+judged, "", judged):
		return nil
	case poolSays(r, "", from), poolOurs(r):
		return nil
	case len(about) > 0 && r[0] != '2' && poolSays(r, "", about[0]): // it was answered late
		return nil
	default:
		return fmt.Errorf("the text was answered %q", r)
	}
	c.w.mu.Lock()
	defer c.w.mu.Unlock()
	for _, to := range about {
		_, domain, _ := strings.Cut(to, "@")
		if c.in {
			domain = c.w.behind
		}
		c.w.acked[c.mail.nonce+" "+domain+" "+to] = true
	}
	return nil
}

// lockStep sends a command at a time.
func (c *poolClient) lockStep(lines []string) error {
	var accepted []string
	for i, line := range lines {
		time.Sleep(time.Duration(c.draw.IntN(20)) * time.Millisecond)
		r, err := c.c.ask(line, poolPatience, 2, 4, 5)
		if err != nil {
			return err
		}
		if err := c.fits(i, r); err != nil {
			return err
		}
		switch {
		case i == 0 && r[0] != '2':
			return nil
		case i > 0 && r[0] == '2':
			accepted = append(accepted, c.mail.to[i-1])
		}
	}
	if len(accepted) == 0 || c.draw.IntN(6) == 0 {
		return c.over()
	}
	r, err := c.c.ask("DATA", poolPatience, 3, 4, 5)
	if err != nil {
		return err
	}
	return c.text(r, accepted)
}

// chunked sends all of it in one flight.
func (c *poolClient) chunked(lines []string) error {
	text := c.mail.text
	head := fmt.Sprintf("%s\r\nBDAT %d LAST\r\n", strings.Join(lines, "\r\n"), len(text))
	if c.draw.IntN(8) == 0 {
		return c.abort(head + text[:c.draw.IntN(len(text))])
	}
	if err := c.say(head + text); err != nil {
		return err
	}
	accepted, err := c.envelope(lines)
	if err != nil {
		return err
	}
	if err := c.verdicts(accepted); err != nil {
		return err
	}
	return c.over()
}

// dropped begins a transaction and takes it back, or leaves.
func (c *poolClient) dropped(lines []string) error {
	last := []string{"RSET", "EHLO client.example", "NOOP"}[c.draw.IntN(3)]
	if c.lmtp && last[0] == 'E' {
		last = "LHLO client.example"
	}
	if err := c.say(strings.Join(append(lines, last), "\r\n") + "\r\n"); err != nil {
		return err
	}
	if _, err := c.envelope(lines); err != nil {
		return err
	}
	if r, err := c.c.reply(last, poolPatience, 2); err != nil || strings.Contains(r, c.mail.nonce) {
		return fmt.Errorf("%s was answered %q, %v", last, r, err)
	}
	if last == "NOOP" {
		return c.leave()
	}
	return nil
}
