package aggregate

import (
	"encoding/json"
	"errors"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"time"
)

// MaxAttempts is how often a report is begun to be sent to one recipient without anybody knowing how that ended, which
// is when the process dies meanwhile.
const MaxAttempts = 5

// maxState is when the file of what was sent is written anew, without what nobody asks for any more.
const maxState = 4 << 20

// An outcome is what is known of a report and a recipient, or of a day.
type outcome string

const (
	outcomeBegun    outcome = "begun"    // day: At is when its reports were first sent
	outcomeComplete outcome = "complete" // day: nothing is left to do
	outcomeTrying   outcome = "trying"   // the MTA may have it
	outcomeDeferred outcome = "deferred" // it did not work
	outcomeSent     outcome = "sent"     // the MTA has it
	outcomeRefused  outcome = "refused"  // the MTA does not want it, and will not
)

// A sentEntry is one line of what was sent.
type sentEntry struct {
	Day     Day     `json:"day"`
	Outcome outcome `json:"o"`
	Report  string  `json:"id,omitempty"`
	To      string  `json:"to,omitempty"`
	At      int64   `json:"at,omitempty"` // seconds since 1970
}

// A delivery is a report on its way to a recipient.
type delivery struct{ report, to string }

type deliveryState struct {
	attempts int
	done     outcome // "": not yet
}

// A sentDay is what is known of a day.
type sentDay struct {
	begun      time.Time // zero: not yet
	complete   bool
	deliveries map[delivery]deliveryState
}

// sentState is what was sent, in memory and in the file. It is for one goroutine. What cannot be written down is not
// taken for true, so that it is not acted upon.
type sentState struct {
	path string
	file *os.File // nil: for reading only
	size int64
	days map[Day]*sentDay
}

// readSent reads what was sent. A file that is missing, or damaged, says less.
func readSent(dir string) (*sentState, error) {
	s := &sentState{path: filepath.Join(dir, sentName), days: make(map[Day]*sentDay)}
	f, err := os.Open(s.path)
	if errors.Is(err, fs.ErrNotExist) {
		return s, nil
	}
	if err != nil {
		return nil, err
	}
	defer f.Close()
	for frames := newFrameReader(f); ; {
		frame, err := frames.next()
		if errors.Is(err, io.EOF) {
			return s, nil
		}
		if err != nil {
			return nil, err
		}
		var e sentEntry
		if json.Unmarshal(frame.payload, &e) == nil {
			s.apply(e)
		}
	}
}

// openSent reads what was sent, to go on with it.
func openSent(dir string, today Day) (*sentState, error) {
	s, err := readSent(dir)
	if err != nil {
		return nil, err
	}
	return s, s.rewrite(today)
}

func (s *sentState) close() error {
	if s.file == nil {
		return nil
	}
	return s.file.Close()
}

func (s *sentState) day(day Day) *sentDay {
	if s.days[day] == nil {
		s.days[day] = &sentDay{deliveries: make(map[delivery]deliveryState)}
	}
	return s.days[day]
}

func (s *sentState) apply(e sentEntry) {
	d := s.day(e.Day)
	switch e.Outcome {
	case outcomeBegun:
		d.begun = time.Unix(e.At, 0)
	case outcomeComplete:
		d.complete = true
		clear(d.deliveries)
	case outcomeTrying, outcomeDeferred, outcomeSent, outcomeRefused:
		key := delivery{e.Report, e.To}
		state := d.deliveries[key]
		switch e.Outcome {
		case outcomeTrying:
			state.attempts++
		case outcomeDeferred:
			state.attempts = max(0, state.attempts-1)
		default:
			state.done = e.Outcome
		}
		d.deliveries[key] = state
	}
}

// set writes something down for good. The next thing may rely on it.
func (s *sentState) set(e sentEntry) error {
	b, err := appendEntry(nil, e)
	if err != nil {
		return err
	}
	if s.file == nil || s.size > maxState {
		if err := s.rewrite(DayOf(time.Now())); err != nil {
			return err
		}
	}
	n, err := s.file.Write(b)
	if err == nil {
		err = s.file.Sync()
	}
	if err != nil {
		// Half of it may be there, or all. The next file is made from memory, which does not learn it.
		err = errors.Join(err, s.file.Close())
		s.file = nil
		return err
	}
	s.size += int64(n)
	s.apply(e)
	return nil
}

// rewrite makes a new file of what is still of interest, and opens it.
func (s *sentState) rewrite(today Day) error {
	var b []byte
	var err error
	put := func(e sentEntry) {
		if err == nil {
			b, err = appendEntry(b, e)
		}
	}
	for _, day := range sortedKeys(s.days) {
		d := s.days[day]
		if day+KeepDays < today {
			delete(s.days, day)
			continue
		}
		if d.complete {
			put(sentEntry{Day: day, Outcome: outcomeComplete})
			continue
		}
		if !d.begun.IsZero() {
			put(sentEntry{Day: day, Outcome: outcomeBegun, At: d.begun.Unix()})
		}
		for key, state := range d.deliveries {
			e := sentEntry{Day: day, Outcome: outcomeTrying, Report: key.report, To: key.to}
			for range min(state.attempts, MaxAttempts) {
				put(e)
			}
			if e.Outcome = state.done; e.Outcome != "" {
				put(e)
			}
		}
	}
	if err != nil {
		return err
	}
	if err := replaceFile(s.path, b); err != nil {
		return err
	}
	f, err := os.OpenFile(s.path, os.O_WRONLY|os.O_APPEND, privateFile)
	if err != nil {
		return err
	}
	if s.file != nil {
		_ = s.file.Close() // another one is in its place
	}
	s.file, s.size = f, int64(len(b))
	return nil
}

func appendEntry(dst []byte, e sentEntry) ([]byte, error) {
	payload, err := json.Marshal(e)
	if err != nil {
		return dst, err
	}
	return appendFrame(dst, 0, payload)
}

func sortedKeys[V any](m map[Day]V) []Day {
	keys := make([]Day, 0, len(m))
	for k := range m {
		keys = append(keys, k)
	}
	slices.Sort(keys)
	return keys
}

// Sent is what became of reports up to the moment at which it was read.
type Sent struct{ state *sentState }

// ReadSent reads what was sent of the reports of a directory. A [Scheduler] may be at work there.
func ReadSent(dir string) (*Sent, error) {
	state, err := readSent(dir)
	if err != nil {
		return nil, err
	}
	return &Sent{state}, nil
}

// Complete reports whether nothing is left to be sent of a day.
func (s *Sent) Complete(day Day) bool { return s.state.day(day).complete }

// Outcome tells what became of a report and a recipient of a day that is not complete: "sent" or "refused" by the MTA,
// "deferred", "trying", which means that it may have been sent, or "" for nothing yet.
func (s *Sent) Outcome(day Day, reportID, to string) string {
	state, known := s.state.day(day).deliveries[delivery{reportID, to}]
	switch {
	case !known:
		return ""
	case state.done != "":
		return string(state.done)
	case state.attempts > 0:
		return string(outcomeTrying)
	}
	return string(outcomeDeferred)
}
