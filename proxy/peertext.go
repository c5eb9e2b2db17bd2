package proxy

import (
	"bufio"
	"fmt"
	"time"

	"slipstream/smtpwire"
)

// An outcome is what became of a message at one hop.
type outcome struct {
	replies []smtpwire.Reply // the hop's final words: one, or with LMTP one for each accepted recipient
	inDoubt bool             // every octet was sent, but no final reply came: it may or may not have been taken (P2)
	err     error            // the conversation broke before the final replies were complete
}

// text sends the message behind the accepted recipients and waits for the final
// words. With CHUNKING it goes as one BDAT, in one flight (RFC 3030); else DATA
// is asked for first, unless ready says that the hop is waiting for the text.
// end is when the final words must be there.
func (p *peer) text(m *message, finals int, ready bool, end time.Time) outcome {
	p.end = end
	defer func() { p.end = time.Time{} }()
	var err error
	if p.has("CHUNKING") && !ready {
		p.mark, p.marked = ackedOctets(p.wire.Conn)
		err = p.sendChunk(m)
	} else {
		if !ready {
			r, err := p.one(duringText, p.times.PeerCommand, smtpwire.Command{Verb: smtpwire.VerbData})
			if err != nil {
				return outcome{err: err}
			}
			if r.Code != 354 {
				return p.refusedText(r, finals)
			}
		}
		p.mark, p.marked = ackedOctets(p.wire.Conn)
		err = p.sendStuffed(m)
	}
	if err != nil {
		return p.cutShort(err, finals)
	}
	return p.finalReplies(finals)
}

// refusedText handles an answer to DATA that is not 354: it is the verdict on
// the whole message, unless it makes no sense (a 2xx to a question for text).
func (p *peer) refusedText(r smtpwire.Reply, finals int) outcome {
	if r.Class() < 4 {
		return outcome{err: p.fail(duringText, fmt.Errorf("answered DATA with %q instead of 354", r.String()))}
	}
	return outcome{replies: repeat(r, finals)}
}

func repeat(r smtpwire.Reply, n int) []smtpwire.Reply {
	replies := make([]smtpwire.Reply, n)
	for i := range replies {
		replies[i] = r
	}
	return replies
}

// textBuffer bounds the buffer between message and socket; chunkLine is room
// for a BDAT command, so that a small message leaves in one write.
const (
	textBuffer = 32 << 10
	chunkLine  = 64
)

// blockWriter gives every block of text its own time (RFC 5321 §4.5.3.2.5).
type blockWriter struct{ p *peer }

func (b blockWriter) Write(data []byte) (int, error) {
	b.p.wait(duringText, b.p.times.DataBlock)
	return b.p.rw.Write(data)
}

func (p *peer) sendChunk(m *message) error {
	cmd := smtpwire.Command{Verb: smtpwire.VerbBdat, Size: m.size(), Last: true}
	p.pipe.Queue(cmd)
	if f := p.pipe.Flight(); len(f) != 1 {
		return fmt.Errorf("BDAT could not leave: %d commands before it", len(f))
	}
	w := bufio.NewWriterSize(blockWriter{p}, int(min(m.size()+chunkLine, textBuffer)))
	p.buf = cmd.AppendTo(p.buf[:0])
	if _, err := w.Write(p.buf); err != nil {
		return err
	}
	if err := m.writeTo(w); err != nil {
		return err
	}
	return w.Flush()
}

func (p *peer) sendStuffed(m *message) error {
	p.pipe.Queue(smtpwire.Command{Verb: smtpwire.VerbEndOfData})
	if f := p.pipe.Flight(); len(f) != 1 {
		return fmt.Errorf("the text could not leave: %d commands before it", len(f))
	}
	dots := smtpwire.NewDotWriter(blockWriter{p})
	dots.Grow(m.size())
	if err := m.writeTo(dots); err != nil {
		return err
	}
	return dots.Close()
}

// cutShort handles a message that could not be sent to its end. The hop cannot
// have all of it, so nothing is in doubt; what it may have said before it
// closed the door is the best reason there is.
func (p *peer) cutShort(cause error, finals int) outcome {
	failed := p.fail(duringText, cause)
	p.wire.wait(duringFinal, lastWordsWait)
	r, err := p.r.ReadReply()
	if err == nil && r.Class() >= 4 {
		return outcome{replies: repeat(r, finals)}
	}
	return outcome{err: failed}
}

// lastWordsWait is how long we look for a reply on a connection that broke
// while we were sending: what the hop had to say is here already or never comes.
const lastWordsWait = time.Second

// finalReplies waits for the hop's verdict on a message that was sent whole.
func (p *peer) finalReplies(finals int) outcome {
	n := 1
	if p.lmtp {
		n = max(finals, 1)
	}
	replies := make([]smtpwire.Reply, 0, finals)
	p.open = false
	for range n {
		p.wait(duringFinal, p.times.DataDone)
		r, err := p.reply(duringFinal)
		if err != nil {
			return outcome{replies: replies, inDoubt: true, err: err}
		}
		replies = append(replies, r)
		p.open = p.open || r.Class() != 2 // RFC 3030 §2: after a refused chunk only RSET helps
	}
	if p.r.Buffered() != 0 {
		p.broken = true // out of step, but where it says the same the verdict stands
		if p.contradicts(replies[0]) {
			return outcome{inDoubt: true, err: p.fail(duringFinal, errSurplus)}
		}
	}
	if !p.lmtp {
		replies = repeat(replies[0], finals)
	}
	return outcome{replies: replies}
}

// maxSurplus bounds the replies that are looked at behind a verdict.
const maxSurplus = 8

// contradicts tells whether a hop that is out of step says anything else behind
// its verdict. Which of the two meant the message cannot be known (P1, P2).
func (p *peer) contradicts(verdict smtpwire.Reply) bool {
	p.wire.wait(duringFinal, lastWordsWait) // for all of them
	for range maxSurplus {
		if p.r.Buffered() == 0 {
			return false
		}
		r, err := p.r.ReadReply()
		if err != nil || (r.Class() == 2) != (verdict.Class() == 2) {
			return true
		}
	}
	return true
}

// finalOf is the outcome of a text that left with its envelope.
func (p *peer) finalOf(r smtpwire.Reply, finals int) outcome {
	p.open = r.Class() != 2
	return outcome{replies: repeat(r, max(finals, 1))}
}

// refused tells that the hop said no: it does not have the message.
func (o outcome) refused() bool {
	return !o.inDoubt && len(o.replies) > 0 && o.replies[0].Class() >= 4
}
