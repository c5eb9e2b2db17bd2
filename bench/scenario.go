package bench

import (
	"fmt"
	"hash/fnv"
	"strings"
	"time"
)

// A Client is who sends the message.
type Client string

// The clients. All but Exim and Postfix are reference clients; those of the two that cannot run here are replaced by the
// reference client that speaks like them, and the report says so.
const (
	Old        Client = "old"        // one command at a time, DATA; HELO where there is no TLS to ask for
	Pipelining Client = "pipelining" // MAIL, RCPT and DATA in one flight where the server offers PIPELINING
	Chunking   Client = "chunking"   // and the text too, as BDAT, where it offers CHUNKING; resumes TLS, keeps a connection
	Early      Client = "early"      // and all that before the greeting, to a server known to offer PIPECONNECT
	Exim       Client = "exim"
	Postfix    Client = "postfix"
)

// A Server is who takes the message in the end.
type Server string

// The servers; what is said of clients that cannot run holds for them too.
const (
	OldServer     Server = "old"    // EHLO, but neither PIPELINING nor CHUNKING
	ModernServer  Server = "modern" // all that a large receiver offers
	EximServer    Server = "exim"
	PostfixServer Server = "postfix"
)

// A Direction says where the MTA is that Slipstream stands beside.
type Direction string

// The directions.
const (
	Outbound Direction = "outbound" // the MTA is the client, the server is far away
	Inbound  Direction = "inbound"  // the MTA is the server, the client is far away
)

// A Channel is how the connection across the link is protected.
type Channel string

// The channels.
const (
	Clear      Channel = "clear"
	StartTLS12 Channel = "starttls1.2"
	StartTLS13 Channel = "starttls1.3"
	Implicit   Channel = "implicit" // TLS 1.3 on connect
)

// A State is what is left of earlier messages between the same two when the one that counts is sent. Whether that is of
// use depends on the sending side; an old MTA makes nothing of it.
type State string

// The states.
const (
	FirstContact State = "first"   // nothing
	Known        State = "known"   // what the server offers may be known
	Resumed      State = "resumed" // a TLS session may be at hand, too
	Warm         State = "warm"    // a connection may still be open, too
)

// A Path is what stands between client and server.
type Path string

// The paths.
const (
	Direct  Path = "direct"  // nothing: the same client and server over the same link
	Through Path = "through" // Slipstream, beside the MTA
)

// Paths returns both, in the order in which they are measured and shown.
func Paths() []Path { return []Path{Direct, Through} }

// Trips is what a small message takes by the arithmetic of the protocols, in round trips of the link from the first SYN to
// the final reply (on a warm connection from the first octet).
type Trips struct{ Direct, Through int }

// Of returns the trips of one path.
func (t Trips) Of(p Path) int {
	if p == Direct {
		return t.Direct
	}
	return t.Through
}

// A Scenario is a conversation that is measured with and without Slipstream. Body sizes and trip times multiply it into
// cells.
type Scenario struct {
	Direction Direction
	Channel   Channel
	State     State
	FastOpen  bool // TCP Fast Open is on at both ends; unless it is the first contact the cookie is at hand
	Client    Client
	Server    Server

	Trips   Trips
	Default bool  // measured without being asked for
	Bodies  []int // measured by default with these sizes too, beside the small one
}

// Name identifies the scenario: "outbound/clear/first/old-modern", with "+tfo" behind the state for Fast Open.
func (s Scenario) Name() string {
	state := string(s.State)
	if s.FastOpen {
		state += "+tfo"
	}
	return strings.Join([]string{string(s.Direction), string(s.Channel), state, string(s.Client) + "-" + string(s.Server)}, "/")
}

// Remarks are what to know of a scenario's figures beforehand.
func (s Scenario) Remarks() []string {
	var all []string
	if s.nagle() > 0 {
		all = append(all, "Postfix leaves Nagle's algorithm on: inside TLS 1.3 its client's first command, and its server's first "+
			"reply, wait until what the handshake sent last is acknowledged, which is a trip more than the protocols ask for")
	}
	if s.Direction == Outbound && s.Channel == Clear && s.State == Known {
		all = append(all, `Slipstream is told that there is no TLS to be had (tls = "none"); with "may" it would let the text wait `+
			"until the server has shown that it still offers none, which takes a trip more")
	}
	return all
}

// nagle is how many trips more than those of the table TCP may cost.
func (s Scenario) nagle() int {
	postfix := s.Client == Postfix || s.Server == PostfixServer
	if postfix && (s.Channel == StartTLS13 || s.Channel == Implicit) {
		return 1
	}
	return 0
}

// tls says whether the channel is protected at all.
func (c Channel) tls() bool { return c != Clear }

// A Cell is one measurement: a scenario on one path, with one size of message over one link.
type Cell struct {
	Scenario Scenario
	Path     Path
	Size     int           // of the message, header and body, in octets
	RTT      time.Duration // of the link, both ways
}

// Name identifies the cell: the name of the scenario, then "/direct/2KB/100ms".
func (c Cell) Name() string {
	return fmt.Sprintf("%s/%s/%s/%s", c.Scenario.Name(), c.Path, SizeName(c.Size), c.RTT)
}

// chance seeds the chances of the link for one sample: each has its own, and both paths have the same.
func (c Cell) chance(sample int) uint64 {
	h := fnv.New64a()
	fmt.Fprint(h, c.Scenario.Name(), c.Size, c.RTT, sample) // never fails
	return h.Sum64()
}

// SizeName writes a number of octets as the cells do: "2KB", "1MB", of 1024 each.
func SizeName(octets int) string {
	switch {
	case octets >= 1<<20 && octets%(1<<20) == 0:
		return fmt.Sprintf("%dMB", octets>>20)
	case octets >= 1<<10 && octets%(1<<10) == 0:
		return fmt.Sprintf("%dKB", octets>>10)
	}
	return fmt.Sprintf("%dB", octets)
}
