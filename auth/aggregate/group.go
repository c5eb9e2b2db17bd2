package aggregate

import (
	"compress/gzip"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"iter"
	"maps"
	"os"
	"slices"
)

// Bounds of what is counted at once. A domain with more rows gets more reports: rows that are alike may then stand in
// several of them, with counts that add up.
const (
	// MaxRows is how many rows one report has.
	MaxRows = 10_000
	// MaxParts is how many reports one policy gets for a day before their size is looked at.
	MaxParts = 100

	maxRowOctets   = 8 << 20  // of the rows of one domain in memory
	maxGroupOctets = 24 << 20 // of the rows of all domains in memory
	maxPolicies    = 4        // policies of one domain that are told apart; of more the last has the rest
)

// Reports makes the reports on a day from the records in dir and hands them to yield, one after the other; an error of
// it ends the work, and is returned. only, unless it is nil, says which policy domains are of interest. The same
// records and the same configuration make the same reports, with the same identifiers.
//
// It may be called while a [Journal] writes to dir.
func Reports(
	ctx context.Context, dir string, day Day, c Config, only func(domain string) bool, yield func(*Report) error,
) (Summary, error) {
	all := func(_ io.ReaderAt, chosen []*candidate) iter.Seq[[]*candidate] {
		return slices.Values([][]*candidate{chosen})
	}
	return makeReports(ctx, dir, day, c, only, all, yield)
}

// stages puts policy domains into lists that are worked on one after the other.
type stages func(file io.ReaderAt, chosen []*candidate) iter.Seq[[]*candidate]

// makeReports does so in an order that is up to the caller.
func makeReports(
	ctx context.Context, dir string, day Day, c Config, only func(domain string) bool, order stages,
	yield func(*Report) error,
) (sum Summary, err error) {
	c, err = c.complete()
	if err != nil {
		return sum, err
	}
	file, err := openDay(dir, day)
	if file == nil || err != nil {
		return sum, err
	}
	defer file.Close()
	id, err := installation(dir)
	if err != nil {
		return sum, err
	}
	found, err := survey(ctx, file, &sum)
	if err != nil {
		return sum, err
	}
	m := &maker{config: c, day: day, installation: id, yield: yield, sum: &sum, file: file}
	for list := range order(file, choose(file, found, &sum)) {
		for len(list) > 0 {
			list = m.gather(list, only)
			if err := m.count(ctx); err != nil {
				return sum, err
			}
		}
	}
	return sum, nil
}

// A maker makes reports of a group of domains, as many as memory has room for.
type maker struct {
	config       Config
	day          Day
	installation []byte
	yield        func(*Report) error
	sum          *Summary
	file         *os.File
	group        map[uint64]*domainRows
	order        []*domainRows
	gzip         *gzip.Writer
}

// domainRows are the rows of a policy domain so far.
type domainRows struct {
	final    Published // the last policy of the day: its addresses are those that count
	octets   int
	count    int // rows
	policies []*policyRows
}

// policyRows are the rows of one policy.
type policyRows struct {
	Published
	rows map[string]int64 // Row as JSON → messages
	part int              // reports so far
}

// gather makes a group of the first candidates, and returns the others.
func (m *maker) gather(chosen []*candidate, only func(string) bool) []*candidate {
	m.group, m.order = make(map[uint64]*domainRows), nil
	var octets int64
	for i, c := range chosen {
		p, ok := c.read(m.file)
		if !ok || only != nil && !only(p.Domain) {
			continue
		}
		if octets += min(c.octets, maxRowOctets); octets > maxGroupOctets && len(m.order) > 0 {
			return chosen[i:]
		}
		d := &domainRows{final: p}
		m.group[c.key] = d
		m.order = append(m.order, d)
		m.sum.Domains++
	}
	return nil
}

// count reads the day once more for the rows of the group.
func (m *maker) count(ctx context.Context) error {
	if len(m.order) == 0 {
		return nil
	}
	if _, err := m.file.Seek(0, io.SeekStart); err != nil {
		return err
	}
	err := eachFrame(ctx, m.file, func(f frame) error {
		if d := m.group[f.key]; d != nil {
			return m.add(d, f.payload)
		}
		return nil
	}, nil)
	for _, d := range m.order {
		if err == nil {
			err = m.finish(d)
		}
	}
	return err
}

// add counts one record.
func (m *maker) add(d *domainRows, payload []byte) error {
	var r struct {
		Published Published       `json:"p"`
		Row       json.RawMessage `json:"r"`
	}
	if json.Unmarshal(payload, &r) != nil || r.Published.Domain != d.final.Domain || !r.Published.valid() {
		m.sum.LeftOut++
		return nil
	}
	p := d.policy(r.Published)
	if n, ok := p.rows[string(r.Row)]; ok {
		p.rows[string(r.Row)] = n + 1
		return nil
	}
	if d.count >= MaxRows || d.octets+len(r.Row) > maxRowOctets {
		if err := m.finish(d); err != nil {
			return err
		}
	}
	p.rows[string(r.Row)] = 1
	d.count++
	d.octets += len(r.Row)
	return nil
}

// policy finds the rows of a policy. A report is on one policy:
// https://www.rfc-editor.org/rfc/rfc9990#section-3.1
func (d *domainRows) policy(p Published) *policyRows {
	p.RUA, p.Org = nil, ""
	for _, known := range d.policies {
		if samePolicy(known.Published, p) {
			return known
		}
	}
	if len(d.policies) == maxPolicies {
		return d.policies[maxPolicies-1]
	}
	fresh := &policyRows{Published: p, rows: make(map[string]int64)}
	d.policies = append(d.policies, fresh)
	return fresh
}

func samePolicy(a, b Published) bool {
	return a.Domain == b.Domain && a.Method == b.Method && a.P == b.P && a.SP == b.SP && a.NP == b.NP && a.FO == b.FO &&
		a.ADKIM == b.ADKIM && a.ASPF == b.ASPF && a.Testing == b.Testing
}

// finish makes reports of the rows that a domain has, and begins anew.
func (m *maker) finish(d *domainRows) error {
	d.count, d.octets = 0, 0
	for _, p := range d.policies {
		if len(p.rows) == 0 {
			continue
		}
		rows := m.counted(p.rows)
		clear(p.rows)
		if len(rows) == 0 {
			continue
		}
		p.part++
		if p.part > MaxParts {
			m.leave(rows)
			continue
		}
		if err := m.emit(p.Published, d.final.addresses, rows, fmt.Sprint(p.part)); err != nil {
			return err
		}
	}
	return nil
}

// A countedRow is a row of a report.
type countedRow struct {
	text  string // Row as JSON
	count int64
}

// counted puts rows in order. What makes no sense is left out.
func (m *maker) counted(rows map[string]int64) []countedRow {
	list := make([]countedRow, 0, len(rows))
	for _, text := range slices.Sorted(maps.Keys(rows)) {
		row := countedRow{text, rows[text]}
		if _, ok := row.parse(); !ok {
			m.sum.LeftOut += row.count
			continue
		}
		list = append(list, row)
	}
	return list
}

func (r countedRow) parse() (Row, bool) {
	var row Row
	err := json.Unmarshal([]byte(r.text), &row)
	return row, err == nil && row.valid()
}

func (m *maker) leave(rows []countedRow) (messages int64) {
	for _, r := range rows {
		messages += r.count
	}
	m.sum.LeftOut += messages
	return messages
}
