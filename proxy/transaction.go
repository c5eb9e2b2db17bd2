package proxy

import (
	"context"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"go.uber.org/zap"

	"slipstream/proxy/route"
	"slipstream/smtpwire"
)

// A transaction is one message on its way: from MAIL to the final reply.
type transaction struct {
	s      *session
	id     string // "7f3a9c0b12.1": the session's id and a count
	start  time.Time
	mail   smtpwire.Command
	legs   []*leg
	rcpts  []*recipient
	prefix []byte // what we put above the message
	msg    *message
	who    *identity
	notes  []error // hops that gave no answer before one did
	rec    record
}

// A recipient is one accepted or refused RCPT.
type recipient struct {
	cmd   smtpwire.Command
	leg   *leg
	reply smtpwire.Reply // to RCPT
	final smtpwire.Reply // to the message
}

func (rc *recipient) accepted() bool { return rc.leg != nil && rc.reply.Class() == 2 }

// begin opens a transaction for a MAIL that is in order. A reply with a code is
// a refusal.
func (s *session) begin(mail smtpwire.Command) smtpwire.Reply {
	limit := int64(s.door.limits.MaxMessageSize)
	if size, ok := declaredSize(mail); ok && limit > 0 && size > limit {
		return composed(552, "5.3.4", fmt.Sprintf("message exceeds the limit of %d octets", limit))
	}
	if ok, why := s.door.guard.open(); !ok {
		s.over = true
		s.log.Warn("door was shut meanwhile", zap.String("why", why))
		return composed(421, "4.3.2", s.door.hostname+" is not ready, please try again later")
	}
	if s.count >= s.door.limits.MaxTransactions {
		s.over = true
		return s.enough()
	}
	s.count++
	t := &transaction{s: s, id: fmt.Sprintf("%s.%d", s.id, s.count), start: time.Now(), mail: mail}
	if s.door.addReceived {
		t.prefix = t.received()
	}
	s.tx = t
	return smtpwire.Reply{}
}

// declaredSize reads the SIZE parameter of MAIL (RFC 1870 §6).
func declaredSize(mail smtpwire.Command) (int64, bool) {
	v, ok := mail.Params.Get("SIZE")
	if !ok {
		return 0, false
	}
	n, err := strconv.ParseInt(v, 10, 64)
	if err != nil {
		return 1<<63 - 1, true // more digits than any message has
	}
	return n, true
}

// A batch holds the answers to a run of MAIL and RCPT commands until they can be
// said in order.
type batch struct {
	s     *session
	mu    sync.Mutex
	cmds  []smtpwire.Command
	slots []smtpwire.Reply
	rcpts []*recipient // of the slots that recipients are asked in
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
	if time.Since(b.s.spoke) > slowReply {
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
			s.takeAhead(next)
		}
		s.tx.expect(b, asked)
		s.tx.ask(ctx, b, mailSlot, asked, next)
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
	}
	groups := t.route(ctx, b, asked)
	if len(groups) == 1 {
		t.askLeg(ctx, b, groups[0], next)
		return
	}
	var wg sync.WaitGroup
	for _, g := range groups {
		wg.Go(func() {
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
// client hears one for all. So that none is lost, such a transaction has one.
func (l *leg) oneRecipient() bool { return l.route.LMTP && !l.tx.s.door.lmtp }

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
		b.fill(i, composed(452, "4.5.3", "one recipient at a time, please: send this one again on its own"))
	}
	return slots[:stay]
}

// envelopeFor builds the envelope whose answers go into the slots of a group.
func (t *transaction) envelopeFor(b *batch, g group, next smtpwire.Command) envelope {
	e := envelope{data: follows(next)}
	if ahead := t.s.ahead; ahead != nil && ahead.err == nil && len(t.legs) == 1 {
		e.text = t.msg
	}
	for _, i := range g.slots {
		e.rcpts = append(e.rcpts, b.cmds[i])
		b.rcpts[i].leg = g.leg
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
		r = spoken(r, label)
	}
	return shortened(r.WithEnhanced())
}

// failed is the reply for an error; without one MAIL was refused and says so.
func (t *transaction) failed(err error) smtpwire.Reply {
	if err == nil {
		return composed(503, "5.5.1", "MAIL was not accepted")
	}
	return refusal(err, t.s.door.inbound, t.id)
}

// fillRest answers the recipients that no hop has answered.
func (t *transaction) fillRest(b *batch, slots []int, err error) {
	for _, i := range slots {
		if b.slots[i].Code == 0 {
			b.fill(i, t.failed(err))
		}
	}
}

// route finds the leg of each recipient, opening legs as the door allows, and
// refuses those that cannot share the transaction.
func (t *transaction) route(ctx context.Context, b *batch, asked []int) []group {
	routes := t.lookUp(ctx, b, asked)
	var groups []group
	for _, i := range asked {
		found, ok := routes[i]
		if !ok {
			continue // refused: its domain has no route
		}
		l := t.legFor(found)
		if l == nil && t.s.door.lmtp {
			b.fill(i, composed(452, "4.5.3", "too many destinations in one transaction: send this recipient again"))
			continue
		}
		if l == nil {
			b.fill(i, composed(452, "4.5.3", "one destination at a time, please: send this recipient again on its own"))
			continue
		}
		groups = addTo(groups, l, i)
	}
	return groups
}

func addTo(groups []group, l *leg, slot int) []group {
	for i := range groups {
		if groups[i].leg == l {
			groups[i].slots = append(groups[i].slots, slot)
			return groups
		}
	}
	return append(groups, group{leg: l, slots: []int{slot}})
}

// legFor returns the leg of a route. The SMTP door has one at a time (RFC 9422:
// RCPTDOMAINMAX=1); one that nobody was accepted on makes room for another.
// https://www.rfc-editor.org/rfc/rfc9422#section-4.3
func (t *transaction) legFor(r route.Route) *leg {
	for _, l := range t.legs {
		if l.route.Key == r.Key {
			return l
		}
	}
	if !t.s.door.lmtp && len(t.legs) > 0 {
		old := t.legs[len(t.legs)-1]
		if len(old.accepted) > 0 || !old.begun && old.err == nil {
			return nil
		}
		t.release(old)
		t.legs = t.legs[:len(t.legs)-1]
	}
	if len(t.legs) >= maxLegs {
		return nil
	}
	l := &leg{tx: t, route: r}
	t.legs = append(t.legs, l)
	return l
}

// maxLegs bounds the destinations, and so the connections, of one transaction.
const maxLegs = 50

// asciiLower folds what every domain may be folded by. More (sharp s and its
// like) is for the route to say, which knows the rules for such names.
func asciiLower(s string) string {
	return strings.Map(func(r rune) rune {
		if r >= 'A' && r <= 'Z' {
			r += 'a' - 'A'
		}
		return r
	}, s)
}

// maxLookUps bounds how many destinations of one flight are looked up at a time.
const maxLookUps = 16

// lookUp finds the routes of a flight's recipients, each domain once, and
// refuses those that have none.
func (t *transaction) lookUp(ctx context.Context, b *batch, asked []int) map[int]route.Route {
	type answer struct {
		r   route.Route
		err error
	}
	byDomain := make(map[string]*answer)
	slotDomain := make(map[int]string)
	var wg sync.WaitGroup
	turn := make(chan struct{}, maxLookUps)
	for _, i := range asked {
		to := b.cmds[i].Path
		domain := asciiLower(to.Domain)
		slotDomain[i] = domain
		if byDomain[domain] != nil {
			continue
		}
		a := &answer{}
		byDomain[domain] = a
		turn <- struct{}{}
		wg.Go(func() {
			defer func() { <-turn }()
			a.err = within(ctx, "the route", t.s.times.Setup, func(ctx context.Context) (err error) {
				a.r, err = t.s.door.router.Route(ctx, t.mail.Path, to)
				return err
			})
		})
	}
	wg.Wait()
	routes := make(map[int]route.Route)
	for _, i := range asked {
		a := byDomain[slotDomain[i]]
		if a.err != nil {
			t.note(a.err)
			b.fill(i, t.failed(a.err))
			continue
		}
		routes[i] = a.r
	}
	return routes
}

// adapted fits a command of the client to a hop that may lack what the client
// was offered, and accounts for the octets that we add.
func (t *transaction) adapted(c smtpwire.Command, p *peer) (smtpwire.Command, smtpwire.Reply, bool) {
	if c.Verb == smtpwire.VerbMail {
		if size, ok := declaredSize(c); ok && size < 1<<62 {
			c.Params = c.Params.With("SIZE", fmt.Sprint(size+int64(len(t.prefix))))
		}
	}
	out, refused, ok := smtpwire.Adapt(c, p.pipe.EHLO())
	if !ok && t.s.door.static {
		// We offered what this hop offered before. It changed its mind; next
		// time we say so.
		refused = composed(451, "4.3.2", "the mail system's abilities have changed, please try again")
	}
	return out, refused, ok
}

// identity is what the backend is told about the client, looked up once.
func (t *transaction) identity() identity {
	if t.s.door.caller.announce == announceNone {
		return identity{}
	}
	if t.who == nil {
		c := &t.s.client
		t.who = &identity{client: c.addr, local: c.local, helo: c.helo, esmtp: c.esmtp}
		if t.s.door.caller.announce == announceXclient && c.name != nil {
			t.who.name = c.name()
		}
	}
	return *t.who
}

// announced is the part of the client's identity that may change within a
// session and that the hop was told, so that no connection is used again under
// another.
func (t *transaction) announced() string {
	if t.s.door.caller.announce == announceNone {
		return ""
	}
	return t.s.client.helo
}

// note keeps why a hop gave no answer, for the log.
func (t *transaction) note(err error) {
	t.s.mu.Lock()
	defer t.s.mu.Unlock()
	t.rec.asked = time.Now()
	if len(t.notes) < maxNotes {
		t.notes = append(t.notes, err)
	}
	t.s.log.Debug("hop gave no answer", zap.String("tx", t.id), zap.Error(err))
}

// maxNotes bounds what the log keeps of failed attempts in one transaction.
const maxNotes = 20

// connected keeps what the log says about a hop.
func (t *transaction) connected(p *peer) {
	t.s.mu.Lock()
	defer t.s.mu.Unlock()
	t.rec.hop(p)
	if p.fallback != nil {
		t.notes = append(t.notes, p.fallback)
		t.s.door.metrics.fellBack(t.s.door.name)
		p.fallback = nil // it is told once
	}
}

// abort ends a transaction without a message. Where no recipient was accepted,
// their refusals are what became of it.
func (t *transaction) abort(why string) {
	t.rec.ended = why
	status, said, ok := t.refusedAll()
	if !ok {
		status, said = "aborted", smtpwire.Reply{}
	}
	t.finish(status, said)
}

// finish closes the transaction: connections are kept or closed, the body is
// gone, the log has its line.
func (t *transaction) finish(status string, said smtpwire.Reply) {
	for _, l := range t.legs {
		t.release(l)
	}
	if t.msg != nil {
		_ = t.msg.body.Close() // memory and an unlinked file: nothing to save
	}
	t.write(status, said)
	t.s.tx = nil
}

// release gives a leg's connection back to the session.
func (t *transaction) release(l *leg) {
	if l.peer == nil {
		return
	}
	l.abandon()
	t.rec.done(l.peer)
	t.s.keep(l.peer)
	l.peer = nil
}
