package report

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"

	"slipstream/bench"
)

// format is the version of the JSON form. Fields may be added within a version; none changes its meaning. A Slipstream
// that does not know a field refuses the file and names it.
const format = 1

// ErrFormat is wrapped by what ReadJSON returns for a file that is no report, or one of another version.
var ErrFormat = errors.New("this is not a saved report of format 1")

// JSON writes everything that is known: circumstances, all samples, conversations. Durations are whole nanoseconds and
// say so in their names; the moments of a conversation count from flights_since.
func JSON(w io.Writer, r *bench.Report) error {
	e := json.NewEncoder(w)
	e.SetIndent("", " ")
	return e.Encode(fromReport(r))
}

// ReadJSON reads what JSON wrote, up to the end of r. The result equals what was written, save that times are in UTC
// and without the monotonic clock.
//
// It takes nothing else: a field that is unknown, missing or there twice, a value that no run can have, more of anything
// than the limits allow and anything behind the report are errors, which name the field and wrap ErrFormat.
func ReadJSON(r io.Reader) (*bench.Report, error) {
	limited := &io.LimitedReader{R: r, N: maxFile + 1}
	in := newReader(limited)
	saved := in.report()
	in.end()
	switch {
	case limited.N <= 0:
		return nil, fmt.Errorf("%w: it is larger than %d MB", ErrFormat, maxFile>>20)
	case in.err != nil:
		return nil, fmt.Errorf("%w: %w", ErrFormat, in.err)
	}
	return saved, nil
}
