package proxy

import (
	"strconv"
	"time"

	"slipstream/smtpwire"
)

// A Pace is the time between the final replies to an LMTP client; PaceAuto is to
// find out who needs some.
type Pace time.Duration

// PaceAuto paces those clients that are known to need it.
const PaceAuto Pace = -1

// maxPace bounds it: a thousand recipients must not take hours.
const maxPace = Pace(time.Second)

// UnmarshalText implements [encoding.TextUnmarshaler].
func (p *Pace) UnmarshalText(text []byte) error {
	const allowed = `"auto", or a duration from "0s" to "1s"`
	if string(text) == "auto" {
		*p = PaceAuto
		return nil
	}
	d, err := time.ParseDuration(string(text))
	if err != nil {
		return valueError(string(text), "is not a duration", allowed)
	}
	if d < 0 || Pace(d) > maxPace {
		return valueError(strconv.Quote(string(text)), "is out of bounds", allowed)
	}
	*p = Pace(d)
	return nil
}

// String returns the pace as the file would have it.
func (p Pace) String() string {
	if p == PaceAuto {
		return "auto"
	}
	return time.Duration(p).String()
}

const (
	// autoPace is between two replies to a client that has to be known to need it,
	// where nobody can tell when it has read the first.
	autoPace = 100 * time.Millisecond
	// maxPacing bounds the pauses behind one message together, and so the pause
	// where there are many recipients: an MTA has other mail for this connection.
	maxPacing = 2 * time.Minute
	// unreadLook is the time between the first two looks at whether a client has
	// read. Each look asks the kernel, so the time doubles up to maxUnreadLook: a
	// client that takes long for a reply is not hurried by it.
	unreadLook    = time.Millisecond
	maxUnreadLook = 50 * time.Millisecond
)

// A pacing is how the final replies to one message are said. What matters is that
// the client has read one before the next arrives. On this machine that can be
// seen; for others there is but the pause.
type pacing struct {
	gap   time.Duration // between two of them, where nobody can tell whether the client has read
	least time.Duration // where that can be seen
	end   time.Time     // of all of them: what is left then is said at once
}

// pacing decides how n final replies are said, each in a segment of its own in any
// case. The one reply to one recipient is never waited for.
func (s *session) pacing(n int) pacing {
	t := s.tx
	p := pacing{gap: time.Duration(s.door.pace), least: time.Duration(s.door.pace)}
	if s.door.pace == PaceAuto {
		p.gap, p.least = 0, 0
		if t.msg != nil && t.msg.trace.openSMTPD() {
			p.gap = autoPace
		}
	}
	if p.gap == 0 || n < 2 {
		return pacing{}
	}
	// The client's own wait for the replies may have begun with its last octet.
	now := time.Now()
	left := max(0, min(maxPacing, t.rec.commitAt.Add(s.times.DataDone).Sub(now)))
	p.gap = min(p.gap, left/time.Duration(n-1))
	p.least = min(p.least, p.gap)
	p.end = now.Add(left)
	return p
}

// sayEach says the final replies to an LMTP client. What became of the message is
// settled, and its hops need not wait any longer for whoever takes his time.
func (s *session) sayEach(finals []smtpwire.Reply) {
	p := s.pacing(len(finals))
	if s.fragile = p.gap > 0; s.fragile {
		s.tx.letGo()
	}
	for i, r := range finals {
		if i > 0 {
			s.pause(p, unreadByClient)
		}
		if s.wire.cutFlag.Load() && s.errs == nil { // we must be gone, but not without the truth
			s.sayRest(finals[i:])
			return
		}
		s.say(r)
		_ = s.flush() // some LMTP clients take two replies in one segment for too much; errors are kept
	}
}

// sayRest says what is left at once, in the middle of a shutdown.
func (s *session) sayRest(finals []smtpwire.Reply) {
	time.Sleep(unreadLook) // whoever cuts it is done by then
	s.wire.cutFlag.Store(false)
	for _, r := range finals {
		s.say(r)
	}
	s.wire.wait("the last reply", s.times.Quit)
	if _, err := s.rw.Write(s.out); err != nil {
		s.errs = err
	}
	s.out = s.out[:0]
	s.wire.cut()
}

// pause waits between two replies. A client that has left is not waited for.
// unread tells what it has not read, and whether that can be seen.
func (s *session) pause(p pacing, unread func(*wire) (n int64, ok bool)) {
	began, look := time.Now(), unreadLook
	for p.gap > 0 && s.errs == nil && !s.wire.cutFlag.Load() {
		left := p.gap - time.Since(began)
		n, seen := unread(s.wire)
		switch {
		case seen && n == 0: // the next one will come in another read
			left = p.least - time.Since(began)
		case seen: // whatever the pause, it would take both
			left = min(time.Until(p.end), look)
			look = min(2*look, maxUnreadLook)
		}
		if left <= 0 {
			return
		}
		time.Sleep(left)
	}
}

// unreadByClient tells how many octets of ours the client has not read. ok is
// false where nobody can say.
func unreadByClient(w *wire) (n int64, ok bool) {
	arrived, unread, ok := kernelUnread(bare(w.Conn))
	return int64(unread) + max(0, w.sent-arrived), ok
}

// letGo gives connections back that nobody needs any more, before the transaction
// is over.
func (t *transaction) letGo() {
	t.dropLeads()
	for _, l := range t.legs {
		t.release(l)
	}
}
