package meter

import (
	"strconv"
	"strings"
)

// dialog reads SMTP in clear: every command with the reply that belongs to it, since only that tells what follows
// DATA and STARTTLS.
type dialog struct {
	talk           *talk
	client, server cursor
	dots           dots // of the client
	silent         bool // the server says nothing more, or nothing that is a reply
	lmtp           bool
	mail           int64 // where the last MAIL begins
	rcpts          int   // accepted ones of this message
}

// read goes through the dialog, to its end or to where TLS begins.
func (d *dialog) read() {
	code, _ := d.reply() // the greeting
	for {
		start := d.client.pos
		line, ok := d.client.line()
		if !ok {
			break
		}
		word, argument := command(line)
		if code == "334" { // the line goes on with AUTH: https://www.rfc-editor.org/rfc/rfc4954#section-4
			word = "line"
		}
		d.talk.add(client, verb, word, start, d.client.pos)
		if word == "BDAT" {
			code = d.bdat(argument)
			continue
		}
		var answered bool
		code, answered = d.reply()
		switch {
		case word == "DATA" && !answered:
			return // nobody knows what follows
		case word == "DATA" && code == "354":
			if !d.text() {
				return
			}
		case word == "STARTTLS" && code == "220":
			d.talk.readSecure(d.client.pos, d.server.pos)
			return
		default:
			d.follow(word, code, start)
		}
	}
	for ok := true; ok; _, ok = d.reply() {
		// What the server says unasked has its place in the flights.
	}
}

// follow remembers where a message begins, and keeps count of who will be answered for at the end of data.
func (d *dialog) follow(word, code string, start int64) {
	switch word {
	case "LHLO":
		d.lmtp = true
	case "MAIL":
		d.mail, d.rcpts = start, 0
	case "RSET":
		d.rcpts = 0
	case "RCPT":
		if strings.HasPrefix(code, "2") {
			d.rcpts++
		}
	}
}

// bdat reads the octets of a chunk, https://www.rfc-editor.org/rfc/rfc3030#section-2, and returns the code of its
// reply.
func (d *dialog) bdat(argument string) (code string) {
	size, last, _ := strings.Cut(argument, " ")
	n, err := strconv.ParseInt(size, 10, 64)
	if err != nil || n < 0 {
		code, _ = d.reply() // it is refused, and no octets follow
		return code
	}
	start := d.client.pos
	d.client.skip(n)
	d.talk.add(client, chunk, "", start, d.client.pos)
	switch {
	case d.client.pos-start < n: // it is not all there
	case strings.EqualFold(strings.TrimSpace(last), "LAST"):
		d.final()
	default:
		code, _ = d.reply()
	}
	return code
}

// text reads the text behind DATA and its reply, and says whether it came to an end. Where the link did not keep all
// of the text, its end may be hidden; then it is taken to be where the client stood when it heard the reply.
func (d *dialog) text() bool {
	start := d.client
	hidden, found := d.dots.follow(&d.client)
	if hidden {
		d.client, found = d.guess(start, d.client, found)
	}
	d.talk.add(client, text, "", start.pos, d.client.pos)
	if found {
		d.final()
	}
	return found
}

// guess corrects the end of a text that is hidden in part.
func (d *dialog) guess(start, end cursor, found bool) (cursor, bool) {
	if d.silent {
		return end, found
	}
	ahead := d.server
	_, to, ok := ahead.reply()
	if d.silent = !ok; d.silent {
		return end, found
	}
	heard := d.talk.streams[server].arrival(to - 1)
	stream := &d.talk.streams[client]
	if heard.IsZero() {
		return end, found
	}
	limit := max(stream.since(heard), start.pos)
	if found && end.pos <= limit {
		return end, true
	}
	return stream.cursor(limit), limit > start.pos
}

// final reads what is said at the end of a message: one reply; with LMTP one for each accepted recipient,
// https://www.rfc-editor.org/rfc/rfc2033#section-4.2; and with PRDR, which begins with 353, those and one more.
func (d *dialog) final() {
	end := ending{mail: d.mail, text: d.client.pos}
	code, ok := d.reply()
	more := 0
	switch {
	case code == "353":
		more = d.rcpts + 1
	case d.lmtp:
		more = d.rcpts - 1
	}
	for ; ok && more > 0; more-- {
		_, ok = d.reply()
	}
	if ok {
		end.reply = d.server.pos
	}
	d.rcpts = 0
	d.talk.ends = append(d.talk.ends, end)
}

// reply reads the next reply of the server. Where there is none it stays so, and is not looked for again: it may begin
// with as many lines as the server likes.
func (d *dialog) reply() (code string, ok bool) {
	if d.silent {
		return "", false
	}
	start := d.server.pos
	code, end, ok := d.server.reply()
	if ok {
		d.talk.add(server, reply, code, start, end)
	}
	d.silent = !ok
	return code, ok
}

// reply takes the next reply, and returns its code and the position behind it.
func (c *cursor) reply() (code string, end int64, ok bool) {
	start := *c
	for {
		line, ok := c.line()
		if !ok || len(line) < 3 || !digits(line[:3]) || len(line) > 3 && line[3] != ' ' && line[3] != '-' {
			*c = start
			return "", 0, false
		}
		if len(line) == 3 || line[3] == ' ' {
			return line[:3], c.pos, true
		}
	}
}

// command returns the verb of a line in upper case, and what stands behind it. What is no verb is called "line": it
// may be secret, or anything.
func command(line string) (word, argument string) {
	word, argument, _ = strings.Cut(strings.TrimSpace(line), " ")
	switch word = strings.ToUpper(word); word {
	case "HELO", "EHLO", "LHLO", "MAIL", "RCPT", "DATA", "BDAT", "RSET", "NOOP", "QUIT", "VRFY", "EXPN", "HELP",
		"STARTTLS", "AUTH", "ETRN", "XCLIENT", "XFORWARD":
		return word, strings.TrimSpace(argument)
	}
	return "line", ""
}

func digits(s string) bool {
	return strings.IndexFunc(s, func(r rune) bool { return r < '0' || r > '9' }) < 0
}
