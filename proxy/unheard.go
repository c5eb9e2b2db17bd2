package proxy

import (
	"errors"
	"io"
	"math"
	"sync"
	"time"

	"go.uber.org/zap"

	"slipstream/proxy/once"
)

// An unheard word is a final reply that the client may not have heard.
type unheard struct {
	told   []once.Outcome
	flying []once.Key
	end    int64 // octets on the wire up to its end; none are as many before it is said
	timer  *time.Timer

	mu    sync.Mutex
	noted bool // it is written down
	over  bool // it was heard, or the session is over
}

const (
	// maxUnheard bounds the words of one session that wait to be heard.
	maxUnheard = 32

	// unheardWait is how long one waits until it is written down: the client's
	// machine may be gone, and come again before its connection has timed out.
	unheardWait = time.Second

	// quitWait is how long the answer to QUIT waits for the last word to arrive:
	// a client that does not wait for that answer resets the connection with it,
	// and Linux delays an acknowledgement by up to 200 ms.
	quitWait = 250 * time.Millisecond

	// ackPause is the time between two looks at what has arrived.
	ackPause = 2 * time.Millisecond
)

// told keeps what the client is told, until it has heard it.
func (t *transaction) told() {
	s := t.s
	if s.door.once == nil || t.msg == nil || t.again {
		return
	}
	content := t.msg.content()
	u := &unheard{end: math.MaxInt64}
	for _, rc := range t.rcpts {
		if rc.accepted() && rc.final.Class() != 4 {
			u.told = append(u.told, once.Outcome{Key: t.keyOf(rc, content), Reply: rc.final})
		}
	}
	if len(u.told) == 0 {
		return
	}
	u.flying, t.flying = t.flying, nil
	if len(s.unheard) >= maxUnheard {
		s.awaitHeard(lingerTime) // a client that sends so much ahead can wait
	}
	if len(s.unheard) >= maxUnheard {
		s.giveUp(s.unheard[0])
		s.unheard = s.unheard[1:]
	}
	s.unheard = append(s.unheard, u)
}

// said marks where on the wire the last word ends.
func (s *session) said() {
	if n := len(s.unheard); n > 0 && s.unheard[n-1].timer == nil {
		u := s.unheard[n-1]
		u.end = s.wire.sent
		u.timer = time.AfterFunc(unheardWait, func() { s.noteUnheard(u) })
	}
}

// heard forgets what the client has heard: if it sends the same again, that is
// another message. That it went on does not tell, since it may have sent more
// before: the kernel does.
func (s *session) heard() {
	if len(s.unheard) == 0 {
		return
	}
	n, ok := ackedByClient(s.wire.Conn)
	for len(s.unheard) > 0 && (!ok || n >= s.unheard[0].end) {
		s.forget(s.unheard[0])
		s.unheard = s.unheard[1:]
	}
}

// awaitHeard gives the last word time to arrive.
func (s *session) awaitHeard(limit time.Duration) {
	for end := time.Now().Add(limit); ; time.Sleep(ackPause) {
		s.heard()
		if len(s.unheard) == 0 || closed(s.wire.Conn) || time.Now().After(end) {
			return
		}
	}
}

func (s *session) forget(u *unheard) {
	u.mu.Lock()
	defer u.mu.Unlock()
	u.settle()
	keys := make([]once.Key, len(u.told))
	for i, o := range u.told {
		keys[i] = o.Key
	}
	s.door.once.Heard(keys)
	s.door.flights.Land(u.flying, s)
}

// settle is called with u.mu held when nothing more is to become of it.
func (u *unheard) settle() {
	u.over = true
	if u.timer != nil {
		u.timer.Stop()
	}
}

// noteUnheard writes down what the client seems not to hear.
func (s *session) noteUnheard(u *unheard) {
	u.mu.Lock()
	defer u.mu.Unlock()
	if n, ok := ackedByClient(s.wire.Conn); u.over || u.noted || !ok || n >= u.end {
		return
	}
	u.note(s)
}

// note is called with u.mu held.
func (u *unheard) note(s *session) {
	u.noted = true
	defer s.door.flights.Land(u.flying, s)
	var delivered []once.Outcome
	for _, o := range u.told {
		if o.Reply.Class() == 2 {
			delivered = append(delivered, o)
		}
	}
	if len(delivered) == 0 {
		return
	}
	s.door.metrics.vanished(s.door.name)
	err := s.door.once.Remember(delivered)
	s.log.Warn("the client does not hear that its message was delivered; when it comes again, it will",
		zap.Int("recipients", len(delivered)), zap.NamedError("not_written", err))
}

// vanished finds out, at the end of a session, whether the client has heard its
// last word. Where it has not, it will come again with what was delivered
// (https://www.rfc-editor.org/rfc/rfc1047), which is remembered until then.
func (s *session) vanished() {
	if len(s.unheard) == 0 {
		return
	}
	if s.errs == nil && (s.leftBy == nil || errors.Is(s.leftBy, io.EOF) || errors.Is(s.leftBy, io.ErrUnexpectedEOF)) && !s.fragile {
		s.awaitHeard(lingerTime)
	}
	for _, u := range s.unheard {
		s.giveUp(u)
	}
	s.unheard = nil
}

// giveUp writes down what will not be heard any more.
func (s *session) giveUp(u *unheard) {
	u.mu.Lock()
	defer u.mu.Unlock()
	if !u.noted {
		u.note(s)
	}
	u.settle()
}
