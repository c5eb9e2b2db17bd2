package report

import (
	"strings"
	"time"

	"slipstream/bench"
	"slipstream/bench/meter"
)

// A talk writes a conversation flight by flight: each leaves when the one before it has arrived.
type talk struct {
	rtt     time.Duration
	flights []meter.Flight
	growth  []meter.Point
	now     time.Duration
	packets int
}

// began is when every conversation of the fixture began.
func began() time.Time { return time.Date(2026, 3, 14, 9, 26, 53, 0, time.UTC) }

// think is what an end takes for itself.
const think = 250 * time.Microsecond

func converse(rtt time.Duration, lines ...string) *talk {
	t := &talk{rtt: rtt}
	for _, l := range lines {
		t.say(l)
	}
	return t
}

// say takes "> label" of the client, "< label" of the server, "= label" of the server half a trip later, since it
// waited for a bare acknowledgement, and "! label" for a flight that was lost once.
func (t *talk) say(line string) {
	who, label, _ := strings.Cut(line, " ")
	switch who {
	case "=":
		t.now += t.rtt / 2
	case "!":
		at := began().Add(t.now)
		t.flights = append(t.flights, meter.Flight{Start: at, End: at, Packets: 1, Octets: 40, Label: label})
		t.now += t.rtt + 200*time.Millisecond
	}
	f := meter.Flight{Start: began().Add(t.now), Label: label, Packets: 1, Octets: 40}
	f.FromServer = who == "<" || who == "="
	f.End = f.Start
	f.Arrives = f.Start.Add(t.rtt / 2)
	f.Complete = f.Arrives
	t.flights = append(t.flights, f)
	t.now += t.rtt/2 + think
	t.packets += 2
}

// text sends a big body: ten segments at first, twice as many after each trip.
func (t *talk) text(label string, octets, window int) {
	const segment = 1448
	start, sent := t.now, 0
	for sent < octets {
		part := min(window*segment, octets-sent)
		for k := range 8 {
			t.growth = append(t.growth, meter.Point{
				After: t.now + t.rtt/2 + time.Duration(k)*300*time.Microsecond, Octets: sent + part*(k+1)/8,
			})
		}
		sent += part
		window *= 2
		if sent < octets {
			t.now += t.rtt
		}
	}
	t.packets += 3 * octets / segment / 2
	at := began().Add(start)
	f := meter.Flight{Start: at, Arrives: at.Add(t.rtt / 2), End: began().Add(t.now + 2*time.Millisecond), Label: label,
		Packets: octets/segment + 1, Octets: octets}
	f.Complete = f.End.Add(t.rtt / 2)
	t.flights = append(t.flights, f)
	t.now = f.Complete.Sub(began()) + think
}

// result closes a conversation: the last flight of the server is the final reply.
func (t *talk) result(s bench.Scenario, path bench.Path, size int, peers ...string) bench.Result {
	last := &t.flights[len(t.flights)-1]
	last.Final = true
	elapsed := last.Arrives.Sub(t.flights[0].Start)
	cell := bench.Cell{Scenario: s, Path: path, Size: size, RTT: t.rtt}
	r := bench.Result{Cell: cell, Peers: peers, Flights: t.flights, Growth: t.growth}
	for i := range 5 {
		e := elapsed + time.Duration(i-2)*180*time.Microsecond
		if i == 4 {
			e += t.rtt / 50
		}
		sample := bench.Sample{Trips: float64(e) / float64(t.rtt), Elapsed: e, FirstByte: t.rtt, Packets: t.packets,
			Octets: 60*t.packets + size, Resumed: s.State == bench.Resumed, FastOpen: s.FastOpen}
		if path == bench.Direct {
			sample.Free = e + 130*time.Microsecond
		}
		r.Samples = append(r.Samples, sample)
	}
	return r
}

func skipped(s bench.Scenario, path bench.Path, size int, rtt time.Duration, why string) bench.Result {
	return bench.Result{Cell: bench.Cell{Scenario: s, Path: path, Size: size, RTT: rtt}, Skipped: why}
}

func scenario(d bench.Direction, ch bench.Channel, st bench.State, c bench.Client, sv bench.Server,
	direct, through int) bench.Scenario {
	return bench.Scenario{Direction: d, Channel: ch, State: st, Client: c, Server: sv, Default: true,
		Trips: bench.Trips{Direct: direct, Through: through}}
}

const (
	smallBody = 2 << 10
	longLink  = 100 * time.Millisecond
	hostile   = `<script>alert("x")</script>`
)

// fixture is a run as it might have been: many kinds of conversation, and some that nobody should be able to make.
func fixture() *bench.Report {
	r := &bench.Report{Facts: fixtureFacts()}
	for _, add := range []func(*bench.Report){addClear, addBig, addTLS, addKnown, addInbound, addOdd} {
		add(r)
	}
	return r
}

func fixtureFacts() bench.Facts {
	return bench.Facts{
		Begun: began(), Took: 2*time.Minute + 11*time.Second,
		Ground:  "the kernel's TCP over a delayed link between two network namespaces",
		Link:    "100 Mbit/s, no loss, no jitter, MTU 1500",
		Version: "0.3.0", Go: "go1.26.8", OS: "plan9", Arch: "mips", System: "Linux 6.1.0-37-amd64 x86_64, 2 CPUs",
		Peers:    []string{"exim 4.96-15+deb12u10", "postfix 3.7.11-0+deb12u1"},
		Sysctls:  []string{"net.ipv4.tcp_congestion_control=cubic", "net.ipv4.tcp_fastopen=0"},
		Tickets:  "forgotten before every message of a first contact; kept where the state says so",
		Warnings: []string{"2 CPUs, 71 % busy", "the reference client stood in for Postfix: " + hostile},
	}
}

var (
	handshake = []string{"> SYN", "< SYN-ACK", "= 220"}
	lockstep  = []string{"> MAIL", "< 250", "> RCPT", "< 250", "> DATA", "< 354", "> text 2 KB", "< 250"}
	pipelined = []string{"> MAIL RCPT DATA", "< 250 250 354", "> text 2 KB", "< 250"}
	chunked   = []string{"> MAIL RCPT BDAT 2 KB", "< 250 250 250"}
	tls13     = []string{"> STARTTLS", "< 220", "> ClientHello", "< ServerHello…Finished"}
	tls12     = []string{
		"> STARTTLS", "< 220", "> ClientHello", "< ServerHello Certificate…Done", "> Finished", "< Finished",
	}
)

// encrypted hides what lines carry, as TLS does.
func encrypted(lines []string) []string {
	var out []string
	for i, l := range lines {
		n := "encrypted 61 octets"
		switch {
		case strings.HasSuffix(l, "2 KB") && strings.Contains(l, "BDAT"):
			n = "encrypted 2.2 KB"
		case strings.HasSuffix(l, "2 KB"):
			n = "encrypted 2.1 KB"
		case i%3 == 0:
			n = "encrypted 140 octets"
		}
		out = append(out, l[:2]+n)
	}
	return out
}

func lines(parts ...[]string) []string {
	var all []string
	for _, p := range parts {
		all = append(all, p...)
	}
	return all
}

// add puts both paths of a comparison into a report.
func add(r *bench.Report, s bench.Scenario, size int, direct, through *talk) {
	client, server := "reference client ("+string(s.Client)+")", "reference server ("+string(s.Server)+")"
	r.Results = append(r.Results,
		direct.result(s, bench.Direct, size, client, server),
		through.result(s, bench.Through, size, client, "Slipstream", server))
}

// alone puts the direct path into a report, and why there is no other.
func alone(r *bench.Report, s bench.Scenario, size int, direct *talk, why string) {
	r.Results = append(r.Results, direct.result(s, bench.Direct, size), skipped(s, bench.Through, size, longLink, why))
}

// greeted begins a conversation in clear up to the reply to a greeting.
func greeted(rtt time.Duration, greeting string, parts ...[]string) *talk {
	return converse(rtt, lines(append([][]string{handshake, {"> " + greeting, "< 250"}}, parts...)...)...)
}

func addClear(r *bench.Report) {
	s := scenario(bench.Outbound, bench.Clear, bench.FirstContact, bench.Old, bench.ModernServer, 7, 5)
	for _, rtt := range []time.Duration{20 * time.Millisecond, longLink, 300 * time.Millisecond} {
		add(r, s, smallBody, greeted(rtt, "HELO", lockstep), greeted(rtt, "EHLO", pipelined))
	}
	s = scenario(bench.Outbound, bench.Clear, bench.FirstContact, bench.Chunking, bench.ModernServer, 4, 5)
	add(r, s, smallBody, greeted(longLink, "EHLO", chunked), greeted(longLink, "EHLO", pipelined))
	s = scenario(bench.Outbound, bench.Clear, bench.FirstContact, bench.Postfix, bench.PostfixServer, 5, 5)
	add(r, s, smallBody, greeted(longLink, "EHLO", pipelined), greeted(longLink, "EHLO", pipelined))
}

// big sends a long text behind the commands before it.
func big(t *talk, size, window int) *talk {
	t.text("text "+sizeWords(size), size, window)
	t.say("< 250")
	return t
}

func addBig(r *bench.Report) {
	s := scenario(bench.Outbound, bench.Clear, bench.FirstContact, bench.Old, bench.ModernServer, 7, 5)
	for _, size := range []int{64 << 10, 1 << 20} {
		add(r, s, size,
			big(greeted(longLink, "HELO", lockstep[:6]), size, 10),
			big(greeted(longLink, "EHLO", pipelined[:2]), size, 12))
	}
	s.Client, s.State = bench.Pipelining, bench.Warm // measured with a big text only
	alone(r, s, 1<<20, big(greeted(longLink, "EHLO", pipelined[:2]), 1<<20, 10), "Slipstream keeps no connection open")
}

func addTLS(r *bench.Report) {
	ehlo := []string{"> EHLO", "< 250"}
	s := scenario(bench.Outbound, bench.StartTLS12, bench.FirstContact, bench.Old, bench.ModernServer, 11, 9)
	add(r, s, smallBody,
		greeted(longLink, "EHLO", tls12, encrypted(lines(ehlo, lockstep))),
		greeted(longLink, "EHLO", tls12, encrypted(lines(ehlo, pipelined))))
	s = scenario(bench.Outbound, bench.StartTLS13, bench.FirstContact, bench.Exim, bench.EximServer, 7, 8)
	inside := []string{"> Finished + 0.1 KB encrypted", "< encrypted 210 octets"}
	add(r, s, smallBody,
		greeted(longLink, "EHLO", tls13, inside, encrypted(chunked)),
		greeted(longLink, "EHLO", tls13, inside, encrypted(pipelined)))
}

func addKnown(r *bench.Report) {
	s := scenario(bench.Outbound, bench.Clear, bench.Known, bench.Exim, bench.EximServer, 2, 2)
	early := []string{"> SYN", "< SYN-ACK", "> EHLO MAIL RCPT BDAT 2 KB", "< 220 250 250 250 250"}
	add(r, s, smallBody, greeted(longLink, "EHLO", chunked), converse(longLink, early...))
	s.FastOpen = true
	alone(r, s, smallBody, converse(longLink, early...), "Slipstream does no Fast Open")
	s = scenario(bench.Outbound, bench.Implicit, bench.Resumed, bench.Early, bench.ModernServer, 3, 0)
	alone(r, s, smallBody, converse(longLink, "> SYN", "< SYN-ACK", "> ClientHello", "< ServerHello…Finished",
		"> Finished + 2.4 KB encrypted", "< encrypted 301 octets"), "Slipstream keeps no TLS sessions")
	s = scenario(bench.Outbound, bench.StartTLS13, bench.Warm, bench.Old, bench.ModernServer, 10, 1)
	add(r, s, smallBody,
		greeted(longLink, "EHLO", tls13, encrypted(lines([]string{"> EHLO", "< 250"}, lockstep))),
		converse(longLink, "> encrypted 2.2 KB", "< encrypted 93 octets"))
}

func addInbound(r *bench.Report) {
	s := scenario(bench.Inbound, bench.Clear, bench.FirstContact, bench.Chunking, bench.OldServer, 7, 4)
	refused := converse(longLink, lines(handshake, []string{"> EHLO", "< 502", "> HELO", "< 250"}, lockstep)...)
	add(r, s, smallBody, refused, greeted(longLink, "EHLO", chunked))
	s = scenario(bench.Inbound, bench.StartTLS13, bench.FirstContact, bench.Postfix, bench.EximServer, 8, 8)
	for _, path := range bench.Paths() {
		r.Results = append(r.Results, skipped(s, path, smallBody, longLink, "Postfix is not here: run make peers"))
	}
}

// addOdd adds what strains a picture: crowds of flights, losses, long and hostile texts.
func addOdd(r *bench.Report) {
	s := scenario(bench.Inbound, bench.Clear, bench.Warm, bench.Early, bench.OldServer, 1, 1)
	crowd := &talk{rtt: longLink}
	for i := range 30 {
		at := began().Add(time.Duration(i) * time.Millisecond)
		crowd.flights = append(crowd.flights, meter.Flight{
			FromServer: i%2 == 1, Start: at, End: at, Arrives: at.Add(longLink / 2), Complete: at.Add(longLink / 2),
			Packets: 1, Label: "RCPT×100 " + strings.Repeat("word ", i%7),
		})
	}
	crowd.now = 80 * time.Millisecond
	crowd.say("< 250 ×31 " + hostile)
	lost := converse(longLink, "> SYN", "< SYN-ACK", "! MAIL RCPT DATA", "< 250 250 354",
		"> "+strings.Repeat("unbroken", 9), "< "+hostile)
	r.Results = append(r.Results,
		crowd.result(s, bench.Direct, smallBody, hostile, strings.Repeat("long-name ", 12)),
		lost.result(s, bench.Through, smallBody, hostile))
	s.State = bench.Resumed
	for _, path := range bench.Paths() {
		r.Results = append(r.Results, skipped(s, path, smallBody, longLink, "it said "+hostile))
	}
	s = scenario(bench.Inbound, bench.Clear, bench.Known, bench.Pipelining, bench.OldServer, 0, 0)
	slow := &talk{rtt: time.Millisecond} // so many trips that they cannot be told apart
	for i := range 60 {
		slow.say("> NOOP " + strings.Repeat("x", i%5))
		slow.say("< 250 2.0.0")
	}
	add(r, s, smallBody, slow, converse(time.Millisecond, pipelined...))
}
