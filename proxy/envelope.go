package proxy

import (
	"context"
	"slices"
	"sync"

	"slipstream/smtpwire"
)

// envelope answers a run of MAIL and RCPT commands. next is the command that
// follows in the same flight, if any.
func (s *session) envelope(ctx context.Context, cmds []smtpwire.Command, next smtpwire.Command) {
	b := &batch{s: s, cmds: cmds, slots: make([]smtpwire.Reply, len(cmds)), rcpts: make([]*recipient, len(cmds))}
	passed := make([]bool, len(cmds))
	mailSlot := -1
	var asked []int // slots of recipients to be asked about
	for i, c := range cmds {
		s.mailed = s.mailed || c.Verb == smtpwire.VerbMail
		refused, ok := s.seq.Check(c)
		if passed[i] = ok; !ok {
			s.tally(c, refused)
			b.slots[i] = refused
			continue
		}
		switch {
		case c.Verb == smtpwire.VerbRcpt:
			asked = append(asked, i)
		default:
			mailSlot = i
			b.slots[i] = s.begin(c)
		}
	}
	if s.tx != nil {
		if len(asked) > 0 {
			s.takeAhead(ctx, next)
		}
		s.tx.expect(b, asked)
		s.tx.ask(ctx, b, mailSlot, asked, next)
		if slices.ContainsFunc(asked, func(i int) bool { return b.slots[i].Class() == 2 }) {
			s.tx.beginExam(ctx) // there is somebody to ask for
		}
	}
	for i, c := range cmds {
		if b.slots[i].Code == 0 {
			b.fill(i, composed(503, "5.5.1", "MAIL was not accepted"))
		}
		if b.rcpts[i] != nil {
			b.rcpts[i].reply = brief(b.slots[i])
		}
		if passed[i] {
			s.seq.Answered(c, b.slots[i])
		}
		if s.tx != nil && b.slots[i].Code == 452 {
			s.tx.told452 = true
		}
	}
	b.release()
	s.afterEnvelope(b, mailSlot)
}

// afterEnvelope draws the consequences: a refused MAIL ends the transaction, and
// a backend's 421 ends the session, as it says.
func (s *session) afterEnvelope(b *batch, mailSlot int) {
	if mailSlot >= 0 && s.tx != nil && b.slots[mailSlot].Class() != 2 {
		s.tx.finish("refused", b.slots[mailSlot])
	}
	for _, r := range b.slots {
		if r.Code == 421 {
			s.over = true
		}
	}
}

// expect lists the recipients of a batch, in the order in which the client named
// them: its final replies come in that order (RFC 2033 §4.2). Of those that were
// refused before, no more are remembered than may be accepted.
func (t *transaction) expect(b *batch, asked []int) {
	excess := len(t.rcpts) - 2*t.s.door.limits.MaxRecipients
	if excess > 0 {
		t.rcpts = slices.DeleteFunc(t.rcpts, func(rc *recipient) bool {
			drop := excess > 0 && !rc.accepted()
			if drop {
				excess--
			}
			return drop
		})
	}
	for _, i := range asked {
		b.rcpts[i] = &recipient{cmd: b.cmds[i]}
		t.rcpts = append(t.rcpts, b.rcpts[i])
	}
}

// ask takes MAIL (mailSlot ≥ 0) and recipients to their hops and fills every slot.
func (t *transaction) ask(ctx context.Context, b *batch, mailSlot int, asked []int, next smtpwire.Command) {
	if t.s.door.inbound {
		t.askBackend(ctx, b, mailSlot, asked, next)
		return
	}
	if mailSlot >= 0 {
		// Where the mail goes is known at RCPT; a refusal of the sender can be
		// told there as well.
		b.fill(mailSlot, smtpwire.NewReply(250, "2.1.0", "sender noted"))
		if t.s.door.static && len(asked) == 0 {
			t.goAhead(ctx, smtpwire.Path{})
		}
	}
	if asked = t.keepApart(b, asked, next); t.answersLate(asked, next) && t.reached(ctx, b, asked) {
		t.answerLate(ctx, b, asked)
		return
	}
	groups := t.route(ctx, b, asked)
	if len(groups) == 1 {
		t.askLeg(ctx, b, groups[0], next)
		return
	}
	var wg sync.WaitGroup
	for _, g := range groups {
		wg.Go(func() {
			defer t.fillRest(b, g.slots, errBroke) // for what survive leaves open
			defer g.leg.survive()
			t.askLeg(ctx, b, g, smtpwire.Command{})
		})
	}
	wg.Wait()
}

// askBackend says the envelope to the one place where inbound mail goes.
func (t *transaction) askBackend(ctx context.Context, b *batch, mailSlot int, asked []int, next smtpwire.Command) {
	if mailSlot >= 0 {
		r, err := t.s.door.router.Route(ctx, t.mail.Path, smtpwire.Path{})
		t.legs = []*leg{{tx: t, route: r, err: err}}
	}
	l := t.legs[0]
	asked = t.refuseFurther(b, l, asked)
	e := t.envelopeFor(b, group{leg: l, slots: asked}, next)
	if mailSlot >= 0 {
		e.mailed = func(r smtpwire.Reply) bool { return b.fill(mailSlot, t.worded(l, r)) }
	}
	err := l.ask(ctx, e)
	if mailSlot >= 0 && b.slots[mailSlot].Code == 0 {
		b.fill(mailSlot, t.failed(err))
	}
	t.fillRest(b, asked, err)
}

// group is what one leg is asked about: slots of a batch.
type group struct {
	leg   *leg
	slots []int
}

// askLeg asks one leg about its recipients.
func (t *transaction) askLeg(ctx context.Context, b *batch, g group, next smtpwire.Command) {
	g.slots = t.refuseFurther(b, g.leg, g.slots)
	t.fillRest(b, g.slots, g.leg.ask(ctx, t.envelopeFor(b, g, next)))
}

// oneRecipient: an LMTP hop has one final word for each recipient, an SMTP
// client hears one for all. So that none is lost, such a transaction has one,
// where nobody remembers them.
func (l *leg) oneRecipient() bool {
	t := l.tx
	return t.s.door.split == splitSingle || l.route.LMTP && !t.finalEach() && !t.remembers()
}

// refuseFurther tells recipients beyond those that a leg can take to come on
// their own, and returns the slots that may stay.
func (t *transaction) refuseFurther(b *batch, l *leg, slots []int) []int {
	stay := 1
	if len(l.accepted) > 0 {
		stay = 0
	}
	if !l.oneRecipient() || len(slots) <= stay {
		return slots
	}
	for _, i := range slots[stay:] {
		b.fill(i, t.another("one recipient at a time, please: send this one again on its own"))
	}
	return slots[:stay]
}

// envelopeFor builds the envelope whose answers go into the slots of a group.
func (t *transaction) envelopeFor(b *batch, g group, next smtpwire.Command) envelope {
	e := envelope{data: follows(next)}
	var rcpts []*recipient
	for _, i := range g.slots {
		e.rcpts = append(e.rcpts, b.cmds[i])
		b.rcpts[i].leg = g.leg
		rcpts = append(rcpts, b.rcpts[i])
	}
	if ahead := t.s.ahead; ahead != nil && ahead.err == nil && len(t.legs) == 1 && t.mayRide(t.msg, rcpts) {
		e.text = t.msg
	}
	e.answered = func(i int, r smtpwire.Reply) bool {
		if !t.s.door.inbound && g.leg.mail.Class() > 3 {
			r = g.leg.mail // the sender was refused: that is what there is to say
		}
		r = t.worded(g.leg, r)
		if r.Class() == 2 {
			g.leg.accepted = append(g.leg.accepted, b.rcpts[g.slots[i]])
		}
		return b.fill(g.slots[i], r)
	}
	e.release = b.now
	e.forget = func() bool { return b.clear(g.slots) }
	return e
}

// worded fits a hop's reply for the client: its own words, but never 421 to an
// MTA whose smarthost we are, and with an enhanced code where we offered them.
func (t *transaction) worded(l *leg, r smtpwire.Reply) smtpwire.Reply {
	if !t.s.door.inbound {
		label := l.route.Key
		if l.peer != nil {
			label = l.peer.label
		}
		if r.Code == 421 && t.s.door.intercepts == nil {
			return t.s.door.attribution.retold(shortened(spoken(r, label).WithEnhanced()), l.peer)
		}
	}
	return l.said(r)
}

// failed is the reply for an error; without one MAIL was refused and says so.
func (t *transaction) failed(err error) smtpwire.Reply {
	if t.s.own.endedBy(err) {
		return t.s.loginLost()
	}
	if err == nil {
		return composed(503, "5.5.1", "MAIL was not accepted")
	}
	return t.s.door.handedOn(t.s.door.attribution.explained(refusal(err, t.s.door.inbound, t.id), err), err)
}

// fillRest answers the recipients that no hop has answered.
func (t *transaction) fillRest(b *batch, slots []int, err error) {
	for _, i := range slots {
		if b.slots[i].Code == 0 {
			b.fill(i, t.failed(err))
		}
	}
}
