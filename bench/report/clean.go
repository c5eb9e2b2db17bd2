package report

import "slipstream/bench"

// cleaned returns a copy of a report in which all text is clean, save for the labels of flights: those are cleaned where
// they are drawn. All that shows a report shows the copy.
func cleaned(r *bench.Report) *bench.Report {
	f := r.Facts
	for _, text := range []*string{&f.Ground, &f.Link, &f.Version, &f.Go, &f.OS, &f.Arch, &f.System, &f.Tickets} {
		*text = clean(*text)
	}
	f.Peers, f.Sysctls, f.Warnings = cleanAll(f.Peers), cleanAll(f.Sysctls), cleanAll(f.Warnings)
	out := &bench.Report{Facts: f, Results: make([]bench.Result, 0, len(r.Results))}
	for _, res := range r.Results {
		res.Cell = cleanCell(res.Cell)
		res.Skipped, res.Peers = clean(res.Skipped), cleanAll(res.Peers)
		out.Results = append(out.Results, res)
	}
	return out
}

func cleanCell(c bench.Cell) bench.Cell {
	s := &c.Scenario
	s.Direction, s.Channel, s.State = cleanName(s.Direction), cleanName(s.Channel), cleanName(s.State)
	s.Client, s.Server, c.Path = cleanName(s.Client), cleanName(s.Server), cleanName(c.Path)
	return c
}

func cleanName[T ~string](name T) T { return T(clean(string(name))) }

func cleanAll(texts []string) []string {
	out := make([]string, len(texts))
	for i, t := range texts {
		out[i] = clean(t)
	}
	return out
}
