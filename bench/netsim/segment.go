package netsim

import (
	"bytes"
	"fmt"
	"math/bits"
	"net/netip"
	"strings"
	"time"
)

// MaxTraceData is how many octets of a segment its trace keeps, if
// Network.TraceData does not say otherwise.
const MaxTraceData = 128

// Segment is what a trace tells of one crossing of the network: a flight, an
// opening, an end. Acknowledgements are not traced.
type Segment struct {
	At      time.Time // when it leaves
	Arrives time.Time // zero if it is lost
	From    netip.AddrPort
	To      netip.AddrPort
	SYN     bool   // opens: from the dialer a SYN, from the listener a SYN-ACK
	FIN     bool   // no more data in this direction
	RST     bool   // the connection is refused, or aborted
	Len     int    // octets of data
	Data    []byte // a copy of the first of them: see Network.TraceData
}

// String returns one line for a log, without the times, which only mean
// something in relation to others.
func (s Segment) String() string {
	var b strings.Builder
	fmt.Fprintf(&b, "%v > %v", s.From, s.To)
	for _, flag := range []struct {
		set  bool
		name string
	}{{s.SYN, "SYN"}, {s.FIN, "FIN"}, {s.RST, "RST"}, {s.Arrives.IsZero(), "lost"}} {
		if flag.set {
			b.WriteString(" " + flag.name)
		}
	}
	if s.Len > 0 {
		fmt.Fprintf(&b, " %d %q", s.Len, s.Data)
	}
	return b.String()
}

// transmit puts a segment on its line and returns when it arrives, or false if
// it is lost. Data keeps the line busy for as long as its bandwidth takes. What
// s.Arrives says is the earliest time: the arrival of its predecessor.
func (n *Network) transmit(s Segment) (time.Time, bool) {
	r := route{s.From.Addr(), s.To.Addr()}
	n.mu.Lock()
	defer n.mu.Unlock()
	ok := !n.vanished(s.From) && !n.vanished(s.To)
	if ok {
		s.Arrives = later(s.Arrives, n.line(r, s.At, s.Len).Add(n.linkLocked(r).Delay))
	} else {
		s.Arrives = time.Time{}
	}
	if n.Trace != nil {
		keep := n.TraceData
		if keep <= 0 {
			keep = MaxTraceData
		}
		s.Data = bytes.Clone(s.Data[:min(len(s.Data), keep)])
		n.Trace(s)
	}
	return s.Arrives, ok
}

// line returns when the last of size octets is on the line, if they are handed
// over at the given time. n.mu is held.
func (n *Network) line(r route, at time.Time, size int) time.Time {
	bandwidth := n.linkLocked(r).Bandwidth
	if bandwidth <= 0 {
		return at
	}
	if free := n.busy[r]; free.After(at) {
		at = free
	}
	if size == 0 {
		return at
	}
	at = at.Add(sending(int64(size), bandwidth))
	if n.busy == nil {
		n.busy = make(map[route]time.Time)
	}
	n.busy[r] = at
	return at
}

// sending returns size/bandwidth seconds, exact to the nanosecond.
func sending(size, bandwidth int64) time.Duration {
	seconds, rest := size/bandwidth, size%bandwidth
	hi, lo := bits.Mul64(uint64(rest), uint64(time.Second)) // in 128 bits, as rest may be of any size
	nanoseconds, _ := bits.Div64(hi, lo, uint64(bandwidth))
	return time.Duration(seconds)*time.Second + time.Duration(nanoseconds)
}

// vanished reports whether nothing comes to or from an address. n.mu is held.
func (n *Network) vanished(a netip.AddrPort) bool {
	return !n.holes[a].IsZero() || !n.holes[netip.AddrPortFrom(a.Addr(), 0)].IsZero()
}
