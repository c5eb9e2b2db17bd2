package report

import (
	"bytes"
	"flag"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"
	"unicode/utf8"

	"github.com/google/go-cmp/cmp"

	"slipstream/bench"
)

var update = flag.Bool("update", false, "rewrite the files of testdata")

// savedFixture reads the fixture from its file, the way a saved run is read.
func savedFixture(t *testing.T) *bench.Report {
	t.Helper()
	f, err := os.Open(*saved)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	r, err := ReadJSON(f)
	if err != nil {
		t.Fatal(err)
	}
	return r
}

// golden compares with a file of testdata.
func golden(t *testing.T, name string, got []byte) {
	t.Helper()
	path := filepath.Join("testdata", name)
	if *update {
		if err := os.WriteFile(path, got, 0o644); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if d := cmp.Diff(string(want), string(got)); d != "" {
		t.Errorf("%s differs (-update rewrites it) (-want +got):\n%s", name, d)
	}
}

func TestJSON(t *testing.T) {
	var b bytes.Buffer
	if err := JSON(&b, fixture()); err != nil {
		t.Fatal(err)
	}
	golden(t, "report.json", b.Bytes())

	got, err := ReadJSON(&b)
	if err != nil {
		t.Fatal(err)
	}
	if d := cmp.Diff(fixture(), got); d != "" {
		t.Errorf("what was read is not what was written (-written +read):\n%s", d)
	}
}

func TestTable(t *testing.T) {
	for _, c := range []struct {
		file string
		o    TableOptions
	}{{"table.txt", TableOptions{}}, {"table-60.txt", TableOptions{Width: 60}}} {
		var b bytes.Buffer
		if err := Table(&b, fixture(), c.o); err != nil {
			t.Fatal(err)
		}
		golden(t, c.file, b.Bytes())
		for _, l := range strings.Split(b.String(), "\n") {
			if c.o.Width == 0 && !strings.HasPrefix(l, "    ") && utf8.RuneCountInString(l) > tableWidth {
				t.Errorf("%s: a line of more than %d columns: %s", c.file, tableWidth, l)
			}
		}
	}
}

func TestTableColor(t *testing.T) {
	var plain, color bytes.Buffer
	if err := Table(&plain, fixture(), TableOptions{}); err != nil {
		t.Fatal(err)
	}
	if err := Table(&color, fixture(), TableOptions{Color: true}); err != nil {
		t.Fatal(err)
	}
	if plain.String() == color.String() {
		t.Error("no colour where it was asked for")
	}
	stripped := regexp.MustCompile("\x1b\\[[0-9]*m").ReplaceAllString(color.String(), "")
	trim := regexp.MustCompile(`(?m) +$`)
	if d := cmp.Diff(trim.ReplaceAllString(plain.String(), ""), trim.ReplaceAllString(stripped, "")); d != "" {
		t.Errorf("colour changes the text (-plain +colour):\n%s", d)
	}
}

func TestBenchmarks(t *testing.T) {
	r := fixture()
	r.Facts.Go, r.Facts.System = "", ""
	r.Facts.OS, r.Facts.Arch = "plan9", "mips" // where it was measured, not where it is shown
	var b bytes.Buffer
	if err := Benchmarks(&b, r); err != nil {
		t.Fatal(err)
	}
	text := b.String()
	for _, want := range []string{"goos: plan9\ngoarch: mips\npkg: slipstream/bench\n"} {
		if !strings.Contains(text, want) {
			t.Errorf("no %q", want)
		}
	}
	line := regexp.MustCompile(
		`^BenchmarkWAN/\S+-1 1 \d+ ns/op \d+\.\d{4} trips/op \d+ packets/op \d+ wire-B/op( \d+ free-ns/op)?$`)
	config := regexp.MustCompile(`^[a-z]+: .+$`)
	lines, samples := 0, 0
	for _, l := range strings.Split(strings.TrimSuffix(text, "\n"), "\n") {
		if strings.HasPrefix(l, "Benchmark") {
			lines++
			if !line.MatchString(l) {
				t.Errorf("not of the format: %s", l)
			}
		} else if !config.MatchString(l) {
			t.Errorf("neither configuration nor a result: %s", l)
		}
	}
	for _, res := range r.Results {
		samples += len(res.Samples)
	}
	if lines != samples {
		t.Errorf("%d lines for %d samples", lines, samples)
	}
	if want := "BenchmarkWAN/outbound/clear/first/old-modern/direct/2KB/100ms-1 1 "; !strings.Contains(text, want) {
		t.Errorf("no %q", want)
	}

	r.Facts.OS, r.Facts.Arch = "", "" // one of the first files
	b.Reset()
	if err := Benchmarks(&b, r); err != nil {
		t.Fatal(err)
	}
	if !strings.HasPrefix(b.String(), "pkg: slipstream/bench\n") {
		t.Errorf("a machine that nobody knows: %.60s", b.String())
	}
}

func TestProgress(t *testing.T) {
	var b bytes.Buffer
	p := NewProgress(&b, false)
	p.Step(0, 40, "outbound/clear/first/old-modern/direct/2KB/100ms", 0)
	p.Step(1, 40, "outbound/clear/first/old-modern/direct/2KB/100ms", 0)
	p.Step(5, 40, "outbound/clear/first/old-modern/through/2KB/100ms", time.Minute)
	p.Step(10, 40, "outbound/clear/known/old-modern/direct/2KB/100ms", 130*time.Second)
	p.Done()
	want := "0 of 40: outbound/clear/first/old-modern\n10 of 40, 2 min left: outbound/clear/known/old-modern\n"
	if b.String() != want {
		t.Errorf("off a terminal: %q, want %q", b.String(), want)
	}

	b.Reset()
	p = NewProgress(&b, true)
	p.Step(1, 2, "a/b/c/d/direct/2KB/100ms", 1500*time.Millisecond)
	p.Step(2, 2, strings.Repeat("x", 200), 0)
	p.Done()
	want = "\r\x1b[K1 of 2, 2 s left: a/b/c/d/direct/2KB/100ms\r\x1b[K2 of 2: " + strings.Repeat("x", 70) + "…\r\x1b[K"
	if b.String() != want {
		t.Errorf("on a terminal: %q, want %q", b.String(), want)
	}
}
