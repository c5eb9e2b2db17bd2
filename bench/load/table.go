package load

import (
	"fmt"
	"io"
	"slices"
	"strings"
	"time"
	"unicode"
)

// MinWidth is the narrowest table, in columns.
const MinWidth = 100

// Table writes the report for people, aligned, in plain text. Width bounds the lines of prose; less than MinWidth
// stands for MinWidth.
func (r *Report) Table(w io.Writer, width int) error {
	t := &table{width: max(width, MinWidth)}
	t.head(r)
	for i, p := range r.Points {
		if i == 0 || p.Sessions != r.Points[i-1].Sessions || p.PerConnection != r.Points[i-1].PerConnection {
			t.line("")
			t.line("%v", spot{p.Sessions, p.PerConnection})
		}
		t.point(p)
	}
	t.memory(r)
	t.foot(r)
	_, err := io.WriteString(w, t.b.String())
	return err
}

type table struct {
	b     strings.Builder
	width int
}

func (t *table) line(format string, args ...any) {
	t.b.WriteString(strings.TrimRight(fmt.Sprintf(format, args...), " ") + "\n")
}

// The columns: name, rate and its spread, CPU time and its spread, latencies, memory.
const columns = "  %-13s %8s %-14s %7s %-11s %6s %6s %6s %6s %6s %5s"

func (t *table) head(r *Report) {
	f := r.Facts
	loop := "closed loop: each session sends its next message when the last one was acknowledged"
	if f.Rate > 0 {
		loop = fmt.Sprintf("open loop: %g messages a second are due, by a %s clock", f.Rate, f.Clock)
	}
	channel := "in clear"
	if f.TLS {
		channel = "with STARTTLS"
	}
	t.prose("", fmt.Sprintf("Messages of %s, %s, source to sink over loopback; %s.", octets(int64(f.Size)), channel, loop))
	t.line("")
	t.line(columns, "", "messages", "", "CPU µs", "", "until", "the", "final", "reply,", "ms", "peak")
	t.line(columns, "", "a second", "[least–most]", "each", "[l–m]", "p50", "p90", "p99", "p99.9", "max", "MB")
}

func (t *table) point(p Point) {
	cpu, around, peak := "-", "", "-"
	if p.CPU.Median > 0 {
		cpu = fmt.Sprintf("%.0f", p.CPU.Median/1000)
		around = fmt.Sprintf("[%.0f–%.0f]", p.CPU.Least/1000, p.CPU.Most/1000)
	}
	if p.Peak > 0 {
		peak = fmt.Sprintf("%.0f", float64(p.Peak)/1e6)
	}
	l := p.Latency
	t.line(columns, p.Way.Title(),
		fmt.Sprintf("%.0f", p.Rate.Median), fmt.Sprintf("[%.0f–%.0f]", p.Rate.Least, p.Rate.Most), cpu, around,
		millis(l.P50), millis(l.P90), millis(l.P99), millis(l.P999), millis(l.Max), peak)
	if p.Failed > 0 {
		t.prose("    ! ", fmt.Sprintf("%s failed, so these figures mean little: %s", count(p.Failed, "message"), p.Failure))
	}
	if p.Queued > 0 {
		t.prose("    ! ", p.queue())
	}
}

// queue says what an open loop could not keep up with.
func (p Point) queue() string {
	var longest time.Duration
	for _, turn := range p.Turns {
		longest = max(longest, turn.Waited)
	}
	text := fmt.Sprintf("%d of %s waited for a free session, up to %s ms, which counts",
		p.Queued, count(p.Counted, "message"), millis(longest))
	if p.Unsent > 0 {
		text += fmt.Sprintf("; %d were never sent, so the latencies are at least what is shown", p.Unsent)
	}
	return text
}

// punctuality says how well an open loop kept its own time.
func (r *Report) punctuality() string {
	var late, counted int
	var lag time.Duration
	for _, p := range r.Points {
		late, counted = late+p.Late, counted+p.Counted
		for _, turn := range p.Turns {
			lag = max(lag, turn.Lag)
		}
	}
	return fmt.Sprintf("The source itself was late by %v or more with %d of %s, by %s ms at most; that counts, too.",
		lateAfter, late, count(counted, "message"), millis(lag))
}

func (t *table) memory(r *Report) {
	if len(r.Memory) == 0 {
		return
	}
	t.line("")
	t.line("Resident memory while idle, of a process that has just begun")
	t.line("  %-13s %12s %26s", "", "alone, MB", "each connection more, KB")
	for _, m := range r.Memory {
		t.line("  %-13s %12.1f %26.1f", m.Way.Title(), float64(m.Bare)/1e6, float64(m.PerConnection)/1e3)
	}
}

func (t *table) foot(r *Report) {
	f := r.Facts
	t.line("")
	for _, a := range r.Absent {
		t.prose("  ", fmt.Sprintf("Absent: %s: %s", a.Way.Title(), a.Reason))
	}
	t.prose("  ", fmt.Sprintf("Rates and CPU are medians of %s of %v each [least–most], after %v of warm-up; "+
		"latencies are of all rounds together. Every acknowledged message was found at the sink, once.",
		count(f.Rounds, "round"), f.Window.Round(time.Millisecond), f.WarmUp.Round(time.Millisecond)))
	if f.CPUSource != "" {
		t.prose("  ", "CPU and memory are those of the process between (and its workers) alone, by "+f.CPUSource+".")
	} else {
		t.prose("  ", "CPU and memory are not told on this system.")
	}
	if f.Rate > 0 {
		t.prose("  ", "Latencies count from when a message was due, so that a stall is charged to all that were "+
			"due meanwhile (no coordinated omission). "+r.punctuality())
	} else {
		t.prose("  ", "In a closed loop nobody sends during a stall, so these latencies flatter (coordinated omission); "+
			"--rate measures them without.")
	}
	t.prose("  ", fmt.Sprintf("%s: %s, %s/%s, %s, %s shared by source, sink and what is between.",
		strings.TrimSpace("slipstream "+f.Version), f.Go, f.GOOS, f.GOARCH, f.System, count(f.CPUs, "CPU")))
	if len(f.Peers) > 0 {
		t.prose("  ", "Beside it: "+strings.Join(f.Peers, ", ")+".")
	}
	if slices.ContainsFunc(r.Points, func(p Point) bool { return p.Way == Nginx }) {
		t.prose("  ", "nginx asks where to connect for each connection, and leaves Nagle's algorithm on: a reply "+
			"in two pieces waits for a delayed acknowledgment, some 40 ms.")
	}
	if f.Busy != "" {
		t.prose("  ", "Load average of the machine before the run: "+f.Busy+".")
	}
}

// prose writes words in lines of the table's width, all indented, the first by the mark.
func (t *table) prose(mark, text string) {
	line, indent := mark, strings.Repeat(" ", len(mark))
	empty := true
	for word := range strings.FieldsSeq(printable(text)) {
		if !empty && len([]rune(line))+1+len([]rune(word)) > t.width {
			t.line("%s", line)
			line, empty = indent, true
		}
		if !empty {
			line += " "
		}
		line += word
		empty = false
	}
	t.line("%s", line)
}

// millis writes a time in milliseconds, with three digits that matter; none for no time.
func millis(d time.Duration) string {
	if d == 0 {
		return "-"
	}
	ms := float64(d) / float64(time.Millisecond)
	switch {
	case ms < 9.995:
		return fmt.Sprintf("%.2f", ms)
	case ms < 99.95:
		return fmt.Sprintf("%.1f", ms)
	}
	return fmt.Sprintf("%.0f", ms)
}

// octets writes a size.
func octets(n int64) string {
	switch {
	case n >= 1<<20 && n%(1<<20) == 0:
		return fmt.Sprintf("%d MiB", n>>20)
	case n >= 1<<10 && n%(1<<10) == 0:
		return fmt.Sprintf("%d KiB", n>>10)
	}
	return fmt.Sprintf("%d octets", n)
}

// printable makes what others said fit for a terminal, which obeys control characters.
func printable(s string) string {
	return strings.Map(func(r rune) rune {
		if unicode.IsPrint(r) || unicode.IsSpace(r) {
			return r
		}
		return '?'
	}, s)
}
