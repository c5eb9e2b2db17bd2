package meter

import (
	"slices"
	"sort"
	"time"
)

// Flights returns what was said on the connection, in the order in which it began: see FlightsBetween, without
// bounds.
func (c Conn) Flights() []Flight { return c.FlightsBetween(time.Time{}, time.Time{}) }

// FlightsBetween returns the flights that began at or after since and before until. A zero time is no bound. The
// final one is that of the message of which LedgerBetween tells.
//
// A new flight begins when the sender has heard something new of the other side since it sent last. Acknowledgements
// are nothing new, save for that of the SYN-ACK. What is sent again belongs to the flight in which it was first. A
// FIN or RST is a flight of its own if it was sent in answer to something, and no flight otherwise.
func (c Conn) FlightsBetween(since, until time.Time) []Flight {
	return c.flights(c.read(), since, until)
}

func (c Conn) flights(t *talk, since, until time.Time) []Flight {
	w, err := t.wait(since, until)
	var all []Flight
	for side := range t.streams {
		legs := t.legs(side)
		for _, p := range c.place(side) {
			i := sort.Search(len(legs), func(i int) bool { return legs[i].end > p.pos })
			if i < len(legs) && p.takes() > p.pos {
				legs[i].packets++
			}
		}
		for _, l := range legs {
			f := t.flight(side, l)
			f.Final = err == nil && side == server && l.pos < w.reply && w.reply <= l.end
			all = append(all, f)
		}
		if f, ok := c.farewell(t, side); ok {
			all = append(all, f)
		}
	}
	all = slices.DeleteFunc(all, func(f Flight) bool { return f.Start.Before(since) || !before(f.Start, until) })
	slices.SortStableFunc(all, func(a, b Flight) int { return a.Start.Compare(b.Start) })
	return all
}

// leg is a flight, as a part of its stream.
type leg struct {
	pos, end    int64
	start, last time.Time // when the first and the last octet left
	packets     int
}

// legs cuts a stream into flights.
func (t *talk) legs(side int) []leg {
	var legs []leg
	for _, p := range t.streams[side].pieces {
		n := len(legs)
		if n == 0 || t.begins(side, legs[n-1], p) {
			legs = append(legs, leg{p.pos, p.end, p.left, p.left, 0})
			continue
		}
		legs[n-1].end, legs[n-1].last = p.end, later(legs[n-1].last, p.left)
	}
	return legs
}

// begins says whether a piece is a new flight.
func (t *talk) begins(side int, l leg, p piece) bool {
	if side == server && l.end == 1 {
		// The handshake is over when the client has the SYN-ACK. What the server says from then on, it says behind
		// the acknowledgement of that.
		if opened := t.streams[server].arrival(0); !opened.IsZero() && p.left.After(opened) {
			return true
		}
	}
	return t.streams[1-side].heard(l.last, p.left)
}

// flight makes a Flight of a leg.
func (t *talk) flight(side int, l leg) Flight {
	return Flight{
		FromServer: side == server,
		Start:      l.start,
		End:        l.last,
		Arrives:    t.streams[side].arrival(l.pos),
		Complete:   t.streams[side].arrival(l.end - 1),
		Packets:    l.packets,
		Octets:     int(l.end - max(l.pos, 1)),
		Label:      t.label(side, l.pos, l.end),
	}
}

// farewell returns the FIN or RST of a side, if that is a flight.
func (c Conn) farewell(t *talk, side int) (Flight, bool) {
	i := slices.IndexFunc(c.Segments, func(s Segment) bool { return c.leaves(s, side) })
	if i < 0 {
		return Flight{}, false
	}
	s := c.Segments[i]
	if pieces := t.streams[side].pieces; len(pieces) > 0 {
		last := pieces[len(pieces)-1].left
		other := c.goneAt(1 - side)
		if !(other.After(last) && by(other, s.At)) && !t.streams[1-side].heard(last, s.At) {
			return Flight{}, false
		}
	}
	f := Flight{FromServer: side == server, Label: "FIN"}
	if s.RST {
		f.Label = "RST"
	}
	arrives := c.goneAt(side)
	f.Start, f.End, f.Arrives, f.Complete = s.At, s.At, arrives, arrives
	for _, again := range c.Segments[i:] {
		if c.leaves(again, side) && again.RST == s.RST {
			f.Packets++
		}
	}
	return f, true
}

// goneAt returns when a side's end was first heard of; zero if it never was.
func (c Conn) goneAt(side int) (first time.Time) {
	for _, s := range c.Segments {
		if c.leaves(s, side) && !s.Lost() && before(s.Arrives, first) {
			first = s.Arrives
		}
	}
	return first
}

// leaves says whether a segment is nothing but the end of a side.
func (c Conn) leaves(s Segment, side int) bool {
	return (s.FIN || s.RST) && s.Len <= 0 && (s.From == c.Server) == (side == server)
}
