package auth

import (
	"context"
	"sync"
)

// A purpose is why something is asked. Each has a bound of its own, so that none can use up what another needs.
type purpose int

const (
	forAuthor    purpose = iota // the record to be applied
	forHint                     // what alignment may need once it is known what was authenticated
	forAlignment                // what alignment needs
	purposes
)

// Names asked for on behalf of one message. A test of existence, at most one for each author, comes on top.
const (
	// maxAuthorQueries follows from the bounds of an author.
	maxAuthorQueries = maxAuthorDomains * maxWalkQueries
	// maxHintQueries and maxAlignQueries are three walks each that have nothing in common with another. Only names
	// near the author's domain are asked for, and their upper names are those of the author.
	maxHintQueries  = 3 * maxWalkQueries
	maxAlignQueries = 3 * maxWalkQueries
)

// errTooManyQueries says that a name was not asked for. It is no temporary error: asking again would not help.
const errTooManyQueries dmarcError = "too many DNS look-ups"

type dmarcError string

func (e dmarcError) Error() string { return string(e) }

// lookups asks for records: each name once, all at once, within one bound.
type lookups struct {
	resolver Resolver
	ctx      context.Context
	cancel   context.CancelFunc
	running  sync.WaitGroup
	atOnce   bool // resolver answers at once: nothing is run beside the caller

	mu      sync.Mutex // guards what follows
	answers map[string]*answer
	spare   [purposes]int
	closed  bool
}

// An answer is what is found at a name.
type answer struct {
	done   chan struct{} // closed when the rest is there
	record *DMARCRecord
	err    error
}

func newLookups(ctx context.Context, r Resolver) *lookups {
	ctx, cancel := context.WithCancel(ctx)
	return &lookups{
		resolver: r, ctx: ctx, cancel: cancel, answers: make(map[string]*answer),
		spare: [purposes]int{maxAuthorQueries, maxHintQueries, maxAlignQueries},
	}
}

// ask returns the answer for a domain, asking where nobody has. It is nil where no more may be asked.
func (l *lookups) ask(domain string, why purpose) *answer {
	l.mu.Lock()
	defer l.mu.Unlock()
	if a := l.answers[domain]; a != nil {
		return a
	}
	if l.closed || l.spare[why] == 0 {
		return nil
	}
	l.spare[why]--
	a := &answer{done: make(chan struct{})}
	l.answers[domain] = a
	look := func() {
		defer close(a.done)
		a.record, a.err = lookupRecord(l.ctx, l.resolver, domain)
	}
	if l.atOnce {
		look()
	} else {
		l.running.Go(look)
	}
	return a
}

// run runs f beside the look-ups; close waits for it too. It is for Begin, before anybody can close.
func (l *lookups) run(f func()) {
	if l.atOnce {
		f()
	} else {
		l.running.Go(f)
	}
}

// wait returns what a says, or an error where the time is up. An answer that is there is taken whatever the time.
func (l *lookups) wait(a *answer) (*DMARCRecord, error) {
	if a == nil {
		return nil, errTooManyQueries
	}
	select {
	case <-a.done:
		return a.record, a.err
	default:
	}
	select {
	case <-a.done:
		return a.record, a.err
	case <-l.ctx.Done():
		return nil, l.ctx.Err()
	}
}

func (l *lookups) close() {
	l.mu.Lock()
	l.closed = true
	l.mu.Unlock()
	l.cancel()
	l.running.Wait()
}

// lookupRecord asks for the record that stands at domain: nil where there is none, or where there are several.
// https://www.rfc-editor.org/rfc/rfc9989#section-4.10
func lookupRecord(ctx context.Context, r Resolver, domain string) (*DMARCRecord, error) {
	const prefix = "_dmarc."
	if len(prefix)+len(domain) > maxDomainName {
		return nil, nil
	}
	texts, err := r.LookupTXT(ctx, prefix+domain)
	if dnsNotFound(err) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	var found *DMARCRecord
	for _, text := range texts {
		record, ok := ParseRecord(text)
		switch {
		case !ok:
		case found != nil:
			return nil, nil
		default:
			found = &record
		}
	}
	return found, nil
}
