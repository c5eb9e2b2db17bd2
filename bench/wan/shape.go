package wan

import (
	"fmt"
	"math/rand/v2"
	"strings"
	"time"
)

// DefaultQueue is how long a packet may wait for the rate of a link that does not say: about what the buffer of a
// home router holds.
const DefaultQueue = 200 * time.Millisecond

// A Shape is how a link treats its packets, each way alike. The zero value delivers everything at once.
type Shape struct {
	Delay  time.Duration // one way
	Jitter time.Duration // one way: the delay of a packet is Delay plus or minus up to this, all alike; never overtakes
	Loss   float64       // share of the packets that is lost, 0 to 1
	Rate   int64         // bits per second each way, IP headers counted; 0: unlimited
	Queue  time.Duration // how long a packet may wait for the rate before it is dropped instead; 0: DefaultQueue
	Seed   uint64        // of loss and jitter: the same seed treats the same sequence of packets the same
}

// RTT is the round trip time, without jitter, rate and what the ends take.
func (s Shape) RTT() time.Duration { return 2 * s.Delay }

// String describes the shape to people: "100ms round trip, jitter ±2ms each way, 1% loss, 10 Mbit/s".
func (s Shape) String() string {
	parts := []string{s.RTT().String() + " round trip"}
	if s.Jitter > 0 {
		parts = append(parts, fmt.Sprintf("jitter ±%v each way", s.Jitter))
	}
	if s.Loss > 0 {
		parts = append(parts, fmt.Sprintf("%.3g%% loss", s.Loss*100))
	}
	if s.Rate > 0 {
		parts = append(parts, rateName(s.Rate))
	}
	return strings.Join(parts, ", ")
}

func rateName(bits int64) string {
	switch {
	case bits >= 1e9:
		return fmt.Sprintf("%.4g Gbit/s", float64(bits)/1e9)
	case bits >= 1e6:
		return fmt.Sprintf("%.4g Mbit/s", float64(bits)/1e6)
	case bits >= 1e3:
		return fmt.Sprintf("%.4g kbit/s", float64(bits)/1e3)
	}
	return fmt.Sprintf("%d bit/s", bits)
}

// check says what about the shape cannot be.
func (s Shape) check() error {
	switch {
	case s.Delay < 0 || s.Jitter < 0 || s.Queue < 0 || s.Rate < 0:
		return fmt.Errorf("wan: a delay, jitter, queue or rate is negative: %+v", s)
	case !(s.Loss >= 0 && s.Loss <= 1): // so that NaN is refused too
		return fmt.Errorf("wan: loss is %v, not a share between 0 and 1", s.Loss)
	}
	return nil
}

// queue is the Queue in force.
func (s Shape) queue() time.Duration {
	if s.Queue > 0 {
		return s.Queue
	}
	return DefaultQueue
}

// A fate is what the link does with a packet.
type fate uint8

const (
	carried fate = iota
	lost         // by Shape.Loss
	dropped      // it would have waited too long for the rate
)

// A shaper decides what becomes of the packets of one direction. It reads no clock: times are told to it, as durations
// since the link was opened.
type shaper struct {
	shape  Shape
	random *rand.Rand
	free   time.Duration // when the packet before has passed the rate
	last   time.Duration // when the packet before arrives
}

func newShaper(s Shape, way int) shaper { return shaper{shape: s, random: newRandom(s, way)} }

// newRandom begins the sequence of chances of a direction.
func newRandom(s Shape, way int) *rand.Rand { return rand.New(rand.NewPCG(s.Seed, uint64(way))) }

// reshape makes the packets from now on follow s.
func (h *shaper) reshape(s Shape, way int) { h.shape, h.random = s, newRandom(s, way) }

// take decides about a packet that enters at now: what becomes of it and, if it is carried, when it is due at the other
// side.
func (h *shaper) take(now time.Duration, octets int) (due time.Duration, f fate) {
	// Two numbers for every packet, so that its chances depend on its place in the sequence alone.
	strike, swing := h.random.Float64(), 2*h.random.Float64()-1
	begin := now
	if h.shape.Rate > 0 {
		begin = max(now, h.free)
		if begin-now > h.shape.queue() {
			return 0, dropped
		}
		begin += time.Duration(float64(octets) * 8 / float64(h.shape.Rate) * float64(time.Second))
		h.free = begin
	}
	if strike < h.shape.Loss {
		return 0, lost
	}
	due = begin + h.shape.Delay + time.Duration(swing*float64(h.shape.Jitter))
	due = max(due, begin, h.last) // never before it has passed the rate, never before the packet before it
	h.last = due
	return due, carried
}
