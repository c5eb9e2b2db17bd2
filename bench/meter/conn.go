package meter

import (
	"net/netip"
	"time"
)

// A Conn is one TCP connection as the link saw it.
type Conn struct {
	Client, Server netip.AddrPort // the client is who sent the SYN
	Segments       []Segment      // in the order in which they entered the link
}

// A Flight is what one side sent without having heard anything new from the other.
type Flight struct {
	FromServer bool
	Start, End time.Time // when its first and its last octet entered the link, for the first time
	Arrives    time.Time // when its first octet left the link, and all before it had; zero: never
	Complete   time.Time // when its last octet did
	Packets    int       // retransmitted ones included
	Octets     int       // of data
	Label      string    // what it carries: "SYN", "MAIL RCPT DATA", "250", "text 2 KB", "encrypted 140 octets"
	Final      bool      // it holds the reply that ended the wait
}

// A Point is a moment in the growth of a text: how many octets of data had arrived at the server by then.
type Point struct {
	After  time.Duration // since the Start of the Ledger
	Octets int
}

// A Ledger is what a message cost on one connection.
type Ledger struct {
	Start, Final time.Time     // the SYN, or the first octet on an open connection, and the arrival of the final reply
	Elapsed      time.Duration // between them
	FirstByte    time.Duration // from Start until the first octet of the server arrived
	Packets      int           // between Start and Final, both ways
	Octets       int           // of the same, headers included
	Retransmits  int           // segments with something that had been sent before
	FastOpen     bool          // data travelled in the SYN, and was taken
}

// Trips says how many round trips of a link the wait was.
func (l Ledger) Trips(rtt time.Duration) float64 { return float64(l.Elapsed) / float64(rtt) }
