// Package meter makes sense of the packets that crossed a link: which belong to one TCP connection, which travelled
// together as a flight, what they carried, and how many trips passed from the SYN to the reply that set the sender
// free.
//
// It reads no clock. All it knows was seen by the link, so it judges every program alike, ours and others'.
package meter

import (
	"net/netip"
	"time"
)

// A Segment is one TCP segment that entered the link.
type Segment struct {
	At      time.Time // when it entered
	Arrives time.Time // when it left at the other side; zero: it was lost

	From, To netip.AddrPort

	SYN, ACK, FIN, RST bool

	Seq  uint32 // number of the first octet, as in the packet
	Len  int    // octets of data
	Size int    // octets of the whole packet, headers included
	Data []byte // the data, or the first octets of it
}

// Lost says that the segment did not arrive.
func (s Segment) Lost() bool { return s.Arrives.IsZero() }
