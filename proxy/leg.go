package proxy

import (
	"context"
	"errors"
	"strings"
	"time"

	"go.uber.org/zap"

	"slipstream/proxy/route"
	"slipstream/smtpwire"
)

// A leg is the part of a transaction that goes over one route: a peer and the
// recipients that it was asked about.
type leg struct {
	tx       *transaction
	route    route.Route
	peer     *peer
	begun    bool           // a hop was found: it is the peer, and mail is its answer
	mail     smtpwire.Reply // the hop's answer to MAIL
	gone     bool           // an answer of this hop has left for the client: no other hop may contradict it
	accepted []*recipient   // the recipients it accepted, in order
	ready    bool           // it was asked DATA with the envelope and answered 354
	dataSaid smtpwire.Reply // its answer to that DATA; zero: not asked
	err      error          // why there is no hop: every recipient hears it
	sent     bool           // the text left with the envelope: outcome is known
	outcome  outcome
}

// An envelope is one group of commands for a leg: MAIL the first time, and
// recipients.
type envelope struct {
	rcpts []smtpwire.Command
	data  bool     // the client's DATA follows in the same flight, or BDAT
	text  *message // the client's BDAT LAST followed in the same flight, and here is its text; else nil
	// mailed and answered hand the replies on as they come. They return true
	// when the reply has left for the client already, so that it can't be taken
	// back. mailed is nil where MAIL was answered before.
	mailed   func(r smtpwire.Reply) (gone bool)
	answered func(i int, r smtpwire.Reply) (gone bool)
	// forget takes back the answers of a hop that did not see the envelope
	// through. It returns false, and takes nothing back, when one has left for the
	// client meanwhile.
	forget func() bool
	// release sends the client what is answered so far. It returns true when an
	// answer has left.
	release func() (gone bool)
}

// ask says the envelope to the hop, finding one first if there is none yet.
// Every recipient is answered through e.answered, or the error stands for those
// that were not.
func (l *leg) ask(ctx context.Context, e envelope) error {
	switch {
	case l.err != nil:
	case l.begun:
		l.err = l.more(e)
	default:
		l.err = l.begin(ctx, e)
	}
	if l.err == nil && l.mail.Class() >= 4 && !l.tx.s.door.inbound {
		// The sender was refused: that is what there is to say to every recipient.
		l.err = &refusalError{reply: l.tx.worded(l, l.mail)}
	}
	return l.err
}

// more asks about further recipients on the connection in use.
func (l *leg) more(e envelope) error {
	if l.peer.broken {
		return &peerError{hop: l.peer.label, during: duringEnvelope, err: errors.New("the connection was lost before")}
	}
	l.peer.end = time.Now().Add(l.tx.s.times.Setup)
	defer func() { l.peer.end = time.Time{} }()
	return l.speak(l.peer, e, false)
}

// begin tries the connection kept from before, then every address of the route,
// until one takes part in the conversation. Nothing of the message has been
// said until then, so trying again cannot double anything (P2).
func (l *leg) begin(ctx context.Context, e envelope) error {
	setup := l.tx.s.times.Setup
	ctx, cancel := context.WithTimeoutCause(ctx, setup, &waitError{what: "the next hop", limit: setup})
	defer cancel()
	if p := l.tx.s.keptPeer(l.key()); p != nil {
		// Half of the time: where it fell silent, a new connection must have some left.
		half, cancel := context.WithTimeout(ctx, setup/2)
		done, err := l.try(half, p, e)
		cancel()
		if done {
			return err
		}
	}
	var last error
	for p, err := range l.tx.s.door.caller.peers(ctx, l.route, l.tx.identity()) {
		done := false
		if err == nil {
			done, err = l.try(ctx, p, e)
		} else {
			l.tx.note(err)
		}
		if done {
			return err
		}
		if ctx.Err() == nil || last == nil || !errors.Is(err, context.Cause(ctx)) { // what a hop said tells more
			last = err
		}
	}
	switch {
	case ctx.Err() != nil:
		return errors.Join(context.Cause(ctx), last)
	case last == nil:
		return &peerError{hop: l.route.Key, during: duringConnect, err: errors.New("there is no address to connect to")}
	}
	return last
}

// key tells which transactions of a session may share a connection: same
// route, and same client as the backend was told.
func (l *leg) key() string { return l.route.Key + "\x00" + l.tx.announced() }

// try says MAIL and the recipients to a peer. done is false when the hop gave
// no answer that counts and another may be tried.
func (l *leg) try(ctx context.Context, p *peer, e envelope) (done bool, err error) {
	if end, ok := ctx.Deadline(); ok {
		p.end = end
	}
	p.key, l.peer = l.key(), p
	l.tx.s.door.learn(p.pipe.EHLO())
	l.mail, l.accepted, l.dataSaid, l.ready = smtpwire.Reply{}, nil, smtpwire.Reply{}, false
	err = l.speak(p, e, true)
	p.end = time.Time{}
	if l.gone || l.sent && !l.outcome.refused() || err == nil && !l.elsewhere() {
		l.begun = true
		l.tx.connected(p)
		return true, err
	}
	l.sent, l.outcome = false, outcome{}
	if l.elsewhere() {
		said := l.mail
		if !l.tx.s.door.inbound {
			said = spoken(said, p.label)
		}
		err = &refusalError{reply: said.WithEnhanced()}
	}
	if !e.forget() {
		// Another leg's answers took ours along to the client.
		l.gone, l.begun = true, true
		l.tx.connected(p)
		return true, err
	}
	l.peer, l.accepted = nil, nil
	l.tx.note(err)
	p.quit()
	return false, err
}

// elsewhere tells whether the answer to MAIL is a reason to ask another hop:
// 421 says that this connection is over, and a passing trouble of one MX host
// may not be another's. A backend speaks for itself.
func (l *leg) elsewhere() bool {
	return l.mail.Code == 421 || l.mail.Class() == 4 && !l.tx.s.door.inbound
}

// speak says [RSET MAIL] RCPT… [DATA] in as few flights as the hop allows.
func (l *leg) speak(p *peer, e envelope, first bool) error {
	const rset, from, data, text = -1, -2, -3, -4
	p.textOut = false
	var cmds []smtpwire.Command
	var who []int // what each command is: the index of a recipient, or one of these
	add := func(c smtpwire.Command, what int) { cmds, who = append(cmds, c), append(who, what) }
	if first {
		c, refused, ok := l.tx.adapted(l.tx.mail, p)
		if !ok {
			l.answerMail(e, refused)
			return nil
		}
		if p.open {
			add(smtpwire.Command{Verb: smtpwire.VerbRset}, rset)
		}
		add(c, from)
		p.open, p.used = true, p.used+1
	}
	for i, rcpt := range e.rcpts {
		c, refused, ok := l.tx.adapted(rcpt, p)
		if !ok {
			l.gone = e.answered(i, refused) || l.gone
			continue
		}
		add(c, i)
	}
	switch {
	case first && l.ridesAlong(p, e.text):
		add(p.chunk(e.text), text)
	case e.data && p.has("PIPELINING") && !p.has("CHUNKING"):
		// Without CHUNKING the text costs a trip more unless DATA rides along.
		add(smtpwire.Command{Verb: smtpwire.VerbData}, data)
	}
	var refusedReset error
	err := p.do(duringEnvelope, p.times.PeerCommand, cmds, func(i int, r smtpwire.Reply) {
		switch {
		case who[i] == rset && r.Class() != 2:
			refusedReset = &peerError{hop: p.label, during: "resetting the transaction", said: r}
		case who[i] == rset:
		case who[i] == from:
			l.answerMail(e, r)
		case who[i] == data:
			l.dataSaid, l.ready = r, r.Code == 354
		case who[i] == text:
			l.outcome = p.finalOf(r, len(l.accepted))
		case first && l.elsewhere(): // another hop will be asked
		default:
			l.gone = e.answered(who[i], r) || l.gone
		}
		if i+1 < len(who) && who[i+1] == text && !l.elsewhere() {
			l.gone = e.release() || l.gone // the verdict may take its time
		}
	})
	if p.textOut {
		l.sent = true
		if err != nil && (len(l.outcome.replies) == 0 || p.contradicts(l.outcome.replies[0])) {
			err = &doubtError{err} // for recipients, too, that were not answered
			l.outcome = outcome{inDoubt: true, err: err}
		}
	}
	if err == nil && refusedReset != nil {
		p.broken = true
		return refusedReset
	}
	return err
}

// ridesAlong tells whether a text may leave behind its envelope in the same
// flight, as the client sent it to us (RFC 3030 §4.1 with RFC 2920). Only on a
// new connection: one that was idle may be dead, and what became of a text that
// was sent into it could not be known (P2).
func (l *leg) ridesAlong(p *peer, m *message) bool {
	return m != nil && p.used == 1 && !p.lmtp && p.has("PIPELINING") && p.has("CHUNKING") && !l.mustConvert(p, m)
}

func (l *leg) answerMail(e envelope, r smtpwire.Reply) {
	l.mail = r
	if e.mailed != nil && !l.elsewhere() {
		l.gone = e.mailed(r) || l.gone
	}
}

// commit sends the message and keeps the outcome. end is when the final reply
// must be there.
func (l *leg) commit(ctx context.Context, m *message, end time.Time) {
	if !l.sent && (l.dataSaid.Code == 0 || l.ready) && !l.peer.quiet() {
		// The hop has not waited for a client that took its time. Nothing of the
		// text was said to it, so it may be asked again (P2).
		if l.err = l.again(ctx, end); l.err != nil {
			l.outcome = outcome{err: l.err}
			return
		}
	}
	n := len(l.accepted)
	switch {
	case l.sent:
	case l.dataSaid.Code != 0 && !l.ready:
		l.outcome = l.peer.refusedText(l.dataSaid, n)
	case l.mustConvert(l.peer, m):
		l.abandon()
		l.outcome = outcome{replies: repeat(composed(554, "5.6.3",
			"the next hop takes 7-bit text only, and this message is not"), n)}
	default:
		l.outcome = l.peer.text(m, n, l.ready, end)
		l.ready = false
	}
	if l.outcome.err != nil {
		l.tx.note(l.outcome.err)
	}
}

// errOtherMind: asked again, the hop did not take everyone it had taken before.
// Who hears what cannot be mended now; the client's next attempt will tell.
var errOtherMind = errors.New("the connection was lost, and asked again the next hop answered otherwise")

// again asks a new connection for all that the old one had accepted.
func (l *leg) again(ctx context.Context, end time.Time) error {
	ctx, cancel := context.WithDeadline(ctx, end)
	defer cancel()
	l.tx.note(l.peer.fail("receiving the message from the client", errors.New("it did not wait")))
	l.tx.s.mu.Lock() // legs are committed side by side
	l.tx.rec.done(l.peer)
	l.tx.s.mu.Unlock()
	l.peer.close()
	want := l.accepted
	l.peer, l.begun, l.gone, l.accepted = nil, false, false, nil
	e := envelope{release: func() bool { return false }, forget: func() bool { return true }}
	for _, rc := range want {
		e.rcpts = append(e.rcpts, rc.cmd)
	}
	e.answered = func(i int, r smtpwire.Reply) bool {
		if r.Class() == 2 {
			l.accepted = append(l.accepted, want[i])
		}
		return false
	}
	err := l.begin(ctx, e)
	if err == nil && len(l.accepted) != len(want) {
		err = errOtherMind
	}
	l.accepted = want // in doubt or not, they are to hear of it
	return err
}

// mustConvert: the client was promised 8BITMIME and used it, and this hop does
// not have it. Converting would break signatures (P4); RFC 6152 §3 leaves only
// refusal.
// https://www.rfc-editor.org/rfc/rfc6152#section-3
func (l *leg) mustConvert(p *peer, m *message) bool {
	body, ok := l.tx.mail.Params.Get("BODY")
	return ok && strings.EqualFold(body, "8BITMIME") && m.scan.EightBit && !p.has("8BITMIME")
}

// noText is the hop's refusal of DATA, where it has been asked already.
func (l *leg) noText() (smtpwire.Reply, bool) {
	return l.dataSaid, l.dataSaid.Class() >= 4
}

// abandon leaves a hop that waits for text without any. A dot would complete an
// empty message, so the connection ends.
func (l *leg) abandon() {
	if l.peer != nil && l.ready {
		l.peer.close()
		l.ready = false
	}
}

// errBroke is an error in Slipstream itself.
var errBroke = errors.New("an internal error, which is in the log")

// survive keeps an error of ours on one leg from ending everything. Nobody knows
// how far it came, so its recipients hear 451.
func (l *leg) survive() {
	if r := recover(); r != nil {
		d := l.tx.s.door
		d.metrics.panicked(d.name)
		d.log.Error("a leg broke by an error in Slipstream", zap.String("S", l.tx.id), zap.Any("panic", r), zap.Stack("stack"))
		if l.peer != nil {
			l.peer.close() // out of step, and perhaps in the middle of a text
		}
		l.err, l.outcome = errBroke, outcome{inDoubt: true, err: errBroke}
		for _, rc := range l.accepted {
			rc.final = l.tx.failed(&doubtError{errBroke})
		}
	}
}
