package meter

import (
	"errors"
	"time"
)

// What keeps a wait from being found.
var (
	errNoSYN     = errors.New("the SYN was not seen")
	errNoData    = errors.New("the client sent nothing from then on")
	errNoMessage = errors.New("no message was sent, or its end was not seen")
	errNoReply   = errors.New("no final reply was seen")
	errNoArrival = errors.New("the final reply did not arrive")
)

// wait is the time that a message took.
type wait struct {
	start, final time.Time
	reply        int64 // of the server: behind the final reply
}

// wait finds the message that began at or after since and ended before until.
func (t *talk) wait(since, until time.Time) (wait, error) {
	out := &t.streams[client]
	if len(out.pieces) == 0 {
		return wait{}, errNoSYN
	}
	w := wait{start: out.pieces[0].left}
	from := int64(1)
	if w.start.Before(since) {
		from = out.since(since)
		left, ok := out.left(from)
		if !ok {
			return wait{}, errNoData
		}
		w.start = left
	}
	begin, reply, err := t.finalClear(from, until)
	if errors.Is(err, errNoMessage) && t.secure != nil {
		reply, err = t.finalSecure(begin, until)
	}
	if err != nil {
		return wait{}, err
	}
	if w.reply = reply; begin > from {
		w.start, _ = out.left(begin)
	}
	if w.final = t.streams[server].arrival(w.reply - 1); w.final.IsZero() {
		return wait{}, errNoArrival
	}
	return w, nil
}

// finalClear finds the first message in clear whose MAIL is not before a position. It returns where what belongs to
// the message begins, which is that position or the end of the message before, and the position behind its final
// reply.
func (t *talk) finalClear(from int64, until time.Time) (begin, reply int64, err error) {
	begin = from
	for _, e := range t.ends {
		if e.mail < from {
			begin = max(begin, e.text)
			continue
		}
		if left, _ := t.streams[client].left(e.text - 1); !before(left, until) {
			break
		}
		if e.reply == 0 {
			return begin, 0, errNoReply
		}
		return begin, e.reply, nil
	}
	return begin, 0, errNoMessage
}

// finalSecure does so under TLS, by the rule that LedgerBetween tells.
func (t *talk) finalSecure(from int64, until time.Time) (int64, error) {
	text, ok := t.lastText(from, until)
	if !ok {
		return 0, errNoMessage
	}
	heard := t.streams[client].arrival(text.end - 1)
	if heard.IsZero() {
		return 0, errNoReply
	}
	var final record
	var next time.Time // when the client spoke again
	for _, r := range t.secure.records[server] {
		left, _ := t.streams[server].left(r.pos)
		arrival := t.streams[server].arrival(r.end - 1)
		if r.alert || left.Before(heard) {
			continue
		}
		if final.end == 0 {
			next = t.spokeAgain(text.end, arrival)
		}
		if final.end == 0 || !arrival.IsZero() && by(arrival, next) && by(arrival, until) {
			final = r
		}
	}
	if final.end == 0 {
		return 0, errNoReply
	}
	return final.end, nil
}

// lastText returns the last record of the client, from a position on and before a moment, that can hold text.
func (t *talk) lastText(from int64, until time.Time) (text record, ok bool) {
	for _, r := range t.secure.records[client] {
		left, _ := t.streams[client].left(r.end - 1)
		if r.pos >= from && before(left, until) && !r.alert && r.length() > t.secure.hello.quit() {
			text, ok = r, true
		}
	}
	return text, ok
}

// spokeAgain returns when the first record behind a position left that did so at or after t; zero if there is none.
func (t *talk) spokeAgain(pos int64, heard time.Time) time.Time {
	for _, r := range t.secure.records[client] {
		left, _ := t.streams[client].left(r.pos)
		if r.pos >= pos && !heard.IsZero() && !left.Before(heard) {
			return left
		}
	}
	return time.Time{}
}

// quit returns how long a record with QUIT and its CRLF is, the header apart.
func (h serverHello) quit() int64 {
	const line = int64(len("QUIT\r\n"))
	switch {
	case h.tls13(): // the type, and 16 octets that authenticate
		return line + 1 + 16
	case h.suite >= 0xCCA8 && h.suite <= 0xCCAE: // https://www.rfc-editor.org/rfc/rfc7905#section-2
		return line + 16
	case h.suite >= 0x009C && h.suite <= 0x00AD, // GCM: https://www.rfc-editor.org/rfc/rfc5288#section-3
		h.suite >= 0xC02B && h.suite <= 0xC032: // https://www.rfc-editor.org/rfc/rfc5289#section-3.2
		return line + 8 + 16
	}
	// In blocks, the longest has 48 octets that authenticate: https://www.rfc-editor.org/rfc/rfc5246#section-6.2.3.2
	return 80
}

// by says whether t is no later than a bound; zero is no bound.
func by(t, bound time.Time) bool { return bound.IsZero() || !t.After(bound) }

// before says whether t is before a bound; zero is no bound.
func before(t, bound time.Time) bool { return bound.IsZero() || t.Before(bound) }
