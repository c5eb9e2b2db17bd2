package proxy

import (
	"context"
	"errors"
	"strings"
	"time"

	"slipstream/smtpwire"
)

// commit sends the message and keeps the outcome. end is when the final reply
// must be there.
func (l *leg) commit(ctx context.Context, m *message, end time.Time) {
	if l.narrowed {
		if l.err = l.anew(ctx, end); l.err != nil {
			l.outcome = outcome{err: l.err}
			return
		}
	}
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
	default:
		l.outcome = l.text(m, n, end)
		if l.outcome.err != nil && l.peer.nothingArrived() { // it left before it could see any of the text
			l.tx.note(l.outcome.err)
			if l.err = l.again(ctx, end); l.err != nil {
				l.outcome = outcome{err: l.err}
				return
			}
			l.outcome = l.text(m, n, end)
		}
	}
	if l.outcome.err != nil {
		l.tx.note(l.outcome.err)
	}
}

// text sends the message to a hop that has accepted n recipients.
func (l *leg) text(m *message, n int, end time.Time) outcome {
	if l.mustConvert(l.peer.pipe.EHLO(), m) {
		l.abandon()
		refused := composed(554, "5.6.3", "the next hop takes 7-bit text only, and this message is not")
		return outcome{replies: repeat(l.meant(refused, l.peer), n)}
	}
	ready := l.ready
	l.ready = false
	return l.peer.text(m, n, ready, end)
}

// errOtherMind: asked again, the hop did not take everyone it had taken before.
// Who hears what cannot be mended now; the client's next attempt will tell.
var errOtherMind = errors.New("the connection was lost, and asked again the next hop answered otherwise")

// again asks a new connection for all that the old one had accepted.
func (l *leg) again(ctx context.Context, end time.Time) error {
	l.tx.note(l.peer.fail("receiving the message from the client", errors.New("it did not wait")))
	return l.anew(ctx, end)
}

// anew asks a new connection for those who are to have the message.
func (l *leg) anew(ctx context.Context, end time.Time) error {
	ctx, cancel := context.WithDeadline(ctx, end)
	defer cancel()
	l.tx.s.mu.Lock() // legs are committed side by side
	l.tx.rec.done(l.peer)
	l.tx.s.mu.Unlock()
	l.abandon() // where it waits for a text, QUIT would be one
	if !l.tx.s.own.holds(l.peer) || l.peer.broken {
		l.peer.leave()
	}
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
func (l *leg) mustConvert(offered smtpwire.EHLO, m *message) bool {
	body, ok := l.tx.mail.Params.Get("BODY")
	return ok && strings.EqualFold(body, "8BITMIME") && m.scan.EightBit && !offered.Has("8BITMIME")
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
