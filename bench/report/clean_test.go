package report

import (
	"bytes"
	"html"
	"io"
	"strings"
	"testing"
	"unicode"

	"slipstream/bench"
)

// nasty has what can do harm to a terminal, or turn the text around it: control characters of both sets, all directional
// formatting characters, the separators that end a line. It reads "nasty" to the eye.
const nasty = "n\x1b]0;title\x07\x1b[2J\r\n\x00\x7f\u0085\u009b" +
	"\u202a\u202b\u202c\u202d\u202ea\u2066\u2067\u2068\u2069s\u200e\u200f\u061ct\u2028\u2029\ufeffy" + hostile

// spoilt is the fixture with nasty text wherever there is text. No file can bring a scenario of such names, but a caller
// can.
func spoilt() *bench.Report {
	r := fixture()
	f := &r.Facts
	f.Ground, f.Link, f.Version, f.Go, f.OS, f.Arch, f.System, f.Tickets = nasty, nasty, nasty, nasty, nasty, nasty, nasty, nasty
	f.Peers, f.Sysctls, f.Warnings = []string{nasty, nasty}, []string{nasty, nasty}, []string{nasty, nasty}
	for i := range r.Results {
		res := &r.Results[i]
		res.Peers = []string{nasty, nasty}
		if res.Skipped != "" {
			res.Skipped = nasty
		}
		for j := range res.Flights {
			res.Flights[j].Label = nasty
		}
		if i >= 4 {
			continue
		}
		s := &res.Cell.Scenario
		s.Direction, s.Channel, s.State, s.Client, s.Server = nasty, nasty, nasty, nasty, nasty
		if i == 3 {
			res.Cell.Path, res.Samples = nasty, nil
		}
	}
	return r
}

// TestClean: nothing of the kind comes out, wherever it went in.
func TestClean(t *testing.T) {
	for name, render := range map[string]func(io.Writer, *bench.Report) error{
		"page": HTML, "lines": Benchmarks,
		"table":  func(w io.Writer, r *bench.Report) error { return Table(w, r, TableOptions{}) },
		"narrow": func(w io.Writer, r *bench.Report) error { return Table(w, r, TableOptions{Width: 40}) },
		"progress": func(w io.Writer, r *bench.Report) error {
			NewProgress(w, false).Step(1, 2, r.Results[0].Cell.Name(), 0)
			return nil
		},
	} {
		t.Run(name, func(t *testing.T) {
			var b bytes.Buffer
			if err := render(&b, spoilt()); err != nil {
				t.Fatal(err)
			}
			text := b.String()
			if !strings.Contains(text, "]0;title") {
				t.Error("the text did not come through at all")
			}
			if name == "page" {
				if strings.Contains(text, "<script") {
					t.Error("the page has a script")
				}
				text = html.UnescapeString(text)
			}
			for i, c := range text {
				if c != '\n' && c != '\u00a0' && (unicode.IsControl(c) || unicode.In(c, unicode.Cf, unicode.Zl, unicode.Zp)) {
					t.Fatalf("%q came out: %q", c, text[max(0, i-60):min(len(text), i+60)])
				}
			}
		})
	}
}
