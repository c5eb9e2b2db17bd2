package meter

import "time"

// maxGrowth is how many points a growth has at most.
const maxGrowth = 200

// Growth returns how many octets of data had arrived at the server, as time went by since the SYN: see GrowthBetween,
// without bounds.
func (c Conn) Growth() []Point { return c.GrowthBetween(time.Time{}, time.Time{}) }

// GrowthBetween returns how the octets grew in number that left the client at or after since and before until,
// counted from the moment when LedgerBetween begins to count. A zero time is no bound. Only what has arrived together
// with all before it counts. There is a point for each moment of arrival but, where those are more than 200, for some
// of them; the first and the last are always told.
func (c Conn) GrowthBetween(since, until time.Time) []Point {
	s := newStream(c.place(client))
	if len(s.pieces) == 0 {
		return nil
	}
	start := s.pieces[0].left
	if start.Before(since) {
		var ok bool
		if start, ok = s.left(s.since(since)); !ok {
			return nil
		}
	}
	var points []Point
	octets := 0
	for _, p := range s.pieces {
		if p.pos == 0 || p.left.Before(start) {
			continue
		}
		if p.arrives.IsZero() || !before(p.left, until) {
			break
		}
		octets += int(p.end - p.pos)
		at := Point{After: p.arrives.Sub(start), Octets: octets}
		if n := len(points); n > 0 && points[n-1].After == at.After {
			points[n-1] = at
			continue
		}
		points = append(points, at)
	}
	return thin(points)
}

// thin leaves out points evenly where there are too many.
func thin(points []Point) []Point {
	if len(points) <= maxGrowth {
		return points
	}
	few := make([]Point, maxGrowth)
	for i := range few {
		few[i] = points[i*(len(points)-1)/(maxGrowth-1)]
	}
	return few
}
