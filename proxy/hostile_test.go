package proxy

import (
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	dto "github.com/prometheus/client_model/go"
	"go.uber.org/zap"
	"go.uber.org/zap/zaptest/observer"

	"slipstream/bench/netsim"
	"slipstream/bench/refpeer"
	"slipstream/smtpwire"
)

// A hostile is a world whose log and metrics are looked at, with one hop.
type hostile struct {
	*world
	hop  *refpeer.Server
	logs *observer.ObservedLogs
	at   string // the door

	resets atomic.Int64 // how often we cut a client off rather than close
}

// watchNet counts the resets that clients get from us. One of them may eat our
// last reply.
func (h *hostile) watchNet() {
	h.net.Trace = func(s netsim.Segment) {
		if s.RST && s.From.String() == h.at && s.To.Addr().String() == clientHost {
			h.resets.Add(1)
		}
	}
}

// newHostile starts an inbound door to a hop; nil is a modern one.
func newHostile(t *testing.T, hop *refpeer.Server, change ...func(*Config, *InboundConfig)) *hostile {
	t.Helper()
	if hop == nil {
		hop = &refpeer.Server{Keywords: refpeer.Modern()}
	}
	h := &hostile{world: newWorld(t), hop: hop, at: inboundAt}
	h.watchNet()
	h.serve(backendAddr, hop)
	h.inbound(func(in *InboundConfig) {
		in.Backend.LMTP = hop.LMTP
		for _, f := range change {
			f(h.cfg, in)
		}
	})
	h.watch()
	return h
}

// newHostileOut starts an outbound door to a mail exchanger.
func newHostileOut(t *testing.T, hop *refpeer.Server, change ...func(*Config, *OutboundConfig)) *hostile {
	t.Helper()
	if hop == nil {
		hop = &refpeer.Server{Keywords: refpeer.Modern()}
	}
	h := &hostile{world: newWorld(t), hop: hop, at: outboundAt}
	h.watchNet()
	h.serve(mxAddr, hop)
	h.outbound(func(out *OutboundConfig) {
		for _, f := range change {
			f(h.cfg, out)
		}
	})
	h.watch()
	return h
}

// watch starts the proxy with a log that can be asked.
func (h *hostile) watch() {
	h.t.Helper()
	p := h.build()
	core, logs := observer.New(zap.DebugLevel)
	p.log, h.logs = zap.New(core), logs
	if err := p.Start(h.t.Context()); err != nil {
		h.t.Fatal(err)
	}
	h.t.Cleanup(h.stop)
}

// talk says every first string of a pair, a line or several in one segment, and
// takes what the second asks for: beginnings of replies, with " | " between them.
func (d *dialog) talk(pairs ...string) {
	d.t.Helper()
	for i := 0; i+1 < len(pairs); i += 2 {
		d.raw(pairs[i] + "\r\n")
		for want := range strings.SplitSeq(pairs[i+1], " | ") {
			d.want(want)
		}
	}
}

// greeted is a client that said EHLO.
func (h *hostile) greeted() *dialog {
	h.t.Helper()
	c := h.client(h.at)
	c.ask("EHLO client.example", "250")
	return c
}

// Lines of a small message, for talk.
const (
	hostileMail = "MAIL FROM:<a@client.example>\r\nRCPT TO:<b@example.org>"
	hostileText = "Subject: x\r\n\r\nx\r\n"
)

// send sends a message, which must arrive: the session is in step.
func (d *dialog) send() {
	d.t.Helper()
	d.talk(hostileMail+"\r\nDATA", "250 | 250 | 354 ", hostileText+".", "250 2.0.0")
}

// heard is what the hop was told, without greetings and farewells.
func (h *hostile) heard() []string {
	synctest.Wait()
	var all []string
	for _, conn := range h.hop.Connections() {
		for _, line := range conn.Commands {
			if verb, _, _ := strings.Cut(line, " "); !slices.Contains([]string{"EHLO", "HELO", "LHLO", "QUIT", "RSET"}, verb) {
				all = append(all, line)
			}
		}
	}
	return all
}

// wantHeard checks what the hop was told.
func (h *hostile) wantHeard(want ...string) {
	h.t.Helper()
	if got := h.heard(); !slices.Equal(got, want) {
		h.t.Errorf("the hop heard\n\t%q, want\n\t%q", got, want)
	}
}

// wantMessages checks which texts the hop has taken.
func (h *hostile) wantMessages(want ...string) {
	h.t.Helper()
	synctest.Wait()
	var got []string
	for _, m := range h.hop.Messages() {
		got = append(got, string(m.Body))
	}
	if !slices.Equal(got, want) {
		h.t.Errorf("the hop took %.300q, want %.300q", got, want)
	}
}

// wantLog checks that the log has a line with a message.
func (h *hostile) wantLog(message string) {
	h.t.Helper()
	synctest.Wait()
	if h.logs.Filter(func(e observer.LoggedEntry) bool { return strings.Contains(e.Message, message) }).Len() == 0 {
		h.t.Errorf("the log has no %q: %v", message, h.logs.All())
	}
}

// wantCount checks a counter.
func (h *hostile) wantCount(c prometheus.Collector, want float64) {
	h.t.Helper()
	synctest.Wait()
	if got := hostileCount(h.t, c); got != want {
		h.t.Errorf("counted %v, want %v", got, want)
	}
}

// over checks that soon nothing of any session is left, though no client closes.
func (h *hostile) over() {
	h.t.Helper()
	time.Sleep(2*lingerTime + h.cfg.Timeouts.Quit) // virtual
	synctest.Wait()
	p := h.proxy
	p.mu.Lock()
	sessions := len(p.sessions)
	p.mu.Unlock()
	p.gate.mu.Lock()
	inside, clients := p.gate.total, len(p.gate.client)
	p.gate.mu.Unlock()
	p.wires.mu.Lock()
	wires := len(p.wires.open)
	p.wires.mu.Unlock()
	if sessions+inside+clients+wires != 0 {
		h.t.Errorf("left are %d sessions, %d inside, %d clients, %d wires", sessions, inside, clients, wires)
	}
	h.wantCount(p.metrics.open, 0)
	if n := h.resets.Load(); n != 0 {
		h.t.Errorf("%d connections of clients were reset", n)
	}
	if v := h.hop.Violations(); len(v) != 0 {
		h.t.Errorf("the hop saw violations: %v", v)
	}
}

// hostileCount sums up what a collector counts.
func hostileCount(t *testing.T, c prometheus.Collector) float64 {
	t.Helper()
	metrics := make(chan prometheus.Metric, 100)
	c.Collect(metrics)
	close(metrics)
	sum := 0.0
	for m := range metrics {
		var d dto.Metric
		if err := m.Write(&d); err != nil {
			t.Fatal(err)
		}
		sum += d.GetCounter().GetValue() + d.GetGauge().GetValue()
	}
	return sum
}

func TestHostileLines(t *testing.T) {
	fill := func(n int) string { return "NOOP " + strings.Repeat("x", n-len("NOOP \r\n")) + "\r\n" }
	for name, tt := range map[string]struct{ line, want string }{
		"as long as may be":  {fill(smtpwire.MaxCommandLine), "250 2.0.0 "},
		"one longer":         {fill(smtpwire.MaxCommandLine + 1), "500 5.5.2 "},
		"much longer":        {fill(smtpwire.MaxOverlongLine), "500 5.5.2 "},
		"bare LF":            {"NOOP\n", "500 5.5.2 "},
		"LF CR":              {"NOOP\n\r", "500 5.5.2 "},
		"CR CR LF":           {"NOOP\r\r\n", "500 5.5.2 "},
		"CR inside":          {"NOOP\rMAIL FROM:<a@b.example>\r\n", "500 5.5.2 "},
		"NUL":                {"NOOP\x00\r\n", "500 5.5.2 "},
		"nothing":            {"\r\n", "500 5.5.2 "},
		"a space":            {" \r\n", "500 5.5."},
		"a space before":     {" NOOP\r\n", "500 5.5.1 "},
		"no verb":            {"\xff\xfb\x01\r\n", "500 5.5.1 "},
		"unknown":            {"FROB x\r\n", "500 5.5.1 "},
		"dot":                {".\r\n", "500 5.5.1 "},
		"control character":  {"MAIL FROM:<a\x07@b.example>\r\n", "501 5.5.2 "},
		"broken UTF-8":       {"MAIL FROM:<\xc3@b.example>\r\n", "501 5.5.2 "},
		"tab for a space":    {"MAIL\tFROM:<a@b.example>\r\n", "501 5.5.2 "},
		"an overlong path":   {"MAIL FROM:<" + strings.Repeat("x", 300) + "@b.example>\r\n", "501 5.1.7 "},
		"percent signs":      {"FROB %s%n%d\r\n", "500 5.5.1 Command \"FROB\""},
		"reply in the verb":  {"250-FROB\r\n", "500 5.5.1 "},
		"injection by quote": {"MAIL FROM:<\"a\r\nRCPT TO:<b@example.org>\"@b.example>\r\n", "501 5.1.7 "},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				h := newHostile(t, nil)
				c := h.greeted()
				c.raw(tt.line)
				if got := c.want(tt.want); len(got) > 510 || strings.ContainsAny(got, "\r\n\x00") {
					t.Errorf("answered %q", got)
				}
				switch name {
				case "LF CR": // the CR is the beginning of the next line
					c.raw("\n")
					c.want("500 5.5.2 ")
				case "injection by quote": // two lines, two refusals
					c.want("501 5.5.4 ")
				}
				h.wantHeard()
				if !strings.HasPrefix(tt.want, "2") && hostileCount(t, h.proxy.metrics.refusals) == 0 {
					t.Error("the refusal was not counted")
				}
				c.send()
				c.talk("QUIT", "221 2.0.0 ")
				c.wantClosed()
				h.wantMessages(hostileText)
				h.over()
			})
		})
	}
}

// A line that never ends is not waited for.
func TestHostileLineWithoutEnd(t *testing.T) {
	for _, verb := range []string{"", "NOOP ", "MAIL FROM:<a@b.example> ", "BDAT 10", "STARTTLS "} {
		synctest.Test(t, func(t *testing.T) {
			h := newHostile(t, nil)
			c := h.greeted()
			c.raw(verb + strings.Repeat("x", 2*smtpwire.MaxOverlongLine))
			c.want("421 4.7.0 ")
			c.wantClosed()
			h.wantLog("session ended by us")
			h.wantHeard()
			h.over()
		})
	}
}
