package smtpwire

import (
	"fmt"
	"slices"
)

// MaxOutstanding is how many commands a Pipeline leaves unanswered at once. A
// client that writes without reading and a server that does the same can wait
// for each other for ever once both windows are full; the replies to so many
// commands fit any window.
// https://www.rfc-editor.org/rfc/rfc2920#section-3.1
const MaxOutstanding = 100

// A Pipeline is the sending half of an SMTP or LMTP session: it decides what may
// go on the wire now and which command a reply answers. It knows no bytes, no
// socket and no time; whoever holds it writes what Flight returns (behind BDAT
// and in the place of [VerbEndOfData] the octets of the message), reads replies
// and hands each to Answer:
//
//	p.Queue(cmds...)
//	for {
//		write(p.Flight())
//		if p.Waiting() == 0 {
//			break
//		}
//		a, err := p.Answer(read())
//		…
//	}
//
// Cold or warm the caller queues the same. With nothing known of the peer EHLO
// waits for the greeting and goes alone; with a known set that offers
// PIPECONNECT and PIPELINING everything that groups allow goes at once. From the
// answer to EHLO on only the actual set counts, and where it lacks PIPELINING
// one command is outstanding at a time.
//
// A Pipeline judges order, not sense. Whether a refusal makes what is queued
// behind it pointless is for the caller to say, with Withdraw. Four things stay
// in the queue although nothing is outstanding, because to send them would be
// wrong whatever the caller thinks:
//
//   - EndOfData without a 354 to DATA, and everything else behind a 354;
//   - BDAT behind a chunk that was refused, until RSET, MAIL or EHLO is accepted;
//   - BDAT LAST to an LMTP peer that accepted no recipient;
//   - everything, once STARTTLS was accepted or QUIT was answered. What follows
//     STARTTLS belongs on a Pipeline of its own, made with greeted set and with
//     what is known of the peer inside TLS.
//
// A warm connection keeps its Pipeline. The zero value expects a greeting from a
// peer of which nothing is known. A Pipeline is not safe for concurrent use.
type Pipeline struct {
	// LMTP says that the peer gives one final reply per accepted recipient.
	// It is set before the first command.
	// https://www.rfc-editor.org/rfc/rfc2033#section-4.2
	LMTP bool

	known     EHLO // the guess; zero once it was confirmed or disproved
	actual    EHLO
	confirmed bool
	greeted   bool
	helloed   bool // an EHLO has gone out: a second one is never early
	guessing  bool // an early EHLO is out, unanswered
	early     bool
	text      bool // DATA was answered 354, the text has not gone out
	failed    bool // a chunk was refused in this transaction
	over      bool // STARTTLS or QUIT: nothing more on this Pipeline
	rcpts     int  // accepted since MAIL

	queue []Command
	sent  []outstanding
}

// outstanding is a command that waits for its answers.
type outstanding struct {
	command  Command
	replies  int  // due to it
	answered int  // of these
	early    bool // the one EHLO that others may follow
}

// An Answer says what a reply answers.
type Answer struct {
	Command Command // the zero Command for the greeting
	Reply   Reply
	Index   int  // final replies of LMTP: to which accepted recipient, from 0
	Last    bool // Command gets no more replies
	Changed bool // to EHLO, LHLO and HELO: what the peer offers is not what EHLO returned before
}

// An UnaskedError is a reply that nobody asked for. On an idle connection a 421
// means that the server is closing it (RFC 5321 section 3.8); anything else means
// that both sides disagree about what was said, and nothing that comes later on
// the connection can be believed.
type UnaskedError struct{ Reply Reply }

func (e *UnaskedError) Error() string {
	return fmt.Sprintf("smtpwire: the peer sent a reply that no command asked for: %v", e.Reply)
}

// NewPipeline returns a Pipeline for a new connection. known is what the peer
// offered last time, zero if nothing is known; only a known set that offers
// PIPECONNECT and PIPELINING makes a difference. greeted says that no greeting is
// to come: TLS was just started on a connection that had one.
func NewPipeline(known EHLO, greeted bool) *Pipeline {
	return &Pipeline{known: known, greeted: greeted}
}

// Queue appends commands to what is to be sent. EndOfData is queued once DATA was
// answered 354, and nothing is queued behind DATA before that.
func (p *Pipeline) Queue(cmds ...Command) { p.queue = append(p.queue, cmds...) }

// Withdraw takes back what was queued and not sent, in order.
func (p *Pipeline) Withdraw() []Command {
	unsent := p.queue
	p.queue = nil
	return unsent
}

// Flight returns the longest beginning of the queue that may go on the wire now,
// nil if nothing may, and counts it as sent.
func (p *Pipeline) Flight() []Command {
	n := 0
	for n < len(p.queue) && p.may(p.queue[n]) {
		p.send(p.queue[n])
		n++
	}
	if n == 0 {
		return nil
	}
	flight := slices.Clone(p.queue[:n])
	p.queue = slices.Delete(p.queue, 0, n)
	return flight
}

// Waiting returns how many replies are outstanding, the greeting among them.
func (p *Pipeline) Waiting() int {
	n := 0
	if !p.greeted {
		n++
	}
	for _, o := range p.sent {
		n += o.replies - o.answered
	}
	return n
}

// Unsent returns how many commands are queued and not sent.
func (p *Pipeline) Unsent() int { return len(p.queue) }

// EHLO returns what the peer offers: what it confirmed, before that what is
// known, and nothing once it refused EHLO or accepted XCLIENT.
func (p *Pipeline) EHLO() EHLO {
	if p.confirmed {
		return p.actual
	}
	return p.known
}

// Confirmed reports whether the peer has accepted EHLO, LHLO or HELO.
func (p *Pipeline) Confirmed() bool { return p.confirmed }

// Greeted reports whether no greeting is outstanding.
func (p *Pipeline) Greeted() bool { return p.greeted }

// Early reports whether anything went out that only a peer with PIPECONNECT need
// take: before the greeting, or besides EHLO before EHLO was answered. If it is
// true, a refused greeting or EHLO may be the fault of our guess.
func (p *Pipeline) Early() bool { return p.early }

// Answer says which command r answers and moves on. Replies of any code, 421
// among them, are answers; the caller judges them. The error is an *UnaskedError,
// and leaves the Pipeline as it was.
func (p *Pipeline) Answer(r Reply) (Answer, error) {
	if !p.greeted {
		p.greeted = true
		return Answer{Reply: r, Last: true}, nil
	}
	if len(p.sent) == 0 {
		return Answer{}, &UnaskedError{Reply: r}
	}
	o := &p.sent[0]
	a := Answer{Command: o.command, Reply: r, Index: o.answered}
	o.answered++
	if o.answered < o.replies {
		return a, nil
	}
	a.Last = true
	if o.early {
		p.guessing = false
	}
	p.sent = slices.Delete(p.sent, 0, 1)
	a.Changed = p.learn(a.Command, r)
	return a, nil
}

// may reports whether c, the head of the queue, may go on the wire now.
func (p *Pipeline) may(c Command) bool {
	switch {
	case p.over:
		return false
	case p.text || c.Verb == VerbEndOfData:
		return p.text && c.Verb == VerbEndOfData
	case !p.greeted && !p.guessing && !p.mayGuess(c):
		return false
	case c.Verb == VerbBdat && !p.mayChunk(c):
		return false
	case len(p.sent) == 0:
		return true
	case len(p.sent) >= MaxOutstanding || !p.grouping():
		return false
	}
	last := p.sent[len(p.sent)-1]
	return last.early || !endsGroup(last.command.Verb)
}

// mayGuess reports whether c is an EHLO that may go before the greeting and be
// followed before its answer. A set that offers PIPECONNECT without PIPELINING
// contradicts itself, and licenses nothing.
func (p *Pipeline) mayGuess(c Command) bool {
	return (c.Verb == VerbEhlo || c.Verb == VerbLhlo) && !p.helloed && !p.confirmed &&
		p.known.PipeConnect() && p.known.Has("PIPELINING")
}

// grouping reports whether a command may follow one that is not answered yet.
func (p *Pipeline) grouping() bool {
	if p.confirmed {
		return p.actual.Has("PIPELINING")
	}
	return p.guessing
}

// mayChunk reports whether the peer can take the chunk c. Behind a refused chunk
// no other may go: https://www.rfc-editor.org/rfc/rfc3030#section-2. An LMTP peer
// without an accepted recipient owes BDAT LAST no reply at all
// (https://www.rfc-editor.org/rfc/rfc2033#section-4.3), but some send one. To
// stay in step with both, the last chunk goes when everything is answered and
// somebody is to get it.
func (p *Pipeline) mayChunk(c Command) bool {
	if p.LMTP && c.Last {
		return !p.failed && len(p.sent) == 0 && p.rcpts > 0
	}
	return !p.failed
}

// endsGroup reports whether nothing may follow v until it is answered. An
// extension that does not say where its commands may stand wants them last.
// https://www.rfc-editor.org/rfc/rfc2920#section-3.1
func endsGroup(v Verb) bool {
	switch v {
	case VerbMail, VerbRcpt, VerbRset:
		return false
	case VerbBdat: // https://www.rfc-editor.org/rfc/rfc3030#section-2
		return false
	case VerbEndOfData: // a group may begin with the text of a message
		return false
	case VerbXforward: // Postfix says it in one group with MAIL, and takes it so
		return false
	}
	return true
}

// send moves c to what waits for an answer.
func (p *Pipeline) send(c Command) {
	o := outstanding{command: c, replies: 1, early: p.mayGuess(c)}
	p.early = p.early || !p.greeted || p.guessing
	switch c.Verb {
	case VerbEhlo, VerbLhlo:
		p.helloed = true
		p.guessing = p.guessing || o.early
	case VerbBdat, VerbEndOfData:
		p.text = false
		// All RCPTs are answered: mayChunk and DATA saw to that. A peer that
		// answered 354 for nobody still answers the dot.
		if p.LMTP && (c.Last || c.Verb == VerbEndOfData) {
			o.replies = max(1, p.rcpts)
		}
	}
	p.sent = append(p.sent, o)
}

// learn draws the consequences of the last reply to c.
func (p *Pipeline) learn(c Command, r Reply) (changed bool) {
	positive := r.Class() == 2
	switch c.Verb {
	case VerbEhlo, VerbLhlo, VerbHelo:
		return p.learnHello(c, r)
	case VerbRcpt:
		if positive {
			p.rcpts++
		}
	case VerbMail, VerbRset:
		if positive {
			p.rcpts, p.failed = 0, false
		}
	case VerbData:
		p.text = r.Code == 354
	case VerbBdat:
		if c.Last {
			p.rcpts = 0
		} else if !positive {
			p.failed = true
		}
	case VerbEndOfData:
		p.rcpts = 0
	case VerbStarttls:
		p.over = positive
	case VerbQuit:
		p.over = true
	case VerbXclient:
		if positive { // the reply is a new greeting, and EHLO is due again
			*p = Pipeline{LMTP: p.LMTP, greeted: true, early: p.early, queue: p.queue}
		}
	}
	return false
}

// learnHello takes the answer to EHLO, LHLO or HELO. A refused EHLO leaves an
// established session as it was (RFC 5321 section 4.1.4), but disproves a guess.
func (p *Pipeline) learnHello(c Command, r Reply) (changed bool) {
	before := p.EHLO()
	if r.Class() == 2 {
		if c.Verb == VerbHelo { // offers nothing, however many lines it has
			r.Lines = r.Lines[:min(1, len(r.Lines))]
		}
		p.actual, p.confirmed = ParseEHLO(r), true
		p.rcpts, p.failed = 0, false
	}
	p.known = EHLO{}
	return !p.EHLO().Equal(before)
}
