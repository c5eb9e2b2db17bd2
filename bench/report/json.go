package report

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"

	"slipstream/bench"
)

// Format is the version of the JSON form. Fields may be added within a version; none changes its meaning.
const Format = 1

// MaxJSON bounds what ReadJSON takes, in octets.
const MaxJSON = 256 << 20

// ErrFormat is wrapped by what ReadJSON returns for a file that is no report, or one of another version.
var ErrFormat = errors.New("this is not a saved report of format 1")

// JSON writes everything that is known: circumstances, all samples, conversations. Durations are whole nanoseconds and
// say so in their names; the moments of a conversation count from flights_since.
func JSON(w io.Writer, r *bench.Report) error {
	e := json.NewEncoder(w)
	e.SetIndent("", " ")
	return e.Encode(fromReport(r))
}

// ReadJSON reads what JSON wrote. The result equals what was written, save that times are in UTC and without the
// monotonic clock.
func ReadJSON(r io.Reader) (*bench.Report, error) {
	limited := &io.LimitedReader{R: r, N: MaxJSON + 1}
	d := json.NewDecoder(limited)
	var f jsonReport
	if err := d.Decode(&f); err != nil {
		if limited.N <= 0 {
			return nil, fmt.Errorf("%w: more than %d MB", ErrFormat, MaxJSON>>20)
		}
		return nil, fmt.Errorf("%w: %w", ErrFormat, err)
	}
	if f.Format != Format {
		return nil, fmt.Errorf("%w: its format is %d", ErrFormat, f.Format)
	}
	return f.report(), nil
}
