package proxy

import (
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"slipstream/bench/refpeer"
)

// reportRelayAddr is where the MTA for reports is that is not the backend.
const reportRelayAddr = "203.0.113.5:25"

// replying is a server that answers some commands, or the connection, in its own way.
func replying(replies map[string]string) *refpeer.Server {
	return &refpeer.Server{Behave: func(ev refpeer.Event) refpeer.Action {
		at := ev.Verb
		if ev.Kind == refpeer.Connect {
			at = "connect"
		}
		if reply, ok := replies[at]; ok {
			return refpeer.Say(reply)
		}
		return refpeer.Action{}
	}}
}

// reporting prepares a world whose door reports failures, by the MTA at reportRelayAddr.
func (w *world) reporting(change ...func(*InboundConfig)) *slowDNS {
	w.cfg.Reports.Relay = Endpoint{Host: "203.0.113.5", Port: 25}
	on := func(in *InboundConfig) { in.Auth.FailureReports = true }
	return w.judged(append([]func(*InboundConfig){on}, change...)...)
}

func aggregated(in *InboundConfig) { in.Auth.AggregateReports, in.Auth.FailureReports = true, false }

func TestCheckReports(t *testing.T) {
	for name, test := range map[string]struct {
		server *refpeer.Server
		conf   func(*InboundConfig)
		want   string
	}{
		"taken": {&refpeer.Server{}, nil,
			"ok reports inbound: failure reports would leave by 203.0.113.5:25: it takes mail from <> to anywhere"},
		"taken in one flight": {&refpeer.Server{Keywords: refpeer.Modern()}, aggregated,
			"ok reports inbound: aggregate reports would leave by 203.0.113.5:25: it takes mail from " +
				"<postmaster@proxy.example> to anywhere"},
		"no relay": {replying(map[string]string{"RCPT": "554 5.7.1 Relay access denied"}), nil,
			"warn reports inbound: failure reports would not leave: 203.0.113.5:25 refused the foreign recipient " +
				"relay-probe@example.com " +
				"(554 5.7.1 Relay access denied); have it relay for this machine, or name another MTA in reports.relay"},
		"no relay, softly": {replying(map[string]string{"RCPT": "454 4.7.1 Relay access denied"}), nil,
			"warn reports inbound: failure reports would not leave: …; have it relay for this machine, or name another MTA " +
				"in reports.relay"},
		"no user": {replying(map[string]string{"RCPT": "550 5.1.1 unknown"}), nil,
			"warn reports …would not leave: …(550 5.1.1 unknown); have it relay…"},
		"no such domain": {replying(map[string]string{"RCPT": "556 5.1.10 null MX"}), nil,
			"warn reports inbound: whether failure reports would leave " +
				"cannot be told: 203.0.113.5:25 refused …for its domain (556 5.1.10 null MX); set relay_probe_to to an address " +
				"at a foreign domain that takes mail"},
		"later": {replying(map[string]string{"RCPT": "450 4.2.0 later"}), nil,
			"warn reports inbound: whether failure reports would leave cannot be " +
				"told: 203.0.113.5:25 put the foreign recipient relay-probe@example.com off (450 4.2.0 later)"},
		"not that sender": {replying(map[string]string{"MAIL": "550 5.1.0 who"}), aggregated,
			"warn reports inbound: aggregate reports would not leave: " +
				"203.0.113.5:25 refused the sender <postmaster@proxy.example> (550 5.1.0 who); set reports.email to an address " +
				"that it takes"},
		"not the null path": {replying(map[string]string{"MAIL": "550 5.1.0 who"}), nil,
			"warn reports …refused the sender <> (550 5.1.0 who); have it take that, or name another MTA in reports.relay"},
		"not now": {replying(map[string]string{"MAIL": "451 4.3.0 later"}), nil,
			"warn reports …cannot be told: 203.0.113.5:25 put the sender <> off (451 4.3.0 later)"},
		"away": {nil, nil,
			"warn reports inbound: failure reports would not leave by 203.0.113.5:25: …; start it, or correct reports.relay"},
		"unhappy": {replying(map[string]string{"connect": "554 no"}), nil,
			"warn reports inbound: failure reports would not leave by 203.0.113.5:25: …554 no…"},
		"off":      {&refpeer.Server{}, func(in *InboundConfig) { in.Auth.FailureReports = false }, ""},
		"auth off": {&refpeer.Server{}, func(in *InboundConfig) { in.Auth.Enabled = false }, ""},
	} {
		t.Run(name, func(t *testing.T) {
			w := newWorld(t)
			if test.server != nil {
				w.serve(reportRelayAddr, test.server)
			}
			dns := w.reporting(func(in *InboundConfig) {
				if test.conf != nil {
					test.conf(in)
				}
			})
			lines := w.judging(dns)
			if test.want == "" {
				noFinding(t, lines, "reports")
				return
			}
			wantFinding(t, lines, test.want)
			noFinding(t, w.findings(offline(t)), "reports")
		})
	}
}

// Nothing is sent: what was said is taken back.
func TestCheckReportsSendNothing(t *testing.T) {
	for _, keywords := range []refpeer.Keywords{{}, refpeer.Modern()} {
		w := newWorld(t)
		server := w.serve(reportRelayAddr, &refpeer.Server{Keywords: keywords})
		w.judging(w.reporting())
		conns := server.Connections()
		if len(conns) != 1 || len(server.Messages()) != 0 {
			t.Fatalf("%d connections, %d messages", len(conns), len(server.Messages()))
		}
		want := []string{"EHLO proxy.example", "MAIL FROM:<>", "RCPT TO:<relay-probe@example.com>", "RSET", "QUIT"}
		if !slices.Equal(conns[0].Commands, want) {
			t.Errorf("said %q, want %q", conns[0].Commands, want)
		}
		if v := server.Violations(); len(v) != 0 {
			t.Errorf("violations: %v", v)
		}
	}
}

// Without reports.relay it is the backend that is asked, in the way in which reports are handed to it.
func TestCheckReportsBackend(t *testing.T) {
	backend := func(w *world, change ...func(*InboundConfig)) *slowDNS {
		dns := w.reporting(change...)
		w.cfg.Reports.Relay = Endpoint{}
		return dns
	}
	t.Run("refuses strangers and us", func(t *testing.T) {
		w := newWorld(t)
		w.serve(backendAddr, &refpeer.Server{RcptReplies: foreign("550 5.7.1 no")})
		lines := w.judging(backend(w, func(in *InboundConfig) { in.BackendTrustsUs = false }))
		wantFinding(t, lines, "ok backend …it does not relay for strangers")
		wantFinding(t, lines,
			"warn reports inbound: failure reports would not leave: 203.0.113.1:25 refused the foreign recipient …")
	})
	t.Run("PROXY", func(t *testing.T) {
		w := newWorld(t)
		w.serve(backendAddr, &refpeer.Server{ProxyHeader: true})
		lines := w.judging(backend(w, func(in *InboundConfig) { in.ClientAddress = announceProxyV2 }))
		wantFinding(t, lines, "ok reports inbound: failure reports would leave by 203.0.113.1:25: …")
	})
	t.Run("away", func(t *testing.T) {
		w := newWorld(t)
		wantFinding(t, w.judging(backend(w)),
			"warn reports …would not leave by 203.0.113.1:25: …; start it, or correct backend")
	})
	t.Run("LMTP", func(t *testing.T) {
		w := newWorld(t)
		backend(w, func(in *InboundConfig) { in.Backend.LMTP = true })
		wantFinding(t, w.findings(offline(t)),
			"warn reports inbound: failure reports would not leave: lmtp://203.0.113.1:25 takes mail "+
				"for its own users alone; set reports.relay")
	})
}

// Each way is asked for once.
func TestCheckReportsOnce(t *testing.T) {
	w := newWorld(t)
	server := w.serve(reportRelayAddr, &refpeer.Server{})
	both := func(in *InboundConfig) { in.Auth.AggregateReports = true }
	dns := w.reporting(both)
	w.reporting(both, func(in *InboundConfig) { in.Name, in.Listen = "inbound-2", []string{proxyHost + ":26"} })
	lines := w.judging(dns)
	if n := len(server.Connections()); n != 2 {
		t.Errorf("%d connections, want one for each kind of reports\n%s", n, strings.Join(lines, "\n"))
	}
}

func TestCheckReportsOwnDoor(t *testing.T) {
	for relay, own := range map[string]string{
		inboundAt: "inbound", outboundAt: "outbound", "127.0.0.1:465": "inbound", "localhost:465": "inbound",
		"localhost:10525": "outbound", "127.0.0.2:10525": "", "localhost:587": "",
		proxyHost + ":26": "", "mta.example:25": "",
	} {
		w := newWorld(t)
		w.judged(func(in *InboundConfig) { in.ListenTLS = []string{":465"} })
		w.outbound(func(out *OutboundConfig) { out.Listen = append(out.Listen, "127.0.0.1:10525") })
		var e Endpoint
		if err := e.UnmarshalText([]byte(relay)); err != nil {
			t.Fatal(err)
		}
		if got := (&check{cfg: w.cfg}).ownDoor(e); got != own {
			t.Errorf("%s is at door %q, want %q", relay, got, own)
		}
	}
	w := newWorld(t)
	w.outbound()
	w.reporting()
	w.cfg.Reports.Relay = Endpoint{Host: proxyHost, Port: 587}
	wantFinding(t, w.findings(offline(t)), `warn reports inbound: failure reports would not leave: `+outboundAt+
		` is our own door "outbound"; set reports.relay to an MTA`)
}

// An MTA that is silent is waited for no longer than a backend.
func TestCheckReportsSilence(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		w.serve(reportRelayAddr, &refpeer.Server{Idle: 24 * time.Hour, Behave: func(ev refpeer.Event) refpeer.Action {
			if ev.Verb == "RCPT" {
				return refpeer.Action{Delay: time.Hour}
			}
			return refpeer.Action{}
		}})
		dns := w.reporting()
		w.serve(backendAddr, &refpeer.Server{})
		start := time.Now()
		lines := w.judging(dns)
		wantFinding(t, lines, "warn reports inbound: failure reports would not leave by 203.0.113.5:25: …")
		if took := time.Since(start); took > w.cfg.Timeouts.BackendProbe+2*time.Second {
			t.Errorf("it took %v", took)
		}
	})
}
