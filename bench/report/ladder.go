package report

import (
	"fmt"
	"math"
	"strconv"
	"strings"
	"time"

	"slipstream/bench"
	"slipstream/bench/meter"
)

// The geometry of a ladder, in the units of its drawing: a little more than a pixel on a wide screen, a little less on
// a phone. Labels are set in a monospaced font, so that their width is known without asking the browser.
const (
	ladderWidth = 336.0
	lineLeft    = 108.0 // the life line of the client
	lineRight   = 228.0 // and of the server
	ladderTop   = 46.0  // where time begins
	ladderFoot  = 16.0  // below its end
	labelGap    = 9.0   // between a life line and its labels
	labelChars  = 16    // in a line of a label: at 6.1 units each they fit beside the life line
	nameChars   = 15    // in the name of an end
	lineHeight  = 12.0
	freeLines   = 2   // of the last label hang below the end of time
	dot         = 5.0 // radius of the mark where the sender is free
)

// Bounds of what is drawn, whatever the numbers are.
const (
	maxFlights   = 60     // of one ladder
	maxLabel     = 3      // lines of a label
	roomyTrip    = 104.0  // height of a trip where there are few
	ladderHeight = 560.0  // what a ladder should not exceed
	leastTrip    = 50.0   // but a trip is no smaller than this
	leastHeight  = 60.0   // of any ladder, so that there is room for its labels
	mostHeight   = 2000.0 // unless the ladder became higher than this
	mostBands    = 40     // trips that are told apart
	leastBand    = 3.0    // height of the last of them
)

// A timeline maps moments to heights: one for both ladders of a comparison.
type timeline struct {
	trip    time.Duration
	span    time.Duration // drawn
	perTrip float64
}

// newTimeline fits the longest of some waits.
func newTimeline(rtt time.Duration, waits ...time.Duration) timeline {
	span := time.Millisecond
	for _, w := range waits {
		span = max(span, w)
	}
	if rtt <= 0 {
		rtt = span
	}
	trips := float64(span) / float64(rtt)
	per := max(min(max(ladderHeight/trips, leastTrip), roomyTrip), leastHeight/trips)
	return timeline{trip: rtt, span: span, perTrip: min(per, mostHeight/trips)}
}

func (t timeline) y(after time.Duration) float64 {
	after = min(max(after, 0), t.span)
	return ladderTop + float64(after)/float64(t.trip)*t.perTrip
}

func (t timeline) bottom() float64 { return t.y(t.span) }

// A ladder is the picture of one conversation.
type ladder struct {
	ID, Class   string
	Title, Desc string
	Heading     string // above it
	Peers       string // below it
	Why         string // there is no picture, and this is the reason
	W, H        unit
	L, R        unit // the life lines
	Top, Bottom unit // of the life lines
	Bands       []band
	Arrows      []arrow
	Texts       []svgText
	Leaders     []segment
	Free        *free
	Spare       *spare
}

// A unit is a coordinate or a length in a drawing; a tenth is as fine as anyone sees.
type unit float64

func (u unit) String() string {
	return strconv.FormatFloat(math.Round(float64(u)*10)/10+0, 'f', -1, 64)
}

// A band is one trip of the link, or what the sender needed of it.
type band struct {
	Y, W, H unit
	Even    bool
}

// An arrow is a flight; Area is drawn below it where the flight took its time.
type arrow struct {
	X1, Y1, X2, Y2 unit
	Head, Area     string
	Class          string
}

type segment struct{ X1, Y1, X2, Y2 unit }

type svgText struct {
	X, Y   unit
	Class  string
	Anchor string
	Lines  []string
}

// Step is how far lines are apart.
func (svgText) Step() unit { return lineHeight }

// free marks the moment at which the sender was free.
type free struct{ X, Y unit }

// spare is the time that the other path still needs.
type spare struct{ X, Y1, Y2 unit }

// drawLadder draws a result; other is what it is compared with, or nil.
func drawLadder(id string, res, other *bench.Result, t timeline) ladder {
	c := res.Cell
	l := ladder{
		ID: id, Class: pathClass(c.Path), Heading: pathHeading(c.Path), Peers: strings.Join(res.Peers, " → "),
		W: ladderWidth, L: lineLeft, R: lineRight, Top: ladderTop - 6,
	}
	wait := res.Median().Elapsed
	l.Title = fmt.Sprintf("%s, %s: %s, %s",
		whoWords(c.Scenario), pathHeading(c.Path), tripsWords(res.Median().Trips), secondsWords(wait))
	l.Bottom, l.H = unit(t.y(wait)+6), unit(t.bottom()+ladderFoot+freeLines*lineHeight)
	flights, more := shown(res.Flights, wait)
	l.Desc = describe(flights, more)
	l.names(c)
	l.arrows(flights, t)
	l.bands(t, wait)
	l.labels(flights, t, res)
	l.spare(res, other, t)
	l.more(flights, more, t)
	return l
}

func pathHeading(p bench.Path) string {
	if p == bench.Through {
		return "with Slipstream"
	}
	return "by itself"
}

func pathClass(p bench.Path) string {
	if p == bench.Through {
		return "with"
	}
	return "alone"
}

// A moment is a flight in time since the first of its conversation.
type moment struct {
	meter.Flight
	start, end, arrives, complete time.Duration
	lost                          bool
}

// shown picks the flights that belong to the wait, and counts those that are too many: what begins after it is of no
// interest to the sender.
func shown(flights []meter.Flight, wait time.Duration) (all []moment, more int) {
	for _, f := range flights {
		m := moment{Flight: f, start: f.Start.Sub(flights[0].Start), lost: f.Arrives.IsZero()}
		m.end = max(m.start, f.End.Sub(flights[0].Start))
		m.arrives = max(m.start, f.Arrives.Sub(flights[0].Start))
		m.complete = max(m.arrives, f.Complete.Sub(flights[0].Start))
		if m.start < 0 || m.start >= wait && !f.Final {
			continue
		}
		if len(all) == maxFlights {
			more++
			continue
		}
		all = append(all, m)
	}
	return all, more
}

// describe tells a conversation to those who do not see the picture.
func describe(flights []moment, more int) string {
	var b strings.Builder
	for _, f := range flights {
		who := "client"
		if f.FromServer {
			who = "server"
		}
		fmt.Fprintf(&b, "%s ms, %s: %s. ", milliWords(f.start), who, clean(f.Label))
	}
	if more > 0 {
		b.WriteString(moreWords(more))
	}
	return strings.TrimSpace(b.String())
}

// bands draws the trips of the link behind a conversation, as far as it goes.
func (l *ladder) bands(t timeline, wait time.Duration) {
	for i := range mostBands {
		from := time.Duration(i) * t.trip
		if from >= wait || t.y(wait)-t.y(from) < leastBand {
			return
		}
		y := t.y(from)
		h := t.y(min(from+t.trip, wait)) - y
		l.Bands = append(l.Bands, band{Y: unit(y), W: lineRight - lineLeft, H: unit(h), Even: i%2 == 0})
		if h > 0.6*t.perTrip && t.perTrip >= 2*lineHeight {
			middle := y + t.perTrip/2
			l.Texts = append(l.Texts, svgText{X: unit(l.clearing(middle)), Y: unit(middle), Class: "trip", Anchor: "middle",
				Lines: []string{strconv.Itoa(i + 1)}})
		}
	}
}

// clearing finds a place between the life lines at a height where no arrow passes through a number: between an arrow
// there and the one back if it can be.
func (l *ladder) clearing(y float64) float64 {
	const width = lineRight - lineLeft
	best, most := 0.0, -1.0
	for _, part := range []float64{1. / 3, 2. / 3, 1. / 2, 1. / 6, 5. / 6} {
		x := lineLeft + part*width
		room := lineHeight // is enough
		for _, a := range l.Arrows {
			at := float64(a.Y1) + float64(a.Y2-a.Y1)*(x-float64(a.X1))/float64(a.X2-a.X1)
			room = min(room, math.Abs(at-y))
		}
		if room > most {
			best, most = x, room
		}
	}
	return best
}

// names writes who is at the two ends, and on which side Slipstream stands.
func (l *ladder) names(c bench.Cell) {
	const y = 14
	client, server := cut(clientWords(c.Scenario.Client), nameChars), cut(serverWords(c.Scenario.Server), nameChars)
	l.Texts = append(l.Texts,
		svgText{X: lineLeft, Y: y, Class: "end", Anchor: "middle", Lines: []string{client}},
		svgText{X: lineRight, Y: y, Class: "end", Anchor: "middle", Lines: []string{server}})
	if c.Path != bench.Through {
		return
	}
	x := lineLeft
	if c.Scenario.Direction == bench.Inbound {
		x = lineRight
	}
	l.Texts = append(l.Texts,
		svgText{X: unit(x), Y: y + lineHeight + 1, Class: "us", Anchor: "middle", Lines: []string{"+ Slipstream"}})
}

func (l *ladder) arrows(flights []moment, t timeline) {
	for i, f := range flights {
		x1, x2 := lineLeft, lineRight
		if f.FromServer {
			x1, x2 = x2, x1
		}
		if i > 0 && f.FromServer && flights[i-1].FromServer {
			l.bareAck(flights[i-1].arrives, f.start, t)
		}
		y1, y2 := t.y(f.start), t.y(f.arrives)
		class, area := "", ""
		if f.Final {
			x2, y2 = shorten(x1, y1, x2, y2, dot+1)
		}
		if f.lost {
			x2, y2, class = (x1+x2)/2, t.y(f.start+t.trip/4), "lost"
		} else if t.y(f.end)-y1 > 1.5 {
			area = fmt.Sprintf("M%.1f %.1fL%.1f %.1fV%.1fL%.1f %.1fZ", x1, y1, x2, y2, t.y(f.complete), x1, t.y(f.end))
		}
		l.Arrows = append(l.Arrows, arrow{
			X1: unit(x1), Y1: unit(y1), X2: unit(x2), Y2: unit(y2), Head: head(x1, y1, x2, y2), Area: area, Class: class,
		})
	}
}

// bareAck hints at what is not a flight, but what the server waited for: the client's acknowledgement of a SYN.
// There is one where the server spoke half a trip after it could have been heard.
func (l *ladder) bareAck(from, to time.Duration, t timeline) {
	if off := to - from - t.trip/2; off.Abs() > t.trip/5 {
		return
	}
	l.Arrows = append(l.Arrows,
		arrow{X1: lineLeft, Y1: unit(t.y(from)), X2: lineRight, Y2: unit(t.y(to)), Class: "ack"})
}

// shorten takes a length off the end of a line.
func shorten(x1, y1, x2, y2, by float64) (x, y float64) {
	part := 1 - by/math.Hypot(x2-x1, y2-y1)
	return x1 + (x2-x1)*part, y1 + (y2-y1)*part
}

// head is the point of an arrow.
func head(x1, y1, x2, y2 float64) string {
	const length, half = 7.5, 2.9
	dx, dy := x2-x1, y2-y1
	n := math.Hypot(dx, dy)
	dx, dy = dx/n, dy/n
	bx, by := x2-dx*length, y2-dy*length
	return fmt.Sprintf("M%.1f %.1fL%.1f %.1fL%.1f %.1fZ", x2, y2, bx-dy*half, by+dx*half, bx+dy*half, by-dx*half)
}
