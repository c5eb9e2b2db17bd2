package report

import (
	"fmt"
	"math"
	"strings"

	"slipstream/bench"
)

// labels puts what the flights carry beside the life line of who sent them, and at the end that the sender is free.
func (l *ladder) labels(flights []moment, t timeline, res *bench.Result) {
	var client, server []tag
	for _, f := range flights {
		lines := label(f.Label)
		if len(lines) == 0 {
			continue
		}
		g := tag{want: t.y(f.start), lines: lines, count: 1}
		if f.FromServer {
			server = append(server, g)
		} else {
			client = append(client, g)
		}
	}
	m := res.Median()
	end := t.y(m.Elapsed)
	last := []string{"free after", secondsWords(m.Elapsed), tripsWords(m.Trips)}
	client = append(client, tag{want: end, lines: last, fixed: true})
	l.Free = &free{X: lineLeft, Y: unit(end)}
	top, bottom := ladderTop-lineHeight/2, t.bottom()+ladderFoot+freeLines*lineHeight
	l.column(place(client, top, bottom), lineLeft, -1, "end")
	l.column(place(server, top, bottom), lineRight, 1, "start")
}

// column writes placed labels, with a leader for each that had to give way.
func (l *ladder) column(tags []tag, x, side float64, anchor string) {
	for _, g := range tags {
		class := "says"
		if g.fixed {
			class = "free"
		}
		if math.Abs(g.at-g.want) > 3 {
			l.Leaders = append(l.Leaders, segment{unit(x + side*(labelGap-2)), unit(g.at), unit(x + side*2), unit(g.want)})
		}
		l.Texts = append(l.Texts,
			svgText{X: unit(x + side*labelGap), Y: unit(g.at), Class: class, Anchor: anchor, Lines: g.lines})
	}
}

// spare tells how much sooner this path was done than the other.
func (l *ladder) spare(res, other *bench.Result, t timeline) {
	if !measured(other) {
		return
	}
	a, b := res.Median(), other.Median()
	if b.Trips-a.Trips < wholeTrips || b.Elapsed <= a.Elapsed {
		return
	}
	y1, y2 := t.y(a.Elapsed), t.y(b.Elapsed)
	if y2-y1 < 2*lineHeight+8 {
		return
	}
	const x = (lineLeft + lineRight) / 2
	l.Spare = &spare{X: x, Y1: unit(y1), Y2: unit(y2)}
	middle := y1 + min((y2-y1)/2, roomyTrip/2)
	l.Texts = append(l.Texts, svgText{X: x + 8, Y: unit(middle + 3 - lineHeight/2), Class: "spare", Anchor: "start",
		Lines: []string{tripsWords(b.Trips-a.Trips) + " sooner", secondsWords(b.Elapsed - a.Elapsed)}})
}

// more says that not all is drawn.
func (l *ladder) more(flights []moment, more int, t timeline) {
	if more == 0 {
		return
	}
	y := t.y(flights[len(flights)-1].complete) + 2*lineHeight
	l.Texts = append(l.Texts, svgText{X: (lineLeft + lineRight) / 2, Y: unit(min(y, t.bottom())), Class: "trip",
		Anchor: "middle", Lines: []string{moreWords(more)}})
}

// glue stands for a blank at which no line ends.
const glue = "\x00"

// label breaks what a flight carries into lines that fit beside a life line.
func label(text string) []string {
	// A line may end behind an ellipsis, but not between a number and what it counts.
	breaks := strings.NewReplacer("…", "… ", " KB", glue+"KB", " MB", glue+"MB", " octets", glue+"octets")
	lines := wrap(breaks.Replace(clean(text)), labelChars)
	for i, l := range lines {
		lines[i] = strings.NewReplacer("… ", "…", glue, " ").Replace(l)
	}
	if len(lines) > maxLabel {
		lines = lines[:maxLabel]
		lines[maxLabel-1] = cut(lines[maxLabel-1]+"……", labelChars)
	}
	return lines
}

// cut shortens a text to a number of characters.
func cut(s string, chars int) string {
	if r := []rune(clean(s)); len(r) > chars {
		return string(r[:chars-1]) + "…"
	}
	return clean(s)
}

func moreWords(n int) string { return fmt.Sprintf("… and %d more", n) }
