package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/signal"
	"syscall"
	"time"

	"slipstream/bench/load"
)

type benchLoadCmd struct {
	Sessions      []int         `placeholder:"N" help:"Numbers of sessions at work at once, a point each (1,5,20,50,100). With --rate: the most messages in flight (100)."`
	PerConnection []int         `placeholder:"N" help:"Messages on one connection (1,100): the first with each number of sessions, the others with the middle one."`
	Duration      time.Duration `default:"3s" help:"Time that each contestant is measured for at one point, over all rounds (${default})."`
	Rounds        int           `default:"3" help:"Rounds in which the contestants take turns (${default})."`
	Size          int           `default:"4096" placeholder:"OCTETS" help:"Size of a message (${default})."`
	Idle          int           `default:"500" placeholder:"N" help:"Connections to see with how much memory an idle one holds (${default})."`
	TLS           bool          `name:"tls" help:"With STARTTLS: to the inbound door, and from the outbound door to the sink."`
	Rate          float64       `placeholder:"R" help:"Open loop: R messages a second are due, whatever became of those before."`
	Clock         load.Clock    `enum:"poisson,constant" default:"poisson" help:"Gaps of the open loop: poisson (random) or constant."`
	Peers         string        `type:"path" placeholder:"DIR" help:"Where HAProxy and nginx were laid (default: .peers here or above, or what is installed)."`
	JSON          string        `name:"json" placeholder:"FILE" help:"Write all figures as JSON; - for standard output."`
	Bench         string        `placeholder:"FILE" help:"Write lines for benchstat; - for standard output."`
}

// Help tells what the one line does not.
func (*benchLoadCmd) Help() string {
	return `How many messages a second pass between a source and a sink on this machine, what CPU time and memory the
process between them spends, and how long a message takes: directly, through an outbound and an inbound door, through HAProxy
(mode tcp) and through nginx (mail), the last two where they are found, in .peers or installed. Everything goes over
loopback, and source and sink share the machine with what is measured.

Without --rate the loop is closed: a session sends its next message when the last one was acknowledged. This finds the
highest rate, but its latencies flatter, since nobody sends during a stall (coordinated omission). With --rate a clock
says when each message is due, and its latency counts from then, so that a stall is charged to all that were due
meanwhile; messages that found no free session are counted, and so are those that could not be sent at all.

Every acknowledged message must be at the sink, once; otherwise the run fails.

Exit codes: 0 measured, 1 not, or messages failed, 64 wrong command line.`
}

// Run measures and prints a table; progress goes to standard error.
func (c *benchLoadCmd) Run(con console) error {
	self, err := os.Executable()
	if err != nil {
		return err
	}
	o := load.Options{
		Command: []string{self}, Version: buildVersion(), Peers: c.Peers,
		Sessions: c.Sessions, PerConnection: c.PerConnection, Duration: c.Duration, Rounds: c.Rounds,
		Size: c.Size, Idle: c.Idle, TLS: c.TLS, Rate: c.Rate, Clock: c.Clock,
	}
	if err := o.Check(); err != nil {
		return &exitError{exitUsage, err}
	}
	files, err := openOutputs(c.JSON, c.Bench)
	if err != nil {
		return err
	}
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM, syscall.SIGHUP)
	defer stop()
	progress := loadProgress{w: con.err, redraw: isTerminal(con.err)}
	o.Progress = progress.step
	report, err := load.Run(ctx, o)
	progress.end()
	if report == nil {
		files.discard()
		return err
	}
	table := func(w io.Writer) error { return report.Table(w, load.MinWidth) }
	return errors.Join(files.fill(con.out, table, report.JSON, report.Benchmarks), err)
}

// A loadProgress shows how far a run is: one line that is drawn again on a terminal, else a line for each point.
type loadProgress struct {
	w      io.Writer
	redraw bool
	last   string
}

// eraseLine goes to the start of a terminal's line and empties it (ECMA-48 EL).
const eraseLine = "\r\x1b[K"

func (p *loadProgress) step(s load.Step) {
	left := s.Left.Round(time.Second)
	if p.redraw {
		fmt.Fprintf(p.w, eraseLine+"%d/%d  %s: %s  (%v left)", s.Done+1, s.Total, s.Point, s.Way, left)
	} else if s.Point != p.last {
		fmt.Fprintf(p.w, "%s (%v left)\n", s.Point, left)
	}
	p.last = s.Point
}

func (p *loadProgress) end() {
	if p.redraw && p.last != "" {
		fmt.Fprint(p.w, eraseLine)
	}
}
