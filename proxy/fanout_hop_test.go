package proxy

import (
	"fmt"
	"math/rand/v2"
	"strconv"
	"strings"
	"sync"
	"time"

	"slipstream/bench/refpeer"
)

// A FanoutHop decides what a hop does with each message, by lot, and keeps a
// journal of it. Its MAIL names the message and the MTA's transaction in ENVID,
// which is no part of what a message is known by.
type FanoutHop struct {
	Name string // in the numbers of its copies
	Draw *rand.Rand
	Note func(...FanoutEvent)
	LMTP bool
	Slow time.Duration // the most that it takes over an answer

	// Tells: a 250 counts as told when it is decided on, since nobody dies here.
	Tells bool

	mu     sync.Mutex
	copies int
	conns  map[int]*fanoutMail
}

// A fanoutMail is a transaction at a hop.
type fanoutMail struct {
	mail string
	try  int
	to   []string
}

// FanoutCopyMark stands before the number of a copy in the 250 for it.
const FanoutCopyMark = "copy="

// Server is the hop. It offers what carries ENVID.
func (h *FanoutHop) Server() *refpeer.Server {
	h.conns = make(map[int]*fanoutMail)
	return &refpeer.Server{LMTP: h.LMTP, Keywords: refpeer.Modern(), Behave: h.behave}
}

func (h *FanoutHop) behave(ev refpeer.Event) refpeer.Action {
	h.mu.Lock()
	defer h.mu.Unlock()
	var a refpeer.Action
	m := h.conns[ev.Conn]
	switch {
	case ev.Kind == refpeer.EndOfData && m != nil:
		a = h.final(m, ev)
	case ev.Kind != refpeer.Command || !strings.HasPrefix(ev.Reply, "250"):
		return a
	case ev.Verb == "MAIL":
		h.conns[ev.Conn] = fanoutEnvelope(ev.Line)
	case ev.Verb == "RCPT" && m != nil:
		a = h.recipient(m, ev.Address)
	}
	if h.Slow > 0 && h.Draw.IntN(3) == 0 {
		a.Delay = rand.N(h.Slow)
		if h.Tells { // in a bubble all is drawn from one seed
			a.Delay = time.Duration(h.Draw.Int64N(int64(h.Slow)))
		}
	}
	return a
}

// fanoutEnvelope reads ENVID=mail/try.
func fanoutEnvelope(line string) *fanoutMail {
	_, id, _ := strings.Cut(line, " ENVID=")
	id, _, _ = strings.Cut(id, " ")
	mail, try, _ := strings.Cut(id, "/")
	n, _ := strconv.Atoi(try)
	return &fanoutMail{mail: mail, try: n}
}

// recipient answers RCPT: some are never known, some sometimes put off.
func (h *FanoutHop) recipient(m *fanoutMail, to string) refpeer.Action {
	switch {
	case strings.HasPrefix(to, "nobody"):
		h.Note(FanoutEvent{At: time.Now(), Kind: FanoutRefused, Mail: m.mail, Try: m.try, Rcpt: to})
		return refpeer.Say("550 5.1.1 no " + to)
	case h.Draw.IntN(20) == 0:
		return refpeer.Say("450 4.2.1 later " + to)
	}
	m.to = append(m.to, to)
	return refpeer.Action{}
}

// final answers the end of data, for one recipient or, with SMTP, for all.
func (h *FanoutHop) final(m *fanoutMail, ev refpeer.Event) refpeer.Action {
	to := m.to
	if h.LMTP {
		to = []string{ev.Address}
	}
	note := func(kind, number string) {
		var events []FanoutEvent
		for i, rcpt := range to {
			e := FanoutEvent{At: time.Now(), Kind: kind, Mail: m.mail, Try: m.try, Rcpt: rcpt}
			if number != "" {
				e.Copy = fmt.Sprintf("%s.%d", number, i)
			}
			events = append(events, e)
		}
		h.Note(events...)
	}
	h.copies++
	number := fmt.Sprintf("%s-%d", h.Name, h.copies)
	switch lot := h.Draw.IntN(100); {
	case lot < 14:
		return refpeer.Say("451 4.3.0 later " + strings.Join(to, " "))
	case lot < 28:
		note(FanoutRefused, "")
		return refpeer.Say("554 5.7.1 no " + strings.Join(to, " "))
	case lot < 30: // nobody knows
		note(FanoutTaken, number)
		return refpeer.Action{Close: true}
	case lot < 32:
		return refpeer.Action{Close: true}
	}
	note(FanoutTaken, number)
	if h.Tells {
		note(FanoutTold, number)
	}
	return refpeer.Say(fmt.Sprintf("250 2.0.0 taken %s%s-%d", FanoutCopyMark, number, len(to)))
}

// FanoutTellings are the copies whose 250 is in what a hop wrote.
func FanoutTellings(written string) (copies []string) {
	for written != "" {
		var found bool
		if _, written, found = strings.Cut(written, FanoutCopyMark); !found {
			break
		}
		mark, _, _ := strings.Cut(written, "\r\n")
		last := strings.LastIndexByte(mark, '-')
		n, _ := strconv.Atoi(mark[last+1:])
		for i := range n {
			copies = append(copies, fmt.Sprintf("%s.%d", mark[:last], i))
		}
	}
	return copies
}
