package proxy

import (
	"crypto/sha256"
	"errors"
	"fmt"
	"sync"
	"time"

	"go.uber.org/zap"

	"slipstream/proxy/once"
	"slipstream/smtpwire"
)

// keyOf names what became of a message for one recipient.
func (t *transaction) keyOf(rc *recipient, content [sha256.Size]byte) once.Key {
	return once.Key{
		Client: t.s.client.addr.Addr(), Sender: t.mail.Path.Mailbox(), Recipient: rc.cmd.Path.Mailbox(),
		Content: content,
	}
}

// recall gives recipients the outcome that they had in an earlier attempt to send
// the same message: nothing is sent for them.
func (t *transaction) recall(m *message) {
	memory := t.s.door.once
	if memory == nil {
		return
	}
	content := m.content()
	settled := false
	for _, rc := range t.rcpts {
		if !rc.accepted() {
			continue
		}
		key := t.keyOf(rc, content)
		switch rc.final, rc.recalled = memory.Recall(key); {
		case rc.recalled:
			t.s.door.metrics.recalled(t.s.door.name, rc.final)
			t.rec.recalled++
		case t.s.door.flights.depart(key, t.s):
			t.flying = append(t.flying, key)
		default:
			rc.final, rc.recalled = composed(451, "4.3.0", "an earlier attempt to send this is still under way"), true
		}
		settled = settled || rc.recalled
	}
	if !settled {
		return
	}
	t.late = unrecalled(t.late)
	for _, l := range t.legs {
		left := unrecalled(l.accepted)
		l.narrowed = len(left) < len(l.accepted) && len(left) > 0
		l.accepted = left
	}
}

// unrecalled returns those whose outcome is not known yet.
func unrecalled(rcpts []*recipient) []*recipient {
	var left []*recipient
	for _, rc := range rcpts {
		if !rc.recalled {
			left = append(left, rc)
		}
	}
	return left
}

// recalls tells whether an earlier attempt left something to be heard of a
// recipient of these.
func (t *transaction) recalls(m *message, rcpts []*recipient) bool {
	memory := t.s.door.once
	if memory == nil {
		return false
	}
	content := m.content()
	for _, rc := range rcpts {
		if _, ok := memory.Recall(t.keyOf(rc, content)); ok {
			return true
		}
	}
	return false
}

// errUnwritable: hops may answer differently, and nobody could remember it.
var errUnwritable = errors.New("what became of each recipient could not be remembered")

// unwritable tells why a message may not be sent though its hops wait for it:
// there are several whose answers may differ, and the memory for that cannot be
// written to any more. Then nothing has been sent yet.
func (t *transaction) unwritable(busy []*leg) error {
	outcomes := 0
	for _, l := range busy {
		if l.route.LMTP {
			outcomes += len(l.accepted)
			continue
		}
		outcomes++
	}
	if t.s.door.inbound || t.finalEach() || outcomes < 2 {
		return nil
	}
	if err := t.s.door.once.Ready(len(t.rcpts)); err != nil {
		return fmt.Errorf("%w: %w", errUnwritable, err)
	}
	return nil
}

// differing is the last word about recipients that had different outcomes, to a
// client that takes one for all. It comes again with all of them; what became of
// each is on the disk before it hears so.
func (t *transaction) differing() smtpwire.Reply {
	content := t.msg.content()
	var outcomes []once.Outcome
	sent, all := 0, 0
	for _, rc := range t.rcpts {
		if !rc.accepted() {
			continue
		}
		all++
		if rc.final.Class() == 2 {
			sent++
		}
		outcomes = append(outcomes, once.Outcome{Key: t.keyOf(rc, content), Reply: rc.final})
	}
	t.again = true
	t.s.door.metrics.differed(t.s.door.name)
	if err := t.s.door.once.Remember(outcomes); err != nil {
		t.s.log.Error("what became of each recipient could not be written down: should the service end before the MTA's "+
			"next attempt, some will get the message twice", zap.String("tx", t.id), zap.Error(err))
	}
	return composed(451, "4.3.0", fmt.Sprintf(
		"%d of %d recipients have the message: please send it again for the others; nobody will get it twice", sent, all))
}

// slowLeg is how long the outcome at one destination waits for that at another
// before it is written down: should the service be killed, the client comes again
// with all of them.
const slowLeg = 2 * time.Second

// await waits for all legs.
func (t *transaction) await(legs *sync.WaitGroup) {
	if t.s.door.once == nil {
		legs.Wait()
		return
	}
	done := make(chan struct{})
	go func() { // ends with the legs, which end by their own deadlines
		legs.Wait()
		close(done)
	}()
	tick := time.NewTicker(slowLeg)
	defer tick.Stop()
	for {
		select {
		case <-done:
			return
		case <-tick.C:
			t.noteDone()
		}
	}
}

// noteDone writes down what is settled while some legs are not.
func (t *transaction) noteDone() {
	content := t.msg.content()
	var settled []once.Outcome
	t.s.mu.Lock()
	for _, l := range t.legs {
		if !l.done {
			continue
		}
		for _, rc := range l.accepted {
			if !rc.noted && (rc.final.Class() == 2 || rc.final.Class() == 5) {
				rc.noted = true
				settled = append(settled, once.Outcome{Key: t.keyOf(rc, content), Reply: rc.final})
			}
		}
	}
	t.s.mu.Unlock()
	if err := t.s.door.once.Remember(settled); err != nil {
		t.s.log.Warn("what is settled at some destinations could not be written down while others are waited for",
			zap.String("tx", t.id), zap.Error(err))
	}
}
