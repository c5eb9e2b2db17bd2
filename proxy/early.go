package proxy

import (
	"context"
	"errors"
	"fmt"
	"io"
	"syscall"
	"time"

	"go.uber.org/zap"

	"slipstream/proxy/route"
	"slipstream/smtpwire"
	"slipstream/tlsstore"
)

// A guess is what an early flight rests on: the hop offers what it offered at
// an earlier time. EHLO waits to leave with whatever is said first; until it is
// answered, nothing that the hop says is believed.
type guess struct {
	hello smtpwire.Command
	spare int  // trips that are saved if it is right
	noTLS bool // there was no STARTTLS: a hop that has it now is to be asked for it (P3)

	fits  func(actual smtpwire.EHLO) error // tells whether what was said is what would have been said, had it been known
	right func(actual smtpwire.EHLO)
	wrong func() // what was known is of no use
	blame func() // and it was not for some other reason that the hop did not serve us
}

// A guessError is a connection on which we guessed wrong. That is our affair
// (P6): the hop is asked again, in lock step.
type guessError struct {
	hop   string
	err   error
	tls   bool   // STARTTLS was offered
	trips int    // that it took
	blame func() // for who then finds the hop well, in lock step
}

func (e *guessError) Error() string { return e.hop + ", spoken to early: " + e.err.Error() }
func (e *guessError) Unwrap() error { return e.err }

// afterSilence is for the second connection to a hop that let the first one wait
// in vain: it has half of the time, so that some is left for other hops.
func afterSilence(ctx context.Context, why error) (context.Context, context.CancelFunc) {
	end, ok := ctx.Deadline()
	var silent *waitError
	if !ok || !errors.As(why, &silent) {
		return ctx, func() {}
	}
	return context.WithTimeoutCause(ctx, time.Until(end)/2, silent)
}

// early says which EHLO set a hop may be spoken to by before it has answered;
// ok is false where nothing fit is known.
func (c *caller) early(try call, phase tlsstore.Phase) (known smtpwire.EHLO, ok bool) {
	if c.personal() || try.lockStep || c.memory.store == nil || !try.addr.IsValid() ||
		!c.hostsPipeConnect.Contains(try.addr.Addr()) || c.memory.store.Quirk(try.addr, tlsstore.QuirkNoEarly) {
		return smtpwire.EHLO{}, false
	}
	known, ok = c.memory.store.Known(c.peerKey(try, phase))
	return known, ok && known.PipeConnect() && known.Has("PIPELINING")
}

// earlyInClear is early for a connection without TLS: where the policy asks for
// TLS, all that may be said is STARTTLS (P3).
func (c *caller) earlyInClear(try call) (known smtpwire.EHLO, ok bool) {
	known, ok = c.early(try, tlsstore.Clear)
	if try.policy.Level >= route.Encrypted && !known.Has("STARTTLS") {
		return smtpwire.EHLO{}, false
	}
	return known, ok
}

func (c *caller) peerKey(try call, phase tlsstore.Phase) tlsstore.PeerKey {
	return tlsstore.PeerKey{
		Host: try.host, Addr: try.addr, Hello: c.called(try.id), Source: c.source(try.addr.Addr()), Phase: phase,
	}
}

// remember keeps what a hop has answered to EHLO for the next connection.
func (c *caller) remember(try call, phase tlsstore.Phase, actual smtpwire.EHLO) {
	if !c.personal() && c.memory.store != nil && try.addr.IsValid() {
		c.memory.store.Learn(c.peerKey(try, phase), actual)
	}
}

// expect readies a peer for an early flight. greeted: no greeting is to come.
func (c *caller) expect(p *peer, try call, phase tlsstore.Phase, known smtpwire.EHLO, greeted bool) {
	p.pipe = newPipeline(known, greeted, p.lmtp)
	verb := smtpwire.VerbEhlo
	if p.lmtp {
		verb = smtpwire.VerbLhlo
	}
	g := &guess{
		hello: smtpwire.Command{Verb: verb, Arg: c.called(try.id)},
		spare: 1,
		noTLS: phase == tlsstore.Clear && try.policy.Level != route.Clear && !try.clear && !known.Has("STARTTLS"),
		right: func(actual smtpwire.EHLO) { c.remember(try, phase, actual) },
		wrong: func() {
			c.memory.store.Forget(c.peerKey(try, phase))
			if c.misled != nil {
				c.misled()
			}
		},
		blame: func() { c.blame(try) },
	}
	if !greeted {
		g.spare = 2
	}
	p.guess = g
}

// quirkMisled marks a hop that did not stand by what it had offered once.
const quirkMisled tlsstore.Quirk = "misled-us"

// blame notes that a hop misled us. One that does so twice in a day is not spoken
// to early for a while.
func (c *caller) blame(try call) {
	store := c.memory.store
	if !store.Quirk(try.addr, quirkMisled) {
		store.SetQuirk(try.addr, quirkMisled, brokeFor)
		return
	}
	store.SetQuirk(try.addr, tlsstore.QuirkNoEarly, distrustFor)
	if c.memory.log != nil {
		c.memory.log.Info("hop is not as it says: not spoken to early", zap.String("hop", try.label),
			zap.Time("until", time.Now().Add(distrustFor)))
	}
}

// disproved tells what of a guess the hop's answer to EHLO contradicts.
func (g *guess) disproved(actual smtpwire.EHLO) error {
	switch {
	case !actual.PipeConnect() || !actual.Has("PIPELINING"):
		return errors.New("it does not offer early pipelining any more")
	case g.noTLS && actual.Has("STARTTLS"):
		return errors.New("it offers STARTTLS now")
	case g.fits != nil:
		return g.fits(actual)
	}
	return nil
}

// doEarly is do with a guess at hand: EHLO and the commands leave in one write,
// before the hop has said a word.
func (p *peer) doEarly(during string, limit time.Duration, cmds []smtpwire.Command,
	got func(i int, r smtpwire.Reply)) error {
	g := p.guess
	p.halveTime() // for a second connection, should the hop fall silent
	p.pipe.Queue(g.hello)
	p.pipe.Queue(cmds...)
	greeted := p.pipe.Greeted()
	p.wait(duringGreeting, p.times.Greeting)
	if err := p.send(); err != nil {
		return p.misled(cmds, p.fail(during, err), got)
	}
	if !greeted {
		if err := p.greet(); err != nil {
			return p.misled(cmds, err, got)
		}
	}
	p.opened()
	p.wait(duringHello, p.times.PeerCommand)
	r, err := p.reply(duringHello)
	switch {
	case err != nil:
	case r.Code != 250:
		err = p.unwilling(duringHello, r)
	default:
		if err = g.disproved(p.pipe.EHLO()); err != nil {
			err = &peerError{hop: p.label, during: duringHello, err: err}
		}
	}
	if err != nil {
		return p.misled(cmds, err, got)
	}
	p.guess = nil
	p.gain.early += g.spare
	p.setup += g.spare
	p.wholeTime()
	g.right(p.pipe.EHLO())
	return p.answers(during, limit, cmds, got)
}

// misled is the end of a connection on which we guessed wrong. What it says from
// now on is void, with one exception: a hop that takes the text all the same has
// it (P2).
func (p *peer) misled(cmds []smtpwire.Command, why error, got func(i int, r smtpwire.Reply)) error {
	g := p.guess
	p.guess = nil
	nobody := p.fast && !p.met(why)
	if !nobody {
		g.wrong()
	}
	var no *peerError
	if nobody || errors.As(why, &no) && no.said.Code == 421 { // it hangs up, for whatever reason
		g.blame = func() {}
	}
	replies, refused := p.hearOut(cmds, why)
	p.broken = true
	p.parted = p.parted && !refused // else the text was waited for
	if !nobody {
		p.opened()
	}
	switch n := len(replies); {
	case refused:
	case n < len(cmds):
		g.blame()
		return fmt.Errorf("%w; the text had left already", why)
	case replies[n-1].Class() == 2:
		g.blame()
		for i, r := range replies {
			got(i, p.unblamed(cmds[i], r))
		}
		return nil
	}
	p.textOut = false
	return &guessError{hop: p.label, err: why, trips: p.wire.trips, blame: g.blame}
}

// met tells whether there was anybody on a connection that was to be opened by
// what is said first: they spoke, though it may not have been a reply, or they
// ended what there was.
func (p *peer) met(why error) bool {
	var no *peerError
	var bad *smtpwire.ReplyError
	return errors.As(why, &no) && no.said.Code != 0 || errors.As(why, &bad) ||
		p.ended && !errors.Is(why, syscall.ECONNREFUSED)
}

// unblamed is what a hop that was spoken to early has said about a recipient,
// where its word on the message stands. A refusal may be for how we spoke, so
// this one is to be sent again.
func (p *peer) unblamed(c smtpwire.Command, r smtpwire.Reply) smtpwire.Reply {
	if c.Verb != smtpwire.VerbRcpt || r.Class() == 2 {
		return r
	}
	return composed(451, "4.5.0", "please send this recipient again: "+p.label+" said: "+r.String())
}

// noWait is how long a hop that has said no in its greeting may take to say so
// again to what was sent ahead of that.
const noWait = 5 * time.Second

// hearOut reads what a hop says to a flight with a text in it that it was sent
// by mistake. refused means that the text cannot have been taken: replies come
// in the order of the commands, and one before it was a refusal; or nothing of
// it has arrived; or the hop said no, and then nothing more before it left. A
// hop that says no in its greeting has to go on saying it
// (https://www.rfc-editor.org/rfc/rfc5321#section-3.1).
func (p *peer) hearOut(cmds []smtpwire.Command, why error) (replies []smtpwire.Reply, refused bool) {
	if !p.textOut || p.nothingArrived() {
		return nil, true
	}
	var no *peerError
	said := errors.As(why, &no) && no.said.Code != 0
	greeting := said && no.during == duringGreeting
	switch {
	case said && no.said.Code == 421:
		return nil, p.hangsUp()
	case p.broken && no != nil && no.during == duringGreeting && p.r.GoOn():
		// The greeting broke off, either in a refusal or in the answer to EHLO.
		p.broken = false
		r, err := p.reply(duringGreeting)
		if err != nil {
			return nil, false
		}
		greeting = r.Class() >= 4
		said = greeting
	case p.broken:
		return nil, false
	}
	if greeting { // then EHLO is not answered either
		p.wait(duringHello, noWait)
		if _, err := p.reply(duringHello); err != nil {
			return nil, true
		}
	}
	accepted := false
	for _, c := range cmds {
		switch {
		case c.Verb == smtpwire.VerbBdat:
			p.end = time.Time{}
			p.wait(duringFinal, p.times.DataDone)
		case greeting && len(replies) == 0:
			p.wait(duringEnvelope, noWait)
		default:
			p.end = p.trialEnd // there will be no second connection
			p.wait(duringEnvelope, p.times.PeerCommand)
		}
		r, err := p.reply(duringFinal)
		if err != nil {
			return nil, len(replies) == 0 && (greeting || said && p.ended)
		}
		accepted = accepted || c.Verb == smtpwire.VerbRcpt && r.Class() == 2
		if r.Code == 421 && (c.Verb == smtpwire.VerbMail || c.Verb == smtpwire.VerbRcpt) {
			return nil, p.hangsUp()
		}
		refused = c.Verb == smtpwire.VerbMail && r.Class() != 2
		if c.Verb == smtpwire.VerbBdat && !accepted {
			refused = true // whatever it says, there is nobody who would get it
		}
		if refused {
			return nil, true
		}
		replies = append(replies, r)
	}
	return replies, false
}

// hangsUp tells whether a hop that says it is about to leave does so, and serves
// nothing more of what it was asked.
func (p *peer) hangsUp() bool {
	p.wait(duringFinal, noWait)
	_, err := p.r.ReadReply()
	return errors.Is(err, io.EOF) || errors.Is(err, syscall.ECONNRESET)
}

// nothingArrived tells whether nothing of the text that left last can be with
// the hop: it ended the connection, and its kernel has acknowledged nothing since
// the flight began. Where no end came, nobody knows: the way back may be dead. Nor
// behind a reset: the hop may have read the text and aborted before its kernel got
// round to the acknowledgement, which an end in order carries.
func (p *peer) nothingArrived() bool {
	if !p.marked || !p.ended || p.aborted {
		return false
	}
	now, ok := ackedOctets(p.wire.Conn)
	return ok && now <= p.mark
}

// provable tells whether the kernel can say so.
func (p *peer) provable() bool {
	_, ok := ackedOctets(p.wire.Conn)
	return ok
}
