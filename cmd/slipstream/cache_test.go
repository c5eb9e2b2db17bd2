package main

import (
	"net/netip"
	"strings"
	"testing"
	"time"

	"github.com/rogpeppe/go-internal/testscript"

	"slipstream/proxy"
	"slipstream/smtpwire"
	"slipstream/tlsstore"
)

// TestCache runs the commands as processes of their own beside a memory in this one.
func TestCache(t *testing.T) {
	s := &remembering{t: t}
	testscript.Run(t, testscript.Params{
		Files:               []string{"testdata/cache.txtar"},
		RequireExplicitExec: true,
		Setup:               scriptSetup,
		Cmds:                map[string]func(*testscript.TestScript, bool, []string){"remember": s.command},
	})
}

// A remembering is what serve does with the memory.
type remembering struct {
	t    *testing.T
	cfg  *proxy.Config
	mem  *memory
	ctl  *control
	logs *watchedLog
}

// command is "remember start|learn|second|withheld|not-withheld|stop".
func (s *remembering) command(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) != 1 {
		ts.Fatalf("usage: remember start|learn|second|withheld|not-withheld|stop")
	}
	switch args[0] {
	case "start":
		var err error
		s.cfg, err = proxy.LoadConfig(ts.MkAbs("slipstream.toml"))
		ts.Check(err)
		s.mem, s.ctl, s.logs = openBoth(s.t, s.cfg)
		ts.Defer(s.stop)
	case "learn":
		learnSome(s.mem.Store)
		learnClient(s.mem.Shy)
	case "second":
		mem, ctl, logs := openBoth(s.t, s.cfg)
		if ctl != nil || !logs.await("another process uses the directory") || !logs.await("another process listens there") {
			ts.Fatalf("the second service did not say why it goes without:\n%s", logs)
		}
		learnSome(mem.Store) // mail goes on, and so does learning
		mem.Close()
		if fresh := s.logs.String(); strings.Contains(fresh, "level=warn") {
			ts.Fatalf("the first service was disturbed:\n%s", fresh)
		}
	case "withheld", "not-withheld":
		want := args[0] == "withheld"
		if s.mem.Shy.Withhold(netip.MustParseAddr("203.0.113.9"), "mta9.out.example.com") != want {
			ts.Fatalf("%s: not so", args[0])
		}
	case "stop":
		s.stop()
	default:
		ts.Fatalf("remember: unknown word %s", args[0])
	}
}

func (s *remembering) stop() {
	s.ctl.Close()
	s.mem.Close()
}

// learnClient learns that a client breaks on tickets.
func learnClient(shy *tlsstore.Shy) {
	for range tlsstore.ShyStrikes {
		shy.Left(netip.MustParseAddr("203.0.113.5"), "mta1.out.example.com")
	}
}

// learnSome learns of two peers, one of which is out to paint the terminal, and to be taken for the other.
func learnSome(store *tlsstore.Store) {
	good, bad := netip.MustParseAddrPort("192.0.2.7:25"), netip.MustParseAddrPort("198.51.100.9:25")
	store.Learn(tlsstore.PeerKey{Host: "mx.example.net", Addr: good, Hello: "proxy.example", Phase: tlsstore.Secured},
		smtpwire.NewEHLO("mx.example.net", smtpwire.Param{Name: "PIPELINING"}, smtpwire.Param{Name: "SIZE", Value: "1000"}))
	store.Learn(tlsstore.PeerKey{Addr: bad, Hello: "proxy.example"},
		smtpwire.NewEHLO("mx.example.net", smtpwire.Param{Name: "PIPELINING"}))
	store.SetQuirk(bad, "x\x1b\u009b[31m", time.Hour)
	store.SetQuirk(good, tlsstore.QuirkNoEarly, time.Hour)
}
