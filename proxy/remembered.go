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
	patience := time.Now().Add(quitWait)
	for _, rc := range t.rcpts {
		if !rc.accepted() {
			continue
		}
		key := t.keyOf(rc, content)
		if !t.departBy(key, patience) {
			rc.final, rc.recalled = composed(451, "4.3.0", "an earlier attempt to send this is still under way"), true
		} else if rc.final, rc.recalled = memory.Recall(key); rc.recalled {
			t.s.door.metrics.recalled(t.s.door.name, rc.final)
			t.rec.recalled++
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

// mayRide tells whether a text may leave before it is known who accepts it: not
// where an earlier attempt is under way, or left something to be heard.
func (t *transaction) mayRide(m *message, rcpts []*recipient) bool {
	memory := t.s.door.once
	if memory == nil {
		return true
	}
	content := m.content()
	for _, rc := range rcpts {
		key := t.keyOf(rc, content)
		if !t.depart(key) {
			return false
		}
		if _, known := memory.Recall(key); known {
			return false
		}
	}
	return true
}

// depart enters a copy of the transaction's among those that are under way. It
// comes before the question what became of it: who lands one has written that
// down before.
func (t *transaction) depart(key once.Key) bool {
	if !t.s.door.flights.Depart(key, t.s) {
		return false
	}
	t.flying = append(t.flying, key)
	return true
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

// departBy is depart with some patience: the earlier attempt may be over, and its
// client about to have heard so.
func (t *transaction) departBy(key once.Key, end time.Time) bool {
	for !t.depart(key) {
		if time.Now().After(end) {
			return false
		}
		time.Sleep(ackPause)
	}
	return true
}

// slowLeg is how long the outcome at one destination waits for that at another
// before it is written down: should the service be killed, the client comes again
// with all of them.
const slowLeg = 2 * time.Second

// sideBySide commits so many legs, and returns when all are done.
func (t *transaction) sideBySide(legs int, commit func(i int)) {
	if legs == 1 { // as it mostly is
		commit(0)
		return
	}
	var wg sync.WaitGroup
	for i := range legs {
		wg.Go(func() { commit(i) })
	}
	if t.s.door.once == nil || legs == 0 {
		wg.Wait()
		return
	}
	done := make(chan struct{})
	go func() { // ends with the legs, which end by their own deadlines
		wg.Wait()
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
