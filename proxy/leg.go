package proxy

import (
	"context"
	"errors"
	"reflect"
	"time"

	"go.uber.org/zap"

	"slipstream/proxy/resolver"
	"slipstream/proxy/route"
	"slipstream/smtpwire"
)

// A leg is the part of a transaction that goes over one route: a peer and the
// recipients that it was asked about.
type leg struct {
	tx         *transaction
	route      route.Route
	peer       *peer
	begun      bool           // a hop was found: it is the peer, and mail is its answer
	mail       smtpwire.Reply // the hop's answer to MAIL
	gone       bool           // an answer of this hop has left for the client: no other hop may contradict it
	heard      int            // recipients that it has answered for
	accepted   []*recipient   // the recipients it accepted, in order
	ready      bool           // it was asked DATA with the envelope and answered 354
	dataSaid   smtpwire.Reply // its answer to that DATA; zero: not asked
	lead       *lead          // what was begun ahead of it; else nil
	claim      *claim         // what its connection counts for until the end of the transaction; nil: nothing
	err        error          // why there is no hop: every recipient hears it
	done       bool           // its recipients have their final replies
	usedBefore bool           // the connection had carried other transactions
	delivered  bool           // it took the message for somebody
	narrowed   bool           // fewer are to have the message than it accepted
	sent       bool           // the text left with the envelope: outcome is known
	outcome    outcome
	composed   []*string // refusals that are ours and not the hop's: the first line of each

	hop, hopTLS string // what peer was, and how it was protected, once it is let go of
}

// An envelope is one group of commands for a leg: MAIL the first time, and
// recipients.
type envelope struct {
	rcpts []smtpwire.Command
	data  bool     // the client's DATA follows in the same flight, or BDAT
	text  *message // here is the text already, and it is small enough for the same flight; else nil
	late  bool     // the client has heard of its recipient before the hop did
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
		l.err = l.reach(ctx, e)
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
	from := l.takeLead()
	if from != nil {
		from.renew(ctx)
	} else {
		from = l.tx.supply(ctx, l.route)
	}
	done, err := l.beginFrom(ctx, from, e)
	if !done && ctx.Err() == nil && l.routeAnew(ctx, e) {
		var again error
		if done, again = l.beginFrom(ctx, l.tx.supply(ctx, l.route), e); done || ctx.Err() == nil {
			err = again // else the first time tells more
		}
	}
	switch {
	case done:
		return err
	case ctx.Err() != nil:
		return errors.Join(context.Cause(ctx), err)
	case err == nil:
		return &peerError{hop: l.route.Key, during: duringConnect, err: errors.New("there is no address to connect to")}
	}
	return err
}

// beginFrom is begin with the connections of one supply. done is false where none
// of them would do, and last says why.
func (l *leg) beginFrom(ctx context.Context, from *supply, e envelope) (done bool, last error) {
	defer from.drop(func(p *peer) { p.quit() })
	for {
		p, err, ok := from.get()
		if !ok {
			return false, last
		}
		if err == nil {
			done, err = l.tryAnew(ctx, p, e)
		} else {
			l.tx.note(err)
		}
		if done {
			return true, err
		}
		if ctx.Err() == nil || last == nil || !errors.Is(err, context.Cause(ctx)) { // what a hop said tells more
			last = err
		}
	}
}

// routeAnew looks the route up once more where none of its hops would do: it may
// be one from an answer of the DNS whose time is over. It returns whether there is
// another one now.
func (l *leg) routeAnew(ctx context.Context, e envelope) bool {
	if l.tx.s.door.static || len(e.rcpts) == 0 {
		return false
	}
	r, err := l.tx.router().Route(resolver.Fresh(ctx), l.tx.mail.Path, e.rcpts[0].Path)
	if err != nil || r.Key != l.route.Key || reflect.DeepEqual(r, l.route) {
		return false
	}
	l.route = r
	return true
}

// tryAnew is try, and again in lock step where we guessed wrong about the hop, or
// where it did not wait for us on a connection that was made ahead.
func (l *leg) tryAnew(ctx context.Context, p *peer, e envelope) (done bool, err error) {
	if p.used > 0 {
		// Half of the time: where it fell silent, a new connection must have some left.
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeout(ctx, l.tx.s.times.Setup/2)
		defer cancel()
		return l.try(ctx, p, e)
	}
	done, err = l.try(ctx, p, e)
	var wrong *guessError
	misled := errors.As(err, &wrong)
	gone := p.ahead && (l.mail.Code == 0 || l.mail.Code == 421)
	if done || ctx.Err() != nil || !gone && !misled {
		return done, err
	}
	ctx, cancel := afterSilence(ctx, err)
	defer cancel()
	if p, err = p.anew(ctx); err != nil {
		l.tx.note(err)
		return false, err
	}
	if misled {
		wrong.blame()
		p.wire.trips += wrong.trips
	}
	return l.try(ctx, p, e)
}

// keyFor tells which transactions of a session may share a connection: same
// route, and same client as the backend was told.
func (t *transaction) keyFor(r route.Route) poolKey {
	key := t.s.door.caller.warmKey(r)
	key.announced = t.announced()
	return key
}

// try says MAIL and the recipients to a peer. done is false when the hop gave
// no answer that counts and another may be tried.
func (l *leg) try(ctx context.Context, p *peer, e envelope) (done bool, err error) {
	if end, ok := ctx.Deadline(); ok {
		p.end, p.trialEnd = end, time.Time{}
	}
	p.key, l.peer = l.tx.keyFor(l.route), p
	l.tx.s.door.learn(p.pipe.EHLO())
	l.mail, l.heard, l.accepted, l.dataSaid, l.ready = smtpwire.Reply{}, 0, nil, smtpwire.Reply{}, false
	l.usedBefore = p.used > 0
	err = l.speak(p, e, true)
	p.end = time.Time{}
	if l.gone || l.sent && (!l.outcome.refused() || len(l.accepted) > 0) || err == nil && !l.elsewhere() {
		l.begun = true
		l.tx.connected(p)
		return true, err
	}
	l.sent, l.outcome = false, outcome{}
	if l.elsewhere() {
		err = &refusalError{reply: l.tx.worded(l, l.mail)}
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
// may not be another's. A backend speaks for itself, but not where the trouble
// may be with a connection that has carried other messages.
func (l *leg) elsewhere() bool {
	if l.tx.s.own.loggedIn() {
		return false // there is no other connection for this session
	}
	return l.mail.Code == 421 || l.mail.Class() == 4 && (!l.tx.s.door.inbound || l.usedBefore)
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
