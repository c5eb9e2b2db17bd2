package failure

import (
	"context"
	"errors"
	"strings"
	"time"

	"slipstream/auth"
)

const (
	// maxRecipients is how many addresses hear of one failure. Each that a record names is to be tried
	// (https://www.rfc-editor.org/rfc/rfc9991#section-2); no record in use names as many.
	maxRecipients = 16
	// lookupTime and sendTime bound what one address may take.
	lookupTime = 20 * time.Second
	sendTime   = 2 * time.Minute
)

// run sends what is queued, until the queue is closed.
func (r *Reporter) run() {
	defer close(r.done)
	for in := range r.queue {
		r.report(in)
	}
}

// report tells everybody of an incident who is to hear of it.
func (r *Reporter) report(in *incident) {
	told := make(map[string]bool)
	var spf string
	var looked bool
	for _, to := range in.to {
		for _, address := range r.addresses(in, to) {
			if told[address.Mailbox] || len(told) == maxRecipients {
				continue
			}
			told[address.Mailbox] = true
			if !r.rates.take(address.Domain(), time.Now()) {
				r.observe(in, Limited, address.Mailbox, nil)
				continue
			}
			if !looked {
				spf, looked = r.spfRecord(in.spfDomain), true
			}
			r.send(in, address.Mailbox, spf)
		}
	}
}

// addresses returns where the report goes that was asked for at an address.
func (r *Reporter) addresses(in *incident, to auth.ReportURI) []auth.ReportURI {
	switch {
	case r.ctx.Err() != nil:
		r.observe(in, Dropped, to.Mailbox, nil)
		return nil
	case to.Mailbox == "":
		r.observe(in, Unwanted, clean(to.Text), nil)
		return nil
	case !r.rates.spare(to.Domain(), time.Now()): // before somebody makes us ask the DNS
		r.observe(in, Limited, to.Mailbox, nil)
		return nil
	}
	ctx, cancel := context.WithTimeout(r.ctx, lookupTime)
	defer cancel()
	addresses, err := r.config.Destinations.Addresses(ctx, in.policyDomain, to, auth.TagRUF)
	switch {
	case err != nil:
		r.observe(in, Unverified, to.Mailbox, err)
	case len(addresses) == 0:
		r.observe(in, Unwanted, to.Mailbox, nil)
	}
	return addresses
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
func (r *Reporter) spfRecord(domain string) string {
	if domain == "" {
		return ""
	}
	ctx, cancel := context.WithTimeout(r.ctx, lookupTime)
	defer cancel()
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
