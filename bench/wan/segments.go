package wan

import (
	"time"

	"slipstream/bench/meter"
)

// What a link remembers between two calls of Reset. A thousand messages of a few kilobytes are well inside.
const (
	MaxSegments = 1 << 17  // segments; about 24 MiB
	MaxData     = 64 << 20 // octets of data of all of them
)

// The memory grows by blocks, so that no packet has to wait while what is there is copied to a larger place.
const (
	blockSegments = 1 << 10
	blockData     = 64 << 10
)

// segments remembers TCP segments, within limits. The zero value keeps no data.
type segments struct {
	snap     int // octets of data kept of each
	blocks   [][]meter.Segment
	count    int
	data     []byte // the room left in the newest block of data
	octets   int    // of all blocks of data
	overflow bool   // something was left out
	epoch    int    // how often all was forgotten
}

// A place is where a segment was put. The zero value is nowhere.
type place struct {
	epoch, number int // number counts from 1
}

// add remembers s, with a copy of its data.
func (m *segments) add(s meter.Segment) place {
	if m.count >= MaxSegments {
		m.overflow = true
		return place{}
	}
	s.Data = m.keep(s.Data)
	if m.count%blockSegments == 0 {
		m.blocks = append(m.blocks, make([]meter.Segment, 0, blockSegments))
	}
	last := &m.blocks[len(m.blocks)-1]
	*last = append(*last, s)
	m.count++
	return place{m.epoch, m.count}
}

// keep copies the beginning of data, if there is room for it.
func (m *segments) keep(data []byte) []byte {
	data = data[:min(len(data), m.snap)]
	if len(data) == 0 {
		return nil
	}
	if len(data) > len(m.data) {
		size := max(blockData, len(data))
		if m.octets+size > MaxData {
			m.overflow = true
			return nil
		}
		m.data, m.octets = make([]byte, size), m.octets+size
	}
	n := copy(m.data, data)
	kept := m.data[:n:n]
	m.data = m.data[n:]
	return kept
}

// arrived notes when a segment left the link; the zero time says that it never did.
func (m *segments) arrived(p place, at time.Time) {
	if p.number > 0 && p.epoch == m.epoch {
		n := p.number - 1
		m.blocks[n/blockSegments][n%blockSegments].Arrives = at
	}
}

// block returns the segments of one block as they are now, and whether there is such a block.
func (m *segments) block(i int) ([]meter.Segment, bool) {
	if i >= len(m.blocks) {
		return nil, false
	}
	return append([]meter.Segment(nil), m.blocks[i]...), true
}

// reset forgets everything. What was copied before keeps its data.
func (m *segments) reset() { *m = segments{snap: m.snap, epoch: m.epoch + 1} }
