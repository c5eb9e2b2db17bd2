package proxy_test

import (
	"bytes"
	"fmt"
	"net"
	"net/netip"
	"strings"
	"testing"
	"time"

	"go.uber.org/zap"
	"go.uber.org/zap/zaptest"

	"slipstream/bench/mta"
	"slipstream/bench/mta/mtatest"
	"slipstream/bench/refpeer"
	"slipstream/proxy"
	"slipstream/smtpwire"
	"slipstream/tlsstore"
)

// guessStyles are how the sending server speaks.
func guessStyles() []refpeer.Style {
	return []refpeer.Style{refpeer.LockStep, refpeer.Pipelining, refpeer.Chunking}
}

// startGuessing starts a proxy with an outbound door that remembers.
func startGuessing(t *testing.T, addr string, change func(*proxy.OutboundConfig)) (*realProxy, *tlsstore.Store) {
	t.Helper()
	names := serveDomains(t, map[string]string{"b.test": addr})
	cfg := realConfig(t)
	addOutbound(cfg, doorSMTP, portOf(addr), func(o *proxy.OutboundConfig) {
		o.TLS, o.PoolIdle = "none", 0
		o.Offer = append(o.Offer, "8BITMIME", "SMTPUTF8", "CHUNKING")
		if change != nil {
			change(o)
		}
	})
	store := tlsstore.New(tlsstore.Memory(), tlsstore.Options{})
	t.Cleanup(func() { _ = store.Close() })
	px, err := startRealWith(t, cfg, names, proxy.Options{
		Log: zaptest.NewLogger(t, zaptest.Level(zap.InfoLevel)), Store: store,
	})
	if err != nil {
		t.Fatal(err)
	}
	return px, store
}

// guessKey is under what the hop is known.
func guessKey(addr string, phase tlsstore.Phase) tlsstore.PeerKey {
	return tlsstore.PeerKey{Addr: netip.MustParseAddrPort(addr), Hello: realProxyName, Phase: phase}
}

// plant has the proxy believe that a hop takes early talk.
func plant(store *tlsstore.Store, addr string, secured bool) {
	set := func(keywords ...string) smtpwire.EHLO {
		var params []smtpwire.Param
		for _, k := range append(keywords, "PIPELINING", "PIPECONNECT", "8BITMIME", "CHUNKING", "SIZE") {
			params = append(params, smtpwire.Param{Name: k})
		}
		return smtpwire.NewEHLO("mx.b.test", params...)
	}
	if secured {
		store.Learn(guessKey(addr, tlsstore.Clear), set("STARTTLS"))
		store.Learn(guessKey(addr, tlsstore.Secured), set())
		return
	}
	store.Learn(guessKey(addr, tlsstore.Clear), set())
}

// guessMail sends a message through a door, and returns what was said to the end
// of its text, or to what was refused before that.
func guessMail(t *testing.T, at string, style refpeer.Style, to string, body []byte) string {
	t.Helper()
	conn, err := net.Dial("tcp", at)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	c := &refpeer.Client{Conn: conn, Style: style}
	m := refpeer.Mail{From: realSender, Params: "BODY=8BITMIME", To: []string{to}, Body: body}
	r, err := c.Send(mtatest.Context(t), m)
	if err != nil || len(r.Log) == 0 {
		t.Fatalf("not sent: %v, %v", err, r.Log)
	}
	if len(r.Rcpts) > 0 && !r.Rcpts[0].OK() {
		return r.Rcpts[0].String()
	}
	return r.Log[len(r.Log)-1].Reply.String()
}

// A realGuess is a server that was believed to take early talk, and does not.
type realGuess struct {
	name   string
	kind   mta.Kind
	conf   mta.Config
	policy string // default "none"
	// How many connections a message takes, with and without the text going along early.
	along, bit int
	says       string // in its log, where it says something about early talk
	slow       bool   // as slow as a greeting that has to be waited for
}

func (g realGuess) check(t *testing.T) {
	t.Parallel()
	addr := realNeighbours(t, 1)[0]
	g.conf.Listen, g.conf.Hostname, g.conf.Local = addr, "mx.b.test", []string{"b.test"}
	if g.kind != mta.OpenSMTPD {
		g.conf.Refusals = []mta.Refusal{{Local: "nobody", Reply: "550 5.1.1 no such user here"}}
	}
	secured := g.policy != ""
	var cert realCert
	if secured {
		cert = newRealCert(t, "mx.b.test")
		g.conf.Cert, g.conf.Key = cert.cert, cert.key
	}
	hop := mtatest.Start(t, g.kind, g.conf)
	px, store := startGuessing(t, addr, func(o *proxy.OutboundConfig) {
		if secured {
			o.TLS, o.TLSCAFile = g.policy, cert.certFile
		}
	})
	if g.kind == mta.Postfix { // the log of its start is complete
		awaitReal(t, "the first connection to end", func() bool {
			return len(realLogged(hop, "connect from")) > 1 || len(realLogged(hop, "DISCONNECT")) > 0
		})
	}
	sent, styles := 0, guessStyles()
	if g.slow {
		styles = []refpeer.Style{refpeer.LockStep, refpeer.Chunking}
	}
	for i, style := range styles {
		if g.slow && i > 0 {
			time.Sleep(2100 * time.Millisecond) // until it looks at us again: it counts in seconds
		}
		conns := g.bit
		if style != refpeer.LockStep {
			conns = g.along
		}
		store.ClearQuirk(netip.MustParseAddrPort(addr), tlsstore.QuirkNoEarly)
		plant(store, addr, secured)
		before := guessConnections(hop)
		raw := realMessage(g.name, 0)
		if r := guessMail(t, px.at(doorSMTP), style, fmt.Sprintf("user-%d@b.test", i), raw); !strings.HasPrefix(r, "250 ") {
			t.Errorf("%v: the client heard %q", style, r)
		}
		sent++
		got, err := hop.WaitDelivered(mtatest.Context(t), sent)
		if err != nil || len(got) != sent || !bytes.HasSuffix(got[sent-1].Raw, raw) {
			t.Fatalf("%v: %d messages arrived, want %d: %v", style, len(got), sent, err)
		}
		n := guessConnections(hop) - before
		if style == refpeer.Pipelining && n == 1 {
			conns = 1 // it was made ahead, and the greeting had come: nobody saw us talk early
		}
		if n != conns {
			t.Errorf("%v: %d connections, want %d", style, n, conns)
		}
		known, ok := store.Known(guessKey(addr, tlsstore.Clear))
		if relearned := conns == 2; ok != relearned || known.PipeConnect() {
			t.Errorf("%v: the hop is known: %v, %v", style, ok, known)
		}
		all := px.records(t, sent)
		if sum := all[len(all)-1]; strings.Contains(sum.Saved.String(), "early") || sum.InDoubt {
			t.Errorf("%v: the record says %d trips, %q, in doubt %v", style, sum.Trips, sum.Saved, sum.InDoubt)
		}
	}
	if g.says != "" {
		awaitReal(t, g.says, func() bool { return strings.Contains(hop.Log(), g.says) })
	}
	if g.slow || g.conf.Refusals == nil {
		return
	}
	// What the hop says of a recipient is the verdict, however it was spoken to.
	plant(store, addr, secured)
	r := guessMail(t, px.at(doorSMTP), refpeer.LockStep, "nobody@b.test", realMessage("x", 0))
	if !strings.HasPrefix(r, "550 ") || !strings.Contains(r, "no such user here") {
		t.Errorf("the client heard %q about a user who does not exist", r)
	}
	if got, _ := hop.Delivered(); len(got) != sent {
		t.Errorf("%d messages arrived, want %d", len(got), sent)
	}
}

// guessConnections counts the connections that a server has taken.
func guessConnections(in *mta.Instance) int {
	switch {
	case in.Kind() == mta.OpenSMTPD:
		return len(realLogged(in, "smtp connected"))
	case in.Kind() == mta.Exim:
		return len(realLogged(in, "SMTP connection from", "count = "))
	case in.Config().Postscreen != "":
		return len(realLogged(in, "postscreen", ": CONNECT from "))
	}
	return len(realLogged(in, "postfix/smtpd", " connect from "))
}

// Real servers that do not take early talk, though we think so, never make a
// client of ours hear of it.
func TestRealGuesses(t *testing.T) {
	exim := mta.Config{Without: []string{"PIPECONNECT"}}
	extra := func(lines ...string) mta.Config { return mta.Config{Extra: lines} }
	synchronization := "SMTP protocol synchronization error"
	for _, g := range []realGuess{
		{name: "Exim", kind: mta.Exim, conf: exim, along: 2, bit: 2, says: synchronization},
		{name: "Exim, STARTTLS",
			kind: mta.Exim, conf: exim, policy: "verify", along: 2, bit: 2, says: synchronization},
		{name: "OpenSMTPD", kind: mta.OpenSMTPD, along: 2, bit: 2, says: "Pipelining not supported"},
		{name: "Postfix", kind: mta.Postfix, along: 1, bit: 2, says: "improper command pipelining"},
		{name: "Postfix, STARTTLS", kind: mta.Postfix, policy: "verify", along: 2, bit: 2},
		{name: "Postfix, forbidden",
			kind: mta.Postfix, conf: extra("smtpd_forbid_unauth_pipelining = yes"), along: 2, bit: 2},
		{name: "Postfix, refused at RCPT",
			kind: mta.Postfix, conf: extra("smtpd_client_restrictions = reject_unauth_pipelining"), along: 2, bit: 2},
		{name: "Postfix, refused at the text",
			kind: mta.Postfix, conf: extra("smtpd_data_restrictions = reject_unauth_pipelining"), along: 2, bit: 2},
		{name: "Postfix without CHUNKING",
			kind: mta.Postfix, conf: mta.Config{Without: []string{"CHUNKING"}}, along: 2, bit: 2},
		{name: "postscreen, ignore",
			kind: mta.Postfix, conf: mta.Config{Postscreen: "ignore"}, along: 1, bit: 2, says: "PREGREET", slow: true},
		{name: "postscreen, enforce",
			kind: mta.Postfix, conf: mta.Config{Postscreen: "enforce"}, along: 2, bit: 2, says: "PREGREET", slow: true},
		{name: "postscreen, drop",
			kind: mta.Postfix, conf: mta.Config{Postscreen: "drop"}, along: 2, bit: 2, says: "PREGREET", slow: true},
	} {
		t.Run(g.name, g.check)
	}
}

// An Exim that took early talk is told not to offer it any more. Exim itself
// would return a message to its sender for that.
func TestRealEximWithdraws(t *testing.T) {
	for _, policy := range []string{"none", "verify"} {
		t.Run(policy, func(t *testing.T) {
			t.Parallel()
			addr, cert := realNeighbours(t, 1)[0], newRealCert(t, "mx.b.test")
			conf := mta.Config{Listen: addr, Hostname: "mx.b.test", Local: []string{"b.test"}, Dir: t.TempDir()}
			if policy != "none" {
				conf.Cert, conf.Key = cert.cert, cert.key
			}
			px, store := startGuessing(t, addr, func(o *proxy.OutboundConfig) {
				if o.TLS = policy; policy != "none" {
					o.TLSCAFile = cert.certFile
				}
			})
			sent := 0
			send := func(in *mta.Instance, style refpeer.Style, early bool) {
				t.Helper()
				r := guessMail(t, px.at(doorSMTP), style, "user@b.test", realMessage("withdraws", 0))
				if !strings.HasPrefix(r, "250 ") {
					t.Errorf("%v: the client heard %q", style, r)
				}
				sent++
				if got, err := in.WaitDelivered(mtatest.Context(t), sent); err != nil || len(got) != sent {
					t.Fatalf("%v: %d messages arrived, want %d: %v", style, len(got), sent, err)
				}
				all := px.records(t, sent)
				if sum := all[len(all)-1]; strings.Contains(sum.Saved.String(), "early") != early {
					t.Errorf("%v: the record says %d trips, %q", style, sum.Trips, sum.Saved)
				}
			}
			before, err := mta.Start(mtatest.Context(t), mta.Exim, conf)
			mtatest.Check(t, err)
			send(before, refpeer.Chunking, false)
			for _, style := range guessStyles() {
				send(before, style, true)
			}
			known, _ := store.Known(guessKey(addr, tlsstore.Clear))
			if err := before.Stop(); err != nil {
				t.Fatal(err)
			}
			conf.Without = []string{"PIPECONNECT"}
			after := mtatest.Start(t, mta.Exim, conf)
			for _, style := range []refpeer.Style{refpeer.Chunking, refpeer.LockStep} {
				store.Learn(guessKey(addr, tlsstore.Clear), known)
				store.ClearQuirk(netip.MustParseAddrPort(addr), tlsstore.QuirkNoEarly)
				send(after, style, false)
				send(after, style, false)
			}
			if n := len(realLogged(after, "SMTP protocol synchronization error")); n != 4 { // in each of two logs
				t.Errorf("Exim complained %d times about early talk, want 4", n)
			}
		})
	}
}
