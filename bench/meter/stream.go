package meter

import (
	"cmp"
	"slices"
	"sort"
	"time"
)

// maxWindow is how far ahead of what was sent a segment can be: what the greatest window allows,
// https://www.rfc-editor.org/rfc/rfc7323#section-2.3. Whatever is farther is of another connection.
const maxWindow = 1 << 30

// The sides of a connection.
const (
	client = iota
	server
)

// placed is a segment in its direction: the SYN is at position 0, the data from 1 on, and the FIN behind it.
type placed struct {
	Segment
	pos int64 // of the SYN or, without, of the data
}

// data returns where the data begins and ends.
func (p placed) data() (from, to int64) {
	from = p.pos
	if p.SYN {
		from++
	}
	return from, from + int64(p.Len)
}

// takes says up to which position the segment takes up numbers: none if that is its own.
func (p placed) takes() int64 {
	_, to := p.data()
	if p.FIN {
		to++
	}
	return to
}

// place gives the segments of one direction their positions. There are none where the SYN was not seen.
func (c Conn) place(side int) []placed {
	from := c.Client
	if side == server {
		from = c.Server
	}
	var all []placed
	var first uint32 // number of position 0
	var sent int64   // positions that were seen, as far as they reach
	for _, s := range c.Segments {
		if s.From != from || s.SYN && s.ACK != (side == server) {
			continue
		}
		if len(all) == 0 {
			if !s.SYN {
				continue
			}
			first = s.Seq
		}
		s.Len = min(max(s.Len, 0), maxWindow)
		s.Data = s.Data[:min(len(s.Data), s.Len)]
		p := placed{s, sent + int64(int32(s.Seq-first-uint32(sent)))}
		if p.pos < 0 || p.pos > sent+maxWindow || p.SYN && p.pos != 0 {
			continue
		}
		all = append(all, p)
		sent = max(sent, p.takes())
	}
	slices.SortStableFunc(all, func(a, b placed) int {
		return cmp.Or(a.At.Compare(b.At), cmp.Compare(a.pos, b.pos))
	})
	return all
}

// refused says that data in the SYN was not taken: it was sent again.
// https://www.rfc-editor.org/rfc/rfc7413#section-4.2
func refused(segments []placed) bool {
	return slices.ContainsFunc(segments, func(p placed) bool {
		return !p.SYN && p.pos <= 1 && p.pos+int64(p.Len) > 1
	})
}

// piece is a part of a stream that travelled together.
type piece struct {
	pos, end int64
	data     []byte    // nil where the link kept none
	left     time.Time // for the first time
	arrives  time.Time // when it and all before it had arrived; zero: never
	latest   time.Time // when the last had left of it and all before it, the SYN apart
}

// stream is what one side sent, in order: position 0 is the SYN, the data begins at 1. It ends where a segment is
// missing.
type stream struct {
	pieces []piece
	steps  int // pieces, octets and items that were looked at: what a peer makes us work, for tests to hold a bound to
}

// span is what a segment adds to a stream.
type span struct {
	pos, end      int64
	data          []byte
	left, arrives time.Time
}

// newStream puts the segments of one direction together.
func newStream(segments []placed) stream {
	var spans []span
	dropped := refused(segments)
	for _, p := range segments {
		if p.SYN {
			spans = append(spans, span{0, 1, nil, p.At, p.Arrives})
			if dropped {
				continue
			}
		}
		from, to := p.data()
		if seen := from + int64(len(p.Data)); seen > from {
			spans = append(spans, span{from, seen, p.Data, p.At, p.Arrives})
			from = seen
		}
		if to > from {
			spans = append(spans, span{from, to, nil, p.At, p.Arrives})
		}
	}
	return join(spans)
}

// end is the position behind the last octet.
func (s stream) end() int64 {
	if len(s.pieces) == 0 {
		return 0
	}
	return s.pieces[len(s.pieces)-1].end
}

// at returns the index of the piece that holds a position; behind the end it is the number of pieces.
func (s stream) at(pos int64) int {
	return sort.Search(len(s.pieces), func(i int) bool { return s.pieces[i].end > pos })
}

// left returns when an octet left, and whether there is one.
func (s stream) left(pos int64) (time.Time, bool) {
	if i := s.at(pos); i < len(s.pieces) {
		return s.pieces[i].left, true
	}
	return time.Time{}, false
}

// arrival returns when an octet had arrived with all before it, zero if it never did.
func (s stream) arrival(pos int64) time.Time {
	if i := s.at(pos); i < len(s.pieces) {
		return s.pieces[i].arrives
	}
	return time.Time{}
}

// since returns the position of the first octet of data that left at or after t; without one, the end.
func (s *stream) since(t time.Time) int64 {
	i := sort.Search(len(s.pieces), func(i int) bool {
		s.steps++
		return i > 0 && !s.pieces[i].latest.Before(t)
	})
	if i < len(s.pieces) {
		return s.pieces[i].pos
	}
	return s.end()
}

// heard says whether something arrived after one moment and no later than another.
func (s stream) heard(after, upTo time.Time) bool {
	i := sort.Search(len(s.pieces), func(i int) bool {
		return s.pieces[i].arrives.IsZero() || s.pieces[i].arrives.After(after)
	})
	return i < len(s.pieces) && !s.pieces[i].arrives.IsZero() && !s.pieces[i].arrives.After(upTo)
}

func later(a, b time.Time) time.Time {
	if b.After(a) {
		return b
	}
	return a
}
