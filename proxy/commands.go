package proxy

import (
	"context"
	"crypto/tls"

	"go.uber.org/zap"

	"slipstream/smtpwire"
)

// command answers everything but MAIL and RCPT.
func (s *session) command(ctx context.Context, c smtpwire.Command) {
	defer clear(c.Initial) // it may be a password
	if c.Verb == smtpwire.VerbBdat {
		s.bdat(ctx, c)
		return
	}
	if refused, ok := s.seq.Check(c); !ok {
		if c.Verb == smtpwire.VerbData && s.tx != nil {
			s.tx.unsend()
		}
		s.refuse(c, refused)
		if c.Verb == "" && !s.seq.Greeted() {
			s.wrongProtocol()
		}
		return
	}
	switch c.Verb {
	case smtpwire.VerbEhlo, smtpwire.VerbLhlo, smtpwire.VerbHelo:
		s.hello(c)
	case smtpwire.VerbStarttls:
		s.startTLS(ctx, c)
	case smtpwire.VerbData:
		s.data(ctx, c)
	case smtpwire.VerbQuit:
		s.awaitHeard(quitWait)
		s.reply(c, smtpwire.NewReply(221, "2.0.0", s.door.hostname+" bye"))
		s.over, s.polite = true, true
	case smtpwire.VerbAuth:
		s.login(ctx, c)
	default:
		if s.passesOn(c) {
			s.passOn(ctx, c)
			return
		}
		s.small(c)
	}
}

// wrongProtocol ends a session that begins with no command of SMTP: a browser
// that was talked into sending mail (POST, with commands for a body), a PROXY
// header from where none is believed. Nothing behind that is obeyed.
func (s *session) wrongProtocol() {
	s.say(smtpwire.NewReply(421, "4.7.0", s.door.hostname+" closing: this is SMTP, please greet first"))
	s.log.Info("session ended by us: it did not begin with SMTP")
	s.over = true
}

// small answers the commands that change little.
func (s *session) small(c smtpwire.Command) {
	switch c.Verb {
	case smtpwire.VerbRset:
		if s.tx != nil {
			s.tx.abort("the client said RSET")
		}
		s.mailed = false
		s.reply(c, smtpwire.NewReply(250, "2.0.0", "reset"))
	case smtpwire.VerbNoop:
		s.reply(c, smtpwire.NewReply(250, "2.0.0", "ok"))
	case smtpwire.VerbVrfy:
		// RFC 5321 §7.3: 252 where a site does not say.
		s.reply(c, smtpwire.NewReply(252, "2.5.2", "send some mail, it will be tried"))
	case smtpwire.VerbHelp:
		s.reply(c, smtpwire.NewReply(214, "2.0.0", "see RFC 5321"))
	case smtpwire.VerbExpn, smtpwire.VerbEtrn:
		s.reply(c, s.notNow(c))
	default:
		s.refuse(c, smtpwire.NewReply(502, "5.5.1", "command not implemented: "+string(c.Verb)))
	}
}

func (s *session) reply(c smtpwire.Command, r smtpwire.Reply) {
	s.seq.Answered(c, r)
	s.say(r)
}

// hello answers EHLO, LHLO and HELO at once, from what we can do and what is
// known of the next hop. A transaction that was open is over (RFC 5321 §4.1.4).
func (s *session) hello(c smtpwire.Command) {
	if refused, yes := s.comesBack(); yes {
		s.reply(c, refused)
		s.over = true
		return
	}
	if s.tx != nil {
		s.tx.abort("the client greeted again")
	}
	s.mailed = false
	s.client.helo, s.client.esmtp = c.Arg, c.Verb != smtpwire.VerbHelo
	o := &offer{ours: smtpwire.NewEHLO(s.hostname())}
	licence := o.ours
	if s.client.esmtp {
		o = s.door.offer(s.client.addr.Addr(), s.client.tls != nil)
		s.client.early = s.client.early || s.behind
		if licence = o.ours; s.client.early {
			licence = o.ever
		}
	}
	s.seq.Offered(licence)
	s.reply(c, s.named(o.ours).Reply())
}

// startTLS secures the connection. Whatever the client sent behind the command
// was sent in clear and is dropped: a command in there must never be taken for
// one from inside TLS (CVE-2011-0411).
func (s *session) startTLS(ctx context.Context, c smtpwire.Command) {
	if s.r.Buffered() != 0 {
		s.r.Discard()
		s.refuse(c, smtpwire.NewReply(554, "5.5.0", "nothing may follow STARTTLS before TLS is up"))
		s.log.Warn("client glued commands to STARTTLS: connection closed")
		s.over = true
		return
	}
	s.reply(c, smtpwire.NewReply(220, "2.0.0", "go ahead"))
	if s.flush() != nil || !s.secure(ctx) {
		s.over = true
		return
	}
	s.seq.Secured()
	s.client.helo = ""
}

// secure negotiates TLS as the server.
func (s *session) secure(ctx context.Context) bool {
	s.wire.wait("the TLS handshake", s.times.TLSHandshake)
	below, conf, admission := s.door.handshake(s.wire, s.client.addr.Addr(), s.client.helo)
	s.client.admission = admission
	conn := tls.Server(below, conf)
	if err := admission.secured(conn.HandshakeContext(ctx)); err != nil {
		s.log.Info("TLS handshake with the client failed", zap.Error(err))
		s.door.metrics.handshakeFailed(s.door.name)
		return false
	}
	state := conn.ConnectionState()
	s.client.tls, s.rw = &state, conn
	s.r.Reset(conn)
	s.door.metrics.resumed(s.door.name, legClient, s.client.resumption())
	return true
}
