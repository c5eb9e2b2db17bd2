package proxy

import (
	"bytes"
	"crypto/tls"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"slipstream/bench/netsim"
	"slipstream/bench/refpeer"
	"slipstream/tlsstore"
)

// Deaths of connections that were kept, or spoken to early: the proxy, the hops,
// and the hand that breaks one connection at one octet.

// A deathWay is how a connection ends.
type deathWay string

const (
	deathClose deathWay = "close"
	deathReset deathWay = "reset"
	deathStall deathWay = "stall"
	death421   deathWay = "421"
)

func deathWays() []deathWay { return []deathWay{deathClose, deathReset, deathStall, death421} }

// deathWords is what a hop says when it leaves on its own.
const deathWords = "421 4.3.2 going away\r\n"

// A deathPlan says where the connection that carries the message under test
// breaks. Numbers below 0 mean: not there.
type deathPlan struct {
	way   deathWay
	read  int           // so many octets of ours were taken
	deaf  bool          // and nothing was made of the last of them; else all that is complete in them is answered
	wrote int           // so many octets of replies were written
	event int           // in place of this reply, counted from 0
	cross time.Duration // so long after the text left
	first bool          // or rather, the first octets
}

func neverDies() deathPlan { return deathPlan{read: -1, wrote: -1, event: -1, cross: -1} }

func (p deathPlan) String() string {
	where := "never"
	switch {
	case p.read >= 0 && p.deaf:
		where = fmt.Sprintf("at octet %d, which it makes nothing of", p.read)
	case p.read >= 0:
		where = fmt.Sprintf("at octet %d", p.read)
	case p.wrote >= 0:
		where = fmt.Sprintf("at octet %d of its replies", p.wrote)
	case p.event >= 0:
		where = fmt.Sprintf("at reply %d", p.event)
	case p.cross >= 0 && p.first:
		where = fmt.Sprintf("%v after the first octets left", p.cross)
	case p.cross >= 0:
		where = fmt.Sprintf("%v after the text left", p.cross)
	}
	return fmt.Sprintf("%s %s", p.way, where)
}

// part is the group that a plan is counted in.
func (p deathPlan) part() string {
	switch {
	case p.read >= 0:
		return "reading"
	case p.wrote >= 0:
		return "answering"
	case p.event >= 0:
		return "421 as a reply"
	}
	return "crossing"
}

// A deathCase is a way to carry a message.
type deathCase struct {
	name     string
	inbound  bool
	relay    bool   // a static one: lock-step clients have a connection made ahead
	policy   string // tls of the door
	secure   bool   // the hop does TLS
	implicit bool
	early    bool // the hop takes early talk, and is known
	fastopen string
	pool     bool   // connections are kept
	lmtp     bool   // the door; two recipients with a hop each
	style    string // of the client
	warmUps  int
	stay     bool          // the message comes in the session of those before it
	refused  bool          // and the last of these found no recipient
	resets   bool          // it begins to die when the connection is reset behind the last of these
	pause    time.Duration // before the message
	inside   bool          // only what is behind the handshake is of interest
}

// deathDelay is how long everything takes to the hop.
const deathDelay = 10 * time.Millisecond

// deathCases are all ways in which we are ahead of a plain client.
func deathCases() []deathCase {
	return []deathCase{
		{name: "warm, clear, BDAT", policy: "none", pool: true, style: "bdat", warmUps: 1},
		{name: "warm, TLS, BDAT", policy: "encrypt", secure: true, pool: true, style: "bdat", warmUps: 1},
		{name: "warm, inbound, BDAT", inbound: true, policy: "none", pool: true, style: "bdat", warmUps: 1},
		{name: "early, clear", policy: "none", early: true, style: "bdat", warmUps: 1},
		{name: "early, clear under may", policy: "may", early: true, style: "bdat", warmUps: 1},
		{name: "early STARTTLS", policy: "may", secure: true, early: true, style: "bdat", warmUps: 1},
		{name: "early inside TLS", policy: "encrypt", secure: true, early: true, style: "bdat", warmUps: 1, inside: true},
		{name: "early, implicit TLS", policy: "encrypt", secure: true, implicit: true, early: true, style: "bdat",
			warmUps: 1},
		{name: "Fast Open, commands", policy: "none", early: true, fastopen: "commands", style: "bdat", warmUps: 2},
		{name: "Fast Open, message", policy: "none", early: true, fastopen: "message", style: "bdat", warmUps: 2},
		{name: "warm, late DATA", policy: "none", pool: true, style: "flight", warmUps: 1},
		{name: "early, late DATA", policy: "none", early: true, style: "flight", warmUps: 1},
		{name: "warm, late LMTP, two hops", policy: "none", pool: true, lmtp: true, style: "flight", warmUps: 1},
		{name: "early, late LMTP, two hops", policy: "none", early: true, lmtp: true, style: "flight", warmUps: 1},
		{name: "RSET in the pool, at once", policy: "none", pool: true, stay: true, resets: true, style: "bdat", warmUps: 1},
		{name: "RSET in the pool, later", policy: "none", pool: true, stay: true, resets: true, style: "bdat", warmUps: 1,
			pause: 5 * deathDelay},
		{name: "RSET in the flight", policy: "none", stay: true, refused: true, style: "bdat"},
		{name: "warm, lock step", policy: "none", pool: true, style: "lock", warmUps: 1},
		{name: "made ahead", relay: true, policy: "none", style: "lock", warmUps: 1},
		{name: "made ahead, kept", relay: true, policy: "none", pool: true, style: "lock", warmUps: 1},
		{name: "made ahead, early", relay: true, policy: "none", early: true, style: "lock", warmUps: 1},
	}
}

// A deathBench is a proxy before hops of which one connection will break.
type deathBench struct {
	*world
	c      deathCase
	hop    *refpeer.Server
	other  *refpeer.Server // of the second recipient; else nil
	ln     *deathListener
	at     string // the door
	client *deathClient
}

const deathOther = "203.0.113.9:25"

func newDeathBench(t *testing.T, c deathCase, cert *testCert) *deathBench {
	b := &deathBench{world: newWorld(t), c: c, at: outboundAt}
	b.net.Default.Delay = deathDelay
	b.net.TraceData = 1 << 16
	b.ln = &deathListener{b: b, plan: neverDies()}
	b.net.Trace = b.ln.traced
	keywords := refpeer.Modern()
	keywords.PipeConnect = c.early
	b.hop = &refpeer.Server{Keywords: keywords, Implicit: c.implicit}
	b.hop.Behave = deathReplies(b.ln.event)
	if c.secure {
		b.hop.TLS = cert.server()
		b.hop.TLS.CurvePreferences = []tls.CurveID{tls.X25519}
	}
	addr := mxAddr
	if c.inbound {
		b.at, addr = inboundAt, backendAddr
		b.inbound(func(in *InboundConfig) {
			in.BackendTLS = c.policy
			if c.pool {
				in.PoolIdle = 30 * time.Second
			}
		})
	} else {
		b.outbound(b.outward)
	}
	ln, err := b.net.Listen(addr)
	if err != nil {
		t.Fatal(err)
	}
	b.ln.Listener = ln
	b.hop.Start(b.ln)
	t.Cleanup(b.hop.Close)
	if c.lmtp {
		b.dns.mx["other.example"] = []*net.MX{{Host: "mx.other.example", Pref: 10}}
		b.dns.addrs["mx.other.example"] = []netip.Addr{netip.MustParseAddrPort(deathOther).Addr()}
		b.other = b.serve(deathOther, &refpeer.Server{Keywords: keywords})
		b.other.Behave = deathReplies(func(refpeer.Event) (refpeer.Action, bool) { return refpeer.Action{}, false })
	}
	if c.early {
		b.remember(tlsstore.Memory())
	}
	if c.fastopen != "" {
		b.net.SetFastOpen(addr, true)
		b.dialFast = b.net.FastDialer(proxyHost)
	}
	b.start()
	return b
}

// outward sets the outbound door up for a case.
func (b *deathBench) outward(out *OutboundConfig) {
	c := b.c
	out.TLS, out.Resume, out.PostQuantum = c.policy, false, false
	out.Offer = []string{"8BITMIME", "SMTPUTF8", "CHUNKING"}
	if c.pool {
		out.PoolIdle = 30 * time.Second
	}
	if c.fastopen != "" {
		out.FastOpen = c.fastopen
	}
	if c.lmtp {
		out.Protocol = "lmtp"
	}
	if c.relay || c.implicit {
		out.Route, out.Offer, out.Relay = "", nil, Endpoint{Host: mxHost, Port: 25, TLS: c.implicit}
	}
}

// deathReplies has every reply name what it answers. A recipient whose name
// begins with "no" is refused.
func deathReplies(event func(refpeer.Event) (refpeer.Action, bool)) func(refpeer.Event) refpeer.Action {
	var mu sync.Mutex
	sender := map[int]string{}
	return func(ev refpeer.Event) refpeer.Action {
		if a, ok := event(ev); ok {
			return a
		}
		mu.Lock()
		defer mu.Unlock()
		switch {
		case ev.Kind == refpeer.EndOfData:
			return refpeer.Say("250 2.0.0 taken " + sender[ev.Conn])
		case ev.Kind != refpeer.Command:
		case ev.Verb == "MAIL" && strings.HasPrefix(ev.Reply, "250"):
			sender[ev.Conn] = ev.Address
			return refpeer.Say("250 2.1.0 sender " + ev.Address)
		case ev.Verb == "RCPT" && strings.HasPrefix(ev.Address, "no"):
			return refpeer.Say("550 5.1.1 nobody " + ev.Address)
		case ev.Verb == "RCPT" && strings.HasPrefix(ev.Reply, "250"):
			return refpeer.Say("250 2.1.5 recipient " + ev.Address)
		}
		return refpeer.Action{}
	}
}

// A deathListener breaks the first connection that is used once it is armed.
type deathListener struct {
	net.Listener
	b *deathBench

	mu     sync.Mutex
	armed  bool
	plan   deathPlan
	victim *deathConn
	conns  []*deathConn
	texts  []netsim.Segment // those from us with text of the message under test
	events int              // on the victim
}

// A deathConn is the hop's end of a connection.
type deathConn struct {
	net.Conn
	sim    *netsim.Conn
	ln     *deathListener
	id     int
	gone   chan struct{}
	once   sync.Once
	pieces []int // of what sizes its input came, since it is the victim
	read   int   // octets, likewise
	wrote  int
	full   bool      // the plan's octets were handed on
	ended  time.Time // by the plan
	old    bool      // it was there when the listener was armed
	met    bool      // it has answered EHLO, as far as one can see
	mailed bool      // and MAIL of the message under test
}

// Accept implements [net.Listener].
func (l *deathListener) Accept() (net.Conn, error) {
	conn, err := l.Listener.Accept()
	if err != nil {
		return nil, err
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	c := &deathConn{Conn: conn, sim: conn.(*netsim.Conn), ln: l, id: len(l.conns), gone: make(chan struct{})}
	l.conns = append(l.conns, c)
	l.claim(c)
	return c, nil
}

// claim makes a connection the victim if there is none yet. l.mu is held.
func (l *deathListener) claim(c *deathConn) bool {
	if l.armed && l.victim == nil {
		l.victim = c
	}
	return l.victim == c
}

// arm has the next connection that is used die by a plan.
func (l *deathListener) arm(p deathPlan) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.armed, l.plan = true, p
	for _, c := range l.conns {
		c.old = true
	}
}

// disarm spares who is still alive. It returns how many octets the victim has
// read and written, and how often it was asked for a reply.
func (l *deathListener) disarm() (read, wrote, events int) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.armed = false
	if l.victim == nil {
		return 0, 0, 0
	}
	if l.victim.ended.IsZero() && !l.victim.full {
		l.plan = neverDies()
	}
	return l.victim.read, l.victim.wrote, l.events
}

var errDeath = errors.New("it is over")

// Read implements [net.Conn].
func (c *deathConn) Read(p []byte) (int, error) {
	if c.full {
		return 0, c.end()
	}
	n, err := c.Conn.Read(p)
	if left, dies := c.took(p[:n]); dies {
		if left == 0 {
			return 0, c.end()
		}
		return left, nil
	}
	return n, err
}

// took enters what was read. If it dies of that, all but so many octets are
// lost.
func (c *deathConn) took(p []byte) (left int, dies bool) {
	l := c.ln
	l.mu.Lock()
	defer l.mu.Unlock()
	if len(p) == 0 || !l.claim(c) {
		return 0, false
	}
	c.pieces = append(c.pieces, len(p))
	left = l.plan.read - c.read
	if l.plan.read < 0 || len(p) < left {
		c.read += len(p)
		return 0, false
	}
	c.read += left
	if l.plan.deaf {
		return 0, true
	}
	c.full = left > 0
	return left, true
}

// Write implements [net.Conn].
func (c *deathConn) Write(p []byte) (int, error) {
	left, dies := c.wrotes(p)
	if !dies {
		return c.Conn.Write(p)
	}
	if left > 0 {
		if n, err := c.Conn.Write(p[:left]); err != nil {
			return n, err
		}
	}
	return 0, c.end()
}

// wrotes enters what is about to be written. If it dies of that, only so many
// octets are.
func (c *deathConn) wrotes(p []byte) (left int, dies bool) {
	l := c.ln
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.victim != c {
		return 0, false
	}
	if l.plan.wrote < 0 || c.wrote+len(p) <= l.plan.wrote {
		c.wrote += len(p)
		c.says(p)
		return 0, false
	}
	left = l.plan.wrote - c.wrote
	c.wrote += left
	c.says(p[:left])
	return left, true
}

// says looks for what was answered, where one can.
func (c *deathConn) says(p []byte) {
	c.met = c.met || bytes.Contains(p, []byte("250 CHUNKING\r\n")) || bytes.Contains(p, []byte("250 STARTTLS\r\n"))
	c.mailed = c.mailed || bytes.Contains(p, []byte("sender "+deathID+"@client.example\r\n"))
}

// end does what the plan says.
func (c *deathConn) end() error {
	c.ln.mu.Lock()
	way := c.ln.plan.way
	if c.ended.IsZero() {
		c.ended = time.Now()
	}
	c.ln.mu.Unlock()
	switch way {
	case deathStall:
		<-c.gone
	case deathReset:
		c.sim.Reset()
	case death421:
		_, _ = c.Conn.Write([]byte(deathWords)) // who has left hears nothing
	}
	_ = c.Close()
	return errDeath
}

// Close implements [net.Conn].
func (c *deathConn) Close() error {
	c.once.Do(func() { close(c.gone) })
	return c.Conn.Close()
}

// Reset aborts the connection.
func (c *deathConn) Reset() { c.sim.Reset() }

// event is asked before every reply of the hop.
func (l *deathListener) event(ev refpeer.Event) (refpeer.Action, bool) {
	if ev.Kind == refpeer.DataStart {
		return refpeer.Action{}, false
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.victim == nil || l.victim.id != ev.Conn {
		return refpeer.Action{}, false
	}
	n := l.events
	l.events++
	if n != l.plan.event {
		return refpeer.Action{}, false
	}
	l.victim.ended = time.Now()
	return refpeer.Action{Reply: deathWords, Close: true}, true
}

// traced sees what crosses the network. The network is locked meanwhile.
func (l *deathListener) traced(s netsim.Segment) {
	if s.From.Addr().String() != proxyHost || s.To.String() != mxAddr && s.To.String() != backendAddr || s.Len == 0 {
		return
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	text := l.armed && (bytes.Contains(s.Data, []byte(deathMark)) || l.b.c.secure && s.Len > deathLarge)
	if text {
		l.texts = append(l.texts, s)
	}
	if !l.armed || l.plan.cross < 0 || !text && !l.plan.first {
		return
	}
	wait, from := l.plan.cross, s.From
	l.plan.cross = -1 // once
	time.AfterFunc(wait, func() { l.strike(from) })
}

// strike ends a connection from outside.
func (l *deathListener) strike(from netip.AddrPort) {
	l.mu.Lock()
	i := slices.IndexFunc(l.conns, func(c *deathConn) bool { return c.RemoteAddr().String() == from.String() })
	if i < 0 { // not here yet: it dies at its first word
		l.plan.wrote = 0
		l.mu.Unlock()
		return
	}
	c := l.conns[i]
	l.victim = c // if another one was claimed before, it was not the one with the text
	l.mu.Unlock()
	_ = c.end()
}
