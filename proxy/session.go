package proxy

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"sync"
	"time"

	"go.uber.org/zap"

	"slipstream/proxy/route"
	"slipstream/smtpwire"
)

// A session is one client's connection, from accept to close. One goroutine
// walks the corridor: read a flight of commands, have each answered, write the
// replies in one write.
type session struct {
	door  *door // as it was when the client came in; a reload does not change it
	id    string
	log   *zap.Logger
	times *TimeoutsConfig

	wire   *wire
	rw     io.ReadWriter // the wire, or TLS over it
	r      *smtpwire.Reader
	seq    smtpwire.Sequence
	out    []byte    // replies not written yet
	spoke  time.Time // when the client was last heard, or answered: since then it waits
	client client
	behind bool // more was sent behind the command that is answered now
	bad    int  // commands that were refused as nonsense
	mailed bool // MAIL was said, and neither RSET nor EHLO since
	count  int  // transactions so far
	over   bool // the last reply was said: close
	polite bool // the client said QUIT
	tx     *transaction
	ahead  *chunkAhead       // the text of the flight's BDAT was read before its envelope was asked
	kept   map[poolKey]*peer // connections of earlier transactions, by key
	errs   error             // the first write error
	own    ownPeer           // for a login, and for commands that are passed on
	router route.Router      // of this session; nil: the door's
	name   string            // that this client knows us by; "": the door's
	opened *foothold         // a connection to where the client meant to go; nil: there is none
	told   bool              // why the client is turned away is in the log, or has been
	leftBy error             // why nothing more was read; nil: the client was not the one to leave

	unheard []*unheard // the last words, until the client has them; the oldest first
	fragile bool       // the client may have taken two replies for too much: if it leaves without a word, it heard none

	mu       sync.Mutex
	idle     bool // between transactions, waiting for a command
	draining bool // the service is stopping: no further transaction
}

// A client is who came in.
type client struct {
	addr      netip.AddrPort // where the client is; behind a trusted proxy, as that says
	local     netip.AddrPort // where it connected to
	helo      string
	esmtp     bool
	early     bool // it spoke before it heard our greeting, or went on before it heard what we offer
	tls       *tls.ConnectionState
	name      func() clientName // looked up where a backend wants it; else nil
	admission *admission        // to TLS; nil without
}

// serve runs the session to its end. The connection is closed by the caller.
func (s *session) serve(ctx context.Context) {
	broke := true // unless we come to the end
	defer func() { s.leave(broke) }()
	s.converse(ctx)
	broke = false
}

// converse walks the corridor until one side has had enough.
func (s *session) converse(ctx context.Context) {
	if !s.greet(ctx) {
		return
	}
	ctx = s.withFoothold(ctx)
	for !s.over {
		flight, err := s.readFlight()
		if err != nil {
			s.farewell(err)
			break
		}
		s.answer(ctx, flight)
		if s.flush() != nil {
			break
		}
	}
}

// greet says the first word at once; nothing is waited for, but where the client
// was intercepted. To a client that talks early it is said along with the answers
// to what is here already. It returns false where the client is turned away.
func (s *session) greet(ctx context.Context) bool {
	if s.isDraining() {
		s.farewell(errDraining)
		return false
	}
	refused, ok := s.door.admit(s)
	if ok {
		refused, ok = s.reach(ctx)
	}
	if !ok {
		s.say(refused)
		s.over = true
		_ = s.flush() // the client is turned away either way
		s.door.metrics.away(s.door.name, refused)
		if !s.told {
			s.log.Info("turned away", zap.String("reply", refused.String()))
		}
		return false
	}
	kind := "ESMTP"
	if s.door.lmtp {
		kind = "LMTP"
	}
	s.say(smtpwire.NewReply(220, "", s.hostname()+" "+kind+" Slipstream"))
	s.client.early = s.glance()
	return s.client.early || s.flush() == nil
}

// readFlight waits for the next commands. Between transactions the session is
// idle, and a shutdown may end the wait.
func (s *session) readFlight() ([]smtpwire.Command, error) {
	s.mu.Lock()
	if s.draining && s.tx == nil {
		s.mu.Unlock()
		return nil, errDraining
	}
	s.wire.wait("a command", s.times.ClientCommand)
	if s.tx != nil && s.tx.msg != nil { // between two chunks of one text
		s.wire.waitUntil("a command", s.times.ClientCommand, s.tx.textEnd())
	}
	s.idle = s.tx == nil
	s.mu.Unlock()
	flight, err := s.r.ReadFlight(nil)
	s.mu.Lock()
	s.idle = false
	s.spoke = time.Now() // the client's clock runs from here
	draining := s.draining
	s.mu.Unlock()
	if err != nil && draining && s.tx == nil {
		err = errDraining
	}
	if err == nil {
		s.client.admission.heard()
		s.heard()
		s.fragile = false
	}
	return flight, err
}

func (s *session) isDraining() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.draining
}

// errDraining: the service is stopping and this session has nothing under way.
var errDraining = errors.New("the service is shutting down")

// drain asks the session to end when nothing is under way, at once if nothing is.
func (s *session) drain() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.draining = true
	if s.idle {
		_ = s.wire.SetReadDeadline(longAgo())
	}
}

// farewell says the last words that fit the reason for leaving.
func (s *session) farewell(err error) {
	s.over = true
	var wait *waitError
	switch {
	case errors.Is(err, errDraining), errors.Is(err, errCut):
		s.say(s.door.shuttingDown())
	case errors.As(err, &wait):
		s.say(smtpwire.NewReply(421, "4.4.2", s.door.hostname+" timeout: "+wait.Error()))
	case errors.Is(err, errTooMuch):
		s.say(smtpwire.NewReply(552, "5.3.4", "message exceeds every limit, closing"))
	case errors.Is(err, errSpokeTLS):
		s.say(smtpwire.NewReply(421, "4.7.0", s.door.hostname+" closing: no TLS here before STARTTLS"))
	case errors.Is(err, smtpwire.ErrFlood):
		s.say(smtpwire.NewReply(421, "4.7.0", s.door.hostname+" closing: a line without end is not SMTP"))
	default:
		s.leftBy = err
		s.log.Debug("client left", zap.Error(err))
		return
	}
	s.log.Info("session ended by us", zap.Error(err))
	s.wire.cutFlag.Store(false) // a cut ends waits; the last word still goes out
	s.wire.wait("the last reply", s.times.Quit)
	_ = s.flush()
}

// answer has every command of a flight answered, in order.
func (s *session) answer(ctx context.Context, flight []smtpwire.Command) {
	for i := 0; i < len(flight) && !s.over && s.errs == nil; {
		if !isEnvelope(flight[i]) {
			s.behind = i+1 < len(flight) || s.r.Buffered() > 0
			s.command(ctx, flight[i])
			i++
			continue
		}
		n := 1
		for i+n < len(flight) && isEnvelope(flight[i+n]) {
			n++
		}
		var next smtpwire.Command
		if i+n < len(flight) {
			next = flight[i+n]
		}
		s.envelope(ctx, flight[i:i+n], next)
		i += n
	}
	s.endLost()
	if s.bad > s.door.limits.MaxBadCommands && !s.over {
		s.say(smtpwire.NewReply(421, "4.7.0", s.door.hostname+" closing: too many bad commands"))
		s.log.Info("session ended by us: too many bad commands", zap.Int("bad", s.bad))
		s.over = true
	}
}

func isEnvelope(c smtpwire.Command) bool {
	return c.Refused.Code == 0 && (c.Verb == smtpwire.VerbMail || c.Verb == smtpwire.VerbRcpt)
}

// say queues a reply.
func (s *session) say(r smtpwire.Reply) { s.out = r.AppendTo(s.out) }

// refuse queues a refusal of a command that made no sense, and counts it.
func (s *session) refuse(c smtpwire.Command, r smtpwire.Reply) {
	s.tally(c, r)
	s.say(r)
}

// tally counts a refusal. It speaks against the client unless it follows from an
// earlier one: a client that pipelines says RCPT, DATA and BDAT before it hears
// that MAIL or its recipients were refused, or that there are enough of them.
func (s *session) tally(c smtpwire.Command, r smtpwire.Reply) {
	s.door.metrics.refused(s.door.name, r)
	follows := c.Verb == smtpwire.VerbRcpt || c.Verb == smtpwire.VerbData || c.Verb == smtpwire.VerbBdat
	late := r.Code == 503 || r.Code == 554 || r.Code == 452
	if !(s.mailed && follows && late) || c.Refused.Code != 0 {
		s.bad++
	}
}

// flush writes what is queued, in one write.
func (s *session) flush() error {
	if len(s.out) == 0 || s.errs != nil {
		return s.errs
	}
	s.wire.wait("the client to take our replies", s.times.ClientCommand)
	_, s.errs = s.rw.Write(s.out)
	s.out = s.out[:0]
	if cap(s.out) > maxKeptBuffer {
		s.out = nil
	}
	s.spoke = time.Now()
	if s.errs != nil && !s.over { // who said QUIT need not wait for the answer, and Postfix does not
		s.log.Info("could not answer the client", zap.Error(s.errs))
	}
	return s.errs
}

// catchUp sends what was answered so far, unless all octets of a chunk are here:
// who still sends may take long, and others are not to wait for that.
// https://www.rfc-editor.org/rfc/rfc2920#section-3.2
func (s *session) catchUp(chunk int64) {
	if int64(s.r.Buffered()) < chunk {
		_ = s.flush() // errors are kept
	}
}

// maxKeptBuffer is how much an idle session may keep for its next replies.
const maxKeptBuffer = 512

// leave ends what is left of the session, an open transaction and the
// connections kept for it: in order, unless an error of ours broke it.
func (s *session) leave(broke bool) {
	if s.tx != nil {
		if broke {
			s.tx.cut()
		}
		s.tx.abort("the client left")
	}
	s.linger()
	s.vanished()
	_ = s.wire.Close()
	for _, p := range s.kept {
		p.quit()
	}
	s.kept = nil
	s.own.end()
	s.opened.close()
}

// linger says that we have nothing more to say, and waits a little for the
// client to have heard it.
func (s *session) linger() {
	if !s.over || s.errs != nil {
		return
	}
	if conn, ok := s.rw.(*tls.Conn); ok {
		_ = s.wire.SetDeadline(time.Now().Add(lingerTime))
		_ = conn.CloseWrite() // close_notify; the FIN says the same
	}
	s.wire.linger()
}

// keptPeer hands out the connection that an earlier transaction left in good
// order, if there is one.
func (s *session) keptPeer(key poolKey) *peer {
	if c := s.door.caller; c.pools() {
		p := c.pool.get(key, c.warm)
		if p != nil {
			p.gain.warm = p.setup
		}
		return p
	}
	s.mu.Lock()
	p := s.kept[key]
	delete(s.kept, key)
	s.mu.Unlock()
	if p == nil {
		return nil
	}
	if !p.quiet() {
		p.close()
		return nil
	}
	p.gain.warm = p.setup
	return p
}

// maxKeptPeers bounds the connections a session keeps between transactions.
const maxKeptPeers = 4

// keep puts a peer aside for the session's next transaction. Where there are
// too many, another makes room.
func (s *session) keep(p *peer) {
	if !p.settled() {
		p.close()
		return
	}
	if c := s.door.caller; c.pools() {
		c.pool.put(p.key, c.warm, p)
		return
	}
	p.open = p.open || p.rode                                                                                // RSET shows whether its replies are in step
	if warm := s.door.caller.warm; warm.worn(p) || warm.connections > 0 || s.door.caller.places().wanted() { // or somebody may wait for its place
		p.leave()
		return
	}
	s.mu.Lock()
	if s.kept == nil {
		s.kept = make(map[poolKey]*peer)
	}
	var old *peer
	if old = s.kept[p.key]; old == nil && len(s.kept) >= maxKeptPeers {
		for key, other := range s.kept {
			old = other
			delete(s.kept, key)
			break
		}
	}
	s.kept[p.key] = p
	s.mu.Unlock()
	if old != nil {
		old.leave()
	}
}

// newSessionID makes an id that stays with the session in every line of the log.
func newSessionID(n uint64) string { return fmt.Sprintf("%010x", n&0xffffffffff) }

// addrPort reads the address of a connection's end; the zero value where it is
// not an IP address (a unix socket).
func addrPort(a net.Addr) netip.AddrPort {
	tcp, ok := a.(*net.TCPAddr)
	if !ok {
		return netip.AddrPort{}
	}
	ap := tcp.AddrPort()
	return netip.AddrPortFrom(ap.Addr().Unmap(), ap.Port())
}
