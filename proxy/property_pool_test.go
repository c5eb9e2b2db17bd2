package proxy

import (
	"bufio"
	"errors"
	"fmt"
	"math/rand/v2"
	"net"
	"net/netip"
	"os"
	"strconv"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"slipstream/bench/refpeer"
	"slipstream/tlsstore"
)

// Several sessions at a time that share connections to the same hops. Every
// address, reply and text names the message that it belongs to, so that nothing
// can pass for something of another transaction.

// poolSeed is where the rounds begin: SLIPSTREAM_SEED repeats what was seen.
func poolSeed(t *testing.T) uint64 {
	t.Helper()
	if s := os.Getenv("SLIPSTREAM_SEED"); s != "" {
		seed, err := strconv.ParseUint(s, 10, 64)
		if err != nil {
			t.Fatalf("SLIPSTREAM_SEED=%q is not a number", s)
		}
		return seed
	}
	return rand.Uint64N(1 << 32)
}

// poolTime is for how long there are further rounds: SLIPSTREAM_PROPERTY=5m makes
// it five minutes.
func poolTime(t *testing.T) time.Duration {
	t.Helper()
	if s := os.Getenv("SLIPSTREAM_PROPERTY"); s != "" {
		d, err := time.ParseDuration(s)
		if err != nil {
			t.Fatalf("SLIPSTREAM_PROPERTY=%q is not a duration", s)
		}
		return d
	}
	return 2 * time.Second
}

// TestPoolProperty: whatever sessions do side by side, replies stay with their
// commands, and what is in a transaction stays in it.
func TestPoolProperty(t *testing.T) {
	seed := poolSeed(t)
	rounds, sent := 0, 0
	for end := time.Now().Add(poolTime(t)); time.Now().Before(end) && !t.Failed(); rounds++ {
		at := seed + uint64(rounds)
		synctest.Test(t, func(t *testing.T) {
			n, err := poolRound(t, at)
			if err != nil {
				t.Errorf("SLIPSTREAM_SEED=%d: %v", at, err)
			}
			sent += n
		})
	}
	t.Logf("SLIPSTREAM_SEED=%d: %d rounds, %d messages delivered", seed, rounds, sent)
}

// A poolHopKind is a hop of the rounds.
type poolHopKind struct {
	domain, addr string
	server       func() *refpeer.Server
}

func poolHops() []poolHopKind {
	return []poolHopKind{
		{"chunks.example", "203.0.113.11:25", func() *refpeer.Server { return &refpeer.Server{Keywords: early()} }},
		{"data.example", "203.0.113.12:25", func() *refpeer.Server {
			k := refpeer.Modern()
			k.Chunking = false
			return &refpeer.Server{Keywords: k}
		}},
		{"old.example", "203.0.113.13:25", func() *refpeer.Server { return &refpeer.Server{StrictLockstep: true} }},
		{"limits.example", "203.0.113.14:25", func() *refpeer.Server {
			k := refpeer.Modern()
			k.Extra = []string{"LIMITS MAILMAX=3 RCPTMAX=2"}
			return &refpeer.Server{Keywords: k}
		}},
	}
}

// A poolWorld is one round.
type poolWorld struct {
	*world
	hops   map[string]*refpeer.Server // by domain
	behind string                     // the domain of the hop behind the inbound door

	mu    sync.Mutex
	acked map[string]bool // "nonce domain recipient"
}

func poolRound(t *testing.T, seed uint64) (delivered int, err error) {
	draw := rand.New(rand.NewPCG(seed, 0))
	w := &poolWorld{world: newWorld(t), hops: map[string]*refpeer.Server{}, acked: map[string]bool{}}
	w.net.Default.Delay = time.Duration(draw.IntN(30)) * time.Millisecond
	for _, kind := range poolHops() {
		hop := kind.server()
		hop.Behave = poolReplies(rand.New(rand.NewPCG(seed, uint64(len(w.hops)+1))))
		w.dns.mx[kind.domain] = []*net.MX{{Host: "mx." + kind.domain, Pref: 10}}
		w.dns.addrs["mx."+kind.domain] = []netip.Addr{netip.MustParseAddrPort(kind.addr).Addr()}
		w.hops[kind.domain] = w.serve(kind.addr, hop)
	}
	if draw.IntN(2) == 0 {
		w.remember(tlsstore.Memory())
	}
	size, connections, messages := 1+draw.IntN(3), draw.IntN(3), []int{0, 2, 5}[draw.IntN(3)]
	late := draw.IntN(4) > 0
	for i, protocol := range []string{"smtp", "lmtp"} {
		w.outbound(func(out *OutboundConfig) {
			out.Name, out.Protocol, out.Listen = protocol, protocol, []string{fmt.Sprintf("%s:%d", proxyHost, 587+i)}
			out.PoolIdle, out.PoolSize, out.PoolMessages, out.HopConnections = 30*time.Second, size, messages, connections
			out.TLS, out.LateVerdict = []string{"none", "may"}[draw.IntN(2)], late
		})
	}
	w.inboundDoor(draw, size, connections)
	w.start()
	var wg sync.WaitGroup
	errs := make([]error, 2+draw.IntN(3))
	for n := range errs {
		c := &poolClient{w: w, n: n, draw: rand.New(rand.NewPCG(seed, uint64(100+n)))}
		wg.Go(func() { errs[n] = c.run() })
	}
	wg.Wait()
	time.Sleep(time.Second)
	delivered, err = w.settled()
	return delivered, errors.Join(append(errs, err)...)
}

// inboundDoor adds one with one of the hops behind it.
func (w *poolWorld) inboundDoor(draw *rand.Rand, size, connections int) {
	kind := poolHops()[draw.IntN(3)]
	w.behind = kind.domain
	at := netip.MustParseAddrPort(kind.addr)
	w.inbound(func(in *InboundConfig) {
		in.Backend = Endpoint{Host: at.Addr().String(), Port: at.Port()}
		in.PoolIdle, in.PoolSize, in.HopConnections = 30*time.Second, size, connections
	})
}

// poolReplies has every reply name what it answers, and do what the address says:
// "no…" is refused, "later…" put off, "slow…" takes its time.
func poolReplies(draw *rand.Rand) func(refpeer.Event) refpeer.Action {
	var mu sync.Mutex
	senders := map[int]string{}
	return func(ev refpeer.Event) refpeer.Action {
		mu.Lock()
		defer mu.Unlock()
		var a refpeer.Action
		if draw.IntN(10) == 0 {
			a.Delay = time.Duration(draw.IntN(100)) * time.Millisecond
		}
		verdict := func(address, ok, what string) {
			switch {
			case strings.HasPrefix(address, "no"):
				a.Reply = "550 5.7.1 no " + what + "\r\n"
			case strings.HasPrefix(address, "later"):
				a.Reply = "450 4.7.1 later " + what + "\r\n"
			default:
				a.Reply = ok + " " + what + "\r\n"
			}
		}
		switch {
		case ev.Kind == refpeer.EndOfData:
			from, _ := strings.CutPrefix(senders[ev.Conn], "text")
			verdict(from, "250 2.0.0 taken", senders[ev.Conn])
		case ev.Kind != refpeer.Command || !strings.HasPrefix(ev.Reply, "250"):
		case ev.Verb == "MAIL":
			senders[ev.Conn] = ev.Address
			verdict(ev.Address, "250 2.1.0 sender", ev.Address)
		case ev.Verb == "RCPT":
			verdict(ev.Address, "250 2.1.5 recipient", ev.Address)
		}
		return a
	}
}

// settled holds what the hops have against what clients heard.
func (w *poolWorld) settled() (delivered int, err error) {
	left := len(w.acked)
	for domain, hop := range w.hops {
		for _, v := range hop.Violations() {
			err = errors.Join(err, fmt.Errorf("%s saw %v", domain, v))
		}
		for _, m := range hop.Messages() {
			nonce := poolNonce(m.Sender())
			if !strings.HasPrefix(string(m.Body), "X-Nonce: "+nonce+"\r\n") ||
				!strings.HasSuffix(string(m.Body), "end "+nonce+"\r\n") {
				err = errors.Join(err, fmt.Errorf("%s has a text of %.40q from %s", domain, m.Body, m.Sender()))
			}
			for _, to := range m.Recipients() {
				if poolNonce(to) != nonce {
					err = errors.Join(err, fmt.Errorf("%s has a message from %s to %s", domain, m.Sender(), to))
				}
				key := nonce + " " + domain + " " + to
				if !w.acked[key] {
					err = errors.Join(err, fmt.Errorf("%s has a message to %s, twice or without an acknowledgement", domain, to))
				}
				delete(w.acked, key)
			}
		}
	}
	for key := range w.acked {
		err = errors.Join(err, fmt.Errorf("P1: acknowledged and never delivered: %s", key))
	}
	return left, err
}

// poolNonce is the part of an address that names the message.
func poolNonce(address string) string {
	local, _, _ := strings.Cut(address, "@")
	return local[strings.LastIndexByte(local, '.')+1:]
}

// A poolClient is one client after the other.
type poolClient struct {
	w    *poolWorld
	n    int
	draw *rand.Rand
	lmtp bool
	in   bool // at the inbound door
	bdat bool // it was offered
	c    *failClient
	mail poolMail // under way
}

// A poolMail is what a client sends.
type poolMail struct {
	nonce, from string
	to          []string
	params      string
	text        string
}

func (c *poolClient) run() error {
	for step := range 3 + c.draw.IntN(6) {
		time.Sleep(time.Duration(c.draw.IntN(60)) * time.Millisecond)
		if c.c == nil {
			if err := c.connect(); err != nil {
				return err
			}
		}
		c.write(fmt.Sprintf("c%ds%d", c.n, step))
		if err := c.send(); err != nil {
			return fmt.Errorf("client %d (LMTP: %v, inbound: %v), from %s to %q: %w",
				c.n, c.lmtp, c.in, c.mail.from, c.mail.to, err)
		}
		if c.c != nil && (c.c.over || c.draw.IntN(4) == 0) {
			if err := c.leave(); err != nil {
				return fmt.Errorf("client %d: %w", c.n, err)
			}
		}
	}
	return c.leave()
}

func (c *poolClient) connect() error {
	door := c.draw.IntN(5)
	c.lmtp, c.in = door == 0, door == 1
	at, hello := outboundAt, "EHLO client.example"
	switch {
	case c.lmtp:
		at, hello = proxyHost+":588", "LHLO client.example"
	case c.in:
		at = inboundAt
	}
	conn, err := c.w.net.Dial(c.w.t.Context(), clientHost, at)
	if err != nil {
		return err
	}
	c.w.t.Cleanup(func() { _ = conn.Close() })
	c.c = &failClient{conn: conn, r: bufio.NewReader(conn)}
	_, err = c.c.reply("greeting", time.Minute, 2)
	if err == nil {
		var offer string
		offer, err = c.c.ask(hello, time.Minute, 2)
		c.bdat = strings.Contains(offer, "CHUNKING")
	}
	return err
}

func (c *poolClient) leave() error {
	if c.c == nil {
		return nil
	}
	gone := c.c
	c.c = nil
	if !gone.over {
		if _, err := gone.ask("QUIT", time.Minute, 2); err != nil {
			return err
		}
	}
	return gone.wantEnd()
}

// write makes up a message.
func (c *poolClient) write(nonce string) {
	m := poolMail{nonce: nonce, from: "ok." + nonce + "@client.example"}
	if c.draw.IntN(4) == 0 {
		m.from = []string{"no.", "later.", "textno.", "textlater."}[c.draw.IntN(4)] + nonce + "@client.example"
	}
	domain := poolHops()[c.draw.IntN(4)].domain
	for i := range 1 + c.draw.IntN(3) {
		kind := []string{"ok", "ok", "ok", "no", "later"}[c.draw.IntN(5)]
		if c.lmtp || c.draw.IntN(8) == 0 {
			domain = poolHops()[c.draw.IntN(4)].domain
		}
		m.to = append(m.to, fmt.Sprintf("%s%d.%s@%s", kind, i, nonce, domain))
	}
	filling := "text\r\n"
	if c.draw.IntN(5) == 0 {
		filling, m.params = "t\xc3\xa4xt\r\n", " BODY=8BITMIME"
	}
	filling = strings.Repeat(filling, []int{1, 100, 20000}[min(2, c.draw.IntN(12)/5)])
	m.text = "X-Nonce: " + nonce + "\r\n\r\n" + filling + "end " + nonce + "\r\n"
	c.mail = m
}
