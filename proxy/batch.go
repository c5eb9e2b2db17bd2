package proxy

import (
	"sync"
	"time"

	"slipstream/smtpwire"
)

// A batch holds the answers to a run of MAIL and RCPT commands until they can be
// said in order.
type batch struct {
	s     *session
	mu    sync.Mutex
	cmds  []smtpwire.Command
	slots []smtpwire.Reply
	rcpts []*recipient // of the slots that recipients are asked in
	mute  bool         // nothing of it is for the client now
	said  int          // slots written already, because the rest took long
}

// slowReply is how long the first answers of a flight wait for the last. A hop
// that takes its time over each recipient must not let the client's own clock
// run out (RFC 5321 §4.5.3.2.3).
const slowReply = time.Second

// fill sets an answer. It returns true when the answer has left for the client.
func (b *batch) fill(i int, r smtpwire.Reply) (gone bool) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if i < b.said {
		return true // it was answered before, and that stands
	}
	b.slots[i] = r
	if !b.mute && time.Since(b.s.spoke) > slowReply {
		b.release()
		_ = b.s.flush() // kept in the session; the caller sees it
	}
	return i < b.said
}

// clear takes answers back, all of them or, where one has left for the client,
// none. It returns whether it did.
func (b *batch) clear(slots []int) bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	for _, i := range slots {
		if i < b.said && b.slots[i].Code != 0 {
			return false
		}
	}
	for _, i := range slots {
		b.slots[i] = smtpwire.Reply{}
	}
	return true
}

// now sends what is answered so far. It returns true when an answer has left.
func (b *batch) now() (gone bool) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.mute {
		return false
	}
	b.release()
	_ = b.s.flush() // kept in the session; the caller sees it
	return b.said > 0
}

// release says the answers that are complete so far.
func (b *batch) release() {
	for b.said < len(b.slots) && b.slots[b.said].Code != 0 {
		b.s.say(b.slots[b.said])
		b.said++
	}
}
