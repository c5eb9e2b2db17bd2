package report

import (
	"errors"
	"time"

	"slipstream/bench"
	"slipstream/bench/meter"
)

// The methods of this file read what the types of json_form.go write, straight into the types of package bench.

func (r *reader) report() *bench.Report {
	out := &bench.Report{}
	r.object(
		need("format", func() {
			if n := r.count(); r.err == nil && n != format {
				r.failf("it is %d", n)
			}
		}),
		need("facts", func() { out.Facts = r.facts() }),
		need("results", func() {
			if out.Results = list(r, maxResults, r.result); out.Results == nil {
				r.fail(errors.New("it is no list"))
			}
		}),
	)
	return out
}

func (r *reader) facts() (f bench.Facts) {
	text := func(to *string) func() { return func() { *to = r.text(maxText) } }
	texts := func(to *[]string) func() { return func() { *to = r.texts(maxLines, maxText) } }
	r.object(
		need("begun", func() { f.Begun = r.moment() }),
		need("took_ns", func() { f.Took = r.wait() }),
		need("ground", text(&f.Ground)),
		need("link", text(&f.Link)),
		need("slipstream_version", text(&f.Version)),
		need("go_version", text(&f.Go)),
		maybe("os", text(&f.OS)), // the first files had neither
		maybe("arch", text(&f.Arch)),
		need("system", text(&f.System)),
		need("peers", texts(&f.Peers)),
		need("sysctls", texts(&f.Sysctls)),
		need("tickets", text(&f.Tickets)),
		need("warnings", texts(&f.Warnings)),
	)
	return f
}

func (r *reader) result() (out bench.Result) {
	c := &out.Cell
	var since time.Time
	r.object(
		need("name", func() { r.text(maxName) }), // the cell says it
		need("scenario", func() { c.Scenario = r.scenario() }),
		need("path", func() { c.Path = oneOf(r, bench.Paths()) }),
		need("size_octets", func() { c.Size = r.count() }),
		need("rtt_ns", func() { c.RTT = r.wait() }),
		maybe("skipped", func() { out.Skipped = r.text(maxText) }),
		need("peers", func() { out.Peers = r.texts(maxPeers, maxName) }),
		need("samples", func() { out.Samples = list(r, maxSamples, r.sample) }),
		maybe("flights_since", func() { since = r.moment() }),
		need("flights", func() { out.Flights = r.flights(since) }),
		need("growth", func() { out.Growth = list(r, maxGrown, r.point) }),
		maybe("median", r.median),
	)
	return out
}

// median reads what is there for people: the samples say it.
func (r *reader) median() {
	r.object(need("trips", func() { r.trips() }), need("elapsed_ns", func() { r.wait() }))
}

func (r *reader) scenario() (s bench.Scenario) {
	r.object(
		need("direction", func() { s.Direction = oneOf(r, directions()) }),
		need("channel", func() { s.Channel = oneOf(r, channels()) }),
		need("state", func() { s.State = oneOf(r, states()) }),
		need("fast_open", func() { s.FastOpen = r.bool() }),
		need("client", func() { s.Client = oneOf(r, clients()) }),
		need("server", func() { s.Server = oneOf(r, servers()) }),
		need("expected_trips", func() {
			r.object(
				maybe("direct", func() { s.Trips.Direct = int(r.whole(maxTrips)) }),
				maybe("through", func() { s.Trips.Through = int(r.whole(maxTrips)) }),
			)
		}),
		need("default", func() { s.Default = r.bool() }),
		maybe("default_sizes_octets", func() { s.Bodies = list(r, maxSizes, r.count) }),
	)
	return s
}

func (r *reader) sample() (s bench.Sample) {
	r.object(
		need("trips", func() { s.Trips = r.trips() }),
		need("elapsed_ns", func() { s.Elapsed = r.wait() }),
		need("free_ns", func() { s.Free = r.wait() }),
		need("first_byte_ns", func() { s.FirstByte = r.wait() }),
		need("packets", func() { s.Packets = r.count() }),
		need("wire_octets", func() { s.Octets = r.count() }),
		need("retransmits", func() { s.Retransmits = r.count() }),
		need("tls_resumed", func() { s.Resumed = r.bool() }),
		need("data_in_syn", func() { s.FastOpen = r.bool() }),
	)
	return s
}

// flights reads a conversation whose moments count from since, which must have been read. None begins before the one in
// front of it.
func (r *reader) flights(since time.Time) []meter.Flight {
	var last time.Time
	all := list(r, maxSpoken, func() meter.Flight {
		f := r.flight(since)
		if f.Start.Before(last) {
			r.fail(errors.New("it begins before the one in front of it"))
		}
		last = f.Start
		return f
	})
	if len(all) > 0 && since.IsZero() {
		r.fail(errors.New("flights_since does not come before it"))
	}
	return all
}

func (r *reader) flight(since time.Time) (f meter.Flight) {
	moment := func(to *time.Time) func() { return func() { *to = since.Add(r.wait()) } }
	r.object(
		need("from_server", func() { f.FromServer = r.bool() }),
		need("start_ns", moment(&f.Start)),
		need("end_ns", moment(&f.End)),
		maybe("arrives_ns", moment(&f.Arrives)),
		maybe("complete_ns", moment(&f.Complete)),
		need("packets", func() { f.Packets = r.count() }),
		need("octets", func() { f.Octets = r.count() }),
		need("label", func() { f.Label = r.text(maxName) }),
		maybe("final", func() { f.Final = r.bool() }),
	)
	for _, later := range []struct {
		name string
		at   time.Time
	}{{"end_ns", f.End}, {"arrives_ns", f.Arrives}, {"complete_ns", f.Complete}} {
		if !later.at.IsZero() && later.at.Before(f.Start) {
			r.inside(step{name: later.name}, func() { r.fail(errors.New("it is before start_ns")) })
		}
	}
	return f
}

func (r *reader) point() (p meter.Point) {
	r.object(
		need("after_ns", func() { p.After = r.wait() }),
		need("octets", func() { p.Octets = r.count() }),
	)
	return p
}
