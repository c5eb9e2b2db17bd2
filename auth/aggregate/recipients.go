package aggregate

import (
	"context"
	"slices"

	"slipstream/auth"
)

// Destinations tells who wants reports; [auth.Destinations] does.
type Destinations interface {
	// Addresses returns where the reports on policyDomain go that were asked for at an address, or nothing. An error
	// is temporary.
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
	var list []Recipient
	var known []string
	for _, asked := range r.Addresses {
		instead, err := d.Addresses(ctx, r.Published.Domain, asked, auth.TagRUA)
		if err != nil || len(instead) == 0 {
			list = append(list, Recipient{Asked: asked.Mailbox, Err: err})
			continue
		}
		for _, u := range instead {
			if u.Mailbox != "" && len(known) < MaxRecipients && !slices.Contains(known, u.Mailbox) {
				known = append(known, u.Mailbox)
				list = append(list, Recipient{Asked: asked.Mailbox, To: u.Mailbox})
			}
		}
	}
	return list
}
