package wan

import (
	"sync"
	"time"

	"slipstream/bench/meter"
)

// maxUnderWay is how many octets of buffers may be under way in each direction: a gigabit per second for half a
// second. What comes on top is dropped.
const maxUnderWay = 64 << 20

const (
	// burst is how many packets are moved in one direction before the others get their turn.
	burst = 64
	// gather is how long a packet that is due may wait for others behind it, so that the thread wakes once for several:
	// waking is most of what a packet costs. It is done while at least gatherFrom packets are under way, which is more
	// than a conversation has; there every packet has its own moment.
	gather     = 250 * time.Microsecond
	gatherFrom = 32
)

// The sides, and the directions: a packet from the near side goes the way of the near side.
const (
	near = iota
	far
)

// A packet is one that is under way.
type packet struct {
	buffer []byte
	due    time.Duration // since the link was opened
	place  place
}

// traffic is what is on the link. The carrier moves it; everybody else asks. It reads no clock.
type traffic struct {
	base  time.Time // when the link was opened
	limit int       // packets under way in each direction
	size  int       // of a buffer

	// The carrier's own.
	queues [2]queue
	spare  [][]byte // buffers to use again

	mu       sync.Mutex // guards what follows. The carrier takes it for every packet: hold it for microseconds only
	shapers  [2]shaper
	segments segments
	stats    Stats
	capture  *capture
}

func newTraffic(c Config, base time.Time) *traffic {
	return &traffic{
		base:     base,
		limit:    maxUnderWay / c.mtu(),
		size:     c.mtu(),
		shapers:  [2]shaper{newShaper(c.Shape, near), newShaper(c.Shape, far)},
		segments: segments{snap: c.snap()},
	}
}

// now is the time since the link was opened.
func (t *traffic) now() time.Duration { return time.Since(t.base) }

// buffer returns one to read a packet into.
func (t *traffic) buffer() []byte {
	if n := len(t.spare); n > 0 {
		b := t.spare[n-1]
		t.spare = t.spare[:n-1]
		return b[:t.size]
	}
	return make([]byte, t.size)
}

// enter takes over the packet that came from a side, in a buffer of ours.
func (t *traffic) enter(way int, buffer []byte, now time.Duration) {
	due, p, f := t.judge(way, buffer, now)
	if f != carried {
		t.spare = append(t.spare, buffer)
		return
	}
	t.queues[way].push(packet{buffer, due, p})
}

// judge notes the packet and says what becomes of it.
func (t *traffic) judge(way int, b []byte, now time.Duration) (time.Duration, place, fate) {
	at := t.base.Add(now)
	s, tcp := parseTCP(b)
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.capture != nil {
		t.capture.add(b, at)
	}
	due, f := t.shapers[way].take(now, len(b))
	if f == carried && t.queues[way].len() >= t.limit {
		f = dropped
	}
	t.stats.count(len(b), f)
	if !tcp {
		return due, place{}, f
	}
	s.At = at
	if f == carried {
		s.Arrives = t.base.Add(due)
	}
	return due, t.segments.add(s), f
}

// next is when the carrier should come for the packets that are due, if any are under way: at the moment of the first
// or, on a dense link, of the last of those that follow within gather.
func (t *traffic) next() (time.Duration, bool) {
	first, some := time.Duration(0), false
	for i := range t.queues {
		if q := &t.queues[i]; q.len() > 0 && (!some || q.at(0).due < first) {
			first, some = q.at(0).due, true
		}
	}
	if !t.dense() {
		return first, some
	}
	last := first
	for i := range t.queues {
		q := &t.queues[i]
		for n := 0; n < q.len() && n < burst && q.at(n).due <= first+gather; n++ {
			last = max(last, q.at(n).due)
		}
	}
	return last, some
}

// dense says whether so many packets are under way that they are better delivered together.
func (t *traffic) dense() bool { return t.queues[near].len()+t.queues[far].len() >= gatherFrom }

// leave delivers one packet that is due, with write, and says whether there was one.
func (t *traffic) leave(write func(way int, packet []byte) error) bool {
	way := near
	if n, f := &t.queues[near], &t.queues[far]; n.len() == 0 || f.len() > 0 && f.at(0).due < n.at(0).due {
		way = far
	}
	q := &t.queues[way]
	if q.len() == 0 {
		return false
	}
	now := t.now() // not after the write: that returns when the other side has already answered
	if q.at(0).due > now {
		return false
	}
	p := q.pop()
	err := write(way, p.buffer)
	t.spare = append(t.spare, p.buffer)

	t.mu.Lock()
	defer t.mu.Unlock()
	if err != nil {
		t.stats.Dropped++
		t.segments.arrived(p.place, time.Time{})
		return true
	}
	t.stats.Delivered++
	t.stats.Late = max(t.stats.Late, now-p.due)
	t.segments.arrived(p.place, t.base.Add(now))
	return true
}

// abandon marks what is under way as lost.
func (t *traffic) abandon() {
	t.mu.Lock()
	defer t.mu.Unlock()
	for i := range t.queues {
		for t.queues[i].len() > 0 {
			t.segments.arrived(t.queues[i].pop().place, time.Time{})
			t.stats.Dropped++
		}
	}
	t.spare = nil
}

func (t *traffic) reshape(s Shape) {
	t.mu.Lock()
	defer t.mu.Unlock()
	for way := range t.shapers {
		t.shapers[way].reshape(s, way)
	}
}

// copySegments copies block by block, so that packets pass in between.
func (t *traffic) copySegments() []meter.Segment {
	var all []meter.Segment
	t.mu.Lock()
	defer t.mu.Unlock()
	epoch := t.segments.epoch
	for i := 0; t.segments.epoch == epoch; i++ {
		block, ok := t.segments.block(i)
		if !ok {
			break
		}
		t.mu.Unlock()
		all = append(all, block...)
		t.mu.Lock()
	}
	return all
}

// setCapture returns the one before.
func (t *traffic) setCapture(c *capture) *capture {
	t.mu.Lock()
	defer t.mu.Unlock()
	before := t.capture
	t.capture = c
	return before
}

// A queue holds packets in the order in which they arrive. The zero value is empty.
type queue struct {
	ring        []packet // its length is a power of two
	begin, size int
}

func (q *queue) len() int { return q.size }

// at returns the packet that has n before it.
func (q *queue) at(n int) *packet { return &q.ring[(q.begin+n)&(len(q.ring)-1)] }

func (q *queue) push(p packet) {
	if q.size == len(q.ring) {
		grown := make([]packet, max(64, 2*len(q.ring)))
		n := copy(grown, q.ring[q.begin:])
		copy(grown[n:], q.ring[:q.begin])
		q.ring, q.begin = grown, 0
	}
	q.size++
	*q.at(q.size - 1) = p
}

func (q *queue) pop() packet {
	p := q.ring[q.begin]
	q.ring[q.begin] = packet{}
	q.begin = (q.begin + 1) & (len(q.ring) - 1)
	q.size--
	return p
}
