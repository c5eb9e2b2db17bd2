package report

import (
	"bytes"
	"fmt"
	"io"
	"math"
	"strconv"
	"strings"
	"unicode/utf8"

	"slipstream/bench"
)

// TableOptions say how the table is to look. The zero value is plain and 100 columns wide.
type TableOptions struct {
	Color bool // use the terminal's colours
	Width int  // columns; 0: 100. Below 100 each comparison takes three short lines instead of one
}

// tableWidth is what a line with everything in it needs.
const tableWidth = 100

// Table writes what was measured for people to read in a terminal: a block for each scenario, then what was not
// measured and why, then the circumstances.
func Table(w io.Writer, r *bench.Report, o TableOptions) error {
	if o.Width <= 0 {
		o.Width = tableWidth
	}
	t := &table{TableOptions: o}
	t.head()
	r = cleaned(r)
	all := groups(r)
	for _, g := range all {
		t.group(g)
	}
	t.gaps(gaps(all))
	t.facts(r.Facts)
	_, err := w.Write(t.out.Bytes())
	return err
}

type table struct {
	TableOptions
	out bytes.Buffer
}

// The styles: SGR parameters of ECMA-48.
const (
	bold  = "1"
	dim   = "2"
	green = "32"
	red   = "31"
)

// style wraps text in a style where there is colour.
func (t *table) style(sgr, text string) string {
	if !t.Color || text == "" {
		return text
	}
	return "\x1b[" + sgr + "m" + text + "\x1b[0m"
}

func (t *table) line(parts ...string) {
	t.out.WriteString(strings.TrimRight(strings.Join(parts, ""), " "))
	t.out.WriteByte('\n')
}

// text writes a paragraph with a hanging indent.
func (t *table) text(indent, text string) {
	for _, l := range wrap(text, t.Width-utf8.RuneCountInString(indent)) {
		t.line(indent, l)
	}
}

func (t *table) head() {
	t.text("", "What a message costs over a long link, by itself and with Slipstream. Trips are round trips of the link,"+
		" counted from its packets, from the first SYN to the arrival of the final reply: median [least–most].")
	if t.Width < tableWidth {
		return
	}
	t.line()
	t.line(right("", 15), "  ", left("by itself", 33), "  ", left("with Slipstream", 33), "  saved")
	column := "  " + left("trips", 19) + right("ms", 6) + right("packets", 8)
	t.line(t.style(dim, left("  size", 8)+right("link", 7)+column+column+"  trips    time"))
}

func (t *table) group(g group) {
	t.line()
	who, how := whoWords(g.scenario), howWords(g.scenario)
	if utf8.RuneCountInString(who+how)+2 <= t.Width {
		t.line(t.style(bold, who), t.style(dim, "  "+how))
	} else {
		t.text("", who)
		t.text("", how)
	}
	for _, p := range g.pairs {
		if t.Width < tableWidth {
			t.stacked(p)
		} else {
			t.row(p)
		}
	}
}

// row writes a comparison in one line.
func (t *table) row(p pair) {
	t.line("  ", left(bench.SizeName(p.size), 6), right(rttWords(p.rtt), 7),
		t.cells(p.direct), t.cells(p.through), "  ", t.saved(p))
}

// stacked writes it in three.
func (t *table) stacked(p pair) {
	t.line("  ", t.style(dim, sizeWords(p.size)+", link "+rttWords(p.rtt)))
	t.line("    by itself     ", t.cells(p.direct))
	t.line("    Slipstream    ", t.cells(p.through))
	if p.both() {
		t.line("    saved           ", t.saved(p))
	}
}

// cells writes the columns of one path, 35 wide.
func (t *table) cells(res *bench.Result) string {
	if !measured(res) {
		return "  " + t.style(dim, left("–", 33))
	}
	m := res.Median()
	return "  " + left(tripsSpread(res), 19) + right(milliWords(m.Elapsed), 6) + right(strconv.Itoa(m.Packets), 8)
}

// tripsSpread writes "7.01 [7.00–7.03]", or "7.00" where all are alike.
func tripsSpread(res *bench.Result) string {
	least, most := res.Spread()
	decimals := 2
	if most >= 100 {
		decimals = 0
	}
	lo, hi := fixed(least, decimals), fixed(most, decimals)
	median := fixed(res.Median().Trips, decimals)
	if lo == hi {
		return median
	}
	return fmt.Sprintf("%s [%s–%s]", median, lo, hi)
}

// saved writes the last column.
func (t *table) saved(p pair) string {
	if !p.both() {
		return ""
	}
	trips, elapsed := p.saved()
	text := right(fixed(trips, 2), 5) + right(fixed(percent(elapsed, p.direct.Median().Elapsed), 0), 6) + " %"
	switch {
	case trips >= 0.5:
		return t.style(green, text)
	case trips <= -0.5:
		return t.style(red, text)
	}
	return text
}

func (t *table) gaps(gaps []gap) {
	if len(gaps) == 0 {
		return
	}
	t.line()
	t.line(t.style(bold, "not measured"))
	for _, g := range gaps {
		t.text("  ", g.Reason)
		for _, name := range g.Names {
			t.line(t.style(dim, "    "+name))
		}
	}
}

func (t *table) facts(f bench.Facts) {
	t.line()
	for _, f := range factList(f) {
		name := left(f.Name, 14)
		for _, text := range f.Lines {
			for _, l := range wrap(text, t.Width-len(name)) {
				t.line(t.style(dim, name), l)
				name = strings.Repeat(" ", len(name))
			}
		}
	}
}

// fixed writes a number with some decimals, and no sign before nothing.
func fixed(x float64, decimals int) string {
	if math.Abs(x) >= tooMany {
		return strconv.FormatFloat(x, 'g', 2, 64)
	}
	s := strconv.FormatFloat(x, 'f', decimals, 64)
	if strings.Trim(s, "-0.") == "" {
		return strings.TrimPrefix(s, "-")
	}
	return s
}

// left and right fill a text up to a width. Widths count characters, all of which here are one column wide.
func left(s string, width int) string  { return s + fill(s, width) }
func right(s string, width int) string { return fill(s, width) + s }

func fill(s string, width int) string {
	return strings.Repeat(" ", max(0, width-utf8.RuneCountInString(s)))
}
