package report

import (
	"bytes"
	"fmt"
	"io"
	"strconv"
	"strings"
	"unicode"

	"slipstream/bench"
)

// Benchmarks writes every sample as a line of Go's benchmark format, for benchstat and its kin:
// https://golang.org/design/14313-benchmark-format. Cells that were skipped have none.
// "goos" and "goarch" are those of the machine that measured; a report that does not know them has no such lines.
//
// "ns/op" is from the first SYN to the arrival of the final reply; "wire-B/op" counts headers too; "free-ns/op", where
// the client tells it, is how long it waited by its own clock.
func Benchmarks(w io.Writer, r *bench.Report) error {
	var b bytes.Buffer
	r = cleaned(r)
	for _, f := range []struct{ key, value string }{
		{"goos", r.Facts.OS}, {"goarch", r.Facts.Arch}, {"pkg", "slipstream/bench"}, {"slipstream", r.Facts.Version},
		{"go", r.Facts.Go}, {"system", r.Facts.System}, {"link", r.Facts.Link},
	} {
		if f.value != "" {
			fmt.Fprintf(&b, "%s: %s\n", f.key, f.value)
		}
	}
	for _, res := range r.Results {
		name := "BenchmarkWAN/" + word(res.Cell.Name()) + "-1"
		for _, s := range res.Samples {
			fmt.Fprintf(&b, "%s 1 %d ns/op %s trips/op %d packets/op %d wire-B/op", name,
				s.Elapsed.Nanoseconds(), strconv.FormatFloat(s.Trips, 'f', 4, 64), s.Packets, s.Octets)
			if s.Free > 0 {
				fmt.Fprintf(&b, " %d free-ns/op", s.Free.Nanoseconds())
			}
			b.WriteByte('\n')
		}
	}
	_, err := w.Write(b.Bytes())
	return err
}

// word makes one word of a name, as the format wants it.
func word(name string) string {
	return strings.Map(func(r rune) rune {
		if unicode.IsSpace(r) || !unicode.IsPrint(r) {
			return '_'
		}
		return r
	}, name)
}
