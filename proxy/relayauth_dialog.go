package proxy

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"go.uber.org/zap"

	"slipstream/smtpwire"
)

// Bounds of one login, and of all in a session.
const (
	// maxLoginRounds is how many challenges there may be. SCRAM has two, and none
	// that we pass on more than three.
	maxLoginRounds = 10
	// maxLoginOctets bounds all lines of one login, of both sides.
	maxLoginOctets = 64 << 10
	// loginWait bounds the whole of it. Programs answer at once.
	loginWait = 2 * time.Minute
	// maxLoginFailures is how many logins may fail before the session ends.
	//
	// "they SHOULD NOT drop the connection until at least 3 attempts to
	// authenticate have failed":
	// https://www.rfc-editor.org/rfc/rfc4954#section-9
	maxLoginFailures = 5
)

const duringLogin = "waiting for the answer to a login"

// What became of a login, for log and metrics.
const (
	loginAccepted  = "accepted"
	loginRefused   = "refused"   // by the backend, for good
	loginFailed    = "failed"    // the backend could not say
	loginCancelled = "cancelled" // the client broke it off, or did not keep to the rules
)

// A loginEnd is the end of a login: what the client hears, and what it comes to.
type loginEnd struct {
	result string
	reply  smtpwire.Reply
	leave  bool  // the session is over behind the reply
	gone   error // why the client cannot be spoken to; there is no reply then
}

// login passes an AUTH dialog on, between the client and its own connection to the
// backend. It is opaque: lines cross as they are, nobody looks into them, they are
// neither kept nor logged, and who it was that logged in stays unknown here.
func (s *session) login(ctx context.Context, c smtpwire.Command) {
	end := s.dialog(ctx, c)
	s.door.metrics.login(s.door.name, end.result)
	if end.gone != nil {
		s.dropLogin()
		s.farewell(end.gone)
		return
	}
	s.seq.Answered(c, end.reply)
	s.say(end.reply)
	enhanced, _ := end.reply.Enhanced()
	s.log.Info("login passed to the backend", zap.String("mechanism", c.Arg), zap.String("result", end.result),
		zap.Int("code", end.reply.Code), zap.String("dsn", enhanced))
	if end.result == loginAccepted {
		s.own.mechanism = c.Arg
		return
	}
	s.own.failures++
	switch {
	case end.leave:
		s.over = true
	case s.own.failures >= maxLoginFailures:
		s.say(smtpwire.NewReply(421, "4.7.0", s.door.hostname+" closing: too many logins failed"))
		s.log.Info("session ended by us: too many logins failed", zap.Int("failed", s.own.failures))
		s.over = true
	}
}

// dropLogin gives up a connection that may be in the middle of a login: there is
// no QUIT there.
func (s *session) dropLogin() {
	if s.own.peer != nil && !s.own.loggedIn() {
		s.own.peer.close()
		s.own.peer = nil
	}
}

// dialog is login up to its end.
func (s *session) dialog(ctx context.Context, c smtpwire.Command) loginEnd {
	if c.Initial == nil && s.glued() {
		return s.unsynchronised()
	}
	end := time.Now().Add(loginWait)
	p, err := s.ownConnection(ctx)
	if err == nil {
		err = p.takesLogin(c.Arg)
	}
	if err != nil {
		return s.loginFailure(err)
	}
	line := c.AppendTo(make([]byte, 0, len("AUTH  \r\n")+len(c.Arg)+len(c.Initial)))
	octets, cancelled := 0, false
	for round := 0; ; round++ {
		octets += len(line)
		challenge, reply, err := p.login(line, end)
		clear(line)
		switch octets += len(challenge); {
		case err != nil:
			return s.loginFailure(err)
		case challenge == nil:
			return s.loginAnswered(reply, cancelled)
		case cancelled:
			return s.loginFailure(errors.New("the backend went on with a login that was cancelled"))
		case round == maxLoginRounds || octets > maxLoginOctets:
			clear(challenge)
			return s.loginFailure(errors.New("the backend does not come to an end with a login"))
		case s.glued():
			// What is here was sent before the challenge, so it is no answer to it.
			clear(challenge)
			return s.unsynchronised()
		}
		var broken *loginEnd
		if line, broken = s.respond(challenge, end); broken != nil {
			return *broken
		}
		cancelled = string(line) == "*\r\n"
	}
}

// respond shows the client a challenge and takes its answer, CRLF included.
func (s *session) respond(challenge []byte, end time.Time) (line []byte, broken *loginEnd) {
	s.out = append(s.out, challenge...)
	clear(challenge)
	err := s.flush()
	clear(s.out[:cap(s.out)])
	if err != nil {
		return nil, &loginEnd{result: loginCancelled, gone: err}
	}
	s.wire.waitUntil("the answer to a challenge", s.times.ClientCommand, end)
	line, refused, err := s.r.ReadResponse()
	switch {
	case err != nil:
		return nil, &loginEnd{result: loginCancelled, gone: err}
	case refused.Code != 0:
		s.dropLogin()
		return nil, &loginEnd{result: loginCancelled, reply: refused}
	case s.glued():
		// The backend must not hear of it: this may not be the last challenge.
		clear(line)
		broken := s.unsynchronised()
		return nil, &broken
	}
	s.spoke = time.Now()
	return append(line, '\r', '\n'), nil // it came with them: there is room
}

// glued tells whether the client has gone on without waiting. Of a login that may
// take several steps nothing may follow behind a line, and what does is neither a
// response nor a command: it may be a secret.
// https://www.rfc-editor.org/rfc/rfc4954#section-4
func (s *session) glued() bool {
	s.glance()
	return s.r.Buffered() != 0
}

// unsynchronised ends the session of a client that did not wait for a challenge.
func (s *session) unsynchronised() loginEnd {
	s.r.Discard()
	s.dropLogin()
	s.log.Warn("client did not wait within a login: connection closed")
	refused := smtpwire.NewReply(554, "5.5.0", "nothing may follow before a login has been answered")
	return loginEnd{result: loginCancelled, reply: refused, leave: true}
}

// loginFailure is the end of a login that the backend did not answer.
// https://www.rfc-editor.org/rfc/rfc4954#section-6
func (s *session) loginFailure(err error) loginEnd {
	s.dropLogin()
	s.log.Warn("a login could not be passed to the backend", zap.Error(err))
	said := composed(454, "4.7.0", "the mail system cannot check a login now, please try again later (S="+s.id+")")
	return loginEnd{result: loginFailed, reply: said}
}

// loginAnswered is the end of a login that the backend answered.
func (s *session) loginAnswered(r smtpwire.Reply, cancelled bool) loginEnd {
	switch {
	case r.Class() < 4 && (r.Code != 235 || cancelled):
		return s.loginFailure(fmt.Errorf("the answer %d to a login makes no sense", r.Code))
	case r.Code == 421:
		s.dropLogin()
	}
	end := loginEnd{result: loginFailed, reply: shortened(r.WithEnhanced()), leave: r.Code == 421}
	switch {
	case r.Code == 235:
		end.result = loginAccepted
	case cancelled:
		end.result = loginCancelled
	case r.Class() == 5:
		end.result = loginRefused
	}
	return end
}

// takesLogin tells what is in the way of a login on a connection.
func (p *peer) takesLogin(mechanism string) error {
	if !p.private() {
		return &policyError{hop: p.label, why: "passwords do not go in clear to another machine"}
	}
	offered, _ := p.pipe.EHLO().Get("AUTH")
	if !slices.Contains(passable(offered), mechanism) {
		return &policyError{hop: p.label, why: "AUTH " + mechanism + " is not offered any more"}
	}
	return nil
}

// login says one line of a login and reads what comes next: a challenge, or the
// end. No error quotes any of it.
func (p *peer) login(line []byte, end time.Time) (challenge []byte, reply smtpwire.Reply, err error) {
	p.wire.waitUntil(duringLogin, p.times.PeerCommand, end)
	if _, err = p.rw.Write(line); err == nil {
		challenge, reply, err = p.r.ReadChallenge()
	}
	var malformed *smtpwire.ReplyError
	switch {
	case errors.As(err, &malformed):
		err = errors.New("malformed reply: " + malformed.What)
	case err == nil && p.r.Buffered() != 0:
		err = errSurplus
	}
	if err != nil {
		clear(challenge)
		return nil, smtpwire.Reply{}, p.fail(duringLogin, err)
	}
	if p.tls != nil {
		p.heardFrom()
	}
	return challenge, reply, nil
}
