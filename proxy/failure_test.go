package proxy

import (
	"bufio"
	"bytes"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"pgregory.net/rapid"

	"slipstream/bench/refpeer"
)

// The death matrix. A hop dies or lies at every event of a conversation, in
// every way that was thought of; what a client must see is the same for all.

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
		b.inbound(func(in *InboundConfig) { in.Backend.LMTP, in.BackendTLS = b.hop.LMTP, level })
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

// A failClient speaks as an MTA does and believes nothing: every reply must be
// well-formed, in time, and fit its command.
type failClient struct {
	conn net.Conn
	r    *bufio.Reader
	over bool // heard 421
	took time.Duration
}

func (b *failBench) failClient() (*failClient, error) {
	conn, err := b.net.Dial(b.t.Context(), clientHost, b.at)
	if err != nil {
		return nil, err
	}
	b.t.Cleanup(func() { _ = conn.Close() })
	c := &failClient{conn: conn, r: bufio.NewReader(conn)}
	if _, err := c.reply("greeting", 0, 2); err != nil {
		return nil, err
	}
	_, err = c.ask("EHLO client.example", 0, 2)
	return c, err
}

// reply reads one, which must come within limit and be of one of the classes.
func (c *failClient) reply(to string, limit time.Duration, classes ...int) (string, error) {
	begun := time.Now()
	_ = c.conn.SetReadDeadline(begun.Add(time.Hour)) // virtual
	first, all := "", ""
	for {
		line, err := c.r.ReadString('\n')
		if err != nil {
			return all, fmt.Errorf("%s: %w, with %q read", to, err, all+line)
		}
		all += line
		if len(line) < 5 || !strings.HasSuffix(line, "\r\n") || strings.Trim(line[:3], "0123456789") != "" || line[3] != ' ' && line[3] != '-' {
			return all, fmt.Errorf("%s: malformed reply %q", to, all)
		}
		if first == "" {
			first = line[:3]
		}
		if line[:3] != first {
			return all, fmt.Errorf("%s: the code changed: %q", to, all)
		}
		if line[3] == ' ' {
			break
		}
	}
	if c.took = time.Since(begun); c.took > limit {
		return all, fmt.Errorf("%s: answered after %v, the limit is %v: %q", to, c.took, limit, all)
	}
	c.over = c.over || first == "421"
	for _, class := range classes {
		if first[0] == byte('0'+class) {
			return strings.TrimSuffix(all, "\r\n"), nil
		}
	}
	return all, fmt.Errorf("%s: answered %q, not with a class of %v", to, all, classes)
}

func (c *failClient) ask(line string, limit time.Duration, classes ...int) (string, error) {
	if _, err := c.conn.Write([]byte(line + "\r\n")); err != nil {
		return "", fmt.Errorf("%s: %w", line, err)
	}
	return c.reply(line, limit, classes...)
}

// Limits on our answers, as the documentation of the timeouts has them. Saying
// goodbye to a hop may cost a moment more.
const (
	failEnvelope = 4*time.Minute + 2*time.Second
	failFinal    = 9*time.Minute + 30*time.Second + 2*time.Second
)

// failStyles are the ways in which clients send.
func failStyles() []string { return []string{"lock", "flight", "bdat"} }

// failAll: every case with every style, which takes minutes. Else the cases take
// turns, so that a run is a matter of seconds.
func failAll() bool { return os.Getenv("SLIPSTREAM_FAILURES") == "all" }

// failTurns picks the styles for the nth of many cases.
func failTurns(n int) []string {
	if all := failStyles(); !failAll() {
		return all[n%len(all):][:1]
	}
	return failStyles()
}

// A failResult is what a client heard about one message.
type failResult struct {
	mail, final string
	rcpts       []string
}

func (r failResult) ok() bool { return strings.HasPrefix(r.final, "2") }

func failText(id string) string { return "X-Id: " + id + "\r\n\r\n.dot\r\nend " + id + "\r\n" }

// send has one message sent to two recipients.
func (c *failClient) send(style, id string) (res failResult, err error) {
	mail := "MAIL FROM:<" + id + "@client.example>"
	to := []string{"RCPT TO:<one@example.org>", "RCPT TO:<two@example.org>"}
	text := failText(id)
	classes := []int{2, 4, 5}
	ask := c.ask
	switch style {
	case "flight":
		_, err = c.conn.Write([]byte(mail + "\r\n" + strings.Join(to, "\r\n") + "\r\nDATA\r\n"))
		ask = c.reply
	case "bdat":
		_, err = c.conn.Write([]byte(mail + "\r\n" + strings.Join(to, "\r\n") + fmt.Sprintf("\r\nBDAT %d LAST\r\n", len(text)) + text))
		ask = c.reply
	}
	if err != nil {
		return res, err
	}
	if res.mail, err = ask(mail, failEnvelope, classes...); err != nil || c.over {
		return res, err
	}
	if style == "lock" && res.mail[0] != '2' {
		return res, nil
	}
	accepted := 0
	for _, line := range to {
		r, err := ask(line, failEnvelope, classes...)
		if res.rcpts = append(res.rcpts, r); err != nil || c.over {
			return res, err
		}
		if r[0] == '2' {
			accepted++
		}
	}
	if style == "bdat" {
		res.final, err = c.reply("BDAT", failFinal, classes...)
		return res, err
	}
	if style == "lock" && accepted == 0 {
		return res, nil
	}
	r, err := ask("DATA", failEnvelope, 3, 4, 5)
	if err != nil || c.over || r[0] != '3' {
		return res, err
	}
	stuffed := strings.ReplaceAll(text, "\r\n.", "\r\n..") + ".\r\n"
	if _, err := c.conn.Write([]byte(stuffed)); err != nil {
		return res, err
	}
	res.final, err = c.reply("the text", failFinal, classes...)
	return res, err
}

// inStep makes sure that the session is where the client thinks it is.
func (c *failClient) inStep() error {
	for _, line := range []string{"NOOP", "RSET"} {
		want := map[string]string{"NOOP": "250 2.0.0 ok", "RSET": "250 2.0.0 reset"}[line]
		if r, err := c.ask(line, 0, 2); err != nil || r != want {
			return fmt.Errorf("out of step: %s was answered %q (%v)", line, r, err)
		}
	}
	return nil
}

// wantEnd makes sure that nothing comes but the end, soon.
func (c *failClient) wantEnd() error {
	_ = c.conn.SetReadDeadline(time.Now().Add(5 * time.Second))
	if rest, err := io.ReadAll(c.r); err != nil || len(rest) > 0 {
		return fmt.Errorf("want the end, got %q, %v", rest, err)
	}
	return nil
}

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
		if want := failText(id); string(m.Body) != want {
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
		sent = sent || bytes.Contains(conn.Received.Data, whole)
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

// A failEvent is a moment at which a hop may fail.
type failEvent struct {
	name  string
	match func(refpeer.Event) bool
	start bool // no reply is due: words come on top
	tls   bool // there is no such moment without TLS
}

func failEvents(s failSetup) []failEvent {
	greet := "EHLO"
	if s.kind.name == "lmtp" {
		greet = "LHLO"
	}
	command := func(verb string, n int) func(refpeer.Event) bool {
		return func(ev refpeer.Event) bool {
			return ev.Kind == refpeer.Command && ev.Verb == verb && (ev.N == n || verb == "RCPT" && ev.N%2 == n || verb != "RCPT" && verb != greet)
		}
	}
	events := []failEvent{
		{name: "the greeting", match: func(ev refpeer.Event) bool { return ev.Kind == refpeer.Connect }},
		{name: greet, match: command(greet, 0)},
		{name: "MAIL", match: command("MAIL", 0)},
		{name: "the first RCPT", match: command("RCPT", 0)},
		{name: "the second RCPT", match: command("RCPT", 1)},
		{name: "DATA", match: command("DATA", 0)},
		{name: "the beginning of the text", start: true, match: func(ev refpeer.Event) bool { return ev.Kind == refpeer.DataStart }},
		{name: "the end of the text", match: func(ev refpeer.Event) bool { return ev.Kind == refpeer.EndOfData }},
		{name: "the last verdict", match: func(ev refpeer.Event) bool { return ev.Kind == refpeer.EndOfData && ev.Rcpt == 1 }},
		{name: "RSET", match: command("RSET", 0)},
		{name: "QUIT", match: command("QUIT", 0)},
	}
	if s.kind.old {
		events = append(events, failEvent{name: "HELO", match: command("HELO", 0)})
	}
	if s.tls != nil {
		events = append(events, failEvent{name: "STARTTLS", tls: true, match: command("STARTTLS", 0)},
			failEvent{name: greet + " inside TLS", tls: true, match: command(greet, 1)})
	}
	return events
}

// failFaults is everything that goes wrong at one moment.
func failFaults(at failEvent) []failFault {
	var list []failFault
	add := func(name string, f failFault, do func(ev refpeer.Event) refpeer.Action) {
		f.name, f.at, f.do = name+" at "+at.name, at.match, do
		list = append(list, f)
	}
	if at.start {
		liar := failFault{name: "250 before the text is there, 550 behind it", lies: true, permanent: true}
		liar.at = func(ev refpeer.Event) bool { return at.match(ev) || ev.Kind == refpeer.EndOfData }
		liar.do = func(ev refpeer.Event) refpeer.Action {
			if ev.Kind == refpeer.EndOfData {
				return refpeer.Say("550 5.0.0 late")
			}
			return refpeer.Say("250 2.0.0 early")
		}
		list = append(list, liar)
	}
	act := func(a refpeer.Action) func(refpeer.Event) refpeer.Action {
		return func(refpeer.Event) refpeer.Action { return a }
	}
	add("close", failFault{}, act(refpeer.Action{Close: true}))
	add("reset", failFault{}, act(refpeer.Action{Reset: true}))
	add("stall", failFault{}, act(refpeer.Action{Stall: true}))
	add("silence", failFault{lies: true}, act(refpeer.Action{Silent: true}))
	add("421 and close", failFault{closes421: true}, act(refpeer.Action{Reply: "421 4.3.2 going away\r\n", Close: true}))
	add("421 and stay", failFault{closes421: true, lies: true}, act(refpeer.Say("421 4.3.2 going away")))
	add("451", failFault{lies: at.start}, act(refpeer.Say("451 4.3.0 not now")))
	add("550", failFault{lies: at.start, permanent: true}, act(refpeer.Say("550 5.7.1 never")))
	add("550 and close", failFault{permanent: true}, act(refpeer.Action{Reply: "550 5.7.1 never\r\n", Close: true}))
	for _, garbage := range []string{"\x00\xff\xfe\r\n", "hello\r\n", "250 2.0.0 ok\n", "250-a\r\n251 b\r\n", "600 high\r\n", "150 low\r\n",
		"25\r\n", "\r\n", "250\t2.0.0 ok\r\n", "250 " + strings.Repeat("x", 5000) + "\r\n"} {
		add(fmt.Sprintf("garbage %.12q", garbage), failFault{lies: true}, act(refpeer.Action{Reply: garbage}))
	}
	for _, wrong := range []string{"220 what", "250 2.0.0 what", "354 what", "221 2.0.0 what"} {
		add("wrong reply "+wrong, failFault{lies: true, permanent: true}, act(refpeer.Say(wrong)))
	}
	add("half a reply and close", failFault{}, act(refpeer.Action{Reply: "250-2.0.0 he", Close: true}))
	add("half a reply and stall", failFault{}, act(refpeer.Action{Reply: "250-2.0.0 half\r\n", Stall: true}))
	if !at.start {
		add("twice", failFault{lies: true}, act(refpeer.Action{Twice: true}))
		for _, early := range []string{"250 2.0.0 early", "550 5.0.0 early", "421 4.0.0 early"} {
			add("too early "+early, failFault{lies: true, permanent: true, closes421: true}, func(ev refpeer.Event) refpeer.Action {
				return refpeer.Action{Reply: ev.Reply + "\r\n" + early + "\r\n"}
			})
		}
	}
	return list
}

// clean sends a message without a fault, to measure by.
func clean(t *testing.T, s failSetup, style string) (octets int64) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) {
		b := newFailBench(t, s)
		c, err := b.failClient()
		if err != nil {
			t.Fatal(err)
		}
		if res, err := c.send(style, "clean"); err != nil || !res.ok() {
			t.Fatal(res, err)
		}
		conns := b.hop.Connections()
		octets = conns[len(conns)-1].WireReceived.Total
	})
	return octets
}

// TestFailureAtEveryOctet breaks the connection when the hop has read so many
// octets, for every number of them.
func TestFailureAtEveryOctet(t *testing.T) {
	failEach(t, func(t *testing.T, s failSetup) {
		t.Parallel()
		for i, style := range failStyles() {
			total, step := clean(t, s, style), int64(1)
			if s.tls != nil {
				step = 97 // the handshake alone is two thousand octets
			}
			for n := int64(1); n <= total; n += step {
				for way := range int64(4) {
					cut := refpeer.Cut{After: n, Reset: way&1 != 0, Answered: way&2 != 0}
					if failAll() || (n+int64(i))%4 == way {
						failCase(t, s, failFault{name: fmt.Sprintf("%+v", cut), cut: cut, lies: true}, style)
					}
				}
			}
		}
	})
}

// TestFailureInsideFinalReply ends the verdict at every octet of it.
func TestFailureInsideFinalReply(t *testing.T) {
	const verdict = "250-2.0.0 taken\r\n250 2.0.0 queued as 4F\r\n"
	failEach(t, func(t *testing.T, s failSetup) {
		t.Parallel()
		for n := range len(verdict) + 1 {
			for i, a := range []refpeer.Action{{Close: true}, {Reset: true}, {Stall: true}} {
				a.Reply = verdict[:n]
				fault := failFault{name: fmt.Sprintf("%d octets of the verdict, then %+v", n, a)}
				fault.at = func(ev refpeer.Event) bool { return ev.Kind == refpeer.EndOfData }
				fault.do = func(refpeer.Event) refpeer.Action { return a }
				for _, style := range failTurns(n + i) {
					failCase(t, s, fault, style)
				}
			}
		}
	})
}

func TestFailureInHandshake(t *testing.T) {
	failEach(t, func(t *testing.T, s failSetup) {
		if s.tls == nil {
			return
		}
		for _, style := range failStyles() {
			failCase(t, s, failFault{name: "alert", handshake: func(*tls.ClientHelloInfo) error { return errors.New("no") }}, style)
			failCase(t, s, failFault{name: "stall", handshake: func(hello *tls.ClientHelloInfo) error {
				<-hello.Context().Done()
				return hello.Context().Err()
			}}, style)
		}
	})
}

func TestFailureAtEveryEvent(t *testing.T) {
	failEach(t, func(t *testing.T, s failSetup) {
		t.Parallel()
		for n, at := range failEvents(s) {
			for i, fault := range failFaults(at) {
				if s.tls != nil && !at.tls && (n+i)%3 != 0 && !failAll() {
					continue // what is inside TLS is as outside
				}
				for _, style := range failTurns(i) {
					failCase(t, s, fault, style)
				}
			}
		}
	})
}

// A failStep is one transaction of a random session.
type failStep struct {
	style string
	fault *failFault
}

// TestFailureRandomSessions has several messages sent on one connection to a hop
// that now and then fails in any way.
func TestFailureRandomSessions(t *testing.T) {
	kinds := failKinds()
	rapid.Check(t, func(rt *rapid.T) {
		s := failSetup{inbound: rapid.Bool().Draw(rt, "inbound"), kind: kinds[rapid.IntRange(0, len(kinds)-1).Draw(rt, "kind")]}
		events := failEvents(s)
		var steps []failStep
		for range rapid.IntRange(2, 6).Draw(rt, "messages") {
			step := failStep{style: rapid.SampledFrom(failStyles()).Draw(rt, "style")}
			if rapid.IntRange(0, 2).Draw(rt, "in order") > 0 {
				at := events[rapid.IntRange(0, len(events)-1).Draw(rt, "event")]
				faults := failFaults(at)
				step.fault = &faults[rapid.IntRange(0, len(faults)-1).Draw(rt, "fault")]
				rt.Log(s, step.style, step.fault.name)
			}
			steps = append(steps, step)
		}
		var err error
		synctest.Test(t, func(t *testing.T) { err = failSession(newFailBench(t, s), s, steps) })
		if err != nil {
			rt.Fatal(err)
		}
	})
}

func failSession(b *failBench, s failSetup, steps []failStep) error {
	c, err := b.failClient()
	if err != nil {
		return err
	}
	heard := make(map[string]failResult)
	for i, step := range steps {
		id := fmt.Sprintf("message%d", i)
		if c, heard[id], err = b.one(c, s, step.fault, step.style, id); err != nil {
			return fmt.Errorf("%s: %w", id, err)
		}
	}
	for id, res := range heard { // nothing may have followed
		if err := b.truthful(id, res); err != nil {
			return err
		}
	}
	if _, err := c.ask("QUIT", 0, 2); err != nil {
		return err
	}
	return c.wantEnd()
}
