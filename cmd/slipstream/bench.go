package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/signal"
	"regexp"
	"strconv"
	"strings"
	"syscall"
	"time"

	"slipstream/bench"
	"slipstream/bench/report"
	"slipstream/bench/wan"
)

// benchCmd holds what can be measured.
type benchCmd struct {
	Run  benchRunCmd  `cmd:"" default:"withargs" help:"Measure round trips over a wide-area link, with Slipstream and without."`
	Load benchLoadCmd `cmd:"" help:"Measure messages per second, processor time, memory and latency on this machine."`
}

// benchRunCmd is "slipstream bench".
type benchRunCmd struct {
	All     bool            `help:"Measure every scenario, size and trip time; takes hours. The default subset takes two minutes."`
	List    bool            `help:"List the cells, do not measure."`
	Match   string          `name:"run" placeholder:"REGEXP" help:"Only cells whose name this matches, of all scenarios."`
	RTT     []time.Duration `name:"rtt" placeholder:"TIME" help:"Trip times of the link (default 100ms)."`
	Size    []string        `placeholder:"OCTETS" help:"Sizes of message, as 2KB or 1MB."`
	Count   int             `default:"3" help:"Messages for each cell."`
	Ground  string          `default:"auto" enum:"auto,wan,sim" help:"wan: the kernel's TCP over a delayed link (Linux, root); sim: simulated connections; auto: the former where it can be."`
	Loss    float64         `help:"Share of packets that the link loses, 0 to 1."`
	Jitter  time.Duration   `help:"How much the delay of a packet varies, one way."`
	Rate    string          `default:"100Mbit" help:"What the link carries each way per second, as 20Mbit or 1Gbit; 0: no limit."`
	MTU     int             `name:"mtu" default:"1500" help:"Largest packet of the link."`
	Peers   string          `type:"path" placeholder:"DIR" help:"Where real mail servers were laid (default: .peers here or above)."`
	Capture string          `type:"existingdir" placeholder:"DIR" help:"Record the packets, in a pcap file for each scenario and path."`
	JSON    string          `name:"json" placeholder:"FILE" help:"Write every sample as JSON; - for standard output."`
	HTML    string          `name:"html" placeholder:"FILE" help:"Write the report as one page."`
	Bench   string          `placeholder:"FILE" help:"Write lines for benchstat; - for standard output."`
	From    string          `type:"existingfile" placeholder:"FILE" help:"Measure nothing: show again what was saved with --json."`
}

func (c *benchRunCmd) Run(con console) error {
	choice, err := c.choice()
	if err != nil {
		return &exitError{exitUsage, err}
	}
	if c.List {
		for _, cell := range choice.Cells() {
			fmt.Fprintln(con.out, strings.TrimSpace(cell.Name()+"  "+cell.Scenario.Missing(cell.Path)))
		}
		return nil
	}
	if c.From != "" {
		return c.again(con)
	}
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	options, err := c.options(ctx, choice.Cells(), con)
	if err != nil {
		return &exitError{exitUsage, err}
	}
	progress := report.NewProgress(con.err, isTerminal(con.err))
	begun := time.Now()
	options.Progress = func(s bench.Step) {
		progress.Step(s.Done, s.Total, s.Cell.Name(), left(time.Since(begun), s))
	}
	result, err := bench.Run(ctx, *options)
	progress.Done()
	return errors.Join(c.write(con, result), err)
}

// left is how much longer a run will take if it goes on as it went.
func left(past time.Duration, s bench.Step) time.Duration {
	if s.Done == 0 {
		return 0
	}
	return past / time.Duration(s.Done) * time.Duration(s.Total-s.Done)
}

func (c *benchRunCmd) choice() (bench.Choice, error) {
	choice := bench.Choice{All: c.All, RTTs: c.RTT}
	if c.Match != "" {
		re, err := regexp.Compile(c.Match)
		if err != nil {
			return choice, fmt.Errorf("--run: %w", err)
		}
		choice.Match = re
	}
	for _, rtt := range c.RTT {
		if rtt <= 0 || rtt > maxRTT {
			return choice, fmt.Errorf("--rtt: %v is not between 0 and %v", rtt, maxRTT)
		}
	}
	for _, text := range c.Size {
		size, err := quantity(text, map[string]int64{"": 1, "B": 1, "KB": 1 << 10, "MB": 1 << 20})
		if err != nil || size < minSize || size > maxSize {
			return choice, fmt.Errorf("--size: %q is not between %s and %s, as 2KB or 1MB",
				text, bench.SizeName(minSize), bench.SizeName(maxSize))
		}
		choice.Sizes = append(choice.Sizes, int(size))
	}
	if len(choice.Cells()) == 0 {
		return choice, fmt.Errorf("--run: no cell matches %q; \"slipstream bench --list --all\" shows them all", c.Match)
	}
	return choice, nil
}

// What can be asked for.
const (
	maxRTT   = 2 * time.Second
	minSize  = 512
	maxSize  = 32 << 20
	maxCount = 1000
)

func (c *benchRunCmd) options(ctx context.Context, cells []bench.Cell, con console) (*bench.Options, error) {
	rate, err := quantity(c.Rate, map[string]int64{"": 1, "bit": 1, "kbit": 1e3, "Mbit": 1e6, "Gbit": 1e9})
	if err != nil {
		return nil, fmt.Errorf("--rate: %w", err)
	}
	switch {
	case c.Loss < 0 || c.Loss >= 1:
		return nil, fmt.Errorf("--loss: %v is not between 0 and 1", c.Loss)
	case c.Jitter < 0 || c.Jitter > maxRTT:
		return nil, fmt.Errorf("--jitter: %v is not between 0 and %v", c.Jitter, maxRTT)
	case c.Count < 1 || c.Count > maxCount:
		return nil, fmt.Errorf("--count: %d is not between 1 and %d", c.Count, maxCount)
	}
	o := &bench.Options{
		Ground: bench.Ground(c.Ground), Cells: cells, Count: c.Count, MTU: c.MTU, Peers: c.Peers, Capture: c.Capture,
		Version: buildVersion(), Link: wan.Shape{Loss: c.Loss, Jitter: c.Jitter, Rate: rate, Seed: 1},
	}
	if c.Ground == "auto" {
		o.Ground = bench.WAN
		if err := bench.Available(ctx); err != nil {
			o.Ground = bench.Sim
			fmt.Fprintf(con.err, "The kernel's TCP cannot be measured: %v. The link is simulated instead.\n", err)
		}
	}
	return o, nil
}

// quantity reads a number with a unit.
func quantity(text string, units map[string]int64) (int64, error) {
	digits := strings.TrimRight(text, "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ")
	unit, known := units[text[len(digits):]]
	n, err := strconv.ParseInt(digits, 10, 32)
	if err != nil || !known || n < 0 {
		return 0, fmt.Errorf("%q is not a number with a unit", text)
	}
	return n * unit, nil
}

// again shows a saved run.
func (c *benchRunCmd) again(con console) error {
	f, err := os.Open(c.From)
	if err != nil {
		return err
	}
	defer f.Close()
	saved, err := report.ReadJSON(f)
	if err != nil {
		return fmt.Errorf("%s: %w", c.From, err)
	}
	return c.write(con, saved)
}

// write puts a report where it was asked for, the table on standard output unless something else goes there.
func (c *benchRunCmd) write(con console, r *bench.Report) error {
	var errs []error
	table := true
	for _, out := range []struct {
		name  string
		write func(w io.Writer, r *bench.Report) error
	}{{c.JSON, report.JSON}, {c.Bench, report.Benchmarks}, {c.HTML, report.HTML}} {
		switch out.name {
		case "":
		case "-":
			table = false
			errs = append(errs, out.write(con.out, r))
		default:
			errs = append(errs, writeFile(out.name, r, out.write))
		}
	}
	if table {
		report.Table(con.out, r, report.TableOptions{Color: isTerminal(con.out), Width: 100})
	}
	return errors.Join(errs...)
}

func writeFile(name string, r *bench.Report, write func(io.Writer, *bench.Report) error) error {
	f, err := os.Create(name)
	if err != nil {
		return err
	}
	return errors.Join(write(f, r), f.Close())
}
