package meter

import (
	"net/netip"
	"slices"
)

// way is one direction between two ends.
type way struct{ from, to netip.AddrPort }

// Conns sorts segments into connections, in the order of their SYNs. A SYN that is sent again belongs to the same
// connection; one with another number, between the same ends, begins a new one. Segments of connections whose SYN is
// not among them are left out.
func Conns(segments []Segment) []Conn {
	sorted := slices.Clone(segments)
	slices.SortStableFunc(sorted, entered)
	var conns []*Conn
	latest := make(map[way]*Conn)
	for _, s := range sorted {
		out, back := way{s.From, s.To}, way{s.To, s.From}
		c := latest[out]
		if s.SYN && !s.ACK && (c == nil || c.Client != s.From || c.Segments[0].Seq != s.Seq) {
			c = &Conn{Client: s.From, Server: s.To}
			conns = append(conns, c)
			latest[out], latest[back] = c, c
		}
		if c != nil {
			c.Segments = append(c.Segments, s)
		}
	}
	all := make([]Conn, len(conns))
	for i, c := range conns {
		all[i] = *c
	}
	return all
}

// entered compares segments by when they entered the link. At the same moment, a SYN comes before what it opens, and
// an end after what it ends.
func entered(a, b Segment) int {
	if order := a.At.Compare(b.At); order != 0 {
		return order
	}
	return a.rank() - b.rank()
}

func (s Segment) rank() int {
	switch {
	case s.SYN && !s.ACK:
		return 0
	case s.SYN:
		return 1
	case s.RST:
		return 4
	case s.FIN:
		return 3
	}
	return 2
}
