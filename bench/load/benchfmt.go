package load

import (
	"fmt"
	"io"
	"strings"
)

// Benchmarks writes the turns in the form of Go's benchmarks, for benchstat: one line for each. The number of
// iterations is that of the messages; ns/op is the time between two of them, not what one takes.
// https://go.googlesource.com/proposal/+/master/design/14313-benchmark-format.md
func (r *Report) Benchmarks(w io.Writer) error {
	var b strings.Builder
	fmt.Fprintf(&b, "goos: %s\ngoarch: %s\npkg: slipstream/bench/load\n", r.Facts.GOOS, r.Facts.GOARCH)
	fmt.Fprint(&b, "Unit msgs/s better=higher\n")
	for _, p := range r.Points {
		for _, t := range p.Turns {
			if t.Messages == 0 {
				continue // nothing can be said for each message
			}
			fmt.Fprintf(&b, "BenchmarkLoad/%s/per-conn=%d/sessions=%d-%d %d %.1f ns/op %.1f msgs/s",
				r.benchName(p.Way), p.PerConnection, p.Sessions, r.Facts.CPUs, t.Messages,
				float64(t.Elapsed)/float64(t.Messages), t.perSecond())
			if t.CPU > 0 {
				fmt.Fprintf(&b, " %.0f cpu-ns/op %d peak-B", float64(t.CPU)/float64(t.Messages), t.Peak)
			}
			l := t.Latency
			fmt.Fprintf(&b, " %d p50-ns %d p90-ns %d p99-ns %d p99.9-ns %d max-ns\n", l.P50, l.P90, l.P99, l.P999, l.Max)
		}
	}
	_, err := io.WriteString(w, b.String())
	return err
}

// benchName is what comes before the numbers of a point: figures of different kinds of loop must not meet.
func (r *Report) benchName(way Way) string {
	name := fmt.Sprintf("way=%s/size=%d", way, r.Facts.Size)
	if r.Facts.TLS {
		name += "/tls=starttls"
	}
	if r.Facts.Rate > 0 {
		name += fmt.Sprintf("/rate=%g/clock=%s", r.Facts.Rate, r.Facts.Clock)
	}
	return name
}
