package aggregate

import (
	"context"
	"slices"
	"sync"

	"slipstream/auth"
)

// Destinations tells who wants reports; [auth.Destinations] does.
type Destinations interface {
	// Addresses returns where the reports on policyDomain go that were asked for at an address, or nothing. An error
	// is temporary. It is called by several goroutines at once.
	Addresses(ctx context.Context, policyDomain string, to auth.ReportURI, tag auth.ReportTag) ([]auth.ReportURI, error)
}

// A Recipient is somebody who may get a report.
type Recipient struct {
	Asked string // the mailbox that the policy record names
	To    string // the mailbox that gets the report; "" if nobody does
	Err   error  // why that is not known yet; nil with an empty To: its domain does not say that it wants the report
}

// Recipients asks who wants a report: of each mailbox whether it does, or which others do in its place. Each is there
// once, and at most [MaxRecipients] of them have a To.
func Recipients(ctx context.Context, d Destinations, r *Report) []Recipient {
	return recipients(ctx, d, r.Published.Domain, r.Addresses)
}

// recipients asks about all addresses at once, so that none of them can use up the time for the others.
func recipients(ctx context.Context, d Destinations, policyDomain string, addresses []auth.ReportURI) []Recipient {
	type answer struct {
		to  []auth.ReportURI
		err error
	}
	answers := make([]answer, len(addresses)) // at most MaxRecipients: see published
	var asking sync.WaitGroup
	for i, asked := range addresses {
		asking.Go(func() { answers[i].to, answers[i].err = d.Addresses(ctx, policyDomain, asked, auth.TagRUA) })
	}
	asking.Wait()
	list := make([]Recipient, 0, len(addresses))
	var known []string
	for i, asked := range addresses {
		if a := answers[i]; a.err != nil || len(a.to) == 0 {
			list = append(list, Recipient{Asked: asked.Mailbox, Err: a.err})
			continue
		}
		for _, u := range answers[i].to {
			if u.Mailbox != "" && len(known) < MaxRecipients && !slices.Contains(known, u.Mailbox) {
				known = append(known, u.Mailbox)
				list = append(list, Recipient{Asked: asked.Mailbox, To: u.Mailbox})
			}
		}
	}
	return list
}
