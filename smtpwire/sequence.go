package smtpwire

// A Sequence is the receiving half of an SMTP or LMTP session: it says whether a
// command is in order where it stands, and refuses it if not. It knows no bytes,
// no socket and no time. Every command goes through Check, and what we said to
// one that passed through Answered, in the order of the commands:
//
//	for _, c := range flight {
//		if refusal, ok := s.Check(c); !ok { … }
//	}
//	…
//	s.Answered(c, reply)
//
// Several commands may be checked before the first of them is answered: those
// without an answer count as accepted, so that MAIL and its RCPTs can travel to
// the peer together. DATA and BDAT ask for more than hope, namely a recipient
// who was accepted. EHLO is best answered at once, since the parameters behind
// it are judged by what it offers.
//
// A refused BDAT is still followed by its octets, which the caller reads and
// drops. The zero value is an SMTP session that has just begun. A Sequence is not
// safe for concurrent use.
//
// https://www.rfc-editor.org/rfc/rfc5321#section-4.1.4
type Sequence struct {
	// LMTP says that the client is to say LHLO, and that DATA without a recipient
	// is answered as RFC 2033 wants it.
	LMTP bool

	// MaxRcpts is how many RCPTs one transaction may have, those without an answer
	// yet included. More are refused with 452 4.5.3; 0 means no limit.
	// https://www.rfc-editor.org/rfc/rfc5321#section-4.5.3.1.10
	MaxRcpts int

	// AuthInTLS says that AUTH is offered inside TLS, so that in clear it hears
	// what it lacks.
	AuthInTLS bool

	// Relayed are commands that are carried out though no EHLO may have offered
	// them, of those that keywords name: EXPN, ETRN. It is only read.
	Relayed []Verb

	offer   EHLO
	secured bool
	authed  bool // by AUTH; only TLS begins anew

	now   order // what our answers made of it
	ahead order // what it will be if all that passed is accepted

	pending int // passed and not answered, of the verbs that move the state
	turns   int // of these, the ones that begin or end a transaction

	// Since the last MAIL that passed:
	tried bool // a RCPT came, accepted or not
	hole  bool // Check refused a BDAT: its octets are missing from the message
}

// order is where a session stands.
type order struct {
	greeted bool
	mail    bool
	binary  bool // BODY=BINARYMIME
	utf8    bool // SMTPUTF8
	rcpts   int
	chunks  bool // a BDAT without LAST was accepted
	failed  bool // a BDAT without LAST was refused
	text    bool // DATA was answered 354
}

// Offered tells what our last reply to EHLO or LHLO offered: it licenses
// parameters, BDAT and STARTTLS. HELO offers nothing, which Answered sees to.
func (s *Sequence) Offered(e EHLO) { s.offer = e }

// Check reports whether c is in order. If not, refusal is the answer to it, and c
// counts for nothing but that a RCPT was tried or a chunk is missing. c.Refused
// comes before any judgement of Check.
func (s *Sequence) Check(c Command) (refusal Reply, ok bool) {
	refusal, ok = c.Refused, c.Refused.Code == 0
	if ok {
		refusal, ok = s.judge(c)
	}
	s.tried = s.tried || c.Verb == VerbRcpt
	s.hole = s.hole || c.Verb == VerbBdat && !ok
	if !ok {
		return refusal, false
	}
	if moves(c.Verb) {
		s.pending++
	}
	if turns(c.Verb) {
		s.turns++
	}
	if c.Verb == VerbMail {
		s.tried, s.hole = false, false
	}
	s.ahead.accept(c)
	return Reply{}, true
}

// Answered takes what we said to c, which had passed Check; a refusal of Check
// needs no Answered. To DATA that is 354 (or a refusal), and the final reply
// belongs to EndOfData, which needs no Check before. In LMTP one of the final
// replies is enough.
func (s *Sequence) Answered(c Command, r Reply) {
	s.authed = s.authed || c.Verb == VerbAuth && r.Code == 235
	switch {
	case r.Class() == 2, c.Verb == VerbData && r.Code == 354:
		if c.Verb == VerbHelo {
			s.offer = EHLO{}
		}
		s.now.accept(c)
	default:
		s.now.refuse(c)
	}
	if moves(c.Verb) && s.pending > 0 {
		s.pending--
	}
	if turns(c.Verb) && s.turns > 0 {
		s.turns--
	}
	if s.pending == 0 {
		s.ahead, s.turns = s.now, 0
	}
}

// Secured tells that TLS is up: everything that was said before is forgotten,
// the offer and the EHLO name among it, and STARTTLS is refused from now on.
// https://www.rfc-editor.org/rfc/rfc3207#section-4.2
func (s *Sequence) Secured() {
	*s = Sequence{LMTP: s.LMTP, MaxRcpts: s.MaxRcpts, AuthInTLS: s.AuthInTLS, Relayed: s.Relayed, secured: true}
}

// InMail reports whether a transaction is open: MAIL was accepted, and neither
// its end nor RSET or EHLO was.
func (s *Sequence) InMail() bool { return s.now.mail }

// Rcpts returns how many recipients the open transaction has.
func (s *Sequence) Rcpts() int { return s.now.rcpts }

// Greeted reports whether EHLO, LHLO or HELO was accepted.
func (s *Sequence) Greeted() bool { return s.now.greeted }

// Chunking reports whether the open transaction has begun with BDAT.
func (s *Sequence) Chunking() bool { return s.now.chunks }

// ChunkFits reports whether a BDAT will be in order as soon as one of the
// recipients that passed is accepted: only then may its text travel on with them,
// ahead of its own Check.
func (s *Sequence) ChunkFits() bool {
	_, ok := s.judgeChunk()
	return ok
}

// judge is Check without its bookkeeping.
func (s *Sequence) judge(c Command) (Reply, bool) {
	switch c.Verb {
	case VerbNoop, VerbHelp, VerbVrfy, VerbRset, VerbQuit:
		return Reply{}, true // at any time
	case VerbHelo, VerbEhlo, VerbLhlo:
		return s.judgeHello(c)
	case VerbMail:
		return s.judgeMail(c)
	case VerbRcpt:
		return s.judgeRcpt(c)
	case VerbData:
		return s.judgeData()
	case VerbBdat:
		return s.judgeBdat()
	case VerbEndOfData:
		if !s.now.text {
			return outOfOrder("DATA first")
		}
		return Reply{}, true
	case VerbStarttls:
		return s.judgeStarttls()
	case VerbAuth:
		return s.judgeAuth(c)
	}
	return s.judgeRelayed(c) // ETRN, EXPN, XCLIENT and XFORWARD
}

// judgeHello refuses the greeting of the other protocol.
// https://www.rfc-editor.org/rfc/rfc2033#section-4.1
func (s *Sequence) judgeHello(c Command) (Reply, bool) {
	switch {
	case s.LMTP && c.Verb != VerbLhlo:
		return NewReply(500, "5.5.1", "this is LMTP: say LHLO"), false
	case !s.LMTP && c.Verb == VerbLhlo:
		return NewReply(500, "5.5.1", "this is SMTP: say EHLO"), false
	}
	return Reply{}, true
}

func (s *Sequence) judgeMail(c Command) (Reply, bool) {
	switch {
	case !s.ahead.greeted:
		return s.helloFirst()
	case s.ahead.mail:
		return outOfOrder("MAIL was already given: finish or RSET first")
	}
	return Licensed(s.offer, c)
}

func (s *Sequence) judgeRcpt(c Command) (Reply, bool) {
	switch {
	case !s.ahead.greeted:
		return s.helloFirst()
	case !s.ahead.mail:
		return outOfOrder("MAIL first")
	case s.broken():
		return outOfOrder(afterRefusedChunk)
	case s.ahead.chunks:
		return outOfOrder("too late for RCPT: BDAT has begun")
	case s.MaxRcpts > 0 && s.ahead.rcpts >= s.MaxRcpts:
		return NewReply(452, "4.5.3", "too many recipients"), false
	}
	offer := s.offer
	if !s.ahead.utf8 {
		// MAIL decides for the whole transaction:
		// https://www.rfc-editor.org/rfc/rfc6531#section-3.4
		offer = offer.Without("SMTPUTF8")
	}
	return Licensed(offer, c)
}

// judgeData refuses DATA where BDAT has begun or the text is binary.
// https://www.rfc-editor.org/rfc/rfc3030#section-2,
// https://www.rfc-editor.org/rfc/rfc3030#section-3
func (s *Sequence) judgeData() (Reply, bool) {
	switch {
	case !s.ahead.greeted:
		return s.helloFirst()
	case !s.ahead.mail:
		return outOfOrder("MAIL first")
	case s.broken():
		return outOfOrder(afterRefusedChunk)
	case s.ahead.chunks:
		return outOfOrder("DATA cannot follow BDAT: RSET first")
	case s.ahead.binary:
		return outOfOrder("BODY=BINARYMIME needs BDAT")
	}
	return s.needRcpt()
}

func (s *Sequence) judgeBdat() (Reply, bool) {
	if refusal, ok := s.judgeChunk(); !ok {
		return refusal, false
	}
	return s.needRcpt()
}

// judgeChunk is judgeBdat but for the recipients.
func (s *Sequence) judgeChunk() (Reply, bool) {
	switch {
	case !s.ahead.greeted:
		return s.helloFirst()
	case !s.offer.Has("CHUNKING"):
		return outOfOrder("CHUNKING was not offered")
	case !s.ahead.mail:
		return outOfOrder("MAIL first")
	case s.broken():
		return outOfOrder(afterRefusedChunk)
	}
	return Reply{}, true
}

// judgeStarttls refuses to secure what is secured, or half of a transaction.
// https://www.rfc-editor.org/rfc/rfc3207#section-4
func (s *Sequence) judgeStarttls() (Reply, bool) {
	switch {
	case s.secured:
		return outOfOrder("TLS is already active")
	case !s.offer.Has("STARTTLS"):
		return NewReply(502, "5.5.1", "STARTTLS was not offered"), false
	case s.ahead.mail:
		return outOfOrder("STARTTLS cannot stand inside a mail transaction")
	}
	return Reply{}, true
}

const afterRefusedChunk = "an earlier BDAT was refused: RSET first"

// broken reports whether octets of the message are missing, because a chunk was
// refused. Until RSET nothing can be added to such a message.
// https://www.rfc-editor.org/rfc/rfc3030#section-2
func (s *Sequence) broken() bool { return s.ahead.failed || s.hole }

// needRcpt asks for a recipient who was accepted, in the transaction that the
// command belongs to: while a MAIL or RSET waits for its answer, what s.now
// counts belongs to the one before.
//
// Where all were refused SMTP says 554, as the example in RFC 2920 section 3.1
// does; LMTP always 503: https://www.rfc-editor.org/rfc/rfc2033#section-4.2.
func (s *Sequence) needRcpt() (Reply, bool) {
	switch {
	case s.turns == 0 && s.now.rcpts > 0:
		return Reply{}, true
	case s.tried && s.pending == 0 && !s.LMTP:
		return NewReply(554, "5.5.1", "no valid recipients"), false
	}
	return outOfOrder("valid RCPT must precede")
}

func (s *Sequence) helloFirst() (Reply, bool) {
	if s.LMTP {
		return outOfOrder("LHLO first")
	}
	return outOfOrder("EHLO first")
}

func outOfOrder(text string) (Reply, bool) { return NewReply(503, "5.5.1", text), false }

// accept moves o as the acceptance of c does.
func (o *order) accept(c Command) {
	switch c.Verb {
	case VerbHelo, VerbEhlo, VerbLhlo:
		*o = order{greeted: true}
	case VerbMail:
		body, _ := c.Params.Get("BODY")
		_, utf8 := c.Params.Get("SMTPUTF8")
		*o = order{greeted: o.greeted, mail: true, binary: foldEqual(body, "BINARYMIME"), utf8: utf8}
	case VerbRcpt:
		if o.mail {
			o.rcpts++
		}
	case VerbBdat:
		o.chunks = o.mail
		if c.Last {
			o.reset()
		}
	case VerbData:
		o.text = o.mail
	case VerbEndOfData, VerbRset:
		o.reset()
	}
}

// refuse moves o as the refusal of c does. The message is over whatever its final
// reply; a chunk that is missing spoils the rest of it.
func (o *order) refuse(c Command) {
	switch {
	case c.Verb == VerbEndOfData, c.Verb == VerbBdat && c.Last:
		o.reset()
	case c.Verb == VerbBdat:
		o.failed = o.mail
	}
}

// reset ends the transaction.
func (o *order) reset() { *o = order{greeted: o.greeted} }

// moves reports whether an answer to v changes where the session stands.
func moves(v Verb) bool {
	switch v {
	case VerbRcpt, VerbData, VerbBdat:
		return true
	}
	return turns(v)
}

// turns reports whether v begins or ends a transaction without being a part of
// its message.
func turns(v Verb) bool {
	switch v {
	case VerbHelo, VerbEhlo, VerbLhlo, VerbMail, VerbRset:
		return true
	}
	return false
}
