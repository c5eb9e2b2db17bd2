package proxy_test

import (
	"context"
	"crypto/sha256"
	"crypto/tls"
	"fmt"
	"net"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"go.uber.org/zap"

	"slipstream/bench/mta"
	"slipstream/bench/mta/mtatest"
	"slipstream/bench/refpeer"
	"slipstream/proxy"
)

// What a load is.
const (
	loadMessages = 2000
	loadSessions = 20
)

// loadModes are how many messages go over one connection.
var loadModes = []struct {
	name    string
	perConn int
}{{"one for each connection", 1}, {"many on one connection", loadMessages / loadSessions}}

// loadedDoor starts a proxy with one door to a peer that takes everything.
func loadedDoor(t *testing.T, door, peer string, cert realCert) *realProxy {
	t.Helper()
	cfg := realConfig(t)
	if door == doorInbound {
		addInbound(cfg, door, peer, func(in *proxy.InboundConfig) {
			in.BackendTrustsUs, in.AddReceived = true, false
			in.BackendTLS, in.TLSCert, in.TLSKey = "may", cert.certFile, cert.keyFile
		})
	} else {
		addOutbound(cfg, door, portOf(peer), func(out *proxy.OutboundConfig) {
			out.TLSCert, out.TLSKey = cert.certFile, cert.keyFile
			out.Offer = []string{"8BITMIME", "SMTPUTF8", "CHUNKING"}
		})
	}
	px, err := startRealErr(t, cfg, serveDomains(t, map[string]string{"b.test": peer}), zap.NewNop())
	if err != nil {
		t.Fatal(err)
	}
	return px
}

// sinkCount is the count of messages that smtp-sink keeps.
var sinkCount = regexp.MustCompile(`mesg=(\d+)`)

// Postfix's load generator on one side, its sink on the other: the generator
// ends well if every message was acknowledged, and the sink has counted as many.
func TestRealLoad(t *testing.T) {
	if testing.Short() {
		t.Skip("-short: thousands of messages take a while")
	}
	for _, door := range realDoors() {
		for _, mode := range loadModes {
			t.Run(door+" door, "+mode.name, func(t *testing.T) {
				args := []string{"-c"}
				if mode.perConn == 1 {
					args = append(args, "-p") // and in lock step
				}
				sink, err := mta.Sink{Args: args}.Start(mtatest.Context(t))
				mtatest.Check(t, err)
				t.Cleanup(func() { _ = sink.Stop() })
				px := loadedDoor(t, door, sink.Addr(), realCert{})
				source := mta.Source{
					Addr: px.at(door), To: "sink@b.test", LMTP: door == doorLMTP,
					Sessions: loadSessions, Messages: loadMessages, Length: 2000, Reuse: mode.perConn > 1,
				}
				start := time.Now()
				if err := source.Run(mtatest.Context(t)); err != nil {
					t.Fatal(err)
				}
				took := time.Since(start)
				count := func() int {
					all := sinkCount.FindAllStringSubmatch(sink.Output(), -1)
					if len(all) == 0 {
						return 0
					}
					n, _ := strconv.Atoi(all[len(all)-1][1])
					return n
				}
				awaitReal(t, "the sink's count", func() bool { return count() >= loadMessages })
				if n := count(); n != loadMessages {
					t.Errorf("%d messages came, %d were acknowledged", n, loadMessages)
				}
				t.Logf("%d messages in %v, %.0f per second", loadMessages, took.Round(time.Millisecond), loadMessages/took.Seconds())
			})
		}
	}
}

// Clients of every style, in clear and over TLS; every body arrives as it was
// sent, once. Each mode has half of the messages.
func TestRealLoadDigests(t *testing.T) {
	if testing.Short() {
		t.Skip("-short: thousands of messages take a while")
	}
	for _, door := range realDoors() {
		for _, mode := range loadModes {
			t.Run(door+" door, "+mode.name, func(t *testing.T) {
				at := realNeighbours(t, 1)[0]
				cert := newRealCert(t, "mx.b.test")
				pair, err := tls.X509KeyPair(cert.cert, cert.key)
				if err != nil {
					t.Fatal(err)
				}
				sink := refpeer.Sink("mx.b.test")
				secure := mode.perConn > 1
				if secure {
					sink.TLS = &tls.Config{Certificates: []tls.Certificate{pair}}
				}
				serveReference(t, at, sink)
				px := loadedDoor(t, door, at, cert)
				c := newCrew(px.at(door), door == doorLMTP, mode.perConn)
				c.secure = secure
				start := time.Now()
				const half = loadMessages / 2
				c.send(mtatest.Context(t), half, loadSessions)
				took := time.Since(start)
				checkDigests(t, c, sink, half)
				t.Logf("%d messages in %v, %.0f per second", half, took.Round(time.Millisecond), half/took.Seconds())
			})
		}
	}
}

func checkDigests(t *testing.T, c *crew, sink *refpeer.Server, all int) {
	t.Helper()
	came := make(map[string][]refpeer.Message)
	for _, m := range sink.Messages() {
		came[m.ID] = append(came[m.ID], m)
	}
	acknowledged := 0
	for id, tries := range c.tries {
		if len(tries) != 1 || tries[0] != acked {
			t.Errorf("%s: %v, %v", id, tries, c.why[id])
			continue
		}
		acknowledged++
		if got := came[id]; len(got) != 1 || got[0].Digest != sha256.Sum256(c.body(id)) {
			t.Errorf("%s came %d times, or with another body", id, len(got))
		}
	}
	if acknowledged != all || len(came) != acknowledged {
		t.Errorf("%d messages sent, %d acknowledged, %d came", all, acknowledged, len(came))
	}
	for _, v := range sink.Violations() {
		t.Error(v)
	}
}

// A try is how an attempt to send a message ended.
type try string

const (
	acked   try = "acknowledged"
	refused try = "refused"
	doubted try = "outcome unknown, says the proxy"
	unheard try = "the connection broke"
)

// A crew are clients that send messages through a door and keep account of what
// became of each attempt. Every message has an id.
type crew struct {
	at      string
	lmtp    bool
	perConn int
	secure  bool          // every other client says STARTTLS
	prefix  string        // of the ids
	large   int           // one message in so many is larger than memory holds; 0: none
	timeout time.Duration // for one reply; 0: refpeer.DefaultTimeout

	mu    sync.Mutex
	tries map[string][]try
	why   map[string]string // the last reply or error that was no acknowledgement
}

func newCrew(at string, lmtp bool, perConn int) *crew {
	return &crew{at: at, lmtp: lmtp, perConn: perConn, tries: make(map[string][]try), why: make(map[string]string)}
}

// body is the message of an id, always the same.
func (c *crew) body(id string) []byte {
	seed := sha256.Sum256([]byte(id))
	size := 0
	if c.large > 0 && int(seed[0])%c.large == 0 {
		size = 300 << 10
	}
	return append([]byte(refpeer.IDField+": "+id+"\r\n"), realMessage(id, size)...)
}

// send sends n messages over some sessions at a time, each message once.
func (c *crew) send(ctx context.Context, n, sessions int) {
	work := make(chan int)
	var wg sync.WaitGroup
	for s := range sessions {
		wg.Go(func() {
			m := c.member(s)
			defer m.leave(ctx)
			for i := range work {
				m.try(ctx, fmt.Sprintf("%s%d", c.prefix, i))
			}
		})
	}
	for i := range n {
		work <- i
	}
	close(work)
	wg.Wait()
}

// A member of a crew is one client after the other, of one style.
type member struct {
	crew   *crew
	style  refpeer.Style
	tls    *tls.Config
	client *refpeer.Client
	sent   int // over this connection
}

func (c *crew) member(n int) *member {
	styles := []refpeer.Style{refpeer.LockStep, refpeer.Pipelining, refpeer.Chunking, refpeer.OldLockStep}
	m := &member{crew: c, style: styles[n%len(styles)]}
	if c.lmtp && m.style == refpeer.OldLockStep {
		m.style = refpeer.LockStep // LMTP has no HELO
	}
	if c.secure && n%2 == 0 {
		m.tls = &tls.Config{InsecureSkipVerify: true}
	}
	return m
}

// try sends a message and enters how that ended.
func (m *member) try(ctx context.Context, id string) try {
	result, why := m.attempt(ctx, id)
	if m.client != nil && m.sent >= m.crew.perConn {
		m.leave(ctx)
	}
	m.crew.mu.Lock()
	defer m.crew.mu.Unlock()
	m.crew.tries[id] = append(m.crew.tries[id], result)
	if result != acked {
		m.crew.why[id] = why
	}
	return result
}

func (m *member) attempt(ctx context.Context, id string) (try, string) {
	if err := m.open(ctx); err != nil {
		return refused, err.Error() // no text has left
	}
	m.sent++
	res, err := m.client.Send(ctx, refpeer.Mail{From: realSender, To: []string{"you@b.test"}, Body: m.crew.body(id)})
	switch {
	case res.OK():
		return acked, ""
	case err != nil:
		style := m.client.Style
		m.hangUp()
		if style != refpeer.Chunking && res.Data.Code != 354 {
			return refused, err.Error() // no text has left
		}
		return unheard, err.Error()
	}
	last := res.Log[len(res.Log)-1].Reply
	if i := slices.IndexFunc(res.Rcpts, func(r refpeer.Reply) bool { return !r.OK() }); i >= 0 {
		last = res.Rcpts[i]
	} else if len(res.Final) > 0 {
		last = res.Final[0]
	}
	if last.Code == 421 {
		m.hangUp()
	}
	if last.Code == 451 && strings.Contains(last.String(), "outcome unknown") {
		return doubted, last.String()
	}
	return refused, last.String()
}

// open connects and says hello, if that was not done yet.
func (m *member) open(ctx context.Context) error {
	if m.client != nil {
		return nil
	}
	conn, err := new(net.Dialer).DialContext(ctx, "tcp", m.crew.at)
	if err != nil {
		return err
	}
	m.sent = 0
	m.client = &refpeer.Client{Conn: conn, Style: m.style, LMTP: m.crew.lmtp, TLS: m.tls, Timeout: m.crew.timeout}
	if err := m.client.Open(ctx); err != nil {
		m.hangUp()
		return err
	}
	if m.style == refpeer.Chunking && !m.client.Offers("CHUNKING") {
		m.client.Style = refpeer.Pipelining
	}
	return nil
}

func (m *member) hangUp() {
	_ = m.client.Conn.Close() // it is of no use any more
	m.client = nil
}

// leave says goodbye, if there is somebody to say it to.
func (m *member) leave(ctx context.Context) {
	if m.client != nil {
		_ = m.client.Quit(ctx) // nothing depends on it
		m.client = nil
	}
}
