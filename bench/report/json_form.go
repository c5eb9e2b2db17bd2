package report

import (
	"time"

	"slipstream/bench"
)

// The types of this file are the JSON form as it is written; json_read.go reads it. They are apart from those of package bench so that a renamed field there
// does not change files that people keep.

type jsonReport struct {
	Format  int          `json:"format"`
	Facts   jsonFacts    `json:"facts"`
	Results []jsonResult `json:"results"`
}

type jsonFacts struct {
	Begun      time.Time     `json:"begun"`
	Took       time.Duration `json:"took_ns"`
	Ground     string        `json:"ground"`
	Link       string        `json:"link"`
	Slipstream string        `json:"slipstream_version"`
	Go         string        `json:"go_version"`
	OS         string        `json:"os"`
	Arch       string        `json:"arch"`
	System     string        `json:"system"`
	Peers      []string      `json:"peers"`
	Sysctls    []string      `json:"sysctls"`
	Tickets    string        `json:"tickets"`
	Warnings   []string      `json:"warnings"`
}

type jsonResult struct {
	Name     string        `json:"name"` // of the cell; for people
	Scenario jsonScenario  `json:"scenario"`
	Path     bench.Path    `json:"path"`
	Size     int           `json:"size_octets"`
	RTT      time.Duration `json:"rtt_ns"`
	Skipped  string        `json:"skipped,omitempty"`
	Peers    []string      `json:"peers"`
	Samples  []jsonSample  `json:"samples"`
	Since    *time.Time    `json:"flights_since,omitempty"`
	Flights  []jsonFlight  `json:"flights"`
	Growth   []jsonGrowth  `json:"growth"`
	Median   *jsonMedian   `json:"median,omitempty"` // for people
}

type jsonScenario struct {
	Direction bench.Direction `json:"direction"`
	Channel   bench.Channel   `json:"channel"`
	State     bench.State     `json:"state"`
	FastOpen  bool            `json:"fast_open"`
	Client    bench.Client    `json:"client"`
	Server    bench.Server    `json:"server"`
	Trips     jsonTrips       `json:"expected_trips"`
	Default   bool            `json:"default"`
	Bodies    []int           `json:"default_sizes_octets,omitempty"`
}

type jsonTrips struct {
	Direct  int `json:"direct,omitempty"`
	Through int `json:"through,omitempty"`
}

type jsonSample struct {
	Trips       float64       `json:"trips"`
	Elapsed     time.Duration `json:"elapsed_ns"`
	Free        time.Duration `json:"free_ns"`
	FirstByte   time.Duration `json:"first_byte_ns"`
	Packets     int           `json:"packets"`
	Octets      int           `json:"wire_octets"`
	Retransmits int           `json:"retransmits"`
	Resumed     bool          `json:"tls_resumed"`
	FastOpen    bool          `json:"data_in_syn"`
}

type jsonMedian struct {
	Trips   float64       `json:"trips"`
	Elapsed time.Duration `json:"elapsed_ns"`
}

type jsonFlight struct {
	FromServer bool           `json:"from_server"`
	Start      time.Duration  `json:"start_ns"`
	End        time.Duration  `json:"end_ns"`
	Arrives    *time.Duration `json:"arrives_ns,omitempty"` // absent: lost
	Complete   *time.Duration `json:"complete_ns,omitempty"`
	Packets    int            `json:"packets"`
	Octets     int            `json:"octets"`
	Label      string         `json:"label"`
	Final      bool           `json:"final,omitempty"`
}

type jsonGrowth struct {
	After  time.Duration `json:"after_ns"`
	Octets int           `json:"octets"`
}

func fromReport(r *bench.Report) jsonReport {
	f := r.Facts
	out := jsonReport{Format: format, Results: make([]jsonResult, 0, len(r.Results)), Facts: jsonFacts{
		Begun: f.Begun.UTC(), Took: f.Took, Ground: f.Ground, Link: f.Link, Slipstream: f.Version, Go: f.Go,
		OS: f.OS, Arch: f.Arch, System: f.System,
		Peers: f.Peers, Sysctls: f.Sysctls, Tickets: f.Tickets, Warnings: f.Warnings,
	}}
	for _, res := range r.Results {
		out.Results = append(out.Results, fromResult(res))
	}
	return out
}

func fromResult(res bench.Result) jsonResult {
	c := res.Cell
	out := jsonResult{
		Name: c.Name(), Scenario: fromScenario(c.Scenario), Path: c.Path, Size: c.Size, RTT: c.RTT,
		Skipped: res.Skipped, Peers: res.Peers,
	}
	for _, s := range res.Samples {
		out.Samples = append(out.Samples, jsonSample(s))
	}
	if len(res.Samples) > 0 {
		m := res.Median()
		out.Median = &jsonMedian{m.Trips, m.Elapsed}
	}
	if len(res.Flights) > 0 {
		since := res.Flights[0].Start.UTC()
		out.Since = &since
	}
	for _, fl := range res.Flights {
		out.Flights = append(out.Flights, jsonFlight{
			FromServer: fl.FromServer, Start: fl.Start.Sub(*out.Since), End: fl.End.Sub(*out.Since),
			Arrives: offset(fl.Arrives, *out.Since), Complete: offset(fl.Complete, *out.Since),
			Packets: fl.Packets, Octets: fl.Octets, Label: fl.Label, Final: fl.Final,
		})
	}
	for _, p := range res.Growth {
		out.Growth = append(out.Growth, jsonGrowth(p))
	}
	return out
}

func fromScenario(s bench.Scenario) jsonScenario {
	return jsonScenario{
		Direction: s.Direction, Channel: s.Channel, State: s.State, FastOpen: s.FastOpen, Client: s.Client, Server: s.Server,
		Trips: jsonTrips(s.Trips), Default: s.Default, Bodies: s.Bodies,
	}
}

// offset is the time since a moment; nil for no time at all.
func offset(t, since time.Time) *time.Duration {
	if t.IsZero() {
		return nil
	}
	d := t.Sub(since)
	return &d
}
