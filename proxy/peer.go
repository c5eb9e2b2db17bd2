package proxy

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net"
	"syscall"
	"time"

	"slipstream/smtpwire"
	"slipstream/tlsstore"
)

// Names of what we may be doing with a hop, for errors and logs.
const (
	duringConnect   = "connecting"
	duringGreeting  = "waiting for the greeting"
	duringHello     = "waiting for the answer to EHLO"
	duringStartTLS  = "waiting for the answer to STARTTLS"
	duringHandshake = "negotiating TLS"
	duringXclient   = "announcing the client (XCLIENT)"
	duringEnvelope  = "waiting for the answer to MAIL or RCPT"
	duringText      = "sending the message"
	duringFinal     = "waiting for the final reply"
)

// A peer is one outgoing connection: to a backend or to an MX host. It belongs
// to one goroutine.
type peer struct {
	wire   *wire
	rw     io.ReadWriter // the wire, or TLS over it
	r      *smtpwire.Reader
	pipe   *smtpwire.Pipeline
	label  string  // "mx.example.net[192.0.2.7]:25"
	banner string  // its greeting
	key    poolKey // which transactions may share this connection
	lmtp   bool
	tls    *tls.ConnectionState // nil in clear
	times  *TimeoutsConfig
	end    time.Time // when the stage under way must be over; zero: no such end

	fallback error    // why it is in clear, where TLS was offered and failed
	repaired error    // what went wrong on the way here
	verified bool     // the certificate stood the check that "verify" asks for
	open     bool     // a MAIL of ours may be in force there: RSET goes before the next one
	used     int      // transactions that were begun here
	broken   bool     // not in step any more: to be closed, never reused
	riding   *message // the text that leaves behind the next BDAT
	textOut  bool     // it has left, or begun to
	buf      []byte
	counted  int // trips that are in the log already
	onClose  func()
	sessions *tlsstore.SessionCache // nil: no TLS session is offered or kept
	heard    bool                   // something was heard inside TLS
	trialEnd time.Time              // what end was before the trial
	ticket   error                  // why TLS broke off, where it was a ticket of the hop's
	onTicket func(error)            // hears of that at once; set with sessions
	berth    *berth                 // its place among the connections to its hop; nil: it has none

	guess   *guess                               // EHLO waits to leave with what is said first; else nil
	anew    func(context.Context) (*peer, error) // connects to the same address again, in lock step
	mark    int64                                // octets that may be acknowledged though nothing of the text arrived
	fast    bool                                 // what is said first may ride in the SYN
	apart   bool                                 // but no text
	parted  bool                                 // a text was left behind
	ahead   bool                                 // it was made before anybody asked for it
	inClear bool                                 // TLS failed here: whoever comes next is to try it again
	rode    bool                                 // a text left along with its envelope: whether the replies are in step is to be seen
	ended   bool                                 // the hop ended the connection
	aborted bool                                 // or it broke, in another way than in order
	marked  bool                                 // the kernel said so
	setup   int                                  // trips that it takes to come as far as MAIL, with nothing spared
	gain    savings                              // trips spared that are not in the log yet
}

func newPeer(conn net.Conn, label string, lmtp bool, times *TimeoutsConfig) *peer {
	w := newWire(conn, true)
	return &peer{
		wire: w, rw: w, r: smtpwire.NewReader(w),
		pipe:  newPipeline(smtpwire.EHLO{}, false, lmtp),
		label: label, lmtp: lmtp, times: times,
	}
}

// follow ends every wait when ctx is cancelled, until stop is called. The end of
// a deadline is the stage's own affair, which names what it waited for.
func (p *peer) follow(ctx context.Context) (stop func() bool) {
	return context.AfterFunc(ctx, func() {
		if errors.Is(ctx.Err(), context.Canceled) {
			p.wire.cut()
		}
	})
}

func newPipeline(known smtpwire.EHLO, greeted, lmtp bool) *smtpwire.Pipeline {
	p := smtpwire.NewPipeline(known, greeted)
	p.LMTP = lmtp
	return p
}

// has tells whether the hop offers an extension.
func (p *peer) has(keyword string) bool { return p.pipe.EHLO().Has(keyword) }

// wait arms the wire for one step, within the end of the stage.
func (p *peer) wait(name string, limit time.Duration) {
	if p.end.IsZero() {
		p.wire.wait(name, limit)
		return
	}
	p.wire.waitUntil(name, limit, p.end)
}

// fail marks the connection as out of step and describes what happened.
func (p *peer) fail(during string, err error) error {
	p.broken = true
	orderly := errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) ||
		errors.Is(err, syscall.ECONNREFUSED) // of a connection that was to be opened by what is said first
	p.ended = p.ended || orderly || errors.Is(err, syscall.ECONNRESET) || errors.Is(err, syscall.EPIPE)
	p.aborted = p.aborted || !orderly
	if errors.Is(err, io.EOF) {
		err = errors.New("the connection was closed by the other side")
	}
	return &peerError{hop: p.label, during: during, err: err, banner: p.banner, tls: p.tls}
}

// errSurplus: the hop sent replies that nobody asked for. They could be taken
// for answers to the next commands, so the connection is of no use any more.
var errSurplus = errors.New("the other side sent more replies than there were commands")

// do sends commands, each as soon as the pipeline lets it go, and hands every
// reply to got in the order of the commands. An error means that the
// conversation broke; a refusal by the hop is a reply like any other.
func (p *peer) do(during string, limit time.Duration, cmds []smtpwire.Command, got func(i int, r smtpwire.Reply)) error {
	if p.guess != nil {
		return p.doEarly(during, limit, cmds, got)
	}
	if p.pipe.Confirmed() && p.pipe.Waiting() == 0 && !p.quiet() {
		return p.unasked(during)
	}
	p.pipe.Queue(cmds...)
	return p.answers(during, limit, cmds, got)
}

// answers sends what is queued and has not left, and hands on the replies.
func (p *peer) answers(during string, limit time.Duration, cmds []smtpwire.Command, got func(i int, r smtpwire.Reply)) error {
	for i := 0; i < len(cmds); i++ {
		if p.surplus() {
			return p.fail(during, errSurplus)
		}
		if cmds[i].Verb == smtpwire.VerbBdat { // its answer is the final reply
			during, limit, p.end = duringFinal, p.times.DataDone, time.Time{}
		}
		p.wait(during, limit)
		if err := p.send(); err != nil {
			return p.fail(during, err)
		}
		if p.pipe.Waiting() == 0 {
			return p.fail(during, fmt.Errorf("%s may not be said here", cmds[i].Verb))
		}
		r, err := p.reply(during)
		if err != nil {
			return err
		}
		got(i, r)
		if cmds[i].Verb == smtpwire.VerbMail && r.Class() != 2 {
			// What has not left yet has lost its sense.
			cmds = cmds[:len(cmds)-len(p.pipe.Withdraw())]
			p.riding = nil
		}
	}
	if p.surplus() {
		return p.fail(during, errSurplus)
	}
	return nil
}

// surplus tells whether the hop said something though it was asked nothing.
func (p *peer) surplus() bool { return p.pipe.Waiting() == 0 && p.r.Buffered() != 0 }

// unasked describes a hop that is out of step before we have said anything: it
// closed, or it spoke, and then that is the best reason there is.
func (p *peer) unasked(during string) error {
	p.wire.wait(during, lastWordsWait)
	r, err := p.r.ReadReply()
	if err != nil {
		return p.fail(during, err)
	}
	if p.tls != nil {
		p.heardFrom()
	}
	p.broken = true
	return p.unwilling(during, r)
}

// one sends a single command and returns its reply.
func (p *peer) one(during string, limit time.Duration, c smtpwire.Command) (smtpwire.Reply, error) {
	var reply smtpwire.Reply
	err := p.do(during, limit, []smtpwire.Command{c}, func(_ int, r smtpwire.Reply) { reply = r })
	return reply, err
}

// send writes the commands that may leave now in one write.
func (p *peer) send() error {
	flight := p.pipe.Flight()
	if len(flight) == 0 {
		return nil
	}
	p.buf = p.buf[:0]
	for _, c := range flight {
		p.buf = c.AppendTo(p.buf)
		if c.Verb == smtpwire.VerbBdat && p.riding != nil {
			var err error
			p.mark, p.marked = ackedOctets(p.wire.Conn)
			if p.fast && p.apart {
				if err = p.sayFirst(c); err != nil {
					return err
				}
			}
			p.textOut = true
			if p.buf, err = p.riding.appendTo(p.buf); err != nil {
				return err
			}
			p.riding = nil
		}
	}
	_, err := p.rw.Write(p.buf)
	if err != nil {
		p.textOut = false // not to its last octet
	}
	if cap(p.buf) > maxKeptBuffer {
		p.buf = nil
	}
	return err
}

// sayFirst lets commands go in the SYN and leaves the text that the last of them
// is about behind: a SYN may come twice, and then the hop would have two messages
// (https://www.rfc-editor.org/rfc/rfc7413#section-6.1).
func (p *peer) sayFirst(chunk smtpwire.Command) error {
	line := len(chunk.AppendTo(nil))
	first := p.buf[:len(p.buf)-line]
	if _, err := p.rw.Write(first); err != nil {
		return err
	}
	p.mark += int64(len(first))
	p.buf = append(p.buf[:0], p.buf[len(first):]...)
	p.parted = true
	return nil
}

// synRoom is how many octets a SYN can carry where packets have room for 1500:
// without both headers, and the options of a SYN with a cookie.
const synRoom = 1420

// opened accounts for a SYN, once the hop has answered to what may have ridden
// in it.
func (p *peer) opened() {
	if !p.fast {
		return
	}
	p.fast = false
	if synData(p.wire.Conn) && !p.parted && p.wire.first <= synRoom {
		p.gain.fastopen++
		p.setup++
		return
	}
	p.wire.trips++ // the rest waited for the SYN-ACK
}

// reply reads the next reply and accounts for it.
func (p *peer) reply(during string) (smtpwire.Reply, error) {
	r, err := p.r.ReadReply()
	if err != nil {
		return r, p.fail(during, err)
	}
	p.berth.heard()
	if p.tls != nil {
		p.heardFrom()
	}
	a, err := p.pipe.Answer(r)
	if err != nil {
		return r, p.fail(during, err)
	}
	if r.Class() == 3 && a.Command.Verb != smtpwire.VerbData {
		return r, p.fail(during, fmt.Errorf("the answer %q makes no sense", r.String()))
	}
	return r, nil
}

// greet waits for the greeting. RFC 5321 §3.1: anything but 220 means that the
// hop will not serve us now.
func (p *peer) greet() error {
	limit := p.times.Greeting
	if p.fast { // there may be nobody to connect to
		limit = min(limit, p.times.Connect)
	}
	p.wait(duringGreeting, limit)
	r, err := p.reply(duringGreeting)
	if err != nil {
		return err
	}
	if r.Code != 220 {
		return p.unwilling(duringGreeting, r)
	}
	p.banner = cut(r.String(), maxBanner)
	return nil
}

// maxBanner bounds what is kept of a greeting.
const maxBanner = 512

// cut shortens a text to some octets.
func cut(s string, most int) string { return s[:min(len(s), most)] }

func (p *peer) unwilling(during string, r smtpwire.Reply) error {
	return &peerError{hop: p.label, during: during, said: r, banner: p.banner, tls: p.tls}
}

// hello says EHLO (LHLO to LMTP), and HELO to a hop that knows no EHLO
// (RFC 5321 §3.2).
// https://www.rfc-editor.org/rfc/rfc5321#section-3.2
func (p *peer) hello(name string) error {
	verb := smtpwire.VerbEhlo
	if p.lmtp {
		verb = smtpwire.VerbLhlo
	}
	r, err := p.one(duringHello, p.times.PeerCommand, smtpwire.Command{Verb: verb, Arg: name})
	if err != nil {
		return err
	}
	if r.Class() == 5 && verb == smtpwire.VerbEhlo {
		r, err = p.one(duringHello, p.times.PeerCommand, smtpwire.Command{Verb: smtpwire.VerbHelo, Arg: name})
		if err != nil {
			return err
		}
	}
	if r.Code != 250 { // another 2xx answers something else
		return p.unwilling(duringHello, r)
	}
	return nil
}

// peekWait is how long TLS may take to look at records that are here already.
const peekWait = time.Millisecond

// quiet tells whether nothing waits to be read on a connection that was asked
// nothing: no FIN, no 421, no reply that would shift all later ones.
func (p *peer) quiet() bool {
	if p.broken || p.r.Buffered() != 0 {
		return false
	}
	readable := p.readable()
	if p.tls == nil {
		return !readable
	}
	// What can be read below TLS may be a ticket, which is no word; and what TLS
	// has read ahead cannot be seen below it.
	end := longAgo()
	if readable {
		end = time.Now().Add(peekWait)
	}
	_ = p.wire.SetWriteDeadline(time.Now().Add(time.Second)) // TLS may have to answer a key update
	_ = p.wire.SetReadDeadline(end)                          // they fail only on a closed connection, which Poll reports
	n, err := p.r.Poll()
	var wait *waitError
	return n == 0 && errors.As(err, &wait)
}

// readable tells whether a read from the wire would return at once.
func (p *peer) readable() bool { return readable(p.wire.Conn) }

// settled tells whether the hop has answered our EHLO and is in step.
func (p *peer) settled() bool { return !p.broken && p.guess == nil }

// quit ends the connection politely where it is in step, and at once where not.
func (p *peer) quit() {
	if p.settled() && p.quiet() {
		p.end = time.Time{}
		_, _ = p.one("waiting for the answer to QUIT", p.times.Quit, smtpwire.Command{Verb: smtpwire.VerbQuit}) // nothing depends on the answer
	}
	p.close()
}

// leave is quit without waiting for the answer.
func (p *peer) leave() {
	if p.settled() && p.quiet() {
		p.wire.wait("sending QUIT", p.times.Quit)
		_, _ = p.rw.Write(smtpwire.Command{Verb: smtpwire.VerbQuit}.AppendTo(nil)) // a courtesy
	}
	p.close()
}

func (p *peer) close() {
	p.broken = true
	_ = p.wire.Close()
	p.berth.leave()
	if p.onClose != nil {
		p.onClose()
	}
}
