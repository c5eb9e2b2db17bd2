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
	label  string // "mx.example.net[192.0.2.7]:25"
	banner string // its greeting
	key    string // which transactions may share this connection
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
	if errors.Is(err, io.EOF) {
		err = errors.New("the connection was closed by the other side")
	}
	return &peerError{hop: p.label, during: during, err: err}
}

// errSurplus: the hop sent replies that nobody asked for. They could be taken
// for answers to the next commands, so the connection is of no use any more.
var errSurplus = errors.New("the other side sent more replies than there were commands")

// do sends commands, each as soon as the pipeline lets it go, and hands every
// reply to got in the order of the commands. An error means that the
// conversation broke; a refusal by the hop is a reply like any other.
func (p *peer) do(during string, limit time.Duration, cmds []smtpwire.Command, got func(i int, r smtpwire.Reply)) error {
	if p.pipe.Confirmed() && p.pipe.Waiting() == 0 && !p.quiet() {
		return p.unasked(during)
	}
	p.pipe.Queue(cmds...)
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
			if p.buf, err = p.riding.appendTo(p.buf); err != nil {
				return err
			}
			p.textOut, p.riding = true, nil
		}
	}
	_, err := p.rw.Write(p.buf)
	if cap(p.buf) > maxKeptBuffer {
		p.buf = nil
	}
	return err
}

// chunk prepares a text to leave behind its envelope: the command to queue.
func (p *peer) chunk(m *message) smtpwire.Command {
	p.riding = m
	return smtpwire.Command{Verb: smtpwire.VerbBdat, Size: m.size(), Last: true}
}

// reply reads the next reply and accounts for it.
func (p *peer) reply(during string) (smtpwire.Reply, error) {
	r, err := p.r.ReadReply()
	if err != nil {
		return r, p.fail(during, err)
	}
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
	p.wait(duringGreeting, p.times.Greeting)
	r, err := p.reply(duringGreeting)
	if err != nil {
		return err
	}
	if r.Code != 220 {
		return p.unwilling(duringGreeting, r)
	}
	p.banner = r.String()
	return nil
}

func (p *peer) unwilling(during string, r smtpwire.Reply) error {
	return &peerError{hop: p.label, during: during, said: r}
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

// errEarlyWords: plaintext behind the 220 to STARTTLS would be taken for
// replies from inside TLS (CVE-2021-38371).
var errEarlyWords = errors.New("the other side spoke on before TLS was up")

// startTLS asks for TLS and negotiates it. The EHLO set from before is
// forgotten (RFC 3207 §4.2): the caller says hello again.
func (p *peer) startTLS(ctx context.Context, conf *tls.Config) error {
	r, err := p.one(duringStartTLS, p.times.PeerCommand, smtpwire.Command{Verb: smtpwire.VerbStarttls})
	if errors.Is(err, errSurplus) {
		err = p.fail(duringStartTLS, errEarlyWords)
	}
	if err != nil {
		return err
	}
	if r.Code != 220 {
		return p.unwilling(duringStartTLS, r)
	}
	return p.handshake(ctx, conf, true)
}

// handshake puts TLS over the wire. greeted: no greeting will follow (STARTTLS);
// with TLS on connect one does.
func (p *peer) handshake(ctx context.Context, conf *tls.Config, greeted bool) error {
	p.wait(duringHandshake, p.times.TLSHandshake)
	conn := tls.Client(p.wire, conf)
	if err := conn.HandshakeContext(ctx); err != nil {
		return p.fail(duringHandshake, err)
	}
	state := conn.ConnectionState()
	p.tls, p.rw = &state, conn
	p.r.Reset(ticketReader{conn, p})
	p.wire.hurry = true // tickets come ahead of the next reply
	p.pipe = newPipeline(smtpwire.EHLO{}, greeted, p.lmtp)
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
func (p *peer) readable() bool {
	if c, ok := p.wire.Conn.(interface{ Readable() bool }); ok {
		return c.Readable() // a simulated connection knows without a socket
	}
	sc, ok := p.wire.Conn.(syscall.Conn)
	if !ok {
		return false // not a socket; if it died, the next flight tells
	}
	raw, err := sc.SyscallConn()
	if err != nil {
		return true
	}
	nothing := false
	err = raw.Control(func(fd uintptr) { // Control, since Read heeds the deadline of the last wait
		var b [1]byte
		_, _, err := syscall.Recvfrom(int(fd), b[:], syscall.MSG_PEEK|syscall.MSG_DONTWAIT)
		nothing = errors.Is(err, syscall.EAGAIN)
	})
	return err != nil || !nothing
}

// quit ends the connection politely where it is in step, and at once where not.
func (p *peer) quit() {
	if !p.broken && p.quiet() {
		p.end = time.Time{}
		_, _ = p.one("waiting for the answer to QUIT", p.times.Quit, smtpwire.Command{Verb: smtpwire.VerbQuit}) // nothing depends on the answer
	}
	p.close()
}

// leave is quit without waiting for the answer.
func (p *peer) leave() {
	if !p.broken && p.quiet() {
		p.wire.wait("sending QUIT", p.times.Quit)
		_, _ = p.rw.Write(smtpwire.Command{Verb: smtpwire.VerbQuit}.AppendTo(nil)) // a courtesy
	}
	p.close()
}

func (p *peer) close() {
	p.broken = true
	_ = p.wire.Close()
	if p.onClose != nil {
		p.onClose()
	}
}
