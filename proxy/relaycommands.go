package proxy

import (
	"context"
	"errors"
	"fmt"
	"slices"

	"go.uber.org/zap"

	"slipstream/smtpwire"
)

// maxPassedOn bounds the commands of one session that the backend is asked to
// answer. Beyond it they are answered as if they were not passed on.
const maxPassedOn = 100

// passesOn tells whether a command is the backend's to answer: one that the
// configuration names, outside of a transaction, whose connection it would have to
// share.
func (s *session) passesOn(c smtpwire.Command) bool {
	return slices.Contains(s.door.relays.verbs, c.Verb) && s.seq.Greeted() && s.tx == nil && s.own.passed < maxPassedOn
}

// passOn has the backend answer VRFY, EXPN or ETRN, on the session's own
// connection, and repeats its words.
// https://www.rfc-editor.org/rfc/rfc5321#section-3.5
// https://www.rfc-editor.org/rfc/rfc1985#section-5
func (s *session) passOn(ctx context.Context, c smtpwire.Command) {
	s.own.passed++
	said, err := s.askBackend(ctx, c)
	if err != nil {
		s.log.Warn("a command could not be passed to the backend", zap.String("command", string(c.Verb)), zap.Error(err))
		if s.own.lost() {
			s.reply(c, s.loginLost())
			s.over = true
			return
		}
		said = refusal(err, true, s.id)
	}
	s.door.metrics.passedOn(s.door.name, c.Verb, said)
	s.log.Info("command passed to the backend", zap.String("command", string(c.Verb)), zap.Int("code", said.Code))
	s.reply(c, said)
	s.over = s.over || said.Code == 421
}

// askBackend says one command on the session's own connection.
func (s *session) askBackend(ctx context.Context, c smtpwire.Command) (smtpwire.Reply, error) {
	p, err := s.ownConnection(ctx)
	if err != nil {
		return smtpwire.Reply{}, err
	}
	if !isASCII(c.Arg) && !p.has("SMTPUTF8") {
		// https://www.rfc-editor.org/rfc/rfc6531#section-3.7.4.2
		return composed(553, "5.6.7", "this address needs SMTPUTF8, which the mail system does not offer"), nil
	}
	r, err := p.one(fmt.Sprintf("waiting for the answer to %s", c.Verb), s.times.PeerCommand, c)
	if err == nil && r.Class() < 2 {
		err = errors.New("that is no answer")
	}
	if err != nil || r.Code == 421 {
		p.close()
	}
	return r.WithEnhanced(), err
}

// notNow answers EXPN and ETRN where they are not passed on though they may be.
func (s *session) notNow(c smtpwire.Command) smtpwire.Reply {
	if s.tx != nil {
		return smtpwire.NewReply(503, "5.5.1", string(c.Verb)+" cannot stand inside a mail transaction")
	}
	return smtpwire.NewReply(450, "4.7.0", "too many of these: please open another connection")
}

// isASCII tells whether a text has no other characters.
func isASCII(s string) bool {
	return !slices.ContainsFunc([]byte(s), func(c byte) bool { return c >= 0x80 })
}
