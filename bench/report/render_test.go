package report

import (
	"bytes"
	"errors"
	"io"
	"math"
	"strings"
	"testing"
	"time"

	"pgregory.net/rapid"

	"slipstream/bench"
	"slipstream/bench/meter"
)

// TestPlace: labels of one column never overlap, stay in it and keep their order.
func TestPlace(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		const top = 40.0
		bottom := top + rapid.Float64Range(4*lineHeight, 800).Draw(t, "height")
		n := rapid.IntRange(0, maxFlights).Draw(t, "labels")
		tags := []tag{{want: bottom - 2*lineHeight, lines: []string{"free", "after", "all"}, fixed: true}}
		for range n {
			lines := rapid.IntRange(1, maxLabel).Draw(t, "lines")
			want := rapid.Float64Range(top, bottom).Draw(t, "want")
			tags = append(tags, tag{want: want, lines: make([]string, lines), count: 1})
		}
		placed := place(tags, top, bottom)
		count, edge := 0, top
		for _, p := range placed {
			count += p.count
			if p.at-lineHeight/2 < edge-1e-6 {
				t.Fatalf("a label begins at %.2f, above %.2f", p.at-lineHeight/2, edge)
			}
			edge = p.at - lineHeight/2 + p.height()
		}
		if total(placed) <= bottom-top && edge > bottom+1e-6 {
			t.Fatalf("the labels end at %.2f, below %.2f", edge, bottom)
		}
		if count != n {
			t.Fatalf("the labels speak for %d flights of %d", count, n)
		}
	})
}

// TestPlaceWhereWanted: a label that nobody disturbs stands beside its flight.
func TestPlaceWhereWanted(t *testing.T) {
	tags := []tag{
		{want: 60, lines: []string{"a"}}, {want: 100, lines: []string{"b", "c"}}, {want: 160, lines: []string{"d"}},
	}
	for i, p := range place(tags, 40, 300) {
		if p.at != tags[i].want {
			t.Errorf("label %d stands at %v, not at %v", i, p.at, tags[i].want)
		}
	}
}

func TestLabel(t *testing.T) {
	for text, want := range map[string]string{
		"":                             "",
		"EHLO":                         "EHLO",
		"MAIL RCPT DATA":               "MAIL RCPT DATA",
		"MAIL RCPT BDAT 2 KB":          "MAIL RCPT BDAT|2 KB",
		"ServerHello…Finished":         "ServerHello…|Finished",
		"encrypted 140 octets":         "encrypted|140 octets",
		"EHLO MAIL RCPT BDAT 2 KB":     "EHLO MAIL RCPT|BDAT 2 KB",
		strings.Repeat("x", 20):        "xxxxxxxxxxxxxxxx|xxxx",
		strings.Repeat("a b ", 40):     "a b a b a b a b|a b a b a b a b|a b a b a b a b…",
		"two\nlines\x1b[31m of a text": "two lines [31m|of a text",
	} {
		if got := strings.Join(label(text), "|"); got != want {
			t.Errorf("label(%q) = %q, want %q", text, got, want)
		}
	}
}

func TestWords(t *testing.T) {
	for _, c := range []struct{ got, want string }{
		{tripsWords(7.02), "7 trips"}, {tripsWords(0.99), "1 trip"}, {tripsWords(4.42), "4.4 trips"},
		{tripsWords(0), "0 trips"}, {tripsWords(-0.05), "0 trips"}, {tripsWords(1e300), "1e+300 trips"},
		{tripsWords(math.Inf(1)), "+Inf trips"},
		{secondsWords(702 * time.Millisecond), "0.70 s"}, {secondsWords(40 * time.Millisecond), "40 ms"},
		{secondsWords(12345 * time.Millisecond), "12.3 s"}, {milliWords(2750 * time.Microsecond), "2.8"},
		{sizeWords(2 << 10), "2 KB"}, {sizeWords(1 << 20), "1 MB"}, {sizeWords(700), "700 B"}, {sizeWords(-5), "-5 B"},
		{roundSize(1448), "1.41 KB"}, {axisWords(200 * time.Millisecond), "0.2 s"}, {axisWords(5 * time.Millisecond), "5 ms"},
		{fixed(-0.001, 2), "0.00"}, {fixed(-1.25, 1), "-1.2"},
	} {
		if c.got != c.want {
			t.Errorf("%q, want %q", c.got, c.want)
		}
	}
}

// TestEmpty: a run that measured nothing has a report too.
func TestEmpty(t *testing.T) {
	only := &bench.Report{Results: fixture().Results[:1]}
	for _, r := range []*bench.Report{{}, only} {
		all(t, r)
	}
}

// TestLimits: whatever the numbers, a picture is bounded.
func TestLimits(t *testing.T) {
	s := scenario(bench.Outbound, bench.Clear, bench.FirstContact, bench.Old, bench.ModernServer, 7, 5)
	many := make([]meter.Flight, 5000)
	for i := range many {
		many[i] = meter.Flight{
			Start: began().Add(time.Duration(i)), Arrives: began().Add(math.MaxInt64), Label: strings.Repeat("x", 1000),
		}
	}
	growth := []meter.Point{{After: math.MinInt64, Octets: -1}, {After: math.MaxInt64, Octets: math.MaxInt}}
	for _, rtt := range []time.Duration{math.MinInt64, -1, 0, 1, time.Hour, math.MaxInt64} {
		for _, elapsed := range []time.Duration{math.MinInt64, 0, 1, time.Second, math.MaxInt64} {
			sample := bench.Sample{Trips: float64(elapsed) / float64(rtt), Elapsed: elapsed}
			res := bench.Result{
				Cell:    bench.Cell{Scenario: s, Path: bench.Direct, Size: math.MaxInt, RTT: rtt},
				Samples: []bench.Sample{sample}, Flights: many, Growth: growth,
			}
			other := res
			other.Cell.Path, other.Flights = bench.Through, many[:1]
			if n := all(t, &bench.Report{Results: []bench.Result{res, other}}); n > 200<<10 {
				t.Errorf("rtt %d, elapsed %d: %d octets", rtt, elapsed, n)
			}
		}
	}
}

// all renders a report in every way that reads it, and returns how long it became.
func all(t testing.TB, r *bench.Report) int {
	t.Helper()
	var b bytes.Buffer
	for _, render := range []func(io.Writer, *bench.Report) error{
		HTML, Benchmarks,
		func(w io.Writer, r *bench.Report) error { return Table(w, r, TableOptions{Color: true, Width: 80}) },
		func(w io.Writer, r *bench.Report) error { return Table(w, r, TableOptions{}) },
	} {
		if err := render(&b, r); err != nil {
			t.Fatal(err)
		}
	}
	return b.Len()
}

// FuzzSaved: whatever a file says, it is refused, or drawn.
func FuzzSaved(f *testing.F) {
	f.Add([]byte(few(f)))
	for _, c := range refused(f) {
		f.Add([]byte(c.text))
	}
	f.Fuzz(func(t *testing.T, data []byte) {
		r, err := ReadJSON(bytes.NewReader(data))
		if err != nil {
			if !errors.Is(err, ErrFormat) {
				t.Fatalf("%v does not say what is wrong with the file", err)
			}
			return
		}
		all(t, r)
		var first, second bytes.Buffer
		if err := JSON(&first, r); err != nil {
			t.Fatal(err)
		}
		again, err := ReadJSON(bytes.NewReader(first.Bytes()))
		if err != nil {
			t.Fatalf("what was read cannot be read again: %v", err)
		}
		if err := JSON(&second, again); err != nil || !bytes.Equal(first.Bytes(), second.Bytes()) {
			t.Fatalf("what was read is another report the second time, %v: %s, then %s", err, &first, &second)
		}
	})
}
