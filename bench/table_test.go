package bench

import (
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"go.uber.org/goleak"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// Every scenario that the simulated network can carry takes the trips of the table, exactly, by the packets and by the
// sender's own clock.
func TestScenariosTakeTheirTrips(t *testing.T) {
	for _, s := range Scenarios() {
		for _, p := range Paths() {
			t.Run(s.Name()+"/"+string(p), func(t *testing.T) {
				t.Parallel()
				if s.FastOpen && p == Direct {
					t.Skip("the reference client does no Fast Open")
				}
				synctest.Test(t, func(t *testing.T) { takes(t, Cell{s, p, small, 100 * time.Millisecond}) })
			})
		}
	}
}

func takes(t *testing.T, c Cell) {
	t.Helper()
	report, err := Run(t.Context(), Options{Ground: Sim, Cells: []Cell{c}, Count: 2})
	if err != nil {
		t.Fatal(err)
	}
	want := float64(c.Scenario.Trips.Of(c.Path))
	for _, s := range report.Results[0].Samples {
		if s.Trips != want {
			t.Errorf("%v trips by the packets, want %v", s.Trips, want)
		}
		if free := float64(s.Free) / float64(c.RTT); free != want {
			t.Errorf("the sender waited %v trips, want %v", free, want)
		}
	}
	flights := report.Results[0].Flights
	if n := len(report.Results[0].Samples); n != 2 || len(flights) == 0 {
		t.Errorf("%d samples, %d flights", n, len(flights))
	}
	finals := 0
	for _, f := range flights {
		if strings.Contains(f.Label, "encrypted") || f.Label == "" {
			t.Errorf("a flight is called %q", f.Label)
		}
		if f.Final {
			finals++
		}
	}
	if finals != 1 {
		t.Errorf("%d flights are the final one: %+v", finals, flights)
	}
}

// The table has no two scenarios of one name, and every path has trips.
func TestTable(t *testing.T) {
	seen := make(map[string]bool)
	for _, s := range Scenarios() {
		if seen[s.Name()] {
			t.Errorf("%s is there twice", s.Name())
		}
		seen[s.Name()] = true
		for _, p := range Paths() {
			if s.Trips.Of(p) == 0 {
				t.Errorf("%s, %s: no trips", s.Name(), p)
			}
		}
		if strings.ContainsAny(s.Name(), " \t") {
			t.Errorf("%q has blanks", s.Name())
		}
	}
}
