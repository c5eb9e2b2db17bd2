package bench

import (
	"context"
	"slices"
	"testing"
	"time"

	"slipstream/bench/meter"
)

// On the kernel's TCP, and with real servers, the messages of the default scenarios take the trips of the table.
//
// A machine that does other things besides makes everybody slower, so that the seconds prove nothing; but nothing can be
// quicker than its trips. And what passed back and forth before the final reply tells their number whatever the time.
func TestWAN(t *testing.T) {
	ctx, cancel := context.WithTimeout(t.Context(), 8*time.Minute)
	defer cancel()
	if err := Available(ctx); err != nil {
		t.Skip("no wide-area link here: ", err)
	}
	choice := Choice{Sizes: []int{small}}
	report, err := Run(ctx, Options{Ground: WAN, Cells: choice.Cells(), Count: 1})
	if err != nil {
		t.Fatal(err)
	}
	for _, r := range report.Results {
		t.Run(r.Cell.Name(), func(t *testing.T) { onTheWire(t, r) })
	}
	for _, w := range report.Facts.Warnings {
		t.Log(w)
	}
}

// A ground that cannot be had is an error, which is said once, and leaves nothing open.
func TestNoGround(t *testing.T) {
	for _, o := range []Options{{Ground: WAN, MTU: 100}, {Ground: "moon"}} {
		o.Cells = Choice{}.Cells()
		report, err := Run(t.Context(), o)
		if err == nil || len(report.Results) != 0 {
			t.Errorf("%+v: %v, %d results", o.Ground, err, len(report.Results))
		}
	}
}

func onTheWire(t *testing.T, r Result) {
	if r.Skipped != "" {
		t.Fatalf("not measured: %s", r.Skipped)
	}
	least, most := r.Spread()
	t.Logf("%v: %.2f to %.2f trips, %d packets", r.Peers, least, most, r.Median().Packets)
	want := r.Cell.Scenario.Trips.Of(r.Cell.Path)
	if least < float64(want) {
		t.Errorf("%.3f trips, which is less than %d: the meter or the table is wrong", least, want)
	}
	// Nagle's algorithm can cost the trip more that the remark tells of.
	most2 := want + r.Cell.Scenario.nagle()
	if r.Cell.Scenario.FastOpen {
		most2++ // what follows the SYN-ACK may be said without having heard more
	}
	if n := turns(r.Flights); (n < want || n > most2) && int(least) != want {
		t.Errorf("%.2f trips at the least, want %d; the server spoke %d times", least, want, n)
		for _, f := range r.Flights {
			t.Logf("%8.2f ms, server %t: %s", f.Start.Sub(r.Flights[0].Start).Seconds()*1000, f.FromServer, f.Label)
		}
	}
}

// turns is how often the server had its say up to the final reply, the SYN-ACK included.
func turns(flights []meter.Flight) int {
	last := slices.IndexFunc(flights, func(f meter.Flight) bool { return f.Final })
	n := 0
	for _, f := range flights[:last+1] {
		if f.FromServer {
			n++
		}
	}
	return n
}
