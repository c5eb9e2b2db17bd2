package report

import (
	"bytes"
	"errors"
	"fmt"
	"reflect"
	"runtime"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"slipstream/bench"
	"slipstream/bench/meter"
)

// few is a short report as it is saved.
func few(t testing.TB) string {
	t.Helper()
	var b bytes.Buffer
	r := fixture()
	r.Results = r.Results[:1]
	res := &r.Results[0]
	res.Samples, res.Flights = res.Samples[:1], res.Flights[:3]
	if err := JSON(&b, r); err != nil {
		t.Fatal(err)
	}
	return b.String()
}

// A refusal is a file that cannot be read, and what its error must name.
type refusal struct{ text, names string }

// refused are files that are wrong in one thing each.
func refused(t testing.TB) []refusal {
	t.Helper()
	good := few(t)
	all := []refusal{
		{"", "EOF"}, {"{", "EOF"}, {"[]", "object"}, {"null", "object"}, {"{}", "format"},
		{`{"format": 2}`, "format: it is 2"}, {`{"format": 1, "facts": 3}`, "facts"},
		{`{"format":1}`, "facts: it is missing"},
		{good + "x", "behind its end"}, {good + "{}", "behind its end"}, {good + "null", "behind its end"},
		{good[:len(good)/2], "results["},
	}
	swap := func(old, changed, names string) {
		t.Helper()
		text := strings.Replace(good, old, changed, 1)
		if text == good {
			t.Fatalf("the report has no %s", old)
		}
		all = append(all, refusal{text, names})
	}
	for _, c := range []struct{ name, is, wrong string }{
		{"direction", `"outbound"`, `"sideways"`}, {"channel", `"clear"`, `"muddy"`}, {"state", `"first"`, `"last"`},
		{"client", `"old"`, `"\u202e"`}, {"server", `"modern"`, `""`}, {"fast_open", "false", "0"}, {"default", "true", "null"},
	} {
		swap(`"`+c.name+`": `+c.is, `"`+c.name+`": `+c.wrong, "results[0].scenario."+c.name+": ")
	}
	swap(`"path": "direct"`, `"path": "detour"`, "results[0].path: ")
	swap(`"direct": 7`, `"direct": -7`, "results[0].scenario.expected_trips.direct: ")
	swap(`"trips": 7.132`, `"trips": -0.1`, "results[0].samples[0].trips: ")
	swap(`"trips": 7.132`, `"trips": 1000001`, "results[0].samples[0].trips: ")
	swap(`"trips": 7.132`, `"trips": 1e400`, "results[0].samples[0].trips: ")
	swap(`"trips": 7.132`, `"trips": NaN`, "results[0].samples[0].trips: ")
	for _, name := range []string{"size_octets", "rtt_ns", "elapsed_ns", "free_ns", "first_byte_ns", "packets", "wire_octets",
		"retransmits", "start_ns", "end_ns", "arrives_ns", "complete_ns", "octets", "took_ns"} {
		for _, n := range []string{"-1", "1.5", "1e3", "99999999999999999999", `"1"`, "null"} {
			swap(`"`+name+`": `, `"`+name+`": `+n+`, "x": `, name+": ")
		}
		swap(`"`+name+`": `, `"`+name+`x": `, name+"x")
	}
	swap(`"rtt_ns": `, `"rtt_ns": 9000000000000000`, "results[0].rtt_ns: ")
	swap(`"start_ns": 0`, `"start_ns": 20000000`, "results[0].flights[0].end_ns: ")
	swap(`"begun": "2026`, `"begun": "9999`, "facts.begun: ")
	swap(`"flights_since": "2026-03`, `"flights_since": "2026-13`, "results[0].flights_since: ")
	swap(`"flights_since": "2026-03-14T09:26:53Z",`, ``, "results[0].flights: flights_since")
	swap(`"facts": {`, `"facts": {}, "facts": {`, "facts.begun")
	swap(`"link": `, `"link": "", "link": `, `two fields "link"`)
	swap(`"facts"`, `"Facts"`, `unknown field "Facts"`)
	swap(`"results": [`, `"results": null, "x": [`, "results: it is no list")
	swap(`"results"`, `"notes": 1, "results"`, `unknown field "notes"`)
	swap(`"label": "SYN"`, `"label": "`+strings.Repeat("x", maxName+1)+`"`, "results[0].flights[0].label: ")
	swap(`"ground": "`, `"ground": "`+strings.Repeat("x", maxText+1), "facts.ground: ")
	return all
}

func TestReadJSONRefuses(t *testing.T) {
	if _, err := ReadJSON(strings.NewReader(few(t) + "\n \t\r\n")); err != nil {
		t.Fatal(err)
	}
	for _, c := range refused(t) {
		r, err := ReadJSON(strings.NewReader(c.text))
		if r != nil || !errors.Is(err, ErrFormat) || !strings.Contains(err.Error(), c.names) {
			t.Errorf("%.40q…: %v, want an error that names %q", c.text, err, c.names)
		}
		if err != nil && (len(err.Error()) > 500 || strings.ContainsAny(err.Error(), "\u202e\x1b\n")) {
			t.Errorf("not an error for a terminal: %q", err)
		}
	}
}

// TestReadJSONLimits: each list ends somewhere.
func TestReadJSONLimits(t *testing.T) {
	for _, c := range []struct {
		list  string
		limit int
		fill  func(r *bench.Report, n int)
	}{
		{"results", maxResults, func(r *bench.Report, n int) { r.Results = slices.Repeat(r.Results[1:], n) }},
		{"results[0].samples", maxSamples, func(r *bench.Report, n int) { r.Results[0].Samples = make([]bench.Sample, n) }},
		{"results[0].flights", maxSpoken, func(r *bench.Report, n int) {
			r.Results[0].Flights = slices.Repeat(r.Results[0].Flights[:1], n)
		}},
		{"results[0].growth", maxGrown, func(r *bench.Report, n int) { r.Results[0].Growth = make([]meter.Point, n) }},
		{"results[0].peers", maxPeers, func(r *bench.Report, n int) { r.Results[0].Peers = make([]string, n) }},
		{"results[0].scenario.default_sizes_octets", maxSizes, func(r *bench.Report, n int) {
			r.Results[0].Cell.Scenario.Bodies = make([]int, n)
		}},
		{"facts.warnings", maxLines, func(r *bench.Report, n int) { r.Facts.Warnings = make([]string, n) }},
		{"facts.sysctls", maxLines, func(r *bench.Report, n int) { r.Facts.Sysctls = make([]string, n) }},
		{"facts.peers", maxLines, func(r *bench.Report, n int) { r.Facts.Peers = make([]string, n) }},
	} {
		for _, more := range []int{0, 1} {
			r := fixture()
			r.Results = []bench.Result{r.Results[0], {Cell: r.Results[0].Cell, Skipped: "small"}}
			c.fill(r, c.limit+more)
			var b bytes.Buffer
			if err := JSON(&b, r); err != nil {
				t.Fatal(err)
			}
			_, err := ReadJSON(&b)
			if more == 0 && err != nil {
				t.Errorf("%d %s: %v", c.limit, c.list, err)
			}
			want := fmt.Sprintf("%s: it has more than %d items", c.list, c.limit)
			if more == 1 && (err == nil || !strings.Contains(err.Error(), want)) {
				t.Errorf("%d %s: %v, want %q", c.limit+1, c.list, err, want)
			}
		}
	}
	if _, err := ReadJSON(strings.NewReader(strings.Repeat(" ", maxFile) + few(t))); err == nil ||
		!strings.Contains(err.Error(), "larger than 64 MB") {
		t.Errorf("a file that is too large: %v", err)
	}
}

// allocated is how many octets f makes the program ask for in all.
func allocated(f func()) uint64 {
	var before, after runtime.MemStats
	runtime.ReadMemStats(&before)
	f()
	runtime.ReadMemStats(&after)
	return after.TotalAlloc - before.TotalAlloc
}

// TestReadJSONFrugal: a file that promises much with little is dropped at the first of it.
func TestReadJSONFrugal(t *testing.T) {
	head, _, _ := strings.Cut(few(t), `"results": [`)
	for _, text := range []string{
		head + `"results":[` + strings.Repeat("{},", 2<<20) + "{}]}",
		head + `"results":[{"samples":[` + strings.Repeat("{},", 2<<20) + "{}]}]}",
		head + `"results":` + strings.Repeat("[", 6<<20),
		`{"facts":{"peers":[` + strings.Repeat(`"",`, 2<<20) + `""]}}`,
	} {
		var err error
		n := allocated(func() { _, err = ReadJSON(strings.NewReader(text)) })
		if err == nil || n > 1<<20 {
			t.Errorf("%.40q…: %v, and %d octets", text, err, n)
		}
	}
}

// wholeRun is as large as a run of everything can be expected to be: 1300 results with 3 samples, 40 flights and 200
// points of growth each.
func wholeRun() *bench.Report {
	r := &bench.Report{Facts: fixtureFacts()}
	for _, s := range bench.Scenarios() {
		for _, p := range bench.Paths() {
			for i := range 12 {
				res := bench.Result{Peers: []string{"reference client (as Postfix)", "Exim 4.96"}}
				res.Cell = bench.Cell{Scenario: s, Path: p, Size: 20 << 20 >> (i % 4), RTT: 100 * time.Millisecond << (i / 4)}
				for range 3 {
					res.Samples = append(res.Samples, bench.Sample{Trips: 17.123456789012345, Elapsed: 1712345678, Free: 1712345678,
						FirstByte: 200123456, Packets: 21234, Octets: 21234567})
				}
				for i := range 40 {
					at := began().Add(time.Duration(i) * 100123456)
					res.Flights = append(res.Flights, meter.Flight{Start: at, End: at, Arrives: at, Complete: at, Packets: 1234,
						Octets: 1234567, Label: "encrypted 140 octets, and more of it"})
				}
				for i := range 200 {
					res.Growth = append(res.Growth, meter.Point{After: time.Duration(i) * 100123456, Octets: i * 100123})
				}
				r.Results = append(r.Results, res)
			}
		}
	}
	return r
}

// TestWholeRun: what a run of everything saves can be read, and takes memory in proportion.
func TestWholeRun(t *testing.T) {
	want := wholeRun()
	var b bytes.Buffer
	if err := JSON(&b, want); err != nil {
		t.Fatal(err)
	}
	if b.Len() > maxFile*3/4 {
		t.Errorf("%d results are %d octets: there is no room for more", len(want.Results), b.Len())
	}
	r, err := ReadJSON(&b)
	if err != nil {
		t.Fatal(err)
	}
	if len(r.Results) != len(want.Results) {
		t.Fatalf("%d results of %d", len(r.Results), len(want.Results))
	}
	for i := range r.Results {
		if !reflect.DeepEqual(want.Results[i], r.Results[i]) {
			t.Fatal("what was read is not what was written: ", cmp.Diff(want.Results[i], r.Results[i]))
		}
	}
}

// TestOldFile: the first files did not say where they were measured.
func TestOldFile(t *testing.T) {
	text := strings.NewReplacer(`"os": "plan9",`, "", `"arch": "mips",`, "").Replace(few(t))
	r, err := ReadJSON(strings.NewReader(text))
	if err != nil {
		t.Fatal(err)
	}
	if r.Facts.OS != "" || r.Facts.Arch != "" || r.Facts.Go == "" {
		t.Errorf("facts %+v", r.Facts)
	}
}

// TestManyScenarios: what there is to sort does not take the square of its number.
func TestManyScenarios(t *testing.T) {
	const scenarios, sizes = 20_000, 20_000
	r := &bench.Report{}
	for i := range scenarios {
		s := scenario(bench.Outbound, bench.Clear, bench.FirstContact, bench.Client(fmt.Sprint(i)), bench.ModernServer, 7, 5)
		r.Results = append(r.Results, skipped(s, bench.Direct, smallBody, longLink, fmt.Sprint("reason ", i)))
	}
	one := scenario(bench.Inbound, bench.Clear, bench.FirstContact, bench.Old, bench.ModernServer, 7, 5)
	for i := range sizes {
		r.Results = append(r.Results, skipped(one, bench.Direct, i, longLink, fmt.Sprint("size ", i)))
	}
	begun := time.Now()
	all := groups(r)
	found := gaps(all)
	chosen := make([]pair, len(all))
	for i, g := range all {
		chosen[i] = g.headline(headlineRTT)
	}
	common := commonest(chosen)
	if took := time.Since(begun); took > 5*time.Second {
		t.Errorf("sorting took %v", took)
	}
	if len(all) != scenarios+1 || len(all[scenarios].pairs) != sizes || common.size != smallBody {
		t.Errorf("%d groups, the last of %d; most are of %d octets", len(all), len(all[scenarios].pairs), common.size)
	}
	if len(found) != scenarios+sizes+1 || len(found[1].Names) != scenarios+1 {
		t.Errorf("%d reasons, the second for %d names", len(found), len(found[1].Names))
	}
}
