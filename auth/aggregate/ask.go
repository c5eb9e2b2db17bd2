package aggregate

import (
	"context"
	"errors"
	"io"
	"iter"
	"math/rand/v2"
	"slices"
	"sync"
	"sync/atomic"
	"time"
)

// How long the DNS is asked who wants the reports on a day. Somebody with names enough can have it say nothing about
// [MaxDomains] of them; the reports on all others are to leave the same night nevertheless.
const (
	// askers is about how many policy domains it is asked at once; about each of them for up to MaxRecipients addresses.
	askers = 32
	// quickAskTime is for the first question about a policy domain. An answer takes less, as a rule, and no answer
	// about any takes MaxDomains/askers*quickAskTime, which is a quarter of an hour.
	quickAskTime = 3 * time.Second
	// askTime is for the second, when all reports are sent about which there was an answer.
	askTime = 30 * time.Second
	// askBudget is for all second questions of a round. Those that it is not enough for have to wait for the next.
	askBudget = time.Hour
)

// errNotAsked is why a report waits that a round has had no time for.
var errNotAsked = errors.New("there was no time left to find out who wants it, or to send it")

// stages has those policy domains worked on first about which the DNS says who wants reports, and then those about
// which it needs to be asked again. Within that they are in no order, so that nobody's always come last.
func (w *round) stages(
	ctx context.Context, file io.ReaderAt, chosen []*candidate, wanted func(string) bool,
) iter.Seq[[]*candidate] {
	return func(yield func([]*candidate) bool) {
		var list []question
		for _, c := range chosen {
			if p, ok := c.read(file); ok && (wanted == nil || wanted(p.Domain)) {
				list = append(list, question{candidate: c, published: p})
			}
		}
		rand.Shuffle(len(list), func(i, j int) { list[i], list[j] = list[j], list[i] })
		w.ask(ctx, list, quickAskTime, w.end)
		answered := func(q question) bool { return !slices.ContainsFunc(w.recipients[q.published.Domain], unknown) }
		silent := slices.DeleteFunc(slices.Clone(list), answered)
		if !yield(candidates(slices.DeleteFunc(list, func(q question) bool { return !answered(q) }))) {
			return
		}
		if w.unreachable < maxUnreachable {
			until := time.Now().Add(askBudget)
			if w.end.Before(until) {
				until = w.end
			}
			w.ask(ctx, silent, askTime, until)
		}
		yield(candidates(silent))
	}
}

func unknown(r Recipient) bool { return r.Err != nil }

// A question is about who wants the reports on a policy domain.
type question struct {
	candidate *candidate
	published Published
}

func candidates(list []question) []*candidate {
	all := make([]*candidate, len(list))
	for i, q := range list {
		all[i] = q.candidate
	}
	return all
}

// ask finds out who wants reports, for so long about each policy domain and until then about all. Of what it has no
// time for nothing is known that was not before.
func (w *round) ask(ctx context.Context, list []question, each time.Duration, until time.Time) {
	ctx, cancel := context.WithDeadline(ctx, until)
	defer cancel()
	found := make([][]Recipient, len(list))
	var next atomic.Int64
	var asking sync.WaitGroup
	for range min(askers, len(list)) {
		asking.Go(func() {
			for i := next.Add(1) - 1; i < int64(len(list)) && ctx.Err() == nil; i = next.Add(1) - 1 {
				asked, cancel := context.WithTimeout(ctx, each)
				p := list[i].published
				answers := recipients(asked, w.options.Destinations, p.Domain, p.addresses())
				cancel()
				if ctx.Err() == nil { // else it was cut short
					found[i] = answers
				}
			}
		})
	}
	asking.Wait()
	for i, q := range list {
		if found[i] != nil {
			w.recipients[q.published.Domain] = found[i]
		}
	}
}
