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
	Match   string          `name:"run" placeholder:"REGEXP" help:"Only cells whose name this matches, of all scenarios; other sizes and trip times than the usual need --size and --rtt."`
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
			fmt.Fprintln(con.out, cell.Name())
		}
		return nil
	}
	if c.From != "" {
		return c.again(con)
	}
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM, syscall.SIGHUP)
	defer stop()
	options, err := c.options(ctx, choice.Cells(), con)
	if err != nil {
		return &exitError{exitUsage, err}
	}
	files, err := openOutputs(c.JSON, c.Bench, c.HTML)
	if err != nil {
		return err
	}
	progress := report.NewProgress(con.err, isTerminal(con.err))
	begun := time.Now()
	options.Progress = func(s bench.Step) {
		progress.Step(s.Done, s.Total, s.Cell.Name(), left(time.Since(begun), s))
	}
	result, err := bench.Run(ctx, *options)
	progress.Done()
	if len(result.Results) == 0 {
		files.discard()
		return err
	}
	return errors.Join(fillReport(files, con, result), err)
}

// fillReport writes a report wherever it was asked for.
func fillReport(files outputs, con console, r *bench.Report) error {
	with := func(write func(io.Writer, *bench.Report) error) func(io.Writer) error {
		return func(w io.Writer) error { return write(w, r) }
	}
	table := func(w io.Writer) error {
		return report.Table(w, r, report.TableOptions{Color: isTerminal(con.out), Width: tableWidth})
	}
	return files.fill(con.out, table, with(report.JSON), with(report.Benchmarks), with(report.HTML))
}

// tableWidth is how many columns a table may take.
const tableWidth = 100

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
		if rtt < minRTT || rtt > maxRTT {
			return choice, fmt.Errorf("--rtt: %v is not between %v and %v", rtt, minRTT, maxRTT)
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
		return choice, fmt.Errorf("--run: no cell matches %q; \"slipstream bench --list --all\" shows them all, of which this takes 2KB and 100ms unless --size and --rtt say otherwise", c.Match)
	}
	return choice, nil
}

// What can be asked for.
const (
	minRTT   = 100 * time.Microsecond
	maxRTT   = 2 * time.Second
	minSize  = 512
	maxSize  = 32 << 20
	maxCount = 1000
	minRate  = 10_000 // bits per second: less would not carry a message in the time it has

	defaultRate = "100Mbit"
)

func (c *benchRunCmd) options(ctx context.Context, cells []bench.Cell, con console) (*bench.Options, error) {
	rate, err := quantity(c.Rate, map[string]int64{"": 1, "bit": 1, "kbit": 1e3, "Mbit": 1e6, "Gbit": 1e9})
	if err != nil {
		return nil, fmt.Errorf("--rate: %w", err)
	}
	switch {
	case !(c.Loss >= 0 && c.Loss < 1):
		return nil, fmt.Errorf("--loss: %v is not between 0 and 1", c.Loss)
	case c.Jitter < 0 || c.Jitter > maxRTT:
		return nil, fmt.Errorf("--jitter: %v is not between 0 and %v", c.Jitter, maxRTT)
	case c.Count < 1 || c.Count > maxCount:
		return nil, fmt.Errorf("--count: %d is not between 1 and %d", c.Count, maxCount)
	case c.MTU < wan.MinMTU || c.MTU > wan.MaxMTU:
		return nil, fmt.Errorf("--mtu: %d is not between %d and %d", c.MTU, wan.MinMTU, wan.MaxMTU)
	case rate != 0 && rate < minRate:
		return nil, fmt.Errorf("--rate: %s is less than %d bits a second", c.Rate, minRate)
	}
	if given := c.linkOptions(); c.Ground == string(bench.Sim) && given != "" {
		return nil, fmt.Errorf("%s cannot be had with --ground sim: simulated connections have no packets", given)
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
			if given := c.linkOptions(); given != "" {
				return nil, fmt.Errorf("%s cannot be had on simulated connections", given)
			}
		}
	}
	return o, nil
}

// linkOptions names those options that only a link with packets can follow.
func (c *benchRunCmd) linkOptions() string {
	var given []string
	for _, o := range []struct {
		name string
		set  bool
	}{
		{"--loss", c.Loss != 0}, {"--jitter", c.Jitter != 0}, {"--rate", c.Rate != defaultRate},
		{"--mtu", c.MTU != wan.DefaultMTU}, {"--capture", c.Capture != ""},
	} {
		if o.set {
			given = append(given, o.name)
		}
	}
	return strings.Join(given, ", ")
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
	files, err := openOutputs(c.JSON, c.Bench, c.HTML)
	if err != nil {
		return err
	}
	return fillReport(files, con, saved)
}
