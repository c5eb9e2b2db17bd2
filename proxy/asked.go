package proxy

import (
	"bytes"
	"errors"
	"slices"
	"time"

	"slipstream/smtpwire"
)

// What a command of an envelope is, where it is not about a recipient.
const (
	askReset = -1 - iota
	askForward
	askMail
	askData
	askText
)

// asked are the commands of one envelope as a hop is to hear them, and what each
// is: the index of a recipient, or one of the above.
type asked struct {
	cmds []smtpwire.Command
	what []int
}

func (a *asked) add(c smtpwire.Command, what int) {
	a.cmds, a.what = append(a.cmds, c), append(a.what, what)
}

// fitted makes the commands of an envelope from what a hop offers. refuse hears
// of those that it cannot be asked; where that is MAIL, there are none.
func (l *leg) fitted(e envelope, p *peer, offered smtpwire.EHLO, first bool, refuse func(what int, r smtpwire.Reply)) asked {
	var a asked
	if first {
		c, refused, ok := l.tx.adapted(l.tx.mail, offered)
		if !ok {
			refuse(askMail, refused)
			return asked{}
		}
		if p.open {
			a.add(smtpwire.Command{Verb: smtpwire.VerbRset}, askReset)
		}
		l.forward(&a, offered)
		a.add(c, askMail)
	}
	room := roomAt(offered, l.accepted)
	for i, rcpt := range e.rcpts {
		c, refused, ok := l.tx.adapted(rcpt, offered)
		if ok {
			refused, ok = room.take(rcpt.Path)
		}
		if !ok {
			refuse(i, refused)
			continue
		}
		a.add(c, i)
	}
	switch {
	case first && a.anybody() && l.ridesAlong(p, offered, e.text):
		a.add(smtpwire.Command{Verb: smtpwire.VerbBdat, Size: e.text.size(), Last: true}, askText)
	case e.data && offered.Has("PIPELINING") && !offered.Has("CHUNKING"):
		// Without CHUNKING the text costs a trip more unless DATA rides along.
		a.add(smtpwire.Command{Verb: smtpwire.VerbData}, askData)
	}
	return a
}

// speak says [RSET XFORWARD MAIL] RCPT… [DATA, or BDAT and the text] in as few flights as
// the hop allows.
func (l *leg) speak(p *peer, e envelope, first bool) error {
	p.textOut = false
	if p.guess != nil && l.lacksSomething(e, p) {
		// It may have that by now: nobody is refused for what was.
		if err := p.do(duringHello, p.times.PeerCommand, nil, nil); err != nil {
			return err
		}
	}
	a := l.fitted(e, p, p.pipe.EHLO(), first, func(what int, r smtpwire.Reply) {
		r = l.meant(r, p)
		if what == askMail {
			l.answerMail(e, r)
			return
		}
		l.heard++
		l.gone = e.answered(what, r) || l.gone
	})
	if first && len(a.cmds) == 0 {
		return nil
	}
	if first {
		p.open, p.used = true, p.used+1
	}
	if a.has(askText) {
		p.riding = e.text
		if p.used > 1 || p.ahead {
			limitUnacked(p.wire.Conn, deadPathWait)
			defer limitUnacked(p.wire.Conn, 0)
		}
	}
	if p.guess != nil {
		p.guess.fits = func(actual smtpwire.EHLO) error { return l.stillFits(e, p, a, actual) }
	}
	var refusedReset error
	err := p.do(duringEnvelope, p.times.PeerCommand, a.cmds, func(i int, r smtpwire.Reply) {
		switch what := a.what[i]; {
		case what == askReset && r.Class() != 2:
			refusedReset = p.unwilling("resetting the transaction", r)
			if r.Code == 421 { // so far that is the answer to all
				l.mail = r
			}
		case what == askReset:
		case what == askForward:
			l.heardForward(r)
		case what == askMail:
			l.answerMail(e, r)
		case what == askData:
			l.dataSaid, l.ready = r, r.Code == 354
		case what == askText:
			l.outcome = p.finalOf(r, len(l.accepted))
		case first && l.elsewhere(): // another hop will be asked
		default:
			l.heard++
			l.gone = e.answered(what, r) || l.gone
		}
		if i+1 < len(a.what) && a.what[i+1] == askText && !l.elsewhere() {
			l.gone = e.release() || l.gone // the verdict may take its time
		}
	})
	p.riding = nil
	err = l.rode(p, e, err)
	if err == nil && refusedReset != nil {
		p.broken = true
		return refusedReset
	}
	return err
}

// deadPathWait is how long a text that left on a connection which was idle may
// go without acknowledgement. Then the path is dead, and there is time to take
// another.
const deadPathWait = 20 * time.Second

// rode says what became of a text that left with its envelope.
func (l *leg) rode(p *peer, e envelope, err error) error {
	taken := len(l.outcome.replies) > 0 && l.outcome.replies[0].Class() == 2
	if p.textOut && err != nil && (l.nobody(e) && !taken && !outOfStep(err) || p.nothingArrived()) {
		p.textOut = false // it cannot have been taken
	}
	if !p.textOut {
		return err
	}
	l.sent, p.rode = true, true
	if e.late {
		p.gain.late++
	} else {
		p.gain.bdat++
	}
	if err == nil && taken && l.nobody(e) { // the replies may be a step behind
		err = p.fail(duringFinal, errors.New("a text was taken that nobody was to receive"))
	}
	if err != nil && (len(l.outcome.replies) == 0 || l.nobody(e) || p.contradicts(l.outcome.replies[0])) {
		err = &doubtError{err} // for recipients, too, that were not answered
		l.outcome = outcome{inDoubt: true, err: err}
	}
	return err
}

// outOfStep tells whether a hop has said more than it was asked, so that the order
// of its replies proves nothing.
func outOfStep(err error) bool {
	var unasked *smtpwire.UnaskedError
	return errors.Is(err, errSurplus) || errors.As(err, &unasked)
}

// nobody tells whether the hop has refused the sender, or everyone there was to
// receive the text: its replies come in order, so the text behind them was not
// taken.
func (l *leg) nobody(e envelope) bool {
	return l.mail.Class() > 3 || l.heard == len(e.rcpts) && len(l.accepted) == 0
}

// stillFits tells whether the hop was asked what it would have been asked, had
// its offer been known.
func (l *leg) stillFits(e envelope, p *peer, was asked, actual smtpwire.EHLO) error {
	open := p.open
	p.open = false
	defer func() { p.open = open }()
	actual = actual.Without("LIMITS") // whoever is too many, the hop says so itself
	now := l.fitted(e, p, actual, was.has(askMail), func(int, smtpwire.Reply) {})
	if was.has(askText) && !now.has(askText) { // every hop takes DATA
		return errors.New("it takes the text in another way now")
	}
	var before, after []byte
	for i, c := range was.cmds {
		if was.what[i] >= 0 || was.what[i] == askMail {
			before = c.AppendTo(before)
		}
	}
	for i, c := range now.cmds {
		if now.what[i] >= 0 || now.what[i] == askMail {
			after = c.AppendTo(after)
		}
	}
	if !bytes.Equal(before, after) {
		return errors.New("it offers something else now")
	}
	return nil
}

func (a asked) has(what int) bool { return slices.Contains(a.what, what) }

// anybody tells whether there is a recipient to ask about.
func (a asked) anybody() bool {
	return slices.ContainsFunc(a.what, func(what int) bool { return what >= 0 })
}

// lacksSomething tells whether a hop did not offer, when it was last heard, what
// the sender or a recipient asks for. Of no account are the parameters that
// change nothing where they are left out: SIZE, and BODY with a text that is as
// it should be.
func (l *leg) lacksSomething(e envelope, p *peer) bool {
	for _, c := range append([]smtpwire.Command{l.tx.mail}, e.rcpts...) {
		out, _, ok := l.tx.adapted(c, p.pipe.EHLO())
		if !ok || len(out.Params.Without("SIZE", "BODY")) < len(c.Params.Without("SIZE", "BODY")) {
			return true
		}
	}
	return false
}

// ridesAlong tells whether a text may leave behind its envelope in the same
// flight (RFC 3030 §4.1 with RFC 2920). Where TLS is wanted and the hop was
// last met without, the text waits until it has said so again (P3). On a
// connection that was idle it may only where the kernel can tell whether
// anything of it arrived (P2). Never behind RSET: whatever is wrong with the
// replies of the transaction before has to be seen first.
func (l *leg) ridesAlong(p *peer, offered smtpwire.EHLO, m *message) bool {
	switch {
	case m == nil || l.tx.plain || p.lmtp || !offered.Has("PIPELINING") || !offered.Has("CHUNKING") || l.mustConvert(offered, m):
		return false
	case p.guess != nil && (p.guess.noTLS || m.mistakable()):
		return false
	}
	return !p.open && (p.used == 0 && !p.ahead || p.guess != nil || p.provable())
}

func (l *leg) answerMail(e envelope, r smtpwire.Reply) {
	l.mail = r
	if e.mailed != nil && !l.elsewhere() {
		l.gone = e.mailed(r) || l.gone
	}
}
