package once

import (
	"math/rand/v2"
	"strings"
	"time"

	"slipstream/smtpwire"
)

// maxLooked is how many messages to one recipient are looked at for what others of their recipients wait for. Of more,
// the latest are.
const maxLooked = 1000

// An entry is an outcome in memory.
type entry struct {
	id      id
	code    int
	text    string // the lines of the reply, with line feeds between them
	expires time.Time

	sooner, later *entry // in order of expiry
	newer, older  *entry // of the same recipient
}

func (e *entry) refused() bool { return e.code/100 == 5 }

// rank orders what may have become of one recipient.
func (e *entry) rank() int {
	switch e.code / 100 {
	case 2:
		return 2
	case 5:
		return 1
	}
	return 0
}

func (e *entry) deferred() bool { return e.code/100 == 4 }

func (e *entry) reply() smtpwire.Reply {
	return smtpwire.Reply{Code: e.code, Lines: strings.Split(e.text, "\n")}
}

// newEntry makes an entry with a text of its own: that of o may be part of something large.
func newEntry(o Outcome, expires time.Time) *entry {
	return &entry{id: o.Key.id(), code: o.Reply.Code, text: replyText(o.Reply.Lines), expires: expires}
}

// A message is what the recipients of one message have in common.
type message struct {
	outcomes int
	refused  int
	turns    int // so many times it was said who goes first
}

// A recipient is what the messages to one recipient have in common.
type recipient struct {
	refused int
	newest  *entry
}

// An index finds entries. It is not safe for concurrent use.
type index struct {
	entries    map[id]*entry
	messages   map[digest]*message
	recipients map[digest]*recipient
	first      *entry // to expire
	last       *entry
	refusals   int
	deferrals  int
}

func newIndex() index {
	return index{
		entries:    make(map[id]*entry),
		messages:   make(map[digest]*message),
		recipients: make(map[digest]*recipient),
	}
}

func (x *index) len() int         { return len(x.entries) }
func (x *index) get(id id) *entry { return x.entries[id] }

// put adds an entry, or puts it in the place of the one that was there.
func (x *index) put(e *entry) {
	m, r := x.messages[e.id.message], x.recipients[e.id.recipient]
	if old := x.entries[e.id]; old != nil {
		turns := m.turns
		x.remove(old)
		m, r = x.messages[e.id.message], x.recipients[e.id.recipient]
		if m == nil {
			m = &message{turns: turns}
		}
	}
	if m == nil {
		m = &message{}
	}
	if r == nil {
		r = &recipient{}
	}
	x.entries[e.id], x.messages[e.id.message], x.recipients[e.id.recipient] = e, m, r
	m.outcomes++
	if e.refused() {
		m.refused++
		r.refused++
		x.refusals++
	}
	if e.deferred() {
		x.deferrals++
	}
	if e.older = r.newest; e.older != nil {
		e.older.newer = e
	}
	r.newest = e
	x.enqueue(e)
}

// enqueue puts an entry behind those that expire no later: mostly all.
func (x *index) enqueue(e *entry) {
	after := x.last
	for after != nil && after.expires.After(e.expires) {
		after = after.sooner
	}
	if e.sooner = after; after != nil {
		e.later, after.later = after.later, e
	} else {
		e.later, x.first = x.first, e
	}
	if e.later != nil {
		e.later.sooner = e
	} else {
		x.last = e
	}
}

// remove takes an entry out that is in.
func (x *index) remove(e *entry) {
	delete(x.entries, e.id)
	m, r := x.messages[e.id.message], x.recipients[e.id.recipient]
	if e.refused() {
		m.refused--
		r.refused--
		x.refusals--
	}
	if e.deferred() {
		x.deferrals--
	}
	if m.outcomes--; m.outcomes == 0 {
		delete(x.messages, e.id.message)
	}
	if e.newer != nil {
		e.newer.older = e.older
	} else if r.newest = e.older; r.newest == nil {
		delete(x.recipients, e.id.recipient)
	}
	if e.older != nil {
		e.older.newer = e.newer
	}
	if e.sooner != nil {
		e.sooner.later = e.later
	} else {
		x.first = e.later
	}
	if e.later != nil {
		e.later.sooner = e.sooner
	} else {
		x.last = e.sooner
	}
	e.sooner, e.later, e.newer, e.older = nil, nil, nil, nil
}

// expire removes what is over, and says how many that were.
func (x *index) expire(now time.Time) (n int) {
	for ; x.first != nil && !now.Before(x.first.expires); n++ {
		x.remove(x.first)
	}
	return n
}

// refused says whether a message to a recipient was refused.
func (x *index) refused(recipient []digest) bool {
	r := x.recipients[recipient[0]]
	return r != nil && r.refused > 0
}

// refusedTogether says whether one message was refused for all of these recipients.
func (x *index) refusedTogether(recipients []digest) bool {
	found := false
	x.messagesTo(recipients[0], func(e *entry, _ *message) bool {
		found = e.refused()
		for _, d := range recipients[1:] {
			other := x.entries[id{e.id.message, d}]
			found = found && other != nil && other.refused()
		}
		return !found
	})
	return found
}

// awaits says whether a message to a recipient was refused for another.
func (x *index) awaits(recipient []digest) bool {
	found := false
	x.messagesTo(recipient[0], func(e *entry, m *message) bool {
		own := 0
		if e.refused() {
			own = 1
		}
		found = m.refused > own
		return !found
	})
	return found
}

// messagesTo calls f with what is known of the messages to a recipient, the latest first, until it returns false.
func (x *index) messagesTo(d digest, f func(*entry, *message) bool) {
	r := x.recipients[d]
	if r == nil {
		return
	}
	for e, n := r.newest, 0; e != nil && n < maxLooked; e, n = e.older, n+1 {
		if !f(e, x.messages[e.id.message]) {
			return
		}
	}
}

// turn says who goes first in a transaction to some recipients, and has the others be first the next time.
func (x *index) turn(recipients []digest) (refusedFirst bool) {
	found := make(map[*message]struct{})
	turns, looked := 0, 0
	for _, d := range recipients {
		x.messagesTo(d, func(_ *entry, m *message) bool {
			if m.refused > 0 {
				found[m] = struct{}{}
			}
			looked++
			return looked < maxLooked+len(recipients)
		})
	}
	for m := range found {
		turns = max(turns, m.turns)
		m.turns++
	}
	if len(found) > 1 && turns > 0 {
		return rand.IntN(2) == 0
	}
	return turns%2 == 0
}
