package proxy

import (
	"bytes"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"os"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"slipstream/bench/refpeer"
)

// The proxy, the hops and the rules of the death matrix.

// A failKind is a sort of next hop.
type failKind struct {
	name   string
	server func() *refpeer.Server
	old    bool // knows no EHLO in clear
}

func failKinds() []failKind {
	return []failKind{
		{name: "chunking", server: func() *refpeer.Server { return &refpeer.Server{Keywords: refpeer.Modern()} }},
		{name: "data", server: func() *refpeer.Server {
			k := refpeer.Modern()
			k.Chunking = false
			return &refpeer.Server{Keywords: k}
		}},
		{name: "lockstep", old: true, server: func() *refpeer.Server { return &refpeer.Server{StrictLockstep: true} }},
		{name: "lmtp", server: func() *refpeer.Server { return &refpeer.Server{LMTP: true, Keywords: refpeer.Modern()} }},
	}
}

// A failFault is what a hop does wrong while it is out of order.
type failFault struct {
	name      string
	at        func(refpeer.Event) bool
	do        func(refpeer.Event) refpeer.Action
	cut       refpeer.Cut
	handshake func(*tls.ClientHelloInfo) error
	permanent bool // says 5xx itself, so the client may hear one
	closes421 bool // says 421, which an inbound client hears as it is
	lies      bool // makes our next commands wrong: violations are its own fault
}

// A failSetup is one place in the matrix.
type failSetup struct {
	inbound bool
	kind    failKind
	tls     *testCert // nil: clear
}

func (s failSetup) String() string {
	door, tls := "outbound", "clear"
	if s.inbound {
		door = "inbound"
	}
	if s.tls != nil {
		tls = "tls"
	}
	return door + "/" + s.kind.name + "/" + tls
}

// A failBench is a proxy before a hop whose fault can be switched.
type failBench struct {
	*world
	hop      *refpeer.Server
	listener *hopsListener
	fault    atomic.Pointer[failFault] // nil: the hop is in order
	at       string                    // the door
}

func newFailBench(t *testing.T, s failSetup) *failBench {
	b := &failBench{world: newWorld(t), hop: s.kind.server(), at: outboundAt}
	b.hop.Old = s.kind.old && s.tls == nil
	b.hop.Behave = func(ev refpeer.Event) refpeer.Action {
		if fault := b.fault.Load(); fault != nil && fault.at != nil && fault.at(ev) {
			return fault.do(ev)
		}
		return refpeer.Action{}
	}
	b.hop.Cut = func(int) refpeer.Cut {
		if fault := b.fault.Load(); fault != nil {
			return fault.cut
		}
		return refpeer.Cut{}
	}
	level := "none"
	if s.tls != nil {
		level = "encrypt"
		b.hop.TLS = s.tls.server()
		b.hop.TLS.CurvePreferences = []tls.CurveID{tls.X25519} // there are thousands of handshakes
		b.hop.TLS.GetConfigForClient = func(hello *tls.ClientHelloInfo) (*tls.Config, error) {
			if fault := b.fault.Load(); fault != nil && fault.handshake != nil {
				return nil, fault.handshake(hello)
			}
			return nil, nil
		}
	}
	if s.inbound {
		b.at = inboundAt
		b.listen(backendAddr)
		b.judged(func(in *InboundConfig) { in.Backend.LMTP, in.BackendTLS = b.hop.LMTP, level }).wait = 3 * time.Millisecond
	} else {
		b.listen(mxAddr)
		b.outbound(func(out *OutboundConfig) {
			out.TLS, out.Offer = level, []string{"8BITMIME", "SMTPUTF8", "CHUNKING"}
			if b.hop.LMTP {
				out.Relay, out.Route = Endpoint{Host: mxHost, Port: 25, LMTP: true}, ""
			}
		})
	}
	b.start()
	return b
}

func (b *failBench) listen(addr string) {
	ln, err := b.net.Listen(addr)
	if err != nil {
		b.t.Fatal(err)
	}
	b.listener = &hopsListener{Listener: ln}
	b.hop.Start(b.listener)
	b.t.Cleanup(b.hop.Close)
}

// failAll: every case with every style, which takes minutes. Else the cases take
// turns, so that a run is a matter of seconds.
func failAll() bool { return os.Getenv("SLIPSTREAM_FAILURES") == "all" }

// truthful holds what the client heard against what the hop saw: P1 and P2.
func (b *failBench) truthful(id string, res failResult) error {
	marker, whole := []byte("X-Id: "+id+"\r\n"), []byte("end "+id+"\r\n")
	complete := 0
	var said []string
	for _, m := range append(b.hop.Messages(), b.hop.Refused()...) {
		if !bytes.Contains(m.Body, marker) {
			continue
		}
		complete++
		said = append(said, m.Final...)
		if got, want := belowResults(string(m.Body)), failText(id); got != want || b.at == inboundAt && got == string(m.Body) {
			return fmt.Errorf("P4: the hop has %q, not %q", m.Body, want)
		}
	}
	if complete > 1 {
		return fmt.Errorf("P2: the hop has message %s %d times", id, complete)
	}
	sent := false // wholly, on an earlier connection
	for _, conn := range b.hop.Connections() {
		if n := bytes.Count(conn.Received.Data, marker); n > 1 || n > 0 && sent {
			return fmt.Errorf("P2: the text of %s was sent again", id)
		}
		// Behind a refusal nothing was taken; where the text came to its end all the same, it is counted above.
		refused := bytes.Contains(conn.Sent.Data, []byte("\r\n4")) || bytes.Contains(conn.Sent.Data, []byte("\r\n5"))
		sent = sent || bytes.Contains(conn.Received.Data, whole) && !refused
	}
	if !res.ok() {
		return nil
	}
	if complete == 0 {
		return fmt.Errorf("P1: the client heard %q for a message that never reached the hop", res.final)
	}
	for _, r := range said {
		if !strings.HasPrefix(r, "2") {
			return fmt.Errorf("P1: the client heard %q, the hop said %q", res.final, said)
		}
	}
	if len(said) == 0 {
		return fmt.Errorf("P1: the client heard %q, the hop said nothing", res.final)
	}
	return nil
}

// doubtful makes sure that the log knows where nobody knows: the hop has the
// message, and its verdict did not arrive.
func (b *failBench) doubtful(id string, res failResult) error {
	synctest.Wait()
	taken := slices.ContainsFunc(b.hop.Messages(), func(m refpeer.Message) bool { return m.Sender() == id+"@client.example" })
	b.mu.Lock()
	defer b.mu.Unlock()
	for _, s := range b.done {
		if strings.HasPrefix(s.From, "<"+id+"@") && taken && !res.ok() && !s.InDoubt {
			return fmt.Errorf("the client heard %q of a message that the hop has, and the log sees no doubt: %+v", res.final, s)
		}
	}
	return nil
}

// gentle: nothing that the client heard may make it give up on the message, nor
// on us.
func gentle(s failSetup, fault failFault, res failResult) error {
	accepted := slices.ContainsFunc(res.rcpts, func(r string) bool { return r[0] == '2' })
	for i, r := range append([]string{res.mail, res.final}, res.rcpts...) {
		sense := i == 0 || i == 1 && accepted || i > 1 && res.mail[0] == '2' // else the command had none any more
		switch {
		case r == "":
		case r[0] == '5' && sense && !fault.permanent:
			return fmt.Errorf("a passing trouble became %q", r)
		case strings.HasPrefix(r, "421") && !s.inbound:
			return fmt.Errorf("the outbound door said %q", r)
		case strings.HasPrefix(r, "421") && !fault.closes421:
			return fmt.Errorf("421 out of nowhere: %q", r)
		}
	}
	return nil
}

// one has a message sent while the hop has a fault, or none. It returns the
// client to go on with: a new one where the old one was told to leave.
func (b *failBench) one(c *failClient, s failSetup, fault *failFault, style, id string) (*failClient, failResult, error) {
	b.fault.Store(fault)
	res, err := c.send(style, id)
	if err != nil {
		return c, res, err
	}
	if fault == nil {
		if fault = new(failFault); !res.ok() {
			return c, res, fmt.Errorf("the hop is in order, but: %+v", res)
		}
	}
	if err := errors.Join(gentle(s, *fault, res), b.truthful(id, res)); err != nil {
		return c, res, err
	}
	if !c.over {
		return c, res, c.inStep()
	}
	_ = c.conn.SetReadDeadline(time.Now().Add(5 * time.Second))
	if _, err := io.ReadAll(c.r); err != nil { // answers to the rest of the flight may come
		return c, res, fmt.Errorf("after 421: %w", err)
	}
	c, err = b.failClient()
	return c, res, err
}

// failRun breaks the hop for one message and mends it for the next.
func failRun(b *failBench, s failSetup, fault failFault, style string) error {
	c, err := b.failClient()
	if err != nil {
		return err
	}
	c, res, err := b.one(c, s, &fault, style, "broken")
	if err != nil {
		return err
	}
	if !fault.lies {
		if err := b.doubtful("broken", res); err != nil {
			return err
		}
	}
	if c, _, err = b.one(c, s, nil, style, "next"); err != nil {
		return fmt.Errorf("the next message: %w", err)
	}
	if err := b.truthful("broken", res); err != nil {
		return err
	}
	if _, err := c.ask("QUIT", 0, 2); err != nil {
		return err
	}
	if err := c.wantEnd(); err != nil {
		return err
	}
	if v := b.hop.Violations(); len(v) > 0 && !fault.lies {
		return fmt.Errorf("the hop saw violations: %v", v)
	}
	return nil
}

// failCase runs one case in a bubble of its own.
func failCase(t *testing.T, s failSetup, fault failFault, style string) {
	t.Helper()
	var err error
	synctest.Test(t, func(t *testing.T) { err = failRun(newFailBench(t, s), s, fault, style) })
	if err != nil {
		t.Errorf("%v: %s, client sends by %s: %v", s, fault.name, style, err)
	}
}

// failEach runs f for every place in the matrix.
func failEach(t *testing.T, f func(t *testing.T, s failSetup)) {
	cert := newTestCert(t, "mx.example.org")
	for _, kind := range failKinds() {
		for _, inbound := range []bool{true, false} {
			for _, secure := range []*testCert{nil, &cert} {
				s := failSetup{inbound: inbound, kind: kind, tls: secure}
				t.Run(s.String(), func(t *testing.T) { f(t, s) })
			}
		}
	}
}
