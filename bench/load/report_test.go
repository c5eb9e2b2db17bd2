package load

import (
	"bytes"
	"encoding/json"
	"errors"
	"os"
	"strings"
	"testing"
	"time"
	"unicode/utf8"

	"github.com/google/go-cmp/cmp"
)

// sample is a report with everything in it that may be.
func sample(rate float64) *Report {
	ms := func(n float64) time.Duration { return time.Duration(n * float64(time.Millisecond)) }
	turn := func(messages int, cpu, peak float64, latencies ...float64) Turn {
		l := Latency{ms(latencies[0]), ms(latencies[1]), ms(latencies[2]), ms(latencies[3]), ms(latencies[4])}
		return Turn{Elapsed: time.Second, Messages: messages, CPU: ms(cpu), Peak: int64(peak * 1e6), Latency: l}
	}
	r := &Report{
		Format: Format,
		Facts: Facts{
			Begun: time.Date(2024, 2, 29, 12, 0, 0, 0, time.UTC), Took: 90 * time.Second, Version: "v1.2.3", Go: "go1.26.1",
			System: "Linux 6.1.0", GOOS: "linux", GOARCH: "amd64", CPUs: 2, Busy: "0.25", CPUSource: "the kernel", Rate: rate,
			Peers: []string{"haproxy 2.6.12-1"}, Size: 4096, TLS: rate > 0, Window: time.Second, WarmUp: 100 * time.Millisecond,
			Rounds: 2, Sessions: []int{1, 100}, PerConnect: []int{1},
		},
		Memory: []Memory{{Outbound, 17_700_000, 12_900, 500}, {HAProxy, 15_600_000, 3_300, 500}},
		Absent: []Absent{{Nginx, `no real MTA here: no nginx in .peers; "make peers" fetches it`}},
	}
	if rate > 0 {
		r.Facts.Clock = Poisson
	}
	for _, sessions := range []int{1, 100} {
		for _, p := range []Point{
			{Way: Direct, Turns: []Turn{turn(112345, 0, 0, .009, .02, 1.23, 9.99, 9.999), turn(2000, 0, 0, 1, 2, 3, 4, 5)}},
			{Way: Outbound, Turns: []Turn{
				turn(2820, 1000, 20, .5, 10, 99.94, 99.96, 12345), turn(3020, 1100, 22, 1, 2, 3, 4, 5),
			}},
			{Way: Inbound, Turns: []Turn{turn(0, 5, 1, 0, 0, 0, 0, 0), turn(0, 5, 1, 0, 0, 0, 0, 0)}},
			{Way: HAProxy, Turns: []Turn{turn(500, 1234, 2000, 1, 2, 3, 4, 5), turn(5, 10, 1, 1, 2, 3, 4, 5)}},
		} {
			r.Points = append(r.Points, fill(p, sessions, rate > 0))
		}
	}
	return r
}

// fill lets a point have what it would have.
func fill(p Point, sessions int, open bool) Point {
	turns := p.Turns
	p.Turns = nil
	for _, turn := range turns {
		p.add(turn, newTally(nil))
	}
	p.Sessions, p.PerConnection, p.Latency, p.Counted = sessions, 1, turns[0].Latency, 5000
	switch {
	case p.Way == Inbound:
		p.Failed = 20
		p.Failure = "a message was refused: 451 4.3.0 not today, and not tomorrow either, since the moon is full again"
	case open && p.Way == Outbound:
		p.Queued, p.Late, p.Turns[0].Waited, p.Turns[0].Lag = 31, 3, 290*time.Millisecond, 1500*time.Microsecond
		if sessions == 1 {
			p.Queued, p.Unsent = 4100, 900
		}
	}
	return p
}

func TestReportForms(t *testing.T) {
	for name, r := range map[string]*Report{"closed": sample(0), "open": sample(2500)} {
		for form, write := range map[string]func(*bytes.Buffer) error{
			"table.txt":   func(b *bytes.Buffer) error { return r.Table(b, 0) },
			"report.json": func(b *bytes.Buffer) error { return r.JSON(b) },
			"bench.txt":   func(b *bytes.Buffer) error { return r.Benchmarks(b) },
		} {
			t.Run(name+" "+form, func(t *testing.T) {
				var got bytes.Buffer
				if err := write(&got); err != nil {
					t.Fatal(err)
				}
				golden := "testdata/" + name + "-" + form
				if os.Getenv("UPDATE") != "" {
					if err := os.WriteFile(golden, got.Bytes(), 0o644); err != nil {
						t.Fatal(err)
					}
				}
				want, err := os.ReadFile(golden)
				if err != nil {
					t.Fatal(err)
				}
				if diff := cmp.Diff(string(want), got.String()); diff != "" {
					t.Errorf("not as in %s, which UPDATE=1 writes anew:\n%s", golden, diff)
				}
			})
		}
	}
}

func TestTableFits(t *testing.T) {
	for _, width := range []int{0, MinWidth, 140} {
		for _, rate := range []float64{0, 2500} {
			var b strings.Builder
			if err := sample(rate).Table(&b, width); err != nil {
				t.Fatal(err)
			}
			for line := range strings.Lines(b.String()) {
				line = strings.TrimSuffix(line, "\n")
				if n := utf8.RuneCountInString(line); n > max(width, MinWidth) || line != strings.TrimRight(line, " ") {
					t.Errorf("%d columns, or blanks at the end: %q", n, line)
				}
			}
		}
	}
	if err := sample(0).Table(broken{}, 0); !errors.Is(err, os.ErrClosed) {
		t.Errorf("%v", err)
	}
}

type broken struct{}

func (broken) Write([]byte) (int, error) { return 0, os.ErrClosed }

func TestJSONCanBeRead(t *testing.T) {
	want := sample(2500)
	var b bytes.Buffer
	if err := want.JSON(&b); err != nil {
		t.Fatal(err)
	}
	var got Report
	d := json.NewDecoder(&b)
	d.DisallowUnknownFields()
	if err := d.Decode(&got); err != nil {
		t.Fatal(err)
	}
	for i := range want.Points {
		want.Points[i].merged = nil
	}
	if diff := cmp.Diff(want, &got, cmp.AllowUnexported(Point{})); diff != "" {
		t.Error(diff)
	}
}

func TestSpread(t *testing.T) {
	for _, test := range []struct {
		in   []float64
		want Spread
	}{
		{nil, Spread{}}, {[]float64{3}, Spread{3, 3, 3}}, {[]float64{5, 1, 3}, Spread{3, 1, 5}},
		{[]float64{4, 1, 3, 2}, Spread{2.5, 1, 4}},
	} {
		if got := spread(test.in); got != test.want {
			t.Errorf("%v: %v", test.in, got)
		}
	}
}

func TestAudit(t *testing.T) {
	l := newLetters("x-", 100)
	for _, test := range []struct {
		acked       []int64
		arrived     map[string]int
		lost, twice int
	}{
		{[]int64{1, 2}, map[string]int{"x-1": 1, "x-2": 1}, 0, 0},
		{[]int64{1}, map[string]int{"x-1": 1, "x-2": 1}, 0, 0}, // in doubt, and it did arrive
		{[]int64{1, 2}, map[string]int{"x-1": 1}, 1, 0},
		{[]int64{1, 2}, map[string]int{"x-1": 2, "x-2": 1}, 0, 1},
		{[]int64{1}, map[string]int{"x-1": 1, "x-7": 2}, 0, 1}, // in doubt, and it came twice
		{[]int64{3}, nil, 1, 0},
	} {
		tally := newTally(nil)
		tally.acked = test.acked
		err := tally.audit(l, test.arrived)
		var audit *AuditError
		if test.lost+test.twice == 0 {
			if err != nil {
				t.Errorf("%+v: %v", test, err)
			}
		} else if !errors.As(err, &audit) || audit.Lost != test.lost || audit.Twice != test.twice || audit.Example == "" {
			t.Errorf("%+v: %v", test, err)
		}
	}
}

func TestLatencyOf(t *testing.T) {
	tally := newTally(nil)
	for i := range 1000 {
		tally.latency(time.Duration(i+1) * time.Millisecond)
	}
	tally.latency(-time.Second) // a clock that was set back
	tally.latency(100 * time.Hour)
	l := latencyOf(tally.latencies)
	for _, pair := range []struct{ got, want time.Duration }{
		{l.P50, 500 * time.Millisecond}, {l.P90, 900 * time.Millisecond}, {l.P99, 990 * time.Millisecond},
		{l.P999, time.Second}, {l.Max, maxLatency},
	} {
		if ratio := float64(pair.got) / float64(pair.want); ratio < .998 || ratio > 1.002 {
			t.Errorf("%v; want %v", pair.got, pair.want)
		}
	}
}
