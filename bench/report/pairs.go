package report

import (
	"fmt"
	"time"

	"slipstream/bench"
)

// A pair is what is compared: one message over one link, sent directly and through Slipstream. Either may be nil.
type pair struct {
	scenario bench.Scenario
	size     int
	rtt      time.Duration
	direct   *bench.Result
	through  *bench.Result
}

// A group is all that was measured of one scenario.
type group struct {
	scenario bench.Scenario
	pairs    []pair
}

// groups sorts the results by scenario, and within it by what is compared, each in the order of their first appearance.
func groups(r *bench.Report) []group {
	type what struct {
		group int
		size  int
		rtt   time.Duration
	}
	var all []group
	byName, byWhat := make(map[string]int), make(map[what]int)
	for i := range r.Results {
		res := &r.Results[i]
		c := res.Cell
		name := c.Scenario.Name()
		at, known := byName[name]
		if !known {
			at = len(all)
			byName[name] = at
			all = append(all, group{scenario: c.Scenario})
		}
		g, w := &all[at], what{at, c.Size, c.RTT}
		n, known := byWhat[w]
		if !known {
			n = len(g.pairs)
			byWhat[w] = n
			g.pairs = append(g.pairs, pair{scenario: c.Scenario, size: c.Size, rtt: c.RTT})
		}
		g.pairs[n].put(res)
	}
	return all
}

func (p *pair) put(res *bench.Result) {
	switch res.Cell.Path {
	case bench.Direct:
		p.direct = res
	case bench.Through:
		p.through = res
	}
}

// measured says that there is something to show.
func measured(res *bench.Result) bool { return res != nil && len(res.Samples) > 0 }

// both says that the two can be compared.
func (p pair) both() bool { return measured(p.direct) && measured(p.through) }

// saved returns the trips and the time that Slipstream saves by the median; both must have been measured.
func (p pair) saved() (trips float64, elapsed time.Duration) {
	d, t := p.direct.Median(), p.through.Median()
	return d.Trips - t.Trips, d.Elapsed - t.Elapsed
}

// percent returns what part of a whole something is, in percent; 0 of nothing.
func percent(part, whole time.Duration) float64 {
	if whole <= 0 {
		return 0
	}
	return 100 * float64(part) / float64(whole)
}

// A gap is a reason why something was not measured, and what.
type gap struct {
	Reason string
	Names  []string // of scenario and path, each once
}

// gaps collects what was not measured, each reason once.
func gaps(all []group) []gap {
	var out []gap
	byReason := make(map[string]int)
	for _, g := range all {
		for _, path := range bench.Paths() {
			name := fmt.Sprintf("%s/%s", g.scenario.Name(), path)
			noted := make(map[string]bool) // reasons, of this name
			for _, p := range g.pairs {
				reason := p.why(path)
				if reason == "" || noted[reason] {
					continue
				}
				noted[reason] = true
				i, known := byReason[reason]
				if !known {
					i = len(out)
					byReason[reason] = i
					out = append(out, gap{Reason: reason})
				}
				out[i].Names = append(out[i].Names, name)
			}
		}
	}
	return out
}

// why tells why a path has no figures; "" if it has.
func (p pair) why(path bench.Path) string {
	res := p.direct
	if path == bench.Through {
		res = p.through
	}
	switch {
	case measured(res):
		return ""
	case res != nil && res.Skipped != "":
		return res.Skipped
	}
	return "not part of this run"
}
