package report

import (
	"fmt"
	"slices"
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
	var all []group
	for i := range r.Results {
		res := &r.Results[i]
		name := res.Cell.Scenario.Name()
		g := slices.IndexFunc(all, func(g group) bool { return g.scenario.Name() == name })
		if g < 0 {
			g = len(all)
			all = append(all, group{scenario: res.Cell.Scenario})
		}
		all[g].add(res)
	}
	return all
}

func (g *group) add(res *bench.Result) {
	c := res.Cell
	i := slices.IndexFunc(g.pairs, func(p pair) bool { return p.size == c.Size && p.rtt == c.RTT })
	if i < 0 {
		i = len(g.pairs)
		g.pairs = append(g.pairs, pair{scenario: c.Scenario, size: c.Size, rtt: c.RTT})
	}
	switch c.Path {
	case bench.Direct:
		g.pairs[i].direct = res
	case bench.Through:
		g.pairs[i].through = res
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
func gaps(r *bench.Report) []gap {
	var all []gap
	note := func(reason, name string) {
		i := slices.IndexFunc(all, func(g gap) bool { return g.Reason == reason })
		if i < 0 {
			i = len(all)
			all = append(all, gap{Reason: reason})
		}
		if !slices.Contains(all[i].Names, name) {
			all[i].Names = append(all[i].Names, name)
		}
	}
	for _, g := range groups(r) {
		for _, path := range bench.Paths() {
			name := fmt.Sprintf("%s/%s", g.scenario.Name(), path)
			for _, p := range g.pairs {
				if reason := p.why(path); reason != "" {
					note(reason, name)
				}
			}
		}
	}
	return all
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
	case p.scenario.Missing(path) != "":
		return p.scenario.Missing(path)
	}
	return "not part of this run"
}
