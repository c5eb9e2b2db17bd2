package proxy

import (
	"context"
	"crypto/sha256"
	"errors"
	"io"
	"slices"
	"time"

	"go.uber.org/zap"

	"slipstream/smtpwire"
)

// data takes a message by DATA: all of it into the spool, then to the hops. A
// hop never waits for a slow client, and never sees half a message.
func (s *session) data(ctx context.Context, c smtpwire.Command) {
	if len(s.tx.legs) == 1 && !s.door.lmtp {
		l := s.tx.legs[0]
		if refused, no := l.noText(); no {
			refused = s.tx.worded(l, refused)
			if !s.door.inbound && s.tx.told452 && refused.Class() == 5 { // see another
				refused = composed(451, "4.3.0", "please send it again on its own; the next hop said: "+brief(refused).String())
			}
			s.reply(c, refused)
			s.over = refused.Code == 421
			return
		}
	}
	s.reply(c, smtpwire.NewReply(354, "", "end with a dot on a line of its own"))
	if s.flush() != nil {
		return
	}
	m := s.tx.message(ctx)
	err := s.take(func(w io.Writer) error { return s.r.ReadData(w, &m.scan) }, m)
	err = s.tx.examined(ctx, err)
	s.seq.Answered(smtpwire.Command{Verb: smtpwire.VerbEndOfData}, s.arrived(ctx, m, err, true))
}

// bdat takes a chunk. Its octets follow the command whatever we think of it, so
// they are read in any case (RFC 3030 §2).
// https://www.rfc-editor.org/rfc/rfc3030#section-2
func (s *session) bdat(ctx context.Context, c smtpwire.Command) {
	if c.Refused.Code != 0 {
		// How many octets follow is unknown: they must not become commands.
		s.refuse(c, c.Refused)
		s.over = true
		return
	}
	refused, ok := s.seq.Check(c)
	if s.ahead != nil {
		s.bdatAhead(ctx, c, refused, ok)
		return
	}
	s.catchUp(c.Size)
	if !ok {
		var scan smtpwire.BodyScan
		err := s.take(func(w io.Writer) error { return s.r.ReadChunk(w, c.Size, &scan) }, nil)
		s.refuse(c, refused)
		if brokenBy(err) {
			s.lost(err)
		}
		return
	}
	m := s.tx.message(ctx)
	err := s.take(func(w io.Writer) error { return s.r.ReadChunk(w, c.Size, &m.scan) }, m)
	if err == nil && c.Last {
		err = m.scan.End()
	}
	if err == nil && !c.Last {
		s.reply(c, smtpwire.NewReply(250, "2.0.0", "chunk received"))
		return
	}
	err = s.tx.examined(ctx, err)
	s.seq.Answered(c, s.arrived(ctx, m, err, c.Last))
}

// A chunkAhead is a BDAT LAST whose octets were read before its envelope was
// asked, so that all of it can travel on in one flight.
type chunkAhead struct{ err error }

// maxAhead bounds the text that is read ahead: what fits into one flight.
const maxAhead = 64 << 10

// takeAhead reads the text of a BDAT LAST that the client sent behind its
// envelope without waiting. Its octets are on their way whatever we answer.
func (s *session) takeAhead(ctx context.Context, next smtpwire.Command) {
	if next.Verb != smtpwire.VerbBdat || next.Refused.Code != 0 || !next.Last || next.Size > maxAhead ||
		!s.seq.ChunkFits() || s.door.lmtp || s.seq.Chunking() || s.tx.msg != nil || len(s.tx.late) > 0 {
		return
	}
	s.catchUp(next.Size)
	m := s.tx.message(ctx)
	err := s.take(func(w io.Writer) error { return s.r.ReadChunk(w, next.Size, &m.scan) }, m)
	if err == nil {
		err = m.scan.End()
	}
	if s.tx.exam != nil {
		_ = s.flush() // what was answered before must not wait for the verdict; errors are kept
	}
	s.ahead = &chunkAhead{err: s.tx.examined(ctx, err)}
}

// bdatAhead answers the BDAT whose octets are here already. Its transaction may
// be over by now: a refused MAIL ends it.
func (s *session) bdatAhead(ctx context.Context, c smtpwire.Command, refused smtpwire.Reply, ok bool) {
	err := s.ahead.err
	s.ahead = nil
	switch {
	case !ok && brokenBy(err):
		s.lost(err)
	case !ok:
		if s.tx != nil {
			s.tx.dropText()
		}
		s.refuse(c, refused)
	default:
		s.seq.Answered(c, s.arrived(ctx, s.tx.msg, err, true))
	}
}

// follows tells whether a command means that the text comes next.
func follows(next smtpwire.Command) bool {
	return next.Refused.Code == 0 && (next.Verb == smtpwire.VerbData || next.Verb == smtpwire.VerbBdat)
}

// dropText forgets a text that no recipient was accepted for.
func (t *transaction) dropText() {
	t.dropExam()
	t.rec.judged = nil
	t.msg.close()
	t.msg = nil
	for _, l := range t.legs {
		l.sent = false
		if !l.outcome.inDoubt {
			l.outcome = outcome{}
		}
		l.abandon()
	}
}

// take reads a body or a chunk into the message, or into nothing. A text that is
// not wanted is read to its end all the same, so that the session stays in step,
// but only as far as its bounds go.
func (s *session) take(read func(io.Writer) error, m *message) error {
	var w io.Writer = io.Discard
	end := time.Now().Add(s.times.ClientMessage)
	if m != nil {
		w, end = m, s.tx.textEnd()
	}
	s.wire.waitEach("the message text", s.times.ClientData, end, overshoot*int64(s.door.limits.MaxMessageSize)+lingerOctets)
	defer s.wire.waitPlain()
	return read(w)
}

// overshoot is how many times the largest message we read of one text before we
// cut a client off that does not end.
const overshoot = 2

// textEnd is when the text must be here, over all its chunks.
func (t *transaction) textEnd() time.Time { return t.rec.textAt.Add(t.s.times.ClientMessage) }

// message opens the body of the transaction at the first octet.
func (t *transaction) message(ctx context.Context) *message {
	if t.msg == nil {
		limits := t.s.door.limits
		t.rec.textAt = time.Now()
		t.beginExam(ctx)
		t.msg = &message{
			prefix: t.prefix,
			body:   t.s.door.spools.open(),
			exam:   t.exam,
			head:   headScan{maxSize: int64(limits.MaxHeaderSize), maxReceived: limits.MaxReceived},
		}
		t.msg.body.limit = int64(limits.MaxMessageSize)
		t.msg.trace.wanted = t.s.door.lmtp && t.s.door.pace == PaceAuto
		if t.s.door.once != nil {
			t.msg.sum = sha256.New()
		}
	}
	return t.msg
}

// brokenBy tells whether an error of taking text means that the client's
// connection is of no use any more, rather than that the text is not wanted.
func brokenBy(err error) bool {
	if err == nil {
		return false
	}
	var body *smtpwire.BodyError
	var write *smtpwire.WriteError
	var rejected *rejection
	return !errors.As(err, &body) && !errors.As(err, &write) && !errors.As(err, &rejected)
}

// lost ends a session whose connection broke.
func (s *session) lost(err error) {
	s.over = true
	var wait *waitError
	if errors.As(err, &wait) || errors.Is(err, errCut) || errors.Is(err, errTooMuch) {
		s.farewell(err)
		return
	}
	s.errs = err
}

// arrived decides on a message that is here to its end, or on a chunk that is
// not wanted, and says so. It returns the reply (with LMTP: the last one).
func (s *session) arrived(ctx context.Context, m *message, err error, last bool) smtpwire.Reply {
	t := s.tx
	t.rec.commitAt = time.Now()
	if err != nil {
		if brokenBy(err) {
			t.abort("in the middle of the message: " + err.Error())
			s.lost(err)
			return smtpwire.NewReply(451, "4.4.2", "connection lost")
		}
		refused, ok := bodyRefusal(err, m)
		if !ok {
			refused = refusal(err, s.door.inbound, t.id)
		}
		s.log.Info("message refused", zap.String("tx", t.id), zap.Error(err))
		var body *smtpwire.BodyError
		if errors.As(err, &body) {
			s.door.metrics.smuggled(s.door.name, body)
		}
		if !last {
			s.say(refused)
			t.finish(refusedStatus(refused), refused)
			return refused
		}
		return s.finals(refused)
	}
	_ = s.flush() // what was answered before must not wait for the verdict; errors are kept
	t.commit(ctx, m)
	return s.verdict()
}

// finals says one refusal for the whole message: once, or with LMTP once for
// each accepted recipient (RFC 2033 §4.2).
func (s *session) finals(refused smtpwire.Reply) smtpwire.Reply {
	for _, rc := range s.tx.rcpts {
		if rc.accepted() {
			rc.final = refused
		}
	}
	return s.verdict()
}

// commit sends the message on every leg that has somebody to receive it, side
// by side, and gives every recipient its final reply.
func (t *transaction) commit(ctx context.Context, m *message) {
	end := time.Now().Add(t.s.times.DataDone)
	t.recall(m)
	t.askLate(ctx, m, end)
	var busy []*leg
	for _, l := range t.legs {
		if len(l.accepted) > 0 && !l.done {
			busy = append(busy, l)
		}
	}
	if err := t.unwritable(busy); err != nil {
		for _, l := range busy {
			l.err = err
			t.commitLeg(ctx, l, m, end)
		}
		return
	}
	t.sideBySide(len(busy), func(i int) {
		defer busy[i].survive()
		t.commitLeg(ctx, busy[i], m, end)
	})
}

// commitLeg sends the message on one leg. P1: what a recipient hears is what
// the hop said, or a 4xx.
func (t *transaction) commitLeg(ctx context.Context, l *leg, m *message, end time.Time) {
	if l.err == nil || l.sent {
		l.commit(ctx, m, end)
	} else {
		l.outcome = outcome{err: l.err}
	}
	defer t.finished(l)
	for i, rc := range l.accepted {
		switch {
		case i < len(l.outcome.replies):
			rc.final = t.worded(l, l.outcome.replies[i])
		case l.outcome.inDoubt:
			// P2: it may have been taken. The client tries again, we do not.
			rc.final = t.failed(&doubtError{l.outcome.err})
		default:
			rc.final = t.failed(l.outcome.err)
		}
	}
}

// finished lets go of a leg whose recipients have heard all there is to hear from
// its hop, so that whoever waits for the connection need not wait for other hops.
func (t *transaction) finished(l *leg) {
	l.delivered = slices.ContainsFunc(l.outcome.replies, func(r smtpwire.Reply) bool { return r.Class() == 2 })
	t.s.mu.Lock() // legs are committed side by side
	l.done = true
	p := t.detach(l)
	t.s.mu.Unlock()
	if p != nil {
		t.giveBack(l, p)
	}
}

// verdict says the final replies and closes the transaction.
func (s *session) verdict() smtpwire.Reply {
	var last smtpwire.Reply
	var finals []smtpwire.Reply
	t := s.tx
	if s.door.lmtp {
		t.told()
	}
	for _, rc := range t.rcpts {
		if !rc.accepted() {
			continue
		}
		if rc.final.Code == 0 {
			rc.final = t.failed(errBroke) // never silence: the replies behind it would shift
		}
		last = rc.final
		finals = append(finals, last)
	}
	if s.door.lmtp {
		s.sayEach(finals)
	} else {
		last = s.conclude(finals)
		t.told()
		_ = s.flush() // the sender is free now; errors are kept
	}
	s.said()
	if last.Code == 421 {
		s.over = true
	}
	t.finish(t.status(), last)
	if !s.over && s.count >= s.door.limits.MaxTransactions {
		// Said now, it makes the client open another connection. As the answer to its next MAIL it would put that off.
		s.say(s.enough())
		s.over = true
	}
	return last
}

// enough ends a connection that has carried as many messages as it may.
func (s *session) enough() smtpwire.Reply {
	return smtpwire.NewReply(421, "4.7.0", s.door.hostname+" closing: enough messages on one connection, please open another")
}

// unsend lets go of hops that wait for a text which the client may not send.
func (t *transaction) unsend() {
	for _, l := range t.legs {
		l.abandon()
	}
}
