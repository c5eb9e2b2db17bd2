package bench

import (
	"bytes"
	"slices"
	"strings"
	"sync"
	"time"

	"slipstream/bench/meter"
)

// What a flight carries inside of TLS nobody can see on the link. But a reference peer at one end holds the keys: it tells
// what it read and wrote, and when, and that gives the flights their names. Their figures come from the packets still.

// overheard is what a reference peer told of one message.
type overheard struct {
	mu     sync.Mutex
	server bool // the peer that tells is the server
	said   []saying
}

type saying struct {
	at     time.Time
	sent   bool // by the peer that tells
	octets []byte
}

// maxOverheard bounds what is kept of one message.
const maxOverheard = 4 << 20

func (o *overheard) tell(sent bool, octets []byte) {
	o.mu.Lock()
	defer o.mu.Unlock()
	kept := 0
	for _, s := range o.said {
		kept += len(s.octets)
	}
	if kept+len(octets) <= maxOverheard {
		o.said = append(o.said, saying{time.Now(), sent, bytes.Clone(octets)})
	}
}

func (o *overheard) forget() {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.said = nil
}

// name puts names to the encrypted ones of flights.
func (o *overheard) name(c meter.Conn, flights []meter.Flight) {
	o.mu.Lock()
	defer o.mu.Unlock()
	if len(o.said) == 0 || len(flights) == 0 {
		return
	}
	said := make(map[int][]byte) // by flight
	for _, s := range o.said {
		if i := o.flight(flights, s); i >= 0 {
			said[i] = append(said[i], s.octets...)
		}
	}
	names := clearly(c, flights, said)
	for i, f := range flights {
		name, known := names[i]
		if !known {
			continue
		}
		switch {
		case strings.HasPrefix(f.Label, "encrypted"):
			flights[i].Label = name
		case strings.HasPrefix(f.Label, "Finished"):
			flights[i].Label = "Finished, " + name
		}
	}
}

// flight finds the flight that something was said in: read from the last one that had arrived, written into the first one
// that had not left.
func (o *overheard) flight(flights []meter.Flight, s saying) int {
	found := -1
	for i, f := range flights {
		switch {
		case f.FromServer != (s.sent == o.server) || f.Octets == 0:
		case s.sent && !f.End.Before(s.at):
			return i
		case !s.sent && !f.Arrives.After(s.at):
			found = i
		}
	}
	return found
}

// clearly has the meter read what was said as if it had crossed the link in clear.
func clearly(c meter.Conn, flights []meter.Flight, said map[int][]byte) map[int]string {
	begun := flights[0].Start.Add(-time.Hour)
	open := func(from int, after time.Duration, data string, syn bool) meter.Segment {
		s := [2]meter.Segment{{From: c.Client, To: c.Server}, {From: c.Server, To: c.Client}}[from]
		s.At, s.Arrives = begun.Add(after), begun.Add(after+1)
		s.SYN, s.ACK, s.Data, s.Len = syn, from == 1, []byte(data), len(data)
		return s
	}
	segments := []meter.Segment{open(0, 0, "", true), open(1, 1, "", true)}
	seq := [2]uint32{1, 1}
	add := func(s meter.Segment, from int) {
		s.Seq = seq[from]
		seq[from] += uint32(s.Len)
		segments = append(segments, s)
	}
	order := make([]int, 0, len(said))
	for i := range said {
		order = append(order, i)
	}
	slices.Sort(order)
	greeted := len(order) > 0 && flights[order[0]].FromServer
	if !greeted {
		add(open(1, 2, "220 \r\n", false), 1) // under STARTTLS nobody greets again, but the meter waits for it
	}
	for _, i := range order {
		f, from := flights[i], 0
		if f.FromServer {
			from = 1
		}
		s := open(from, 0, string(said[i]), false)
		s.At, s.Arrives = f.Start, f.Arrives
		add(s, from)
	}
	names := make(map[int]string)
	for _, f := range (meter.Conn{Client: c.Client, Server: c.Server, Segments: segments}).Flights() {
		for _, i := range order {
			if flights[i].Start.Equal(f.Start) && flights[i].FromServer == f.FromServer {
				names[i] = f.Label
			}
		}
	}
	return names
}
