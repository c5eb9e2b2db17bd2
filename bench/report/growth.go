package report

import (
	"fmt"
	"math"
	"strings"
	"time"

	"slipstream/bench"
)

// bigBody is the size from which the growth of a text is drawn: below it, it fits into few windows.
const bigBody = 64 << 10

// The geometry of a growth curve.
const (
	growthWidth  = 320.0
	growthHeight = 190.0
	plotLeft     = 46.0
	plotRight    = 308.0
	plotTop      = 14.0
	plotBottom   = 164.0
	maxPoints    = 400                  // of one curve
	maxSpan      = 365 * 24 * time.Hour // of the axis
)

// A growth is a chart of how much of a text had arrived, over time.
type growth struct {
	ID, Title, Desc string
	Size, RTT       string
	W, H            unit
	Left, Right     unit
	Top, Bottom     unit
	XLabel, YLabel  unit // of the words along the axes
	XTicks, YTicks  []tick
	Curves          []curve
}

type tick struct {
	At   unit
	Text string
}

// A curve is one path. From its last octet on it goes flat to the moment of the final reply.
type curve struct {
	Class, Heading string
	Path           string
	EndX, EndY     unit
	Figures        string
}

// drawGrowth draws what it has of both paths; false if that is nothing.
func drawGrowth(id string, p pair) (growth, bool) {
	g := growth{ID: id, Size: sizeWords(p.size), RTT: rttWords(p.rtt), W: growthWidth, H: growthHeight,
		Left: plotLeft, Right: plotRight, Top: plotTop, Bottom: plotBottom, XLabel: plotBottom + 17, YLabel: plotLeft - 7}
	if p.size < bigBody {
		return g, false
	}
	span, most := time.Duration(0), p.size
	for _, res := range []*bench.Result{p.direct, p.through} {
		if !measured(res) || len(res.Growth) == 0 {
			continue
		}
		span = max(span, res.Median().Elapsed, res.Growth[len(res.Growth)-1].After)
		most = max(most, res.Growth[len(res.Growth)-1].Octets)
	}
	if span = min(span, maxSpan); span <= 0 {
		return g, false
	}
	x := func(d time.Duration) float64 {
		return plotLeft + (plotRight-plotLeft)*min(max(float64(d)/float64(span), 0), 1)
	}
	y := func(octets int) float64 {
		return plotBottom - (plotBottom-plotTop)*min(max(float64(octets)/float64(most), 0), 1)
	}
	for _, res := range []*bench.Result{p.direct, p.through} {
		if measured(res) && len(res.Growth) > 0 {
			g.Curves = append(g.Curves, newCurve(res, x, y))
		}
	}
	g.ticks(span, p.size, x, y)
	g.Title = fmt.Sprintf("%s, %s over a link of %s: octets arrived over time", whoWords(p.scenario), g.Size, g.RTT)
	for _, c := range g.Curves {
		g.Desc += c.Heading + ": " + c.Figures + ". "
	}
	return g, true
}

func newCurve(res *bench.Result, x func(time.Duration) float64, y func(int) float64) curve {
	m := res.Median()
	var b strings.Builder
	step := max(1, (len(res.Growth)+maxPoints-1)/maxPoints)
	last := res.Growth[len(res.Growth)-1]
	fmt.Fprintf(&b, "M%.1f %.1f", x(res.Growth[0].After), y(0))
	for i := 0; i < len(res.Growth); i += step {
		fmt.Fprintf(&b, "L%.1f %.1f", x(res.Growth[i].After), y(res.Growth[i].Octets))
	}
	fmt.Fprintf(&b, "L%.1f %.1fL%.1f %.1f", x(last.After), y(last.Octets), x(max(m.Elapsed, last.After)), y(last.Octets))
	return curve{
		Class: string(pathClass(res.Cell.Path)), Heading: pathHeading(res.Cell.Path), Path: b.String(),
		EndX: unit(x(max(m.Elapsed, last.After))), EndY: unit(y(last.Octets)),
		Figures: secondsWords(m.Elapsed) + ", " + tripsWords(m.Trips),
	}
}

// ticks divides the axes: time at round moments, octets in halves.
func (g *growth) ticks(span time.Duration, size int, x func(time.Duration) float64, y func(int) float64) {
	step := niceStep(span)
	for d := time.Duration(0); d <= span; d += step {
		g.XTicks = append(g.XTicks, tick{unit(x(d)), axisWords(d)})
	}
	for i := range 3 {
		octets := size / 2 * i
		g.YTicks = append(g.YTicks, tick{unit(y(octets)), roundSize(octets)})
	}
}

// niceStep divides a span into three to six parts of 1, 2 or 5.
func niceStep(span time.Duration) time.Duration {
	raw := float64(span) / 5
	p := math.Pow(10, math.Floor(math.Log10(raw)))
	for _, m := range []float64{1, 2, 5, 10} {
		if m*p >= raw {
			return max(time.Duration(m*p), 1)
		}
	}
	return max(span, 1)
}

// axisWords writes a moment on the axis.
func axisWords(d time.Duration) string {
	switch {
	case d == 0:
		return "0"
	case d < time.Second && d%(100*time.Millisecond) != 0:
		return fmt.Sprintf("%.4g ms", float64(d)/float64(time.Millisecond))
	}
	return fmt.Sprintf("%.4g s", d.Seconds())
}

// roundSize writes a number of octets that need not be even.
func roundSize(octets int) string {
	switch {
	case octets == 0:
		return "0"
	case octets >= 1<<20:
		return fmt.Sprintf("%.3g MB", float64(octets)/(1<<20))
	}
	return fmt.Sprintf("%.3g KB", float64(octets)/(1<<10))
}
