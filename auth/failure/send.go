package failure

import (
	"context"
	"errors"
	"strings"
	"sync"
	"time"

	"slipstream/auth"
)

const (
	// maxRecipients is how many addresses hear of one failure. Each that a record names is to be tried
	// (https://www.rfc-editor.org/rfc/rfc9991#section-2); no record in use names as many.
	maxRecipients = 16
	// lookupTime is for all that has to be asked about one failure, and sendTime for each report on it.
	lookupTime = 20 * time.Second
	sendTime   = 2 * time.Minute
)

// run sends what is queued, until the queue is closed.
func (r *Reporter) run() {
	defer close(r.done)
	for in := r.queue.take(); in != nil; in = r.queue.take() {
		r.report(in)
	}
}

// report tells everybody of an incident who is to hear of it.
func (r *Reporter) report(in *incident) {
	told := make(map[string]bool)
	answers, spf := r.lookUp(in)
	for i, to := range in.to {
		for _, address := range r.addresses(in, to, answers[i]) {
			if told[address.Mailbox] || len(told) == maxRecipients {
				continue
			}
			told[address.Mailbox] = true
			if !r.rates.take(address.Domain(), time.Now()) {
				r.observe(in, Limited, address.Mailbox, nil)
				continue
			}
			r.send(in, address.Mailbox, spf)
		}
	}
}

// An answer is what the DNS says of an address in a record.
type answer struct {
	outcome   Outcome // why there is nothing to be sent; empty where there is
	addresses []auth.ReportURI
	err       error
}

// lookUp asks for all that has to be known, at once: who publishes a record may as well have the DNS be silent about
// each address in it, while reports to others wait.
func (r *Reporter) lookUp(in *incident) (answers []answer, spf string) {
	ctx, cancel := context.WithTimeout(r.ctx, lookupTime)
	defer cancel()
	answers = make([]answer, len(in.to)) // a policy record has few: see auth.ParseRecord
	var asking sync.WaitGroup
	wanted := false
	for i, to := range in.to {
		switch {
		case r.ctx.Err() != nil:
			answers[i].outcome = Dropped
		case to.Mailbox == "":
			answers[i].outcome = Unwanted
		case !r.rates.spare(to.Domain(), time.Now()): // before somebody makes us ask the DNS
			answers[i].outcome = Limited
		default:
			wanted = true
			asking.Go(func() {
				a := &answers[i]
				a.addresses, a.err = r.config.Destinations.Addresses(ctx, in.policyDomain, to, auth.TagRUF)
				switch {
				case a.err != nil:
					a.outcome = Unverified
				case len(a.addresses) == 0:
					a.outcome = Unwanted
				}
			})
		}
	}
	if wanted {
		spf = r.spfRecord(ctx, in.spfDomain)
	}
	asking.Wait()
	return answers, spf
}

// addresses returns where the report goes that was asked for at an address.
func (r *Reporter) addresses(in *incident, to auth.ReportURI, a answer) []auth.ReportURI {
	asked := to.Mailbox
	if asked == "" {
		asked = clean(to.Text)
	}
	switch {
	case a.outcome != "":
		r.observe(in, a.outcome, asked, a.err)
		return nil
	case r.ctx.Err() != nil:
		r.observe(in, Dropped, asked, nil)
		return nil
	}
	return a.addresses
}

func (r *Reporter) send(in *incident, to, spf string) {
	ctx, cancel := context.WithTimeout(r.ctx, sendTime)
	defer cancel()
	err := r.config.Mailer.Send(ctx, r.config.ReturnPath, to, r.write(in, to, spf, time.Now()))
	var refusal *auth.Refusal
	switch {
	case err == nil:
		r.observe(in, Sent, to, nil)
	case errors.As(err, &refusal):
		r.observe(in, Refused, to, err)
	default:
		r.observe(in, Failed, to, err)
	}
}

func (r *Reporter) observe(in *incident, o Outcome, to string, err error) {
	r.config.Observe(Event{Outcome: o, Kind: in.kind, Domain: in.author, To: to, Err: err})
}

// spfRecord returns the record of a domain; empty where there is not exactly one, or it cannot be had.
// https://www.rfc-editor.org/rfc/rfc7208#section-4.5
func (r *Reporter) spfRecord(ctx context.Context, domain string) string {
	if domain == "" {
		return ""
	}
	texts, err := r.config.Destinations.Resolver.LookupTXT(ctx, domain)
	if err != nil {
		return ""
	}
	record := ""
	for _, text := range texts {
		if version, _, _ := strings.Cut(text, " "); !strings.EqualFold(version, "v=spf1") {
			continue
		}
		if record != "" {
			return ""
		}
		record = text
	}
	return record
}
