package report

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math"
	"slices"
	"strconv"
	"strings"
	"time"
)

// A reader takes JSON apart token by token, so that a limit holds before what exceeds it is kept. It knows beforehand
// what must come: anything else is an error, which names the field. After the first error it reads nothing more and
// returns zero values.
type reader struct {
	d    *json.Decoder
	path []step // to the value that is read
	err  error
}

// A step leads into an object, or with no name into a list.
type step struct {
	name  string
	index int
}

func newReader(r io.Reader) *reader {
	d := json.NewDecoder(r)
	d.UseNumber()
	return &reader{d: d}
}

// fail notes the first error, and where it is.
func (r *reader) fail(err error) {
	if r.err != nil {
		return
	}
	var b strings.Builder
	for i, s := range r.path {
		switch {
		case s.name == "":
			fmt.Fprintf(&b, "[%d]", s.index)
		case i == 0:
			b.WriteString(s.name)
		default:
			b.WriteString("." + s.name)
		}
	}
	if r.err = err; b.Len() > 0 {
		r.err = fmt.Errorf("%s: %w", b.String(), err)
	}
}

func (r *reader) failf(format string, args ...any) { r.fail(fmt.Errorf(format, args...)) }

// inside reads what is one step further.
func (r *reader) inside(s step, read func()) {
	r.path = append(r.path, s)
	read()
	r.path = r.path[:len(r.path)-1]
}

func (r *reader) token() json.Token {
	if r.err != nil {
		return nil
	}
	t, err := r.d.Token()
	if err == io.EOF {
		err = io.ErrUnexpectedEOF
	}
	if err != nil {
		r.fail(err)
	}
	return t
}

func (r *reader) more() bool { return r.err == nil && r.d.More() }

// end makes sure that nothing follows.
func (r *reader) end() {
	if r.err != nil {
		return
	}
	if _, err := r.d.Token(); err != io.EOF {
		r.fail(errors.New("something follows behind its end"))
	}
}

// A field is one that an object has: need says that it must.
type field struct {
	name string
	need bool
	read func()
}

func need(name string, read func()) field  { return field{name, true, read} }
func maybe(name string, read func()) field { return field{name, false, read} }

// object reads an object that has these fields, each once, and no others.
func (r *reader) object(fields ...field) {
	if t := r.token(); t != json.Delim('{') {
		r.fail(errors.New("it is no object"))
		return
	}
	seen := make([]bool, len(fields))
	for r.more() {
		name, _ := r.token().(string)
		i := slices.IndexFunc(fields, func(f field) bool { return f.name == name })
		switch {
		case r.err != nil:
			return
		case i < 0:
			r.failf("it has an unknown field %s", quoted(name))
		case seen[i]:
			r.failf("it has two fields %q", name)
		default:
			seen[i] = true
			r.inside(step{name: name}, fields[i].read)
		}
	}
	r.token() // the brace
	for i, f := range fields {
		if f.need && !seen[i] {
			r.inside(step{name: f.name}, func() { r.fail(errors.New("it is missing")) })
		}
	}
}

// list reads a list of so many items at most; null is nil, and not an empty list.
func list[T any](r *reader, limit int, item func() T) []T {
	switch t := r.token(); {
	case r.err != nil || t == nil:
		return nil
	case t != json.Delim('['):
		r.fail(errors.New("it is no list"))
		return nil
	}
	all := []T{}
	for r.more() {
		if len(all) == limit {
			r.failf("it has more than %d items", limit)
			break
		}
		r.inside(step{index: len(all)}, func() { all = append(all, item()) })
	}
	r.token() // the bracket
	return all
}

// text reads a string of so many octets at most.
func (r *reader) text(limit int) string {
	s, ok := r.token().(string)
	switch {
	case !ok:
		r.fail(errors.New("it is no text"))
	case len(s) > limit:
		r.failf("it is longer than %d octets", limit)
		return ""
	}
	return s
}

// texts reads a list of them.
func (r *reader) texts(limit, octets int) []string {
	return list(r, limit, func() string { return r.text(octets) })
}

// oneOf reads a text that is one of those known.
func oneOf[T ~string](r *reader, known []T) T {
	s := r.text(maxName)
	if r.err == nil && !slices.Contains(known, T(s)) {
		r.failf("%s is unknown; it may be %q", quoted(s), known)
		return ""
	}
	return T(s)
}

func (r *reader) bool() bool {
	b, ok := r.token().(bool)
	if !ok {
		r.fail(errors.New("it is neither true nor false"))
	}
	return b
}

// whole reads a whole number from 0 to limit.
func (r *reader) whole(limit int64) int64 {
	n, ok := r.token().(json.Number)
	if !ok {
		r.fail(errors.New("it is no number"))
		return 0
	}
	i, err := strconv.ParseInt(n.String(), 10, 64)
	if err != nil || i < 0 || i > limit {
		r.failf("%s is not a whole number from 0 to %d", cut(n.String(), maxShown), limit)
		return 0
	}
	return i
}

// count reads how many there are of something.
func (r *reader) count() int { return int(r.whole(math.MaxInt)) }

// wait reads a time in nanoseconds.
func (r *reader) wait() time.Duration { return time.Duration(r.whole(int64(maxTime))) }

// trips reads a number of trips.
func (r *reader) trips() float64 {
	n, ok := r.token().(json.Number)
	if !ok {
		r.fail(errors.New("it is no number"))
		return 0
	}
	x, err := n.Float64()
	if err != nil || !(x >= 0 && x <= maxTrips) { // so that NaN is refused too
		r.failf("%s is not a number from 0 to %g", cut(n.String(), maxShown), float64(maxTrips))
		return 0
	}
	return x
}

// moment reads a time of day and date: https://www.rfc-editor.org/rfc/rfc3339#section-5.6
func (r *reader) moment() time.Time {
	var t time.Time
	s := r.text(maxName)
	if r.err != nil {
		return t
	}
	if err := t.UnmarshalText([]byte(s)); err != nil || t.UTC().Year() < 1 || t.UTC().Year() > maxYear {
		r.failf("%s is not a time as 2006-01-02T15:04:05Z", quoted(s))
		return time.Time{}
	}
	return t.UTC()
}

// maxShown is how much of a wrong value an error repeats.
const maxShown = 40

// quoted writes text of unknown origin for an error.
func quoted(s string) string { return strconv.Quote(cut(s[:min(len(s), maxText)], maxShown)) }
