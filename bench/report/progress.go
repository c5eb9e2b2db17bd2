package report

import (
	"fmt"
	"io"
	"strings"
	"sync"
	"time"
)

// A Progress tells someone who waits how far a run is. It is safe for use by several goroutines; what cannot be written
// is dropped.
type Progress struct {
	w        io.Writer
	terminal bool

	mu    sync.Mutex
	drawn bool   // there is a line to redraw
	last  string // the scenario that was told last
}

// NewProgress writes to w: on a terminal one line, drawn anew at each step; else a line for each new scenario.
func NewProgress(w io.Writer, terminal bool) *Progress { return &Progress{w: w, terminal: terminal} }

// progressWidth is what is drawn of a line: a longer one would wrap on an ordinary terminal, and could not be redrawn.
const progressWidth = 79

// Step says that done of total samples are taken, what comes next (the name of a cell), and how long the rest will
// take; eta 0: not known.
func (p *Progress) Step(done, total int, what string, eta time.Duration) {
	p.mu.Lock()
	defer p.mu.Unlock()
	scenario := scenarioOf(what)
	if !p.terminal && scenario == p.last {
		return
	}
	p.last = scenario
	rest := ""
	if eta > 0 {
		rest = ", " + etaWords(eta) + " left"
	}
	if !p.terminal {
		fmt.Fprintf(p.w, "%d of %d%s: %s\n", done, total, rest, clean(scenario))
		return
	}
	line := []rune(fmt.Sprintf("%d of %d%s: %s", done, total, rest, clean(what)))
	if len(line) > progressWidth {
		line = append(line[:progressWidth-1], '…')
	}
	fmt.Fprintf(p.w, "\r\x1b[K%s", string(line))
	p.drawn = true
}

// Done ends it. On a terminal the line disappears.
func (p *Progress) Done() {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.drawn {
		io.WriteString(p.w, "\r\x1b[K")
	}
	p.drawn, p.last = false, ""
}

// scenarioOf cuts the name of a cell down to that of its scenario, which has four parts.
func scenarioOf(cell string) string {
	parts := strings.SplitN(cell, "/", 5)
	return strings.Join(parts[:min(4, len(parts))], "/")
}

// etaWords rounds a time that nobody knows exactly.
func etaWords(d time.Duration) string {
	switch {
	case d < 90*time.Second:
		return fmt.Sprintf("%d s", max(1, int(d.Round(time.Second).Seconds())))
	case d < 90*time.Minute:
		return fmt.Sprintf("%d min", int(d.Round(time.Minute).Minutes()))
	}
	return fmt.Sprintf("%.1f h", d.Hours())
}
