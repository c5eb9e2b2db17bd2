package tlsstore

import (
	"bytes"
	"crypto/rand"
	"crypto/sha256"
	"crypto/subtle"
	"crypto/tls"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"strings"
	"sync/atomic"
	"time"
)

const (
	// TicketLife is how long a ticket is good unless the options say otherwise. crypto/tls tells TLS 1.3 clients a
	// week and TLS 1.2 clients nothing; neither can be changed, so one may come back with a ticket that is over.
	TicketLife = 2 * time.Hour

	// TicketRotate is how long a key seals tickets unless the options say otherwise.
	TicketRotate = time.Hour

	// MaxSessionAge is how long a session lives from its last full handshake, however often it is resumed and however
	// many tickets were made of it. A TLS 1.2 session keeps its one secret for all of that time; and a client that
	// showed a certificate has not shown it since. crypto/tls ends it after a week.
	// https://www.rfc-editor.org/rfc/rfc8446#section-4.6.1 https://www.rfc-editor.org/rfc/rfc5077#section-5.6
	MaxSessionAge = 24 * time.Hour

	// MaxTicket bounds a ticket, in octets. Those that we make have some 130; only one that carries a client's
	// certificates could have more, and Windows clients break on large ones: https://github.com/golang/go/issues/63763
	MaxTicket = 1024

	// MinTicketSecret is how many octets a fleet's secret must have.
	MinTicketSecret = 32

	minTicketRotate = time.Minute

	// maxTicketSkew bounds how far ahead of our clock another's may be, whose tickets we take.
	maxTicketSkew = time.Hour
)

// TicketOptions say how tickets are made. The zero value is good.
type TicketOptions struct {
	// Now is the clock; nil means time.Now.
	Now func() time.Time

	// Life is how long a ticket is good; 0 means TicketLife. At most MaxSessionAge.
	Life time.Duration

	// Rotate is how long a key seals; 0 means TicketRotate. At least a minute, and not so short beside Life that too
	// many keys are alive at once.
	Rotate time.Duration

	// Secret is shared by all machines that take each other's tickets, and at least MinTicketSecret octets long; their
	// clocks must agree to within Rotate and an hour. Who has it can read every ticket ever made with it. nil means
	// random keys, which no other process knows and which are gone with this one.
	Secret []byte

	// Rand is where random keys come from; nil means crypto/rand.
	Rand io.Reader
}

// Tickets makes the session tickets of a server and takes them back. It may be used by many goroutines at a time.
//
// A ticket is the session, sealed with AES-256-GCM under a key that changes by the hour, with the time of its making,
// the age of the session and what it is good for. Whatever is wrong with one that comes back, the answer is a full
// handshake.
type Tickets struct {
	now   func() time.Time
	life  time.Duration
	skew  time.Duration // how far ahead of ours the clock that stamped a ticket may be
	keys  ticketKeys
	count ticketCounters
}

// NewTickets checks the options. An error says which one cannot be.
func NewTickets(o TicketOptions) (*Tickets, error) {
	if o.Now == nil {
		o.Now = time.Now
	}
	if o.Life == 0 {
		o.Life = TicketLife
	}
	if o.Rotate == 0 {
		o.Rotate = TicketRotate
	}
	if o.Rand == nil {
		o.Rand = rand.Reader
	}
	switch {
	case o.Life < 0 || o.Life > MaxSessionAge:
		return nil, fmt.Errorf("tlsstore: tickets cannot live %v: at most %v", o.Life, MaxSessionAge)
	case o.Rotate < minTicketRotate || o.Rotate > MaxSessionAge:
		return nil, fmt.Errorf("tlsstore: ticket keys cannot rotate every %v: between %v and %v",
			o.Rotate, minTicketRotate, MaxSessionAge)
	case o.Life/o.Rotate > maxTicketKeys-4:
		return nil, fmt.Errorf("tlsstore: ticket keys that rotate every %v are too many in the %v that a ticket lives",
			o.Rotate, o.Life)
	case o.Secret != nil && len(o.Secret) < MinTicketSecret:
		return nil, fmt.Errorf("tlsstore: a ticket secret of %d octets is too short: at least %d, made at random",
			len(o.Secret), MinTicketSecret)
	}
	return &Tickets{
		now:  o.Now,
		life: o.Life,
		skew: min(o.Rotate, maxTicketSkew),
		keys: ticketKeys{
			life: o.Life, rotate: o.Rotate.Truncate(time.Second), rand: o.Rand, secret: bytes.Clone(o.Secret),
		},
	}, nil
}

// Configure makes c give our tickets and take them, and turns tickets on. c is the configuration of one connection,
// such as a clone: what is resumed on it decides how old the session in its next ticket is.
//
// A ticket is good only for the scope it was given in and the server name the client asked for. The scope names
// whatever else must be the same: the door, its certificate, its policy.
//
// conn is what c will be used on, where the ticket is to be held back from the first flight; nil where it need not be.
// c.Time becomes the clock of the tickets unless it is set: crypto/tls looks at a session's age too.
func (t *Tickets) Configure(c *tls.Config, scope string, conn *HeldConn) *TicketUse {
	u := &TicketUse{tickets: t, scope: scope, conn: conn}
	if conn != nil {
		conn.count = &t.count
	}
	c.SessionTicketsDisabled = false
	c.WrapSession = u.wrap
	c.UnwrapSession = u.unwrap
	if c.Time == nil {
		c.Time = t.now
	}
	return u
}

// TicketUse is what became of tickets on one connection.
type TicketUse struct {
	tickets *Tickets
	scope   string
	conn    *HeldConn

	offered, issued atomic.Bool
	origin          atomic.Int64 // of the session that the client may resume: Unix seconds of its full handshake
}

// Offered reports whether the client came with a ticket, good or not.
func (u *TicketUse) Offered() bool { return u.offered.Load() }

// Issued reports whether we made a ticket, which crypto/tls does for every client that wants one.
func (u *TicketUse) Issued() bool { return u.issued.Load() }

// The bits that tell what resumption came to, as Exim's $tls_in_resumption has them.
const (
	ResumeSupported = 1 << iota // we make and take tickets
	ResumeRequested             // the client wants tickets
	ResumeOffered               // the client came with one
	ResumeIssued                // we gave it one
	ResumeDone                  // the session was resumed
)

// Bits tells what resumption came to, once the handshake is over.
func (u *TicketUse) Bits(resumed bool) int {
	bits := ResumeSupported
	if u.Offered() {
		bits |= ResumeOffered
	}
	if u.Issued() {
		bits |= ResumeIssued | ResumeRequested
	}
	if resumed {
		bits |= ResumeDone
	}
	return bits
}

// wrap is the connection's WrapSession. It never fails, since that would end the connection; a session that cannot be
// put into a ticket gets one that opens nothing.
func (u *TicketUse) wrap(cs tls.ConnectionState, ss *tls.SessionState) ([]byte, error) {
	now := u.tickets.now()
	origin := now
	if cs.DidResume {
		origin = time.Unix(u.origin.Load(), 0)
	}
	ticket, err := u.tickets.seal(ss, scopeTag(u.scope, cs.ServerName), now, origin)
	if err != nil {
		u.tickets.count.failed.Add(1)
		ticket = make([]byte, ticketNameSize)
		_, _ = rand.Read(ticket) // never fails
	} else {
		u.tickets.count.issued.Add(1)
		u.issued.Store(true)
	}
	if u.conn != nil && cs.Version >= tls.VersionTLS13 { // in TLS 1.2 the ticket is part of the handshake
		u.conn.expect(len(ticket))
	}
	return ticket, nil
}

// unwrap is the connection's UnwrapSession. It never fails: no session means a full handshake.
func (u *TicketUse) unwrap(ticket []byte, cs tls.ConnectionState) (*tls.SessionState, error) {
	if len(ticket) == 0 {
		return nil, nil // how a TLS 1.2 client asks for a ticket
	}
	u.offered.Store(true)
	ss, origin, fault := u.tickets.open(ticket, scopeTag(u.scope, cs.ServerName), u.tickets.now())
	u.tickets.count.taken[fault].Add(1)
	if fault != ticketGood {
		return nil, nil
	}
	u.origin.Store(origin.Unix())
	return ss, nil
}

// What may be wrong with a ticket that comes back.
type ticketFault uint8

const (
	ticketGood    ticketFault = iota
	ticketForeign             // no key of ours
	ticketDamaged             // our key's name, and yet not what it sealed
	ticketScope               // given at another door or under another name
	ticketExpired
	ticketAged // the session is too old, however new its ticket
	ticketFaults
)

// A ticket, sealed:   name of the key (16), nonce (12), sealed text, tag (16)
// Its text:           when made, Unix seconds (8); age of the session then, seconds (4); scope (16); the session
const (
	ticketHead = 8 + 4 + scopeTagSize

	scopeTagSize = 16
)

var errTicketSize = errors.New("tlsstore: the session is too large for a ticket")

func (t *Tickets) seal(ss *tls.SessionState, tag [scopeTagSize]byte, now, origin time.Time) ([]byte, error) {
	state, err := ss.Bytes()
	if err != nil {
		return nil, err
	}
	key, err := t.keys.sealing(now)
	if err != nil {
		return nil, err
	}
	if ticketNameSize+ticketHead+len(state)+key.aead.Overhead() > MaxTicket {
		return nil, errTicketSize
	}
	age := min(max(now.Sub(origin), 0), 2*MaxSessionAge)
	text := make([]byte, 0, ticketHead+len(state))
	text = binary.BigEndian.AppendUint64(text, uint64(now.Unix()))
	text = binary.BigEndian.AppendUint32(text, uint32(age/time.Second))
	text = append(text, tag[:]...)
	text = append(text, state...)
	return key.aead.Seal(key.name[:len(key.name):len(key.name)], nil, text, key.name[:]), nil
}

// open returns the session in a ticket and when its last full handshake was.
func (t *Tickets) open(ticket []byte, tag [scopeTagSize]byte, now time.Time) (
	*tls.SessionState, time.Time, ticketFault) {
	none := time.Time{}
	if len(ticket) < ticketNameSize || len(ticket) > MaxTicket {
		return nil, none, ticketForeign
	}
	key := t.keys.opening(ticket[:ticketNameSize], now)
	if key == nil {
		return nil, none, ticketForeign
	}
	text, err := key.aead.Open(nil, nil, ticket[ticketNameSize:], key.name[:])
	if err != nil || len(text) < ticketHead {
		return nil, none, ticketDamaged
	}
	made := time.Unix(int64(binary.BigEndian.Uint64(text)), 0)
	age := time.Duration(binary.BigEndian.Uint32(text[8:])) * time.Second
	if subtle.ConstantTimeCompare(text[12:ticketHead], tag[:]) != 1 {
		return nil, none, ticketScope
	}
	if since := now.Sub(made); since >= t.life || since < -t.skew {
		return nil, none, ticketExpired
	}
	origin := made.Add(-age)
	if now.Sub(origin) >= MaxSessionAge {
		return nil, none, ticketAged
	}
	ss, err := tls.ParseSessionState(text[ticketHead:])
	if err != nil {
		return nil, none, ticketDamaged
	}
	return ss, origin, ticketGood
}

// scopeTag stands for a scope and a server name in a ticket.
// https://www.rfc-editor.org/rfc/rfc6066#section-3 forbids to resume under another name.
func scopeTag(scope, serverName string) (tag [scopeTagSize]byte) {
	text := binary.BigEndian.AppendUint64([]byte("slipstream ticket scope\x00"), uint64(len(scope)))
	text = append(text, scope...)
	text = append(text, strings.ToLower(serverName)...)
	sum := sha256.Sum256(text)
	copy(tag[:], sum[:])
	return tag
}
