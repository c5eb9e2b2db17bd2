package bench

import (
	"cmp"
	"slices"
	"time"

	"slipstream/bench/meter"
)

// A Sample is one message sent. Everything but Free was read off the packets on the link.
type Sample struct {
	Trips       float64       // Elapsed in trips of the link
	Elapsed     time.Duration // from the first SYN to the arrival of the final reply; on a warm connection from the first octet
	Free        time.Duration // how long the client waited by its own clock, connecting included; 0: it does not tell
	FirstByte   time.Duration // from the same start until the server's first octet arrived
	Packets     int           // both ways, between those two moments
	Octets      int           // of the same, headers included
	Retransmits int           // segments that had been sent before
	Resumed     bool          // the TLS session was
	FastOpen    bool          // data travelled in the SYN
}

// A Result is what came of a cell.
type Result struct {
	Cell    Cell
	Skipped string   // why there are no samples
	Samples []Sample // in the order they were taken
	// Peers tells who took part, client first: "Exim 4.96", "reference client (as Exim)".
	Peers []string
	// Flights is the conversation of the sample with the median number of trips, and Growth how its text grew.
	Flights []meter.Flight
	Growth  []meter.Point
}

// fill takes the samples over, and the conversation of the median one.
func (r *Result) fill(all []taken) {
	for _, t := range all {
		r.Samples = append(r.Samples, t.Sample)
	}
	median := r.Median()
	for _, t := range all {
		if t.Sample == median {
			r.Flights, r.Growth = t.flights, t.growth
			return
		}
	}
}

// Median returns the sample whose number of trips is the median; the zero Sample if there is none.
func (r Result) Median() Sample {
	if len(r.Samples) == 0 {
		return Sample{}
	}
	s := slices.Clone(r.Samples)
	slices.SortStableFunc(s, func(a, b Sample) int { return cmp.Compare(a.Trips, b.Trips) })
	return s[(len(s)-1)/2]
}

// Spread returns the least and the greatest number of trips.
func (r Result) Spread() (least, most float64) {
	for i, s := range r.Samples {
		if i == 0 {
			least, most = s.Trips, s.Trips
		}
		least, most = min(least, s.Trips), max(most, s.Trips)
	}
	return least, most
}

// A Report is a whole run.
type Report struct {
	Facts   Facts
	Results []Result // in the order of the table; direct before through
}

// Facts are the circumstances, without which no figure means anything.
type Facts struct {
	Begun    time.Time
	Took     time.Duration
	Ground   string   // "the kernel's TCP over a delayed link between two network namespaces", or the simulated one
	Link     string   // delay apart: rate, loss, jitter, MTU
	Version  string   // of slipstream
	Go       string   // runtime.Version
	OS, Arch string   // runtime.GOOS and runtime.GOARCH
	System   string   // kernel, machine, number of CPUs
	Peers    []string // "exim 4.96-15+deb12u10"
	Sysctls  []string // those of TCP that were set, or matter: "net.ipv4.tcp_fastopen=1"
	Tickets  string   // what was done about TLS sessions
	Warnings []string // what to hold against the figures: "2 CPUs busy", "the reference peer stood in for Exim"
}
