package proxy

import (
	"context"
	"sync"
	"time"

	"go.uber.org/zap"

	"slipstream/smtpwire"
)

// Late verdicts: a recipient may be answered before its hop was asked where the
// final reply will speak for it as well, so that envelope and text can leave in
// one flight. That is so where the client's text is on its way already and there
// is one recipient, and where each recipient has a final reply of its own (LMTP,
// PRDR). Any other client that waits for the answer to RCPT gets the hop's.

// answersLate tells whether the recipients of a flight hear of their hop with
// the final reply.
func (t *transaction) answersLate(asked []int, next smtpwire.Command) bool {
	d := t.s.door
	switch {
	case d.inbound || !d.lateVerdict || t.plain || len(asked) == 0 || t.s.ahead != nil:
		return false
	case t.prdr: // who asks for a last word on each means to send a text
		return len(t.legs) == 0 // all of them, or none
	case next.Refused.Code != 0 || next.Verb != smtpwire.VerbData:
		return false // who waits, or asks no more than that, is to know
	case d.lmtp:
		return len(t.legs) == 0
	}
	return len(asked) == 1 && len(t.rcpts) == 1
}

// answerLate accepts recipients on behalf of hops that have not been asked, and
// sees to it that they can be as soon as the text is here.
func (t *transaction) answerLate(ctx context.Context, b *batch, asked []int) {
	d := t.s.door
	if !t.manyLegs() {
		asked = t.together(ctx, b, asked)
	}
	for _, i := range asked {
		rc := b.rcpts[i]
		if !d.static && len(t.late) >= maxLegs && t.destinations(rc.cmd.Path.Domain) > maxLegs {
			b.fill(i, t.tooMany())
			continue
		}
		rc.late = true
		t.late = append(t.late, rc)
		if t.manyLegs() || len(t.late) == 1 {
			t.goAhead(ctx, rc.cmd.Path)
		}
		b.fill(i, smtpwire.NewReply(250, "2.1.5", "recipient noted"))
	}
}

// destinations counts the domains of those that were answered late, and of one
// more.
func (t *transaction) destinations(more string) int {
	domains := map[string]bool{asciiLower(more): true}
	for _, rc := range t.late {
		domains[asciiLower(rc.cmd.Path.Domain)] = true
	}
	return len(domains)
}

// askLate asks the hops about the recipients that were answered before, and
// sends the text along where it is small. Those that are refused now have their
// final reply.
func (t *transaction) askLate(ctx context.Context, m *message, end time.Time) {
	if len(t.late) == 0 {
		return
	}
	b := &batch{s: t.s, mute: true, rcpts: t.late, slots: make([]smtpwire.Reply, len(t.late))}
	all := make([]int, len(t.late))
	for i, rc := range t.late {
		b.cmds = append(b.cmds, rc.cmd)
		all[i] = i
	}
	t.late = nil
	groups := t.route(ctx, b, all)
	t.sideBySide(len(groups), func(i int) {
		g := groups[i]
		defer t.fillRest(b, g.slots, errBroke) // for what survive leaves open
		defer g.leg.survive()
		t.askLateLeg(ctx, b, g, m)
		if len(g.leg.accepted) > 0 {
			t.commitLeg(ctx, g.leg, m, end)
		}
	})
	for i, rc := range b.rcpts {
		if b.slots[i].Class() != 2 {
			rc.final = b.slots[i]
		}
	}
}

func (t *transaction) askLateLeg(ctx context.Context, b *batch, g group, m *message) {
	g.slots = t.refuseFurther(b, g.leg, g.slots)
	e := t.envelopeFor(b, g, smtpwire.Command{Verb: smtpwire.VerbData})
	e.late = true
	if m.size() <= maxAhead {
		e.text = m
	}
	t.fillRest(b, g.slots, g.leg.ask(ctx, e))
}

// plainFor draws whether a transaction goes without anything that makes it fast.
func (d *door) plainFor(draw func() float64) bool {
	return d.controlShare > 0 && draw() < d.controlShare
}

// A lead is a connection that is being made before anybody asks for it, while
// the client is still writing.
type lead struct {
	domain string
	routed chan struct{} // closed when the key is there
	key    string        // of the route; "": none was found
	done   chan struct{} // closed when the supply is
	supply *supply       // nil: nothing was begun
	cancel context.CancelFunc
}

// maxLeads bounds the connections that one transaction begins to make ahead.
const maxLeads = 10

// goAhead begins to look up the route of a recipient, and to connect to its hop.
func (t *transaction) goAhead(ctx context.Context, to smtpwire.Path) {
	domain := asciiLower(to.Domain)
	if t.s.door.static {
		domain = "" // one hop for everybody
	}
	if t.s.door.caller.warm.connections > 0 {
		return // a place that is held for later is one that somebody may be waiting for now
	}
	if t.plain || !t.s.door.connectAhead || len(t.leads) >= maxLeads {
		return
	}
	for _, ld := range t.leads {
		if ld.domain == domain {
			return
		}
	}
	setup := t.s.times.Setup
	ctx, cancel := context.WithTimeoutCause(ctx, setup, &waitError{what: "the next hop", limit: setup})
	ld := &lead{domain: domain, routed: make(chan struct{}), done: make(chan struct{}), cancel: cancel}
	routed := sync.OnceFunc(func() { close(ld.routed) })
	t.leads = append(t.leads, ld)
	go func() { // ends with its context at the latest; drop waits for it
		defer close(ld.done)
		defer routed()
		defer cancel()
		defer t.surviveLead()
		r, err := t.router().Route(ctx, t.mail.Path, to)
		if err != nil || r.IsZero() {
			return // who asks for it will hear why
		}
		ld.key = r.Key
		routed()
		if t.s.door.health.ailing(destination{t.s.door.name, r.Key}) {
			return // who asks for it may not be the one that tries
		}
		ld.supply = t.supply(aheadOfAll(ctx, t.s.door.static), r)
		ld.supply.fetch()
		if ld.supply.crowdedOut() {
			ld.supply.drop(t.s.keep) // who asks for it waits for a place
			ld.supply = nil
		}
	}()
}

// leadFor hands out what was begun for a route.
func (t *transaction) leadFor(key string) *lead {
	for i, ld := range t.leads {
		<-ld.routed
		if ld.key == key {
			t.leads = append(t.leads[:i:i], t.leads[i+1:]...)
			return ld
		}
	}
	return nil
}

// takeLead waits for what was begun for the leg; nil: nothing was. Other legs need
// not wait for it.
func (l *leg) takeLead() *supply {
	ld := l.lead
	if l.lead = nil; ld == nil {
		return nil
	}
	<-ld.done
	return ld.supply
}

// drop ends what was begun and is not asked for any more.
func (ld *lead) drop(keep func(*peer)) {
	ld.cancel()
	<-ld.done
	if ld.supply != nil {
		ld.supply.drop(keep)
	}
}

// surviveLead keeps an error of ours ahead of a message from ending everything:
// whoever needs the connection makes it.
func (t *transaction) surviveLead() {
	if r := recover(); r != nil {
		d := t.s.door
		d.metrics.panicked(d.name)
		d.log.Error("a connection ahead broke by an error in Slipstream", zap.String("S", t.id), zap.Any("panic", r), zap.Stack("stack"))
	}
}

// dropLeads ends what nobody asked for.
func (t *transaction) dropLeads() {
	for _, ld := range t.leads {
		ld.drop(t.s.keep)
	}
	t.leads = nil
}
