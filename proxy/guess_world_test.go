package proxy

import (
	"bytes"
	"context"
	"crypto/tls"
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"slipstream/bench/netsim"
	"slipstream/bench/refpeer"
	"slipstream/tlsstore"
)

// A machine is what answers at an address of a hop.
type machine struct {
	keywords refpeer.Keywords
	tls      bool // offers STARTTLS, or begins with TLS where the case has it so
	strict   bool // looks whether it was spoken to before its turn, and ends the connection then
	old      bool // knows HELO alone
	rcpts    map[string]string
	finals   map[string]string
	behave   func(refpeer.Event) refpeer.Action
}

// A guessed is a hop that was known, what it has become, and what comes of that.
type guessed struct {
	name string
	was  machine // no keywords: everything, and PIPECONNECT
	now  machine // no keywords: as it was
	// odd is what it does besides on the first connection if it is spoken to early there.
	odd func(refpeer.Event) refpeer.Action

	policy   string // default "none"
	implicit bool
	lmtp     bool // the hop is a relay that speaks it
	badCert  bool // once TLS is up, it wants to see a certificate of ours
	offer    []string
	mail     refpeer.Mail // parts that are empty are the usual
	styles   []refpeer.Style

	// What the hop hears, connection by connection. "E" is EHLO, "S" STARTTLS, "M" MAIL and every RCPT, "B" BDAT LAST and
	// the text, "D" DATA, "T" text and dot, "Q" QUIT.
	heard    string
	heardBit string                   // where the text does not go along: default heard
	doubt    bool                     // a text was under way, and nobody can know (P2)
	heardAs  map[refpeer.Style]string // where a style is neither
	spent    [3]string                // what the record says, in the order of the styles: trips, and those saved
	after    [3]string                // and of the next message
	slow     bool                     // it may take longer than finding a hop may
	hopeless bool                     // nothing arrives there, whatever is tried
	codes    bool                     // in lock step, replies are the same but for their words
}

func (g guessed) withDefaults() guessed {
	if g.was.keywords.Size == 0 && len(g.was.keywords.Extra) == 0 && !g.was.keywords.Pipelining {
		g.was.keywords = early()
	}
	if k := g.now.keywords; k.Size == 0 && len(k.Extra) == 0 && !k.Pipelining && !k.Chunking && !g.now.old {
		g.now.keywords, g.now.tls = g.was.keywords, g.was.tls
	}
	if g.policy == "" {
		g.policy = "none"
	}
	if g.mail.From == "" {
		g.mail.From = "a@client.example"
	}
	if len(g.mail.To) == 0 {
		g.mail.To = []string{"b@example.org"}
	}
	if g.mail.Body == nil {
		g.mail.Body = []byte(tripBody)
	}
	if g.styles == nil {
		g.styles = []refpeer.Style{refpeer.LockStep, refpeer.Pipelining, refpeer.Chunking}
	}
	if g.heardBit == "" {
		g.heardBit = g.heard
	}
	return g
}

// along tells whether the text goes along with an early envelope.
func (g guessed) along(style refpeer.Style) bool {
	one := len(g.mail.To) == 1
	if g.policy == "may" && !g.was.tls || len(g.mail.Body) > maxAhead {
		return false
	}
	return !g.lmtp && g.was.keywords.Chunking && (style == refpeer.Chunking || style == refpeer.Pipelining && one)
}

// server makes a server of a machine. odd: it is not the one that lock step meets.
func (g guessed) server(m machine, cert testCert, odd bool) *refpeer.Server {
	s := &refpeer.Server{
		Keywords: m.keywords, StrictLockstep: m.strict, Old: m.old, LMTP: g.lmtp, Implicit: g.implicit,
		RcptReplies: m.rcpts, FinalReplies: m.finals,
	}
	if m.tls {
		s.TLS = cert.server()
		if g.badCert && m.strict {
			s.TLS.ClientAuth = tls.RequireAnyClientCert
		}
	}
	s.Behave = func(ev refpeer.Event) refpeer.Action {
		if odd && g.odd != nil && ev.Conn == 0 {
			if a := g.odd(ev); a != (refpeer.Action{}) {
				return a
			}
		}
		if m.behave != nil {
			if a := m.behave(ev); a != (refpeer.Action{}) {
				return a
			}
		}
		if m.strict && ev.Kind == refpeer.Connect {
			return refpeer.Action{Delay: time.Second} // to see what comes
		}
		return refpeer.Action{}
	}
	return s
}

// A stand is an address at which one server answers after another.
type stand struct {
	mu   sync.Mutex
	pick func(n int) *refpeer.Server
	n    int
}

// become has a server answer from now on.
func (s *stand) become(srv *refpeer.Server) { s.choose(func(int) *refpeer.Server { return srv }) }

func (s *stand) choose(pick func(n int) *refpeer.Server) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.pick, s.n = pick, 0
}

func (s *stand) next() *refpeer.Server {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.n++
	return s.pick(s.n - 1)
}

// stand opens an address.
func (w *world) stand(addr string) *stand {
	w.t.Helper()
	ln, err := w.net.Listen(addr)
	if err != nil {
		w.t.Fatal(err)
	}
	s := &stand{}
	ctx, cancel := context.WithCancel(context.Background())
	var wg sync.WaitGroup
	wg.Go(func() {
		for {
			conn, err := ln.Accept()
			if err != nil {
				return
			}
			srv := s.next()
			wg.Go(func() { srv.ServeConn(ctx, conn) })
		}
	})
	w.t.Cleanup(func() {
		cancel()
		_ = ln.Close()
		wg.Wait()
	})
	return s
}

// overheard collects what is sent to an address, connection by connection.
type overheard struct {
	mu    sync.Mutex
	to    netip.AddrPort
	from  []netip.AddrPort
	heard map[netip.AddrPort]*bytes.Buffer
}

func (w *world) overhear(addr string) *overheard {
	o := &overheard{to: netip.MustParseAddrPort(addr), heard: make(map[netip.AddrPort]*bytes.Buffer)}
	w.net.TraceData = 1 << 20
	w.net.Trace = func(s netsim.Segment) {
		if s.To != o.to {
			return
		}
		o.mu.Lock()
		defer o.mu.Unlock()
		if o.heard[s.From] == nil {
			o.heard[s.From] = &bytes.Buffer{}
			o.from = append(o.from, s.From)
		}
		o.heard[s.From].Write(s.Data)
	}
	return o
}

// take returns what was heard since it was last asked.
func (o *overheard) take() []string {
	o.mu.Lock()
	defer o.mu.Unlock()
	var all []string
	for _, from := range o.from {
		all = append(all, o.heard[from].String())
	}
	o.from, o.heard = nil, make(map[netip.AddrPort]*bytes.Buffer)
	return all
}

const guessRTT = 100 * time.Millisecond

// A guessRun is what was seen of one message through a door.
type guessRun struct {
	replies  []string // to the client, from MAIL on
	bodies   []string // that the hop has
	heard    []string // what the hop was sent, by connection, TLS removed
	sum      Summary
	next     Summary
	nextSaid []string
	pipes    bool // is it known now that the hop may be spoken to early?
	took     time.Duration
}

// run has a client send one message to a hop that was met before, and another
// behind it. inStep: hops are never spoken to early.
func (g guessed) run(t *testing.T, cert testCert, style refpeer.Style, inStep bool) (r guessRun) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		w.remember(tlsstore.Memory())
		w.net.SetLink(proxyHost, mxHost, netsim.Link{Delay: guessRTT / 2})
		at, ears := w.stand(mxAddr), w.overhear(mxAddr)
		at.become(g.server(g.was, cert, false))
		w.outbound(func(o *OutboundConfig) { g.door(o, cert, inStep) })
		w.start()
		said, err := w.guessSend(style, refpeer.Mail{}, g)
		hopeless := g.hopeless || !g.was.tls && (g.policy == "encrypt" || g.policy == "verify")
		if err != nil || !positive(said) && !hopeless {
			t.Fatalf("nothing was learned: %v, %q", err, said)
		}
		if !inStep && !w.pipes(g.was.tls && g.policy != "none") {
			t.Fatal("the hop is not known")
		}
		time.Sleep(time.Second)
		now := g.server(g.now, cert, !inStep)
		at.become(now)
		ears.take()
		start := time.Now()
		if r.replies, err = w.guessSend(style, g.mail, g); err != nil {
			t.Errorf("the client broke off: %v", err)
		}
		r.took = time.Since(start)
		r.sum, r.pipes = w.last(), w.pipes(g.secured())
		time.Sleep(time.Second)
		r.heard = ears.take()
		if g.secured() { // to the network, what matters is a secret
			for i, c := range now.Connections() {
				if c.Received.Total > 0 { // else nothing was read
					r.heard[i] = string(c.Received.Data)
				}
			}
		}
		for _, m := range now.Messages() {
			r.bodies = append(r.bodies, fmt.Sprintf("%q %q", m.Rcpts, m.Body))
		}
		if r.nextSaid, err = w.guessSend(style, refpeer.Mail{}, g); err != nil {
			t.Errorf("the next one broke off: %v", err)
		}
		r.next = w.last()
		if n := len(now.Messages()) - len(r.bodies); positive(r.nextSaid) != (n == 1) || n > 1 {
			t.Errorf("the next one was answered %q and arrived %d times", r.nextSaid, n)
		}
	})
	return r
}

func (g guessed) secured() bool { return g.now.tls && g.policy != "none" }

func (g guessed) door(o *OutboundConfig, cert testCert, inStep bool) {
	o.TLS = g.policy
	o.PostQuantum = false // nobody looks at the keys here
	o.Offer = append(o.Offer, g.offer...)
	if inStep {
		o.HostsPipeConnect = Prefixes{}
	}
	if g.policy == "verify" || g.policy == "encrypt" {
		o.TLSCAFile = cert.certFile
	}
	if g.implicit || g.lmtp {
		o.Route, o.Offer = "", nil
		o.Relay = Endpoint{Host: mxHost, Port: 25, TLS: g.implicit, LMTP: g.lmtp}
	}
}

// guessSend sends a mail over a connection of its own and returns the replies
// from MAIL on.
func (w *world) guessSend(style refpeer.Style, m refpeer.Mail, g guessed) ([]string, error) {
	w.t.Helper()
	if m.From == "" {
		m.From, m.To, m.Body = "a@client.example", []string{"b@example.org"}, []byte(tripBody)
	}
	conn, err := w.net.Dial(w.t.Context(), clientHost, outboundAt)
	if err != nil {
		w.t.Fatal(err)
	}
	defer conn.Close()
	c := &refpeer.Client{Style: style, Conn: conn, Timeout: 10 * time.Minute}
	r, err := c.Send(w.t.Context(), m)
	var said []string
	for _, x := range r.Log {
		if x.Command != "greeting" && !strings.HasPrefix(x.Command, "EHLO") {
			said = append(said, x.Reply.String())
		}
	}
	if len(said) == 0 {
		said = []string{"nothing"}
	}
	_ = c.Quit(w.t.Context()) // it may be over
	synctest.Wait()
	return said, err
}

// pipes tells whether it is known that the hop may be spoken to early.
func (w *world) pipes(secured bool) bool {
	phase := tlsstore.Clear
	if secured {
		phase = tlsstore.Secured
	}
	key := tlsstore.PeerKey{Addr: netip.MustParseAddrPort(mxAddr), Hello: "proxy.example", Phase: phase}
	known, ok := w.store.Known(key)
	return ok && known.PipeConnect() && known.Has("PIPELINING")
}

// octets writes out what "E M B|E M D T Q" stands for.
func (g guessed) octets(short string, mail refpeer.Mail) []string {
	hello, params := "EHLO", ""
	if g.lmtp {
		hello = "LHLO"
	}
	if mail.Params != "" {
		params = " " + mail.Params
	}
	envelope := "MAIL FROM:<" + mail.From + ">" + params + "\r\n"
	bare := "MAIL FROM:<" + mail.From + ">\r\n"
	rcpts, bareRcpts := "", ""
	for _, to := range mail.To {
		rcpts += strings.TrimSuffix("RCPT TO:<"+to+"> "+mail.RcptParams, " ") + "\r\n"
		bareRcpts += "RCPT TO:<" + to + ">\r\n"
	}
	words := map[string]string{
		"E": hello + " proxy.example\r\n", "H": "HELO proxy.example\r\n", "S": "STARTTLS\r\n",
		"M": envelope + rcpts, "m": bare + bareRcpts, "M1": envelope + rcpts[:strings.Index(rcpts, "\n")+1], "D": "DATA\r\n",
		"B": fmt.Sprintf("BDAT %d LAST\r\n%s", len(mail.Body), mail.Body), "T": string(mail.Body) + ".\r\n", "Q": "QUIT\r\n",
	}
	var all []string
	for conn := range strings.SplitSeq(short, "|") {
		said := ""
		for word := range strings.FieldsSeq(conn) {
			said += words[word]
		}
		all = append(all, said)
	}
	return all
}

// check plays a case in every style, in lock step too, and compares.
func (g guessed) check(t *testing.T) {
	t.Parallel()
	g = g.withDefaults()
	cert := newTestCert(t, "mx.example.org")
	for _, style := range g.styles {
		t.Run(style.String(), func(t *testing.T) {
			inStep, got := g.run(t, cert, style, true), g.run(t, cert, style, false)
			heard := g.heardBit
			if g.along(style) {
				heard = g.heard
			}
			if as, ok := g.heardAs[style]; ok {
				heard = as
			}
			if got.took > 4*time.Minute+time.Second && !g.slow {
				t.Errorf("it took %v", got.took)
			}
			g.checkRecord(t, style, got)
			if want := g.octets(heard, g.mail); heard != "" && !slices.Equal(got.heard, want) {
				t.Errorf("the hop heard\n%q, want\n%q", got.heard, want)
			}
			if g.doubt && g.along(style) {
				g.checkDoubt(t, got)
				return
			}
			if g.codes {
				got.replies, inStep.replies = codesOf(got.replies), codesOf(inStep.replies)
			}
			if !slices.Equal(got.replies, inStep.replies) {
				t.Errorf("the client heard\n%q, in lock step\n%q", got.replies, inStep.replies)
			}
			if !slices.Equal(got.bodies, inStep.bodies) {
				t.Errorf("the hop has\n%q, in lock step\n%q", got.bodies, inStep.bodies)
			}
		})
	}
}

// checkRecord looks at what the records of both messages say.
func (g guessed) checkRecord(t *testing.T, style refpeer.Style, got guessRun) {
	t.Helper()
	i := slices.Index([]refpeer.Style{refpeer.LockStep, refpeer.Pipelining, refpeer.Chunking}, style)
	if now := costs(got.sum); g.spent[i] != "" && now != g.spent[i] {
		t.Errorf("the record says %q, want %q", now, g.spent[i])
	}
	if next := costs(got.next); g.after[i] != "" && next != g.after[i] {
		t.Errorf("the next record says %q, want %q", next, g.after[i])
	}
	early, served := strings.Contains(costs(got.next), "early"), got.next.Relay != ""
	if early != got.pipes && served && g.policy == "none" {
		t.Errorf("the hop is known: %v, and the next message was early: %v", got.pipes, early)
	}
}

// costs writes what a record says about trips.
func costs(s Summary) string {
	return strings.TrimSuffix(fmt.Sprintf("%d %s", s.Trips, s.Saved), " ")
}

func codesOf(said []string) (codes []string) {
	for _, s := range said {
		codes = append(codes, s[:min(len(s), 3)])
	}
	return codes
}

func positive(said []string) bool { return strings.HasPrefix(said[len(said)-1], "250 ") }

func (g guessed) checkDoubt(t *testing.T, got guessRun) {
	t.Helper()
	doubt := func(s string) bool { return strings.HasPrefix(s, "451 4.4.2 ") }
	if !slices.ContainsFunc(got.replies, doubt) || positive(got.replies) {
		t.Errorf("the client heard %q, want 451 4.4.2", got.replies)
	}
	if !got.sum.InDoubt {
		t.Error("the record has no doubt")
	}
	if len(got.bodies) > 1 {
		t.Errorf("the hop has %q", got.bodies)
	}
}

// greets, says and judges are what a machine does at the greeting, at a command,
// and at the end of a text.
func greets(a refpeer.Action) func(refpeer.Event) refpeer.Action {
	return atEvent(refpeer.Connect, "", a)
}

func says(verb string, a refpeer.Action) func(refpeer.Event) refpeer.Action {
	return atEvent(refpeer.Command, verb, a)
}

func judges(a refpeer.Action) func(refpeer.Event) refpeer.Action {
	return atEvent(refpeer.EndOfData, "BDAT", a)
}

// atEvent is what a machine does at one event, and only there.
func atEvent(kind refpeer.Kind, verb string, a refpeer.Action) func(refpeer.Event) refpeer.Action {
	return func(ev refpeer.Event) refpeer.Action {
		if ev.Kind == kind && (kind == refpeer.Connect || ev.Verb == verb) {
			return a
		}
		return refpeer.Action{}
	}
}
