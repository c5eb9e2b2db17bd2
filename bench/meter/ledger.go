package meter

import (
	"fmt"
	"time"
)

// Ledger returns what the first message cost that began at or after since: see LedgerBetween, without an end.
func (c Conn) Ledger(since time.Time) (Ledger, error) { return c.LedgerBetween(since, time.Time{}) }

// LedgerBetween returns what a message cost: the first that began at or after since, and whose text had left before
// until. A zero time is no bound. A message begins with the SYN; where that was before since, with the first data of
// the client from then on. The wait ends when the last octet of the final reply has arrived, together with all octets
// before it. It is an error if there is no such reply.
//
// In clear, commands and replies are counted against each other, so that it is known which reply is final.
//
// Under TLS only the lengths of records are known, and this is the rule. The text ends with the last record of the
// client between since and until that holds more than QUIT or an alert. The final reply is the last record of the
// server that left after that had arrived, holds more than an alert, and arrived before the client's next word, which
// is QUIT as a rule. The next word is the first record of the client behind the text that left when the client had
// heard a record of the server that answers the text. Hence the limits of the rule:
//
//   - Where QUIT was sent with the text, the wait ends with the reply to QUIT, which servers send with the final one.
//   - Of several messages the last is taken, unless until tells them apart.
//   - A message that was refused before its text looks like one that was taken.
//   - What a server says long after the final reply, to a client that keeps the connection, counts as reply: set until.
func (c Conn) LedgerBetween(since, until time.Time) (Ledger, error) {
	t := c.read()
	w, err := t.wait(since, until)
	if err != nil {
		return Ledger{}, fmt.Errorf("meter: connection from %v to %v: %w", c.Client, c.Server, err)
	}
	l := Ledger{Start: w.start, Final: w.final, Elapsed: w.final.Sub(w.start)}
	for _, p := range t.streams[server].pieces {
		if p.pos > 0 && p.arrives.After(w.start) {
			l.FirstByte = p.arrives.Sub(w.start)
			break
		}
	}
	for _, s := range c.Segments {
		if w.includes(s) {
			l.Packets++
			l.Octets += s.Size
		}
	}
	l.Retransmits = w.resent(c.place(client)) + w.resent(c.place(server))
	l.FastOpen = w.fastOpen(c.place(client))
	return l, nil
}

// includes says whether a segment was on the link during the wait.
func (w wait) includes(s Segment) bool {
	return !s.At.Before(w.start) && (s.At.Before(w.final) || !s.Lost() && !s.Arrives.After(w.final))
}

// resent counts the segments of one direction that repeat something during the wait.
func (w wait) resent(segments []placed) int {
	n, sent := 0, int64(0)
	for _, p := range segments {
		if p.takes() > p.pos && p.pos < sent && w.includes(p.Segment) {
			n++
		}
		sent = max(sent, p.takes())
	}
	return n
}

// fastOpen says whether the SYN was part of the wait, and carried data that was taken.
func (w wait) fastOpen(segments []placed) bool {
	for _, p := range segments {
		if p.SYN && p.Len > 0 && w.includes(p.Segment) {
			return !refused(segments)
		}
	}
	return false
}
