package proxy

import (
	"fmt"
	"math/rand/v2"
	"strconv"
	"time"

	"go.uber.org/zap"

	"slipstream/proxy/once"
	"slipstream/smtpwire"
)

// A transaction is one message on its way: from MAIL to the final reply.
type transaction struct {
	s       *session
	id      string // "7f3a9c0b12.1": the session's id and a count
	start   time.Time
	mail    smtpwire.Command
	legs    []*leg
	rcpts   []*recipient
	prefix  []byte // what we put above the message
	msg     *message
	judged  bool         // the text is to be examined
	exam    *examination // nil: not begun, or not to be
	who     *identity
	notes   []error      // hops that gave no answer before one did
	late    []*recipient // those that were answered before their hop was asked
	leads   []*lead      // connections that are being made ahead
	claim   *claim       // on places for connections; nil: none was asked for yet
	plain   bool         // goes without what makes others fast
	prdr    bool         // the client takes a final reply for each recipient
	turn    turn         // who may be in it
	parted  []string     // the recipients in it that were refused before
	alone   bool         // only one of those may be in it
	flying  []once.Key   // its copies that are under way
	told452 bool         // somebody was told so, by us or by a hop
	again   bool         // outcomes differ: the client is to come again for all of them
	rec     record
}

// A recipient is one accepted or refused RCPT.
type recipient struct {
	cmd   smtpwire.Command
	leg   *leg
	reply smtpwire.Reply // to RCPT
	final smtpwire.Reply // to the message
	late  bool           // it was answered before its hop was asked

	recalled bool // final is that of an earlier attempt
	noted    bool // final is written down
}

func (rc *recipient) accepted() bool { return (rc.leg != nil || rc.late) && rc.reply.Class() == 2 }

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
	if !s.readyOwn() {
		s.over = true
		return s.loginLost()
	}
	s.count++
	t := &transaction{s: s, id: fmt.Sprintf("%s.%d", s.id, s.count), start: time.Now(), mail: mail}
	t.plain = s.door.plainFor(rand.Float64)
	t.takePRDR()
	if s.door.addReceived {
		t.prefix = t.received()
	}
	t.judged = s.door.auth.judges(s.client.addr.Addr()) && !s.own.loggedIn()
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

// adapted fits a command of the client to a hop that may lack what the client
// was offered, and accounts for the octets that we add.
func (t *transaction) adapted(c smtpwire.Command, offered smtpwire.EHLO) (smtpwire.Command, smtpwire.Reply, bool) {
	if c.Verb == smtpwire.VerbMail {
		c = t.s.asserted(c)
		if size, ok := declaredSize(c); ok && size < 1<<62 {
			c.Params = c.Params.With("SIZE", fmt.Sprint(size+t.growth()))
		}
	}
	out, refused, ok := smtpwire.Adapt(c, offered)
	if !ok && t.s.door.static {
		// We offered what this hop offered before. It changed its mind; next
		// time we say so.
		refused = composed(451, "4.3.2", "the mail system's abilities have changed, please try again")
	}
	return out, refused, ok
}

// identity is what the backend is told about the client, looked up once.
func (t *transaction) identity() identity {
	if !t.s.door.caller.personal() {
		return identity{}
	}
	return *t.fullIdentity()
}

// fullIdentity is all that is known of the client.
func (t *transaction) fullIdentity() *identity {
	if t.who == nil {
		c := &t.s.client
		t.who = &identity{client: c.addr, local: c.local, helo: c.helo, esmtp: c.esmtp}
		if c.name != nil {
			t.who.name = c.name()
		}
	}
	return t.who
}

// announced is the part of the client's identity that may change within a
// session and that the hop was told, so that no connection is used again under
// another.
func (t *transaction) announced() string {
	if !t.s.door.caller.personal() {
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
	if p.repaired != nil {
		t.notes = append(t.notes, p.repaired)
		p.repaired = nil // as below
	}
	if p.fallback != nil {
		t.notes = append(t.notes, p.fallback)
		t.s.door.metrics.fellBack(t.s.door.name)
		p.fallback = nil // it is told once
	}
}

// cut closes the transaction's connections as they are: not even QUIT may be
// said where a text may be under way.
func (t *transaction) cut() {
	for _, l := range t.legs {
		if l.peer != nil {
			l.peer.close()
		}
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
	t.s.door.flights.Land(t.flying, t.s)
	t.dropLeads()
	for _, l := range t.legs {
		t.release(l)
	}
	t.s.door.clerk.Load().file(t, status)
	t.dropExam()
	if t.msg != nil && !t.tapped() {
		t.msg.close()
	}
	t.write(status, said)
	t.s.tx = nil
}

// release gives a leg's connection back to the session.
func (t *transaction) release(l *leg) {
	if l.lead != nil {
		l.lead.drop(t.s.keep)
		l.lead = nil
	}
	if p := t.detach(l); p != nil {
		t.giveBack(l, p)
	}
}

// detach takes the connection from a leg and accounts for it.
func (t *transaction) detach(l *leg) *peer {
	l.letsGo()
	p := l.peer
	if p == nil {
		return nil
	}
	l.abandon()
	l.hop, l.hopTLS = p.label, describeTLS(p.tls)
	t.rec.done(p)
	return p
}

// giveBack keeps a leg's connection for others, where it is as it was: a hop that
// counts errors on a connection, or has had enough of it, would hold against the
// next sender what this one did.
func (t *transaction) giveBack(l *leg, p *peer) {
	switch c := t.s.door.caller; {
	case t.s.own.holds(p):
	case t.plain || p.inClear:
		p.leave()
	case c.pools() && !l.delivered && p.used > 0:
		c.pool.retire(p)
	default:
		t.s.keep(p)
	}
	l.peer = nil
}
