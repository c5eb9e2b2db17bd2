package wan

import (
	"context"
	"errors"
	"fmt"
	"io"
	"sync"
	"time"

	"slipstream/bench/meter"
)

// ErrUnavailable is wrapped by the error of Open where this machine cannot have a link; the text says what is missing.
var ErrUnavailable = errors.New("wan: no link between network namespaces here")

// What a Config that does not say gets, and the limits of what it may say. IPv6 needs MinMTU:
// https://www.rfc-editor.org/rfc/rfc8200#section-5
const (
	DefaultMTU  = 1500
	MinMTU      = 1280
	MaxMTU      = 65535
	DefaultSnap = 2048
)

// Config describes a link to open. The zero value is a link without delay.
type Config struct {
	Shape Shape
	MTU   int // of both devices, in octets; 0: DefaultMTU
	// Sysctls are written inside both namespaces, in the order of their names: "net.ipv4.tcp_fastopen": "3". Only names
	// that begin with "net." are taken, since only those belong to a namespace.
	Sysctls map[string]string
	Snap    int // octets of data kept of each TCP segment; 0: DefaultSnap
}

func (c Config) mtu() int {
	if c.MTU == 0 {
		return DefaultMTU
	}
	return c.MTU
}

func (c Config) snap() int {
	if c.Snap == 0 {
		return DefaultSnap
	}
	return c.Snap
}

func (c Config) check() error {
	if m := c.mtu(); m < MinMTU || m > MaxMTU {
		return fmt.Errorf("wan: MTU %d is not between %d and %d", m, MinMTU, MaxMTU)
	}
	if c.Snap < 0 {
		return fmt.Errorf("wan: snap %d is negative", c.Snap)
	}
	for name := range c.Sysctls {
		if _, err := sysctlPath(name); err != nil {
			return err
		}
	}
	return c.Shape.check()
}

// Stats are what a link has carried since it was opened, both ways together. Only Late begins anew with Reset.
type Stats struct {
	Packets   int64 // that entered, whatever became of them
	Octets    int64 // of the same, IP headers included
	Delivered int64 // packets
	Lost      int64 // packets, by Shape.Loss
	Dropped   int64 // packets that found no room: Shape.Queue, the link's memory, or a receiving kernel that took no more
	Missed    int64 // packets that the sending kernel dropped because the link did not fetch them in time
	// CPU is the processor time of the link's thread. It includes the receiving kernel's TCP, which works on its time.
	CPU time.Duration
	// Late is by how much the worst delivery since Reset missed its moment. A quarter of a millisecond is usual under
	// a bulk transfer, for which the link gathers packets; more says that the machine was busy with something else.
	Late time.Duration
}

func (s *Stats) count(octets int, f fate) {
	s.Packets++
	s.Octets += int64(octets)
	switch f {
	case lost:
		s.Lost++
	case dropped:
		s.Dropped++
	}
}

// A Link joins two network namespaces. Its methods may be called from several goroutines.
//
// It takes a thread of the program for itself and gives it back with Close, as it was. Where the kernel does not let it
// restore the thread's priority, the thread ends with Close instead, and with it every process that was started with
// Pdeathsig (see prctl(2), PR_SET_PDEATHSIG) by whatever goroutine had happened to run on that thread before.
type Link struct {
	sides   [2]*Side
	traffic *traffic
	carrier *carrier

	captures sync.Mutex // one change of capture at a time
	close    sync.Once
	closed   error // what Close returns
}

// Open makes a link. The context is for the opening alone: when it ends before that is done, what was made is taken down
// again, and the error wraps that of the context. The error wraps ErrUnavailable where this machine cannot; other errors
// are about the Config.
func Open(ctx context.Context, c Config) (*Link, error) {
	if err := c.check(); err != nil {
		return nil, err
	}
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	return open(ctx, c)
}

// Near returns the side with 198.18.0.1.
func (l *Link) Near() *Side { return l.sides[near] }

// Far returns the side with 198.18.0.2.
func (l *Link) Far() *Side { return l.sides[far] }

// SetShape gives the packets that enter from now on another shape. What is under way is neither hurried nor overtaken.
// The chances of loss and jitter begin anew from the Seed. A shape that cannot be is refused, and nothing changes.
func (l *Link) SetShape(s Shape) error {
	if err := s.check(); err != nil {
		return err
	}
	l.traffic.reshape(s)
	return nil
}

// Segments returns the TCP segments that entered the link since it was opened or Reset was called, in that order. The
// Arrives of one that is still under way is when it is expected to arrive. Data must not be changed.
func (l *Link) Segments() []meter.Segment { return l.traffic.copySegments() }

// Reset forgets the segments, and Stats.Late.
func (l *Link) Reset() {
	l.traffic.mu.Lock()
	defer l.traffic.mu.Unlock()
	l.traffic.segments.reset()
	l.traffic.stats.Late = 0
}

// Overflow says whether, since Reset, a segment was not remembered because there were MaxSegments, or not its data
// because there were MaxData octets.
func (l *Link) Overflow() bool {
	l.traffic.mu.Lock()
	defer l.traffic.mu.Unlock()
	return l.traffic.segments.overflow
}

// Carried returns the statistics. They outlive Close.
func (l *Link) Carried() Stats {
	l.traffic.mu.Lock()
	s := l.traffic.stats
	l.traffic.mu.Unlock()
	s.CPU, s.Missed = l.carrier.costs()
	return s
}

// Capture writes the packets that enter the link from now on to w, as a capture file with times in nanoseconds
// (magic number a1b23c4d, link type 101, raw IP), until Close or the next Capture; nil captures no more. It returns
// once all packets of the capture before, if there was one, are written, and the error is about that one; or about
// writing the head of the new one. Only one goroutine writes to w, and no packet on the link waits for it.
//
// A w that does not return is waited for no longer than CaptureLinger, for the head of a file and again for the rest of
// it. The error then says so; the goroutine remains until w returns, and writes nothing after that.
func (l *Link) Capture(w io.Writer) error {
	l.captures.Lock()
	defer l.captures.Unlock()
	var next *capture
	if w != nil {
		select {
		case <-l.carrier.done:
			return errClosed
		default:
		}
		var err error
		if next, err = newCapture(w); err != nil {
			return err
		}
	}
	if before := l.traffic.setCapture(next); before != nil {
		return before.end()
	}
	return nil
}

// errClosed is what a closed link answers.
var errClosed = errors.New("wan: the link is closed")

// Close ends the link: the devices, its hold on the namespaces, its thread and its goroutines are gone when it returns,
// save for a goroutine that a capture's writer does not let go of within CaptureLinger, which is an error.
// What was under way is lost. Connections through the link notice nothing but silence, and processes that were started
// at a side go on; both are the caller's to end. A second Close does nothing and returns the same.
func (l *Link) Close() error {
	l.close.Do(func() {
		errs := []error{l.carrier.end()}
		errs = append(errs, l.Capture(nil))
		for _, s := range l.sides {
			errs = append(errs, s.namespace.close())
		}
		l.closed = errors.Join(errs...)
	})
	return l.closed
}
