package bench

import (
	"regexp"
	"time"
)

// small is the message that the table's trips are for.
const small = 2 << 10

// Sizes returns the sizes of message that there are cells for.
func Sizes() []int { return []int{small, 64 << 10, 1 << 20, 20 << 20} }

// RTTs returns the trip times that there are cells for.
func RTTs() []time.Duration {
	return []time.Duration{time.Millisecond, 20 * time.Millisecond, 100 * time.Millisecond, 300 * time.Millisecond}
}

// A Choice says which cells to measure. The zero Choice is the subset that takes about two minutes.
type Choice struct {
	All   bool            // every scenario, size and trip time
	Match *regexp.Regexp  // only cells whose Name it matches; nil: all of them
	Sizes []int           // instead of those of the subset, or of all
	RTTs  []time.Duration // the same
}

// Cells returns the cells of a choice, in the order of the table: of each scenario first those of the direct path. Cells
// that cannot be measured are among them.
func (c Choice) Cells() []Cell {
	var cells []Cell
	for _, s := range Scenarios() {
		for _, path := range Paths() {
			for _, rtt := range c.rtts() {
				for _, size := range c.sizes(s) {
					cell := Cell{s, path, size, rtt}
					if c.takes(cell) {
						cells = append(cells, cell)
					}
				}
			}
		}
	}
	return cells
}

// takes says whether a cell is asked for. A pattern reaches scenarios beyond the subset.
func (c Choice) takes(cell Cell) bool {
	if c.Match != nil {
		return c.Match.MatchString(cell.Name())
	}
	return c.All || cell.Scenario.Default
}

func (c Choice) sizes(s Scenario) []int {
	switch {
	case c.Sizes != nil:
		return c.Sizes
	case c.All:
		return Sizes()
	}
	return append([]int{small}, s.Bodies...)
}

func (c Choice) rtts() []time.Duration {
	switch {
	case c.RTTs != nil:
		return c.RTTs
	case c.All:
		return RTTs()
	}
	return []time.Duration{100 * time.Millisecond}
}
