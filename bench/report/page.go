package report

import (
	"fmt"
	"math"
	"slices"
	"strconv"
	"strings"
	"time"

	"slipstream/bench"
)

// A page is all that the template shows, in words and in coordinates: it computes nothing itself.
type page struct {
	When, Version string
	Hero          *hero
	Bars          []barGroup
	BarsOf        string // what the bars are of: "2 KB over a link of 100 ms"
	Talks         []conversation
	Tables        []tableGroup
	Gaps          []gap
	Facts         []fact
	Warnings      []string
}

// A tableGroup is a scenario's part of the full table.
type tableGroup struct {
	Who, How string
	Rows     []row
}

// A hero is the one comparison that the page begins with.
type hero struct {
	Far         string // "to a server 100 ms away"
	Who, How    string
	Size        string
	Alone, With bar
	Faster      bool
	Percent     string
}

// A bar is a number of trips as a length.
type bar struct {
	Width   float64 // in percent of the longest
	Over    bool    // it would be longer
	Trips   string  // "7"
	Words   string  // "7 trips"
	Seconds string  // "0.70 s"
	Known   bool
	Why     string // it is not known
}

// A barGroup is what is on the same side.
type barGroup struct {
	Name string
	Rows []barRow
}

// A barRow compares the two paths of a scenario.
type barRow struct {
	Href, Who, How string
	Alone, With    bar
	Saved          string // "−2", "+1", "±0"; "" where there is nothing to compare
	Better, Worse  bool
}

// A conversation is a scenario's section.
type conversation struct {
	ID, Who, How, Of string
	Remarks          []string
	Ladders          []ladder
	Growth           []growth
}

// A row is a line of the full table.
type row struct {
	Cell, Size, RTT, Path, Class    string
	Why                             string // there are no figures, and this is the reason
	Trips, Range, Expected          string
	Elapsed, FirstByte, Free        string
	Samples, Packets, Octets, Again int
	Marks                           string // "TLS resumed, data in the SYN"
}

// headlineRTT is the trip time that pictures are drawn for; of those measured the nearest is taken.
const headlineRTT = 100 * time.Millisecond

// newPage says all of a report that was cleaned.
func newPage(r *bench.Report) page {
	all := groups(r)
	p := page{Version: r.Facts.Version, Gaps: gaps(all), Warnings: r.Facts.Warnings}
	circumstances := r.Facts
	circumstances.Warnings = nil // they stand at the top
	p.Facts = factList(circumstances)
	if !r.Facts.Begun.IsZero() {
		p.When = r.Facts.Begun.Format("2 January 2006")
	}
	chosen := make([]pair, len(all))
	for i, g := range all {
		chosen[i] = g.headline(headlineRTT)
	}
	p.Hero = newHero(chosen)
	p.Bars, p.BarsOf = newBars(chosen)
	for i, g := range all {
		p.Talks = append(p.Talks, newConversation(i, g, chosen[i]))
		part := tableGroup{Who: whoWords(g.scenario), How: howWords(g.scenario)}
		for _, pr := range g.pairs {
			part.Rows = append(part.Rows, newRows(pr)...)
		}
		p.Tables = append(p.Tables, part)
	}
	return p
}

// headline picks the comparison that stands for a scenario: complete if possible, near the trip time, of a small
// message.
func (g group) headline(rtt time.Duration) pair {
	best := g.pairs[0]
	for _, p := range g.pairs[1:] {
		if p.betterThan(best, rtt) {
			best = p
		}
	}
	return best
}

func (p pair) betterThan(q pair, rtt time.Duration) bool {
	if a, b := p.figures(), q.figures(); a != b {
		return a > b
	}
	if a, b := (p.rtt - rtt).Abs(), (q.rtt - rtt).Abs(); a != b {
		return a < b
	}
	return p.size < q.size
}

// figures counts the paths that were measured.
func (p pair) figures() int {
	n := 0
	for _, res := range []*bench.Result{p.direct, p.through} {
		if measured(res) {
			n++
		}
	}
	return n
}

// newHero takes the first comparison that is complete: the table begins with the plainest.
func newHero(chosen []pair) *hero {
	for _, p := range chosen {
		if !p.both() {
			continue
		}
		far := "to a server "
		if p.scenario.Direction == bench.Inbound {
			far = "from a client "
		}
		longest := math.Max(p.direct.Median().Trips, p.through.Median().Trips)
		trips, elapsed := p.saved()
		return &hero{
			Far: far + tight(rttWords(p.rtt)) + " away",
			Who: whoWords(p.scenario), How: howWords(p.scenario), Size: sizeWords(p.size),
			Alone: newBar(p, bench.Direct, longest), With: newBar(p, bench.Through, longest),
			Faster:  trips > wholeTrips,
			Percent: strconv.FormatFloat(percent(elapsed, p.direct.Median().Elapsed), 'f', 0, 64),
		}
	}
	return nil
}

func newBar(p pair, path bench.Path, longest float64) bar {
	res := p.direct
	if path == bench.Through {
		res = p.through
	}
	if !measured(res) {
		return bar{Why: p.why(path)}
	}
	m := res.Median()
	b := bar{Trips: tripsShort(m.Trips), Words: tripsWords(m.Trips), Seconds: secondsWords(m.Elapsed), Known: true}
	if longest > 0 && !math.IsInf(longest, 0) {
		b.Width = math.Round(1000*min(max(m.Trips/longest, 0), 1)) / 10
		b.Over = m.Trips > longest
	}
	return b
}

func newBars(chosen []pair) (all []barGroup, of string) {
	longest, common := longestBar(chosen), commonest(chosen)
	for i, p := range chosen {
		name := sideHeading(p.scenario.Direction)
		if len(all) == 0 || all[len(all)-1].Name != name {
			all = append(all, barGroup{Name: name})
		}
		r := newBarRow(i, p, longest)
		if p.size != common.size || p.rtt != common.rtt {
			r.How += " · " + messageWords(p)
		}
		g := &all[len(all)-1]
		g.Rows = append(g.Rows, r)
	}
	return all, messageWords(common)
}

// farOut is how many times the median a bar may be before it no longer sets the scale for all.
const farOut = 4

// longestBar is the number of trips that the longest bar stands for.
func longestBar(chosen []pair) float64 {
	var all []float64
	for _, p := range chosen {
		for _, res := range []*bench.Result{p.direct, p.through} {
			if measured(res) {
				all = append(all, res.Median().Trips)
			}
		}
	}
	slices.Sort(all)
	if len(all) == 0 {
		return 0
	}
	limit, longest := farOut*all[len(all)/2], 0.0
	for _, trips := range all {
		if trips <= limit {
			longest = max(longest, trips)
		}
	}
	return longest
}

// commonest finds the message and link that most comparisons are of; of several, the first.
func commonest(chosen []pair) pair {
	type what struct {
		size int
		rtt  time.Duration
	}
	times := make(map[what]int)
	for _, p := range chosen {
		times[what{p.size, p.rtt}]++
	}
	var best pair
	most := 0
	for _, p := range chosen {
		if n := times[what{p.size, p.rtt}]; n > most {
			best, most = p, n
		}
	}
	return best
}

// messageWords says what was sent, and how far.
func messageWords(p pair) string {
	return tight(sizeWords(p.size)) + " over a link of " + tight(rttWords(p.rtt))
}

// tight keeps a number and its unit on one line.
func tight(s string) string { return strings.ReplaceAll(s, " ", "\u00a0") }

func sideHeading(d bench.Direction) string {
	switch d {
	case bench.Outbound:
		return "Sending: Slipstream beside the sender"
	case bench.Inbound:
		return "Receiving: Slipstream beside the receiver"
	}
	return string(d)
}

func newBarRow(i int, p pair, longest float64) barRow {
	r := barRow{Href: talkID(i), Who: whoWords(p.scenario), How: moreHow(p.scenario),
		Alone: newBar(p, bench.Direct, longest), With: newBar(p, bench.Through, longest)}
	if !p.both() {
		return r
	}
	trips, _ := p.saved()
	switch short := tripsShort(math.Abs(trips)); {
	case short == "0":
		r.Saved = "±0"
	case trips > 0:
		r.Saved, r.Better = "−"+short, true
	default:
		r.Saved, r.Worse = "+"+short, true
	}
	return r
}

// moreHow is how a message is sent, without the side.
func moreHow(s bench.Scenario) string {
	return channelWords(s.Channel) + " · " + stateWords(s.State, s.FastOpen)
}

func talkID(i int) string { return "talk-" + strconv.Itoa(i+1) }

func newConversation(i int, g group, p pair) conversation {
	c := conversation{ID: talkID(i), Who: whoWords(g.scenario), How: howWords(g.scenario),
		Of: messageWords(p), Remarks: g.scenario.Remarks()}
	var waits []time.Duration
	for _, res := range []*bench.Result{p.direct, p.through} {
		if measured(res) {
			waits = append(waits, res.Median().Elapsed)
		}
	}
	t := newTimeline(p.rtt, waits...)
	c.Ladders = []ladder{
		newLadder(c.ID+"-direct", p, bench.Direct, t),
		newLadder(c.ID+"-through", p, bench.Through, t),
	}
	for j, q := range g.pairs {
		if q.rtt != p.rtt {
			continue
		}
		if d, ok := drawGrowth(fmt.Sprintf("%s-growth-%d", c.ID, j+1), q); ok {
			c.Growth = append(c.Growth, d)
		}
	}
	return c
}

// newLadder draws one path of a comparison, or says why it cannot.
func newLadder(id string, p pair, path bench.Path, t timeline) ladder {
	res, other := p.direct, p.through
	if path == bench.Through {
		res, other = other, res
	}
	switch {
	case !measured(res):
		return ladder{Heading: pathHeading(path), Class: pathClass(path), Why: p.why(path)}
	case len(res.Flights) == 0:
		return ladder{Heading: pathHeading(path), Class: pathClass(path), Why: "the conversation was not kept"}
	}
	return drawLadder(id, res, other, t)
}

// newRows are the lines of a comparison in the full table.
func newRows(p pair) []row {
	var rows []row
	for _, res := range []*bench.Result{p.direct, p.through} {
		if res == nil {
			continue
		}
		c := res.Cell
		r := row{Cell: c.Name(), Size: sizeWords(c.Size), RTT: rttWords(c.RTT),
			Path: pathHeading(c.Path), Class: pathClass(c.Path), Samples: len(res.Samples)}
		if !measured(res) {
			r.Why = p.why(c.Path)
			rows = append(rows, r)
			continue
		}
		m := res.Median()
		least, most := res.Spread()
		r.Trips, r.Range = fixed(m.Trips, 2), fixed(least, 2)+"–"+fixed(most, 2)
		if e := c.Scenario.Trips.Of(c.Path); e > 0 && c.Size < bigBody {
			r.Expected = strconv.Itoa(e)
		}
		r.Elapsed, r.FirstByte = milliWords(m.Elapsed), milliWords(m.FirstByte)
		if m.Free > 0 {
			r.Free = milliWords(m.Free)
		}
		r.Packets, r.Octets, r.Again = m.Packets, m.Octets, m.Retransmits
		r.Marks = marks(m)
		rows = append(rows, r)
	}
	return rows
}

func marks(s bench.Sample) string {
	var all []string
	if s.Resumed {
		all = append(all, "TLS resumed")
	}
	if s.FastOpen {
		all = append(all, "data in SYN")
	}
	return strings.Join(all, ", ")
}
