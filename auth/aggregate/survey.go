package aggregate

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"io"
	"io/fs"
	"os"
	"slices"
)

// Bounds of a day. A stranger can make up policy domains by the million, below a name of their own; so they are bounded
// for each organization, and those with the most mail are reported on. What is an organization the stranger has a say
// in (https://www.rfc-editor.org/rfc/rfc9989#section-4.10.2); who has registered a name, not. So both count.
const (
	// MaxDomains is on how many policy domains there are reports for a day.
	MaxDomains = 10_000
	// MaxDomainsOfOrganization is how many of them belong to one organization, and how many are below one name that
	// was registered under a public suffix.
	MaxDomainsOfOrganization = 200

	maxSurveyed = 200_000 // policy domains that are counted at all; those that come first
)

// A candidate is a policy domain, as long as no more is known of it than how much there is.
type candidate struct {
	key    uint64 // domainKey
	count  int64  // records
	octets int64  // of their payloads
	last   int64  // where the last one is
}

// A Summary tells what there was in a day's file.
type Summary struct {
	Messages int64 // records that could be read; a message with several author domains has several
	Domains  int   // policy domains that were reported on
	LeftOut  int64 // records in no report, because of a bound or since they make no sense
	Skipped  int64 // octets that belong to no record
}

// survey counts what there is of each policy domain.
func survey(ctx context.Context, file io.Reader, sum *Summary) (map[uint64]*candidate, error) {
	found := make(map[uint64]*candidate)
	err := eachFrame(ctx, file, func(f frame) error {
		sum.Messages++
		c := found[f.key]
		if c == nil {
			if len(found) >= maxSurveyed {
				sum.LeftOut++
				return nil
			}
			c = &candidate{key: f.key}
			found[f.key] = c
		}
		c.count++
		c.octets += int64(len(f.payload))
		c.last = f.at
		return nil
	}, &sum.Skipped)
	return found, err
}

// choose returns the candidates that are reported on. What is left out is counted.
func choose(file io.ReaderAt, found map[uint64]*candidate, sum *Summary) []*candidate {
	list := make([]*candidate, 0, len(found))
	for _, c := range found {
		list = append(list, c)
	}
	slices.SortFunc(list, func(a, b *candidate) int {
		return cmp.Or(cmp.Compare(b.count, a.count), cmp.Compare(a.key, b.key))
	})
	perOrg, perName := make(map[uint64]int), make(map[uint64]int)
	chosen := list[:0]
	for _, c := range list {
		p, ok := c.read(file)
		org, name := domainKey(p.organization()), domainKey(p.registered())
		if !ok || len(chosen) >= MaxDomains || perOrg[org] >= MaxDomainsOfOrganization ||
			perName[name] >= MaxDomainsOfOrganization {
			sum.LeftOut += c.count
			continue
		}
		perOrg[org]++
		perName[name]++
		chosen = append(chosen, c)
	}
	return chosen
}

// read reads the policy as it was last found that day: it is the one that is reported to.
func (c *candidate) read(file io.ReaderAt) (Published, bool) {
	f, err := readFrameAt(file, c.last)
	if err != nil {
		return Published{}, false
	}
	var r struct {
		Published Published `json:"p"`
	}
	err = json.Unmarshal(f.payload, &r)
	return r.Published, err == nil && domainKey(r.Published.Domain) == c.key && r.Published.valid()
}

// eachFrame calls do for every frame until one fails. Octets that belong to none are counted into skipped.
func eachFrame(ctx context.Context, file io.Reader, do func(frame) error, skipped *int64) error {
	frames := newFrameReader(file)
	for n := 0; ; n++ {
		const often = 1 << 10
		if n%often == 0 && ctx.Err() != nil {
			return ctx.Err()
		}
		f, err := frames.next()
		if errors.Is(err, io.EOF) {
			if skipped != nil {
				*skipped += frames.skipped
			}
			return nil
		}
		if err == nil {
			err = do(f)
		}
		if err != nil {
			return err
		}
	}
}

// openDay opens the file of a day for reading; nil: there is none.
func openDay(dir string, day Day) (*os.File, error) {
	f, err := os.Open(dayFile(dir, day))
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	return f, err
}
